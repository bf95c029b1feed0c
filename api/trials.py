"""Routes of trials: the list of a campaign's, and one with its recipe."""

from typing import Annotated

from fastapi import APIRouter, Query

from api.problems import documented
from api.service import ServiceOf
from campaigns.noun import Noun
from campaigns.recipe import Recipe
from campaigns.trial import Trial


class TrialPage(Noun):
    """Trials by number. `next` is the `after` of the page that follows, None on the last."""

    items: tuple[Trial, ...]
    next: int | None


def router() -> APIRouter:
    """Return the routes."""
    routes = APIRouter(prefix="/v1", tags=["trials"])

    @routes.get("/campaigns/{campaign_id}/trials", responses=documented(404, 422))
    def trials(
        campaign_id: str,
        service: ServiceOf,
        after: Annotated[int, Query(ge=-1, lt=2**31)] = -1,
        limit: Annotated[int, Query(ge=1)] = 100,
    ) -> TrialPage:
        """Return trials with a number above `after`, without outcomes."""
        size = min(limit, service.settings.max_page)
        found = service.store.trials(campaign_id, after, size + 1)
        page = found[:size]
        return TrialPage(items=tuple(page), next=page[-1].number if len(found) > size else None)

    @routes.get("/trials/{trial_id}", responses=documented(404))
    def trial(trial_id: str, service: ServiceOf) -> Trial:
        """Return one trial with the outcome of each item."""
        return service.store.trial(trial_id)

    @routes.get("/trials/{trial_id}/recipe", responses=documented(404))
    def recipe(trial_id: str, service: ServiceOf) -> Recipe:
        """Return what determines the bytes of the trial's merged model."""
        return service.store.trial(trial_id).candidate.recipe

    return routes
