"""Merged models as files: layout, ranges, directories, and equality of every way out."""

import hashlib
import itertools
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, AutoTokenizer

from campaigns.errors import InvalidCheckpoint, InvalidInput, NotFound
from campaigns.methods import DellaMerge, LinearMerge, TaskArithmeticMerge, TiesMerge
from campaigns.pools import Pool
from campaigns.recipe import Recipe
from merging import image, shard_writer
from merging.dtypes import RECIPE_DTYPES
from merging.image import MergedModel
from merging.live import LiveModel
from merging.pool_files import PoolFiles


def linear(pool: Pool, *weights: float, dtype: Any = "bfloat16") -> Recipe:
    sources = tuple(c.digest for c in pool.checkpoints)
    template = pool.template.digest
    return Recipe(method=LinearMerge(weights=weights), sources=sources, template=template, dtype=dtype)


def arithmetic(pool: Pool, *weights: float, dtype: Any = "bfloat16") -> Recipe:
    assert pool.base is not None
    method = TaskArithmeticMerge(weights=weights, scale=0.8)
    sources, base = tuple(c.digest for c in pool.checkpoints), pool.base.digest
    return Recipe(method=method, sources=sources, base=base, template=base, dtype=dtype)


def content(model: MergedModel, name: str, start: int = 0, stop: int | None = None) -> bytes:
    return b"".join(model.read(name, start, stop))


def expected_tensors(pool: Pool, recipe: Recipe) -> dict[str, torch.Tensor]:
    """Merge by the textbook, tensor by tensor, from what safetensors reads."""
    sources = [load_folder(Path(c.path)) for c in pool.checkpoints]
    base = load_folder(Path(pool.base.path)) if pool.base else {}
    merged = {}
    for name in sources[0]:
        origin = base[name].float() if recipe.method.kind == "task_arithmetic" else 0
        total = torch.zeros(())
        for index, source in enumerate(sources):
            term = (source[name].float() - origin) * torch.tensor(recipe.method.weights[index])
            total = term if index == 0 else total + term
        if recipe.method.kind == "task_arithmetic":
            total = origin + total * torch.tensor(0.8)
        merged[name] = total.to(RECIPE_DTYPES[recipe.dtype])
    return merged


def load_folder(path: Path) -> dict[str, torch.Tensor]:
    return {name: tensor for file in sorted(path.glob("*.safetensors")) for name, tensor in load_file(file).items()}


def equal(some: dict[str, torch.Tensor], others: dict[str, torch.Tensor]) -> bool:
    return set(some) == set(others) and all(
        tensor.dtype == others[name].dtype and torch.equal(tensor, others[name]) for name, tensor in some.items()
    )


@pytest.mark.parametrize("dtype", [*RECIPE_DTYPES])
@pytest.mark.parametrize("make", [linear, arithmetic])
@pytest.mark.parametrize("max_shard_bytes", [5_000_000_000, 50_000])
def test_disk_stream_and_live_are_the_same(
    pool: Pool, tmp_path: Path, dtype: Any, make: Any, max_shard_bytes: int
) -> None:
    recipe = make(pool, 0.3, 0.5, 0.15, dtype=dtype)
    files = PoolFiles(pool)
    model = MergedModel(files, recipe, max_shard_bytes=max_shard_bytes)
    model.write_directory(tmp_path / "merged")
    assert {f.name: f.stat().st_size for f in (tmp_path / "merged").iterdir()} == {
        name: file.size_bytes for name, file in model.files.items()
    }
    for name in model.files:
        assert (tmp_path / "merged" / name).read_bytes() == content(model, name)
    written = load_folder(tmp_path / "merged")
    assert equal(written, expected_tensors(pool, recipe))
    live = LiveModel(files, dtype)
    live.write(recipe)
    assert equal(dict(live.model.state_dict()), written)


