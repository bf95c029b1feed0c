"""What is taken over from a campaign over another pool or space, and what is not."""

from datetime import UTC, datetime

import pytest

from campaigns.campaign import Campaign
from campaigns.methods import DareLinearMerge, LinearMerge, TaskArithmeticMerge
from campaigns.objectives import Measurement
from campaigns.pools import Checkpoint, Pool
from campaigns.spec import parse_spec
from campaigns.states import CampaignState, TrialState
from campaigns.trial import Trial
from optimizer.imports import Importer, recipe_within
from optimizer.trial_book import TrialBook
from search_spaces import build_space

NOW = datetime(2026, 1, 1, tzinfo=UTC)


def pool(names, base="base"):
    checkpoints = [Checkpoint(name=n, path=f"/{n}", digest=f"of {n}", stamp="s", size_bytes=1) for n in (*names, base)]
    return Pool(
        checkpoints=tuple(checkpoints[:-1]), base=checkpoints[-1], dtype="bfloat16", architecture="a", parameter_count=1
    )


def campaign(names, space, identifier="other", **changes):
    spec = parse_spec(
        {
            "name": identifier,
            "pool": {"checkpoints": [{"name": n, "path": n} for n in names], "base": {"name": "base", "path": "base"}},
            "space": space,
            "objectives": [{"task": "sums", "metric": "acc", "direction": "maximize"}],
            "budget": {"evaluations": 9},
            **changes,
        }
    )
    return Campaign(
        id=identifier, spec=spec, pool=pool(names), state=CampaignState.RUNNING, created_at=NOW, updated_at=NOW
    )


def trial(of, number, candidate, state=TrialState.COMPLETE, protocol="p"):
    value = Measurement(objective="sums/acc", split="search", value=0.5, standard_error=0.1, items=1, protocol=protocol)
    return Trial(
        id=f"{of.id}-{number}",
        campaign_id=of.id,
        number=number,
        candidate=candidate,
        state=state,
        created_at=NOW,
        measurements=(value,) if state is TrialState.COMPLETE else (),
    )


def imported(here, other, candidates, book=(), **changes):
    """Import `candidates` of `other` into `here`, whose only result so far is that of its first parent."""
    space = build_space(here.spec, here.pool)
    first = trial(here, 0, space.parent(0))
    written = TrialBook(here.spec)
    written.write([first, *book])
    importer = Importer(here, space, written, first)
    trials = [trial(other, number, candidate, **changes) for number, candidate in enumerate(candidates)]
    found = importer.take(other, trials)
    report = importer.report.model_dump()
    return found, {name: count for name, count in report.items() if count}


def space_of(of):
    return build_space(of.spec, of.pool)


def test_a_checkpoint_may_have_joined_the_pool():
    other, here = campaign("ab", {"kind": "linear"}), campaign("abc", {"kind": "linear"}, "here")
    [found], report = imported(here, other, [space_of(other).candidate((0.25, 0.75))])
    assert report == {"trials": 1}
    assert found.candidate.recipe == space_of(here).candidate((0.25, 0.75, 0.0)).recipe
    assert space_of(here).candidate(found.candidate.point).parameters == pytest.approx(found.candidate.parameters)
    assert found.candidate.parameters == pytest.approx({"weight.a": 0.25, "weight.b": 0.75, "weight.c": 0.0})
    assert (found.source, found.candidate.kind, found.candidate.imported_from) == ("other-0", "imported", "other-0")


def test_a_checkpoint_may_have_left_the_pool_where_it_had_no_weight():
    other, here = campaign("abc", {"kind": "linear"}), campaign("ac", {"kind": "linear"}, "here")
    candidates = [space_of(other).candidate(point) for point in ((0.5, 0.0, 0.25), (0.5, 0.1, 0.25))]
    [found], report = imported(here, other, candidates)
    assert report == {"trials": 1, "other_sources": 1}
    assert found.candidate.recipe.method == LinearMerge(weights=candidates[0].recipe.method.weights[::2])


def test_a_space_with_other_bounds_takes_what_it_reaches():
    other = campaign("ab", {"kind": "task_arithmetic", "bounds": [0, 2]})
    here = campaign("ab", {"kind": "task_arithmetic", "bounds": [0, 1]}, "here")
    points = [(0.25, 0.5), (0.25, 0.75)]
    [found], report = imported(here, other, [space_of(other).candidate(point) for point in points])
    assert (found.candidate.point, report) == ((0.5, 1.0), {"trials": 1, "out_of_reach": 1})


def test_equal_spaces_keep_points_parameters_and_seeds():
    dare = {"kind": "dare_ties", "seed": "per_candidate"}
    other, here = campaign("ab", dare), campaign("ab", dare, "here")
    candidate = space_of(other).candidate((0.1, 0.2, 0.3, 0.4))
    [found], _ = imported(here, other, [candidate])
    assert found.candidate == candidate.replace(kind="imported", imported_from="other-0")


def test_a_queued_baseline_is_settled_and_a_running_one_left_alone():
    other, here = campaign("ab", {"kind": "ties"}), campaign("abc", {"kind": "ties"}, "here")
    space = space_of(here)
    queued = trial(here, 1, space.parent(1), TrialState.QUEUED)
    running = trial(here, 2, space.soup([0, 1], "both"), TrialState.RUNNING)
    candidates = [space_of(other).parent(1), space_of(other).uniform_soup(), space_of(other).parent(0)]
    [found], report = imported(here, other, candidates, [queued, running])
    assert (found.into, report) == ("here-1", {"baselines": 1, "known": 2})
    assert found.candidate == queued.candidate.replace(imported_from="other-0")


def test_each_recipe_is_taken_over_once_and_only_complete_trials_are_counted():
    other, here = campaign("ab", {"kind": "linear"}), campaign("ab", {"kind": "linear"}, "here")
    candidate = space_of(other).candidate((0.25, 0.75))
    found, report = imported(here, other, [candidate, candidate])
    assert (len(found), report) == (1, {"trials": 1, "known": 1})
    assert imported(here, other, [candidate], state=TrialState.INFEASIBLE) == ([], {})
    assert imported(here, other, [candidate], protocol="q") == ([], {"other_protocol": 1})


@pytest.mark.parametrize("order", ["ba", "bca"])
def test_sums_in_another_order_are_rounded_in_another_way(order):
    recipe = space_of(campaign("ab", {"kind": "linear"})).candidate((0.25, 0.75)).recipe
    assert recipe_within(recipe, pool(order)) is None
    assert recipe_within(space_of(campaign("ab", {"kind": "linear"})).parent(0).recipe, pool(order)) is not None


def test_a_recipe_of_another_base_dtype_or_method_over_other_sources_is_not_of_this_pool():
    space = space_of(campaign("ab", {"kind": "task_arithmetic"}))
    recipe = space.candidate((0.25, 0.75)).recipe
    assert recipe_within(recipe, pool("ab")) == recipe
    wider = recipe_within(recipe, pool("acb"))
    assert wider is not None
    assert wider.method == TaskArithmeticMerge(weights=(0.25, 0.0, 0.75))
    assert recipe_within(recipe, pool("ab", base="other")) is None
    assert recipe_within(recipe, pool("ab").replace(dtype="float16")) is None
    dropped = recipe.replace(method=DareLinearMerge(weights=(0.25, 0.75), densities=(1.0, 1.0)))
    assert recipe_within(dropped, pool("ab")) == dropped
    assert recipe_within(dropped, pool("acb")) is None
    assert recipe_within(recipe.replace(statistics=("s", "t")), pool("ab")) is None
