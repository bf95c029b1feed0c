"""Gaussian processes of a search's outcomes, and the points that promise the most hypervolume under them.

One process (BoTorch's SingleTaskGP, hyperparameters by maximum a posteriori) for each objective, for each constraint
and, once a point could not be scored, for whether a point can be. Everything is a function of the observations and a
seed: nothing is carried over from an earlier fit.
"""

import threading
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import moocore
import numpy as np
import torch
from torch import Tensor

from campaigns.trial import Point
from optimizer.strategies.strategy import Observation, SearchProblem
from optimizer.strategies.taken_points import TakenPoints

with warnings.catch_warnings():
    warnings.simplefilter("ignore", DeprecationWarning)  # gpytorch's foundation still uses torch.jit.script
    from botorch.acquisition.logei import qLogNoisyExpectedImprovement
    from botorch.acquisition.multi_objective import logei
    from botorch.acquisition.multi_objective.objective import IdentityMCMultiOutputObjective
    from botorch.acquisition.multi_objective.parego import qLogNParEGO
    from botorch.acquisition.multi_objective.utils import prune_inferior_points_multi_objective
    from botorch.acquisition.objective import GenericMCObjective
    from botorch.exceptions.errors import ModelFittingError
    from botorch.fit import fit_gpytorch_mll
    from botorch.models import ModelListGP, SingleTaskGP
    from botorch.optim import optimize_acqf
    from botorch.sampling import SobolQMCNormalSampler
    from gpytorch.mlls import ExactMarginalLogLikelihood

# BoTorch would compile a C++ kernel on first use (seconds, and a lock file that a killed process leaves behind), whose
# last bits differ from those of a worker without a compiler: a search restored there would go another way.
logei._load_attempted = True

MAX_OBSERVATIONS = 256  # a fit takes time that grows with the cube of their number
MAX_PARTITIONED = 5  # objectives; the boxes that hypervolume is cut into grow with the power of half their number
MAX_BASELINE = {1: 128, 2: 128, 3: 64, 4: 32, 5: 20}  # points of the front and pending ones, by number of objectives
MAX_SAMPLES = {1: 128, 2: 64, 3: 32, 4: 16, 5: 8}  # each with boxes of its own
PRUNING_SAMPLES = 128  # by which points that are unlikely to be on the front are told
FARTHEST_BEHIND = 5.0
FIT_STEPS, SEARCH_STEPS = 60, 40  # of L-BFGS-B, at most
REPLACED_WITHIN = 0.05  # standard deviation of the step away from a point that is taken, in units of the cube's side
ONE_AT_A_TIME = threading.Lock()  # who uses torch's global generator
Array = np.ndarray[Any, np.dtype[np.float64]]


@dataclass(frozen=True)
class Effort:
    """How much work goes into a proposal: Monte Carlo samples of the outcomes, scanned points, and climbs from them."""

    samples: int
    scanned_points: int
    climbs: int


def number_seed(*key: int) -> int:
    """Return a seed in [0, 2^32) that depends on every number of `key`."""
    return int(np.random.SeedSequence(key).generate_state(1)[0])


