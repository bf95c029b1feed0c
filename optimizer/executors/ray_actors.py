"""Runs jobs on Ray actors, each with one live model. Ray places work and owns nothing."""

import os

import ray
from ray.exceptions import RayActorError, RayError, RayTaskError

from campaigns.errors import Fault, InvalidSpec, MergefrontError, field_error
from campaigns.spec import Resources
from optimizer.candidate_evaluator import CandidateEvaluator, EvaluationSetup
from optimizer.jobs import Faulted, Job, JobResult

OBJECT_STORE_BYTES = 128 * 2**20  # jobs and results are small: the weights never pass through Ray
MAX_FAILED_SETUPS = 3


def connect(address: str | None) -> None:
    """Join the Ray cluster at `address`, or start a local one that ends with this process.

    Ray's daemons listen on every interface; since Ray 2.60 a local cluster demands a token of its own by default.
    """
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    if address is not None:
        ray.init(address=address, log_to_driver=False, logging_level="warning")
        return
    ray.init(
        address="local",
        include_dashboard=False,
        log_to_driver=False,
        logging_level="warning",
        object_store_memory=OBJECT_STORE_BYTES,
    )


class _EvaluationActor:
    """Is built in `set_up`, not in its constructor: Ray hides what a constructor raises."""

    def __init__(self, setup: EvaluationSetup) -> None:
        self._setup = setup

    def set_up(self) -> str:
        """Build the live model and its tasks; return where this actor lives, `node address:process id`."""
        self._evaluator = CandidateEvaluator(self._setup)
        return f"{ray.util.get_node_ip_address()}:{os.getpid()}"

    def evaluate(self, job: Job) -> JobResult:
        """Score one candidate in the live model."""
        return self._evaluator.evaluate(job)


class RayExecutor:
    """Keeps `resources.actors` actors alive, one job on each. One that dies is replaced; its job comes back as a fault.

    Raises `InvalidSpec` when the cluster can never hold the actors. `ready` and `wait` raise what an actor raised while
    it was set up, and `Fault` when actors die there several times in a row.
    """

    def __init__(self, setup: EvaluationSetup, resources: Resources) -> None:
        check_capacity(resources, ray.cluster_resources())
        self._setup = setup
        self._actor_class = ray.remote(
            num_cpus=resources.cpus_per_actor, num_gpus=resources.gpus_per_actor, max_restarts=0
        )(_EvaluationActor)
        self._actors: list[ray.actor.ActorHandle] = [None] * resources.actors
        self._names = [""] * resources.actors
        self._jobs: dict[ray.ObjectRef, tuple[Job, int]] = {}
        self._starting: dict[ray.ObjectRef, int] = {}
        self._failed_setups = 0
        for index in range(resources.actors):
            self._start(index)

    def ready(self, timeout_seconds: float) -> bool:
        """Whether every actor is set up, waiting up to `timeout_seconds` for the next one."""
        self.wait(timeout_seconds)
        return not self._starting

    @property
    def free_slots(self) -> int:
        """The number of idle actors; one that is still being set up is not idle."""
        return len(self._actors) - len(self._jobs) - len(self._starting)

    def submit(self, job: Job) -> str:
        """Give `job` to an idle actor and return the actor's name, `node address:process id`."""
        busy = {index for _, index in self._jobs.values()} | set(self._starting.values())
        index = next(index for index in range(len(self._actors)) if index not in busy)
        self._jobs[self._actors[index].evaluate.remote(job)] = (job, index)
        return self._names[index]

    def wait(self, timeout_seconds: float) -> list[JobResult]:
        """Return the finished jobs, waiting up to `timeout_seconds` for the first, or for an actor to be set up."""
        awaited = [*self._jobs, *self._starting]
        if not awaited:
            return []
        done, _ = ray.wait(awaited, num_returns=1, timeout=timeout_seconds)
        for reference in done:
            if reference in self._starting:
                self._welcome(reference)
        return [self._collect(reference) for reference in done if reference in self._jobs]

    def close(self) -> None:
        """Kill every actor."""
        for actor in self._actors:
            ray.kill(actor)
        self._jobs.clear()
        self._starting.clear()

    def _start(self, index: int) -> None:
        self._actors[index] = self._actor_class.remote(self._setup)
        self._starting[self._actors[index].set_up.remote()] = index

    def _welcome(self, reference: ray.ObjectRef) -> None:
        index = self._starting.pop(reference)
        try:
            self._names[index] = ray.get(reference)
            self._failed_setups = 0
        except RayActorError as error:
            self._failed_setups += 1
            if self._failed_setups >= MAX_FAILED_SETUPS:
                raise _cause(error) from error
            self._start(index)
        except RayError as error:
            raise _cause(error) from error

    def _collect(self, reference: ray.ObjectRef) -> JobResult:
        job, index = self._jobs.pop(reference)
        try:
            result: JobResult = ray.get(reference)
        except RayActorError as error:
            self._start(index)
            return JobResult(job=job, outcome=Faulted(reason=f"its actor died: {_first_line(error)}"))
        except RayError as error:
            return JobResult(job=job, outcome=Faulted(reason=_first_line(error)))
        return result


def check_capacity(resources: Resources, cluster: dict[str, float]) -> None:
    """Raise `InvalidSpec` when the cluster's CPUs or GPUs cannot hold all actors at once."""
    errors = []
    for field, kind, each in (
        ("resources.cpus_per_actor", "CPU", float(resources.cpus_per_actor)),
        ("resources.gpus_per_actor", "GPU", resources.gpus_per_actor),
    ):
        available = cluster.get(kind, 0.0)
        if each * resources.actors > available:
            message = f"{resources.actors} actors of {each:g} {kind} each do not fit into the cluster"
            errors.append(field_error(field, each, message, f"{available:g} {kind} in all"))
    if errors:
        raise InvalidSpec(errors)


def _cause(error: RayError) -> MergefrontError:
    cause = error.cause if isinstance(error, RayTaskError) else None
    if isinstance(cause, MergefrontError):
        return cause
    return Fault(f"an actor could not be set up: {_first_line(cause or error)}")


def _first_line(error: BaseException) -> str:
    text = str(error).strip() or type(error).__name__
    return text.splitlines()[0]
