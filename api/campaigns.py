"""Routes of campaigns: launch, look, step."""

from collections.abc import Mapping
from typing import Annotated, Any

from fastapi import APIRouter, Depends, Header, Query, Response
from fastapi import Path as PathParameter

from api import examples
from api.campaign_views import CampaignPage, CampaignView, view, views
from api.launching import check, create
from api.problems import documented
from api.service import ServiceOf
from api.spec_body import spec_document
from campaigns.noun import Noun
from campaigns.pools import Pool
from campaigns.spec import CampaignSpec
from campaigns.states import CampaignStep

Document = Annotated[Mapping[str, Any], Depends(spec_document)]
IdempotencyKey = Annotated[str | None, Header(min_length=1, max_length=255)]
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

    @routes.post("", status_code=201, responses=documented(400, 409, 413, 415, 422, 503), openapi_extra=examples.SPEC)
    def launch(
        document: Document, service: ServiceOf, response: Response, idempotency_key: IdempotencyKey = None
    ) -> CampaignView:
        """Create a campaign. With an Idempotency-Key, a repeated request gives the first one's campaign."""
        campaign = create(document, service, idempotency_key)
        response.headers["Location"] = f"/v1/campaigns/{campaign.id}"
        return view(service.store, campaign)

    @routes.post("/validate", responses=documented(400, 413, 415, 422, 503), openapi_extra=examples.SPEC)
    def validate(document: Document, service: ServiceOf) -> Validation:
        """Check a spec as launching does, without creating anything."""
        spec, pool = check(document, service)
        return Validation(spec=spec, pool=pool)

    @routes.get("", responses=documented(404, 422))
    def campaigns(service: ServiceOf, limit: Limit = 50, before: str | None = None) -> CampaignPage:
        """Return the newest campaigns, or those made before the campaign `before`."""
        size = min(limit, service.settings.max_page)
        found = service.store.campaigns(size + 1, before)
        page = found[:size]
        return CampaignPage(items=tuple(views(service.store, page)), next=page[-1].id if len(found) > size else None)

    @routes.get("/{campaign_id}", responses=documented(404))
    def campaign(campaign_id: str, service: ServiceOf) -> CampaignView:
        """Return one campaign with its progress."""
        return view(service.store, service.store.campaign(campaign_id))

    for step in USER_STEPS:
        routes.add_api_route(
            f"/{{campaign_id}}/{step}", _stepper(step), methods=["POST"], responses=documented(404, 409), name=step
        )
    return routes


def _stepper(step: CampaignStep) -> Any:
    def take_step(campaign_id: str, service: ServiceOf) -> CampaignView:
        return view(service.store, service.store.step(campaign_id, step, reason=None))

    take_step.__doc__ = STEP_DESCRIPTIONS[step]
    return take_step


STEP_DESCRIPTIONS = {
    CampaignStep.PAUSE: "Start no more trials until the campaign is resumed; running ones end.",
    CampaignStep.RESUME: "Go on with a paused campaign.",
    CampaignStep.STOP: "End the search early: running trials end, the front is scored on holdout items.",
    CampaignStep.CANCEL: "End the campaign at once; what was told is kept.",
}
