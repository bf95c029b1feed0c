"""Every merge method a second time, by the book: whole tensors, float64, numpy, from the methods' definitions alone.

Sizes that are compared with each other are those of float32 task vectors, as the methods are defined over these; what
chance and calibration say is given. Every function takes a noun of `campaigns.methods` and one tensor, and returns what
the merge should be before it is rounded.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]
CLOSE = 8 * 2.0**-24
"""How near, relative to what is added up, a sum may be to a decision before float32 can decide the other way."""


@dataclass(frozen=True)
class Inputs:
    """One tensor of all sources and of the base (float32, of one shape), and what is known of it, each by source.

    `chances` are in [0, 1); `grams` are X X^T / n of the inputs along `input_axis`, `fisher` the diagonal information,
    both None where there is none.
    """

    sources: Sequence[Array]
    base: Array | None = None
    chances: Sequence[Array] = ()
    grams: Sequence[Array] | None = None
    input_axis: int | None = None
    fisher: Sequence[Array] | None = None

    @property
    def energies(self) -> list[Array]:
        """diag(X X^T) / n, shaped to go with the tensor; 1 for tensors that multiply no input."""
        if self.grams is None:
            return [np.float32(1)] * len(self.sources)
        return [np.diag(gram).reshape((-1, 1) if self.input_axis == 0 else (1, -1)) for gram in self.grams]

    @property
    def origin(self) -> Array:
        """theta_0, float64."""
        assert self.base is not None
        return self.base.astype(np.float64)

    @property
    def float32_task_vectors(self) -> list[Array]:
        """tau_i as float32 numbers."""
        assert self.base is not None
        return [source - self.base for source in self.sources]

    @property
    def task_vectors(self) -> list[Array]:
        """tau_i, float64."""
        return [source.astype(np.float64) - self.origin for source in self.sources]

    @property
    def vectors(self) -> list[Array]:
        """tau_i where there is a base, theta_i where there is none; float64."""
        return [source.astype(np.float64) for source in self.sources] if self.base is None else self.task_vectors


@dataclass(frozen=True)
class Expected:
    """`values`, or `others` where a decision is a matter of rounding; `size` is what float32 errors are relative to.

    Elements that are not `certain` (chance within rounding of a probability) may be anything.
    """

    values: Array
    size: Array
    others: Array
    certain: Array = field(default_factory=lambda: np.array(True))


def expected_merge(method: Any, tensors: Mapping[str, Inputs]) -> dict[str, Expected]:
    """Return what `method` makes of each tensor of a model."""
    if method.kind == "ties" and method.trim == "global":
        return ties_of_model(method, tensors)
    if method.kind in OF_MODELS:
        return OF_MODELS[method.kind](method, tensors)
    return {name: REFERENCES[method.kind](method, tensor) for name, tensor in tensors.items()}


def linear(method: Any, tensor: Inputs) -> Expected:
    return weighted(method.weights, [source.astype(np.float64) for source in tensor.sources])


def task_arithmetic(method: Any, tensor: Inputs) -> Expected:
    return added(tensor, method.scale, weighted(method.weights, tensor.task_vectors))


def slerp(method: Any, tensor: Inputs) -> Expected:
    """Over the sources themselves, base or not; along the chord for |cos| > 0.9995."""
    first, second = (source.astype(np.float64) for source in tensor.sources)
    return between(first, second, method.t, math.sqrt(1 - 0.9995**2))


def nuslerp(method: Any, tensor: Inputs) -> Expected:
    """Along the chord where the angle has next to no sine."""
    first, second = tensor.vectors
    merged = between(first, second, method.weights[1] / (method.weights[0] + method.weights[1]), 1e-4)
    return merged if tensor.base is None else added(tensor, 1.0, merged)


def multislerp(method: Any, tensor: Inputs) -> Expected:
    """m cos|v| + v sin|v| / |v|, v the mean in the tangent space at m = sum_i w_i u_i / |sum_i w_i u_i|."""
    weights = np.array(method.weights)
    if method.normalize:
        weights = weights / weights.sum()
    units = [unit(vector) for vector in tensor.vectors]
    mean = unit(sum(w * u for w, u in zip(weights, units, strict=True)))
    tangent = sum(w * (u - np.sum(u * mean) * mean) for w, u in zip(weights, units, strict=True))
    length = norm(tangent)
    merged = np.cos(length) * mean + np.sinc(length / np.pi) * tangent
    return on_sphere(tensor, weights, units, merged)


def karcher(method: Any, tensor: Inputs) -> Expected:
    """Gradient descent to the m with sum_i a_i log_m(u_i) = 0, over the sources themselves, base or not."""
    tensor = replace(tensor, base=None)
    weights = np.array(method.weights) / sum(method.weights)
    units = [unit(vector) for vector in tensor.vectors]
    mean = unit(sum(w * u for w, u in zip(weights, units, strict=True)))
    for _ in range(method.max_iterations):
        gradient = sum(w * logarithm(mean, u) for w, u in zip(weights, units, strict=True))
        length = norm(gradient)
        if length < method.tolerance:
            break
        mean = unit(np.cos(length) * mean + np.sin(length) / length * gradient)
    return on_sphere(tensor, weights, units, mean)


def ties(method: Any, tensor: Inputs) -> Expected:
    kept = [
        largest(sizes, count_of(density, sizes.size))
        for sizes, density in zip(trim_sizes(method, tensor), method.densities, strict=True)
    ]
    return elected(method, tensor, [tau * mask for tau, mask in zip(tensor.task_vectors, kept, strict=True)])


def ties_of_model(method: Any, tensors: Mapping[str, Inputs]) -> dict[str, Expected]:
    """Trim over all tensors, one after the other, elect in each."""
    by_tensor = [trim_sizes(method, tensor) for tensor in tensors.values()]
    kept = []
    for index, density in enumerate(method.densities):
        sizes = np.concatenate([found[index].reshape(-1) for found in by_tensor])
        kept.append(largest(sizes, count_of(density, sizes.size)))
    merged, first = {}, 0
    for name, tensor in tensors.items():
        taus = tensor.task_vectors
        section = slice(first, first + tensor.origin.size)
        masks = [mask[section].reshape(tensor.origin.shape) for mask in kept]
        merged[name] = elected(method, tensor, [tau * mask for tau, mask in zip(taus, masks, strict=True)])
        first = section.stop
    return merged


def dare_linear(method: Any, tensor: Inputs) -> Expected:
    dropped, certain = by_chance(method, tensor, [np.full(tensor.origin.shape, d) for d in method.densities])
    return certainly(certain, added(tensor, method.scale, weighted(method.weights, dropped)))


def dare_ties(method: Any, tensor: Inputs) -> Expected:
    dropped, certain = by_chance(method, tensor, [np.full(tensor.origin.shape, d) for d in method.densities])
    return certainly(certain, elected(method, tensor, dropped))


def della_linear(method: Any, tensor: Inputs) -> Expected:
    probabilities = della_probabilities(method, tensor)
    dropped, certain = by_chance(method, tensor, probabilities)
    return widened(probabilities, certainly(certain, added(tensor, method.scale, weighted(method.weights, dropped))))


def della(method: Any, tensor: Inputs) -> Expected:
    probabilities = della_probabilities(method, tensor)
    dropped, certain = by_chance(method, tensor, probabilities)
    return widened(probabilities, certainly(certain, elected(method, tensor, dropped)))


def breadcrumbs(method: Any, tensor: Inputs) -> Expected:
    return added(tensor, method.scale, weighted(method.weights, crumbs(method, tensor)))


def breadcrumbs_ties(method: Any, tensor: Inputs) -> Expected:
    return elected(method, tensor, crumbs(method, tensor))


def model_stock(method: Any, tensor: Inputs) -> Expected:
    """t = K c / (1 + (K - 1) c), c the mean cosine of pairs of task vectors, within [0, 1]."""
    units = [unit(tau) for tau in tensor.task_vectors]
    count = len(units)
    pairs = [np.sum(units[i] * units[j]) for i in range(count) for j in range(i)]
    cosine = max(float(np.mean(pairs)), 0.0) if pairs else 1.0
    t = count * cosine / (1 + (count - 1) * cosine)
    mean = sum(source.astype(np.float64) for source in tensor.sources) / count
    size = np.abs(tensor.origin) + sum(np.abs(tau) for tau in tensor.task_vectors) / count
    return sure(t * mean + (1 - t) * tensor.origin, size)


def consensus(method: Any, tensor: Inputs) -> Expected:
    """tau where at least `agreeing` of the masks |tau_i| >= lambda |tau - tau_i| agree, tau = sum_i w_i tau_i."""
    taus = tensor.task_vectors
    merged = weighted(method.weights, taus)
    slack = CLOSE * (merged.size + sum(np.abs(tau) for tau in taus)) * (1 + method.mask_threshold)
    margins = [np.abs(tau) - method.mask_threshold * np.abs(merged.values - tau) for tau in taus]
    agreed = sum((margin >= 0).astype(int) for margin in margins) >= method.agreeing
    fewest = sum((margin >= slack).astype(int) for margin in margins) >= method.agreeing
    most = sum((margin >= -slack).astype(int) for margin in margins) >= method.agreeing
    chosen = Expected(
        np.where(agreed, merged.values, 0.0),
        merged.size,
        np.where(fewest != most, np.where(agreed, 0.0, merged.values), np.where(agreed, merged.values, 0.0)),
    )
    return added(tensor, method.scale, chosen)


def sce(method: Any, tensor: Inputs) -> Expected:
    """Weights are shares of energy, sum tau_i^2 over the top fraction, by variance, of the elements that vary."""
    small = tensor.float32_task_vectors
    mean = sum(small[1:], start=small[0]) / np.float32(len(small))
    squares = [(tau - mean) * (tau - mean) for tau in small]
    variances = np.asarray(sum(squares[1:], start=squares[0]) / np.float32(len(small)))
    count = math.floor(method.top_fraction * np.count_nonzero(variances))
    selected = largest(variances, count) if method.top_fraction < 1 else np.ones(variances.shape, bool)
    taus = [tau * selected for tau in tensor.task_vectors]
    energies = [float(np.sum(tau * tau)) for tau in taus]
    shares = [energy / (sum(energies) or 1.0) for energy in energies]
    total, size = sum(taus), sum(np.abs(tau) for tau in taus)

    def erased(positive: Array) -> Array:
        agreeing = [np.where(positive, tau > 0, tau < 0) for tau in taus]
        divisor = sum(share * agrees for share, agrees in zip(shares, agreeing, strict=True))
        merged = sum(share * tau * agrees for share, tau, agrees in zip(shares, taus, agreeing, strict=True))
        return merged / np.where(divisor == 0, 1.0, divisor)

    values, others = erased(total >= 0), erased(total < 0)
    close = np.abs(total) <= CLOSE * size
    return added(tensor, method.scale, Expected(values, size, np.where(close, others, values)))


def emr(method: Any, tensors: Mapping[str, Inputs]) -> dict[str, Expected]:
    """tau, or l_i m_i tau with l_i = sum |tau_i| / sum |m_i tau| over the model."""
    unified = {name: unify(tensor) for name, tensor in tensors.items()}
    if method.task is None:
        return {name: added(tensor, 1.0, unified[name]) for name, tensor in tensors.items()}
    own = {name: tensor.task_vectors[method.task] for name, tensor in tensors.items()}
    masked = {
        name: Expected(
            np.where(own[name] * found.values > 0, found.values, 0.0),
            found.size,
            np.where(own[name] * found.others > 0, found.others, 0.0),
        )
        for name, found in unified.items()
    }
    left = sum(float(np.sum(np.abs(found.values))) for found in masked.values())
    scale = sum(float(np.sum(np.abs(tau))) for tau in own.values()) / left if left > 0 else 0.0
    return {name: added(tensor, scale, masked[name]) for name, tensor in tensors.items()}


def unify(tensor: Inputs) -> Expected:
    """The sign of sum_i tau_i with the largest |tau_i| of that sign."""
    taus = np.stack(tensor.task_vectors)
    total, size = taus.sum(0), np.abs(taus).sum(0)
    ways = [np.maximum(taus, 0.0).max(0), np.minimum(taus, 0.0).min(0)]
    values, others = np.where(total >= 0, *ways), np.where(total >= 0, *ways[::-1])
    return Expected(values, size, np.where(np.abs(total) <= CLOSE * size, others, values))


def fisher(method: Any, tensors: Mapping[str, Inputs]) -> dict[str, Expected]:
    """sum_i w_i f_i theta_i / sum_i w_i f_i; f_i over its norm over the model, at least the floor; 1 if unknown."""
    norms = []
    for index in range(len(method.weights)):
        norms.append(
            math.sqrt(sum(np.sum(t.fisher[index].astype(np.float64) ** 2) for t in tensors.values() if t.fisher))
        )
    merged = {}
    for name, tensor in tensors.items():
        shares = [
            w
            * (
                np.maximum(tensor.fisher[index].astype(np.float64) / norms[index], method.floor)
                if tensor.fisher
                else 1.0
            )
            for index, w in enumerate(method.weights)
        ]
        whole = weighted(shares, [source.astype(np.float64) for source in tensor.sources])
        merged[name] = sure(whole.values / sum(shares), 2 * whole.size / sum(shares))
    return merged


def regmean(method: Any, tensor: Inputs) -> Expected:
    """(sum_i w_i G_i)^-1 sum_i w_i G_i W_i, W_i inputs x outputs, off-diagonals of G_i times alpha; else the mean."""
    shares = np.array(method.weights) / sum(method.weights)
    thetas = [source.astype(np.float64) for source in tensor.sources]
    mean = weighted(shares, thetas)
    if tensor.grams is None:
        return mean
    grams = [gram * (method.alpha + (1 - method.alpha) * np.eye(len(gram))) for gram in tensor.grams]
    columns = [theta if tensor.input_axis == 0 else theta.T for theta in thetas]
    right = sum(share * gram @ column for share, gram, column in zip(shares, grams, columns, strict=True))
    found = np.linalg.solve(sum(share * gram for share, gram in zip(shares, grams, strict=True)), right)
    return sure(found if tensor.input_axis == 0 else found.T, 2 * max(float(np.abs(theta).max()) for theta in thetas))


def obim(method: Any, tensor: Inputs) -> Expected:
    """Source by source, round by round: the most salient of the elements that nobody has yet, by tau^2 diag(X X^T).

    Saliencies below the smallest normal float32 are equal. What a source never moved counts, but stays free.
    """
    count = tensor.origin.size
    order = method.order or range(len(method.weights))
    free = np.ones(count, dtype=bool)
    merged = np.zeros(count)
    taken = [0] * len(method.weights)
    for number in range(1, method.rounds + 1):
        for index in order:
            tau = tensor.float32_task_vectors[index]
            saliency = np.asarray(tau * tau * tensor.energies[index], np.float32).reshape(-1)
            saliency = np.maximum(saliency, np.finfo(np.float32).tiny)
            share = math.floor(method.densities[index] * count) * number // method.rounds
            places = np.flatnonzero(free)
            best = places[np.argsort(-saliency[places], kind="stable")[: share - taken[index]]]
            taken[index] = share
            free[best] = tau.reshape(-1)[best] == 0
            merged[best] = method.weights[index] * tensor.task_vectors[index].reshape(-1)[best]
    merged = merged.reshape(tensor.origin.shape)
    return added(tensor, 1.0, sure(merged, np.abs(merged)))


def norm(vector: Array) -> float:
    return math.sqrt(float(np.sum(vector * vector)))


def unit(vector: Array) -> Array:
    """Return the vector's direction, 0 for 0."""
    length = norm(vector)
    return vector / length if length > 0 else vector * 0.0


