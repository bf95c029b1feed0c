"""Merge methods: the table, each method against its float64 reference, and what must not change any bit."""

import hashlib
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any, get_args

import numpy as np
import pytest
import torch

import merging.methods
from campaigns.methods import (
    BreadcrumbsMerge,
    BreadcrumbsTiesMerge,
    ConsensusMerge,
    DareLinearMerge,
    DareTiesMerge,
    DellaLinearMerge,
    DellaMerge,
    EmrMerge,
    FisherMerge,
    KarcherMerge,
    LinearMerge,
    Method,
    ModelStockMerge,
    MultiSlerpMerge,
    NuSlerpMerge,
    ObimMerge,
    RegMeanMerge,
    SceMerge,
    SlerpMerge,
    TaskArithmeticMerge,
    TiesMerge,
)
from campaigns.recipe import Recipe
from merging.kernel import CPU_BLOCK_ELEMENTS
from merging.masks import CHANCES, chances, random_keys
from merging.methods import METHODS
from merging.pool_files import PoolFiles

Merge = Callable[..., dict[str, torch.Tensor]]
MakeRecipe = Callable[..., Recipe]
MakePool = Callable[..., PoolFiles]

METHOD_NOUNS = get_args(get_args(Method)[0])
PAIRS = ("slerp", "nuslerp")
WITHOUT_BASE = ("linear", "slerp", "fisher", "regmean")
"""Methods whose definition has no task vectors; a base, should a recipe have one, is nothing to them."""

W = (0.3, 0.5, 0.15)
SIGNED = (1.2, -0.4, 0.0)
EQUAL = (0.5, 0.5, 0.5)
D = (0.2, 0.6, 1.0)
SPARSE = (0.0, 1e-6, 0.07)
ONE = (1.0, 1.0, 1.0)
CASES: list[Any] = [
    LinearMerge(weights=W),
    LinearMerge(weights=SIGNED),
    LinearMerge(weights=(0.0, 0.0, 0.0)),
    SlerpMerge(t=0.3),
    SlerpMerge(t=0.999),
    NuSlerpMerge(weights=(0.3, 0.5)),
    NuSlerpMerge(weights=(1.0, -0.4)),
    MultiSlerpMerge(weights=W),
    MultiSlerpMerge(weights=SIGNED),
    MultiSlerpMerge(weights=EQUAL, normalize=False),
    KarcherMerge(weights=ONE),
    KarcherMerge(weights=(0.3, 0.0, 0.7), max_iterations=100, tolerance=1e-9),
    TaskArithmeticMerge(weights=W),
    TaskArithmeticMerge(weights=SIGNED, scale=-0.7),
    TiesMerge(weights=W, densities=D),
    TiesMerge(weights=SIGNED, densities=SPARSE, scale=1.5, normalize=False),
    TiesMerge(weights=EQUAL, densities=ONE),
    TiesMerge(weights=EQUAL, densities=D, trim="global"),
    TiesMerge(weights=SIGNED, densities=SPARSE, trim="global"),
    TiesMerge(weights=W, densities=D, trim_by="saliency"),
    DareLinearMerge(weights=W, densities=D),
    DareLinearMerge(weights=SIGNED, densities=(0.0, 0.9, 0.01), rescale=False, scale=2.0),
    DareTiesMerge(weights=W, densities=D),
    DareTiesMerge(weights=EQUAL, densities=(0.5, 0.5, 0.0), normalize=True, scale=0.3),
    DareTiesMerge(weights=SIGNED, densities=D, rescale=False),
    DellaMerge(weights=W, densities=D),
    DellaMerge(weights=SIGNED, densities=(0.5, 0.1, 0.95), epsilon=0.3, normalize=False, scale=0.8),
    DellaLinearMerge(weights=W, densities=D),
    DellaLinearMerge(weights=SIGNED, densities=(0.5, 0.1, 0.0), epsilon=0.0, rescale=False),
    BreadcrumbsMerge(weights=W, densities=(0.2, 0.6, 0.9)),
    BreadcrumbsMerge(weights=SIGNED, densities=SPARSE, gamma=0.3, scale=2.0),
    BreadcrumbsMerge(weights=EQUAL, densities=ONE, gamma=0.0),
    BreadcrumbsTiesMerge(weights=W, densities=(0.2, 0.6, 0.9), gamma=0.05),
    BreadcrumbsTiesMerge(weights=EQUAL, densities=(1.0, 0.3, 0.0), gamma=0.9, normalize=False, scale=1.3),
    ModelStockMerge(),
    ConsensusMerge(weights=EQUAL),
    ConsensusMerge(weights=SIGNED, agreeing=1, mask_threshold=1.7, scale=0.3),
    ConsensusMerge(weights=W, agreeing=3, mask_threshold=0.0),
    SceMerge(top_fraction=0.3),
    SceMerge(scale=1.4),
    SceMerge(top_fraction=1e-5),
    EmrMerge(task=1),
    EmrMerge(),
    FisherMerge(weights=W),
    FisherMerge(weights=(0.0, 2.0, 1.0), floor=0.1),
    RegMeanMerge(weights=W),
    RegMeanMerge(weights=(0.0, 2.0, 1.0), alpha=0.3),
    ObimMerge(weights=W, densities=(0.2, 0.6, 1.0)),
    ObimMerge(weights=SIGNED, densities=(0.3, 0.3, 0.3), rounds=4, order=(2, 0, 1)),
]
BY_KIND = {case.kind: case for case in reversed(CASES)}
"""The first case of each kind."""


