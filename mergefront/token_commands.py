"""`mergefront token`: the service's bearer tokens, kept in its database by whoever can open that."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from pydantic import ValidationError
from rich.console import Console
from rich.table import Table

from campaigns.errors import InvalidInput, MergefrontError, from_validation
from campaigns.tokens import Token, TokenScope, new_secret, secret_digest
from mergefront.options import Database, Home
from mergefront.readable_errors import readable_errors
from mergefront.settings import default_home, sqlite_url

if TYPE_CHECKING:
    from storage import Store

MOST_DAYS = 36_500

app = typer.Typer(
    name="token",
    help="Create, list and revoke the service's bearer tokens, on the machine of its database.",
    no_args_is_help=True,
)
console = Console()

Name = Annotated[str, typer.Argument(help="What the token is called: letters, digits and . _ @ -, 64 at most.")]


@app.command()
def create(
    name: Name,
    scope: Annotated[TokenScope, typer.Option(help="What it is for; each includes those before it.")],
    expires_in: Annotated[
        float | None, typer.Option(min=0, max=MOST_DAYS, metavar="DAYS", help="Default: it does not expire.")
    ] = None,
    home: Home = None,
    database: Database = None,
) -> None:
    """Create a token and print it: this once, as only its hash is kept."""
    with _store(home, database) as store:
        at, secret = datetime.now(UTC), new_secret()
        expires_at = None if expires_in is None else at + timedelta(days=expires_in)
        try:
            token = Token(name=name, scope=scope, created_at=at, expires_at=expires_at)
        except ValidationError as error:
            raise from_validation(error, kind=InvalidInput) from None
        store.add_token(token, secret_digest(secret))
    print(secret)  # noqa: T201  for a script to take


@app.command("list")
def list_tokens(
    home: Home = None,
    database: Database = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print a list of JSON objects.")] = False,
) -> None:
    """List all tokens, revoked and expired ones too, by when they were created."""
    with _store(home, database) as store:
        tokens = store.tokens()
    if as_json:
        print(json.dumps([token.model_dump(mode="json") for token in tokens], indent=2))  # noqa: T201  a document
    else:
        console.print(_table(tokens))


@app.command()
def revoke(name: Name, home: Home = None, database: Database = None) -> None:
    """Revoke a token. Running services refuse it within five seconds; it cannot be given back."""
    with _store(home, database) as store:
        store.revoke_token(name)
    console.print(f"{name} is revoked", highlight=False)


@contextmanager
def _store(home: Path | None, database: str | None) -> Iterator["Store"]:
    """Open the database that `mergefront serve` would, and close it."""
    from sqlalchemy.exc import SQLAlchemyError

    from storage import Store

    with readable_errors():
        try:
            store = Store.open(database or sqlite_url((home or default_home()).resolve()))
        except (SQLAlchemyError, ValueError) as error:
            raise MergefrontError(f"the database cannot be opened: {str(error).splitlines()[0]}") from error
        try:
            yield store
        finally:
            store.close()


def _table(tokens: list[Token]) -> Table:
    table = Table()
    for column in ("name", "scope", "state", "created", "expires", "last used"):
        table.add_column(column, overflow="fold")
    for token in tokens:
        times = (token.created_at, token.expires_at, token.last_used_at)
        table.add_row(token.name, token.scope, _state(token), *map(_shown, times))
    return table


def _state(token: Token) -> str:
    if token.revoked_at is not None:
        return "revoked"
    return "valid" if token.is_valid(datetime.now(UTC)) else "expired"


def _shown(at: datetime | None) -> str:
    return "never" if at is None else f"{at:%Y-%m-%d %H:%M}"