def test_written_directory_loads_as_the_live_model(pool: Pool, tmp_path: Path) -> None:
    recipe = arithmetic(pool, 0.2, 0.3, 0.4)
    files = PoolFiles(pool)
    MergedModel(files, recipe).write_directory(tmp_path / "merged")
    loaded = AutoModelForCausalLM.from_pretrained(tmp_path / "merged").eval()
    live = LiveModel(files, "bfloat16")
    live.write(recipe)
    assert loaded.dtype == torch.bfloat16
    ids = live.tokenizer("the quick brown fox", return_tensors="pt").input_ids
    assert AutoTokenizer.from_pretrained(tmp_path / "merged")("the quick brown fox").input_ids == ids[0].tolist()
    with torch.no_grad():
        assert torch.equal(loaded(ids).logits, live.model(ids).logits)


def test_one_hot_reproduces_the_parent(pool: Pool) -> None:
    for index, checkpoint in enumerate(pool.checkpoints):
        model = MergedModel(PoolFiles(pool), linear(pool, *[float(index == i) for i in range(3)]))
        merged = save_and_load(content(model, "model.safetensors"))
        assert equal(merged, load_folder(Path(checkpoint.path)))


def save_and_load(data: bytes) -> dict[str, torch.Tensor]:
    from safetensors.torch import load

    return load(data)


@pytest.fixture(scope="module")
def streamed(pool: Pool) -> MergedModel:
    """One merge in several small shards."""
    return MergedModel(PoolFiles(pool), linear(pool, 0.6, 0.3, 0.1), {"README.md": b"# card\n"}, max_shard_bytes=40_000)


@given(data=st.data())
@settings(max_examples=80, deadline=None)
def test_any_cut_of_a_file_adds_up_to_it(streamed: MergedModel, data: st.DataObject) -> None:
    name = data.draw(st.sampled_from([*streamed.files]))
    size = streamed.files[name].size_bytes
    cuts = sorted({0, size, *data.draw(st.lists(st.integers(0, size), max_size=6))})
    whole = content(streamed, name)
    assert b"".join(content(streamed, name, a, b) for a, b in itertools.pairwise(cuts)) == whole
    assert len(whole) == size


