"""How long the loop itself takes for an ask and for a tell: the real loop, book, space and SQLite store.

The executor answers at once, so what passes between its calls is the loop's own time. Most trials are written straight
into the store and restored from it, so that measuring at 10,000 trials does not take 10,000 steps.
"""

import tempfile
import time
from pathlib import Path

import numpy as np
from search_problems import checkpoint_pool
from search_surrogate import CHECKPOINTS

from campaigns.campaign import SearchSummary
from campaigns.objectives import Measurement
from campaigns.spec import parse_spec
from campaigns.states import CampaignStep
from campaigns.trial import Evaluated, Timing
from optimizer.jobs import JobResult, Scored
from optimizer.loop import SearchLoop
from optimizer.strategies import Observation, SearchProblem, build_strategy
from search_spaces import build_space
from storage import Store

TASKS = ("one", "two", "three")
LEASE_SECONDS = 86_400.0


def campaign_spec(method, evaluations):
    return parse_spec(
        {
            "name": "the loop's own time",
            "pool": {"checkpoints": [{"name": f"g{i}", "path": f"/g{i}"} for i in range(CHECKPOINTS)]},
            "objectives": [{"task": task, "metric": "acc", "direction": "maximize"} for task in TASKS],
            "evaluation": {"holdout_items": 0},
            "strategy": {"kind": method},
            "budget": {"evaluations": evaluations},
        }
    )


def scored(recipe):
    """Return measurements as a worker would send them: three accuracies that depend on the weights."""
    weights = np.array(recipe.method.weights)
    targets = np.eye(len(TASKS), CHECKPOINTS) * 0.5 + 0.5 / CHECKPOINTS
    values = 1.0 - ((weights - targets) ** 2).sum(axis=1)
    measurements = tuple(
        Measurement(
            objective=f"{task}/acc", split="search", value=float(value), standard_error=0.01, items=100, protocol="p"
        )
        for task, value in zip(TASKS, values, strict=True)
    )
    return Evaluated(measurements=measurements, timing=Timing(merge_seconds=0, model_seconds=0, total_seconds=0))


class Stopwatch:
    """An executor of one slot that answers at once, and notes how long the loop was busy before each of its calls.

    An ask lasts from the moment that the slot is seen to be free to the submitted job, a tell from the result to the
    next look at the slot.
    """

    def __init__(self):
        self.asks, self.tells = [], []
        self._job = None
        self._since = None

    @property
    def free_slots(self):
        now = time.perf_counter()
        if self._since is not None:
            self.tells.append(now - self._since)
            self._since = None
        self._looked = now
        return int(self._job is None)

    def submit(self, job):
        self.asks.append(time.perf_counter() - self._looked)
        self._job = job
        return "stopwatch"

    def wait(self, timeout_seconds):
        if self._job is None:
            return []
        job, self._job = self._job, None
        result = JobResult(job=job, outcome=Scored(evaluated=scored(job.recipe)))
        self._since = time.perf_counter()
        return [result]

    def close(self):
        """Nothing is held."""


def loop_times(method, trials, timed):
    """Return medians and 95th percentiles, in seconds, of the `timed` last asks and tells of `trials` candidates."""
    with tempfile.TemporaryDirectory() as folder:
        store = Store.open(f"sqlite:///{Path(folder) / 'loop.sqlite'}")
        try:
            return _measured(store, method, trials, timed)
        finally:
            store.close()


def _measured(store, method, trials, timed):
    spec = campaign_spec(method, trials)
    campaign = store.create_campaign(spec, checkpoint_pool(CHECKPOINTS))
    lease = store.lease_next("benchmark", LEASE_SECONDS)
    store.step(campaign.id, CampaignStep.START, lease=lease)
    space = build_space(spec, campaign.pool)
    problem = SearchProblem(space.dimensions, tuple(objective.weight for objective in spec.objectives), spec.seed)
    _fill(store, lease, space, build_strategy(spec.strategy, problem), trials - timed)
    watch = Stopwatch()
    SearchLoop(store, lease, watch, build_strategy(spec.strategy, problem), space).run()
    asks, tells = sorted(watch.asks[-timed:]), sorted(watch.tells[-timed:])
    middle, high = timed // 2, int(0.95 * (timed - 1))
    return {"asks": [asks[middle], asks[high]], "tells": [tells[middle], tells[high]], "trials": trials}


def _fill(store, lease, space, strategy, count):
    """Write the baselines and `count` random candidates with their results, as if a strategy had asked for them."""
    baselines = [space.parent(index) for index in range(CHECKPOINTS)] + [space.uniform_soup()]
    points = np.random.default_rng(0).random((count, space.dimensions)).tolist()
    for trial in store.add_trials(lease, [*baselines, *(space.candidate(tuple(point)) for point in points)]):
        store.start(lease, trial.id, "stopwatch")
        evaluated = scored(trial.candidate.recipe)
        strategy.tell(Observation(trial.candidate.point, tuple(-m.value for m in evaluated.measurements)))
        store.tell(lease, trial.id, evaluated, strategy.state(), SearchSummary())
