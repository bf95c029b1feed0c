"""Routes of campaigns: launch, look, edit, step."""

from collections.abc import Mapping
from typing import Annotated, Any

from fastapi import APIRouter, Depends, Header, Query, Response
from fastapi import Path as PathParameter
from pydantic import AwareDatetime

from api import examples
from api.campaign_views import CampaignPage, CampaignView, view, views
from api.entity_tags import entity_tag, expected_versions, is_known
from api.json_body import json_object
from api.launching import check, create
from api.problems import documented
from api.service import Service, ServiceOf
from api.spec_body import spec_document
from campaigns.campaign import Campaign
from campaigns.campaign_edit import parse_edit
from campaigns.noun import Noun
from campaigns.pools import Pool
from campaigns.spec import MAX_NAME, CampaignSpec
from campaigns.states import CampaignState, CampaignStep
from storage import CampaignFilter

Document = Annotated[Mapping[str, Any], Depends(spec_document)]
IdempotencyKey = Annotated[str | None, Header(min_length=1, max_length=255)]
Changes = Annotated[Mapping[str, Any], Depends(json_object)]
IfMatch = Annotated[str | None, Header(description="ETag of the campaign as you know it: 412 if it has changed since")]
IfNoneMatch = Annotated[str | None, Header(description="ETag of the campaign as you know it: 304 if it still is so")]
States = Annotated[list[CampaignState], Query(alias="state", description="Several are an or")]
PartOfName = Annotated[str | None, Query(alias="name", max_length=MAX_NAME, description="In any case")]
Limit = Annotated[int, Query(ge=1)]
UserStep = Annotated[CampaignStep, PathParameter()]
USER_STEPS = (CampaignStep.PAUSE, CampaignStep.RESUME, CampaignStep.STOP, CampaignStep.CANCEL)


class Validation(Noun):
    """What a spec that can be launched comes to."""

    spec: CampaignSpec
    pool: Pool


def router() -> APIRouter:
    """Return the routes."""
    routes = APIRouter(prefix="/v1/campaigns", tags=["campaigns"])

    @routes.post(
        "",
        status_code=201,
        responses=examples.LAUNCHED | documented(400, 409, 413, 415, 422, 503),
        openapi_extra=examples.SPEC,
    )
    def launch(
        document: Document, service: ServiceOf, response: Response, idempotency_key: IdempotencyKey = None
    ) -> CampaignView:
        """Create a campaign. With an Idempotency-Key, a repeated request gives the first one's campaign."""
        campaign = create(document, service, idempotency_key)
        response.headers["Location"] = f"/v1/campaigns/{campaign.id}"
        return _tagged(service, campaign, response)

    @routes.post("/validate", responses=documented(400, 413, 415, 422, 503), openapi_extra=examples.SPEC)
    def validate(document: Document, service: ServiceOf) -> Validation:
        """Check a spec as launching does, without creating anything."""
        spec, pool = check(document, service)
        return Validation(spec=spec, pool=pool)

    @routes.get("", responses=examples.CAMPAIGN_PAGE | documented(404, 422))
    def campaigns(  # noqa: PLR0913  one argument per filter
        service: ServiceOf,
        limit: Limit = 50,
        before: str | None = None,
        states: States = [],  # noqa: B006  FastAPI copies it
        name: PartOfName = None,
        created_after: AwareDatetime | None = None,
        created_before: AwareDatetime | None = None,
    ) -> CampaignPage:
        """Return the newest campaigns that the filters let through, or those made before the campaign `before`."""
        size = min(limit, service.settings.max_page)
        wanted = CampaignFilter(tuple(states), name, created_after, created_before)
        found = service.store.campaigns(size + 1, before, wanted)
        page = found[:size]
        return CampaignPage(items=tuple(views(service.store, page)), next=page[-1].id if len(found) > size else None)

    @routes.get("/{campaign_id}", response_model=CampaignView, responses=examples.CAMPAIGN_OR_304 | documented(404))
    def campaign(
        campaign_id: str, service: ServiceOf, response: Response, if_none_match: IfNoneMatch = None
    ) -> CampaignView | Response:
        """Return one campaign with its progress. Its ETag changes with every change, the seconds in it left aside."""
        found = service.store.campaign(campaign_id)
        if is_known(if_none_match, entity_tag(found)):
            return Response(status_code=304, headers={"ETag": entity_tag(found)})
        return _tagged(service, found, response)

    @routes.patch(
        "/{campaign_id}",
        responses=examples.CAMPAIGN | documented(400, 404, 412, 413, 415, 422),
        openapi_extra=examples.EDIT,
    )
    def edit(
        campaign_id: str, changes: Changes, service: ServiceOf, response: Response, if_match: IfMatch = None
    ) -> CampaignView:
        """Change name or notes. All else is locked since the launch: a fork changes it."""
        edited = service.store.edit_campaign(campaign_id, parse_edit(changes), expected_versions(if_match))
        return _tagged(service, edited, response)

    for step in USER_STEPS:
        routes.add_api_route(
            f"/{{campaign_id}}/{step}",
            _stepper(step),
            methods=["POST"],
            responses=examples.CAMPAIGN | documented(404, 409, 412),
            name=step,
        )
    return routes


def _stepper(step: CampaignStep) -> Any:
    def take_step(campaign_id: str, service: ServiceOf, response: Response, if_match: IfMatch = None) -> CampaignView:
        moved = service.store.step(campaign_id, step, expected=expected_versions(if_match))
        return _tagged(service, moved, response)

    take_step.__doc__ = STEP_DESCRIPTIONS[step]
    return take_step


def _tagged(service: Service, campaign: Campaign, response: Response) -> CampaignView:
    """Return the campaign as it is shown, its tag in the response's headers."""
    response.headers["ETag"] = entity_tag(campaign)
    return view(service.store, campaign)


STEP_DESCRIPTIONS = {
    CampaignStep.PAUSE: "Start no more trials until the campaign is resumed; running ones end.",
    CampaignStep.RESUME: "Go on with a paused campaign.",
    CampaignStep.STOP: "End the search early: running trials end, the front is scored on holdout items.",
    CampaignStep.CANCEL: "End the campaign at once; what was told is kept.",
}
