"""Checkpoints made to harm: they are refused, or what is harmful in them is never touched."""

import json
import os
import pickle
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from campaigns.errors import InvalidCheckpoint
from campaigns.methods import LinearMerge
from campaigns.pools import CheckpointSpec, Pool
from campaigns.recipe import Recipe
from merging import checkpoint as checkpoint_module
from merging.checkpoint import CheckpointFiles
from merging.image import MergedModel
from merging.live import LiveModel
from merging.pool_files import PoolFiles
from merging.sources import locate, locate_file

Make = Callable[..., Path]


class Bomb:
    """A pickle that leaves a mark when it is loaded."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.write_text, (self.mark, "was loaded")


def refusal(path: object, *roots: Path, field: str = "path") -> str:
    with pytest.raises(InvalidCheckpoint) as caught:
        CheckpointFiles(locate(CheckpointSpec(name="x", path=str(path)), "pool.checkpoints.0", roots, [], None))
    return str(caught.value)


def change_json(path: Path, **changes: Any) -> None:
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


def recipe_of(pool: Pool) -> Recipe:
    digests = tuple(checkpoint.digest for checkpoint in pool.checkpoints)
    return Recipe(method=LinearMerge(weights=(0.5, 0.5)), sources=digests, template=digests[0], dtype="bfloat16")


def test_pickles_beside_safetensors_are_neither_loaded_nor_served(
    make_checkpoint: Make, pool_of: Any, tmp_path: Path
) -> None:
    for seed, name in enumerate("ab"):
        folder = make_checkpoint(name, seed)
        for file in ("pytorch_model.bin", "training_args.bin", "optimizer.pt", "adapter_model.bin", "tokenizer.pkl"):
            (folder / file).write_bytes(pickle.dumps(Bomb(tmp_path / "mark")))
    pool = pool_of(tmp_path, ["a", "b"])
    files = PoolFiles(pool)
    LiveModel(files, "bfloat16").write(recipe_of(pool))
    merged = MergedModel(files, recipe_of(pool))
    merged.write_directory(tmp_path / "merged")
    assert not [name for name in merged.files if name.endswith((".bin", ".pt", ".pkl", ".py"))]
    assert not (tmp_path / "mark").exists()
    pickle.loads((tmp_path / "a" / "optimizer.pt").read_bytes())
    assert (tmp_path / "mark").exists()


@pytest.mark.parametrize(
    "settings",
    [
        {"attn_implementation": "someone/kernel"},
        {"_attn_implementation": "kernels-community/flash-attn@main:evil"},
        {"_attn_implementation": {"": "sdpa", "text_config": "someone/kernel"}},
        {"text_config": {"_attn_implementation": "someone/kernel"}},
        {"experts_implementation": "someone/kernel"},
        {"transformers_weights": "other.safetensors"},
        {"transformers_weights": "../../other/model.safetensors"},
    ],
)
def test_settings_that_name_code_or_other_weights(make_checkpoint: Make, tmp_path: Path, settings: Any) -> None:
    change_json(make_checkpoint("a") / "config.json", **settings)
    assert "names code or weights from elsewhere" in refusal("a", tmp_path)


def test_settings_that_name_what_transformers_has_are_fine(make_checkpoint: Make) -> None:
    path = make_checkpoint("a")
    nested: dict[str, Any] = {}
    for _ in range(500):
        nested = {"deeper": nested}
    change_json(path / "config.json", _attn_implementation="sdpa", text_config=nested, auto_map={"AutoConfig": "x.Y"})
    assert CheckpointFiles(path).tensors


def test_tokenizer_settings_lead_to_no_other_file(make_checkpoint: Make, pool_of: Any, tmp_path: Path) -> None:
    outside = tmp_path / "outside.json"
    outside.write_text("{}")
    for seed, name in enumerate("ab"):
        config = make_checkpoint(name, seed) / "tokenizer_config.json"
        change_json(
            config,
            tokenizer_file=str(outside),
            vocab_file=str(outside),
            merges_file="../outside.json",
            special_tokens_map_file=str(outside),
            auto_map={"AutoTokenizer": ["evil.Tokenizer", "someone/repository--evil.Tokenizer"]},
        )
    model = LiveModel(PoolFiles(pool_of(tmp_path, ["a", "b"])), "bfloat16")
    assert len(model.tokenizer.get_vocab()) > 200


@pytest.mark.parametrize("name", ["config.json", "tokenizer.json", "notes.txt", "model.safetensors"])
def test_pipes_are_not_waited_for(make_checkpoint: Make, tmp_path: Path, name: str) -> None:
    path = make_checkpoint("a")
    (path / name).unlink(missing_ok=True)
    os.mkfifo(path / name)
    assert f"{name} is neither a file nor a folder" in refusal(path, tmp_path)
    with pytest.raises(InvalidCheckpoint, match="there is no such file"):
        locate_file(str(path / name), "pool.checkpoints.0.statistics", [tmp_path])


def test_chat_templates_in_a_folder_of_their_own_stay_inside(make_checkpoint: Make, tmp_path: Path) -> None:
    path = make_checkpoint("root/a")
    (tmp_path / "secret").write_text("secret")
    (path / "additional_chat_templates").mkdir()
    (path / "additional_chat_templates" / "tool.jinja").symlink_to(tmp_path / "secret")
    assert "tool.jinja is a link that leads outside" in refusal("a", tmp_path / "root")


@pytest.mark.parametrize("name", ["tokenizer.json", "chat_template.jinja", "generation_config.json"])
@pytest.mark.parametrize("kind", ["folder", "nowhere", "loop"])
def test_what_only_has_the_name_of_a_file(make_checkpoint: Make, tmp_path: Path, name: str, kind: str) -> None:
    path = make_checkpoint("a")
    (path / name).unlink(missing_ok=True)
    if kind == "folder":
        (path / name).mkdir()
    else:
        (path / name).symlink_to(path / name if kind == "loop" else path / "missing")
    found = refusal(path, tmp_path)
    assert name in found


def test_documents_that_are_too_long(make_checkpoint: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = make_checkpoint("a")
    longest = max(file.stat().st_size for file in path.iterdir() if file.suffix == ".json")
    monkeypatch.setattr(checkpoint_module, "MAX_DOCUMENT_BYTES", longest)
    assert CheckpointFiles(path).tensors
    monkeypatch.setattr(checkpoint_module, "MAX_DOCUMENT_BYTES", longest - 1)
    assert "tokenizer.json has too many bytes" in refusal(path, tmp_path)
    monkeypatch.setattr(checkpoint_module, "MAX_DOCUMENT_BYTES", 20)
    assert "config.json cannot be read as JSON (longer than 20 bytes)" in refusal(path, tmp_path)


@pytest.mark.parametrize("shard", ["x" * 5000, "a\0b", "..", ".", "", "/etc/passwd", "a/b", "..\\b", "A" * 250])
def test_an_index_with_strange_names(make_checkpoint: Make, tmp_path: Path, shard: str) -> None:
    path = make_checkpoint("a", shard_size="60KB")
    change_json(path / "model.safetensors.index.json", weight_map={"model.norm.weight": f"{shard}.safetensors"})
    assert re.search("a file that is not allowed|a shard that the index names is missing", refusal(path, tmp_path))


@pytest.mark.parametrize(
    "path", ["", ".", "~", "$HOME", "file:///etc", "A", "a/", "a/./", "../ROOT/a", "a/../../root/a", "\u2025/a", " a"]
)
def test_other_ways_to_write_a_path(make_checkpoint: Make, tmp_path: Path, path: str) -> None:
    make_checkpoint("root/a")
    root = tmp_path / "root"
    try:
        found = locate(CheckpointSpec(name="x", path=path), "pool.checkpoints.0", [root], [], None)
    except InvalidCheckpoint:
        return
    assert found.is_relative_to(root)


@pytest.mark.parametrize(
    "revision",
    ["../../../x", "a/../b", "/etc", "a//b", "a\0b", "", " main", "-x", "a..b", "x" * 5000, "a\n", "./a", "a/."],
)
def test_a_revision_that_is_a_path_is_never_asked_for(tmp_path: Path, revision: str) -> None:
    spec = CheckpointSpec(name="x", hub="owner/model", revision=revision)
    with pytest.raises(InvalidCheckpoint, match="not the name of a revision"):
        locate(spec, "pool.checkpoints.0", [], ["owner/model"], tmp_path / "cache")
    assert not (tmp_path / "cache").exists()
