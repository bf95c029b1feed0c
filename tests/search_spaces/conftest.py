"""Pools that are not there: spaces read names, digests and the number of layers alone."""

from collections.abc import Callable
from typing import Any

import pytest

from campaigns.pools import Checkpoint, Pool, Statistics
from campaigns.spec import parse_spec
from search_spaces import SearchSpace, build_space

NAMES = ("math", "code", "chat", "law", "poems")
LAYERS = 10


def space_of(space: dict[str, Any], names: tuple[str, ...] = NAMES, **changes: Any) -> SearchSpace:
    """Build the map that a document asks for over a pool with a base and statistics."""
    checkpoints = [
        Checkpoint(
            name=name,
            path=f"/models/{name}",
            digest=f"digest-of-{name}",
            stamp="s",
            size_bytes=1,
            statistics=Statistics(path=f"/statistics/{name}", digest=f"statistics-of-{name}"),
        )
        for name in names
    ]
    base = Checkpoint(name="base", path="/models/base", digest="digest-of-base", stamp="s", size_bytes=1)
    pool = Pool(
        checkpoints=tuple(checkpoints),
        base=base,
        dtype="bfloat16",
        architecture="LlamaForCausalLM",
        parameter_count=1,
        layers=LAYERS,
    )
    listed = [{"name": name, "path": name, "statistics": f"{name}.statistics"} for name in names]
    document = {
        "name": "test",
        "pool": {"checkpoints": listed, "base": {"name": "base", "path": "base"}},
        "space": space,
        "objectives": [{"task": "sort", "metric": "acc"}],
        "budget": {"evaluations": 1},
    }
    return build_space(parse_spec(document), pool.replace(**changes))


@pytest.fixture(scope="session")
def build() -> Callable[..., SearchSpace]:
    """`build({"kind": "ties"}, names=("a", "b"), layers=None)`: the map over a pool of these names."""
    return space_of
