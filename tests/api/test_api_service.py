"""Health, tokens, headers, settings, unexpected errors and the OpenAPI document."""

from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from fastapi import FastAPI
from jsonschema import Draft202012Validator
from pydantic import SecretStr, ValidationError
from starlette.testclient import TestClient

from api import Settings, create_app
from api.examples import SPEC_EXAMPLE
from api.problems import Problem
from campaigns.errors import InvalidInput, from_validation
from campaigns.inventory import Worker
from campaigns.spec import parse_spec
from storage import Store

PROBLEM = "application/problem+json"
HERE = "http://127.0.0.1:8400"


def test_a_process_that_is_up_is_healthy(client: TestClient) -> None:
    response = client.get("/healthz")
    assert (response.status_code, response.json()) == (200, {"status": "ok"})


def test_without_a_live_worker_the_service_is_not_ready(client: TestClient, store: Store, worker: Worker) -> None:
    assert client.get("/readyz").json() == {"status": "ready", "workers": ["worker-1"]}
    store.publish_worker(worker.replace(seen_at=worker.seen_at - timedelta(hours=1)))
    for path in ("/readyz", "/v1/inventory"):
        response = client.get(path)
        assert (response.status_code, response.headers["content-type"]) == (503, PROBLEM)
    assert client.get("/v1/workers").json() == {"items": []}


def test_without_its_database_the_service_is_up_but_not_ready(settings: Settings, worker: Worker) -> None:
    path = Path(settings.database_url.removeprefix("sqlite:///"))
    with TestClient(create_app(settings), HERE, raise_server_exceptions=False) as client:
        assert client.get("/readyz").status_code == 200
        client.app.state.service.store.close()
        for file in path.parent.glob(f"{path.name}*"):
            file.unlink()
        path.mkdir()
        response = client.get("/readyz")
        assert (response.status_code, response.json()["detail"]) == (503, "the database does not answer")
        assert client.get("/healthz").status_code == 200
        broken = client.get("/v1/campaigns")
        assert (broken.status_code, broken.headers["content-type"]) == (500, PROBLEM)
        assert "sqlite" not in broken.text


def test_the_inventory_is_what_workers_published(client: TestClient, worker: Worker) -> None:
    assert client.get("/v1/inventory").json() == worker.inventory.model_dump(mode="json")
    (found,) = client.get("/v1/workers").json()["items"]
    assert set(found) == {"id", "host", "devices", "versions", "started_at", "seen_at"}
    assert (found["id"], found["host"], found["devices"], found["versions"]) == ("worker-1", "here", ["cpu"], {})


@pytest.fixture
def guarded(settings: Settings) -> Any:
    with TestClient(create_app(settings.replace(token=SecretStr("geheim")))) as client:
        yield client


@pytest.mark.parametrize("path", ["/v1/campaigns", "/v1/nothing", "/readyz", "/openapi.json", "/v1/trials/x-0"])
@pytest.mark.parametrize("header", [None, "Bearer wrong", "Bearer", "Basic geheim", "geheim", "Bearer gehéim"])
def test_data_needs_the_token(guarded: TestClient, path: str, header: str | None) -> None:
    response = guarded.get(path, headers={"Authorization": header.encode()} if header else {})
    assert (response.status_code, response.headers["content-type"]) == (401, PROBLEM)
    assert response.headers["www-authenticate"] == "Bearer"
    assert response.json()["instance"] == path


def test_the_token_opens_everything(guarded: TestClient) -> None:
    for scheme in ("Bearer", "bearer"):
        assert guarded.get("/v1/campaigns", headers={"Authorization": f"{scheme} geheim"}).status_code == 200


def test_writes_need_the_token(guarded: TestClient) -> None:
    assert guarded.post("/v1/campaigns", json={}).status_code == 401
    assert guarded.post("/v1/campaigns/x/cancel").status_code == 401


def test_health_and_the_empty_pages_need_no_token(guarded: TestClient) -> None:
    for path in ("/healthz", "/", "/campaigns/anything"):
        assert guarded.get(path).status_code == 200, path


@pytest.mark.parametrize("site", ["cross-site", "same-site"])
def test_pages_of_other_sites_change_nothing(
    client: TestClient, guarded: TestClient, campaign_id: str, store: Store, site: str
) -> None:
    for one in (client, guarded):
        headers = {"Sec-Fetch-Site": site, "Authorization": "Bearer geheim"}
        response = one.post(f"/v1/campaigns/{campaign_id}/cancel", headers=headers)
        assert (response.status_code, response.headers["content-type"]) == (403, PROBLEM)
    assert store.campaign(campaign_id).state == "queued"
    assert client.get("/v1/campaigns", headers={"Sec-Fetch-Site": site}).status_code == 200
    own = client.post(f"/v1/campaigns/{campaign_id}/cancel", headers={"Sec-Fetch-Site": "same-origin"})
    assert own.json()["state"] == "cancelled"


