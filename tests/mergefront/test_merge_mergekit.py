"""`mergefront merge` on mergekit's documents: real files in, the elements that mergekit's rules ask for out."""

import json
import shutil

import pytest
import torch
import yaml
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer, models
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast
from typer.testing import CliRunner

from campaigns.mergekit.methods import METHODS as READABLE
from mergefront.cli import app
from merging.methods import METHODS

LAYERS = 3
SHAPE = LlamaConfig(
    vocab_size=32, hidden_size=16, intermediate_size=16, num_hidden_layers=LAYERS, num_attention_heads=2
)
NAMES = ("base", "a", "b")


def save_model(path, seed, shape=SHAPE):
    torch.manual_seed(seed)
    LlamaForCausalLM(shape).save_pretrained(path)
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=Tokenizer(models.WordLevel({"a": 0}, unk_token="a")))
    tokenizer.save_pretrained(path)


@pytest.fixture(scope="session")
def zoo(tmp_path_factory):
    """Three models of one shape and one that is wider. Never written to."""
    root = tmp_path_factory.mktemp("zoo")
    for seed, name in enumerate(NAMES):
        save_model(root / name, seed)
    save_model(root / "wide", 9, LlamaConfig(**{**SHAPE.to_dict(), "hidden_size": 32}))
    return root


@pytest.fixture(autouse=True)
def _home(tmp_path, monkeypatch):
    monkeypatch.setenv("MERGEFRONT_HOME", str(tmp_path / "home"))


@pytest.fixture
def merge(tmp_path):
    """Run `mergefront merge` on a document; the tensors of what it wrote, or what it said."""

    def run(document, *options, folder=tmp_path, name="merged"):
        (folder / "merge.yml").write_text(document if isinstance(document, str) else yaml.safe_dump(document))
        arguments = ["merge", folder / "merge.yml", tmp_path / name, *options]
        done = CliRunner().invoke(app, [str(argument) for argument in arguments])
        if done.exit_code == 0:
            return load_file(tmp_path / name / "model.safetensors")
        assert "Traceback" not in done.output
        assert not (tmp_path / name).exists()
        return done.output

    return run


@pytest.fixture(scope="session")
def weights(zoo):
    return {name: load_file(zoo / name / "model.safetensors") for name in NAMES}


def entry(zoo, name, **parameters):
    return {"model": str(zoo / name), **({"parameters": parameters} if parameters else {})}


def same(first, second):
    return all(torch.equal(first[name], second[name]) for name in first)


def layer_of(name):
    return int(name.split(".")[2]) if name.startswith("model.layers.") else None


def test_gradients_and_filters_reach_the_elements(zoo, weights, merge):
    attention = [{"filter": "self_attn", "value": [0, 0.4]}, {"filter": "mlp", "value": 1}]
    merged = merge(
        {
            "merge_method": "task_arithmetic",
            "base_model": str(zoo / "base"),
            "models": [entry(zoo, "a", weight=attention), entry(zoo, "b", weight=[0.1, 0.2, 0.3])],
            "parameters": {"weight": 0.7, "lambda": 0.5},
        }
    )
    assert set(merged) == set(weights["base"])
    by_hand = {"self_attn": [0, 0.2, 0.4], "mlp": [1, 1, 1], "layernorm": [0.7, 0.7, 0.7]}
    for name, origin in weights["base"].items():
        layer = layer_of(name)
        part = next((part for part in by_hand if part in name), None)
        first = 0.7 if layer is None else by_hand[part][layer]
        second = 0.1 if layer is None else (0.1, 0.2, 0.3)[layer]
        expected = origin + 0.5 * (first * (weights["a"][name] - origin) + second * (weights["b"][name] - origin))
        torch.testing.assert_close(merged[name], expected, msg=name)


def test_slices_take_layers_where_they_are(zoo, weights, merge):
    def part(name, first, stop):
        return {"sources": [{"model": str(zoo / name), "layer_range": [first, stop]}]}

    merged = merge({"merge_method": "passthrough", "slices": [part("a", 0, 1), part("b", 1, LAYERS)]})
    for name, found in merged.items():
        layer = layer_of(name)
        owner = "a" if layer == 0 or (layer is None and "embed" in name) else "b"
        assert torch.equal(found, weights[owner][name]), name


def test_a_linear_merge_is_normalized_and_written_in_out_dtype(zoo, weights, merge):
    document = {"merge_method": "linear", "models": [entry(zoo, "a", weight=1), entry(zoo, "b", weight=3)]}
    merged = merge({**document, "dtype": "float32", "out_dtype": "bfloat16"})
    for name, found in merged.items():
        expected = 0.25 * weights["a"][name] + 0.75 * weights["b"][name]
        assert torch.equal(found, expected.bfloat16()), name


WEIGHTED = {"weight": 0.5, "density": 0.5}


@pytest.mark.parametrize("kind", [kind for kind in READABLE if kind in METHODS])
def test_every_method_gives_the_bytes_of_our_own_document(kind, zoo, weights, merge):
    row = READABLE[kind]
    parameters = {name: value for name, value in {"t": 0.3, **WEIGHTED}.items() if name in row.parameters}
    takes_base = row.base in ("optional", "required", "first")
    base = "a" if row.base == "first" else "base"
    theirs = merge(
        {
            "merge_method": kind,
            **({"base_model": str(zoo / base)} if takes_base else {}),
            "models": [entry(zoo, "a"), entry(zoo, "b")],
            "parameters": parameters,
        },
        "--seed",
        "3",
    )
    renamed = {"weight": "weights", "density": "densities"}
    ours = {renamed.get(name, name): value for name, value in parameters.items()}
    defaults = {"karcher": {"weights": 0.5}, "breadcrumbs_ties": {"normalize": False}}
    pool = {"checkpoints": [{"name": name, "path": str(zoo / name)} for name in ("a", "b")]}
    if row.base in ("optional", "required"):
        pool["base"] = {"name": "base", "path": str(zoo / "base")}
    document = {"pool": pool, "method": kind, "seed": 3, **ours, **defaults.get(kind, {})}
    expected = merge(document, name="ours")
    assert isinstance(expected, dict), expected
    assert isinstance(theirs, dict), theirs
    assert same(theirs, expected)
    assert not same(theirs, weights["a"])


