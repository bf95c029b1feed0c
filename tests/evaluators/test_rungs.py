"""Items scored rung by rung: each rung a run of its own, together what lm-eval's aggregations make of all values."""

from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import LlamaForCausalLM, PreTrainedTokenizerFast

from campaigns.errors import BadCandidate, InvalidSpec
from campaigns.objectives import Items, Measurement, Objective
from campaigns.spec import Evaluation
from evaluators.lm_evaluator import LmEvaluator

MakeModel = Callable[..., LlamaForCausalLM]
CopyWeights = Callable[[torch.nn.Module, torch.nn.Module], None]
MakeTask = Callable[[Path, str, list[dict[str, Any]], dict[str, Any]], None]
MakeEvaluator = Callable[..., LmEvaluator]

OBJECTIVES = (
    Objective(task="fruit", metric="acc_norm"),
    Objective(task="sums_filtered", metric="exact_match", filter="digits"),
    Objective(task="sums_filtered", metric="exact_match", filter="plain"),
    Objective(task="texts", metric="bits_per_byte"),
    Objective(task="letters", metric="perplexity"),
    Objective(task="letters", metric="acc"),
    Objective(task="fruit", metric="acc"),
)
EVALUATION = Evaluation(search_items=13, holdout_items=8, batch_size=5)
ACCURACIES = ("acc", "acc_norm", "exact_match")
CUTS = ([4], [1, 2], [0, 3, 6, 9], [12], [])
"""Where each task's search items are cut."""


@pytest.fixture
def make_evaluator(task_folder: Path, tokenizer: PreTrainedTokenizerFast, make_model: MakeModel) -> MakeEvaluator:
    def make(seed: int = 0, **changes: Any) -> LmEvaluator:
        made = LmEvaluator(changes.pop("objectives", OBJECTIVES), EVALUATION.replace(**changes), 3, [task_folder])
        made.prepare(make_model(seed), tokenizer)
        return made

    return make


def cut(evaluator: LmEvaluator, places: list[int], objectives: tuple[Objective, ...] = OBJECTIVES) -> list[Items]:
    """Deal each task's search items out to rungs in an order that is not theirs."""
    rungs: list[Items] = [{} for _ in range(len(places) + 1)]
    for task in {objective.task for objective in objectives}:
        items = evaluator.items(task)["search"]
        shuffled = items[::3] + items[1::3] + items[2::3]
        stops = [*places, len(items)]
        for rung, start, stop in zip(rungs, [0, *places], stops, strict=True):
            rung[task] = tuple(sorted(shuffled[start:stop]))
    return rungs


def live(evaluator: LmEvaluator) -> Any:
    assert evaluator._lm is not None
    return evaluator._lm.model


def search(evaluator: LmEvaluator, *rungs: Items) -> tuple[Measurement, ...]:
    return evaluator.evaluate("search", rungs).measurements


@pytest.mark.parametrize("places", CUTS, ids=str)
@pytest.mark.parametrize("changes", [{}, {"apply_chat_template": True}], ids=str)
def test_without_batches_any_cut_gives_what_one_run_gives(
    places: list[int], changes: dict[str, Any], make_evaluator: MakeEvaluator
) -> None:
    evaluator = make_evaluator(batch_size=1, **changes)
    assert search(evaluator, *cut(evaluator, places)) == search(evaluator)


@pytest.mark.parametrize("places", CUTS, ids=str)
def test_in_batches_only_last_digits_of_likelihoods_differ(places: list[int], make_evaluator: MakeEvaluator) -> None:
    evaluator = make_evaluator()
    whole = search(evaluator)
    for objective, ours, theirs in zip(OBJECTIVES, search(evaluator, *cut(evaluator, places)), whole, strict=True):
        assert ours.item_ids == theirs.item_ids and ours.protocol == theirs.protocol
        if objective.metric in ACCURACIES:
            assert ours == theirs
        else:
            assert ours.value == pytest.approx(theirs.value, rel=1e-5)
            assert ours.outcomes == pytest.approx(theirs.outcomes, rel=1e-4)
            assert ours.standard_error == pytest.approx(theirs.standard_error, rel=1e-4)


