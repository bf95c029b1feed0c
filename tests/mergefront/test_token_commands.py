"""`mergefront token`: a secret is printed once and works on a service with the same database."""

import json
import os
from pathlib import Path

import pytest
from starlette.testclient import TestClient
from typer.testing import CliRunner

from api import Settings, create_app
from mergefront.cli import app
from mergefront.service import ServiceOptions, worker_arguments, worker_environment


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("MERGEFRONT_HOME", str(tmp_path / "home"))
    monkeypatch.delenv("MERGEFRONT_DATABASE", raising=False)
    return tmp_path / "home"


def run(*arguments: object, code: int = 0) -> str:
    done = CliRunner().invoke(app, ["token", *map(str, arguments)])
    assert done.exit_code == code, done.output
    assert "Traceback" not in done.output
    return " ".join(done.output.split())


def status(home: Path, secret: str) -> int:
    settings = Settings(database_url=f"sqlite:///{home}/mergefront.db", home=home)
    with TestClient(create_app(settings), "http://127.0.0.1") as client:
        return client.get("/v1/campaigns", headers={"Authorization": f"Bearer {secret}"}).status_code


def test_a_token_is_created_used_and_revoked(home: Path) -> None:
    secret = run("create", "ci", "--scope", "read")
    assert secret.startswith("mf_")
    assert len(secret) == 46
    assert status(home, secret) == 200
    assert status(home, secret[:-1]) == 401
    (listed,) = json.loads(run("list", "--json"))
    assert (listed["name"], listed["scope"], listed["expires_at"]) == ("ci", "read", None)
    assert listed["last_used_at"] is not None
    assert secret not in json.dumps(listed)
    assert "ci is revoked" in run("revoke", "ci")
    assert status(home, secret) == 401
    assert "revoked" in run("list")


def test_a_token_may_expire(home: Path) -> None:
    secret = run("create", "old", "--scope", "admin", "--expires-in", 0)
    lasting = run("create", "new", "--scope", "admin", "--expires-in", 0.5)
    assert (status(home, secret), status(home, lasting)) == (401, 200)
    table = run("list")
    assert "expired" in table
    assert "valid" in table


@pytest.mark.parametrize(
    ("arguments", "code", "told"),
    [
        (["create", "ci", "--scope", "read"], 1, "a name is given once"),
        (["create", "c i", "--scope", "read"], 1, "name"),
        (["create", "x" * 65, "--scope", "read"], 1, "name"),
        (["create", "new"], 2, "--scope"),
        (["create", "new", "--scope", "write"], 2, "write"),
        (["create", "new", "--scope", "read", "--expires-in", "-1"], 2, "--expires-in"),
        (["revoke", "cj"], 1, "no token 'cj'"),
        (["list", "--database", "mysql://me:kennwort@host/name"], 1, "use sqlite:///FILE"),
        (["list", "--database", "nothing"], 1, "cannot be opened"),
    ],
)
def test_what_cannot_be_is_told_in_a_line(arguments: list[str], code: int, told: str) -> None:
    run("create", "ci", "--scope", "read")
    output = run(*arguments, code=code)
    assert told in output
    assert "kennwort" not in output
    assert [token["name"] for token in json.loads(run("list", "--json"))] == ["ci"]


def test_the_database_may_be_told_by_url(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    url = f"sqlite:///{tmp_path}/other.db"
    run("create", "other", "--scope", "read", "--database", url)
    assert json.loads(run("list", "--json")) == []
    monkeypatch.setenv("MERGEFRONT_DATABASE", url)
    assert [token["name"] for token in json.loads(run("list", "--json"))] == ["other"]


def test_the_worker_beside_the_service_gets_no_secret_where_others_see_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MERGEFRONT_TOKEN", "geheim")
    options = ServiceOptions(home=tmp_path, database_url="postgresql://me:kennwort@host/name", token="geheim")
    arguments = worker_arguments(options, tmp_path)
    environment = worker_environment(str(options.database_url))
    assert environment["MERGEFRONT_DATABASE"] == "postgresql://me:kennwort@host/name"
    assert environment["PATH"] == os.environ["PATH"]
    assert "geheim" not in "".join([*arguments, *environment.values(), repr(options)])
    assert "kennwort" not in "".join([*arguments, repr(options)])
