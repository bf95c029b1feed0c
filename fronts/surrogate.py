"""A quadratic surrogate of losses over the parameters of a merge, with what cross-validation says of it.

Task scores are close to quadratic in the merge weights (MAP, arXiv 2406.07529). Ridge regression on all products of two
parameters, by the kernel (1 + x·x'/d)^2 over parameters scaled to mean 0 and standard deviation 1.
"""

from dataclasses import dataclass
from typing import Self

import numpy as np

from fronts.items import Floats

RIDGES = np.logspace(-6, 2, 17)
FOLDS = 10
MOST_LEVERAGE = 1 - 1e-9  # a trial that alone decides its own prediction
SEED = 0


@dataclass(frozen=True)
class Surrogate:
    """A fitted surrogate of m losses over d parameters."""

    centre: Floats
    scale: Floats
    known: Floats
    coefficients: Floats
    means: Floats

    @classmethod
    def fit(cls, parameters: Floats, losses: Floats) -> Self:
        """Fit to n trials: parameters n x d, losses n x m.

        Each loss has its own ridge, the one of least leave-one-out error.
        """
        centre, spread = parameters.mean(axis=0), parameters.std(axis=0)
        scale = np.where(spread > 0, spread, 1.0)
        known, means = (parameters - centre) / scale, losses.mean(axis=0)
        eigenvalues, vectors = np.linalg.eigh(_kernel(known, known))
        eigenvalues = np.maximum(eigenvalues, 0.0)
        projected = vectors.T @ (losses - means)
        errors = np.stack([left_out_errors(eigenvalues, vectors, losses - means, ridge) for ridge in RIDGES])
        ridges = RIDGES[errors.argmin(axis=0)]
        coefficients = vectors @ (projected / (eigenvalues[:, None] + ridges))
        return cls(centre, scale, known, coefficients, means)

    def predict(self, parameters: Floats) -> Floats:
        """Return the losses (k x m) at parameters (k x d)."""
        predicted: Floats = _kernel((parameters - self.centre) / self.scale, self.known) @ self.coefficients
        return predicted + self.means


@dataclass(frozen=True)
class CrossValidation:
    """What surrogates fitted without a tenth of the trials say of that tenth.

    `r_squared` (m) is 1 - squared error / variance, NaN where all losses are equal; `importance` (m x d) is by how much
    the error grows, over the variance, when a parameter is permuted over the trials (Breiman, Machine Learning 45,
    2001).
    """

    r_squared: Floats
    importance: Floats


def cross_validate(parameters: Floats, losses: Floats, permutations: int = 10) -> CrossValidation:
    """Return the ten-fold cross-validation over n trials: parameters n x d, losses n x m. Its seed is fixed.

    Where parameters depend on each other, as weights that sum to one do, permuting one leaves the merges that were
    tried: its importance is then that to the surrogate, which has to extrapolate.
    """
    generator = np.random.default_rng(SEED)
    trials, count = parameters.shape
    folds = generator.permutation(trials) % FOLDS
    orders = [generator.permutation(trials) for _ in range(permutations)]
    errors = np.zeros(losses.shape[1])
    permuted = np.zeros((losses.shape[1], count))
    for fold in range(FOLDS):
        out = folds == fold
        if not out.any():
            continue
        surrogate = Surrogate.fit(parameters[~out], losses[~out])
        errors += _squared(surrogate, parameters[out], losses[out])
        for column in range(count):
            for order in orders:
                changed = parameters[out].copy()
                changed[:, column] = parameters[order, column][out]
                permuted[:, column] += _squared(surrogate, changed, losses[out]) / permutations
    total = np.square(losses - losses.mean(axis=0)).sum(axis=0)
    total = np.where(total > 0, total, np.nan)
    return CrossValidation(1 - errors / total, (permuted - errors[:, None]) / total[:, None])


def left_out_errors(eigenvalues: Floats, vectors: Floats, losses: Floats, ridge: float) -> Floats:
    """Return the mean squared leave-one-out error (m) of kernel ridge regression on centred losses (n x m).

    The kernel matrix K is given by its eigenvalues (n) and vectors (n x n, in columns). The error of trial i is
    residual_i / (1 - H_ii) with H = K (K + ridge)^-1: Allen, Technometrics 16 (1974).
    """
    kept = eigenvalues / (eigenvalues + ridge)
    residuals = losses - vectors @ (kept[:, None] * (vectors.T @ losses))
    leverage = np.minimum(np.square(vectors) @ kept, MOST_LEVERAGE)
    errors: Floats = np.square(residuals / (1 - leverage)[:, None]).mean(axis=0)
    return errors


def _kernel(one: Floats, other: Floats) -> Floats:
    kernel: Floats = np.square(1 + one @ other.T / one.shape[1])
    return kernel


def _squared(surrogate: Surrogate, parameters: Floats, losses: Floats) -> Floats:
    errors: Floats = np.square(surrogate.predict(parameters) - losses).sum(axis=0)
    return errors
