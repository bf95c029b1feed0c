"""Paired comparisons of two trials on the items that both were scored on.

Two trials see the same items, so their difference has a far smaller error than two independent intervals suggest.
"""

from collections.abc import Sequence
from typing import Literal

import numpy as np
from scipy.special import bdtr, ndtri

from campaigns.noun import Noun
from fronts.items import Column, Floats, ItemTable, Tested

RESAMPLES = 10_000
LEVEL = 0.05
ROUNDING = 1e-12  # sums of the same numbers in another order: differences below this are ties


class PairedDifference(Noun):
    """How much better one trial is than another; `gain` is above 0 where it is better, whatever the direction.

    `tested` says of what `gain` is the difference: of the metric ("value"), of its natural logarithm ("log_value"), of
    the mean outcome of an item ("item_mean", see `fronts.items.Column`), or of the macro-average. `test` is "mcnemar"
    where all outcomes are 0 or 1: exact, with the interval of Bonett and Price; else "bootstrap": the percentile
    interval, and twice the smaller share of resamples on either side of 0. Intervals are at 95%, p-values two-sided.
    `wins` and `losses` count the items on which the one or the other is better; None for the macro-average.
    """

    gain: float
    standard_error: float | None
    interval: tuple[float, float]
    p_value: float
    test: Literal["mcnemar", "bootstrap"]
    tested: Tested
    items: int
    wins: int | None
    losses: int | None


def compare(column: Column, means: Floats, ours: int, theirs: int) -> PairedDifference:
    """Compare rows `ours` and `theirs` of a column with outcomes; `means` (resamples x trials) are resampled."""
    assert column.outcomes is not None, "a column without outcomes has nothing to pair"
    one, other = column.outcomes[ours], column.outcomes[theirs]
    differences = column.sign * (one - other)
    items, gain = len(differences), float(differences.mean())
    wins, losses = int((differences > 0).sum()), int((differences < 0).sum())
    error = float(differences.std(ddof=1) / np.sqrt(items)) if items > 1 else None
    if _is_binary(one) and _is_binary(other):
        interval, p_value = bonett_price_interval(wins, losses, items), mcnemar_p_value(wins, losses)
        test: Literal["mcnemar", "bootstrap"] = "mcnemar"
    else:
        draws = column.sign * (means[:, ours] - means[:, theirs])
        interval, p_value, test = percentile_interval(draws), bootstrap_p_value(draws), "bootstrap"
    return PairedDifference(
        gain=gain,
        standard_error=error,
        interval=interval,
        p_value=p_value,
        test=test,
        tested=column.tested,
        items=items,
        wins=wins,
        losses=losses,
    )


def _is_binary(outcomes: Floats) -> bool:
    return bool(((outcomes == 0) | (outcomes == 1)).all())


def compare_macro(table: ItemTable, measured: Floats, resampled: Floats, ours: int, theirs: int) -> PairedDifference:
    """Compare the macro-averages of two rows, by the bootstrap over the items of each task.

    `measured` (trials) are the macro-averages, `resampled` (resamples x trials) those of the resamples.
    """
    draws = resampled[:, ours] - resampled[:, theirs]
    items = {c.objective.task: c.outcomes.shape[1] for c in table.columns if c.outcomes is not None}
    return PairedDifference(
        gain=float(measured[ours] - measured[theirs]),
        standard_error=float(draws.std(ddof=1)) if len(draws) > 1 else None,
        interval=percentile_interval(draws),
        p_value=bootstrap_p_value(draws),
        test="bootstrap",
        tested="macro_average",
        items=sum(items.values()),
        wins=None,
        losses=None,
    )


def mcnemar_p_value(wins: int, losses: int) -> float:
    """Return the two-sided exact p-value that items in disagreement fall to either side like a fair coin.

    McNemar, Psychometrika 12 (1947), in its exact form: twice the binomial probability of at most the smaller count.
    At most 1, as without any disagreement.
    """
    return min(1.0, 2 * float(bdtr(min(wins, losses), wins + losses, 0.5)))


def bonett_price_interval(wins: int, losses: int, items: int) -> tuple[float, float]:
    """Return the 95% interval of (wins - losses) / items, the difference of two paired proportions.

    The adjusted Wald interval of Bonett and Price, Journal of Educational and Behavioral Statistics 37 (2012): one
    item more on either side, p = (wins + 1) / (items + 2), q = (losses + 1) / (items + 2), and
    p - q ± z sqrt((p + q - (p - q)²) / (items + 2)). Unlike a bootstrap it has a width where nobody wins or loses.
    """
    p, q = (wins + 1) / (items + 2), (losses + 1) / (items + 2)
    reach = ndtri(1 - LEVEL / 2) * np.sqrt((p + q - (p - q) ** 2) / (items + 2))
    return max(-1.0, float(p - q - reach)), min(1.0, float(p - q + reach))


def percentile_interval(draws: Floats) -> tuple[float, float]:
    """Return the 2.5% and 97.5% quantiles of resampled differences."""
    low, high = np.quantile(draws, (LEVEL / 2, 1 - LEVEL / 2))
    return float(low), float(high)


def bootstrap_p_value(draws: Floats) -> float:
    """Return twice the smaller share of resampled differences on either side of 0, 0 itself on both; at most 1.

    One is added to count and number of resamples (Davison and Hinkley, "Bootstrap Methods and their Application",
    1997, section 4.2): a finite number of resamples never shows that p is 0.
    """
    below, above = int((draws <= ROUNDING).sum()), int((draws >= -ROUNDING).sum())
    return min(1.0, 2 * (min(below, above) + 1) / (len(draws) + 1))


def holm(p_values: Sequence[float]) -> list[float]:
    """Return Holm's adjusted p-values (Scandinavian Journal of Statistics 6, 1979), in the order given.

    The k-th smallest of n is multiplied by n - k + 1 and is at least the one before it; at most 1. All hypotheses with
    an adjusted p-value of at most 5% can be rejected together with a chance of 5% to be wrong about any.
    """
    adjusted, highest = [0.0] * len(p_values), 0.0
    for rank, index in enumerate(sorted(range(len(p_values)), key=lambda index: p_values[index])):
        highest = max(highest, min(1.0, (len(p_values) - rank) * p_values[index]))
        adjusted[index] = highest
    return adjusted
