"""Several campaigns at once on one worker, as real processes: they share the actors and do not wait for each other."""

import copy

import psutil
import pytest

pytestmark = [pytest.mark.service, pytest.mark.timeout(600)]
ENDLESS = 100_000
FINAL = ("complete", "failed", "cancelled")


def final(client, campaign_id):
    found = client.campaign(campaign_id)
    return found if found["state"] in FINAL else None


def with_budget(spec, evaluations, **changes):
    return {**copy.deepcopy(spec), "budget": {"evaluations": evaluations}, "strategy": {"kind": "random"}, **changes}


def no_reuse(spec):
    return {**spec["evaluation"], "reuse": False}


def told(client, campaign_id):
    return [trial for trial in client.trials(campaign_id) if trial["told"] is not None]


def first_lease(client, campaign_id):
    return next(event["id"] for event in client.events(campaign_id) if event["kind"] == "campaign.leased")


def running(client, campaign_id):
    """Return how many trials run, which is how many actors are at work."""
    return client.campaign(campaign_id)["trial_counts"].get("running", 0)


def test_the_later_campaign_does_not_wait_and_a_paused_one_gives_its_actors_up(client, spec, wait_for):
    long = client.launch(with_budget(spec, ENDLESS))["id"]
    wait_for(lambda: running(client, long) == 2, what="two actors at work")
    other = client.launch(with_budget(spec, ENDLESS))["id"]
    wait_for(lambda: running(client, other) == 1 and running(client, long) <= 1, what="one actor each")
    assert client.campaign(long)["state"] == client.campaign(other)["state"] == "running"
    client.step(long, "pause")
    wait_for(lambda: running(client, other) == 2, what="two actors for the one that is left")
    assert running(client, long) == 0
    client.step(long, "resume")
    wait_for(lambda: running(client, long) == 1, what="an actor for the one that goes on")
    low = client.launch(with_budget(spec, 2))["id"]
    high = client.launch(with_budget(spec, 2, priority=20))["id"]
    assert client.campaign(low)["worker_id"] is client.campaign(high)["worker_id"] is None, "two actors, two campaigns"
    client.step(other, "cancel")
    for each in (high, low):
        assert wait_for(lambda each=each: final(client, each), 240, "those that waited")["state"] == "complete"
    assert first_lease(client, high) < first_lease(client, low)
    client.step(long, "cancel")


def test_what_goes_wrong_in_one_campaign_touches_no_other(client, spec, wait_for):
    good = client.launch(with_budget(spec, 10))["id"]
    bad = client.launch(with_budget(spec, 4, evaluation={**spec["evaluation"], "search_items": 1000}))["id"]
    large = client.launch(with_budget(spec, 4, resources={"actors": 1, "cpus_per_actor": 200}))["id"]
    failed = wait_for(lambda: final(client, bad), 240, "the bad campaign")
    assert (failed["state"], "evaluation.search_items" in failed["reason"]) == ("failed", True)
    refused = wait_for(lambda: final(client, large), 240, "the large campaign")
    assert (refused["state"], "resources.cpus_per_actor" in refused["reason"]) == ("failed", True)
    done = wait_for(lambda: final(client, good), 240, "the good campaign")
    assert (done["state"], done["reason"], done["trial_counts"]) == ("complete", None, {"complete": 8 + 1 + 10})


def test_kill_9_of_the_worker_with_two_campaigns(service, client, spec, wait_for):
    ids = [client.launch(with_budget(spec, 20, seed=seed, evaluation=no_reuse(spec)))["id"] for seed in (1, 2)]
    wait_for(lambda: all(len(told(client, each)) >= 3 for each in ids), what="results of both")
    [worker] = psutil.Process(service.process.pid).children()
    family = worker.children(recursive=True)
    worker.kill()
    _, alive = psutil.wait_procs(family, timeout=60)
    assert not alive, f"orphans of the killed worker: {alive}"
    before = {trial["id"]: trial for each in ids for trial in told(client, each)}
    for each in ids:
        done = wait_for(lambda each=each: final(client, each), 240, "the campaign")
        assert (done["state"], done["reason"], done["trial_counts"]) == ("complete", None, {"complete": 8 + 1 + 20})
    after = {trial["id"]: trial for each in ids for trial in told(client, each)}
    same = ("attempts", "finished_at", "told", "candidate", "actor")
    for trial_id, trial in before.items():
        assert {key: trial[key] for key in same} == {key: after[trial_id][key] for key in same}


def test_kill_9_of_the_raylet_costs_the_worker_and_no_trial(service, client, spec, wait_for):
    campaign_id = client.launch(with_budget(spec, 100, evaluation=no_reuse(spec)))["id"]
    wait_for(lambda: len(told(client, campaign_id)) >= 3, what="3 results")
    [worker] = psutil.Process(service.process.pid).children()
    [raylet] = [process for process in worker.children() if process.name() == "raylet"]
    raylet.kill()
    psutil.wait_procs([worker], timeout=120)
    assert not worker.is_running()
    done = wait_for(lambda: final(client, campaign_id), 240, "the campaign")
    assert (done["state"], done["reason"], done["trial_counts"]) == ("complete", None, {"complete": 8 + 1 + 100})
