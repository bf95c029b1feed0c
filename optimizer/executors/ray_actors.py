"""Runs jobs on Ray actors, each with one live model. Ray places work and owns nothing."""

import os

import ray
from ray.exceptions import RayActorError, RayError, RayTaskError

from campaigns.errors import Fault, InvalidSpec, MergefrontError, field_error
from campaigns.spec import Resources
from optimizer.candidate_evaluator import CandidateEvaluator, EvaluationSetup
from optimizer.jobs import Faulted, Job, JobResult

OBJECT_STORE_BYTES = 128 * 2**20  # jobs and results are small: the weights never pass through Ray


def connect(address: str | None) -> None:
    """Join the Ray cluster at `address`, or start a local one that ends with this process."""
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
    def __init__(self, setup: EvaluationSetup) -> None:
        self._evaluator = CandidateEvaluator(setup)

    def describe(self) -> str:
        """Return where this actor lives; answering at all says that it is ready."""
        return f"{ray.util.get_node_ip_address()}:{os.getpid()}"

    def evaluate(self, job: Job) -> JobResult:
        """Score one candidate in the live model."""
        return self._evaluator.evaluate(job)


class RayExecutor:
    """Keeps `resources.actors` actors alive, one job on each. One that dies is replaced; its job comes back as a fault.

    Raises `InvalidSpec` when the cluster cannot hold the actors, and what an actor raised while it was set up.
    """

    def __init__(self, setup: EvaluationSetup, resources: Resources) -> None:
        check_capacity(resources, ray.cluster_resources())
        self._setup = setup
        self._actor_class = ray.remote(
            num_cpus=resources.cpus_per_actor, num_gpus=resources.gpus_per_actor, max_restarts=0
        )(_EvaluationActor)
        self._jobs: dict[ray.ObjectRef, tuple[Job, int]] = {}
        self._starting: dict[ray.ObjectRef, int] = {}
        self._actors = [self._actor_class.remote(setup) for _ in range(resources.actors)]
        described = [actor.describe.remote() for actor in self._actors]
        try:
            self._names = [_describe(reference) for reference in described]
        except MergefrontError:
            self.close()
            raise

    @property
    def free_slots(self) -> int:
        """The number of idle actors; one that is still being replaced is not idle."""
        return len(self._actors) - len(self._jobs) - len(self._starting)

    def submit(self, job: Job) -> str:
        """Give `job` to an idle actor and return the actor's name, `node address:process id`."""
        busy = {index for _, index in self._jobs.values()} | set(self._starting.values())
        index = next(index for index in range(len(self._actors)) if index not in busy)
        self._jobs[self._actors[index].evaluate.remote(job)] = (job, index)
        return self._names[index]

    def wait(self, timeout_seconds: float) -> list[JobResult]:
        """Return the finished jobs, waiting up to `timeout_seconds` for the first."""
        awaited = [*self._jobs, *self._starting]
        if not awaited:
            return []
        ready, _ = ray.wait(awaited, num_returns=1, timeout=timeout_seconds)
        for reference in ready:
            if reference in self._starting:
                self._names[self._starting.pop(reference)] = _describe(reference)
        return [self._collect(reference) for reference in ready if reference in self._jobs]

    def close(self) -> None:
        """Kill every actor."""
        for actor in self._actors:
            ray.kill(actor)
        self._jobs.clear()
        self._starting.clear()

    def _collect(self, reference: ray.ObjectRef) -> JobResult:
        job, index = self._jobs.pop(reference)
        try:
            result: JobResult = ray.get(reference)
        except RayActorError as error:
            self._replace(index)
            return JobResult(job=job, outcome=Faulted(reason=f"its actor died: {_first_line(error)}"))
        except RayError as error:
            return JobResult(job=job, outcome=Faulted(reason=_first_line(error)))
        return result

    def _replace(self, index: int) -> None:
        self._actors[index] = self._actor_class.remote(self._setup)
        self._starting[self._actors[index].describe.remote()] = index


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


def _describe(reference: ray.ObjectRef) -> str:
    try:
        name: str = ray.get(reference)
    except RayError as error:
        raise _cause(error) from error
    return name


def _cause(error: RayError) -> MergefrontError:
    cause = error.cause if isinstance(error, RayTaskError) else None
    if isinstance(cause, MergefrontError):
        return cause
    return Fault(f"an actor could not be set up: {_first_line(cause or error)}")


def _first_line(error: BaseException) -> str:
    text = str(error).strip() or type(error).__name__
    return text.splitlines()[0]
