"""From a document to a campaign that can run: the spec checked in itself, against the workers, and on disk."""

from collections.abc import Mapping
from typing import Any

from api.service import Service
from campaigns.campaign import Campaign
from campaigns.errors import Conflict, FieldError, Gone, InvalidInput, InvalidSpec, NotFound, field_error
from campaigns.inventory import resolve
from campaigns.pools import Pool
from campaigns.spec import CampaignSpec, parse_spec
from merging.pool_report import inspect_pool
from search_spaces import build_space, user_points

CACHE = "cache"


def create(document: Mapping[str, Any], service: Service, idempotency_key: str | None) -> Campaign:
    """Create the campaign of a document, or return the one that the same key and spec created before.

    A key that is known is settled before anything is checked again: checkpoints and workers may be gone by now.
    Raises `Conflict` when the key was used with another spec, and whatever `check` raises.
    """
    earlier = None if idempotency_key is None else service.store.campaign_with_key(idempotency_key)
    if earlier is None:
        return service.store.create_campaign(*check(document, service), idempotency_key)
    if not completes(service.store.launched_spec(earlier.id), parse_spec(document)):
        raise Conflict(f"idempotency key {idempotency_key!r} was used before, with another spec")
    return earlier


def completes(completed: CampaignSpec, asked: CampaignSpec) -> bool:
    """Return whether the specs are equal but for directions, filled in where `asked` leaves them out."""
    if len(completed.objectives) != len(asked.objectives):
        return False
    pairs = zip(completed.objectives, asked.objectives, strict=True)
    filled = tuple(theirs.replace(direction=theirs.direction or ours.direction) for ours, theirs in pairs)
    return asked.replace(objectives=filled) == completed


def check(document: Mapping[str, Any], service: Service) -> tuple[CampaignSpec, Pool]:
    """Return the completed spec and its pool, without writing to the database. Reads every new checkpoint once.

    Raises `InvalidSpec` for fields that are wrong in themselves, that no space can be made of or that give points
    outside it; else an `InvalidInput` that names what no worker offers, every checkpoint that cannot be used and every
    campaign to import from that is not there, together; `NotReady` when
    no worker has said what it offers.
    """
    settings = service.settings
    spec = parse_spec(document)
    inventory = service.store.inventory(settings.worker_seen_seconds)
    failures: list[InvalidInput] = []
    try:
        spec = resolve(spec, inventory)
    except InvalidInput as error:
        failures.append(error)
    try:
        pool = inspect_pool(spec.pool, settings.model_roots, settings.hub_repositories, settings.home / CACHE)
    except InvalidInput as error:
        failures.append(error)
    if unknown := _unknown_campaigns(spec, service):
        failures.append(InvalidSpec(unknown))
    if failures:
        raise _together(failures)
    user_points(spec, build_space(spec, pool))
    return spec, pool


def _unknown_campaigns(spec: CampaignSpec, service: Service) -> list[FieldError]:
    """Return an error for every campaign to import from that is not there."""
    errors = []
    for index, campaign_id in enumerate(spec.warm_start.import_from):
        try:
            service.store.campaign(campaign_id)
        except NotFound as error:
            field = f"warm_start.import_from.{index}"
            message = "this campaign has been deleted" if isinstance(error, Gone) else "no such campaign"
            errors.append(field_error(field, campaign_id, message, "the id of a campaign of this service"))
    return errors


def _together(failures: list[InvalidInput]) -> InvalidInput:
    if len(failures) == 1:
        return failures[0]
    errors: list[FieldError] = [error for failure in failures for error in failure.errors]
    return InvalidSpec(errors)
