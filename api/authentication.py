"""Bearer tokens: asked for wherever there is data."""

import secrets

from pydantic import SecretStr
from starlette.datastructures import Headers
from starlette.types import ASGIApp, Receive, Scope, Send

from api.problems import problem

OPEN_PATHS = ("/", "/healthz", "/favicon.ico")
OPEN_FOLDERS = ("/static/", "/campaigns/")  # the dashboard's pages: the same for everybody, they hold no data


class BearerAuthentication:
    """Refuses requests without the token. Health and the dashboard's empty pages stay open: a browser cannot send a
    token along when it opens a page; the page then asks for it and sends it to the API."""

    def __init__(self, app: ASGIApp, token: SecretStr) -> None:
        self._app = app
        self._expected = token.get_secret_value().encode()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass an authorised request on, answer 401 to another."""
        if scope["type"] != "http" or is_open(scope["path"]) or self._is_authorized(scope):
            await self._app(scope, receive, send)
            return
        refusal = problem(scope["path"], 401, "Send the service's token: Authorization: Bearer TOKEN")
        refusal.headers["WWW-Authenticate"] = "Bearer"
        await refusal(scope, receive, send)

    def _is_authorized(self, scope: Scope) -> bool:
        scheme, _, given = Headers(scope=scope).get("authorization", "").partition(" ")
        return scheme.lower() == "bearer" and secrets.compare_digest(given.strip().encode(), self._expected)


def is_open(path: str) -> bool:
    """Whether `path` may be read without a token."""
    return path in OPEN_PATHS or path.startswith(OPEN_FOLDERS)
