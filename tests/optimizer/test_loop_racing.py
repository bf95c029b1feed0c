"""The loop with a race over items, on a real store; the executor scores items that a known function gets right."""

from collections import Counter

import numpy as np
import pytest

from campaigns.objectives import Measurement
from campaigns.pools import Checkpoint, Pool
from campaigns.spec import parse_spec
from campaigns.states import CampaignState, CampaignStep, TrialState
from campaigns.trial import Evaluated, Timing
from optimizer.executors.local import LocalExecutor
from optimizer.jobs import Faulted, Infeasible, JobResult, Scored
from optimizer.loop import SearchLoop
from optimizer.strategies import SearchProblem, build_strategy
from search_spaces import build_space
from storage import Store

TARGETS = {"left/acc": (0.7, 0.2, 0.1), "right/acc": (0.1, 0.3, 0.6)}
PARENTS, CANDIDATES = 3, 9
FIRST = PARENTS + 1  # the number of the first candidate
ITEMS = {"search": range(0, 60), "holdout": range(60, 80)}
RUNGS = (0.1, 0.3)
PARTS = len(RUNGS) + 1
SECONDS = 3.0


def launch(store, seed=3, racing=True, **changes):
    names = [f"m{index}" for index in range(PARENTS)]
    checkpoints = [Checkpoint(name=n, path=f"/models/{n}", digest=n, stamp="s", size_bytes=1) for n in names]
    document = {
        "name": "racing",
        "pool": {"checkpoints": [{"name": n, "path": f"/models/{n}"} for n in names]},
        "objectives": [{"task": task, "metric": "acc", "direction": "maximize"} for task in ("left", "right")],
        "strategy": {"kind": "random"},
        "budget": {"evaluations": CANDIDATES},
        "seed": seed,
        **changes,
    }
    race = {"rungs": RUNGS, "tolerance": 0.1} if racing else None
    document["evaluation"] = {"reuse": False, "racing": race, **changes.get("evaluation", {})}
    pool = Pool(checkpoints=tuple(checkpoints), base=None, dtype="bfloat16", architecture="llama", parameter_count=1)
    return store.create_campaign(parse_spec(document), pool)


def measured(job, name, target):
    """Score each item by itself: it is right where the merge is nearer to the target than the item is hard."""
    task = name.split("/")[0]
    asked = ITEMS[job.split] if not job.rungs else sorted(i for rung in job.rungs for i in rung.get(task, ()))
    generator = np.random.default_rng([int(job.recipe.digest[:12], 16), len(task)])
    noise = 0.05 * generator.normal(size=80)
    hard = np.random.default_rng(len(task)).random(80)
    distance = np.linalg.norm(np.array(job.recipe.method.weights) - target)
    outcomes = (1.0 - distance + noise > hard).astype(float)[list(asked)]
    return Measurement(
        objective=name,
        split=job.split,
        value=float(outcomes.mean()),
        standard_error=0.1,
        items=len(asked),
        item_ids=tuple(asked),
        outcomes=tuple(outcomes.tolist()),
        protocol=f"{len(asked)} items",
    )


class Evaluating:
    """Scores every job from nothing, each in as many seconds, and notes it; a test may step in before."""

    def __init__(self, before=lambda count, job: None):
        self.jobs = []
        self._before = before

    def __call__(self, job):
        self.jobs.append(job)
        timing = Timing(merge_seconds=1, model_seconds=1, total_seconds=SECONDS)
        measurements = [measured(job, name, target) for name, target in TARGETS.items()]
        evaluated = Evaluated(measurements=measurements, timing=timing)
        return self._before(len(self.jobs), job) or JobResult(job=job, outcome=Scored(evaluated=evaluated))

    def rungs_of(self, trial_id):
        """How many rungs each job of this trial on the search items had, in order."""
        return [len(job.rungs) for job in self.jobs if job.trial_id == trial_id and job.split == "search"]


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    opened = Store.open(f"sqlite:///{tmp_path_factory.mktemp('racing')}/db.sqlite")
    yield opened
    opened.close()


