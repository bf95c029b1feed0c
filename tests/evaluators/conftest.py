"""A tiny random Llama with a character tokenizer, and a folder of small lm-eval tasks over local JSONL."""

import json
import os
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("HF_DATASETS_OFFLINE", "1")

import torch
import yaml
from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

CHARACTERS = "\n abcdefghijklmnopqrstuvwxyz0123456789+-=?:.,"
SPECIAL = ("<pad>", "<s>", "</s>", "<unk>")
DOCUMENTS = 40
CHAT_TEMPLATE = (
    "{% for message in messages %}{{ message['role'] }}: {{ message['content'] }}\n{% endfor %}"
    "{% if add_generation_prompt %}assistant: {% endif %}"
)


def _tokenizer() -> PreTrainedTokenizerFast:
    vocabulary = {token: index for index, token in enumerate([*SPECIAL, *CHARACTERS])}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Split(Regex("[\\s\\S]"), "isolated")
    tokenizer.decoder = decoders.Fuse()
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token="<pad>", bos_token="<s>", eos_token="</s>", unk_token="<unk>"
    )
    fast.chat_template = CHAT_TEMPLATE
    return fast


def build_model(seed: int, hidden_size: int = 64, layers: int = 2, positions: int = 256) -> LlamaForCausalLM:
    """A model with large random weights: its answers vary from prompt to prompt, and from seed to seed."""
    torch.manual_seed(seed)
    config = LlamaConfig(
        vocab_size=len(SPECIAL) + len(CHARACTERS),
        hidden_size=hidden_size,
        intermediate_size=2 * hidden_size,
        num_hidden_layers=layers,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=positions,
        initializer_range=0.2,
        pad_token_id=0,
        bos_token_id=1,
        eos_token_id=2,
        tie_word_embeddings=False,
    )
    return LlamaForCausalLM(config).eval()


def write_weights(source: torch.nn.Module, target: torch.nn.Module) -> None:
    """Write one model's weights into another in place, as a campaign does with each candidate."""
    with torch.no_grad():
        for ours, theirs in zip(target.parameters(), source.parameters(), strict=True):
            ours.copy_(theirs)


Documents = list[dict[str, Any]]


def _sums(count: int) -> Documents:
    draw = random.Random(1)
    pairs = [(draw.randrange(10, 99), draw.randrange(10, 99)) for _ in range(count)]
    return [{"question": f"{a}+{b}=", "answer": str(a + b)} for a, b in pairs]


def _choices(count: int) -> Documents:
    draw = random.Random(2)
    words = ["pear", "fig", "watermelon", "plum", "kiwi", "dragonfruit"]
    return [
        {"question": f"{number}: which fruit?", "choices": draw.sample(words, 3), "label": draw.randrange(3)}
        for number in range(count)
    ]


def _texts(count: int) -> Documents:
    draw = random.Random(3)
    words = ["the", "cat", "sat", "on", "a", "mat", "and", "then", "it", "ran", "away"]
    return [{"text": " ".join(draw.choices(words, k=draw.randrange(3, 70))) + "."} for _ in range(count)]


def _letters(count: int) -> Documents:
    draw = random.Random(4)
    return [
        {"question": f"{number} next of {(c := draw.choice('abcdefgh'))}", "answer": chr(ord(c) + 1)}
        for number in range(count)
    ]


