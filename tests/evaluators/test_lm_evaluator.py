"""The evaluator over changing weights: nothing of one candidate stays for the next, and no fault becomes a score."""

import json
import math
import random
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import LlamaForCausalLM, PreTrainedTokenizerFast

from campaigns.errors import BadCandidate, InvalidSpec
from campaigns.objectives import Measurement, Objective
from campaigns.spec import Evaluation
from evaluators.lm_evaluator import LmEvaluator

MakeModel = Callable[..., LlamaForCausalLM]
CopyWeights = Callable[[torch.nn.Module, torch.nn.Module], None]
MakeTask = Callable[[Path, str, list[dict[str, Any]], dict[str, Any]], None]

OBJECTIVES = (
    Objective(task="fruit", metric="acc_norm"),
    Objective(task="sums_filtered", metric="exact_match", filter="digits"),
    Objective(task="texts", metric="bits_per_byte"),
    Objective(task="letters", metric="perplexity"),
    Objective(task="fruit", metric="acc"),
    Objective(task="sums_sampled", metric="exact_match"),
)
EVALUATION = Evaluation(search_items=12, holdout_items=8, batch_size=5)


@pytest.fixture
def evaluator(task_folder: Path, tokenizer: PreTrainedTokenizerFast, make_model: MakeModel) -> LmEvaluator:
    made = LmEvaluator(OBJECTIVES, EVALUATION, 3, [task_folder])
    made.prepare(make_model(0), tokenizer)
    return made


def live(evaluator: LmEvaluator) -> Any:
    assert evaluator._lm is not None
    return evaluator._lm.model


def test_nothing_leaks_from_one_candidate_to_the_next(
    evaluator: LmEvaluator, make_model: MakeModel, copy_weights: CopyWeights
) -> None:
    found: dict[int, tuple[Measurement, ...]] = {}
    for seed in (1, 2, 1, 3, 2):
        copy_weights(make_model(seed), live(evaluator))
        measured = evaluator.evaluate("search").measurements
        assert found.setdefault(seed, measured) == measured
        evaluator.evaluate("holdout")
    values = [[m.value for m in measured] for measured in found.values()]
    assert all(len(set(column)) > 1 for column in zip(*values, strict=True)), "the candidates differ in every objective"


def test_live_weights_score_as_a_model_built_for_them(
    evaluator: LmEvaluator,
    make_model: MakeModel,
    copy_weights: CopyWeights,
    task_folder: Path,
    tokenizer: PreTrainedTokenizerFast,
) -> None:
    copy_weights(make_model(4), live(evaluator))
    fresh = LmEvaluator(OBJECTIVES, EVALUATION, 3, [task_folder])
    fresh.prepare(make_model(4), tokenizer)
    for split in ("search", "holdout"):
        assert evaluator.evaluate(split).measurements == fresh.evaluate(split).measurements  # type: ignore[arg-type]


def test_measurements_are_complete(evaluator: LmEvaluator) -> None:
    started = time.perf_counter()
    scores = evaluator.evaluate("search")
    assert 0 < scores.model_seconds <= time.perf_counter() - started
    assert [m.objective for m in scores.measurements] == [o.name for o in OBJECTIVES]
    for objective, measured in zip(OBJECTIVES, scores.measurements, strict=True):
        assert (measured.split, measured.items, len(measured.outcomes)) == ("search", 12, 12)
        assert measured.item_ids == evaluator.items(objective.task)["search"]
        assert measured.standard_error is not None
        generates = objective.task.startswith("sums")
        assert (measured.truncation_rate is not None) == generates == (measured.output_tokens is not None)
        if objective.metric in ("acc", "acc_norm", "exact_match"):
            assert set(measured.outcomes) <= {0.0, 1.0}
            assert measured.value == pytest.approx(sum(measured.outcomes) / 12)


