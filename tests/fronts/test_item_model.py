"""The model of items against the same Gaussian written out in full, and against trials whose truth is known."""

import numpy as np
import pytest

from fronts.item_model import ABILITY, LEAST_SHARE, MIN_TRIALS, SHRINKAGE, TINY, Belief, ItemModel

TRIALS, ITEMS = 9, 30


@pytest.fixture
def outcomes():
    """Noughts and ones of trials of several abilities; some items are always right, some always wrong."""
    generator = np.random.default_rng(3)
    difficulty = np.concatenate([generator.normal(size=ITEMS - 4), [-9.0, -9.0, 9.0, 9.0]])
    ability = generator.normal(size=(TRIALS, 1))
    return (ability + 0.5 * generator.normal(size=(TRIALS, ITEMS)) > difficulty).astype(float)


def covariance_of(outcomes):
    """Return the covariance (items x items) that the model stands for."""
    sample = np.cov(outcomes, rowvar=False)
    variances = np.diag(sample)
    own = np.maximum(SHRINKAGE * variances, LEAST_SHARE * variances.mean() + TINY)
    common = ABILITY * outcomes.mean(axis=1).var(ddof=1)
    return (1 - SHRINKAGE) * sample + np.diag(own) + common


def written_out(outcomes, observed, seen):
    """Return mean and deviation of the mean over all items, given some, by conditioning the whole distribution.

    The deviation is the Gaussian's, stretched where the outcomes lie farther from the mean than it expects.
    """
    covariance, means = covariance_of(outcomes), outcomes.mean(axis=0)
    rest = [item for item in range(outcomes.shape[1]) if item not in observed]
    gain = covariance[np.ix_(rest, observed)] @ np.linalg.inv(covariance[np.ix_(observed, observed)])
    expected = means[rest] + gain @ (seen - means[observed])
    left = covariance[np.ix_(rest, rest)] - gain @ covariance[np.ix_(observed, rest)]
    items, freedom = outcomes.shape[1], len(outcomes) - 1
    residuals = seen - means[observed]
    misfit = residuals @ np.linalg.inv(covariance[np.ix_(observed, observed)]) @ residuals
    stretch = max(1.0, (freedom + misfit) / (freedom + len(observed)))
    return (seen.sum() + expected.sum()) / items, np.sqrt(left.sum() * stretch) / items


@pytest.mark.parametrize("observed", [[0], [29, 3, 27], list(range(0, 30, 2)), list(range(29))])
def test_the_mean_given_some_items_is_that_of_the_whole_distribution(outcomes, observed):
    generator = np.random.default_rng(len(observed))
    for seen in (outcomes[0, observed], generator.normal(0.5, 1.0, len(observed))):
        belief = ItemModel(outcomes).mean_of_all(observed, seen)
        mean, deviation = written_out(outcomes, observed, seen)
        assert belief.mean == pytest.approx(mean, abs=1e-9)
        assert belief.deviation == pytest.approx(deviation, rel=1e-6)


def test_a_trial_that_saw_all_items_has_their_mean_and_no_deviation(outcomes):
    seen = np.random.default_rng(0).random(ITEMS)
    order = np.random.default_rng(1).permutation(ITEMS)
    belief = ItemModel(outcomes).mean_of_all(order.tolist(), seen[order])
    assert belief.mean == pytest.approx(seen.mean(), abs=1e-12)
    assert belief.deviation == 0.0


def test_a_trial_that_saw_nothing_is_believed_to_be_as_the_known_ones(outcomes):
    belief = ItemModel(outcomes).mean_of_all([], np.empty(0))
    assert belief.mean == pytest.approx(outcomes.mean(), abs=1e-12)
    assert belief.deviation == pytest.approx(np.sqrt(covariance_of(outcomes).mean()))


