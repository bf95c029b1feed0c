"""What may vary: maps from the unit cube to named parameters and the recipe that they make."""

from campaigns.pools import Pool
from campaigns.spec import CampaignSpec
from search_spaces.linear import LinearWeights
from search_spaces.search_space import SearchSpace
from search_spaces.task_arithmetic import TaskArithmeticWeights

__all__ = ["SPACES", "LinearWeights", "SearchSpace", "TaskArithmeticWeights", "build_space"]

SPACES: dict[str, type[LinearWeights] | type[TaskArithmeticWeights]] = {
    "linear": LinearWeights,
    "task_arithmetic": TaskArithmeticWeights,
}


def build_space(spec: CampaignSpec, pool: Pool) -> SearchSpace:
    """Return the map that `spec.space` asks for over the checkpoints of `pool`.

    Raises `InvalidSpec` when the members of a group have bounds that no common weight can keep.
    """
    return SPACES[spec.space.kind](spec.space, pool)
