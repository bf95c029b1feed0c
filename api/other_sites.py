"""Keeping other web sites out: a page open in the operator's browser reaches this machine's loopback, too."""

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Receive, Scope, Send

from api.authentication import Tokens
from api.problems import problem
from api.settings import is_loopback

SAFE_METHODS = ("GET", "HEAD", "OPTIONS")
OWN_SITES = ("same-origin", "none")
ANY_NAME_PATHS = ("/healthz",)  # asked by address, and holds nothing


class OtherSites:
    """Refuses changes that a browser sends for another site's page (request forgery), and, where no token protects the
    data, requests under a name that is not this machine's (DNS rebinding)."""

    def __init__(self, app: ASGIApp, tokens: Tokens) -> None:
        self._app = app
        self._tokens = tokens

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass the request on, or answer 403."""
        refusal = await self._refusal(scope) if scope["type"] == "http" else None
        if refusal is None:
            await self._app(scope, receive, send)
        else:
            await problem(scope["path"], 403, refusal)(scope, receive, send)

    async def _refusal(self, scope: Scope) -> str | None:
        headers = Headers(scope=scope)
        if scope["method"] not in SAFE_METHODS and headers.get("sec-fetch-site", "none") not in OWN_SITES:
            return "another site's page may not change anything here"
        is_this_machine = is_loopback(host_name(headers.get("host", "")))
        if is_this_machine or scope["path"] in ANY_NAME_PATHS or await self._tokens.are_demanded():
            return None
        return "without a token, the service answers to 127.0.0.1, ::1 and localhost only"


def host_name(host: str) -> str:
    """Return the name or address in a Host header, without port and brackets."""
    if host.startswith("["):
        return host[1:].partition("]")[0]
    return host.partition(":")[0].lower()
