"""The manifests of the page about Kubernetes: they parse, name what they mount, and start commands that exist."""

import re
from pathlib import Path
from typing import Any

import pytest
import typer.main
import yaml
from click import Context

from mergefront.cli import app

PAGE = (Path(__file__).parents[2] / "docs" / "kubernetes.md").read_text()
MANIFESTS = [
    found for block in re.findall(r"```yaml\n(.*?)```", PAGE, re.DOTALL) for found in yaml.safe_load_all(block)
]


def pods() -> dict[str, dict[str, Any]]:
    """Return the specs of all pods, by the name of their container."""
    cluster, *deployments = MANIFESTS
    templates = [cluster["spec"]["headGroupSpec"], *cluster["spec"]["workerGroupSpecs"]]
    templates += [deployment["spec"] for deployment in deployments]
    return {each["template"]["spec"]["containers"][0]["name"]: each["template"]["spec"] for each in templates}


def test_every_role_is_there_on_one_image() -> None:
    assert set(pods()) == {"ray-head", "ray-worker", "worker", "api"}
    assert len({pod["containers"][0]["image"] for pod in pods().values()}) == 1


@pytest.mark.parametrize("name", pods())
def test_what_is_mounted_is_there_and_models_cannot_be_written(name: str) -> None:
    mounts = {mount["name"]: mount for mount in pods()[name]["containers"][0].get("volumeMounts", [])}
    assert set(mounts) == {volume["name"] for volume in pods()[name].get("volumes", [])}
    assert all(mounts[each]["readOnly"] for each in {"models", "tasks"} & set(mounts))


@pytest.mark.parametrize("name", ["worker", "api"])
def test_the_commands_are_ones_that_the_command_line_takes(name: str, tmp_path: Path) -> None:
    arguments = pods()[name]["containers"][0]["args"]
    if name == "worker":
        arguments = arguments[0].split("mergefront worker", 1)[1].split()
        arguments = ["worker", *arguments]
    for mounted in ("models", "tasks"):
        (tmp_path / mounted).mkdir()
        arguments = [re.sub(f"(^|=)/{mounted}$", rf"\1{tmp_path / mounted}", argument) for argument in arguments]
    group = typer.main.get_command(app)
    command = group.get_command(Context(group), arguments[0])  # type: ignore[attr-defined]
    with command.make_context(arguments[0], list(arguments[1:])) as context:
        assert context.params["database"] == "postgresql+psycopg://mergefront@postgres/mergefront"


def test_secrets_come_from_a_secret_and_whoever_runs_ray_has_the_token() -> None:
    for name, pod in pods().items():
        variables = {each["name"]: each for each in pod["containers"][0]["env"]}
        for variable in set(variables) & {"PGPASSWORD", "RAY_AUTH_TOKEN", "MERGEFRONT_TOKEN"}:
            assert set(variables[variable]) == {"name", "valueFrom"}
        assert ("RAY_AUTH_TOKEN" in variables) == (name != "api")
