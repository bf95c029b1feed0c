"""Cursors of lists of trials: opaque to clients, who only hand them back."""

import base64
import json
import math
from collections.abc import Sequence

from campaigns.errors import InvalidInput, field_error, unknown_name
from campaigns.objectives import Objective
from storage.trial_listing import SORTS, TrialPlace

MAX_NUMBER = 2**31


def parse_sort(sort: str, objectives: Sequence[Objective]) -> tuple[str, bool]:
    """Return what to sort by, and whether from the highest down. Raises `InvalidInput` for anything else."""
    name = sort.removeprefix("-")
    known = (*SORTS, *(objective.name for objective in objectives))
    if name not in known:
        raise InvalidInput([unknown_name("sort", sort, known, "order; a - before it turns it round")])
    return name, name != sort


def cursor_of(sort: str, place: TrialPlace) -> str:
    """Return the cursor of the page that follows `place` in the order `sort`, a minus sign included."""
    return base64.urlsafe_b64encode(json.dumps([sort, *place]).encode()).decode().rstrip("=")


def place_of(cursor: str, sort: str) -> TrialPlace:
    """Return where a cursor goes on. Raises `InvalidInput` for what is no cursor, or one of another order."""
    try:
        padded = cursor + "=" * (-len(cursor) % 4)
        sorted_by, key, number = json.loads(base64.urlsafe_b64decode(padded.encode("ascii")))
        place = TrialPlace(None if key is None else float(key), int(number))
        if not 0 <= place.number < MAX_NUMBER or not math.isfinite(place.key or 0.0):
            raise ValueError
    except (ValueError, TypeError, OverflowError, RecursionError):
        raise _wrong(cursor, "no cursor of this service") from None
    if sorted_by != sort:
        raise _wrong(cursor, f"a cursor of sort={sorted_by}, not of sort={sort}")
    return place


def _wrong(cursor: str, message: str) -> InvalidInput:
    return InvalidInput([field_error("cursor", cursor, message, "the next_cursor of the page before")])
