from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from campaigns.errors import InvalidSpec
from evaluators.task_loading import load_tasks

MakeTask = Callable[[Path, str, list[dict[str, Any]], dict[str, Any]], None]
DOCUMENTS = [{"question": "1+1=", "answer": "2"}]


def test_tasks_come_in_the_order_asked_for(task_folder: Path) -> None:
    tasks = load_tasks({"texts": "objectives.0.task", "fruit": "objectives.1.task"}, [task_folder])
    assert list(tasks) == ["texts", "fruit"]
    assert [task.OUTPUT_TYPE for task in tasks.values()] == ["loglikelihood_rolling", "multiple_choice"]


def test_refusals_are_named_at_once(
    tmp_path: Path, task_folder: Path, make_task: MakeTask, sums: dict[str, Any]
) -> None:
    make_task(tmp_path, "runs_code", DOCUMENTS, {**sums, "unsafe_code": True})
    make_task(tmp_path, "tagged", DOCUMENTS, {**sums, "tag": "a_tag"})
    (tmp_path / "group.yaml").write_text("group: a_group\ntask: [tagged]\n")
    names = ["fruit", "fruits", "runs_code", "a_group", "a_tag"]
    with pytest.raises(InvalidSpec) as caught:
        load_tasks({name: f"objectives.{i}.task" for i, name in enumerate(names)}, [tmp_path, task_folder])
    messages = {error.field: error.message for error in caught.value.errors}
    assert set(messages) == {f"objectives.{i}.task" for i in range(1, 5)}
    assert "did you mean 'fruit'" in messages["objectives.1.task"]
    assert "runs code" in messages["objectives.2.task"]
    assert "name the group's tasks" in messages["objectives.3.task"]
    assert "name the group's tasks" in messages["objectives.4.task"]


def test_a_task_that_cannot_be_built(tmp_path: Path, make_task: MakeTask, sums: dict[str, Any]) -> None:
    make_task(tmp_path, "lost", DOCUMENTS, sums)
    (tmp_path / "lost.jsonl").unlink()
    with pytest.raises(InvalidSpec, match=r"objectives.0.task: lm-eval cannot build this task: .*lost.jsonl"):
        load_tasks({"lost": "objectives.0.task"}, [tmp_path])


def test_images_are_refused(tmp_path: Path, make_task: MakeTask, sums: dict[str, Any]) -> None:
    make_task(tmp_path, "seen", DOCUMENTS, {**sums, "doc_to_image": "question"})
    with pytest.raises(InvalidSpec, match="images or sound"):
        load_tasks({"seen": "objectives.0.task"}, [tmp_path])
