"""The loop on a real store, space and strategy; the executor scores a known function of the weights."""

import pytest

from campaigns.errors import Fault, LeaseLost
from campaigns.objectives import Measurement
from campaigns.pools import Checkpoint, Pool
from campaigns.spec import parse_spec
from campaigns.states import CampaignState, CampaignStep, TrialState
from campaigns.trial import Evaluated, Timing
from optimizer import imports
from optimizer.executors.local import LocalExecutor
from optimizer.jobs import Faulted, Infeasible, JobResult, Scored
from optimizer.loop import FAULTS_IN_A_ROW_PER_ACTOR, MIN_FAULTS_IN_A_ROW, SearchLoop
from optimizer.strategies import SearchProblem, build_strategy
from optimizer.summary import FIRST_TRIALS
from optimizer.trial_book import TrialBook
from search_spaces import build_space
from storage import Store

TARGETS = {"left/acc": (0.7, 0.2, 0.1), "right/acc": (0.1, 0.3, 0.6)}
PARENTS = len(TARGETS["left/acc"])


def campaign_spec(**changes):
    return parse_spec(
        {
            "name": "loop",
            "pool": {"checkpoints": [{"name": f"m{i}", "path": f"/models/m{i}"} for i in range(PARENTS)]},
            "objectives": [{"task": task, "metric": "acc", "direction": "maximize"} for task in ("left", "right")],
            "strategy": {"kind": "nsga2", "population_size": 8},
            "budget": {"evaluations": 12},
            **changes,
        }
    )


def found_pool():
    names = [f"m{i}" for i in range(PARENTS)]
    checkpoints = tuple(Checkpoint(name=n, path=f"/models/{n}", digest=n, stamp="s", size_bytes=1) for n in names)
    return Pool(checkpoints=checkpoints, base=None, dtype="bfloat16", architecture="llama", parameter_count=1)


def score(job):
    """Each objective is best where the weights meet its target; holdout values lie a little lower."""
    weights = job.recipe.method.weights
    shift = 0.0 if job.split == "search" else -0.01
    measurements = tuple(
        Measurement(
            objective=name,
            split=job.split,
            value=1 - sum((w - t) ** 2 for w, t in zip(weights, target, strict=True)) + shift,
            standard_error=0.01,
            items=10,
            protocol="p",
        )
        for name, target in TARGETS.items()
    )
    timing = Timing(merge_seconds=0, model_seconds=0, total_seconds=0)
    return JobResult(job=job, outcome=Scored(evaluated=Evaluated(measurements=measurements, timing=timing)))


class Recording:
    """Scores as `score` does, notes every job, and lets a test step in before one."""

    def __init__(self, before=lambda count, job: None):
        self.jobs = []
        self._before = before

    def __call__(self, job):
        self.jobs.append(job)
        return self._before(len(self.jobs), job) or score(job)

    def evaluations(self, split):
        return [job.recipe.digest for job in self.jobs if job.split == split]


@pytest.fixture
def store(tmp_path):
    opened = Store.open(f"sqlite:///{tmp_path}/db.sqlite")
    yield opened
    opened.close()


def lease_of(store, worker="w", seconds=60.0):
    lease = store.lease_next(worker, seconds)
    assert lease is not None
    return lease


def loop(store, lease, evaluate, slots=2, should_stop=lambda: False):
    campaign = store.campaign(lease.campaign_id)
    space = build_space(campaign.spec, campaign.pool)
    spec = campaign.spec
    weights = tuple(objective.weight for objective in spec.objectives)
    problem = SearchProblem(space.dimensions, weights, spec.seed, len(spec.constraints))
    strategy = build_strategy(spec.strategy, problem)
    return SearchLoop(store, lease, LocalExecutor(evaluate, slots), strategy, space, should_stop)


def launch(store, **changes):
    return store.create_campaign(campaign_spec(**changes), found_pool())


def points(store, campaign):
    return [trial.candidate.point for trial in store.trials(campaign.id)]


def test_a_campaign_runs_to_its_end(store):
    campaign = launch(store)
    evaluate = Recording()
    done = loop(store, lease_of(store), evaluate).run()
    trials = store.trials(campaign.id)
    assert done.state is CampaignState.COMPLETE
    assert [t.candidate.kind for t in trials[: PARENTS + 1]] == ["parent"] * PARENTS + ["soup"]
    assert sum(t.candidate.kind == "candidate" for t in trials) == 12
    assert {t.state for t in trials} == {TrialState.COMPLETE}
    assert len(set(evaluate.evaluations("search"))) == len(evaluate.evaluations("search")) == 12 + PARENTS + 1


