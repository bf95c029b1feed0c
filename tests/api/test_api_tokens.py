"""Tokens of the database: demanded, checked by scope for every route, forgotten soon, and never told to anybody."""

import json
import logging
import re
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import httpx
import pytest
from fastapi.routing import APIRoute
from starlette.responses import PlainTextResponse
from starlette.routing import Route
from starlette.testclient import TestClient

from api import Settings, create_app, security_headers
from api.authentication import KNOWN_SECONDS, SCOPES, BearerAuthentication, Tokens, is_open, needed_scope
from campaigns.inventory import Worker
from campaigns.tokens import Token, TokenScope, new_secret, secret_digest
from storage import Store

PROBLEM = "application/problem+json"
HERE = "http://127.0.0.1:8400"
Spec = dict[str, Any]
Add = Callable[..., str]


@pytest.fixture
def add(store: Store) -> Add:
    """Add a token and return its secret."""

    def add(scope: str, name: str | None = None, lasts: timedelta | None = None) -> str:
        at, secret = datetime.now(UTC), new_secret()
        expires_at = None if lasts is None else at + lasts
        token = Token(name=name or scope, scope=TokenScope(scope), created_at=at, expires_at=expires_at)
        store.add_token(token, secret_digest(secret))
        return secret

    return add


@pytest.fixture
def secrets_of(add: Add) -> dict[str, str]:
    """The secrets of three tokens by their scope."""
    return {scope: add(scope) for scope in TokenScope}


@pytest.fixture
def guarded(settings: Settings, secrets_of: dict[str, str]) -> Iterator[TestClient]:
    with TestClient(create_app(settings), HERE, raise_server_exceptions=False) as client:
        yield client


class Clock:
    """A clock that only the test moves."""

    now = 0.0

    def __call__(self) -> float:
        return self.now


