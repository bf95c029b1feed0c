"""A campaign's life in the store: pauses, spent budgets, forks, queued points, deletion."""

from collections.abc import Callable
from datetime import UTC, datetime

import pytest
from sqlalchemy import insert

from campaigns.budgets import SpentBudget
from campaigns.campaign import Campaign, SearchSummary
from campaigns.errors import ChangedMeanwhile, Conflict, Gone, IllegalTransition, LeaseLost, NotFound
from campaigns.pools import Pool
from campaigns.spec import CampaignSpec
from campaigns.states import CampaignState, CampaignStep, TrialState
from campaigns.trial import Candidate, Evaluated
from storage import Lease, Patch, Store, campaign_repository
from storage.database import Database
from storage.rows import EventRow, MeasurementRow, TrialRow

MakeCandidate = Callable[[float], Candidate]
MANY = 10_000


def kinds(store: Store, campaign_id: str | None) -> list[str]:
    return [event.kind for event in store.events(campaign_id)]


def test_a_spent_budget_is_noted_once(store: Store, campaign: Campaign, lease: Lease) -> None:
    spent = SpentBudget(budget="item_evaluations", limit=100, spent=104)
    store.note_budget_spent(lease, spent)
    store.note_budget_spent(lease, spent.replace(budget="seconds"))
    assert store.campaign(campaign.id).budget_spent == "item_evaluations"
    [event] = [event for event in store.events(campaign.id) if event.kind == "campaign.budget_spent"]
    assert event.data == {"budget": "item_evaluations", "limit": 100, "spent": 104}
    store.release(lease)
    with pytest.raises(LeaseLost):
        store.note_budget_spent(lease, spent)


def test_a_campaign_with_points_that_its_worker_does_not_know_is_not_finished(
    store: Store, campaign: Campaign, lease: Lease, make_candidate: MakeCandidate
) -> None:
    store.queue_points(campaign.id, [make_candidate(1.0)], [make_candidate(0.5)])
    events = store.last_event_id()
    assert store.finish(lease, points_known=0).state is CampaignState.RUNNING
    assert store.last_event_id() == events
    done = store.finish(lease, points_known=1)
    assert (done.state, done.trial_counts) == (CampaignState.COMPLETE, {TrialState.CANCELLED: 2})


def test_baselines_are_added_once_whoever_comes_first(
    store: Store, campaign: Campaign, lease: Lease, make_candidate: MakeCandidate
) -> None:
    baselines = [make_candidate(1.0), make_candidate(0.0)]
    queued, created = store.queue_points(campaign.id, baselines, [make_candidate(0.5), make_candidate(1.0)])
    assert (created, [trial.number for trial in queued]) == (1, [2, 0])
    assert [trial.number for trial in store.add_baselines(lease, baselines)] == [0, 1, 2]
    assert store.queued_trials(campaign.id) == store.trials(campaign.id)


