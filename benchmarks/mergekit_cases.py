"""What the parity of Mergefront and mergekit is tried on: checkpoints, mergekit files, and both tools."""

import os
import tempfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

os.environ.setdefault("HF_HUB_OFFLINE", "1")

import numpy as np
import torch
import yaml
from llama_checkpoints import write_checkpoint
from mergekit_environment import Mergekit
from safetensors.torch import load_file
from transformers import LlamaConfig

from campaigns.mergekit import parse_mergekit
from campaigns.recipe import layer_of
from merging.image import MergedModel
from merging.pool_files import PoolFiles
from merging.pool_report import inspect_pool

CONFIG = LlamaConfig(
    vocab_size=1009,
    hidden_size=156,
    intermediate_size=419,
    num_hidden_layers=4,
    num_attention_heads=6,
    num_key_value_heads=3,
    tie_word_embeddings=False,
)
KINDS = {
    "bf16": (torch.bfloat16, 1e-3),
    "float32": (torch.float32, 1e-3),
    "far": (torch.float32, 1e-2),
    "ties": (torch.bfloat16, 1e-4),
}
"""Kinds of checkpoints: how they are stored, and how far fine-tunes are from their base."""
SOURCES = ("source-1", "source-2", "source-3")
SEEDS = {"base": 0, "source-1": 1, "source-2": 2, "source-3": 3, "opposed": -4}
Tensors = dict[str, torch.Tensor]


@dataclass(frozen=True)
class Case:
    """A mergekit file: `own` has one value per source, `shared` the parameters of the whole merge."""

    name: str
    method: str
    own: dict[str, list[Any]] = field(default_factory=dict)
    shared: dict[str, Any] = field(default_factory=dict)
    base: bool = True
    sources: tuple[str, ...] = SOURCES

    def document(self, folder: Path, dtype: str = "float32", out_dtype: str = "bfloat16") -> dict[str, Any]:
        models = [
            {"model": str(folder / name), "parameters": {key: values[index] for key, values in self.own.items()}}
            for index, name in enumerate(self.sources)
        ]
        if self.method == "slerp":
            models.insert(0, {"model": str(folder / "base")})
        document = {"merge_method": self.method, "models": models, "dtype": dtype, "out_dtype": out_dtype}
        if self.base:
            document["base_model"] = str(folder / "base")
        if self.shared:
            document["parameters"] = self.shared
        return document

    def parameters(self, tensor: str) -> dict[str, Any]:
        """Return the parameters as this tensor gets them; `lambda` is called scale."""
        own = {key: [setting_at(value, tensor) for value in values] for key, values in self.own.items()}
        shared = {key: setting_at(value, tensor) for key, value in self.shared.items()}
        return {"scale" if key == "lambda" else key: value for key, value in (own | shared).items()}


def setting_at(value: Any, tensor: str) -> Any:
    """Return what a number, gradient or list of filters means for a tensor. Outside the layers, gradients start."""
    if isinstance(value, list) and value and isinstance(value[0], dict):
        return setting_at(next(f["value"] for f in value if f.get("filter", "") in tensor), tensor)
    if not isinstance(value, list):
        return value
    place = (layer_of(tensor) or 0) / (CONFIG.num_hidden_layers - 1) * (len(value) - 1)
    return float(np.interp(place, range(len(value)), value))


def weight(*weights: Any) -> dict[str, list[Any]]:
    return {"weight": [*weights]}


def density(*densities: Any) -> dict[str, list[Any]]:
    return {"density": [*densities]}


