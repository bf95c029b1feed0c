"""What may vary: maps from the unit cube to named parameters and the recipe that they make."""

from collections.abc import Mapping, Sequence

from campaigns.errors import FieldError, InvalidSpec, field_error
from campaigns.pools import Pool
from campaigns.spaces import ChoiceSpace
from campaigns.spec import CampaignSpec
from campaigns.trial import Candidate
from search_spaces.choice_map import ChoiceMap
from search_spaces.method_map import MethodMap
from search_spaces.search_space import SearchSpace

__all__ = [
    "ChoiceMap",
    "MethodMap",
    "SearchSpace",
    "build_space",
    "first_candidates",
    "point_candidates",
    "user_points",
]

MAX_DIMENSIONS = 2000


def build_space(spec: CampaignSpec, pool: Pool) -> SearchSpace:
    """Return the map that `spec.space` asks for over the checkpoints of `pool`.

    Raises `InvalidSpec` when the pool lacks a base, statistics or layers that the space needs, the members of a group
    have bounds that no common number can keep, or there are too many coordinates to search.
    """
    space: SearchSpace
    space = ChoiceMap(spec.space, pool) if isinstance(spec.space, ChoiceSpace) else MethodMap(spec.space, pool)
    if space.dimensions > MAX_DIMENSIONS:
        message = "the space has too many coordinates: ask for fewer groups of tensors, or group checkpoints"
        raise InvalidSpec([field_error("space", space.dimensions, message, f"at most {MAX_DIMENSIONS}")])
    return space


def user_points(spec: CampaignSpec, space: SearchSpace) -> list[Candidate]:
    """Return the points of `spec.warm_start`, in order.

    Raises `InvalidSpec` naming every coordinate of every point that is missing, unknown or out of bounds.
    """
    return point_candidates(spec.warm_start.points, space, "warm_start.points")


def point_candidates(points: Sequence[Mapping[str, float | str]], space: SearchSpace, field: str) -> list[Candidate]:
    """Return the candidates at `points`, whose raw values are given by name, in order.

    Raises `InvalidSpec`, fields under `field`, naming every coordinate that is missing, unknown or out of bounds.
    """
    candidates: list[Candidate] = []
    errors: list[FieldError] = []
    for index, values in enumerate(points):
        try:
            point = space.point(values, f"{field}.{index}")
        except InvalidSpec as error:
            errors += error.errors
        else:
            candidates.append(space.candidate(point).replace(kind="point", label=f"point {index + 1}"))
    if errors:
        raise InvalidSpec(errors)
    return candidates


def first_candidates(spec: CampaignSpec, pool: Pool, space: SearchSpace) -> list[Candidate]:
    """Return what is scored first, each recipe once: parents, soup, task arithmetic, the points of the spec."""
    wanted = spec.baselines
    parents = range(len(pool.checkpoints)) if wanted.parents else range(0)
    candidates = [space.parent(index) for index in parents]
    candidates += [space.uniform_soup()] if wanted.uniform_soup else []
    candidates += [space.task_arithmetic()] if wanted.task_arithmetic else []
    candidates += user_points(spec, space)
    by_recipe: dict[str, Candidate] = {}
    for candidate in candidates:
        by_recipe.setdefault(candidate.recipe.digest, candidate)
    return list(by_recipe.values())
