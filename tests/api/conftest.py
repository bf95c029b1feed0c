"""A real application on SQLite, over tiny real checkpoints, with the inventory that a worker would publish."""

import sqlite3
import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import httpx
import pytest
import torch
import uvicorn
from starlette.testclient import TestClient
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from api import Settings, create_app
from campaigns.campaign import Recommendation, SearchSummary
from campaigns.inventory import Inventory, MetricOffer, TaskOffer, Worker
from campaigns.methods import LinearMerge
from campaigns.objectives import Measurement, Split
from campaigns.pools import Pool
from campaigns.recipe import Recipe
from campaigns.states import CampaignStep
from campaigns.trial import Candidate, Evaluated, Timing, Trial
from storage import Lease, Store

HERE = "http://127.0.0.1:8400"
WORDS = [f"word{i}" for i in range(60)]

MakeCheckpoint = Callable[..., Path]
Spec = dict[str, Any]


def write_checkpoint(path: Path, seed: int, words: list[str] = WORDS, vocabulary: int = 64, hidden: int = 32) -> Path:
    """Write a Llama of some 20,000 parameters with a word tokenizer."""
    torch.set_num_threads(1)
    torch.manual_seed(seed)
    config = LlamaConfig(
        vocab_size=vocabulary,
        hidden_size=hidden,
        intermediate_size=48,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=1,
        max_position_embeddings=64,
        bos_token_id=0,
        eos_token_id=1,
    )
    LlamaForCausalLM(config).to(torch.bfloat16).save_pretrained(path)
    entries = {word: index for index, word in enumerate(["<s>", "</s>", "<unk>", *words])}
    tokenizer = Tokenizer(models.WordLevel(entries, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, bos_token="<s>", eos_token="</s>", unk_token="<unk>")
    fast.save_pretrained(path)
    return path


@pytest.fixture(scope="session")
def zoo(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model root with the checkpoints base, math and code. Read only: tests that break one write their own."""
    root = tmp_path_factory.mktemp("zoo")
    for seed, name in enumerate(["base", "math", "code"]):
        write_checkpoint(root / name, seed)
    return root


@pytest.fixture
def make_checkpoint(tmp_path: Path) -> MakeCheckpoint:
    """Write one more checkpoint under the second model root."""

    def make(name: str, **options: Any) -> Path:
        return write_checkpoint(tmp_path / "models" / name, seed=9, **options)

    return make


@pytest.fixture
def settings(tmp_path: Path, zoo: Path) -> Settings:
    (tmp_path / "models").mkdir()
    url = f"sqlite:///{tmp_path}/store.sqlite"
    return Settings(database_url=url, home=tmp_path / "home", model_roots=(zoo, tmp_path / "models"), max_page=20)


@pytest.fixture
def store(settings: Settings) -> Iterator[Store]:
    """The worker's own store on the database of the application."""
    store = Store.open(settings.database_url)
    yield store
    store.close()


@pytest.fixture
def worker(store: Store) -> Worker:
    """A live worker, published."""
    sums = (MetricOffer(metric="acc"), MetricOffer(metric="exact_match", filter="strict-match"))
    text = (MetricOffer(metric="word_perplexity", higher_is_better=False),)
    tasks = {
        "sums": TaskOffer(name="sums", output_type="generate_until", metrics=sums),
        "text": TaskOffer(name="text", output_type="loglikelihood_rolling", metrics=text),
    }
    inventory = Inventory(
        tasks=tasks,
        methods=("linear", "task_arithmetic"),
        strategies=("random", "nsga2", "gp_hypervolume"),
        devices=("cpu",),
    )
    at = datetime.now(UTC)
    worker = Worker(id="worker-1", host="here", inventory=inventory, started_at=at, seen_at=at)
    store.publish_worker(worker)
    return worker


@pytest.fixture
def client(settings: Settings) -> Iterator[TestClient]:
    with TestClient(create_app(settings), HERE, raise_server_exceptions=False) as client:
        yield client


@contextmanager
def running(settings: Settings) -> Iterator[httpx.Client]:
    """Run a real server on a free port of this machine, and give a client of it."""
    config = uvicorn.Config(create_app(settings), port=0, log_level="error", timeout_graceful_shutdown=1)
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run)
    thread.start()
    while not server.started:
        assert thread.is_alive()
        thread.join(0.02)
    port = server.servers[0].sockets[0].getsockname()[1]
    try:
        with httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=30) as client:
            yield client
    finally:
        server.should_exit = True
        thread.join()


@pytest.fixture
def serve() -> Iterator[Callable[[Settings], httpx.Client]]:
    """Run real servers with settings of a test's own, until its end."""
    with ExitStack() as stack:
        yield lambda settings: stack.enter_context(running(settings))


@pytest.fixture
def served(settings: Settings, serve: Callable[[Settings], httpx.Client]) -> httpx.Client:
    """A client of a real server on a free port of this machine."""
    return serve(settings)


