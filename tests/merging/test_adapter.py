"""LoRA adapters as members of a pool: what peft itself makes of the base, what is refused, and what a crash leaves."""

import json
import multiprocessing
import os
import resource
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig, get_peft_model
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, GPT2Config, GPT2LMHeadModel

from campaigns.errors import InvalidCheckpoint, MisfitPool
from campaigns.methods import LinearMerge, TaskArithmeticMerge
from campaigns.pools import Pool
from campaigns.recipe import Recipe
from merging import adapter as adapter_module
from merging.adapter import LoraAdapter
from merging.checkpoint import CheckpointFiles
from merging.image import MergedModel
from merging.live import LiveModel
from merging.pool_files import PoolFiles

Make = Callable[..., Path]
ATTENTION = ["q_proj", "v_proj"]

# peft asks transformers for it by its old name.
pytestmark = pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning")


def save_adapter(base: Path, path: Path, seed: int = 0, **settings: Any) -> dict[str, torch.Tensor]:
    """Save a random adapter of `base` as peft does; return the tensors that peft merges it to, in float32."""
    model = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32)
    adapted = get_peft_model(model, LoraConfig(**{"r": 4, "lora_alpha": 8, "target_modules": ATTENTION, **settings}))
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in adapted.parameters():
            if parameter.requires_grad:
                parameter.copy_(torch.randn(parameter.shape, generator=generator) * 0.2)
    adapted.save_pretrained(path)
    merged: dict[str, torch.Tensor] = adapted.merge_and_unload().state_dict()
    return merged


def change(path: Path, **settings: Any) -> Path:
    file = path / "adapter_config.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), **settings}))
    return path


def change_tensors(path: Path, edit: Callable[[dict[str, torch.Tensor]], None]) -> Path:
    weights = load_file(path / "adapter_model.safetensors")
    edit(weights)
    save_file(weights, path / "adapter_model.safetensors")
    return path


def problem(path: Path, base: Path) -> str:
    with pytest.raises(InvalidCheckpoint) as caught:
        LoraAdapter(path, CheckpointFiles(base), "pool.checkpoints.1.path")
    assert all(error.field == "pool.checkpoints.1.path" for error in caught.value.errors)
    return str(caught.value)


@pytest.fixture
def base(make_checkpoint: Make) -> Path:
    return make_checkpoint("base", seed=3)


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"use_rslora": True},
        {"target_modules": r".*\.[01]\.mlp\.(up|down)_proj"},
        {"target_modules": "all-linear"},
        {
            "target_modules": [*ATTENTION, "k_proj"],
            "rank_pattern": {"v_proj": 2, r"layers\.0\.self_attn\.q_proj": 6},
            "alpha_pattern": {r"model\.layers\.1\.self_attn\.k_proj": 5},
        },
        {"modules_to_save": ["lm_head", "norm", "embed_tokens"]},
    ],
    ids=["plain", "rslora", "regex", "all", "patterns", "saved"],
)
def test_an_adapter_is_what_peft_makes_of_the_base(base: Path, tmp_path: Path, settings: dict[str, Any]) -> None:
    expected = save_adapter(base, tmp_path / "adapter", **settings)
    origin = CheckpointFiles(base)
    merged = LoraAdapter(tmp_path / "adapter", origin).merged(tmp_path / "merged.safetensors")
    assert merged.tensors.keys() == origin.tensors.keys() == expected.keys()
    touched = {name for name in expected if not torch.equal(expected[name], origin.tensor(name).float())}
    assert touched
    for name in expected:
        assert torch.allclose(merged.tensor(name).float(), expected[name], atol=2e-6), name
        assert (merged.tensors[name] == origin.tensors[name]) == (name not in touched)


