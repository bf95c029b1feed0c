"""Tokens: remembered by a hash, valid until they expire or are revoked, on both databases."""

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from sqlalchemy import update

from campaigns.errors import Conflict, NotFound
from campaigns.tokens import Token, TokenScope, new_secret, secret_digest
from storage import Store
from storage.database import Database
from storage.rows import TokenRow


@pytest.fixture
def add(store: Store) -> Callable[..., str]:
    """Add a token and return the digest of its secret."""

    def add(name: str, lasts: timedelta | None = None, scope: TokenScope = TokenScope.READ) -> str:
        at = datetime.now(UTC)
        digest = secret_digest(new_secret())
        expires_at = None if lasts is None else at + lasts
        store.add_token(Token(name=name, scope=scope, created_at=at, expires_at=expires_at), digest)
        return digest

    return add


def test_a_token_is_found_by_its_digest(store: Store, add: Callable[..., str]) -> None:
    assert not store.has_tokens()
    digest = add("ci", scope=TokenScope.LAUNCH)
    add("other")
    found = store.valid_token(digest)
    assert found is not None
    assert (found.name, found.scope, found.expires_at, found.last_used_at) == ("ci", TokenScope.LAUNCH, None, None)
    assert [token.name for token in store.tokens()] == ["ci", "other"]
    assert store.has_tokens()
    assert store.has_valid_token()
    for wrong in ("", digest[:-1], digest.upper(), secret_digest("mf_"), "%"):
        assert store.valid_token(wrong) is None


def test_expired_and_revoked_tokens_open_nothing_and_are_remembered(store: Store, add: Callable[..., str]) -> None:
    expired, lasting = add("expired", timedelta(seconds=-1)), add("lasting", timedelta(days=1))
    assert store.valid_token(expired) is None
    assert store.valid_token(lasting) is not None
    assert store.has_valid_token()
    revoked = store.revoke_token("lasting")
    assert revoked.revoked_at is not None
    assert store.valid_token(lasting) is None
    assert store.revoke_token("lasting") == revoked
    assert not store.has_valid_token()
    assert store.has_tokens()
    assert [token.name for token in store.tokens()] == ["expired", "lasting"]


def test_a_name_is_given_once(store: Store, add: Callable[..., str]) -> None:
    digest = add("ci")
    store.revoke_token("ci")
    with pytest.raises(Conflict, match="'ci'; a name is given once"):
        add("ci")
    assert store.valid_token(digest) is None
    with pytest.raises(NotFound, match="no token 'cj'"):
        store.revoke_token("cj")


def test_a_use_is_written_once_a_minute(store: Store, url: str, add: Callable[..., str]) -> None:
    digest = add("ci")
    store.note_use(used := _valid(store, digest))
    first = _valid(store, digest).last_used_at
    assert first is not None
    store.note_use(used)
    store.note_use(_valid(store, digest))
    assert _valid(store, digest).last_used_at == first
    database = Database(url)
    with database.write() as session:
        session.execute(update(TokenRow).values(last_used_at=first - timedelta(seconds=61)))
    database.close()
    store.note_use(_valid(store, digest))
    assert (_valid(store, digest).last_used_at or first) > first - timedelta(seconds=61)


def test_no_secret_is_in_the_database(tmp_path: Path, open_store: Callable[[str], Store]) -> None:
    store = open_store(f"sqlite:///{tmp_path}/store.sqlite")
    secret = new_secret()
    store.add_token(Token(name="ci", scope=TokenScope.ADMIN, created_at=datetime.now(UTC)), secret_digest(secret))
    assert store.valid_token(secret_digest(secret)) is not None
    content = b"".join(file.read_bytes() for file in tmp_path.iterdir())
    assert secret_digest(secret).encode() in content
    assert secret.encode() not in content


def _valid(store: Store, digest: str) -> Token:
    token = store.valid_token(digest)
    assert token is not None
    return token