def logarithm(mean: Array, point: Array) -> Array:
    """Return log_m(u): the tangent vector at m that leads to u, both of length 1; 0 for u = 0."""
    along = float(np.clip(np.sum(mean * point), -1.0, 1.0))
    angle = math.acos(along)
    stretch = angle / math.sin(angle) if math.sin(angle) > 1e-12 else 1.0
    return stretch * (point - along * mean)


def on_sphere(tensor: Inputs, weights: Array, units: Sequence[Array], direction: Array) -> Expected:
    """Give a direction the mean length, and the base as its origin."""
    length = sum(w * norm(vector) for w, vector in zip(weights, tensor.vectors, strict=True))
    sizes = sum(np.abs(w * u) for w, u in zip(weights, units, strict=True))
    spread = norm(sum(w * u for w, u in zip(weights, units, strict=True)))
    merged = sure(length * direction, 4 * abs(length) * sizes / (spread or 1.0))
    return merged if tensor.base is None else added(tensor, 1.0, merged)


def between(first: Array, second: Array, t: float, min_sine: float) -> Expected:
    cosine = float(np.clip(np.sum(unit(first) * unit(second)), -1.0, 1.0))
    angle = math.acos(cosine)
    shares = (1 - t, t)
    if math.sin(angle) >= min_sine and norm(first) > 0 and norm(second) > 0:
        shares = (math.sin((1 - t) * angle) / math.sin(angle), math.sin(t * angle) / math.sin(angle))
    return weighted(shares, [first, second])


