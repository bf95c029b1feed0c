"""Recipes that a pool cannot make: every field that is wrong is named, at once."""

import math
from pathlib import Path
from typing import Any, get_args

import pytest
from pydantic import ValidationError

from campaigns.errors import InvalidInput, from_validation
from campaigns.methods import Method
from campaigns.pools import Pool
from campaigns.recipe import Recipe
from merging.pool_files import PoolFiles

METHODS: list[Any] = list(get_args(get_args(Method)[0]))
NUMBERS = {"weights": (1.0, 2.0), "densities": (0.5, 0.25), "t": 0.5}


def document_of(method: Any) -> dict[str, Any]:
    """Return the method with two sources, as JSON has it."""
    given = {name: NUMBERS[name] for name in method.model_fields if name in NUMBERS}
    document: dict[str, Any] = method(**given).model_dump(mode="json")
    return document


def numbers_of(document: dict[str, Any]) -> list[tuple[str, int | None]]:
    """Return the names of all floating numbers, and their places where there are several."""
    found: list[tuple[str, int | None]] = [(name, None) for name, value in document.items() if isinstance(value, float)]
    lists = [name for name, value in document.items() if isinstance(value, list)]
    return [*found, *((name, index) for name in lists for index in range(2))]


def spoil(document: dict[str, Any], name: str, index: int | None, value: object) -> dict[str, Any]:
    if index is None:
        return {**document, name: value}
    return {**document, name: [value if i == index else number for i, number in enumerate(document[name])]}


CASES = [
    pytest.param(method, name, index, id=f"{document_of(method)['kind']}.{name}.{index}")
    for method in METHODS
    for name, index in numbers_of(document_of(method))
]


def recipe_document(method: dict[str, Any], **changes: Any) -> dict[str, Any]:
    return {"method": method, "sources": ["a", "b"], "template": "a", "dtype": "float32", **changes}


def fields_of(document: dict[str, Any]) -> list[str]:
    with pytest.raises(ValidationError) as caught:
        Recipe.model_validate(document)
    return [error.field for error in from_validation(caught.value, "recipe").errors]


@pytest.mark.parametrize(("method", "name", "index"), CASES)
def test_numbers_that_are_not_finite(method: Any, name: str, index: int | None) -> None:
    leaf = name if index is None else f"{name}.{index}"
    good = document_of(method)
    for value in (math.nan, math.inf, -math.inf):
        bad = spoil(good, name, index, value)
        assert fields_of(recipe_document(bad)) == [f"recipe.method.{leaf}"]
        rules = [{"tensors": {}, "method": good}, {"tensors": {}, "method": bad}]
        assert fields_of(recipe_document(good, rules=rules)) == [f"recipe.rules.1.method.{leaf}"]


BOUNDS: dict[str, tuple[float, ...]] = {
    "densities": (-0.01, 1.01),
    "t": (-0.01, 1.01),
    "gamma": (-0.01, 1.01),
    "top_fraction": (-0.01, 1.01),
    "alpha": (-0.01, 1.01),
    "epsilon": (-0.01, 1.0),
    "tolerance": (0.0, -1.0),
    "floor": (0.0, -1.0),
    "mask_threshold": (-0.1,),
    "rounds": (0, 101),
    "max_iterations": (0, 1001),
    "agreeing": (-1,),
    "task": (-1,),
}


@pytest.mark.parametrize("method", METHODS, ids=lambda method: document_of(method)["kind"])
def test_numbers_out_of_range(method: Any) -> None:
    good = document_of(method)
    for name in good.keys() & BOUNDS.keys():
        index = 1 if isinstance(good[name], list) else None
        leaf = name if index is None else f"{name}.{index}"
        for value in BOUNDS[name]:
            assert fields_of(recipe_document(spoil(good, name, index, value))) == [f"recipe.method.{leaf}"]


def test_every_bounded_number_is_tried() -> None:
    """A number without bounds is a weight or a scale."""
    names = {name for method in METHODS for name in method.model_fields}
    free = {"kind", "weights", "scale", "normalize", "rescale", "trim", "trim_by", "order"}
    assert names - free == BOUNDS.keys()


@pytest.mark.parametrize(("edge", "name"), [(0.0, "densities"), (1.0, "densities"), (0.0, "t"), (1.0, "t")])
def test_the_ends_of_ranges_are_allowed(edge: float, name: str) -> None:
    for method in METHODS:
        if name in method.model_fields:
            document = document_of(method)
            value = [edge, edge] if isinstance(document[name], list) else edge
            Recipe.model_validate(recipe_document({**document, name: value}))


@pytest.mark.parametrize(
    ("method", "field"),
    [
        ({"kind": "nuslerp", "weights": [1, -1]}, "recipe.method.weights"),
        ({"kind": "nuslerp", "weights": [1, 1, 1]}, "recipe.method.weights"),
        ({"kind": "fisher", "weights": [1, -1]}, "recipe.method.weights.1"),
        ({"kind": "regmean", "weights": [-1, 1]}, "recipe.method.weights.0"),
        ({"kind": "linear", "weights": []}, "recipe.method.weights"),
        ({"kind": "obim", "weights": [1, 1], "densities": [1, 1], "order": [0, 0]}, "recipe.method.order"),
        ({"kind": "obim", "weights": [1, 1], "densities": [1, 1], "order": [0, 2]}, "recipe.method.order"),
        ({"kind": "linear", "weights": [1, 1], "scale": 2}, "recipe.method.scale"),
    ],
)
def test_parameters_that_do_not_go_together(method: dict[str, Any], field: str) -> None:
    assert fields_of(recipe_document(method)) == [field]


