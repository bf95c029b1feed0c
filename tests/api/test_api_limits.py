"""Limits: requests per token and address, wrong tokens, bodies that are long or slow."""

import socket
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from datetime import UTC, datetime

import httpx
import pytest
import uvicorn
from starlette.testclient import TestClient

from api import Settings, create_app, rate_limit
from api.authentication import FAILURES_BURST
from api.rate_limit import Buckets, client_address
from campaigns.inventory import Worker
from campaigns.tokens import Token, TokenScope, new_secret, secret_digest
from storage import Store

PROBLEM = "application/problem+json"
HERE = "http://127.0.0.1:8400"
SECONDS = 60  # what a test waits before it gives up


class Clock:
    """A clock that only the test moves."""

    now = 0.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def secrets_of(store: Store) -> dict[str, str]:
    """The secrets of two tokens by their names."""
    found = {name: new_secret() for name in ("a", "b")}
    for name, secret in found.items():
        token = Token(name=name, scope=TokenScope.LAUNCH, created_at=datetime.now(UTC))
        store.add_token(token, secret_digest(secret))
    return found


@contextmanager
def serving(settings: Settings) -> Iterator[tuple[str, int]]:
    """Serve on a free port of this machine."""
    server = uvicorn.Server(
        uvicorn.Config(create_app(settings), port=0, log_level="error", timeout_graceful_shutdown=1)
    )
    thread = threading.Thread(target=server.run)
    thread.start()
    while not server.started:
        assert thread.is_alive()
        thread.join(0.02)
    yield server.servers[0].sockets[0].getsockname()[:2]
    server.should_exit = True
    thread.join()


def begin(address: tuple[str, int], length: int = 1000) -> socket.socket:
    """Open a connection and send a launch of which most of the body is missing."""
    connection = socket.create_connection(address, timeout=SECONDS)
    head = f"POST /v1/campaigns HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: {length}\r\n\r\n{{"
    connection.sendall(head.encode())
    return connection


def read_to_end(connection: socket.socket) -> str:
    with connection, connection.makefile("rb") as stream:
        return stream.read().decode()


def test_a_bucket_gives_its_burst_and_fills_again() -> None:
    clock = Clock()
    buckets = Buckets(per_second=2, burst=3, clock=clock)
    assert [buckets.take("a") for _ in range(5)] == [0, 0, 0, 0.5, 0.5]
    assert buckets.take("b") == 0
    clock.now += 0.25
    assert buckets.take("a") == 0.25
    clock.now += 0.25
    assert [buckets.take("a"), buckets.take("a")] == [0, 0.5]
    clock.now += 1000
    assert [buckets.take("a") for _ in range(4)] == [0, 0, 0, 0.5]


def test_only_the_last_keys_are_remembered(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rate_limit, "CAPACITY", 2)
    buckets = Buckets(per_second=0.001, burst=1, clock=Clock())
    assert [bool(buckets.take(key)) for key in "abacab"] == [False, False, True, False, True, False]


@pytest.mark.parametrize(
    ("host", "key"),
    [
        ("10.0.0.1", "10.0.0.1"),
        ("::ffff:10.0.0.1", "10.0.0.1"),
        ("2001:db8::1", "2001:db8::/64"),
        ("2001:db8::ffff:1", "2001:db8::/64"),
        ("testclient", "testclient"),
        ("", ""),
    ],
)
def test_addresses_of_one_network_share_a_bucket(host: str, key: str) -> None:
    assert client_address({"client": (host, 1)}) == key
    assert client_address({"client": None}) == client_address({}) == ""


def test_each_token_has_a_limit_of_its_own(settings: Settings, secrets_of: dict[str, str]) -> None:
    with TestClient(create_app(settings.replace(requests_per_second=0.001, burst=3)), HERE) as client:
        headers = {name: {"Authorization": f"Bearer {secret}"} for name, secret in secrets_of.items()}
        assert [client.get("/v1/campaigns", headers=headers["a"]).status_code for _ in range(3)] == [200] * 3
        response = client.get("/v1/campaigns", headers=headers["a"])
        assert (response.status_code, response.headers["content-type"]) == (429, PROBLEM)
        assert 900 < int(response.headers["retry-after"]) <= 1000
        assert "token a may send 3 requests at once and 0.001 per second" in response.json()["detail"]
        assert response.headers["x-content-type-options"] == "nosniff"
        assert client.get("/v1/campaigns", headers=headers["b"]).status_code == 200
        assert {client.get("/healthz").status_code for _ in range(5)} == {200}


def test_without_tokens_each_address_has_a_limit(settings: Settings) -> None:
    app = create_app(settings.replace(requests_per_second=0.001, burst=2))
    with TestClient(app, HERE, client=("127.0.0.1", 1)) as one:
        assert [one.get("/v1/campaigns").status_code for _ in range(3)] == [200, 200, 429]
        other = TestClient(app, HERE, client=("127.0.0.2", 1))
        assert other.get("/v1/campaigns").status_code == 200


