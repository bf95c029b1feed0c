"""The body of a request that launches or validates: a spec as JSON or YAML."""

import json
from collections.abc import Mapping
from typing import Any

import yaml
from anyio import to_thread
from fastapi import HTTPException, Request

from campaigns.errors import InvalidSpec, field_error

JSON_TYPES = ("", "application/json")
YAML_TYPES = ("application/yaml", "application/x-yaml", "text/yaml", "text/x-yaml")


class _PlainLoader(yaml.SafeLoader):
    """YAML without aliases, of which a few lines can stand for gigabytes."""

    def compose_node(self, parent: yaml.Node | None, index: int) -> yaml.Node | None:
        if self.check_event(yaml.AliasEvent):
            raise yaml.YAMLError("aliases (*name) are not allowed")
        return super().compose_node(parent, index)


async def spec_document(request: Request) -> Mapping[str, Any]:
    """Return the document of the request's body.

    Raises HTTP 415 for a type that is neither JSON nor YAML, 400 for text that is not what its type says, and
    `InvalidSpec` for a document that is no mapping.
    """
    content_type = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if content_type not in JSON_TYPES + YAML_TYPES:
        raise HTTPException(415, f"send a spec as application/json or application/yaml, not {content_type}")
    # On a thread: a megabyte of YAML takes seconds, in which nobody else would be answered.
    document = await to_thread.run_sync(_parse, await request.body(), content_type in YAML_TYPES)
    if not isinstance(document, dict) or not all(isinstance(name, str) for name in document):
        raise InvalidSpec([field_error("spec", document, "a spec is a mapping from field names to values")])
    return document


def _parse(body: bytes, is_yaml: bool) -> Any:
    try:
        return yaml.load(body, _PlainLoader) if is_yaml else json.loads(body)
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        kind = "YAML" if is_yaml else "JSON"
        raise HTTPException(400, f"the body is not {kind}: {str(error) or 'nested too deep'}") from None
