"""A Gaussian process with a Matern-5/2 kernel and polynomial trends, small enough to be fitted between two asks.

Rasmussen and Williams 2006, equations 2.25, 2.26 (posterior), 5.8, 5.9 (evidence and its gradient) and 4.17 (kernel).
The priors of the length scales grow with sqrt(n), which keeps a process over many dimensions from taking every point
for a stranger to every other (arXiv 2402.02229). A design in many dimensions has no point near the faces of the cube
nor near its middle, and a Matern kernel alone is too sure of what lies there. Sums and products of functions of one
coordinate each carry what is known of a coordinate over to there (ANOVA kernels: arXiv 1106.3571, 1112.4394).
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy.linalg import cho_solve, cholesky, solve_triangular
from scipy.optimize import minimize

Array = np.ndarray[Any, np.dtype[np.float64]]

MAX_LENGTH_SCALES = 32  # with more dimensions, one length scale and one interaction serve all
MAX_FIT_ITERATIONS = 40
JITTER = 1e-8

# Normal priors (mean, standard deviation) of the logarithms of the variances, for outputs of variance 1.
SIGNAL_PRIOR = (0.0, 1.0)
QUADRATIC_PRIOR = (-2.0, 2.0)
PRODUCT_PRIOR = (0.0, 1.0)
NOISE_PRIOR = (-4.0, 2.0)
VARIANCE_PRIORS = (SIGNAL_PRIOR, QUADRATIC_PRIOR, PRODUCT_PRIOR, NOISE_PRIOR)
LENGTH_PRIOR_DEVIATION = 0.7
INTERACTION_PRIOR_DEVIATION = 1.5
LOG_LENGTH_BOUNDS = (math.log(0.02), math.log(200.0))
LOG_INTERACTION_BOUNDS = (-6.0, 1.6)  # over the prior mean: products of more would lose all digits
LOG_VARIANCE_BOUNDS = (math.log(1e-6), math.log(100.0))


@dataclass(frozen=True)
class Hyperparameters:
    """What a kernel is made of: log length scales and log interactions (n each, or one each for all), log variances.

    `quadratic` is the log variance of a quadratic trend: task scores are near to quadratic in the weights of a merge
    (arXiv 2406.07529). `product` is that of products of quadratic functions of one coordinate each, and an interaction
    says how much its coordinate changes what the others do.
    """

    lengths: tuple[float, ...]
    interactions: tuple[float, ...]
    signal: float
    quadratic: float
    product: float
    noise: float

    def vector(self) -> Array:
        """Return all numbers in the order of the fields."""
        return np.array([*self.lengths, *self.interactions, self.signal, self.quadratic, self.product, self.noise])

    @classmethod
    def of(cls, vector: Array) -> "Hyperparameters":
        """Return the hyperparameters whose `vector` this is."""
        *both, signal, quadratic, product, noise = vector.tolist()
        count = len(both) // 2
        return cls(tuple(both[:count]), tuple(both[count:]), signal, quadratic, product, noise)


def prior_of_lengths(dimensions: int) -> float:
    """Return the prior mean of log length scales."""
    return math.log(1.5) + 0.5 * math.log(dimensions)


def prior_of_interactions(dimensions: int) -> float:
    """Return the prior mean of log interactions: about three coordinates interact, of however many."""
    return math.log(3.0 / dimensions)


def start(dimensions: int) -> Hyperparameters:
    """Return where fits begin."""
    count = dimensions if dimensions <= MAX_LENGTH_SCALES else 1
    length = math.log(0.5) + 0.5 * math.log(dimensions)
    log_variances = (mean for mean, _ in VARIANCE_PRIORS)
    return Hyperparameters((length,) * count, (prior_of_interactions(dimensions),) * count, *log_variances)


def squared_distances(first: Array, second: Array) -> Array:
    """Return the squared Euclidean distances between the rows of a x n and b x n, a x b."""
    squares = (first**2).sum(axis=1)[:, None] + (second**2).sum(axis=1)[None, :]
    return np.asarray(np.maximum(squares - 2.0 * first @ second.T, 0.0))


def trend(first: Array, second: Array) -> Array:
    """Return the kernel of quadratic functions, (1 + 2 x.x' / n)^2, a x b."""
    return np.asarray((1.0 + 2.0 * first @ second.T / first.shape[1]) ** 2)


def interactions(hyper: Hyperparameters, dimensions: int) -> Array:
    """Return the interaction of each coordinate: n."""
    return np.broadcast_to(np.exp(np.array(hyper.interactions)), dimensions)


def factors(sizes: Array, first: Array, second: Array) -> Iterator[Array]:
    """Yield, for each of n coordinates with interaction s, (1 + s (1 + 2 x x')^2) / (1 + s), a x b.

    Their product is the kernel of all products of quadratic functions of one coordinate each.
    """
    shares = 4.0 * sizes / (1.0 + sizes)
    left = np.stack([np.ones_like(first), first, first**2], axis=2)
    right = np.stack([np.ones_like(second), shares * second, shares * second**2], axis=2)
    for index in range(len(sizes)):
        yield left[:, index] @ right[:, index].T


def products(sizes: Array, first: Array, second: Array) -> Array:
    """Return the product of the factors of all coordinates, a x b."""
    product = np.ones((len(first), len(second)))
    for factor in factors(sizes, first, second):
        product *= factor
    return product


def kernel(hyper: Hyperparameters, first: Array, second: Array) -> Array:
    """Return the covariances of the noise-free values at the rows of a x n and b x n, a x b."""
    lengths = np.exp(np.array(hyper.lengths))
    root = np.sqrt(5.0 * squared_distances(first / lengths, second / lengths))
    matern = (1.0 + root + root**2 / 3.0) * np.exp(-root)
    smooth = math.exp(hyper.quadratic) * trend(first, second)
    smooth += math.exp(hyper.product) * products(interactions(hyper, first.shape[1]), first, second)
    return np.asarray(math.exp(hyper.signal) * matern + smooth)


def variances(hyper: Hyperparameters, points: Array) -> Array:
    """Return the diagonal of `kernel(hyper, points, points)`."""
    growth = (1.0 + 2.0 * (points**2).sum(axis=1) / points.shape[1]) ** 2
    sizes = interactions(hyper, points.shape[1])
    product = ((1.0 + sizes * (1.0 + 2.0 * points**2) ** 2) / (1.0 + sizes)).prod(axis=1)
    return np.asarray(math.exp(hyper.signal) + math.exp(hyper.quadratic) * growth + math.exp(hyper.product) * product)


def negative_log_posterior(vector: Array, points: Array, values: Array) -> tuple[float, Array]:
    """Return -log p(values, hyperparameters) up to a constant, and its gradient; `points` N x n, `values` N."""
    hyper = Hyperparameters.of(vector)
    count, dimensions = points.shape
    scaled = points / np.exp(np.array(hyper.lengths))
    root = np.sqrt(5.0 * squared_distances(scaled, scaled))
    decay = math.exp(hyper.signal) * np.exp(-root)
    matern = (1.0 + root + root**2 / 3.0) * decay
    quadratic = math.exp(hyper.quadratic) * trend(points, points)
    sizes = interactions(hyper, dimensions)
    product = math.exp(hyper.product) * products(sizes, points, points)
    noise = math.exp(hyper.noise)
    covariance = matern + quadratic + product + (noise + JITTER) * np.eye(count)
    factor = cholesky(covariance, lower=True, check_finite=False)
    weights = cho_solve((factor, True), values, check_finite=False)
    inverse = cho_solve((factor, True), np.eye(count), check_finite=False)
    pull = 0.5 * (inverse - np.outer(weights, weights))  # d(-log evidence) / dK
    # d matern / d log length_d = 5/3 (1 + root) decay (x_d - x'_d)^2 / length_d^2, summed without an N x N x n array
    slope = pull * (5.0 / 3.0) * (1.0 + root) * decay
    lengths = 2.0 * (slope.sum(axis=1) @ scaled**2 - (scaled * (slope @ scaled)).sum(axis=0))
    # d log factor / d log s = (1 - 1 / factor) / (1 + s)
    pulled = pull * product
    slopes = np.array([(pulled - pulled / part).sum() for part in factors(sizes, points, points)]) / (1.0 + sizes)
    if len(hyper.lengths) < dimensions:
        lengths, slopes = lengths.sum(keepdims=True), slopes.sum(keepdims=True)
    of_variances = [(pull * matern).sum(), (pull * quadratic).sum(), pulled.sum(), noise * np.trace(pull)]
    gradient = np.array([*lengths, *slopes, *of_variances])
    evidence = 0.5 * values @ weights + np.log(np.diag(factor)).sum()
    deviations, scales = _from_prior(vector, dimensions)
    return float(evidence + 0.5 * (deviations**2).sum()), gradient + deviations / scales


def fit(points: Array, values: Array) -> Hyperparameters:
    """Return the most probable hyperparameters of N values (mean about 0, variance about 1).

    The search starts from the same place each time, so that the result depends on the data alone.
    """
    first = start(points.shape[1])
    least, most = (prior_of_interactions(points.shape[1]) + bound for bound in LOG_INTERACTION_BOUNDS)
    bounds = [LOG_LENGTH_BOUNDS] * len(first.lengths) + [(least, most)] * len(first.interactions)
    bounds += [LOG_VARIANCE_BOUNDS] * len(VARIANCE_PRIORS)
    found = minimize(
        negative_log_posterior,
        first.vector(),
        args=(points, values),
        jac=True,
        method="L-BFGS-B",
        bounds=bounds,
        options={"maxiter": MAX_FIT_ITERATIONS},
    )
    return Hyperparameters.of(found.x)


def _from_prior(vector: Array, dimensions: int) -> tuple[Array, Array]:
    count = (len(vector) - len(VARIANCE_PRIORS)) // 2
    priors = [(prior_of_lengths(dimensions), LENGTH_PRIOR_DEVIATION)] * count
    priors += [(prior_of_interactions(dimensions), INTERACTION_PRIOR_DEVIATION)] * count
    means, scales = np.array([*priors, *VARIANCE_PRIORS]).T
    return (vector - means) / scales, scales


class MaternProcess:
    """The posterior of a function with values (N, mean about 0, variance about 1) at `points` (N x n)."""

    def __init__(self, hyper: Hyperparameters, points: Array, values: Array) -> None:
        self._hyper = hyper
        self._points = points
        covariance = kernel(hyper, points, points) + (math.exp(hyper.noise) + JITTER) * np.eye(len(points))
        self._factor = cholesky(covariance, lower=True, check_finite=False)
        self._weights = cho_solve((self._factor, True), values, check_finite=False)

    def left_out(self) -> Array:
        """Return the log density of each of the N values given all others (Rasmussen and Williams, 5.10 to 5.12)."""
        precision = np.diag(cho_solve((self._factor, True), np.eye(len(self._points)), check_finite=False))
        return np.asarray(0.5 * (np.log(precision) - self._weights**2 / precision - math.log(2.0 * math.pi)))

    def mean(self, points: Array) -> Array:
        """Return the means of the noise-free values at P x n points."""
        return np.asarray(kernel(self._hyper, points, self._points) @ self._weights)

    def posterior(self, points: Array) -> tuple[Array, Array]:
        """Return means and standard deviations (above 0) of the noise-free values at P x n points."""
        covariance = kernel(self._hyper, self._points, points)
        explained = solve_triangular(self._factor, covariance, lower=True, check_finite=False)
        spread = variances(self._hyper, points) - (explained**2).sum(axis=0)
        return np.asarray(self._weights @ covariance), np.sqrt(np.maximum(spread, 1e-12))

    def with_pending(self, points: Array) -> "MaternProcess":
        """Return the process that takes P x n points without a result to have given their means (kriging believer)."""
        mean = self.mean(points)
        values = self._factor @ (self._factor.T @ self._weights)
        return MaternProcess(self._hyper, np.vstack([self._points, points]), np.concatenate([values, mean]))
