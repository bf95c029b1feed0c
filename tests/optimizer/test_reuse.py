"""What was measured before is taken over, and nothing else: campaigns of one database, one after the other."""

from collections import Counter

import pytest

from campaigns.errors import LeaseLost
from campaigns.objectives import Measurement
from campaigns.pools import Checkpoint, Pool
from campaigns.spec import parse_spec
from campaigns.states import CampaignState, CampaignStep, TrialState
from campaigns.trial import Evaluated, Timing
from optimizer.executors.local import LocalExecutor
from optimizer.jobs import Faulted, Infeasible, JobResult, Scored
from optimizer.loop import SearchLoop
from optimizer.reuse import Reuse
from optimizer.strategies import SearchProblem, build_strategy
from search_spaces import build_space
from storage import Store

TARGETS = {"left/acc": (0.7, 0.2, 0.1), "right/acc": (0.1, 0.3, 0.6)}
PARENTS, CANDIDATES = 3, 4
TRIALS = PARENTS + 1 + CANDIDATES
LEFT, RIGHT = ({"task": task, "metric": "acc", "direction": "maximize"} for task in ("left", "right"))


class Evaluating:
    """Scores a known function of the weights under some protocols, and notes every job; a test may step in before."""

    def __init__(self, before=lambda count, job: None, objectives=tuple(TARGETS), **protocols):
        self.jobs = []
        self._before, self._objectives, self._protocols = before, objectives, protocols

    def __call__(self, job):
        self.jobs.append(job)
        timing = Timing(merge_seconds=1, model_seconds=1, total_seconds=3 if job.split == "search" else 2)
        evaluated = Evaluated(measurements=[self._measured(name, job) for name in self._objectives], timing=timing)
        return self._before(len(self.jobs), job) or JobResult(job=job, outcome=Scored(evaluated=evaluated))

    def _measured(self, name, job):
        pairs = zip(job.recipe.method.weights, TARGETS[name], strict=True)
        value = 1 - sum((weight - target) ** 2 for weight, target in pairs) - 0.01 * (job.split == "holdout")
        protocol = self._protocols.get(name.split("/")[0], "p") + job.split
        fields = {"objective": name, "split": job.split, "standard_error": 0.01, "items": 2, "protocol": protocol}
        return Measurement(value=value, item_ids=(3, 5), outcomes=(value, value), **fields)

    def numbers(self, split="search"):
        return [int(job.trial_id.rsplit("-", 1)[1]) for job in self.jobs if job.split == split]


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    opened = Store.open(f"sqlite:///{tmp_path_factory.mktemp('reuse')}/db.sqlite")
    yield opened
    opened.close()


@pytest.fixture
def seed(request):
    """Another seed for every test: its pool, and so its recipes, are its own."""
    return sum(map(ord, request.node.name))


def launch(store, seed, **changes):
    names = [f"m{seed}-{index}" for index in range(PARENTS)]
    checkpoints = [Checkpoint(name=n, path=f"/models/{n}", digest=n, stamp="s", size_bytes=1) for n in names]
    document = {
        "name": "reuse",
        "pool": {"checkpoints": [{"name": n, "path": f"/models/{n}"} for n in names]},
        "objectives": [LEFT, RIGHT],
        "strategy": {"kind": "random"},
        "budget": {"evaluations": CANDIDATES},
        "seed": seed,
        **changes,
    }
    pool = Pool(checkpoints=tuple(checkpoints), base=None, dtype="bfloat16", architecture="llama", parameter_count=1)
    return store.create_campaign(parse_spec(document), pool)


def loop(store, evaluate, slots=1, seconds=60.0):
    lease = store.lease_next("w", seconds)
    campaign = store.campaign(lease.campaign_id)
    space = build_space(campaign.spec, campaign.pool)
    weights = tuple(objective.weight for objective in campaign.spec.objectives)
    strategy = build_strategy(campaign.spec.strategy, SearchProblem(space.dimensions, weights, campaign.spec.seed))
    return SearchLoop(store, lease, LocalExecutor(evaluate, slots), strategy, space)


def finished(store, seed, evaluate=None, **changes):
    """Run a campaign to its end; return it and what was evaluated."""
    launch(store, seed, **changes)
    evaluate = Evaluating() if evaluate is None else evaluate
    done = loop(store, evaluate).run()
    assert done.state is CampaignState.COMPLETE
    return done, evaluate


def taken(store, campaign):
    return {trial.number: trial for trial in store.trials(campaign.id, with_outcomes=True) if trial.attempts == 0}