def test_outcomes_are_in_item_order(
    evaluator: LmEvaluator, task_folder: Path, tokenizer: PreTrainedTokenizerFast
) -> None:
    """The loglikelihood of each drawn letter, asked for one by one."""
    measured = {m.objective: m for m in evaluator.evaluate("search").measurements}["letters/perplexity"]
    documents = [json.loads(line) for line in (task_folder / "letters.jsonl").read_text().splitlines()]
    for index, outcome in zip(evaluator.items("letters")["search"], measured.outcomes, strict=True):
        ids = tokenizer(documents[index]["question"] + documents[index]["answer"], return_tensors="pt").input_ids
        with torch.no_grad():
            logits = live(evaluator)(ids).logits[0].log_softmax(-1)
        expected = -logits[-2, ids[0, -1]].item()
        assert outcome == pytest.approx(expected, rel=1e-4)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
@pytest.mark.parametrize("objective", OBJECTIVES, ids=lambda objective: str(objective.name))
def test_weights_that_are_not_finite(
    objective: Objective,
    value: float,
    task_folder: Path,
    tokenizer: PreTrainedTokenizerFast,
    make_model: MakeModel,
    copy_weights: CopyWeights,
) -> None:
    model = make_model(1)
    evaluator = LmEvaluator([objective], EVALUATION, 3, [task_folder])
    evaluator.prepare(model, tokenizer)
    good = evaluator.evaluate("search").measurements
    with torch.no_grad():
        model.model.layers[1].mlp.down_proj.weight[3, 5] = value
    with pytest.raises(BadCandidate, match="not finite"):
        evaluator.evaluate("search")
    copy_weights(make_model(1), model)
    assert evaluator.evaluate("search").measurements == good


def test_a_perplexity_that_overflows_is_no_score(
    task_folder: Path, tokenizer: PreTrainedTokenizerFast, make_model: MakeModel
) -> None:
    model = make_model(1)
    evaluator = LmEvaluator([Objective(task="texts", metric="word_perplexity")], EVALUATION, 3, [task_folder])
    evaluator.prepare(model, tokenizer)
    with torch.no_grad():
        model.lm_head.weight.mul_(1000)
    with pytest.raises(BadCandidate, match="texts/word_perplexity"):
        evaluator.evaluate("search")


def test_random_states_of_the_caller_stay(evaluator: LmEvaluator) -> None:
    random.seed(5), np.random.seed(5), torch.manual_seed(5)
    expected = random.random(), np.random.random(), torch.rand(1).item()
    random.seed(5), np.random.seed(5), torch.manual_seed(5)
    evaluator.evaluate("search")
    assert (random.random(), np.random.random(), torch.rand(1).item()) == expected


def test_protocol_digests(task_folder: Path, tokenizer: PreTrainedTokenizerFast, make_model: MakeModel) -> None:
    objective = OBJECTIVES[0]

    def protocol(
        objective: Objective = objective, evaluation: Evaluation = EVALUATION, seed: int = 3, dtype: Any = torch.float32
    ) -> str:
        made = LmEvaluator([objective, *OBJECTIVES[2:4]], evaluation, seed, [task_folder])
        made.prepare(make_model(0).to(dtype), tokenizer)
        return made.evaluate("search").measurements[0].protocol

    same = protocol()
    assert protocol() == same and len(same) == 64
    assert protocol(evaluation=EVALUATION.replace(holdout_items=9)) == same, "the search items stay what they are"
    others = [
        protocol(objective.replace(metric="acc")),
        protocol(objective.replace(num_fewshot=1)),
        protocol(evaluation=EVALUATION.replace(batch_size=6)),
        protocol(evaluation=EVALUATION.replace(search_items=13)),
        protocol(evaluation=EVALUATION.replace(apply_chat_template=True)),
        protocol(seed=4),
        protocol(dtype=torch.bfloat16),
    ]
    assert len({same, *others}) == len(others) + 1


