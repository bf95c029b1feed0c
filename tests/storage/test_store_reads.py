"""The store's contract: the reads that the API serves its views from."""

from collections.abc import Callable

import pytest

from campaigns.campaign import SearchSummary
from campaigns.errors import NotFound
from campaigns.pools import Pool
from campaigns.spec import CampaignSpec, parse_spec
from campaigns.trial import Candidate, Evaluated, Trial
from storage import ImportedResult, Lease, Store


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


def prune_one(store: Store, lease: Lease, candidate: Candidate, evaluated: Evaluated) -> Trial:
    trial = store.ask(lease, candidate, {})
    store.start(lease, trial.id, "actor-0")
    estimated = tuple(m.replace(estimate=0.25) for m in evaluated.measurements)
    pruned = evaluated.replace(measurements=estimated)
    return store.prune(lease, trial.id, pruned, "chance 0.01", {}, SearchSummary(hypervolume=0.5))


def test_pruned_trials_took_seconds_too_and_have_their_place_in_the_history(
    store: Store,
    lease: Lease,
    trials: list[Trial],
    make_candidate: Callable[[float], Candidate],
    make_evaluated: Callable[..., Evaluated],
) -> None:
    before = store.search_seconds([lease.campaign_id])[lease.campaign_id]
    pruned = prune_one(store, lease, make_candidate(0.9), make_evaluated(0.5))
    assert store.search_seconds([lease.campaign_id])[lease.campaign_id] == pytest.approx(before + 0.8)
    last, added = store.hypervolumes(lease.campaign_id)[-2:]
    assert (added.told, added.trial_id, added.hypervolume) == (last.told + 1, pruned.id, last.hypervolume)


def test_item_evaluations_count_the_items_of_each_task_once_where_they_were_scored(
    store: Store,
    lease: Lease,
    trials: list[Trial],
    spec: CampaignSpec,
    pool: Pool,
    make_candidate: Callable[[float], Candidate],
    make_evaluated: Callable[..., Evaluated],
) -> None:
    """Three trials of 4 items in each of two tasks; the holdout's, the rejected and the queued trial add nothing."""
    assert store.item_evaluations([lease.campaign_id]) == {lease.campaign_id: 3 * 8}
    evaluated = make_evaluated(0.5)
    sums, text = evaluated.measurements
    part = evaluated.replace(measurements=(sums.replace(items=1), text.replace(items=3)))
    prune_one(store, lease, make_candidate(0.9), part)
    imported = make_candidate(0.95).replace(kind="imported", imported_from="x-0")
    new = ImportedResult(f"{lease.campaign_id}-{len(trials) + 1}", imported, evaluated)
    store.import_results(lease, [new], {}, SearchSummary())
    other = store.create_campaign(spec, pool).id
    found = store.item_evaluations([lease.campaign_id, other, "nosuchid"])
    assert found == {lease.campaign_id: 3 * 8 + 1 + 3, other: 0, "nosuchid": 0}
    assert store.item_evaluations([]) == {}


def test_objectives_of_one_task_share_its_items_and_the_weights_have_none(
    store: Store, pool: Pool, make_candidate: Callable[[float], Candidate], make_evaluated: Callable[..., Evaluated]
) -> None:
    """Names of tasks may hold slashes: the spec tells which metrics are of one task, not the names."""
    objectives = [
        {"task": "sums", "metric": "acc"},
        {"task": "sums", "metric": "exact_match", "filter": "strict"},
        {"task": "sums/hard", "metric": "acc"},
        {"task": "weights", "metric": "delta_l1"},
    ]
    checkpoints = [{"name": name, "path": f"/models/{name}"} for name in ("math", "code", "base")]
    document = {"checkpoints": checkpoints[:2], "base": checkpoints[2]}
    spec = parse_spec({"name": "tiny", "pool": document, "objectives": objectives, "budget": {"evaluations": 8}})
    campaign = store.create_campaign(spec, pool)
    lease = store.lease_next("worker-1", 60)
    assert lease is not None
    for weight, items in ((0.25, (10, 10, 20, 1)), (0.5, (3, 3, 6, 1))):
        trial = store.ask(lease, make_candidate(weight), {})
        store.start(lease, trial.id, "actor-0")
        template = make_evaluated(0.5)
        measurements = tuple(
            template.measurements[0].replace(objective=objective.name, items=count)
            for objective, count in zip(spec.objectives, items, strict=True)
        )
        store.tell(lease, trial.id, template.replace(measurements=measurements), {}, SearchSummary())
    assert store.item_evaluations([campaign.id]) == {campaign.id: 10 + 20 + 3 + 6}