def name_of(case: Any) -> str:
    return f"{CASES.index(case)}-{case.kind}" if case in CASES else str(case)


def tensors_of(stored: str) -> tuple[list[dict[str, torch.Tensor]], dict[str, torch.Tensor]]:
    """Three sources and a base: longer than a block and than a table of magnitudes, odd, tiny, tied, equal, unmoved."""
    generator = torch.Generator().manual_seed(11)
    shapes = {
        "number": (),
        "single": (1,),
        "layers.0.long": (120, 301),
        "layers.0.odd": (13, 7),
        "layers.1.conv": (3, 4, 5),
        "layers.1.column": (9, 1),
        "layers.1.empty": (0, 4),
        "layers.2.tied": (40, 33),
        "layers.2.transposed": (16, 5),
        "layers.2.same": (17, 9),
        "layers.2.unmoved": (17, 9),
        "norm": (7,),
    }
    base = {name: torch.randn(shape, generator=generator) * 0.05 for name, shape in shapes.items()}
    base["layers.2.tied"] = torch.randint(-8, 8, (40, 33), generator=generator) / 64
    sources = []
    for index in range(3):
        moved = {n: t + torch.randn(t.shape, generator=generator) * 0.01 * (index + 1) for n, t in base.items()}
        moved["layers.2.tied"] = base["layers.2.tied"] + torch.randint(-3, 4, (40, 33), generator=generator) / 64
        moved["layers.2.same"] = base["layers.2.same"] + 0.25
        moved["layers.2.unmoved"] = base["layers.2.unmoved"] if index != 1 else moved["layers.2.unmoved"]
        sources.append(moved)
    types = {"mixed": ("float32", "bfloat16", "float16", "bfloat16")}.get(stored, (stored,) * 4)
    every = [
        {n: t.to(getattr(torch, kind)) for n, t in m.items()} for m, kind in zip([*sources, base], types, strict=True)
    ]
    return every[:3], every[3]


def statistics_of(
    sources: list[dict[str, torch.Tensor]],
) -> list[tuple[dict[str, torch.Tensor], dict[str, torch.Tensor]]]:
    """What calibration might find: Gram matrices of some weights, Fisher information of most tensors."""
    generator = torch.Generator().manual_seed(12)
    inputs = {"layers.0.long": 301, "layers.0.odd": 7, "layers.2.transposed": 16}
    found = []
    for source in sources:
        grams = {}
        for name, count in inputs.items():
            if name in source:
                seen = torch.randn(4 * count, count, generator=generator) + torch.randn(count, generator=generator)
                grams[name] = seen.T @ seen / len(seen)
        known = {name: tensor for name, tensor in source.items() if tensor.numel() and name != "norm"}
        fisher = {name: torch.rand(tensor.numel(), generator=generator) ** 4 for name, tensor in known.items()}
        found.append((grams, fisher))
    return found


@pytest.fixture(scope="module")
def pools(tensor_pool: MakePool, tmp_path_factory: pytest.TempPathFactory) -> dict[str, PoolFiles]:
    cache = tmp_path_factory.mktemp("cache")
    tensors = {stored: tensors_of(stored) for stored in ("float32", "bfloat16", "mixed")}
    return {kind: tensor_pool(*found, cache, statistics_of(found[0])) for kind, found in tensors.items()}


