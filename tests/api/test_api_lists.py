"""Lists over HTTP: filters, orders and cursors, done by the database."""

from typing import Any

import pytest
from starlette.testclient import TestClient

from campaigns.campaign import SearchSummary
from campaigns.campaign_edit import CampaignEdit
from campaigns.states import CampaignStep
from storage import Store

Page = dict[str, Any]


def all_pages(client: TestClient, path: str, **query: Any) -> list[dict[str, Any]]:
    """Follow the cursors to the end and return every item."""
    items: list[dict[str, Any]] = []
    cursor: str | None = None
    while True:
        response = client.get(path, params=query | ({"cursor": cursor} if cursor else {}))
        assert response.status_code == 200, response.text
        items += response.json()["items"]
        cursor = response.json()["next_cursor"]
        if cursor is None:
            return items


@pytest.fixture
def trials(campaign_id: str, search) -> str:
    """The path of eight trials: six told, equal values among them, one pruned, one queued."""
    scores = [(0.5, 9.0), (0.25, 7.0), (0.5, 8.0), (0.75, 6.0), (0.25, 5.0), (0.5, 4.0)]
    for number, (accuracy, perplexity) in enumerate(scores):
        kind = "parent" if number < 2 else "candidate"
        search.run(search.candidate(number / 10, kind), accuracy, perplexity, SearchSummary())
    search.prune(search.candidate(0.9))  # estimates: 0.875 and 2.5
    search.store.ask(search.lease, search.candidate(0.95), {})
    return f"/v1/campaigns/{campaign_id}/trials"


ORDERS = {
    "number": [0, 1, 2, 3, 4, 5, 6, 7],
    "-number": [7, 6, 5, 4, 3, 2, 1, 0],
    "told": [0, 1, 2, 3, 4, 5, 6, 7],
    "-told": [6, 5, 4, 3, 2, 1, 0, 7],
    "sums/acc": [1, 4, 0, 2, 5, 3, 6, 7],
    "-sums/acc": [6, 3, 0, 2, 5, 1, 4, 7],
    "text/word_perplexity": [6, 5, 4, 3, 1, 2, 0, 7],
    "-macro": [3, 0, 2, 5, 1, 4, 6, 7],
    "macro": [1, 4, 0, 2, 5, 3, 6, 7],
}


@pytest.mark.parametrize("sort", ORDERS)
@pytest.mark.parametrize("limit", [1, 2, 3, 8])
def test_every_order_is_the_same_in_pages_of_any_size(client: TestClient, trials: str, sort: str, limit: int) -> None:
    assert [trial["number"] for trial in all_pages(client, trials, sort=sort, limit=limit)] == ORDERS[sort]


def test_a_minimised_objective_counts_against_the_macro_average(client: TestClient, worker, spec, search_of) -> None:
    spec["objectives"][1]["weight"] = 0.01
    campaign_id = client.post("/v1/campaigns", json=spec).json()["id"]
    search = search_of(campaign_id)
    for accuracy, perplexity in [(0.5, 9.0), (0.5, 3.0), (0.52, 8.0)]:
        search.run(search.candidate(perplexity / 10), accuracy, perplexity, SearchSummary())
    found = all_pages(client, f"/v1/campaigns/{campaign_id}/trials", sort="-macro")
    assert [trial["number"] for trial in found] == [1, 2, 0]


@pytest.mark.parametrize(
    ("query", "numbers"),
    [
        ({"state": "complete"}, [0, 1, 2, 3, 4, 5]),
        ({"state": ["pruned", "queued"]}, [6, 7]),
        ({"state": "failed"}, []),
        ({"kind": "parent"}, [0, 1]),
        ({"kind": ["parent", "candidate"], "state": "complete", "sort": "-sums/acc"}, [3, 0, 2, 5, 1, 4]),
        ({"state": "complete", "after": 2}, [3, 4, 5]),
    ],
)
def test_filters_go_with_orders(client: TestClient, trials: str, query: Page, numbers: list[int]) -> None:
    assert [trial["number"] for trial in client.get(trials, params=query).json()["items"]] == numbers
    if "after" not in query:
        assert [trial["number"] for trial in all_pages(client, trials, limit=2, **query)] == numbers


def test_a_cursor_goes_on_where_it_was_whatever_came_meanwhile(client: TestClient, trials: str, search) -> None:
    first = client.get(trials, params={"sort": "-sums/acc", "limit": 3}).json()
    search.run(search.candidate(0.33), 1.0, 1.0, SearchSummary())
    rest = client.get(trials, params={"sort": "-sums/acc", "cursor": first["next_cursor"]}).json()
    assert [trial["number"] for trial in first["items"] + rest["items"]] == [6, 3, 0, 2, 5, 1, 4, 7]


def test_the_older_parameters_page_by_number_still(client: TestClient, trials: str) -> None:
    page = client.get(trials, params={"after": 2, "limit": 3}).json()
    assert [trial["number"] for trial in page["items"]] == [3, 4, 5]
    assert page["next"] == 5
    by_cursor = client.get(trials, params={"cursor": page["next_cursor"]}).json()
    assert by_cursor == client.get(trials, params={"after": 5}).json()
    assert (by_cursor["next"], by_cursor["next_cursor"]) == (None, None)
    assert client.get(trials, params={"sort": "-number", "limit": 3}).json()["next"] is None


