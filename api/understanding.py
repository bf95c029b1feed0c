"""The route of what a search has learnt: parameter importance and contributions of checkpoints, as estimates."""

from fastapi import APIRouter

from api.problems import documented
from api.service import ServiceOf
from campaigns.states import TrialState
from fronts.understanding import Understanding, understand


def router() -> APIRouter:
    """Return the routes."""
    routes = APIRouter(prefix="/v1/campaigns/{campaign_id}", tags=["front"])

    @routes.get("/understanding", responses=documented(404))
    def understanding(campaign_id: str, service: ServiceOf) -> Understanding:
        """Return which parameters matter and what the front would lose without each checkpoint.

        Estimates of a surrogate over the complete trials, with its cross-validated R²; the hypervolume's history, which
        is measured, is at `/hypervolume`.
        """
        campaign = service.store.campaign(campaign_id)
        complete = [t for t in service.store.trials(campaign_id) if t.state is TrialState.COMPLETE]
        summary = campaign.summary
        names = campaign.pool.names
        return understand(campaign.spec.objectives, names, complete, summary.front, summary.reference_point)

    return routes