def test_protocol_follows_content_not_place(
    tmp_path: Path, tokenizer: PreTrainedTokenizerFast, make_model: MakeModel, make_task: MakeTask, sums: dict[str, Any]
) -> None:
    found = []
    for name, answer in (("a", "2"), ("b", "2"), ("c", "3")):
        (tmp_path / name).mkdir()
        documents = [{"question": f"{i}+1=", "answer": answer} for i in range(5)]
        make_task(tmp_path / name, "adding", documents, sums)
        made = LmEvaluator(
            [Objective(task="adding", metric="exact_match")], Evaluation(search_items=3), 0, [tmp_path / name]
        )
        made.prepare(make_model(0), tokenizer)
        found.append(made.evaluate("search").measurements[0].protocol)
    assert found[0] == found[1] != found[2]


def test_items_need_no_model_and_split_the_documents(task_folder: Path) -> None:
    evaluator = LmEvaluator(OBJECTIVES, Evaluation(search_items=15), 3, [task_folder])
    items = evaluator.items("fruit")
    assert len(items["search"]) == 15 and len(items["holdout"]) == 25
    assert not set(items["search"]) & set(items["holdout"])
    assert items != LmEvaluator(OBJECTIVES, Evaluation(search_items=15), 4, [task_folder]).items("fruit")


def test_a_task_without_holdout_has_no_measurement_there(
    task_folder: Path, tokenizer: PreTrainedTokenizerFast, make_model: MakeModel
) -> None:
    objectives = [OBJECTIVES[0].replace(holdout_items=0), OBJECTIVES[2]]
    evaluator = LmEvaluator(objectives, EVALUATION, 3, [task_folder])
    evaluator.prepare(make_model(0), tokenizer)
    assert len(evaluator.evaluate("search").measurements) == 2
    assert [m.objective for m in evaluator.evaluate("holdout").measurements] == [OBJECTIVES[2].name]


def test_everything_wrong_is_named_at_once(task_folder: Path) -> None:
    objectives = [
        Objective(task="fruit", metric="accuracy"),
        Objective(task="sums_filtered", metric="exact_match"),
        Objective(task="texts", metric="bits_per_byte", search_items=41),
    ]
    with pytest.raises(InvalidSpec) as caught:
        LmEvaluator(objectives, EVALUATION, 0, [task_folder]).items("fruit")
    assert {error.field for error in caught.value.errors} == {
        "objectives.0.metric",
        "objectives.1.filter",
        "objectives.2.search_items",
    }
    assert "did you mean" in str(caught.value) or "acc" in str(caught.value)
    assert "at most 40 of 40" in str(caught.value)


def test_evaluate_before_prepare(task_folder: Path) -> None:
    with pytest.raises(RuntimeError, match="prepare"):
        LmEvaluator(OBJECTIVES, EVALUATION, 0, [task_folder]).evaluate("search")


def test_one_command_per_number_of_examples(
    task_folder: Path, tokenizer: PreTrainedTokenizerFast, make_model: MakeModel
) -> None:
    objectives = [OBJECTIVES[2], OBJECTIVES[0].replace(num_fewshot=1), OBJECTIVES[3]]
    evaluator = LmEvaluator(objectives, EVALUATION, 0, [task_folder])
    evaluator.prepare(make_model(0), tokenizer)
    plain, fewshot = evaluator.commands("search", Path("model"))
    assert plain[plain.index("--tasks") + 1] == "texts,letters" and "--num_fewshot" not in plain
    assert fewshot[fewshot.index("--tasks") + 1] == "fruit" and fewshot[fewshot.index("--num_fewshot") + 1] == "1"
    assert [m.objective for m in evaluator.evaluate("search").measurements] == [o.name for o in objectives]


def test_a_command_includes_the_folders_of_its_own_tasks(
    tmp_path: Path, tokenizer: PreTrainedTokenizerFast, make_model: MakeModel, make_task: MakeTask, sums: dict[str, Any]
) -> None:
    folders = [tmp_path / "a", tmp_path / "b", tmp_path / "unused"]
    for folder in folders:
        folder.mkdir()
        make_task(folder, f"in_{folder.name}", [{"question": f"{i}+1=", "answer": "2"} for i in range(5)], sums)

    def include_path(*tasks: str) -> str:
        objectives = [Objective(task=task, metric="exact_match") for task in tasks]
        evaluator = LmEvaluator(objectives, Evaluation(search_items=3), 0, folders)
        evaluator.prepare(make_model(0), tokenizer)
        (command,) = evaluator.commands("holdout", Path("model"))
        return command[command.index("--include_path") + 1]

    assert include_path("in_a") == str(folders[0])
    assert include_path("in_b", "in_a") == str(tmp_path), "lm_eval takes one folder, and looks into those below"


