"""The law of this package: the `lm_eval` command on the saved model gives the same numbers, to the last digit."""

import json
import os
import subprocess
import sys
from collections import defaultdict
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from lm_eval.api import metrics
from transformers import LlamaForCausalLM, PreTrainedTokenizerFast

from campaigns.objectives import Items, Objective, Split
from campaigns.spec import Evaluation
from evaluators.lm_evaluator import LmEvaluator
from evaluators.standard_errors import outcomes, standard_error

OBJECTIVES = (
    Objective(task="sums", metric="exact_match"),
    Objective(task="sums_filtered", metric="exact_match", filter="digits"),
    Objective(task="sums_filtered", metric="exact_match", filter="plain"),
    Objective(task="texts", metric="bits_per_byte"),
    Objective(task="texts", metric="word_perplexity"),
    Objective(task="fruit", metric="acc"),
    Objective(task="fruit", metric="acc_norm"),
    Objective(task="letters", metric="perplexity"),
    Objective(task="letters", metric="acc"),
    Objective(task="sums_sampled", metric="exact_match"),
)
LM_EVAL_HAS_A_CLOSED_FORM = ("exact_match", "acc", "acc_norm")


def run_lm_eval(command: Sequence[str], output: Path) -> dict[str, dict[str, Any]]:
    """Run the real command in a process of its own; return its results by task."""
    environment = {**os.environ, "HF_HUB_OFFLINE": "1", "HF_DATASETS_OFFLINE": "1", "OMP_NUM_THREADS": "1"}
    arguments = [sys.executable, "-m", *command, "--device", "cpu", "--output_path", str(output)]
    done = subprocess.run(arguments, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    results: dict[str, dict[str, Any]] = {}
    for file in output.rglob("results_*.json"):
        results |= json.loads(file.read_text())["results"]
    return results


def assert_equal(
    evaluator: LmEvaluator, split: Split, objectives: Sequence[Objective], directory: Path, output: Path
) -> None:
    scores = evaluator.evaluate(split)
    (command,) = evaluator.commands(split, directory)
    results = run_lm_eval(command, output)
    assert [m.objective for m in scores.measurements] == [o.name for o in objectives]
    for objective, measured in zip(objectives, scores.measurements, strict=True):
        theirs = results[objective.task]
        assert measured.value == theirs[f"{objective.metric},{objective.filter}"], objective.name
        assert theirs["sample_len"] == measured.items == len(evaluator.items(objective.task)[split])
        if objective.metric in LM_EVAL_HAS_A_CLOSED_FORM:
            assert measured.standard_error == theirs[f"{objective.metric}_stderr,{objective.filter}"], objective.name


def samples(output: Path) -> dict[tuple[str, str], dict[int, dict[str, Any]]]:
    """Return what the command logged of each document, by task and filter."""
    found: dict[tuple[str, str], dict[int, dict[str, Any]]] = defaultdict(dict)
    for file in output.rglob("samples_*.jsonl"):
        task = file.name.removeprefix("samples_").rpartition("_")[0]
        for line in file.read_text().splitlines():
            sample = json.loads(line)
            found[task, sample["filter"]][sample["doc_id"]] = sample
    return found


@pytest.mark.timeout(600)
@pytest.mark.parametrize("split", ["search", "holdout"])
def test_all_output_types(
    split: Split,
    task_folder: Path,
    tokenizer: PreTrainedTokenizerFast,
    make_model: Callable[..., LlamaForCausalLM],
    tmp_path: Path,
) -> None:
    model = make_model(1)
    evaluator = LmEvaluator(OBJECTIVES, Evaluation(search_items=23, batch_size=7), 3, [task_folder])
    evaluator.prepare(model, tokenizer)
    model.save_pretrained(tmp_path / "model")
    tokenizer.save_pretrained(tmp_path / "model")
    assert_equal(evaluator, split, OBJECTIVES, tmp_path / "model", tmp_path / "output")


@pytest.mark.timeout(600)
def test_bfloat16_with_fewshot_and_chat_template(
    task_folder: Path,
    tokenizer: PreTrainedTokenizerFast,
    make_model: Callable[..., LlamaForCausalLM],
    tmp_path: Path,
) -> None:
    objectives = [o.replace(num_fewshot=2) for o in OBJECTIVES if o.task in ("sums_filtered", "fruit", "letters")]
    # Not `model.to(bfloat16)`: that would round the rotary frequencies, which loading a checkpoint keeps in float32.
    make_model(2).to(torch.bfloat16).save_pretrained(tmp_path / "model")
    tokenizer.save_pretrained(tmp_path / "model")
    model = LlamaForCausalLM.from_pretrained(tmp_path / "model", dtype=torch.bfloat16)
    evaluation = Evaluation(search_items=11, holdout_items=9, batch_size=4, apply_chat_template=True)
    evaluator = LmEvaluator(objectives, evaluation, 8, [task_folder])
    evaluator.prepare(model, tokenizer)
    assert_equal(evaluator, "holdout", objectives, tmp_path / "model", tmp_path / "output")


AGGREGATIONS: dict[str, Callable[[Sequence[Any]], float]] = {
    "bits_per_byte": metrics.bits_per_byte,
    "word_perplexity": metrics.weighted_perplexity,
    "perplexity": metrics.perplexity,
}


@pytest.mark.timeout(600)
def test_rungs_are_commands_of_their_own_and_together_an_aggregation_of_all_values(
    task_folder: Path,
    tokenizer: PreTrainedTokenizerFast,
    make_model: Callable[..., LlamaForCausalLM],
    tmp_path: Path,
) -> None:
    model = make_model(1)
    evaluator = LmEvaluator(OBJECTIVES, Evaluation(search_items=17, batch_size=4), 3, [task_folder])
    evaluator.prepare(model, tokenizer)
    model.save_pretrained(tmp_path / "model")
    tokenizer.save_pretrained(tmp_path / "model")
    items = {objective.task: evaluator.items(objective.task)["search"] for objective in OBJECTIVES}
    rungs: list[Items] = [
        {task: documents[1::3] for task, documents in items.items()},
        {task: tuple(d for d in documents if d not in documents[1::3]) for task, documents in items.items()},
    ]
    logged: dict[tuple[str, str], dict[int, dict[str, Any]]] = defaultdict(dict)
    for index, rung in enumerate(rungs):
        (command,) = evaluator.commands("search", tmp_path / "model", rung)
        output = tmp_path / f"output-{index}"
        results = run_lm_eval([*command, "--log_samples"], output)
        for objective, measured in zip(OBJECTIVES, evaluator.evaluate("search", [rung]).measurements, strict=True):
            assert measured.value == results[objective.task][f"{objective.metric},{objective.filter}"], objective.name
        for key, documents in samples(output).items():
            logged[key] |= documents
    for objective, measured in zip(OBJECTIVES, evaluator.evaluate("search", rungs).measurements, strict=True):
        by_document = logged[objective.task, objective.filter]
        values = [by_document[document][objective.metric] for document in items[objective.task]]
        aggregation = AGGREGATIONS.get(objective.metric, metrics.mean)
        raw = [tuple(value) if isinstance(value, list) else value for value in values]
        assert measured.value == aggregation(raw), objective.name
        assert measured.standard_error == standard_error(aggregation, raw)
        assert measured.outcomes == outcomes(aggregation, raw)
