"""Random checkpoints of the Llama architecture, made without running a model: a base and fine-tunes of it."""

import math
from collections.abc import Iterator
from pathlib import Path

import torch
from safetensors.torch import save_file
from tokenizers import Tokenizer, models
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

WEIGHT_DEVIATION = 0.02
BASE_SEED, SHARED_SEED = 0, 1000


def write_checkpoint(path: Path, config: LlamaConfig, dtype: torch.dtype, seed: int, delta: float = 1e-3) -> None:
    """Write the base (`seed` 0) or a fine-tune of it (other seeds) to the new directory `path`.

    Weights of the base are N(0, 0.02), those of norms N(1, 0.02). A fine-tune adds s (z + c/2) to each tensor: z and c
    are N(0, 1), c is the same for all, s is between a third of `delta` and three times that and differs between
    tensors. So the task vectors of two fine-tunes have a cosine of 0.2; where one has a negative seed, of -0.2.
    """
    path.mkdir(parents=True)
    tensors = {name: _tensor(name, shape, index, seed, delta) for index, (name, shape) in enumerate(_shapes(config))}
    save_file(
        {name: tensor.to(dtype) for name, tensor in tensors.items()},
        path / "model.safetensors",
        metadata={"format": "pt"},
    )
    config.dtype = dtype
    config.architectures = ["LlamaForCausalLM"]
    config.save_pretrained(path)
    words = Tokenizer(models.WordLevel({"<unk>": 0}, unk_token="<unk>"))
    PreTrainedTokenizerFast(tokenizer_object=words, unk_token="<unk>").save_pretrained(path)


def _shapes(config: LlamaConfig) -> Iterator[tuple[str, torch.Size]]:
    with torch.device("meta"):
        model = LlamaForCausalLM(config)
    for name, parameter in model.named_parameters():
        yield name, parameter.shape


def _tensor(name: str, shape: torch.Size, index: int, seed: int, delta: float) -> torch.Tensor:
    center = 1.0 if "norm" in name else 0.0
    tensor = center + WEIGHT_DEVIATION * _normal(shape, BASE_SEED, index)
    if seed != BASE_SEED:
        scale = delta * 3 ** math.cos(index * 7 + seed)
        shared = math.copysign(0.5, seed) * _normal(shape, SHARED_SEED, index)
        tensor += scale * (_normal(shape, abs(seed), index) + shared)
    return tensor


def _normal(shape: torch.Size, seed: int, index: int) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed * 1_000_003 + index))
