"""Every error that Mergefront raises on purpose, as one tree.

MergefrontError                500
├── InvalidInput               422  what the caller sent cannot be used; names each field
│   ├── InvalidSpec            422  a campaign spec that is wrong in itself or against the inventory
│   ├── InvalidCheckpoint      422  a checkpoint that is missing, forbidden, unsafe, corrupt or not finite
│   └── MisfitPool             422  checkpoints that cannot be merged with each other
├── NotFound                   404  no campaign, trial or file of that name
│   └── Gone                   410  the campaign has been deleted
├── Conflict                   409  the request does not go with the present state
│   ├── Unconfirmed            409  what cannot be undone must be asked for twice
│   ├── IllegalTransition      409  a campaign or trial cannot make that step from where it is
│   └── LeaseLost              409  another worker holds the campaign now; a stale tell is refused
├── ChangedMeanwhile           412  the campaign is no longer what the caller last saw
├── NotReady                   503  no worker has published what it can do yet
├── BadCandidate               -    a point that cannot be scored (NaN logits): the trial is infeasible
└── Fault                      -    something broke while evaluating: the trial is retried
"""

import difflib
from collections.abc import Iterable, Sequence
from typing import ClassVar

from pydantic import ValidationError

from campaigns.noun import Noun

SHOWN_VALUE_CHARACTERS = 120
TAGGED_FIELDS = ("space", "strategy", "method")


class FieldError(Noun):
    """One thing that is wrong: the dotted path of the field, the value found, and what is allowed."""

    field: str
    value: str
    message: str
    allowed: str | None = None

    def __str__(self) -> str:
        allowed = f" (allowed: {self.allowed})" if self.allowed else ""
        return f"{self.field}: {self.message}; got {self.value}{allowed}"


def field_error(field: str, value: object, message: str, allowed: str | None = None) -> FieldError:
    """Build a `FieldError`, cutting a long value short."""
    shown = repr(value)
    if len(shown) > SHOWN_VALUE_CHARACTERS:
        shown = shown[:SHOWN_VALUE_CHARACTERS] + "..."
    return FieldError(field=field, value=shown, message=message, allowed=allowed)


def unknown_name(field: str, value: str, known: Iterable[str], noun: str) -> FieldError:
    """Build the error for a name that is not among `known`, suggesting the nearest ones."""
    names = sorted(known)
    near = difflib.get_close_matches(value, names, n=3, cutoff=0.5)
    hint = f", did you mean {' or '.join(repr(name) for name in near)}?" if near else ""
    listed = ", ".join(names[:12]) + (f", ... ({len(names)} in all)" if len(names) > 12 else "")
    return field_error(field, value, f"no such {noun}{hint}", listed or f"no {noun} is known")


class MergefrontError(Exception):
    """The root of the tree."""

    status: ClassVar[int] = 500
    title: ClassVar[str] = "Mergefront failed"


class InvalidInput(MergefrontError):
    """What the caller sent cannot be used. `errors` names everything that is wrong, at once."""

    status = 422
    title = "Invalid input"

    def __init__(self, errors: Sequence[FieldError]) -> None:
        self.errors = tuple(errors)
        super().__init__("\n".join(str(error) for error in self.errors))

    def __reduce__(self) -> tuple[type["InvalidInput"], tuple[tuple[FieldError, ...]]]:
        return type(self), (self.errors,)


class InvalidSpec(InvalidInput):
    """A campaign spec that is wrong in itself, or asks for what no worker offers."""

    title = "Invalid campaign spec"


class InvalidCheckpoint(InvalidInput):
    """A checkpoint that is missing, outside the model roots, unsafe, corrupt or not finite."""

    title = "Invalid checkpoint"


class MisfitPool(InvalidInput):
    """Checkpoints that cannot be merged with each other."""

    title = "Checkpoints do not fit together"


class NotFound(MergefrontError):
    """No campaign, trial or file of that name."""

    status = 404
    title = "Not found"


class Gone(NotFound):
    """The campaign has been deleted. Its id is never given again."""

    status = 410
    title = "Gone"


class Conflict(MergefrontError):
    """The request does not go with the present state."""

    status = 409
    title = "Conflict"


class Unconfirmed(Conflict):
    """What was asked for cannot be undone, and was not confirmed."""

    title = "Not confirmed"


class IllegalTransition(Conflict):
    """A campaign or trial cannot make that step from where it is."""

    title = "Illegal transition"


class LeaseLost(Conflict):
    """Another worker holds the campaign now; a stale worker's write is refused."""

    title = "Lease lost"


class ChangedMeanwhile(MergefrontError):
    """The campaign is no longer what the caller last saw, and If-Match says to change nothing then."""

    status = 412
    title = "Changed meanwhile"


class NotReady(MergefrontError):
    """No worker has published what it can do yet."""

    status = 503
    title = "Not ready"


class BadCandidate(MergefrontError):
    """The merged model cannot be scored (NaN logits, for one): its trial is infeasible, never retried."""


class Fault(MergefrontError):
    """Something broke while a trial was evaluated: it is retried, and never becomes a score."""


def from_validation(error: ValidationError, root: str = "", kind: type[InvalidInput] = InvalidSpec) -> InvalidInput:
    """Turn pydantic's error into ours: dotted field paths, the value, pydantic's message.

    Nouns that check several fields together raise what `wrong` returns, whose field then
    extends the path.
    """
    errors = []
    found_errors = error.errors()
    places = [found["loc"] for found in found_errors]
    for found in found_errors:
        if found["type"] == "too_short" and any(_lies_within(place, found["loc"]) for place in places):
            continue  # pydantic does not count the wrong items of a sequence, and calls it too short as well
        context = found.get("ctx", {})
        path = [root, *_without_tags(found["loc"]), str(context.get("field", ""))]
        field = ".".join(part for part in path if part) or "spec"
        value = context.get("value", found.get("input"))
        errors.append(field_error(field, value, found["msg"], context.get("allowed")))
    return kind(errors)


def _without_tags(location: tuple[int | str, ...]) -> list[str]:
    """Drop the tags that pydantic puts after a tagged union: users never wrote `space.linear.bounds`."""
    tags = {1} if location and location[0] in TAGGED_FIELDS else set()
    if location[:3] == ("space", "choice", "options"):
        tags.add(4)  # space.choice.options.0.ties.scale
    if location[:1] == ("rules",) and location[2:3] == ("method",):
        tags.add(3)  # rules.0.method.ties.scale
    return [str(part) for index, part in enumerate(location) if index not in tags]


def _lies_within(place: tuple[int | str, ...], outer: tuple[int | str, ...]) -> bool:
    return len(place) > len(outer) and place[: len(outer)] == outer