def test_small_blocks_give_the_same_bytes(streamed: MergedModel, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = content(streamed, "model-00001-of-00003.safetensors")
    monkeypatch.setattr(image, "STREAM_ELEMENTS", 7)
    blocks = [*streamed.read("model-00001-of-00003.safetensors", 3)]
    assert b"".join(blocks) == whole[3:]
    assert max(map(len, blocks[1:])) <= 14


@pytest.mark.parametrize(("start", "stop"), [(-1, 5), (5, 4), (0, 10**9), (10**9, None)])
def test_ranges_outside_the_file(streamed: MergedModel, start: int, stop: int | None) -> None:
    with pytest.raises(ValueError, match="no range of it"):
        streamed.read("config.json", start, stop)


@pytest.mark.parametrize("name", ["model.bin", "../config.json", ""])
def test_unknown_file(streamed: MergedModel, name: str) -> None:
    with pytest.raises(NotFound, match="no file"):
        streamed.read(name)


def test_files_and_documents(streamed: MergedModel, zoo: Path) -> None:
    shards = [f"model-{i:05}-of-00003.safetensors" for i in (1, 2, 3)]
    documents = ["README.md", "config.json", "generation_config.json", "model.safetensors.index.json"]
    assert [*streamed.files] == sorted([*documents, *shards, "tokenizer.json", "tokenizer_config.json"])
    assert content(streamed, "README.md") == b"# card\n"
    assert content(streamed, "tokenizer.json") == (zoo / "base" / "tokenizer.json").read_bytes()
    index = json.loads(content(streamed, "model.safetensors.index.json"))
    assert set(index["weight_map"].values()) == set(shards)
    assert index["metadata"]["total_size"] == 2 * 48_352


def test_headers_keep_the_order_of_the_template(streamed: MergedModel, pool: Pool) -> None:
    names = []
    for name in sorted(n for n in streamed.files if n.startswith("model-")):
        raw = content(streamed, name)
        length = int.from_bytes(raw[:8], "little")
        assert length % 8 == 0
        header = json.loads(raw[8 : 8 + length])
        assert header.pop("__metadata__") == {"format": "pt"}
        assert max(entry["data_offsets"][1] for entry in header.values()) == len(raw) - 8 - length
        names += [*header]
    assert names == [*PoolFiles(pool).template.tensors]


def test_a_single_shard_is_as_safetensors_would_write_it(pool: Pool, zoo: Path) -> None:
    """Same tensors, types and order as the template: then the bytes behind the header start at the same place, too."""
    model = MergedModel(PoolFiles(pool), arithmetic(pool, 0.0, 0.0, 0.0))
    assert save_and_load(content(model, "model.safetensors")).keys() == load_folder(zoo / "base").keys()
    assert equal(save_and_load(content(model, "model.safetensors")), load_folder(zoo / "base"))


def test_etags_name_the_bytes(pool: Pool) -> None:
    def etags(recipe: Recipe) -> dict[str, str]:
        return {name: file.etag for name, file in MergedModel(PoolFiles(pool), recipe).files.items()}

    one, same, other = (etags(linear(pool, *w)) for w in ((0.5, 0.5, 0.0), (0.5, 0.5, 0.0), (0.5, 0.4, 0.1)))
    assert one == same
    assert one["model.safetensors"] != other["model.safetensors"]
    assert one["tokenizer.json"] == other["tokenizer.json"]
    model = MergedModel(PoolFiles(pool), linear(pool, 0.5, 0.5, 0.0))
    for name in ("config.json", "tokenizer.json"):
        assert model.files[name].etag == hashlib.sha256(content(model, name)).hexdigest()


def test_another_template_gives_other_etags(zoo: Path, pool_of: Any) -> None:
    plain, based = pool_of(zoo, ["a", "c"]), pool_of(zoo, ["a", "c"], base="b")  # b has its tensors in another order
    models = [MergedModel(PoolFiles(pool), linear(pool, 0.5, 0.5)) for pool in (plain, based)]
    assert len({content(model, "model.safetensors") for model in models}) == 2
    assert len({model.files["model.safetensors"].etag for model in models}) == 2
    with pytest.raises(InvalidInput, match="not the template of this pool"):
        MergedModel(PoolFiles(based), linear(plain, 0.5, 0.5))


@pytest.mark.parametrize("key", ["dtype", "torch_dtype", None])
def test_config_says_the_type_of_the_merge(make_checkpoint: Any, tmp_path: Path, key: str | None, pool_of: Any) -> None:
    for seed, name in enumerate("ab"):
        file = make_checkpoint(name, seed) / "config.json"
        config = json.loads(file.read_text())
        found = config.pop("dtype")
        file.write_text(json.dumps(config if key is None else {**config, key: found}))
    pool = pool_of(tmp_path, ["a", "b"])
    config = json.loads(content(MergedModel(PoolFiles(pool), linear(pool, 1, 0, dtype="float32")), "config.json"))
    assert config[key or "dtype"] == "float32"
    assert ("torch_dtype" in config) == (key == "torch_dtype")


def test_progress_counts_all_bytes(streamed: MergedModel, tmp_path: Path) -> None:
    calls: list[tuple[int, int]] = []
    streamed.write_directory(tmp_path / "merged", lambda *call: calls.append(call))
    total = sum(file.size_bytes for file in streamed.files.values())
    assert calls[-1] == (total, total)
    assert calls == sorted(calls)


def test_existing_directory(streamed: MergedModel, tmp_path: Path) -> None:
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "keep.txt").write_text("mine")
    (tmp_path / "file").write_text("mine")
    for target in ("full", "file"):
        with pytest.raises(InvalidInput, match="something here already"):
            streamed.write_directory(tmp_path / target)
    assert sorted(f.name for f in tmp_path.iterdir()) == ["file", "full"]
    (tmp_path / "empty").mkdir()
    streamed.write_directory(tmp_path / "empty")
    assert (tmp_path / "empty" / "config.json").is_file()


def test_a_failure_leaves_nothing_behind(streamed: MergedModel, tmp_path: Path) -> None:
    def fail(done: int, total: int) -> None:
        if done > total // 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        streamed.write_directory(tmp_path / "deep" / "merged", fail)
    assert [*(tmp_path / "deep").iterdir()] == []