def loop(store, evaluate, slots=1, seconds=60.0, should_stop=lambda: False):
    lease = store.lease_next("w", seconds)
    campaign = store.campaign(lease.campaign_id)
    space = build_space(campaign.spec, campaign.pool)
    weights = tuple(objective.weight for objective in campaign.spec.objectives)
    strategy = build_strategy(campaign.spec.strategy, SearchProblem(space.dimensions, weights, campaign.spec.seed))
    return SearchLoop(store, lease, LocalExecutor(evaluate, slots), strategy, space, should_stop)


def finished(store, evaluate=None, slots=1, **changes):
    launch(store, **changes)
    done = loop(store, Evaluating() if evaluate is None else evaluate, slots).run()
    assert done.state is CampaignState.COMPLETE
    return done


def facts(store, campaign_id):
    """What must not depend on who ran the campaign and how often it was disturbed."""
    campaign = store.campaign(campaign_id)
    trials = store.trials(campaign_id, with_outcomes=True)
    found = [(t.number, t.state, t.told, t.reason, t.candidate, t.measurements, t.hypervolume) for t in trials]
    summary = campaign.summary
    front = [member.rsplit("-", 1)[1] for member in summary.front]
    return found, front, summary.hypervolume, summary.reference_point, summary.racing


@pytest.fixture(scope="module")
def undisturbed(store):
    """A campaign with one slot that nothing happened to, and what was evaluated."""
    evaluate = Evaluating()
    return finished(store, evaluate), evaluate


@pytest.fixture(scope="module")
def pruned_at(store, undisturbed):
    """The number of a pruned candidate that stopped after the second rung, and of one that went on to all items."""
    done, evaluate = undisturbed
    trials = store.trials(done.id)[FIRST:]
    pruned = [t for t in trials if t.state is TrialState.PRUNED and len(evaluate.rungs_of(t.id)) == PARTS - 1]
    whole = [t for t in trials[2:] if t.state is TrialState.COMPLETE]  # with two slots the first two do not race
    return pruned[0].number, whole[0].number


@pytest.mark.parametrize("slots", [1, 2])
def test_some_candidates_are_pruned_and_never_recommended(store, slots):
    evaluate = Evaluating()
    done = finished(store, evaluate, slots)
    plain = finished(store, slots=slots, racing=False)
    trials = store.trials(done.id, with_outcomes=True)
    pruned = [t for t in trials if t.state is TrialState.PRUNED]
    assert set(done.trial_counts) == {TrialState.COMPLETE, TrialState.PRUNED}
    assert sum(t.candidate.kind == "candidate" for t in trials) == CANDIDATES
    assert 2 <= len(pruned) < CANDIDATES
    for trial in pruned:
        assert trial.id not in done.summary.front
        assert trial.id != done.summary.recommendation.trial_id
        assert {m.split for m in trial.measurements} == set(trial.timings) == {"search"}
        assert all(m.estimate is not None and m.items < len(ITEMS["search"]) for m in trial.measurements)
        assert "to the front's hypervolume; racing stops below" in trial.reason
        assert evaluate.rungs_of(trial.id) == list(range(1, len(evaluate.rungs_of(trial.id)) + 1))
    assert not [job for job in evaluate.jobs if job.split == "holdout" and job.rungs]
    items = store.item_evaluations([done.id, plain.id])
    assert items[plain.id] == 2 * len(ITEMS["search"]) * (FIRST + CANDIDATES)
    assert items[done.id] < 0.9 * items[plain.id]
    assert done.summary.reference_point == plain.summary.reference_point
    assert done.summary.hypervolume >= 0.9 * plain.summary.hypervolume


def test_whoever_goes_on_to_the_end_is_scored_on_all_items(store, undisturbed):
    done, evaluate = undisturbed
    racing = [t for t in store.trials(done.id, with_outcomes=True)[FIRST:] if t.state is TrialState.COMPLETE]
    assert racing
    for trial in racing:
        assert evaluate.rungs_of(trial.id) == list(range(1, PARTS + 1))
        search = [m for m in trial.measurements if m.split == "search"]
        assert all(m.item_ids == tuple(ITEMS["search"]) and m.estimate is None for m in search)


