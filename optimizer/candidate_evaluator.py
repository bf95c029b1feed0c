"""One live model with its pool and its tasks: where merging and scoring meet."""

import time
from pathlib import Path

import torch

from campaigns.errors import BadCandidate
from campaigns.noun import Noun, canonical_digest
from campaigns.objectives import Measurement, Objective, Split
from campaigns.pools import Dtype, Embeddings, Pool
from campaigns.spec import CampaignSpec, Evaluation
from campaigns.trial import Evaluated, Timing
from evaluators.lm_evaluator import LmEvaluator
from merging.live import LiveModel
from merging.pool_files import PoolFiles
from optimizer.jobs import Faulted, Infeasible, Job, JobResult, Scored


class EvaluationSetup(Noun):
    """Everything that an actor needs to score the candidates of one campaign."""

    pool: Pool
    objectives: tuple[Objective, ...]
    evaluation: Evaluation
    seed: int
    task_folders: tuple[str, ...] = ()
    cache_dir: str | None = None
    threads: int = 1
    device: str = "cpu"


def evaluation_setup(
    spec: CampaignSpec, pool: Pool, task_folders: tuple[str, ...], cache_dir: Path | None = None
) -> EvaluationSetup:
    """Return what an actor of this campaign needs: a GPU if the spec gives it a share of one, else CPU threads.

    Actors share through `cache_dir` what merges find out about the pool.
    """
    return EvaluationSetup(
        pool=pool,
        objectives=spec.objectives,
        evaluation=spec.evaluation,
        seed=spec.seed,
        task_folders=task_folders,
        cache_dir=None if cache_dir is None else str(cache_dir),
        threads=spec.resources.cpus_per_actor,
        device="cuda" if spec.resources.gpus_per_actor > 0 else "cpu",
    )


class WeightsProtocol(Noun):
    """What determines a measurement of the merged weights beside the recipe."""

    metric: str
    base: str
    dtype: Dtype
    embeddings: Embeddings


WEIGHTS_METRICS = {"delta_l1": LiveModel.delta_l1}


class CandidateEvaluator:
    """Merges each candidate into one resident model and scores it there. Tasks and requests are built once.

    A job in rungs whose recipe is the live one is not merged again, and only its new rungs are answered. The recipe
    counts as live from a job that was scored until the next job begins, so nothing half done is ever built upon.
    """

    def __init__(self, setup: EvaluationSetup) -> None:
        torch.set_num_threads(setup.threads)
        files = PoolFiles(setup.pool, None if setup.cache_dir is None else Path(setup.cache_dir), by_content=True)
        self._setup = setup
        self._live = LiveModel(files, setup.pool.dtype, setup.device)
        folders = [Path(folder) for folder in setup.task_folders]
        self._evaluator = LmEvaluator(setup.objectives, setup.evaluation, setup.seed, folders)
        self._evaluator.prepare(self._live.model, self._live.tokenizer)
        self._live_recipe: str | None = None

    def evaluate(self, job: Job) -> JobResult:
        """Return the job's result. Whatever goes wrong beside the candidate is a fault, and never a score."""
        try:
            return JobResult(job=job, outcome=Scored(evaluated=self._score(job)))
        except BadCandidate as error:
            return JobResult(job=job, outcome=Infeasible(reason=str(error)))
        except Exception as error:  # the edge of the actor: a fault of any kind is reported, not raised
            return JobResult(job=job, outcome=Faulted(reason=f"{type(error).__name__}: {error}"))

    def _score(self, job: Job) -> Evaluated:
        started = time.perf_counter()
        merge_seconds = self._make_live(job)
        scores = self._evaluator.evaluate(job.split, job.rungs)
        found = {measurement.objective: measurement for measurement in scores.measurements}
        if found or job.split == "search":  # a split without items left has nothing that the weights would go beside
            found |= {o.name: self._of_weights(o, job.split) for o in self._setup.objectives if o.is_of_weights}
        measurements = tuple(found[o.name] for o in self._setup.objectives if o.name in found)
        self._live_recipe = job.recipe.digest
        timing = Timing(
            merge_seconds=merge_seconds,
            model_seconds=scores.model_seconds,
            total_seconds=time.perf_counter() - started,
        )
        return Evaluated(measurements=measurements, timing=timing)

    def _make_live(self, job: Job) -> float:
        """Write the job's merge unless the job goes on with the one that is live; return the seconds it took."""
        live, self._live_recipe = self._live_recipe, None
        if job.rungs and job.recipe.digest == live:
            self._live.pool_files.verify()  # a source that changed on disk must not be scored as what it was
            return 0.0
        self._evaluator.weights_changed()
        return self._live.write(job.recipe)

    def _of_weights(self, objective: Objective, split: Split) -> Measurement:
        """Measure the live weights: exact, and the same on both splits."""
        pool = self._setup.pool
        assert pool.base is not None  # the spec sees to it
        protocol = WeightsProtocol(
            metric=objective.metric, base=pool.base.digest, dtype=pool.dtype, embeddings=pool.embeddings
        )
        return Measurement(
            objective=objective.name,
            split=split,
            value=WEIGHTS_METRICS[objective.metric](self._live),
            standard_error=0.0,
            items=1,
            protocol=canonical_digest(protocol),
        )
