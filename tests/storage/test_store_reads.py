"""The store's contract: the reads that the API serves its views from."""

from collections.abc import Callable

import pytest

from campaigns.campaign import SearchSummary
from campaigns.errors import NotFound
from campaigns.pools import Pool
from campaigns.spec import CampaignSpec
from campaigns.trial import Candidate, Evaluated, Trial
from storage import Lease, Store


@pytest.fixture
def trials(
    store: Store,
    lease: Lease,
    make_candidate: Callable[[float], Candidate],
    make_evaluated: Callable[..., Evaluated],
) -> list[Trial]:
    """A told parent, a told soup, a told, a rejected and a queued candidate, told in another order."""
    parent = make_candidate(1.0).replace(kind="parent", label="math")
    soup = make_candidate(0.5).replace(kind="soup", label="uniform soup")
    store.add_trials(lease, [parent, soup])
    found = [*store.trials(lease.campaign_id), *(store.ask(lease, make_candidate(i / 8), {}) for i in range(3))]
    for trial in found[:4]:
        store.start(lease, trial.id, "actor-0")
    store.reject(lease, found[3].id, "NaN", {}, SearchSummary())
    for position, trial in enumerate([found[1], found[2], found[0]]):
        store.tell(lease, trial.id, make_evaluated(0.5), {}, SearchSummary(hypervolume=position / 4))
    store.add_holdout(lease, found[0].id, make_evaluated(0.5, split="holdout"))
    return store.trials(lease.campaign_id)


def test_trials_are_read_by_id(store: Store, trials: list[Trial]) -> None:
    assert store.trials_with_ids([trials[3].id, "nosuchid-0", trials[1].id]) == [trials[1], trials[3]]
    assert store.trials_with_ids([]) == []


def test_baselines_are_what_no_strategy_asked_for(
    store: Store, trials: list[Trial], spec: CampaignSpec, pool: Pool
) -> None:
    assert store.baselines(trials[0].campaign_id) == trials[:2]
    assert store.baselines(store.create_campaign(spec, pool).id) == []


def test_hypervolumes_are_in_the_order_of_telling(store: Store, trials: list[Trial]) -> None:
    points = store.hypervolumes(trials[0].campaign_id)
    assert [(point.told, point.number, point.hypervolume) for point in points] == [
        (0, 3, None),
        (1, 1, 0.0),
        (2, 2, 0.25),
        (3, 0, 0.5),
    ]
    assert [point.trial_id for point in points] == [trials[i].id for i in (3, 1, 2, 0)]
    assert [point.told_at for point in points] == [trials[i].finished_at for i in (3, 1, 2, 0)]
    with pytest.raises(NotFound):
        store.hypervolumes("nosuchid")


def test_search_seconds_leave_the_holdout_out(
    store: Store, trials: list[Trial], spec: CampaignSpec, pool: Pool
) -> None:
    other = store.create_campaign(spec, pool).id
    assert store.search_seconds([trials[0].campaign_id, other]) == {
        trials[0].campaign_id: pytest.approx(3 * 0.8),
        other: 0.0,
    }
    assert store.search_seconds([]) == {}


def test_text_with_nul_is_stored_and_looked_up_without(store: Store, lease: Lease, trials: list[Trial]) -> None:
    store.start(lease, trials[4].id, "actor-0")
    assert store.retry(lease, trials[4].id, "a\0b").id == trials[4].id
    assert store.trial(trials[4].id).reason == "a\N{REPLACEMENT CHARACTER}b"
    with pytest.raises(NotFound):
        store.campaign("\0")
    with pytest.raises(NotFound):
        store.trial(f"{trials[0].id}\0")
