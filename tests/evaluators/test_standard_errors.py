import math
import random
from collections.abc import Callable, Sequence
from typing import Any

import pytest
from lm_eval.api import metrics

from evaluators.standard_errors import outcomes, standard_error

DRAW = random.Random(11)
WEIGHTED = [(-DRAW.uniform(5, 90), DRAW.randrange(3, 60)) for _ in range(37)]
LOGLIKELIHOODS = [-DRAW.uniform(0.1, 6) for _ in range(37)]


def jackknife(aggregation: Callable[[Sequence[Any]], float], values: Sequence[Any]) -> float:
    """Leave each item out in turn, and aggregate the rest with lm-eval's own function."""
    left_out = [aggregation([*values[:i], *values[i + 1 :]]) for i in range(len(values))]
    centre = sum(left_out) / len(left_out)
    return math.sqrt((len(values) - 1) / len(values) * sum((value - centre) ** 2 for value in left_out))


@pytest.mark.parametrize(
    ("aggregation", "values"),
    [
        (metrics.bits_per_byte, WEIGHTED),
        (metrics.weighted_perplexity, WEIGHTED),
        (metrics.perplexity, LOGLIKELIHOODS),
        (metrics.bits_per_byte, WEIGHTED[:2]),
    ],
)
def test_ratios_equal_a_brute_force_jackknife(
    aggregation: Callable[[Sequence[Any]], float], values: Sequence[Any]
) -> None:
    found = standard_error(aggregation, values)
    assert found == pytest.approx(jackknife(aggregation, values), rel=1e-9)
    assert found is not None and found > 0


def test_equal_weights_give_the_standard_error_of_a_mean() -> None:
    values = [(loglikelihood, 7) for loglikelihood in LOGLIKELIHOODS]
    per_byte = [-loglikelihood / 7 / math.log(2) for loglikelihood in LOGLIKELIHOODS]
    assert standard_error(metrics.bits_per_byte, values) == pytest.approx(metrics.mean_stderr(per_byte), rel=1e-9)


@pytest.mark.parametrize("values", [[0, 1, 1, 0, 1], [0.5, 0.25, 1.0]])
def test_means_are_lm_evals_own(values: list[float]) -> None:
    theirs = metrics.stderr_for_metric(metrics.mean, bootstrap_iters=1)
    assert theirs is not None
    assert standard_error(metrics.mean, values) == theirs(values)


def test_no_standard_error_to_give() -> None:
    assert standard_error(metrics.mean, [1]) is None
    assert standard_error(metrics.bits_per_byte, WEIGHTED[:1]) is None
    assert standard_error(metrics.f1_score, [(0, 1), (1, 1), (0, 0)]) is None
    assert standard_error(metrics.weighted_perplexity, [(-7000.0, 10), (-10.0, 1)]) is None, "one left out overflows"


def test_outcomes() -> None:
    assert outcomes(metrics.mean, [0, 1, True, 0.5]) == (0.0, 1.0, 1.0, 0.5)
    assert outcomes(metrics.weighted_perplexity, [(-6.0, 3), (-5000.0, 1)]) == (2.0, 5000.0)
    assert outcomes(metrics.bits_per_byte, [(-6.0 * math.log(2), 3)]) == pytest.approx((2.0,))
    assert outcomes(metrics.perplexity, [-2.0, -3.0]) == (2.0, 3.0)
    assert outcomes(metrics.f1_score, [(0, 1), (1, 1)]) == (0.0, 1.0)
    assert outcomes(metrics.bleu, [("a", "b")]) == ()
    assert outcomes(metrics.weighted_perplexity, [(0.0, 0)]) == (0.0,)


def test_outcomes_weigh_back_into_the_value() -> None:
    weights = [weight for _, weight in WEIGHTED]
    found = outcomes(metrics.bits_per_byte, WEIGHTED)
    mean = sum(o * w for o, w in zip(found, weights, strict=True)) / sum(weights)
    assert mean == pytest.approx(metrics.bits_per_byte(WEIGHTED), rel=1e-12)