def trim_sizes(method: Any, tensor: Inputs) -> list[Array]:
    """Return what TIES trims by: |tau|, or tau^2 * diag(X X^T) by columns."""
    taus = tensor.float32_task_vectors
    if method.trim_by == "magnitude":
        return [np.abs(tau) for tau in taus]
    return [tau * tau * energy for tau, energy in zip(taus, tensor.energies, strict=True)]


def count_of(density: float, count: int) -> int:
    return max(1, math.floor(density * count)) if density > 0 else 0


def largest(sizes: Array, count: int) -> Array:
    """Return which elements are the `count` largest, of equals the first."""
    order = np.argsort(-sizes.reshape(-1), kind="stable")
    return chosen(order[:count], sizes.shape)


def crumbs(method: Any, tensor: Inputs) -> list[Array]:
    """Return the task vectors without their largest gamma, as far as density allows, and then just the next density."""
    kept = []
    for tau, exact, density in zip(tensor.float32_task_vectors, tensor.task_vectors, method.densities, strict=True):
        order = np.argsort(-np.abs(tau).reshape(-1), kind="stable")
        count = count_of(density, tau.size)
        outliers = min(math.floor(method.gamma * tau.size), tau.size - count)
        kept.append(exact * chosen(order[outliers : outliers + count], tau.shape))
    return kept


