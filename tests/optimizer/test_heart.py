"""The heartbeat against a real store: leases renewed, lost ones dropped, a forgotten worker published again."""

import threading
import time
from datetime import UTC, datetime

import pytest

from campaigns.inventory import Inventory, Worker
from campaigns.pools import Checkpoint, Pool
from campaigns.spec import parse_spec
from optimizer.heart import Heart
from storage import Store

LEASE_SECONDS = 0.4
DOCUMENT = {
    "name": "heart",
    "pool": {"checkpoints": [{"name": name, "path": f"/models/{name}"} for name in "ab"]},
    "objectives": [{"task": "t", "metric": "acc", "direction": "maximize"}],
    "budget": {"evaluations": 1},
}


def launch(store):
    checkpoints = tuple(Checkpoint(name=n, path=f"/models/{n}", digest=n, stamp="s", size_bytes=1) for n in "ab")
    pool = Pool(checkpoints=checkpoints, base=None, dtype="bfloat16", architecture="llama", parameter_count=1)
    return store.create_campaign(parse_spec(DOCUMENT), pool)


@pytest.fixture
def store(tmp_path):
    opened = Store.open(f"sqlite:///{tmp_path}/db.sqlite")
    yield opened
    opened.close()


@pytest.fixture
def heart(store):
    def publish():
        now = datetime.now(UTC)
        store.publish_worker(Worker(id="w", host="h", inventory=Inventory(), started_at=now, seen_at=now))
        published.set()

    published = threading.Event()
    beating = Heart(store, "w", LEASE_SECONDS, publish)
    beating.published = published
    beating.start()
    yield beating
    beating.stop()


def test_held_leases_outlive_their_seconds_until_they_are_dropped(store, heart):
    launched = [launch(store).id for _ in range(2)]
    leases = [store.lease_next("w", LEASE_SECONDS) for _ in launched]
    for lease in leases:
        heart.hold(lease)
    time.sleep(3 * LEASE_SECONDS)
    assert store.lease_next("other", LEASE_SECONDS) is None
    heart.drop(leases[0])
    time.sleep(2 * LEASE_SECONDS)
    assert store.lease_next("other", LEASE_SECONDS).campaign_id == launched[0]
    assert store.lease_next("other", LEASE_SECONDS) is None


def test_a_lost_lease_is_told_and_dropped_and_the_other_is_kept_alive(store, heart):
    launched = [launch(store).id for _ in range(2)]
    lost = store.lease_next("w", 0.0)
    taken = store.lease_next("other", 60.0)
    kept = store.lease_next("w", LEASE_SECONDS)
    assert [lost.campaign_id, taken.campaign_id, kept.campaign_id] == [launched[0], *launched]
    told = {lease: threading.Event() for lease in (lost, kept)}
    for lease, event in told.items():
        heart.hold(lease, event.set)
    assert told[lost].wait(30)
    time.sleep(3 * LEASE_SECONDS)
    assert not told[kept].is_set()
    assert store.lease_next("third", LEASE_SECONDS) is None


def test_a_worker_that_was_forgotten_is_published_again(store, heart):
    assert heart.published.wait(10)
    assert store.worker_ids(60.0) == ["w"]