class Surrogate:
    """The processes fitted to a search's history, of which at least one point has losses.

    Outcomes are standardized losses with the sign turned, so that more is better: (mean - loss) / standard deviation
    over the observations used, outliers cut. The reference point is in these units too: the worst of each objective
    along the front, less a tenth of the front's extent there, that taken as one standard deviation at least
    (Ishibuchi et al. 2011). Constraints g <= 0 are divided by the standard deviation of g, which leaves 0 where it
    is. A point that could not be scored has no losses to learn, so it counts as breaking a constraint of its own (1,
    against -1 where points were scored): left out, it would stay the most uncertain and most attractive place there
    is.

    At most `MAX_OBSERVATIONS` observations are used: those of the front, latest first, then the latest of the others.
    """

    def __init__(self, problem: SearchProblem, history: Sequence[Observation]) -> None:
        used = observations_used(history, MAX_OBSERVATIONS)
        scored = [observation for observation in used if observation.losses is not None]
        losses = np.array([observation.losses for observation in scored], dtype=np.float64)
        self._objectives = problem.objectives
        self._points = _tensor([observation.point for observation in scored])
        self._values = _tensor(-standardized(losses))
        self._reference = self._reference_point(scored)
        constraints = np.array([observation.constraints for observation in scored], dtype=np.float64)
        outcomes = [(self._points, column) for column in self._values.T]
        outcomes += [(self._points, column) for column in _tensor(constraints / _deviation(constraints)).T]
        if len(scored) < len(used):
            points = _tensor([observation.point for observation in used])
            outcomes.append((points, _tensor([1.0 if observation.losses is None else -1.0 for observation in used])))
        with isolated(number_seed(problem.seed, len(history))):
            self._model = ModelListGP(*[_fitted(points, values) for points, values in outcomes])

    def propose(self, pending: Sequence[Point], count: int, effort: Effort, seed: int) -> list[Point]:
        """Return the `count` points, found one after the other, that should gain the most feasible hypervolume.

        `pending` points count as gained already. To bound the cost, the front that is to be gained upon is thinned to
        points far from each other, and of the pending points the latest count.
        """
        unit_cube = torch.stack([torch.zeros_like(self._points[0]), torch.ones_like(self._points[0])])
        with isolated(seed):
            points, _ = optimize_acqf(
                self._acquisition(pending, effort.samples, seed),
                unit_cube,
                q=count,
                num_restarts=effort.climbs,
                raw_samples=effort.scanned_points,
                options={"seed": seed, "maxiter": SEARCH_STEPS, "sample_around_best": True},
                sequential=True,
            )
        return [tuple(point) for point in points.clamp(0.0, 1.0).tolist()]

    def variances(self, points: Sequence[Point]) -> Array:
        """Return the posterior variance of each objective (columns) at each point (rows), in squared outcome units."""
        with isolated(0), torch.no_grad():
            variance = self._model.posterior(_tensor(points)).variance[:, : self._objectives]
        return np.asarray(variance.numpy(), dtype=np.float64)

    def _reference_point(self, scored: Sequence[Observation]) -> Tensor:
        front = self._values[front_of(scored)]
        worst, best = front.min(dim=0).values, front.max(dim=0).values
        return worst - 0.1 * (best - worst).clamp_min(1.0)

    def _acquisition(self, pending: Sequence[Point], samples: int, seed: int) -> Any:
        """qLogNEHVI (arXiv 2105.08195, 2310.20708); qLogNEI for one objective; ParEGO with it for more than five.

        With cached box decompositions its cost is polynomial in the pending points; where observations have no noise it
        is qEHVI, whose cost is exponential in them.
        """
        size = min(self._objectives, MAX_PARTITIONED)
        latest = _distinct(pending)[-(MAX_BASELINE[size] // 2) :]
        points = _tensor(_distinct([tuple(point) for point in self._points.tolist()]))
        common: dict[str, Any] = {
            "model": self._model,
            "sampler": SobolQMCNormalSampler(torch.Size([min(samples, MAX_SAMPLES[size])]), seed=seed),
            "constraints": [_outcome(index) for index in range(self._objectives, self._model.num_outputs)] or None,
            "X_pending": _tensor(latest) if latest else None,
        }
        if self._objectives == 1:
            best = GenericMCObjective(_first_outcome)
            return qLogNoisyExpectedImprovement(X_baseline=points, objective=best, prune_baseline=True, **common)
        every = IdentityMCMultiOutputObjective(outcomes=list(range(self._objectives)))
        if self._objectives > MAX_PARTITIONED:
            return qLogNParEGO(X_baseline=points, objective=every, prune_baseline=True, **common)
        front = prune_inferior_points_multi_objective(
            self._model, points, self._reference, every, common["constraints"], num_samples=PRUNING_SAMPLES
        )
        return logei.qLogNoisyExpectedHypervolumeImprovement(
            ref_point=self._reference,
            X_baseline=self._thinned(front, MAX_BASELINE[size] - len(latest)),
            objective=every,
            **common,
        )

    def _thinned(self, front: Tensor, count: int) -> Tensor:
        """Return at most `count` rows of `front` (k x n): in turn, the one whose outcomes are farthest from the chosen.

        Dropped points have a chosen one near, so that little is to be gained twice.
        """
        if len(front) <= count:
            return front
        outcomes = self._model.posterior(front).mean[:, : self._objectives].detach()
        chosen = [int(outcomes.sum(dim=1).argmax())]
        while len(chosen) < count:
            chosen.append(int(torch.cdist(outcomes, outcomes[chosen]).min(dim=1).values.argmax()))
        return front[chosen]


def observations_used(history: Sequence[Observation], limit: int) -> list[Observation]:
    """Return at most `limit` observations in their order: those of the front first, then the latest of the others."""
    if len(history) <= limit:
        return list(history)
    scored = [index for index, observation in enumerate(history) if observation.losses is not None]
    front = {scored[index] for index in front_of([history[index] for index in scored])}
    by_worth = sorted(range(len(history)), key=lambda index: (index in front, index), reverse=True)
    return [history[index] for index in sorted(by_worth[:limit])]


def front_of(scored: Sequence[Observation]) -> list[int]:
    """Return the indices of the non-dominated among those who break constraints the least (not at all, if any)."""
    least = min(observation.violation for observation in scored)
    among = [index for index, observation in enumerate(scored) if observation.violation <= least]
    losses = np.array([scored[index].losses for index in among], dtype=np.float64)
    if losses.shape[1] == 1:
        return [among[int(losses[:, 0].argmin())]]
    return [index for index, stays in zip(among, moocore.is_nondominated(losses), strict=True) if stays]


def standardized(losses: Array) -> Array:
    """Return every column of `losses` less its mean, divided by its standard deviation unless all are equal.

    First, what lies farther behind the median than `FARTHEST_BEHIND` times as far as the best lies before it is cut to
    that: one broken merge with a perplexity of a million would make all others look equal.
    """
    median = np.median(losses, axis=0)
    lead = median - losses.min(axis=0)
    cut = np.where(lead > 0.0, np.minimum(losses, median + FARTHEST_BEHIND * lead), losses)
    centered: Array = cut - cut.mean(axis=0)
    return centered / _deviation(cut)


def untaken(point: Point, taken: TakenPoints, pending: Sequence[Point], generator: np.random.Generator) -> Point:
    """Return `point` or, where it is taken, a point that is not, a normal step away from it."""
    found = point
    while taken.has(found, pending):
        step = generator.normal(0.0, REPLACED_WITHIN, len(point))
        found = tuple(np.clip(point + step, 0.0, 1.0).tolist())
    return found


@contextmanager
def isolated(seed: int) -> Iterator[None]:
    """Silence warnings, and let torch's global generator start from `seed` within and be as it was afterwards.

    On one thread: on several, the last bits of a proposal would depend on the machine's cores, and small matrices gain
    nothing by them. Campaigns that run in threads of one process take turns, for the generator is the process's.
    """
    with ONE_AT_A_TIME, warnings.catch_warnings(), torch.random.fork_rng(devices=[]):
        threads = torch.get_num_threads()
        warnings.simplefilter("ignore")
        torch.default_generator.manual_seed(seed)
        torch.set_num_threads(1)
        try:
            yield
        finally:
            torch.set_num_threads(threads)


def _fitted(points: Tensor, values: Tensor) -> Any:
    """Return a process over `points` (n x d) fitted to `values` (n), or as by its priors where no fit succeeds."""
    model = SingleTaskGP(points, values.unsqueeze(-1), outcome_transform=None)
    likelihood = ExactMarginalLogLikelihood(model.likelihood, model)
    try:
        fit_gpytorch_mll(likelihood, optimizer_kwargs={"options": {"maxiter": FIT_STEPS}})
    except ModelFittingError:  # whatever values there are, a search goes on
        model = SingleTaskGP(points, values.unsqueeze(-1), outcome_transform=None)
    return model.eval()


def _deviation(columns: Array) -> Array:
    """Return the standard deviation of every column, 1 for a column of equal numbers."""
    deviation = columns.std(axis=0)
    scale: Array = np.where(deviation > 1e-9 * np.abs(columns).max(axis=0, initial=1e-300), deviation, 1.0)
    return scale


def _distinct(points: Sequence[Point]) -> list[Point]:
    """Return `points` without repetitions, which would make their covariance singular."""
    return list({tuple(np.round(point, 6).tolist()): point for point in points}.values())


def _tensor(numbers: Any) -> Tensor:
    return torch.as_tensor(np.asarray(numbers, dtype=np.float64))


def _outcome(index: int) -> Callable[[Tensor], Tensor]:
    return lambda outcomes: outcomes[..., index]


def _first_outcome(outcomes: Tensor, X: Tensor | None = None) -> Tensor:  # noqa: N803 (BoTorch's name)
    return outcomes[..., 0]
