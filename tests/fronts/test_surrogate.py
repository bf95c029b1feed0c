import numpy as np
import pytest

from fronts.surrogate import Surrogate, cross_validate, left_out_errors

RNG_SEED = 3


@pytest.fixture
def quadratic():
    """Parameters (90 x 3) and losses (90 x 2) that are quadratic in the first two, with the third without a say."""
    parameters = np.random.default_rng(RNG_SEED).uniform(-1, 2, (90, 3))
    a, b, _ = parameters.T
    return parameters, np.column_stack([3 + a * b - 2 * b**2, 5 * a])


def test_a_quadratic_is_found_again_and_extrapolated(quadratic):
    surrogate = Surrogate.fit(*quadratic)
    points = np.array([[0.5, 0.5, 0.0], [3.0, -2.0, 9.0]])
    np.testing.assert_allclose(surrogate.predict(points), [[2.75, 2.5], [-11.0, 15.0]], atol=1e-3)


def test_cross_validation_of_a_quadratic(quadratic):
    found = cross_validate(*quadratic)
    assert found.r_squared == pytest.approx([1.0, 1.0], abs=1e-4)
    product, line = found.importance
    assert min(product[:2]) > 0.3
    assert line[0] == pytest.approx(2.0, abs=0.3)  # two draws of one variable differ by twice its variance
    assert abs(product[2]) < 1e-3
    assert max(abs(line[1:])) < 1e-3


def test_noise_is_not_predicted(quadratic):
    noise = np.random.default_rng(5).normal(size=(90, 1))
    found = cross_validate(quadratic[0], noise)
    assert found.r_squared[0] < 0.05
    assert (np.abs(found.importance) < 0.2).all()


def test_the_error_of_trials_left_out_is_that_of_fitting_without_each(quadratic):
    parameters, losses = quadratic[0][:25], quadratic[1][:25] - quadratic[1][:25].mean(axis=0)
    kernel = np.square(1 + parameters @ parameters.T / 3)
    for ridge in (0.01, 1.0):
        errors = []
        for out in range(25):
            rest = np.delete(np.arange(25), out)
            fitted = np.linalg.solve(kernel[np.ix_(rest, rest)] + ridge * np.eye(24), losses[rest])
            errors.append(np.square(kernel[out, rest] @ fitted - losses[out]))
        np.testing.assert_allclose(left_out_errors(*np.linalg.eigh(kernel), losses, ridge), np.mean(errors, axis=0))


def test_noisy_losses_are_smoothed_and_exact_ones_met(quadratic):
    parameters, losses = quadratic
    noisy = losses[:, :1] + np.random.default_rng(7).normal(0, 3, (90, 1))
    exact = Surrogate.fit(parameters, losses[:, :1])
    smooth = Surrogate.fit(parameters, noisy)
    held_out = np.random.default_rng(8).uniform(-1, 2, (500, 3))
    a, b, _ = held_out.T
    truth = 3 + a * b - 2 * b**2
    assert np.abs(exact.predict(held_out)[:, 0] - truth).max() < 1e-2
    assert np.square(smooth.predict(held_out)[:, 0] - truth).mean() < 0.5 * truth.var()


def test_a_loss_without_variance_has_no_r_squared(quadratic):
    found = cross_validate(quadratic[0], np.ones((90, 1)))
    assert np.isnan(found.r_squared).all()


def test_a_parameter_that_never_varies_does_no_harm(quadratic):
    parameters, losses = quadratic
    fixed = np.column_stack([parameters, np.full(90, 0.7)])
    assert cross_validate(fixed, losses).r_squared == pytest.approx([1.0, 1.0], abs=1e-4)


def test_the_same_numbers_every_time(quadratic):
    first, second = (cross_validate(*quadratic) for _ in range(2))
    assert first.importance.tolist() == second.importance.tolist()
