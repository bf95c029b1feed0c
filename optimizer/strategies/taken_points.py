"""Which points are taken: told already, or out for evaluation. No strategy proposes one of them again."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from campaigns.trial import Point

SAME_POINT = 1e-9  # points nearer than this in every coordinate count as one


class TakenPoints:
    """The points of [0, 1]^n told so far, in an array that doubles when it is full."""

    def __init__(self, dimensions: int) -> None:
        self._rows = np.empty((64, dimensions))
        self._count = 0

    def __len__(self) -> int:
        return self._count

    def add(self, point: Point) -> None:
        """Remember one more point that was told."""
        if self._count == len(self._rows):
            self._rows = np.concatenate([self._rows, np.empty_like(self._rows)])
        self._rows[self._count] = point
        self._count += 1

    def has(self, point: Point, pending: Sequence[Point]) -> bool:
        """Whether `point` is one of those told or of those pending."""
        return _is_among(point, self._rows[: self._count]) or (bool(pending) and _is_among(point, np.array(pending)))


def _is_among(point: Point, rows: np.ndarray[Any, np.dtype[np.float64]]) -> bool:
    return bool((np.abs(rows - point) < SAME_POINT).all(axis=1).any())