def test_examples_drawn_at_random_stay_the_documents_own(make_evaluator: MakeEvaluator) -> None:
    objectives = tuple(o.replace(num_fewshot=2) for o in OBJECTIVES if o.task in ("fruit", "letters"))
    evaluator = make_evaluator(objectives=objectives, batch_size=1)
    assert search(evaluator, *cut(evaluator, [5], objectives)) == search(evaluator)


def test_repeats(
    tmp_path: Path, tokenizer: PreTrainedTokenizerFast, make_model: MakeModel, make_task: MakeTask, sums: dict[str, Any]
) -> None:
    voting = {
        **sums,
        "repeats": 3,
        "filter_list": [{"name": "vote", "filter": [{"function": "majority_vote"}, {"function": "take_first"}]}],
    }
    make_task(tmp_path, "voted", [{"question": f"{i}+1=", "answer": "2"} for i in range(9)], voting)
    objective = Objective(task="voted", metric="exact_match", filter="vote")
    evaluator = LmEvaluator([objective], Evaluation(search_items=7, batch_size=1), 0, [tmp_path])
    evaluator.prepare(make_model(0), tokenizer)
    assert search(evaluator, *cut(evaluator, [3], (objective,))) == search(evaluator)


def test_going_on_equals_a_fresh_evaluator_and_answers_new_rungs_alone(make_evaluator: MakeEvaluator) -> None:
    evaluator = make_evaluator(seed=5)
    rungs = cut(evaluator, [3, 8])
    calls: list[int] = []
    handle = live(evaluator).register_forward_pre_hook(lambda *_: calls.append(1))
    counts = []
    for stop in (1, 2, 2, 3):
        calls.clear()
        scores = evaluator.evaluate("search", rungs[:stop])
        counts.append(len(calls))
        assert (scores.model_seconds > 0) == bool(calls)
        assert scores.measurements == search(make_evaluator(seed=5), *rungs[:stop])
    calls.clear()
    evaluator.weights_changed()
    evaluator.evaluate("search", rungs)
    handle.remove()
    assert counts[2] == 0 and len(calls) == sum(counts) and all(counts[i] for i in (0, 1, 3))


def test_nothing_leaks_from_one_candidate_to_the_next(
    make_evaluator: MakeEvaluator, make_model: MakeModel, copy_weights: CopyWeights
) -> None:
    evaluator = make_evaluator()
    rungs = cut(evaluator, [4, 9])
    found: dict[tuple[int, int], tuple[Measurement, ...]] = {}
    for seed, stop in ((1, 1), (2, 1), (2, 2), (1, 2), (2, 3), (1, 1), (1, 3)):
        copy_weights(make_model(seed), live(evaluator))
        evaluator.weights_changed()
        for upto in range(1, stop + 1):
            measured = search(evaluator, *rungs[:upto])
            assert found.setdefault((seed, upto), measured) == measured
        search(evaluator)
    for upto in range(1, 4):
        pairs = zip(found[1, upto], found[2, upto], strict=True)
        assert sum(one.outcomes != other.outcomes for one, other in pairs) > 2, "the candidates differ"


def test_answers_of_weights_that_broke_half_way_are_gone(
    make_evaluator: MakeEvaluator, make_model: MakeModel, copy_weights: CopyWeights
) -> None:
    evaluator = make_evaluator(seed=1)
    rungs = cut(evaluator, [4])
    good = search(evaluator, *rungs)
    evaluator.weights_changed()
    search(evaluator, rungs[0])
    with torch.no_grad():
        live(evaluator).lm_head.weight.fill_(float("nan"))
    with pytest.raises(BadCandidate, match="not finite"):
        search(evaluator, *rungs)
    copy_weights(make_model(1), live(evaluator))
    evaluator.weights_changed()
    assert search(evaluator, *rungs) == good


