"""Every error as application/problem+json (RFC 9457), with one entry in `errors` per field that is wrong."""

import logging
import re
from collections.abc import Sequence
from http import HTTPStatus
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from pydantic import Field
from starlette.exceptions import HTTPException
from starlette.types import Scope

from campaigns.errors import FieldError, InvalidInput, MergefrontError, field_error
from campaigns.noun import Noun

MEDIA_TYPE = "application/problem+json"

logger = logging.getLogger(__name__)


class Problem(Noun):
    """What went wrong. `type` is `about:blank` where the status says it all.

    `request_id` is there where only the service's log says more: it is what to look for.
    """

    type: str
    title: str
    status: int
    detail: str
    instance: str
    errors: tuple[FieldError, ...] = ()
    request_id: str | None = Field(None, exclude_if=lambda request_id: request_id is None)


class ProblemResponse(JSONResponse):
    """A problem document."""

    media_type = MEDIA_TYPE


def install(app: FastAPI) -> None:
    """Let every error of `app` answer with a problem."""
    app.add_exception_handler(MergefrontError, _mergefront_error)
    app.add_exception_handler(HTTPException, _http_error)
    app.add_exception_handler(RequestValidationError, _validation_error)
    app.add_exception_handler(Exception, _unexpected_error)


def problem(
    path: str,
    status: int,
    detail: str,
    kind: type[MergefrontError] | None = None,
    errors: Sequence[FieldError] = (),
) -> ProblemResponse:
    """Return the response for one problem with the request of `path`."""
    title = kind.title if kind else HTTPStatus(status).phrase
    document = Problem(
        type=f"urn:mergefront:problem:{_dashed(kind.__name__)}" if kind else "about:blank",
        title=title,
        status=status,
        detail=detail,
        instance=path,
        errors=tuple(errors),
    )
    return ProblemResponse(document.model_dump(mode="json"), status)


def documented(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """Return the `responses` of a route that may answer with these problems."""
    schema = {"schema": {"$ref": "#/components/schemas/Problem"}}
    return {s: {"description": HTTPStatus(s).phrase, "content": {MEDIA_TYPE: schema}} for s in statuses}


async def _mergefront_error(request: Request, error: Exception) -> ProblemResponse:
    assert isinstance(error, MergefrontError)
    if error.status >= HTTPStatus.INTERNAL_SERVER_ERROR and error.status != HTTPStatus.SERVICE_UNAVAILABLE:
        return await _unexpected_error(request, error)
    errors = error.errors if isinstance(error, InvalidInput) else ()
    return problem(request.url.path, error.status, str(error), type(error), errors)


async def _http_error(request: Request, error: Exception) -> ProblemResponse:
    assert isinstance(error, HTTPException)
    response = problem(request.url.path, error.status_code, str(error.detail))
    response.headers.update(error.headers or {})
    return response


async def _validation_error(request: Request, error: Exception) -> ProblemResponse:
    assert isinstance(error, RequestValidationError)
    errors = [
        field_error(
            ".".join(str(part) for part in found["loc"][1:]),
            found.get("input"),
            found["msg"],
            found.get("ctx", {}).get("expected"),
        )
        for found in error.errors()
    ]
    return problem(request.url.path, InvalidInput.status, "\n".join(map(str, errors)), InvalidInput, errors)


async def _unexpected_error(request: Request, error: Exception) -> ProblemResponse:
    logger.error("%s %s failed", request.method, request.url.path, exc_info=error)
    return unexpected(request.scope)


def unexpected(scope: Scope) -> ProblemResponse:
    """Return what a client is told of an error that nobody foresaw: where to look for more, and nothing of it."""
    status = HTTPStatus.INTERNAL_SERVER_ERROR
    document = Problem(
        type="about:blank",
        title=status.phrase,
        status=status,
        detail="Something broke; the service's log says what.",
        instance=scope["path"],
        request_id=scope.get("request_id"),
    )
    return ProblemResponse(document.model_dump(mode="json"), status)


def _dashed(name: str) -> str:
    return re.sub(r"(?<=[a-z])(?=[A-Z])", "-", name).lower()