def test_the_seconds_of_all_rungs_are_summed_and_no_faults_among_them(store, undisturbed, pruned_at):
    done, evaluate = undisturbed
    for trial in store.trials(done.id):
        jobs = len(evaluate.rungs_of(trial.id))
        assert trial.timings["search"].total_seconds == jobs * SECONDS
        assert trial.timings["search"].merge_seconds == jobs
        assert trial.timings.get("holdout") is None or trial.timings["holdout"].total_seconds == SECONDS
    assert {len(evaluate.rungs_of(trial.id)) for trial in store.trials(done.id)} >= {1, PARTS}


def test_baselines_and_points_of_the_user_are_scored_in_one_run(store):
    point = {"weight.m0": 0.5, "weight.m1": 0.25, "weight.m2": 0.25}
    evaluate = Evaluating()
    done = finished(store, evaluate, warm_start={"points": [point]}, baselines={"greedy_soup": True})
    baselines = [t for t in store.trials(done.id) if t.candidate.kind != "candidate"]
    assert {t.candidate.kind for t in baselines} == {"parent", "soup", "point"}
    assert all(evaluate.rungs_of(t.id) == [0] and t.state is TrialState.COMPLETE for t in baselines)
    assert any(t.candidate.label.startswith("greedy soup") for t in baselines)
    assert TrialState.PRUNED in done.trial_counts


def test_the_strategy_is_told_the_estimates_of_whoever_is_pruned(store):
    launch(store)
    running, told = loop(store, Evaluating()), []
    tell = running._strategy.tell
    running._strategy.tell = lambda observation: (told.append(observation), tell(observation))
    done = running.run()
    trials = sorted(store.trials(done.id), key=lambda trial: trial.told)
    assert len(told) == len(trials)
    for observation, trial in zip(told, trials, strict=True):
        assert observation.losses == tuple(-trial.expected(name) for name in TARGETS)
    assert any(t.expected("left/acc") != t.value("left/acc", "search") for t in trials)


def test_the_report_counts_who_was_judged_and_how_far_estimates_were_off(store, undisturbed):
    done, evaluate = undisturbed
    report = store.campaign(done.id).summary.racing
    raced = [t for t in store.trials(done.id)[FIRST:] if 1 in evaluate.rungs_of(t.id)]
    reached = Counter(len(evaluate.rungs_of(trial.id)) for trial in raced)
    assert [rung.judged for rung in report] == [
        sum(count for last, count in reached.items() if last > rung) for rung in range(len(report))
    ]
    pruned = [trial for trial in raced if trial.state is TrialState.PRUNED]
    assert sum(rung.stopped for rung in report) == len(pruned) > 0
    assert all(rung.completed == len(raced) - len(pruned) for rung in report)
    assert [rung.items for rung in report] == sorted({rung.items for rung in report})
    assert all(set(rung.estimate_errors) == {o.name for o in done.spec.objectives} for rung in report)
    assert all(0 < error < 0.5 for rung in report for error in rung.estimate_errors.values())
    assert sum(report[0].estimate_errors.values()) > sum(report[-1].estimate_errors.values())


class Killed(BaseException):
    """Stands for the end of the process: nothing in the loop may catch it."""


class RefusingStore:
    """A store that ends the process just before, or just after, the `at`-th call of one name."""

    def __init__(self, store, call, at, after):
        self._store, self._call, self._left, self._after = store, call, at, after

    def __getattr__(self, name):
        found = getattr(self._store, name)
        return self._kill(found) if name == self._call else found

    def _kill(self, call):
        def refuse(*arguments):
            self._left -= 1
            written = call(*arguments) if self._left > 0 or self._after else None
            if self._left > 0:
                return written
            raise Killed

        return refuse


def test_killed_at_any_job_ends_as_if_never_killed(store, undisturbed):
    """One campaign is killed at every job of the search in turn, and goes on under a new loop each time."""
    done, before = undisturbed
    jobs = [(job.trial_id.rsplit("-", 1)[1], len(job.rungs), job.split) for job in before.jobs]
    campaign = launch(store)
    killed = set()

    def kill(count, job):
        here = (job.trial_id.rsplit("-", 1)[1], len(job.rungs), job.split)
        if here not in killed:
            killed.add(here)
            raise Killed

    for _ in range(len(jobs)):
        with pytest.raises(Killed):
            loop(store, Evaluating(kill), seconds=0.0).run()
    assert loop(store, Evaluating(kill)).run().state is CampaignState.COMPLETE
    assert killed == set(jobs)
    assert facts(store, campaign.id) == facts(store, done.id)