def test_a_task_may_be_missing_from_a_rung(make_evaluator: MakeEvaluator) -> None:
    evaluator = make_evaluator(batch_size=1)
    first, second = cut(evaluator, [6])
    moved: list[Items] = [
        {**first, "fruit": (), "letters": evaluator.items("letters")["search"]},
        {**second, "fruit": evaluator.items("fruit")["search"]},
    ]
    del moved[1]["letters"]
    assert search(evaluator, *moved) == search(evaluator)


def test_the_protocol_is_that_of_the_documents_and_not_of_their_cut(make_evaluator: MakeEvaluator) -> None:
    evaluator = make_evaluator()

    def protocols(*rungs: Items) -> list[str]:
        return [measured.protocol for measured in search(evaluator, *rungs)]

    assert {tuple(protocols(*cut(evaluator, places))) for places in CUTS} == {tuple(protocols())}
    quarter, half, rest = cut(evaluator, [3, 6])
    assert protocols(quarter, half) == protocols(half, quarter) == protocols(*cut(evaluator, [6])[:1])
    for one, other in zip(protocols(quarter, half), protocols(quarter, rest), strict=True):
        assert one != other
    assert not set(protocols(quarter, half)) & set(protocols())


def test_some_of_the_items_have_the_protocol_of_a_campaign_on_them_alone(
    make_evaluator: MakeEvaluator, task_folder: Path, tokenizer: PreTrainedTokenizerFast, make_model: MakeModel
) -> None:
    evaluator = make_evaluator()
    rung, _ = cut(evaluator, [6])
    alone = LmEvaluator(OBJECTIVES, EVALUATION, 3, [task_folder])
    alone._load()
    alone._items = {task: {"search": documents, "holdout": ()} for task, documents in rung.items()}
    alone.prepare(make_model(0), tokenizer)
    assert search(evaluator, rung) == search(alone)


def test_the_type_of_device_is_in_the_protocol(make_evaluator: MakeEvaluator) -> None:
    part = make_evaluator()._splits["search"].runs[0].parts[0]
    assert part.settings["device"] == "cpu"
    on_a_gpu = replace(part, settings={**part.settings, "device": "cuda"})
    assert not set(on_a_gpu.protocols) & set(part.protocols)


@pytest.mark.parametrize(
    ("change", "field", "value"),
    [
        ({"fruit": "holdout"}, "rungs.1.fruit", None),
        ({"fruit": (1000,)}, "rungs.1.fruit", "[1000]"),
        ({"nuts": (3, 1)}, "rungs.1.nuts", "[1, 3]"),
        ({"fruit": "first"}, "rungs.fruit", None),
    ],
    ids=["of the other split", "beyond the documents", "of no task", "twice"],
)
def test_items_that_a_rung_cannot_have_are_named(
    change: Mapping[str, Any], field: str, value: str | None, make_evaluator: MakeEvaluator
) -> None:
    evaluator = make_evaluator()
    first, second = cut(evaluator, [4])
    known = {"holdout": evaluator.items("fruit")["holdout"], "first": first["fruit"]}
    items = {task: known.get(documents, documents) for task, documents in change.items()}
    with pytest.raises(InvalidSpec) as caught:
        search(evaluator, first, {**second, **items})
    (error,) = caught.value.errors
    assert (error.field, error.value) == (field, value or str(sorted(*items.values())))


def test_every_task_with_items_needs_some(make_evaluator: MakeEvaluator) -> None:
    evaluator = make_evaluator()
    rung, rest = cut(evaluator, [4])
    rung["texts"] = ()
    with pytest.raises(InvalidSpec, match="no rung has an item of this task; got 'texts'"):
        search(evaluator, rung)
    assert len(search(evaluator, rung, rest)) == len(OBJECTIVES)


def test_commands_of_a_rung(make_evaluator: MakeEvaluator) -> None:
    evaluator = make_evaluator()
    rung, _ = cut(evaluator, [1])
    rung["texts"] = ()
    (command,) = evaluator.commands("search", Path("model"), rung)
    assert command[command.index("--tasks") + 1] == "fruit,sums_filtered,letters"
    with pytest.raises(InvalidSpec, match="no search items of task 'nuts'"):
        evaluator.commands("search", Path("model"), {"nuts": (1,)})