def test_trials_of_a_recipe_are_complete_ones_of_other_campaigns_with_their_outcomes(
    store: Store,
    spec: CampaignSpec,
    pool: Pool,
    make_candidate: Callable[[float], Candidate],
    make_evaluated: Callable[..., Evaluated],
) -> None:
    """The first campaign completes it last; of the others, one rejects it, one prunes it, one leaves it open."""
    digest = make_candidate(0.5).recipe.digest
    leases = []
    for index in range(5):
        store.create_campaign(spec, pool)
        lease = store.lease_next(f"worker-{index}", 600)
        assert lease is not None
        leases.append(lease)
    asked = [store.ask(lease, make_candidate(0.5), {}) for lease in leases]
    store.ask(leases[0], make_candidate(0.25), {})
    for lease, trial in zip(leases[:4], asked[:4], strict=True):
        store.start(lease, trial.id, "actor-0")
    assert store.trials_of_recipe(digest, "nosuchid") == []
    store.tell(leases[1], asked[1].id, make_evaluated(0.75), {}, SearchSummary())
    store.reject(leases[2], asked[2].id, "NaN", {}, SearchSummary())
    estimated = make_evaluated(0.5, estimate=0.25)
    store.prune(leases[3], asked[3].id, estimated, "chance 0.01", {}, SearchSummary())
    store.tell(leases[0], asked[0].id, make_evaluated(0.5), {}, SearchSummary())
    assert store.trials_of_recipe(digest, "nosuchid") == [store.trial(asked[1].id), store.trial(asked[0].id)]
    assert store.trials_of_recipe(digest, leases[1].campaign_id) == [store.trial(asked[0].id)]
    assert store.trials_of_recipe(make_candidate(0.25).recipe.digest, "nosuchid") == []
    assert store.trials_of_recipe("0" * 64, "nosuchid") == []


def test_a_trial_is_found_by_the_beginning_of_its_recipes_digest(
    store: Store, lease: Lease, make_candidate: Callable[[float], Candidate]
) -> None:
    first, second, again = store.add_trials(lease, [make_candidate(weight) for weight in (0.25, 0.5, 0.25)])
    assert first.candidate == again.candidate
    for trial, digits in ((first, 24), (second, 24), (second, 64)):
        prefix = trial.candidate.recipe.digest[:digits]
        assert store.trial_with_recipe(lease.campaign_id, prefix) == store.trial(trial.id)
        with pytest.raises(NotFound, match="no trial of recipe"):
            store.trial_with_recipe("nosuchid", prefix)
    for prefix in ("0" * 24, "_" * 24, "%"):
        with pytest.raises(NotFound, match="no trial of recipe"):
            store.trial_with_recipe(lease.campaign_id, prefix)


def test_of_many_trials_of_a_recipe_the_first_20_to_finish_are_read(
    store: Store, lease: Lease, make_candidate: Callable[[float], Candidate], make_evaluated: Callable[..., Evaluated]
) -> None:
    queued = store.add_trials(lease, [make_candidate(0.5) for _ in range(22)])
    for trial in reversed(queued):
        store.start(lease, trial.id, "actor-0")
        store.tell(lease, trial.id, make_evaluated(0.5), {}, SearchSummary())
    found = store.trials_of_recipe(make_candidate(0.5).recipe.digest, "nosuchid")
    assert [trial.id for trial in found] == [trial.id for trial in queued[:1:-1]]


def test_text_with_nul_is_stored_and_looked_up_without(store: Store, lease: Lease, trials: list[Trial]) -> None:
    store.start(lease, trials[4].id, "actor-0")
    assert store.retry(lease, trials[4].id, "a\0b").id == trials[4].id
    assert store.trial(trials[4].id).reason == "a\N{REPLACEMENT CHARACTER}b"
    with pytest.raises(NotFound):
        store.campaign("\0")
    with pytest.raises(NotFound):
        store.trial(f"{trials[0].id}\0")
