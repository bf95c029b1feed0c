"""Runs jobs on Ray actors, each with one live model. Ray places work and owns nothing."""

import bisect
import os
import time
from collections.abc import Sequence
from dataclasses import dataclass

import ray
from ray.exceptions import RayActorError, RayError, RayTaskError

from campaigns.errors import Fault, InvalidCheckpoint, MergefrontError
from campaigns.spec import Resources
from optimizer.candidate_evaluator import CandidateEvaluator, EvaluationSetup
from optimizer.jobs import Faulted, Job, JobResult
from optimizer.sharing import Node

OBJECT_STORE_BYTES = 128 * 2**20  # jobs and results are small: the weights never pass through Ray
MAX_FAILED_SETUPS = 3
HEAD_NODE = "node:__internal_head__"
"""What Ray calls the resource that the head node alone has."""


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

    def place(self) -> tuple[str, str]:
        """Return where this actor lives, `node address:process id`, and the node's id."""
        return f"{ray.util.get_node_ip_address()}:{os.getpid()}", ray.get_runtime_context().get_node_id()

    def set_up(self) -> None:
        """Build the live model and its tasks. `InvalidCheckpoint` says on which node a checkpoint is another one."""
        try:
            self._evaluator = CandidateEvaluator(self._setup)
        except InvalidCheckpoint as error:
            node = ray.util.get_node_ip_address()
            errors = [each.replace(message=f"on node {node}: {each.message}") for each in error.errors]
            raise InvalidCheckpoint(errors) from error

    def evaluate(self, job: Job) -> JobResult:
        """Score one candidate in the live model."""
        return self._evaluator.evaluate(job)


@dataclass(eq=False)
class _Actor:
    """An actor as the executor knows it. `deaths` counts those in a row of it and its predecessors in their set-up."""

    handle: ray.actor.ActorHandle
    number: int
    deaths: int
    name: str = ""
    node: str = ""
    last_trial: str | None = None