def test_whole_number_buffers_come_from_the_template(make_checkpoint: Any, tmp_path: Path, pool_of: Any) -> None:
    for seed, name in enumerate("ab"):
        file = make_checkpoint(name, seed) / "model.safetensors"
        extra = {"model.position_ids": torch.arange(5) + seed, "model.flag": torch.tensor([seed == 0])}
        save_file({**load_file(file), **extra}, file, metadata={"format": "pt"})
    pool = pool_of(tmp_path, ["a", "b"])
    model = MergedModel(PoolFiles(pool), linear(pool, 0.5, 0.5))
    merged = save_and_load(content(model, "model.safetensors"))
    assert merged["model.position_ids"].tolist() == [0, 1, 2, 3, 4]
    assert merged["model.flag"].tolist() == [True]
    half = (load_folder(tmp_path / "a")["lm_head.weight"].float() + load_folder(tmp_path / "b")["lm_head.weight"]) / 2
    assert torch.equal(merged["lm_head.weight"], half.bfloat16())


def test_sources_that_change_are_noticed_before_reading(make_checkpoint: Any, tmp_path: Path, pool_of: Any) -> None:
    for seed, name in enumerate("ab"):
        make_checkpoint(name, seed)
    pool = pool_of(tmp_path, ["a", "b"])
    model = MergedModel(PoolFiles(pool), linear(pool, 0.5, 0.5))
    make_checkpoint("b", 7)
    with pytest.raises(InvalidCheckpoint, match="'b' changed on disk"):
        model.read("model.safetensors")


def test_numbers_beyond_float16_are_refused(pool: Pool, tmp_path: Path) -> None:
    sources = tuple(checkpoint.digest for checkpoint in pool.checkpoints)
    method = LinearMerge(weights=(1e6, 1.0, 1.0))
    recipe = Recipe(method=method, sources=sources, template=pool.template.digest, dtype="float16")
    with pytest.raises(InvalidInput, match=r"recipe\.dtype: .*too large for float16"):
        MergedModel(PoolFiles(pool), recipe).write_directory(tmp_path / "merged")
    assert not [*tmp_path.iterdir()]


@pytest.mark.parametrize("whole_bytes", [1 << 10, 1 << 14, 1 << 30])
@pytest.mark.parametrize("window_elements", [100, 1 << 19])
@pytest.mark.parametrize(
    "method",
    [
        LinearMerge(weights=(0.4, 0.0, 0.7)),
        TiesMerge(weights=(0.4, 0.3, 0.7), densities=(0.2, 0.5, 0.9)),
        DellaMerge(weights=(0.4, 0.3, 0.7), densities=(0.2, 0.5, 0.9)),
    ],
    ids=lambda method: method.kind,
)
def test_any_windows_and_threads_write_the_same_bytes(
    pool: Pool, method: Any, window_elements: int, whole_bytes: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert pool.base is not None
    sources = tuple(c.digest for c in pool.checkpoints)
    template = pool.template.digest
    recipe = Recipe(method=method, sources=sources, base=pool.base.digest, template=template, dtype="bfloat16")
    model = MergedModel(PoolFiles(pool), recipe, max_shard_bytes=100_000)
    monkeypatch.setattr(shard_writer, "WINDOW_ELEMENTS", window_elements)
    monkeypatch.setattr(shard_writer, "WHOLE_BYTES", whole_bytes)
    monkeypatch.setattr(shard_writer, "merging_threads", lambda kernel: 3)
    model.write_directory(tmp_path / "merged")
    for name in model.files:
        assert (tmp_path / "merged" / name).read_bytes() == content(model, name)


def test_sources_that_change_while_they_are_read_leave_nothing(
    make_checkpoint: Any, tmp_path: Path, pool_of: Any
) -> None:
    for seed, name in enumerate("ab"):
        make_checkpoint(name, seed=seed)
    pool = pool_of(tmp_path, ["a", "b"])
    model = MergedModel(PoolFiles(pool), linear(pool, 0.5, 0.5))
    weights = tmp_path / "a" / "model.safetensors"

    def change(done: int, total: int) -> None:
        weights.write_bytes(weights.read_bytes())

    with pytest.raises(InvalidCheckpoint, match="changed on disk"):
        model.write_directory(tmp_path / "merged", change)
    assert {path.name for path in tmp_path.iterdir()} == {"a", "b"}
