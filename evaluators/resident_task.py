"""One lm-eval task with the requests of one split: built once, scored for every candidate."""

import copy
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from lm_eval.api.task import ConfigurableTask

from evaluators.protocol import content_digest

RawMetrics = dict[tuple[str, str], dict[int, Any]]
"""By (metric, filter): each document's value."""


class ResidentTask:
    """A task's requests on some of its documents, and what lm-eval makes of the answers.

    `documents` are indices into the task's evaluation documents, in ascending order: lm-eval visits them in that order
    whatever the order of `--samples`. `requests` are lm-eval's instances, in its order; `contents` has the digest of
    each document's requests.
    """

    def __init__(
        self, task: Any, documents: Sequence[int], lm: Any, apply_chat_template: bool, fewshot_seed: int
    ) -> None:
        self.task = task
        self.name: str = task.task_name
        self.documents = tuple(documents)
        task.set_fewshot_seed(seed=fewshot_seed)  # the sampler goes on drawing: each split starts where a run would
        task.build_all_requests(
            samples=frozenset(documents),  # lm-eval asks `index in samples` for each document
            system_instruction=None,
            apply_chat_template=apply_chat_template,
            fewshot_as_multiturn=apply_chat_template,
            chat_template=lm.apply_chat_template if apply_chat_template else None,
            tokenizer_name=lm.tokenizer_name if apply_chat_template else "",
        )
        self._groups: dict[int, list[Any]] = defaultdict(list)
        for request in task.instances:
            self._groups[self.documents[request.doc_id]].append(request)  # lm-eval counts among the chosen documents
        self.contents = {document: content_digest(group) for document, group in self._groups.items()}
        self.aggregation: dict[str, Callable[[Sequence[Any]], Any]] = task.aggregation()
        self._results = _remembering_results(task, [group[0].doc for group in self._groups.values()])

    @property
    def requests(self) -> list[Any]:
        """The requests of all documents."""
        return [request for group in self._groups.values() for request in group]

    def only(self, documents: Iterable[int]) -> "ResidentTask":
        """Return the same task on some of its documents: the same requests, and none of them built again."""
        kept = set(documents)
        part = copy.copy(self)
        part.documents = tuple(document for document in self.documents if document in kept)
        part.contents = {document: digest for document, digest in self.contents.items() if document in kept}
        part._groups = {document: group for document, group in self._groups.items() if document in kept}
        return part

    def clear(self) -> None:
        """Forget the answers of the candidate before."""
        for request in self.requests:
            request.resps = []
            request.filtered_resps = {}

    def score(self, filters: Iterable[str]) -> RawMetrics:
        """Return each document's values, in ascending order of the documents, as `lm_eval` collects them.

        The answers are in the requests' `resps` by now, one per repeat.
        """
        requests = self.requests
        wanted = tuple(dict.fromkeys(filters))
        for pipeline in self.task._filters:
            if pipeline.name in wanted:
                pipeline.apply(requests)
        raw: RawMetrics = defaultdict(dict)
        for name in wanted:
            for document, group in self._groups.items():
                ordered = sorted(group, key=lambda request: request.idx)
                found = self._results(group[0].doc, [request.filtered_resps[name] for request in ordered])
                for metric, value in found.items():
                    raw[metric, name][document] = value
        return raw


def _remembering_results(task: Any, documents: Sequence[Any]) -> Callable[[Any, list[Any]], dict[str, Any]]:
    """Return the task's `process_results`, with the targets and choices of `documents` rendered once.

    lm-eval compiles and renders a template for each of them at every evaluation. A task's own function gets a copy of
    the document, as it may write into it; targets and choices that are lists are copied for the same reason.
    """
    if type(task) is not ConfigurableTask or callable(task.config.process_results):
        return lambda document, results: dict(task.process_results(copy.deepcopy(document), results))
    remembered = _Remembered(task, documents)
    return lambda document, results: dict(ConfigurableTask.process_results(remembered, document, results))


class _Remembered:
    """Stands in for a task inside `process_results`: same attributes, templates of known documents rendered once."""

    def __init__(self, task: Any, documents: Sequence[Any]) -> None:
        self._task = task
        self._kept = list(documents)  # keeps them alive, so that no other object can take their id
        self._rendered: dict[tuple[str, int], Any] = {}

    def __getattr__(self, name: str) -> Any:
        return getattr(self._task, name)

    def doc_to_text(self, document: Any) -> Any:
        return self._render("doc_to_text", document)

    def doc_to_target(self, document: Any) -> Any:
        return self._render("doc_to_target", document)

    def doc_to_choice(self, document: Any) -> Any:
        return self._render("doc_to_choice", document)

    def _render(self, template: str, document: Any) -> Any:
        key = (template, id(document))
        if key not in self._rendered:
            self._rendered[key] = getattr(self._task, template)(document)
        found = self._rendered[key]
        return list(found) if isinstance(found, list) else found
