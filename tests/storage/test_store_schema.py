"""Migrations: they make the tables that the rows describe, and bring every saved database up to date."""

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from alembic import command
from alembic.autogenerate import compare_metadata
from alembic.runtime.migration import MigrationContext
from sqlalchemy import ColumnClause, TableClause, create_engine, insert, inspect, select, text

from campaigns.campaign import SearchSummary
from campaigns.errors import MergefrontError
from campaigns.states import CampaignState, CampaignStep, TrialState
from campaigns.tokens import TokenScope, secret_digest
from campaigns.trial import Candidate, Evaluated
from storage import Store, schema
from storage.campaign_repository import CampaignFilter
from storage.database import Database
from storage.rows import Row

SAVED = sorted((Path(__file__).parent / "saved").glob("*.sqlite"))
PRUNED = {"revision_0001": 0}  # how many pruned trials a saved database has, on top of the others: one, but for these


def restore(saved: Path, url: str) -> None:
    """Put a saved database where `url` says; on PostgreSQL, into the tables that its revision's migrations make."""
    if url.startswith("sqlite"):
        shutil.copy(saved, url.removeprefix("sqlite:///"))
        return
    database, source = Database(url), create_engine(f"sqlite:///{saved}")
    with database.schema_change() as connection, source.connect() as original:
        config = schema._config()
        config.attributes["connection"] = connection
        command.upgrade(config, saved.stem.removeprefix("revision_"))
        there = inspect(connection).get_table_names()
        for table in (table for table in Row.metadata.sorted_tables if table.name in there):
            names = [column["name"] for column in inspect(connection).get_columns(table.name)]
            # Not `table` itself, which would fill in defaults of columns that later revisions add.
            then = TableClause(table.name, *(ColumnClause(name, table.c[name].type) for name in names))
            found = original.execute(select(then)).mappings().all()
            if found:
                connection.execute(insert(then), [dict(row) for row in found])
        for table, column in (("events", "id"), ("campaigns", "sequence")):
            last = f"SELECT setval(pg_get_serial_sequence('{table}', '{column}'), max({column})) FROM {table}"
            connection.execute(text(last))
    source.dispose()
    database.close()


def test_the_migrations_make_the_tables_that_the_rows_describe(url: str, open_store: Callable[[str], Store]) -> None:
    open_store(url)
    database = Database(url)
    with database.read() as session:
        context = MigrationContext.configure(session.connection(), opts={"compare_type": True})
        assert compare_metadata(context, Row.metadata) == []
    database.close()


def test_opening_again_keeps_everything(url: str, open_store: Callable[[str], Store], spec, pool) -> None:
    campaign = open_store(url).create_campaign(spec, pool)
    assert open_store(url).campaign(campaign.id) == campaign


def test_a_database_of_a_later_revision_is_refused_and_left_alone(url: str, open_store: Callable[[str], Store]) -> None:
    open_store(url)
    database = Database(url)
    with database.write() as session:
        session.execute(text("UPDATE alembic_version SET version_num = '9999'"))
    with pytest.raises(MergefrontError, match="revision 9999, which this Mergefront does not know"):
        Store.open(url)
    with database.read() as session:
        assert session.scalar(text("SELECT version_num FROM alembic_version")) == "9999"
    database.close()


def test_a_migration_that_breaks_leaves_nothing_behind(
    url: str, open_store: Callable[[str], Store], monkeypatch: pytest.MonkeyPatch
) -> None:
    import alembic.op

    real = alembic.op.create_table

    def break_at_events(name: str, *columns: object, **options: object) -> object:
        if name == "events":
            raise OSError("the disk is full")
        return real(name, *columns, **options)

    with monkeypatch.context() as patch:
        patch.setattr(alembic.op, "create_table", break_at_events)
        with pytest.raises(OSError, match="the disk is full"):
            Store.open(url)
    assert open_store(url).campaigns(limit=1) == []


def test_every_revision_has_a_saved_database() -> None:
    source = Path(__file__).parents[2] / "storage" / "migrations" / "versions"
    revisions = [path.stem for path in sorted(source.glob("revision_*.py"))]
    assert [path.stem for path in SAVED] == revisions
    assert revisions != []