@pytest.fixture(scope="module")
def small(tensor_pool: MakePool) -> PoolFiles:
    """The same without the long tensors, merged an element at a time in no time."""
    sources, base = tensors_of("mixed")
    chosen = ("number", "single", "layers.0.odd", "layers.1.empty", "layers.1.conv", "layers.2.transposed", "norm")
    shorter = [{name: tensors[name] for name in chosen} for tensors in (*sources, base)]
    return tensor_pool(shorter[:3], shorter[3], statistics=statistics_of(shorter[:3]))


def recipe_of_case(make: MakeRecipe, files: PoolFiles, case: Any, dtype: str = "float32", **options: Any) -> Recipe:
    if case.kind in PAIRS:
        options.setdefault("sources", (0, 1))
    if case.kind in WITHOUT_BASE:
        options["base"] = None
    return make(files, case, dtype, **options)


def inputs_of(references: ModuleType, files: PoolFiles, recipe: Recipe) -> dict[str, Any]:
    """Return what the reference is given: tensors as float32, the chances of every source, its energies by column."""
    found = {}
    known = [files.statistics[source] for source in recipe.sources]
    for name, info in files.template.merged_tensors.items():
        position, start = torch.arange(info.count, dtype=torch.int32), torch.zeros(1, dtype=torch.int64)
        keys = [torch.tensor(random_keys(recipe.seed, name, source)) for source in recipe.sources]
        drawn = [chances(position, start, key).double().reshape(info.shape) / CHANCES for key in keys]
        grams = [statistics.gram(name) for statistics in known]
        fisher = [statistics.fisher(name) for statistics in known]
        found[name] = references.Inputs(
            [values_of(files, source, name) for source in recipe.sources],
            values_of(files, recipe.base, name) if recipe.base else None,
            [chance.numpy() for chance in drawn],
            None if grams[0] is None else [gram.numpy() for gram in grams],
            known[0].input_axis(name),
            None if fisher[0] is None else [information.view(info.shape).numpy() for information in fisher],
        )
    return found


def values_of(files: PoolFiles, digest: str, name: str) -> np.ndarray:
    return files.checkpoints[digest].tensor(name).float().numpy()


def assert_as_expected(merged: torch.Tensor, expected: Any, sources: int, what: str) -> None:
    """Half a step of the output type, and the errors of a few float32 operations, are all that may lie between."""
    ours = merged.double().numpy()

    def is_near(values: np.ndarray) -> np.ndarray:
        coarse = torch.as_tensor(np.maximum(np.abs(values), np.abs(ours))).to(merged.dtype)
        step = (torch.nextafter(coarse, torch.full_like(coarse, float("inf"))) - coarse).double().numpy()
        return np.abs(ours - values) <= step / 2 + (sources + 6) * 2.0**-24 * expected.size + 1e-43

    wrong = ~(is_near(expected.values) | is_near(expected.others)) & expected.certain
    assert not wrong.any(), f"{what}: {wrong.sum()} of {wrong.size}, first at {np.argwhere(wrong)[0]}"
    assert np.count_nonzero(~expected.certain) <= ours.size / 1000


@pytest.mark.parametrize("stored, dtype", [("float32", "float32"), ("bfloat16", "bfloat16"), ("mixed", "float16")])
@pytest.mark.parametrize("case", CASES, ids=name_of)
def test_methods_agree_with_their_references(
    pools: dict[str, PoolFiles],
    references: ModuleType,
    merge: Merge,
    recipe_of: MakeRecipe,
    case: Any,
    stored: str,
    dtype: str,
) -> None:
    files = pools[stored]
    recipe = recipe_of_case(recipe_of, files, case, dtype, seed=5)
    merged = merge(files, recipe)
    expected = references.expected_merge(case, inputs_of(references, files, recipe))
    assert {*merged} == {*expected} == {*files.template.merged_tensors}
    for name, tensor in merged.items():
        assert_as_expected(tensor, expected[name], len(recipe.sources), f"{name} of {case}")


@pytest.mark.parametrize("kind", ["nuslerp", "multislerp", "karcher"])
def test_directions_without_a_base_agree_with_their_references(
    pools: dict[str, PoolFiles], references: ModuleType, merge: Merge, recipe_of: MakeRecipe, kind: str
) -> None:
    files = pools["bfloat16"]
    recipe = recipe_of_case(recipe_of, files, BY_KIND[kind], base=None)
    expected = references.expected_merge(recipe.method, inputs_of(references, files, recipe))
    for name, tensor in merge(files, recipe).items():
        assert_as_expected(tensor, expected[name], len(recipe.sources), name)