@pytest.mark.parametrize("says", [True, False])
def test_layers_that_keep_weights_transposed(tmp_path: Path, says: bool) -> None:
    """GPT-2's c_proj of attention is square: only the kind of layer tells that it is d_in x d_out."""
    config = GPT2Config(vocab_size=64, n_positions=16, n_embd=16, n_layer=2, n_head=2, bos_token_id=0, eos_token_id=0)
    GPT2LMHeadModel(config).save_pretrained(tmp_path / "base")
    expected = save_adapter(
        tmp_path / "base", tmp_path / "adapter", target_modules=["c_attn", "c_proj", "c_fc"], fan_in_fan_out=True
    )
    change(tmp_path / "adapter", fan_in_fan_out=says)
    merged = LoraAdapter(tmp_path / "adapter", CheckpointFiles(tmp_path / "base")).merged(tmp_path / "merged")
    touched = {name for name, tensor in merged.tensors.items() if tensor.file == tmp_path / "merged"}
    assert len(touched) == 8
    for name in touched:
        assert torch.allclose(
            merged.tensor(name), expected[f"transformer.{name.removeprefix('transformer.')}"], atol=2e-6
        )


def test_bits_are_those_of_the_definition(base: Path, tmp_path: Path) -> None:
    """Added up over the rank in order, on as many threads as there may be, from bfloat16 factors."""
    save_adapter(base, tmp_path / "adapter", r=3, lora_alpha=2)
    path = change_tensors(
        tmp_path / "adapter", lambda weights: weights.update({k: t.bfloat16() for k, t in weights.items()})
    )
    weights = load_file(path / "adapter_model.safetensors")
    origin = CheckpointFiles(base)
    merged = LoraAdapter(path, origin).merged(tmp_path / "one")
    torch.set_num_threads(2)
    LoraAdapter(path, origin).merged(tmp_path / "two")
    assert (tmp_path / "one").read_bytes() == (tmp_path / "two").read_bytes()
    name = "model.layers.1.self_attn.q_proj.weight"
    module = f"base_model.model.{name.removesuffix('.weight')}"
    a, b = weights[f"{module}.lora_A.weight"].float(), weights[f"{module}.lora_B.weight"].float()
    total = torch.zeros(32, 32)
    for k in range(3):
        total = total + b[:, k : k + 1] * a[k : k + 1]
    assert torch.equal(merged.tensor(name), origin.tensor(name).float() + total * (2 / 3))


def test_names_with_the_name_of_the_adapter(base: Path, tmp_path: Path) -> None:
    save_adapter(base, tmp_path / "adapter", modules_to_save=["lm_head"])
    plain = LoraAdapter(tmp_path / "adapter", CheckpointFiles(base)).merged(tmp_path / "plain")
    head = plain.tensor("lm_head.weight").clone()

    def rename(weights: dict[str, torch.Tensor]) -> None:
        for key in [*weights]:
            named = key.replace("lora_A.", "lora_A.default.").replace("lora_B.", "lora_B.default.")
            named = named.replace("lm_head.weight", "lm_head.modules_to_save.default.weight")
            weights[named] = weights.pop(key)

    change_tensors(tmp_path / "adapter", rename)
    named = LoraAdapter(tmp_path / "adapter", CheckpointFiles(base)).merged(tmp_path / "named")
    assert (tmp_path / "plain").read_bytes() == (tmp_path / "named").read_bytes()
    assert torch.equal(named.tensor("lm_head.weight"), head)


def make_pool(tmp_path: Path, make_checkpoint: Make, pool_of: Any) -> Pool:
    make_checkpoint("full", seed=1)
    save_adapter(tmp_path / "base", tmp_path / "adapter", target_modules="all-linear", modules_to_save=["norm"])
    pool: Pool = pool_of(tmp_path, ["adapter", "full"], base="base", cache=tmp_path / "cache")
    return pool


def recipe_of(pool: Pool, method: Any, dtype: Any = "bfloat16") -> Recipe:
    template = pool.template.digest
    sources = tuple(c.digest for c in pool.checkpoints)
    base = template if method.needs_base else None
    return Recipe(method=method, sources=sources, base=base, template=template, dtype=dtype)


