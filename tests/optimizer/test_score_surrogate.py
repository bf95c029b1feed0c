"""The surrogate of scores on smooth functions with noise: how good it is, how sure, and that it owns no chance."""

import numpy as np
import pytest

from optimizer.score_surrogate import MIN_TRIALS, ScoreSurrogate

NOISE = 0.02


def losses_at(point, generator):
    """Two smooth losses with noise, of different size."""
    x, y, z = point
    first = (x - 0.3) ** 2 + 0.5 * (y - 0.7) ** 2 + 0.3 * x * z
    second = 100.0 + 10.0 * np.sin(2.0 * y) + 5.0 * z
    return (first + NOISE * generator.normal(), second + 10.0 * NOISE * generator.normal())


def taught(count, seed=0, change=lambda index, losses: losses):
    generator = np.random.default_rng(seed)
    surrogate = ScoreSurrogate()
    for index in range(count):
        point = tuple(generator.random(3).tolist())
        surrogate.learn(point, change(index, losses_at(point, generator)))
    return surrogate


def errors(surrogate, seed=9, count=100):
    """Return errors and stated deviations (count x 2) at new points."""
    generator = np.random.default_rng(seed)
    points = [tuple(generator.random(3).tolist()) for _ in range(count)]
    beliefs = [surrogate.believe(point) for point in points]
    truths = np.array([losses_at(point, generator) for point in points])
    means = np.array([[belief.mean for belief in each] for each in beliefs])
    return means - truths, np.array([[belief.deviation for belief in each] for each in beliefs])


def test_nothing_is_believed_before_enough_was_learnt():
    assert taught(MIN_TRIALS - 1).believe((0.5, 0.5, 0.5)) is None
    beliefs = taught(MIN_TRIALS).believe((0.5, 0.5, 0.5))
    assert len(beliefs) == 2
    assert all(belief.deviation > 0 for belief in beliefs)


def test_a_smooth_function_is_known_down_to_its_noise_and_the_doubt_is_right():
    wrong, stated = errors(taught(60))
    assert np.sqrt((wrong**2).mean(axis=0)) == pytest.approx([NOISE, 10 * NOISE], rel=0.5)
    assert np.sqrt((wrong**2 / stated**2).mean(axis=0)) == pytest.approx([1.0, 1.0], abs=0.35)


def test_more_trials_say_more_and_doubt_less():
    (few, few_stated), (many, many_stated) = errors(taught(MIN_TRIALS)), errors(taught(60))
    assert ((many**2).mean(axis=0) < 0.5 * (few**2).mean(axis=0)).all()
    assert (many_stated.mean(axis=0) < few_stated.mean(axis=0)).all()


def test_a_function_of_what_was_learnt_however_often_it_was_asked():
    """One is asked after every trial, the other only at the end: a loop that starts again judges alike."""
    point = (0.2, 0.4, 0.6)
    generator = np.random.default_rng(4)
    asked, fresh = ScoreSurrogate(), ScoreSurrogate()
    for _ in range(30):
        at = tuple(generator.random(3).tolist())
        losses = losses_at(at, generator)
        asked.learn(at, losses)
        asked.believe(point)
        fresh.learn(at, losses)
    np.random.seed(1)
    assert asked.believe(point) == fresh.believe(point)


@pytest.mark.parametrize("loss", [1e30, 1e250])
def test_a_few_diverged_trials_do_not_flatten_the_others(loss):
    def diverge(index, losses):
        return (loss, losses[1]) if index in (5, 20, 33) else losses

    wrong, stated = errors(taught(60, change=diverge))
    undisturbed, _ = errors(taught(60))
    assert (wrong[:, 1] == undisturbed[:, 1]).all()  # of the other loss the same is believed
    spread = 0.2  # of the first loss over the cube
    assert np.median(np.abs(wrong[:, 0])) < spread
    assert (stated[:, 0] < 3 * spread).all()
    assert np.sqrt((wrong[:, 0] ** 2 / stated[:, 0] ** 2).mean()) < 1.3


def test_where_half_of_all_diverge_everything_stays_finite_and_doubtful():
    surrogate = taught(40, change=lambda index, losses: (1e250, losses[1]) if index % 2 else losses)
    first, second = surrogate.believe((0.5, 0.5, 0.5))
    assert np.isfinite([first.mean, first.deviation, second.mean, second.deviation]).all()
    assert first.deviation > 1.0


def test_a_constant_loss_is_believed_as_it_is():
    belief = taught(20, change=lambda index, losses: (0.25, losses[1])).believe((0.1, 0.9, 0.5))[0]
    assert abs(belief.mean - 0.25) <= 2 * belief.deviation