@pytest.fixture
def lock_database(settings: Settings, store: Store) -> Callable[[TestClient], AbstractContextManager[None]]:
    """Hold the application's SQLite file so that nobody can even read it, for as long as the block lasts."""

    @contextmanager
    def locked(client: TestClient) -> Iterator[None]:
        app: Any = client.app
        for one in (app.state.service.store, store):
            one.close()  # idle connections: an exclusive lock needs the file alone
        holder = sqlite3.connect(settings.database_url.removeprefix("sqlite:///"), isolation_level=None)
        holder.execute("PRAGMA locking_mode = EXCLUSIVE")
        holder.execute("BEGIN EXCLUSIVE")
        yield
        holder.execute("ROLLBACK")
        holder.close()

    return locked


@pytest.fixture
def spec(zoo: Path) -> Spec:
    return {
        "name": "tiny",
        "pool": {"checkpoints": [{"name": name, "path": str(zoo / name)} for name in ("math", "code")]},
        "objectives": [{"task": "sums", "metric": "acc"}, {"task": "text", "metric": "word_perplexity", "weight": 0}],
        "budget": {"evaluations": 3},
        "resources": {"actors": 2},
    }


@pytest.fixture
def campaign_id(client: TestClient, worker: Worker, spec: Spec) -> str:
    """The id of a campaign launched over HTTP."""
    response = client.post("/v1/campaigns", json=spec)
    assert response.status_code == 201, response.text
    found: str = response.json()["id"]
    return found


class Search:
    """Plays the worker: asks, tells and summarises as the loop does."""

    def __init__(self, store: Store, campaign_id: str) -> None:
        lease = store.lease_next("worker-1", 600)
        assert lease is not None
        assert lease.campaign_id == campaign_id
        self.store = store
        self.lease: Lease = lease
        self.pool: Pool = store.step(campaign_id, CampaignStep.START, lease=lease).pool

    def candidate(self, weight: float, kind: str = "candidate", label: str | None = None) -> Candidate:
        sources = tuple(checkpoint.digest for checkpoint in self.pool.checkpoints)
        recipe = Recipe(
            method=LinearMerge(weights=(weight, 1 - weight)), sources=sources, template=sources[0], dtype="bfloat16"
        )
        parameters = {"weight.math": weight, "weight.code": 1 - weight}
        return Candidate(kind=kind, label=label, point=(weight, 1 - weight), parameters=parameters, recipe=recipe)

    def evaluated(self, accuracy: float, perplexity: float, split: Split = "search") -> Evaluated:
        ids = (0, 2, 4, 6) if split == "search" else (1, 3, 5, 7)
        rest: dict[str, Any] = {"split": split, "items": 4, "protocol": "p", "item_ids": ids, "outcomes": (1, 0, 1, 0)}
        measurements = (
            Measurement(objective="sums/acc", value=accuracy, standard_error=0.25, **rest),
            Measurement(objective="text/word_perplexity", value=perplexity, standard_error=None, **rest),
        )
        timing = Timing(merge_seconds=0.001, model_seconds=0.001, total_seconds=0.003)
        return Evaluated(measurements=measurements, timing=timing)

    def run(self, candidate: Candidate, accuracy: float, perplexity: float, summary: SearchSummary) -> Trial:
        """Ask for `candidate`, start it and tell its values."""
        trial = self.store.ask(self.lease, candidate, {})
        self.store.start(self.lease, trial.id, "actor-0")
        return self.store.tell(self.lease, trial.id, self.evaluated(accuracy, perplexity), {}, summary)

    def prune(self, candidate: Candidate) -> Trial:
        """Ask for `candidate`, start it and stop it after one item of two: better by its estimates than any other."""
        trial = self.store.ask(self.lease, candidate, {})
        self.store.start(self.lease, trial.id, "actor-0")
        part = self.evaluated(1.0, 2.0)
        measurements = tuple(
            measurement.replace(items=2, item_ids=(0, 4), outcomes=(1, 1), estimate=estimate)
            for measurement, estimate in zip(part.measurements, (0.875, 2.5), strict=True)
        )
        pruned = part.replace(measurements=measurements)
        summary = self.store.campaign(self.lease.campaign_id).summary
        reason = "chance 0.04 to be on the front, below 0.1"
        return self.store.prune(self.lease, trial.id, pruned, reason, {}, summary)

    def three_trials(self) -> list[Trial]:
        """Tell a baseline and a front of two: accurate but perplexed, and the other way round."""
        prefix = self.lease.campaign_id
        told = [self.run(self.candidate(1.0, "parent", "math"), 0.25, 9.0, SearchSummary())]
        told.append(self.run(self.candidate(0.75), 0.75, 8.0, SearchSummary(hypervolume=0.5, front=(f"{prefix}-1",))))
        summary = SearchSummary(
            front=(f"{prefix}-1", f"{prefix}-2"),
            reference_point=(-0.25, 9.0),
            hypervolume=1.5,
            recommendation=Recommendation(trial_id=f"{prefix}-1", reason="the best macro-average"),
        )
        told.append(self.run(self.candidate(0.5), 0.5, 4.0, summary))
        self.store.add_holdout(self.lease, told[1].id, self.evaluated(0.625, 8.5, "holdout"))
        return told


@pytest.fixture
def search(store: Store, campaign_id: str) -> Search:
    return Search(store, campaign_id)


@pytest.fixture
def search_of(store: Store) -> Callable[[str], Search]:
    """Play the worker of a campaign that the test launched."""
    return lambda campaign_id: Search(store, campaign_id)
