"""The race: how search items are cut into rungs, and its verdicts on candidates whose truth is known."""

import math
from datetime import UTC, datetime
from itertools import pairwise

import numpy as np
import pytest
from scipy.special import ndtri
from scipy.stats import qmc

from campaigns.methods import LinearMerge
from campaigns.objectives import WEIGHTS, Measurement
from campaigns.recipe import Recipe
from campaigns.spec import parse_spec
from campaigns.states import TrialState
from campaigns.trial import Candidate, Trial
from fronts.item_model import MIN_TRIALS, Belief, ItemModel
from fronts.pareto import hypervolume
from optimizer import score_surrogate
from optimizer.race import Race

RUNGS = (0.1, 0.2, 0.5)
ACCURACIES = ({"task": "left", "metric": "acc"}, {"task": "right", "metric": "acc"})
BITS = {"task": "text", "metric": "bits_per_byte", "direction": "minimize", "weight": 0}
PERPLEXITY = {"task": "words", "metric": "perplexity", "direction": "minimize", "weight": 0}
WORD_PERPLEXITY = {"task": "text", "metric": "word_perplexity", "direction": "minimize", "weight": 0}
BLEU = {"task": "story", "metric": "bleu"}
DELTA = {"task": WEIGHTS, "metric": "delta_l1", "direction": "minimize"}
PARENTS = 5
SKILLS = (-1.0, -0.6, -0.2, 0.0, 0.3, 0.4, -0.4, 0.1)
GOOD, FAIR, BAD = 0.6, 0.1, -1.2
WORST = (-0.1, -0.1)


def campaign_spec(objectives=ACCURACIES, racing=None, **changes):
    names = [f"m{index}" for index in range(PARENTS)]
    checkpoints = [{"name": name, "path": f"/models/{name}"} for name in names]
    return parse_spec(
        {
            "name": "race",
            "pool": {"checkpoints": checkpoints, "base": {"name": "base", "path": "/models/base"}},
            "objectives": [{"direction": "maximize", **objective} for objective in objectives],
            "evaluation": {"racing": {"rungs": RUNGS, **(racing or {})}},
            "budget": {"evaluations": 100},
            **changes,
        }
    )