@pytest.mark.parametrize("method", [LinearMerge(weights=(0.3, 0.6)), TaskArithmeticMerge(weights=(0.3, 0.6))])
def test_a_pool_of_an_adapter_and_a_whole_model(
    base: Path, make_checkpoint: Make, tmp_path: Path, pool_of: Any, method: Any
) -> None:
    pool = make_pool(tmp_path, make_checkpoint, pool_of)
    assert pool.dtype == "bfloat16"
    adapter = pool.checkpoints[0]
    assert adapter.path == str(tmp_path / "adapter")
    assert adapter.merged_file == str(tmp_path / "cache" / "adapters" / f"{adapter.digest}.safetensors")
    files = PoolFiles(pool)
    recipe = recipe_of(pool, method)
    MergedModel(files, recipe).write_directory(tmp_path / "merged")
    written = load_file(tmp_path / "merged" / "model.safetensors")
    full, origin = (load_file(tmp_path / name / "model.safetensors") for name in ("full", "base"))
    mine = {name: files.checkpoints[adapter.digest].tensor(name).float() for name in full}
    for name in full:
        if method.needs_base:
            theta_0 = origin[name].float()
            tasks = (mine[name] - theta_0) * 0.3 + (full[name].float() - theta_0) * 0.6
            expected = (theta_0 + tasks * 1.0).bfloat16()
        else:
            expected = (mine[name] * 0.3 + full[name].float() * 0.6).bfloat16()
        assert torch.equal(written[name], expected), name
    live = LiveModel(files, "bfloat16")
    live.write(recipe)
    assert all(torch.equal(live.model.state_dict()[name], written[name]) for name in written)


def test_what_it_makes_is_found_again_and_made_again(
    base: Path, make_checkpoint: Make, tmp_path: Path, pool_of: Any
) -> None:
    pool = make_pool(tmp_path, make_checkpoint, pool_of)
    file = Path(str(pool.checkpoints[0].merged_file))
    content, before = file.read_bytes(), file.stat().st_mtime_ns
    assert pool_of(tmp_path, ["adapter", "full"], base="base", cache=tmp_path / "cache") == pool
    PoolFiles(pool)
    assert file.stat().st_mtime_ns == before
    for damage in (file.unlink, lambda: file.write_bytes(content[:-7]), lambda: file.write_bytes(b"")):
        damage()
        files = PoolFiles(pool)
        assert file.read_bytes() == content
    file.unlink()
    name = "model.layers.0.mlp.up_proj.weight"
    assert files.checkpoints[pool.checkpoints[0].digest].tensor(name).isfinite().all()


def test_digest_follows_adapter_and_base(base: Path, make_checkpoint: Make, tmp_path: Path, pool_of: Any) -> None:
    def digest() -> str:
        pool: Pool = pool_of(tmp_path, ["adapter", "full"], base="base", cache=tmp_path / "cache")
        return pool.checkpoints[0].digest

    pool = make_pool(tmp_path, make_checkpoint, pool_of)
    first = pool.checkpoints[0].digest
    make_checkpoint("base", seed=9)
    second = digest()
    change(tmp_path / "adapter", lora_alpha=9)
    third = digest()
    change_tensors(tmp_path / "adapter", lambda weights: next(iter(weights.values())).mul_(2))
    assert len({first, second, third, digest()}) == 4
    with pytest.raises(InvalidCheckpoint, match="'adapter' changed on disk"):
        PoolFiles(pool)


