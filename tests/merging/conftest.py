"""Tiny checkpoints: Llama models of about 50 thousand parameters with a real fast tokenizer; pools of any tensors."""

import json
import sys
from collections.abc import Callable, Mapping, Sequence
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from campaigns.pools import CheckpointSpec, Pool, PoolSpec
from campaigns.recipe import Recipe
from merging.calibration import CalibrationSettings
from merging.calibration.statistics import Description, TensorStatistics, write_statistics
from merging.dtypes import RECIPE_DTYPES, TORCH_DTYPES
from merging.inspection import inspect_checkpoint
from merging.kernel import Kernel
from merging.pool_files import PoolFiles
from merging.pool_report import inspect_pool
from merging.runs import Slot, plan_runs

MakeCheckpoint = Callable[..., Path]
MakePool = Callable[..., Pool]
Tensors = Mapping[str, torch.Tensor]
MakeTensorPool = Callable[..., PoolFiles]
Merge = Callable[..., dict[str, torch.Tensor]]
STORED = {dtype: name for name, dtype in TORCH_DTYPES.items()}


def train_tokenizer(extra_words: str = "") -> PreTrainedTokenizerFast:
    """A byte-level BPE tokenizer, trained here."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel()
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=300, special_tokens=["<s>", "</s>"], initial_alphabet=alphabet, show_progress=False
    )
    tokenizer.train_from_iterator(["the quick brown fox jumps over the lazy dog " * 3 + extra_words], trainer)
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, bos_token="<s>", eos_token="</s>")


def save_checkpoint(
    path: Path,
    seed: int,
    dtype: torch.dtype = torch.bfloat16,
    shard_size: str = "5GB",
    tokenizer: PreTrainedTokenizerFast | None = None,
    **config: Any,
) -> Path:
    """Save a random model, norms included, at `path`."""
    settings: dict[str, Any] = {
        "vocab_size": 320,
        "hidden_size": 32,
        "intermediate_size": 64,
        "num_hidden_layers": 3,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "tie_word_embeddings": False,
        "max_position_embeddings": 128,
    }
    model = LlamaForCausalLM(LlamaConfig(**{**settings, **config}))
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator) * 0.1)
    model.to(dtype).save_pretrained(path, max_shard_size=shard_size)
    (tokenizer or train_tokenizer()).save_pretrained(path)
    return path


@pytest.fixture(autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)


@pytest.fixture
def make_checkpoint(tmp_path: Path) -> MakeCheckpoint:
    """Save a tiny checkpoint under the test's folder: `make_checkpoint("a", seed=1, hidden_size=64)`."""

    def make(name: str, seed: int = 0, **options: Any) -> Path:
        return save_checkpoint(tmp_path / name, seed, **options)

    return make


def inspect_folders(
    root: Path, names: list[str], base: str | None = None, cache: Path | None = None, **options: Any
) -> Pool:
    """Inspect the checkpoints `names` under `root` as a pool."""
    spec = PoolSpec(
        checkpoints=tuple(CheckpointSpec(name=name, path=str(root / name)) for name in names),
        base=CheckpointSpec(name=base, path=str(root / base)) if base else None,
        **options,
    )
    return inspect_pool(spec, [root], [], cache)


