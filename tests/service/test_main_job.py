"""The main job over HTTP: launch, front, pull; and lm-eval's own numbers on what was pulled."""

import json
import os
import subprocess
import sys

import pytest
from transformers import AutoModelForCausalLM

from mergefront.client import RequestRefused

pytestmark = [pytest.mark.service, pytest.mark.timeout(600)]


def final(client, campaign_id):
    state = client.campaign(campaign_id)
    return state if state["state"] in ("complete", "failed", "cancelled") else None


def lm_eval(zoo, pretrained, trial, split, batch_size, output, **hub):
    """Run the real command on a pulled directory, or by name with `hub`'s variables; return its results by task."""
    samples = {m["objective"].split("/")[0]: m["item_ids"] for m in trial["measurements"] if m["split"] == split}
    command = [
        *(sys.executable, "-m", "lm_eval", "--model", "hf", "--model_args", f"pretrained={pretrained},dtype=float32"),
        *("--include_path", str(zoo / "tasks"), "--tasks", ",".join(samples), "--samples", json.dumps(samples)),
        *("--batch_size", str(batch_size), "--device", "cpu", "--output_path", str(output)),
    ]
    environment = os.environ | {"HF_HUB_OFFLINE": "1", "HF_DATASETS_OFFLINE": "1", "OMP_NUM_THREADS": "1"} | hub
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
    assert done.returncode == 0, done.stderr[-3000:]
    [found] = output.rglob("results*.json")
    return json.loads(found.read_text())["results"]


def test_launch_front_pull_and_lm_eval_agree(client, service, zoo, spec, tmp_path, wait_for):
    campaign_id = client.launch(spec, idempotency_key="once")["id"]
    assert client.launch(spec, idempotency_key="once")["id"] == campaign_id
    done = wait_for(lambda: final(client, campaign_id), 240, "the campaign")
    assert (done["state"], done["reason"]) == ("complete", None)
    trials = list(client.trials(campaign_id))
    assert [t["candidate"]["kind"] for t in trials] == ["parent"] * 8 + ["soup"] + ["candidate"] * 12
    assert {t["state"] for t in trials} == {"complete"}

    front = client.front(campaign_id)
    best = client.trial(client.best(campaign_id)["id"])
    assert best["id"] in {trial["id"] for trial in front["front"]}
    directory = client.pull(best["id"], tmp_path / "best")
    AutoModelForCausalLM.from_pretrained(directory)
    assert "Recipe" in (directory / "README.md").read_text()
    for split in ("search", "holdout"):
        results = lm_eval(zoo, directory, best, split, spec["evaluation"]["batch_size"], tmp_path / split)
        for measurement in best["measurements"]:
            if measurement["split"] == split:
                task, metric = measurement["objective"].split("/")
                assert results[task][f"{metric},none"] == measurement["value"], measurement["objective"]
    hub = {"HF_ENDPOINT": service.url, "HF_HOME": str(tmp_path / "hub"), "HF_HUB_OFFLINE": "0"}
    name = f"{campaign_id}/best"
    assert lm_eval(zoo, name, best, split, spec["evaluation"]["batch_size"], tmp_path / "by-name", **hub) == results


def test_a_refused_campaign_leaves_nothing(client, spec):
    before = client.campaigns()
    spec["objectives"][0]["metric"] = "exact_mach"
    with pytest.raises(RequestRefused, match="did you mean 'exact_match'") as caught:
        client.launch(spec)
    assert caught.value.status == 422
    assert client.campaigns() == before


def test_what_only_an_actor_can_find_wrong_is_told_as_clearly(client, spec, wait_for):
    spec["evaluation"]["search_items"] = 1000
    campaign_id = client.launch(spec)["id"]
    done = wait_for(lambda: final(client, campaign_id), 120, "the campaign")
    assert done["state"] == "failed"
    assert "evaluation.search_items" in done["reason"]
    assert "1000" in done["reason"]
    assert "\x1b" not in done["reason"]


def test_more_actors_than_the_cluster_holds_are_as_many_as_it_holds(client, spec, wait_for):
    spec["resources"] = {"actors": 500}
    campaign_id = client.launch(spec)["id"]
    done = wait_for(lambda: final(client, campaign_id), 240, "the campaign")
    assert (done["state"], done["reason"]) == ("complete", None)


def test_cancel_while_the_actors_are_being_set_up(client, spec, wait_for):
    campaign_id = client.launch(spec)["id"]
    client.step(campaign_id, "cancel")
    assert wait_for(lambda: final(client, campaign_id), 60, "the campaign")["state"] == "cancelled"
    after = client.launch(spec)["id"]
    assert wait_for(lambda: final(client, after), 240, "the next campaign")["state"] == "complete"
