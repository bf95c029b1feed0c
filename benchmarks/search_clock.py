"""A search on simulated workers: evaluations take time, nothing sleeps.

One dispatcher asks and tells, one call after the other. It hands a point to every idle worker as long as the method has
one to give; a method that waits for the end of a generation leaves workers idle. With `charged`, the clock goes on by
the real seconds that each ask and each tell took, during which no other point is handed out.
"""

import heapq
import time
from dataclasses import dataclass, field

import numpy as np

SIGMA = 0.7


@dataclass
class Timeline:
    """What became of a run: points in the order of their ends, when they ended, and how busy the workers were.

    Seconds are those of the simulated clock. `busy` is the workers' busy share until the last evaluation ended,
    `busy_while_asking` until the last one was handed out, from when on workers run dry.
    """

    workers: int
    points: list = field(default_factory=list)
    starts: list = field(default_factory=list)
    ends: list = field(default_factory=list)
    ask_seconds: list = field(default_factory=list)
    tell_seconds: list = field(default_factory=list)

    @property
    def busy(self):
        return self._busy_until(max(self.ends))

    @property
    def busy_while_asking(self):
        return self._busy_until(max(self.starts))

    def _busy_until(self, end):
        """Return the busy share in [0, end]; the share of no time is 1."""
        if end <= 0.0:
            return 1.0
        intervals = zip(self.starts, self.ends, strict=True)
        return float(sum(max(min(stop, end) - start, 0.0) for start, stop in intervals) / (self.workers * end))


def lognormal_durations(median, seed, sigma=SIGMA):
    """Return a function that gives the duration of evaluation k, the same for every method."""
    return lambda number: float(median * np.random.default_rng([seed, number]).lognormal(0.0, sigma))


def simulate(method, evaluate, budget, workers, duration, charged=False):  # noqa: PLR0913  a run is all of these
    """Run `budget` evaluations and return the timeline.

    `evaluate` maps a point to (losses, constraints); `duration` maps the number of an evaluation, from 0, to seconds.
    A method that has nothing to propose while nothing runs has ended.
    """
    timeline = Timeline(workers)
    running = []  # (end, number, start, point)
    now, handed_out = 0.0, 0
    while handed_out < budget or running:
        while handed_out < budget and len(running) < workers:
            point, seconds = timed(lambda: method.ask([job[3] for job in running]))
            timeline.ask_seconds.append(seconds)
            now += seconds if charged else 0.0
            if point is None:
                break
            heapq.heappush(running, (now + duration(handed_out), handed_out, now, point))
            handed_out += 1
        if not running:
            break
        end, _, start, point = heapq.heappop(running)
        now = max(now, end)
        losses, constraints = evaluate(point)
        _, seconds = timed(lambda: method.tell(point, losses, constraints))  # noqa: B023  called at once
        timeline.tell_seconds.append(seconds)
        now += seconds if charged else 0.0
        for record, value in ((timeline.points, point), (timeline.starts, start), (timeline.ends, end)):
            record.append(value)
    return timeline


def timed(call):
    """Return what `call` returns and the seconds that it took."""
    started = time.perf_counter()
    found = call()
    return found, time.perf_counter() - started
