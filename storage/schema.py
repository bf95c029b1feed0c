"""Bringing a database to the present schema, whatever revision it was left at."""

from functools import cache
from pathlib import Path

from alembic import command
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import Connection

from campaigns.errors import MergefrontError
from storage.database import Database

MIGRATIONS = Path(__file__).parent / "migrations"


def upgrade(database: Database) -> None:
    """Run the missing migrations, all or none; processes that open the same database wait for one another.

    Raises `MergefrontError` when the database was written by a later Mergefront.
    """
    config = _config()
    scripts = ScriptDirectory.from_config(config)
    with database.schema_change() as connection:
        present = _revision(connection)
        if present == scripts.get_current_head():
            return
        known = {script.revision for script in scripts.walk_revisions()}
        if present is not None and present not in known:
            raise MergefrontError(f"the database is at revision {present}, which this Mergefront does not know")
        config.attributes["connection"] = connection
        command.upgrade(config, "head")


def revisions(database: Database) -> tuple[str | None, str | None]:
    """Return the revision that `database` is at, None without a schema, and the one that this code works with."""
    with database.read() as session:
        return _revision(session.connection()), _head()


@cache
def _head() -> str | None:
    return ScriptDirectory.from_config(_config()).get_current_head()


def _revision(connection: Connection) -> str | None:
    return MigrationContext.configure(connection).get_current_revision()


def _config() -> Config:
    config = Config()
    config.set_main_option("script_location", str(MIGRATIONS).replace("%", "%%"))
    config.set_main_option("path_separator", "os")
    return config
