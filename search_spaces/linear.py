"""Linear merges: how raw coordinates become the weights of theta = sum_i w_i theta_i (arXiv 2203.05482)."""

import math
from collections.abc import Mapping, Sequence

from campaigns.pools import Pool
from campaigns.recipe import LinearMerge, Recipe
from campaigns.spaces import Bounds, LinearSpace, Space
from campaigns.trial import Candidate, Kind, Point
from search_spaces.coordinates import checked_point, coordinates
from search_spaces.search_space import UNIFORM_SOUP

DEFAULT_BOUNDS: Mapping[str, Bounds] = {"sum": (0.0, 1.0), "softmax": (-4.0, 4.0), "free": (0.0, 1.0)}


class LinearWeights:
    """The map of a `LinearSpace` over K checkpoints."""

    def __init__(self, space: Space, pool: Pool) -> None:
        assert isinstance(space, LinearSpace)
        self._pool = pool
        self._normalize = space.normalize
        self._coordinates = coordinates(space, pool.names, space.bounds or DEFAULT_BOUNDS[space.normalize])
        self.names = tuple(coordinate.name for coordinate in self._coordinates.free)

    @property
    def dimensions(self) -> int:
        """One per coordinate of the cube."""
        return len(self.names)

    def candidate(self, point: Point) -> Candidate:
        """Return the candidate at `point`; see `SearchSpace.candidate`."""
        point = checked_point(point, self.names)
        return self._made("candidate", None, point, self._weights(point))

    def parent(self, index: int) -> Candidate:
        """Return checkpoint `index` alone; see `SearchSpace.parent`."""
        one_hot = [float(other == index) for other in range(len(self._pool.checkpoints))]
        point = self._coordinates.nearest(one_hot) if self._normalize == "free" else self._corner(index)
        return self._made("parent", self._pool.names[index], point, one_hot)

    def uniform_soup(self) -> Candidate:
        """Return the average of all checkpoints; see `SearchSpace.uniform_soup`."""
        count = len(self._pool.checkpoints)
        uniform = [1.0 / count] * count
        point = self._coordinates.nearest(uniform) if self._normalize == "free" else self._level()
        return self._made("soup", UNIFORM_SOUP, point, uniform)

    def _weights(self, point: Point) -> list[float]:
        raw = self._coordinates.raw(point)
        if self._normalize == "free":
            return raw
        varying = [index for coordinate in self._coordinates.free for index in coordinate.members]
        share = 1.0 - math.fsum(self._coordinates.frozen.values())
        normalized = NORMALIZATIONS[self._normalize]([raw[index] for index in varying])
        for index, part in zip(varying, normalized, strict=True):
            raw[index] = share * part
        return raw

    def _corner(self, index: int) -> Point:
        """All that can be given to checkpoint `index`: its coordinate at the upper bound, the others at the lower."""
        return tuple(float(index in coordinate.members) for coordinate in self._coordinates.free)

    def _level(self) -> Point:
        """Equal raw weights, in the middle of the interval that all coordinates share (or as near as they can)."""
        low = max(coordinate.bounds[0] for coordinate in self._coordinates.free)
        high = min(coordinate.bounds[1] for coordinate in self._coordinates.free)
        return tuple(coordinate.unit(low / 2 + high / 2) for coordinate in self._coordinates.free)

    def _made(self, kind: Kind, label: str | None, point: Point, weights: Sequence[float]) -> Candidate:
        recipe = Recipe(
            method=LinearMerge(weights=tuple(weights)),
            sources=tuple(checkpoint.digest for checkpoint in self._pool.checkpoints),
            template=self._pool.template.digest,
            dtype=self._pool.dtype,
        )
        parameters = self._coordinates.parameters(weights)
        return Candidate(kind=kind, label=label, point=point, parameters=parameters, recipe=recipe)


def over_sum(raw: Sequence[float]) -> list[float]:
    """Return r_i / sum(r) for r_i >= 0. All zeros give the uniform weights, the limit along equal coordinates."""
    peak = max(raw)
    if peak == 0.0:
        return [1.0 / len(raw)] * len(raw)
    scaled = [value / peak for value in raw]  # the sum of huge bounds would overflow
    total = math.fsum(scaled)
    return [value / total for value in scaled]


def softmax(raw: Sequence[float]) -> list[float]:
    """Return exp(r_i) / sum(exp(r))."""
    peak = max(raw)
    return over_sum([math.exp(value - peak) for value in raw])


NORMALIZATIONS = {"sum": over_sum, "softmax": softmax}