def test_front_and_baselines_are_scored_on_the_holdout_items_and_nothing_else(store):
    campaign = launch(store)
    done = loop(store, lease_of(store), Recording()).run()
    with_holdout = {t.id for t in store.trials(campaign.id) if any(m.split == "holdout" for m in t.measurements)}
    baselines = {t.id for t in store.trials(campaign.id) if t.candidate.kind != "candidate"}
    assert with_holdout == baselines | set(done.summary.front)
    assert done.search_finished_at is not None
    assert "on the holdout items" in done.summary.recommendation.reason


def test_hypervolume_never_falls_and_its_reference_is_frozen(store):
    campaign = launch(store)
    done = loop(store, lease_of(store), Recording()).run()
    told = sorted(store.trials(campaign.id), key=lambda trial: trial.told)
    history = [trial.hypervolume for trial in told if trial.hypervolume is not None]
    assert len(history) >= 12
    assert history == sorted(history)
    assert done.summary.hypervolume == history[-1]
    assert done.summary.recommendation.trial_id in done.summary.front


@pytest.mark.parametrize("slots", [1, 3])
def test_without_baselines_the_first_trials_freeze_the_reference_point(store, slots):
    campaign = launch(store, baselines={"parents": False, "uniform_soup": False}, budget={"evaluations": 20})
    seen = []
    evaluate = Recording(lambda count, job: seen.append(store.campaign(campaign.id).summary.reference_point))
    done = loop(store, lease_of(store), evaluate, slots).run()
    frozen = {point for point in seen if point is not None}
    assert frozen == {done.summary.reference_point}
    assert seen[:FIRST_TRIALS] == [None] * FIRST_TRIALS


def test_no_holdout_where_none_is_wanted(store):
    launch(store, evaluation={"holdout_items": 0})
    evaluate = Recording()
    assert loop(store, lease_of(store), evaluate).run().state is CampaignState.COMPLETE
    assert evaluate.evaluations("holdout") == []


def told_order(store, campaign):
    told = sorted((trial for trial in store.trials(campaign.id) if trial.told is not None), key=lambda t: t.told)
    return [trial.number for trial in told]


class Killed(BaseException):
    """Stands for the end of the process: nothing in the loop may catch it."""


CONSTRAINTS = [
    {"objective": "left/acc", "at_least": 0.55},
    {"objective": "right/acc", "max_loss_to_best_parent": 0.3},
]
POINT = {"weight.m0": 0.5, "weight.m1": 0.25, "weight.m2": 0.25}


def related(store):
    """A finished campaign that others import from: its id."""
    campaign = launch(store, strategy={"kind": "random"}, seed=5, budget={"evaluations": 6})
    assert loop(store, lease_of(store), Recording()).run().state is CampaignState.COMPLETE
    return campaign.id


WARM_START = {
    "constraints": lambda store: CONSTRAINTS,
    "warm_start": lambda store: {"points": [POINT], "import_from": [related(store)]},
}
COLD = [({}, kind, killed_at) for kind in ("random", "sobol", "nsga2", "cma_es") for killed_at in (1, 3, 7, 14, 18)]
WARM = [(WARM_START, kind, killed_at) for kind in ("sobol", "nsga2", "cma_es") for killed_at in (1, 2, 6)]


@pytest.mark.parametrize(("changes", "kind", "killed_at"), COLD + WARM)
def test_killed_and_resumed_equals_never_killed(tmp_path, changes, kind, killed_at):
    undisturbed, killed = (Store.open(f"sqlite:///{tmp_path}/{name}.sqlite") for name in ("undisturbed", "killed"))
    campaigns = [
        launch(each, strategy={"kind": kind}, **{name: change(each) for name, change in changes.items()})
        for each in (undisturbed, killed)
    ]
    loop(undisturbed, lease_of(undisturbed), Recording(), slots=1).run()

    def kill(count, job):
        if count == killed_at:
            raise Killed

    before = Recording(kill)
    with pytest.raises(Killed):
        loop(killed, lease_of(killed, seconds=0.0), before, slots=1).run()
    after = Recording()
    assert loop(killed, lease_of(killed, "second"), after, slots=1).run().state is CampaignState.COMPLETE
    assert points(killed, campaigns[1]) == points(undisturbed, campaigns[0])
    assert told_order(killed, campaigns[1]) == told_order(undisturbed, campaigns[0])
    finished_before = before.jobs[: killed_at - 1]
    assert not {(j.trial_id, j.split) for j in finished_before} & {(j.trial_id, j.split) for j in after.jobs}
    for each in (undisturbed, killed):
        each.close()


