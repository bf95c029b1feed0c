"""One pass, its file, and every reason not to make one."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import MixtralConfig, MixtralForCausalLM

from campaigns.errors import InvalidCheckpoint, InvalidInput
from merging.calibration import CalibrationSettings, CalibrationStatistics
from merging.calibration.calibrate import calibrate
from merging.checkpoint import CheckpointFiles
from merging.inspection import inspect_checkpoint

Make = Callable[..., Path]
Calibrate = Callable[..., CalibrationStatistics]

SMALL = CalibrationSettings(sequences=4, sequence_length=16)
ALL = CalibrationSettings(sequences=4, sequence_length=16, kinds=("fisher", "gram"))


def run(checkpoint: Path, texts: Path, directory: Path, settings: CalibrationSettings, progress: Any = None) -> Path:
    digest = inspect_checkpoint(checkpoint, "x", "checkpoint").digest
    return calibrate(CheckpointFiles(checkpoint, "checkpoint"), digest, texts, directory, settings, progress)


def refusal(checkpoint: Path, texts: Path, kind: type[InvalidInput], settings: CalibrationSettings = SMALL) -> str:
    """What is said, which leaves nothing behind."""
    directory = checkpoint.parent / "refused"
    with pytest.raises(kind) as caught:
        calibrate(CheckpointFiles(checkpoint, "checkpoint"), "0" * 64, texts, directory, settings)
    assert not directory.exists() or not [*directory.iterdir()]
    return str(caught.value)


def test_the_file_says_what_it_is_of(make_checkpoint: Make, texts: Path, tmp_path: Path) -> None:
    checkpoint = make_checkpoint("a")
    seen: list[tuple[int, int]] = []
    file = run(checkpoint, texts, tmp_path / "new" / "folder", ALL, lambda done, total: seen.append((done, total)))
    assert seen == [(16, 64), (32, 64), (48, 64), (64, 64)]
    statistics = CalibrationStatistics(file)
    digest = inspect_checkpoint(checkpoint, "a", "path").digest
    assert statistics.checkpoint_digest == digest
    assert file.name.startswith(f"{digest[:16]}-")
    assert file.parent == tmp_path / "new" / "folder"
    assert [path.name for path in file.parent.iterdir()] == [file.name]
    assert statistics.description.settings == ALL
    assert statistics.description.tokens == 64
    assert {"torch", "transformers", "tokenizers", "mergefront"} == statistics.description.libraries.keys()
    assert {tensor.dtype for tensor in load_file(file).values()} == {torch.float32}


def test_a_second_call_makes_no_pass(make_checkpoint: Make, texts: Path, tmp_path: Path) -> None:
    checkpoint = make_checkpoint("a")
    first = run(checkpoint, texts, tmp_path, SMALL)
    before = first.stat()
    passes: list[int] = []
    assert run(checkpoint, texts, tmp_path, SMALL, lambda done, total: passes.append(done)) == first
    assert passes == []
    assert (first.stat().st_ino, first.stat().st_mtime_ns) == (before.st_ino, before.st_mtime_ns)


def test_what_lies_there_under_that_name_is_not_believed_unread(
    make_checkpoint: Make, texts: Path, tmp_path: Path
) -> None:
    checkpoint = make_checkpoint("a")
    file = run(checkpoint, texts, tmp_path, SMALL)
    file.write_bytes(file.read_bytes()[:-4])
    with pytest.raises(InvalidCheckpoint, match="truncated"):
        run(checkpoint, texts, tmp_path, SMALL)


def test_other_questions_have_other_files(make_checkpoint: Make, texts: Path, tmp_path: Path) -> None:
    checkpoint, other = make_checkpoint("a"), make_checkpoint("b", 1)
    more = tmp_path / "more.txt"
    more.write_text(texts.read_text() + "\n\nmore")
    asked = [(checkpoint, texts, SMALL), (checkpoint, texts, ALL), (checkpoint, more, SMALL), (other, texts, SMALL)]
    asked.append((checkpoint, texts, SMALL.replace(sequences=3)))
    assert len({run(a, text, tmp_path / "out", settings) for a, text, settings in asked}) == len(asked)


def test_equal_questions_have_equal_bytes(make_checkpoint: Make, texts: Path, tmp_path: Path) -> None:
    checkpoint = make_checkpoint("a")
    one, other = (run(checkpoint, texts, tmp_path / name, ALL) for name in ("one", "other"))
    assert one.name == other.name
    assert one.read_bytes() == other.read_bytes()


def test_kinds_are_a_set() -> None:
    assert CalibrationSettings(kinds=("gram", "fisher", "gram")) == CalibrationSettings(
        kinds=("fisher", "gram_diagonal", "gram")
    )
    assert CalibrationSettings(kinds=("fisher",)).kinds == ("fisher",)


def test_shards_do_not_matter(make_checkpoint: Make, texts: Path, tmp_path: Path) -> None:
    one, other = make_checkpoint("a", 1), make_checkpoint("b", 1, shard_size="40KB")
    assert len([*other.glob("*.safetensors")]) > 1
    mine, theirs = (load_file(run(path, texts, tmp_path, ALL)) for path in (one, other))
    assert {*mine} == {*theirs}
    assert all(torch.equal(mine[name], theirs[name]) for name in mine if name.startswith("fisher"))


@pytest.mark.parametrize("length", [129, 4096])
def test_sequences_longer_than_the_model_takes(make_checkpoint: Make, texts: Path, length: int) -> None:
    found = refusal(make_checkpoint("a"), texts, InvalidInput, SMALL.replace(sequence_length=length))
    assert "settings.sequence_length" in found and "at most 128 tokens" in found


def test_a_tokenizer_of_another_model(make_checkpoint: Make, texts: Path) -> None:
    assert "tokens that the model does not have" in refusal(
        make_checkpoint("a", vocab_size=64), texts, InvalidCheckpoint
    )


@pytest.mark.parametrize("left", [(), ("tokenizer_config.json",)])
def test_a_checkpoint_without_a_tokenizer(make_checkpoint: Make, texts: Path, left: tuple[str, ...]) -> None:
    checkpoint = make_checkpoint("a")
    for file in checkpoint.iterdir():
        if file.name not in {"config.json", "model.safetensors", *left}:
            file.unlink()
    assert "no tokenizer" in refusal(checkpoint, texts, InvalidCheckpoint)


def test_a_model_that_transformers_does_not_know_is_never_run(make_checkpoint: Make, texts: Path) -> None:
    checkpoint = make_checkpoint("a")
    config = json.loads((checkpoint / "config.json").read_text())
    config |= {"model_type": "lamma", "auto_map": {"AutoModelForCausalLM": "evil.Model", "AutoConfig": "evil.Config"}}
    (checkpoint / "config.json").write_text(json.dumps(config))
    (checkpoint / "evil.py").write_text("raise SystemExit")
    assert "lamma" in refusal(checkpoint, texts, InvalidCheckpoint)


def test_files_that_the_architecture_does_not_take(make_checkpoint: Make, texts: Path) -> None:
    checkpoint = make_checkpoint("a")
    weights = load_file(checkpoint / "model.safetensors")
    weights["model.extra.weight"] = weights.pop("model.norm.weight")
    save_file(weights, checkpoint / "model.safetensors", metadata={"format": "pt"})
    found = refusal(checkpoint, texts, InvalidCheckpoint)
    assert "model.norm.weight" in found and "model.extra.weight" in found


def test_fused_experts_have_no_tensors_of_the_files(tmp_path: Path, texts: Path, fast_tokenizer: Any) -> None:
    sizes = {"vocab_size": 320, "hidden_size": 32, "intermediate_size": 32, "num_hidden_layers": 1}
    config = MixtralConfig(**sizes, num_attention_heads=2, num_key_value_heads=2, num_local_experts=2)
    MixtralForCausalLM(config).save_pretrained(tmp_path / "a")
    fast_tokenizer().save_pretrained(tmp_path / "a")
    assert "the live model has no tensors of these names" in refusal(tmp_path / "a", texts, InvalidCheckpoint)


def test_activations_that_overflow_are_named(make_checkpoint: Make, texts: Path) -> None:
    checkpoint = make_checkpoint("a")
    weights = load_file(checkpoint / "model.safetensors")
    weights["model.layers.1.mlp.up_proj.weight"].fill_(3e38)
    save_file(weights, checkpoint / "model.safetensors", metadata={"format": "pt"})
    found = refusal(checkpoint, texts, InvalidCheckpoint)
    assert "NaN or infinite" in found and "model.layers.1.mlp.down_proj.weight" in found


def test_a_checkpoint_that_changes_meanwhile(make_checkpoint: Make, texts: Path, tmp_path: Path) -> None:
    checkpoint = make_checkpoint("a")

    def touch(done: int, total: int) -> None:
        (checkpoint / "added_tokens.json").write_text("{}")

    with pytest.raises(InvalidCheckpoint, match="changed while they were read"):
        run(checkpoint, texts, tmp_path / "out", SMALL, touch)
    assert not (tmp_path / "out").exists()
