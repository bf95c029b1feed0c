"""Budgets, points queued meanwhile, forks and deletion in the loop, on a real store; what is scored is a function."""

import numpy as np
import pytest

from campaigns.budgets import Spending, seconds_running, spent_budget
from campaigns.errors import LeaseLost
from campaigns.objectives import Measurement
from campaigns.pools import Checkpoint, Pool
from campaigns.spec import Budget, parse_spec
from campaigns.states import CampaignState, CampaignStep, TrialState
from campaigns.trial import Evaluated, Timing
from optimizer.executors.local import LocalExecutor
from optimizer.jobs import JobResult, Scored
from optimizer.loop import MAX_DUPLICATE_ASKS, SearchLoop
from optimizer.strategies import SearchProblem, build_strategy
from search_spaces import build_space, first_candidates, point_candidates
from storage import Patch, Store

TARGETS = {"left/acc": (0.7, 0.2, 0.1), "right/acc": (0.1, 0.3, 0.6)}
ITEMS = {"search": range(0, 40), "holdout": range(40, 60)}
PARENTS, CANDIDATES = 3, 8
FIRST = PARENTS + 1  # the number of the first candidate
PER_TRIAL = len(TARGETS) * len(ITEMS["search"])
SECONDS = 4.0
GOOD = {"weight.m0": 0.4, "weight.m1": 0.25, "weight.m2": 0.35}
BAD = {"weight.m0": 0.01, "weight.m1": 0.98, "weight.m2": 0.01}


def launch(store, **changes):
    names = [f"m{index}" for index in range(PARENTS)]
    checkpoints = [Checkpoint(name=n, path=f"/models/{n}", digest=n, stamp="s", size_bytes=1) for n in names]
    document = {
        "name": "budgets",
        "pool": {"checkpoints": [{"name": n, "path": f"/models/{n}"} for n in names]},
        "objectives": [{"task": task, "metric": "acc", "direction": "maximize"} for task in ("left", "right")],
        "strategy": {"kind": "random"},
        "seed": 5,
        **changes,
    }
    document["budget"] = {"evaluations": CANDIDATES, **changes.get("budget", {})}
    document["evaluation"] = {"reuse": False, **changes.get("evaluation", {})}
    pool = Pool(checkpoints=tuple(checkpoints), base=None, dtype="bfloat16", architecture="llama", parameter_count=1)
    return store.create_campaign(parse_spec(document), pool)


def measured(job, name, target):
    """Score each item by itself: it is right where the merge is nearer to the target than the item is hard."""
    task = name.split("/")[0]
    asked = ITEMS[job.split] if not job.rungs else sorted(i for rung in job.rungs for i in rung.get(task, ()))
    hard = np.random.default_rng(len(task)).random(60)
    distance = np.linalg.norm(np.array(job.recipe.method.weights) - target)
    outcomes = (1.0 - distance > hard).astype(float)[list(asked)]
    return Measurement(
        objective=name,
        split=job.split,
        value=float(outcomes.mean()),
        standard_error=0.1,
        items=len(asked),
        item_ids=tuple(asked),
        outcomes=tuple(outcomes.tolist()),
        protocol=f"{job.split}: {len(asked)} items",
    )


class Evaluating:
    """Scores every job in as many seconds, notes it, and lets a test step in before."""

    def __init__(self, before=lambda count, job: None):
        self.jobs = []
        self._before = before

    def __call__(self, job):
        self.jobs.append(job)
        self._before(len(self.jobs), job)
        measurements = [measured(job, name, target) for name, target in TARGETS.items()]
        timing = Timing(merge_seconds=1, model_seconds=1, total_seconds=SECONDS)
        return JobResult(job=job, outcome=Scored(evaluated=Evaluated(measurements=measurements, timing=timing)))

    def numbers(self, split="search"):
        """The numbers of the trials that were scored on this split, in order."""
        return [int(job.trial_id.rsplit("-", 1)[1]) for job in self.jobs if job.split == split]


@pytest.fixture
def store(tmp_path):
    opened = Store.open(f"sqlite:///{tmp_path}/db.sqlite")
    yield opened
    opened.close()