WEIGHTS = weight(0.5, 0.3, 0.4)
NEGATIVE = weight(0.9, -0.4, 0.3)
FILTERED = [{"filter": "self_attn", "value": [0.1, 0.9]}, {"filter": "mlp", "value": 0.2}, {"value": 0.5}]
PAIR = SOURCES[:2]
CASES = (
    Case("linear", "linear", WEIGHTS, base=False),
    Case("linear, as they are", "linear", WEIGHTS, {"normalize": False}, base=False),
    Case("linear, negative", "linear", NEGATIVE, base=False),
    Case("linear, gradient", "linear", weight([0, 1], [1, 0], 0.3), base=False),
    *(Case(f"slerp, t {t}", "slerp", shared={"t": t}, sources=SOURCES[:1]) for t in (0, 0.2, 0.5, 0.9, 1)),
    Case("slerp, filters", "slerp", shared={"t": FILTERED}, sources=SOURCES[:1]),
    Case("nuslerp", "nuslerp", weight(0.6, 0.2), base=False, sources=PAIR),
    Case("nuslerp, base", "nuslerp", weight(0.6, 0.2), sources=PAIR),
    Case("multislerp", "multislerp", WEIGHTS, base=False),
    Case("multislerp, as they are", "multislerp", WEIGHTS, {"normalize_weights": False}, base=False),
    Case("multislerp, base", "multislerp", WEIGHTS),
    Case("karcher", "karcher", base=False),
    Case("task_arithmetic", "task_arithmetic", WEIGHTS),
    Case("task_arithmetic, lambda", "task_arithmetic", WEIGHTS, {"lambda": 0.7}),
    Case("task_arithmetic, normalize", "task_arithmetic", WEIGHTS, {"normalize": True}),
    Case("task_arithmetic, negative", "task_arithmetic", NEGATIVE, {"lambda": 1.3}),
    Case("task_arithmetic, filters", "task_arithmetic", weight(FILTERED, 0.3, [0, 1])),
    *(Case(f"ties, density {d}", "ties", WEIGHTS | density(d, d, d)) for d in (0.05, 0.2, 0.5, 0.9, 1)),
    Case("ties, lambda", "ties", WEIGHTS | density(0.2, 0.5, 0.7), {"lambda": 0.7}),
    Case("ties, as they are", "ties", WEIGHTS | density(0.2, 0.5, 0.7), {"normalize": False}),
    Case("ties, negative", "ties", NEGATIVE | density(0.2, 0.5, 0.7)),
    Case("ties, negative, as they are", "ties", NEGATIVE | density(0.2, 0.5, 0.7), {"normalize": False}),
    Case("ties, gradient", "ties", WEIGHTS | density([0.2, 0.9], 0.5, FILTERED)),
    Case("breadcrumbs", "breadcrumbs", WEIGHTS | density(0.3, 0.6, 0.9)),
    Case("breadcrumbs, gamma 0", "breadcrumbs", WEIGHTS | density(0.3, 0.6, 0.9), {"gamma": 0}),
    Case("breadcrumbs, gamma too large", "breadcrumbs", WEIGHTS | density(0.3, 0.9, 0.95), {"gamma": 0.2}),
    Case("breadcrumbs, normalize", "breadcrumbs", WEIGHTS | density(0.3, 0.6, 0.9), {"normalize": True}),
    Case("breadcrumbs_ties", "breadcrumbs_ties", WEIGHTS | density(0.3, 0.6, 0.9)),
    Case("breadcrumbs_ties, normalize", "breadcrumbs_ties", NEGATIVE | density(0.3, 0.6, 0.9), {"normalize": True}),
    Case("model_stock", "model_stock"),
    Case("model_stock, of two", "model_stock", sources=PAIR),
    Case("model_stock, opposed", "model_stock", sources=("source-1", "opposed")),
    *(Case(f"sce, top {k}", "sce", shared={"select_topk": k}) for k in (0.1, 0.5, 1)),
)
BF16_CASES = (
    "linear",
    "slerp, t 0.5",
    "task_arithmetic",
    "ties, density 0.5",
    "breadcrumbs",
    "model_stock",
    "sce, top 0.5",
)
RANDOM_DENSITIES = density(0.3, 0.5, 0.8)
RANDOM_CASES = (
    Case("dare_linear", "dare_linear", WEIGHTS | RANDOM_DENSITIES),
    Case("dare_linear, as they are", "dare_linear", WEIGHTS | RANDOM_DENSITIES, {"rescale": False}),
    Case("dare_ties", "dare_ties", WEIGHTS | RANDOM_DENSITIES),
    Case("dare_ties, normalize", "dare_ties", WEIGHTS | RANDOM_DENSITIES, {"normalize": True}),
    Case("della", "della", WEIGHTS | RANDOM_DENSITIES),
    Case("della, as they are", "della", WEIGHTS | RANDOM_DENSITIES, {"rescale": False}),
    Case("della_linear", "della_linear", WEIGHTS | RANDOM_DENSITIES, {"epsilon": 0.1}),
)


def make_checkpoints(folder: Path) -> None:
    for kind, (dtype, delta) in KINDS.items():
        for name, seed in SEEDS.items():
            write_checkpoint(folder / kind / name, CONFIG, dtype, seed, delta)


class Tools:
    """Both tools, each a function from a mergekit file and a seed to the merged tensors."""

    def __init__(self, folder: Path, mergekit: Mergekit) -> None:
        self.folder = folder
        self._mergekit = mergekit

    def mergekit(self, document: dict[str, Any], seed: int = 0) -> Tensors:
        with tempfile.TemporaryDirectory(dir=self.folder) as out:
            self._mergekit.merge({"config": document, "out": out, "seed": seed, "threads": 1})
            return load(Path(out))

    def mergefront(self, document: dict[str, Any], seed: int = 0) -> Tensors:
        document = yaml.safe_load(yaml.safe_dump(document))
        merge = parse_mergekit(document, lambda path: path if Path(path).is_dir() else None)
        pool = inspect_pool(merge.pool, [self.folder], [], self.folder)
        files = PoolFiles(pool, self.folder / "cache")
        with tempfile.TemporaryDirectory(dir=self.folder) as out:
            MergedModel(files, merge.recipe(pool, files.template.tensors, seed)).write_directory(Path(out))
            return load(Path(out))


def load(folder: Path) -> Tensors:
    return {name: tensor for file in folder.glob("*.safetensors") for name, tensor in load_file(file).items()}
