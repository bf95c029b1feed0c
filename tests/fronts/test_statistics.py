"""Everything together on a small front, recomputed from the outcomes."""

import numpy as np
import pytest
from scipy.stats import binomtest

from campaigns.objectives import Objective
from fronts import statistics
from fronts.items import item_table
from fronts.membership import non_dominated_shares
from fronts.paired import holm
from fronts.statistics import Cast, front_statistics

OBJECTIVES = (
    Objective(task="sort", metric="acc", direction="maximize"),
    Objective(task="text", metric="loss", direction="minimize"),
)
ITEMS = 120


@pytest.fixture
def cast(make_trial, measure):
    """Parents good at one thing, their soup, and a front of two merges and a parent; one trial lies behind."""
    rng = np.random.default_rng(4)
    ease, hardness = rng.random(ITEMS), rng.exponential(size=ITEMS)

    def scored(number, ability, loss, **who):
        measurements = []
        for split in ("search", "holdout"):
            right = (ease + 0.2 * rng.normal(size=ITEMS) < ability).astype(float)
            losses = hardness + loss + 0.2 * rng.normal(size=ITEMS)
            ids = tuple(range(0, 2 * ITEMS, 2) if split == "search" else range(1, 2 * ITEMS, 2))
            measurements += [measure("sort/acc", right, split, item_ids=ids, truncation_rate=0.0, output_tokens=9.0)]
            measurements += [measure("text/loss", losses, split, item_ids=ids)]
        return make_trial(number, *measurements, **who)

    parents = [
        scored(0, 0.6, 1.0, kind="parent", label="sorter"),
        scored(1, 0.3, 0.3, kind="parent", label="writer"),
    ]
    soup = scored(2, 0.5, 0.6, kind="soup", label="uniform soup")
    front = [parents[1], scored(3, 0.85, 0.5), scored(4, 0.7, 0.35)]
    return Cast(front=front, baselines=[*parents, soup], near=[scored(5, 0.65, 0.5)])


def outcomes(trial, objective, split="search"):
    [found] = [m for m in trial.measurements if (m.objective, m.split) == (objective, split)]
    return np.array(found.outcomes)


@pytest.mark.parametrize("split", ["search", "holdout"])
def test_every_comparison_follows_from_the_outcomes(cast, split):
    found = front_statistics(OBJECTIVES, cast, split)
    trials = {trial.id: trial for trial in (*cast.front, *cast.baselines)}
    assert [member.trial_id for member in found.members] == ["c-1", "c-3", "c-4"]
    for member in found.members:
        others = [trial.id for trial in cast.baselines if trial.id != member.trial_id]
        assert [comparison.trial_id for comparison in member.comparisons] == others
        p_values = []
        for comparison in member.comparisons:
            ours, theirs = (outcomes(trials[i], "sort/acc", split) for i in (member.trial_id, comparison.trial_id))
            difference = comparison.differences["sort/acc"]
            wins, losses = int((ours > theirs).sum()), int((ours < theirs).sum())
            assert difference.p_value == pytest.approx(binomtest(wins, wins + losses).pvalue)
            assert difference.gain == pytest.approx((wins - losses) / ITEMS)
            gains = [ours - theirs]
            ours, theirs = (outcomes(trials[i], "text/loss", split) for i in (member.trial_id, comparison.trial_id))
            gains.append(theirs - ours)
            loss, macro = comparison.differences["text/loss"], comparison.differences["macro_average"]
            assert loss.test == macro.test == "bootstrap"
            assert loss.gain == pytest.approx(gains[1].mean())
            errors = [gain.std(ddof=1) / np.sqrt(ITEMS) for gain in gains]
            assert loss.standard_error == pytest.approx(errors[1])
            assert macro.gain == pytest.approx(np.mean([gain.mean() for gain in gains]))
            assert macro.standard_error == pytest.approx(np.hypot(*errors) / 2, rel=0.03)
            p_values.append(difference.p_value)
        parents = [i for i, comparison in enumerate(member.comparisons) if comparison.kind == "parent"]
        corrected = holm([p_values[i] for i in parents])
        for i, comparison in enumerate(member.comparisons):
            expected = corrected[parents.index(i)] if i in parents else p_values[i]
            assert comparison.adjusted_p_values["sort/acc"] == pytest.approx(expected)


def test_what_is_better_than_every_parent_is_so_after_the_correction(cast):
    found = front_statistics(OBJECTIVES, cast, "search")
    assert found.members[1].better_than_every_parent == ("sort/acc", "macro_average")  # the writer has a lower loss
    assert found.members[0].better_than_every_parent == ("text/loss", "macro_average")  # than the other parent
    for member in found.members:
        for name in ("sort/acc", "text/loss", "macro_average"):
            parents = [comparison for comparison in member.comparisons if comparison.kind == "parent"]
            everywhere = all(c.differences[name].gain > 0 and c.adjusted_p_values[name] <= 0.05 for c in parents)
            assert (name in member.better_than_every_parent) == everywhere


