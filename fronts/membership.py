"""How sure it is that a trial belongs on the front, given that other items could have been drawn."""

from collections.abc import Sequence

import moocore
import numpy as np

from fronts.items import Floats, ItemTable
from fronts.pareto import Losses
from fronts.resampling import SEED, resampled_means, resampled_values

RESAMPLES = 1000
NEAR_FRONT = 100
DECIMALS = 12  # equal trials must stay equal, in whatever order their outcomes were summed


def non_dominated_shares(table: ItemTable, resamples: int = RESAMPLES, seed: int = SEED) -> Floats:
    """Return, per trial of the table, the share of resamples in which no other trial dominates it: in [0, 1].

    The items of each task are resampled for all trials at once, so that what trials have in common does not count as
    noise between them. Equal trials do not dominate each other. An objective without outcomes stays as measured. On the
    search items these shares flatter the front: its members were chosen by their luck on those very items.
    """
    if not table.trials:
        return np.empty(0)
    losses = resampled_values(table, resampled_means(table, resamples, seed))
    losses = np.round(losses * [-column.sign for column in table.columns], DECIMALS)
    kept = np.array([moocore.is_nondominated(points, keep_weakly=True) for points in losses], dtype=float)
    shares: Floats = kept.mean(axis=0)
    return shares


def near_front(losses: Sequence[Losses], most: int = NEAR_FRONT) -> list[int]:
    """Return the indices, ascending, of the first non-domination ranks of the points (n x m, minimised).

    The first rank whole; of the further ones as many as fit into `most` points.
    """
    if not losses:
        return []
    ranks = moocore.pareto_rank(np.array(losses, dtype=float))
    chosen = np.flatnonzero(ranks == 0)
    for rank in range(1, int(ranks.max()) + 1):
        if (ranks <= rank).sum() > most:
            break
        chosen = np.flatnonzero(ranks <= rank)
    return [int(index) for index in chosen]
