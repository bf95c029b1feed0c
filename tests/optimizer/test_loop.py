"""The loop on a real store, space and strategy; the executor scores a known function of the weights."""

import pytest

from campaigns.errors import Fault, LeaseLost
from campaigns.objectives import Measurement
from campaigns.pools import Checkpoint, Pool
from campaigns.spec import parse_spec
from campaigns.states import CampaignState, CampaignStep, TrialState
from campaigns.trial import Evaluated, Timing
from optimizer.executors.local import LocalExecutor
from optimizer.jobs import Faulted, Infeasible, JobResult, Scored
from optimizer.loop import FAULTS_IN_A_ROW_PER_ACTOR, MIN_FAULTS_IN_A_ROW, SearchLoop
from optimizer.strategies import SearchProblem, build_strategy
from optimizer.summary import FIRST_TRIALS
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
    weights = tuple(objective.weight for objective in campaign.spec.objectives)
    strategy = build_strategy(campaign.spec.strategy, SearchProblem(space.dimensions, weights, campaign.spec.seed))
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


class Killed(BaseException):
    """Stands for the end of the process: nothing in the loop may catch it."""


@pytest.mark.parametrize("kind", ["random", "sobol", "nsga2", "cma_es"])
@pytest.mark.parametrize("killed_at", [1, 3, 7, 14, 18])
def test_killed_and_resumed_equals_never_killed(tmp_path, kind, killed_at):
    undisturbed, killed = (Store.open(f"sqlite:///{tmp_path}/{name}.sqlite") for name in ("undisturbed", "killed"))
    campaigns = [launch(each, strategy={"kind": kind}) for each in (undisturbed, killed)]
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