def test_probabilities_are_those_of_all_trials_together(cast):
    found = front_statistics(OBJECTIVES, cast, "search")
    shares = non_dominated_shares(item_table(OBJECTIVES, [*cast.front, *cast.near], "search")).tolist()
    assert [member.non_dominated for member in found.members] == shares[:3]
    assert [(near.trial_id, near.non_dominated) for near in found.near_front] == [("c-5", shares[3])]
    assert all(share > 0.9 for share in shares[:3])
    assert shares[3] < 0.1


def test_gaps_and_their_means(cast):
    found = front_statistics(OBJECTIVES, cast, "holdout")
    gaps = [member.gaps["sort/acc"].optimism for member in found.members]
    expected = [outcomes(t, "sort/acc").mean() - outcomes(t, "sort/acc", "holdout").mean() for t in cast.front]
    assert gaps == pytest.approx(expected)
    assert found.optimism["sort/acc"].front == pytest.approx(np.mean(expected[1:]))  # the first is a parent
    by_baseline = [outcomes(t, "sort/acc").mean() - outcomes(t, "sort/acc", "holdout").mean() for t in cast.baselines]
    assert found.optimism["sort/acc"].baselines == pytest.approx(np.mean(by_baseline))


def test_what_the_search_items_chose_is_no_measure_of_harder_items(cast):
    """A greedy soup is made by scores on the search items; a point that the user gave was not found by the search."""
    soup = cast.baselines[2]
    greedy = soup.replace(id="c-9", candidate=soup.candidate.replace(label="greedy soup: sorter+writer"))
    greedy = greedy.replace(
        measurements=tuple(m.replace(value=m.value + (0.5 if m.split == "search" else 0)) for m in greedy.measurements)
    )
    given = cast.front[1].replace(candidate=cast.front[1].candidate.replace(kind="point", label="point 1"))
    before = front_statistics(OBJECTIVES, Cast(cast.front[2:], cast.baselines), "search").optimism
    after = front_statistics(OBJECTIVES, Cast([given, cast.front[2]], [*cast.baselines, greedy]), "search").optimism
    assert after == before


def test_recommendations_name_margin_interval_verdict_and_warnings(cast):
    outputs = cast.front[1].measurements[0].replace(truncation_rate=0.5)
    warned = cast.front[1].replace(measurements=(outputs, *cast.front[1].measurements[1:]))
    cast = Cast(front=[cast.front[0], warned, cast.front[2]], baselines=cast.baselines)
    found = front_statistics(OBJECTIVES, cast, "search", prefer={"text/loss": 1.0})
    assert set(found.recommendations) == {"macro", "knee", "prefer"}
    macro, preferred = found.recommendations["macro"], found.recommendations["prefer"]
    assert macro.trial_id == "c-3"
    difference = {c.label: c for c in found.members[1].comparisons}["writer"].differences["macro_average"]
    low, high = difference.interval
    assert macro.reason.startswith("highest macro-average on the search items of the 3 on the front: ")
    assert f"{difference.gain:+.4g} over the best parent writer" in macro.reason
    assert f"95% interval {low:+.4g} to {high:+.4g}, p = {difference.p_value:.2g}: significant" in macro.reason
    assert "over the uniform soup" in macro.reason
    assert "the search chose by these very items, which flatters intervals and p-values" in macro.reason
    again = front_statistics(OBJECTIVES, cast, "holdout").recommendations["macro"].reason
    assert "intervals and p-values do not count that it was chosen among 3 by these items" in again
    assert macro.reason.endswith(
        "beware: sort: 50% of the outputs end at the length limit, 0% at most among the parents"
    )
    assert preferred.trial_id == "c-1"
    assert "for text/loss 1" in preferred.reason
    assert "it is the baseline 'writer' itself" in preferred.reason
    assert found.recommendations["knee"].reason.startswith("knee on the search items")


def test_blocks_of_members_change_nothing(cast, monkeypatch):
    whole = front_statistics(OBJECTIVES, cast, "search")
    monkeypatch.setattr(statistics, "BLOCK", 1)
    parts = front_statistics(OBJECTIVES, cast, "search")
    for one, other in zip(whole.members, parts.members, strict=True):
        for ours, theirs in zip(one.comparisons, other.comparisons, strict=True):
            for name, difference in ours.differences.items():
                assert difference.gain == theirs.differences[name].gain
                assert difference.p_value == pytest.approx(theirs.differences[name].p_value)
                assert difference.interval == pytest.approx(theirs.differences[name].interval)


def test_trials_that_cannot_be_compared_are_told_with_the_reason(cast):
    alien = cast.front[1].replace(measurements=tuple(m.replace(protocol="q") for m in cast.front[1].measurements))
    unscored = cast.front[2].replace(measurements=cast.front[2].measurements[2:])
    found = front_statistics(OBJECTIVES, Cast([cast.front[0], alien, unscored], cast.baselines), "search")
    assert "another protocol" in found.left_out["c-3"]
    assert "not scored on the search items" in found.left_out["c-4"]
    for member in found.members[1:]:
        assert (member.non_dominated, member.comparisons, member.better_than_every_parent) == (None, (), ())


