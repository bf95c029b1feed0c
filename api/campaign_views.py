"""A campaign as it is shown: the noun, and how far it is."""

from datetime import UTC, datetime

from campaigns.campaign import Campaign
from campaigns.noun import Noun
from campaigns.states import CampaignState, TrialState
from storage import Store

TOLD_OR_FAILED = (TrialState.COMPLETE, TrialState.PRUNED, TrialState.INFEASIBLE, TrialState.FAILED)


class Progress(Noun):
    """How far the search is. `seconds_left` is None when there is nothing to tell it from, or nothing left.

    `search_item_evaluations` counts the items of tasks that trials were scored on for the search, here and not
    elsewhere: metrics of one task share its items. It is what a race saves.
    """

    evaluations_done: int
    evaluations_total: int
    running: int
    seconds_elapsed: float
    seconds_left: float | None
    actor_utilization: float | None
    search_item_evaluations: int


class CampaignView(Campaign):
    """A campaign with its progress."""

    progress: Progress


class CampaignPage(Noun):
    """Campaigns, the newest first. `next` is the `before` of the page that follows, None on the last."""

    items: tuple[CampaignView, ...]
    next: str | None


def views(store: Store, campaigns: list[Campaign]) -> list[CampaignView]:
    """Return the campaigns with their progress."""
    ids = [campaign.id for campaign in campaigns]
    busy, items = store.search_seconds(ids), store.item_evaluations(ids)
    now = datetime.now(UTC)
    return [CampaignView(**dict(c), progress=progress(c, busy[c.id], items[c.id], now)) for c in campaigns]


def view(store: Store, campaign: Campaign) -> CampaignView:
    """Return the campaign with its progress."""
    return views(store, [campaign])[0]


def progress(campaign: Campaign, busy_seconds: float, item_evaluations: int, now: datetime) -> Progress:
    """Return how far `campaign` is at `now`, when its actors have spent `busy_seconds` on so many search items."""
    done = sum(campaign.trial_counts.get(state, 0) for state in TOLD_OR_FAILED)
    total = max(evaluations_total(campaign), done)  # how often the greedy soup tries is not known beforehand
    search_seconds = _seconds_from_start(campaign, campaign.search_finished_at or campaign.finished_at or now)
    actor_seconds = campaign.spec.resources.actors * search_seconds
    is_searching = campaign.state is CampaignState.RUNNING and campaign.search_finished_at is None
    return Progress(
        evaluations_done=done,
        evaluations_total=total,
        running=campaign.trial_counts.get(TrialState.RUNNING, 0),
        seconds_elapsed=_seconds_from_start(campaign, campaign.finished_at or now),
        seconds_left=search_seconds / done * max(total - done, 0) if is_searching and done else None,
        actor_utilization=min(busy_seconds / actor_seconds, 1.0) if actor_seconds > 0 and busy_seconds > 0 else None,
        search_item_evaluations=item_evaluations,
    )


def evaluations_total(campaign: Campaign) -> int:
    """Return how many trials the search may have: the budget, and on top baselines, points and what is imported."""
    spec, imports = campaign.spec, campaign.summary.imports
    parents = len(campaign.pool.checkpoints) if spec.baselines.parents else 0
    known = parents + spec.baselines.uniform_soup + spec.baselines.task_arithmetic + len(spec.warm_start.points)
    return spec.budget.evaluations + known + campaign.points_queued + (imports.trials if imports is not None else 0)


def _seconds_from_start(campaign: Campaign, end: datetime) -> float:
    return max((end - campaign.started_at).total_seconds(), 0.0) if campaign.started_at else 0.0
