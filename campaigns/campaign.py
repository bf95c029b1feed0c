"""The campaign as it stands: its spec, its pool, its state and what the search has found so far."""

from datetime import datetime

from pydantic import Field

from campaigns.noun import Noun
from campaigns.pools import Pool
from campaigns.spec import CampaignSpec
from campaigns.states import CampaignState, TrialState


class Recommendation(Noun):
    """The trial that a user without further wishes should take, and why, in words.

    `trial_id` is None where every trial breaks a constraint; the reason then names the one that breaks them least.
    """

    trial_id: str | None
    reason: str


class ImportReport(Noun):
    """What became of the complete trials of the campaigns that were imported from."""

    trials: int = Field(description="Taken over as trials of their own")
    baselines: int = Field(description="Taken over as this campaign's baselines, which are not evaluated again")
    known: int = Field(description="Left out: their recipe was there already")
    other_sources: int = Field(description="Left out: merges of what this pool has not")
    other_protocol: int = Field(description="Left out: measured in another way, or not at all, on some objective")
    out_of_reach: int = Field(description="Left out: no point of this space makes them")


class RungReport(Noun):
    """What became of the candidates of a race that were judged after one rung, and what their estimates were worth.

    `items` counts what had been scored of a candidate by then, over all tasks. Of those judged, `stopped` were pruned
    there and `completed` went on to all items: `estimate_errors` has, by objective, the root mean square of estimate
    minus value over the latter, in the objective's unit.
    """

    items: int
    judged: int = 0
    stopped: int = 0
    completed: int = 0
    estimate_errors: dict[str, float] = {}


class SearchSummary(Noun):
    """What the loop knows after each tell; saved with it.

    `front` lists the ids of the trials that no other dominates on the search items, among those that keep all
    constraints. `imports` is None until results were imported. `reference_point` (losses, one per objective)
    is frozen once all baselines are told; hypervolume is None until then. `racing` has a report for each rung after
    which candidates were judged.
    """

    front: tuple[str, ...] = ()
    reference_point: tuple[float, ...] | None = None
    hypervolume: float | None = None
    recommendation: Recommendation | None = None
    imports: ImportReport | None = None
    racing: tuple[RungReport, ...] = ()


class Campaign(Noun):
    """A campaign. `trial_counts` has a number for every trial state that occurs.

    `paused_seconds` sums the pauses since the start that are over; `budget_spent` names the budget that ended the
    search; `points_queued` counts the points that the user queued after the launch; `forked_from` is the campaign whose
    spec was patched.
    """

    id: str
    spec: CampaignSpec
    pool: Pool
    state: CampaignState
    reason: str | None = None
    summary: SearchSummary = SearchSummary()
    trial_counts: dict[TrialState, int] = {}
    created_at: datetime
    updated_at: datetime
    started_at: datetime | None = None
    search_finished_at: datetime | None = None
    finished_at: datetime | None = None
    worker_id: str | None = None
    paused_seconds: float = 0.0
    budget_spent: str | None = None
    points_queued: int = 0
    forked_from: str | None = None


class Event(Noun):
    """One change of a campaign. `id` grows by at least one from each event of the database to the next."""

    id: int
    campaign_id: str
    kind: str
    trial_id: str | None = None
    data: dict[str, object] = {}
    at: datetime
