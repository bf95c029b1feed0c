"""Listing, editing and counting: alike on SQLite and PostgreSQL."""

import pytest

from campaigns.campaign import Campaign, SearchSummary
from campaigns.campaign_edit import CampaignEdit
from campaigns.errors import ChangedMeanwhile, NotFound
from campaigns.states import CampaignState, CampaignStep, TrialState
from storage import CampaignFilter, Lease, Store, version
from storage.trial_listing import TrialListing


@pytest.fixture
def told(store: Store, campaign: Campaign, lease: Lease, make_candidate, make_evaluated) -> list[float]:
    """The values of five told trials, and a sixth that is queued."""
    values = [0.3, 0.1, 0.1 + 0.2, 0.1, 0.9]
    for number, value in enumerate(values):
        trial = store.ask(lease, make_candidate(number / 10), {})
        store.start(lease, trial.id, "actor-0")
        store.tell(lease, trial.id, make_evaluated(value), {}, SearchSummary())
    store.ask(lease, make_candidate(0.99), {})
    return values


@pytest.mark.parametrize("limit", [1, 2, 6])
@pytest.mark.parametrize(
    ("sort", "descending", "numbers"),
    [
        ("number", True, [5, 4, 3, 2, 1, 0]),
        ("told", False, [0, 1, 2, 3, 4, 5]),
        ("sums/acc", False, [1, 3, 0, 2, 4, 5]),  # 0.3 and the next float above it are told apart
        ("sums/acc", True, [4, 2, 0, 1, 3, 5]),
        ("macro", True, [4, 0, 2, 1, 3, 5]),
        ("text/word_perplexity", True, [0, 1, 2, 3, 4, 5]),
    ],
)
def test_pages_of_any_size_give_the_same_order(
    store: Store, campaign: Campaign, told, sort: str, descending: bool, numbers: list[int], limit: int
) -> None:
    listing = TrialListing(sort, descending)
    found: list[int] = []
    while page := store.trial_page(campaign.id, listing, limit):
        found += [listed.trial.number for listed in page]
        listing = listing._replace(after=page[-1].place)
    assert found == numbers


def test_trials_are_filtered(store: Store, campaign: Campaign, told) -> None:
    queued = store.trial_page(campaign.id, TrialListing(states=(TrialState.QUEUED,)), 10)
    assert [listed.trial.number for listed in queued] == [5]
    assert store.trial_page(campaign.id, TrialListing(kinds=("parent",)), 10) == []
    assert len(store.trial_page(campaign.id, TrialListing(kinds=("candidate", "parent")), 10)) == 6
    with pytest.raises(NotFound):
        store.trial_page("nosuchid", TrialListing(), 10)


def test_an_edit_is_an_event_and_leaves_the_spec_as_launched(store: Store, campaign: Campaign) -> None:
    edited = store.edit_campaign(campaign.id, CampaignEdit(name="100%_Ökonom", notes="a\0b"))
    assert (edited.spec.name, edited.spec.notes) == ("100%_Ökonom", "a\N{REPLACEMENT CHARACTER}b")
    assert edited.updated_at > campaign.updated_at
    assert store.launched_spec(campaign.id) == campaign.spec
    (event,) = store.events(campaign.id, after=store.last_event_id() - 1)
    assert (event.kind, event.data["changed"]["name"]) == ("campaign.edited", {"from": "tiny", "to": "100%_Ökonom"})
    for name, found in (("%_Ö", 1), ("KONOM", 1), ("__", 0), ("tiny", 0), ("\0", 0)):
        assert len(store.campaigns(10, wanted=CampaignFilter(name=name))) == found, name


def test_a_change_of_another_version_is_refused(store: Store, campaign: Campaign) -> None:
    seen = version(campaign)
    assert version(store.campaign(campaign.id)) == seen
    paused = store.step(campaign.id, CampaignStep.PAUSE, expected=["x", seen])
    events = store.last_event_id()
    with pytest.raises(ChangedMeanwhile):
        store.step(campaign.id, CampaignStep.CANCEL, expected=[seen])
    with pytest.raises(ChangedMeanwhile):
        store.edit_campaign(campaign.id, CampaignEdit(name="x"), expected=[])
    assert store.campaign(campaign.id) == paused
    assert store.last_event_id() == events


def test_everything_is_counted(store: Store, campaign: Campaign, told, spec, pool) -> None:
    store.create_campaign(spec, pool)
    found = store.statistics(60)
    assert {state: count for state, count in found.campaigns.items() if count} == {
        CampaignState.RUNNING: 1,
        CampaignState.QUEUED: 1,
    }
    assert {state: count for state, count in found.trials.items() if count} == {
        TrialState.COMPLETE: 5,
        TrialState.QUEUED: 1,
    }
    assert (found.waiting, found.workers, found.events) == (1, 0, len(store.events(None)))


def test_a_schema_knows_its_revision(store: Store) -> None:
    present, needed = store.schema_revisions()
    assert present == needed is not None
