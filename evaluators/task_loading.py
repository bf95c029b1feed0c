"""Find lm-eval tasks by name in the operator's folders and among lm-eval's own, refusing what cannot be scored."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from lm_eval.tasks import TaskManager
from lm_eval.tasks._index import Kind

from campaigns.errors import FieldError, InvalidSpec, field_error, unknown_name
from evaluators.inventory import OUTPUT_TYPES


def load_tasks(fields: Mapping[str, str], task_folders: Sequence[Path]) -> dict[str, Any]:
    """Return lm-eval's task objects, built anew, by name and in the order of `fields`.

    `fields` has the path of the spec's field for each task name. Tasks of the folders go before lm-eval's own, as with
    `lm_eval --include_path`. Raises `InvalidSpec` naming every task that is unknown, a group, unsafe or multimodal.
    """
    catalogue = _catalogue(fields, task_folders)
    errors = [error for name, field in fields.items() if (error := _refusal(name, field, catalogue))]
    if errors:
        raise InvalidSpec(errors)
    tasks = {name: _build(name, field, catalogue) for name, field in fields.items()}
    errors = [error for name, field in fields.items() if (error := _unsupported(name, field, tasks[name]))]
    if errors:
        raise InvalidSpec(errors)
    return tasks


def _catalogue(names: Mapping[str, str], task_folders: Sequence[Path]) -> Any:
    """Return an index that has all `names`. lm-eval's own tasks take seconds to index: only where they are needed."""
    folders = [str(folder) for folder in task_folders]
    own = TaskManager(include_path=folders, include_defaults=False)
    if all(name in own.task_index for name in names):
        return own
    return TaskManager(include_path=folders, include_defaults=True)


def _build(name: str, field: str, catalogue: Any) -> Any:
    try:
        return catalogue.load([name])["tasks"][name]
    except Exception as error:  # a task may run any code of its own, and reads its data from anywhere
        message = f"lm-eval cannot build this task: {type(error).__name__}: {error}"
        raise InvalidSpec([field_error(field, name, message)]) from error


def _refusal(name: str, field: str, catalogue: Any) -> FieldError | None:
    entry = catalogue.task_index.get(name)
    if entry is None:
        return unknown_name(field, name, catalogue.all_subtasks, "task")
    if entry.kind in (Kind.GROUP, Kind.TAG):
        return field_error(field, name, "this is a group of tasks: name the group's tasks one by one")
    config = entry.cfg or {}
    if config.get("unsafe_code", False) is not False:
        return field_error(field, name, "this task runs code that the model wrote, which is not supported")
    return None


def _unsupported(name: str, field: str, task: Any) -> FieldError | None:
    if getattr(task, "UNSAFE_CODE", False):
        return field_error(field, name, "this task runs code that the model wrote, which is not supported")
    if getattr(task, "MULTIMODAL", False):
        return field_error(field, name, "this task needs images or sound, which is not supported")
    if task.OUTPUT_TYPE not in OUTPUT_TYPES:
        return field_error(
            field, task.OUTPUT_TYPE, f"task {name!r} has an unknown output type", ", ".join(OUTPUT_TYPES)
        )
    return None
