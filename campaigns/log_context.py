"""What a line of the log is about: fields that whoever works on something sets for all that is logged meanwhile."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from types import MappingProxyType

NOTHING: Mapping[str, str] = MappingProxyType({})

_fields: ContextVar[Mapping[str, str]] = ContextVar("log_fields", default=NOTHING)


@contextmanager
def log_fields(**fields: str) -> Iterator[None]:
    """Add `fields`, such as campaign_id, to every line that this thread or task logs until the block ends."""
    token = _fields.set({**_fields.get(), **fields})
    try:
        yield
    finally:
        _fields.reset(token)


def present_log_fields() -> Mapping[str, str]:
    """Return the fields that are set here and now."""
    return _fields.get()
