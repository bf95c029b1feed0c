"""From a campaign and a patch to another campaign: the spec changed, what was measured taken along."""

import hashlib
import json
from collections.abc import Mapping
from typing import Any

from api.launching import check
from api.service import Service
from campaigns.campaign import Campaign
from campaigns.errors import FieldError, Gone, InvalidCheckpoint, InvalidSpec, field_error
from campaigns.pools import Checkpoint, Pool
from campaigns.spec import parse_spec
from storage import Patch

MAX_DEPTH = 20  # a spec has 6 levels


def create_fork(
    campaign_id: str, changes: Mapping[str, Any], service: Service, idempotency_key: str | None
) -> Campaign:
    """Create the campaign whose spec is that of another one with `changes`, or return the one that the same key made.

    The other one's results are imported, wherever their protocols are still equal. Raises `NotFound`, `Conflict` when
    the key was used for anything else, what `api.launching.check` raises, and `InvalidCheckpoint` when files of the
    pool have changed since the launch.
    """
    if _depth(changes) > MAX_DEPTH:
        raise InvalidSpec([field_error("body", f"{MAX_DEPTH} levels and more", "a spec is not nested as deep")])
    patch = Patch(sorted(changes), hashlib.sha256(json.dumps(changes, sort_keys=True).encode()).hexdigest())
    if idempotency_key is not None:
        earlier = service.store.fork_with_key(campaign_id, idempotency_key, patch)
        if earlier is not None:
            return earlier
    forked = service.store.campaign(campaign_id)
    spec, pool = check(_document(forked, changes, service), service)
    if spec.pool == forked.spec.pool and (changed := _changed(forked.pool, pool)):
        raise InvalidCheckpoint(changed)
    return service.store.fork_campaign(campaign_id, spec, pool, patch, idempotency_key)


def merge_patch(target: Any, patch: Any) -> Any:
    """Return `target` with a JSON merge patch (RFC 7396); an object of another `kind` is not merged, but replaced."""
    if not isinstance(patch, Mapping):
        return patch
    is_other_kind = isinstance(target, Mapping) and patch.get("kind", target.get("kind")) != target.get("kind")
    patched = {} if is_other_kind or not isinstance(target, Mapping) else dict(target)
    for name, value in patch.items():
        if value is None:
            patched.pop(name, None)
        else:
            patched[name] = merge_patch(patched.get(name), value)
    return patched


def _document(forked: Campaign, changes: Mapping[str, Any], service: Service) -> dict[str, Any]:
    """Return the patched spec as a document, its imports being those of the old one and the old one itself."""
    spec = parse_spec(merge_patch(forked.spec.model_dump(mode="json"), changes))
    document = spec.model_dump(mode="json")
    own = changes.get("warm_start")
    imports = list(spec.warm_start.import_from)
    if not (isinstance(own, Mapping) and "import_from" in own):
        imports = [each for each in imports if not _is_gone(each, service)]  # what it took over is its own by now
    document["warm_start"]["import_from"] = [*imports, *({forked.id} - {*imports})]
    return document


def _is_gone(campaign_id: str, service: Service) -> bool:
    try:
        service.store.campaign(campaign_id)
    except Gone:
        return True
    return False


def _changed(before: Pool, now: Pool) -> list[FieldError]:
    """Return an error for every checkpoint that is not what it was; both pools are of one spec."""
    pairs = [
        (f"pool.checkpoints.{i}", *pair) for i, pair in enumerate(zip(before.checkpoints, now.checkpoints, strict=True))
    ]
    if before.base is not None and now.base is not None:
        pairs.insert(0, ("pool.base", before.base, now.base))
    return [_changed_error(field, new) for field, old, new in pairs if _content(old) != _content(new)]


def _content(checkpoint: Checkpoint) -> tuple[str, str | None]:
    return checkpoint.digest, None if checkpoint.statistics is None else checkpoint.statistics.digest


def _changed_error(field: str, checkpoint: Checkpoint) -> FieldError:
    message = "its files have changed since the campaign was launched, so that none of its results holds"
    return field_error(f"{field}.path", checkpoint.path, message, "the files as they were, or a launch of its own")


def _depth(value: Any) -> int:
    """Return how deep objects and lists are nested, up to one more than is allowed."""
    deepest, level = 0, [value]
    while level and deepest <= MAX_DEPTH:
        deepest += 1
        level = [inner for each in level for inner in _members(each) if isinstance(inner, Mapping | list)]
    return deepest


def _members(value: Any) -> list[Any]:
    return [*value.values()] if isinstance(value, Mapping) else value
