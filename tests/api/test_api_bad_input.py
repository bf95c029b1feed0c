"""Bad input over HTTP: a problem with the field's path, and nothing written."""

import json
import re
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from safetensors.torch import load_file, save_file
from starlette.testclient import TestClient

from campaigns.inventory import Worker
from storage import Store

Spec = dict[str, Any]
Change = Callable[[Spec], object]
YAML = {"Content-Type": "application/yaml"}


@pytest.fixture(autouse=True)
def nothing_is_written(store: Store) -> Iterator[None]:
    """After every test of this file, no campaign and no event are there."""
    yield
    assert store.campaigns(limit=1) == []
    assert store.events(None) == []


def problem_of(client: TestClient, spec: Spec, path: str = "/v1/campaigns") -> dict[str, Any]:
    response = client.post(path, json=spec)
    assert response.status_code == 422, response.text
    assert response.headers["content-type"] == "application/problem+json"
    problem: dict[str, Any] = response.json()
    assert set(problem) == {"type", "title", "status", "detail", "instance", "errors"}
    assert (problem["status"], problem["instance"]) == (422, path)
    assert problem["errors"]
    return problem


def fields(problem: dict[str, Any]) -> list[str]:
    return [error["field"] for error in problem["errors"]]


WRONG_IN_THEMSELVES: dict[str, tuple[Change, str, str]] = {
    "zero objectives": (lambda s: s.update(objectives=[]), "objectives", "at least 1 item"),
    "bounds reversed": (
        lambda s: s.update(space={"kind": "linear", "bounds": [1, 0]}),
        "space.bounds",
        "lower bound must be below",
    ),
    "bounds of one reversed": (
        lambda s: s.update(space={"kind": "linear", "bounds_of": {"math": [0.5, 0.5]}}),
        "space.bounds_of.math",
        "lower bound must be below",
    ),
    "budget 0": (lambda s: s.update(budget={"evaluations": 0}), "budget.evaluations", "greater than or equal to 1"),
    "budget huge": (lambda s: s.update(budget={"evaluations": 10**9}), "budget.evaluations", "less than or equal"),
    "no budget": (lambda s: s.pop("budget"), "budget", "required"),
    "no base": (lambda s: s.update(space={"kind": "task_arithmetic"}), "pool.base", "needs a base checkpoint"),
    "unknown field": (lambda s: s.update(objectivs=[]), "objectivs", "not permitted"),
    "unknown nested field": (lambda s: s["budget"].update(hours=1), "budget.hours", "not permitted"),
    "unknown field of a space": (
        lambda s: s.update(space={"kind": "linear", "bound": [0, 1]}),
        "space.bound",
        "not permitted",
    ),
    "unknown checkpoint name": (
        lambda s: s.update(space={"kind": "linear", "freeze": {"maths": 0.5}}),
        "space.freeze.maths",
        "has this name",
    ),
    "one checkpoint": (lambda s: s["pool"]["checkpoints"].pop(), "pool.checkpoints", "at least 2 items"),
    "name twice": (
        lambda s: s["pool"]["checkpoints"][1].update(name="math"),
        "pool.checkpoints.1.name",
        "two checkpoints have this name",
    ),
    "no place": (lambda s: s["pool"]["checkpoints"][0].pop("path"), "pool.checkpoints.0.path", "exactly one of"),
    "unknown method": (lambda s: s.update(space={"kind": "slurp"}), "space", "does not match any of the expected tags"),
    "not a number": (lambda s: s.update(seed="seven"), "seed", "valid integer"),
    "constraint on no objective": (
        lambda s: s.update(constraints=[{"objective": "sums/ac", "at_least": 0.5}]),
        "constraints.0.objective",
        "on objectives of the campaign",
    ),
    "task arithmetic without a base": (
        lambda s: s.update(baselines={"task_arithmetic": True}),
        "pool.base",
        "needs a base checkpoint",
    ),
    "point without a coordinate": (
        lambda s: s.update(warm_start={"points": [{"weight.math": 1, "weight.code": 0}, {"weight.math": 1}]}),
        "warm_start.points.1.weight.code",
        "a point gives every coordinate",
    ),
    "point of another space": (
        lambda s: s.update(warm_start={"points": [{"weight.math": 1, "weight.code": 0, "scale": 1}]}),
        "warm_start.points.0.scale",
        "no such coordinate",
    ),
    "point out of bounds": (
        lambda s: s.update(warm_start={"points": [{"weight.math": 1, "weight.code": 1.5}]}),
        "warm_start.points.0.weight.code",
        "not what this coordinate takes",
    ),
    "import from nowhere": (
        lambda s: s.update(warm_start={"import_from": ["abcdefgh"]}),
        "warm_start.import_from.0",
        "no such campaign",
    ),
    "objective twice": (lambda s: s["objectives"].append(s["objectives"][0]), "objectives.2", "listed twice"),
}


