"""Figures for Prometheus: what they say, in the format that it reads, and that their number is bounded."""

import re
from typing import Any

import pytest
from pydantic import SecretStr
from starlette.testclient import TestClient

from api import Settings, create_app
from api.metrics import BUCKETS, RequestFigures
from campaigns.states import CampaignState, CampaignStep, TrialState
from storage import Store

HERE = "http://127.0.0.1:8400"
SAMPLE = re.compile(r'([a-z_]+)(?:\{((?:[a-z]+="[^"\\\n]*",?)*)\})? (\S+)')
Series = dict[tuple[str, frozenset[tuple[str, str]]], float]


def parse(text: str) -> Series:
    """Read the text format strictly: each series once, after HELP and TYPE of its metric."""
    series: Series = {}
    typed: dict[str, str] = {}
    helped: set[str] = set()
    assert text.endswith("\n")
    for line in text.splitlines():
        if line.startswith("# HELP "):
            helped.add(line.split()[2])
        elif line.startswith("# TYPE "):
            name, kind = line.split()[2:]
            assert name in helped
            assert name not in typed
            typed[name] = kind
        else:
            found = SAMPLE.fullmatch(line)
            assert found, line
            name = found[1]
            base = re.sub("_(bucket|sum|count)$", "", name) if name not in typed else name
            assert typed[base] == ("histogram" if base != name else typed[base])
            labels = frozenset(re.findall(r'([a-z]+)="([^"]*)"', found[2] or ""))
            assert (name, labels) not in series
            series[name, labels] = float(found[3])
    return series


def look(client: TestClient) -> Series:
    response = client.get("/metrics")
    assert response.status_code == 200
    assert response.headers["content-type"] == "text/plain; version=0.0.4; charset=utf-8"
    return parse(response.text)


def value(series: Series, name: str, **labels: str) -> float:
    return series[name, frozenset(labels.items())]


def test_what_is_in_the_database_is_counted(client: TestClient, campaign_id: str, store: Store, search) -> None:
    search.three_trials()
    search.prune(search.candidate(0.9))
    launched = store.campaign(campaign_id)
    for _ in range(2):
        store.create_campaign(launched.spec, launched.pool)
    cancelled = store.create_campaign(launched.spec, launched.pool).id
    store.step(cancelled, CampaignStep.CANCEL)
    series = look(client)
    campaigns = {state: value(series, "mergefront_campaigns", state=state) for state in CampaignState}
    assert campaigns == dict.fromkeys(CampaignState, 0) | {"running": 1, "queued": 2, "cancelled": 1}
    trials = {state: value(series, "mergefront_trials", state=state) for state in TrialState}
    assert trials == dict.fromkeys(TrialState, 0) | {"complete": 3, "pruned": 1}
    assert value(series, "mergefront_campaigns_waiting") == 2
    assert value(series, "mergefront_workers_alive") == 1
    assert value(series, "mergefront_events_total") == store.last_event_id() == len(store.events(None))
    assert value(series, "mergefront_database_up") == 1
    assert value(series, "mergefront_event_streams_active") == 0


def test_a_campaign_waits_again_once_its_worker_is_gone(client: TestClient, campaign_id: str, store: Store) -> None:
    assert value(look(client), "mergefront_campaigns_waiting") == 1
    store.lease_next("worker-1", 0)
    assert value(look(client), "mergefront_campaigns_waiting") == 1
    lease = store.lease_next("worker-2", 600)
    assert value(look(client), "mergefront_campaigns_waiting") == 0
    assert lease is not None
    store.release(lease)
    assert value(look(client), "mergefront_campaigns_waiting") == 1


def test_requests_are_counted_by_route_method_and_status(client: TestClient, campaign_id: str) -> None:
    before = len(look(client))
    for path in (campaign_id, campaign_id, "nosuchid", "another0"):
        client.get(f"/v1/campaigns/{path}")
    client.post(f"/v1/campaigns/{campaign_id}/pause")
    client.get("/v1/nothing")
    client.get(f"/static/{'x' * 50}.js")
    client.request("BREW", "/v1/campaigns")
    series = look(client)
    route = "/v1/campaigns/{campaign_id}"
    name = "mergefront_http_requests_total"
    assert value(series, name, method="GET", route=route, status="200") == 2
    assert value(series, name, method="GET", route=route, status="404") == 2
    assert value(series, name, method="POST", route=f"{route}/pause", status="200") == 1
    assert value(series, name, method="GET", route="none", status="404") == 1
    assert value(series, name, method="other", route="/v1/campaigns", status="405") == 1
    assert not [labels for _, labels in series if campaign_id in str(labels) or "nosuchid" in str(labels)]
    for _ in range(3):
        for path in ("/v1/campaigns/a", "/v1/campaigns/b", "/x", "/y?z=1"):
            client.get(path)
    assert len(look(client)) == len(series) > before


def test_refusals_are_counted_too(settings: Settings) -> None:
    with TestClient(create_app(settings.replace(token=SecretStr("geheim")))) as guarded:
        assert guarded.get("/metrics").status_code == 401
        assert guarded.get("/v1/campaigns").status_code == 401
        text = guarded.get("/metrics", headers={"Authorization": "Bearer geheim"}).text
    refused = value(parse(text), "mergefront_http_requests_total", method="GET", route="none", status="401")
    assert refused == 2


def test_a_histogram_adds_up() -> None:
    figures = RequestFigures()
    seconds = [0.001, BUCKETS[0], 0.02, 4.0, 1e6]
    for each in seconds:
        figures.note("GET", "/a", 200, each)
    series = parse("\n".join(figures.lines()) + "\n")
    name, labels = "mergefront_http_request_duration_seconds", {"method": "GET", "route": "/a"}
    for bound in BUCKETS:
        assert value(series, f"{name}_bucket", **labels, le=str(bound)) == sum(each <= bound for each in seconds)
    assert value(series, f"{name}_bucket", **labels, le="+Inf") == value(series, f"{name}_count", **labels) == 5
    assert value(series, f"{name}_sum", **labels) == pytest.approx(sum(seconds))


def test_without_its_database_a_process_still_has_figures_of_its_own(settings: Settings, lock_database: Any) -> None:
    with TestClient(create_app(settings), HERE) as client:
        with lock_database(client):
            series = look(client)
        assert value(series, "mergefront_database_up") == 0
        assert not [name for name, _ in series if name == "mergefront_campaigns"]
        assert value(series, "process_resident_memory_bytes") > 1e6
        assert value(look(client), "mergefront_database_up") == 1
