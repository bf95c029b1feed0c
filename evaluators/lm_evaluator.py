"""Scores of the live model on lm-eval tasks, equal to `lm_eval`'s on the same weights to the last digit.

One command of `lm_eval` runs all requests of one type over all its tasks together, so tasks share batches, and batches
reach the last digit of a loglikelihood. Objectives are therefore scored in *runs*: the tasks of one `num_fewshot`, in
the order of the objectives, which is what one command can be told to do. `LmEvaluator.commands` writes them down. The
number of CPU threads can reach the last digit too: it belongs to the conditions under which the numbers are equal.
"""

import json
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from campaigns.errors import FieldError, InvalidSpec, unknown_name
from campaigns.objectives import Measurement, Objective, Split
from campaigns.spec import Evaluation
from evaluators import splits
from evaluators.inventory import versions
from evaluators.protocol import content_digest, protocol_digest
from evaluators.resident_lm import ResidentLM
from evaluators.resident_task import ResidentTask
from evaluators.run import Part, Run
from evaluators.seeds import FEWSHOT_SEED, lm_eval_seeds
from evaluators.task_loading import load_tasks

SPLITS: tuple[Split, ...] = ("search", "holdout")


@dataclass(frozen=True)
class Scores:
    """One split's measurements, in the order of the objectives, and the seconds inside the model's own calls."""

    measurements: tuple[Measurement, ...]
    model_seconds: float


