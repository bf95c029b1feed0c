"""The connection: one engine per URL, a transaction per call, and what SQLite and PostgreSQL do apart."""

import json
import sqlite3
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from sqlalchemy import Connection, Engine, create_engine, event, make_url, select
from sqlalchemy.engine import URL
from sqlalchemy.orm import Session
from sqlalchemy.sql import func

BUSY_TIMEOUT_SECONDS = 30
SCHEMA_LOCK = 0x6D657267  # keys of PostgreSQL's advisory locks; any two numbers that nobody else uses
EVENT_ORDER_LOCK = SCHEMA_LOCK + 1


class Database:
    """Opens transactions. Writers of SQLite take the write lock at once, so that none fails halfway for want of it."""

    def __init__(self, url: str) -> None:
        parsed = _supported(url)
        self.engine = create_engine(parsed, json_serializer=_dump_json, pool_pre_ping=parsed.drivername != "sqlite")
        self._writing: Engine = self.engine
        self._reading: Engine = self.engine
        if self.is_sqlite:
            _prepare_sqlite(self.engine)
            self._writing = self.engine.execution_options(sqlite_begin="BEGIN IMMEDIATE")
        else:
            # As on SQLite: several statements of one read see one state of the database.
            self._reading = self.engine.execution_options(isolation_level="REPEATABLE READ")

    @property
    def is_sqlite(self) -> bool:
        """Whether one file is the database."""
        return self.engine.dialect.name == "sqlite"

    @contextmanager
    def read(self) -> Iterator[Session]:
        """Yield a session on one snapshot."""
        with Session(self._reading) as session, session.begin():
            yield session

    @contextmanager
    def write(self) -> Iterator[Session]:
        """Yield a session whose changes are committed together when the block ends well, else not at all."""
        with Session(self._writing) as session, session.begin():
            yield session

    @contextmanager
    def schema_change(self) -> Iterator[Connection]:
        """Yield a connection in a transaction that no other `schema_change` of any process overlaps."""
        with self._writing.connect() as connection, connection.begin():
            if not self.is_sqlite:
                connection.execute(select(func.pg_advisory_xact_lock(SCHEMA_LOCK)))
            yield connection

    def close(self) -> None:
        """Close every connection."""
        self.engine.dispose()


def _supported(url: str) -> URL:
    parsed = make_url(url)
    if parsed.drivername in ("postgresql", "postgres"):
        parsed = parsed.set(drivername="postgresql+psycopg")
    if parsed.drivername not in ("sqlite", "postgresql+psycopg"):
        raise ValueError(f"database URL {parsed!r}: use sqlite:///FILE or postgresql+psycopg://USER@HOST/NAME")
    if parsed.drivername == "sqlite":
        if not parsed.database or parsed.database == ":memory:":
            raise ValueError(f"database URL {parsed!r}: processes share the database, so SQLite needs a file")
        Path(parsed.database).parent.mkdir(parents=True, exist_ok=True)
    return parsed


def _dump_json(value: Any) -> str:
    return json.dumps(value, allow_nan=False, separators=(",", ":"))


def _prepare_sqlite(engine: Engine) -> None:
    @event.listens_for(engine, "connect")
    def on_connect(connection: sqlite3.Connection, record: object) -> None:
        # The driver must not open transactions by itself: it would do so late, and as a reader.
        connection.isolation_level = None
        connection.execute(f"PRAGMA busy_timeout = {BUSY_TIMEOUT_SECONDS * 1000}")
        connection.execute("PRAGMA foreign_keys = ON")
        _use_write_ahead_log(connection)

    @event.listens_for(engine, "begin")
    def on_begin(connection: Connection) -> None:
        connection.exec_driver_sql(connection.get_execution_options().get("sqlite_begin", "BEGIN"))


def _use_write_ahead_log(connection: sqlite3.Connection) -> None:
    """Switch to WAL, which lasts in the file. SQLite does not wait its busy timeout for this one lock."""
    deadline = time.monotonic() + BUSY_TIMEOUT_SECONDS
    while connection.execute("PRAGMA journal_mode").fetchone()[0] != "wal":
        try:
            connection.execute("PRAGMA journal_mode = WAL")
        except sqlite3.OperationalError:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.01)