def test_the_defaults_are_far_above_what_pages_and_clients_ask(settings: Settings) -> None:
    # Ten tabs that all ask for everything at once, then a client that asks ten times a second.
    assert settings.burst >= 10 * 20
    assert settings.requests_per_second >= 10 * 10


def test_too_many_wrong_tokens_are_no_longer_looked_up(settings: Settings, secrets_of: dict[str, str]) -> None:
    app = create_app(settings)
    right = {name: {"Authorization": f"Bearer {secret}"} for name, secret in secrets_of.items()}
    with TestClient(app, HERE, client=("10.0.0.1", 1)) as attacker:
        assert attacker.get("/v1/campaigns", headers=right["a"]).status_code == 200
        answers = []
        while not answers or answers[-1].status_code == 401:
            answers.append(attacker.get("/v1/campaigns", headers={"Authorization": f"Bearer {new_secret()}"}))
        assert len(answers) >= FAILURES_BURST
        assert (answers[-1].status_code, answers[-1].headers["retry-after"]) == (429, "1")
        assert answers[-1].headers["content-type"] == PROBLEM
        # Who shares the address and was let in before stays in; so does everybody elsewhere.
        assert attacker.get("/v1/campaigns", headers=right["a"]).status_code == 200
        elsewhere = TestClient(app, HERE, client=("10.0.0.2", 1))
        assert elsewhere.get("/v1/campaigns", headers=right["b"]).status_code == 200
        assert attacker.get("/healthz").status_code == 200


def test_requests_without_a_token_are_no_wrong_tokens(settings: Settings, secrets_of: dict[str, str]) -> None:
    with TestClient(create_app(settings), HERE) as client:
        assert {client.get("/v1/campaigns").status_code for _ in range(2 * FAILURES_BURST)} == {401}
        headers = {"Authorization": f"Bearer {secrets_of['a']}"}
        assert client.get("/v1/campaigns", headers=headers).status_code == 200


def test_a_request_over_the_limit_is_answered_before_its_body_is_there(settings: Settings) -> None:
    with serving(settings.replace(requests_per_second=0.001, burst=1, body_seconds=SECONDS)) as address:
        assert httpx.get(f"http://{address[0]}:{address[1]}/v1/campaigns").status_code == 200
        connection = begin(address)
        assert connection.recv(100).startswith(b"HTTP/1.1 429")
        connection.close()


def test_a_body_that_is_too_slow_is_refused(settings: Settings, worker: Worker) -> None:
    with serving(settings.replace(body_seconds=0.3)) as address:
        answer = read_to_end(begin(address))
        assert answer.startswith("HTTP/1.1 408")
        assert PROBLEM in answer
        assert "may take 0.3 seconds" in answer
        dripping = begin(address)
        status = b""
        while not status:  # a byte at a time does not win more time
            dripping.sendall(b" ")
            dripping.settimeout(0.05)
            try:
                status = dripping.recv(100)
            except TimeoutError:
                continue
        assert status.startswith(b"HTTP/1.1 408")
        dripping.close()


def test_slow_bodies_hold_no_thread(settings: Settings, worker: Worker) -> None:
    with serving(settings.replace(body_seconds=SECONDS)) as address, ExitStack() as connections:
        for _ in range(60):  # more than there are threads for requests
            connections.enter_context(begin(address))
        answer = httpx.get(f"http://{address[0]}:{address[1]}/v1/campaigns", timeout=SECONDS)
        assert answer.status_code == 200


def test_an_answer_that_goes_on_is_not_cut_by_the_time_of_the_body(
    settings: Settings, store: Store, worker: Worker, spec: dict[str, object]
) -> None:
    with serving(settings.replace(body_seconds=0.2)) as address:
        url = f"http://{address[0]}:{address[1]}/v1/campaigns"
        campaign = httpx.post(url, json=spec, timeout=SECONDS).json()["id"]
        with httpx.stream("GET", f"{url}/{campaign}/events", timeout=SECONDS) as stream:
            lines = stream.iter_lines()
            assert "campaign" in "".join(next(lines) for _ in range(3))
            threading.Event().wait(0.5)
            httpx.post(f"{url}/{campaign}/cancel", timeout=SECONDS)
            assert "cancelled" in "".join(lines)


def test_a_body_that_grows_too_long_ends_the_connection(settings: Settings, worker: Worker) -> None:
    with serving(settings.replace(max_body_bytes=50)) as address:
        answer = read_to_end(begin(address, length=51))
        assert answer.startswith("HTTP/1.1 413")
        assert "connection: close" in answer.lower()
