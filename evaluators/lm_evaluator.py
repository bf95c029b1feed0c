"""Scores of the live model on lm-eval tasks, equal to `lm_eval`'s on the same weights to the last digit.

One command of `lm_eval` runs all requests of one type over all its tasks together, so tasks share batches, and batches
reach the last digit of a loglikelihood. Objectives are therefore scored in *runs*: the tasks of one `num_fewshot`, in
the order of the objectives, which is what one command can be told to do. `LmEvaluator.commands` writes them down. The
number of CPU threads can reach the last digit too: it belongs to the conditions under which the numbers are equal.
The same goes for items that are scored rung by rung: each rung is a run, or several, of its own.
"""

import json
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from campaigns.errors import FieldError, InvalidSpec, unknown_name
from campaigns.objectives import Items, Measurement, Objective, Split
from campaigns.spec import Evaluation
from evaluators import splits
from evaluators.inventory import versions
from evaluators.resident_lm import ResidentLM
from evaluators.resident_split import ResidentSplit
from evaluators.resident_task import ResidentTask
from evaluators.run import Part
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
        self._items: dict[str, splits.SplitItems] = {}
        self._lm: ResidentLM | None = None
        self._splits: dict[Split, ResidentSplit] = {}

    def items(self, task: str) -> dict[Split, tuple[int, ...]]:
        """Return the indices of the task's documents per split, as `lm_eval --samples` takes them. Needs no model."""
        self._load()
        return self._items[task]

    def prepare(self, model: Any, tokenizer: Any) -> None:
        """Build tasks and the requests of both splits around `model`, a transformers causal language model."""
        self._load()
        self._lm = ResidentLM(model, tokenizer, self._evaluation.batch_size)
        with lm_eval_seeds():
            self._splits = {split: self._build_split(self._lm, split) for split in SPLITS}

    def evaluate(self, split: Split, rungs: Sequence[Items] = ()) -> Scores:
        """Return the scores of the model's current weights on the items of `split`; a task without items has none.

        With `rungs`, disjoint sets of the split's items, the scores are those on the rungs' items together: what
        lm-eval's aggregations make of the values of a run of each. Answers to a rung are remembered until
        `weights_changed`, so that a call with one more rung answers that one alone. All rungs of a split together have
        the protocol of the split; values differ from one run over it in what batches do to the last digits of a
        loglikelihood, and where generations are sampled. Prompts are those of the split: examples that are drawn at
        random stay the document's own, whatever rung it is in.
        Raises `BadCandidate` when the weights make logits or a metric that is not finite: that is never a score; and
        `InvalidSpec` where a rung has items that are not the split's, rungs share an item, or a task has none in any.
        """
        lm, chosen = self._prepared(split)
        before = lm.model_seconds
        measured = chosen.measure_rungs(rungs) if rungs else chosen.measure()
        found = {measurement.objective: measurement for measurement in measured}
        measurements = tuple(found[objective.name] for objective in self._objectives if objective.name in found)
        return Scores(measurements, lm.model_seconds - before)

    def weights_changed(self) -> None:
        """Forget the answers to rungs. To be called whenever the model's weights were written, or may have been."""
        for split in self._splits.values():
            split.forget()

    def commands(self, split: Split, directory: Path, rung: Items | None = None) -> list[list[str]]:
        """Return the `lm_eval` commands, as argument lists, that give this evaluator's numbers for a saved model.

        There is one per `num_fewshot` of the objectives, as a command has one for all its tasks. They are for all items
        of `split` or for those of `rung` alone, whose examples must not be drawn at random: lm-eval draws by how many
        documents it has seen.
        """
        lm, chosen = self._prepared(split)
        runs = chosen.runs if rung is None else chosen.runs_of(rung)
        dtype = str(lm.model.dtype).removeprefix("torch.")
        return [self._command(run.parts, f"pretrained={directory},dtype={dtype}") for run in runs]

    def _prepared(self, split: Split) -> tuple[ResidentLM, ResidentSplit]:
        if self._lm is None:
            raise RuntimeError("prepare the evaluator first")
        return self._lm, self._splits[split]

    def _command(self, parts: Sequence[Part], model_args: str) -> list[str]:
        tasks = [part.task.name for part in parts]
        fewshot = parts[0].objectives[0].num_fewshot
        command = ["lm_eval", "--model", "hf", "--model_args", model_args, "--tasks", ",".join(tasks)]
        command += ["--samples", json.dumps({part.task.name: part.task.documents for part in parts})]
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

    def _build_split(self, lm: ResidentLM, split: Split) -> ResidentSplit:
        by_fewshot: dict[int | None, dict[str, list[Objective]]] = {}
        for _, objective in self._of_tasks():
            if self._items[objective.task][split]:
                by_fewshot.setdefault(objective.num_fewshot, {}).setdefault(objective.task, []).append(objective)
        groups = [[self._part(lm, split, name, own) for name, own in tasks.items()] for tasks in by_fewshot.values()]
        return ResidentSplit(split, groups, lm)

    def _part(self, lm: ResidentLM, split: Split, name: str, objectives: Sequence[Objective]) -> Part:
        chat = self._evaluation.apply_chat_template
        resident = ResidentTask(self._tasks[name], self._items[name][split], lm, chat, FEWSHOT_SEED)
        settings = {
            "batch_size": self._evaluation.batch_size,
            "dtype": str(lm.model.dtype),
            "device": lm.device.type,
            "apply_chat_template": chat,
            "versions": versions(),
        }
        return Part(resident, tuple(objectives), settings)


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
