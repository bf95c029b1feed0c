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


NORMALIZATIONS = {"sum": over_sum, "softmax": softmax}
