"""Merge methods: golden values, properties against a float64 reference, and the table."""

from pathlib import Path
from typing import Any, get_args

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import merging.methods
from campaigns.recipe import LinearMerge, Method, Recipe, TaskArithmeticMerge
from merging.dtypes import RECIPE_DTYPES
from merging.kernel import CPU_BLOCK_ELEMENTS, Kernel
from merging.methods import METHODS
from merging.runs import Run

METHOD_NOUNS = get_args(get_args(Method)[0])
DTYPES = st.sampled_from([*RECIPE_DTYPES])


def merge(
    method: Any,
    sources: list[torch.Tensor],
    base: torch.Tensor | None = None,
    dtype: Any = "float32",
    out_dtype: torch.dtype | None = None,
    compiled: bool = False,
) -> torch.Tensor:
    named = {f"s{index}": source for index, source in enumerate(sources)}
    recipe = Recipe(
        method=method, sources=tuple(named), base=None if base is None else "base", template="0", dtype=dtype
    )
    run = Run(0, len(sources[0]), named if base is None else {**named, "base": base})
    out = torch.full((run.count,), 7, dtype=out_dtype or RECIPE_DTYPES[dtype])
    Kernel(recipe, compiled).merge_run(run, out)
    return out


def bits(tensor: torch.Tensor) -> list[int]:
    return tensor.view(torch.uint8).tolist()


def random_sources(seed: int, count: int, length: int, dtype: torch.dtype = torch.bfloat16) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(length, generator=generator).to(dtype) for _ in range(count)]


def float32_steps(weights: list[float], sources: list[torch.Tensor]) -> np.ndarray:
    """The definition, with numpy: float32 products added up in order."""
    total = np.float32(weights[0]) * sources[0].float().numpy()
    for weight, source in zip(weights[1:], sources[1:], strict=True):
        total = total + np.float32(weight) * source.float().numpy()
    return total


def test_linear_golden_values() -> None:
    sources = [torch.tensor([1.0, -2.0, 0.5]), torch.tensor([3.0, 4.0, -0.25])]
    assert merge(LinearMerge(weights=(0.25, 0.75)), sources).tolist() == [2.5, 2.5, -0.0625]


def test_task_arithmetic_golden_values() -> None:
    base = torch.tensor([1.0, 1.0, 0.0])
    sources = [torch.tensor([2.0, 1.0, 0.5]), torch.tensor([1.0, 3.0, -1.0])]
    merged = merge(TaskArithmeticMerge(weights=(1.0, 0.5), scale=0.5), sources, base)
    assert merged.tolist() == [1.5, 1.5, 0.0]


def test_linear_rounds_once_from_float32() -> None:
    """1 + 3 * 2^-9 lies above the middle between two bfloat16 numbers; adding in bfloat16 would lose both terms."""
    sources = [torch.tensor([value], dtype=torch.bfloat16) for value in (1.0, 2.0**-9, 2.0**-8)]
    assert merge(LinearMerge(weights=(1.0, 1.0, 1.0)), sources, dtype="bfloat16").item() == 1 + 2.0**-7


