"""The store's contract: trials and their measurements."""

import itertools
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime
from typing import Any

import pytest
from pydantic import ValidationError
from sqlalchemy import select

from campaigns.campaign import ImportReport, SearchSummary
from campaigns.errors import Conflict, IllegalTransition, NotFound
from campaigns.pools import Pool
from campaigns.spec import CampaignSpec
from campaigns.states import TrialState
from campaigns.trial import BASELINES, Candidate, Evaluated, Trial
from storage import ImportedResult, Lease, Store
from storage.rows import CampaignRow

MakeCandidate = Callable[[float], Candidate]
MakeEvaluated = Callable[..., Evaluated]


@pytest.fixture
def running(store: Store, lease: Lease, make_candidate: MakeCandidate) -> Trial:
    trial = store.ask(lease, make_candidate(0.5), {"asked": 1})
    return store.start(lease, trial.id, "actor-0")


def test_an_asked_trial_is_queued_with_the_strategys_state(
    store: Store, lease: Lease, make_candidate: MakeCandidate
) -> None:
    assert store.strategy_state(lease.campaign_id) is None
    state = {"generator": 2**127 - 1, "points": [[0.1 + 0.2, 1e-300]]}
    trial = store.ask(lease, make_candidate(1 / 3), state)
    assert store.strategy_state(lease.campaign_id) == state
    assert trial == store.trial(trial.id)
    assert (trial.id, trial.state, trial.attempts) == (f"{lease.campaign_id}-0", TrialState.QUEUED, 0)
    assert trial.candidate == make_candidate(1 / 3)


def test_a_state_that_is_not_json_is_refused_with_its_trial(
    store: Store, lease: Lease, make_candidate: MakeCandidate
) -> None:
    with pytest.raises(Exception, match="Out of range float values"):
        store.ask(lease, make_candidate(0.5), {"best": float("inf")})
    assert store.trials(lease.campaign_id) == []
    assert store.strategy_state(lease.campaign_id) is None
    assert store.ask(lease, make_candidate(0.5), {}).number == 0


def test_numbers_count_up_in_each_campaign_on_its_own(
    store: Store, lease: Lease, make_candidate: MakeCandidate, spec: CampaignSpec, pool: Pool
) -> None:
    store.create_campaign(spec, pool)
    other = store.lease_next("worker-2", 60)
    assert other is not None
    numbers = [trial.number for trial in store.add_trials(lease, [make_candidate(0.0), make_candidate(1.0)])]
    numbers.append(store.ask(other, make_candidate(0.0), {}).number)
    numbers.append(store.ask(lease, make_candidate(0.5), {}).number)
    assert numbers == [0, 1, 0, 2]


def test_a_started_trial_knows_its_actor_and_attempts(store: Store, lease: Lease, running: Trial) -> None:
    assert (running.state, running.actor, running.attempts) == (TrialState.RUNNING, "actor-0", 1)
    assert running.started_at is not None
    retried = store.retry(lease, running.id, "the actor died")
    assert (retried.state, retried.actor, retried.started_at) == (TrialState.QUEUED, None, None)
    assert (retried.attempts, retried.reason) == (1, "the actor died")
    again = store.start(lease, running.id, "actor-1")
    assert (again.attempts, again.actor, again.reason) == (2, "actor-1", None)


def test_a_told_trial_keeps_its_measurements_to_the_last_digit(
    store: Store, lease: Lease, running: Trial, make_evaluated: MakeEvaluated, summary: SearchSummary
) -> None:
    evaluated = make_evaluated(0.1 + 0.2)
    told = store.tell(lease, running.id, evaluated, {"told": 1}, summary)
    found = store.trial(running.id)
    assert found.measurements == evaluated.measurements
    assert found.timings == {"search": evaluated.timing}
    assert (found.state, found.told, found.hypervolume) == (TrialState.COMPLETE, 0, 0.1 + 0.2)
    assert told == store.trials(lease.campaign_id)[0]
    assert store.strategy_state(lease.campaign_id) == {"told": 1}
    assert store.campaign(lease.campaign_id).summary == summary


