"""How large an element is among those of its row, in 256 steps: what DELLA's probabilities follow."""

import numpy as np
import numpy.typing as npt

from merging.magnitudes import Bits

LEVELS = 256


def row_ranks(bits: Bits) -> npt.NDArray[np.uint8]:
    """Return the level of each magnitude (by its bits, rows x columns) within its row: 0 for the smallest.

    The element of rank r (from 0; equals by their order) in a row of d elements has level 255 r / (d - 1), rounded; the
    only element of a row has the middle one.
    """
    columns = np.arange(bits.shape[1], dtype=np.int64)
    # The column in the low half of one key: sorting keys is several times faster than a stable argsort.
    keys = (bits.astype(np.int64) << 32) | columns
    keys.sort(axis=1)
    if len(columns) == 1:
        return np.full(bits.shape, LEVELS // 2, dtype=np.uint8)
    steps = len(columns) - 1
    levels = ((2 * (LEVELS - 1) * columns + steps) // (2 * steps)).astype(np.uint8)
    found = np.empty(bits.shape, dtype=np.uint8)
    np.put_along_axis(found, keys & 0xFFFFFFFF, np.broadcast_to(levels, bits.shape), axis=1)
    return found
