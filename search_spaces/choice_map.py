"""The map of a choice: the first coordinate picks a method, the others are those of all methods."""

from collections.abc import Mapping, Sequence

from campaigns.pools import Pool
from campaigns.recipe import Recipe
from campaigns.spaces import ChoiceSpace, MethodSpace, TaskArithmeticSpace, TaskVectorSpace
from campaigns.trial import Candidate, Point
from search_spaces.blocks import MIDDLE
from search_spaces.coordinates import Cells, checked_point, placed
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
        self._cells = Cells(OPTION, tuple(self._called))
        self._of_task_vectors = _of_task_vectors([each for _, each in named])
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
        start, option = self._start(picked), self._maps[picked]
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

    def task_arithmetic(self) -> Candidate:
        """Return task arithmetic at 0.3; see `SearchSpace.task_arithmetic`."""
        return self._baseline([option.task_arithmetic() for option in self._maps], self._of_task_vectors)

    def point(self, values: Mapping[str, float | str], field: str) -> Point:
        """Return the point with these raw values, those of one option; see `SearchSpace.point`."""
        picked = values.get(OPTION)
        if picked not in self._called:
            placed({name: value for name, value in values.items() if name == OPTION}, {OPTION: self._cells}, field)
        index = self._called.index(str(picked))
        own = {f"{picked}.{name}": axis for name, axis in self._maps[index].axes.items()}
        return self._within(index, placed(values, {OPTION: self._cells, **own}, field)[1:])

    def point_of(self, recipe: Recipe) -> Point | None:
        """Return a point of the first option that makes `recipe`; see `SearchSpace.point_of`."""
        for index, option in enumerate(self._maps):
            own = option.point_of(recipe)
            if own is not None:
                return self._within(index, own)
        return None

    def _start(self, index: int) -> int:
        return 1 + sum(option.dimensions for option in self._maps[:index])

    def _within(self, index: int, own: Point) -> Point:
        """Return the point of an option as one of the whole space, in the middle of what changes nothing."""
        before, after = self._start(index) - 1, self.dimensions - self._start(index) - len(own)
        return (self._cells.middle(index), *(MIDDLE,) * before, *own, *(MIDDLE,) * after)

    def _baseline(self, alike: list[Candidate], index: int = 0) -> Candidate:
        """Return the merge that all options have as this baseline: option `index`, and near it in every coordinate."""
        own = tuple(unit for candidate in alike for unit in candidate.point)
        return alike[index].replace(point=(self._cells.middle(index), *own))


def _of_task_vectors(options: Sequence[MethodSpace]) -> int:
    """Return the option nearest to a sum of task vectors: task arithmetic, else the first that weighs them."""
    exact = [index for index, option in enumerate(options) if isinstance(option, TaskArithmeticSpace)]
    near = [index for index, option in enumerate(options) if isinstance(option, TaskVectorSpace)]
    return [*exact, *near, 0][0]