class World:
    """Tasks with items of several difficulties, and what a merge of some skill makes of them, the same every time."""

    def __init__(self, spec, items=120, seed=0, **own):
        self.spec = spec
        self._seed = seed
        self._tasks = {}
        for place, objective in enumerate(spec.objectives):
            generator = np.random.default_rng([seed, place])
            count = own.get(objective.task, items)
            fields = {"difficulty": generator.normal(0.4, 0.5, count), "taste": generator.normal(size=count)}
            fields |= {"length": generator.lognormal(0.0, 0.8, count), "ids": tuple(range(7, 7 + 3 * count, 3))}
            self._tasks.setdefault(objective.task, fields)

    def ids(self, task):
        return self._tasks[task]["ids"]

    def measured(self, skill, number, rungs=None):
        """Measure a merge of one skill, or one for each objective, on all items or on those of `rungs`."""
        skills = np.broadcast_to(skill, len(self.spec.objectives))
        return tuple(
            self._measured(objective, one, number, rungs)
            for objective, one in zip(self.spec.objectives, skills, strict=True)
        )

    def _measured(self, objective, skill, number, rungs):
        rest = {"objective": objective.name, "split": "search", "protocol": "p", "standard_error": 0.1}
        if objective.is_of_weights:
            return Measurement(value=2.0 - skill, items=1, **rest)
        task = self._tasks[objective.task]
        generator = np.random.default_rng([self._seed, number, len(objective.name), ord(objective.name[0])])
        count = len(task["ids"])
        margin = skill + 0.3 * generator.normal() * task["taste"] + 0.3 * generator.normal(size=count)
        outcomes, of_values = self._outcomes(objective.metric, margin - task["difficulty"], task)
        wanted = (
            set(task["ids"]) if rungs is None else {item for rung in rungs for item in rung.get(objective.task, ())}
        )
        seen = [place for place, item in enumerate(task["ids"]) if item in wanted]
        value = of_values(outcomes[seen], task["length"][seen])
        items = tuple(task["ids"][place] for place in seen)
        kept = () if objective.metric == "bleu" else tuple(outcomes[seen].tolist())
        return Measurement(value=float(value), items=len(seen), item_ids=items, outcomes=kept, **rest)

    @staticmethod
    def _outcomes(metric, margin, task):
        """Return an outcome per item, and what makes the metric of some of them and their lengths."""
        if metric in ("acc", "exact_match"):
            return (margin > 0).astype(float), lambda outcomes, lengths: outcomes.mean()
        if metric == "bleu":
            return margin, lambda outcomes, lengths: 30.0 + 5.0 * outcomes.mean()
        own = 1.5 + task["difficulty"] - 0.2 * margin
        if metric == "perplexity":
            return own, lambda outcomes, lengths: math.exp(outcomes.mean())
        ratio = {"bits_per_byte": lambda x: x, "word_perplexity": math.exp}[metric]
        return own, lambda outcomes, lengths: ratio((outcomes * lengths).sum() / lengths.sum())

    def trial(self, number, skill, kind="parent", rungs=None):
        recipe = Recipe(method=LinearMerge(weights=(1.0,)), sources=("a",), template="a", dtype="float32")
        at = [*((np.resize(skill, 2) + 2.0) / 4.0).tolist(), np.random.default_rng([self._seed, number]).random()]
        return Trial(
            id=f"c-{number}",
            campaign_id="c",
            number=number,
            candidate=Candidate(kind=kind, point=tuple(at), parameters={}, recipe=recipe),
            state=TrialState.COMPLETE if rungs is None else TrialState.RUNNING,
            created_at=datetime.now(UTC),
            measurements=self.measured(skill, number, rungs),
        )

    def race(self, skills=SKILLS):
        """Return a race that knows trials of these skills, the first of them parents."""
        race = Race(self.spec)
        for number, skill in enumerate(skills):
            race.learn(self.trial(number, skill, "parent" if number < PARENTS else "candidate"))
        return race


def judged(world, race, skill, rungs=1, number=500, front=None, worst=WORST):
    """Return the verdict on a merge of this skill after some rungs; the front is that of a fair merge."""
    trial = world.trial(number, skill, "candidate", race.rungs()[:rungs])
    of_fair = [tuple(o.loss(m.value) for o, m in zip(world.spec.objectives, world.measured(FAIR, 900), strict=True))]
    return race.verdict(trial.replace(measurements=()), trial.measurements, of_fair if front is None else front, worst)


def all_items(rungs, task):
    return [item for rung in rungs for item in rung.get(task, ())]


def test_rungs_are_disjoint_and_cover_the_search_items_of_every_task_once():
    world = World(campaign_spec(), left=80, right=50)
    rungs = world.race().rungs()
    for task, sizes in (("left", [8, 8, 24, 40]), ("right", [5, 5, 15, 25])):
        assert [len(rung[task]) for rung in rungs] == sizes
        assert sorted(all_items(rungs, task)) == list(world.ids(task))
        assert all(one < other for rung in rungs for one, other in pairwise(rung[task]))
    assert rungs[0]["left"] != world.ids("left")[:8]
    other = World(campaign_spec(seed=1), left=80, right=50)
    assert other.race().rungs() != rungs


@pytest.mark.parametrize("few", [1, 2, 3, 5])
def test_a_task_with_few_items_has_one_in_the_first_rung_and_may_have_none_later(few):
    world = World(campaign_spec(), left=few, right=40)
    rungs = world.race().rungs()
    assert len(rungs) == len(RUNGS) + 1
    assert len(rungs[0]["left"]) == 1
    assert sorted(all_items(rungs, "left")) == list(world.ids("left"))
    assert sorted(all_items(rungs, "right")) == list(world.ids("right"))
    assert all(items for rung in rungs for items in rung.values())


