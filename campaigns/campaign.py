"""The campaign as it stands: its spec, its pool, its state and what the search has found so far."""

from datetime import datetime

from campaigns.noun import Noun
from campaigns.pools import Pool
from campaigns.spec import CampaignSpec
from campaigns.states import CampaignState, TrialState


class Recommendation(Noun):
    """The trial that a user without further wishes should take, and why, in words."""

    trial_id: str
    reason: str


class SearchSummary(Noun):
    """What the loop knows after each tell; saved with it.

    `front` lists the ids of the non-dominated trials on the search items. `reference_point` (losses, one per objective)
    is frozen once all baselines are told; hypervolume is None until then.
    """

    front: tuple[str, ...] = ()
    reference_point: tuple[float, ...] | None = None
    hypervolume: float | None = None
    recommendation: Recommendation | None = None


class Campaign(Noun):
    """A campaign. `trial_counts` has a number for every trial state that occurs."""

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


class Event(Noun):
    """One change of a campaign. `id` grows by at least one from each event of the database to the next."""

    id: int
    campaign_id: str
    kind: str
    trial_id: str | None = None
    data: dict[str, object] = {}
    at: datetime
