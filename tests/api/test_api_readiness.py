"""Health and readiness that mean it: neither waits for a database that does not answer."""

import dataclasses
import itertools
import socket
import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import anyio
import pytest
from sqlalchemy import text
from starlette.testclient import TestClient

from api import Settings, create_app
from api.authentication import KNOWN_SECONDS, Tokens
from storage import Store
from storage.database import Database

PROBLEM = "application/problem+json"
HERE = "http://127.0.0.1:8400"


@pytest.fixture
def silent_server() -> Iterator[int]:
    """The port of a server that takes connections and never says a word."""
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        server.listen()
        yield server.getsockname()[1]


@pytest.fixture
def closed_port() -> int:
    """A port that nobody listens on."""
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        port: int = server.getsockname()[1]
    return port


@contextmanager
def on_postgresql(client: TestClient, port: int) -> Iterator[None]:
    """Let the application look for its database on a port of this machine."""
    database = Database(f"postgresql+psycopg://nobody@127.0.0.1:{port}/nothing")
    app: Any = client.app
    app.state.service = dataclasses.replace(app.state.service, store=Store(database))
    yield
    database.close()


def refused(client: TestClient) -> str:
    """Return why the service is not ready."""
    response = client.get("/readyz")
    assert (response.status_code, response.headers["content-type"]) == (503, PROBLEM)
    assert client.get("/healthz").json() == {"status": "ok"}
    detail: str = response.json()["detail"]
    return detail


def test_a_database_that_is_gone(client: TestClient, worker, closed_port: int) -> None:
    assert client.get("/readyz").status_code == 200
    with on_postgresql(client, closed_port):
        assert refused(client) == "the database does not answer"


def test_a_database_that_never_answers(
    settings: Settings, worker, silent_server: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("api.health.DATABASE_SECONDS", 0.2)
    with TestClient(create_app(settings), HERE) as client, on_postgresql(client, silent_server):
        for _ in range(6):  # more often than threads may wait for it
            assert refused(client) == "the database did not answer within 0.2 seconds"
        assert client.get("/").status_code == 200


def test_a_database_that_is_locked(client: TestClient, worker, lock_database: Any, monkeypatch: Any) -> None:
    monkeypatch.setattr("api.health.DATABASE_SECONDS", 0.2)
    with lock_database(client):
        assert refused(client) == "the database did not answer within 0.2 seconds"


def test_a_schema_of_another_version(client: TestClient, worker, settings: Settings) -> None:
    database = Database(settings.database_url)
    with database.write() as session:
        session.execute(text("UPDATE alembic_version SET version_num = '0001'"))
    database.close()
    assert refused(client).startswith("the database's schema is at revision 0001, this Mergefront works with 00")


def test_no_worker(client: TestClient) -> None:
    assert refused(client) == "no worker was heard of in the last 60 seconds"


def test_a_write_that_takes_long_is_no_reason(client: TestClient, worker, settings: Settings) -> None:
    path = settings.database_url.removeprefix("sqlite:///")
    writer = sqlite3.connect(path, isolation_level=None)
    writer.execute("BEGIN IMMEDIATE")
    assert client.get("/readyz").json() == {"status": "ready", "workers": ["worker-1"]}
    writer.close()


def test_looking_for_tokens_ends_in_time_too(
    settings: Settings, store: Store, silent_server: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("api.authentication.LOOKUP_SECONDS", 0.2)
    moments = itertools.count(step=KNOWN_SECONDS)  # so that the database is asked every time
    tokens = Tokens(store, None, clock=lambda: next(moments))
    tokens._store = Store(Database(f"postgresql+psycopg://nobody@127.0.0.1:{silent_server}/nothing"))

    async def look() -> None:
        assert await tokens.are_demanded() is False
        with pytest.raises(TimeoutError):
            await tokens.caller("0" * 64)

    anyio.run(look)
    tokens.close()
