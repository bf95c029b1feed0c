"""No request body longer, and none slower, than the operator allows."""

import anyio
from starlette.datastructures import Headers
from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from api.problems import problem

TOO_LONG = 413
TOO_SLOW = 408
HEADERS = {"Connection": "close"}  # the rest of the body is not waited for


class BodyLimit:
    """Answers 413 at once to a body that says it is too long, and while reading to one that does not say; 408 to one
    that is not there `body_seconds` after the first part was asked for.

    Starlette has such a middleware for the length too, but answers in plain text.
    """

    def __init__(self, app: ASGIApp, max_body_bytes: int, body_seconds: float) -> None:
        self._app = app
        self._max_body_bytes = max_body_bytes
        self._body_seconds = body_seconds

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on, its body measured."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        announced = Headers(scope=scope).get("content-length", "")
        if announced.isdecimal() and int(announced[:20]) > self._max_body_bytes:
            refusal = problem(scope["path"], TOO_LONG, self.length_detail)
            refusal.headers.update(HEADERS)
            await refusal(scope, receive, send)
            return
        body = _Body(self, receive, send)
        await self._app(scope, body.receive, body.send)

    @property
    def length_detail(self) -> str:
        """What a body that is too long is told."""
        return f"a request body may have {self._max_body_bytes} bytes"

    @property
    def time_detail(self) -> str:
        """What a body that is too slow is told."""
        return f"a request body may take {self._body_seconds:g} seconds"

    def is_too_long(self, received_bytes: int) -> bool:
        """Say whether this is more than a body may have."""
        return received_bytes > self._max_body_bytes

    def deadline(self) -> float:
        """Return the event loop's time at which a body that is first asked for now must be there."""
        return anyio.current_time() + self._body_seconds


class _Body:
    """The body of one request. Once the response has begun, what is wrong with it can only end the connection."""

    def __init__(self, limit: BodyLimit, receive: Receive, send: Send) -> None:
        self._limit = limit
        self._receive = receive
        self._send = send
        self._deadline: float | None = None
        self._received_bytes = 0
        self._is_complete = False
        self._is_answered = False

    async def send(self, message: Message) -> None:
        """Send on, noting when the response begins."""
        self._is_answered = True
        await self._send(message)

    async def receive(self) -> Message:
        """Return the next part. After the last one there is all the time in the world: only the end can follow."""
        if self._is_complete:
            return await self._receive()
        if self._deadline is None:
            self._deadline = self._limit.deadline()
        message: Message | None = None
        with anyio.CancelScope(deadline=self._deadline):
            message = await self._receive()
        if message is None:
            return self._refuse(TOO_SLOW, self._limit.time_detail)
        self._received_bytes += len(message.get("body", b""))
        if self._limit.is_too_long(self._received_bytes):
            return self._refuse(TOO_LONG, self._limit.length_detail)
        self._is_complete = not message.get("more_body", False)
        return message

    def _refuse(self, status: int, detail: str) -> Message:
        if self._is_answered:
            return {"type": "http.disconnect"}
        raise HTTPException(status, detail, HEADERS)