def test_lists_leave_outcomes_out_unless_asked(
    store: Store, lease: Lease, running: Trial, make_evaluated: MakeEvaluated, summary: SearchSummary
) -> None:
    evaluated = make_evaluated(0.5)
    store.tell(lease, running.id, evaluated, {}, summary)
    bare = store.trials(lease.campaign_id)[0]
    assert all(measurement.outcomes == () for measurement in bare.measurements)
    full = store.trials(lease.campaign_id, with_outcomes=True)[0]
    assert full == store.trial(running.id)
    assert full.measurements[0].outcomes == (1, 0, 1, 0)


def test_results_are_numbered_in_the_order_in_which_they_arrive(
    store: Store,
    lease: Lease,
    make_candidate: MakeCandidate,
    make_evaluated: MakeEvaluated,
    summary: SearchSummary,
) -> None:
    trials = store.add_trials(lease, [make_candidate(i / 4) for i in range(4)])
    for trial in trials:
        store.start(lease, trial.id, "actor-0")
    store.tell(lease, trials[2].id, make_evaluated(0.5), {}, summary)
    store.fail(lease, trials[1].id, "out of memory, three times", summary)
    store.reject(lease, trials[3].id, "NaN logits", {}, summary)
    store.tell(lease, trials[0].id, make_evaluated(0.5), {}, summary)
    assert [(t.number, t.told) for t in store.trials(lease.campaign_id)] == [(0, 2), (1, None), (2, 0), (3, 1)]


def test_a_rejected_trial_is_infeasible_and_told(
    store: Store, lease: Lease, running: Trial, summary: SearchSummary
) -> None:
    rejected = store.reject(lease, running.id, "NaN logits", {"told": 1}, summary)
    assert (rejected.state, rejected.reason, rejected.told) == (TrialState.INFEASIBLE, "NaN logits", 0)
    assert rejected.measurements == ()
    assert rejected.hypervolume == summary.hypervolume
    assert store.strategy_state(lease.campaign_id) == {"told": 1}


def test_a_pruned_trial_is_told_with_its_estimates(
    store: Store, lease: Lease, running: Trial, make_evaluated: MakeEvaluated, summary: SearchSummary
) -> None:
    evaluated = make_evaluated(0.5, estimate=0.1 + 0.2)
    pruned = store.prune(lease, running.id, evaluated, "chance 0.04", {"told": 1}, summary)
    found = store.trial(running.id)
    assert (found.state, found.reason, found.told) == (TrialState.PRUNED, "chance 0.04", 0)
    assert found.hypervolume == summary.hypervolume
    assert found.finished_at is not None
    assert found.measurements == evaluated.measurements
    assert found.timings == {"search": evaluated.timing}
    assert (found.value("sums/acc", "search"), found.expected("sums/acc")) == (0.5, 0.1 + 0.2)
    assert pruned == store.trials(lease.campaign_id)[0]
    assert store.strategy_state(lease.campaign_id) == {"told": 1}
    campaign = store.campaign(lease.campaign_id)
    assert (campaign.summary, campaign.trial_counts) == (summary, {TrialState.PRUNED: 1})
    event = store.events(lease.campaign_id)[-1]
    assert (event.kind, event.trial_id) == ("trial.pruned", running.id)
    assert event.data == {
        "number": 0,
        "told": 0,
        "values": {"sums/acc": 0.5, "text/word_perplexity": 1 / 3},
        "estimates": {"sums/acc": 0.1 + 0.2, "text/word_perplexity": 0.1 + 0.2},
        "items": {"sums/acc": 4, "text/word_perplexity": 4},
        "reason": "chance 0.04",
        "hypervolume": summary.hypervolume,
    }


def test_a_pruned_trial_is_never_scored_on_holdout_items(
    store: Store, lease: Lease, running: Trial, make_evaluated: MakeEvaluated, summary: SearchSummary
) -> None:
    store.prune(lease, running.id, make_evaluated(0.5, estimate=0.4), "chance 0.04", {}, summary)
    with pytest.raises(IllegalTransition, match="is pruned; only a complete trial"):
        store.add_holdout(lease, running.id, make_evaluated(0.4, split="holdout"))


