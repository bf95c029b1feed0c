"""Vocabularies in a pool: sizes that differ, tokens that were added, and output embeddings that are tied."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from campaigns.errors import FieldError, InvalidCheckpoint, MisfitPool
from campaigns.methods import LinearMerge
from campaigns.pools import Pool
from campaigns.recipe import Recipe
from merging.image import MergedModel
from merging.live import LiveModel
from merging.pool_files import PoolFiles

Make = Callable[..., Path]
EMBEDDINGS = ("model.embed_tokens.weight", "lm_head.weight")
WEIGHTS = (0.25, 0.5)


@pytest.fixture
def misfits(pool_of: Any) -> Callable[..., tuple[FieldError, ...]]:
    """Inspect a pool that must not fit; return what is wrong."""

    def inspect(root: Path, names: list[str], **options: Any) -> tuple[FieldError, ...]:
        with pytest.raises(MisfitPool) as caught:
            pool_of(root, names, **options)
        return caught.value.errors

    return inspect


def add_tokens(path: Path, *tokens: str, first: int = 300) -> Path:
    """Add tokens behind the tokenizer's own, as `add_tokens` of transformers does."""
    file = path / "tokenizer.json"
    document = json.loads(file.read_text())
    new = [{**document["added_tokens"][0], "id": first + i, "content": token} for i, token in enumerate(tokens)]
    file.write_text(json.dumps({**document, "added_tokens": [*document["added_tokens"], *new]}))
    return path


def change_weights(path: Path, edit: Callable[[dict[str, torch.Tensor]], None]) -> Path:
    file = path / "model.safetensors"
    weights = load_file(file)
    edit(weights)
    save_file(weights, file, metadata={"format": "pt"})
    return path


def recipe_of(pool: Pool, dtype: Any = "bfloat16") -> Recipe:
    sources = tuple(c.digest for c in pool.checkpoints)
    method = LinearMerge(weights=WEIGHTS)
    return Recipe(method=method, sources=sources, template=pool.template.digest, dtype=dtype)


def merge(pool: Pool, folder: Path, dtype: Any = "bfloat16") -> dict[str, torch.Tensor]:
    """Merge with `WEIGHTS`; the live model and the written files must be the same."""
    files = PoolFiles(pool)
    MergedModel(files, recipe_of(pool, dtype)).write_directory(folder)
    written = load_file(folder / "model.safetensors")
    live = LiveModel(files, dtype)
    live.write(recipe_of(pool, dtype))
    state = live.model.state_dict()
    assert all(torch.equal(state[name], tensor) for name, tensor in written.items())
    return written


def weighted(tensors: list[torch.Tensor]) -> torch.Tensor:
    return tensors[0].float() * WEIGHTS[0] + tensors[1].float() * WEIGHTS[1]


@pytest.mark.parametrize("first", ["large", "small"])
def test_sizes_that_differ_are_refused_by_default(
    make_checkpoint: Make, tmp_path: Path, misfits: Any, first: str
) -> None:
    make_checkpoint("small")
    make_checkpoint("large", vocab_size=384)
    (error,) = misfits(tmp_path, [first, *({"large", "small"} - {first})])
    assert error.message == "vocabulary size differs"
    assert "[384, 32]" in f"{error.value}{error.allowed}" and "[320, 32]" in f"{error.value}{error.allowed}"


@pytest.mark.parametrize("dtype", ["bfloat16", "float16", "float32"])
def test_base_takes_the_tensors_of_the_template(
    make_checkpoint: Make, tmp_path: Path, pool_of: Any, dtype: Any
) -> None:
    make_checkpoint("base", seed=1)
    make_checkpoint("small", seed=2)
    add_tokens(make_checkpoint("large", seed=3, vocab_size=384), "<tool>", "</tool>")
    pool = pool_of(tmp_path, ["small", "large"], base="base", embeddings="base")
    assert pool.embeddings == "base"
    files = PoolFiles(pool)
    assert files.fixed_tensors == set(EMBEDDINGS)
    assert [name for name in files.template.tensors if not files.is_merged(name)] == sorted(EMBEDDINGS)
    written = merge(pool, tmp_path / "merged", dtype)
    base, small, large = (load_file(tmp_path / name / "model.safetensors") for name in ("base", "small", "large"))
    kind = getattr(torch, dtype)
    for name in base:
        expected = base[name] if name in EMBEDDINGS else weighted([small[name], large[name]])
        assert torch.equal(written[name], expected.to(kind)), name


