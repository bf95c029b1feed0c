"""Whether checkpoints fit: what a good pool says, and all misfits of a bad one at once."""

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from campaigns.errors import FieldError, InvalidCheckpoint, MisfitPool
from campaigns.pools import CheckpointSpec, Pool, PoolSpec
from merging.checkpoint import CheckpointFiles
from merging.pool_report import inspect_pool

Make = Callable[..., Path]


@pytest.fixture
def misfits(pool_of: Any) -> Callable[..., tuple[FieldError, ...]]:
    """Inspect a pool under a root that must not fit; return what is wrong."""

    def inspect(root: Path, names: list[str], base: str | None = None) -> tuple[FieldError, ...]:
        with pytest.raises(MisfitPool) as caught:
            pool_of(root, names, base)
        return caught.value.errors

    return inspect


def test_pool_says_what_it_is(zoo: Path, pool: Pool) -> None:
    assert pool.names == ("a", "b", "c")
    assert pool.base is not None
    assert pool.base.path == str(zoo / "base")
    assert (pool.dtype, pool.architecture) == ("bfloat16", "LlamaForCausalLM")
    assert pool.parameter_count == sum(t.numel() for t in load_file(zoo / "a" / "model.safetensors").values())


def test_dtype_is_that_of_the_first_checkpoint_unless_given(
    make_checkpoint: Make, tmp_path: Path, pool_of: Any
) -> None:
    for seed, name in enumerate("ab"):
        make_checkpoint(name, seed, dtype=torch.float32)
    assert pool_of(tmp_path, ["a", "b"]).dtype == "float32"
    assert pool_of(tmp_path, ["a", "b"], dtype="float16").dtype == "float16"


def test_sharding_does_not_matter(make_checkpoint: Make, tmp_path: Path, pool_of: Any) -> None:
    make_checkpoint("a", 1)
    make_checkpoint("b", 1, shard_size="30KB")
    assert len(pool_of(tmp_path, ["a", "b"]).checkpoints) == 2


def test_cache_directory_is_used(make_checkpoint: Make, tmp_path: Path, pool_of: Any) -> None:
    make_checkpoint("a", 1)
    make_checkpoint("b", 2)
    first = pool_of(tmp_path, ["a", "b"], cache=tmp_path / "cache")
    remembered = json.loads((tmp_path / "cache" / "inspections.json").read_text())
    assert {entry["digest"] for entry in remembered.values()} == {c.digest for c in first.checkpoints}
    assert pool_of(tmp_path, ["a", "b"], cache=tmp_path / "cache") == first


def test_every_unusable_checkpoint_is_named_at_once(make_checkpoint: Make, tmp_path: Path) -> None:
    root = tmp_path / "root"
    for name in ("good", "pickled", "truncated", "corrupt", "nan"):
        make_checkpoint(f"root/{name}")
    make_checkpoint("outside")
    (root / "pickled" / "model.safetensors").rename(root / "pickled" / "pytorch_model.bin")
    file = root / "truncated" / "model.safetensors"
    file.write_bytes(file.read_bytes()[:-10])
    file = root / "corrupt" / "model.safetensors"
    file.write_bytes(file.read_bytes().replace(b'{"', b'["', 1))
    weights = load_file(root / "nan" / "model.safetensors")
    weights["model.norm.weight"][0] = math.nan
    save_file(weights, root / "nan" / "model.safetensors")
    names = ["good", "missing", "pickled", "truncated", "corrupt", "nan"]
    checkpoints = [CheckpointSpec(name=name, path=name) for name in names]
    checkpoints.append(CheckpointSpec(name="hub", hub="owner/model"))
    base = CheckpointSpec(name="base", path=str(tmp_path / "outside"))
    with pytest.raises(InvalidCheckpoint) as caught:
        inspect_pool(PoolSpec(checkpoints=tuple(checkpoints), base=base), [root], [], None)
    messages = {error.field: error.message for error in caught.value.errors}
    expected = {
        "pool.base.path": "outside the model roots",
        "pool.checkpoints.1.path": "no such directory",
        "pool.checkpoints.2.path": "pickled",
        "pool.checkpoints.3.path": "truncated",
        "pool.checkpoints.4.path": "not JSON",
        "pool.checkpoints.5.path": "NaN",
        "pool.checkpoints.6.hub": "no such hub repository",
    }
    assert set(messages) == set(expected)
    for field, message in expected.items():
        assert message in messages[field]


def test_all_misfits_are_named_at_once(
    make_checkpoint: Make, tmp_path: Path, fast_tokenizer: Any, misfits: Any
) -> None:
    make_checkpoint("base")
    make_checkpoint("architecture")
    config = tmp_path / "architecture" / "config.json"
    config.write_text(config.read_text().replace("LlamaForCausalLM", "MistralForCausalLM"))
    make_checkpoint("deeper", num_hidden_layers=4)
    make_checkpoint("shallower", num_hidden_layers=2)
    make_checkpoint("wider", intermediate_size=96)
    make_checkpoint("vocabulary", vocab_size=384)
    make_checkpoint("words", tokenizer=fast_tokenizer("zyxwvut zyxwvut zyxwvut"))
    make_checkpoint("types", dtype=torch.float32)
    names = ["architecture", "deeper", "shallower", "wider", "vocabulary", "words", "types"]
    errors = misfits(tmp_path, names, base="base")
    found = {(int(error.field.split(".")[2]), error.message) for error in errors}
    assert found == {
        (0, "architecture differs"),
        (1, "tensors are extra"),
        (2, "tensors are missing"),
        (3, "shape differs"),
        (4, "vocabulary size differs"),
        (5, "tokenizer differs"),
        (6, "type differs"),
    }
    vocabulary = next(error for error in errors if error.message == "vocabulary size differs")
    assert "[384, 32]" in vocabulary.value
    assert "[320, 32]" in str(vocabulary.allowed)
    assert "MistralForCausalLM" in errors[0].value


