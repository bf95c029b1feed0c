"""How mergekit names a model: a directory, `owner/name`, either with `@revision`, and `model+adapter`."""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from campaigns.errors import FieldError, field_error, unknown_name
from campaigns.pools import CheckpointSpec

Local = Callable[[str], str | None]
"""Return the directory that a path of the document means, None when there is no such directory."""

HUB = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")
NOT_IN_NAMES = re.compile(r"[^A-Za-z0-9._-]+")
NAME_LENGTH = 56


@dataclass(frozen=True)
class Place:
    """Where a model lies: a directory, or a repository of the hub at a revision."""

    path: str | None = None
    hub: str | None = None
    revision: str | None = None

    def checkpoint(self, taken: set[str]) -> CheckpointSpec:
        """Return the place as a checkpoint with a short name that is not among `taken`, and add the name to them."""
        last = (self.path or self.hub or "").rstrip("/").rsplit("/", 1)[-1]
        stem = NOT_IN_NAMES.sub("-", last).lstrip("._-")[:NAME_LENGTH] or "model"
        name = next(name for name in _numbered(stem) if name not in taken)
        taken.add(name)
        return CheckpointSpec(name=name, path=self.path, hub=self.hub, revision=self.revision)


@dataclass(frozen=True)
class ModelReference:
    """A model as the document names it; `adapter` is the LoRA adapter that goes on top of it."""

    model: Place
    adapter: Place | None = None

    @property
    def place(self) -> Place:
        """What is read beside the base: the adapter if there is one."""
        return self.adapter or self.model


def parse_reference(found: object, field: str, local: Local, errors: list[FieldError]) -> ModelReference | None:
    """Read the reference at `field`; None, and an error more, when it is none."""
    if isinstance(found, str) and found:
        if (whole := local(found)) is not None:  # a directory may have + or @ in its name
            return ModelReference(Place(path=whole))
        model, plus, adapter = found.partition("+")
        return _joined(model, adapter if plus else None, field, local, errors)
    if isinstance(found, Mapping):
        for key in found:
            if key not in ("model", "lora"):
                errors.append(unknown_name(f"{field}.{key}", str(key), ("model", "lora"), "key of a model reference"))
        return _joined(found.get("model"), found.get("lora"), field, local, errors)
    errors.append(field_error(field, found, "a model is named by its directory or repository", "path, or owner/name"))
    return None


def _joined(
    model: object, adapter: object, field: str, local: Local, errors: list[FieldError]
) -> ModelReference | None:
    base = _place(model, field, local, errors)
    top = None if adapter is None else _place(adapter, field, local, errors)
    if base is None or (adapter is not None and top is None):
        return None
    return ModelReference(base, top)


def _place(found: object, field: str, local: Local, errors: list[FieldError]) -> Place | None:
    if isinstance(found, Mapping) and isinstance(found.get("path"), str):
        path, revision = found["path"], found.get("revision")
    else:
        path, _, text = str(found or "").partition("@")
        revision = text or None
    if (directory := local(path)) is not None:
        if revision is not None:
            errors.append(field_error(field, found, "a revision goes with a hub repository, not with a directory"))
        return Place(path=directory)
    if HUB.fullmatch(path):
        return Place(hub=path, revision=revision)
    message = "there is no such directory, and it is no hub repository's name"
    errors.append(field_error(field, found, message, "a model directory, or owner/name"))
    return None


def _numbered(stem: str) -> list[str]:
    return [stem, *(f"{stem}-{number}" for number in range(2, 200))]