@pytest.mark.parametrize("name", WRONG_IN_THEMSELVES)
def test_a_spec_that_is_wrong_in_itself(client: TestClient, worker: Worker, spec: Spec, name: str) -> None:
    change, field, message = WRONG_IN_THEMSELVES[name]
    change(spec)
    for path in ("/v1/campaigns", "/v1/campaigns/validate"):
        problem = problem_of(client, spec, path)
        assert fields(problem) == [field]
        assert message in problem["errors"][0]["message"]
        assert (problem["title"], problem["type"]) == ("Invalid campaign spec", "urn:mergefront:problem:invalid-spec")


def test_all_wrong_fields_are_named_at_once(client: TestClient, worker: Worker, spec: Spec) -> None:
    spec |= {"objectives": [], "budget": {"evaluations": 0}, "space": {"kind": "linear", "bounds": [1, 0]}, "x": 1}
    assert set(fields(problem_of(client, spec))) == {"objectives", "budget.evaluations", "space.bounds", "x"}


UNKNOWN: dict[str, tuple[Change, str, str]] = {
    "task": (lambda s: s["objectives"][0].update(task="sum"), "objectives.0.task", "did you mean 'sums'?"),
    "metric": (lambda s: s["objectives"][0].update(metric="ac"), "objectives.0.metric", "did you mean 'acc'?"),
    "filter": (
        lambda s: s["objectives"][0].update(metric="exact_match", filter="strict"),
        "objectives.0.filter",
        "did you mean 'strict-match'?",
    ),
    "strategy": (lambda s: s.update(strategy={"kind": "cma_es"}), "strategy.kind", "no such strategy of a worker"),
}


@pytest.mark.parametrize("name", UNKNOWN)
def test_what_no_worker_offers(client: TestClient, worker: Worker, spec: Spec, name: str) -> None:
    change, field, message = UNKNOWN[name]
    change(spec)
    problem = problem_of(client, spec)
    assert fields(problem) == [field]
    assert message in problem["errors"][0]["message"]
    assert problem["errors"][0]["allowed"]


def missing(path: Path) -> None:
    shutil.rmtree(path)


def without_weights(path: Path) -> None:
    (path / "model.safetensors").unlink()


def with_pickle(path: Path) -> None:
    torch.save(load_file(path / "model.safetensors"), path / "pytorch_model.bin")
    (path / "model.safetensors").unlink()


def truncated(path: Path) -> None:
    weights = path / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1000])


def corrupt(path: Path) -> None:
    weights = path / "model.safetensors"
    weights.write_bytes(b"\xff" * 64 + weights.read_bytes()[64:])


def with_nan(path: Path) -> None:
    tensors = load_file(path / "model.safetensors")
    tensors["model.norm.weight"][3] = float("nan")
    save_file(tensors, path / "model.safetensors", {"format": "pt"})


BROKEN: dict[str, tuple[Callable[[Path], None], str]] = {
    "missing": (missing, "no such|not a directory|does not exist|no directory|nothing"),
    "no weights": (without_weights, "no weights"),
    "pickle": (with_pickle, "safetensors|pickle"),
    "truncated": (truncated, "truncated|size|bytes|shorter|end"),
    "corrupt": (corrupt, "header|corrupt"),
    "NaN": (with_nan, "NaN|finite"),
}


