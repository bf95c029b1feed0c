"""Requests in the log: an id that the client is told, what they were about, and nothing secret."""

import logging
from typing import Any

import pytest
from fastapi import FastAPI, Request
from fastapi.responses import StreamingResponse
from starlette.testclient import TestClient

from api import Settings, create_app
from mergefront.structured_logs import fields_of

HERE = "http://127.0.0.1:8400"


@pytest.fixture
def lines(caplog: pytest.LogCaptureFixture) -> pytest.LogCaptureFixture:
    """What requests leave in the log."""
    caplog.set_level(logging.INFO, logger="api.request_log")
    return caplog


def of_requests(lines: pytest.LogCaptureFixture) -> list[logging.LogRecord]:
    return [line for line in lines.records if line.name == "api.request_log"]


@pytest.mark.parametrize("given", ["a", "A-1_b.c", "7" * 64])
def test_a_sane_request_id_is_taken_over(client: TestClient, lines: pytest.LogCaptureFixture, given: str) -> None:
    response = client.get("/healthz", headers={"X-Request-ID": given})
    assert response.headers["x-request-id"] == given
    assert of_requests(lines)[-1].getMessage() == "GET /healthz 200"


@pytest.mark.parametrize("given", ["", "a b", "-a", "7" * 65, "a\tb", "<script>", "é"])
def test_another_is_made_in_place_of_one_that_is_not(client: TestClient, given: str) -> None:
    ids = [client.get("/healthz", headers={"X-Request-ID": given.encode()}).headers["x-request-id"] for _ in range(2)]
    assert given not in ids
    assert len(set(ids)) == 2
    assert all(len(each) == 32 and each.isalnum() for each in ids)


def test_a_line_says_what_a_request_was_about(
    client: TestClient, campaign_id: str, search, lines: pytest.LogCaptureFixture
) -> None:
    trial = search.three_trials()[0]
    client.get(f"/v1/campaigns/{campaign_id}", params={"token": "geheim"})
    client.get(f"/v1/trials/{trial.id}")
    client.get("/v1/nothing%0Aat all")
    of_campaign, of_trial, of_nothing = of_requests(lines)[-3:]
    assert of_campaign.getMessage() == f"GET /v1/campaigns/{campaign_id} 200"
    found = fields_of(of_campaign)
    assert (found["campaign_id"], found["status"], "trial_id" in found) == (campaign_id, 200, False)
    assert 0 < found["seconds"] < 300
    found = fields_of(of_trial)
    assert (found["campaign_id"], found["trial_id"]) == (campaign_id, trial.id)
    assert of_nothing.getMessage() == "GET /v1/nothing%0Aat%20all 404"
    assert "geheim" not in str([vars(line) for line in of_requests(lines)])


@pytest.fixture
def broken(settings: Settings) -> FastAPI:
    """An application with two routes that break: at once, and in the middle of their answer."""
    app = create_app(settings)

    @app.get("/broken/{campaign_id}")
    def broken(campaign_id: str) -> None:
        raise RuntimeError("the password is 1234")

    @app.get("/cut")
    def cut(request: Request) -> StreamingResponse:
        def pieces() -> Any:
            yield "a beginning"
            raise RuntimeError("the password is 1234")

        return StreamingResponse(pieces())

    return app


def test_an_unforeseen_error_is_in_the_log_and_not_in_the_answer(
    broken: FastAPI, lines: pytest.LogCaptureFixture
) -> None:
    with TestClient(broken, HERE) as client:  # which raises what the application lets through
        response = client.get("/broken/abc", headers={"X-Request-ID": "look-for-me"})
    assert (response.status_code, response.headers["content-type"]) == (500, "application/problem+json")
    assert response.json()["request_id"] == response.headers["x-request-id"] == "look-for-me"
    assert "1234" not in response.text
    assert response.headers["x-content-type-options"] == "nosniff"
    failed, answered = of_requests(lines)
    assert (failed.getMessage(), failed.levelname, failed.campaign_id) == ("GET /broken/abc failed", "ERROR", "abc")
    assert failed.exc_info is not None and "1234" in str(failed.exc_info[1])
    assert (answered.getMessage(), answered.status) == ("GET /broken/abc 500", 500)


def test_an_answer_that_breaks_off_is_not_called_whole(broken: FastAPI, lines: pytest.LogCaptureFixture) -> None:
    with TestClient(broken, HERE) as client, pytest.raises(RuntimeError):
        client.get("/cut")
    assert [line.getMessage() for line in of_requests(lines)] == ["GET /cut failed", "GET /cut 200"]


def test_a_problem_that_says_it_all_has_no_request_id(client: TestClient) -> None:
    assert "request_id" not in client.get("/v1/campaigns/nosuchid").json()
