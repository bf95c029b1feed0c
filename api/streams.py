"""Files sent as streams: so many merges at once, and no slot for a client that has stopped reading."""

import hashlib
import logging
import math
import threading
from collections import OrderedDict
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import AbstractAsyncContextManager, asynccontextmanager, nullcontext
from functools import partial

import anyio
from fastapi.responses import StreamingResponse
from starlette.exceptions import HTTPException
from starlette.types import Message, Receive, Scope, Send

from merging.image import MergedFile, MergedModel

PIECE_BYTES = 256 << 10
"""What a client must take before the clock for stalled streams starts anew."""
SMALL_BYTES = 1 << 20
"""Ranges of weights up to here, such as the headers that clients read first, cost no more than a small file."""
RETRY_WAITS = 6
KNOWN_DIGESTS = 4096

logger = logging.getLogger(__name__)


class Streams:
    """The slots of weight streams and the digests of merged files, of one application in one process."""

    def __init__(self, max_streams: int, wait_seconds: float, stall_seconds: float) -> None:
        self.stall_seconds = stall_seconds
        self._max_streams = max_streams
        self._wait_seconds = wait_seconds
        self._free = anyio.Semaphore(max_streams)
        self._digests: OrderedDict[str, str] = OrderedDict()
        self._lock = threading.Lock()

    @asynccontextmanager
    async def slot(self, busy_status: int) -> AsyncIterator[None]:
        """Hold one of the slots. Raises `HTTPException` with Retry-After when none gets free for `wait_seconds`."""
        with anyio.move_on_after(self._wait_seconds) as waiting:
            await self._free.acquire()
        if waiting.cancelled_caught:
            detail = f"{self._max_streams} weight streams are being sent; try again later"
            retry_after = str(math.ceil(RETRY_WAITS * self._wait_seconds))
            raise HTTPException(busy_status, detail, {"Retry-After": retry_after})
        try:
            yield
        finally:
            self._free.release()

    def slot_for(self, file: MergedFile, size_bytes: int, busy_status: int) -> AbstractAsyncContextManager[None]:
        """Return what to hold while `size_bytes` of `file` are sent: a slot for weights, nothing for small things."""
        needs_none = not is_weights(file) or size_bytes <= SMALL_BYTES
        return nullcontext() if needs_none else self.slot(busy_status)

    def digest(self, file: MergedFile) -> str | None:
        """Return the sha256 (hex) of the file's bytes; None for weights that were not merged whole lately."""
        if not is_weights(file):
            return file.etag
        with self._lock:
            return self._digests.get(file.etag)

    def digested(self, model: MergedModel, name: str) -> Iterator[bytes]:
        """Return a file's blocks; once the last has been made, its digest is known.

        Raises `InvalidCheckpoint` for sources that have changed, at the end when they do so meanwhile: the bytes are of
        no model then.
        """
        return self._digested(model, name, model.read(name))

    def _digested(self, model: MergedModel, name: str, blocks: Iterator[bytes]) -> Iterator[bytes]:
        sha256 = hashlib.sha256()
        for block in blocks:
            sha256.update(block)
            yield block
        model.pool_files.verify()
        with self._lock:
            self._digests[model.files[name].etag] = sha256.hexdigest()
            while len(self._digests) > KNOWN_DIGESTS:
                self._digests.popitem(last=False)


def is_weights(file: MergedFile) -> bool:
    """Whether the file's bytes are merged as they are read. Of other files, the ETag is the sha256."""
    return file.name.endswith(".safetensors")


class FileStream(StreamingResponse):
    """A response that holds `slot` while it is sent and gives up on a client that takes nothing for `stall_seconds`.

    A client that closes the connection ends it at once.
    """

    def __init__(  # noqa: PLR0913  those of any response, and two of its own
        self,
        blocks: Iterator[bytes],
        status_code: int,
        headers: Mapping[str, str],
        media_type: str,
        slot: AbstractAsyncContextManager[None],
        stall_seconds: float,
    ) -> None:
        super().__init__(blocks, status_code, headers, media_type)
        self._slot = slot
        self._stall_seconds = stall_seconds

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Wait for the slot, then send. Raises `HTTPException` when there is none, before anything was sent."""
        async with self._slot:
            try:
                await super().__call__(scope, receive, send)
            except TimeoutError:  # the server closes a connection whose response ends early
                logger.warning("%s: the client took nothing for %g s", scope["path"], self._stall_seconds)

    async def stream_response(self, send: Send) -> None:
        """Send in pieces, each in time."""
        await super().stream_response(partial(self._send_in_time, send))

    async def _send_in_time(self, send: Send, message: Message) -> None:
        body = message.get("body", b"")
        pieces = [body[start : start + PIECE_BYTES] for start in range(0, len(body), PIECE_BYTES)] or [body]
        for piece in pieces:
            with anyio.fail_after(self._stall_seconds):
                await send({**message, "body": piece} if "body" in message else message)