def test_truncate_merges_the_rows_of_the_template(make_checkpoint: Make, tmp_path: Path, pool_of: Any) -> None:
    make_checkpoint("small", seed=1)
    add_tokens(make_checkpoint("large", seed=2, vocab_size=384), "<tool>")
    pool = pool_of(tmp_path, ["small", "large"], embeddings="truncate")
    files = PoolFiles(pool)
    assert not files.fixed_tensors
    view = files.checkpoints[pool.checkpoints[1].digest]
    small, large = (load_file(tmp_path / name / "model.safetensors") for name in ("small", "large"))
    for name in EMBEDDINGS:
        assert torch.equal(view.tensor(name), large[name][:320])
    written = merge(pool, tmp_path / "merged")
    assert written.keys() == small.keys()
    for name in small:
        rows = large[name][:320] if name in EMBEDDINGS else large[name]
        assert torch.equal(written[name], weighted([small[name], rows]).bfloat16()), name


def test_truncate_needs_enough_rows(make_checkpoint: Make, tmp_path: Path, misfits: Any) -> None:
    make_checkpoint("small")
    make_checkpoint("large", vocab_size=384)
    (error,) = misfits(tmp_path, ["large", "small"], embeddings="truncate")
    assert (error.field, error.message) == ("pool.checkpoints.1.path", "vocabulary size differs")


@pytest.mark.parametrize("embeddings", ["base", "truncate"])
def test_only_the_number_of_tokens_may_differ(
    make_checkpoint: Make, tmp_path: Path, misfits: Any, embeddings: str
) -> None:
    make_checkpoint("a")
    make_checkpoint("b", vocab_size=384, hidden_size=64)
    messages = {error.message for error in misfits(tmp_path, ["a", "b"], embeddings=embeddings)}
    assert messages == {"shape differs"}

    def lengthen(weights: dict[str, torch.Tensor]) -> None:
        weights["model.norm.weight"] = torch.zeros(40, dtype=torch.bfloat16)

    make_checkpoint("c")
    change_weights(tmp_path / "c", lengthen)
    (error,) = misfits(tmp_path, ["a", "c"], embeddings=embeddings)
    assert error.message == "shape differs"


@pytest.mark.parametrize("embeddings", ["base", "truncate"])
def test_digests_tell_what_the_pool_makes_of_a_vocabulary(
    make_checkpoint: Make, tmp_path: Path, pool_of: Any, embeddings: str
) -> None:
    """A recipe names its sources by digest: one digest must not stand for rows that are merged here and not there."""
    make_checkpoint("small", seed=1)
    make_checkpoint("same", seed=2)
    make_checkpoint("large", seed=3, vocab_size=384)
    make_checkpoint("larger", seed=4, vocab_size=512)
    plain = pool_of(tmp_path, ["small", "same"])
    assert pool_of(tmp_path, ["small", "same"], embeddings=embeddings).checkpoints == plain.checkpoints
    pools = [
        pool_of(tmp_path, ["small", "large"], embeddings="base"),
        pool_of(tmp_path, ["small", "large"], embeddings="truncate"),
        pool_of(tmp_path, ["large", "larger"], embeddings="truncate"),
    ]
    assert {pool.checkpoints[0].digest for pool in pools[:2]} == {plain.checkpoints[0].digest}
    large = {pools[0].checkpoints[1].digest, pools[1].checkpoints[1].digest, pools[2].checkpoints[0].digest}
    assert len(large) == 3
    for pool in pools:
        PoolFiles(pool)


@pytest.mark.parametrize("embeddings", ["base", "truncate"])
@pytest.mark.parametrize("names", [["plain", "added"], ["added", "plain"], ["more", "added"]])
def test_tokens_may_be_added_behind(
    make_checkpoint: Make, tmp_path: Path, pool_of: Any, misfits: Any, embeddings: str, names: list[str]
) -> None:
    make_checkpoint("plain")
    add_tokens(make_checkpoint("added"), "<a>", "<b>")
    add_tokens(make_checkpoint("more"), "<a>", "<b>", "<c>")
    assert pool_of(tmp_path, names, embeddings=embeddings).names == tuple(names)
    (error,) = misfits(tmp_path, names)
    assert error.message == "tokenizer differs"


@pytest.mark.parametrize("embeddings", ["base", "truncate"])
def test_tokens_with_other_ids_are_refused(
    make_checkpoint: Make, tmp_path: Path, misfits: Any, fast_tokenizer: Any, embeddings: str
) -> None:
    add_tokens(make_checkpoint("template"), "<a>", "<b>")
    add_tokens(make_checkpoint("swapped"), "<b>", "<a>")
    add_tokens(make_checkpoint("other"), "<z>")
    add_tokens(make_checkpoint("between"), "<z>", "<a>", "<b>")
    add_tokens(make_checkpoint("inside"), "<a>", "<b>")
    add_tokens(tmp_path / "inside", "<inside>", first=17)
    make_checkpoint("words", tokenizer=fast_tokenizer("zyxwvut zyxwvut zyxwvut"))
    names = ["template", "swapped", "other", "between", "inside", "words"]
    errors = misfits(tmp_path, names, embeddings=embeddings)
    assert [(error.field, error.message) for error in errors] == [
        (f"pool.checkpoints.{index}.path", "tokenizer differs") for index in range(1, 6)
    ]


