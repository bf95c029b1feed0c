"""Task arithmetic: theta = theta_0 + scale * sum_i w_i (theta_i - theta_0) (arXiv 2212.04089)."""

from collections.abc import Sequence

from campaigns.pools import Pool
from campaigns.recipe import LinearMerge, Recipe, TaskArithmeticMerge
from campaigns.spaces import Space, TaskArithmeticSpace
from campaigns.trial import Candidate, Kind, Point
from search_spaces.coordinates import Coordinate, checked_point, coordinates
from search_spaces.search_space import UNIFORM_SOUP

SCALE = "scale"


class TaskArithmeticWeights:
    """The map of a `TaskArithmeticSpace` over K task vectors; a searched scale is the last dimension."""

    def __init__(self, space: Space, pool: Pool) -> None:
        assert isinstance(space, TaskArithmeticSpace)
        if pool.base is None:
            raise ValueError("task arithmetic needs a pool with a base")
        self._pool = pool
        self._base_digest = pool.base.digest
        self._sources = tuple(checkpoint.digest for checkpoint in pool.checkpoints)
        self._coordinates = coordinates(space, pool.names, space.bounds)
        self._scale = Coordinate(SCALE, space.scale) if isinstance(space.scale, tuple) else float(space.scale)
        weight_names = tuple(coordinate.name for coordinate in self._coordinates.free)
        self.names = (*weight_names, SCALE) if isinstance(self._scale, Coordinate) else weight_names

    @property
    def dimensions(self) -> int:
        """One per coordinate of the weights, and one for a searched scale."""
        return len(self.names)

    def candidate(self, point: Point) -> Candidate:
        """Return the candidate at `point`; see `SearchSpace.candidate`."""
        point = checked_point(point, self.names)
        weights = self._coordinates.raw(point[: len(self._coordinates.free)])
        scale = self._scale.raw(point[-1]) if isinstance(self._scale, Coordinate) else self._scale
        recipe = Recipe(
            method=TaskArithmeticMerge(weights=tuple(weights), scale=scale),
            sources=self._sources,
            base=self._base_digest,
            template=self._base_digest,
            dtype=self._pool.dtype,
        )
        return Candidate(kind="candidate", point=point, parameters=self._parameters(weights, scale), recipe=recipe)

    def parent(self, index: int) -> Candidate:
        """Return checkpoint `index` itself, bit for bit: task vector `index` alone at scale 1, without the rounding."""
        one_hot = [float(other == index) for other in range(len(self._sources))]
        return self._baseline("parent", self._pool.names[index], one_hot)

    def uniform_soup(self) -> Candidate:
        """Return the average of the checkpoints, which is that of the task vectors at scale 1."""
        return self._baseline("soup", UNIFORM_SOUP, [1.0 / len(self._sources)] * len(self._sources))

    def _baseline(self, kind: Kind, label: str, weights: Sequence[float]) -> Candidate:
        recipe = Recipe(
            method=LinearMerge(weights=tuple(weights)),
            sources=self._sources,
            template=self._base_digest,
            dtype=self._pool.dtype,
        )
        point, parameters = self._nearest(weights), self._parameters(weights, 1.0)
        return Candidate(kind=kind, label=label, point=point, parameters=parameters, recipe=recipe)

    def _nearest(self, weights: Sequence[float]) -> Point:
        point = self._coordinates.nearest(weights)
        return (*point, self._scale.unit(1.0)) if isinstance(self._scale, Coordinate) else point

    def _parameters(self, weights: Sequence[float], scale: float) -> dict[str, float]:
        return {**self._coordinates.parameters(weights), SCALE: scale}
