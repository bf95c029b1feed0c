"""The protocol digest: measurements with an equal one were taken the same way on the same items, and compare."""

import hashlib
import inspect
import json
from collections.abc import Mapping, Sequence
from typing import Any

from campaigns.objectives import Objective

# Where a task lies on this machine says nothing about what it measures: the items' content is digested instead.
PLACES = ("dataset_path", "dataset_name", "dataset_kwargs", "metadata", "custom_dataset")


def content_digest(requests: Sequence[Any]) -> str:
    """Return the sha256 (hex) of a document's lm-eval requests: document, prompts, answers and generation settings."""
    return _digest([[request.idx, request.doc, request.args] for request in requests])


def protocol_digest(
    objective: Objective, task: Any, documents: tuple[int, ...], contents: Sequence[str], settings: Mapping[str, object]
) -> str:
    """Return the sha256 (hex) of how `objective` is measured.

    `contents` are the digests of the documents' requests, in the order of `documents`; `settings` has batch size,
    dtype, type of device, chat template and library versions.
    """
    configuration = {key: value for key, value in task.config.to_dict(keep_callable=True).items() if key not in PLACES}
    return _digest(
        {
            "task": configuration,
            "version": task.VERSION,
            "metric": objective.metric,
            "filter": objective.filter,
            "documents": documents,
            "contents": contents,
            "settings": dict(settings),
        }
    )


def _digest(value: object) -> str:
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), default=_written)
    return hashlib.sha256(text.encode()).hexdigest()


def _written(value: object) -> object:
    """Return something JSON can hold, free of memory addresses: a function is its source."""
    if callable(value):
        try:
            return inspect.getsource(value)
        except (OSError, TypeError):
            return f"{getattr(value, '__module__', '')}.{getattr(value, '__qualname__', type(value).__name__)}"
    if hasattr(value, "__dict__"):
        return {"type": type(value).__name__, **vars(value)}
    if hasattr(value, "tolist"):
        return value.tolist()
    return type(value).__name__
