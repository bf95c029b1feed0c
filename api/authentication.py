"""Bearer tokens: asked for wherever there is data, as soon as there is one."""

import re
import secrets
import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial

from anyio import CapacityLimiter
from pydantic import SecretStr
from sqlalchemy.exc import SQLAlchemyError
from starlette.datastructures import Headers
from starlette.types import ASGIApp, Receive, Scope, Send

from api.answering import in_time
from api.problems import ProblemResponse, problem
from api.rate_limit import Buckets, client_address, too_many
from campaigns.errors import NotReady
from campaigns.tokens import TokenScope, secret_digest
from storage import Store

KNOWN_SECONDS = 5.0
"""How long an answer of the database is gone by: a token that is revoked works no longer than this."""
FAILURES_PER_SECOND = 1.0
FAILURES_BURST = 20  # a dashboard whose token was revoked sends a handful of requests with it
LOOKUP_SECONDS = 2.0  # a database that hangs must not make everything hang, `/readyz` least of all
LOOKUP_THREADS = 4  # of their own: merges that are streamed may hold all the others
OPEN_PATHS = re.compile(r"/|/healthz|/favicon\.ico|/static/[^/]+|/campaigns/[^/]+")
"""Health, and the dashboard's pages: the same for everybody, they hold no data."""
SETTINGS_TOKEN = "--token"  # no token of the database can have this name
SCOPES = {
    "GET": TokenScope.READ,
    "HEAD": TokenScope.READ,
    "OPTIONS": TokenScope.READ,
    "POST": TokenScope.LAUNCH,
    "PUT": TokenScope.LAUNCH,
    "PATCH": TokenScope.LAUNCH,
    "DELETE": TokenScope.ADMIN,
}
"""What a route needs, by its method: looking, making and steering campaigns, destroying. Others need the most."""
QUESTIONS = re.compile(r"/api/models/[^/]+/[^/]+/paths-info/[^/]+")
"""What is asked by POST, as the hub's client does, and changes nothing."""


@dataclass(frozen=True)
class Caller:
    """Who sent a request, by the name of their token, and what they may do."""

    name: str
    scope: TokenScope


class Tokens:
    """The operator's own token and those of the database, whose answers are gone by for `KNOWN_SECONDS`.

    Raises `sqlalchemy.exc.SQLAlchemyError` when it is made without the database.
    """

    def __init__(self, store: Store, token: SecretStr | None, clock: Callable[[], float] = time.monotonic) -> None:
        self._store = store
        self._own_digest = None if token is None else secret_digest(token.get_secret_value().strip())
        self._clock = clock
        self._threads = CapacityLimiter(LOOKUP_THREADS)
        self._notes = ThreadPoolExecutor(1, thread_name_prefix="token-uses")
        self._last_note: Future[None] | None = None
        self._known: dict[str, tuple[Caller, float]] = {}
        self._are_demanded = (token is not None or store.has_tokens(), clock())

    async def are_demanded(self) -> bool:
        """Say whether a request needs a token: if there is, or ever was, one. Without the database, as before."""
        demanded, at = self._are_demanded
        if not demanded and self._clock() - at >= KNOWN_SECONDS:
            try:
                demanded = await in_time(LOOKUP_SECONDS, self._store.has_tokens, self._threads)
            except (SQLAlchemyError, TimeoutError):
                return False
            self._are_demanded = (demanded, self._clock())
        return demanded

    def is_known(self, digest: str) -> bool:
        """Say whether the token whose secret has this digest was valid when it was last looked at."""
        return self._is_own(digest) or digest in self._known

    async def caller(self, digest: str) -> Caller | None:
        """Return who shows the secret with this digest, None when no valid token has it.

        Raises `sqlalchemy.exc.SQLAlchemyError` or `TimeoutError` when the database must be asked and does not answer.
        """
        if self._is_own(digest):
            return Caller(SETTINGS_TOKEN, TokenScope.ADMIN)
        found, at = self._known.get(digest, (None, 0.0))
        if found is None or self._clock() - at >= KNOWN_SECONDS:
            found = await in_time(LOOKUP_SECONDS, partial(self._look_up, digest), self._threads)
            if found is None:
                self._known.pop(digest, None)
            else:
                self._known[digest] = (found, self._clock())
        return found

    def close(self) -> None:
        """Wait until the last use is written."""
        self._notes.shutdown()

    def _look_up(self, digest: str) -> Caller | None:
        token = self._store.valid_token(digest)
        if token is None:
            return None
        if self._last_note is None or self._last_note.done():
            # Nobody waits for this: writers queue up, and a disk that is full must not lock out who only looks.
            self._last_note = self._notes.submit(self._store.note_use, token)
        return Caller(token.name, token.scope)

    def _is_own(self, digest: str) -> bool:
        return self._own_digest is not None and secrets.compare_digest(digest, self._own_digest)


