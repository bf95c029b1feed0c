"""Task arithmetic: theta = theta_0 + scale * sum_i w_i (theta_i - theta_0) (arXiv 2212.04089)."""

from collections.abc import Sequence

from campaigns.pools import Pool
from campaigns.recipe import Recipe, TaskArithmeticMerge
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
        return self._made("candidate", None, point, weights, scale)

    def parent(self, index: int) -> Candidate:
        """Return the base with task vector `index` alone, scale 1: the checkpoint itself; see `SearchSpace.parent`."""
        one_hot = [float(other == index) for other in range(len(self._pool.checkpoints))]
        return self._made("parent", self._pool.names[index], self._nearest(one_hot), one_hot, 1.0)

    def uniform_soup(self) -> Candidate:
        """Return the average of the task vectors, scale 1: the average of the checkpoints."""
        count = len(self._pool.checkpoints)
        uniform = [1.0 / count] * count
        return self._made("soup", UNIFORM_SOUP, self._nearest(uniform), uniform, 1.0)

    def _nearest(self, weights: Sequence[float]) -> Point:
        point = self._coordinates.nearest(weights)
        return (*point, self._scale.unit(1.0)) if isinstance(self._scale, Coordinate) else point

    def _made(self, kind: Kind, label: str | None, point: Point, weights: Sequence[float], scale: float) -> Candidate:
        recipe = Recipe(
            method=TaskArithmeticMerge(weights=tuple(weights), scale=scale),
            sources=tuple(checkpoint.digest for checkpoint in self._pool.checkpoints),
            base=self._base_digest,
            dtype=self._pool.dtype,
        )
        parameters = {**self._coordinates.parameters(weights), SCALE: scale}
        return Candidate(kind=kind, label=label, point=point, parameters=parameters, recipe=recipe)