def test_a_fault_is_retried_with_the_same_recipe_and_never_scored(store):
    campaign = launch(store)

    def fault(count, job):
        return JobResult(job=job, outcome=Faulted(reason="cosmic ray")) if count == 2 else None

    evaluate = Recording(fault)
    assert loop(store, lease_of(store), evaluate).run().state is CampaignState.COMPLETE
    retried = store.trial(evaluate.jobs[1].trial_id)
    assert (retried.state, retried.attempts) == (TrialState.COMPLETE, 2)
    assert evaluate.evaluations("search").count(retried.candidate.recipe.digest) == 2
    assert store.campaign(campaign.id).trial_counts == {TrialState.COMPLETE: 12 + PARENTS + 1}


def test_a_fault_that_outlives_its_retries_fails_the_trial_alone(store):
    campaign = launch(store, resources={"retries": 1})
    unlucky = f"{campaign.id}-6"

    def fault(count, job):
        return JobResult(job=job, outcome=Faulted(reason="bad disk")) if job.trial_id == unlucky else None

    assert loop(store, lease_of(store), Recording(fault)).run().state is CampaignState.COMPLETE
    failed = store.trial(unlucky)
    assert (failed.state, failed.attempts, failed.reason) == (TrialState.FAILED, 2, "bad disk")
    assert failed.measurements == ()


def test_nothing_but_faults_ends_the_campaign_with_the_reason(store):
    launch(store)
    evaluate = Recording(lambda count, job: JobResult(job=job, outcome=Faulted(reason="no such disk")))
    with pytest.raises(Fault, match="no such disk"):
        loop(store, lease_of(store), evaluate).run()
    assert len(evaluate.jobs) == MIN_FAULTS_IN_A_ROW


def test_losing_a_large_node_is_not_the_end(store):
    actors = 2 * MIN_FAULTS_IN_A_ROW
    assert FAULTS_IN_A_ROW_PER_ACTOR * actors > actors
    launch(store, resources={"actors": actors}, budget={"evaluations": 40})

    def lose_the_node(count, job):
        return JobResult(job=job, outcome=Faulted(reason="its actor died")) if count <= actors else None

    done = loop(store, lease_of(store), Recording(lose_the_node), slots=actors).run()
    assert done.trial_counts == {TrialState.COMPLETE: 40 + PARENTS + 1}


def test_restarts_use_up_no_retries(store):
    launch(store, resources={"retries": 1})

    def kill(count, job):
        raise Killed

    for restart in range(3):
        with pytest.raises(Killed):
            loop(store, lease_of(store, f"w{restart}", seconds=0.0), Recording(kill), slots=1).run()

    def fault_once(count, job):
        return JobResult(job=job, outcome=Faulted(reason="cosmic ray")) if count == 1 else None

    done = loop(store, lease_of(store, "last"), Recording(fault_once), slots=1).run()
    assert done.trial_counts == {TrialState.COMPLETE: 12 + PARENTS + 1}


def test_an_infeasible_point_is_kept_with_its_reason_and_not_run_again(store):
    campaign = launch(store)
    bad = f"{campaign.id}-5"

    def reject(count, job):
        return JobResult(job=job, outcome=Infeasible(reason="NaN logits")) if job.trial_id == bad else None

    evaluate = Recording(reject)
    done = loop(store, lease_of(store), evaluate).run()
    trial = store.trial(bad)
    assert (trial.state, trial.reason, trial.attempts) == (TrialState.INFEASIBLE, "NaN logits", 1)
    assert bad not in done.summary.front


def test_cancel_in_mid_flight_ends_at_once_and_cancels_what_was_open(store):
    campaign = launch(store)

    def cancel(count, job):
        if count == 6:
            store.step(campaign.id, CampaignStep.CANCEL)

    evaluate = Recording(cancel)
    assert loop(store, lease_of(store), evaluate).run().state is CampaignState.CANCELLED
    assert len(evaluate.jobs) == 6
    assert set(store.campaign(campaign.id).trial_counts) == {TrialState.COMPLETE, TrialState.CANCELLED}