def loop(store, evaluate=None, slots=1, seconds=60.0):
    lease = store.lease_next("w", seconds)
    campaign = store.campaign(lease.campaign_id)
    space = build_space(campaign.spec, campaign.pool)
    weights = tuple(objective.weight for objective in campaign.spec.objectives)
    strategy = build_strategy(campaign.spec.strategy, SearchProblem(space.dimensions, weights, campaign.spec.seed))
    return SearchLoop(store, lease, LocalExecutor(evaluate or Evaluating(), slots), strategy, space)


def queue(store, campaign, *points):
    space = build_space(campaign.spec, campaign.pool)
    baselines = first_candidates(campaign.spec, campaign.pool, space)
    return store.queue_points(campaign.id, baselines, point_candidates(points, space, "points"))


def candidates(store, campaign):
    return [trial for trial in store.trials(campaign.id) if trial.candidate.kind == "candidate"]


def spent_events(store, campaign):
    return [event.data for event in store.events(campaign.id) if event.kind == "campaign.budget_spent"]


def facts(store, campaign_id):
    """What must not depend on who ran the campaign and how often it was disturbed."""
    campaign = store.campaign(campaign_id)
    trials = store.trials(campaign_id)
    found = [(t.number, t.state, t.told, t.candidate, t.measurements, t.hypervolume) for t in trials]
    front = [member.rsplit("-", 1)[1] for member in campaign.summary.front]
    summary = campaign.summary
    return found, front, summary.hypervolume, summary.reference_point, spent_events(store, campaign)


class Killed(BaseException):
    """Stands for the end of the process: nothing in the loop may catch it."""


class Meddled:
    """A store where something happens just before the first call of one name, or instead of what follows it."""

    def __init__(self, store, call, before=lambda: None, after=lambda: None):
        self._store, self._call, self._before, self._after, self._is_done = store, call, before, after, False

    def __getattr__(self, name):
        found = getattr(self._store, name)
        return self._meddle(found) if name == self._call and not self._is_done else found

    def _meddle(self, call):
        def meddled(*arguments, **options):
            self._is_done = True
            self._before()
            written = call(*arguments, **options)
            self._after()
            return written

        return meddled


def kill():
    raise Killed


def test_the_first_budget_that_is_reached_is_the_one_that_is_spent():
    spending = Spending(evaluations=9, item_evaluations=900, seconds=90.0, gpu_seconds=45.0)
    assert spent_budget(Budget(evaluations=10), spending) is None
    assert spent_budget(Budget(evaluations=9, seconds=90.0), spending).budget == "evaluations"
    assert spent_budget(Budget(evaluations=10, item_evaluations=901, seconds=91, gpu_seconds=46), spending) is None
    for name, limit in (("item_evaluations", 900), ("seconds", 90.0), ("gpu_seconds", 45.0)):
        spent = spent_budget(Budget(evaluations=10, **{name: limit}), spending)
        assert (spent.budget, spent.limit, spent.spent) == (name, limit, limit)


def test_pauses_do_not_count_as_running(store):
    campaign = launch(store)
    assert seconds_running(campaign, campaign.created_at) == 0.0
    store.step(campaign.id, CampaignStep.PAUSE)  # before the start: nothing to leave out
    started = store.step(campaign.id, CampaignStep.RESUME)
    assert (started.paused_seconds, started.started_at) == (0.0, started.updated_at)
    for _ in range(2):
        store.step(campaign.id, CampaignStep.PAUSE)
        resumed = store.step(campaign.id, CampaignStep.RESUME)
    at = [event.at for event in store.events(campaign.id) if event.kind in ("campaign.paused", "campaign.running")]
    paused = (at[3] - at[2]).total_seconds() + (at[5] - at[4]).total_seconds()
    assert resumed.paused_seconds == pytest.approx(paused)
    expected = (at[-1] - at[1]).total_seconds() - paused
    assert seconds_running(resumed, at[-1]) == pytest.approx(expected, abs=1e-9)


