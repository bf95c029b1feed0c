"""The image and the compose file: valid by the compose schema, no secret baked in, commands that exist."""

import re
import subprocess
import sys
import tomllib
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

import pytest
import typer.main
import yaml
from click import Context

from mergefront.cli import app

ROOT = Path(__file__).parents[2]
COMPOSE = ROOT / "docker-compose.yml"
DOCKERFILE = (ROOT / "Dockerfile").read_text()
IGNORED = (ROOT / ".dockerignore").read_text().split()
BUILT_HERE = ("api", "worker", "ray-head", "gpu-worker")


@pytest.fixture(scope="module")
def services() -> dict[str, dict[str, Any]]:
    found: dict[str, dict[str, Any]] = yaml.safe_load(COMPOSE.read_text())["services"]
    return found


def check_against_schema(path: Path) -> subprocess.CompletedProcess[str]:
    """Check with the compose specification's schema, as the check-jsonschema package carries it."""
    command = [sys.executable, "-m", "check_jsonschema", "--builtin-schema", "vendor.compose-spec", str(path)]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def test_the_compose_file_fits_the_compose_schema() -> None:
    checked = check_against_schema(COMPOSE)
    assert checked.returncode == 0, checked.stdout + checked.stderr


@pytest.mark.parametrize(
    ("right", "wrong"),
    [("restart: unless-stopped", "restarts: unless-stopped"), ("condition: service_healthy", "condition: healthy")],
)
def test_the_schema_refuses_a_wrong_file(tmp_path: Path, right: str, wrong: str) -> None:
    text = COMPOSE.read_text()
    assert right in text
    broken = tmp_path / "docker-compose.yml"
    broken.write_text(text.replace(right, wrong))
    assert check_against_schema(broken).returncode == 1


def test_every_role_is_there(services: dict[str, dict[str, Any]]) -> None:
    assert set(services) == {*BUILT_HERE, "postgres"}


def test_the_cpu_profile_is_the_default(services: dict[str, dict[str, Any]]) -> None:
    assert {name: service["profiles"] for name, service in services.items() if "profiles" in service} == {
        "gpu-worker": ["gpu"]
    }
    devices = services["gpu-worker"]["deploy"]["resources"]["reservations"]["devices"]
    assert devices[0]["capabilities"] == ["gpu"]
    assert all("deploy" not in service for name, service in services.items() if name != "gpu-worker")


def test_secrets_come_from_outside_and_have_no_default() -> None:
    variables = re.findall(r"\$\{(\w+)([^}]*)\}", COMPOSE.read_text())
    secret = [(name, rest) for name, rest in variables if re.search("TOKEN|PASSWORD", name)]
    assert {name for name, _ in secret} == {"MERGEFRONT_TOKEN", "POSTGRES_PASSWORD", "RAY_AUTH_TOKEN"}
    assert all(rest.startswith(":?") and len(rest) > 2 for _, rest in secret)
    assert not re.search(r"://[^\s/@]+:[^\s/@]+@", COMPOSE.read_text()), "a password in a URL"


def test_every_service_that_runs_ray_demands_the_token(services: dict[str, dict[str, Any]]) -> None:
    with_ray = {name for name, service in services.items() if re.search(r"\bray\b", str(commands(service)))}
    assert with_ray == {"worker", "ray-head", "gpu-worker"}
    for name in with_ray:
        environment = services[name]["environment"]
        assert environment["RAY_AUTH_MODE"] == "token", name
        assert environment["RAY_AUTH_TOKEN"].startswith("${RAY_AUTH_TOKEN:?"), name
    assert "PGPASSWORD" in services["worker"]["environment"], "Ray's variables do not replace the database's"


def commands(service: dict[str, Any]) -> list[Any]:
    return [service.get(key) for key in ("entrypoint", "command", "healthcheck")]


def test_ray_reports_nothing_home() -> None:
    assert re.search(r"^ENV .*\bRAY_USAGE_STATS_ENABLED=0\b", DOCKERFILE, re.MULTILINE)


def test_only_the_api_is_published_and_on_loopback_unless_told_otherwise(services: dict[str, dict[str, Any]]) -> None:
    published = {name: service["ports"] for name, service in services.items() if "ports" in service}
    assert published == {"api": ["${MERGEFRONT_BIND:-127.0.0.1}:8400:8400"]}