def test_adapters_need_a_whole_base(base: Path, make_checkpoint: Make, tmp_path: Path, pool_of: Any) -> None:
    make_checkpoint("full")
    save_adapter(base, tmp_path / "adapter")
    for names, origin, cache, field in (
        (["full", "adapter"], None, tmp_path / "cache", "pool.checkpoints.1.path"),
        (["full", "base"], "adapter", tmp_path / "cache", "pool.base.path"),
        (["full", "adapter"], "base", None, "pool.checkpoints.1.path"),
        (["full", "adapter"], "missing", tmp_path / "cache", "pool.base.path"),
    ):
        with pytest.raises(InvalidCheckpoint) as caught:
            pool_of(tmp_path, names, base=origin, cache=cache)
        assert [error.field for error in caught.value.errors] == [field]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"peft_type": "LOHA"}, "peft_type"),
        ({"peft_type": None}, "peft_type"),
        ({"use_dora": True}, "use_dora"),
        ({"lora_bias": True}, "lora_bias"),
        ({"bias": "all"}, "bias"),
        ({"init_lora_weights": "pissa_niter_4"}, "init_lora_weights"),
        ({"init_lora_weights": "olora"}, "init_lora_weights"),
        ({"layer_replication": [[0, 2], [1, 3]]}, "layer_replication"),
        ({"trainable_token_indices": [1]}, "trainable_token_indices"),
        ({"target_parameters": ["experts"]}, "target_parameters"),
        ({"alora_invocation_tokens": [1, 2]}, "alora_invocation_tokens"),
        ({"rank_pattern": {"[": 2}}, "rank_pattern"),
        ({"rank_pattern": {"v_proj": "2"}}, "rank_pattern"),
        ({"rank_pattern": {"v_proj": 2}}, "rank 2"),
        ({"alpha_pattern": [3]}, "alpha_pattern"),
        ({"r": 8}, "rank 8"),
        ({"r": 0}, "no usable rank"),
        ({"r": None}, "no usable rank"),
        ({"r": "4"}, "no usable rank"),
        ({"r": True}, "no usable rank"),
        ({"lora_alpha": float("nan")}, "no usable rank and scale"),
        ({"target_modules": ["q_proj"]}, "target_modules does not name this module"),
        ({"target_modules": "("}, "target_modules"),
        ({"target_modules": {"a": 1}}, "target_modules"),
    ],
)
def test_settings_that_are_refused(base: Path, tmp_path: Path, settings: dict[str, Any], message: str) -> None:
    save_adapter(base, tmp_path / "adapter")
    assert message in problem(change(tmp_path / "adapter", **settings), base)


def rename_first(weights: dict[str, torch.Tensor], new: str) -> None:
    first = next(key for key in weights if "lora_A" in key)
    weights[new.format(first)] = weights.pop(first)


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        (lambda w: w.popitem(), "without"),
        (lambda w: w.update({"base_model.model.model.embed_tokens.lora_embedding_A": torch.zeros(4, 320)}), "neither"),
        (lambda w: w.update({"base_model.model.x.lora_magnitude_vector": torch.zeros(4)}), "lora_magnitude_vector"),
        (lambda w: w.update({"base_model.model.model.layers.9.input_layernorm.weight": torch.zeros(32)}), "layers.9"),
        (lambda w: w.update({key: w[key].double() for key in w}), "F64"),
        (lambda w: w.update({key: torch.zeros(*w[key].shape, 1, 1) for key in w}), "not a pair of matrices"),
        (lambda w: w.update({key: torch.zeros(4, 33) for key in w if "lora_A" in key}), "shape differs"),
        (lambda w: w.clear(), "no tensors"),
        (
            lambda w: w.update({key.replace("q_proj", "z_proj"): w.pop(key) for key in [*w] if "q_proj" in key}),
            "the base has no weights",
        ),
    ],
    ids=["half", "embedding", "dora", "layer", "double", "convolution", "columns", "empty", "module"],
)
def test_tensors_that_are_refused(base: Path, tmp_path: Path, edit: Any, message: str) -> None:
    save_adapter(base, tmp_path / "adapter")
    assert message in problem(change_tensors(tmp_path / "adapter", edit), base)


