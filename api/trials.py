"""Routes of trials: the list of a campaign's, and one with its recipe."""

from typing import Annotated, Any, Literal

from fastapi import APIRouter, Query, Response

from api.problems import documented
from api.service import Service, ServiceOf
from campaigns.campaign import Campaign
from campaigns.constraints import Limits, limits
from campaigns.mergekit import export
from campaigns.noun import Noun
from campaigns.recipe import Recipe
from campaigns.trial import Trial

MERGEKIT = "application/yaml"


class TrialView(Trial):
    """A trial, and whether it keeps the campaign's constraints: against the best parent that is known now.

    `violations` says by how much each constraint is broken, in the spec's order and the objective's unit, 0 where it is
    kept. Both are None for a trial that is not complete.
    """

    feasible: bool | None
    violations: tuple[float, ...] | None


class TrialPage(Noun):
    """Trials by number. `next` is the `after` of the page that follows, None on the last."""

    items: tuple[TrialView, ...]
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
        known = known_limits(service, service.store.campaign(campaign_id))
        items = tuple(trial_view(trial, known) for trial in page)
        return TrialPage(items=items, next=page[-1].number if len(found) > size else None)

    @routes.get("/trials/{trial_id}", responses=documented(404))
    def trial(trial_id: str, service: ServiceOf) -> TrialView:
        """Return one trial with the outcome of each item."""
        found = service.store.trial(trial_id)
        return trial_view(found, known_limits(service, service.store.campaign(found.campaign_id)))

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


def known_limits(service: Service, campaign: Campaign) -> Limits:
    """Return the campaign's constraints with the best of its parents; only relative ones need the database."""
    constraints, objectives = campaign.spec.constraints, campaign.spec.objectives
    is_relative = any(constraint.is_relative for constraint in constraints)
    return limits(constraints, objectives, service.store.baselines(campaign.id) if is_relative else ())


def trial_view(trial: Trial, known: Limits) -> TrialView:
    """Return the trial with what it breaks of `known`."""
    violations = known.violations(trial)
    feasible = None if violations is None else not any(violations)
    return TrialView(**dict(trial), feasible=feasible, violations=violations)


def _mergekit(service: Service, trial: Trial) -> str:
    """Return mergekit's configuration; only rules need the names of tensors, and so the checkpoints on disk."""
    recipe, pool = trial.candidate.recipe, service.store.campaign(trial.campaign_id).pool
    names = service.pools.files(pool).template.merged_tensors if recipe.rules else ()
    return export(recipe, pool, names)
