"""Routes of trials: the list of a campaign's, and one with its recipe."""

from typing import Annotated, Any, Literal

from fastapi import APIRouter, Query, Response

from api import examples
from api.problems import documented
from api.service import Service, ServiceOf
from api.trial_cursors import cursor_of, parse_sort, place_of
from campaigns.campaign import Campaign
from campaigns.constraints import Limits, limits
from campaigns.errors import InvalidInput, field_error
from campaigns.mergekit import export
from campaigns.noun import Noun
from campaigns.recipe import Recipe
from campaigns.states import TrialState
from campaigns.trial import Kind, Trial
from storage.trial_listing import NUMBER, TrialListing, TrialPlace

MERGEKIT = "application/yaml"
MAX_SORT = 300
MAX_CURSOR = 1000
SORT_DESCRIPTION = (
    "number, told (the order of results), macro (the weighted mean of the objectives) or an objective's name, by "
    "values on the search items; -, as in -macro, turns the order round"
)


class TrialView(Trial):
    """A trial, and whether it keeps the campaign's constraints: against the best parent that is known now.

    `violations` says by how much each constraint is broken, in the spec's order and the objective's unit, 0 where it is
    kept. Both are None for a trial that is not complete.
    """

    feasible: bool | None
    violations: tuple[float, ...] | None


class TrialPage(Noun):
    """Trials in the order asked for. `next_cursor` is the `cursor` of the page that follows, None on the last.

    `next` is the `after` of that page, None on the last and in any order but that by number.
    """

    items: tuple[TrialView, ...]
    next: int | None
    next_cursor: str | None


def router() -> APIRouter:
    """Return the routes."""
    routes = APIRouter(prefix="/v1", tags=["trials"])

    @routes.get("/campaigns/{campaign_id}/trials", responses=examples.TRIAL_PAGE | documented(404, 422))
    def trials(  # noqa: PLR0913  one argument per filter
        campaign_id: str,
        service: ServiceOf,
        limit: Annotated[int, Query(ge=1)] = 100,
        sort: Annotated[str, Query(max_length=MAX_SORT, description=SORT_DESCRIPTION)] = NUMBER,
        states: Annotated[list[TrialState], Query(alias="state", description="Several are an or")] = [],  # noqa: B006
        kinds: Annotated[list[Kind], Query(alias="kind", description="Several are an or")] = [],  # noqa: B006
        cursor: Annotated[str | None, Query(max_length=MAX_CURSOR, description="`next_cursor` of a page")] = None,
        after: Annotated[int, Query(ge=-1, lt=2**31, description="Only higher numbers, where sort=number")] = -1,
    ) -> TrialPage:
        """Return the trials that the filters let through, without outcomes, page by page."""
        campaign = service.store.campaign(campaign_id)
        size = min(limit, service.settings.max_page)
        name, descending = parse_sort(sort, campaign.spec.objectives)
        place = _place(sort, cursor, after)
        listing = TrialListing(name, descending, tuple(states), tuple(kinds), place)
        found = service.store.trial_page(campaign_id, listing, size + 1)
        page, is_last = found[:size], len(found) <= size
        known = known_limits(service, campaign)
        return TrialPage(
            items=tuple(trial_view(listed.trial, known) for listed in page),
            next=None if is_last or sort != NUMBER else page[-1].trial.number,
            next_cursor=None if is_last else cursor_of(sort, page[-1].place),
        )

    @routes.get("/trials/{trial_id}", responses=examples.TRIAL | documented(404))
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


def _place(sort: str, cursor: str | None, after: int) -> TrialPlace | None:
    """Return where the page begins. `after` is the older way to say it, for trials by number alone."""
    if after != -1 and (cursor is not None or sort != NUMBER):
        message = "goes with sort=number and without a cursor"
        raise InvalidInput([field_error("after", after, message, "-1, or cursor in its place")])
    if cursor is not None:
        return place_of(cursor, sort)
    return None if after == -1 else TrialPlace(after, after)


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