def test_real_adapters_of_other_kinds_are_refused(base: Path, tmp_path: Path) -> None:
    save_adapter(base, tmp_path / "dora", use_dora=True)
    assert "use_dora" in problem(tmp_path / "dora", base)
    assert "lora_magnitude_vector" in problem(change(tmp_path / "dora", use_dora=False), base)
    with pytest.warns(UserWarning, match="save_embedding_layers"):
        save_adapter(base, tmp_path / "embedding", target_modules=["q_proj", "embed_tokens"])
    assert "lora_embedding_A" in problem(tmp_path / "embedding", base)


def test_pickled_and_missing_weights(base: Path, tmp_path: Path) -> None:
    save_adapter(base, tmp_path / "adapter")
    file = tmp_path / "adapter" / "adapter_model.safetensors"
    content = file.read_bytes()
    file.write_bytes(content[:-3])
    assert "truncated" in problem(tmp_path / "adapter", base)
    file.rename(file.with_suffix(".bin"))
    assert "pickled" in problem(tmp_path / "adapter", base)
    file.with_suffix(".bin").unlink()
    assert "no adapter_model.safetensors" in problem(tmp_path / "adapter", base)


@pytest.mark.parametrize("text", ["{", "[]", '{"r": "\\ud800"}', "[" * 100_000])
def test_unreadable_settings(base: Path, tmp_path: Path, text: str) -> None:
    save_adapter(base, tmp_path / "adapter")
    (tmp_path / "adapter" / "adapter_config.json").write_text(text)
    assert "adapter_config.json" in problem(tmp_path / "adapter", base)


def test_a_whole_model_with_an_adapter_beside_it(base: Path) -> None:
    """Transformers would load the adapter and the base that it names, not the weights that lie there."""
    (base / "adapter_config.json").write_text("{}")
    with pytest.raises(InvalidCheckpoint, match="a whole model and an adapter"):
        CheckpointFiles(base)


def test_numbers_that_are_not_finite(base: Path, make_checkpoint: Make, tmp_path: Path, pool_of: Any) -> None:
    make_checkpoint("full")
    for value, message in ((float("nan"), "NaN or infinite in base_model"), (3e38, "not finite in model.layers.0")):
        save_adapter(base, tmp_path / "adapter")
        change_tensors(tmp_path / "adapter", lambda weights, v=value: [t.fill_(v) for t in weights.values()])  # type: ignore[misc]
        with pytest.raises(InvalidCheckpoint, match=message):
            pool_of(tmp_path, ["full", "adapter"], base="base", cache=tmp_path / "cache")
        assert not [*tmp_path.glob("cache/adapters/*.safetensors*l")]


def test_an_output_embedding_of_a_tied_base(make_checkpoint: Make, tmp_path: Path, pool_of: Any) -> None:
    """An adapter may save a copy of the input embedding as the output embedding, not another one."""
    base = make_checkpoint("base", tie_word_embeddings=True)
    make_checkpoint("full", seed=1, tie_word_embeddings=True)
    save_adapter(base, tmp_path / "adapter")
    embedding = torch.ones(320, 32)
    saved = {"base_model.model.lm_head.weight": embedding, "base_model.model.model.embed_tokens.weight": embedding + 0}
    change_tensors(tmp_path / "adapter", lambda weights: weights.update(saved))
    pool = pool_of(tmp_path, ["full", "adapter"], base="base", cache=tmp_path / "cache")
    view = PoolFiles(pool).checkpoints[pool.checkpoints[1].digest]
    assert "lm_head.weight" not in view.tensors
    assert torch.equal(view.tensor("model.embed_tokens.weight"), embedding)
    saved["base_model.model.lm_head.weight"] = embedding * 2
    change_tensors(tmp_path / "adapter", lambda weights: weights.update(saved))
    with pytest.raises(MisfitPool, match="the output embedding is not tied"):
        pool_of(tmp_path, ["full", "adapter"], base="base", cache=tmp_path / "cache")


