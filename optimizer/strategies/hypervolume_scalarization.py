"""The hypervolume as a mean over directions, and from it the expected improvement for any number of objectives.

HV(Y) = c_m E_d[max_y min_i max(0, (r_i - y_i) / d_i)^m] with d uniform on the positive part of the unit sphere
(arXiv 2006.04655, lemma 5). In a direction d the gain of a candidate with independent normal losses is an integral over
the length t of the ray from the reference point, for P(min_i (r_i - y_i) / d_i > t) = prod_i Phi((r_i - d_i t - mu_i) /
sigma_i). Losses are minimised and the reference point r is 1 in every objective.
"""

import math
from typing import Any

import numpy as np
from scipy.special import ndtr, ndtri
from scipy.stats import qmc

Array = np.ndarray[Any, np.dtype[np.float64]]

NODES, WEIGHTS = (np.polynomial.legendre.leggauss(6) + np.array([[1.0], [0.0]])) / 2.0  # of [0, 1]
SURE = 3.5  # standard deviations


def directions(objectives: int, count: int, generator: np.random.Generator) -> Array:
    """Return `count` (a power of 2) well-spread directions of the positive part of the unit sphere, count x m."""
    if objectives == 1:
        return np.ones((1, 1))
    seed = int(generator.integers(2**32))
    uniform = qmc.Sobol(objectives, scramble=True, rng=seed).random(count)
    normal = np.abs(ndtri(np.clip(uniform, 1e-9, 1.0 - 1e-9)))
    normal = np.maximum(normal, 1e-6)
    return np.asarray(normal / np.sqrt((normal**2).sum(axis=1, keepdims=True)))


def lengths(losses: Array, rays: Array) -> Array:
    """Return how far each of the rays (L x m) from the reference point is covered by N x m losses: L, at least 0."""
    if len(losses) == 0:
        return np.zeros(len(rays))
    covered = ((1.0 - losses)[:, None, :] / rays[None, :, :]).min(axis=2).max(axis=0)
    return np.asarray(np.maximum(covered, 0.0))


def hypervolume_estimate(losses: Array, rays: Array) -> float:
    """Return the hypervolume of N x m losses against the reference point 1, estimated over L x m rays."""
    objectives = rays.shape[1]
    constant = math.pi ** (objectives / 2.0) / (2.0**objectives * math.gamma(objectives / 2.0 + 1.0))
    return float(constant * (lengths(losses, rays) ** objectives).mean())


def expected_improvement(means: Array, deviations: Array, covered: Array, rays: Array) -> Array:
    """Return the expected growth of the hypervolume by each of P candidates, up to the constant c_m: P, at least 0.

    `means` and `deviations` are P x m, `covered` is what `lengths` gives for the front, `rays` L x m. Gauss-Legendre
    quadrature between the covered length and the longest that is not improbable.
    """
    objectives = rays.shape[1]
    shifts, slopes = (1.0 - means) / deviations, 1.0 / deviations
    reach = np.full((len(means), len(rays)), np.inf)
    for index in range(objectives):  # objective by objective: a last axis of a few numbers would be slow
        best = 1.0 - means[:, index] + SURE * deviations[:, index]
        reach = np.minimum(reach, best[:, None] / rays[None, :, index])
    reach = np.maximum(reach - covered, 0.0)
    total = np.zeros_like(reach)
    for node, weight in zip(NODES, WEIGHTS, strict=True):
        length = covered + reach * node
        density = weight * objectives * length ** (objectives - 1)
        for index in range(objectives):
            density *= ndtr(shifts[:, index, None] - (slopes[:, index, None] * rays[None, :, index]) * length)
        total += density
    return np.asarray((total * reach).mean(axis=1))
