"""The law of this package: the `lm_eval` command on the saved model gives the same numbers, to the last digit."""

import json
import os
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import LlamaForCausalLM, PreTrainedTokenizerFast

from campaigns.objectives import Objective, Split
from campaigns.spec import Evaluation
from evaluators.lm_evaluator import LmEvaluator

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
