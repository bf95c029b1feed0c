"""The pure parts of the comparison of methods: margins as worked out by hand, points that mean what they say."""

import importlib.util
import math
import sys
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

from campaigns.pools import Checkpoint, Pool, Statistics

SCRIPT = Path(__file__).parents[2] / "benchmarks" / "method_comparison.py"


def load_script() -> ModuleType:
    spec = importlib.util.spec_from_file_location("method_comparison", SCRIPT)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["method_comparison"] = module  # where dataclasses look themselves up
    spec.loader.exec_module(module)
    return module


comparison = load_script()
COUNT = 4


@pytest.fixture(scope="module")
def pool() -> Pool:
    def checkpoint(name: str) -> Checkpoint:
        statistics = Statistics(path=f"/models/{name}.safetensors", digest=f"of {name}")
        return Checkpoint(
            name=name, path=f"/models/{name}", digest=name, stamp="s", size_bytes=1, statistics=statistics
        )

    members = tuple(checkpoint(f"m{index}") for index in range(COUNT))
    return Pool(checkpoints=members, base=checkpoint("base"), dtype="float32", architecture="llama", parameter_count=1)


def test_a_margin_is_the_mean_over_tasks_and_its_error_that_of_paired_differences():
    ours = [np.array([1.0, 1.0, 1.0, 0.0]), np.array([1.0, 0.0])]
    theirs = [np.array([1.0, 0.0, 0.0, 1.0]), np.array([0.0, 0.0])]
    difference, error = comparison.paired_margin(ours, theirs)
    # Differences 0, 1, 1, -1 and 1, 0: means 1/4 and 1/2, variances 11/12 and 1/2.
    assert difference == pytest.approx((1 / 4 + 1 / 2) / 2)
    assert error == pytest.approx(math.sqrt(11 / 12 / 4 + 1 / 2 / 2) / 2)


def test_equal_merges_differ_by_nothing_for_certain():
    outcomes = [np.array([1.0, 0.0, 1.0])]
    assert comparison.paired_margin(outcomes, outcomes) == (0.0, 0.0)


@pytest.mark.parametrize("entrant", comparison.entrants(COUNT, 0), ids=lambda entrant: entrant.name)
def test_the_usual_point_has_the_usual_numbers(entrant, pool):
    space = entrant.map_over(pool)
    candidate = space.candidate(comparison.usual_point(space, entrant.usual))
    method = candidate.recipe.method.model_dump()
    for name, number in entrant.usual.items():
        if name in ("weight", "density"):
            found = method["weights" if name == "weight" else "densities"]
            assert found == pytest.approx((number,) * COUNT)
        else:
            assert method[name] == pytest.approx(number)
    if not entrant.usual and "weights" in method:
        assert method["weights"] == pytest.approx((1 / COUNT,) * COUNT)
