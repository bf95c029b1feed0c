"""The archive after each trial equals the front of all trials so far, made from scratch."""

from datetime import UTC, datetime

import numpy as np
import pytest

from campaigns.methods import LinearMerge
from campaigns.objectives import Measurement
from campaigns.recipe import Recipe
from campaigns.spec import parse_spec
from campaigns.states import TrialState
from campaigns.trial import Candidate, Trial
from fronts.pareto import non_dominated
from optimizer.archive import ParetoArchive

RECIPE = Recipe(method=LinearMerge(weights=(0.5, 0.5)), sources=("a", "b"), template="a", dtype="bfloat16")
NAMES = ("t0/acc", "t1/acc", "t2/acc")


def spec(*constraints):
    return parse_spec(
        {
            "name": "archive",
            "pool": {"checkpoints": [{"name": name, "path": name} for name in "ab"]},
            "objectives": [{"task": name.split("/")[0], "metric": "acc", "direction": "maximize"} for name in NAMES],
            "constraints": constraints,
            "budget": {"evaluations": 1},
        }
    )


def trial(number, values, kind="candidate"):
    measurements = tuple(
        Measurement(objective=name, split="search", value=value, standard_error=None, items=1, protocol="p")
        for name, value in zip(NAMES, values, strict=True)
    )
    return Trial(
        id=f"c-{number}",
        campaign_id="c",
        number=number,
        candidate=Candidate(kind=kind, point=(0.5,), parameters={}, recipe=RECIPE),
        state=TrialState.COMPLETE,
        created_at=datetime(2026, 1, 1, tzinfo=UTC),
        measurements=measurements,
    )


def numbers(archive):
    return [trial.number for trial in archive.front]


@pytest.mark.parametrize("seed", range(5))
def test_it_equals_the_front_from_scratch_after_every_trial(seed):
    """Values are whole numbers, so that many are equal; results arrive in another order than they were asked for."""
    generator = np.random.default_rng(seed)
    trials = [trial(number, generator.integers(0, 6, 3).astype(float).tolist()) for number in range(60)]
    archive = ParetoArchive(spec())
    told = []
    for index in generator.permutation(60):
        told = sorted([*told, trials[index]], key=lambda each: each.number)
        archive.add(trials[index])
        losses = [tuple(-m.value for m in each.measurements) for each in told]
        members = non_dominated(losses)
        assert numbers(archive) == [told[member].number for member in members]
        assert sorted(archive.losses) == sorted(losses[member] for member in members)


def test_it_says_whether_anything_changed():
    archive = ParetoArchive(spec())
    assert archive.add(trial(3, (0.5, 0.5, 0.5)))
    assert not archive.add(trial(4, (0.4, 0.5, 0.5)))
    assert not archive.add(trial(5, (0.5, 0.5, 0.5)))
    assert archive.add(trial(1, (0.5, 0.5, 0.5)))
    assert numbers(archive) == [1]
    assert archive.add(trial(1, (0.5, 0.5, 0.5)).replace(actor="later"))
    assert archive.front[0].actor == "later"


def test_what_breaks_a_constraint_is_not_on_the_front_however_good_it_is():
    archive = ParetoArchive(spec({"objective": "t0/acc", "at_least": 0.5}))
    archive.add(trial(0, (0.4, 1.0, 1.0)))
    archive.add(trial(1, (0.3, 1.0, 1.0)))
    assert numbers(archive) == []
    least = archive.least_violating
    assert (least.trial.number, least.broken_by) == (0, (pytest.approx(0.1),))
    archive.add(trial(2, (0.5, 0.0, 0.0)))
    assert numbers(archive) == [2]


@pytest.mark.parametrize("order", [(0, 1, 2, 3), (3, 2, 1, 0), (2, 0, 3, 1)])
def test_a_relative_bound_is_against_the_best_parent_whenever_that_comes(order):
    trials = [
        trial(0, (0.5, 0.0, 0.0), "parent"),
        trial(1, (0.8, 0.1, 0.0), "parent"),
        trial(2, (0.6, 0.9, 0.0)),
        trial(3, (0.75, 0.3, 0.0)),
    ]
    archive = ParetoArchive(spec({"objective": "t0/acc", "max_loss_to_best_parent": 0.1}))
    for index in order:
        archive.add(trials[index])
    assert numbers(archive) == [1, 3]
    assert archive.least_violating.trial.number == 2