class BearerAuthentication:
    """Refuses requests without a token, or whose token is not for that. Health and the dashboard's empty pages stay
    open: a browser cannot send a token along when it opens a page; the page then asks for it and sends it to the API.

    The caller is left in the ASGI scope as `caller`. Tokens that were never seen valid are looked up `FAILURES_BURST`
    times for one address, then `FAILURES_PER_SECOND`.
    """

    def __init__(self, app: ASGIApp, tokens: Tokens) -> None:
        self._app = app
        self._tokens = tokens
        self._failures = Buckets(FAILURES_PER_SECOND, FAILURES_BURST)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass an authorised request on; answer 401, 403, 429 or 503 to another."""
        if scope["type"] != "http" or is_open(scope["method"], scope["path"]) or not await self._tokens.are_demanded():
            await self._app(scope, receive, send)
            return
        try:
            refusal = await self._refusal(scope)
        except (SQLAlchemyError, TimeoutError):
            refusal = problem(scope["path"], NotReady.status, "the database does not answer", NotReady)
        await (refusal or self._app)(scope, receive, send)

    async def _refusal(self, scope: Scope) -> ProblemResponse | None:
        path: str = scope["path"]
        needed = needed_scope(scope["method"], path)
        secret = bearer_secret(Headers(scope=scope))
        if secret is None:
            return _refused(path, 401, f"Send a token with scope {needed}: Authorization: Bearer TOKEN", "Bearer")
        digest = secret_digest(secret)
        if not self._tokens.is_known(digest):
            seconds = self._failures.take(client_address(scope))
            if seconds:
                return too_many(path, "too many wrong tokens came from your address", seconds)
        caller = await self._tokens.caller(digest)
        if caller is None:
            detail = f"The token is wrong, revoked or expired; send one with scope {needed}"
            return _refused(path, 401, detail, 'Bearer error="invalid_token"')
        if not caller.scope.includes(needed):
            detail = f"This needs a token with scope {needed}; that of {caller.name!r} has scope {caller.scope}"
            return _refused(path, 403, detail, f'Bearer error="insufficient_scope", scope="{needed}"')
        scope["caller"] = caller
        return None


def is_open(method: str, path: str) -> bool:
    """Whether `path` may be read without a token."""
    return method in ("GET", "HEAD") and OPEN_PATHS.fullmatch(path) is not None


def needed_scope(method: str, path: str) -> TokenScope:
    """Return the scope that requests with this method for this path need."""
    if method == "POST" and QUESTIONS.fullmatch(path):
        return TokenScope.READ
    return SCOPES.get(method, TokenScope.ADMIN)


def bearer_secret(headers: Headers) -> str | None:
    """Return the secret of the Authorization header, None without one: the query and cookies are never looked at."""
    scheme, _, given = headers.get("authorization", "").partition(" ")
    if scheme.lower() != "bearer" or not given.strip():
        return None
    return given.strip().encode("latin-1").decode("utf-8", "surrogateescape")  # Starlette reads headers as latin-1


def _refused(path: str, status: int, detail: str, challenge: str) -> ProblemResponse:
    refusal = problem(path, status, detail)
    refusal.headers["WWW-Authenticate"] = challenge
    return refusal
