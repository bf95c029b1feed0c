"""The standard error of a metric, and each item's own outcome, from lm-eval's per-document values.

lm-eval has closed forms for means and bootstraps the rest (100,000 resamples: seconds to minutes). The closed forms are
lm-eval's own functions here, so they agree to the last digit; ratios of sums (perplexities, bits per byte) get the
delete-one jackknife (Efron and Stein, "The jackknife estimate of variance", Annals of Statistics 9(3), 1981), which
costs one vector operation. Other metrics (F1, BLEU, ...) have no standard error.
"""

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from lm_eval.api import metrics
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Aggregation = Callable[[Sequence[Any]], Any]


def _exponential(mean: Floats) -> Floats:
    return np.exp(-mean)


def _bits(mean: Floats) -> Floats:
    return -mean / math.log(2)


# The metric as a function of the mean loglikelihood per word, byte or document.
_OF_MEAN: dict[Aggregation, Callable[[Floats], Floats]] = {
    metrics.weighted_perplexity: _exponential,
    metrics.bits_per_byte: _bits,
    metrics.perplexity: _exponential,
}
_ANALYTIC: dict[Aggregation, Callable[[Sequence[Any]], float]] = {
    metrics.mean: metrics.mean_stderr,
    metrics.acc_all: metrics.acc_all_stderr,
}


def standard_error(aggregation: Aggregation, values: Sequence[Any]) -> float | None:
    """Return the standard error of `aggregation(values)`, in the metric's unit, or None where there is none to give.

    `values` are what lm-eval's `process_results` gave, one per document; fewer than two have no standard error.
    """
    if len(values) < 2:
        return None
    if aggregation in _ANALYTIC:
        found = float(_ANALYTIC[aggregation](values))
    elif aggregation in _OF_MEAN:
        found = _jackknife(_OF_MEAN[aggregation], *_sums(values))
    else:
        return None
    return found if math.isfinite(found) else None


def outcomes(aggregation: Aggregation, values: Sequence[Any]) -> tuple[float, ...]:
    """Return one number per document, or nothing where a document alone has no value (BLEU, for one).

    Perplexities give the negative loglikelihood in nats per word, byte or document (the logarithm of the document's own
    perplexity, which itself may overflow); bits per byte give bits; F1 and MCC give 1 for a right label, else 0.
    """
    if aggregation in _OF_MEAN:
        numerators, weights = _sums(values)
        per_unit = -numerators / np.maximum(weights, 1)
        return tuple((per_unit / math.log(2) if aggregation is metrics.bits_per_byte else per_unit).tolist())
    if aggregation in (metrics.f1_score, metrics.matthews_corrcoef):
        return tuple(float(gold == predicted) for gold, predicted in values)
    if all(isinstance(value, (bool, int, float, np.number)) for value in values):
        return tuple(float(value) for value in values)
    return ()


def _sums(values: Sequence[Any]) -> tuple[Floats, Floats]:
    """Return numerators and weights; a value without a weight counts once."""
    pairs = [value if isinstance(value, tuple) else (value, 1) for value in values]
    table = np.asarray(pairs, dtype=np.float64)
    return table[:, 0], table[:, 1]


def _jackknife(of_mean: Callable[[Floats], Floats], numerators: Floats, weights: Floats) -> float:
    """se^2 = (n - 1) / n sum_i (theta_i - mean theta)^2 with theta_i = g(sum_{j != i} l_j / sum_{j != i} w_j)."""
    n = len(numerators)
    rest = np.maximum(weights.sum() - weights, 1)
    with np.errstate(over="ignore", invalid="ignore"):
        left_out = of_mean((numerators.sum() - numerators) / rest)
        return float(np.sqrt((n - 1) / n * np.square(left_out - left_out.mean()).sum()))