def test_rungs_without_any_item_are_left_out():
    world = World(campaign_spec(), items=2)
    rungs = world.race().rungs()
    assert [sorted(rung) for rung in rungs] == [["left", "right"]] * 2
    assert len(World(campaign_spec(), items=1).race().rungs()) == 1


def test_objectives_of_one_task_share_its_items_and_the_weights_have_none():
    world = World(campaign_spec([DELTA, BLEU, *ACCURACIES, {"task": "left", "metric": "exact_match"}]))
    rungs = world.race().rungs()
    assert {task for rung in rungs for task in rung} == {"left", "right", "story"}
    for task in ("left", "right", "story"):
        assert sorted(all_items(rungs, task)) == list(world.ids(task))


def test_there_are_no_rungs_while_too_few_trials_are_known_and_the_same_ones_from_then_on():
    world = World(campaign_spec())
    assert world.race([0.0] * (MIN_TRIALS - 1)).rungs() == ()
    race = World(campaign_spec(racing={"anchors": True})).race([0.0] * MIN_TRIALS)
    rungs = race.rungs()
    race.learn(world.trial(50, GOOD))
    assert race.rungs() == rungs != ()


def test_anchors_are_the_most_telling_items_of_the_parents_alone():
    world = World(campaign_spec(racing={"anchors": True}), items=80)
    race = world.race()
    parents = [world.trial(number, skill) for number, skill in enumerate(SKILLS[:PARENTS])]
    for place, task in enumerate(("left", "right")):
        outcomes = np.array([parent.measurements[place].outcomes for parent in parents])
        telling = [world.ids(task)[item] for item in ItemModel(outcomes).most_telling(40)]
        for rung, (start, stop) in zip(race.rungs(), ((0, 8), (8, 16), (16, 40)), strict=False):
            assert rung[task] == tuple(sorted(telling[start:stop]))
        assert sorted(all_items(race.rungs(), task)) == list(world.ids(task))
    assert race.rungs() != World(campaign_spec(), items=80).race().rungs()


def test_with_too_few_parents_to_choose_anchors_items_are_drawn():
    wanted, plain = World(campaign_spec(racing={"anchors": True})), World(campaign_spec())
    rungs = []
    for world in (wanted, plain):
        race = Race(world.spec)
        for number in range(8):
            race.learn(world.trial(number, FAIR, "parent" if number < MIN_TRIALS - 1 else "candidate"))
        rungs.append(race.rungs())
    assert rungs[0] == rungs[1] != ()


@pytest.mark.parametrize("anchors", [False, True])
def test_a_race_that_starts_again_judges_alike(anchors):
    world = World(campaign_spec(racing={"anchors": anchors}))
    skills = np.linspace(-0.8, 0.4, 30).tolist()
    asked_often = Race(world.spec)
    for number, skill in enumerate(skills):
        asked_often.learn(world.trial(number, skill, "parent" if number < PARENTS else "candidate"))
        if number >= MIN_TRIALS + 1:
            judged(world, asked_often, FAIR)
    again = world.race(skills)
    assert again.rungs() == asked_often.rungs()
    for skill in (BAD, FAIR, GOOD):
        assert judged(world, again, skill) == judged(world, asked_often, skill)


@pytest.mark.parametrize("known", [8, 30])
def test_a_clearly_dominated_candidate_stops_and_a_clearly_better_one_goes_on(known):
    assert 8 < score_surrogate.MIN_TRIALS <= 30
    world = World(campaign_spec())
    race = world.race(np.linspace(-1.0, 0.4, known).tolist())
    bad, good = judged(world, race, BAD), judged(world, race, GOOD)
    assert (bad.stops, good.stops) == (True, False)
    assert "expected to add" in bad.reason
    assert "to the front's hypervolume; racing stops below 0.15%" in bad.reason