@pytest.mark.parametrize("name", BROKEN)
def test_a_checkpoint_that_cannot_be_used(
    client: TestClient, worker: Worker, spec: Spec, make_checkpoint: Callable[..., Path], name: str
) -> None:
    break_it, message = BROKEN[name]
    path = make_checkpoint("broken")
    break_it(path)
    spec["pool"]["checkpoints"][1]["path"] = str(path)
    for _ in range(2):  # the second time from what was found the first time
        problem = problem_of(client, spec)
        assert problem["title"] == "Invalid checkpoint"
        assert fields(problem) == ["pool.checkpoints.1.path"]
        assert re.search(message, problem["errors"][0]["message"])


def test_a_path_outside_the_model_roots(
    client: TestClient, worker: Worker, spec: Spec, settings, zoo: Path, tmp_path: Path
) -> None:
    outside = tmp_path / "elsewhere"
    shutil.copytree(zoo / "math", outside)
    link = tmp_path / "models" / "link"
    link.symlink_to(outside)
    for path in (outside, link, zoo / ".." / outside.name, tmp_path / "models" / ".." / "elsewhere"):
        spec["pool"]["checkpoints"][0]["path"] = str(path)
        problem = problem_of(client, spec)
        assert fields(problem) == ["pool.checkpoints.0.path"]
    spec["pool"]["checkpoints"][0] = {"name": "math", "hub": "someone/model"}
    assert fields(problem_of(client, spec)) == ["pool.checkpoints.0.hub"]


def architecture(path: Path) -> None:
    config = json.loads((path / "config.json").read_text())
    config |= {"architectures": ["MistralForCausalLM"], "model_type": "mistral"}
    (path / "config.json").write_text(json.dumps(config))


def test_every_misfit_of_a_pool_is_named_at_once(
    client: TestClient, worker: Worker, spec: Spec, make_checkpoint: Callable[..., Path]
) -> None:
    words = [f"other{i}" for i in range(60)]
    paths = [
        make_checkpoint("architecture"),
        make_checkpoint("shape", hidden=16),
        make_checkpoint("vocabulary", vocabulary=80),
        make_checkpoint("tokenizer", words=words),
    ]
    architecture(paths[0])
    spec["pool"]["checkpoints"] += [{"name": path.name, "path": str(path)} for path in paths]
    problem = problem_of(client, spec)
    assert problem["title"] == "Checkpoints do not fit together"
    assert set(fields(problem)) == {f"pool.checkpoints.{index}.path" for index in (2, 3, 4, 5)}
    messages = {error["field"]: error["message"] for error in problem["errors"]}
    for index, word in ((2, "architecture"), (3, "shape"), (4, "vocabulary"), (5, "tokenizer")):
        found = [e["message"] for e in problem["errors"] if e["field"] == f"pool.checkpoints.{index}.path"]
        assert any(word in message for message in found), messages


def test_the_base_is_checked_as_well(client: TestClient, worker: Worker, spec: Spec, zoo: Path) -> None:
    spec["pool"]["base"] = {"name": "base", "path": str(zoo / "nothing")}
    assert fields(problem_of(client, spec)) == ["pool.base.path"]


def test_unknown_tasks_and_unusable_checkpoints_are_named_together(
    client: TestClient, worker: Worker, spec: Spec, zoo: Path
) -> None:
    spec["objectives"][0]["task"] = "sum"
    spec["pool"]["checkpoints"][0]["path"] = str(zoo / "nothing")
    spec["pool"]["checkpoints"][1]["path"] = str(zoo / "nothing, either")
    problem = problem_of(client, spec)
    assert fields(problem) == ["objectives.0.task", "pool.checkpoints.0.path", "pool.checkpoints.1.path"]
    assert problem["title"] == "Invalid campaign spec"


def test_without_a_worker_a_launch_has_to_wait(client: TestClient, spec: Spec) -> None:
    response = client.post("/v1/campaigns", json=spec)
    assert response.status_code == 503
    assert response.headers["content-type"] == "application/problem+json"
    assert response.json()["title"] == "Not ready"


