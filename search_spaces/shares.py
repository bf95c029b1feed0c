"""How raw coordinates become weights that sum to one."""

import math
from collections.abc import Sequence


def over_sum(raw: Sequence[float]) -> list[float]:
    """Return r_i / sum(r) for r_i >= 0. All zeros give the uniform weights, the limit along equal coordinates."""
    peak = max(raw)
    if peak == 0.0:
        return [1.0 / len(raw)] * len(raw)
    scaled = [value / peak for value in raw]  # the sum of huge bounds would overflow
    total = math.fsum(scaled)
    return [value / total for value in scaled]


def softmax(raw: Sequence[float]) -> list[float]:
    """Return exp(r_i) / sum(exp(r))."""
    peak = max(raw)
    return over_sum([math.exp(value - peak) for value in raw])


def raw_of_sum(shares: Sequence[float], bounds: Sequence[tuple[float, float]]) -> list[float]:
    """Return raw numbers r_i >= 0 whose shares over the sum these are: the largest that keep the upper bounds."""
    scale = min((high / share for share, (_, high) in zip(shares, bounds, strict=True) if share > 0), default=0.0)
    return [share * scale for share in shares]


def raw_of_softmax(shares: Sequence[float], bounds: Sequence[tuple[float, float]]) -> list[float]:
    """Return raw numbers whose softmax these shares are, in the middle of the bounds; -inf for a share of 0."""
    logs = [math.log(share) if share > 0 else -math.inf for share in shares]
    rooms = [(low - log, high - log) for log, (low, high) in zip(logs, bounds, strict=True) if log > -math.inf]
    shift = (max(low for low, _ in rooms) + min(high for _, high in rooms)) / 2 if rooms else 0.0
    return [log + shift for log in logs]


NORMALIZATIONS = {"sum": over_sum, "softmax": softmax}
RAW = {"sum": raw_of_sum, "softmax": raw_of_softmax}
"""Their inverses: raw numbers within bounds, as far as there are any that give these shares."""
