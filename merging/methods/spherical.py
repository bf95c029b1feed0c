"""What the methods on the sphere share: they are weighted sums whose weights follow from angles and lengths.

A tensor's sources x_i (task vectors, where there is a base) are looked at through their dot products alone, so finding
the weights costs no pass over the tensor.
"""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import torch

from merging.methods.method import Block, weighted_sum

MIN_LENGTH = 1e-6
"""Directions whose weighted sum is shorter than this share of their weights cancel out: what is left is rounding."""
Vector = npt.NDArray[np.float64]
Matrix = npt.NDArray[np.float64]


def lengths(products: Matrix) -> Vector:
    """Return ||x_i|| from <x_i, x_j>."""
    found: Vector = np.sqrt(np.maximum(np.diag(products), 0.0))
    return found


def directions(products: Matrix) -> Matrix:
    """Return <u_i, u_j>, u_i = x_i / ||x_i||; 0 for an x_i of length 0."""
    inverse = inverse_lengths(products)
    return np.clip(products * inverse[:, None] * inverse[None, :], -1.0, 1.0)


def inverse_lengths(products: Matrix) -> Vector:
    """Return 1 / ||x_i||, 0 for an x_i of length 0."""
    norms = lengths(products)
    found: Vector = np.divide(1.0, norms, out=np.zeros_like(norms), where=norms > 0)
    return found


def slerp_weights(products: Matrix, t: float, min_sine: float) -> list[float]:
    """Return sin((1 - t) a) / sin a and sin(t a) / sin a, a the angle between x_0 and x_1.

    Below `min_sine`, and where one of them has no direction, it is 1 - t and t.
    """
    angle = float(np.arccos(directions(products)[0, 1]))
    sine = float(np.sin(angle))
    if sine < min_sine or not products.diagonal().all():
        return [1.0 - t, t]
    return [float(np.sin((1.0 - t) * angle)) / sine, float(np.sin(t * angle)) / sine]


def weighted_vectors(block: Block) -> torch.Tensor:
    """Return sum_i c_i x_i, added to theta_0 where there is a base; float32. The first floats are the c_i."""
    if block.base is None:
        return weighted_sum(block.sources, block)
    return block.origin() + weighted_sum(block.task_vectors(), block)


def as_floats(weights: Vector) -> Sequence[float]:
    """Return the weights as plain numbers."""
    found: list[float] = weights.tolist()
    return found