def chosen(positions: Array, shape: tuple[int, ...]) -> Array:
    mask = np.zeros(math.prod(shape), dtype=bool)
    mask[positions] = True
    return mask.reshape(shape)


def by_chance(method: Any, tensor: Inputs, probabilities: Sequence[Array]) -> tuple[list[Array], Array]:
    """Return the task vectors where their chance is below the probability, and where that is beyond doubt."""
    dropped, certain = [], np.ones(tensor.origin.shape, dtype=bool)
    for tau, chance, probability in zip(tensor.task_vectors, tensor.chances, probabilities, strict=True):
        kept = chance < probability
        dropped.append(np.where(kept, tau / (np.where(kept, probability, 1.0) if method.rescale else 1.0), 0.0))
        is_sure = (probability <= 0) | (probability >= 1) | (np.abs(chance - probability) > 2 * 2.0**-24)
        certain &= is_sure
    return dropped, certain


def della_probabilities(method: Any, tensor: Inputs) -> list[Array]:
    """density -+ epsilon by the level, 255 r / (d - 1), of |tau| in its row, 128 in rows of one; 0 and 1 stay."""
    found = []
    for tau, density in zip(tensor.float32_task_vectors, method.densities, strict=True):
        rows = np.abs(tau).reshape(-1, tau.shape[-1] if tau.ndim else 1)
        ranks = np.argsort(np.argsort(rows, axis=1, kind="stable"), axis=1, kind="stable")
        steps = rows.shape[1] - 1
        levels = np.floor(255 * ranks / steps + 0.5) if steps else ranks * 0 + 128
        grown = np.clip(density - method.epsilon + 2 * method.epsilon * levels / 255, 0.0, 1.0)
        found.append((grown if 0 < density < 1 else np.full(rows.shape, density)).reshape(tau.shape))
    return found