def test_there_is_a_limit_to_queued_points(
    store: Store, campaign: Campaign, make_candidate: MakeCandidate, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(campaign_repository, "MAX_QUEUED_POINTS", 3)
    store.queue_points(campaign.id, [], [make_candidate(0.1), make_candidate(0.2)])
    with pytest.raises(Conflict, match="up to 3 points after its launch: 1 more"):
        store.queue_points(campaign.id, [], [make_candidate(0.3), make_candidate(0.4)])
    assert store.queue_points(campaign.id, [], [make_candidate(0.3)])[1] == 1
    assert store.campaign(campaign.id).points_queued == 3


def test_a_key_and_patch_give_one_fork(store: Store, campaign: Campaign, spec: CampaignSpec, pool: Pool) -> None:
    patch = Patch(["seed"], "digest")
    assert store.fork_with_key(campaign.id, "once", patch) is None
    fork = store.fork_campaign(campaign.id, spec, pool, patch, "once")
    assert store.fork_campaign(campaign.id, spec, pool, patch, "once") == fork
    assert store.fork_with_key(campaign.id, "once", patch) == fork
    for other_id, other in ((fork.id, patch), (campaign.id, Patch(["seed"], "another"))):
        with pytest.raises(Conflict, match="for something else"):
            store.fork_campaign(other_id, spec, pool, other, "once")
        with pytest.raises(Conflict, match="for something else"):
            store.fork_with_key(other_id, "once", other)
    assert store.fork_campaign(campaign.id, spec, pool, patch).id != fork.id
    with pytest.raises(NotFound):
        store.fork_campaign("nosuchid", spec, pool, patch)


def test_what_is_deleted_is_gone_and_nothing_else(
    store: Store,
    spec: CampaignSpec,
    pool: Pool,
    campaign: Campaign,
    lease: Lease,
    make_candidate: MakeCandidate,
    make_evaluated: Callable[..., Evaluated],
    summary: SearchSummary,
) -> None:
    other = store.create_campaign(spec, pool)
    asked = store.ask(lease, make_candidate(0.5), {})
    store.start(lease, asked.id, "actor-0")
    store.tell(lease, asked.id, make_evaluated(0.5), {}, summary)
    with pytest.raises(IllegalTransition, match="a running campaign cannot be deleted; cancel it first"):
        store.delete_campaign(campaign.id)
    store.step(campaign.id, CampaignStep.CANCEL)
    with pytest.raises(ChangedMeanwhile):
        store.delete_campaign(campaign.id, expected=["another version"])
    assert store.trial(asked.id).state is TrialState.COMPLETE
    store.delete_campaign(campaign.id)

    for call in (store.campaign, store.launched_spec, store.trials, store.strategy_state, store.delete_campaign):
        with pytest.raises(Gone, match=f"campaign {campaign.id} was deleted at"):
            call(campaign.id)
    with pytest.raises(NotFound):
        store.trial(asked.id)
    assert kinds(store, campaign.id) == ["campaign.deleted"]
    assert [found.id for found in store.campaigns(10)] == [other.id]
    assert store.item_evaluations([campaign.id, other.id]) == {campaign.id: 0, other.id: 0}
    assert store.trials_of_recipe(asked.candidate.recipe.digest, other.id) == []
    counts = store.statistics(60)
    assert (sum(counts.campaigns.values()), sum(counts.trials.values())) == (1, 0)
    for write in (lambda: store.renew(lease, 60), lambda: store.release(lease)):
        with pytest.raises(LeaseLost):
            write()
    assert kinds(store, other.id) == ["campaign.created"]


def test_a_campaign_of_ten_thousand_trials_is_deleted_beside_another_one(
    url: str, store: Store, spec: CampaignSpec, pool: Pool, make_candidate: MakeCandidate
) -> None:
    """Each trial's foreign key is looked for among the events, those of the other campaign included."""
    ids = [store.create_campaign(spec, pool).id for _ in range(2)]
    at, candidate = datetime.now(UTC), make_candidate(0.5).model_dump(mode="json")
    database = Database(url)
    with database.write() as session:
        for campaign_id in ids:
            names = [f"{campaign_id}-{number}" for number in range(MANY)]
            trial = {"campaign_id": campaign_id, "recipe_digest": "r", "candidate": candidate, "state": "complete"}
            trial |= {"created_at": at, "attempts": 1, "timings": {}}
            rows = [{**trial, "id": name, "number": number} for number, name in enumerate(names)]
            session.execute(insert(TrialRow), rows)
            value = {"split": "search", "objective": "sums/acc", "position": 0, "value": 0.5, "items": 4}
            value |= {"protocol": "p", "item_ids": [1, 2], "outcomes": [0.0, 1.0]}
            session.execute(insert(MeasurementRow), [{**value, "trial_id": name} for name in names])
            event = {"campaign_id": campaign_id, "kind": "trial.complete", "data": {}, "at": at}
            session.execute(insert(EventRow), [{**event, "trial_id": name} for name in names])
    database.close()
    store.step(ids[0], CampaignStep.CANCEL)
    store.delete_campaign(ids[0])
    assert kinds(store, ids[0]) == ["campaign.deleted"]
    assert store.statistics(60).trials[TrialState.COMPLETE] == MANY
    assert store.trial(f"{ids[1]}-{MANY - 1}").value("sums/acc", "search") == 0.5
    assert len(store.events(ids[1], limit=2 * MANY)) == MANY + 1