def bearer(secret: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {secret}"}


def routes_of(client: TestClient) -> list[tuple[str, str]]:
    """Every method and path that the application answers to."""
    found = []
    pending = list(client.app.routes)  # type: ignore[attr-defined]
    while pending:
        route = pending.pop()
        nested = getattr(route, "original_router", None)
        if nested is not None:
            prefix = route.include_context.prefix
            found += [(method, prefix + r.path) for r in nested.routes for method in getattr(r, "methods", ())]
        elif isinstance(route, APIRoute | Route):
            found += [(method, route.path) for method in route.methods or ()]
        else:
            raise AssertionError(f"{route} is of a kind that this test does not know")
    return sorted(found)


def test_every_route_has_a_rule_and_keeps_it(guarded: TestClient, secrets_of: dict[str, str], store: Store) -> None:
    routes = routes_of(guarded)
    assert ("POST", "/v1/campaigns/{campaign_id}/cancel") in routes
    assert ("GET", "/openapi.json") in routes
    order = list(TokenScope)
    gate = TestClient(BearerAuthentication(PlainTextResponse("let in"), Tokens(store, None)))
    for method, template in routes:
        path = re.sub(r"\{[^}]*\}", "nosuchid", template)
        if is_open(method, path):
            continue
        assert method in SCOPES, f"{method} {template} has no rule: see api/authentication.py"
        needed = needed_scope(method, path)
        assert guarded.request(method, path).status_code == 401
        for scope, secret in secrets_of.items():
            is_enough = order.index(TokenScope(scope)) >= order.index(needed)
            # Not all of the application: some answers, such as events, never end.
            app = gate if is_enough else guarded
            status = app.request(method, path, headers=bearer(secret)).status_code
            assert status == (200 if is_enough else 403), (method, path, scope)


@pytest.mark.parametrize(
    ("method", "path", "needed"),
    [
        ("GET", "/v1/campaigns", "read"),
        ("POST", "/v1/campaigns", "launch"),
        ("POST", "/v1/campaigns/x/stop", "launch"),
        ("PATCH", "/v1/campaigns/x", "launch"),
        ("DELETE", "/v1/campaigns/x", "admin"),
        ("PURGE", "/v1/campaigns", "admin"),
        ("POST", "/api/models/x/best/paths-info/main", "read"),
        ("POST", "/api/models/x/best/paths-info/main/", "launch"),
        ("DELETE", "/api/models/x/best/paths-info/main", "admin"),
    ],
)
def test_too_small_a_scope_is_told_what_is_needed(
    guarded: TestClient, secrets_of: dict[str, str], method: str, path: str, needed: str
) -> None:
    order = list(TokenScope)
    for scope in order[: order.index(TokenScope(needed))]:
        response = guarded.request(method, path, headers=bearer(secrets_of[scope]))
        assert (response.status_code, response.headers["content-type"]) == (403, PROBLEM)
        assert response.headers["www-authenticate"] == f'Bearer error="insufficient_scope", scope="{needed}"'
        assert f"scope {needed}" in response.json()["detail"]
        assert f"'{scope}'" in response.json()["detail"]
    assert guarded.request(method, path, headers=bearer(secrets_of[needed])).status_code not in (401, 403)
    missing = guarded.request(method, path)
    assert (missing.status_code, missing.headers["www-authenticate"]) == (401, "Bearer")
    assert f"scope {needed}" in missing.json()["detail"]


@pytest.mark.parametrize(
    "path", ["/campaigns/x/y", "/static/", "/static/a/b", "/healthz/", "/campaigns/", "/favicon.ico/x"]
)
def test_only_the_pages_are_open(guarded: TestClient, path: str) -> None:
    assert guarded.get(path).status_code == 401
    assert guarded.post("/campaigns/x").status_code == 401


@pytest.mark.parametrize(
    "path", ["/campaigns/..%2f..%2fv1%2fcampaigns", "/static/..%2fv1%2fcampaigns", "/static/%2e%2e/v1/campaigns"]
)
def test_no_way_leads_around_the_token(guarded: TestClient, path: str) -> None:
    assert guarded.get(path).status_code in (401, 404)


def test_the_pages_are_open_and_read_with_a_read_token(
    guarded: TestClient, secrets_of: dict[str, str], worker: Worker, spec: Spec
) -> None:
    made = guarded.post("/v1/campaigns", json=spec, headers=bearer(secrets_of["launch"])).json()
    for path in ("/", f"/campaigns/{made['id']}", "/static/api.js"):
        assert guarded.get(path).status_code == 200
    listed = guarded.get("/v1/campaigns", headers=bearer(secrets_of["read"])).json()
    assert [campaign["id"] for campaign in listed["items"]] == [made["id"]]
    for name in ("", "/trials", "/front", "/hypervolume"):
        assert guarded.get(f"/v1/campaigns/{made['id']}{name}", headers=bearer(secrets_of["read"])).status_code == 200


def test_the_settings_token_is_an_admin_beside_those_of_the_database(
    settings: Settings, secrets_of: dict[str, str]
) -> None:
    with TestClient(create_app(settings.replace(token="gehéim ")), HERE) as client:
        for secret in ("gehéim".encode(), secrets_of["admin"].encode()):
            response = client.delete("/v1/campaigns/x", headers={"Authorization": b"Bearer " + secret})
            assert response.status_code not in (401, 403)


def test_the_first_token_closes_the_service_and_none_opens_it_again(settings: Settings, store: Store, add: Add) -> None:
    import anyio

    clock = Clock()
    tokens = Tokens(store, None, clock)

    async def demanded() -> bool:
        return await tokens.are_demanded()

    assert not anyio.run(demanded)
    add("read")
    assert not anyio.run(demanded)
    clock.now += KNOWN_SECONDS
    assert anyio.run(demanded)
    store.revoke_token("read")
    clock.now += KNOWN_SECONDS
    assert anyio.run(demanded)
    with TestClient(create_app(settings), HERE) as client:
        assert client.get("/v1/campaigns").status_code == 401


def test_a_revoked_or_expired_token_works_no_longer_than_it_is_known(store: Store, add: Add) -> None:
    import anyio

    clock = Clock()
    tokens = Tokens(store, None, clock)
    digests = [secret_digest(add("read")), secret_digest(add("launch"))]

    def names() -> list[str | None]:
        async def callers() -> list[str | None]:
            found = [await tokens.caller(digest) for digest in digests]
            return [caller.name if caller else None for caller in found]

        return anyio.run(callers)

    assert names() == ["read", "launch"]
    store.revoke_token("read")
    assert names() == ["read", "launch"]
    clock.now += KNOWN_SECONDS
    assert names() == [None, "launch"]
    assert not tokens.is_known(digests[0])
    assert tokens.is_known(digests[1])
    assert KNOWN_SECONDS <= 5  # as docs/security.md and `mergefront token revoke` say


@pytest.mark.parametrize("lasts", [timedelta(0), timedelta(days=-1)])
def test_an_expired_token_is_refused(settings: Settings, add: Add, lasts: timedelta) -> None:
    secret = add("admin", lasts=lasts)
    with TestClient(create_app(settings), HERE) as client:
        response = client.get("/v1/campaigns", headers=bearer(secret))
    assert (response.status_code, response.headers["www-authenticate"]) == (401, 'Bearer error="invalid_token"')


def test_requests_leave_the_time_of_the_last_use(settings: Settings, store: Store, add: Add) -> None:
    secret = add("read")
    with TestClient(create_app(settings), HERE) as client:
        for _ in range(3):
            assert client.get("/v1/campaigns", headers=bearer(secret)).status_code == 200
    (token,) = store.tokens()
    assert token.last_used_at is not None
    assert token.last_used_at >= token.created_at


def test_without_its_database_a_guarded_service_says_so(settings: Settings, add: Add) -> None:
    secret = add("read")
    file = Path(settings.database_url.removeprefix("sqlite:///"))
    with TestClient(create_app(settings), HERE, raise_server_exceptions=False) as client:
        client.app.state.service.store.close()  # type: ignore[attr-defined]
        for path in file.parent.glob(f"{file.name}*"):
            path.unlink()
        file.mkdir()
        response = client.get("/v1/campaigns", headers=bearer(secret))
        assert (response.status_code, response.headers["content-type"]) == (503, PROBLEM)
        assert client.get("/v1/campaigns").status_code == 401
        assert client.get("/healthz").status_code == 200


@pytest.mark.parametrize("place", ["query", "cookie", "basic", "path"])
def test_a_token_counts_in_its_header_only(guarded: TestClient, secrets_of: dict[str, str], place: str) -> None:
    secret = secrets_of["admin"]
    sent: dict[str, Any] = {
        "query": {"params": {"token": secret, "access_token": secret}},
        "cookie": {"headers": {"Cookie": f"token={secret}; Authorization=Bearer {secret}"}},
        "basic": {"auth": ("token", secret)},
        "path": {},
    }[place]
    path = f"/v1/campaigns/{secret}" if place == "path" else "/v1/campaigns"
    assert guarded.get(path, **sent).status_code == 401


def test_no_secret_is_told_to_anybody(
    guarded: TestClient,
    secrets_of: dict[str, str],
    settings: Settings,
    store: Store,
    worker: Worker,
    spec: Spec,
    caplog: pytest.LogCaptureFixture,
    capfd: pytest.CaptureFixture[str],
) -> None:
    caplog.set_level(logging.DEBUG)
    logging.getLogger("httpx2").setLevel(logging.WARNING)  # the test's own client names the addresses it asks

    @guarded.app.get("/v1/broken")  # type: ignore[attr-defined, untyped-decorator]
    def broken() -> None:
        raise RuntimeError("as it may happen")

    told = []
    for secret in [*secrets_of.values(), wrong := new_secret()]:
        headers = bearer(secret)
        for path in ("/v1/campaigns", "/v1/campaigns?limit=0", "/v1/nothing", "/v1/broken", "/openapi.json"):
            told.append(guarded.get(path, headers=headers))
        told.append(guarded.post("/v1/campaigns", json=spec | {"seed": "x"}, headers=headers))
        told.append(guarded.post("/v1/campaigns", json=spec, headers=headers))
        told.append(guarded.get("/v1/campaigns", params={"token": secret, "limit": 0}))
        told.append(guarded.get("/v1/campaigns", headers={"Authorization": secret}))
    assert {response.status_code for response in told} >= {200, 201, 401, 403, 404, 422, 500}
    told_texts = [response.text + str(dict(response.headers)) for response in told]
    events = json.dumps([event.model_dump(mode="json") for event in store.events(None)])
    assert "campaign" in events
    logs = caplog.text + "".join(capfd.readouterr())
    assert "/v1/broken" in logs
    app_settings = repr(guarded.app.state.service.settings)  # type: ignore[attr-defined]
    for secret in (*secrets_of.values(), wrong):
        for text in (*told_texts, events, logs, app_settings, repr(store.tokens())):
            assert secret not in text


def test_a_real_server_logs_no_secret(
    served: httpx.Client, add: Add, capfd: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    secret = add("read")
    assert served.get("/v1/campaigns", headers=bearer(secret)).status_code == 200
    assert served.get("/v1/campaigns", params={"token": secret, "limit": 0}).status_code in (401, 422)
    assert secret not in caplog.text + "".join(capfd.readouterr())


def test_the_policy_names_no_other_site() -> None:
    assert not re.search(r"https?:|\*", security_headers.CONTENT_SECURITY_POLICY)