@pytest.mark.parametrize(
    ("budget", "resources", "expected", "spent"),
    [
        ({}, {}, CANDIDATES, ("evaluations", CANDIDATES)),
        ({"item_evaluations": 6 * PER_TRIAL - 1}, {}, 2, ("item_evaluations", 6 * PER_TRIAL)),
        ({"item_evaluations": 6 * PER_TRIAL + 1}, {}, 3, ("item_evaluations", 7 * PER_TRIAL)),
        ({"item_evaluations": 1}, {}, 0, ("item_evaluations", FIRST * PER_TRIAL)),
        ({"gpu_seconds": 5 * SECONDS / 2}, {"gpus_per_actor": 0.5}, 1, ("gpu_seconds", 5 * SECONDS / 2)),
        ({"gpu_seconds": 12 * SECONDS * 2, "seconds": 1e9}, {"gpus_per_actor": 2}, 8, ("evaluations", CANDIDATES)),
    ],
)
def test_once_a_budget_is_spent_nothing_is_proposed_and_the_front_is_scored(store, budget, resources, expected, spent):
    campaign = launch(store, budget=budget, resources=resources)
    evaluate = Evaluating()
    done = loop(store, evaluate).run()
    assert (done.state, done.budget_spent) == (CampaignState.COMPLETE, spent[0])
    assert len(candidates(store, campaign)) == expected
    assert evaluate.numbers() == list(range(FIRST + expected))
    [event] = spent_events(store, campaign)
    assert (event["budget"], event["spent"]) == spent
    assert event["limit"] == getattr(campaign.spec.budget, spent[0])
    assert set(evaluate.numbers("holdout")) >= {int(member.rsplit("-", 1)[1]) for member in done.summary.front}


def test_time_that_has_passed_is_spent_but_not_on_the_baselines(store):
    campaign = launch(store, budget={"seconds": 1e-6})
    done = loop(store).run()
    assert (done.state, done.budget_spent, len(store.trials(campaign.id))) == (CampaignState.COMPLETE, "seconds", FIRST)
    [event] = spent_events(store, campaign)
    assert event["limit"] == 1e-6 < event["spent"]


def test_what_runs_when_a_budget_is_spent_ends(store):
    campaign = launch(store, budget={"item_evaluations": 5 * PER_TRIAL})
    done = loop(store, slots=3).run()
    assert done.trial_counts == {TrialState.COMPLETE: 7}  # the fifth result found two more running
    assert [event["spent"] for event in spent_events(store, campaign)] == [5 * PER_TRIAL]
    assert store.item_evaluations([campaign.id]) == {campaign.id: 7 * PER_TRIAL}


def test_the_items_of_a_race_are_counted_as_they_were_scored(store):
    racing = {"racing": {"rungs": [0.1, 0.3], "tolerance": 0.5}}
    campaign = launch(store, evaluation=racing, budget={"evaluations": 100, "item_evaluations": 10 * PER_TRIAL})
    done = loop(store).run()
    assert TrialState.PRUNED in done.trial_counts
    [event] = spent_events(store, campaign)
    assert event["spent"] == store.item_evaluations([campaign.id])[campaign.id]
    assert 10 * PER_TRIAL <= event["spent"] < 11 * PER_TRIAL
    assert len(store.trials(campaign.id)) > 10


BUDGET = {"item_evaluations": 9 * PER_TRIAL}


def test_killed_at_any_job_spends_no_more_than_undisturbed(store):
    undisturbed = launch(store, budget=BUDGET)
    calm = Evaluating()
    loop(store, calm).run()
    campaign = launch(store, budget=BUDGET)
    killed = set()

    def kill_once(count, job):
        here = (job.trial_id.rsplit("-", 1)[1], job.split)
        if here not in killed:
            killed.add(here)
            raise Killed

    for _ in calm.jobs:
        with pytest.raises(Killed):
            loop(store, Evaluating(kill_once), seconds=0.0).run()
    assert loop(store, Evaluating(kill_once)).run().state is CampaignState.COMPLETE
    assert len(killed) == len(calm.jobs)
    assert facts(store, campaign.id) == facts(store, undisturbed.id)
    assert len(candidates(store, campaign)) == 5