class RayExecutor:
    """Keeps as many actors alive as it was told last, one job on each. One that dies is replaced; its job is a fault.

    An actor that finds no room in the cluster waits for it. `ready` and `wait` raise what an actor raised while it was
    set up, and `Fault` when one and those that replaced it die there several times in a row. One thread uses it;
    `resize` and `seconds_without_place` may be called from any.
    """

    def __init__(self, setup: EvaluationSetup, resources: Resources, actors: int | None = None) -> None:
        self._setup = setup
        self._actor_class = ray.remote(
            num_cpus=resources.cpus_per_actor, num_gpus=resources.gpus_per_actor, max_restarts=0
        )(_EvaluationActor)
        self._most = resources.actors
        self._wanted = self._most if actors is None else actors
        self._placing: dict[ray.ObjectRef, _Actor] = {}
        self._setting_up: dict[ray.ObjectRef, _Actor] = {}
        self._idle: list[_Actor] = []
        self._jobs: dict[ray.ObjectRef, tuple[Job, _Actor]] = {}
        self._started = 0
        self._had_place_at = time.monotonic()
        self._adjust()

    def resize(self, actors: int) -> None:
        """Have `actors` actors from the next `wait` on: at least 1, and at most `resources.actors`.

        Of too many, those go first that are not set up yet, then idle ones; one with a job goes when that has ended.
        """
        self._wanted = min(max(1, actors), self._most)

    @property
    def seconds_without_place(self) -> float:
        """For how many seconds no actor has had a place in the cluster, as of the last `wait`; 0 while one has."""
        return max(0.0, time.monotonic() - self._had_place_at) if self._is_without_place else 0.0

    @property
    def _is_without_place(self) -> bool:
        return not (self._setting_up or self._idle or self._jobs)

    def ready(self, timeout_seconds: float) -> bool:
        """Whether an actor is set up, waiting up to `timeout_seconds` for the next one."""
        self.wait(timeout_seconds)
        return bool(self._idle)

    @property
    def free_slots(self) -> int:
        """The number of jobs that idle actors can take; one that is still being set up is not idle."""
        return max(0, min(len(self._idle), self._wanted - len(self._jobs)))

    def submit(self, job: Job) -> str:
        """Give `job` to an idle actor, the one that ran the trial's last job if it can be; return the actor's name.

        Names are `node address:process id`.
        """
        chosen = choose_actor(range(len(self._idle)), [actor.last_trial for actor in self._idle], job.trial_id)
        actor = self._idle.pop(chosen)
        actor.last_trial = job.trial_id
        self._jobs[actor.handle.evaluate.remote(job)] = (job, actor)
        return actor.name

    def wait(self, timeout_seconds: float) -> list[JobResult]:
        """Return the finished jobs, waiting up to `timeout_seconds` for the first, or for an actor to be set up."""
        self._adjust()
        awaited = [*self._jobs, *self._setting_up, *self._placing]
        if not awaited:
            return []
        done, _ = ray.wait(awaited, num_returns=1, timeout=timeout_seconds)
        for reference in done:
            if reference in self._placing:
                self._welcome(reference)
            elif reference in self._setting_up:
                self._employ(reference)
        return [self._collect(reference) for reference in done if reference in self._jobs]

    def close(self) -> None:
        """Kill every actor."""
        employed = [actor for _, actor in self._jobs.values()]
        for actor in (*self._placing.values(), *self._setting_up.values(), *self._idle, *employed):
            ray.kill(actor.handle)
        self._placing.clear()
        self._setting_up.clear()
        self._idle.clear()
        self._jobs.clear()

    def _adjust(self) -> None:
        """Start actors that are missing, and drop those that are too many and have no job."""
        present = len(self._placing) + len(self._setting_up) + len(self._idle) + len(self._jobs)
        for _ in range(self._wanted - present):
            self._start()
        for _ in range(present - self._wanted):
            self._drop_one()
        if not self._is_without_place:
            self._had_place_at = time.monotonic()

    def _start(self, deaths: int = 0) -> None:
        self._started += 1
        actor = _Actor(self._actor_class.remote(self._setup), self._started, deaths)
        self._placing[actor.handle.place.remote()] = actor

    def _drop_one(self) -> None:
        if self._placing:
            ray.kill(self._placing.popitem()[1].handle)
        elif self._setting_up:
            ray.kill(self._setting_up.popitem()[1].handle)
        elif self._idle:
            ray.kill(self._idle.pop().handle)

    def _welcome(self, reference: ray.ObjectRef) -> None:
        """Let an actor that has found its place set itself up."""
        actor = self._placing.pop(reference)
        try:
            actor.name, actor.node = ray.get(reference)
        except RayActorError as error:
            self._replace(actor, error)
        except RayError as error:
            raise _cause(error) from error
        else:
            self._setting_up[actor.handle.set_up.remote()] = actor

    def _employ(self, reference: ray.ObjectRef) -> None:
        """Let an actor that is set up take jobs."""
        actor = self._setting_up.pop(reference)
        try:
            ray.get(reference)
        except RayActorError as error:
            self._replace(actor, error)
        except RayError as error:
            raise _cause(error) from error
        else:
            actor.deaths = 0
            self._rest(actor)

    def _replace(self, dead: _Actor, error: RayActorError) -> None:
        if dead.deaths + 1 >= MAX_FAILED_SETUPS:
            raise _cause(error) from error
        self._start(dead.deaths + 1)

    def _collect(self, reference: ray.ObjectRef) -> JobResult:
        job, actor = self._jobs.pop(reference)
        try:
            result: JobResult = ray.get(reference)
        except RayActorError as error:
            alive = {node["NodeID"] for node in ray.nodes() if node["Alive"]}
            self._idle = [idle for idle in self._idle if idle.node in alive]  # else each would cost a trial an attempt
            return JobResult(job=job, outcome=Faulted(reason=f"its actor died: {_first_line(error)}"))
        except RayError as error:
            result = JobResult(job=job, outcome=Faulted(reason=_first_line(error)))
        self._rest(actor)
        return result

    def _rest(self, actor: _Actor) -> None:
        bisect.insort(self._idle, actor, key=lambda actor: actor.number)


def choose_actor(idle: Sequence[int], last_trials: Sequence[str | None], trial_id: str) -> int:
    """Return which of the actors `idle`, at least one, gets a job of `trial_id`: the one that still has it live.

    `last_trials` has the trial that each actor ran last, None where it ran none. Where no idle one ran this trial last,
    the first is taken.
    """
    return next((index for index in idle if last_trials[index] == trial_id), idle[0])


def cluster_nodes() -> tuple[Node, ...]:
    """Return the machines of the cluster that are alive, by their id.

    Raises `Fault` when this process's own is not: its Ray is gone for good, whatever becomes of the cluster.
    """
    alive = sorted((node for node in ray.nodes() if node["Alive"]), key=lambda node: str(node["NodeID"]))
    if ray.get_runtime_context().get_node_id() not in [node["NodeID"] for node in alive]:
        raise Fault("Ray has died on this machine; a worker that is started anew goes on")
    resources = [node["Resources"] for node in alive]
    return tuple(Node(each.get("CPU", 0.0), int(each.get("GPU", 0.0))) for each in resources)


def cluster_id() -> str:
    """Return what no other cluster has: the id of the head node."""
    return next(str(node["NodeID"]) for node in ray.nodes() if HEAD_NODE in node["Resources"])


def _cause(error: RayError) -> MergefrontError:
    cause = error.cause if isinstance(error, RayTaskError) else None
    if isinstance(cause, MergefrontError):
        return cause
    return Fault(f"an actor could not be set up: {_first_line(cause or error)}")


def _first_line(error: BaseException) -> str:
    text = str(error).strip() or type(error).__name__
    return text.splitlines()[0]