def test_the_pool_reaches_beyond_blocks_and_tables(pools: dict[str, PoolFiles]) -> None:
    """The cases above mean little if no tensor is longer than a block, with more magnitudes than a table tells."""
    files = pools["float32"]
    source, base = files.pool.checkpoints[0], files.pool.base
    assert base is not None
    assert files.template.tensors["layers.0.long"].count > CPU_BLOCK_ELEMENTS
    assert files.lookups.magnitudes(source.digest, base.digest, "layers.0.long").shift > 0


def bits(merged: dict[str, torch.Tensor]) -> dict[str, bytes]:
    return {name: tensor.flatten().view(torch.uint8).numpy().tobytes() for name, tensor in merged.items()}


@pytest.mark.parametrize("case", CASES, ids=name_of)
def test_neither_cuts_nor_runs_nor_threads_change_a_bit(
    pools: dict[str, PoolFiles], merge: Merge, recipe_of: MakeRecipe, case: Any
) -> None:
    files = pools["mixed"]
    recipe = recipe_of_case(recipe_of, files, case, "bfloat16")
    whole = bits(merge(files, recipe))
    for cut in (997, CPU_BLOCK_ELEMENTS - 1, CPU_BLOCK_ELEMENTS + 1):
        assert bits(merge(files, recipe, cut=cut)) == whole, cut
    assert bits(merge(files, recipe, by_run=False)) == whole
    torch.set_num_threads(2)
    fresh = PoolFiles(files.pool)  # looks everything up again, with two threads
    assert bits(merge(fresh, recipe)) == whole


@pytest.mark.parametrize("case", CASES, ids=name_of)
def test_an_element_at_a_time(small: PoolFiles, merge: Merge, recipe_of: MakeRecipe, case: Any) -> None:
    recipe = recipe_of_case(recipe_of, small, case)
    assert bits(merge(small, recipe, cut=1)) == bits(merge(small, recipe))


def turned(case: Any, order: tuple[int, ...]) -> Any:
    """Return the case for the sources in another order: what goes with a source goes where the source goes."""
    changes: dict[str, Any] = {n: tuple(v[i] for i in order) for n, v in case if isinstance(v, tuple) and n != "order"}
    if case.kind == "emr" and case.task is not None:
        changes["task"] = order.index(case.task)
    if case.kind == "obim":
        changes["order"] = tuple(order.index(i) for i in case.order or sorted(order))
    return case.replace(**changes)


@pytest.mark.parametrize("kind", sorted({*BY_KIND} - {"slerp", "nuslerp", "multislerp", "karcher", "regmean"}))
def test_two_sources_may_be_swapped(
    pools: dict[str, PoolFiles], merge: Merge, recipe_of: MakeRecipe, kind: str
) -> None:
    """Sums of two have no order. Chances go with a source, not with its place."""
    case, files = BY_KIND[kind], pools["bfloat16"]
    there = case.replace(**{n: v[:2] for n, v in case if isinstance(v, tuple)})
    merged = merge(files, recipe_of_case(recipe_of, files, there, sources=(0, 1)))
    back = recipe_of_case(recipe_of, files, turned(there, (1, 0)), sources=(1, 0))
    assert bits(merge(files, back)) == bits(merged)


@pytest.mark.parametrize("case", [case for case in CASES if case.kind not in PAIRS], ids=name_of)
def test_three_sources_may_change_places_up_to_rounding(
    pools: dict[str, PoolFiles], references: ModuleType, merge: Merge, recipe_of: MakeRecipe, case: Any
) -> None:
    if case.kind == "sce" and case.top_fraction < 1:
        pytest.skip("which elements vary most is told by variances, which are rounded sums")
    files = pools["float32"]
    recipe = recipe_of_case(recipe_of, files, case)
    expected = references.expected_merge(case, inputs_of(references, files, recipe))
    order = (2, 0, 1)
    for name, tensor in merge(files, recipe_of_case(recipe_of, files, turned(case, order), sources=order)).items():
        assert_as_expected(tensor, expected[name], 3, name)


@pytest.mark.parametrize("case", CASES, ids=name_of)
def test_merging_leaves_the_sources_alone(small: PoolFiles, merge: Merge, recipe_of: MakeRecipe, case: Any) -> None:
    before = {digest: bits({n: files.tensor(n) for n in files.tensors}) for digest, files in small.checkpoints.items()}
    merge(small, recipe_of_case(recipe_of, small, case))
    after = {digest: bits({n: files.tensor(n) for n in files.tensors}) for digest, files in small.checkpoints.items()}
    assert before == after


