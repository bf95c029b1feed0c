"""Bearer tokens: what callers of the service show, and what each lets them do."""

import hashlib
import secrets
from datetime import datetime
from enum import StrEnum
from typing import Annotated

from pydantic import AwareDatetime, StringConstraints

from campaigns.noun import Noun

PREFIX = "mf_"
"""What every secret starts with, so that scanners find one that was published by accident."""
SECRET_BYTES = 32

TokenName = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9][A-Za-z0-9._@-]{0,63}$")]


class TokenScope(StrEnum):
    """What a token lets its holder do; each scope includes those before it."""

    READ = "read"
    LAUNCH = "launch"
    ADMIN = "admin"

    def includes(self, needed: "TokenScope") -> bool:
        """Whether a holder of this scope may do what takes `needed`."""
        order = list(TokenScope)
        return order.index(self) >= order.index(needed)


class Token(Noun):
    """A token as it is remembered: without its secret. `last_used_at` is right to the minute."""

    name: TokenName
    scope: TokenScope
    created_at: AwareDatetime
    expires_at: AwareDatetime | None = None
    last_used_at: AwareDatetime | None = None
    revoked_at: AwareDatetime | None = None

    def is_valid(self, at: datetime) -> bool:
        """Whether the token opens anything at the moment `at`."""
        return self.revoked_at is None and (self.expires_at is None or at < self.expires_at)


def new_secret() -> str:
    """Return what the holder of a new token shows: 256 random bits."""
    return PREFIX + secrets.token_urlsafe(SECRET_BYTES)


def secret_digest(secret: str) -> str:
    """Return the sha256 (hex) of a secret, all that is ever stored of it.

    A slow, salted hash protects passwords, which can be guessed; nobody guesses 256 random bits.
    """
    return hashlib.sha256(secret.encode("utf-8", "surrogateescape")).hexdigest()
