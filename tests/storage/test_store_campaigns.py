"""The store's contract: campaigns."""

import re
from collections.abc import Callable

import pytest

from campaigns.campaign import Campaign, SearchSummary
from campaigns.errors import Conflict, IllegalTransition, NotFound
from campaigns.pools import Pool
from campaigns.spec import CampaignSpec
from campaigns.states import CampaignState, CampaignStep, TrialState
from campaigns.trial import Candidate
from storage import Lease, Store

MakeCandidate = Callable[[float], Candidate]


def test_a_campaign_comes_back_as_it_was_made(store: Store, spec: CampaignSpec, pool: Pool) -> None:
    campaign = store.create_campaign(spec, pool)
    assert store.campaign(campaign.id) == campaign
    assert (campaign.spec, campaign.pool, campaign.state) == (spec, pool, CampaignState.QUEUED)
    assert (campaign.summary, campaign.trial_counts, campaign.worker_id) == (SearchSummary(), {}, None)
    assert campaign.created_at == campaign.updated_at
    assert campaign.created_at.utcoffset().total_seconds() == 0
    assert campaign.started_at is campaign.search_finished_at is campaign.finished_at is None


def test_ids_are_eight_characters_of_lowercase_base32(store: Store, spec: CampaignSpec, pool: Pool) -> None:
    ids = {store.create_campaign(spec, pool).id for _ in range(20)}
    assert len(ids) == 20
    assert all(re.fullmatch("[a-z2-7]{8}", campaign_id) for campaign_id in ids)


def test_the_same_key_and_spec_give_the_same_campaign(store: Store, spec: CampaignSpec, pool: Pool) -> None:
    first = store.create_campaign(spec, pool, idempotency_key="k")
    assert store.create_campaign(spec, pool, idempotency_key="k") == first
    assert store.create_campaign(spec, pool, idempotency_key="other").id != first.id
    assert len(store.campaigns(limit=10)) == 2
    assert len(store.events(first.id)) == 1


def test_a_campaign_is_found_by_its_key(store: Store, spec: CampaignSpec, pool: Pool) -> None:
    store.create_campaign(spec, pool)
    keyed = store.create_campaign(spec, pool, idempotency_key="k")
    assert store.campaign_with_key("k") == keyed
    assert store.campaign_with_key("other") is None


def test_the_same_key_with_another_spec_is_a_conflict(store: Store, spec: CampaignSpec, pool: Pool) -> None:
    store.create_campaign(spec, pool, idempotency_key="k")
    with pytest.raises(Conflict, match="'k' was used before"):
        store.create_campaign(spec.replace(seed=1), pool, idempotency_key="k")
    assert len(store.campaigns(limit=10)) == 1


def test_campaigns_are_paged_from_the_newest(store: Store, spec: CampaignSpec, pool: Pool) -> None:
    made = [store.create_campaign(spec, pool).id for _ in range(5)]
    pages: list[list[str]] = []
    before = None
    while page := store.campaigns(limit=2, before=before):
        pages.append([campaign.id for campaign in page])
        before = page[-1].id
    assert pages == [made[:2:-1], made[2:0:-1], made[:1]]


def test_unknown_campaigns_are_not_found(store: Store) -> None:
    for call in (
        lambda: store.campaign("nosuchid"),
        lambda: store.campaigns(limit=1, before="nosuchid"),
        lambda: store.step("nosuchid", CampaignStep.PAUSE),
        lambda: store.trials("nosuchid"),
        lambda: store.strategy_state("nosuchid"),
    ):
        with pytest.raises(NotFound, match="no campaign 'nosuchid'"):
            call()


def test_a_campaign_notes_when_it_starts_and_ends(store: Store, lease: Lease) -> None:
    started = store.campaign(lease.campaign_id)
    assert started.state is CampaignState.RUNNING
    assert started.started_at is not None
    store.step(lease.campaign_id, CampaignStep.PAUSE, reason="lunch")
    resumed = store.step(lease.campaign_id, CampaignStep.RESUME)
    assert resumed.started_at == started.started_at
    ended = store.step(lease.campaign_id, CampaignStep.FINISH, lease=lease)
    assert ended.finished_at == ended.updated_at >= started.started_at
    assert ended == store.campaign(lease.campaign_id)


def test_a_campaign_paused_before_its_start_notes_the_start_when_resumed(store: Store, campaign: Campaign) -> None:
    assert store.step(campaign.id, CampaignStep.PAUSE, reason="wait").reason == "wait"
    resumed = store.step(campaign.id, CampaignStep.RESUME)
    assert resumed.started_at is not None
    assert resumed.reason is None


def test_an_illegal_step_changes_nothing(store: Store, campaign: Campaign) -> None:
    with pytest.raises(IllegalTransition, match="a queued campaign cannot finish"):
        store.step(campaign.id, CampaignStep.FINISH)
    assert store.campaign(campaign.id) == campaign
    assert [event.kind for event in store.events(campaign.id)] == ["campaign.created"]


@pytest.mark.parametrize("step", [CampaignStep.CANCEL, CampaignStep.FAIL, CampaignStep.FINISH])
def test_the_end_of_a_campaign_cancels_its_open_trials(
    store: Store, lease: Lease, make_candidate: MakeCandidate, step: CampaignStep
) -> None:
    queued, running = store.add_trials(lease, [make_candidate(0.0), make_candidate(1.0)])
    store.start(lease, running.id, "actor-0")
    ended = store.step(lease.campaign_id, step, reason="enough")
    assert ended.trial_counts == {TrialState.CANCELLED: 2}
    for trial in (store.trial(queued.id), store.trial(running.id)):
        assert (trial.state, trial.reason) == (TrialState.CANCELLED, "enough")
        assert trial.finished_at is not None
    with pytest.raises(IllegalTransition, match="takes no more trials"):
        store.ask(lease, make_candidate(0.5), {})
    with pytest.raises(IllegalTransition, match="takes no more trials"):
        store.add_trials(lease, [make_candidate(0.5)])


def test_the_search_finishes_once(store: Store, lease: Lease) -> None:
    store.finish_search(lease)
    finished_at = store.campaign(lease.campaign_id).search_finished_at
    assert finished_at is not None
    store.finish_search(lease)
    assert store.campaign(lease.campaign_id).search_finished_at == finished_at
    assert [e.kind for e in store.events(lease.campaign_id)].count("campaign.search_finished") == 1


def test_a_summary_is_kept_to_the_last_digit(
    store: Store, lease: Lease, make_candidate: MakeCandidate, summary: SearchSummary
) -> None:
    trial = store.ask(lease, make_candidate(0.5), {})
    store.start(lease, trial.id, "actor-0")
    store.fail(lease, trial.id, "broken", summary)
    assert store.campaign(lease.campaign_id).summary == summary


def test_trials_are_counted_by_state_and_by_campaign(
    store: Store, lease: Lease, make_candidate: MakeCandidate, spec: CampaignSpec, pool: Pool
) -> None:
    other = store.create_campaign(spec, pool)
    first, *_ = store.add_trials(lease, [make_candidate(0.0), make_candidate(0.5), make_candidate(1.0)])
    store.start(lease, first.id, "actor-0")
    counts = {campaign.id: campaign.trial_counts for campaign in store.campaigns(limit=10)}
    assert counts == {other.id: {}, lease.campaign_id: {TrialState.QUEUED: 2, TrialState.RUNNING: 1}}
