"""What the loop asks of an executor, and what comes back."""

from typing import Annotated, Literal

from pydantic import Field

from campaigns.noun import Noun
from campaigns.objectives import Items, Split
from campaigns.recipe import Recipe
from campaigns.trial import Evaluated


class Job(Noun):
    """Merge `recipe` and score it on items of `split`, for one trial.

    Without `rungs` these are all items of the split, in one run. With rungs, which have no item in common, they are the
    rungs' items, each rung in a run of its own, so that a trial that goes on has its earlier rungs' answers already.
    """

    trial_id: str
    recipe: Recipe
    split: Split
    rungs: tuple[Items, ...] = ()


class Scored(Noun):
    """The candidate was scored."""

    kind: Literal["scored"] = "scored"
    evaluated: Evaluated


class Infeasible(Noun):
    """The candidate cannot be scored, however often one tries (NaN logits, say)."""

    kind: Literal["infeasible"] = "infeasible"
    reason: str


class Faulted(Noun):
    """Something broke beside the candidate; the job may be run again."""

    kind: Literal["faulted"] = "faulted"
    reason: str


class JobResult(Noun):
    """What became of a job."""

    job: Job
    outcome: Annotated[Scored | Infeasible | Faulted, Field(discriminator="kind")]
