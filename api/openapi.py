"""What the generated OpenAPI document lacks: the problem's schema, tokens, and what any request may be answered."""

import json
from typing import Any

from fastapi import FastAPI

from api.authentication import is_open, needed_scope
from api.body_limit import TOO_LONG, TOO_SLOW
from api.examples import problem_example
from api.problems import MEDIA_TYPE, Problem, documented
from api.rate_limit import STATUS as TOO_MANY
from api.rate_limit import UNLIMITED_PATHS
from campaigns.campaign_edit import CampaignEdit

UNEXPECTED = 500
GONE = 410
REFERENCE = "#/components/schemas/{model}"
RETRY_AFTER = {"description": "Seconds until the next request may come", "schema": {"type": "integer"}}


def complete_openapi(app: FastAPI) -> None:
    """Let `app.openapi` describe problems, and the token and scope that each operation needs where there are tokens."""
    generate = app.openapi

    def openapi() -> dict[str, Any]:
        if app.openapi_schema is None:
            app.openapi_schema = _completed(generate())
        return app.openapi_schema

    app.openapi = openapi  # type: ignore[method-assign]


def _completed(document: dict[str, Any]) -> dict[str, Any]:
    schemas = document["components"]["schemas"]
    for replaced in ("HTTPValidationError", "ValidationError"):
        schemas.pop(replaced, None)
    for name, noun in (("Problem", Problem), ("CampaignEdit", CampaignEdit)):
        schema = noun.model_json_schema(ref_template=REFERENCE)
        schemas |= schema.pop("$defs", {})
        schemas[name] = schema
    document["components"]["securitySchemes"] = {"token": {"type": "http", "scheme": "bearer"}}
    for path, operations in document["paths"].items():
        for method, operation in operations.items():
            _complete_operation(path, method.upper(), operation)
    return document


def _complete_operation(path: str, method: str, operation: dict[str, Any]) -> None:
    responses = operation["responses"]
    if "422" in responses:  # FastAPI describes its own errors here, which `api.problems` replaces
        responses["422"] = documented(422)[422]
    statuses = [UNEXPECTED]
    if "404" in responses and "{campaign_id}" in path:
        statuses.append(GONE)
    if not is_open(method, path):
        # Without a token, a service on loopback is open to this machine.
        operation["security"] = [{"token": [needed_scope(method, path)]}, {}]
        statuses += [401, 403, 503]
    if path not in UNLIMITED_PATHS:
        statuses.append(TOO_MANY)
    if "requestBody" in operation:
        statuses += [TOO_SLOW, TOO_LONG]
    for status, described in documented(*statuses).items():
        responses.setdefault(str(status), described)
    if TOO_MANY in statuses:
        responses[str(TOO_MANY)] |= {"headers": {"Retry-After": RETRY_AFTER}}
    for response in responses.values():
        answer = response.get("content", {}).get("application/json", {})
        if isinstance(answer.get("example"), str):
            answer["example"] = json.loads(answer["example"])
    for status, response in responses.items():
        example = problem_example(int(status), path) if MEDIA_TYPE in response.get("content", {}) else None
        if example is not None:
            content = response["content"][MEDIA_TYPE]
            responses[status] = response | {"content": {MEDIA_TYPE: content | {"example": example}}}