def test_pause_lets_running_trials_finish_and_resume_goes_on(store):
    campaign = launch(store)

    def pause(count, job):
        if count == 6:
            store.step(campaign.id, CampaignStep.PAUSE)

    lease = lease_of(store)
    evaluate = Recording(pause)
    assert loop(store, lease, evaluate).run().state is CampaignState.PAUSED
    assert TrialState.RUNNING not in store.campaign(campaign.id).trial_counts
    store.step(campaign.id, CampaignStep.RESUME)
    assert loop(store, lease, evaluate).run().state is CampaignState.COMPLETE
    assert len(set(evaluate.evaluations("search"))) == len(evaluate.evaluations("search"))


def test_stop_asks_for_no_more_and_scores_the_front(store):
    campaign = launch(store)

    def stop(count, job):
        if count == 8:
            store.step(campaign.id, CampaignStep.STOP)

    done = loop(store, lease_of(store), Recording(stop)).run()
    assert done.state is CampaignState.COMPLETE
    assert len(store.trials(campaign.id)) <= 10
    front = [store.trial(trial_id) for trial_id in done.summary.front]
    assert all(any(m.split == "holdout" for m in trial.measurements) for trial in front)


def test_a_worker_told_to_stop_leaves_the_campaign_to_the_next(store):
    launch(store)
    evaluate = Recording()
    lease = lease_of(store)
    assert loop(store, lease, evaluate, should_stop=lambda: len(evaluate.jobs) >= 5).run().state == "running"
    assert loop(store, lease, evaluate).run().state is CampaignState.COMPLETE


def test_a_stale_worker_is_refused(store):
    campaign = launch(store)

    def take_over(count, job):
        if count == 3:
            lease_of(store, "second")

    with pytest.raises(LeaseLost):
        loop(store, lease_of(store, seconds=0.0), Recording(take_over)).run()
    assert store.campaign(campaign.id).trial_counts[TrialState.COMPLETE] == 2


def test_a_space_with_few_recipes_ends_early_instead_of_asking_for_ever(store):
    frozen = {"kind": "linear", "normalize": "sum", "groups": [["m0", "m1", "m2"]]}
    campaign = launch(store, space=frozen)
    assert loop(store, lease_of(store), Recording()).run().state is CampaignState.COMPLETE
    assert all(t.candidate.kind != "candidate" for t in store.trials(campaign.id))


def test_a_campaign_whose_search_takes_every_item_ends_without_holdout_scores(store):
    campaign = launch(store)

    def nothing_left(count, job):
        if job.split == "holdout":
            timing = Timing(merge_seconds=0, model_seconds=0, total_seconds=0)
            return JobResult(job=job, outcome=Scored(evaluated=Evaluated(measurements=(), timing=timing)))
        return None

    assert loop(store, lease_of(store), Recording(nothing_left)).run().state is CampaignState.COMPLETE
    assert all(m.split == "search" for trial in store.trials(campaign.id) for m in trial.measurements)


class RefusingStore:
    """A store whose call of one name ends the process just before it, or just after."""

    def __init__(self, store, call, after):
        self._store, self._call, self._after = store, call, after

    def __getattr__(self, name):
        found = getattr(self._store, name)
        if name != self._call:
            return found

        def kill(*arguments):
            if self._after:
                found(*arguments)
            raise Killed

        return kill


@pytest.mark.parametrize("after", [False, True])
def test_killed_around_the_import_nothing_is_imported_twice_or_lost(tmp_path, after):
    outcomes = []
    for name in ("undisturbed", "killed"):
        store = Store.open(f"sqlite:///{tmp_path}/{name}.sqlite")
        campaign = launch(store, warm_start={"import_from": [related(store)]}, constraints=CONSTRAINTS)
        if name == "killed":
            refusing = RefusingStore(store, "import_results", after)
            with pytest.raises(Killed):
                loop(refusing, lease_of(store, seconds=0.0), Recording(), slots=1).run()
        done = loop(store, lease_of(store, "second"), Recording(), slots=1).run()
        outcomes.append((points(store, campaign), told_order(store, campaign), done.summary.imports))
        store.close()
    assert outcomes[0] == outcomes[1]


