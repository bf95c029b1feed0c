"""The tasks of one split of the items in a resident model: scored in whole, or rung by rung."""

from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence

from campaigns.errors import FieldError, InvalidSpec, field_error
from campaigns.objectives import Items, Measurement, Split
from evaluators.measuring import measure
from evaluators.resident_lm import ResidentLM
from evaluators.run import Answered, Part, Run, joined
from evaluators.seeds import lm_eval_seeds

FrozenItems = tuple[tuple[str, tuple[int, ...]], ...]


class ResidentSplit:
    """Answers all items of a split in one run, or those of each rung in a run of its own.

    `groups` are the parts that `lm_eval` answers in one command each, those of one `num_fewshot`. Runs of rungs are
    planned when they are first asked for and kept, as are the protocols of rungs together: a campaign has few of them.
    Answers to rungs are kept until `forget`.
    """

    def __init__(self, split: Split, groups: Sequence[Sequence[Part]], lm: ResidentLM) -> None:
        self._split: Split = split
        self._lm = lm
        self.runs = [Run(group, lm) for group in groups]
        self._parts = {part.task.name: part for group in groups for part in group}
        self._runs_of_rungs: dict[FrozenItems, list[Run]] = {}
        self._joined_parts: dict[FrozenItems, list[Part]] = {}
        self._answers: dict[FrozenItems, dict[str, Answered]] = {}

    def forget(self) -> None:
        """Forget the answers to rungs: the weights are others now."""
        self._answers.clear()

    def measure(self) -> list[Measurement]:
        """Return the measurements on all items, answered anew in one run. Raises `BadCandidate`."""
        found: list[Measurement] = []
        for run in self.runs:
            with lm_eval_seeds():
                answered = run.answer()
                for part in run.parts:
                    found += measure(part, self._split, answered[part.task.name])
        return found

    def measure_rungs(self, rungs: Sequence[Items]) -> list[Measurement]:
        """Return the measurements on the items of `rungs` together; only rungs without an answer yet are answered.

        Raises `BadCandidate`, and `InvalidSpec` where a rung has items that are not the split's, rungs share an item,
        or a task that has items has none in any of them.
        """
        self._check(rungs)
        answers = [self._answers_to(_frozen(rung)) for rung in rungs]
        found: list[Measurement] = []
        with lm_eval_seeds():
            for part in self._joined(rungs):
                name = part.task.name
                own = joined([answered[name] for answered in answers if name in answered])
                found += measure(part, self._split, own)
        return found

    def runs_of(self, rung: Items) -> list[Run]:
        """Return the runs that answer `rung`, one per group of tasks with items in it. Raises `InvalidSpec`."""
        if errors := self._strange("rung", rung):
            raise InvalidSpec(errors)
        return self._planned(_frozen(rung))

    def _answers_to(self, rung: FrozenItems) -> dict[str, Answered]:
        if rung not in self._answers:
            self._answers[rung] = _answer(self._planned(rung))
        return self._answers[rung]

    def _planned(self, rung: FrozenItems) -> list[Run]:
        if rung not in self._runs_of_rungs:
            items = dict(rung)
            groups = [[part for part in run.parts if part.task.name in items] for run in self.runs]
            self._runs_of_rungs[rung] = [
                Run([part.only(items[part.task.name]) for part in group], self._lm) for group in groups if group
            ]
        return self._runs_of_rungs[rung]

    def _joined(self, rungs: Sequence[Items]) -> list[Part]:
        together = _union(rungs)
        key = _frozen(together)
        if key not in self._joined_parts:
            self._joined_parts[key] = [part.only(together[name]) for name, part in self._parts.items()]
        return self._joined_parts[key]

    def _check(self, rungs: Sequence[Items]) -> None:
        errors: list[FieldError] = []
        for index, rung in enumerate(rungs):
            errors += self._strange(f"rungs.{index}", rung)
        for name, documents in _union(rungs).items():
            if twice := sorted(document for document, times in Counter(documents).items() if times > 1):
                errors.append(field_error(f"rungs.{name}", twice, "rungs have items in common"))
        errors += [
            field_error("rungs", name, "no rung has an item of this task")
            for name in self._parts
            if not any(rung.get(name) for rung in rungs)
        ]
        if errors:
            raise InvalidSpec(errors)

    def _strange(self, field: str, rung: Items) -> list[FieldError]:
        """Return an error for each task of `rung` with items that this split does not have."""
        errors = []
        for name, documents in rung.items():
            known = self._parts[name].task.documents if name in self._parts else ()
            if strange := sorted(set(documents) - set(known)):
                message = f"these are no {self._split} items of task {name!r}"
                errors.append(field_error(f"{field}.{name}", strange, message, f"some of its {len(known)} items"))
        return errors


def _answer(runs: Sequence[Run]) -> dict[str, Answered]:
    answered: dict[str, Answered] = {}
    for run in runs:
        with lm_eval_seeds():
            answered |= run.answer()
    return answered


def _union(rungs: Sequence[Items]) -> Items:
    together: dict[str, list[int]] = defaultdict(list)
    for rung in rungs:
        for name, documents in rung.items():
            together[name] += documents
    return {name: tuple(documents) for name, documents in together.items()}


def _frozen(items: Mapping[str, Sequence[int]]) -> FrozenItems:
    """Return what two sets of items share if and only if they are equal."""
    return tuple(sorted((name, tuple(sorted(documents))) for name, documents in items.items() if documents))
