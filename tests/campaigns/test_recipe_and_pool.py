"""Identity: a recipe is its content; names and places of checkpoints do not enter."""

import pytest

from campaigns.errors import InvalidSpec
from campaigns.merge_config import parse_merge_config
from campaigns.methods import LinearMerge, TaskArithmeticMerge
from campaigns.pools import Checkpoint, Pool
from campaigns.recipe import Recipe


def checkpoint(name, digest):
    return Checkpoint(name=name, path=f"/models/{name}", digest=digest, stamp="s", size_bytes=1)


def pool(*digests, base=None):
    checkpoints = tuple(checkpoint(f"m{i}", digest) for i, digest in enumerate(digests))
    found = None if base is None else checkpoint("base", base)
    return Pool(checkpoints=checkpoints, base=found, dtype="bfloat16", architecture="llama", parameter_count=1)


def test_the_digest_of_a_recipe_is_pinned():
    recipe = Recipe(method=LinearMerge(weights=(0.25, 0.75)), sources=("a", "b"), template="a", dtype="bfloat16")
    assert recipe.digest == "009a9bdbf565c2b2909dfa9dbbadc910327593cda04aa4de24bd96e02e774d67"


def test_any_change_of_a_recipe_changes_its_digest():
    recipe = Recipe(method=LinearMerge(weights=(0.25, 0.75)), sources=("a", "b"), template="a", dtype="bfloat16")
    changes = [
        {"method": LinearMerge(weights=(0.75, 0.25))},
        {"method": TaskArithmeticMerge(weights=(0.25, 0.75))},
        {"sources": ("b", "a")},
        {"base": "c"},
        {"template": "b"},
        {"dtype": "float32"},
        {"seed": 1},
    ]
    digests = {recipe.digest, *(recipe.replace(**change).digest for change in changes)}
    assert len(digests) == len(changes) + 1


def test_nan_never_becomes_a_weight():
    with pytest.raises(ValueError, match="finite number"):
        LinearMerge(weights=(float("nan"), 1.0))


def test_the_template_is_the_base_if_there_is_one():
    assert pool("x", "y").template.digest == "x"
    assert pool("x", "y", base="z").template.digest == "z"


CONFIG = {
    "pool": {"checkpoints": [{"name": "m0", "path": "/m0"}, {"name": "m1", "path": "/m1"}]},
    "weights": {"m0": 0.3, "m1": 0.7},
}


def test_a_merge_config_becomes_a_recipe():
    recipe = parse_merge_config(CONFIG).recipe(pool("x", "y"))
    assert recipe == Recipe(method=LinearMerge(weights=(0.3, 0.7)), sources=("x", "y"), template="x", dtype="bfloat16")


def test_a_checkpoint_without_a_weight_weighs_nothing():
    recipe = parse_merge_config(CONFIG | {"weights": {"m1": 1.0}}).recipe(pool("x", "y"))
    assert recipe.method.weights == (0.0, 1.0)


def test_a_task_arithmetic_config_names_its_base():
    with_base = {**CONFIG["pool"], "base": {"name": "base", "path": "/base"}}
    config = parse_merge_config(CONFIG | {"method": "task_arithmetic", "scale": 0.5, "pool": with_base})
    recipe = config.recipe(pool("x", "y", base="z"))
    assert (recipe.base, recipe.template) == ("z", "z")
    assert recipe.method == TaskArithmeticMerge(weights=(0.3, 0.7), scale=0.5)


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"weights": {"m9": 1.0}}, "weights.m9"),
        ({"weights": {}}, "weights"),
        ({"method": "task_arithmetic"}, "pool.base"),
        ({"scale": 0.5}, "scale"),
        ({"colour": "red"}, "colour"),
        ({"method": "slurp"}, "method"),
    ],
)
def test_a_wrong_merge_config_is_refused_by_field(change, field):
    with pytest.raises(InvalidSpec) as caught:
        parse_merge_config(CONFIG | change)
    assert [error.field for error in caught.value.errors] == [field]
