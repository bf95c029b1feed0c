"""The merge methods in float64, written from their formulas, to tell which of two tools is off where they differ.

One function per method: float64 arrays of one tensor in, one out. `sources` is a list of K arrays of one shape, `base`
an array of that shape. Ties between equal magnitudes go to the earlier element; `undetermined` names the elements for
which this and other conventions count.
"""

import itertools
from typing import Any

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[np.float64]
COLLINEAR = 0.9995
FLOAT32 = 1e-6
"""What float32 rounds off a few operations, as a fraction."""


def linear(sources: list[Array], base: Array | None, weight: list[float], normalize: bool = True) -> Array:
    total = sum(w * source for w, source in zip(weight, sources, strict=True))
    return total / sum(weight) if normalize else total


def slerp(sources: list[Array], base: Array | None, t: float) -> Array:
    """From the base (t = 0) to the only source (t = 1)."""
    assert base is not None
    return great_circle(base, sources[0], t, COLLINEAR)


def nuslerp(sources: list[Array], base: Array | None, weight: list[float]) -> Array:
    origin = 0.0 if base is None else base
    t = weight[1] / (weight[0] + weight[1])
    return origin + great_circle(sources[0] - origin, sources[1] - origin, t, 1 - 1e-16)


def great_circle(start: Array, end: Array, t: float, collinear: float) -> Array:
    norms = np.linalg.norm(start) * np.linalg.norm(end)
    cosine = float(np.vdot(start, end) / norms) if norms else 1.0
    if abs(cosine) > collinear:
        return (1 - t) * start + t * end
    angle = np.arccos(cosine)
    return (np.sin((1 - t) * angle) * start + np.sin(t * angle) * end) / np.sin(angle)


def multislerp(sources: list[Array], base: Array | None, weight: list[float], normalize_weights: bool = True) -> Array:
    origin = 0.0 if base is None else base
    weights = np.array(weight) / (sum(weight) if normalize_weights else 1)
    vectors = [source - origin for source in sources]
    norms = [np.linalg.norm(vector) for vector in vectors]
    units = [vector / (norm or 1) for vector, norm in zip(vectors, norms, strict=True)]
    mean = sum(w * unit for w, unit in zip(weights, units, strict=True))
    mean /= np.linalg.norm(mean) or 1
    tangent = sum(w * (unit - np.vdot(unit, mean) * mean) for w, unit in zip(weights, units, strict=True))
    length = np.linalg.norm(tangent)
    direction = mean * np.cos(length) + (tangent * np.sin(length) / length if length else 0)
    return origin + direction * sum(w * norm for w, norm in zip(weights, norms, strict=True))


def karcher(sources: list[Array], base: Array | None, max_iter: int = 10, tol: float = 1e-5) -> Array:
    norms = [np.linalg.norm(source) for source in sources]
    units = [source / norm for source, norm in zip(sources, norms, strict=True)]
    mean = sum(units)
    mean /= np.linalg.norm(mean)
    for _ in range(max_iter):
        tangent = np.zeros_like(mean)
        for unit in units:
            angle = np.arccos(np.clip(np.vdot(mean, unit), -1, 1))
            if angle >= tol:
                tangent += angle / np.sin(angle) * (unit - np.cos(angle) * mean) / len(units)
        length = np.linalg.norm(tangent)
        if length < tol:
            break
        mean = np.cos(length) * mean + np.sin(length) * tangent / length
    return mean / np.linalg.norm(mean) * np.mean(norms)


def task_arithmetic(sources: list[Array], base: Array | None, weight: list[float], **summing: Any) -> Array:
    return base + _summed(_deltas(sources, base), weight, None, **summing)


def ties(sources: list[Array], base: Array | None, weight: list[float], density: list[float], **summing: Any) -> Array:
    kept = [delta * largest(np.abs(delta), d) for delta, d in zip(_deltas(sources, base), density, strict=True)]
    return base + _summed(kept, weight, elected(kept, weight), **({"normalize": True} | summing))


def breadcrumbs(sources: list[Array], base: Array | None, weight: list[float], **rest: Any) -> Array:
    kept, summing = _middles(_deltas(sources, base), **rest)
    return base + _summed(kept, weight, None, **summing)


def breadcrumbs_ties(sources: list[Array], base: Array | None, weight: list[float], **rest: Any) -> Array:
    kept, summing = _middles(_deltas(sources, base), **rest)
    return base + _summed(kept, weight, elected(kept, weight), **summing)


def _middles(
    deltas: list[Array], density: list[float], gamma: float = 0.01, **summing: Any
) -> tuple[list[Array], dict[str, Any]]:
    return [delta * middle(np.abs(delta), d, gamma) for delta, d in zip(deltas, density, strict=True)], summing


def model_stock(sources: list[Array], base: Array | None, clamp: bool = False) -> Array:
    """`clamp`: a negative mean cosine counts as zero."""
    deltas = _deltas(sources, base)
    count = len(deltas)
    units = [delta / (np.linalg.norm(delta) or 1) for delta in deltas]
    cosine = np.mean([np.vdot(a, b) for a, b in itertools.combinations(units, 2)])
    cosine = max(cosine, 0.0) if clamp else cosine
    t = count * cosine / (1 + (count - 1) * cosine)
    return base + t * np.mean(deltas, axis=0)