def test_one_checkpoint_with_several_misfits(
    make_checkpoint: Make, tmp_path: Path, fast_tokenizer: Any, misfits: Any
) -> None:
    make_checkpoint("a")
    make_checkpoint("b", vocab_size=384, num_hidden_layers=4, tokenizer=fast_tokenizer("qqqq wwww qqqq wwww"))
    messages = {error.message for error in misfits(tmp_path, ["a", "b"])}
    assert messages == {"tensors are extra", "vocabulary size differs", "tokenizer differs"}


def edit_tokenizer(path: Path, **changes: object) -> None:
    file = path / "tokenizer.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), **changes}))


def test_added_tokens_differ(make_checkpoint: Make, tmp_path: Path, misfits: Any) -> None:
    make_checkpoint("a")
    edit_tokenizer(make_checkpoint("b"), added_tokens=[{"id": 300, "content": "<extra>"}])
    (error,) = misfits(tmp_path, ["a", "b"])
    assert "<extra>" in error.value


@pytest.mark.parametrize(
    "text", ["{not json", "[]", '{"model": null}', '{"model": {"vocab": {}}, "added_tokens": [1]}']
)
def test_a_corrupt_tokenizer_is_named(make_checkpoint: Make, tmp_path: Path, misfits: Any, text: str) -> None:
    make_checkpoint("a")
    (make_checkpoint("b") / "tokenizer.json").write_text(text)
    (error,) = misfits(tmp_path, ["a", "b"])
    assert (error.field, error.message) == ("pool.checkpoints.1.path", "tokenizer differs")


def test_padding_settings_may_differ(make_checkpoint: Make, tmp_path: Path, pool_of: Any) -> None:
    make_checkpoint("a")
    edit_tokenizer(make_checkpoint("b"), truncation={"max_length": 8})
    assert pool_of(tmp_path, ["a", "b"]).names == ("a", "b")


def without_tokenizer(path: Path, *left: str) -> Path:
    for file in path.iterdir():
        if file.name not in {"config.json", "model.safetensors", *left}:
            file.unlink()
    return path


@pytest.mark.parametrize("left", [(), ("tokenizer_config.json",)])
@pytest.mark.parametrize("base", ["base", None])
def test_a_template_without_a_tokenizer_is_named(
    make_checkpoint: Make, tmp_path: Path, misfits: Any, left: tuple[str, ...], base: str | None
) -> None:
    for name in ("a", "b", "base"):
        without_tokenizer(make_checkpoint(name), *left)
    (error,) = misfits(tmp_path, ["a", "b"], base)
    assert error.field == ("pool.base.path" if base else "pool.checkpoints.0.path")
    assert "no tokenizer" in error.message
    assert "tokenizer.json" in str(error.allowed) and "tokenizer.model" in str(error.allowed)


def test_only_the_template_needs_a_tokenizer(make_checkpoint: Make, tmp_path: Path, pool_of: Any) -> None:
    make_checkpoint("a")
    without_tokenizer(make_checkpoint("b"))
    assert pool_of(tmp_path, ["a", "b"]).names == ("a", "b")


def test_model_type_without_code_in_transformers(make_checkpoint: Make, tmp_path: Path, misfits: Any) -> None:
    for name in "ab":
        config = make_checkpoint(name) / "config.json"
        config.write_text(config.read_text().replace('"model_type": "llama"', '"model_type": "lamma"'))
    (error,) = misfits(tmp_path, ["a", "b"])
    assert error.field == "pool.checkpoints.0.path"
    assert "lamma" in error.value


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"model_type": ["llama"]}, "pool.checkpoints.0.path"),
        ({"model_type": None}, "pool.checkpoints.0.path"),
        ({"architectures": {"a": 1}}, "pool.checkpoints.1.path"),
    ],
)
def test_a_malformed_configuration_is_named(
    make_checkpoint: Make, tmp_path: Path, misfits: Any, change: dict[str, object], field: str
) -> None:
    make_checkpoint("b")
    config = make_checkpoint("a") / "config.json"
    config.write_text(json.dumps({**json.loads(config.read_text()), **change}))
    (error,) = misfits(tmp_path, ["a", "b"])
    assert error.field == field


def test_main_type_is_that_of_most_elements(make_checkpoint: Make) -> None:
    from merging.pool_report import main_dtype

    path = make_checkpoint("a")
    weights = load_file(path / "model.safetensors")
    weights["model.norm.weight"] = weights["model.norm.weight"].float()
    save_file(weights, path / "model.safetensors")
    assert main_dtype(CheckpointFiles(path)) == "bfloat16"