def test_more_items_make_surer():
    """What a rung leaves open, later rungs decide: of many middling candidates more stop with every rung."""
    world = World(campaign_spec())
    race = world.race()
    stopped = [sum(judged(world, race, -0.35, rungs, 600 + n).stops for n in range(40)) for rungs in (1, 2, 3)]
    assert stopped[0] < stopped[2]
    assert stopped == sorted(stopped)


def test_whoever_is_good_in_one_objective_alone_goes_on():
    world = World(campaign_spec())
    race = world.race()
    assert not judged(world, race, (GOOD, BAD)).stops
    assert not judged(world, race, (BAD, GOOD)).stops
    assert judged(world, race, (BAD, BAD)).stops


def test_nothing_stops_while_an_objective_cannot_be_judged():
    """BLEU has no outcomes: before the other trials' scores tell something of it, nobody knows."""
    world = World(campaign_spec([*ACCURACIES, BLEU]))
    worst = (0.0, 0.0, -20.0)
    early = judged(world, world.race(), BAD, worst=worst)
    assert (early.stops, early.reason) == (False, "story/bleu cannot be judged yet")
    assert all(measurement.estimate is None for measurement in early.measurements)
    late = judged(world, world.race(np.linspace(-0.8, 0.2, 30).tolist()), BAD, worst=worst)
    assert "expected to add" in late.reason
    assert late.measurements[2].estimate is not None


def test_nothing_stops_while_no_trial_is_on_the_front():
    world = World(campaign_spec())
    verdict = judged(world, world.race(), BAD, front=[])
    assert (verdict.stops, verdict.reason) == (False, "no trial is on the front yet")
    assert all(measurement.estimate is not None for measurement in verdict.measurements)


def test_nothing_stops_while_the_front_covers_nothing():
    world = World(campaign_spec())
    assert not judged(world, world.race(), BAD, front=[(-0.05, -0.05)], worst=(-0.1, -0.1)).stops


@pytest.mark.parametrize("bound", [{"at_least": 0.6}, {"max_loss_to_best_parent": 0.05}])
def test_whoever_surely_breaks_a_constraint_stops(bound):
    free, bound_by = World(campaign_spec()), World(campaign_spec(constraints=[{"objective": "left/acc", **bound}]))
    verdicts = [judged(world, world.race(), (BAD, GOOD)).stops for world in (free, bound_by)]
    assert verdicts == [False, True]
    assert not judged(bound_by, bound_by.race(), (GOOD, GOOD)).stops


def test_a_bound_on_the_weights_is_known_exactly():
    world = World(campaign_spec([*ACCURACIES, DELTA], constraints=[{"objective": "weights/delta_l1", "at_most": 1.5}]))
    race, front, worst = world.race(), [(-0.4, -0.4, 2.0)], (0.0, 0.0, 9.0)
    met = judged(world, race, (GOOD, GOOD, 0.5), front=front, worst=worst)
    missed = judged(world, race, (GOOD, GOOD, 0.499), front=front, worst=worst)
    assert (met.stops, missed.stops) == (False, True)
    assert [measurement.estimate is None for measurement in met.measurements] == [False, False, True]


def test_a_task_whose_items_are_all_scored_needs_no_estimate():
    world = World(campaign_spec(), left=1, right=80)
    verdict = judged(world, world.race(), BAD)
    assert [measurement.estimate is None for measurement in verdict.measurements] == [True, False]
    bleu = World(campaign_spec([*ACCURACIES, BLEU]), story=1)
    assert judged(bleu, bleu.race(), BAD, worst=(0.0, 0.0, 0.0)).measurements[2].estimate is None


METRICS = [ACCURACIES[0], BITS, PERPLEXITY, WORD_PERPLEXITY]


