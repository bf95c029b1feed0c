"""What one look at a campaign shows."""

from datetime import UTC, datetime, timedelta

import pytest

from mergefront.watching import format_seconds, look


def campaign(state="running", finished=None, recommendation=None, hypervolume=None, left=None, pruned=None):
    return {
        "state": state,
        "trial_counts": {"complete": 3} if pruned is None else {"complete": 1, "pruned": pruned},
        "search_finished_at": finished and finished.isoformat(),
        "summary": {"hypervolume": hypervolume, "recommendation": recommendation},
        "progress": {"evaluations_done": 3, "evaluations_total": 10, "seconds_left": left},
    }


def trial(number, *splits):
    return {"id": f"c-{number}", "timings": dict.fromkeys(splits)}


EMPTY = {"front": [], "baselines": [], "macro": {}}


def test_a_queued_campaign_shows_its_state_alone():
    assert str(look(campaign("queued"), EMPTY)) == "queued 3/10"


def test_the_search_shows_hypervolume_best_and_time_left():
    front = {**EMPTY, "macro": {"c-2": {"search": {"value": 0.5}}}}
    seen = look(campaign(recommendation={"trial_id": "c-2"}, hypervolume=0.25, left=65), front)
    assert str(seen) == "search 3/10 hypervolume 0.2500 · best c-2 at 0.500 · 1 min 05 s left"


def test_what_a_race_stopped_is_counted():
    assert str(look(campaign(pruned=2, hypervolume=0.25), EMPTY)) == "search 3/10 2 pruned · hypervolume 0.2500"
    assert str(look(campaign("complete", pruned=2), EMPTY)) == "complete 3/10 2 pruned"


def test_the_holdout_counts_front_and_baselines_once():
    front = {
        "front": [trial(0, "search", "holdout"), trial(5, "search")],
        "baselines": [trial(0, "search", "holdout"), trial(1, "search")],
        "macro": {},
    }
    seen = look(campaign(finished=datetime.now(UTC) - timedelta(seconds=30)), front)
    assert (seen.phase, seen.done, seen.total) == ("holdout", 1, 3)
    assert seen.found == "1 min 00 s left"


@pytest.mark.parametrize(("seconds", "text"), [(0.4, "0 s"), (59.4, "59 s"), (59.6, "1 min 00 s"), (187, "3 min 07 s")])
def test_durations(seconds, text):
    assert format_seconds(seconds) == text