def measured(trial, split):
    return [m for m in trial.measurements if m.split == split]


def test_what_another_campaign_measured_is_taken_over_but_for_the_first_trial(store, seed):
    first, before = finished(store, seed)
    assert before.numbers() == list(range(TRIALS))
    again, evaluate = finished(store, seed)
    sources = {trial.number: trial for trial in store.trials(first.id, with_outcomes=True)}
    found = taken(store, again)
    assert evaluate.numbers() == [0]
    assert sorted(found) == list(range(1, TRIALS))
    for number, trial in found.items():
        source = sources[number]
        assert trial.candidate.imported_from == source.id
        assert trial.candidate.replace(imported_from=None) == source.candidate
        assert (trial.state, trial.told) == (TrialState.COMPLETE, number)
        assert measured(trial, "search") == measured(source, "search")
        assert trial.timings["search"] == source.timings["search"]
    assert Counter(trial.candidate.kind for trial in found.values())["candidate"] == CANDIDATES
    assert store.search_seconds([again.id]) == {again.id: 3.0}
    assert [member.rsplit("-", 1)[1] for member in again.summary.front] == [
        member.rsplit("-", 1)[1] for member in first.summary.front
    ]


def test_holdout_scores_are_taken_over_once_the_first_says_what_their_protocols_are(store, seed):
    first, before = finished(store, seed)
    again, evaluate = finished(store, seed)
    assert len(before.numbers("holdout")) > 2
    assert evaluate.numbers("holdout") == before.numbers("holdout")[:1]
    holdout = [[measured(t, "holdout") for t in store.trials(each.id, with_outcomes=True)] for each in (first, again)]
    assert holdout[0] == holdout[1]
    assert all(t.timings["holdout"].total_seconds == 2 for t in store.trials(again.id) if "holdout" in t.timings)
    _, elsewhere = finished(store, seed, Evaluating(left="q"))
    assert len(elsewhere.numbers("holdout")) == len(before.numbers("holdout"))


def test_where_reuse_is_forbidden_everything_is_evaluated(store, seed):
    finished(store, seed)
    again, evaluate = finished(store, seed, evaluation={"reuse": False})
    assert evaluate.numbers() == list(range(TRIALS))
    assert taken(store, again) == {}


def test_under_another_protocol_of_one_objective_everything_is_evaluated(store, seed):
    finished(store, seed)
    again, evaluate = finished(store, seed, Evaluating(right="q"))
    assert evaluate.numbers() == list(range(TRIALS))
    assert taken(store, again) == {}


def test_the_first_trial_under_the_same_protocols_is_taken_whatever_came_before_it(store, seed):
    finished(store, seed, Evaluating(right="q"))
    second, _ = finished(store, seed, Evaluating(right="r"))
    third, _ = finished(store, seed, Evaluating(right="r"))
    fourth, evaluate = finished(store, seed, Evaluating(right="r"))
    assert evaluate.numbers() == [0]
    assert {t.candidate.imported_from.rsplit("-", 1)[0] for t in taken(store, fourth).values()} == {second.id}
    assert third.id != second.id


def test_a_campaign_without_one_of_the_objectives_has_nothing_to_take(store, seed):
    finished(store, seed, Evaluating(objectives=("left/acc",)), objectives=[LEFT])
    _, evaluate = finished(store, seed)
    assert evaluate.numbers() == list(range(TRIALS))


def test_objectives_in_another_order_and_a_part_of_them_are_taken(store, seed):
    finished(store, seed)
    for own in ((RIGHT, LEFT), (RIGHT,)):
        names = tuple(f"{objective['task']}/acc" for objective in own)
        again, evaluate = finished(store, seed, Evaluating(objectives=names), objectives=list(own))
        assert evaluate.numbers() == [0]
        for trial in taken(store, again).values():
            assert [m.objective for m in measured(trial, "search")] == list(names)


def test_what_was_infeasible_or_failed_elsewhere_is_evaluated(store, seed):
    def spoil(count, job):
        number = int(job.trial_id.rsplit("-", 1)[1])
        outcome = {5: Infeasible(reason="NaN logits"), 6: Faulted(reason="bad disk")}.get(number)
        return None if outcome is None else JobResult(job=job, outcome=outcome)

    spoilt, _ = finished(store, seed, Evaluating(spoil), resources={"retries": 0})
    assert set(spoilt.trial_counts) == {TrialState.COMPLETE, TrialState.INFEASIBLE, TrialState.FAILED}
    again, evaluate = finished(store, seed)
    assert evaluate.numbers() == [0, 5, 6]
    assert again.trial_counts == {TrialState.COMPLETE: TRIALS}