@pytest.mark.parametrize("saved", SAVED, ids=lambda path: path.stem)
def test_a_saved_database_is_upgraded_and_used(
    saved: Path,
    url: str,
    open_store: Callable[[str], Store],
    make_candidate: Callable[[float], Candidate],
    make_evaluated: Callable[..., Evaluated],
) -> None:
    restore(saved, url)
    store = open_store(url)

    (campaign,) = store.campaigns(limit=10)
    assert (campaign.id, campaign.state) == ("savedaaa", CampaignState.RUNNING)
    assert campaign.summary.front == ("savedaaa-0",)
    assert (campaign.spec.name, campaign.spec.notes) == ("saved", "")
    assert [found.id for found in store.campaigns(10, wanted=CampaignFilter(name="SAVE"))] == ["savedaaa"]
    pruned = PRUNED.get(saved.stem, 1)
    counts = {TrialState.COMPLETE: 1, TrialState.RUNNING: 1, TrialState.QUEUED: 1, TrialState.PRUNED: pruned}
    assert campaign.trial_counts == {state: count for state, count in counts.items() if count}
    assert store.strategy_state(campaign.id) == {"generator": 2**100}
    told = store.trial("savedaaa-0")
    assert told.value("sums/acc", "search") == 0.1 + 0.2
    assert told.measurements[0].item_ids == (4, 7, 9)
    assert told.measurements[0].outcomes == (1.0, 0.0, 1.0)
    assert [trial.expected("sums/acc") for trial in store.trials(campaign.id)] == [0.1 + 0.2, None, None, 0.1][
        : 3 + pruned
    ]
    assert [event.id for event in store.events(campaign.id)] == list(range(1, 10 + 3 * pruned))

    token = store.valid_token(secret_digest("mf_saved"))
    assert (token is not None and token.scope) == (saved.stem >= "revision_0003" and TokenScope.LAUNCH)

    lease = store.lease_next("later", 60)
    assert lease is not None
    store.retry(lease, "savedaaa-1", "the worker that ran it is gone")
    store.start(lease, "savedaaa-1", "actor-0")
    measurements = (make_evaluated(0.5).measurements[0],)
    evaluated = make_evaluated(0.5).replace(measurements=measurements)
    assert store.tell(lease, "savedaaa-1", evaluated, {}, SearchSummary()).told == 1 + pruned
    asked = store.ask(lease, make_candidate(0.5), {})
    assert asked.number == 3 + pruned
    store.start(lease, asked.id, "actor-0")
    estimated = evaluated.replace(measurements=(measurements[0].replace(estimate=0.25),))
    assert store.prune(lease, asked.id, estimated, "chance 0.01", {}, SearchSummary()).expected("sums/acc") == 0.25
    assert [found.id for found in store.trials_of_recipe(told.candidate.recipe.digest, "another")] == ["savedaaa-0"]
    assert store.item_evaluations([campaign.id]) == {campaign.id: 3 + 4 + 4 + 3 * pruned}
    assert store.step(campaign.id, CampaignStep.FINISH, lease=lease).state is CampaignState.COMPLETE


def test_only_shared_databases_of_known_kinds_are_opened(tmp_path: Path) -> None:
    for url in ("sqlite://", "sqlite:///:memory:", "mysql://host/name"):
        with pytest.raises(ValueError, match="database URL"):
            Store.open(url)
    with pytest.raises(ValueError, match=r"\*\*\*") as refused:
        Store.open("mysql://user:secret@host/name")
    assert "secret" not in str(refused.value)
    assert list(tmp_path.iterdir()) == []


def test_sqlite_makes_its_folder_and_keeps_a_write_ahead_log(
    tmp_path: Path, open_store: Callable[[str], Store]
) -> None:
    path = tmp_path / "a" / "b.sqlite"
    open_store(f"sqlite:///{path}")
    engine = create_engine(f"sqlite:///{path}")
    with engine.connect() as connection:
        assert connection.scalar(text("PRAGMA journal_mode")) == "wal"
    engine.dispose()


def test_sqlite_checks_foreign_keys(tmp_path: Path) -> None:
    Store.open(f"sqlite:///{tmp_path}/store.sqlite").close()
    database = Database(f"sqlite:///{tmp_path}/store.sqlite")
    statement = "INSERT INTO events (campaign_id, kind, data, at) VALUES ('nosuchid', 'x', '{}', '2026-01-01 00:00:00')"
    with pytest.raises(Exception, match="FOREIGN KEY constraint failed"), database.write() as session:
        session.execute(text(statement))
    database.close()