@pytest.mark.parametrize("when", ["before", "after"])
@pytest.mark.parametrize("call", ["note_budget_spent", "finish_search", "ask", "tell", "finish"])
def test_killed_around_a_write_the_budget_is_noted_once(store, call, when):
    campaign = launch(store, budget=BUDGET)
    with pytest.raises(Killed):
        loop(Meddled(store, call, **{when: kill}), seconds=0.0).run()
    if not store.campaign(campaign.id).state.is_final:
        loop(store).run()
    assert store.campaign(campaign.id).state is CampaignState.COMPLETE
    assert len(spent_events(store, campaign)) == 1
    assert len(candidates(store, campaign)) == 5


def test_a_spent_budget_stays_spent_after_a_pause(store):
    campaign = launch(store, budget=BUDGET)
    pausing = Meddled(store, "note_budget_spent", after=lambda: store.step(campaign.id, CampaignStep.PAUSE))
    assert loop(pausing, seconds=0.0).run().state is CampaignState.PAUSED
    store.step(campaign.id, CampaignStep.RESUME)
    assert loop(store).run().state is CampaignState.COMPLETE
    assert (len(spent_events(store, campaign)), len(candidates(store, campaign))) == (1, 5)


def test_what_was_imported_is_not_spent(store):
    source = launch(store)
    loop(store).run()
    campaign = launch(store, budget={"item_evaluations": 3 * PER_TRIAL}, warm_start={"import_from": [source.id]})
    done = loop(store).run()
    assert done.summary.imports.trials == CANDIDATES
    assert done.summary.imports.baselines == FIRST - 1
    assert len(candidates(store, campaign)) == 2  # beside the first baseline
    assert done.budget_spent == "item_evaluations"


@pytest.mark.parametrize("slots", [1, 2])
def test_a_point_queued_meanwhile_is_evaluated_before_new_candidates_and_beside_the_budget(store, slots):
    campaign = launch(store)
    queued = []

    def step_in(count, job):
        if count == FIRST + 3:
            queued.extend(queue(store, campaign, GOOD)[0])

    evaluate = Evaluating(step_in)
    running = loop(store, evaluate, slots)
    told, pending = [], []
    tell, ask = running._strategy.tell, running._strategy.ask
    running._strategy.tell = lambda observation: (told.append(observation.point), tell(observation))
    running._strategy.ask = lambda points: (pending.append(points), ask(points))[1]
    done = running.run()
    [point] = [store.trial(trial.id) for trial in queued]
    assert (point.state, point.candidate.kind, point.candidate.label) == (TrialState.COMPLETE, "point", "point 1")
    assert len(candidates(store, campaign)) == CANDIDATES
    assert evaluate.numbers().index(point.number) == FIRST + 2 + slots
    assert point.candidate.point in told
    if slots == 2:
        assert any(point.candidate.point in points for points in pending)
    assert point.number in evaluate.numbers("holdout")
    assert (done.state, done.points_queued) == (CampaignState.COMPLETE, 1)


@pytest.mark.parametrize("at", [1, FIRST, FIRST + 4])
def test_a_queued_point_leaves_the_reference_point_alone(store, at):
    launch(store)
    undisturbed = loop(store).run().summary
    campaign = launch(store)

    def step_in(count, job):
        if count == at:
            queue(store, campaign, BAD)
        if count == at + 2:
            raise Killed  # the next loop finds the point queued, running or told

    with pytest.raises(Killed):
        loop(store, Evaluating(step_in), seconds=0.0).run()
    done = loop(store).run()
    point = next(trial for trial in store.trials(campaign.id) if trial.candidate.kind == "point")
    assert point.state is TrialState.COMPLETE
    parents = [trial for trial in store.trials(campaign.id) if trial.candidate.kind in ("parent", "soup")]
    assert done.summary.reference_point == undisturbed.reference_point
    seen = [trial.hypervolume for trial in sorted(store.trials(campaign.id), key=lambda trial: trial.told)]
    frozen = max(trial.told for trial in parents)
    assert all(volume is None for volume in seen[:frozen])
    assert all(volume is not None for volume in seen[frozen:])
    assert seen[frozen:] == sorted(seen[frozen:])


