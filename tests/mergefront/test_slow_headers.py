"""Clients that open a connection and do not ask: they are not waited for."""

import socket
import threading
from collections.abc import Iterator

import pytest
import uvicorn
from fastapi import FastAPI

from mergefront.slow_headers import PunctualProtocol

SECONDS = 60  # what a test waits before it gives up
HEAD = b"GET /there HTTP/1.1\r\nHost: here\r\n\r\n"


class Impatient(PunctualProtocol):
    """Waits for a fifth of a second."""

    header_seconds = 0.2


@pytest.fixture
def address() -> Iterator[tuple[str, int]]:
    """The address of a real server with one route, which takes longer to answer than a head may take."""
    app = FastAPI()

    @app.get("/there")
    def there() -> str:
        threading.Event().wait(0.5)
        return "here"

    config = uvicorn.Config(app, port=0, log_level="error", http=Impatient, ws="none", timeout_keep_alive=SECONDS)
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run)
    thread.start()
    while not server.started:
        assert thread.is_alive()
        thread.join(0.02)
    yield server.servers[0].sockets[0].getsockname()[:2]
    server.should_exit = True
    thread.join()


def connect(address: tuple[str, int]) -> socket.socket:
    return socket.create_connection(address, timeout=SECONDS)


@pytest.mark.parametrize("sent", [b"", b"G", b"GET /there HTTP/1.1\r\nHost: here\r\n"])
def test_a_head_that_does_not_come_ends_the_connection(address: tuple[str, int], sent: bytes) -> None:
    with connect(address) as connection:
        connection.sendall(sent)
        assert connection.recv(1) == b""


def test_a_head_that_drips_ends_the_connection(address: tuple[str, int]) -> None:
    with connect(address) as connection:
        connection.sendall(b"GET /there HTTP/1.1\r\n")
        connection.settimeout(0.02)
        with pytest.raises(OSError, match=r"reset|Broken pipe|closed"):
            while True:
                connection.sendall(b"X: 1\r\n")
                try:
                    if connection.recv(1) == b"":
                        raise ConnectionError("closed")
                except TimeoutError:
                    continue


def test_a_request_that_is_answered_slowly_is_answered(address: tuple[str, int]) -> None:
    with connect(address) as connection:
        for _ in range(2):
            connection.sendall(HEAD)
            answer = b""
            while not answer.endswith(b'"here"'):
                received = connection.recv(1000)
                assert received
                answer += received
            assert answer.startswith(b"HTTP/1.1 200")
        connection.sendall(b"GET")
        assert connection.recv(1) == b""
