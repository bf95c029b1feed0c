import numpy as np
import pytest

from campaigns.objectives import Objective
from campaigns.spec import Evaluation
from evaluators import splits


def test_splits_are_disjoint_sorted_and_whole() -> None:
    items = splits.draw("task", 50, 20, None, 0)
    assert len(items["search"]) == 20
    assert sorted(items["search"] + items["holdout"]) == list(range(50))
    assert all(tuple(sorted(own)) == own for own in items.values())


def test_the_draw_depends_on_seed_and_name_alone() -> None:
    first = splits.draw("task", 50, 20, 10, 0)
    assert first == splits.draw("task", 50, 20, 10, 0)
    assert first != splits.draw("task", 50, 20, 10, 1)
    assert first != splits.draw("other", 50, 20, 10, 0)
    assert first["search"] == splits.draw("task", 50, 20, 30, 0)["search"], "more holdout items move no search item"
    assert all(type(index) is int for index in first["search"]), "indices go into JSON"


def test_every_document_is_as_likely() -> None:
    counts = np.zeros(10)
    for seed in range(2000):
        counts[list(splits.draw("task", 10, 3, 2, seed)["holdout"])] += 1
    assert abs(counts / 2000 - 0.2).max() < 0.05


@pytest.mark.parametrize(("search", "holdout"), [(51, None), (40, 11)])
def test_draw_refuses_more_than_there_is(search: int, holdout: int | None) -> None:
    with pytest.raises(ValueError, match="of 50"):
        splits.draw("task", 50, search, holdout, 0)


def test_an_objective_overrides_the_numbers_of_items() -> None:
    evaluation = Evaluation(search_items=20, holdout_items=25)
    assert evaluation.items_of(Objective(task="a", metric="acc")) == (20, 25)
    assert evaluation.items_of(Objective(task="a", metric="acc", search_items=3, holdout_items=0)) == (3, 0)
    assert Evaluation(search_items=20).items_of(Objective(task="a", metric="acc")) == (20, None)


def test_too_few_documents_names_the_field_that_asked() -> None:
    objectives = [
        Objective(task="a", metric="acc"),
        Objective(task="b", metric="acc", search_items=31),
        Objective(task="c", metric="acc", search_items=25, holdout_items=6),
        Objective(task="d", metric="acc", search_items=5),
    ]
    documents = {"a": 10, "b": 30, "c": 30, "d": 30}
    errors = splits.check(objectives, Evaluation(search_items=20, holdout_items=25), documents)
    assert [(error.field, error.value, error.allowed) for error in errors] == [
        ("evaluation.search_items", "20", "at most 10 of 10"),
        ("objectives.1.search_items", "31", "at most 30 of 30"),
        ("objectives.2.holdout_items", "6", "at most 5 of 30"),
    ]
    assert "task 'a'" in errors[0].message


def test_holdout_field_of_the_evaluation() -> None:
    (error,) = splits.check([Objective(task="a", metric="acc")], Evaluation(search_items=8, holdout_items=3), {"a": 10})
    assert (error.field, error.value, error.allowed) == ("evaluation.holdout_items", "3", "at most 2 of 10")


def test_objectives_of_one_task_must_agree() -> None:
    objectives = [Objective(task="a", metric="acc"), Objective(task="a", metric="acc_norm", search_items=3)]
    (error,) = splits.check(objectives, Evaluation(search_items=4), {"a": 10})
    assert error.field == "objectives.1" and "agree" in error.message
    assert not splits.check(objectives, Evaluation(search_items=3), {"a": 10})
