"""kill -9, on real processes: no completed trial is lost or run again, pending ones run with the same parameters."""

import os
import signal

import psutil
import pytest

pytestmark = [pytest.mark.service, pytest.mark.timeout(600)]
FINAL = ("complete", "failed", "cancelled")


def complete(client, campaign_id):
    return [trial for trial in client.trials(campaign_id) if trial["state"] == "complete"]


def wait_until_final(client, campaign_id, wait_for):
    return wait_for(lambda: (found := client.campaign(campaign_id))["state"] in FINAL and found, 240, "the campaign")


def test_kill_9_of_the_service(service, client, spec, wait_for):
    spec["budget"] = {"evaluations": 40}
    campaign_id = client.launch(spec)["id"]
    wait_for(lambda: len(complete(client, campaign_id)) >= 14, what="14 complete trials")
    service.kill()
    service.start()
    before = {trial["id"]: trial for trial in client.trials(campaign_id)}
    done = wait_until_final(client, campaign_id, wait_for)
    assert (done["state"], done["reason"]) == ("complete", None)
    after = {trial["id"]: trial for trial in client.trials(campaign_id)}
    assert len(after) == 8 + 1 + 40
    assert {trial["state"] for trial in after.values()} == {"complete"}
    finished = [trial for trial in before.values() if trial["told"] is not None]
    assert len(finished) >= 14
    for trial in finished:
        same = ("attempts", "finished_at", "told", "candidate", "actor")
        assert {key: trial[key] for key in same} == {key: after[trial["id"]][key] for key in same}
    for trial in before.values():
        assert after[trial["id"]]["candidate"] == trial["candidate"]


def test_kill_9_of_the_worker_alone(service, client, spec, wait_for):
    spec["budget"] = {"evaluations": 30}
    campaign_id = client.launch(spec)["id"]
    wait_for(lambda: len(complete(client, campaign_id)) >= 12, what="12 complete trials")
    [worker] = psutil.Process(service.process.pid).children()
    family = worker.children(recursive=True)
    worker.kill()
    _, alive = psutil.wait_procs(family, timeout=60)
    assert not alive, f"orphans of the killed worker: {alive}"
    done = wait_until_final(client, campaign_id, wait_for)
    assert (done["state"], done["reason"]) == ("complete", None)
    assert done["trial_counts"] == {"complete": 8 + 1 + 30}


def test_kill_9_of_an_actor(client, spec, wait_for):
    spec["budget"] = {"evaluations": 30}
    campaign_id = client.launch(spec)["id"]

    def running():
        found = [t for t in client.trials(campaign_id) if t["state"] == "running" and t["number"] >= 12]
        return found and found[0]

    victim = wait_for(running, what="a running candidate")
    os.kill(int(victim["actor"].rsplit(":", 1)[1]), signal.SIGKILL)
    done = wait_until_final(client, campaign_id, wait_for)
    assert (done["state"], done["reason"]) == ("complete", None)
    trials = list(client.trials(campaign_id))
    assert {trial["state"] for trial in trials} == {"complete"}
    retried = [trial for trial in trials if trial["attempts"] == 2]
    assert len(retried) == 1
    assert [t["candidate"] for t in trials if t["id"] == victim["id"]] == [victim["candidate"]]
