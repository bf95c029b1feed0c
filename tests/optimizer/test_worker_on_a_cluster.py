"""Workers, as real processes, on a Ray cluster of three nodes: a node is lost, then a worker; no trial is."""

import os
import signal
import subprocess
import sys
import time

import psutil
import pytest
from ray.cluster_utils import Cluster

from campaigns.states import CampaignState, TrialState
from campaigns.strategies import RandomSearch
from merging.pool_report import inspect_pool
from storage import Store

pytestmark = [pytest.mark.service, pytest.mark.timeout(600)]
STORE_BYTES = 80 * 2**20
EVALUATIONS = 60


def wait_for(condition, what, seconds=240.0):
    deadline = time.monotonic() + seconds
    while not (found := condition()):
        assert time.monotonic() < deadline, f"{what} did not come true in {seconds} s"
        time.sleep(0.05)
    return found


@pytest.fixture
def cluster(monkeypatch):
    """A head and two more nodes, each with one CPU, that know of each other by the network alone."""
    monkeypatch.setenv("RAY_USAGE_STATS_ENABLED", "0")
    node = {"num_cpus": 1, "object_store_memory": STORE_BYTES}
    made = Cluster(initialize_head=True, head_node_args={**node, "include_dashboard": False})
    for _ in range(2):
        made.add_node(**node)
    yield made
    made.shutdown()


@pytest.fixture
def store(tmp_path):
    opened = Store.open(f"sqlite:///{tmp_path}/db.sqlite")
    yield opened
    opened.close()


@pytest.fixture
def start_worker(cluster, zoo, tmp_path):
    """Start worker processes that join the cluster; those that still run are killed in the end."""
    started = []

    def start():
        command = [sys.executable, "-m", "mergefront", "worker", "--database", f"sqlite:///{tmp_path}/db.sqlite"]
        command += ["--home", str(tmp_path / "home"), "--tasks", str(zoo / "tasks"), "--ray-address", cluster.address]
        environment = os.environ | {"HF_HUB_OFFLINE": "1", "HF_DATASETS_OFFLINE": "1", "OMP_NUM_THREADS": "1"}
        with (tmp_path / "workers.log").open("ab") as log:
            started.append(subprocess.Popen(command, stdout=log, stderr=log, env=environment))
        return started[-1]

    yield start
    for process in started:
        process.kill()
        process.wait()


def actors(store, campaign):
    """Return the process of each actor that a trial runs on, by the process of its node."""
    running = [trial for trial in store.trials(campaign.id) if trial.state is TrialState.RUNNING]
    found = {}
    for trial in running:
        try:
            process = psutil.Process(int(trial.actor.rsplit(":", 1)[1]))
            found[process.ppid()] = process.pid
        except psutil.NoSuchProcess:
            pass
    return found


def told(store, campaign):
    return {trial.id: trial for trial in store.trials(campaign.id) if trial.told is not None}


def test_a_lost_node_and_a_lost_worker_cost_no_trial(cluster, store, start_worker, small_campaign, zoo):
    spec = small_campaign[0].replace(
        strategy=RandomSearch(), evaluation=small_campaign[0].evaluation.replace(reuse=False)
    )
    spec = spec.replace(budget=spec.budget.replace(evaluations=EVALUATIONS))
    spec = spec.replace(resources=spec.resources.replace(actors=3))
    pool = inspect_pool(spec.pool, [zoo], [], None)
    first = store.create_campaign(spec, pool)
    worker = start_worker()
    wait_for(lambda: len(actors(store, first)) == 3, "an actor at work on each of three nodes")

    lost = cluster.list_all_nodes()[-1]
    raylet = lost.all_processes["raylet"][0].process.pid
    wait_for(lambda: raylet in actors(store, first), "an actor at work on the node that will be lost")
    cluster.remove_node(lost)
    other = start_worker()
    second = store.create_campaign(spec.replace(seed=2), pool)
    wait_for(lambda: told(store, first) and told(store, second), "results of both campaigns on two nodes")

    holder = store.campaign(second.id).worker_id
    victim = next(each for each in (worker, other) if f"-{each.pid}-" in holder)
    victim.send_signal(signal.SIGKILL)
    before = told(store, first) | told(store, second)
    for campaign in (first, second):
        done = wait_for(lambda c=campaign: (f := store.campaign(c.id)).state.is_final and f, "the end of a campaign")
        assert (done.state, done.reason) == (CampaignState.COMPLETE, None)
        candidates = [trial for trial in store.trials(campaign.id) if trial.candidate.kind == "candidate"]
        assert len(candidates) == EVALUATIONS
        assert {trial.state for trial in store.trials(campaign.id)} == {TrialState.COMPLETE}
    after = told(store, first) | told(store, second)
    assert {trial_id: after[trial_id].finished_at for trial_id in before} == {
        trial_id: trial.finished_at for trial_id, trial in before.items()
    }
    taken = [event for event in store.events(second.id) if event.kind == "campaign.leased"]
    assert taken[-1].data["taken_over_from"] == holder