SUMS = {
    "output_type": "generate_until",
    "doc_to_text": "q: {{question}}",
    "doc_to_target": "{{answer}}",
    "generation_kwargs": {"until": ["\n", "."], "max_gen_toks": 12, "do_sample": False},
    "metric_list": [{"metric": "exact_match", "aggregation": "mean", "higher_is_better": True}],
}
CONFIGURATIONS: dict[str, tuple[Callable[[int], Documents], dict[str, Any]]] = {
    "sums": (_sums, SUMS),
    "sums_filtered": (
        _sums,
        {
            **SUMS,
            "metric_list": [
                {
                    "metric": "exact_match",
                    "aggregation": "mean",
                    "higher_is_better": True,
                    "regexes_to_ignore": ["[0-9a-z]"],
                }
            ],
            "filter_list": [
                {
                    "name": "digits",
                    "filter": [{"function": "regex", "regex_pattern": "([0-9]+)"}, {"function": "take_first"}],
                },
                {"name": "plain", "filter": [{"function": "take_first"}]},
            ],
        },
    ),
    "sums_sampled": (
        _sums,
        {
            **SUMS,
            "generation_kwargs": {"until": ["\n"], "max_gen_toks": 6, "do_sample": True, "temperature": 1.5},
            "metric_list": [
                {
                    "metric": "exact_match",
                    "aggregation": "mean",
                    "higher_is_better": True,
                    "regexes_to_ignore": ["[0-9a-m]"],
                }
            ],
        },
    ),
    "fruit": (
        _choices,
        {
            "output_type": "multiple_choice",
            "doc_to_text": "{{question}}",
            "doc_to_choice": "choices",
            "doc_to_target": "label",
            "metric_list": [
                {"metric": "acc", "aggregation": "mean", "higher_is_better": True},
                {"metric": "acc_norm", "aggregation": "mean", "higher_is_better": True},
            ],
        },
    ),
    "texts": (
        _texts,
        {
            "output_type": "loglikelihood_rolling",
            "doc_to_text": "",
            "doc_to_target": "{{text}}",
            "metric_list": [
                {"metric": "bits_per_byte", "aggregation": "bits_per_byte", "higher_is_better": False},
                {"metric": "word_perplexity", "aggregation": "weighted_perplexity", "higher_is_better": False},
            ],
        },
    ),
    "letters": (
        _letters,
        {
            "output_type": "loglikelihood",
            "doc_to_text": "{{question}}",
            "doc_to_target": "{{answer}}",
            "metric_list": [
                {"metric": "perplexity", "aggregation": "perplexity", "higher_is_better": False},
                {"metric": "acc", "aggregation": "mean", "higher_is_better": True},
            ],
        },
    ),
}


def write_task(folder: Path, name: str, documents: Documents, configuration: dict[str, Any]) -> None:
    data = folder / f"{name}.jsonl"
    data.write_text("".join(json.dumps(document) + "\n" for document in documents))
    complete = {
        "task": name,
        "dataset_path": "json",
        "dataset_kwargs": {"data_files": {"test": str(data)}},
        "test_split": "test",
        "num_fewshot": None,
        **configuration,
    }
    if complete["num_fewshot"] is None:
        del complete["num_fewshot"]
    (folder / f"{name}.yaml").write_text(yaml.safe_dump(complete, sort_keys=False))


@pytest.fixture(scope="session")
def task_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("tasks")
    for name, (make, configuration) in CONFIGURATIONS.items():
        write_task(folder, name, make(DOCUMENTS), configuration)
    return folder


@pytest.fixture(scope="session", autouse=True)
def offline(tmp_path_factory: pytest.TempPathFactory) -> None:
    """One thread, a data set cache of our own, and no network."""
    import datasets

    torch.set_num_threads(1)
    datasets.config.HF_DATASETS_CACHE = tmp_path_factory.mktemp("datasets")
    datasets.disable_progress_bars()


@pytest.fixture(scope="session")
def tokenizer() -> PreTrainedTokenizerFast:
    return _tokenizer()


@pytest.fixture(scope="session")
def make_model() -> Callable[..., LlamaForCausalLM]:
    return build_model


@pytest.fixture(scope="session")
def copy_weights() -> Callable[[torch.nn.Module, torch.nn.Module], None]:
    return write_weights


@pytest.fixture(scope="session")
def make_task() -> Callable[[Path, str, Documents, dict[str, Any]], None]:
    return write_task


@pytest.fixture(scope="session")
def sums() -> dict[str, Any]:
    """The configuration of the plainest generation task."""
    return SUMS