def test_results_of_a_related_campaign_are_told_before_the_first_ask_and_not_evaluated_again(store):
    other = related(store)
    campaign = launch(store, warm_start={"import_from": [other]})
    evaluate = Recording()
    done = loop(store, lease_of(store), evaluate, slots=3).run()
    trials = store.trials(campaign.id, with_outcomes=True)
    imported = [trial for trial in trials if trial.candidate.imported_from]
    asked = [trial for trial in trials if trial.candidate.kind == "candidate"]
    assert done.summary.imports.model_dump() == {
        "trials": 6,
        "baselines": 1,  # three were being evaluated when the first of them said what the protocols are
        "known": 3,
        "other_sources": 0,
        "other_protocol": 0,
        "out_of_reach": 0,
    }
    assert len(asked) == 12
    assert max(trial.told for trial in imported) < min(trial.told for trial in asked)
    assert not {trial.candidate.recipe.digest for trial in imported} & set(evaluate.evaluations("search"))
    for trial in imported:
        source = store.trial(trial.candidate.imported_from)
        assert source.campaign_id == other
        assert trial.candidate.recipe == source.candidate.recipe
        assert trial.candidate.point == source.candidate.point
        assert [m for m in trial.measurements if m.split == "search"] == [
            m for m in source.measurements if m.split == "search"
        ]
        assert (trial.timings["search"], trial.attempts) == (source.timings["search"], 0)
    assert "campaign.imported" in {event.kind for event in store.events(campaign.id)}
    assert store.baselines(campaign.id) == [
        t for t in store.trials(campaign.id) if t.candidate.kind in ("parent", "soup")
    ]


def test_what_was_measured_in_another_way_is_not_imported(store):
    other = related(store)
    campaign = launch(store, warm_start={"import_from": [other]})

    def other_protocol(count, job):
        outcome = score(job).outcome.evaluated
        measurements = [m.replace(protocol="q") if m.objective == "left/acc" else m for m in outcome.measurements]
        return JobResult(job=job, outcome=Scored(evaluated=outcome.replace(measurements=measurements)))

    done = loop(store, lease_of(store), Recording(other_protocol)).run()
    assert (done.summary.imports.known, done.summary.imports.other_protocol) == (2, 8)
    assert done.summary.imports.trials == done.summary.imports.baselines == 0
    assert len([t for t in store.trials(campaign.id) if t.candidate.kind != "candidate"]) == PARENTS + 1


def test_the_greedy_soup_takes_averages_that_were_imported(store):
    wanted = {"greedy_soup": True, "uniform_soup": False}
    first = launch(store, baselines=wanted)
    loop(store, lease_of(store), Recording()).run()
    soups = [t.candidate.label for t in store.trials(first.id) if t.candidate.kind == "soup"]
    assert soups
    again = launch(store, baselines=wanted, warm_start={"import_from": [first.id]})
    evaluate = Recording()
    loop(store, lease_of(store), evaluate, slots=1).run()
    trials = store.trials(again.id)
    assert [t.candidate.label for t in trials if t.candidate.kind == "soup"] == soups
    assert all(t.candidate.imported_from for t in trials if t.candidate.kind == "soup")
    assert not {t.candidate.recipe.digest for t in trials if t.candidate.imported_from} & set(
        evaluate.evaluations("search")
    )


def test_points_of_the_user_are_scored_after_the_parents_on_top_of_the_budget_and_once(store):
    same = {"weight.m0": 1.0, "weight.m1": 0.0, "weight.m2": 0.0}
    campaign = launch(store, warm_start={"points": [POINT, same, POINT]})
    done = loop(store, lease_of(store), Recording()).run()
    trials = store.trials(campaign.id)
    assert [t.candidate.kind for t in trials[: PARENTS + 3]] == ["parent"] * PARENTS + ["soup", "point", "candidate"]
    point = trials[PARENTS + 1]
    assert (point.candidate.label, point.candidate.parameters) == ("point 1", POINT)
    assert done.trial_counts == {TrialState.COMPLETE: 12 + PARENTS + 2}
    assert "holdout" in store.trial(point.id).timings


