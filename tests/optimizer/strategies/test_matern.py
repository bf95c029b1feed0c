"""The Gaussian process against direct formulas, finite differences and its own data."""

import math

import numpy as np
import pytest
from scipy.stats import multivariate_normal, norm

from optimizer.strategies import matern
from optimizer.strategies.matern import Hyperparameters, MaternProcess

POINTS = np.random.default_rng(1).random((12, 3)) - 0.5
VALUES = np.sin(5.0 * POINTS[:, 0]) + POINTS[:, 1] ** 2
HYPER = Hyperparameters((-0.7, 0.2, 0.9), (-1.0, 0.4, -2.5), 0.3, -1.5, -0.6, -3.0)


def covariance(first, second):
    """Return the covariance of two points, written out as in the papers."""
    distance = math.sqrt(
        sum(((a - b) / math.exp(h)) ** 2 for a, b, h in zip(first, second, HYPER.lengths, strict=True))
    )
    rough = (1 + math.sqrt(5) * distance + 5 * distance**2 / 3) * math.exp(-math.sqrt(5) * distance)
    quadratic = (1 + 2 * sum(a * b for a, b in zip(first, second, strict=True)) / 3) ** 2
    product = 1.0
    for a, b, h in zip(first, second, HYPER.interactions, strict=True):
        product *= (1 + math.exp(h) * (1 + 2 * a * b) ** 2) / (1 + math.exp(h))
    variances = (math.exp(part) for part in (HYPER.signal, HYPER.quadratic, HYPER.product))
    return sum(variance * part for variance, part in zip(variances, (rough, quadratic, product), strict=True))


def covariances(first, second):
    return np.array([[covariance(a, b) for b in second] for a in first])


def noisy():
    return covariances(POINTS, POINTS) + (math.exp(HYPER.noise) + matern.JITTER) * np.eye(len(POINTS))


def test_the_posterior_is_that_of_the_formula():
    new = np.random.default_rng(2).random((5, 3)) - 0.5
    gain = covariances(new, POINTS) @ np.linalg.inv(noisy())
    spread = np.diag(covariances(new, new) - gain @ covariances(POINTS, new))
    process = MaternProcess(HYPER, POINTS, VALUES)
    means, deviations = process.posterior(new)
    assert means == pytest.approx(gain @ VALUES)
    assert process.mean(new) == pytest.approx(means)
    assert deviations == pytest.approx(np.sqrt(spread))


def test_a_value_left_out_is_as_dense_as_without_it():
    process = MaternProcess(HYPER, POINTS, VALUES)
    for index in (0, 7):
        others = np.arange(len(POINTS)) != index
        means, deviations = MaternProcess(HYPER, POINTS[others], VALUES[others]).posterior(POINTS[[index]])
        spread = math.sqrt(deviations[0] ** 2 + math.exp(HYPER.noise) + matern.JITTER)
        assert process.left_out()[index] == pytest.approx(norm(means[0], spread).logpdf(VALUES[index]))


def test_pending_points_keep_the_means_and_take_the_doubt():
    new = np.random.default_rng(3).random((4, 3)) - 0.5
    process = MaternProcess(HYPER, POINTS, VALUES)
    believing = process.with_pending(new)
    assert believing.mean(new) == pytest.approx(process.mean(new), abs=1e-9)
    assert (believing.posterior(new)[1] < process.posterior(new)[1]).all()


def test_the_fitted_quantity_is_the_evidence_with_the_priors():
    vector = HYPER.vector()
    cost, _ = matern.negative_log_posterior(vector, POINTS, VALUES)
    other, _ = matern.negative_log_posterior(vector + 0.0, POINTS, 2.0 * VALUES)
    density = multivariate_normal(np.zeros(len(POINTS)), noisy())
    assert other - cost == pytest.approx(density.logpdf(VALUES) - density.logpdf(2.0 * VALUES))


@pytest.mark.parametrize("dimensions", [3, matern.MAX_LENGTH_SCALES + 1])
def test_the_gradient_is_that_of_finite_differences(dimensions):
    points = np.random.default_rng(4).random((12, dimensions))
    vector = matern.start(dimensions).vector() + 0.1
    _, gradient = matern.negative_log_posterior(vector, points, VALUES)
    assert len(vector) == 2 * (dimensions if dimensions <= matern.MAX_LENGTH_SCALES else 1) + 4
    for index, step in enumerate(1e-5 * np.eye(len(vector))):
        above, below = (matern.negative_log_posterior(vector + sign * step, points, VALUES)[0] for sign in (1, -1))
        assert gradient[index] == pytest.approx((above - below) / 2e-5, rel=1e-4, abs=1e-6)


def test_a_fit_finds_what_matters_and_how_noisy_it_is():
    generator = np.random.default_rng(5)
    points = generator.random((80, 4))
    values = np.sin(6.0 * points[:, 1])
    values = (values - values.mean()) / values.std() + 0.1 * generator.standard_normal(80)
    hyper = matern.fit(points, values)
    assert np.argmin(hyper.lengths) == 1
    assert min(np.delete(hyper.lengths, 1)) > hyper.lengths[1] + math.log(3.0)
    assert 0.003 < math.exp(hyper.noise) < 0.03


def test_what_a_coordinate_does_is_known_where_no_point_is():
    """As on DTLZ2: a factor of each of two coordinates, and a sum of squares over the rest that multiplies both."""

    def loss(points):
        waves = np.cos(1.5 * (points[:, 0] + 0.5)) * np.sin(1.5 * (points[:, 1] + 0.5))
        return waves * (1.0 + (points[:, 2:] ** 2).sum(axis=1))

    generator = np.random.default_rng(7)
    points = generator.random((60, 8)) - 0.5
    new = generator.random((200, 8)) - 0.5
    new[:100, 2:] *= 0.3  # the middle
    new[100:, 2:] = np.where(generator.random((100, 6)) < 0.5, -0.5, 0.5)  # edges of the cube
    centre, spread = loss(points).mean(), loss(points).std()
    values, truth = (loss(points) - centre) / spread, (loss(new) - centre) / spread
    means, deviations = MaternProcess(matern.fit(points, values), points, values).posterior(new)
    for part in (slice(0, 100), slice(100, 200)):
        errors = (means - truth)[part]
        assert np.sqrt((errors**2).mean()) < 0.5 * truth[part].std()
        assert np.sqrt(((errors / deviations[part]) ** 2).mean()) < 3.5


@pytest.mark.parametrize("dimensions", [8, 32, 100])
def test_no_fit_ends_in_an_error_where_all_points_are_corners(dimensions):
    generator = np.random.default_rng(7)
    points = np.where(generator.random((60, dimensions)) < 0.5, -0.5, 0.5)
    for values in (points.prod(axis=1) * 2.0**dimensions, generator.standard_normal(60), np.zeros(60)):
        means, deviations = MaternProcess(matern.fit(points, values), points, values).posterior(-points)
        assert np.isfinite(means).all()
        assert (deviations > 0.0).all()