def test_a_vocabulary_that_the_adapter_made_longer(
    base: Path, make_checkpoint: Make, tmp_path: Path, pool_of: Any
) -> None:
    """As peft saves it after the embeddings were resized: whole, without a word in modules_to_save."""
    make_checkpoint("full")
    save_adapter(base, tmp_path / "adapter")
    longer = {
        f"base_model.model.{name}": torch.rand(384, 32) for name in ("lm_head.weight", "model.embed_tokens.weight")
    }
    change_tensors(tmp_path / "adapter", lambda weights: weights.update(longer))
    with pytest.raises(MisfitPool, match="vocabulary size differs"):
        pool_of(tmp_path, ["full", "adapter"], base="base", cache=tmp_path / "cache")
    pool = pool_of(tmp_path, ["full", "adapter"], base="base", cache=tmp_path / "cache", embeddings="truncate")
    files = PoolFiles(pool)
    view = files.checkpoints[pool.checkpoints[1].digest]
    for name, tensor in longer.items():
        assert torch.equal(view.tensor(name.removeprefix("base_model.model.")), tensor[:320])


def _inspect_in_little_space(pool_of: Any, root: Path, action: int, told: Any) -> None:
    signal.signal(signal.SIGXFSZ, action)
    resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, 20_000))
    try:
        pool_of(root, ["full", "adapter"], base="base", cache=root / "cache")
    except InvalidCheckpoint as error:
        told.put(str(error))


@pytest.mark.parametrize("action", [signal.SIG_IGN, signal.SIG_DFL], ids=["full disk", "killed"])
def test_a_full_disk_and_a_killed_writer(
    base: Path, make_checkpoint: Make, tmp_path: Path, pool_of: Any, action: int
) -> None:
    """The limit on file sizes ends the write in the middle: with an error, or by killing the process on the spot."""
    make_checkpoint("full")
    save_adapter(base, tmp_path / "adapter", target_modules="all-linear")
    context = multiprocessing.get_context("fork")
    told = context.Queue()
    child = context.Process(target=_inspect_in_little_space, args=(pool_of, tmp_path, action, told))
    child.start()
    child.join()
    folder = tmp_path / "cache" / "adapters"
    if action == signal.SIG_IGN:
        assert child.exitcode == 0
        assert f"cannot be written as one ({os.strerror(27)})" in told.get()
        assert [file.suffix for file in folder.iterdir()] == [".lock"]
    else:
        assert child.exitcode == -signal.SIGXFSZ
        assert sorted(file.suffix for file in folder.iterdir()) == [".lock", ".partial"]
    pool = pool_of(tmp_path, ["full", "adapter"], base="base", cache=tmp_path / "cache")
    assert sorted(file.suffix for file in folder.iterdir()) == [".lock", ".safetensors"]
    assert PoolFiles(pool).checkpoints[pool.checkpoints[1].digest].tensors


ENDLESS = "(.|.)*[^a-z._0-9]"
"""Tries some 2^30 ways to match the name of a module."""


@pytest.mark.parametrize(
    "settings",
    [{"target_modules": ENDLESS}, {"rank_pattern": {ENDLESS: 4}}, {"alpha_pattern": {"q": 4, f"({ENDLESS})+": 4}}],
)
def test_a_regular_expression_without_end_is_given_up(
    base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, settings: Any
) -> None:
    monkeypatch.setattr(adapter_module, "MATCH_SECONDS", 0.05)
    save_adapter(base, tmp_path / "adapter")
    assert "a regular expression takes more than 0.05 s" in problem(change(tmp_path / "adapter", **settings), base)


@pytest.mark.parametrize("name", ["/etc", "../secret", "someone/model", ""])
def test_the_base_that_an_adapter_names_is_not_looked_for(base: Path, tmp_path: Path, name: str) -> None:
    save_adapter(base, tmp_path / "adapter")
    change(tmp_path / "adapter", base_model_name_or_path=name, auto_mapping={"parent_library": "evil"})
    merged = LoraAdapter(tmp_path / "adapter", CheckpointFiles(base)).merged(tmp_path / "merged.safetensors")
    assert {tensor.file.parent for tensor in merged.tensors.values()} == {base, tmp_path}
