"""The store's contract: events are complete, in order, and written with the change or not at all."""

from collections.abc import Callable

from campaigns.campaign import Campaign, SearchSummary
from campaigns.pools import Pool
from campaigns.spec import CampaignSpec
from campaigns.states import CampaignStep
from campaigns.trial import Candidate, Evaluated
from storage import Store


def test_every_change_is_an_event_in_order(
    store: Store,
    campaign: Campaign,
    make_candidate: Callable[[float], Candidate],
    make_evaluated: Callable[..., Evaluated],
    summary: SearchSummary,
) -> None:
    lease = store.lease_next("worker-1", 60)
    assert lease is not None
    store.step(campaign.id, CampaignStep.START, lease=lease)
    first = store.add_trials(lease, [make_candidate(0.0)])[0].id
    second = store.ask(lease, make_candidate(0.5), {}).id
    third = store.ask(lease, make_candidate(1.0), {}).id
    store.start(lease, first, "actor-0")
    store.retry(lease, first, "died")
    fourth = store.ask(lease, make_candidate(0.75), {}).id
    for trial_id in (first, second, third, fourth):
        store.start(lease, trial_id, "actor-0")
    store.tell(lease, first, make_evaluated(0.5), {}, summary)
    store.reject(lease, second, "NaN", {}, summary)
    store.fail(lease, third, "broken", summary)
    store.prune(lease, fourth, make_evaluated(0.5, estimate=0.25), "chance 0.01", {}, summary)
    store.finish_search(lease)
    store.add_holdout(lease, first, make_evaluated(0.5, split="holdout"))
    store.step(campaign.id, CampaignStep.FINISH, lease=lease)
    store.release(lease)

    events = store.events(campaign.id)
    assert [(event.kind, event.trial_id) for event in events] == [
        ("campaign.created", None),
        ("campaign.leased", None),
        ("campaign.running", None),
        ("trial.queued", first),
        ("trial.queued", second),
        ("trial.queued", third),
        ("trial.running", first),
        ("trial.queued", first),
        ("trial.queued", fourth),
        ("trial.running", first),
        ("trial.running", second),
        ("trial.running", third),
        ("trial.running", fourth),
        ("trial.complete", first),
        ("trial.infeasible", second),
        ("trial.failed", third),
        ("trial.pruned", fourth),
        ("campaign.search_finished", None),
        ("trial.holdout", first),
        ("campaign.complete", None),
        ("campaign.released", None),
    ]
    assert [event.id for event in events] == sorted({event.id for event in events})
    assert [event.at for event in events] == sorted(event.at for event in events)
    assert all(event.campaign_id == campaign.id for event in events)
    complete = events[13].data
    assert complete["values"] == {"sums/acc": 0.5, "text/word_perplexity": 1 / 3}
    assert (complete["number"], complete["told"], complete["hypervolume"]) == (0, 0, summary.hypervolume)
    assert events[14].data == {"number": 1, "reason": "NaN", "told": 1}


def test_events_are_read_on_from_an_id(store: Store, spec: CampaignSpec, pool: Pool) -> None:
    one, two = store.create_campaign(spec, pool), store.create_campaign(spec, pool)
    store.step(one.id, CampaignStep.PAUSE)
    store.step(two.id, CampaignStep.CANCEL, reason="no")
    every = store.events(None)
    assert [(event.campaign_id, event.kind) for event in every] == [
        (one.id, "campaign.created"),
        (two.id, "campaign.created"),
        (one.id, "campaign.paused"),
        (two.id, "campaign.cancelled"),
    ]
    assert store.events(None, after=every[1].id, limit=1) == every[2:3]
    assert store.events(two.id, after=every[1].id) == every[3:]
    assert store.events(two.id, after=every[3].id) == []
    assert every[3].data == {"step": "cancel", "reason": "no"}
