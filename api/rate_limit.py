"""No caller asks more often than the operator allows: a token bucket for each, in this process."""

import ipaddress
import math
import time
from collections import OrderedDict
from collections.abc import Callable

from starlette.types import ASGIApp, Receive, Scope, Send

from api.problems import ProblemResponse, problem

STATUS = 429
UNLIMITED_PATHS = ("/healthz",)  # who watches the service must be answered when it is busy most of all
CAPACITY = 10_000
IPV6_NETWORK_BITS = 64  # the least that one customer of a provider has


class Buckets:
    """Token buckets by key: `burst` requests at once, then `per_second`.

    Only the `CAPACITY` keys that asked last are remembered: a bucket that was forgotten is full again.
    """

    def __init__(self, per_second: float, burst: int, clock: Callable[[], float] = time.monotonic) -> None:
        self.per_second = per_second
        self.burst = burst
        self._clock = clock
        self._levels: OrderedDict[str, tuple[float, float]] = OrderedDict()

    def take(self, key: str) -> float:
        """Take one out of the key's bucket and return 0.0; from an empty one, the seconds until there is one again."""
        now = self._clock()
        level, at = self._levels.pop(key, (float(self.burst), now))
        level = min(level + (now - at) * self.per_second, float(self.burst))
        is_empty = level < 1
        self._levels[key] = (level if is_empty else level - 1, now)
        while len(self._levels) > CAPACITY:
            self._levels.popitem(last=False)
        return (1 - level) / self.per_second if is_empty else 0.0


class RateLimit:
    """Answers 429 to callers that ask too often, before their body is read: by token, without one by address."""

    def __init__(self, app: ASGIApp, buckets: Buckets) -> None:
        self._app = app
        self._buckets = buckets

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass the request on, or answer 429."""
        if scope["type"] != "http" or scope["path"] in UNLIMITED_PATHS:
            await self._app(scope, receive, send)
            return
        caller = scope.get("caller")
        key = f"address {client_address(scope)}" if caller is None else f"token {caller.name}"
        seconds = self._buckets.take(key)
        if not seconds:
            await self._app(scope, receive, send)
            return
        limit = f"{self._buckets.burst} requests at once and {self._buckets.per_second:g} per second"
        await too_many(scope["path"], f"{key} may send {limit}", seconds)(scope, receive, send)


def too_many(path: str, detail: str, seconds: float) -> ProblemResponse:
    """Return the refusal of a request that may come again in `seconds`."""
    whole = max(math.ceil(seconds), 1)
    refusal = problem(path, STATUS, f"{detail}; try again in {whole} s")
    refusal.headers["Retry-After"] = str(whole)
    return refusal


def client_address(scope: Scope) -> str:
    """Return the client's IPv4 address or IPv6 network; "" for one without, on a Unix socket."""
    host: str = (scope.get("client") or ("",))[0]
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        return host
    if address.version == 4:
        return host
    if address.ipv4_mapped is not None:
        return str(address.ipv4_mapped)
    return str(ipaddress.ip_network((address, IPV6_NETWORK_BITS), strict=False))
