"""The body of a request that changes a few fields: one JSON object, read by hand so that every error is a problem."""

import json
from collections.abc import Mapping
from typing import Any

from fastapi import HTTPException, Request

from campaigns.errors import InvalidInput, field_error

JSON_TYPES = ("", "application/json", "application/merge-patch+json")


async def json_object(request: Request) -> Mapping[str, Any]:
    """Return the object. Raises HTTP 415 for another type, 400 for text that is no JSON, `InvalidInput` for a list."""
    content_type = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if content_type not in JSON_TYPES:
        raise HTTPException(415, f"send the changes as application/json, not {content_type}")
    try:
        document = json.loads(await request.body())
    except (ValueError, RecursionError) as error:
        raise HTTPException(400, f"the body is not JSON: {str(error) or 'nested too deep'}") from None
    if not isinstance(document, dict):
        raise InvalidInput([field_error("body", document, "changes are an object of field names and values")])
    return document
