"""The command line: what it prints, what it leaves, its exit codes."""

import os
import subprocess
import sys

import pytest
import torch
import yaml
from safetensors.torch import load_file
from tokenizers import Tokenizer, models
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast
from typer.testing import CliRunner

from mergefront.cli import app


def run(*arguments):
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


@pytest.fixture
def config(tmp_path, monkeypatch):
    monkeypatch.setenv("MERGEFRONT_HOME", str(tmp_path / "home"))
    shape = LlamaConfig(vocab_size=32, hidden_size=16, intermediate_size=16, num_hidden_layers=1, num_attention_heads=2)
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=Tokenizer(models.WordLevel({"a": 0}, unk_token="a")))
    for seed, name in enumerate(("a", "b")):
        torch.manual_seed(seed)
        LlamaForCausalLM(shape).save_pretrained(tmp_path / name)
        tokenizer.save_pretrained(tmp_path / name)
    return {
        "pool": {"checkpoints": [{"name": name, "path": str(tmp_path / name)} for name in ("a", "b")]},
        "weights": {"a": 0.25, "b": 0.75},
    }


def write(tmp_path, document):
    path = tmp_path / "merge.yml"
    path.write_text(yaml.safe_dump(document))
    return path


def test_merge_writes_a_directory(tmp_path, config):
    done = run("merge", write(tmp_path, config), tmp_path / "merged")
    assert done.exit_code == 0, done.output
    a, b, merged = (load_file(tmp_path / name / "model.safetensors") for name in ("a", "b", "merged"))
    for name in a:
        torch.testing.assert_close(merged[name], 0.25 * a[name] + 0.75 * b[name])


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"weights": {"c": 1.0}}, "weights.c"),
        ({"method": "task_arithmetic"}, "pool.base"),
        ({"colour": "red"}, "colour"),
    ],
)
def test_a_wrong_merge_is_told_by_field_and_writes_nothing(tmp_path, config, change, told):
    done = run("merge", write(tmp_path, config | change), tmp_path / "merged")
    assert done.exit_code == 1
    assert told in done.output
    assert "Traceback" not in done.output
    assert not (tmp_path / "merged").exists()


def test_relative_paths_count_from_the_configuration(tmp_path, config):
    for checkpoint in config["pool"]["checkpoints"]:
        checkpoint["path"] = checkpoint["name"]
    done = run("merge", write(tmp_path, config), tmp_path / "merged")
    assert done.exit_code == 0, done.output


@pytest.mark.parametrize(
    ("text", "told"), [("", "must be a mapping"), ("[1, 2]", "must be a mapping"), ("a: [", "not a YAML document")]
)
@pytest.mark.parametrize("command", ["merge", "launch"])
def test_a_file_that_is_no_document_is_told_so(tmp_path, command, text, told):
    (tmp_path / "wrong.yml").write_text(text)
    done = run(command, tmp_path / "wrong.yml", *([tmp_path / "merged"] if command == "merge" else []))
    assert done.exit_code == 1
    assert told in done.output
    assert "Traceback" not in done.output


@pytest.mark.parametrize("command", ["serve", "worker"])
def test_a_folder_of_tasks_that_is_not_there_is_told_at_once(tmp_path, command):
    done = run(command, "--home", tmp_path, "--tasks", tmp_path / "missing")
    assert done.exit_code == 2
    assert "does not exist" in " ".join(done.output.replace("│", " ").split())


def test_merge_does_not_touch_a_directory_that_holds_something(tmp_path, config):
    (tmp_path / "merged").mkdir()
    (tmp_path / "merged" / "mine.txt").write_text("mine")
    assert run("merge", write(tmp_path, config), tmp_path / "merged").exit_code == 1
    assert [path.name for path in (tmp_path / "merged").iterdir()] == ["mine.txt"]


def test_without_a_service_a_command_says_so_in_a_line():
    done = run("front", "abc", "--url", "http://127.0.0.1:9")
    assert done.exit_code == 1
    assert "Traceback" not in done.output


def test_listening_to_the_world_without_a_token_is_refused(tmp_path):
    environment = {name: value for name, value in os.environ.items() if name != "MERGEFRONT_TOKEN"}
    command = [sys.executable, "-m", "mergefront", "serve", "--host", "0.0.0.0", "--home", str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment, timeout=120)
    assert done.returncode == 1
    assert "token" in done.stderr
    assert "Traceback" not in done.stderr
