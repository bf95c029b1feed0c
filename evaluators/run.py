"""One run: several tasks, answered together and scored document by document, as one command of `lm_eval` does."""

from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from campaigns.objectives import Objective
from evaluators.protocol import protocol_digest
from evaluators.resident_lm import Generation, ResidentLM
from evaluators.resident_task import RawMetrics, ResidentTask


@dataclass(frozen=True)
class Part:
    """Some documents of a task, and the objectives taken from it; `settings` is what else their protocols tell."""

    task: ResidentTask
    objectives: tuple[Objective, ...]
    settings: Mapping[str, object]

    def only(self, documents: Iterable[int]) -> "Part":
        """Return the part with some of its documents."""
        return Part(self.task.only(documents), self.objectives, self.settings)

    @cached_property
    def protocols(self) -> tuple[str, ...]:
        """The protocol digest of each objective."""
        task = self.task
        contents = [*task.contents.values()]
        return tuple(
            protocol_digest(objective, task.task, task.documents, contents, self.settings)
            for objective in self.objectives
        )


@dataclass(frozen=True)
class Answered:
    """What a model made of a task's documents: their values, and what it wrote where the task has it write."""

    raw: RawMetrics
    generations: tuple[Generation, ...]


def joined(answers: Sequence[Answered]) -> Answered:
    """Return the answers to disjoint sets of a task's documents as one, in ascending order of the documents."""
    values: RawMetrics = defaultdict(dict)
    for answered in answers:
        for key, by_document in answered.raw.items():
            values[key] |= by_document
    raw = {key: dict(sorted(by_document.items())) for key, by_document in values.items()}
    return Answered(raw, tuple(generation for answered in answers for generation in answered.generations))


class Run:
    """Tasks whose requests go to the model together: all requests of one type at once, in the order of the tasks."""

    def __init__(self, parts: Sequence[Part], lm: ResidentLM) -> None:
        self.parts = tuple(parts)
        by_type: dict[str, list[Any]] = defaultdict(list)
        for part in parts:
            for request in part.task.requests:
                by_type[request.request_type] += [request] * request.repeats
        self._plans: list[tuple[list[Any], Callable[[], list[Any]]]] = [
            (requests, lm.plan(request_type, requests)) for request_type, requests in by_type.items()
        ]

    def answer(self) -> dict[str, Answered]:
        """Return what the model's current weights make of each task, by its name. Raises `BadCandidate`."""
        for part in self.parts:
            part.task.clear()
        generations: dict[str, list[Generation]] = defaultdict(list)
        for requests, answer in self._plans:
            for request, answered in zip(requests, answer(), strict=True):
                if isinstance(answered, Generation):
                    generations[request.task_name].append(answered)
                    request.resps.append(answered.text)
                else:
                    request.resps.append(answered)
        return {
            part.task.name: Answered(
                part.task.score(objective.filter for objective in part.objectives),
                tuple(generations[part.task.name]),
            )
            for part in self.parts
        }
