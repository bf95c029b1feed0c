"""Questions to a database that may never answer."""

from collections.abc import Callable
from typing import TypeVar

import anyio
from anyio import CapacityLimiter, to_thread

MAX_WAITING = 4

Answer = TypeVar("Answer")

_threads = CapacityLimiter(MAX_WAITING)
"""Threads of their own: those that wait for a database for good must not take the place of requests."""


async def in_time(seconds: float, ask: Callable[[], Answer], threads: CapacityLimiter = _threads) -> Answer:
    """Return what `ask` returns, on one of `threads`. Raises `TimeoutError` after `seconds`; it then ends by itself."""
    with anyio.fail_after(seconds):
        return await to_thread.run_sync(ask, abandon_on_cancel=True, limiter=threads)
