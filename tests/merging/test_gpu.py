"""On a CUDA device a recipe gives the bytes that it gives on the CPU, wherever the sources stay."""

from pathlib import Path

import pytest
import torch

from campaigns.methods import (
    BreadcrumbsTiesMerge,
    ConsensusMerge,
    DareTiesMerge,
    DellaMerge,
    EmrMerge,
    LinearMerge,
    Method,
    ModelStockMerge,
    SceMerge,
    TaskArithmeticMerge,
    TiesMerge,
)
from campaigns.pools import Pool
from campaigns.recipe import Recipe
from merging import live
from merging.live import LiveModel
from merging.pool_files import PoolFiles
from merging.residence import Residence

WEIGHTS = (0.5, -0.3, 0.7)
DENSITIES = (0.2, 0.6, 1.0)
METHODS: list[Method] = [
    LinearMerge(weights=WEIGHTS),
    TaskArithmeticMerge(weights=WEIGHTS, scale=0.7),
    TiesMerge(weights=WEIGHTS, densities=DENSITIES),
    DareTiesMerge(weights=WEIGHTS, densities=DENSITIES),
    DellaMerge(weights=WEIGHTS, densities=DENSITIES),
    BreadcrumbsTiesMerge(weights=WEIGHTS, densities=DENSITIES),
    ModelStockMerge(),
    SceMerge(top_fraction=0.4),
    ConsensusMerge(weights=WEIGHTS),
    EmrMerge(task=1),
]
pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no CUDA device"),
]


@pytest.mark.parametrize("residence", ["device", "pinned", "page cache"])
@pytest.mark.parametrize("method", METHODS, ids=lambda method: method.kind)
def test_bytes_of_the_cpu(
    pool: Pool, method: Method, residence: Residence, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe = Recipe(
        method=method,
        sources=tuple(checkpoint.digest for checkpoint in pool.checkpoints),
        base=pool.template.digest,
        template=pool.template.digest,
        dtype="bfloat16",
    )
    monkeypatch.setattr(live, "residence_on", lambda device, size: residence if device.type == "cuda" else "page cache")
    files = PoolFiles(pool, tmp_path)
    models = [LiveModel(files, "bfloat16", device) for device in ("cpu", "cuda")]
    for model in models:
        model.write(recipe)
    on_cpu, on_device = (model.model.state_dict() for model in models)
    assert all(torch.equal(value, on_device[name].cpu()) for name, value in on_cpu.items())