@pytest.mark.parametrize("dtype", [*RECIPE_DTYPES])
def test_linear_is_float32_steps_without_fused_multiply_add(dtype: Any) -> None:
    sources = random_sources(0, 5, 3 * CPU_BLOCK_ELEMENTS // 2)
    weights = [0.1, 0.37, -0.2, 1.3, 0.01]
    expected = torch.from_numpy(float32_steps(weights, sources)).to(RECIPE_DTYPES[dtype])
    assert torch.equal(merge(LinearMerge(weights=tuple(weights)), sources, dtype=dtype), expected)


def test_all_weights_zero_give_positive_zeros() -> None:
    sources = [torch.tensor([-1.0, 2.0]), torch.tensor([3.0, -0.0])]
    assert bits(merge(LinearMerge(weights=(0.0, 0.0)), sources)) == [0] * 8


def test_recipe_type_narrower_than_output_rounds_to_the_recipe_type_first() -> None:
    sources = random_sources(1, 2, 100, torch.float32)
    for weights in ((0.3, 0.7), (1.0, 0.0)):
        narrow = merge(LinearMerge(weights=weights), sources, dtype="bfloat16")
        wide = merge(LinearMerge(weights=weights), sources, dtype="bfloat16", out_dtype=torch.float32)
        assert torch.equal(wide, narrow.float())


@given(data=st.data(), dtype=DTYPES, count=st.integers(1, 5))
@settings(max_examples=60, deadline=None)
def test_one_hot_is_the_parent_bit_for_bit(data: st.DataObject, dtype: Any, count: int) -> None:
    """Any finite bit pattern, -0.0 and subnormals among them."""
    torch_dtype = RECIPE_DTYPES[dtype]
    words = st.lists(st.binary(min_size=torch_dtype.itemsize, max_size=torch_dtype.itemsize), min_size=8, max_size=8)
    sources = []
    for _ in range(count):
        raw = torch.frombuffer(bytearray(b"".join(data.draw(words))), dtype=torch_dtype)
        sources.append(torch.where(raw.isfinite(), raw, torch.tensor(-0.0, dtype=torch_dtype)))
    parent = data.draw(st.integers(0, count - 1))
    weights = tuple(float(index == parent) for index in range(count))
    assert bits(merge(LinearMerge(weights=weights), sources, dtype=dtype)) == bits(sources[parent])


@given(
    seed=st.integers(0, 10_000),
    weights=st.lists(st.floats(-2, 2), min_size=1, max_size=8),
    order=st.randoms(use_true_random=False),
)
@settings(max_examples=60, deadline=None)
def test_permuted_parents_agree_with_float64(seed: int, weights: list[float], order: Any) -> None:
    sources = random_sources(seed, len(weights), 64)
    reference = sum(w * s.double() for w, s in zip(weights, sources, strict=True))
    bound = sum(abs(w) * s.double().abs() for w, s in zip(weights, sources, strict=True))
    pairs = list(zip(weights, sources, strict=True))
    order.shuffle(pairs)
    for chosen in (list(zip(weights, sources, strict=True)), pairs):
        merged = merge(LinearMerge(weights=tuple(w for w, _ in chosen)), [s for _, s in chosen])
        tolerance = bound * (len(weights) + 2) * torch.finfo(torch.float32).eps + 1e-37
        assert bool(((merged.double() - reference).abs() <= tolerance).all())


@given(
    seed=st.integers(0, 10_000), weights=st.lists(st.floats(-2, 2), min_size=1, max_size=6), scale=st.floats(-1.5, 1.5)
)
@settings(max_examples=60, deadline=None)
def test_task_arithmetic_agrees_with_float64(seed: int, weights: list[float], scale: float) -> None:
    base, *sources = random_sources(seed, len(weights) + 1, 64)
    deltas = [(w, s.double() - base.double()) for w, s in zip(weights, sources, strict=True)]
    reference = base.double() + scale * sum(w * delta for w, delta in deltas)
    bound = base.double().abs() + abs(scale) * sum(abs(w) * delta.abs() for w, delta in deltas)
    merged = merge(TaskArithmeticMerge(weights=tuple(weights), scale=scale), sources, base)
    tolerance = bound * (len(weights) + 4) * torch.finfo(torch.float32).eps + 1e-37
    assert bool(((merged.double() - reference).abs() <= tolerance).all())


@pytest.mark.parametrize(("weights", "scale"), [((0.0, 0.0), 1.0), ((0.4, 0.6), 0.0)])
def test_task_arithmetic_of_nothing_is_the_base_bit_for_bit(weights: tuple[float, ...], scale: float) -> None:
    base = torch.tensor([-0.0, 1.0, 1e-40, 3.3])
    sources = random_sources(3, 2, 4, torch.float32)
    assert bits(merge(TaskArithmeticMerge(weights=weights, scale=scale), sources, base)) == bits(base)


def test_weights_below_float32_count_as_zero() -> None:
    parent, other = torch.tensor([-0.0, 1.5]), torch.tensor([1.0, 1.0])
    assert bits(merge(LinearMerge(weights=(1.0, 1e-60)), [parent, other])) == bits(parent)


def test_a_source_of_weight_zero_changes_no_bit() -> None:
    parent, other = torch.tensor([-0.0, 0.0, 2.0]), torch.tensor([5.0, -5.0, 0.0])
    alone = merge(LinearMerge(weights=(0.5,)), [parent])
    assert bits(merge(LinearMerge(weights=(0.5, 0.0)), [parent, other])) == bits(alone)


@pytest.mark.parametrize("noun", METHOD_NOUNS, ids=lambda noun: noun.model_fields["kind"].default)
def test_table_has_every_method_with_file_and_paper(noun: Any) -> None:
    kind = noun.model_fields["kind"].default
    assert kind in METHODS, f"no row in METHODS for the recipe's method {kind!r}"
    file = Path(merging.methods.__file__).with_name(f"{kind}.py")
    assert file.is_file(), f"no file {file.name}"
    assert type(METHODS[kind]).__module__ == f"merging.methods.{kind}"
    arxiv = noun.__doc__.split("arXiv ")[1][:10]
    assert arxiv in (type(METHODS[kind]).__doc__ or ""), f"the docstring of {kind} does not name arXiv {arxiv}"


def test_table_has_no_method_that_recipes_cannot_name() -> None:
    assert {*METHODS} == {noun.model_fields["kind"].default for noun in METHOD_NOUNS}


def example_of(kind: str, count: int) -> Any:
    """A recipe method of that kind with ordinary numbers; a new method needs a line here to pass the contract below."""
    weights = tuple(0.1 + 0.2 * index for index in range(count))
    return {"linear": LinearMerge(weights=weights), "task_arithmetic": TaskArithmeticMerge(weights=weights, scale=0.7)}[
        kind
    ]


@pytest.mark.parametrize("kind", [*METHODS])
@pytest.mark.parametrize("cut", [1, 17, CPU_BLOCK_ELEMENTS - 1, CPU_BLOCK_ELEMENTS + 1])
def test_any_cut_gives_the_same_bits(kind: str, cut: int) -> None:
    length = 2 * CPU_BLOCK_ELEMENTS + 5
    base, *sources = random_sources(5, 4, length)
    recipe = Recipe(method=example_of(kind, 3), sources=("0", "1", "2"), base="base", template="0", dtype="bfloat16")
    run = Run(0, length, {"0": sources[0], "1": sources[1], "2": sources[2], "base": base})
    whole, first, second = torch.empty(length, dtype=torch.bfloat16), *torch.empty(2, length, dtype=torch.bfloat16)
    kernel = Kernel(recipe)
    kernel.merge_run(run, whole)
    kernel.merge_run(run, first[:cut])
    kernel.merge_run(run, second[cut:], cut)
    assert torch.equal(whole, torch.cat([first[:cut], second[cut:]]))


@pytest.mark.parametrize("kind", [*METHODS])
def test_any_number_of_threads_gives_the_same_bits(kind: str) -> None:
    base, *sources = random_sources(6, 4, 200_001)
    one = merge(example_of(kind, 3), sources, base)
    torch.set_num_threads(2)
    assert torch.equal(merge(example_of(kind, 3), sources, base), one)


@pytest.mark.parametrize("kind", [*METHODS])
def test_merging_leaves_the_sources_alone(kind: str) -> None:
    base, *sources = random_sources(7, 4, 1000, torch.float32)
    copies = [tensor.clone() for tensor in (base, *sources)]
    merge(example_of(kind, 3), sources, base)
    assert all(torch.equal(tensor, copy) for tensor, copy in zip((base, *sources), copies, strict=True))