@pytest.mark.parametrize(
    ("query", "field", "said"),
    [
        ({"sort": "sums/accc"}, "sort", "did you mean 'sums/acc'"),
        ({"sort": "--number"}, "sort", "no such order"),
        ({"sort": ""}, "sort", "no such order"),
        ({"state": "done"}, "state.0", "'complete'"),
        ({"kind": "child"}, "kind.0", "'parent'"),
        ({"limit": 0}, "limit", "greater than"),
        ({"cursor": "x"}, "cursor", "no cursor"),
        ({"cursor": "WyJudW1iZXIiXQ"}, "cursor", "no cursor"),
        ({"cursor": "WyJudW1iZXIiLCAxLCAxZTQwMF0"}, "cursor", "no cursor"),
        ({"cursor": "é"}, "cursor", "no cursor"),
        ({"after": 1, "sort": "told"}, "after", "sort=number"),
        ({"after": 1, "cursor": "WyJudW1iZXIiLCA3LCA3XQ"}, "after", "cursor"),
    ],
)
def test_what_is_wrong_is_named_with_what_is_allowed(
    client: TestClient, trials: str, query: Page, field: str, said: str
) -> None:
    response = client.get(trials, params=query)
    assert response.status_code == 422
    (error,) = response.json()["errors"]
    assert error["field"] == field
    assert said in f"{error['message']} {error['allowed']}"


def test_a_cursor_of_another_order_is_refused(client: TestClient, trials: str) -> None:
    cursor = client.get(trials, params={"sort": "told", "limit": 1}).json()["next_cursor"]
    response = client.get(trials, params={"sort": "-told", "cursor": cursor})
    assert response.status_code == 422
    assert "sort=told, not of sort=-told" in response.json()["detail"]


@pytest.fixture
def three_campaigns(client: TestClient, campaign_id: str, store: Store) -> list[str]:
    """The ids of three campaigns, the newest first: of Ada (queued), of bob_100% (cancelled), tiny (paused)."""
    launched = store.campaign(campaign_id)
    bob, ada = (store.create_campaign(launched.spec, launched.pool).id for _ in range(2))
    store.edit_campaign(ada, CampaignEdit(name="Ada's"))
    store.edit_campaign(bob, CampaignEdit(name="bob_100%"))
    store.step(bob, CampaignStep.CANCEL)
    store.step(campaign_id, CampaignStep.PAUSE)
    return [ada, bob, campaign_id]


@pytest.mark.parametrize(
    ("query", "found"),
    [
        ({}, [0, 1, 2]),
        ({"state": "queued"}, [0]),
        ({"state": ["paused", "cancelled"]}, [1, 2]),
        ({"name": "ada"}, [0]),
        ({"name": "B_1"}, [1]),
        ({"name": "%"}, [1]),
        ({"name": "_"}, [1]),
        ({"name": "tiny", "state": "queued"}, []),
        ({"created_after": "2020-01-01T00:00:00Z"}, [0, 1, 2]),
        ({"created_before": "2020-01-01T00:00:00Z"}, []),
    ],
)
def test_campaigns_are_filtered(client: TestClient, three_campaigns: list[str], query: Page, found: list[int]) -> None:
    page = client.get("/v1/campaigns", params=query).json()
    assert [item["id"] for item in page["items"]] == [three_campaigns[index] for index in found]
    assert page["next"] is None


def test_times_of_creation_bound_the_list_from_both_sides(client: TestClient, three_campaigns: list[str]) -> None:
    times = {item["id"]: item["created_at"] for item in client.get("/v1/campaigns").json()["items"]}
    bob = three_campaigns[1]
    after = client.get("/v1/campaigns", params={"created_after": times[bob]}).json()["items"]
    before = client.get("/v1/campaigns", params={"created_before": times[bob]}).json()["items"]
    assert [[item["id"] for item in items] for items in (after, before)] == [three_campaigns[:1], three_campaigns[2:]]


def test_pages_of_filtered_campaigns_follow_each_other(client: TestClient, three_campaigns: list[str]) -> None:
    query = {"state": ["queued", "paused"], "limit": 1}
    first = client.get("/v1/campaigns", params=query).json()
    second = client.get("/v1/campaigns", params=query | {"before": first["next"]}).json()
    assert [page["items"][0]["id"] for page in (first, second)] == [three_campaigns[0], three_campaigns[2]]
    assert second["next"] is None


@pytest.mark.parametrize(
    ("query", "field", "said"),
    [
        ({"state": "over"}, "state.0", "'queued'"),
        ({"created_after": "yesterday"}, "created_after", "datetime"),
        ({"created_before": "2026-01-01T00:00:00"}, "created_before", "timezone"),
        ({"name": "x" * 101}, "name", "100"),
    ],
)
def test_a_filter_that_is_none(client: TestClient, query: Page, field: str, said: str) -> None:
    response = client.get("/v1/campaigns", params=query)
    assert response.status_code == 422
    (error,) = response.json()["errors"]
    assert (error["field"], said in f"{error['message']} {error['allowed']}") == (field, True)
