"""The run of one campaign on a real store: whatever ends it, the lease is given back, and only faults are final."""

import threading
from datetime import UTC, datetime

import pytest

from campaigns.errors import Fault, LeaseLost
from campaigns.inventory import Inventory, Worker
from campaigns.pools import Checkpoint, Pool
from campaigns.spec import parse_spec
from campaigns.states import CampaignState, CampaignStep
from optimizer import campaign_run
from optimizer.campaign_run import CALM_SECONDS, MAX_CRASHES, NO_PLACE_SECONDS, CampaignRun, RunSettings
from optimizer.heart import Heart
from storage import Store

DOCUMENT = {
    "name": "run",
    "pool": {"checkpoints": [{"name": name, "path": f"/models/{name}"} for name in "ab"]},
    "objectives": [{"task": "t", "metric": "acc", "direction": "maximize"}],
    "budget": {"evaluations": 1},
}


class ActorsElsewhere:
    """An executor whose actors never come up: what it does instead is the test's."""

    seconds_without_place = 0.0

    def __init__(self, ready):
        self._ready = ready
        self.sizes = []
        self.is_closed = False

    def ready(self, timeout_seconds):
        return self._ready()

    def resize(self, actors):
        self.sizes.append(actors)

    def close(self):
        self.is_closed = True


@pytest.fixture
def store(tmp_path):
    opened = Store.open(f"sqlite:///{tmp_path}/db.sqlite")
    yield opened
    opened.close()


@pytest.fixture
def heart(store):
    now = datetime.now(UTC)
    store.publish_worker(Worker(id="w", host="h", inventory=Inventory(), started_at=now, seen_at=now))
    beating = Heart(store, "w", 2.0, lambda: None)
    beating.start()
    yield beating
    beating.stop()


@pytest.fixture
def make_run(store, heart, tmp_path, monkeypatch):
    """Lease a new campaign and make the run of it, whose executor does what `ready` does."""
    settings = RunSettings(task_folders=(), cache_dir=tmp_path, poll_seconds=0.05)

    def make(ready, crashes=0):
        checkpoints = tuple(Checkpoint(name=n, path=f"/models/{n}", digest=n, stamp="s", size_bytes=1) for n in "ab")
        pool = Pool(checkpoints=checkpoints, base=None, dtype="bfloat16", architecture="llama", parameter_count=1)
        store.create_campaign(parse_spec(DOCUMENT), pool)
        run = CampaignRun(store, store.lease_next("w", 2.0), heart, settings, crashes)
        run.executor = ActorsElsewhere(ready)
        monkeypatch.setattr(campaign_run, "RayExecutor", lambda setup, resources, actors: run.executor)
        return run

    return make


def raising(error):
    def raise_it():
        raise error

    return raise_it


def ended(store, run):
    run.start()
    run.join()
    assert run.is_over
    assert run.executor.is_closed
    campaign = store.campaign(run.lease.campaign_id)
    assert campaign.worker_id is None
    return campaign


def test_a_fault_fails_the_campaign(store, make_run):
    campaign = ended(store, make_run(raising(Fault("no actor lives"))))
    assert (campaign.state, campaign.reason) == (CampaignState.FAILED, "no actor lives")


def test_what_is_interrupted_is_tried_again_after_growing_waits_and_fails_in_the_end(store, make_run):
    waits, run = [], make_run(raising(RuntimeError("away\nfor now")))
    for crashes in range(MAX_CRASHES - 1):
        run = make_run(raising(RuntimeError("away\nfor now")), crashes)
        assert ended(store, run).state is CampaignState.QUEUED
        assert run.crashes == crashes + 1
        waits.append(run.rest_seconds)
        store.step(run.lease.campaign_id, CampaignStep.CANCEL)
    assert waits == [2.0, 4.0, 8.0, 16.0, 32.0]
    campaign = ended(store, make_run(raising(RuntimeError("away\nfor now")), MAX_CRASHES - 1))
    assert campaign.state is CampaignState.FAILED
    assert campaign.reason == f"interrupted {MAX_CRASHES} times, the last time by RuntimeError: away"


def test_a_crash_after_a_long_calm_is_the_first(store, make_run, monkeypatch):
    times = iter([0.0, CALM_SECONDS + 1])
    monkeypatch.setattr(campaign_run.time, "monotonic", lambda: next(times))
    run = make_run(raising(RuntimeError("away")), MAX_CRASHES - 1)
    with monkeypatch.context():
        run._run()
    assert (run.crashes, store.campaign(run.lease.campaign_id).state) == (1, CampaignState.QUEUED)


def test_a_lost_lease_ends_the_run_and_leaves_the_campaign_to_the_other(store, make_run):
    run = make_run(raising(LeaseLost("taken")))
    assert ended(store, run).state is CampaignState.QUEUED
    waiting = make_run(lambda: False)
    waiting.start()
    store.release(waiting.lease)
    taken = store.lease_next("other", 60.0, lambda claim, held: claim.campaign_id == waiting.lease.campaign_id)
    waiting.join()
    assert store.campaign(waiting.lease.campaign_id).worker_id == taken.worker_id == "other"


def test_a_run_ends_when_it_is_told_to_or_its_campaign_wants_no_actors(store, make_run):
    begun = threading.Event()

    def never_ready():
        begun.set()
        return False

    run = make_run(never_ready)
    run.start()
    assert begun.wait(60)
    run.resize(3)
    assert run.executor.sizes == [3]
    run.stop()
    run.join()
    assert (run.crashes, run.rest_seconds) == (0, 0.0)
    paused = make_run(never_ready)
    store.step(paused.lease.campaign_id, CampaignStep.PAUSE)
    assert ended(store, paused).state is CampaignState.PAUSED


def test_a_campaign_without_a_place_gives_its_lease_back_and_rests(store, make_run):
    run = make_run(lambda: False)
    run.executor.seconds_without_place = NO_PLACE_SECONDS
    assert ended(store, run).state is CampaignState.QUEUED
    assert run.rest_seconds == NO_PLACE_SECONDS
