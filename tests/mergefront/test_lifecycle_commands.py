"""The commands of a campaign's life, against a real server."""

import json
import threading

import pytest
import uvicorn
import yaml
from typer.testing import CliRunner

from api import Settings, create_app
from campaigns.pools import Checkpoint, Pool
from campaigns.spec import parse_spec
from campaigns.states import CampaignState, CampaignStep
from mergefront.cli import app
from mergefront.client import Client, RequestRefused
from storage import Store

SPEC = {
    "name": "lived",
    "pool": {"checkpoints": [{"name": name, "path": f"/models/{name}"} for name in ("math", "code")]},
    "objectives": [{"task": "sums", "metric": "acc", "direction": "maximize"}],
    "budget": {"evaluations": 4},
}


@pytest.fixture
def store(tmp_path):
    opened = Store.open(f"sqlite:///{tmp_path}/store.sqlite")
    yield opened
    opened.close()


@pytest.fixture
def url(store, tmp_path):
    settings = Settings(
        database_url=f"sqlite:///{tmp_path}/store.sqlite", home=tmp_path / "home", model_roots=(tmp_path,)
    )
    server = uvicorn.Server(uvicorn.Config(create_app(settings), port=0, log_level="error"))
    thread = threading.Thread(target=server.run)
    thread.start()
    while not server.started:
        assert thread.is_alive()
        thread.join(0.02)
    yield f"http://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}"
    server.should_exit = True
    thread.join()


@pytest.fixture
def campaign(store):
    checkpoints = tuple(
        Checkpoint(name=n, path=f"/models/{n}", digest=n * 16, stamp=n * 16, size_bytes=1) for n in ("math", "code")
    )
    pool = Pool(checkpoints=checkpoints, base=None, dtype="float32", architecture="LlamaForCausalLM", parameter_count=5)
    return store.create_campaign(parse_spec(SPEC), pool).id


@pytest.fixture
def run(url):
    def run(*arguments, answer=None):
        return CliRunner().invoke(app, [*map(str, arguments), "--url", url], input=answer)

    return run


def test_steps_say_where_the_campaign_stands_then(run, store, campaign):
    store.step(campaign, CampaignStep.START)
    for command, state in (("pause", "paused"), ("resume", "running"), ("stop", "stopping"), ("cancel", "cancelled")):
        done = run(command, campaign)
        assert (done.exit_code, done.output) == (0, f"{campaign} is {state}\n")
        assert store.campaign(campaign).state == state
    refused = run("pause", campaign)
    assert refused.exit_code == 1
    assert "a cancelled campaign cannot pause" in refused.output
    assert run("cancel", "nosuchid").exit_code == 1


def test_a_step_prints_the_document_if_asked(run, campaign):
    assert json.loads(run("pause", campaign, "--json").output)["state"] == "paused"


def test_points_are_queued_from_arguments_and_from_a_file(run, store, campaign, tmp_path):
    done = run("queue", campaign, "weight.math=0.75", "weight.code=0.25")
    assert (done.exit_code, done.output) == (0, f"{campaign}-3\n")
    file = tmp_path / "points.yml"
    points = [{"weight.math": 0.1, "weight.code": 0.9}, {"weight.math": 0.75, "weight.code": 0.25}]
    file.write_text(yaml.safe_dump({"points": points}))
    done = run("queue", campaign, "--points", file)
    assert (done.exit_code, done.output) == (0, f"{campaign}-4\n{campaign}-3\n")
    assert [t.candidate.label for t in store.trials(campaign)[3:]] == ["point 1", "point 2"]
    assert store.trial(f"{campaign}-3").candidate.parameters == {"weight.math": 0.75, "weight.code": 0.25}
    assert json.loads(run("queue", campaign, "--points", file, "--json").output)["created"] == 0


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["weight.math"], "NAME=VALUE"),
        (["=1"], "NAME=VALUE"),
        (["weight.math=[1"], "not a YAML value"),
        (["weight.math=0.5"], "points.0.weight.code"),
        ([], "points"),
    ],
)
def test_a_point_that_is_none_is_told_by_field(run, store, campaign, arguments, told):
    done = run("queue", campaign, *arguments)
    assert (done.exit_code, told in done.output) == (1, True)
    assert store.trials(campaign) == []


@pytest.mark.parametrize("answer", ["lived", "{id}"])
def test_delete_says_what_would_be_lost_and_asks(run, store, campaign, answer):
    run("queue", campaign, "weight.math=0.75", "weight.code=0.25")
    early = run("delete", campaign, answer=campaign)
    assert (early.exit_code, "cancel it first" in early.output) == (1, True)
    run("cancel", campaign)
    for wrong in ("another\n", "", None):
        refused = run("delete", campaign, answer=wrong)
        assert refused.exit_code == 1
        assert "loses its 4 trials with 0 evaluations" in refused.output
        assert store.campaign(campaign).state is CampaignState.CANCELLED
    done = run("delete", campaign, answer=answer.format(id=campaign) + "\n")
    assert done.exit_code == 0
    assert done.stdout.endswith(f"{campaign} is deleted\n")
    assert store.campaigns(10) == []


def test_delete_does_not_ask_if_told_so(run, store, campaign):
    run("cancel", campaign)
    done = run("delete", campaign, "--yes", "--json")
    assert (done.exit_code, json.loads(done.output)["id"]) == (0, campaign)
    again = run("delete", campaign, "--yes")
    assert (again.exit_code, "Gone (410)" in again.output) == (1, True)


def test_a_fork_that_cannot_be_is_told_by_field_with_what_was_set(run, url, campaign, tmp_path):
    patch = tmp_path / "patch.yml"
    patch.write_text("budget: {seconds: 60}\nseed: -1\n")
    done = run("fork", campaign, patch, "--set", "budget.evaluations=0", "--set", "budget.seconds=-5")
    assert done.exit_code == 1
    for field in ("budget.evaluations", "budget.seconds", "seed"):
        assert field in done.output
    assert "got -5" in done.output
    with Client(url) as client, pytest.raises(RequestRefused) as refused:
        client.fork(campaign, {"seed": -1})
    assert refused.value.status == 422