@pytest.mark.parametrize(
    ("content", "content_type", "status"),
    [
        ("{", "application/json", 400),
        ("", "application/json", 400),
        ("[" * 100_000, "application/json", 400),
        (b"\xff\xfe\xfd", "application/json", 400),
        ("a: [", "application/yaml", 400),
        ("a: &a [1]\nb: [*a, *a]", "application/yaml", 400),
        ("[" * 10_000, "application/yaml", 400),
        ("!!python/object/apply:os.system ['true']", "application/yaml", 400),
        ("{}", "text/html", 415),
        ("[]", "application/json", 422),
        ("null", "application/json", 422),
        ("1: 2", "application/yaml", 422),
        ('{"seed": NaN}', "application/json", 422),
    ],
)
def test_a_body_that_is_no_spec(
    client: TestClient, worker: Worker, content: str | bytes, content_type: str, status: int
) -> None:
    response = client.post("/v1/campaigns", content=content, headers={"Content-Type": content_type})
    assert response.status_code == status, response.text
    assert response.headers["content-type"] == "application/problem+json"
    assert response.json()["status"] == status


def test_a_body_that_is_too_long(client: TestClient, worker: Worker, spec: Spec) -> None:
    spec["notes"] = "x" * 1_000_000
    response = client.post("/v1/campaigns", json=spec)
    assert response.status_code == 413
    assert response.headers["content-type"] == "application/problem+json"
    streamed = client.post("/v1/campaigns", content=iter([yaml.safe_dump(spec).encode()]), headers=YAML)
    assert streamed.status_code == 413


def test_an_idempotency_key_that_is_too_long(client: TestClient, worker: Worker, spec: Spec) -> None:
    response = client.post("/v1/campaigns", json=spec, headers={"Idempotency-Key": "k" * 256})
    assert response.status_code == 422
    assert fields(response.json()) == ["idempotency-key"]


@pytest.mark.parametrize(
    ("query", "field"),
    [("limit=0", "limit"), ("limit=many", "limit"), ("limit=-1", "limit")],
)
def test_a_query_that_is_wrong(client: TestClient, query: str, field: str) -> None:
    response = client.get(f"/v1/campaigns?{query}")
    assert response.status_code == 422
    assert response.json()["title"] == "Invalid input"
    assert fields(response.json()) == [field]


@pytest.mark.parametrize(
    "path",
    [
        "/v1/campaigns/nosuchid",
        "/v1/campaigns/nosuchid/trials",
        "/v1/campaigns/nosuchid/front",
        "/v1/campaigns/nosuchid/best",
        "/v1/campaigns/nosuchid/hypervolume",
        "/v1/campaigns/nosuchid/events",
        "/v1/campaigns?before=nosuchid",
        "/v1/trials/nosuchid-0",
        "/v1/trials/nosuchid-0/recipe",
        "/v1/checkpoints/nosuchid-0",
        "/v1/checkpoints/nosuchid-0/files/config.json",
        "/v1/nothing",
        "/nothing",
    ],
)
def test_what_is_not_there(client: TestClient, path: str) -> None:
    response = client.get(path)
    assert response.status_code == 404
    assert response.headers["content-type"] == "application/problem+json"
    problem = response.json()
    assert (problem["title"].lower(), problem["instance"]) == ("not found", path.partition("?")[0])
    if "nosuchid" in path:
        assert "nosuchid" in problem["detail"]


def test_a_method_that_is_not_allowed(client: TestClient) -> None:
    response = client.put("/v1/campaigns/nosuchid")
    assert response.status_code == 405
    assert response.headers["content-type"] == "application/problem+json"
    assert response.headers["allow"] == "GET"


def test_a_group_whose_members_share_no_weight(client: TestClient, worker: Worker, spec: Spec) -> None:
    names = [checkpoint["name"] for checkpoint in spec["pool"]["checkpoints"]][:2]
    bounds = {names[0]: [0.0, 0.2], names[1]: [0.5, 0.9]}
    spec["space"] = {"kind": "linear", "groups": [names], "bounds_of": bounds}
    assert all(field.startswith("space.bounds_of.") for field in fields(problem_of(client, spec)))
