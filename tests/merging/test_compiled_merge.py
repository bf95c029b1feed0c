"""The compiled pass: the same bits as plain operations, and a way on without a compiler."""

import logging
import math
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
import torch

from campaigns.methods import ConsensusMerge, DellaLinearMerge, LinearMerge, TiesMerge
from campaigns.recipe import Recipe
from merging import compiling, kernel
from merging.magnitudes import ROW_ELEMENTS, TaskMagnitudes, members_of_rows
from merging.pool_files import PoolFiles

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::UserWarning", "ignore::FutureWarning")

Merge = Callable[..., dict[str, torch.Tensor]]
MakeRecipe = Callable[..., Recipe]
MakePool = Callable[..., PoolFiles]

W = (0.3, 0.5, 0.15)
D = (0.2, 0.6, 1.0)
METHODS: list[Any] = [
    LinearMerge(weights=W),
    LinearMerge(weights=(0.3, 0.0, -0.7)),
    LinearMerge(weights=(0.0, 1.3, 0.4)),
    TiesMerge(weights=W, densities=D, trim_by="saliency"),
    DellaLinearMerge(weights=W, densities=D),
    ConsensusMerge(weights=W),
]
"""Each building block of formulas once: weighted sums, cuts, columns, elections; chances, ranks; counts of masks."""


@pytest.fixture(autouse=True)
def _compile_short_runs(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(kernel, "COMPILED_FROM_ELEMENTS", 1)
    yield
    kernel.compiled_merging.cache_clear()
    compiling.compiled_or_plain.cache_clear()


def tensors(seed: int, dtype: torch.dtype) -> dict[str, torch.Tensor]:
    """Lengths that do and do not fill vectors, starting anywhere in memory; zeros of both signs, and subnormals."""
    generator = torch.Generator().manual_seed(seed)
    found = {}
    for name, shape in {"long": (101, 997), "odd": (17,), "square": (64, 64), "few": (3, 5)}.items():
        values = torch.randn(shape, generator=generator).flatten()
        values[::5] = -0.0
        values[1 :: 5 + seed] = 0.0
        values[2::11] *= 1e-41
        found[name] = values.view(shape).to(dtype)
    return found


@pytest.fixture(scope="module")
def pools(tensor_pool: MakePool) -> dict[torch.dtype, PoolFiles]:
    generator = torch.Generator().manual_seed(9)
    pools = {}
    for dtype in (torch.bfloat16, torch.float32):
        sources = [tensors(seed, dtype) for seed in (1, 2, 3)]
        statistics = []
        for source in sources:
            grams = {n: torch.rand(t.shape[-1], generator=generator).diag() for n, t in source.items() if t.ndim > 1}
            statistics.append((grams, {n: torch.ones(t.numel()) for n, t in source.items()}))
        pools[dtype] = tensor_pool(sources, tensors(0, dtype), statistics=statistics)
    return pools


def bits(merged: dict[str, torch.Tensor]) -> dict[str, bytes]:
    return {name: tensor.flatten().view(torch.uint8).numpy().tobytes() for name, tensor in merged.items()}


def assert_same(files: PoolFiles, recipe: Recipe, merge: Merge) -> None:
    compiled, plain = (bits(merge(files, recipe, by_run=False, compiled=way)) for way in (True, False))
    differing = [name for name in plain if compiled[name] != plain[name]]
    assert not differing, (recipe.method, differing)


@pytest.mark.parametrize("method", METHODS, ids=lambda method: method.kind)
def test_compiled_equals_plain_bit_for_bit(
    pools: dict[torch.dtype, PoolFiles],
    merge: Merge,
    recipe_of: MakeRecipe,
    caplog: pytest.LogCaptureFixture,
    method: Any,
) -> None:
    """Without falling back on the plain way unseen."""
    files = pools[torch.bfloat16]
    assert_same(files, recipe_of(files, method, "bfloat16"), merge)
    assert [record for record in caplog.records if record.name == "merging.compiling"] == []


def test_subnormal_numbers_are_kept(pools: dict[torch.dtype, PoolFiles], merge: Merge, recipe_of: MakeRecipe) -> None:
    files = pools[torch.float32]
    recipe = recipe_of(files, LinearMerge(weights=W), "float32")
    assert_same(files, recipe, merge)
    merged = merge(files, recipe, compiled=True)["long"]
    assert bool(((merged != 0) & (merged.abs() < torch.finfo(torch.float32).tiny)).any())


def test_a_single_element_at_the_end(pools: dict[torch.dtype, PoolFiles], merge: Merge, recipe_of: MakeRecipe) -> None:
    files = pools[torch.bfloat16]
    recipe = recipe_of(files, METHODS[0], "bfloat16")
    cut = 101 * 997 - 1
    assert bits(merge(files, recipe, by_run=False, cut=cut, compiled=True)) == bits(merge(files, recipe))


def test_compiled_passes_find_the_same_magnitudes() -> None:
    """In the first rows, across them, behind the last whole row, and there alone."""
    generator = torch.Generator().manual_seed(1)
    source = torch.randn((1 << 16) + 300, generator=generator).bfloat16()
    base = torch.zeros_like(source)
    source[-200:], source[:3] = 7.0, -7.0
    source[-1] = 9.0
    limits = [(7.0, 7.5), (0.5, 0.502), (8.0, 10.0), (0.0, 10.0), (20.0, 30.0), (math.inf, math.inf)]
    rows = members_of_rows([source] * len(limits), base, limits)
    assert rows.shape == (len(limits), len(source) // ROW_ELEMENTS)
    plain = TaskMagnitudes(source, base)
    for (lower, upper), members, fewest in zip(limits, rows, (202, 9, 1, len(source), 0, 0), strict=True):
        compiled = TaskMagnitudes(source, base, members)
        found, expected = compiled.between(lower, upper), plain.between(lower, upper)
        assert all(np.array_equal(some, other) for some, other in zip(found, expected, strict=True))
        count = len(expected[0])
        assert count >= fewest
        for place in {1, 2, count // 2, count - 1, count} & {*range(1, len(expected[0]) + 1)}:
            assert compiled.position(place, lower, upper) == expected[0][place - 1]


def test_new_numbers_do_not_compile_again(
    pools: dict[torch.dtype, PoolFiles], merge: Merge, recipe_of: MakeRecipe
) -> None:
    files = pools[torch.bfloat16]
    merge(files, recipe_of(files, METHODS[0], "bfloat16"), compiled=True)
    with torch.compiler.set_stance("fail_on_recompile"):
        for number in range(20):
            method = LinearMerge(weights=(0.1, 0.01 * number, 0.3))
            merge(files, recipe_of(files, method, "bfloat16"), compiled=True)


def test_without_a_compiler_the_plain_way_takes_over(
    pools: dict[torch.dtype, PoolFiles],
    merge: Merge,
    recipe_of: MakeRecipe,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    def no_compiler(function: Any, **options: Any) -> Any:
        def fail(*arguments: Any) -> None:
            raise RuntimeError("no C++ compiler here\nand a long story")

        return fail

    files = pools[torch.bfloat16]
    recipe = recipe_of(files, METHODS[0], "bfloat16")
    expected = bits(merge(files, recipe))
    kernel.compiled_merging.cache_clear()
    compiling.compiled_or_plain.cache_clear()
    monkeypatch.setattr(torch, "compile", no_compiler)
    with caplog.at_level(logging.WARNING):
        results = [bits(merge(files, recipe, compiled=True)) for _ in range(3)]
    assert results == [expected] * 3
    assert [record.getMessage() for record in caplog.records] == [
        "merging without a compiled pass, which is slower: no C++ compiler here"
    ]
