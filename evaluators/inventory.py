"""What this worker can score: the operator's lm-eval tasks and lm-eval's own, read from YAML without running any of it.

lm-eval ships some 13,000 tasks in as many files. Reading them takes seconds (6 s on a 2-core machine), so what they
offer can be kept on disk, one file per version of lm-eval.
"""

import json
import logging
import os
import tempfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import lm_eval.tasks
from lm_eval.api import metrics as _registers_metrics  # noqa: F401
from lm_eval.api.registry import DEFAULT_METRIC_REGISTRY, HIGHER_IS_BETTER_REGISTRY
from lm_eval.tasks._index import Kind, TaskIndex

from campaigns.inventory import MetricOffer, TaskOffer

log = logging.getLogger(__name__)

OUTPUT_TYPES = ("generate_until", "multiple_choice", "loglikelihood", "loglikelihood_rolling")
LIBRARIES = ("lm_eval", "transformers", "tokenizers", "torch", "datasets")


def versions() -> dict[str, str]:
    """Return the versions of the libraries that make the scores, by distribution name."""
    return {name: version(name) for name in LIBRARIES}


def offered_tasks(
    task_folders: Sequence[Path], cache_directory: Path | None = None, built_in: bool = True
) -> dict[str, TaskOffer]:
    """Return the tasks that can be asked for, by name; a folder's task hides one of lm-eval's own with its name.

    Groups, tasks written in Python, tasks that run code which the model wrote and tasks with images or sound are left
    out. `cache_directory` keeps what lm-eval's own tasks offer between starts; `built_in` False leaves those out.
    Raises `NotADirectoryError` when a folder is missing.
    """
    for folder in task_folders:
        if not folder.is_dir():
            raise NotADirectoryError(f"task folder {str(folder)!r} is not a directory")
    offers = _built_in(cache_directory) if built_in else {}
    return offers | _read(task_folders)


def _built_in(cache_directory: Path | None) -> dict[str, TaskOffer]:
    own = [Path(lm_eval.tasks.__file__).parent]
    if cache_directory is None:
        return _read(own)
    file = cache_directory / f"lm-eval-tasks-{version('lm_eval')}.json"
    if not file.is_file():
        offers = _read(own)
        _write_whole(file, {name: offer.model_dump(mode="json") for name, offer in offers.items()})
        return offers
    return {name: TaskOffer.model_validate(offer) for name, offer in json.loads(file.read_text()).items()}


def _write_whole(file: Path, content: object) -> None:
    """Write `content` as JSON so that a reader sees all of it or nothing, also with several writers."""
    file.parent.mkdir(parents=True, exist_ok=True)
    handle, temporary = tempfile.mkstemp(dir=file.parent, prefix=file.name)
    with os.fdopen(handle, "w") as stream:
        json.dump(content, stream)
    Path(temporary).replace(file)


def _read(folders: Iterable[Path]) -> dict[str, TaskOffer]:
    """Read YAML as lm-eval's own index does: includes are followed, `!function` stays a name and runs nothing."""
    entries = TaskIndex.build(list(folders))
    offers: dict[str, TaskOffer] = {}
    for name, entry in entries.items():
        if entry.kind is not Kind.TASK or not entry.cfg:
            continue
        try:
            offer = _offer(name, entry.cfg)
        except (TypeError, KeyError, AttributeError) as error:
            log.warning("task %r in %s is malformed and left out: %r", name, entry.yaml_path, error)
            continue
        if offer is not None:
            offers[name] = offer
    return offers


def _offer(name: str, config: Mapping[str, Any]) -> TaskOffer | None:
    output_type = config.get("output_type", "generate_until")
    unsupported = (
        config.get("unsafe_code", False) is not False or config.get("doc_to_image") or config.get("doc_to_audio")
    )
    if unsupported or output_type not in OUTPUT_TYPES:
        return None
    metrics = tuple(
        MetricOffer(metric=metric, filter=filter_name, higher_is_better=higher_is_better)
        for metric, higher_is_better in _metrics(config, output_type)
        for filter_name in _filters(config)
    )
    return TaskOffer(name=name, output_type=output_type, metrics=metrics) if metrics else None


def _metrics(config: Mapping[str, Any], output_type: str) -> Iterator[tuple[str, bool]]:
    """Yield (metric, whether higher is better); a metric that is a function goes by the function's name."""
    listed = config.get("metric_list")
    if listed is None:
        listed = [{"metric": metric} for metric in DEFAULT_METRIC_REGISTRY[output_type]]
    for entry in listed:
        metric = str(entry["metric"])
        if "/" in metric:
            metric = metric.rpartition(".")[2]
        yield metric, bool(entry.get("higher_is_better", HIGHER_IS_BETTER_REGISTRY.get(metric, True)))


def _filters(config: Mapping[str, Any]) -> list[str]:
    listed = config.get("filter_list")
    return ["none"] if not isinstance(listed, list) else [str(entry["name"]) for entry in listed]
