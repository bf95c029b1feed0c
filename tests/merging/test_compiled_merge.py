"""The compiled pass: the same bits as plain operations, and a way on without a compiler."""

import logging
from collections.abc import Iterator
from typing import Any

import pytest
import torch

from campaigns.recipe import LinearMerge, Recipe, TaskArithmeticMerge
from merging import kernel
from merging.kernel import Kernel
from merging.runs import Run

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::UserWarning", "ignore::FutureWarning")

METHODS = [
    LinearMerge(weights=(0.3, 0.5, 0.15)),
    LinearMerge(weights=(0.3, 0.0, -0.7)),
    LinearMerge(weights=(0.0, 1.3, 0.4)),
    TaskArithmeticMerge(weights=(0.3, 0.5, 0.15), scale=0.7),
    TaskArithmeticMerge(weights=(0.3, 0.0, 0.15), scale=-1.1),
]


@pytest.fixture(autouse=True)
def _compile_short_runs(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(kernel, "COMPILED_FROM_ELEMENTS", 1)
    kernel.compiled_merging.cache_clear()
    yield
    kernel.compiled_merging.cache_clear()


def run_of(length: int, offset: int = 0) -> Run:
    """Four sources with zeros of both signs, starting anywhere in memory."""
    generator = torch.Generator().manual_seed(length)
    sources = torch.randn(4, length + offset, generator=generator).bfloat16()
    sources[:, ::5] = -0.0
    sources[1, ::10] = 0.0
    return Run(0, length, {name: sources[i, offset:] for i, name in enumerate(("0", "1", "2", "base"))})


def merged(method: Any, run: Run, compiled: bool) -> torch.Tensor:
    recipe = Recipe(method=method, sources=("0", "1", "2"), base="base", template="0", dtype="bfloat16")
    out = torch.empty(run.count, dtype=torch.bfloat16)
    Kernel(recipe, compiled).merge_run(run, out)
    return out.view(torch.int16)


def test_compiled_equals_plain_bit_for_bit(caplog: pytest.LogCaptureFixture) -> None:
    """Any length and alignment, zero weights among the others; without falling back on the plain way unseen."""
    for method in METHODS:
        for length, offset in ((100_003, 0), (4096, 3), (17, 1), (1, 0)):
            run = run_of(length, offset)
            assert torch.equal(merged(method, run, compiled=True), merged(method, run, compiled=False)), (
                method,
                length,
            )
    assert [record for record in caplog.records if record.name == "merging.kernel"] == []


def test_new_weights_do_not_compile_again() -> None:
    run = run_of(10_000)
    merged(METHODS[0], run, compiled=True)
    with torch.compiler.set_stance("fail_on_recompile"):
        for number in range(20):
            merged(LinearMerge(weights=(0.1, 0.01 * number, 0.3)), run, compiled=True)


def test_without_a_compiler_the_plain_way_takes_over(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def no_compiler(function: Any, **options: Any) -> Any:
        def fail(*arguments: Any) -> None:
            raise RuntimeError("no C++ compiler here\nand a long story")

        return fail

    monkeypatch.setattr(torch, "compile", no_compiler)
    run = run_of(5000)
    with caplog.at_level(logging.WARNING):
        results = [merged(METHODS[0], run, compiled=True) for _ in range(3)]
    assert all(torch.equal(result, merged(METHODS[0], run, compiled=False)) for result in results)
    assert [record.getMessage() for record in caplog.records] == [
        "merging without a compiled pass, which is slower: no C++ compiler here"
    ]