def sce(sources: list[Array], base: Array | None, select_topk: float = 1, alike_below: float = 0) -> Array:
    """`alike_below`: where the energies add up to less, all sources weigh the same."""
    deltas = np.stack(_deltas(sources, base))
    variance = deltas.var(axis=0)
    if select_topk < 1:
        deltas *= _first(-variance, int(np.count_nonzero(variance) * select_topk))
    energies = (deltas**2).mean(axis=tuple(range(1, deltas.ndim)))
    if energies.sum() < alike_below:
        energies = np.ones(len(deltas))
    weights = list(energies / (energies.sum() or 1))
    return base + _summed([*deltas], weights, elected([*deltas], [1.0] * len(deltas)), normalize=True)


def undetermined(
    method: str, sources: list[Array], base: Array, parameters: dict[str, Any]
) -> tuple[npt.NDArray[np.bool_], npt.NDArray[np.bool_]]:
    """Return the elements whose result hangs on a convention: equal magnitudes at a cut, and sums of signs near zero.

    The first: magnitudes (variances, for sce) that equal, to float32's precision, those on the other side of the cut
    between kept and dropped. The second: weighted sums that cancel but for rounding, whose sign is elected.
    """
    deltas, none = _deltas(sources, base), np.zeros(base.shape, dtype=bool)
    if method == "sce":
        variance = np.var(deltas, axis=0)
        count = int(np.count_nonzero(variance) * parameters["select_topk"])
        kept = [delta * _first(-variance, count) for delta in deltas]
        return equal_at(variance, variance.size - count, 10 * FLOAT32), cancels(kept, [1.0] * len(kept))
    if "density" not in parameters:
        return none, none
    at_cut, kept = none, []
    for delta, density in zip(deltas, parameters["density"], strict=True):
        magnitude, gamma = np.abs(delta), parameters.get("gamma", 0.01)
        mask = largest(magnitude, density) if method == "ties" else middle(magnitude, density, gamma)
        at_cut = at_cut | equal_at(magnitude, magnitude.size - mask.sum())
        if method != "ties":
            below = max(0, magnitude.size - mask.sum() - int(gamma * magnitude.size))
            at_cut = at_cut | equal_at(magnitude, below) | equal_at(magnitude, below + mask.sum())
        kept.append(delta * mask)
    return at_cut, none if method == "breadcrumbs" else cancels(kept, parameters["weight"])


def equal_at(magnitude: Array, count: int, tolerance: float = FLOAT32) -> npt.NDArray[np.bool_]:
    """Return which magnitudes equal both the `count`-th smallest and the next, but for a fraction of `tolerance`."""
    if not 0 < count < magnitude.size:
        return np.zeros(magnitude.shape, dtype=bool)
    below, above = np.partition(magnitude, (count - 1, count), axis=None)[count - 1 : count + 1]
    close = [np.isclose(magnitude, edge, rtol=tolerance, atol=0) for edge in (below, above)]
    return close[0] & close[1]


def cancels(deltas: list[Array], weight: list[float]) -> npt.NDArray[np.bool_]:
    terms = [w * delta for w, delta in zip(weight, deltas, strict=True)]
    return (np.abs(sum(terms)) <= FLOAT32 * sum(np.abs(term) for term in terms)) & np.any(terms, axis=0)


def largest(magnitude: Array, density: float) -> npt.NDArray[np.bool_]:
    """Keep the ⌊density·n⌋ largest, one at least unless the density is 0."""
    return _first(-magnitude, max(1, int(density * magnitude.size)) if density else 0)


def middle(magnitude: Array, density: float, gamma: float) -> npt.NDArray[np.bool_]:
    """Keep ⌊density·n⌋: drop the ⌊gamma·n⌋ largest, fewer where not enough would be left, then the smallest."""
    size = magnitude.size
    kept = int(density * size)
    dropped_below = max(0, size - kept - int(gamma * size))
    above = size - dropped_below - kept
    return _first(-magnitude, above + kept) & ~_first(-magnitude, above)


def _first(key: Array, count: int) -> npt.NDArray[np.bool_]:
    mask = np.zeros(key.size, dtype=bool)
    mask[np.argsort(key, axis=None, kind="stable")[:count]] = True
    return mask.reshape(key.shape)


def elected(deltas: list[Array], weight: list[float]) -> list[npt.NDArray[np.bool_]]:
    """Return which entries have the sign of the weighted sum; a sum of zero counts as positive."""
    weighted = [w * delta for w, delta in zip(weight, deltas, strict=True)]
    sign = np.where(sum(weighted) >= 0, 1, -1)
    return [np.sign(delta) == sign for delta in weighted]


def _deltas(sources: list[Array], base: Array | None) -> list[Array]:
    assert base is not None
    return [source - base for source in sources]


def _summed(
    deltas: list[Array],
    weight: list[float],
    agreeing: list[npt.NDArray[np.bool_]] | None,
    normalize: bool = False,
    scale: float = 1,
) -> Array:
    masks = agreeing or [np.ones_like(delta, dtype=bool) for delta in deltas]
    total = sum(w * delta * mask for w, delta, mask in zip(weight, deltas, masks, strict=True))
    if normalize:
        divisor = sum(w * mask for w, mask in zip(weight, masks, strict=True))
        total = total / np.where(divisor == 0, 1, divisor)
    return scale * total
