"""The base of every noun: frozen, closed to unknown fields, and free of NaN and infinity."""

import hashlib
import json
from typing import Self

from pydantic import BaseModel, ConfigDict
from pydantic_core import PydanticCustomError


class Noun(BaseModel):
    """An immutable value. Two nouns with equal fields are the same noun."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    def replace(self, **changes: object) -> Self:
        """Return a copy with `changes`, validated again, so that a copy cannot be built wrong either."""
        return type(self).model_validate({**dict(self), **changes})


def canonical_digest(noun: Noun) -> str:
    """Return the sha256 (hex) of the noun's canonical JSON: sorted keys, no spaces, shortest floats."""
    text = json.dumps(noun.model_dump(mode="json"), sort_keys=True, separators=(",", ":"), allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()


def wrong(field: str, value: object, message: str, allowed: str | None = None) -> PydanticCustomError:
    """Return what a validator raises about `field`, a dotted path from its own noun on; "" is the noun itself."""
    return PydanticCustomError(
        "wrong", "{message}", {"message": message, "field": field, "value": value, "allowed": allowed}
    )
