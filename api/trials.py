"""Routes of trials: the list of a campaign's, and one with its recipe."""

from typing import Annotated, Any, Literal

from fastapi import APIRouter, Query, Response

from api.problems import documented
from api.service import Service, ServiceOf
from campaigns.mergekit import export
from campaigns.noun import Noun
from campaigns.recipe import Recipe
from campaigns.trial import Trial

MERGEKIT = "application/yaml"


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

    described: dict[int | str, dict[str, Any]] = {
        200: {"description": "The recipe", "content": {MERGEKIT: {"schema": {"type": "string"}}}},
        **documented(404, 409, 422),
    }

    @routes.get("/trials/{trial_id}/recipe", response_model=Recipe, responses=described)
    def recipe(
        trial_id: str,
        service: ServiceOf,
        form: Annotated[Literal["json", "mergekit"], Query(alias="format")] = "json",
    ) -> Recipe | Response:
        """Return what determines the bytes of the trial's merged model: as a document of ours, or for mergekit.

        A recipe that mergekit cannot make is refused as its configuration, with what stands against it.
        """
        trial = service.store.trial(trial_id)
        if form == "json":
            return trial.candidate.recipe
        return Response(_mergekit(service, trial), media_type=MERGEKIT)

    return routes


def _mergekit(service: Service, trial: Trial) -> str:
    """Return mergekit's configuration; only rules need the names of tensors, and so the checkpoints on disk."""
    recipe, pool = trial.candidate.recipe, service.store.campaign(trial.campaign_id).pool
    names = service.pools.files(pool).template.merged_tensors if recipe.rules else ()
    return export(recipe, pool, names)