def test_the_strategy_is_told_of_what_is_taken_over_as_of_all_else(store, seed):
    told = []
    for _ in range(2):
        launch(store, seed)
        running, observations = loop(store, Evaluating()), []
        tell = running._strategy.tell
        running._strategy.tell = lambda each, own=observations, tell=tell: (own.append(each), tell(each))
        running.run()
        told.append(observations)
    assert told[0] == told[1]
    assert len(told[0]) == TRIALS


def test_nothing_is_found_before_a_first_trial_says_what_the_protocols_are(store, seed):
    first, _ = finished(store, seed)
    campaign = launch(store, seed)
    reuse = Reuse(store, campaign)
    [parent, *_] = store.trials(first.id)
    assert reuse.find(parent, "search") is None
    reuse.note([parent])
    source, evaluated = reuse.find(parent, "search")
    assert source == parent.id
    assert [m.outcomes for m in evaluated.measurements] == [(m.value, m.value) for m in evaluated.measurements]
    assert reuse.find(parent, "holdout") is not None
    assert Reuse(store, first).find(parent, "search") is None  # its own trials are no others'
    store.step(campaign.id, CampaignStep.CANCEL)


def test_a_paused_campaign_takes_nothing_over(store, seed):
    finished(store, seed)
    campaign = launch(store, seed)
    pausing = Evaluating(lambda count, job: store.step(campaign.id, CampaignStep.PAUSE) and None)
    assert loop(store, pausing, seconds=0.0).run().state is CampaignState.PAUSED
    assert store.campaign(campaign.id).trial_counts == {TrialState.COMPLETE: 1, TrialState.QUEUED: PARENTS}
    store.step(campaign.id, CampaignStep.RESUME)
    assert loop(store, Evaluating()).run().trial_counts == {TrialState.COMPLETE: TRIALS}
    assert len(taken(store, campaign)) == TRIALS - 1


class Killed(BaseException):
    """Stands for the end of the process: nothing in the loop may catch it."""


class RefusingStore:
    """A store that ends the process around the `at`-th call of `reuse`."""

    def __init__(self, store, at, after):
        self._store, self._left, self._after = store, at, after

    def __getattr__(self, name):
        found = getattr(self._store, name)
        return self._kill(found) if name == "reuse" else found

    def _kill(self, call):
        def refuse(*arguments):
            self._left -= 1
            written = call(*arguments) if self._left > 0 or self._after else None
            if self._left > 0:
                return written
            raise Killed

        return refuse


@pytest.mark.parametrize("at", [1, PARENTS + 2])
@pytest.mark.parametrize("after", [False, True])
def test_killed_around_a_take_over_nothing_is_lost_or_taken_twice(store, seed, at, after):
    first, _ = finished(store, seed)
    launch(store, seed)
    with pytest.raises(Killed):
        loop(RefusingStore(store, at, after), Evaluating(), seconds=0.0).run()
    evaluate = Evaluating()
    done = loop(store, evaluate).run()
    assert evaluate.numbers() == []
    assert done.trial_counts == {TrialState.COMPLETE: TRIALS}
    facts = [
        [(t.number, t.told, t.candidate.point, t.hypervolume, measured(t, "search")) for t in store.trials(each.id)]
        for each in (first, done)
    ]
    assert facts[0] == facts[1]


def test_the_greedy_soup_goes_on_from_what_is_taken_over(store, seed):
    wanted = {"greedy_soup": True, "uniform_soup": False}
    first, before = finished(store, seed, baselines=wanted)
    labels = [[t.candidate.label for t in store.trials(first.id) if t.candidate.kind == "soup"]]
    assert labels[0]
    again, evaluate = finished(store, seed, baselines=wanted)
    labels.append([t.candidate.label for t in store.trials(again.id) if t.candidate.kind == "soup"])
    assert labels[0] == labels[1]
    assert evaluate.numbers() == [0]
    assert len(before.numbers()) == len(taken(store, again)) + 1


def test_a_stale_worker_takes_nothing_over(store, seed):
    finished(store, seed)
    campaign = launch(store, seed)
    running = loop(store, Evaluating(lambda count, job: store.lease_next("second", 60.0) and None), seconds=0.0)
    with pytest.raises(LeaseLost):
        running.run()
    assert store.campaign(campaign.id).trial_counts == {TrialState.RUNNING: 1, TrialState.QUEUED: PARENTS}
    store.step(campaign.id, CampaignStep.CANCEL)
