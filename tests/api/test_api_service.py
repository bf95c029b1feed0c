"""Health, tokens, headers, settings, unexpected errors and the OpenAPI document."""

import re
from datetime import UTC, datetime, timedelta
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
from campaigns.tokens import Token, TokenScope, secret_digest
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
    is_token = header is not None and header.startswith("Bearer ")
    assert response.headers["www-authenticate"] == ('Bearer error="invalid_token"' if is_token else "Bearer")
    assert response.json()["instance"] == path
    assert "scope read" in response.json()["detail"]


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
        assert {"object-src 'none'", "base-uri 'none'", "frame-ancestors 'none'"} <= set(policy)
        assert not [part for part in policy if "unsafe" in part and not part.startswith("style-src")]
        assert headers["x-content-type-options"] == "nosniff"
        assert headers["cross-origin-resource-policy"] == headers["cross-origin-opener-policy"] == "same-origin"
        assert "camera=()" in headers["permissions-policy"]


def test_pages_need_no_script_of_their_own(client: TestClient) -> None:
    for path in ("/", "/campaigns/anything"):
        page = client.get(path).text
        assert set(re.findall(r"<script[^>]*>([^<]*)</script>", page)) == {""}
        assert not re.search(r"\son\w+=|javascript:", page)


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
    assert response.headers["x-content-type-options"] == "nosniff"
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
    create_app(settings.replace(host=host)).state.service.store.close()


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.168.0.1", "example.org", ""])
def test_elsewhere_a_token_is_needed(settings: Settings, store: Store, host: str) -> None:
    elsewhere = settings.replace(host=host)
    create_app(elsewhere.replace(token="geheim")).state.service.store.close()
    for is_valid in (None, False, True):
        if is_valid is not None:
            at = datetime.now(UTC)
            token = Token(name=str(is_valid), scope=TokenScope.READ, created_at=at, expires_at=None if is_valid else at)
            store.add_token(token, secret_digest(token.name))
        if is_valid:
            create_app(elsewhere).state.service.store.close()
            continue
        with pytest.raises(InvalidInput) as refused:
            create_app(elsewhere)
        (error,) = refused.value.errors
        assert error.field == "host"
        assert "mergefront token create" in str(error)


@pytest.mark.parametrize("token", ["", " "])
def test_an_empty_token_is_none(settings: Settings, token: str) -> None:
    with pytest.raises(ValidationError) as refused:
        settings.replace(token=token)
    (error,) = from_validation(refused.value, kind=InvalidInput).errors
    assert error.field == "token"


def test_secrets_are_not_printed(settings: Settings) -> None:
    shown = repr(settings.replace(token="geheim", database_url="postgresql://me:kennwort@host/name"))
    assert "geheim" not in shown
    assert "kennwort" not in shown


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


def test_the_openapi_document_says_which_scope_is_needed(client: TestClient) -> None:
    document = client.get("/openapi.json").json()
    assert document["components"]["securitySchemes"]["token"] == {"type": "http", "scheme": "bearer"}
    paths = document["paths"]
    assert paths["/v1/campaigns"]["get"]["security"] == [{"token": ["read"]}, {}]
    assert paths["/v1/campaigns"]["post"]["security"] == [{"token": ["launch"]}, {}]
    assert "security" not in paths["/healthz"]["get"]
    for path, operations in paths.items():
        for operation in operations.values():
            refusals = {"401", "403", "429", "503"} if path != "/healthz" else set()
            refusals |= {"408", "413"} if "requestBody" in operation else set()
            assert refusals <= set(operation["responses"]), path


def test_the_examples_of_the_openapi_document_are_what_it_describes(client: TestClient) -> None:
    document = client.get("/openapi.json").json()
    checked = set()
    for path, operations in document["paths"].items():
        for method, operation in operations.items():
            bodies = {"body": operation.get("requestBody", {}), **operation["responses"]}
            for status, body in bodies.items():
                for content in body.get("content", {}).values():
                    if "example" in content:
                        schema = {**content["schema"], "components": document["components"]}
                        errors = list(Draft202012Validator(schema).iter_errors(content["example"]))
                        assert errors == [], (path, method, status)
                        checked.add((method, path, status))
    campaign, trials = "/v1/campaigns/{campaign_id}", "/v1/campaigns/{campaign_id}/trials"
    shown = [("post", "/v1/campaigns", "201"), ("get", "/v1/campaigns", "200"), ("get", campaign, "200")]
    shown += [("patch", campaign, "body"), ("patch", campaign, "412"), ("get", trials, "422")]
    shown += [("get", "/v1/trials/{trial_id}", "200"), ("post", campaign + "/pause", "409"), ("get", "/readyz", "503")]
    assert set(shown) <= checked


def test_every_operation_may_fail_unexpectedly_and_says_so(client: TestClient) -> None:
    document = client.get("/openapi.json").json()
    operations = [operation for path in document["paths"].values() for operation in path.values()]
    assert all("500" in operation["responses"] for operation in operations)
    assert {"/v1/events", "/metrics", "/v1/campaigns/{campaign_id}/events"} <= set(document["paths"])


def walk(value: Any) -> Any:
    """Yield every leaf of a JSON document."""
    children = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    if not children:
        yield value
    for child in children:
        yield from walk(child)