def elected(method: Any, tensor: Inputs, dropped: Sequence[Array]) -> Expected:
    """theta_0 + scale * (sum, or weighted mean, of the w_i x_i that have the sign of their sum; 0 is positive)."""
    terms = [w * x for w, x in zip(method.weights, dropped, strict=True)]
    total, size = sum(terms), sum(np.abs(term) for term in terms)
    values, found_size = agreeing_sum(method, terms, total >= 0)
    others, other_size = agreeing_sum(method, terms, total < 0)
    close = (np.abs(total) <= CLOSE * size) & (size > 0)
    found = Expected(
        values, np.where(close, np.maximum(found_size, other_size), found_size), np.where(close, others, values)
    )
    return added(tensor, method.scale, found)


def agreeing_sum(method: Any, terms: Sequence[Array], positive: Array) -> tuple[Array, Array]:
    """Return the sum, or the weighted mean, of the terms of a sign, and its size.

    Of weights that may cancel out, a sum of at most 1e-6 of their absolute sum is none to divide by.
    """
    agreeing = [np.where(positive, term > 0, term < 0) for term in terms]
    merged = sum(np.where(agrees, term, 0.0) for agrees, term in zip(agreeing, terms, strict=True))
    size = sum(np.where(agrees, np.abs(term), 0.0) for agrees, term in zip(agreeing, terms, strict=True))
    if not method.normalize:
        return merged, size
    weights = list(zip(agreeing, method.weights, strict=True))
    divisor = sum(np.where(agrees, weight, 0.0) for agrees, weight in weights)
    spread = sum(np.where(agrees, abs(weight), 0.0) for agrees, weight in weights)
    may_cancel = min(method.weights) < 0 < max(method.weights)
    smallest = 1e-6 * sum(map(abs, method.weights)) if may_cancel else 0.0
    divisor = np.where(np.abs(divisor) <= smallest, 1.0, divisor)
    return merged / divisor, size / np.abs(divisor) * (1 + spread / np.abs(divisor))


