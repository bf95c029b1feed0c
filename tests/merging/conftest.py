"""Tiny checkpoints: Llama models of about 50 thousand parameters with a real fast tokenizer."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from campaigns.pools import CheckpointSpec, Pool, PoolSpec
from merging.pool_report import inspect_pool

MakeCheckpoint = Callable[..., Path]
MakePool = Callable[..., Pool]


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