@pytest.mark.parametrize("metric", METRICS, ids=lambda metric: metric["metric"])
def test_estimates_are_near_the_value_on_all_items_and_as_near_as_is_believed(metric):
    """A ratio of sums on a few items lies off all others in one direction: that is no merit of a candidate."""
    wrong, plain, stated, values = [], [], [], []
    for seed in range(6):
        world = World(campaign_spec([metric, ACCURACIES[1]]), items=200, seed=seed)
        race = world.race(np.random.default_rng(seed).normal(-0.2, 0.4, 30).tolist())
        objective = world.spec.objectives[0]
        for number in range(700, 730):
            skill = np.random.default_rng(number).normal(-0.2, 0.4)
            whole = world.measured(skill, number)[0].value
            part = world.measured(skill, number, race.rungs()[:1])[0]
            belief = race._by_items(objective, part)
            assert belief.deviation > 0.0
            wrong.append(objective.loss(belief.mean) - whole)
            plain.append(part.value - whole)
            stated.append(belief.deviation)
            values.append(whole)
    wrong, plain, stated = np.array(wrong), np.array(plain), np.array(stated)
    assert np.sqrt((wrong**2).mean()) < min(0.5 * np.std(values), 0.9 * np.sqrt((plain**2).mean()))
    assert 0.5 < np.sqrt((wrong**2 / stated**2).mean()) < 1.5


@pytest.mark.parametrize("metric", [BITS, WORD_PERPLEXITY], ids=lambda metric: metric["metric"])
def test_what_the_mean_outcome_leaves_open_of_a_ratio_stays_in_doubt(metric):
    """With all items but one, the mean outcome is known and the ratio is not: lengths are."""
    world = World(campaign_spec([metric, ACCURACIES[1]], racing={"rungs": (0.99,)}), items=200)
    race = world.race(np.linspace(-0.8, 0.2, 30).tolist())
    wrong = []
    for number in range(700, 740):
        whole = world.measured(FAIR, number)[0].value
        belief = race._by_items(world.spec.objectives[0], world.measured(FAIR, number, race.rungs()[:1])[0])
        wrong.append((belief.mean - whole) / belief.deviation)
    assert 0.4 < np.sqrt(np.mean(np.square(wrong))) < 2.0


def test_scores_at_other_points_make_estimates_better():
    world = World(campaign_spec())
    race = world.race(np.linspace(-1.0, 0.4, 40).tolist())
    joined, alone = [], []
    for number in range(700, 740):
        skill = np.random.default_rng(number).normal(-0.2, 0.3)
        whole = world.measured(skill, number)[0].value
        verdict = judged(world, race, skill, number=number)
        belief = race._by_items(world.spec.objectives[0], world.measured(skill, number, race.rungs()[:1])[0])
        joined.append(verdict.measurements[0].estimate - whole)
        alone.append(-belief.mean - whole)
    assert np.square(joined).mean() < 0.7 * np.square(alone).mean()


@pytest.mark.parametrize("metric", METRICS, ids=lambda metric: metric["metric"])
def test_a_verdict_gives_estimates_in_the_unit_of_the_metric(metric):
    world = World(campaign_spec([metric, ACCURACIES[1]]), items=200)
    race = world.race(np.linspace(-0.8, 0.2, 30).tolist())
    for skill in (BAD, FAIR):
        whole = world.measured(skill, 500)[0].value
        verdict = judged(world, race, skill, rungs=3, worst=(100.0, 0.0))
        part = world.measured(skill, 500, race.rungs()[:3])
        assert tuple(m.replace(estimate=None) for m in verdict.measurements) == part
        assert verdict.measurements[0].estimate == pytest.approx(whole, rel=0.1, abs=0.1)


