"""What merge methods promise: copies bit for bit, what equals what, how much is kept, and how chance averages out."""

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from campaigns.methods import (
    BreadcrumbsMerge,
    BreadcrumbsTiesMerge,
    ConsensusMerge,
    DareLinearMerge,
    DareTiesMerge,
    DellaLinearMerge,
    DellaMerge,
    EmrMerge,
    KarcherMerge,
    LinearMerge,
    ModelStockMerge,
    MultiSlerpMerge,
    NuSlerpMerge,
    ObimMerge,
    SceMerge,
    SlerpMerge,
    TaskArithmeticMerge,
    TiesMerge,
)
from campaigns.recipe import Recipe
from merging.dtypes import RECIPE_DTYPES
from merging.kernel import CPU_BLOCK_ELEMENTS
from merging.pool_files import PoolFiles

MakeRecipe = Callable[..., Recipe]
Merge = Callable[..., dict[str, torch.Tensor]]
MakePool = Callable[..., PoolFiles]
MergeTensors = Callable[..., torch.Tensor]
DTYPES = st.sampled_from([*RECIPE_DTYPES])
ONE = (1.0, 1.0, 1.0)
W = (0.3, 0.5, -0.15)


@pytest.fixture(scope="module")
def merged(tensor_pool: MakePool, merge: Merge, recipe_of: MakeRecipe) -> MergeTensors:
    """`merged(method, sources, base, dtype="bfloat16", seed=1)`: the merge of one tensor of each checkpoint."""

    def make(
        method: Any, sources: Sequence[torch.Tensor], base: torch.Tensor | None = None, **options: Any
    ) -> torch.Tensor:
        files = tensor_pool([{"t": s} for s in sources], None if base is None else {"t": base})
        return merge(files, recipe_of(files, method, **options))["t"]

    return make


def bits(tensor: torch.Tensor) -> list[int]:
    return tensor.view(torch.uint8).tolist()


def random_tensors(seed: int, count: int, length: int, dtype: torch.dtype = torch.bfloat16) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(length, generator=generator).to(dtype) for _ in range(count)]


def tuned_tensors(seed: int, count: int, shape: tuple[int, ...]) -> tuple[list[torch.Tensor], torch.Tensor]:
    """A base, and sources at a tenth of its size from it; float32."""
    generator = torch.Generator().manual_seed(seed)
    base = torch.randn(shape, generator=generator)
    return [base + torch.randn(shape, generator=generator) / 10 for _ in range(count)], base


def float32_steps(weights: list[float], sources: list[torch.Tensor]) -> np.ndarray:
    """The definition, with numpy: float32 products added up in order."""
    total = np.float32(weights[0]) * sources[0].float().numpy()
    for weight, source in zip(weights[1:], sources[1:], strict=True):
        total = total + np.float32(weight) * source.float().numpy()
    return total


def test_linear_golden_values(merged: MergeTensors) -> None:
    sources = [torch.tensor([1.0, -2.0, 0.5]), torch.tensor([3.0, 4.0, -0.25])]
    assert merged(LinearMerge(weights=(0.25, 0.75)), sources).tolist() == [2.5, 2.5, -0.0625]


def test_task_arithmetic_golden_values(merged: MergeTensors) -> None:
    base = torch.tensor([1.0, 1.0, 0.0])
    sources = [torch.tensor([2.0, 1.0, 0.5]), torch.tensor([1.0, 3.0, -1.0])]
    found = merged(TaskArithmeticMerge(weights=(1.0, 0.5), scale=0.5), sources, base)
    assert found.tolist() == [1.5, 1.5, 0.0]


def test_ties_golden_values(merged: MergeTensors) -> None:
    """Of four elements two are kept, of equals the first; agreeing ones are averaged; a sum of 0 is positive."""
    sources = [torch.tensor([4.0, -1.0, 2.0, -2.0, 0.0]), torch.tensor([1.0, 3.0, -2.0, -2.0, 1.0])]
    method = TiesMerge(weights=(1.0, 1.0), densities=(0.4, 0.4))
    assert merged(method, sources, torch.zeros(5)).tolist() == [4.0, 3.0, 2.0, 0.0, 0.0]
    method = TiesMerge(weights=(1.0, 1.0), densities=(1.0, 1.0))
    assert merged(method, sources, torch.zeros(5)).tolist() == [2.5, 3.0, 2.0, -2.0, 1.0]


