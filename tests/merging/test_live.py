"""The live model: right parameters, in place, for any architecture detail, without growing."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
import pytest
import torch
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer, models
from transformers import (
    AutoModelForCausalLM,
    GPT2Config,
    GPT2LMHeadModel,
    MixtralConfig,
    MixtralForCausalLM,
    PreTrainedTokenizerFast,
)

from campaigns.errors import InvalidCheckpoint, InvalidInput
from campaigns.methods import LinearMerge, TaskArithmeticMerge
from campaigns.pools import Pool
from campaigns.recipe import Recipe
from merging.image import MergedModel
from merging.live import ALIGNMENT_BYTES, LiveModel
from merging.pool_files import PoolFiles

Make = Callable[..., Path]


def linear(pool: Pool, *weights: float, dtype: Any = "bfloat16") -> Recipe:
    sources = tuple(c.digest for c in pool.checkpoints)
    template = pool.template.digest
    return Recipe(method=LinearMerge(weights=weights), sources=sources, template=template, dtype=dtype)


def logits(model: Any) -> torch.Tensor:
    with torch.no_grad():
        found: torch.Tensor = model(torch.arange(12)[None]).logits
    return found


def assert_live_is_what_loads(live: LiveModel, recipe: Recipe, folder: Path, dtype: Any = None) -> None:
    """The live model and the written directory, loaded afresh, agree in every parameter and every logit."""
    live.write(recipe)
    MergedModel(live.pool_files, recipe).write_directory(folder)
    loaded = AutoModelForCausalLM.from_pretrained(folder, dtype=dtype or "auto").eval()
    expected, found = loaded.state_dict(), live.model.state_dict()
    assert expected.keys() == found.keys()
    for name, tensor in expected.items():
        assert found[name].dtype == tensor.dtype, name
        assert torch.equal(found[name], tensor), name
    assert torch.equal(logits(live.model), logits(loaded))


def test_ready_to_evaluate(pool: Pool) -> None:
    live = LiveModel(PoolFiles(pool), "bfloat16")
    assert not live.model.training
    assert live.model.dtype == torch.bfloat16
    assert not any(parameter.requires_grad for parameter in live.model.parameters())
    assert live.tokenizer.decode(live.tokenizer("the fox").input_ids).strip() == "the fox"
    assert all(parameter.data_ptr() % ALIGNMENT_BYTES == 0 for parameter in live.model.parameters())


def test_parameters_stay_where_they_are(pool: Pool) -> None:
    live = LiveModel(PoolFiles(pool), "bfloat16")
    before = {name: parameter.data_ptr() for name, parameter in live.model.named_parameters()}
    assert live.write(linear(pool, 0.2, 0.3, 0.5)) > 0
    assert {name: parameter.data_ptr() for name, parameter in live.model.named_parameters()} == before


def test_each_candidate_comes_from_the_sources_alone(pool: Pool) -> None:
    """Whatever was written in between, the same recipe gives the same bits."""
    live = LiveModel(PoolFiles(pool), "bfloat16")
    live.write(linear(pool, 0.2, 0.3, 0.5))
    first = {name: tensor.clone() for name, tensor in live.model.state_dict().items()}
    for number in range(30):
        live.write(linear(pool, 0.1 * number, 1.0, -0.3))
    live.write(linear(pool, 0.2, 0.3, 0.5))
    assert all(torch.equal(tensor, first[name]) for name, tensor in live.model.state_dict().items())


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
@pytest.mark.parametrize("live_dtype", ["float32", "bfloat16"])
def test_live_type_other_than_the_recipe_type(pool: Pool, tmp_path: Path, dtype: Any, live_dtype: Any) -> None:
    live = LiveModel(PoolFiles(pool), live_dtype)
    recipe = linear(pool, 0.21, 0.33, 0.4, dtype=dtype)
    assert_live_is_what_loads(live, recipe, tmp_path / "merged", live_dtype)


@pytest.mark.parametrize("left_out", ["lm_head.weight", "model.embed_tokens.weight"])
def test_tied_embeddings_with_one_of_them_in_the_file(
    make_checkpoint: Make, pool_of: Any, tmp_path: Path, left_out: str
) -> None:
    for seed, name in enumerate("ab"):
        file = make_checkpoint(name, seed, tie_word_embeddings=True) / "model.safetensors"
        weights = load_file(file)
        tied = weights.pop("model.embed_tokens.weight")
        kept = {"lm_head.weight", "model.embed_tokens.weight"} - {left_out}
        save_file({**weights, kept.pop(): tied}, file, metadata={"format": "pt"})
    pool = pool_of(tmp_path, ["a", "b"])
    live = LiveModel(PoolFiles(pool), "bfloat16")
    assert_live_is_what_loads(live, linear(pool, 0.4, 0.6), tmp_path / "merged")
    assert live.model.lm_head.weight.data_ptr() == live.model.model.embed_tokens.weight.data_ptr()


@pytest.mark.parametrize("differing", ["none", "template", "other"])
@pytest.mark.filterwarnings("ignore:.*tied weights mapping.*")
def test_tied_embeddings_with_both_in_the_file(
    make_checkpoint: Make, pool_of: Any, tmp_path: Path, differing: str
) -> None:
    """transformers ties them if they are equal in the file it loads; the live model must forward as that does."""
    for seed, name in enumerate(("template", "other")):
        file = make_checkpoint(name, seed, tie_word_embeddings=True) / "model.safetensors"
        weights = load_file(file)
        head = weights["model.embed_tokens.weight"] * (2 if name == differing else 1)
        save_file({**weights, "lm_head.weight": head.clone()}, file, metadata={"format": "pt"})
    pool = pool_of(tmp_path, ["template", "other"])
    live = LiveModel(PoolFiles(pool), "bfloat16")
    assert_live_is_what_loads(live, linear(pool, 0.4, 0.6), tmp_path / "merged")


def test_files_without_the_base_model_prefix(
    make_checkpoint: Make, fast_tokenizer: Any, pool_of: Any, tmp_path: Path
) -> None:
    """As in the original GPT-2 files: `h.0...`, not `transformer.h.0...`."""
    config = GPT2Config(vocab_size=320, n_embd=32, n_layer=2, n_head=4, n_positions=64)
    for seed, name in enumerate("ab"):
        torch.manual_seed(seed)
        GPT2LMHeadModel(config).save_pretrained(tmp_path / name)
        fast_tokenizer().save_pretrained(tmp_path / name)
        file = tmp_path / name / "model.safetensors"
        weights = {key.removeprefix("transformer."): tensor for key, tensor in load_file(file).items()}
        save_file(weights, file, metadata={"format": "pt"})
    pool = pool_of(tmp_path, ["a", "b"])
    live = LiveModel(PoolFiles(pool), "float32")
    assert_live_is_what_loads(live, linear(pool, 0.4, 0.6, dtype="float32"), tmp_path / "merged")


def test_a_floating_buffer_of_the_file_is_merged(
    make_checkpoint: Make, pool_of: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from transformers import LlamaForCausalLM

    build = LlamaForCausalLM.__init__

    def with_buffer(self: Any, *arguments: Any, **options: Any) -> None:
        build(self, *arguments, **options)
        self.register_buffer("scales", torch.ones(3, dtype=torch.bfloat16))

    monkeypatch.setattr(LlamaForCausalLM, "__init__", with_buffer)
    for seed, name in enumerate("ab"):
        file = make_checkpoint(name, seed) / "model.safetensors"
        scales = torch.tensor([1.0, 2.0, 3.0 + seed], dtype=torch.bfloat16)
        save_file({**load_file(file), "scales": scales}, file, metadata={"format": "pt"})
    pool = pool_of(tmp_path, ["a", "b"])
    live = LiveModel(PoolFiles(pool), "bfloat16")
    live.write(linear(pool, 0.5, 0.5))
    assert dict(live.model.named_buffers())["scales"].tolist() == [1.0, 2.0, 3.5]


def test_files_that_the_architecture_does_not_take(make_checkpoint: Make, pool_of: Any, tmp_path: Path) -> None:
    for seed, name in enumerate("ab"):
        file = make_checkpoint(name, seed) / "model.safetensors"
        weights = load_file(file)
        weights["model.extra.weight"] = weights.pop("model.norm.weight")
        save_file(weights, file, metadata={"format": "pt"})
    with pytest.raises(InvalidCheckpoint) as caught:
        LiveModel(PoolFiles(pool_of(tmp_path, ["a", "b"])), "bfloat16")
    assert "model.norm.weight" in str(caught.value)
    assert "model.extra.weight" in str(caught.value)


def test_code_of_a_checkpoint_is_never_run(make_checkpoint: Make, pool_of: Any, tmp_path: Path) -> None:
    for name in "ab":
        path = make_checkpoint(name)
        config = json.loads((path / "config.json").read_text())
        config["auto_map"] = {"AutoModelForCausalLM": "evil.Model", "AutoConfig": "evil.Config"}
        (path / "config.json").write_text(json.dumps(config))
        (path / "evil.py").write_text(f"open({str(tmp_path / 'was-run')!r}, 'w')\nraise SystemExit")
    live = LiveModel(PoolFiles(pool_of(tmp_path, ["a", "b"])), "bfloat16")
    assert type(live.model).__module__.startswith("transformers.")
    assert not (tmp_path / "was-run").exists()


def test_wrong_recipes_name_everything_and_touch_nothing(pool: Pool) -> None:
    live = LiveModel(PoolFiles(pool), "bfloat16")
    live.write(linear(pool, 1, 0, 0))
    before = live.model.lm_head.weight.clone()
    method, sources = TaskArithmeticMerge(weights=(1.0,)), ("0" * 64, "1" * 64)
    wrong = Recipe(method=method, sources=sources, template="2" * 64, dtype="bfloat16")
    with pytest.raises(InvalidInput) as caught:
        live.write(wrong)
    fields = [error.field for error in caught.value.errors]
    assert fields == ["recipe.sources.0", "recipe.sources.1", "recipe.base", "recipe.template", "recipe.method.weights"]
    assert torch.equal(live.model.lm_head.weight, before)


@pytest.mark.parametrize("change", ["weights", "config", "gone", "extra"])
def test_checkpoints_that_change_on_disk_are_refused(
    make_checkpoint: Make, pool_of: Any, tmp_path: Path, change: str
) -> None:
    for seed, name in enumerate("ab"):
        make_checkpoint(name, seed)
    pool = pool_of(tmp_path, ["a", "b"])
    live = LiveModel(PoolFiles(pool), "bfloat16")
    live.write(linear(pool, 1, 0))
    before = live.model.lm_head.weight.clone()
    if change == "weights":
        make_checkpoint("b", 9)
    elif change == "config":
        (tmp_path / "b" / "config.json").write_text((tmp_path / "b" / "config.json").read_text() + " ")
    elif change == "gone":
        (tmp_path / "b" / "tokenizer.json").unlink()
    else:
        (tmp_path / "b" / "added_tokens.json").write_text("{}")
    for attempt in (lambda: live.write(linear(pool, 0, 1)), lambda: PoolFiles(pool)):
        with pytest.raises(InvalidCheckpoint, match="'b' changed on disk") as caught:
            attempt()
        assert [error.field for error in caught.value.errors] == ["pool.checkpoints.1.path"]
    assert torch.equal(live.model.lm_head.weight, before)


def test_a_thousand_candidates_do_not_grow(pool: Pool) -> None:
    live = LiveModel(PoolFiles(pool), "bfloat16")
    process = psutil.Process()
    for number in range(100):
        live.write(linear(pool, 0.001 * number, 0.5, 0.1))
    before = process.memory_info().rss
    for number in range(1000):
        live.write(linear(pool, 0.001 * number, 0.5, 0.1))
    assert process.memory_info().rss - before < 4 << 20


def test_an_architecture_whose_live_tensors_have_other_names_is_refused(
    tmp_path: Path, pool_of: Callable[..., Pool]
) -> None:
    """transformers fuses the experts of a mixture when it loads them: the files' tensors have no place in it."""
    config = MixtralConfig(
        vocab_size=300,
        hidden_size=32,
        intermediate_size=32,
        num_hidden_layers=1,
        num_attention_heads=2,
        num_key_value_heads=2,
        num_local_experts=2,
        num_experts_per_tok=1,
    )
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=Tokenizer(models.WordLevel({"a": 0}, unk_token="a")))
    for name in ("a", "b"):
        MixtralForCausalLM(config).to(torch.bfloat16).save_pretrained(tmp_path / name)
        tokenizer.save_pretrained(tmp_path / name)
    pool = pool_of(tmp_path, ["a", "b"])
    with pytest.raises(InvalidCheckpoint, match="the live model has no tensors of these names"):
        LiveModel(PoolFiles(pool), "bfloat16")
