"""The simulated clock, on cases that can be worked out by hand."""

import itertools
import math

import numpy as np
import pytest
import search_clock
from search_clock import lognormal_durations, simulate
from search_methods import Batches


class Counting:
    """Asynchronous: always has a point, its own number; remembers what was pending."""

    def __init__(self, points=math.inf):
        self.asked = 0
        self.told = []
        self.pending = []
        self._points = points

    def ask(self, pending):
        self.pending.append([int(point[0]) for point in pending])
        if self.asked >= self._points:
            return None
        self.asked += 1
        return (float(self.asked - 1),)

    def tell(self, point, losses, constraints):
        self.told.append(int(point[0]))


class Generations(Batches):
    """Generations of so many points, numbered on."""

    def __init__(self, size):
        super().__init__()
        self._numbers = itertools.count()
        self._size = size

    def _next(self):
        return [(float(next(self._numbers)),) for _ in range(self._size)]

    def _finish(self, losses, constraints):
        assert losses.tolist() == [[point[0]] for point in self._order]


def evaluate(point):
    return [point[0]], []


def test_a_worker_that_is_done_gets_the_next_point_at_once():
    method = Counting()
    timeline = simulate(method, evaluate, budget=5, workers=2, duration=[3.0, 1.0, 1.0, 2.0, 4.0].__getitem__)
    # Worker one: 0 in [0, 3], 4 in [3, 7]. Worker two: 1 in [0, 1], 2 in [1, 2], 3 in [2, 4].
    assert [point[0] for point in timeline.points] == [1, 2, 0, 3, 4] == method.told
    assert timeline.ends == [1, 2, 3, 4, 7]
    assert timeline.starts == [0, 1, 0, 2, 3]
    assert timeline.busy == pytest.approx((3 + 1 + 1 + 2 + 4) / (2 * 7))
    assert timeline.busy_while_asking == 1.0  # until second 3


def test_pending_is_what_runs_at_the_moment():
    method = Counting()
    simulate(method, evaluate, budget=4, workers=2, duration=[3.0, 1.0, 1.0, 1.0].__getitem__)
    assert [sorted(pending) for pending in method.pending] == [[], [0], [0], [0]]


def test_generations_wait_for_their_slowest():
    durations = [1.0, 3.0, 2.0, 2.0]
    timeline = simulate(Generations(2), evaluate, budget=4, workers=2, duration=durations.__getitem__)
    assert timeline.ends == [1, 3, 5, 5]
    assert timeline.busy == pytest.approx(sum(durations) / (2 * 5))
    assert timeline.busy_while_asking == pytest.approx((1 + 3) / (2 * 3))


def test_workers_beyond_a_generation_are_idle():
    timeline = simulate(Generations(2), evaluate, budget=4, workers=4, duration=lambda number: 1.0)
    assert timeline.busy == 0.5


def test_a_method_that_has_nothing_more_ends_the_run():
    timeline = simulate(Counting(points=3), evaluate, budget=10, workers=2, duration=lambda number: 1.0)
    assert len(timeline.points) == 3


def test_charged_asks_and_tells_pass_on_the_clock(monkeypatch):
    ticks = itertools.count()
    monkeypatch.setattr(search_clock.time, "perf_counter", lambda: float(next(ticks)))  # each call takes a second
    timeline = simulate(Counting(), evaluate, budget=2, workers=2, duration=lambda number: 10.0, charged=True)
    # Asks end at 1 and 2; results come at 11 and 12. The tell of the first ends at 12.
    assert timeline.starts == [1, 2]
    assert timeline.ends == [11, 12]
    assert timeline.ask_seconds == timeline.tell_seconds == [1, 1]


def test_a_slow_dispatcher_leaves_workers_idle(monkeypatch):
    ticks = itertools.count()
    monkeypatch.setattr(search_clock.time, "perf_counter", lambda: float(next(ticks)))
    timeline = simulate(Counting(), evaluate, budget=3, workers=1, duration=lambda number: 2.0, charged=True)
    # Ask [0, 1], run [1, 3], tell [3, 4], ask [4, 5], run [5, 7], and so on: two of four seconds.
    assert timeline.ends == [3, 7, 11]
    assert timeline.busy == pytest.approx(6 / 11)


def test_durations_are_lognormal_and_those_of_the_seed():
    duration = lognormal_durations(60.0, seed=3)
    logarithms = np.log([duration(number) for number in range(2000)])
    assert logarithms.mean() == pytest.approx(math.log(60.0), abs=0.05)
    assert logarithms.std() == pytest.approx(0.7, abs=0.03)
    assert duration(7) == lognormal_durations(60.0, seed=3)(7) != lognormal_durations(60.0, seed=4)(7)
