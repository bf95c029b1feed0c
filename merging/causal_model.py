"""The model of one checkpoint, as transformers builds it, and where the tensors of its files are in it."""

import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager

import torch
from torch import nn
from transformers import AutoModelForCausalLM, PreTrainedModel
from transformers.utils import logging as transformers_logging

from campaigns.errors import InvalidCheckpoint, field_error
from merging.checkpoint import CheckpointFiles

SHOWN_NAMES = 5
LOADING_PROBLEMS = {
    "missing_keys": "the files lack tensors that the architecture needs",
    "unexpected_keys": "the files hold tensors that the architecture does not take",
    "mismatched_keys": "tensors have other shapes than the configuration says",
}
"""What transformers reports when it loads a checkpoint, in words."""

Place = tuple[nn.Module, str]
"""A module and the attribute of it that is the tensor."""


def build_model(files: CheckpointFiles, dtype: torch.dtype, device: str | torch.device) -> PreTrainedModel:
    """Return the causal language model of a checkpoint, in evaluation mode; no code of the checkpoint is run.

    Raises `InvalidCheckpoint` when the architecture does not take exactly the tensors of the files.
    """
    with _without_progress_bars():
        model, report = AutoModelForCausalLM.from_pretrained(
            files.path,
            dtype=dtype,
            trust_remote_code=False,
            use_safetensors=True,
            local_files_only=True,
            output_loading_info=True,
        )
    refuse_names(files, {message: [str(name) for name in report[kind]] for kind, message in LOADING_PROBLEMS.items()})
    built: PreTrainedModel = model.to(device).eval()
    return built


def find_places(model: PreTrainedModel, files: CheckpointFiles) -> dict[str, Place]:
    """Return where each floating tensor of the files is in `model`, by its name in the files.

    Tensors that transformers leaves aside, as it does with computed buffers, have no place.
    Raises `InvalidCheckpoint` for others without one: fused experts, for example.
    """
    places = {name: _find_place(model, name) for name in files.merged_tensors}
    homeless = [name for name, place in places.items() if place is None and not _is_ignored(model, name)]
    refuse_names(files, {"the live model has no tensors of these names": homeless})
    return {name: place for name, place in places.items() if place is not None}


def refuse_names(files: CheckpointFiles, problems: Mapping[str, Sequence[str]]) -> None:
    """Raise `InvalidCheckpoint` with what is wrong and the tensors it is wrong with, if there are any."""
    errors = []
    for message, names in problems.items():
        if names:
            shown = ", ".join(sorted(names)[:SHOWN_NAMES]) + (", ..." if len(names) > SHOWN_NAMES else "")
            errors.append(field_error(files.field, shown, message))
    if errors:
        raise InvalidCheckpoint(errors)


def _find_place(model: PreTrainedModel, name: str) -> Place | None:
    prefix = f"{model.base_model_prefix}."
    for path in (name, prefix + name, name.removeprefix(prefix)):
        *parents, leaf = path.split(".")
        try:
            module = model.get_submodule(".".join(parents))
        except AttributeError:
            continue
        if isinstance(getattr(module, leaf, None), torch.Tensor):
            return module, leaf
    return None


def _is_ignored(model: PreTrainedModel, name: str) -> bool:
    patterns = model._keys_to_ignore_on_load_unexpected or ()
    return any(re.search(pattern, name) for pattern in patterns)


@contextmanager
def _without_progress_bars() -> Iterator[None]:
    shown = transformers_logging.is_progress_bar_enabled()
    transformers_logging.disable_progress_bar()
    try:
        yield
    finally:
        if shown:
            transformers_logging.enable_progress_bar()
