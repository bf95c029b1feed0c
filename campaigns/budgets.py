"""What a search has spent of its budgets, and which one ends it."""

from datetime import datetime

from campaigns.campaign import Campaign
from campaigns.noun import Noun
from campaigns.spec import Budget


class Spending(Noun):
    """What was spent of each budget, in its unit. What runs still counts once it has ended."""

    evaluations: int
    item_evaluations: int
    seconds: float
    gpu_seconds: float


class SpentBudget(Noun):
    """The budget that ended the search, its limit and what was spent of it by then."""

    budget: str
    limit: float
    spent: float


def spent_budget(budget: Budget, spending: Spending) -> SpentBudget | None:
    """Return the first of the limits, in the order of the spec, that `spending` has reached; None without one."""
    for name in Budget.model_fields:
        limit, spent = getattr(budget, name), getattr(spending, name)
        if limit is not None and spent >= limit:
            return SpentBudget(budget=name, limit=limit, spent=spent)
    return None


def seconds_running(campaign: Campaign, at: datetime) -> float:
    """Return the seconds from the start of a campaign, which is not paused, to `at`; its pauses are left out."""
    if campaign.started_at is None:
        return 0.0
    return max((at - campaign.started_at).total_seconds() - campaign.paused_seconds, 0.0)
