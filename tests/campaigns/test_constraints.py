"""Constraints: what each bound comes to, and against which parents the relative one is taken."""

from datetime import UTC, datetime

import pytest

from campaigns.constraints import Constraint, limits
from campaigns.methods import LinearMerge
from campaigns.objectives import Measurement, Objective
from campaigns.recipe import Recipe
from campaigns.states import TrialState
from campaigns.trial import Candidate, Trial

ACCURACY = Objective(task="sums", metric="acc", direction="maximize")
PERPLEXITY = Objective(task="text", metric="ppl", direction="minimize")
RECIPE = Recipe(method=LinearMerge(weights=(0.5, 0.5)), sources=("a", "b"), template="a", dtype="bfloat16")


def trial(accuracy, perplexity=10.0, kind="candidate", state=TrialState.COMPLETE):
    values = {"sums/acc": accuracy, "text/ppl": perplexity}
    measurements = tuple(
        Measurement(objective=name, split=split, value=value, standard_error=None, items=1, protocol="p")
        for split, shift in (("search", 0.0), ("holdout", -100.0))
        for name, value in ((name, value + shift) for name, value in values.items())
    )
    candidate = Candidate(kind=kind, point=(0.5,), parameters={}, recipe=RECIPE)
    return Trial(
        id="c-0",
        campaign_id="c",
        number=0,
        candidate=candidate,
        state=state,
        created_at=datetime(2026, 1, 1, tzinfo=UTC),
        measurements=measurements,
    )


def bounds(*constraints, parents=()):
    return limits([Constraint(**each) for each in constraints], (ACCURACY, PERPLEXITY), parents)


@pytest.mark.parametrize(
    ("constraint", "g"),
    [
        ({"objective": "sums/acc", "at_least": 0.5}, 0.1),
        ({"objective": "sums/acc", "at_least": 0.25}, -0.15),
        ({"objective": "sums/acc", "at_most": 0.3}, 0.1),
        ({"objective": "text/ppl", "at_most": 12.0}, -2.0),
        ({"objective": "sums/acc", "max_loss_to_best_parent": 0.02}, 0.08),
        ({"objective": "text/ppl", "max_loss_to_best_parent": 0.5}, 1.5),
    ],
)
def test_a_bound_is_broken_by_what_is_missing(constraint, g):
    parents = [trial(0.3, 8.0, "parent"), trial(0.5, 9.0, "parent"), trial(0.9, 1.0, "soup")]
    [found] = bounds(constraint, parents=parents).of(trial(0.4))
    assert found == pytest.approx(g)


def test_a_bound_that_is_just_met_is_met_in_spite_of_rounding():
    known = bounds({"objective": "sums/acc", "max_loss_to_best_parent": 0.02}, parents=[trial(0.5, kind="parent")])
    assert 0.5 - 0.48 - 0.02 > 0
    assert known.of(trial(0.48)) == (0.0,)
    assert known.violations(trial(0.47)) == (pytest.approx(0.01),)


def test_without_a_parent_nothing_falls_behind_and_the_best_one_counts_from_then_on():
    known = bounds({"objective": "sums/acc", "max_loss_to_best_parent": 0.1})
    assert known.of(trial(0.0)) == (-0.1,)
    assert known.learn(trial(0.6, kind="parent"))
    assert known.of(trial(0.4)) == (pytest.approx(0.1),)
    assert not known.learn(trial(0.5, kind="parent"))
    assert not known.learn(trial(0.9, kind="parent", state=TrialState.RUNNING))
    assert not known.learn(trial(0.9, kind="soup"))
    assert known.of(trial(0.4)) == (pytest.approx(0.1),)


def test_violations_are_0_where_kept_and_none_without_a_result():
    known = bounds({"objective": "sums/acc", "at_least": 0.5}, {"objective": "text/ppl", "at_most": 12.0})
    assert known.violations(trial(0.4)) == (pytest.approx(0.1), 0.0)
    assert known.violations(trial(0.4, state=TrialState.INFEASIBLE)) is None


def test_a_pruned_trial_is_held_to_what_it_would_come_to_and_shows_no_violation():
    known = bounds({"objective": "sums/acc", "at_least": 0.5}, {"objective": "text/ppl", "at_most": 12.0})
    complete = trial(0.6)
    estimated = complete.measurements[0].replace(estimate=0.4)
    pruned = complete.replace(state=TrialState.PRUNED, measurements=(estimated, *complete.measurements[1:]))
    assert known.of(complete) == (pytest.approx(-0.1), -2.0)
    assert known.of(pruned) == (pytest.approx(0.1), -2.0)
    assert known.violations(pruned) is None


def test_a_missing_measurement_is_named():
    bare = trial(0.4).replace(measurements=())
    with pytest.raises(ValueError, match="no search measurement of sums/acc"):
        bounds({"objective": "sums/acc", "at_least": 0.5}).of(bare)


def test_what_is_broken_is_told_in_words():
    constraint = Constraint(objective="sums/acc", at_least=0.5)
    assert constraint.in_words(0.03) == "sums/acc misses at_least 0.5 by 0.03"