def test_estimates_belong_to_pruned_trials_alone(
    store: Store, lease: Lease, running: Trial, make_evaluated: MakeEvaluated, summary: SearchSummary
) -> None:
    whole, part = make_evaluated(0.5), make_evaluated(0.5, estimate=0.4)
    with pytest.raises(Conflict, match="a pruned trial has estimates, got none"):
        store.prune(lease, running.id, whole, "chance 0.04", {}, summary)
    with pytest.raises(Conflict, match="only a pruned trial has estimates, got sums/acc"):
        store.tell(lease, running.id, part, {}, summary)
    incomplete = part.replace(measurements=part.measurements[:1])
    with pytest.raises(Conflict, match="were asked for, got"):
        store.prune(lease, running.id, incomplete, "chance 0.04", {}, summary)
    new = ImportedResult(f"{lease.campaign_id}-1", running.candidate, part)
    with pytest.raises(Conflict, match="only a pruned trial has estimates"):
        store.import_results(lease, [new], {}, summary)
    assert store.trials(lease.campaign_id) == [running]
    exact = part.measurements[1].replace(estimate=None)  # of the weights, say
    mixed = part.replace(measurements=(part.measurements[0], exact))
    store.prune(lease, running.id, mixed, "chance 0.04", {}, summary)
    assert store.events(lease.campaign_id)[-1].data["estimates"] == {"sums/acc": 0.4}


@pytest.mark.parametrize("kind", BASELINES)
def test_a_baseline_is_never_pruned(
    store: Store,
    lease: Lease,
    make_candidate: MakeCandidate,
    make_evaluated: MakeEvaluated,
    summary: SearchSummary,
    kind: str,
) -> None:
    [trial] = store.add_trials(lease, [make_candidate(1.0).replace(kind=kind)])
    running = store.start(lease, trial.id, "actor-0")
    with pytest.raises(Conflict, match=f"is a baseline \\({kind}\\); only candidates are pruned"):
        store.prune(lease, trial.id, make_evaluated(0.5, estimate=0.4), "chance 0.04", {}, summary)
    assert store.trial(trial.id) == running


def test_a_failed_trial_is_never_told(store: Store, lease: Lease, running: Trial, summary: SearchSummary) -> None:
    failed = store.fail(lease, running.id, "the disk is full", summary)
    assert (failed.state, failed.reason, failed.told) == (TrialState.FAILED, "the disk is full", None)
    assert failed.hypervolume is None
    assert store.strategy_state(lease.campaign_id) == {"asked": 1}
    assert store.campaign(lease.campaign_id).summary == summary


def end_of(state: TrialState, store: Store, lease: Lease, trial: Trial, evaluated: Evaluated) -> None:
    if state is TrialState.QUEUED:
        store.retry(lease, trial.id, "again")
    elif state is TrialState.COMPLETE:
        store.tell(lease, trial.id, evaluated, {}, SearchSummary())
    elif state is TrialState.PRUNED:
        measurements = tuple(m.replace(estimate=0.25) for m in evaluated.measurements)
        store.prune(lease, trial.id, evaluated.replace(measurements=measurements), "chance", {}, SearchSummary())
    elif state is TrialState.INFEASIBLE:
        store.reject(lease, trial.id, "NaN", {}, SearchSummary())
    else:
        store.fail(lease, trial.id, "broken", SearchSummary())


ENDS = [TrialState.QUEUED, TrialState.COMPLETE, TrialState.PRUNED, TrialState.INFEASIBLE, TrialState.FAILED]


@pytest.mark.parametrize("ends", list(itertools.product(ENDS, ENDS)))
def test_nothing_is_evaluated_twice(
    store: Store, lease: Lease, running: Trial, make_evaluated: MakeEvaluated, ends: tuple[TrialState, TrialState]
) -> None:
    state, then = ends
    evaluated = make_evaluated(0.5)
    end_of(state, store, lease, running, evaluated)
    before = (store.campaign(lease.campaign_id), store.trial(running.id), store.events(lease.campaign_id))
    with pytest.raises(IllegalTransition, match=f"trial {running.id}: an? {state} trial cannot"):
        end_of(then, store, lease, running, evaluated)
    assert before == (store.campaign(lease.campaign_id), store.trial(running.id), store.events(lease.campaign_id))


