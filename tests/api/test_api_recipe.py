"""A trial's recipe over HTTP: our document, mergekit's configuration, and what `mergefront recipe` prints."""

import json

import pytest
import torch
import yaml
from safetensors.torch import load_file
from typer.testing import CliRunner

from campaigns.errors import InvalidInput
from campaigns.methods import FisherMerge, LinearMerge
from campaigns.recipe import Recipe, Rule, TensorFilter
from mergefront.cli import app
from mergefront.client import Client, RequestRefused

FIRST = TensorFilter(contains=("self_attn",), layers=(0, 1))
TWICE = TensorFilter(contains=("self_attn", "q_proj"))


def ask(search, **changes):
    """Queue a trial whose recipe has `changes`."""
    candidate = search.candidate(0.25)
    recipe = candidate.recipe.replace(**changes)
    return search.store.ask(search.lease, candidate.replace(recipe=recipe), {})


def rules(tensors):
    return (Rule(tensors=tensors, method=LinearMerge(weights=(1, 0))),)


def command(served, *arguments):
    return CliRunner().invoke(app, [*arguments, "--url", str(served.base_url)])


def test_a_recipe_is_our_document_unless_mergekits_is_asked_for(client, search):
    trial = ask(search)
    for query in ("", "?format=json"):
        response = client.get(f"/v1/trials/{trial.id}/recipe{query}")
        assert Recipe.model_validate(response.json()) == trial.candidate.recipe


def test_a_recipe_as_mergekits_configuration(client, search, zoo):
    trial = ask(search)
    response = client.get(f"/v1/trials/{trial.id}/recipe?format=mergekit")
    assert response.headers["content-type"] == "application/yaml"
    assert f"# Mergefront recipe {trial.candidate.recipe.digest}" in response.text
    document = yaml.safe_load(response.text)
    assert document["merge_method"] == "linear"
    listed = [(entry["model"], entry["parameters"]["weight"]) for entry in document["models"]]
    assert listed == [(str(zoo / "math"), 0.25), (str(zoo / "code"), 0.75)]


def test_rules_of_a_recipe_become_slices_and_filters(client, search):
    trial = ask(search, rules=rules(FIRST))
    document = yaml.safe_load(client.get(f"/v1/trials/{trial.id}/recipe?format=mergekit").text)
    weights = [part["sources"][0]["parameters"]["weight"] for part in document["slices"]]
    assert weights == [[{"filter": "self_attn", "value": 1.0}, {"value": 0.25}], 0.25]


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        ({"method": FisherMerge(weights=(1, 1))}, "recipe.method.kind"),
        ({"rules": rules(TWICE)}, "recipe.rules.0.tensors.contains"),
    ],
)
def test_a_recipe_that_mergekit_cannot_make_is_a_problem_by_field(client, search, changes, field):
    trial = ask(search, **changes)
    response = client.get(f"/v1/trials/{trial.id}/recipe?format=mergekit")
    assert response.status_code == InvalidInput.status
    assert response.headers["content-type"] == "application/problem+json"
    assert [error["field"] for error in response.json()["errors"]] == [field]


def test_an_unknown_format_or_trial_is_a_problem(client, search):
    trial = ask(search)
    wrong = client.get(f"/v1/trials/{trial.id}/recipe?format=toml")
    assert (wrong.status_code, wrong.json()["errors"][0]["field"]) == (422, "format")
    assert client.get("/v1/trials/nowhere-1/recipe?format=mergekit").status_code == 404


def test_openapi_describes_both_formats(client):
    operation = client.get("/openapi.json").json()["paths"]["/v1/trials/{trial_id}/recipe"]["get"]
    assert set(operation["responses"]["200"]["content"]) == {"application/json", "application/yaml"}
    assert {"404", "409", "422"} <= set(operation["responses"])
    [parameter] = [p for p in operation["parameters"] if p["name"] == "format"]
    assert parameter["schema"]["enum"] == ["json", "mergekit"]


def test_the_client_returns_both_formats(served, search):
    trial = ask(search)
    with Client(str(served.base_url)) as client:
        assert Recipe.model_validate(client.recipe(trial.id)) == trial.candidate.recipe
        assert yaml.safe_load(client.recipe(trial.id, "mergekit"))["out_dtype"] == "bfloat16"
        with pytest.raises(RequestRefused, match="404"):
            client.recipe("nowhere-1", "mergekit")


def test_the_command_prints_what_merge_makes_the_pulled_checkpoint_of(served, search, tmp_path, monkeypatch):
    monkeypatch.setenv("MERGEFRONT_HOME", str(tmp_path / "home"))
    trial = ask(search, rules=rules(FIRST))
    printed = command(served, "recipe", trial.id)
    assert Recipe.model_validate(json.loads(printed.stdout)) == trial.candidate.recipe
    exported = command(served, "recipe", trial.id, "--format", "mergekit")
    (tmp_path / "merge.yml").write_text(exported.stdout)
    done = CliRunner().invoke(app, ["merge", str(tmp_path / "merge.yml"), str(tmp_path / "merged")])
    assert done.exit_code == 0, done.output
    with Client(str(served.base_url)) as client:
        client.pull(trial.id, tmp_path / "pulled")
    merged, pulled = (load_file(tmp_path / name / "model.safetensors") for name in ("merged", "pulled"))
    assert set(merged) == set(pulled)
    assert all(torch.equal(merged[name], pulled[name]) for name in pulled)
