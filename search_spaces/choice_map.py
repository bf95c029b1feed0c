"""The map of a choice: the first coordinate picks a method, the others are those of all methods."""

from collections.abc import Sequence

from campaigns.pools import Pool
from campaigns.spaces import ChoiceSpace
from campaigns.trial import Candidate, Point
from search_spaces.coordinates import Cells, checked_point
from search_spaces.method_map import MethodMap
from search_spaces.search_space import UNIFORM_SOUP

OPTION = "option"


class ChoiceMap:
    """A map over several methods; see `SearchSpace`. Coordinates of options that are not picked change nothing."""

    def __init__(self, space: ChoiceSpace, pool: Pool, field: str = "space") -> None:
        """Raise `InvalidSpec`, fields under `field`, when the pool has not what an option needs."""
        named = space.named_options()
        self._called = [name for name, _ in named]
        self._maps = [MethodMap(each, pool, f"{field}.options.{index}") for index, (_, each) in enumerate(named)]
        self._cells = Cells(OPTION, len(named))
        own = [f"{name}.{each}" for name, option in zip(self._called, self._maps, strict=True) for each in option.names]
        self.names = (OPTION, *own)

    @property
    def dimensions(self) -> int:
        """One for the choice, and one per coordinate of every option."""
        return len(self.names)

    def candidate(self, point: Point) -> Candidate:
        """Return the candidate at `point`; see `SearchSpace.candidate`."""
        point = checked_point(point, self.names)
        picked = self._cells.index(point[0])
        start = 1 + sum(option.dimensions for option in self._maps[:picked])
        option = self._maps[picked]
        candidate = option.candidate(point[start : start + option.dimensions])
        parameters = {f"{OPTION}.{name}": float(index == picked) for index, name in enumerate(self._called)}
        parameters |= {f"{self._called[picked]}.{name}": value for name, value in candidate.parameters.items()}
        return candidate.replace(point=point, parameters=parameters)

    def parent(self, index: int) -> Candidate:
        """Return checkpoint `index` alone; see `SearchSpace.parent`."""
        return self._baseline([option.parent(index) for option in self._maps])

    def soup(self, members: Sequence[int], label: str = UNIFORM_SOUP) -> Candidate:
        """Return the average of some checkpoints; see `SearchSpace.soup`."""
        return self._baseline([option.soup(members, label) for option in self._maps])

    def uniform_soup(self) -> Candidate:
        """Return the average of all checkpoints; see `SearchSpace.uniform_soup`."""
        return self._baseline([option.uniform_soup() for option in self._maps])

    def _baseline(self, alike: list[Candidate]) -> Candidate:
        """Return the merge that all options have as this baseline, near it in the coordinates of every one."""
        own = tuple(unit for candidate in alike for unit in candidate.point)
        return alike[0].replace(point=(self._cells.middle(0), *own))