def test_checkpoints_and_tasks_are_mounted_read_only_everywhere(services: dict[str, dict[str, Any]]) -> None:
    for name in BUILT_HERE:
        targets = [volume.rsplit("}", 1)[1] for volume in services[name]["volumes"] if "}" in volume]
        assert targets == [":/models:ro", ":/tasks:ro"], name


def test_every_service_has_a_health_check_and_waits_for_healthy_ones(services: dict[str, dict[str, Any]]) -> None:
    assert "HEALTHCHECK" in DOCKERFILE  # the API's
    assert {name for name, service in services.items() if "healthcheck" not in service} == {"api"}
    for name, service in services.items():
        for other, how in service.get("depends_on", {}).items():
            assert other in services, name
            assert how == {"condition": "service_healthy"}, name


def test_named_volumes_are_declared(services: dict[str, dict[str, Any]]) -> None:
    declared = yaml.safe_load(COMPOSE.read_text())["volumes"]
    used = {volume.split(":")[0] for service in services.values() for volume in service.get("volumes", [])}
    assert {name for name in used if not name.startswith("$")} == set(declared)


def test_the_api_command_is_one_that_the_command_line_takes(
    services: dict[str, dict[str, Any]], tmp_path: Path
) -> None:
    options = parsed(services["api"]["command"], tmp_path)
    assert options["host"] == "0.0.0.0"
    assert options["worker"] is False
    assert options["port"] == 8400
    assert options["models"] == [tmp_path / "models"]


def test_the_worker_command_is_one_that_the_command_line_takes(
    services: dict[str, dict[str, Any]], tmp_path: Path
) -> None:
    script = services["worker"]["command"][0]
    options = parsed(script.split("mergefront ", 1)[1].split(), tmp_path)
    assert options["ray_address"] == "auto"
    assert options["tasks"] == [tmp_path / "tasks"]
    assert f"--database={options['database']}" in services["api"]["command"]
    assert f"--home={options['home']}" in services["api"]["command"]


def parsed(arguments: list[str], root: Path) -> dict[str, Any]:
    """Return the options of a `mergefront` command line; click raises for one that it would refuse.

    The folders that the container mounts, /models and /tasks, are looked for under `root`.
    """
    for mounted in ("models", "tasks"):
        (root / mounted).mkdir()
        arguments = [re.sub(f"(^|=)/{mounted}$", rf"\1{root / mounted}", argument) for argument in arguments]
    group = typer.main.get_command(app)
    command = group.get_command(Context(group), arguments[0])  # type: ignore[attr-defined]
    with command.make_context(arguments[0], list(arguments[1:])) as context:
        return dict(context.params)


def test_the_image_holds_every_package_and_only_what_exists() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    packages = {name.rstrip("*") for name in project["tool"]["setuptools"]["packages"]["find"]["include"]}
    copied = [source for line in re.findall(r"^COPY (.+)$", DOCKERFILE, re.MULTILINE) for source in line.split()[:-1]]
    assert packages <= set(copied)
    assert set(copied) - packages == {"pyproject.toml", "README.md", "constraints.txt"}
    for source in copied:
        assert (ROOT / source).exists(), source
        assert not any(fnmatch(source, pattern) for pattern in IGNORED), source


def test_the_build_context_leaves_out_what_is_large_or_private() -> None:
    assert {".git", ".venv", "demo-output", "tests"} <= set(IGNORED)


def test_the_image_does_not_run_as_root() -> None:
    instructions = re.findall(r"^(USER|ENTRYPOINT|CMD|RUN) (.+)$", DOCKERFILE, re.MULTILINE)
    kinds = [kind for kind, _ in instructions]
    assert ("USER", "mergefront") in instructions
    assert "RUN" not in kinds[kinds.index("USER") :]


def test_the_image_asks_healthz_on_the_port_that_the_api_serves(services: dict[str, dict[str, Any]]) -> None:
    assert "http://127.0.0.1:8400/healthz" in DOCKERFILE
    assert "--port=8400" in services["api"]["command"]


def test_the_pinned_torch_build_can_be_chosen(services: dict[str, dict[str, Any]]) -> None:
    assert re.search(r"^torch==", (ROOT / "constraints.txt").read_text(), re.MULTILINE)
    assert "ARG TORCH_INDEX_URL" in DOCKERFILE
    for name in BUILT_HERE:
        assert services[name]["build"]["args"] == {"TORCH_INDEX_URL": "${TORCH_INDEX_URL:-}"}
