"""The store: everything that is remembered, one transaction per call."""

from collections.abc import Sequence
from typing import Any, Self

from campaigns.campaign import Campaign, Event, SearchSummary
from campaigns.inventory import Inventory, Worker
from campaigns.pools import Pool
from campaigns.spec import CampaignSpec
from campaigns.states import CampaignState, CampaignStep
from campaigns.trial import Candidate, Evaluated, Trial
from storage import schema
from storage.campaign_repository import CampaignRepository, refuse_if_final
from storage.columns import now
from storage.database import Database
from storage.event_repository import EventRepository
from storage.lease import Lease
from storage.lease_repository import LeaseRepository
from storage.trial_nouns import trial_noun
from storage.trial_repository import HypervolumePoint, ImportedResult, TrialRepository
from storage.worker_repository import LiveWorker, WorkerRepository


class Store:
    """The only door to the database; safe to share between threads, and the database between processes.

    Each change and its event are committed together or not at all. What a worker writes needs its lease: every such
    call raises `LeaseLost` once another worker has taken the campaign over, and `NotFound` for an unknown trial.
    Methods follow a campaign's life: it is created and stepped, leased, written to by the holder of the lease, read;
    workers come last.
    """

    def __init__(self, database: Database) -> None:
        self._database = database

    @classmethod
    def open(cls, url: str) -> Self:
        """Open `sqlite:///FILE` or `postgresql+psycopg://...`, making or upgrading its schema first."""
        database = Database(url)
        try:
            schema.upgrade(database)
        except BaseException:
            database.close()
            raise
        return cls(database)

    def close(self) -> None:
        """Close every connection."""
        self._database.close()

    def create_campaign(self, spec: CampaignSpec, pool: Pool, idempotency_key: str | None = None) -> Campaign:
        """Queue a campaign. The same key gives the first campaign again, or `Conflict` if the spec differs."""
        with self._database.write() as session:
            campaigns = CampaignRepository(session)
            return campaigns.noun(campaigns.add(spec, pool, idempotency_key))

    def campaign_with_key(self, idempotency_key: str) -> Campaign | None:
        """Return the campaign that was created with this key, None if there is none."""
        with self._database.read() as session:
            campaigns = CampaignRepository(session)
            row = campaigns.with_key(idempotency_key)
            return None if row is None else campaigns.noun(row)

    def campaign(self, campaign_id: str) -> Campaign:
        """Return the campaign. Raises `NotFound`."""
        with self._database.read() as session:
            campaigns = CampaignRepository(session)
            return campaigns.noun(campaigns.get(campaign_id))

    def campaigns(self, limit: int, before: str | None = None) -> list[Campaign]:
        """Return up to `limit` campaigns, the newest first, from the one made before campaign `before` on."""
        with self._database.read() as session:
            campaigns = CampaignRepository(session)
            return campaigns.nouns(campaigns.page(limit, before))

    def step(
        self, campaign_id: str, step: CampaignStep, reason: str | None = None, lease: Lease | None = None
    ) -> Campaign:
        """Move a campaign, and cancel its open trials when it ends. Raises `NotFound` or `IllegalTransition`.

        People pass no lease; a worker passes its own, so that a stale one cannot finish another's campaign.
        """
        with self._database.write() as session:
            campaigns = CampaignRepository(session)
            row = campaigns.lock(campaign_id) if lease is None else LeaseRepository(session).held(lease)
            campaigns.step(row, step, reason)
            if CampaignState(row.state).is_final:
                TrialRepository(session).cancel_open(row, reason or f"the campaign is {row.state}")
            return campaigns.noun(row)

    def lease_next(self, worker_id: str, seconds: float) -> Lease | None:
        """Take the oldest queued, running or stopping campaign whose lease is free or expired; None without one."""
        with self._database.write() as session:
            return LeaseRepository(session).take_next(worker_id, seconds)

    def renew(self, lease: Lease, seconds: float) -> None:
        """Let the lease end `seconds` from now. Raises `LeaseLost`."""
        with self._database.write() as session:
            LeaseRepository(session).renew(lease, seconds)

    def release(self, lease: Lease) -> None:
        """Give the campaign back for anybody to take. Raises `LeaseLost`."""
        with self._database.write() as session:
            LeaseRepository(session).release(lease)

    def add_trials(self, lease: Lease, candidates: Sequence[Candidate]) -> list[Trial]:
        """Queue trials that no strategy asked for: the baselines. Raises `IllegalTransition` in a final campaign."""
        with self._database.write() as session:
            row = LeaseRepository(session).held(lease)
            refuse_if_final(row)
            return [trial_noun(trial) for trial in TrialRepository(session).add(row, candidates)]

    def ask(self, lease: Lease, candidate: Candidate, strategy_state: dict[str, Any]) -> Trial:
        """Queue the trial that a strategy asked for, with its state after asking."""
        with self._database.write() as session:
            row = LeaseRepository(session).held(lease)
            refuse_if_final(row)
            row.strategy_state = strategy_state
            return trial_noun(TrialRepository(session).add(row, [candidate])[0])

    def start(self, lease: Lease, trial_id: str, actor: str) -> Trial:
        """Note that `actor` evaluates the trial. Raises `IllegalTransition` unless it is queued."""
        with self._database.write() as session:
            row = LeaseRepository(session).held(lease)
            return trial_noun(TrialRepository(session).start(row, trial_id, actor))

    def retry(self, lease: Lease, trial_id: str, reason: str) -> Trial:
        """Queue a running trial again, after a fault."""
        with self._database.write() as session:
            row = LeaseRepository(session).held(lease)
            return trial_noun(TrialRepository(session).retry(row, trial_id, reason))

    def fail(self, lease: Lease, trial_id: str, reason: str, summary: SearchSummary) -> Trial:
        """End a running trial by a fault that outlived its retries."""
        with self._database.write() as session:
            row = LeaseRepository(session).held(lease)
            row.summary = summary.model_dump(mode="json")
            return trial_noun(TrialRepository(session).fail(row, trial_id, reason))

    def tell(
        self,
        lease: Lease,
        trial_id: str,
        evaluated: Evaluated,
        strategy_state: dict[str, Any],
        summary: SearchSummary,
    ) -> Trial:
        """End a running trial with its measurements on the search items, all of the campaign's objectives.

        Raises `IllegalTransition` unless the trial is running, so that nothing is evaluated twice, and `Conflict` for
        measurements that the campaign did not ask for.
        """
        with self._database.write() as session:
            row = LeaseRepository(session).held(lease)
            trial = TrialRepository(session).complete(row, trial_id, evaluated, summary)
            row.strategy_state = strategy_state
            row.summary = summary.model_dump(mode="json")
            session.flush()
            return trial_noun(trial)

    def reject(
        self, lease: Lease, trial_id: str, reason: str, strategy_state: dict[str, Any], summary: SearchSummary
    ) -> Trial:
        """End a running trial as infeasible: its point cannot be scored."""
        with self._database.write() as session:
            row = LeaseRepository(session).held(lease)
            trial = TrialRepository(session).reject(row, trial_id, reason, summary)
            row.strategy_state = strategy_state
            row.summary = summary.model_dump(mode="json")
            return trial_noun(trial)

    def import_results(
        self,
        lease: Lease,
        imported: Sequence[ImportedResult],
        strategy_state: dict[str, Any],
        summary: SearchSummary,
    ) -> list[Trial]:
        """Take over results of other campaigns, all or none, told in this order; `summary` is that after the last.

        The time that it takes does not count against the lease, which nobody can renew meanwhile.
        Raises `Conflict` for a trial that is neither queued nor the next, or measurements that the campaign did not ask
        for.
        """
        with self._database.write() as session:
            leases = LeaseRepository(session)
            row, began = leases.held(lease), now()
            refuse_if_final(row)
            rows = TrialRepository(session).take_over(row, imported, summary)
            row.strategy_state = strategy_state
            row.summary = summary.model_dump(mode="json")
            CampaignRepository(session).note_import(row, summary.imports)
            trials = [trial_noun(trial) for trial in rows]
            leases.prolong(row, now() - began)
            return trials

    def add_holdout(
        self, lease: Lease, trial_id: str, evaluated: Evaluated, summary: SearchSummary | None = None
    ) -> Trial:
        """Add measurements on the holdout items to a complete trial. `Conflict` the second time."""
        with self._database.write() as session:
            row = LeaseRepository(session).held(lease)
            if summary is not None:
                row.summary = summary.model_dump(mode="json")
            return trial_noun(TrialRepository(session).add_holdout(row, trial_id, evaluated))

    def finish_search(self, lease: Lease) -> None:
        """Note that the search is over and holdout scoring begins; a second call changes nothing."""
        with self._database.write() as session:
            CampaignRepository(session).finish_search(LeaseRepository(session).held(lease))

    def strategy_state(self, campaign_id: str) -> dict[str, Any] | None:
        """Return the strategy's state as last saved, None before the first ask. Raises `NotFound`."""
        with self._database.read() as session:
            return CampaignRepository(session).get(campaign_id).strategy_state

    def trial(self, trial_id: str) -> Trial:
        """Return the trial, outcomes included. Raises `NotFound`."""
        with self._database.read() as session:
            return TrialRepository(session).get(trial_id)

    def trials(
        self, campaign_id: str, after: int = -1, limit: int | None = None, with_outcomes: bool = False
    ) -> list[Trial]:
        """Return up to `limit` trials with a number above `after`, by number. Raises `NotFound`."""
        with self._database.read() as session:
            CampaignRepository(session).get(campaign_id)
            return TrialRepository(session).page(campaign_id, after, limit, with_outcomes)

    def trials_with_ids(self, trial_ids: Sequence[str], with_outcomes: bool = False) -> list[Trial]:
        """Return those of `trial_ids` that exist, by number."""
        with self._database.read() as session:
            return TrialRepository(session).with_ids(trial_ids, with_outcomes)

    def baselines(self, campaign_id: str) -> list[Trial]:
        """Return the known merges that were scored first, by number: no candidates, and nothing that was imported."""
        with self._database.read() as session:
            return TrialRepository(session).baselines(campaign_id)

    def hypervolumes(self, campaign_id: str) -> list[HypervolumePoint]:
        """Return the hypervolume after each tell, in the order of telling. Raises `NotFound`."""
        with self._database.read() as session:
            CampaignRepository(session).get(campaign_id)
            return TrialRepository(session).hypervolumes(campaign_id)

    def search_seconds(self, campaign_ids: Sequence[str]) -> dict[str, float]:
        """Return how many seconds actors spent on the search items, summed over actors, by campaign."""
        with self._database.read() as session:
            return TrialRepository(session).search_seconds(campaign_ids)

    def events(self, campaign_id: str | None, after: int = 0, limit: int = 1000) -> list[Event]:
        """Return up to `limit` events with an id above `after`, by id; of every campaign when `campaign_id` is None."""
        with self._database.read() as session:
            return EventRepository(session).page(campaign_id, after, limit)

    def publish_worker(self, worker: Worker) -> None:
        """Write what a worker can do, and forget the workers that have not been heard of for an hour."""
        with self._database.write() as session:
            WorkerRepository(session).publish(worker)

    def heartbeat(self, worker_id: str) -> None:
        """Note that the worker lives. Raises `NotFound` for one that never published."""
        with self._database.write() as session:
            WorkerRepository(session).heartbeat(worker_id)

    def worker_ids(self, seen_within_seconds: float) -> list[str]:
        """Return the ids of the workers heard of within `seen_within_seconds`, the longest-running first."""
        with self._database.read() as session:
            return WorkerRepository(session).ids(seen_within_seconds)

    def workers(self, seen_within_seconds: float) -> list[LiveWorker]:
        """Return those workers with what they run on. What tasks they offer takes megabytes: see `inventory`."""
        with self._database.read() as session:
            return WorkerRepository(session).seen(seen_within_seconds)

    def inventory(self, seen_within_seconds: float) -> Inventory:
        """Return what those workers can do between them. Raises `NotReady` when there is none."""
        with self._database.read() as session:
            return WorkerRepository(session).inventory(seen_within_seconds)