def test_a_task_that_says_zero_examples_keeps_it(
    tmp_path: Path, tokenizer: PreTrainedTokenizerFast, make_model: MakeModel, make_task: MakeTask, sums: dict[str, Any]
) -> None:
    documents = [{"question": f"{i}+1=", "answer": str(i + 1)} for i in range(9)]
    make_task(tmp_path, "fixed", documents, {**sums, "num_fewshot": 0})
    make_task(tmp_path, "open", documents, sums)
    objectives = [Objective(task=name, metric="exact_match", num_fewshot=2) for name in ("fixed", "open")]
    evaluator = LmEvaluator(objectives, Evaluation(search_items=3), 0, [tmp_path])
    evaluator.prepare(make_model(0), tokenizer)
    prompts = {part.task.name: part.task.requests[0].args[0] for part in evaluator._splits["search"].runs[0].parts}
    assert prompts["fixed"].count("q:") == 1 and prompts["open"].count("q:") == 3


def test_a_task_with_its_own_function_that_writes_into_documents(
    tmp_path: Path, tokenizer: PreTrainedTokenizerFast, make_model: MakeModel, make_task: MakeTask, sums: dict[str, Any]
) -> None:
    (tmp_path / "scoring.py").write_text(
        "def score(doc, results):\n"
        "    doc['seen'] = doc.get('seen', 0) + 1\n"
        "    return {'length': len(results[0]) * doc['seen'], 'unannounced': float(doc['seen'])}\n"
    )
    own = {**sums, "metric_list": [{"metric": "length", "aggregation": "mean", "higher_is_better": True}]}
    make_task(tmp_path, "own", [{"question": f"{i}+1=", "answer": "2"} for i in range(9)], own)
    with (tmp_path / "own.yaml").open("a") as file:
        file.write("process_results: !function scoring.score\n")
    objectives = [Objective(task="own", metric=metric) for metric in ("length", "unannounced")]
    evaluator = LmEvaluator(objectives, Evaluation(search_items=4), 0, [tmp_path])
    evaluator.prepare(make_model(0), tokenizer)
    first = evaluator.evaluate("search").measurements
    assert evaluator.evaluate("search").measurements == first
    assert first[1].value == 1.0 and first[0].value > 0
    missing = LmEvaluator([Objective(task="own", metric="absent")], Evaluation(search_items=4), 0, [tmp_path])
    missing.prepare(make_model(0), tokenizer)
    with pytest.raises(InvalidSpec, match="absent"):
        missing.evaluate("search")


def test_repeats_are_averaged_by_the_tasks_own_filter(
    tmp_path: Path, tokenizer: PreTrainedTokenizerFast, make_model: MakeModel, make_task: MakeTask, sums: dict[str, Any]
) -> None:
    voting = {
        **sums,
        "repeats": 3,
        "filter_list": [{"name": "vote", "filter": [{"function": "majority_vote"}, {"function": "take_first"}]}],
    }
    make_task(tmp_path, "voted", [{"question": f"{i}+1=", "answer": "2"} for i in range(9)], voting)
    evaluator = LmEvaluator(
        [Objective(task="voted", metric="exact_match", filter="vote")], Evaluation(search_items=4), 0, [tmp_path]
    )
    evaluator.prepare(make_model(0), tokenizer)
    (measured,) = evaluator.evaluate("search").measurements
    assert len(measured.outcomes) == 4 and not math.isnan(measured.value)
    assert evaluator.evaluate("search").measurements == (measured,)