def test_the_most_telling_items_are_those_of_a_greedy_search_through_all(outcomes):
    outcomes = outcomes + 0.2 * np.random.default_rng(2).normal(size=outcomes.shape)  # no two items alike
    covariance = covariance_of(outcomes)
    chosen, left = [], covariance
    for _ in range(8):
        gains = np.full(ITEMS, -1.0)
        for item in set(range(ITEMS)) - set(chosen):
            gains[item] = left.sum() - (left - np.outer(left[item], left[item]) / left[item, item]).sum()
        chosen.append(int(np.argmax(gains)))
        left = left - np.outer(left[chosen[-1]], left[chosen[-1]]) / left[chosen[-1], chosen[-1]]
    assert ItemModel(outcomes).most_telling(8) == chosen


def test_the_most_telling_items_are_each_named_once_and_at_most_all(outcomes):
    assert sorted(ItemModel(outcomes).most_telling(1000)) == list(range(ITEMS))
    assert ItemModel(outcomes).most_telling(0) == []


def merges(generator, trials, items):
    """Return outcomes (trials x items) in [0, 1] that three common factors and items of several difficulties make."""
    difficulty, loadings = generator.normal(0.0, 1.0, items), generator.normal(0.0, 1.0, (3, items)) + 0.7
    skills = generator.normal(0.0, 0.5, (trials, 3))
    chance = 1.0 / (1.0 + np.exp(-2.0 * (skills @ loadings - difficulty)))
    return (generator.random((trials, items)) < chance).astype(float)


def test_with_items_that_go_together_the_error_is_small_and_as_large_as_stated():
    plain, modelled, stated = [], [], []
    for seed in range(8):
        generator = np.random.default_rng(seed)
        outcomes = merges(generator, 70, 200)
        known, tested = outcomes[:40], outcomes[40:]
        model = ItemModel(known)
        observed = generator.permutation(200)[:20]
        for trial in tested:
            belief = model.mean_of_all(observed.tolist(), trial[observed])
            plain.append(trial[observed].mean() - trial.mean())
            modelled.append(belief.mean - trial.mean())
            stated.append(belief.deviation)
    plain, modelled, stated = np.array(plain), np.array(modelled), np.array(stated)
    assert np.sqrt((modelled**2).mean()) < 0.7 * np.sqrt((plain**2).mean())
    assert abs(modelled.mean()) < 0.2 * np.sqrt((modelled**2).mean())
    assert 0.7 < np.sqrt((modelled**2 / stated**2).mean()) < 1.3
    assert 0.88 < (np.abs(modelled) < 2 * stated).mean() < 0.99


def test_anchors_tell_more_than_as_many_random_items():
    generator = np.random.default_rng(5)
    outcomes = merges(generator, 90, 200)
    model, tested = ItemModel(outcomes[:40]), outcomes[40:]
    anchors, drawn = model.most_telling(20), generator.permutation(200)[:20].tolist()
    errors = [
        np.mean([(model.mean_of_all(items, trial[items]).mean - trial.mean()) ** 2 for trial in tested])
        for items in (anchors, drawn)
    ]
    assert errors[0] < errors[1]


@pytest.mark.parametrize("value", [0.0, 1.0])
def test_items_that_all_trials_agree_on_are_no_trouble(value):
    model = ItemModel(np.full((MIN_TRIALS, 6), value))
    belief = model.mean_of_all([0, 1], np.full(2, value))
    assert belief.mean == pytest.approx(value)
    assert 0.0 < belief.deviation < 1e-5
    assert sorted(model.most_telling(6)) == list(range(6))


def test_too_few_trials_are_refused(outcomes):
    ItemModel(outcomes[:MIN_TRIALS])
    with pytest.raises(ValueError, match=f"needs {MIN_TRIALS} trials or more, got {MIN_TRIALS - 1}"):
        ItemModel(outcomes[: MIN_TRIALS - 1])


def test_beliefs_join_by_their_precision_and_certainty_wins():
    joined = Belief(1.0, 0.1).joined(Belief(2.0, 0.2))
    assert (joined.mean, joined.deviation) == pytest.approx((1.2, 0.2 / 5**0.5))
    certain = Belief(3.0, 0.0)
    assert certain.joined(Belief(1.0, 0.1)) == Belief(1.0, 0.1).joined(certain) == certain
