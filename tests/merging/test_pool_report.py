"""Whether checkpoints fit: what a good pool says, and all misfits of a bad one at once."""

import json
import math
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load, load_file, save_file

from campaigns.errors import FieldError, InvalidCheckpoint, MisfitPool
from campaigns.methods import LinearMerge
from campaigns.pools import CheckpointSpec, Pool, PoolSpec
from campaigns.recipe import Recipe
from merging.checkpoint import CheckpointFiles
from merging.image import MergedModel
from merging.pool_files import PoolFiles
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
    weights = load_file(make_checkpoint("types") / "model.safetensors")
    weights["model.norm.weight"] = weights["model.norm.weight"].long()
    save_file(weights, tmp_path / "types" / "model.safetensors")
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


def merged(pool: Pool, *weights: float) -> dict[str, torch.Tensor]:
    """The linear merge of a pool in float32."""
    digests = tuple(c.digest for c in pool.checkpoints)
    recipe = Recipe(
        method=LinearMerge(weights=weights), sources=digests, template=pool.template.digest, dtype="float32"
    )
    model = MergedModel(PoolFiles(pool), recipe)
    return load(b"".join(model.read("model.safetensors")))


def test_floating_types_may_differ(make_checkpoint: Make, tmp_path: Path, pool_of: Any) -> None:
    """Between members and within one: every element counts as float32."""
    for seed, (name, dtype) in enumerate((("a", torch.bfloat16), ("b", torch.float32), ("c", torch.float16))):
        make_checkpoint(name, seed, dtype=dtype)
    weights = [load_file(tmp_path / name / "model.safetensors") for name in "abc"]
    weights[0]["model.norm.weight"] = weights[0]["model.norm.weight"].float() + 1e-6
    save_file(weights[0], tmp_path / "a" / "model.safetensors")
    pool = pool_of(tmp_path, ["a", "b", "c"])
    assert pool.dtype == "bfloat16"
    found = merged(pool, 0.5, 0.25, 0.125)
    for name, tensor in found.items():
        terms = [source[name].float() * weight for source, weight in zip(weights, (0.5, 0.25, 0.125), strict=True)]
        assert torch.equal(tensor, terms[0] + terms[1] + terms[2]), name


@pytest.mark.parametrize("dtype", [torch.float64, torch.float8_e4m3fn])
def test_other_floating_types_are_refused_by_name(
    make_checkpoint: Make, tmp_path: Path, pool_of: Any, dtype: torch.dtype
) -> None:
    make_checkpoint("a")
    weights = load_file(make_checkpoint("b") / "model.safetensors")
    weights["model.norm.weight"] = weights["model.norm.weight"].to(dtype)
    save_file(weights, tmp_path / "b" / "model.safetensors")
    with pytest.raises(InvalidCheckpoint, match=r"model\.norm\.weight.*(F64|F8_E4M3)") as caught:
        pool_of(tmp_path, ["a", "b"])
    assert [error.field for error in caught.value.errors] == ["pool.checkpoints.1.path"]


def write_in_order(path: Path, names: list[str], shards: int) -> None:
    """Write a checkpoint's tensors anew, byte for byte in this order, in so many shards."""
    weights = load_file(path / "model.safetensors")
    (path / "model.safetensors").unlink()
    weight_map = {}
    for index in range(shards):
        part = names[index::shards]
        file = f"model-{index + 1:05}-of-{shards:05}.safetensors"
        weight_map |= dict.fromkeys(part, file)
        content, header, end = b"", {}, 0
        for name in part:
            data = weights[name].contiguous().view(torch.uint8).numpy().tobytes()
            header[name] = {"dtype": "BF16", "shape": [*weights[name].shape], "data_offsets": [end, end + len(data)]}
            content, end = content + data, end + len(data)
        text = json.dumps(header).encode()
        (path / file).write_bytes(struct.pack("<Q", len(text)) + text + content)
    (path / "model.safetensors.index.json").write_text(json.dumps({"weight_map": weight_map}))


def test_order_and_shards_do_not_matter(make_checkpoint: Make, tmp_path: Path, pool_of: Any) -> None:
    for seed, name in enumerate(("template", "plain", "reversed")):
        make_checkpoint(name, seed)
    for name in ("template", "plain"):
        make_checkpoint(f"other-{name}", {"template": 0, "plain": 1}[name])
    make_checkpoint("other-reversed", 2)
    names = sorted(load_file(tmp_path / "plain" / "model.safetensors"))
    write_in_order(tmp_path / "other-plain", names[::-1], shards=3)
    write_in_order(tmp_path / "other-reversed", names[5:] + names[:5], shards=1)
    plain = merged(pool_of(tmp_path, ["template", "plain", "reversed"]), 0.5, 0.3, 0.2)
    mixed = merged(pool_of(tmp_path, ["template", "other-plain", "other-reversed"]), 0.5, 0.3, 0.2)
    assert plain.keys() == mixed.keys()
    assert all(torch.equal(plain[name], mixed[name]) for name in plain)


def test_odd_tensors_are_merged(make_checkpoint: Make, tmp_path: Path, pool_of: Any) -> None:
    """Empty ones, single numbers, names that need escapes, and buffers in between."""

    def odd(seed: int) -> dict[str, torch.Tensor]:
        generator = torch.Generator().manual_seed(seed)
        names = {"": (3,), '日本\n"': (2, 2), "empty": (0, 4), "also empty": (4, 0), "number": (), "odd": (7,)}
        floats = {name: torch.randn(shape, generator=generator) for name, shape in names.items()}
        return {**floats, "flag": torch.tensor([True]), "ids": torch.arange(3, dtype=torch.int32)}

    for seed, name in enumerate("ab"):
        file = make_checkpoint(name, seed) / "model.safetensors"
        save_file({**load_file(file), **odd(seed)}, file)
    weights = [load_file(tmp_path / name / "model.safetensors") for name in "ab"]
    found = merged(pool_of(tmp_path, ["a", "b"]), 0.75, 0.5)
    assert found.keys() == weights[0].keys()
    for name, tensor in found.items():
        one, other = (source[name] for source in weights)
        expected = one.float() * 0.75 + other.float() * 0.5 if one.is_floating_point() else one
        assert tensor.shape == one.shape
        assert torch.equal(tensor, expected), name