def test_a_parent_that_cannot_be_compared_is_not_called_beaten(cast):
    alien = cast.baselines[0].replace(
        measurements=tuple(m.replace(protocol="q") for m in cast.baselines[0].measurements)
    )
    found = front_statistics(OBJECTIVES, Cast(cast.front[1:], [alien, *cast.baselines[1:]]), "search")
    assert set(found.left_out) == {"c-0"}
    for member in found.members:
        [writer, _soup] = member.comparisons
        assert writer.differences["sort/acc"].gain > 0
        assert member.better_than_every_parent == ()


def test_one_protocol_holds_for_the_whole_document(cast, monkeypatch):
    """Three of five trials are of protocol q, though of a parent on the front and its rivals all are of p."""
    monkeypatch.setattr(statistics, "BLOCK", 1)
    front = [t.replace(measurements=tuple(m.replace(protocol="q") for m in t.measurements)) for t in cast.front[1:]]
    near = [t.replace(measurements=tuple(m.replace(protocol="q") for m in t.measurements)) for t in cast.near]
    found = front_statistics(OBJECTIVES, Cast([cast.front[0], *front], cast.baselines[:2], near), "search")
    assert set(found.left_out) == {"c-0", "c-1"}
    assert [member.non_dominated is None for member in found.members] == [True, False, False]
    assert [member.comparisons for member in found.members] == [(), (), ()]


def test_a_macro_average_of_one_accuracy_has_its_test(make_trial, measure):
    """Five items won of forty: exact p = 1/16, where resamples without any of them are one in a few hundred."""
    objectives = (OBJECTIVES[0], OBJECTIVES[1].replace(weight=0.0))
    outcomes = np.arange(40) < 20, np.arange(40) < 25
    trials = [
        make_trial(n, measure("sort/acc", right.astype(float)), measure("text/loss", np.arange(40.0)), kind=kind)
        for n, (right, kind) in enumerate(zip(outcomes, ("parent", "candidate"), strict=True))
    ]
    [member] = front_statistics(objectives, Cast(trials[1:], trials[:1]), "search").members
    differences = member.comparisons[0].differences
    assert differences["macro_average"].p_value == differences["sort/acc"].p_value == pytest.approx(1 / 16)
    assert differences["macro_average"].interval == differences["sort/acc"].interval
    assert differences["macro_average"].tested == "macro_average"


def test_a_macro_average_with_noise_that_nobody_knows_is_not_tested(make_trial, measure):
    bleu = Objective(task="say", metric="bleu", direction="maximize")
    rows = [(0, 20.0, "parent"), (1, 30.0, "candidate")]
    trials = [
        make_trial(n, measure("sort/acc", [1.0, 0.0] * 10), measure("say/bleu", (), value=value), kind=kind)
        for n, value, kind in rows
    ]
    for weight, tested in ((1.0, {"sort/acc"}), (0.0, {"sort/acc", "macro_average"})):
        objectives = (OBJECTIVES[0], bleu.replace(weight=weight))
        [member] = front_statistics(objectives, Cast(trials[1:], trials[:1]), "search").members
        assert set(member.comparisons[0].differences) == tested


def test_of_a_big_front_the_wanted_members_are_compared(cast, monkeypatch):
    monkeypatch.setattr(statistics, "MOST_MEMBERS", 2)
    whole = front_statistics(OBJECTIVES, Cast([*cast.front, *cast.near], cast.baselines), "search", {"sort/acc": 1.0})
    assert (whole.front, len(whole.members)) == (4, 2)
    ids = {member.trial_id for member in whole.members}
    assert {chosen.trial_id for chosen in whole.recommendations.values()} <= ids
    monkeypatch.undo()
    everybody = front_statistics(
        OBJECTIVES, Cast([*cast.front, *cast.near], cast.baselines), "search", {"sort/acc": 1.0}
    )
    assert len(everybody.members) == 4
    shares = {member.trial_id: member.non_dominated for member in everybody.members}
    assert {member.trial_id: member.non_dominated for member in whole.members} == {i: shares[i] for i in ids}
    assert whole.recommendations == everybody.recommendations


def test_metrics_without_outcomes_give_values_and_no_tests(make_trial, measure):
    bleu = Objective(task="say", metric="bleu", direction="maximize")
    parent = make_trial(0, measure("say/bleu", (), value=20.0), kind="parent", label="a")
    merge = make_trial(1, measure("say/bleu", (), value=30.0))
    [member] = front_statistics((bleu,), Cast([merge], [parent]), "search").members
    assert (member.non_dominated, member.comparisons[0].differences) == (1.0, {})


def test_an_empty_front_has_no_statistics():
    found = front_statistics(OBJECTIVES, Cast([], []), "search")
    assert (found.members, found.near_front, found.optimism, found.recommendations, found.left_out) == (
        (),
        (),
        {},
        {},
        {},
    )