def test_a_running_trial_is_not_started_again(store: Store, lease: Lease, running: Trial) -> None:
    with pytest.raises(IllegalTransition, match="a running trial cannot start"):
        store.start(lease, running.id, "actor-1")
    assert store.trial(running.id) == running


def test_trials_of_another_campaign_are_not_found(
    store: Store, lease: Lease, running: Trial, spec: CampaignSpec, pool: Pool
) -> None:
    store.create_campaign(spec, pool)
    other = store.lease_next("worker-2", 60)
    assert other is not None
    with pytest.raises(NotFound, match=f"campaign {other.campaign_id} has no trial"):
        store.retry(other, running.id, "not mine")
    with pytest.raises(NotFound, match="no trial 'nosuch-0'"):
        store.trial("nosuch-0")


def change(evaluated: Evaluated, **changes: Any) -> Evaluated:
    return evaluated.replace(measurements=tuple(m.replace(**changes) for m in evaluated.measurements))


def test_measurements_that_were_not_asked_for_are_refused(
    store: Store, lease: Lease, running: Trial, make_evaluated: MakeEvaluated, summary: SearchSummary
) -> None:
    whole = make_evaluated(0.5)
    one, two = whole.measurements
    for wrong in (
        whole.replace(measurements=(one,)),
        whole.replace(measurements=(one, one)),
        whole.replace(measurements=(one, two, two)),
        whole.replace(measurements=(one, two.replace(objective="text/bits_per_byte"))),
        make_evaluated(0.5, split="holdout"),
        whole.replace(measurements=(one, two.replace(split="holdout"))),
    ):
        with pytest.raises(Conflict, match="were asked for, got"):
            store.tell(lease, running.id, wrong, {}, summary)
    assert store.trial(running.id) == running
    assert store.tell(lease, running.id, whole, {}, summary).told == 0


def test_a_score_that_is_not_a_number_cannot_even_be_built(make_evaluated: MakeEvaluated) -> None:
    with pytest.raises(ValidationError, match="finite number"):
        change(make_evaluated(0.5), value=float("nan"))


def test_a_complete_trial_is_scored_on_holdout_items_once(
    store: Store, lease: Lease, running: Trial, make_evaluated: MakeEvaluated, summary: SearchSummary
) -> None:
    search, holdout = make_evaluated(0.5), make_evaluated(0.4, split="holdout")
    with pytest.raises(IllegalTransition, match="only a complete trial"):
        store.add_holdout(lease, running.id, holdout)
    store.tell(lease, running.id, search, {}, summary)
    with pytest.raises(Conflict, match="were asked for, got"):
        store.add_holdout(lease, running.id, search)
    scored = store.add_holdout(lease, running.id, holdout)
    assert scored.timings == {"search": search.timing, "holdout": holdout.timing}
    assert (scored.value("sums/acc", "search"), scored.value("sums/acc", "holdout")) == (0.5, 0.4)
    assert store.trial(running.id).measurements == search.measurements + holdout.measurements
    with pytest.raises(Conflict, match="before"):
        store.add_holdout(lease, running.id, holdout)


def test_holdout_leaves_out_objectives_without_holdout_items(
    store: Store, lease: Lease, running: Trial, make_evaluated: MakeEvaluated, summary: SearchSummary
) -> None:
    store.tell(lease, running.id, make_evaluated(0.5), {}, summary)
    holdout = make_evaluated(0.4, split="holdout")
    scored = store.add_holdout(lease, running.id, holdout.replace(measurements=holdout.measurements[:1]))
    assert [(m.objective, m.split) for m in scored.measurements][2:] == [("sums/acc", "holdout")]


def test_ten_thousand_trials_are_read_in_pages(store: Store, lease: Lease, make_candidate: MakeCandidate) -> None:
    total, size = 10_000, 3_000
    store.add_trials(lease, [make_candidate(i / total) for i in range(total)])
    pages: list[list[int]] = []
    after = -1
    while page := store.trials(lease.campaign_id, after=after, limit=size):
        pages.append([trial.number for trial in page])
        after = pages[-1][-1]
    assert [len(page) for page in pages] == [3_000, 3_000, 3_000, 1_000]
    assert [number for page in pages for number in page] == list(range(total))
    assert store.campaign(lease.campaign_id).trial_counts == {TrialState.QUEUED: total}


