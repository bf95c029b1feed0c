"""The Karcher mean of checkpoints' directions (H. Karcher, "Riemannian center of mass", 1977)."""

import math
from typing import ClassVar

import numpy as np
import torch

from campaigns.methods import KarcherMerge, Method
from merging.methods.method import Block, Numbers, lone_source, weighted_sum
from merging.methods.spherical import MIN_LENGTH, Matrix, Vector, as_floats, directions, inverse_lengths, lengths
from merging.tensor_facts import TensorFacts


class Karcher:
    """(sum_i a_i ||theta_i||) * m, a_i = w_i / sum w, m on the sphere where sum_i a_i log_m(u_i) = 0."""

    per_tensor: ClassVar[bool] = True
    skips_zero_weights: ClassVar[bool] = False

    def numbers(self, method: Method, facts: TensorFacts) -> Numbers:
        """Return the K weights of the sources."""
        assert isinstance(method, KarcherMerge)
        products = facts.dot_products()
        shares = np.array(method.weights) / np.sum(method.weights)
        mean = _mean(directions(products), shares, method.max_iterations, method.tolerance)
        return Numbers(as_floats(mean * inverse_lengths(products) * (shares @ lengths(products))))

    def formula(self, block: Block) -> torch.Tensor:
        """Return the weighted sum in float32."""
        return weighted_sum(block.sources, block)

    def verbatim(self, method: Method) -> int | None:
        """Return the only source with a weight."""
        assert isinstance(method, KarcherMerge)
        return lone_source(method.weights)


def _mean(cosines: Matrix, shares: Vector, max_iterations: int, tolerance: float) -> Vector:
    """Return the mean direction m = sum_i c_i u_i as its c_i, from <u_i, u_j>; starts along sum_i a_i u_i."""
    mean = _unit(shares, cosines)
    for _ in range(max_iterations):
        along = np.clip(cosines @ mean, -1.0, 1.0)
        angles = np.arccos(along)
        sines = np.sin(angles)
        stretch = shares * np.divide(angles, sines, out=np.ones_like(angles), where=sines > 1e-12)
        tangent = stretch - (stretch @ along) * mean
        length = _length(tangent, cosines)
        if length < tolerance:
            break
        mean = _unit(np.cos(length) * mean + np.sin(length) / length * tangent, cosines)
    return mean


def _unit(weights: Vector, cosines: Matrix) -> Vector:
    length = _length(weights, cosines)
    return weights / length if length > MIN_LENGTH * np.abs(weights).sum() else np.zeros_like(weights)


def _length(weights: Vector, cosines: Matrix) -> float:
    return math.sqrt(max(float(weights @ cosines @ weights), 0.0))
