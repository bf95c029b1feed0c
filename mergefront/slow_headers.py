"""HTTP/1.1 for clients of any kind, also those that open a connection and say nothing: uvicorn waits for ever."""

import asyncio
from typing import cast

from uvicorn.protocols.http.h11_impl import H11Protocol


class PunctualProtocol(H11Protocol):
    """Closes a connection whose client takes more than `header_seconds` to send the head of a request.

    Between two requests uvicorn's own, shorter timeout holds; the time of a body is limited by `api.body_limit`. A head
    may have 64 KiB, h11's limit, which the faster httptools lacks.
    """

    header_seconds: float = 20.0
    _timer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Begin to wait for the first request."""
        super().connection_made(cast(asyncio.Transport, transport))
        self._start()

    def data_received(self, data: bytes) -> None:
        """Take in what came; wait on for the rest of a head."""
        super().data_received(data)
        if self._is_waiting:
            self._start()
        else:
            self._stop()

    def connection_lost(self, exc: Exception | None) -> None:
        """Wait no longer."""
        self._stop()
        super().connection_lost(exc)

    @property
    def _is_waiting(self) -> bool:
        return self.cycle is None or self.cycle.response_complete

    def _start(self) -> None:
        if self._timer is None:
            self._timer = self.loop.call_later(self.header_seconds, self._end)

    def _stop(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _end(self) -> None:
        self._timer = None
        if self._is_waiting:
            self.transport.close()