class LmEvaluator:
    """Evaluates the objectives of a campaign on a model whose weights change in place.

    Objectives of the weights themselves are left out: they need no items.
    Tasks, items and requests are made once, in `prepare`; `evaluate` then costs little more than the model itself.
    `prepare` and `items` raise `InvalidSpec` when a task, metric or filter is unknown or a task has too few documents.
    """

    def __init__(
        self, objectives: Sequence[Objective], evaluation: Evaluation, seed: int, task_folders: Sequence[Path]
    ) -> None:
        self._objectives = tuple(objectives)
        self._evaluation = evaluation
        self._seed = seed
        self._task_folders = tuple(task_folders)
        self._tasks: dict[str, Any] = {}
        self._items: dict[str, splits.Items] = {}
        self._lm: ResidentLM | None = None
        self._runs: dict[Split, list[Run]] = {}

    def items(self, task: str) -> dict[Split, tuple[int, ...]]:
        """Return the indices of the task's documents per split, as `lm_eval --samples` takes them. Needs no model."""
        self._load()
        return self._items[task]

    def prepare(self, model: Any, tokenizer: Any) -> None:
        """Build tasks and the requests of both splits around `model`, a transformers causal language model."""
        self._load()
        self._lm = ResidentLM(model, tokenizer, self._evaluation.batch_size)
        with lm_eval_seeds():
            self._runs = {split: self._build_runs(self._lm, split) for split in SPLITS}

    def evaluate(self, split: Split) -> Scores:
        """Return the scores of the model's current weights on the items of `split`; a task without items has none.

        Raises `BadCandidate` when the weights make logits or a metric that is not finite: that is never a score.
        """
        if self._lm is None:
            raise RuntimeError("prepare the evaluator first")
        before = self._lm.model_seconds
        found: dict[str, Measurement] = {}
        for run in self._runs[split]:
            with lm_eval_seeds():
                found |= {measurement.objective: measurement for measurement in run.evaluate()}
        measurements = tuple(found[objective.name] for objective in self._objectives if objective.name in found)
        return Scores(measurements, self._lm.model_seconds - before)

    def commands(self, split: Split, directory: Path) -> list[list[str]]:
        """Return the `lm_eval` commands, as argument lists, that give this evaluator's numbers for a saved model.

        There is one per `num_fewshot` of the objectives, as a command has one for all its tasks.
        """
        if self._lm is None:
            raise RuntimeError("prepare the evaluator first")
        dtype = str(self._lm.model.dtype).removeprefix("torch.")
        return [self._command(run.tasks, split, f"pretrained={directory},dtype={dtype}") for run in self._runs[split]]

    def _command(self, tasks: Sequence[str], split: Split, model_args: str) -> list[str]:
        fewshot = next(objective.num_fewshot for objective in self._objectives if objective.task == tasks[0])
        command = ["lm_eval", "--model", "hf", "--model_args", model_args, "--tasks", ",".join(tasks)]
        command += ["--samples", json.dumps({task: self._items[task][split] for task in tasks})]
        command += ["--batch_size", str(self._evaluation.batch_size)]
        if sources := [path for task in tasks if (path := self._own_source(task))]:
            command += ["--include_path", os.path.commonpath(sources)]
        command += [] if fewshot is None else ["--num_fewshot", str(fewshot)]
        return command + (["--apply_chat_template"] if self._evaluation.apply_chat_template else [])

    def _own_source(self, task: str) -> Path | None:
        """Return the directory of the task's file, or None for a task of lm-eval's own."""
        source = Path((self._tasks[task].get_config("metadata") or {}).get("config_source", "")).resolve()
        return source.parent if any(folder.resolve() in source.parents for folder in self._task_folders) else None

    def _of_tasks(self) -> list[tuple[int, Objective]]:
        """Return the objectives that lm-eval scores, with their places in the spec."""
        return [(index, objective) for index, objective in enumerate(self._objectives) if not objective.is_of_weights]

    def _load(self) -> None:
        if self._tasks:
            return
        fields: dict[str, str] = {}
        for index, objective in self._of_tasks():
            fields.setdefault(objective.task, f"objectives.{index}.task")
        with lm_eval_seeds():
            tasks = load_tasks(fields, self._task_folders)
        documents = {name: len(task.eval_docs) for name, task in tasks.items()}
        errors = splits.check(self._objectives, self._evaluation, documents)
        for index, objective in self._of_tasks():
            errors += _unknown(f"objectives.{index}", objective, tasks[objective.task])
        if errors:
            raise InvalidSpec(errors)
        for _, objective in self._of_tasks():
            name = objective.task
            sizes = self._evaluation.items_of(objective)
            self._items[name] = splits.draw(name, documents[name], *sizes, self._seed)
            _set_fewshot(tasks[name], objective.num_fewshot)
        self._tasks = tasks

    def _build_runs(self, lm: ResidentLM, split: Split) -> list[Run]:
        by_fewshot: dict[int | None, dict[str, list[Objective]]] = {}
        for _, objective in self._of_tasks():
            if self._items[objective.task][split]:
                by_fewshot.setdefault(objective.num_fewshot, {}).setdefault(objective.task, []).append(objective)
        return [
            Run(split, [self._part(lm, split, name, own) for name, own in tasks.items()], lm)
            for tasks in by_fewshot.values()
        ]

    def _part(self, lm: ResidentLM, split: Split, name: str, objectives: Sequence[Objective]) -> Part:
        chat = self._evaluation.apply_chat_template
        task, documents = self._tasks[name], self._items[name][split]
        resident = ResidentTask(task, documents, lm, chat, FEWSHOT_SEED)
        settings = {
            "batch_size": self._evaluation.batch_size,
            "dtype": str(lm.model.dtype),
            "apply_chat_template": chat,
            "versions": versions(),
        }
        content = content_digest(resident.requests)
        protocols = [protocol_digest(objective, task, documents, content, settings) for objective in objectives]
        return Part(resident, tuple(zip(objectives, protocols, strict=True)))


def _set_fewshot(task: Any, num_fewshot: int | None) -> None:
    """Do as lm-eval's `simple_evaluate`: a task that says 0 keeps it, one that says nothing gets 0."""
    default = task.get_config("num_fewshot")
    if num_fewshot is not None and default != 0:
        task.set_config(key="num_fewshot", value=num_fewshot)
    elif default is None:
        task.set_config(key="num_fewshot", value=0)


def _unknown(field: str, objective: Objective, task: Any) -> list[FieldError]:
    """Return what is wrong with metric and filter; a task that scores by its own function may give any metric."""
    errors = []
    filters = [pipeline.name for pipeline in task._filters]
    if objective.filter not in filters:
        errors.append(unknown_name(f"{field}.filter", objective.filter, filters, f"filter of task {objective.task!r}"))
    metrics = task.aggregation()
    if objective.metric not in metrics and not callable(getattr(task.config, "process_results", None)):
        errors.append(unknown_name(f"{field}.metric", objective.metric, metrics, f"metric of task {objective.task!r}"))
    return errors
