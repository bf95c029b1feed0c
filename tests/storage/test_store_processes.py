"""The store's contract between processes: real ones, let go at the same moment, and one killed in mid-write."""

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from campaigns.campaign import Campaign
from campaigns.pools import Pool
from campaigns.spec import CampaignSpec
from campaigns.states import TrialState
from campaigns.trial import Candidate
from storage import Lease, Store

pytestmark = pytest.mark.service
ROOT = Path(__file__).parents[2]

OPEN = "store = Store.open(url); print(len(store.campaigns(limit=10)))"
LEASE = "lease = store.lease_next(name, 60); print(lease.campaign_id if lease else 'none')"
RETRY = """
from storage import Lease
for _ in range(25):
    try:
        store.retry(Lease(*name.split(",")[:3]), name.split(",")[3], "fault")
        print("won")
    except IllegalTransition:
        print("lost")
"""
CREATE = """
from campaigns.pools import Pool
from campaigns.spec import CampaignSpec
spec, pool = name.split("|")
print(store.create_campaign(CampaignSpec.model_validate_json(spec), Pool.model_validate_json(pool), "key").id)
"""
DIE_IN_MID_WRITE = """
from storage.rows import CampaignRow
with store._database.write() as session:
    session.get(CampaignRow, 1).reason = "half-written"
    session.flush()
    os.kill(os.getpid(), 9)
"""


class Process:
    """A child that imports everything, says so, and does its work when it is let go."""

    def __init__(self, work: str, url: str, name: str = "", opens: bool = True) -> None:
        first = "store = Store.open(url)" if opens else "pass"
        code = "\n".join(
            [
                "import os, sys",
                "from campaigns.errors import IllegalTransition",
                "from storage import Store",
                "url, name = sys.argv[1:]",
                first,
                "print('ready', flush=True)",
                "sys.stdin.readline()",
                work,
            ]
        )
        pipe = subprocess.PIPE
        command = [sys.executable, "-c", code, url, name]
        self._child = subprocess.Popen(command, cwd=ROOT, stdin=pipe, stdout=pipe, text=True)

    def wait_until_ready(self) -> None:
        assert self._child.stdout is not None
        assert self._child.stdout.readline() == "ready\n"

    def go(self) -> None:
        assert self._child.stdin is not None
        self._child.stdin.write("go\n")
        self._child.stdin.flush()

    def result(self, expected_exit: int = 0) -> list[str]:
        """Return the lines it printed, once it has ended."""
        output, _ = self._child.communicate(timeout=120)
        assert self._child.returncode == expected_exit
        return output.split()


def race(processes: list[Process]) -> list[list[str]]:
    for process in processes:
        process.wait_until_ready()
    for process in processes:
        process.go()
    return [process.result() for process in processes]


def test_processes_that_open_a_new_database_at_once_all_get_it(url: str) -> None:
    results = race([Process(OPEN, url, opens=False) for _ in range(4)])
    assert results == [["0"]] * 4


def test_one_campaign_goes_to_one_of_the_workers_that_race_for_it(url: str, store: Store, campaign: Campaign) -> None:
    results = race([Process(LEASE, url, name=f"worker-{i}") for i in range(4)])
    assert sorted(line for lines in results for line in lines) == sorted([campaign.id, *["none"] * 3])
    winner = results.index([campaign.id])
    assert store.campaign(campaign.id).worker_id == f"worker-{winner}"


def test_one_key_makes_one_campaign_whoever_is_first(url: str, store: Store, spec: CampaignSpec, pool: Pool) -> None:
    name = f"{spec.model_dump_json()}|{pool.model_dump_json()}"
    results = race([Process(CREATE, url, name) for _ in range(3)])
    (made,) = store.campaigns(limit=10)
    assert results == [[made.id]] * 3


def test_one_step_is_taken_once_however_many_try(
    url: str, store: Store, lease: Lease, make_candidate: Callable[[float], Candidate]
) -> None:
    trial = store.ask(lease, make_candidate(0.5), {})
    store.start(lease, trial.id, "actor-0")
    name = ",".join([lease.campaign_id, lease.worker_id, lease.token, trial.id])
    outcomes = [line for lines in race([Process(RETRY, url, name) for _ in range(2)]) for line in lines]
    assert outcomes.count("won") == 1
    assert outcomes.count("lost") == 49
    assert store.trial(trial.id).state is TrialState.QUEUED
    assert [e.kind for e in store.events(lease.campaign_id, after=0)].count("trial.queued") == 2


def test_a_writer_killed_halfway_leaves_nothing_and_blocks_nobody(url: str, store: Store, campaign: Campaign) -> None:
    process = Process(DIE_IN_MID_WRITE, url)
    process.wait_until_ready()
    process.go()
    process.result(expected_exit=-9)
    assert store.campaign(campaign.id) == campaign
    assert store.lease_next("worker-1", 60) is not None
