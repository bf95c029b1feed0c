"""The contract of every executor."""

from typing import Protocol

from optimizer.jobs import Job, JobResult


class Executor(Protocol):
    """Runs jobs on a bounded number of slots and returns results in the order of completion.

    A job that was submitted always comes back exactly once, if only as a fault. Which actor runs it changes no score;
    the one that ran the trial's last job may have less left to do.
    """

    @property
    def free_slots(self) -> int:
        """How many jobs can be submitted now without waiting behind another."""

    def submit(self, job: Job) -> str:
        """Start `job` and return the name of the actor that runs it."""

    def wait(self, timeout_seconds: float) -> list[JobResult]:
        """Return the results that are there, waiting up to `timeout_seconds` for the first one."""

    def close(self) -> None:
        """Drop what runs and free everything held."""
