"""The store's contract: leases. A lease of 0 seconds has expired at once, so nothing here waits."""

from collections.abc import Callable, Sequence
from datetime import UTC, datetime

import pytest
from sqlalchemy import create_engine, select, update

from campaigns.campaign import Campaign, SearchSummary
from campaigns.errors import IllegalTransition, LeaseLost
from campaigns.inventory import Inventory, Worker
from campaigns.pools import Pool
from campaigns.spec import CampaignSpec, Resources
from campaigns.states import CampaignState, CampaignStep, TrialState
from campaigns.trial import Candidate, Evaluated
from storage import Claim, Lease, Store
from storage.rows import CampaignRow

MakeCandidate = Callable[[float], Candidate]
MakeEvaluated = Callable[..., Evaluated]


def take(store: Store, worker: str, seconds: float = 60) -> Lease:
    lease = store.lease_next(worker, seconds)
    assert lease is not None
    return lease


def test_the_oldest_campaign_is_leased_first_and_each_once(store: Store, spec: CampaignSpec, pool: Pool) -> None:
    made = [store.create_campaign(spec, pool).id for _ in range(3)]
    leases = [take(store, f"worker-{i}") for i in range(3)]
    assert [lease.campaign_id for lease in leases] == made
    assert store.lease_next("worker-9", 60) is None
    assert [store.campaign(made_id).worker_id for made_id in made] == ["worker-0", "worker-1", "worker-2"]


def test_the_highest_priority_is_leased_first_then_the_oldest(store: Store, spec: CampaignSpec, pool: Pool) -> None:
    made = [store.create_campaign(spec.replace(priority=priority), pool).id for priority in (10, 9, 50, 10, 100)]
    leased = [take(store, "worker-1").campaign_id for _ in made]
    assert leased == [made[index] for index in (4, 2, 0, 3, 1)]


def test_a_spec_from_before_there_were_priorities_has_the_default(
    store: Store, spec: CampaignSpec, pool: Pool, url: str
) -> None:
    low, old, high = (store.create_campaign(spec.replace(priority=p), pool).id for p in (9, 90, 11))
    engine = create_engine(url)
    with engine.begin() as connection:
        stored = connection.scalar(select(CampaignRow.spec).where(CampaignRow.id == old))
        assert stored is not None
        without = {key: value for key, value in stored.items() if key != "priority"}
        connection.execute(update(CampaignRow).where(CampaignRow.id == old).values(spec=without))
    engine.dispose()
    assert [take(store, "worker-1").campaign_id for _ in range(3)] == [high, old, low]
    assert {claim.campaign_id: claim.priority for claim in store.claims("worker-1")} == {low: 9, old: 10, high: 11}


def test_what_does_not_fit_is_passed_over(store: Store, spec: CampaignSpec, pool: Pool) -> None:
    large = store.create_campaign(spec.replace(resources=Resources(cpus_per_actor=8), priority=50), pool)
    small = store.create_campaign(spec, pool)
    asked: list[tuple[str, list[str]]] = []

    def fits(claim: Claim, held: Sequence[Claim]) -> bool:
        asked.append((claim.campaign_id, [each.campaign_id for each in held]))
        return claim.resources.cpus_per_actor <= 4

    lease = store.lease_next("worker-1", 60, fits)
    assert lease is not None
    assert lease.campaign_id == small.id
    assert store.lease_next("worker-1", 60, fits) is None
    assert asked == [(large.id, []), (small.id, []), (large.id, [small.id])]
    assert take(store, "worker-1").campaign_id == large.id


def publish(store: Store, worker_id: str, cluster: str) -> None:
    now = datetime.now(UTC)
    inventory = Inventory(cluster=cluster)
    store.publish_worker(Worker(id=worker_id, host="h", inventory=inventory, started_at=now, seen_at=now))


def test_claims_are_those_held_on_the_same_cluster(store: Store, spec: CampaignSpec, pool: Pool) -> None:
    for worker_id, cluster in (("a", "one"), ("b", "one"), ("c", "two"), ("d", ""), ("e", "")):
        publish(store, worker_id, cluster)
    resources = Resources(actors=3, cpus_per_actor=2)
    made = [store.create_campaign(spec.replace(resources=resources, priority=p), pool).id for p in (9, 8, 7, 6, 5, 4)]
    for worker_id in ("a", "b", "c", "a", "d"):
        take(store, worker_id)
    assert [claim.campaign_id for claim in store.claims("b")] == [made[0], made[1], made[3]]
    assert [(claim.priority, claim.resources) for claim in store.claims("c")] == [(7, resources)]
    assert [claim.campaign_id for claim in store.claims("d")] == [made[4]], "no cluster is no common one"
    assert store.claims("stranger") == []


def test_what_expired_or_was_given_back_or_deleted_claims_nothing(store: Store, spec: CampaignSpec, pool: Pool) -> None:
    store.create_campaign(spec, pool)
    store.release(take(store, "worker-1"))
    assert store.claims("worker-1") == []
    lease = take(store, "worker-1", seconds=0)
    assert store.claims("worker-1") == []
    store.renew(lease, 60)
    assert [claim.campaign_id for claim in store.claims("worker-1")] == [lease.campaign_id]
    store.step(lease.campaign_id, CampaignStep.CANCEL)
    store.delete_campaign(lease.campaign_id)
    assert store.claims("worker-1") == []


