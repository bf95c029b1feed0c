"""The store's contract: workers and the inventory they make up together."""

from datetime import UTC, datetime, timedelta

import pytest
from pydantic import ValidationError
from sqlalchemy import create_engine, update

from campaigns.errors import NotFound, NotReady
from campaigns.inventory import Inventory, MetricOffer, TaskOffer, Worker
from storage import Store
from storage.rows import WorkerRow
from storage.worker_repository import LiveWorker


def worker(name: str, seen_seconds_ago: float = 0, started_seconds_ago: float = 0, **inventory: object) -> Worker:
    now = datetime.now(UTC)
    return Worker(
        id=name,
        host="somewhere",
        inventory=Inventory.model_validate(inventory),
        started_at=now - timedelta(seconds=started_seconds_ago),
        seen_at=now - timedelta(seconds=seen_seconds_ago),
    )


def task(name: str, metric: str) -> TaskOffer:
    return TaskOffer(name=name, output_type="multiple_choice", metrics=(MetricOffer(metric=metric),))


def test_a_worker_comes_back_as_it_was_published(store: Store) -> None:
    published = worker("one", tasks={"sums": task("sums", "acc")}, devices=["cpu"], versions={"torch": "2"})
    store.publish_worker(published)
    assert store.inventory(60) == published.inventory
    assert store.workers(60) == [
        LiveWorker("one", "somewhere", ["cpu"], {"torch": "2"}, published.started_at, published.seen_at)
    ]
    store.publish_worker(worker("one", devices=["cuda:0"]))
    assert [(found.id, found.devices, found.versions) for found in store.workers(60)] == [("one", ["cuda:0"], {})]


def test_workers_fall_out_of_sight_until_they_are_heard_again(store: Store) -> None:
    store.publish_worker(worker("old", seen_seconds_ago=3000, started_seconds_ago=7200))
    store.publish_worker(worker("new"))
    assert (store.worker_ids(60), [found.id for found in store.workers(60)]) == (["new"], ["new"])
    assert (store.worker_ids(3500), [found.id for found in store.workers(3500)]) == (["old", "new"], ["old", "new"])
    store.heartbeat("old")
    assert (store.worker_ids(60), [found.id for found in store.workers(60)]) == (["old", "new"], ["old", "new"])


def test_a_worker_not_heard_of_for_an_hour_is_forgotten_when_another_comes(store: Store) -> None:
    store.publish_worker(worker("gone", seen_seconds_ago=3660))
    store.publish_worker(worker("quiet", seen_seconds_ago=3540))
    assert store.worker_ids(1e6) == ["quiet"]
    with pytest.raises(NotFound, match="no worker 'gone'"):
        store.heartbeat("gone")
    store.publish_worker(worker("gone"))
    assert store.worker_ids(60) == ["gone"]


def test_the_tasks_of_workers_are_read_for_the_inventory_alone(store: Store, url: str) -> None:
    store.publish_worker(worker("one"))
    unreadable = {"tasks": "none that could be read", "devices": ["cpu"], "versions": {}}
    engine = create_engine(url)
    with engine.begin() as connection:
        connection.execute(update(WorkerRow).values(inventory=unreadable))
    engine.dispose()
    with pytest.raises(ValidationError):
        store.inventory(60)
    store.heartbeat("one")
    assert store.worker_ids(60) == ["one"]
    assert [(found.id, found.devices) for found in store.workers(60)] == [("one", ["cpu"])]


def test_a_heartbeat_of_a_stranger_is_not_found(store: Store) -> None:
    with pytest.raises(NotFound, match="no worker 'stranger'"):
        store.heartbeat("stranger")


def test_the_inventory_is_what_the_workers_can_do_between_them(store: Store) -> None:
    sums, text = task("sums", "acc"), task("text", "word_perplexity")
    store.publish_worker(worker("new", tasks={"sums": sums}, methods=["linear"], versions={"torch": "3"}))
    old = {
        "tasks": {"sums": task("sums", "old"), "text": text},
        "methods": ["ties", "linear"],
        "strategies": ["random"],
    }
    store.publish_worker(worker("old", started_seconds_ago=9, versions={"torch": "2", "lm_eval": "0.4"}, **old))
    store.publish_worker(worker("gone", seen_seconds_ago=3600, methods=["forgotten"]))
    assert store.inventory(60) == Inventory(
        tasks={"sums": sums, "text": text},
        methods=("ties", "linear"),
        strategies=("random",),
        versions={"torch": "3", "lm_eval": "0.4"},
    )


def test_without_a_worker_nothing_is_ready(store: Store) -> None:
    store.publish_worker(worker("gone", seen_seconds_ago=3600))
    with pytest.raises(NotReady, match="no worker has been seen in the last 60 seconds"):
        store.inventory(60)
