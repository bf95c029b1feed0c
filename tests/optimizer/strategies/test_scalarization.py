import pytest

from optimizer.strategies.scalarization import TchebycheffScale, weighted_mean


def test_the_weighted_mean_is_that_of_the_weights() -> None:
    assert weighted_mean((1.0, 3.0, 100.0), (3.0, 1.0, 0.0)) == 1.5


def test_the_distance_is_the_largest_scaled_loss_and_a_twentieth_of_their_sum() -> None:
    scale = TchebycheffScale((1.0, 3.0))
    scale.widen([(0.0, -100.0), (2.0, 100.0)])
    assert scale.distance((1.0, 0.0)) == pytest.approx(0.375 + 0.05 * (0.125 + 0.375))
    assert scale.distance((0.0, -100.0)) == 0.0


def test_the_range_only_grows_and_needs_two_values() -> None:
    scale = TchebycheffScale((1.0, 1.0))
    scale.widen([(5.0, 1.0)])
    assert scale.distance((5.0, 1.0)) == 0.0
    scale.widen([(5.0, 3.0)])
    scale.widen([(5.0, 2.0)])
    assert scale.distance((5.0, 2.0)) == pytest.approx(0.5 * 0.5 * 1.05)