def test_no_campaign_no_lease(store: Store) -> None:
    assert store.lease_next("worker-1", 60) is None


def test_a_released_campaign_is_free_again(store: Store, campaign: Campaign) -> None:
    store.release(take(store, "worker-1"))
    assert store.campaign(campaign.id).worker_id is None
    assert take(store, "worker-2").campaign_id == campaign.id


def test_an_expired_lease_is_taken_over(store: Store, campaign: Campaign) -> None:
    stale = take(store, "worker-1", seconds=0)
    fresh = take(store, "worker-2")
    assert fresh.campaign_id == stale.campaign_id == campaign.id
    assert fresh.token != stale.token
    taken = [event for event in store.events(campaign.id) if event.kind == "campaign.leased"]
    assert [event.data for event in taken] == [
        {"worker_id": "worker-1"},
        {"worker_id": "worker-2", "taken_over_from": "worker-1"},
    ]


def test_a_renewed_lease_is_not_taken_over(store: Store, campaign: Campaign) -> None:
    store.renew(take(store, "worker-1", seconds=0), 60)
    assert store.lease_next("worker-2", 60) is None


def test_an_expired_lease_that_nobody_took_still_holds(
    store: Store, campaign: Campaign, make_candidate: MakeCandidate
) -> None:
    lease = take(store, "worker-1", seconds=0)
    assert store.add_trials(lease, [make_candidate(0.5)])[0].state is TrialState.QUEUED


def test_one_worker_that_restarts_under_its_name_gets_a_new_token(store: Store, campaign: Campaign) -> None:
    stale = take(store, "worker-1", seconds=0)
    assert take(store, "worker-1").token != stale.token
    with pytest.raises(LeaseLost):
        store.renew(stale, 60)


@pytest.mark.parametrize(
    ("steps", "leased"),
    [
        ([CampaignStep.PAUSE], False),
        ([CampaignStep.PAUSE, CampaignStep.RESUME], True),
        ([CampaignStep.START], True),
        ([CampaignStep.START, CampaignStep.STOP], True),
        ([CampaignStep.CANCEL], False),
        ([CampaignStep.START, CampaignStep.FINISH], False),
        ([CampaignStep.FAIL], False),
    ],
)
def test_only_campaigns_that_want_work_are_leased(
    store: Store, campaign: Campaign, steps: list[CampaignStep], leased: bool
) -> None:
    for step in steps:
        store.step(campaign.id, step)
    assert (store.lease_next("worker-1", 60) is not None) == leased


def test_every_write_of_a_stale_worker_is_refused(
    store: Store,
    campaign: Campaign,
    make_candidate: MakeCandidate,
    make_evaluated: MakeEvaluated,
    summary: SearchSummary,
) -> None:
    stale = take(store, "worker-1", seconds=0)
    store.step(campaign.id, CampaignStep.START, lease=stale)
    trial = store.add_trials(stale, [make_candidate(0.5)])[0]
    store.start(stale, trial.id, "actor-0")
    fresh = take(store, "worker-2")
    before = (store.campaign(campaign.id), store.trials(campaign.id), store.events(campaign.id))
    evaluated = make_evaluated(0.5)
    for write in (
        lambda: store.renew(stale, 60),
        lambda: store.release(stale),
        lambda: store.add_trials(stale, [make_candidate(0.1)]),
        lambda: store.ask(stale, make_candidate(0.1), {}),
        lambda: store.start(stale, trial.id, "actor-1"),
        lambda: store.retry(stale, trial.id, "again"),
        lambda: store.fail(stale, trial.id, "gone", summary),
        lambda: store.tell(stale, trial.id, evaluated, {}, summary),
        lambda: store.reject(stale, trial.id, "NaN", {}, summary),
        lambda: store.import_results(stale, [], {}, summary),
        lambda: store.add_holdout(stale, trial.id, evaluated),
        lambda: store.finish_search(stale),
        lambda: store.step(campaign.id, CampaignStep.FINISH, lease=stale),
    ):
        with pytest.raises(LeaseLost, match="worker 'worker-2' holds it"):
            write()
    assert before == (store.campaign(campaign.id), store.trials(campaign.id), store.events(campaign.id))
    assert store.tell(fresh, trial.id, evaluated, {}, summary).state is TrialState.COMPLETE


def test_a_lease_given_back_is_lost(store: Store, lease: Lease) -> None:
    store.release(lease)
    with pytest.raises(LeaseLost, match="it was given back"):
        store.renew(lease, 60)


def test_a_cancelled_campaign_refuses_the_tell_but_takes_the_lease_back(
    store: Store,
    lease: Lease,
    make_candidate: MakeCandidate,
    make_evaluated: MakeEvaluated,
    summary: SearchSummary,
) -> None:
    trial = store.ask(lease, make_candidate(0.5), {})
    store.start(lease, trial.id, "actor-0")
    store.step(lease.campaign_id, CampaignStep.CANCEL)
    with pytest.raises(IllegalTransition, match="a cancelled trial cannot complete"):
        store.tell(lease, trial.id, make_evaluated(0.5), {}, summary)
    store.release(lease)
    assert store.campaign(lease.campaign_id).state is CampaignState.CANCELLED