@pytest.fixture(scope="session")
def zoo(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a base and three checkpoints of it (bf16, one of them in shards). Never written to."""
    root = tmp_path_factory.mktemp("zoo")
    save_checkpoint(root / "base", seed=0)
    save_checkpoint(root / "a", seed=1)
    save_checkpoint(root / "b", seed=2, shard_size="60KB")
    save_checkpoint(root / "c", seed=3)
    return root


@pytest.fixture(scope="session")
def pool(zoo: Path) -> Pool:
    """The zoo as a pool with a base."""
    return inspect_folders(zoo, ["a", "b", "c"], base="base")


@pytest.fixture(scope="session")
def pool_of() -> MakePool:
    """`pool_of(root, ["a", "b"], base="base", cache=..., dtype=...)`: inspect checkpoints under `root` as a pool."""
    return inspect_folders


@pytest.fixture(scope="session")
def fast_tokenizer() -> Callable[..., PreTrainedTokenizerFast]:
    """Train a tokenizer that differs from the usual one by the words given."""
    return train_tokenizer


def save_tensors(path: Path, tensors: Tensors) -> Path:
    """Save a checkpoint of any tensors, which need not make a model; one after the other, however they are aligned.

    The bytes are written here so that the digest, which random masks follow, is the same with any library.
    """
    path.mkdir(parents=True)
    header, content = {}, b""
    for name, tensor in tensors.items():
        values = tensor.contiguous().flatten().view(torch.uint8).numpy().tobytes()
        offsets = [len(content), len(content) + len(values)]
        header[name] = {"dtype": STORED[tensor.dtype], "shape": list(tensor.shape), "data_offsets": offsets}
        content += values
    text = json.dumps(header).encode()
    (path / "model.safetensors").write_bytes(len(text).to_bytes(8, "little") + text + content)
    (path / "config.json").write_text('{"model_type": "llama", "architectures": ["LlamaForCausalLM"]}')
    (path / "tokenizer.json").write_text('{"model": {"type": "BPE", "vocab": {}, "merges": []}}')
    return path


def save_statistics(path: Path, digest: str, grams: Tensors, fisher: Tensors) -> str:
    """Save calibration statistics: X X^T / n by the name of the weight, d_in x d_in, and Fisher information, flat.

    Inputs run along the rows of weights whose name ends with "transposed", and else along their columns.
    """
    described = {name: TensorStatistics(fisher=name) for name in fisher}
    for name in grams:
        axis = 0 if name.endswith("transposed") else 1
        described[name] = TensorStatistics(inputs=name, input_axis=axis, fisher=name if name in fisher else None)
    description = Description(
        checkpoint_digest=digest,
        text_digest="0" * 64,
        settings=CalibrationSettings(kinds=("gram", "fisher")),
        tokens=1,
        device="cpu",
        libraries={},
        tensors=described,
    )
    tensors = {f"gram/{name}": gram for name, gram in grams.items()}
    tensors |= {f"gram_diagonal/{name}": gram.diagonal().clone() for name, gram in grams.items()}
    write_statistics(path, description, tensors | {f"fisher/{name}": values for name, values in fisher.items()})
    return str(path)


@pytest.fixture(scope="session")
def tensor_pool(tmp_path_factory: pytest.TempPathFactory) -> MakeTensorPool:
    """`tensor_pool([{"a": ...}, {"a": ...}], base={"a": ...}, cache=..., statistics=[(grams, fisher), ...])`."""

    def make(
        sources: Sequence[Tensors],
        base: Tensors | None = None,
        cache: Path | None = None,
        statistics: Sequence[tuple[Tensors, Tensors]] = (),
    ) -> PoolFiles:
        root = tmp_path_factory.mktemp("tensors")
        specs = []
        for index, tensors in enumerate(sources):
            path = save_tensors(root / f"m{index}", tensors)
            own = None
            if statistics:
                digest = inspect_checkpoint(path, "m", "path").digest
                own = save_statistics(root / f"statistics-{index}.safetensors", digest, *statistics[index])
            specs.append(CheckpointSpec(name=f"m{index}", path=str(path), statistics=own))
        origin = None
        if base is not None:
            origin = CheckpointSpec(name="base", path=str(save_tensors(root / "base", base)))
        return PoolFiles(inspect_pool(PoolSpec(checkpoints=tuple(specs), base=origin), [root], [], None), cache)

    return make


@pytest.fixture(scope="session")
def references() -> ModuleType:
    """The module `method_references`: tests are not a package, so it is found by its place."""
    spec = spec_from_file_location("method_references", Path(__file__).with_name("method_references.py"))
    assert spec is not None and spec.loader is not None
    module = module_from_spec(spec)
    sys.modules[spec.name] = module  # where dataclasses look for it
    spec.loader.exec_module(module)
    return module


def make_recipe(
    files: PoolFiles, method: Any, dtype: Any = "float32", sources: Sequence[int] | None = None, **options: Any
) -> Recipe:
    """Return the recipe of `method` over the pool's checkpoints (those named by `sources`), with its base if any."""
    pool = files.pool
    chosen = range(len(pool.checkpoints)) if sources is None else sources
    options.setdefault("base", pool.base.digest if pool.base else None)
    methods = [method, *(rule.method for rule in options.get("rules", ()))]
    if any(each.needs_statistics for each in methods):
        known = [pool.checkpoints[index].statistics for index in chosen]
        options.setdefault("statistics", tuple(found.digest for found in known if found))
    return Recipe(
        method=method,
        sources=tuple(pool.checkpoints[index].digest for index in chosen),
        template=pool.template.digest,
        dtype=dtype,
        **options,
    )


def merge_by_kernel(
    files: PoolFiles, recipe: Recipe, cut: int | None = None, by_run: bool = True, compiled: bool = False
) -> dict[str, torch.Tensor]:
    """Merge all tensors: as few runs as there can be, or tensor by tensor; whole, or in stretches of `cut` elements."""
    files.check(recipe)
    tensors = files.template.merged_tensors
    slots, size = [], 0
    for name, tensor in tensors.items():
        slots.append(Slot(name, size, tensor.count))
        size += tensor.count
    out = torch.full((size,), 7.0, dtype=RECIPE_DTYPES[recipe.dtype])
    kernel = Kernel(recipe, files, compiled)
    for group in [slots] if by_run else [[slot] for slot in slots]:
        for run in plan_runs(group, files.checkpoints):
            for start in range(0, run.count, cut or run.count):
                stop = min(start + (cut or run.count), run.count)
                kernel.merge_run(run, out[run.start + start : run.start + stop], start)
    return {slot.name: out[slot.start : slot.start + slot.count].view(tensors[slot.name].shape) for slot in slots}


@pytest.fixture(scope="session")
def recipe_of() -> Callable[..., Recipe]:
    """`recipe_of(files, method, "bfloat16", sources=[0, 2], base=None, seed=3)`."""
    return make_recipe


@pytest.fixture(scope="session")
def merge() -> Merge:
    """`merge(files, recipe, cut=100, by_run=False, compiled=True)`: all merged tensors by name."""
    return merge_by_kernel