def weighted(weights: Sequence[float], terms: Sequence[Array]) -> Expected:
    total = sum(w * x for w, x in zip(weights, terms, strict=True))
    return sure(total, sum(np.abs(w * x) for w, x in zip(weights, terms, strict=True)))


def sure(values: Array, size: Array) -> Expected:
    return Expected(values, size, values)


def added(tensor: Inputs, scale: float, found: Expected) -> Expected:
    """theta_0 + scale * found."""
    origin = tensor.origin
    size = np.abs(origin) + abs(scale) * found.size
    return Expected(origin + scale * found.values, size, origin + scale * found.others, found.certain)


def certainly(certain: Array, found: Expected) -> Expected:
    return Expected(found.values, found.size, found.others, certain)


def widened(probabilities: Sequence[Array], found: Expected) -> Expected:
    """Allow for probabilities that are differences of float32 numbers, and divide: their own error is absolute."""
    smallest = np.min([np.where(p > 0, p, 1.0) for p in probabilities], axis=0)
    return Expected(found.values, found.size * (1 + 1 / smallest), found.others, found.certain)


REFERENCES: dict[str, Callable[[Any, Inputs], Expected]] = {
    function.__name__: function
    for function in (
        linear,
        slerp,
        nuslerp,
        multislerp,
        karcher,
        task_arithmetic,
        ties,
        dare_linear,
        dare_ties,
        della,
        della_linear,
        breadcrumbs,
        breadcrumbs_ties,
        model_stock,
        consensus,
        sce,
        regmean,
        obim,
    )
}
OF_MODELS: dict[str, Callable[[Any, Mapping[str, Inputs]], dict[str, Expected]]] = {"emr": emr, "fisher": fisher}
"""Methods that look at all tensors before they make one."""
