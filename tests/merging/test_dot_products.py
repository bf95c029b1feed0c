"""Dot products: exact where float64 is, in a fixed order, and nearly so elsewhere."""

import math

import numpy as np
import pytest
import torch

from merging.dot_products import LANES, dot_products


@pytest.mark.parametrize("count", [0, 1, 2, 17, LANES - 1, LANES, LANES + 1, 3 * LANES + 5])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_products_of_whole_numbers_are_exact(count: int, dtype: torch.dtype) -> None:
    generator = torch.Generator().manual_seed(count)
    tensors = [torch.randint(-9, 10, (count,), generator=generator).to(dtype) for _ in range(3)]
    exact = [[int((a.long() * b.long()).sum()) for b in tensors] for a in tensors]
    assert dot_products(tensors).tolist() == exact


def test_products_are_as_near_as_float64_gets() -> None:
    generator = torch.Generator().manual_seed(1)
    tensors = list(torch.randn(2, 100_003, generator=generator))
    tensors[1] = tensors[0] * -1 + tensors[1] * 1e-6
    found = dot_products(tensors)
    for i, j in ((0, 0), (0, 1), (1, 1)):
        terms = (tensors[i].double() * tensors[j].double()).tolist()
        assert abs(found[i, j] - math.fsum(terms)) <= 1e-14 * math.fsum(map(abs, terms))
    assert np.array_equal(found, found.T)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_products_of_differences_are_those_of_float32_task_vectors(dtype: torch.dtype) -> None:
    generator = torch.Generator().manual_seed(4)
    origin = torch.randn(LANES + 77, generator=generator).to(dtype)
    tensors = [(origin.float() + torch.randn(len(origin), generator=generator) / 100).to(dtype) for _ in range(3)]
    task_vectors = [tensor.float() - origin.float() for tensor in tensors]
    assert np.array_equal(dot_products(tensors, origin), dot_products(task_vectors))
    assert not dot_products([origin, tensors[0]], origin)[0].any()


def test_equal_tensors_have_equal_products() -> None:
    """So task vectors of sources that are the base have length 0, not nearly 0."""
    one = torch.randn(40_001, generator=torch.Generator().manual_seed(2))
    assert len({*dot_products([one, one.clone(), one]).flatten().tolist()}) == 1


def test_neither_threads_nor_alignment_change_a_bit() -> None:
    storage = torch.randn(3, 200_001, generator=torch.Generator().manual_seed(3))
    expected = dot_products([row[1:].clone() for row in storage])
    torch.set_num_threads(2)
    assert np.array_equal(dot_products([row[1:] for row in storage]), expected)


def test_the_sum_is_pinned() -> None:
    """A sum whose last bit tells the order of its terms."""
    values = torch.arange(100_000) % 1009 / 1009
    (found,) = dot_products([values])[0]
    assert found.hex() == "0x1.03bfde797cb6dp+15"