@pytest.mark.parametrize("noun", METHOD_NOUNS, ids=lambda noun: noun.model_fields["kind"].default)
def test_table_has_every_method_with_file_and_paper(noun: Any) -> None:
    kind = noun.model_fields["kind"].default
    assert kind in METHODS, f"no row in METHODS for the recipe's method {kind!r}"
    file = Path(merging.methods.__file__).with_name(f"{kind}.py")
    assert file.is_file(), f"no file {file.name}"
    assert type(METHODS[kind]).__module__ == f"merging.methods.{kind}"
    told = (type(METHODS[kind]).__doc__ or "") + file.read_text().split('"""')[1]
    for paper in (part[:10] for part in noun.__doc__.split("arXiv ")[1:]):
        assert paper in told, f"{file.name} does not name arXiv {paper}"


def test_table_has_no_method_that_recipes_cannot_name() -> None:
    assert {*METHODS} <= {noun.model_fields["kind"].default for noun in METHOD_NOUNS}


def test_every_method_has_a_reference_and_cases(references: ModuleType) -> None:
    assert {*METHODS} <= {*references.REFERENCES, *references.OF_MODELS}
    assert {*METHODS} <= {*BY_KIND}


def formula_tensors(index: int) -> dict[str, torch.Tensor]:
    """Numbers that follow from whole-number arithmetic alone; the base is index 0."""

    def values(count: int, salt: int) -> torch.Tensor:
        place = torch.arange(count)
        origin = (place * place * 7919 + place * salt * 104729 + salt) % 2003 - 1001
        moved = (place * place * 31 + place * 613 * index + salt * index) % (97 * index + 1) - 48 * index
        return origin / 4096 + moved / 65536

    return {
        "embed": values(35, 1).view(5, 7),
        "layers.0.weight": values(300, 2).view(20, 15).to((torch.float32, torch.bfloat16, torch.float16)[index % 3]),
        "layers.1.weight": values(77, 3).view(7, 11).bfloat16(),
        "norm": values(9, 4).half(),
    }


@pytest.fixture(scope="module")
def golden_pool(tensor_pool: MakePool) -> PoolFiles:
    sources = [formula_tensors(index) for index in (1, 2, 3)]
    statistics = []
    for index, source in enumerate(sources):
        gram = torch.diag(torch.arange(15) % 4 / 8 + 1 + index) + 1 / 16
        statistics.append(({"layers.0.weight": gram}, {n: t.flatten().float().abs() for n, t in source.items()}))
    return tensor_pool(sources, formula_tensors(0), statistics=statistics)


GOLDEN: dict[str, str] = {
    "linear": "b9697f2f1bc377f1",
    "slerp": "ef2bbf3c1574e9db",
    "nuslerp": "7e1c9c7ecde6d92d",
    "multislerp": "f481f1ecb8fc4962",
    "karcher": "3f498a248c5d8b3e",
    "task_arithmetic": "dbe6aed95dd8c0b3",
    "ties": "9b4edb52198b0c87",
    "dare_linear": "f2c94aadbfa8c81e",
    "dare_ties": "a5c19ec1c94d85c9",
    "della": "e6a855a50167a608",
    "della_linear": "0df0a448c5e2f664",
    "breadcrumbs": "7e2d2f2dcc6f93f3",
    "breadcrumbs_ties": "1a79510c03be06e3",
    "model_stock": "323c9b7e8d4c03a6",
    "consensus": "2760965b905af3be",
    "sce": "97b43c5f58d7c208",
    "regmean": "2e5663ab29defd32",
    "obim": "64ba77255b1230a4",
    "fisher": "4a63a948a7f910ed",
    "emr": "3dae3c886e6968bc",
}
"""The first 16 digits of the sha256 of what the first case of each method makes of the pool above, in float32. Where
one changes, merges that users made can no longer be made."""


@pytest.mark.parametrize("kind", [*METHODS])
def test_the_bytes_of_every_method_are_pinned(
    golden_pool: PoolFiles, merge: Merge, recipe_of: MakeRecipe, kind: str
) -> None:
    merged = bits(merge(golden_pool, recipe_of_case(recipe_of, golden_pool, BY_KIND[kind], seed=3)))
    assert hashlib.sha256(b"".join(merged.values())).hexdigest()[:16] == GOLDEN.get(kind)
