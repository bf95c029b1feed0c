from datetime import UTC, datetime

from campaigns.methods import LinearMerge
from campaigns.objectives import Measurement, Objective
from campaigns.recipe import Recipe
from campaigns.states import TrialState
from campaigns.trial import Candidate, Kind, Trial
from fronts.pareto import Losses
from fronts.recommendation import choose, recommend, split_to_judge_by

OBJECTIVES = (
    Objective(task="sort", metric="acc", direction="maximize"),
    Objective(task="add", metric="acc", direction="maximize", weight=3.0),
    Objective(task="text", metric="ppl", direction="minimize", weight=0.0),
)


def trial(number: int, values: Losses, kind: Kind = "candidate", label: str | None = None) -> Trial:
    recipe = Recipe(method=LinearMerge(weights=(1.0,)), sources=("a",), template="a", dtype="float32")
    measurements = tuple(
        Measurement(objective=o.name, split="search", value=value, standard_error=0.1, items=10, protocol="p")
        for o, value in zip(OBJECTIVES, values, strict=False)
    )
    return Trial(
        id=f"c-{number}",
        campaign_id="c",
        number=number,
        candidate=Candidate(kind=kind, label=label, point=(0.5,), parameters={}, recipe=recipe),
        state=TrialState.COMPLETE,
        created_at=datetime.now(UTC),
        measurements=measurements,
    )


PARENTS = [
    trial(0, (0.9, 0.1, 8.0), "parent", "sorter"),
    trial(1, (0.1, 0.5, 8.0), "parent", "adder"),  # macro-average 0.4: the best parent
    trial(2, (0.4, 0.4, 8.0), "soup", "uniform soup"),  # also 0.4
]


def test_the_highest_weighted_macro_average_is_recommended_with_its_margins() -> None:
    front = [trial(5, (1.0, 0.4, 9.0)), trial(4, (0.2, 0.9, 99.0)), trial(3, (0.2, 0.5, 1.0))]
    found = recommend(OBJECTIVES, [*PARENTS, *front], front)
    assert found is not None
    assert found.trial_id == "c-4"  # (0.2 + 3 * 0.9) / 4 = 0.725; the perplexity has no say
    assert "0.725" in found.reason
    assert "+0.325 over the best parent adder (0.4)" in found.reason
    assert "+0.325 over the uniform soup (0.4)" in found.reason


def test_of_equals_the_first_asked_is_recommended() -> None:
    front = [trial(7, (0.5, 0.5, 1.0)), trial(6, (0.5, 0.5, 2.0))]
    found = recommend(OBJECTIVES, front, front)
    assert found is not None
    assert found.trial_id == "c-6"
    assert "over" not in found.reason  # there is nothing to compare with


def test_a_baseline_is_recommended_where_no_merge_is_better() -> None:
    front = [PARENTS[1], trial(3, (0.2, 0.2, 1.0))]
    found = recommend(OBJECTIVES, [*PARENTS, front[1]], front)
    assert found is not None
    assert found.trial_id == "c-1"
    assert "the baseline 'adder' itself" in found.reason
    assert "over the best parent" not in found.reason
    assert "+0 over the uniform soup" in found.reason


def test_an_empty_front_has_no_recommendation() -> None:
    assert recommend(OBJECTIVES, PARENTS, []) is None
    assert recommend(OBJECTIVES, PARENTS, [trial(3, (0.5,))]) is None  # not measured on all objectives


def scored_again(one: Trial, values: Losses) -> Trial:
    holdout = (m.replace(split="holdout", value=v) for m, v in zip(one.measurements, values, strict=True))
    return one.replace(measurements=(*one.measurements, *holdout))


def test_the_holdout_decides_once_the_whole_front_is_scored_there() -> None:
    lucky, steady = trial(3, (1.0, 0.9, 9.0)), trial(4, (0.8, 0.8, 8.0))
    rescored = [scored_again(lucky, (0.5, 0.5, 9.0)), scored_again(steady, (0.7, 0.7, 8.0))]
    parents = [scored_again(PARENTS[0], (0.6, 0.2, 8.0)), *PARENTS[1:]]
    for front, split, chosen, words in (
        ([lucky, steady], "search", "c-3", "on the search items of the 2"),
        ([rescored[0], steady], "search", "c-3", "on the search items of the 2"),
        (rescored, "holdout", "c-4", "on the holdout items of the 2"),
    ):
        assert split_to_judge_by(OBJECTIVES, front) == split
        found = recommend(OBJECTIVES, [*parents, *front], front)
        assert found is not None
        assert found.trial_id == chosen
        assert words in found.reason
    assert "+0.4 over the best parent sorter (0.3)" in found.reason  # the others were not scored there
    assert "soup" not in found.reason


def test_a_trial_is_chosen_by_macro_average_knee_or_weights() -> None:
    front = [trial(2, (1.0, 0.0, 8.0)), trial(3, (0.6, 0.7, 8.1)), trial(4, (0.0, 1.0, 9.0))]
    assert choose(OBJECTIVES, front, "search", "knee") == front[1]
    assert choose(OBJECTIVES, front, "search", "macro") == front[2]
    assert choose(OBJECTIVES, front, "search", prefer={"sort/acc": 1.0}) == front[0]
    assert choose(OBJECTIVES, front, "search", "knee", {"text/ppl": 1.0}) == front[0]
    assert choose(OBJECTIVES, front, "holdout", "knee") is None
