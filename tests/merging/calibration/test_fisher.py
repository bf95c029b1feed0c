"""The diagonal Fisher information against gradients taken sequence by sequence."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM

from merging.calibration import CalibrationSettings, CalibrationStatistics
from merging.calibration.sequences import read_sequences

Make = Callable[..., Path]
Calibrate = Callable[..., CalibrationStatistics]


def fisher_by_hand(checkpoint: Path, texts: Path) -> dict[str, torch.Tensor]:
    """Mean of the squared gradients of log p, in float64, from log-softmax."""
    model = AutoModelForCausalLM.from_pretrained(checkpoint, dtype=torch.float64).eval()
    sequences = read_sequences(checkpoint, texts, CalibrationSettings(sequences=6, sequence_length=24))
    parameters = dict(model.named_parameters())
    totals = {name: torch.zeros_like(parameter) for name, parameter in parameters.items()}
    for sequence in sequences:
        scores = model(sequence[None]).logits[0].double().log_softmax(-1)
        likelihood = sum(scores[t, sequence[t + 1]] for t in range(len(sequence) - 1))
        gradients = torch.autograd.grad(likelihood, list(parameters.values()))
        for name, gradient in zip(parameters, gradients, strict=True):
            totals[name] += gradient**2 / len(sequences)
    return totals


@pytest.mark.parametrize("tied", [False, True])
def test_fisher_is_the_mean_of_squared_gradients(
    make_checkpoint: Make, calibrated: Calibrate, texts: Path, tied: bool
) -> None:
    checkpoint = make_checkpoint("a", tie_word_embeddings=tied)
    statistics = calibrated(checkpoint, "fisher")
    assert statistics.kinds == {"fisher"}
    weights = load_file(checkpoint / "model.safetensors")
    expected = fisher_by_hand(checkpoint, texts)
    assert expected.keys() == weights.keys()
    for name, values in expected.items():
        fisher = statistics.fisher(name)
        assert fisher is not None
        assert (fisher.dtype, fisher.shape) == (torch.float32, (weights[name].numel(),))
        assert fisher.sum() > 0
        scale = float(values.mean())
        torch.testing.assert_close(fisher, values.flatten().float(), rtol=1e-3, atol=1e-4 * scale)
    assert statistics.gram_diagonal("lm_head.weight") is None


@pytest.mark.filterwarnings("ignore:.*tied weights mapping.*")
def test_tied_tensors_that_are_both_in_the_file_share_their_values(
    make_checkpoint: Make, calibrated: Calibrate
) -> None:
    checkpoint = make_checkpoint("a", tie_word_embeddings=True)
    file = checkpoint / "model.safetensors"
    weights = load_file(file)
    head = weights["model.embed_tokens.weight"].clone()
    save_file({**weights, "lm_head.weight": head}, file, metadata={"format": "pt"})
    statistics = calibrated(checkpoint, "fisher", "gram")
    one, other = statistics.fisher("lm_head.weight"), statistics.fisher("model.embed_tokens.weight")
    assert one is not None and other is not None
    assert torch.equal(one, other)
    assert statistics.gram("lm_head.weight") is None


def test_one_pass_gives_fisher_and_gram(make_checkpoint: Make, calibrated: Calibrate) -> None:
    checkpoint = make_checkpoint("a")
    both = calibrated(checkpoint, "gram", "fisher")
    fisher, gram = calibrated(checkpoint, "fisher"), calibrated(checkpoint, "gram", batch_size=1)
    for name in load_file(checkpoint / "model.safetensors"):
        mine, theirs = both.fisher(name), fisher.fisher(name)
        assert mine is not None and theirs is not None and torch.equal(mine, theirs)
        a, b = both.gram(name), gram.gram(name)
        assert (a is None) == (b is None)
        if a is not None:
            torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-6)