def test_the_seed_decides_random_masks(zoo, merge):
    models = [entry(zoo, "a", weight=1, density=0.5)]
    document = {"merge_method": "dare_linear", "base_model": str(zoo / "base"), "models": models}
    first, again, other = (merge(document, *o, name=n) for n, *o in (["x"], ["y", "--seed", 0], ["z", "--seed", 1]))
    assert same(first, again)
    assert not same(first, other)


def test_the_option_seed_replaces_the_seed_of_our_document(zoo, merge):
    place = {name: {"name": name, "path": str(zoo / name)} for name in ("a", "base")}
    pool = {"checkpoints": [place["a"]], "base": place["base"]}
    document = {"pool": pool, "method": "dare_linear", "weights": 1, "densities": 0.5, "seed": 4}
    own, replaced, equal = (merge(document, *o, name=n) for n, *o in (["x"], ["y", "--seed", 5], ["z", "--seed", 4]))
    assert same(own, equal)
    assert not same(own, replaced)


LINEAR = "merge_method: linear\nparameters: {weight: 1}\nmodels: [{model: a}, {model: b}]\n"


def test_relative_paths_count_from_the_current_directory_or_the_document(zoo, merge, monkeypatch, tmp_path, weights):
    monkeypatch.chdir(zoo)
    assert isinstance(merge(LINEAR, name="from_here"), dict)
    for name in ("a", "b"):
        shutil.copytree(zoo / name, tmp_path / "beside" / name)
    monkeypatch.chdir(tmp_path)
    merged = merge(LINEAR, folder=tmp_path / "beside", name="from_there")
    expected = 0.5 * weights["a"]["lm_head.weight"] + 0.5 * weights["b"]["lm_head.weight"]
    torch.testing.assert_close(merged["lm_head.weight"], expected)


@pytest.fixture
def adapter(tmp_path, weights):
    """A LoRA adapter of the base's query projections, as peft saves one."""
    path = tmp_path / "adapter"
    path.mkdir()
    settings = {"peft_type": "LORA", "r": 2, "lora_alpha": 4, "target_modules": ["q_proj"], "bias": "none"}
    (path / "adapter_config.json").write_text(json.dumps(settings))
    generator = torch.Generator().manual_seed(5)
    tensors = {}
    for layer in range(LAYERS):
        place = f"base_model.model.model.layers.{layer}.self_attn.q_proj"
        tensors[f"{place}.lora_A.weight"] = torch.randn(2, 16, generator=generator)
        tensors[f"{place}.lora_B.weight"] = torch.randn(16, 2, generator=generator)
    save_file(tensors, path / "adapter_model.safetensors")
    return path


def test_an_adapter_on_the_base_is_merged(zoo, weights, merge, adapter):
    merged = merge(
        {
            "merge_method": "task_arithmetic",
            "base_model": str(zoo / "base"),
            "models": [{"model": f"{zoo / 'base'}+{adapter}"}, entry(zoo, "a", weight=0)],
            "parameters": {"weight": 0.5},
        }
    )
    tensors = load_file(adapter / "adapter_model.safetensors")
    place = "model.layers.1.self_attn.q_proj"
    product = tensors[f"base_model.model.{place}.lora_B.weight"] @ tensors[f"base_model.model.{place}.lora_A.weight"]
    torch.testing.assert_close(merged[f"{place}.weight"], weights["base"][f"{place}.weight"] + 0.5 * 2 * product)
    assert torch.equal(merged["lm_head.weight"], weights["base"]["lm_head.weight"])


@pytest.mark.parametrize(
    ("models", "told"),
    [
        (["a", "nowhere"], "models.1.model: there is no such directory"),
        (["a", "owner/name"], "models.1.model: there is no such directory, and no such hub repository"),
        (["a", "wide"], "models.1.model: shape differs"),
        (["a", "home"], "models.1.model: "),
    ],
)
def test_a_model_that_cannot_be_merged_is_told_by_its_key(models, told, zoo, merge, monkeypatch, tmp_path):
    (tmp_path / "home").mkdir()
    shutil.copytree(zoo, tmp_path / "models")
    (tmp_path / "models" / "home").mkdir()
    monkeypatch.chdir(tmp_path / "models")
    document = {"merge_method": "linear", "parameters": {"weight": 1}, "models": [{"model": name} for name in models]}
    assert told in " ".join(merge(document).split())


def test_slices_that_leave_layers_out_are_told_once_the_models_are_known(zoo, merge):
    sources = [{"model": str(zoo / name), "layer_range": [0, 2]} for name in ("a", "b")]
    said = merge({"merge_method": "linear", "parameters": {"weight": 1}, "slices": [{"sources": sources}]})
    assert "slices.0.sources.0.layer_range" in said
    assert f"[0, {LAYERS}]" in said


def test_a_document_of_mergekit_with_a_typing_error_is_answered_with_the_nearest_key(zoo, merge):
    said = merge({"merge_method": "linear", "modles": [], "models": [entry(zoo, "a", weight=1)]})
    assert "modles: no such key of mergekit, did you mean" in " ".join(said.split())
    assert "'models'" in said