def test_linear_rounds_once_from_float32(merged: MergeTensors) -> None:
    """1 + 3 * 2^-9 lies above the middle between two bfloat16 numbers; adding in bfloat16 would lose both terms."""
    sources = [torch.tensor([value], dtype=torch.bfloat16) for value in (1.0, 2.0**-9, 2.0**-8)]
    assert merged(LinearMerge(weights=ONE), sources, dtype="bfloat16").item() == 1 + 2.0**-7


@pytest.mark.parametrize("dtype", [*RECIPE_DTYPES])
def test_linear_is_float32_steps_without_fused_multiply_add(merged: MergeTensors, dtype: Any) -> None:
    sources = random_tensors(0, 5, 3 * CPU_BLOCK_ELEMENTS // 2)
    weights = [0.1, 0.37, -0.2, 1.3, 0.01]
    expected = torch.from_numpy(float32_steps(weights, sources)).to(RECIPE_DTYPES[dtype])
    assert torch.equal(merged(LinearMerge(weights=tuple(weights)), sources, dtype=dtype), expected)


def test_all_weights_zero_give_zeros(merged: MergeTensors) -> None:
    sources = [torch.tensor([-1.0, 2.0]), torch.tensor([3.0, -0.0])]
    assert merged(LinearMerge(weights=(0.0, 0.0)), sources).tolist() == [0.0, 0.0]


@given(data=st.data(), dtype=DTYPES, count=st.integers(2, 4))
@settings(max_examples=30, deadline=None)
def test_one_hot_is_the_parent_bit_for_bit(merged: MergeTensors, data: st.DataObject, dtype: Any, count: int) -> None:
    """Any finite bit pattern, -0.0 and subnormals among them."""
    torch_dtype = RECIPE_DTYPES[dtype]
    words = st.lists(st.binary(min_size=torch_dtype.itemsize, max_size=torch_dtype.itemsize), min_size=8, max_size=8)
    sources = []
    for _ in range(count):
        raw = torch.frombuffer(bytearray(b"".join(data.draw(words))), dtype=torch_dtype)
        sources.append(torch.where(raw.isfinite(), raw, torch.tensor(-0.0, dtype=torch_dtype)))
    parent = data.draw(st.integers(0, count - 1))
    weights = tuple(float(index == parent) for index in range(count))
    assert bits(merged(LinearMerge(weights=weights), sources, dtype=dtype)) == bits(sources[parent])


@given(
    seed=st.integers(0, 10_000),
    weights=st.lists(st.floats(-2, 2), min_size=2, max_size=8),
    scale=st.floats(-1.5, 1.5),
)
@settings(max_examples=15, deadline=None)
def test_sums_agree_with_float64(merged: MergeTensors, seed: int, weights: list[float], scale: float) -> None:
    base, *sources = random_tensors(seed, len(weights) + 1, 64)
    pairs = list(zip(weights, [source.double() for source in sources], strict=True))
    tolerance = (len(weights) + 4) * torch.finfo(torch.float32).eps
    found = merged(LinearMerge(weights=tuple(weights)), sources)
    bound = sum(abs(w) * s.abs() for w, s in pairs)
    assert bool(((found.double() - sum(w * s for w, s in pairs)).abs() <= bound * tolerance + 1e-37).all())
    found = merged(TaskArithmeticMerge(weights=tuple(weights), scale=scale), sources, base)
    origin = base.double()
    reference = origin + scale * sum(w * (s - origin) for w, s in pairs)
    bound = origin.abs() + abs(scale) * sum(abs(w) * (s - origin).abs() for w, s in pairs)
    assert bool(((found.double() - reference).abs() <= bound * tolerance + 1e-37).all())


NOTHING_ADDED: list[Any] = [
    method
    for make in (TaskArithmeticMerge, ConsensusMerge)
    for method in (make(weights=ONE, scale=0.0), make(weights=(0.0, 0.0, 0.0)))
] + [
    method
    for make in (TiesMerge, DareLinearMerge, DareTiesMerge, DellaMerge, DellaLinearMerge, BreadcrumbsMerge)
    for method in (make(weights=ONE, densities=ONE, scale=0.0), make(weights=(0.0, 0.0, 0.0), densities=ONE))
]
NOTHING_ADDED += [
    make(weights=ONE, densities=(0.0, 0.0, 0.0))
    for make in (TiesMerge, DareLinearMerge, DareTiesMerge, BreadcrumbsMerge, BreadcrumbsTiesMerge)
]
NOTHING_ADDED += [SceMerge(scale=0.0), SceMerge(top_fraction=0.0)]


@pytest.mark.parametrize("method", NOTHING_ADDED, ids=str)
def test_where_nothing_is_added_the_base_stays_bit_for_bit(merged: MergeTensors, method: Any) -> None:
    base = torch.tensor([-0.0, 1.0, 1e-40, 3.3])
    sources = random_tensors(3, 3, 4, torch.float32)
    assert bits(merged(method, sources, base)) == bits(base)


@pytest.mark.parametrize("make", [DellaMerge, DellaLinearMerge])
def test_della_that_drops_all_leaves_the_base(merged: MergeTensors, make: Any) -> None:
    sources, base = tuned_tensors(1, 3, (9, 11))
    assert torch.equal(merged(make(weights=ONE, densities=(0.0, 0.0, 0.0)), sources, base), base)


@pytest.mark.parametrize(
    "method",
    [
        SlerpMerge(t=0.0),
        NuSlerpMerge(weights=(2.0, 0.0)),
        MultiSlerpMerge(weights=(0.4, 0.0)),
        KarcherMerge(weights=(3.0, 0.0)),
    ],
    ids=str,
)
@pytest.mark.parametrize("has_base", [False, True])
def test_a_source_alone_is_copied_bit_for_bit(merged: MergeTensors, method: Any, has_base: bool) -> None:
    sources = [torch.tensor([-0.0, 1.0, 1e-40, 3.3]), torch.tensor([1.0, 2.0, 3.0, 4.0])]
    base = torch.tensor([0.5, 0.1, -0.7, 0.0]) if has_base else None
    assert bits(merged(method, sources, base)) == bits(sources[0])
    swapped = method.replace(**{"t": 1.0} if method.kind == "slerp" else {"weights": method.weights[::-1]})
    assert bits(merged(swapped, sources[::-1], base)) == bits(sources[0])


def test_weights_below_float32_count_as_zero(merged: MergeTensors) -> None:
    parent, other = torch.tensor([-0.0, 1.5]), torch.tensor([1.0, 1.0])
    assert bits(merged(LinearMerge(weights=(1.0, 1e-60)), [parent, other])) == bits(parent)


def test_a_source_of_weight_zero_changes_no_bit(merged: MergeTensors) -> None:
    one, two, other = (t.float() for t in random_tensors(4, 3, 100))
    one[0] = two[0] = -0.0
    pair = merged(LinearMerge(weights=(0.5, 0.3)), [one, two])
    assert bits(merged(LinearMerge(weights=(0.5, 0.0, 0.3)), [one, other, two])) == bits(pair)


@pytest.mark.parametrize(
    "method",
    [
        DareLinearMerge(weights=W, densities=ONE, scale=0.7),
        DellaLinearMerge(weights=W, densities=ONE, scale=0.7),
        BreadcrumbsMerge(weights=W, densities=ONE, gamma=0.0, scale=0.7),
        ConsensusMerge(weights=W, agreeing=0, scale=0.7),
    ],
    ids=str,
)
def test_keeping_everything_is_task_arithmetic_bit_for_bit(merged: MergeTensors, method: Any) -> None:
    sources, base = tuned_tensors(2, 3, (123, 37))
    plain = merged(TaskArithmeticMerge(weights=W, scale=0.7), sources, base)
    assert bits(merged(method, sources, base)) == bits(plain)


@pytest.mark.parametrize("normalize", [False, True])
def test_keeping_everything_is_the_election_alone_bit_for_bit(merged: MergeTensors, normalize: bool) -> None:
    """TIES, DARE-TIES, DELLA and breadcrumbs-TIES, and the election written out."""
    sources, base = tuned_tensors(3, 3, (50, 11))
    weights = torch.tensor(W)
    terms = [(source - base) * weight for source, weight in zip(sources, weights, strict=True)]
    positive = terms[0] + terms[1] + terms[2] >= 0
    agreeing = [torch.where(positive, term > 0, term < 0) for term in terms]
    summed, divisor = torch.zeros_like(base), torch.zeros_like(base)
    for agrees, term, weight in zip(agreeing, terms, weights, strict=True):
        summed, divisor = summed + torch.where(agrees, term, 0.0), divisor + torch.where(agrees, weight, 0.0)
    expected = base + (summed / divisor if normalize else summed)
    for make in (TiesMerge, DareTiesMerge, DellaMerge, BreadcrumbsTiesMerge):
        method = make(
            weights=W, densities=ONE, normalize=normalize, **({"gamma": 0.0} if make is BreadcrumbsTiesMerge else {})
        )
        assert torch.equal(merged(method, sources, base), expected), make


def moved(found: torch.Tensor, base: torch.Tensor) -> int:
    return int(torch.count_nonzero(found - base))


@pytest.mark.parametrize("density", [1e-6, 0.1, 0.3, 0.29, 0.999, 1.0])
@pytest.mark.parametrize("kind", ["normal", "tied"])
def test_ties_keeps_exactly_its_density(merged: MergeTensors, density: float, kind: str) -> None:
    """Of a lone source; the other one does not move. Ties among magnitudes do not change the count."""
    generator = torch.Generator().manual_seed(1)
    base = torch.zeros(37, 13)
    tau = torch.randn(37, 13, generator=generator)
    tau = tau if kind == "normal" else tau.sign()
    found = merged(TiesMerge(weights=(1.0, 1.0), densities=(density, 1.0)), [tau, base], base)
    assert moved(found, base) == max(1, int(density * 481))
    assert torch.equal(found[found != 0], tau[found != 0])
    if density < 1:
        assert float(found[found != 0].abs().min()) >= float(tau[found == 0].abs().max())


def test_a_global_trim_keeps_its_density_of_the_model(
    tensor_pool: MakePool, merge: Merge, recipe_of: MakeRecipe
) -> None:
    """Tensors of larger task vectors keep more; a tensor may lose all of it."""
    generator = torch.Generator().manual_seed(1)
    sizes = {"large": 10.0, "middle": 1.0, "small": 1e-3}
    tau = {name: torch.randn(20, 15, generator=generator) * size for name, size in sizes.items()}
    zeros = {name: torch.zeros(20, 15) for name in sizes}
    files = tensor_pool([tau, zeros], zeros)
    for density in (1e-6, 0.2, 0.5, 0.77, 1.0):
        method = TiesMerge(weights=(1.0, 1.0), densities=(density, 0.0), trim="global")
        found = torch.stack([*merge(files, recipe_of(files, method)).values()]).abs()
        kept = max(1, int(density * 900))
        every = torch.stack([*tau.values()]).abs().flatten()
        assert sorted(found[found != 0].tolist(), reverse=True) == sorted(every.tolist(), reverse=True)[:kept]


@pytest.mark.parametrize(
    "density, gamma, dropped, kept",
    [
        (0.9, 0.01, 4, 432),
        (0.5, 0.3, 144, 240),
        (1.0, 0.0, 0, 481),
        (0.9, 0.5, 49, 432),
        (1e-6, 0.1, 48, 1),
        (0.5, 1.0, 241, 240),
    ],
)
def test_breadcrumbs_drop_the_largest_and_keep_the_next(
    merged: MergeTensors, density: float, gamma: float, dropped: int, kept: int
) -> None:
    tau = torch.randn(37, 13, generator=torch.Generator().manual_seed(1))
    base = torch.zeros(37, 13)
    method = BreadcrumbsMerge(weights=(1.0, 1.0), densities=(density, 1.0), gamma=gamma)
    found = merged(method, [tau, base], base).flatten()
    order = tau.abs().flatten().argsort(descending=True, stable=True)
    expected = torch.zeros(481)
    expected[order[dropped : dropped + kept]] = tau.flatten()[order[dropped : dropped + kept]]
    assert torch.equal(found, expected)


def test_breadcrumbs_of_tiny_tensors_keep_their_task_vector(merged: MergeTensors) -> None:
    """A share of outliers that comes to no element drops none."""
    tau = torch.tensor([0.5, -2.0, 1.0])
    found = merged(BreadcrumbsMerge(weights=(1.0, 1.0), densities=(0.99, 1.0)), [tau, tau * 0], tau * 0)
    assert found.tolist() == [0.0, -2.0, 1.0]


def share_of_model_stock(merged: MergeTensors, taus: Sequence[torch.Tensor]) -> float:
    """Return t, from how far the merge went towards the mean."""
    base = torch.zeros_like(taus[0])
    mean = sum(tau.double() for tau in taus) / len(taus)
    found = merged(ModelStockMerge(), taus, base).double()
    return float((found * mean).sum() / (mean * mean).sum())


def test_model_stock_goes_from_the_base_to_the_mean(merged: MergeTensors) -> None:
    along, across = torch.eye(6)[0], torch.eye(6)[1]
    assert share_of_model_stock(merged, [along, along * 3]) == pytest.approx(1.0)
    assert share_of_model_stock(merged, [along, across]) == 0.0
    assert share_of_model_stock(merged, [along, along + across]) == pytest.approx(2 * 0.5**0.5 / (1 + 0.5**0.5))
    assert share_of_model_stock(merged, [along, across - along / 2]) == 0.0  # an obtuse angle
    near_pole = [along, across - along / 2, -across - along / 2 + torch.eye(6)[2] / 9]
    assert share_of_model_stock(merged, near_pole) == 0.0


@pytest.mark.parametrize("has_base", [False, True])
def test_the_karcher_mean_balances_its_logarithms(merged: MergeTensors, has_base: bool) -> None:
    sources, base = tuned_tensors(5, 3, (40, 25))
    base = base * 0 if has_base else None
    method = KarcherMerge(weights=(1.0, 2.0, 3.0), max_iterations=500, tolerance=1e-12)
    found = merged(method, sources, base).double()
    lengths = [float(source.double().norm()) for source in sources]
    assert float(found.norm()) == pytest.approx(
        sum(w * n for w, n in zip((1, 2, 3), lengths, strict=True)) / 6, rel=1e-6
    )
    mean = found / found.norm()
    balance = torch.zeros_like(mean)
    for weight, source, length in zip((1, 2, 3), sources, lengths, strict=True):
        unit = source.double() / length
        angle = torch.arccos((unit * mean).sum())
        balance += weight / 6 * angle / torch.sin(angle) * (unit - torch.cos(angle) * mean)
    assert float(balance.norm()) < 1e-6


@pytest.mark.parametrize("size", [1.0, 1e-2])
def test_opposite_task_vectors_do_not_blow_up(merged: MergeTensors, size: float) -> None:
    """Between opposite vectors there is no great circle, only rounding errors to be magnified."""
    generator = torch.Generator().manual_seed(1)
    base, tau = torch.randn(2, 64, 64, generator=generator)
    tau = tau * size
    for second in (base - tau, base - 1.7 * tau):
        found = merged(NuSlerpMerge(weights=(0.4, 0.6)), [base + tau, second], base)
        assert float((found - base).norm()) <= 2 * float(tau.norm())


@pytest.mark.parametrize("make", [TiesMerge, DareTiesMerge, DellaMerge, BreadcrumbsTiesMerge])
@pytest.mark.parametrize("weights", [(0.3, 0.6, -0.9), (1.0, -0.3, -0.7)])
def test_weights_that_cancel_out_do_not_blow_up(merged: MergeTensors, make: Any, weights: tuple[float, ...]) -> None:
    """In float32 they add up to a rounding error, not to 0; all sources agree, so the sum is taken as it is."""
    sizes = [torch.tensor([1.0, 2.0, 3.0]), torch.ones(3), torch.ones(3)]
    sources = [size * math.copysign(1, weight) for size, weight in zip(sizes, weights, strict=True)]
    options = {"gamma": 0.0} if make is BreadcrumbsTiesMerge else {}
    method = make(weights=weights, densities=ONE, normalize=True, **options)
    expected = sum(weight * source.double() for weight, source in zip(weights, sources, strict=True))
    found = merged(method, sources, torch.zeros(3))
    assert found.tolist() == pytest.approx(expected.tolist(), rel=1e-6)


@pytest.mark.parametrize(
    "method", [SlerpMerge(t=0.3), KarcherMerge(weights=(0.4, 0.6))], ids=lambda method: str(method.kind)
)
def test_means_of_directions_are_over_the_sources_whatever_the_base(merged: MergeTensors, method: Any) -> None:
    sources, base = tuned_tensors(9, 2, (20, 15))
    assert bits(merged(method, sources, base)) == bits(merged(method, sources))


def test_emr_of_a_task_keeps_its_signs_and_its_length(merged: MergeTensors) -> None:
    sources, base = tuned_tensors(6, 3, (30, 20))
    for task, source in enumerate(sources):
        found, tau = merged(EmrMerge(task=task), sources, base) - base, source - base
        assert bool((found * tau >= 0).all())
        assert float(found.abs().sum()) == pytest.approx(float(tau.abs().sum()), rel=1e-4)


def test_obim_gives_each_element_to_one_source(tensor_pool: MakePool, merge: Merge, recipe_of: MakeRecipe) -> None:
    generator = torch.Generator().manual_seed(7)
    base = torch.zeros(40, 10)
    taus = [torch.randn(40, 10, generator=generator) for _ in range(3)]
    files = tensor_pool([{"t": tau} for tau in taus], {"t": base}, statistics=[({}, {"t": torch.ones(400)})] * 3)
    for rounds in (1, 4):
        method = ObimMerge(weights=ONE, densities=(0.2, 0.3, 0.4), rounds=rounds)
        found = merge(files, recipe_of(files, method))["t"]
        owners = torch.stack([found == tau for tau in taus])
        assert bool((owners.sum(0) == (found != 0)).all())
        assert [int(count) for count in owners.flatten(1).sum(1)] == [80, 120, 160]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_sce_of_sources_that_agree_is_their_task_vector(merged: MergeTensors, dtype: torch.dtype) -> None:
    base, source = (t.to(dtype) for t in random_tensors(8, 2, 500))
    found = merged(SceMerge(), [source, source.clone(), source.clone()], base)
    assert torch.allclose(found, source.float(), rtol=1e-6, atol=1e-7)


SEEDS = 64


def deltas_over_seeds(
    files: PoolFiles, merge: Merge, recipe_of: MakeRecipe, method: Any, name: str = "t"
) -> torch.Tensor:
    """Return what is added to a base of zeros, one row per seed."""
    return torch.stack([merge(files, recipe_of(files, method, seed=seed))[name].flatten() for seed in range(SEEDS)])


@pytest.fixture(scope="module")
def ones(tensor_pool: MakePool) -> PoolFiles:
    """Task vectors of ones, and of ones in another place, so that checkpoints differ."""
    tensors = [{"t": torch.ones(100, 300), "u": torch.full((3,), float(index))} for index in range(2)]
    return tensor_pool(tensors, {"t": torch.zeros(100, 300), "u": torch.full((3,), 9.0)})


@pytest.mark.parametrize("rescale", [True, False])
@pytest.mark.parametrize("density", [0.05, 0.5, 0.9])
def test_dare_keeps_its_density_and_averages_out(
    ones: PoolFiles, merge: Merge, recipe_of: MakeRecipe, density: float, rescale: bool
) -> None:
    method = DareLinearMerge(weights=(1.0, 0.0), densities=(density, density), rescale=rescale)
    found = deltas_over_seeds(ones, merge, recipe_of, method)
    kept = torch.tensor(1 / density if rescale else 1.0, dtype=torch.float32)
    assert {*found.unique().tolist()} == {0.0, kept.item()}
    deviation = (density * (1 - density)) ** 0.5
    rates = (found != 0).double()
    assert abs(float(rates.mean()) - density) < 5 * deviation / found.numel() ** 0.5
    assert float((rates.mean(0) - density).abs().max()) < 6 * deviation / SEEDS**0.5  # of 30,000 elements
    assert float((rates.mean(1) - density).abs().max()) < 5 * deviation / found.shape[1] ** 0.5


def test_sources_are_dropped_apart(ones: PoolFiles, merge: Merge, recipe_of: MakeRecipe) -> None:
    """Of two sources, 1/4 of the elements have both, 1/2 one, 1/4 none."""
    method = DareLinearMerge(weights=(1.0, 1.0), densities=(0.5, 0.5))
    counts = torch.bincount(deltas_over_seeds(ones, merge, recipe_of, method).flatten().long(), minlength=5)
    total = int(counts.sum())
    for value, share in ((0, 0.25), (2, 0.5), (4, 0.25)):
        assert abs(int(counts[value]) - share * total) < 5 * (share * (1 - share) * total) ** 0.5
    assert int(counts[1] + counts[3]) == 0


@pytest.mark.parametrize("density, epsilon", [(0.5, 0.3), (0.2, 0.15), (0.1, 0.3), (0.95, 0.2)])
def test_della_keeps_the_larger_more_often(
    tensor_pool: MakePool, merge: Merge, recipe_of: MakeRecipe, density: float, epsilon: float
) -> None:
    """The probability of each rank, from density - epsilon to density + epsilon, within [0, 1]; over seeds and rows."""
    generator = torch.Generator().manual_seed(4)
    order = torch.stack([torch.randperm(512, generator=generator) for _ in range(40)])
    tau = (1 + order / 512) * torch.where(order % 3 == 0, -1, 1)
    files = tensor_pool([{"t": tau}, {"t": tau * 0}], {"t": tau * 0})
    method = DellaLinearMerge(weights=(1.0, 1.0), densities=(density, 1.0), epsilon=epsilon)
    found = deltas_over_seeds(files, merge, recipe_of, method).view(SEEDS, 40, 512)
    by_rank = found.gather(2, order.argsort(1).expand(SEEDS, 40, 512))  # column r holds rank r
    expected = torch.linspace(density - epsilon, density + epsilon, 512).clamp(0, 1).double()
    rates = (by_rank != 0).double().mean((0, 1))
    deviations = (expected * (1 - expected) / (SEEDS * 40)).sqrt()
    assert bool(((rates - expected).abs() <= 5 * deviations + 1 / 255).all())
    sizes = 1 + torch.arange(512).double() / 512
    errors = by_rank.abs().mean((0, 1)).double() / sizes - 1
    likely = expected > 0.05
    assert bool((errors.abs() <= 5 * deviations / expected + 1e-6)[likely].all())


def test_seeds_draw_anew_and_one_seed_draws_the_same(ones: PoolFiles, merge: Merge, recipe_of: MakeRecipe) -> None:
    method = DareLinearMerge(weights=(1.0, 1.0), densities=(0.5, 0.5))
    first, again, other = (merge(ones, recipe_of(ones, method, seed=seed))["t"] for seed in (3, 3, 4))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


def test_masks_do_not_depend_on_the_other_sources(tensor_pool: MakePool, merge: Merge, recipe_of: MakeRecipe) -> None:
    """A source's mask is its own: with which others it is merged, and in what order, is nothing to it."""
    sources, base = tuned_tensors(9, 3, (20, 30))
    files = tensor_pool([{"t": source} for source in sources], {"t": base})
    seen = []
    for chosen in ((0, 1), (1, 0), (2, 0, 1)):
        weights = tuple(float(index == 0) for index in chosen)
        method = DareLinearMerge(weights=weights, densities=tuple(0.5 for _ in chosen))
        seen.append(merge(files, recipe_of(files, method, sources=chosen))["t"])
    assert torch.equal(seen[0], seen[1]) and torch.equal(seen[0], seen[2])