@pytest.mark.parametrize("number", [FIRST, FIRST + 2])
def test_killed_with_a_point_in_flight_it_is_run_again_and_nothing_else(store, number):
    """The campaign ends as one that was not killed, whose point was queued at the same time."""

    def run(kills):
        campaign = launch(store)
        evaluate, is_killed = Evaluating(), []

        def step_in(count, job):
            here = int(job.trial_id.rsplit("-", 1)[1])
            if here == number and job.split == "search" and not store.campaign(campaign.id).points_queued:
                queue(store, campaign, GOOD)
            if kills and here == number + 1 and not is_killed:
                is_killed.append(job)
                raise Killed

        evaluate = Evaluating(step_in)
        if kills:
            with pytest.raises(Killed):
                loop(store, evaluate, seconds=0.0).run()
        loop(store, evaluate).run()
        return facts(store, campaign.id), evaluate.numbers()

    calm, numbers = run(kills=False)
    disturbed, again = run(kills=True)
    assert disturbed == calm
    assert again == sorted([*numbers, number + 1])


def test_a_point_queued_before_the_start_comes_after_the_baselines_and_a_known_one_not_at_all(store):
    campaign = launch(store)
    trials, created = queue(store, campaign, GOOD, {"weight.m0": 1.0, "weight.m1": 0.0, "weight.m2": 0.0})
    assert (created, [trial.number for trial in trials]) == (1, [FIRST, 0])
    evaluate = Evaluating()
    assert loop(store, evaluate).run().state is CampaignState.COMPLETE
    kinds = [trial.candidate.kind for trial in store.trials(campaign.id)]
    assert kinds == ["parent"] * PARENTS + ["soup", "point"] + ["candidate"] * CANDIDATES
    assert evaluate.numbers() == list(range(len(kinds)))


def test_a_point_queued_while_baselines_are_added_meets_no_second_set_of_them(store):
    campaign = launch(store)
    loop(Meddled(store, "add_baselines", before=lambda: queue(store, campaign, GOOD))).run()
    kinds = [trial.candidate.kind for trial in store.trials(campaign.id)]
    assert kinds == ["parent"] * PARENTS + ["soup", "point"] + ["candidate"] * CANDIDATES


def test_a_point_queued_in_a_pause_waits_for_its_end(store):
    campaign = launch(store)

    def pause(count, job):
        if count == FIRST + 2:
            store.step(campaign.id, CampaignStep.PAUSE)

    evaluate = Evaluating(pause)
    assert loop(store, evaluate, seconds=0.0).run().state is CampaignState.PAUSED
    [point], _ = queue(store, campaign, GOOD)
    store.step(campaign.id, CampaignStep.RESUME)
    assert loop(store, evaluate).run().state is CampaignState.COMPLETE
    assert evaluate.numbers()[FIRST + 2] == point.number
    assert len(candidates(store, campaign)) == CANDIDATES


@pytest.mark.parametrize("call", ["finish", "finish_search", "note_budget_spent", "add_holdout"])
def test_a_point_queued_at_the_last_moment_is_still_evaluated(store, call):
    campaign = launch(store)
    evaluate = Evaluating()
    done = loop(Meddled(store, call, before=lambda: queue(store, campaign, GOOD)), evaluate).run()
    point = store.trials(campaign.id)[-1]
    assert (point.candidate.kind, point.state) == ("point", TrialState.COMPLETE)
    assert done.trial_counts == {TrialState.COMPLETE: FIRST + CANDIDATES + 1}
    assert "holdout" in point.timings


