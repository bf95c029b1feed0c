"""Gram matrices against inputs computed by hand, layer by layer."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, GPT2Config, GPT2LMHeadModel

from merging.calibration import CalibrationSettings, CalibrationStatistics
from merging.calibration.sequences import read_sequences

Make = Callable[..., Path]
Calibrate = Callable[..., CalibrationStatistics]

SETTINGS = CalibrationSettings(sequences=6, sequence_length=24)
BLOCK = "model.layers.1."


@torch.no_grad()
def inputs_by_hand(checkpoint: Path, texts: Path) -> dict[str, torch.Tensor]:
    """What the linear layers of block 1 and the output layer get, from the parts of the model called one by one."""
    model = AutoModelForCausalLM.from_pretrained(checkpoint, dtype=torch.float32).eval()
    tokens = read_sequences(checkpoint, texts, SETTINGS)
    states = model(input_ids=tokens, output_hidden_states=True).hidden_states
    block = model.model.layers[1]
    attended = block.input_layernorm(states[1])
    positions = model.model.rotary_emb(attended, position_ids=torch.arange(24)[None])
    attention = []
    weight = block.self_attn.o_proj.weight
    mixed, _ = block.self_attn(hidden_states=attended, position_embeddings=positions, attention_mask=None)
    attention = torch.linalg.solve(weight, mixed.flatten(0, 1).T).T  # o_proj is square: its input from its output
    gated = block.post_attention_layernorm(states[1] + mixed)
    down = torch.nn.functional.silu(block.mlp.gate_proj(gated)) * block.mlp.up_proj(gated)
    found = dict.fromkeys((f"{BLOCK}self_attn.{name}_proj.weight" for name in "qkv"), attended)
    found |= dict.fromkeys((f"{BLOCK}mlp.{name}_proj.weight" for name in ("gate", "up")), gated)
    found |= {f"{BLOCK}self_attn.o_proj.weight": attention, f"{BLOCK}mlp.down_proj.weight": down}
    found["lm_head.weight"] = states[-1]
    return {name: rows.reshape(-1, rows.shape[-1]).double() for name, rows in found.items()}


def test_grams_are_those_of_inputs_computed_by_hand(make_checkpoint: Make, calibrated: Calibrate, texts: Path) -> None:
    checkpoint = make_checkpoint("a")
    statistics = calibrated(checkpoint, "gram")
    for name, rows in inputs_by_hand(checkpoint, texts).items():
        expected = (rows.T @ rows / (6 * 24)).float()
        gram, diagonal = statistics.gram(name), statistics.gram_diagonal(name)
        assert gram is not None and diagonal is not None
        assert (gram.dtype, diagonal.dtype) == (torch.float32, torch.float32)
        tolerance = {"rtol": 1e-3, "atol": 1e-3 * float(expected.diagonal().mean())}
        torch.testing.assert_close(gram, expected, **tolerance, msg=lambda text, name=name: f"{name}: {text}")
        torch.testing.assert_close(diagonal, expected.diagonal(), **tolerance)
        torch.testing.assert_close(diagonal, gram.diagonal(), rtol=1e-5, atol=1e-7)
    assert {statistics.input_axis(name) for name in inputs_by_hand(checkpoint, texts)} == {1}


def test_tensors_without_inputs_have_no_gram(make_checkpoint: Make, calibrated: Calibrate) -> None:
    checkpoint = make_checkpoint("a")
    statistics = calibrated(checkpoint, "gram")
    without = {name for name in load_file(checkpoint / "model.safetensors") if statistics.gram(name) is None}
    assert all("norm" in name or "embed" in name for name in without)
    assert {"model.embed_tokens.weight", "model.norm.weight"} < without
    assert statistics.gram_diagonal("model.norm.weight") is None
    assert statistics.input_axis("model.norm.weight") is None
    assert statistics.fisher("lm_head.weight") is None
    assert statistics.gram("no.such.tensor") is None


def test_layers_that_get_the_same_tensor_share_a_gram(make_checkpoint: Make, calibrated: Calibrate) -> None:
    """Three blocks with four inputs each, and the output layer: 13 Gram matrices for 22 weights."""
    statistics = calibrated(make_checkpoint("a"), "gram")
    stored = load_file(statistics.path)
    assert len([name for name in stored if name.startswith("gram/")]) == 13
    query, key, output = (statistics.gram(f"{BLOCK}self_attn.{name}_proj.weight") for name in "qko")
    assert query is not None and key is not None and output is not None
    assert query.data_ptr() == key.data_ptr() != output.data_ptr()


def test_the_diagonal_alone_is_the_same_and_holds_no_matrix(make_checkpoint: Make, calibrated: Calibrate) -> None:
    checkpoint = make_checkpoint("a")
    diagonals, grams = calibrated(checkpoint, "gram_diagonal"), calibrated(checkpoint, "gram")
    assert (diagonals.kinds, grams.kinds) == ({"gram_diagonal"}, {"gram", "gram_diagonal"})
    assert diagonals.gram("lm_head.weight") is None
    assert diagonals.path.stat().st_size < grams.path.stat().st_size / 4
    for name in load_file(checkpoint / "model.safetensors"):
        mine, theirs = diagonals.gram_diagonal(name), grams.gram_diagonal(name)
        assert (mine is None) == (theirs is None)
        assert mine is None or theirs is None or torch.equal(mine, theirs)


def test_batches_change_the_sums_by_rounding_alone(make_checkpoint: Make, calibrated: Calibrate) -> None:
    checkpoint = make_checkpoint("a")
    one, many = (calibrated(checkpoint, "gram", batch_size=size).gram("lm_head.weight") for size in (1, 6))
    torch.testing.assert_close(one, many, rtol=1e-4, atol=1e-6)


def test_a_bfloat16_pass_is_near_the_float32_one(make_checkpoint: Make, calibrated: Calibrate) -> None:
    checkpoint = make_checkpoint("a")
    half, full = (calibrated(checkpoint, "gram", dtype=dtype) for dtype in ("bfloat16", "float32"))
    name = f"{BLOCK}self_attn.q_proj.weight"
    mine, theirs = half.gram_diagonal(name), full.gram_diagonal(name)
    assert mine is not None and theirs is not None
    assert mine.dtype == torch.float32
    torch.testing.assert_close(mine, theirs, rtol=0.05, atol=0.01)
    assert not torch.equal(mine, theirs)


@pytest.mark.parametrize("left_out", ["lm_head.weight", "model.embed_tokens.weight"])
def test_a_tied_output_layer_is_an_embedding(make_checkpoint: Make, calibrated: Calibrate, left_out: str) -> None:
    checkpoint = make_checkpoint("a", tie_word_embeddings=True)
    file = checkpoint / "model.safetensors"
    weights = load_file(file)
    tied = weights.pop("model.embed_tokens.weight")
    kept = ({"lm_head.weight", "model.embed_tokens.weight"} - {left_out}).pop()
    save_file({**weights, kept: tied}, file, metadata={"format": "pt"})
    statistics = calibrated(checkpoint, "gram", "fisher")
    assert statistics.gram(kept) is None and statistics.gram(left_out) is None
    fisher = statistics.fisher(kept)
    assert fisher is not None and fisher.numel() == tied.numel()
    assert statistics.fisher(left_out) is None


@pytest.mark.parametrize("prefix", ["transformer.", ""])
def test_transposed_layers_of_gpt2(
    tmp_path: Path, calibrated: Calibrate, fast_tokenizer: Any, texts: Path, prefix: str
) -> None:
    """Names are those of the files, with or without the base model's prefix."""
    torch.manual_seed(0)
    checkpoint = tmp_path / "gpt2"
    config = GPT2Config(vocab_size=320, n_embd=32, n_layer=2, n_head=4, n_positions=64, initializer_range=0.2)
    GPT2LMHeadModel(config).save_pretrained(checkpoint)
    fast_tokenizer().save_pretrained(checkpoint)
    file = checkpoint / "model.safetensors"
    weights = {prefix + name.removeprefix("transformer."): tensor for name, tensor in load_file(file).items()}
    save_file(weights, file, metadata={"format": "pt"})
    statistics = calibrated(checkpoint, "gram")
    model = AutoModelForCausalLM.from_pretrained(checkpoint).eval()
    with torch.no_grad():
        states = model(read_sequences(checkpoint, texts, SETTINGS), output_hidden_states=True).hidden_states
        rows = model.transformer.h[1].ln_1(states[1]).reshape(-1, 32)
    gram = statistics.gram(f"{prefix}h.1.attn.c_attn.weight")
    assert gram is not None
    torch.testing.assert_close(gram, rows.T @ rows / len(rows), rtol=1e-4, atol=1e-5)
    wide = statistics.gram(f"{prefix}h.1.mlp.c_proj.weight")
    assert wide is not None and wide.shape == (128, 128)
    assert weights[f"{prefix}h.1.mlp.c_proj.weight"].shape[0] == 128
    assert statistics.input_axis(f"{prefix}h.1.mlp.c_proj.weight") == 0
    assert statistics.gram(f"{prefix}wte.weight") is None


def test_regmean_of_one_layer_fits_both_sources(make_checkpoint: Make, calibrated: Calibrate, texts: Path) -> None:
    """What the matrices are for: (G_a + G_b)^-1 (G_a W_a + G_b W_b) beats the average on the layer's own inputs."""
    name = f"{BLOCK}mlp.down_proj.weight"
    grams, weights = [], []
    for seed in (1, 2):
        checkpoint = make_checkpoint(f"{seed}", seed)
        gram = calibrated(checkpoint, "gram").gram(name)
        assert gram is not None
        grams.append(gram.double())
        weights.append(load_file(checkpoint / "model.safetensors")[name].double())

    def error(merged: torch.Tensor) -> float:
        differences = [merged - weight for weight in weights]
        return float(sum(torch.trace(d @ gram @ d.T) for d, gram in zip(differences, grams, strict=True)))

    targets = sum(gram @ weight.T for gram, weight in zip(grams, weights, strict=True))
    merged = torch.linalg.lstsq(grams[0] + grams[1], targets).solution.T
    assert error(merged) < 0.95 * error((weights[0] + weights[1]) / 2)
