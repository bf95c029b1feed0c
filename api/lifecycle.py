"""Routes of a campaign's life beyond its steps: forking it, queueing points, deleting it."""

from collections.abc import Mapping
from typing import Annotated, Any

from fastapi import APIRouter, Depends, Header, Query, Response
from pydantic import Field, ValidationError

from api import examples
from api.campaign_views import CampaignView, view
from api.entity_tags import entity_tag, expected_versions
from api.forking import create_fork
from api.json_body import json_object
from api.problems import documented
from api.service import ServiceOf
from api.trials import TrialView, known_limits, trial_view
from campaigns.errors import IllegalTransition, InvalidInput, Unconfirmed, from_validation
from campaigns.noun import Noun
from campaigns.spec import MAX_NAME, MAX_POINTS, RawValue
from search_spaces import build_space, first_candidates, point_candidates

Document = Annotated[Mapping[str, Any], Depends(json_object)]
IdempotencyKey = Annotated[str | None, Header(min_length=1, max_length=255)]
IfMatch = Annotated[str | None, Header(description="ETag of the campaign as you know it: 412 if it has changed since")]
Confirm = Annotated[
    str | None, Query(max_length=MAX_NAME, description="The campaign's id or name, to say that you mean it")
]


class Points(Noun):
    """Points of the campaign's space, each with every coordinate by name in raw units, as in `warm_start.points`."""

    points: tuple[dict[str, RawValue], ...] = Field(min_length=1, max_length=MAX_POINTS)


class QueuedPoints(Noun):
    """The trial of each point, in order. Only `created` of them are new: the others' recipes were known."""

    items: tuple[TrialView, ...]
    created: int


class Deleted(Noun):
    """What was deleted. `evaluations` counts trials with a result and `search_item_evaluations` their items."""

    id: str
    name: str
    trials: int
    evaluations: int
    search_item_evaluations: int


def router() -> APIRouter:
    """Return the routes."""
    routes = APIRouter(prefix="/v1/campaigns/{campaign_id}", tags=["campaigns"])

    @routes.post(
        "/fork",
        status_code=201,
        responses=examples.LAUNCHED | documented(400, 404, 409, 413, 415, 422, 503),
        openapi_extra=examples.FORK,
    )
    def fork(
        campaign_id: str,
        changes: Document,
        service: ServiceOf,
        response: Response,
        idempotency_key: IdempotencyKey = None,
    ) -> CampaignView:
        """Create a campaign whose spec is this one's with a JSON merge patch, and which imports this one's results."""
        made = create_fork(campaign_id, changes, service, idempotency_key)
        response.headers["Location"] = f"/v1/campaigns/{made.id}"
        response.headers["ETag"] = entity_tag(made)
        return view(service.store, made)

    @routes.post(
        "/points",
        status_code=201,
        responses=examples.POINTS_QUEUED | documented(400, 404, 409, 413, 415, 422),
        openapi_extra=examples.POINTS,
    )
    def queue_points(campaign_id: str, document: Document, service: ServiceOf, response: Response) -> QueuedPoints:
        """Queue points of your own, evaluated before new candidates and beside the budget; 200 if all were known."""
        wanted = _points(document)
        campaign = service.store.campaign(campaign_id)
        space = build_space(campaign.spec, campaign.pool)
        points = point_candidates(wanted.points, space, "points")
        baselines = first_candidates(campaign.spec, campaign.pool, space)
        trials, created = service.store.queue_points(campaign_id, baselines, points)
        limits = known_limits(service, campaign)
        if not created:
            response.status_code = 200
        return QueuedPoints(items=tuple(trial_view(trial, limits) for trial in trials), created=created)

    @routes.delete("", responses=examples.DELETED | documented(404, 409, 412, 422))
    def delete(campaign_id: str, service: ServiceOf, confirm: Confirm = None, if_match: IfMatch = None) -> Deleted:
        """Delete a campaign that is over, with its trials, for good; its id answers 410 from then on."""
        campaign = view(service.store, service.store.campaign(campaign_id))
        if not campaign.state.is_final:
            raise IllegalTransition(f"a {campaign.state} campaign cannot be deleted; cancel it first")
        lost = Deleted(
            id=campaign.id,
            name=campaign.spec.name,
            trials=sum(campaign.trial_counts.values()),
            evaluations=campaign.progress.evaluations_done,
            search_item_evaluations=campaign.progress.search_item_evaluations,
        )
        if confirm not in (lost.id, lost.name):
            raise Unconfirmed(
                f"deleting campaign {lost.id} ({lost.name!r}) loses its {lost.trials} trials with {lost.evaluations} "
                f"evaluations of {lost.search_item_evaluations} search items, for good; send confirm={lost.id} to do it"
            )
        service.store.delete_campaign(campaign_id, expected_versions(if_match))
        return lost

    return routes


def _points(document: Mapping[str, Any]) -> Points:
    try:
        return Points.model_validate(document)
    except ValidationError as error:
        raise from_validation(error, kind=InvalidInput) from None
