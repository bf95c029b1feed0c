"""The route of what the stored outcomes say about the front: paired comparisons, probabilities, gaps, warnings."""

from collections.abc import Sequence
from typing import Annotated

from fastapi import APIRouter, Query

from api.problems import documented
from api.service import Service, ServiceOf
from campaigns.campaign import Campaign
from campaigns.constraints import limits
from campaigns.objectives import Split
from campaigns.states import TrialState
from campaigns.trial import Trial
from fronts.membership import near_front
from fronts.pareto import search_losses
from fronts.preference import parse_preference
from fronts.recommendation import split_to_judge_by
from fronts.statistics import Cast, FrontStatistics, front_statistics


def router() -> APIRouter:
    """Return the routes."""
    routes = APIRouter(prefix="/v1/campaigns/{campaign_id}", tags=["front"])

    @routes.get("/front/statistics", responses=documented(404, 422))
    def statistics(
        campaign_id: str,
        service: ServiceOf,
        split: Split | None = None,
        prefer: Annotated[str | None, Query(examples=["gsm8k/exact_match:2,arc_easy/acc:1"])] = None,
    ) -> FrontStatistics:
        """Return how far the front can be believed, from the outcomes of its items.

        Each member is compared with every parent and soup; members and trials close behind them get their probability
        of being non-dominated. On the items of `split`: by default the holdout items once the whole front has been
        scored there, else the search items.
        """
        campaign = service.store.campaign(campaign_id)
        objectives = campaign.spec.objectives
        weights = None if prefer is None else parse_preference(prefer, objectives)
        judged = split or split_to_judge_by(objectives, service.store.trials_with_ids(campaign.summary.front))
        return front_statistics(objectives, _cast(service, campaign, judged), judged, weights)

    return routes


def _cast(service: Service, campaign: Campaign, split: Split) -> Cast:
    """Load outcomes, which are big, for the front, the baselines and the trials close behind the front alone."""
    members = set(campaign.summary.front)
    baselines = [t for t in service.store.baselines(campaign.id) if t.state is TrialState.COMPLETE]
    # Only the front and the baselines are scored on the holdout items.
    others = service.store.trials(campaign.id) if split == "search" else baselines
    near = _near_front_ids(campaign, others, baselines) - members
    wanted = members | near | {trial.id for trial in baselines}
    loaded = service.store.trials_with_ids(sorted(wanted), with_outcomes=True)
    known = {trial.id for trial in baselines}
    return Cast(
        front=[trial for trial in loaded if trial.id in members],
        baselines=[trial for trial in loaded if trial.id in known],
        near=[trial for trial in loaded if trial.id in near],
    )


def _near_front_ids(campaign: Campaign, trials: Sequence[Trial], baselines: Sequence[Trial]) -> set[str]:
    """Return the ids of the first ranks on the search items, of the trials that keep all constraints."""
    objectives = campaign.spec.objectives
    bounds = limits(campaign.spec.constraints, objectives, baselines)
    kept = [t for t in trials if (broken := bounds.violations(t)) is not None and not any(broken)]
    return {kept[index].id for index in near_front([search_losses(objectives, trial) for trial in kept])}
