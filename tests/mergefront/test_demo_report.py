"""The demo's report and margins, by hand."""

import pytest

from mergefront.demo_report import demo_report
from mergefront.tables import front_table


def trial(number, kind, label, value):
    measurements = [
        {"objective": "sort/acc", "split": split, "value": value - shift, "standard_error": 0.03, "items": 10}
        for split, shift in (("search", 0.0), ("holdout", 0.1))
    ]
    return {
        "id": f"c-{number}",
        "candidate": {"kind": kind, "label": label, "parameters": {"weight.a": 1.0}},
        "measurements": measurements,
        "timings": {"search": {}, "holdout": {}},
    }


@pytest.fixture
def front():
    parents = [trial(0, "parent", "a", 0.5), trial(1, "parent", "b", 0.6)]
    soup, best = trial(2, "soup", "uniform soup", 0.7), trial(3, "candidate", None, 0.8)
    trials = [*parents, soup, best]

    def score(one, split):
        return next({"value": m["value"], "standard_error": 0.03} for m in one["measurements"] if m["split"] == split)

    return {
        "objectives": [{"task": "sort", "metric": "acc", "filter": "none", "direction": "maximize"}],
        "front": [best],
        "baselines": [*parents, soup],
        "recommendation": {"trial_id": "c-3", "reason": "because"},
        "macro": {one["id"]: {split: score(one, split) for split in ("search", "holdout")} for one in trials},
    }


@pytest.fixture
def report(front):
    campaign = {
        "id": "c",
        "summary": {"recommendation": front["recommendation"], "hypervolume": 0.5},
        "progress": {"actor_utilization": 0.97},
        "created_at": "2026-01-01T00:00:00Z",
        "started_at": "2026-01-01T00:00:10Z",
        "search_finished_at": "2026-01-01T00:01:10Z",
        "finished_at": "2026-01-01T00:01:40.5Z",
    }
    return demo_report(campaign, front, [*front["baselines"], *front["front"]], {"zoo": 1.0})


def test_the_report_has_search_and_holdout_values_with_errors(report):
    [best] = report["front"]
    assert best["parameters"] == {"weight.a": 1.0}
    assert best["search"]["sort/acc"] == {"value": 0.8, "standard_error": 0.03, "items": 10}
    assert best["holdout"]["sort/acc"]["value"] == pytest.approx(0.7)
    assert report["seconds"] == {
        "zoo": 1.0,
        "campaign: actors": 10.0,
        "campaign: search": 60.0,
        "campaign: holdout": 30.5,
    }
    assert (report["candidates"], report["search_evaluations"], report["evaluations"]) == (1, 4, 8)


def test_margins_are_over_the_best_parent_and_the_soup(report):
    found = report["holdout_margins"]
    assert list(found) == ["b", "uniform soup"]
    assert found["b"]["difference"] == pytest.approx(0.2)
    assert found["uniform soup"]["standard_error"] == pytest.approx(0.03 * 2**0.5)


def test_the_table_marks_the_recommended_trial_and_lists_a_baseline_once(front):
    front["front"].append(front["baselines"][2])
    table = front_table(front)
    assert list(table.columns[0].cells) == ["c-0\na", "c-1\nb", "c-2\nuniform soup", "c-3 ★\na 1.00"]
    assert list(table.columns[1].cells)[-1] == "0.800 ±0.030\n0.700 ±0.030"
