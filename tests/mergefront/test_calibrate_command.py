"""`mergefront calibrate`, end to end, in a process of its own and in this one."""

import json
import subprocess
import sys

import pytest
import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast
from typer.testing import CliRunner

from campaigns.pools import CheckpointSpec, PoolSpec
from mergefront.cli import app
from merging.calibration import CalibrationStatistics
from merging.pool_files import PoolFiles
from merging.pool_report import inspect_pool

SMALL = ("--sequences", "3", "--sequence-length", "8", "--device", "cpu")


def run(*arguments):
    return CliRunner().invoke(app, ["calibrate", *map(str, arguments)])


def printed_path(output):
    return next(line for line in reversed(output.splitlines()) if line.endswith(".safetensors"))


@pytest.fixture
def models_folder(tmp_path, monkeypatch):
    monkeypatch.setenv("MERGEFRONT_HOME", str(tmp_path / "home"))
    shape = LlamaConfig(vocab_size=32, hidden_size=16, intermediate_size=24, num_hidden_layers=1, num_attention_heads=2)
    words = Tokenizer(models.WordLevel({"a": 0, "b": 1, "c": 2}, unk_token="a"))
    words.pre_tokenizer = pre_tokenizers.Whitespace()
    for seed, name in enumerate(("x", "y")):
        torch.manual_seed(seed)
        LlamaForCausalLM(shape).save_pretrained(tmp_path / "models" / name)
        PreTrainedTokenizerFast(tokenizer_object=words).save_pretrained(tmp_path / "models" / name)
    (tmp_path / "texts.txt").write_text("a b c b a\n\nc c b a\n\n" * 5)
    return tmp_path / "models"


def test_the_printed_file_goes_into_a_pool(tmp_path, models_folder):
    found = {}
    for name in ("x", "y"):
        done = run(models_folder / name, tmp_path / "texts.txt", "--gram", "--fisher", *SMALL)
        assert done.exit_code == 0, done.output
        found[name] = printed_path(done.output)
    assert {path.parent for path in map(type(tmp_path), found.values())} == {models_folder / "calibration"}
    checkpoints = tuple(CheckpointSpec(name=name, path=name, statistics=found[name]) for name in ("x", "y"))
    pool = inspect_pool(PoolSpec(checkpoints=checkpoints), [models_folder], [], None)
    statistics = PoolFiles(pool).statistics[pool.checkpoints[0].digest]
    assert statistics.kinds == {"gram_diagonal", "gram", "fisher"}
    assert statistics.gram("model.layers.0.mlp.down_proj.weight").shape == (24, 24)
    assert statistics.fisher("model.norm.weight").shape == (16,)


def test_two_processes_write_the_same_bytes_and_only_the_path_to_a_pipe(tmp_path, models_folder):
    command = [sys.executable, "-m", "mergefront", "calibrate", models_folder / "x", tmp_path / "texts.txt", *SMALL]
    contents = []
    for name in ("one", "other"):
        arguments = [*map(str, command), "--gram", "--fisher", "--directory", str(tmp_path / name)]
        done = subprocess.run(arguments, capture_output=True, text=True, check=True, timeout=120)
        (file,) = (tmp_path / name).iterdir()
        assert printed_path(done.stdout) == str(file)
        contents.append(file.read_bytes())
    assert contents[0] == contents[1]


def test_a_second_run_reuses_the_file(tmp_path, models_folder):
    first = run(models_folder / "x", tmp_path / "texts.txt", *SMALL)
    (file,) = (models_folder / "calibration").iterdir()
    written = file.stat().st_mtime_ns
    second = run(models_folder / "x", tmp_path / "texts.txt", *SMALL)
    assert printed_path(first.output) == printed_path(second.output) == str(file)
    assert file.stat().st_mtime_ns == written
    assert CalibrationStatistics(file).kinds == {"gram_diagonal"}


def test_an_adapter_is_no_whole_model(tmp_path, models_folder):
    (tmp_path / "adapter").mkdir()
    (tmp_path / "adapter" / "adapter_config.json").write_text("{}")
    done = run(tmp_path / "adapter", tmp_path / "texts.txt", *SMALL)
    assert done.exit_code == 1
    assert "this is a LoRA adapter" in " ".join(done.output.split())


@pytest.mark.parametrize(
    ("text", "name", "options", "told"),
    [
        ("", "t.txt", (), "the text is empty"),
        ("a b c", "t.txt", (), "too short"),
        (json.dumps({"words": "a b"}), "t.jsonl", (), "line 1 has no string"),
        ("a b " * 90, "t.txt", ("--sequence-length", "99999"), "settings.sequence_length"),
        ("a b " * 90, "t.txt", ("--device", "quantum"), "device: torch cannot use this device"),
    ],
)
def test_what_is_wrong_is_told_in_a_line(tmp_path, models_folder, text, name, options, told):
    (tmp_path / name).write_text(text)
    done = run(models_folder / "x", tmp_path / name, *SMALL, *options)
    assert done.exit_code == 1
    assert told in " ".join(done.output.split())
    assert "Traceback" not in done.output
    assert not (models_folder / "calibration").exists()