def test_a_point_queued_before_an_import_does_not_confuse_its_numbers(store):
    source = launch(store)
    loop(store).run()
    campaign = launch(store, warm_start={"import_from": [source.id]})
    evaluate = Evaluating(lambda count, job: queue(store, campaign, GOOD) if count == 1 else None)
    done = loop(store, evaluate).run()
    trials = store.trials(campaign.id)
    assert [trial.candidate.kind for trial in trials[: FIRST + 2]] == [
        *["parent"] * PARENTS,
        "soup",
        "point",
        "imported",
    ]
    assert done.summary.imports.trials == CANDIDATES
    assert evaluate.numbers()[:2] == [0, FIRST]
    assert done.trial_counts == {TrialState.COMPLETE: FIRST + 1 + 2 * CANDIDATES}


def test_a_point_does_not_race(store):
    racing = {"racing": {"rungs": [0.1, 0.3], "tolerance": 0.5}}
    campaign = launch(store, evaluation=racing, budget={"evaluations": 20})
    evaluate = Evaluating(lambda count, job: queue(store, campaign, BAD) if count == FIRST + 10 else None)
    done = loop(store, evaluate).run()
    assert TrialState.PRUNED in done.trial_counts
    point = next(trial for trial in store.trials(campaign.id) if trial.candidate.kind == "point")
    assert point.state is TrialState.COMPLETE
    [job] = [job for job in evaluate.jobs if job.trial_id == point.id and job.split == "search"]
    assert job.rungs == ()


@pytest.mark.parametrize("kind", ["random", "sobol", "nsga2"])
def test_a_fork_takes_over_everything_and_goes_on_where_the_seed_leads_to_the_same_candidates(store, kind):
    evaluations = MAX_DUPLICATE_ASKS + 10
    source = launch(store, strategy={"kind": kind}, budget={"evaluations": evaluations}, evaluation={"reuse": True})
    loop(store).run()
    spec = source.spec.replace(
        warm_start={"import_from": [source.id]}, budget={"evaluations": 3}, evaluation=source.spec.evaluation
    )
    fork = store.fork_campaign(source.id, spec, source.pool, Patch(["budget"], "d"))
    evaluate = Evaluating()
    done = loop(store, evaluate).run()
    assert (done.forked_from, done.state) == (source.id, CampaignState.COMPLETE)
    assert done.summary.imports.trials == evaluations
    new = candidates(store, fork)
    assert len(new) == 3
    assert evaluate.numbers() == [0, *(trial.number for trial in new)]
    old = {trial.candidate.recipe.digest for trial in store.trials(source.id) if "holdout" in trial.timings}
    scored = {job.recipe.digest for job in evaluate.jobs if job.split == "holdout"}
    assert len(scored & old) <= 1  # the first, which says what the protocol is


def test_what_was_deleted_before_it_could_be_imported_is_passed_over(store):
    sources = [launch(store, seed=seed) for seed in (5, 5)]
    for _ in sources:
        loop(store).run()
    campaign = launch(store, warm_start={"import_from": [source.id for source in sources]})
    store.delete_campaign(sources[0].id)
    done = loop(store).run()
    assert done.state is CampaignState.COMPLETE
    assert done.summary.imports.trials == CANDIDATES
    store.delete_campaign(sources[1].id)
    imported = [trial for trial in store.trials(campaign.id) if trial.candidate.kind == "imported"]
    assert len(imported) == CANDIDATES
    assert all(trial.value("left/acc", "search") is not None for trial in imported)


def test_a_loop_that_finds_its_campaign_deleted_lets_it_go(store):
    campaign = launch(store)
    running = loop(store)
    store.step(campaign.id, CampaignStep.START)
    running._refresh()
    store.step(campaign.id, CampaignStep.CANCEL)
    store.delete_campaign(campaign.id)
    with pytest.raises(LeaseLost, match="was deleted"):
        running.run()


def test_a_campaign_cancelled_and_deleted_under_its_loop_is_let_go(store):
    campaign = launch(store)

    def delete(count, job):
        if count == FIRST + 2:
            store.step(campaign.id, CampaignStep.CANCEL)
            store.delete_campaign(campaign.id)

    evaluate = Evaluating(delete)
    with pytest.raises(LeaseLost):
        loop(store, evaluate, slots=2).run()
    assert len(evaluate.jobs) == FIRST + 2
    assert [event.kind for event in store.events(None)] == ["campaign.deleted"]
