"""What every request leaves behind: a line of the log and its figures, under an id that the client is told."""

import logging
import re
import time
import uuid
from typing import Any
from urllib.parse import quote

from starlette.datastructures import Headers, MutableHeaders
from starlette.requests import ClientDisconnect
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from api.metrics import RequestFigures
from api.problems import unexpected
from campaigns.log_context import log_fields

HEADER = "X-Request-ID"
SANE_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
HUNG_UP = 499
"""The status, after nginx, of a request whose client was gone before it was answered."""

logger = logging.getLogger(__name__)


class RequestLog:
    """Gives each request an id, the caller's own where that is sane; answers 500 where nobody foresaw an error."""

    def __init__(self, app: ASGIApp, figures: RequestFigures) -> None:
        self._app = app
        self._figures = figures

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass the request on; then log and count it."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        request = _Request(scope, send)
        with log_fields(request_id=request.id):
            try:
                await self._app(scope, receive, request.send)
            except ClientDisconnect:
                pass
            except Exception as error:
                logger.error("%s failed", request.line, exc_info=error, extra=request.subjects)
                if request.status != HUNG_UP:
                    raise  # the answer has begun: the server can only end the connection
                await unexpected(scope)(scope, receive, request.send)
            finally:
                self._note(request)

    def _note(self, request: "_Request") -> None:
        seconds = time.perf_counter() - request.started
        self._figures.note(request.method, request.route, request.status, seconds)
        extra = {"status": request.status, "seconds": round(seconds, 6), "caller": request.caller, **request.subjects}
        logger.info("%s %d", request.line, request.status, extra=extra)


class _Request:
    """One request on its way."""

    def __init__(self, scope: Scope, send: Send) -> None:
        given = Headers(scope=scope).get(HEADER, "")
        self.id = given if SANE_ID.fullmatch(given) else uuid.uuid4().hex
        self.started = time.perf_counter()
        self.status = HUNG_UP
        self._scope = scope
        self._send = send
        scope["request_id"] = self.id

    async def send(self, message: Message) -> None:
        """Send on, with the id."""
        if message["type"] == "http.response.start":
            self.status = message["status"]
            MutableHeaders(scope=message)[HEADER] = self.id
        await self._send(message)

    @property
    def method(self) -> str:
        return str(self._scope["method"])

    @property
    def line(self) -> str:
        """Method and path. The query is left out: people put secrets there by mistake."""
        return f"{self.method} {quote(self._scope['path'])}"

    @property
    def route(self) -> str | None:
        """The template of the path, None where no route was reached."""
        return getattr(self._scope.get("route"), "path", None)

    @property
    def caller(self) -> str | None:
        """The name of the token that was shown."""
        return getattr(self._scope.get("caller"), "name", None)

    @property
    def subjects(self) -> dict[str, Any]:
        """Which campaign and trial the request is about, where its path says so."""
        parameters = self._scope.get("path_params", {})
        found = {name: parameters[name] for name in ("campaign_id", "trial_id") if name in parameters}
        if "trial_id" in found:
            found.setdefault("campaign_id", found["trial_id"].rpartition("-")[0])
        return found