def test_a_perplexity_beyond_all_bounds_cannot_be_judged():
    """Items that are told of are as bad as a number can say, and the others were always three times as bad."""
    world = World(campaign_spec([PERPLEXITY, ACCURACIES[1]]))
    told = world.race().rungs()[0]["words"]
    slopes = np.where(np.isin(world.ids("words"), told), 1.0, 3.0)
    race = Race(world.spec)
    for number in range(8):
        trial = world.trial(number, FAIR)
        outcomes = (slopes * 0.1 * number).tolist()
        words = trial.measurements[0].replace(outcomes=outcomes, value=math.exp(np.mean(outcomes)))
        race.learn(trial.replace(measurements=(words, trial.measurements[1])))
    assert race.rungs()[0]["words"] == told
    verdicts = []
    for nats in (0.5, 700.0):
        trial = world.trial(500, BAD, "candidate", race.rungs()[:1])
        words = trial.measurements[0].replace(outcomes=[nats] * len(told), value=math.exp(nats))
        verdicts.append(race.verdict(trial, (words, trial.measurements[1]), [(1.0, -0.4)], (9.0, 0.0)))
    assert verdicts[0].measurements[0].estimate > 3.0
    assert (verdicts[1].stops, verdicts[1].reason) == (False, "words/perplexity cannot be judged yet")


def sampled_gain(beliefs, front, worst):
    """Return the expected share by which the hypervolume grows, from exact hypervolumes at 2048 spread samples."""
    unit = qmc.Sobol(len(beliefs), rng=0).random(2**11)
    samples = ndtri(unit) * [b.deviation for b in beliefs] + [b.mean for b in beliefs]
    before = hypervolume(front, worst)
    return np.mean([hypervolume([*front, tuple(sample)], worst) for sample in samples.tolist()]) / before - 1.0


TWO = [(-0.7, -0.3), (-0.6, -0.5), (-0.4, -0.6)]
THREE = [(-0.7, -0.3, 20.0), (-0.6, -0.5, 30.0), (-0.4, -0.6, 25.0)]


@pytest.mark.parametrize(
    ("beliefs", "front", "worst"),
    [
        ([Belief(-0.65, 0.05), Belief(-0.45, 0.1)], TWO, (-0.1, -0.1)),
        ([Belief(-0.5, 0.1), Belief(-0.4, 0.02)], TWO, (-0.1, -0.1)),
        ([Belief(-0.9, 0.05), Belief(-0.9, 0.05)], TWO, (-0.1, -0.1)),
        ([Belief(-0.45, 0.08), Belief(-0.45, 0.08)], TWO, (-0.1, -0.1)),
        ([Belief(-0.6, 0.1), Belief(-0.4, 0.1), Belief(22.0, 5.0)], THREE, (-0.1, -0.1, 50.0)),
        ([Belief(-0.5, 0.1), Belief(-0.5, 0.05), Belief(22.0, 0.0)], THREE, (-0.1, -0.1, 50.0)),
    ],
)
def test_the_expected_gain_is_that_of_exact_hypervolumes(beliefs, front, worst):
    objectives = [*ACCURACIES, BITS][: len(beliefs)]
    gain = Race(campaign_spec(objectives))._expected_gain(beliefs, front, worst)
    assert gain == pytest.approx(sampled_gain(beliefs, front, worst), rel=0.06)


def test_the_threshold_is_the_tolerance_over_the_budget():
    """One and the same candidate stops or goes on as the threshold lies above or below what it is expected to add."""
    gain = _gain(campaign_spec())
    assert 1e-5 < gain < 0.5
    for budget in (1, 4):
        for factor, stops in ((0.9, False), (1.1, True)):
            tolerance = gain * budget * factor
            spec = campaign_spec(racing={"tolerance": min(tolerance, 0.999)}, budget={"evaluations": budget})
            assert tolerance < 1
            assert _verdict(spec).stops is stops


def _verdict(spec):
    world = World(spec)
    return judged(world, world.race(), FAIR)


def _gain(spec):
    world = World(spec)
    race = world.race()
    found = []
    expected = race._expected_gain
    race._expected_gain = lambda *arguments: found.append(expected(*arguments)) or found[-1]
    judged(world, race, FAIR)
    return found[0]