@pytest.mark.parametrize("host", ["evil.example", "127.0.0.1.evil.example:8400", "", "[::2]:8400", "10.0.0.1"])
def test_without_a_token_other_names_are_not_answered(client: TestClient, guarded: TestClient, host: str) -> None:
    response = client.get("/v1/campaigns", headers={"Host": host})
    assert (response.status_code, response.headers["content-type"]) == (403, PROBLEM)
    headers = {"Host": host, "Authorization": "Bearer geheim"}
    assert guarded.get("/v1/campaigns", headers=headers).status_code == 200


@pytest.mark.parametrize("host", ["127.0.0.1", "127.0.0.1:1", "localhost:8400", "LOCALHOST", "[::1]:8400", "[::1]"])
def test_this_machine_has_many_names(client: TestClient, host: str) -> None:
    assert client.get("/v1/campaigns", headers={"Host": host}).status_code == 200


def test_every_response_has_the_security_headers(client: TestClient) -> None:
    for path in ("/", "/healthz", "/v1/campaigns", "/v1/nothing"):
        headers = client.get(path).headers
        policy = headers["content-security-policy"].split("; ")
        assert {"default-src 'self'", "style-src 'self' 'unsafe-inline'", "img-src 'self' data: blob:"} <= set(policy)
        assert headers["x-content-type-options"] == "nosniff"


def test_refusals_have_the_security_headers_too(guarded: TestClient) -> None:
    assert guarded.get("/v1/campaigns").headers["x-content-type-options"] == "nosniff"


def test_an_unexpected_error_says_nothing_of_the_inside(settings: Settings) -> None:
    app: FastAPI = create_app(settings)

    @app.get("/broken")
    def broken() -> None:
        raise RuntimeError("the password is 1234")

    with TestClient(app, HERE, raise_server_exceptions=False) as client:
        response = client.get("/broken")
    assert (response.status_code, response.headers["content-type"]) == (500, PROBLEM)
    assert "1234" not in response.text
    assert Problem.model_validate(response.json()).instance == "/broken"


def test_two_applications_share_nothing(settings: Settings, tmp_path: Path) -> None:
    other = settings.replace(database_url=f"sqlite:///{tmp_path}/other.sqlite")
    apps = [create_app(settings), create_app(other)]
    stores = [app.state.service.store for app in apps]
    stores[0].publish_worker(Worker.model_validate(WORKER))
    assert [len(store.workers(1e9)) for store in stores] == [1, 0]
    for store in stores:
        store.close()


WORKER = {"id": "w", "host": "h", "inventory": {}, "started_at": "2026-01-01T00:00:00Z", "seen_at": "2026-01-01T00:00Z"}


@pytest.mark.parametrize("host", ["127.0.0.1", "127.8.8.8", "::1", "localhost"])
def test_on_this_machine_no_token_is_needed(settings: Settings, host: str) -> None:
    assert settings.replace(host=host).token is None


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.168.0.1", "example.org", ""])
def test_elsewhere_a_token_is_needed(settings: Settings, host: str) -> None:
    assert settings.replace(host=host, token="geheim").host == host
    for token in (None, ""):
        with pytest.raises(ValidationError) as refused:
            settings.replace(host=host, token=token)
        (error,) = from_validation(refused.value, kind=InvalidInput).errors
        assert error.field == ("host" if token is None else "token")


def test_the_token_is_not_printed(settings: Settings) -> None:
    assert "geheim" not in repr(settings.replace(token="geheim"))


def test_the_openapi_document_describes_problems(client: TestClient) -> None:
    document = client.get("/openapi.json").json()
    for path, operations in document["paths"].items():
        for method, operation in operations.items():
            for status, response in operation["responses"].items():
                if status.startswith(("4", "5")):
                    assert PROBLEM in response["content"], (path, method, status)
    names = set(document["components"]["schemas"])
    assert {"Problem", "FieldError", "CampaignView", "TrialView", "Front", "Manifest"} <= names
    references = {value for value in walk(document) if isinstance(value, str) and value.startswith("#/components/")}
    assert {reference.rpartition("/")[2] for reference in references} <= names
    assert not {"HTTPValidationError", "ValidationError"} & names
    launch = document["paths"]["/v1/campaigns"]["post"]["requestBody"]["content"]
    assert parse_spec(launch["application/json"]["example"]) == parse_spec(SPEC_EXAMPLE)
    assert "application/yaml" in launch


def test_problems_are_what_the_openapi_document_says(client: TestClient) -> None:
    document = client.get("/openapi.json").json()
    schema = {"$ref": "#/components/schemas/Problem", "components": document["components"]}
    validator = Draft202012Validator(schema)
    for response in (client.get("/v1/nothing"), client.get("/v1/campaigns?limit=0"), client.get("/readyz")):
        assert list(validator.iter_errors(response.json())) == []


def test_the_openapi_document_says_that_a_token_is_needed(guarded: TestClient) -> None:
    document = guarded.get("/openapi.json", headers={"Authorization": "Bearer geheim"}).json()
    assert document["security"] == [{"token": []}]
    assert all("401" in operation["responses"] for path in document["paths"].values() for operation in path.values())
    assert document["components"]["securitySchemes"]["token"] == {"type": "http", "scheme": "bearer"}


def walk(value: Any) -> Any:
    """Yield every leaf of a JSON document."""
    children = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    if not children:
        yield value
    for child in children:
        yield from walk(child)