@pytest.mark.parametrize(
    ("call", "at"), [("prune", 1), ("prune", 3), ("tell", FIRST + 1), ("start", FIRST + 2), ("ask", 3)]
)
@pytest.mark.parametrize("after", [False, True])
def test_killed_around_any_write_ends_as_if_never_killed(store, undisturbed, call, at, after):
    campaign = launch(store)
    with pytest.raises(Killed):
        loop(RefusingStore(store, call, at, after), Evaluating(), seconds=0.0).run()
    loop(store, Evaluating()).run()
    assert facts(store, campaign.id) == facts(store, undisturbed[0].id)


@pytest.mark.parametrize("rung", range(1, PARTS))
def test_a_fault_in_the_middle_of_a_race_is_retried_from_the_first_rung(store, undisturbed, pruned_at, rung):
    for number in pruned_at:
        faulted = []

        def fault(count, job, number=number, faulted=faulted):
            here = job.trial_id.endswith(f"-{number}") and len(job.rungs) == rung + (number == pruned_at[1])
            if not here or faulted:
                return None
            faulted.append(job)
            return JobResult(job=job, outcome=Faulted(reason="cosmic ray"))

        evaluate = Evaluating(fault)
        done = finished(store, evaluate)
        trial_id = f"{done.id}-{number}"
        assert len(faulted) == 1
        assert facts(store, done.id) == facts(store, undisturbed[0].id)
        trial, jobs = store.trial(trial_id), evaluate.rungs_of(trial_id)
        last = len(evaluate.rungs_of(trial_id)) - len(faulted[0].rungs)
        assert jobs == [*range(1, len(faulted[0].rungs) + 1), *range(1, last + 1)]
        assert (trial.attempts, trial.timings["search"].total_seconds) == (2, last * SECONDS)


def test_logits_that_are_not_finite_in_a_later_rung_reject_the_point(store, pruned_at):
    def reject(count, job):
        here = job.trial_id.endswith(f"-{pruned_at[1]}") and len(job.rungs) == PARTS
        return JobResult(job=job, outcome=Infeasible(reason="NaN logits")) if here else None

    evaluate = Evaluating(reject)
    done = finished(store, evaluate)
    trial = store.trial(f"{done.id}-{pruned_at[1]}")
    assert (trial.state, trial.reason, trial.measurements) == (TrialState.INFEASIBLE, "NaN logits", ())
    assert evaluate.rungs_of(trial.id) == list(range(1, PARTS + 1))
    assert trial.id not in done.summary.front


@pytest.mark.parametrize("slots", [1, 2])
def test_pause_lets_candidates_finish_their_rungs_and_starts_nothing_new(store, pruned_at, slots):
    campaign = launch(store)
    paused = []

    def pause(count, job):
        if job.trial_id.endswith(f"-{pruned_at[1]}") and len(job.rungs) == 1 and not paused:
            paused.append(count)
            store.step(campaign.id, CampaignStep.PAUSE)

    evaluate = Evaluating(pause)
    assert loop(store, evaluate, slots, seconds=0.0).run().state is CampaignState.PAUSED
    started = {job.trial_id for job in evaluate.jobs[: paused[0]]}
    assert {job.trial_id for job in evaluate.jobs} - started <= {f"{campaign.id}-{pruned_at[1] + 1}"}
    assert len({job.trial_id for job in evaluate.jobs} - started) < slots
    assert len(evaluate.rungs_of(f"{campaign.id}-{pruned_at[1]}")) == PARTS
    counts = store.campaign(campaign.id).trial_counts
    assert not set(counts) & {TrialState.RUNNING, TrialState.QUEUED}
    store.step(campaign.id, CampaignStep.RESUME)
    done = loop(store, evaluate, slots).run()
    assert done.state is CampaignState.COMPLETE
    assert sum(done.trial_counts.values()) == FIRST + CANDIDATES