@pytest.fixture
def tied(make_checkpoint: Make, tmp_path: Path) -> Path:
    """A folder with tied models, whose files leave the output embedding out."""
    for seed, name in enumerate(("a", "b")):
        path = make_checkpoint(name, seed, tie_word_embeddings=True)
        assert "lm_head.weight" not in load_file(path / "model.safetensors")
    return tmp_path


def store_output(path: Path, factor: float = 1) -> None:
    change_weights(path, lambda weights: weights.update({EMBEDDINGS[1]: weights[EMBEDDINGS[0]] * factor}))


def test_a_copy_of_the_input_embedding_is_left_out(tied: Path, pool_of: Any) -> None:
    expected = merge(pool_of(tied, ["a", "b"]), tied / "expected")
    store_output(tied / "b")
    pool = pool_of(tied, ["a", "b"])
    assert EMBEDDINGS[1] not in PoolFiles(pool).checkpoints[pool.checkpoints[1].digest].tensors
    written = merge(pool, tied / "merged")
    assert written.keys() == expected.keys()
    assert all(torch.equal(written[name], expected[name]) for name in expected)


def test_another_output_embedding_is_refused(tied: Path, misfits: Any) -> None:
    store_output(tied / "b", factor=2)
    (error,) = misfits(tied, ["a", "b"])
    assert (error.field, error.message) == ("pool.checkpoints.1.path", "the output embedding is not tied")
    assert "lm_head.weight" in error.value


def test_a_tied_output_embedding_that_is_not_stored(tied: Path, make_checkpoint: Make, pool_of: Any) -> None:
    """Where the template stores its own, the tied one is the input embedding."""
    make_checkpoint("untied", seed=5)
    written = merge(pool_of(tied, ["untied", "b"]), tied / "merged")
    untied, other = (load_file(tied / name / "model.safetensors") for name in ("untied", "b"))
    assert torch.equal(written[EMBEDDINGS[1]], weighted([untied[EMBEDDINGS[1]], other[EMBEDDINGS[0]]]).bfloat16())


def test_an_output_embedding_that_is_missing(tied: Path, make_checkpoint: Make, misfits: Any) -> None:
    make_checkpoint("untied", seed=5)
    config = tied / "b" / "config.json"
    config.write_text(json.dumps({**json.loads(config.read_text()), "tie_word_embeddings": False}))
    (error,) = misfits(tied, ["untied", "b"])
    assert error.message == "tensors are missing"
    assert "lm_head.weight" in error.value


@pytest.mark.parametrize("embeddings", ["base", "truncate"])
def test_a_tied_output_embedding_of_another_size(
    tied: Path, make_checkpoint: Make, pool_of: Any, embeddings: str
) -> None:
    """Both at once: neither file has the output embedding that the template has, of its size."""
    make_checkpoint("untied", seed=5)
    make_checkpoint("large", seed=6, vocab_size=384, tie_word_embeddings=True)
    pool = pool_of(tied, ["untied", "large"], embeddings=embeddings)
    assert PoolFiles(pool).fixed_tensors == (set(EMBEDDINGS) if embeddings == "base" else set())
    written = merge(pool, tied / "merged")
    untied, large = (load_file(tied / name / "model.safetensors") for name in ("untied", "large"))
    for name in EMBEDDINGS:
        merged = weighted([untied[name], large[EMBEDDINGS[0]][:320]]).bfloat16()
        assert torch.equal(written[name], untied[name] if embeddings == "base" else merged)


def test_members_that_change_are_noticed(make_checkpoint: Make, tmp_path: Path, pool_of: Any) -> None:
    make_checkpoint("small", seed=1)
    make_checkpoint("large", seed=2, vocab_size=384)
    pool = pool_of(tmp_path, ["small", "large"], embeddings="truncate")
    files = PoolFiles(pool)
    shutil.rmtree(tmp_path / "large")
    make_checkpoint("large", seed=2, vocab_size=320)
    for attempt in (files.verify, lambda: PoolFiles(pool)):
        with pytest.raises(InvalidCheckpoint, match="'large' changed on disk"):
            attempt()
