"""Runs jobs one after the other in this process."""

from collections import deque
from collections.abc import Callable

from optimizer.jobs import Job, JobResult


class LocalExecutor:
    """Holds up to `slots` submitted jobs and evaluates the oldest whenever the loop waits."""

    def __init__(self, evaluate: Callable[[Job], JobResult], slots: int = 1) -> None:
        self._evaluate = evaluate
        self._slots = slots
        self._jobs: deque[Job] = deque()

    @property
    def free_slots(self) -> int:
        """How many more jobs fit."""
        return self._slots - len(self._jobs)

    def submit(self, job: Job) -> str:
        """Queue `job`."""
        self._jobs.append(job)
        return "local"

    def wait(self, timeout_seconds: float) -> list[JobResult]:
        """Evaluate the oldest job."""
        return [self._evaluate(self._jobs.popleft())] if self._jobs else []

    def close(self) -> None:
        """Forget the jobs that have not run."""
        self._jobs.clear()