def test_the_front_is_of_trials_that_keep_the_constraints_with_the_best_parent_of_all(store):
    campaign = launch(store, constraints=CONSTRAINTS, budget={"evaluations": 30})
    done = loop(store, lease_of(store), Recording(), slots=3).run()
    trials = store.trials(campaign.id)
    best = max(t.value("right/acc", "search") for t in trials if t.candidate.kind == "parent")
    kept = {
        t.id for t in trials if t.value("left/acc", "search") >= 0.55 and t.value("right/acc", "search") >= best - 0.3
    }
    losses = {t.id: tuple(-t.value(name, "search") for name in TARGETS) for t in trials}
    front = {
        one
        for one in kept
        if not any(all(x <= y for x, y in zip(losses[o], losses[one], strict=True)) for o in kept - {one})
    }
    assert set(done.summary.front) == front
    assert len(kept) < len(trials)


def test_the_strategy_is_told_constraints_against_the_parents_told_until_then(store):
    campaign = launch(store, constraints=CONSTRAINTS)
    running = loop(store, lease_of(store), Recording(), slots=2)
    told = []
    tell = running._strategy.tell
    running._strategy.tell = lambda observation: (told.append(observation), tell(observation))
    running.run()
    trials = sorted(store.trials(campaign.id), key=lambda trial: trial.told)
    best = -1.0
    for observation, trial in zip(told, trials, strict=True):
        value = trial.value("right/acc", "search")
        best = max(best, value) if trial.candidate.kind == "parent" else best
        expected = (0.55 - trial.value("left/acc", "search"), best - value - 0.3)
        assert observation.constraints == pytest.approx(expected)
    replayed = TrialBook(campaign.spec)
    replayed.write(store.trials(campaign.id))
    assert replayed.observations() == told


def test_where_no_trial_keeps_the_constraints_the_front_is_empty_and_the_reason_is_told(store):
    campaign = launch(store, constraints=[{"objective": "left/acc", "at_least": 2.0}])
    done = loop(store, lease_of(store), Recording()).run()
    trials = store.trials(campaign.id)
    nearest = max(trials, key=lambda trial: (trial.value("left/acc", "search"), -trial.number))
    assert (done.state, done.summary.front, done.summary.hypervolume) == (CampaignState.COMPLETE, (), 0.0)
    assert done.summary.recommendation.trial_id is None
    assert f"trial {nearest.id} breaks them least: left/acc misses at_least 2 by" in done.summary.recommendation.reason


def test_cancelled_while_a_recovered_loop_imports_is_cancelled_and_no_error(store):
    campaign = launch(store, warm_start={"import_from": [related(store)]})
    with pytest.raises(Killed):
        loop(RefusingStore(store, "import_results", False), lease_of(store, seconds=0.0), Recording(), slots=1).run()

    class Cancelling(RefusingStore):
        def __getattr__(self, name):
            if name == self._call:
                self._store.step(campaign.id, CampaignStep.CANCEL)
            return getattr(self._store, name)

    lease = lease_of(store, "second")
    done = loop(Cancelling(store, "import_results", False), lease, Recording(), slots=1).run()
    assert (done.state, done.summary.imports) == (CampaignState.CANCELLED, None)
    assert not [trial for trial in store.trials(campaign.id) if trial.candidate.imported_from]


def test_a_large_import_is_read_in_batches(store, monkeypatch):
    monkeypatch.setattr(imports, "READ_AT_ONCE", 2)
    other = related(store)
    campaign = launch(store, warm_start={"import_from": [other]})
    done = loop(store, lease_of(store), Recording(), slots=1).run()
    sources = [t.candidate.imported_from for t in store.trials(campaign.id) if t.candidate.imported_from]
    assert done.summary.imports.trials + done.summary.imports.baselines == len(sources) == 9
    assert len(set(sources)) == 9


def test_where_no_baseline_can_be_scored_the_first_candidates_give_the_reference_point(store):
    campaign = launch(store)

    def no_baseline(count, job):
        kind = store.trial(job.trial_id).candidate.kind
        return JobResult(job=job, outcome=Infeasible(reason="NaN logits")) if kind != "candidate" else None

    done = loop(store, lease_of(store), Recording(no_baseline), slots=1).run()
    scored = [t for t in store.trials(campaign.id) if t.number < FIRST_TRIALS and t.state is TrialState.COMPLETE]
    worst = [max(-t.value(name, "search") for t in scored) for name in TARGETS]
    assert all(r > w for r, w in zip(done.summary.reference_point, worst, strict=True))
    assert done.summary.hypervolume > 0.0