def test_threads_share_a_store(store: Store, lease: Lease, make_candidate: MakeCandidate) -> None:
    def ask(index: int) -> int:
        number = store.ask(lease, make_candidate(index / 100), {"asked": index}).number
        assert len(store.trials(lease.campaign_id)) > 0
        return number

    with ThreadPoolExecutor(8) as threads:
        numbers = list(threads.map(ask, range(80)))
    assert sorted(numbers) == list(range(80))
    assert [trial.number for trial in store.trials(lease.campaign_id)] == list(range(80))


def test_imported_results_end_queued_and_new_trials_together(
    store: Store, lease: Lease, make_candidate: MakeCandidate, make_evaluated: MakeEvaluated, summary: SearchSummary
) -> None:
    [queued] = store.add_trials(lease, [make_candidate(1.0).replace(kind="parent", label="math")])
    new_id = f"{lease.campaign_id}-1"
    first = make_candidate(1.0).replace(kind="parent", label="math", imported_from="x-0")
    second = make_candidate(0.25).replace(kind="imported", imported_from="x-7")
    report = ImportReport(trials=1, baselines=1, known=0, other_sources=0, other_protocol=2, out_of_reach=0)
    imported = [
        ImportedResult(queued.id, first, make_evaluated(0.5)),
        ImportedResult(new_id, second, make_evaluated(0.75)),
    ]
    trials = store.import_results(lease, imported, {"told": 2}, summary.replace(imports=report))
    assert trials == store.trials(lease.campaign_id)
    assert [(t.id, t.state, t.told, t.attempts) for t in trials] == [
        (queued.id, TrialState.COMPLETE, 0, 0),
        (new_id, TrialState.COMPLETE, 1, 0),
    ]
    assert [t.candidate for t in trials] == [first, second]
    assert store.trial(new_id).measurements == make_evaluated(0.75).measurements
    assert {t.hypervolume for t in trials} == {summary.hypervolume}
    assert store.strategy_state(lease.campaign_id) == {"told": 2}
    assert store.campaign(lease.campaign_id).summary.imports == report
    assert store.baselines(lease.campaign_id) == trials[:1]
    assert store.search_seconds([lease.campaign_id]) == {lease.campaign_id: 0.0}
    event = store.events(lease.campaign_id)[-1]
    assert (event.kind, event.data["other_protocol"]) == ("campaign.imported", 2)
    assert store.events(lease.campaign_id)[-2].data["imported_from"] == "x-7"
    assert store.ask(lease, make_candidate(0.5), {}).number == 2


def test_an_import_is_all_or_nothing(
    store: Store, lease: Lease, running: Trial, make_candidate: MakeCandidate, make_evaluated: MakeEvaluated
) -> None:
    new = ImportedResult(f"{lease.campaign_id}-1", make_candidate(0.25), make_evaluated(0.5))
    into_running = ImportedResult(running.id, running.candidate, make_evaluated(0.5))
    with pytest.raises(Conflict, match=f"trial {running.id} is not queued"):
        store.import_results(lease, [new, into_running], {}, SearchSummary())
    with pytest.raises(Conflict, match=f"the next one is {lease.campaign_id}-2"):
        store.import_results(lease, [new, new._replace(trial_id=f"{lease.campaign_id}-7")], {}, SearchSummary())
    partial = new.evaluated.replace(measurements=new.evaluated.measurements[:1])
    with pytest.raises(Conflict, match="were asked for"):
        store.import_results(lease, [new._replace(evaluated=partial)], {}, SearchSummary())
    assert store.trials(lease.campaign_id) == [running]


def test_what_an_import_takes_does_not_count_against_the_lease(store: Store, lease: Lease) -> None:
    def expires() -> datetime:
        with store._database.read() as session:
            row = session.scalar(select(CampaignRow).where(CampaignRow.id == lease.campaign_id))
            assert row is not None and row.lease_expires_at is not None
            return row.lease_expires_at

    before = expires()
    store.import_results(lease, [], {}, SearchSummary())
    assert expires() > before