def test_resumed_after_a_pause_ends_as_if_never_paused(store, undisturbed, pruned_at):
    campaign = launch(store)

    def pause(count, job):
        if job.trial_id.endswith(f"-{pruned_at[0]}") and len(job.rungs) == 1:
            store.step(campaign.id, CampaignStep.PAUSE)

    assert loop(store, Evaluating(pause), seconds=0.0).run().state is CampaignState.PAUSED
    store.step(campaign.id, CampaignStep.RESUME)
    loop(store, Evaluating()).run()
    assert facts(store, campaign.id) == facts(store, undisturbed[0].id)


@pytest.mark.parametrize("step", [CampaignStep.CANCEL, CampaignStep.STOP])
def test_cancelled_and_stopped_in_the_middle_of_a_race(store, pruned_at, step):
    campaign = launch(store)
    moved = []

    def move(count, job):
        if job.trial_id.endswith(f"-{pruned_at[1]}") and len(job.rungs) == 2 and not moved:
            moved.append(count)
            store.step(campaign.id, step)

    evaluate = Evaluating(move)
    done = loop(store, evaluate, slots=2).run()
    state = store.trial(f"{campaign.id}-{pruned_at[1]}").state
    if step is CampaignStep.CANCEL:
        assert (done.state, state, len(evaluate.jobs)) == (CampaignState.CANCELLED, TrialState.CANCELLED, moved[0])
        assert TrialState.RUNNING not in done.trial_counts
    else:
        assert (done.state, state) == (CampaignState.COMPLETE, TrialState.COMPLETE)
        assert sum(done.trial_counts.values()) < FIRST + CANDIDATES


def test_a_worker_told_to_stop_in_the_middle_of_a_race_leaves_it_to_the_next(store, undisturbed, pruned_at):
    campaign = launch(store)
    evaluate = Evaluating()

    def is_in_the_race():
        return len(evaluate.rungs_of(f"{campaign.id}-{pruned_at[1]}")) == 1

    assert loop(store, evaluate, seconds=0.0, should_stop=is_in_the_race).run().state is CampaignState.RUNNING
    loop(store, Evaluating()).run()
    assert facts(store, campaign.id) == facts(store, undisturbed[0].id)


def test_with_an_import_a_greedy_soup_and_anchors_the_race_is_run_all_the_same(store, undisturbed):
    source = undisturbed[0]
    racing = {"racing": {"rungs": RUNGS, "anchors": True}, "reuse": True}
    evaluate = Evaluating()
    done = finished(
        store,
        evaluate,
        seed=4,
        evaluation=racing,
        warm_start={"import_from": [source.id]},
        baselines={"greedy_soup": True},
    )
    trials = store.trials(done.id)
    complete = [t for t in store.trials(source.id) if t.state is TrialState.COMPLETE and t.number >= FIRST]
    imported = [t for t in trials if t.candidate.kind == "imported"]
    assert [t.candidate.imported_from for t in imported] == [t.id for t in complete]
    assert done.summary.imports.trials == len(complete)
    asked = [t for t in trials if t.candidate.kind == "candidate"]
    assert len(asked) == CANDIDATES
    assert TrialState.PRUNED in {t.state for t in asked}
    assert all(evaluate.rungs_of(t.id)[:1] == [1] for t in asked if t.attempts)
    assert all(t.state is TrialState.COMPLETE for t in trials if t.candidate.kind != "candidate")


def test_what_a_race_stopped_is_no_measurement_for_other_campaigns(store, undisturbed):
    source = undisturbed[0]
    pruned = {t.number for t in store.trials(source.id) if t.state is TrialState.PRUNED}
    evaluate = Evaluating()
    done = finished(store, evaluate, racing=False, evaluation={"reuse": True})
    evaluated = {int(job.trial_id.rsplit("-", 1)[1]) for job in evaluate.jobs if job.split == "search"}
    for trial in store.trials(done.id):
        if trial.candidate.imported_from is not None:
            assert store.trial(trial.candidate.imported_from).state is TrialState.COMPLETE
    assert evaluated <= pruned | {0}
    assert done.trial_counts == {TrialState.COMPLETE: FIRST + CANDIDATES}


def test_the_spec_says_whether_there_is_a_race(store):
    evaluate = Evaluating()
    finished(store, evaluate, racing=False)
    assert all(job.rungs == () for job in evaluate.jobs)