def problems(pool: Pool, method: dict[str, Any], **changes: Any) -> list[str]:
    """Return the fields that keep this recipe from being made of the pool (three checkpoints and a base).

    The pool has no statistics; that they are missed is a test of its own.
    """
    digests = [c.digest for c in pool.checkpoints]
    recipe = {"sources": digests, "base": pool.template.digest, "template": pool.template.digest}
    document = recipe_document(method, **{**recipe, **changes})
    with pytest.raises(InvalidInput) as caught:
        PoolFiles(pool).check(Recipe.model_validate(document))
    return [error.field for error in caught.value.errors if error.field != "recipe.statistics"]


@pytest.mark.parametrize("method", METHODS, ids=lambda method: document_of(method)["kind"])
def test_statistics_where_they_are_needed(pool: Pool, method: Any) -> None:
    digests = [c.digest for c in pool.checkpoints]
    document = document_of(method)
    needs = method.model_validate(document).needs_statistics
    assert (needs is not None) == (document["kind"] in ("fisher", "regmean", "obim"))
    if needs is not None:
        recipe = recipe_document(document, sources=digests, base=pool.template.digest, template=pool.template.digest)
        with pytest.raises(InvalidInput, match="needs calibration statistics of every source"):
            PoolFiles(pool).check(Recipe.model_validate(recipe))


@pytest.mark.parametrize(
    "method",
    [method for method in METHODS if {"weights", "densities"} & method.model_fields.keys()],
    ids=lambda method: document_of(method)["kind"],
)
def test_one_entry_per_source(pool: Pool, method: Any) -> None:
    document = document_of(method)
    names = [name for name, value in document.items() if isinstance(value, list)]
    fields = ["recipe.sources"] if document["kind"] == "nuslerp" else [f"recipe.method.{name}" for name in names]
    assert problems(pool, document) == fields
    ruled = [field.replace("recipe.method", "recipe.rules.1.method") for field in fields]
    good = {"kind": "linear", "weights": [1, 1, 1]}
    rules = [{"tensors": {}, "method": good}, {"tensors": {"contains": ["mlp"]}, "method": document}]
    assert problems(pool, good, rules=rules) == ruled


def test_pairs_take_two_sources(pool: Pool) -> None:
    assert problems(pool, {"kind": "slerp", "t": 0.5}) == ["recipe.sources"]
    two = [c.digest for c in pool.checkpoints[:2]]
    base = pool.template.digest
    slerp = recipe_document({"kind": "slerp", "t": 0.5}, sources=two, base=base, template=base)
    PoolFiles(pool).check(Recipe.model_validate(slerp))
    rules = [{"tensors": {}, "method": {"kind": "slerp", "t": 0.5}}]
    assert problems(pool, {"kind": "model_stock"}, rules=rules) == ["recipe.sources"]


def test_numbers_of_sources(pool: Pool) -> None:
    assert problems(pool, {"kind": "emr", "task": 3}) == ["recipe.method.task"]
    assert problems(pool, {"kind": "consensus", "weights": [1, 1, 1], "agreeing": 4}) == ["recipe.method.agreeing"]
    obim = {"kind": "obim", "weights": [1, 1], "densities": [1, 1], "order": [1, 0]}
    assert problems(pool, obim) == [f"recipe.method.{name}" for name in ("weights", "densities", "order")]
    base = pool.template.digest
    last = recipe_document(
        {"kind": "emr", "task": 2}, sources=[c.digest for c in pool.checkpoints], base=base, template=base
    )
    PoolFiles(pool).check(Recipe.model_validate(last))


@pytest.mark.parametrize("method", METHODS, ids=lambda method: document_of(method)["kind"])
def test_a_base_where_one_is_needed(pool: Pool, method: Any) -> None:
    two = [c.digest for c in pool.checkpoints[:2]]
    document = document_of(method)
    rules = [{"tensors": {}, "method": document}]
    linear = {"kind": "linear", "weights": [1, 1]}
    if method.needs_base:
        assert problems(pool, document, sources=two, base=None) == ["recipe.base"]
        assert problems(pool, linear, sources=two, base=None, rules=rules) == ["recipe.base"]
    assert problems(pool, document, sources=two, base="unknown") == ["recipe.base"]


def test_everything_at_once(pool: Pool) -> None:
    method = {"kind": "ties", "weights": [1e39, 1], "densities": [1, 1]}
    found = problems(pool, method, sources=["nothing", pool.checkpoints[0].digest, "none"], base=None, template="other")
    assert found == [
        "recipe.sources.0",
        "recipe.sources.2",
        "recipe.base",
        "recipe.template",
        "recipe.method.weights",
        "recipe.method.densities",
        "recipe.method.weights.0",
    ]


def test_a_recipe_of_the_pool(pool: Pool, zoo: Path) -> None:
    assert zoo.is_dir()
    base = pool.template.digest
    rules = [{"tensors": {}, "method": {"kind": "ties", "weights": [1, 1, 1], "densities": [0, 0.5, 1]}}]
    method = {"kind": "linear", "weights": [1, 1, -1]}
    document = recipe_document(
        method, sources=[c.digest for c in pool.checkpoints], base=base, template=base, rules=rules
    )
    PoolFiles(pool).check(Recipe.model_validate(document))


def test_rules_that_match_no_tensor_are_told(pool: Pool) -> None:
    rules = [
        {"tensors": {"contains": "mlp"}, "method": {"kind": "linear", "weights": [1, 0, 0]}},
        {"tensors": {"contains": ["mpl"], "layers": [0, 2]}, "method": {"kind": "linear", "weights": [1, 0, 0]}},
    ]
    assert problems(pool, {"kind": "linear", "weights": [1, 1, 1]}, rules=rules) == ["recipe.rules.1.tensors"]
