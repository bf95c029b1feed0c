"""Bearer tokens: kept by the hash of their secret, never deleted."""

import secrets
from datetime import datetime, timedelta

from sqlalchemy import exists, or_, select, update
from sqlalchemy.orm import Session

from campaigns.errors import Conflict, NotFound
from campaigns.tokens import Token
from storage.columns import now
from storage.rows import TokenRow

USED_EVERY = timedelta(minutes=1)
"""How long a token's last use stays as it was written."""


class TokenRepository:
    """Reads and writes tokens within one transaction."""

    def __init__(self, session: Session) -> None:
        self._session = session

    def add(self, token: Token, digest: str) -> None:
        """Write a token with the digest of its secret. Raises `Conflict` for a name that was ever given before."""
        if self._session.get(TokenRow, token.name) is not None:
            raise Conflict(f"there is, or was, a token {token.name!r}; a name is given once")
        self._session.add(TokenRow(**dict(token), digest=digest))
        self._session.flush()

    def all(self) -> list[Token]:
        """Return every token by creation, revoked and expired ones included."""
        rows = self._session.scalars(select(TokenRow).order_by(TokenRow.created_at, TokenRow.name))
        return [_noun(row) for row in rows]

    def has_any(self) -> bool:
        """Return whether a token was ever created."""
        return bool(self._session.scalar(select(exists(select(TokenRow.name)))))

    def has_valid(self, at: datetime) -> bool:
        """Return whether a token opens anything at the moment `at`."""
        unexpired = or_(TokenRow.expires_at.is_(None), TokenRow.expires_at > at)
        valid = select(TokenRow.name).where(TokenRow.revoked_at.is_(None), unexpired)
        return bool(self._session.scalar(select(exists(valid))))

    def with_digest(self, digest: str) -> Token | None:
        """Return the token whose secret has this digest, None when there is none."""
        row = self._session.scalar(select(TokenRow).where(TokenRow.digest == digest))
        return _noun(row) if row is not None and secrets.compare_digest(row.digest, digest) else None

    def note_use(self, name: str) -> None:
        """Write when the token was last used, unless that was written within the last minute."""
        at = now()
        is_old = or_(TokenRow.last_used_at.is_(None), TokenRow.last_used_at <= at - USED_EVERY)
        self._session.execute(update(TokenRow).where(TokenRow.name == name, is_old).values(last_used_at=at))

    def revoke(self, name: str) -> Token:
        """End a token; one that was revoked before stays as it is. Raises `NotFound`."""
        row = self._session.get(TokenRow, name)
        if row is None:
            raise NotFound(f"no token {name!r}")
        row.revoked_at = row.revoked_at or now()
        return _noun(row)


def _noun(row: TokenRow) -> Token:
    return Token.model_validate({name: getattr(row, name) for name in Token.model_fields})
