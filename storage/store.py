"""The store: everything that is remembered, one transaction per call."""

from collections.abc import Collection, Sequence
from typing import Any, Self

from campaigns.budgets import SpentBudget
from campaigns.campaign import Campaign, Event, SearchSummary
from campaigns.campaign_edit import CampaignEdit
from campaigns.errors import IllegalTransition
from campaigns.inventory import Inventory, Worker
from campaigns.pools import Pool
from campaigns.spec import CampaignSpec
from campaigns.states import CampaignState, CampaignStep
from campaigns.tokens import Token
from campaigns.trial import Candidate, Evaluated, Trial
from storage import schema
from storage.campaign_repository import (
    ALL_CAMPAIGNS,
    CampaignFilter,
    CampaignRepository,
    Patch,
    refuse_if_final,
    refuse_points,
)
from storage.columns import now
from storage.database import Database
from storage.event_repository import EventRepository
from storage.lease import Claim, Lease
from storage.lease_repository import Fits, LeaseRepository, anything_fits
from storage.statistics import StoreStatistics, count_all
from storage.token_repository import USED_EVERY, TokenRepository
from storage.trial_listing import ListedTrial, TrialListing
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

    def fork_campaign(
        self, forked_id: str, spec: CampaignSpec, pool: Pool, patch: Patch, idempotency_key: str | None = None
    ) -> Campaign:
        """Queue a campaign whose spec is that of another one, patched. The same key and patch give the first one again.

        Raises `NotFound`, and `Conflict` when the key was used for anything else.
        """
        with self._database.write() as session:
            campaigns = CampaignRepository(session)
            forked = campaigns.lock(forked_id)
            return campaigns.noun(campaigns.fork(forked, spec, pool, idempotency_key, patch))

    def fork_with_key(self, forked_id: str, idempotency_key: str, patch: Patch) -> Campaign | None:
        """Return the fork that was made with this key, None if there is none; `Conflict` as `fork_campaign` does."""
        with self._database.read() as session:
            campaigns = CampaignRepository(session)
            row = campaigns.fork_with_key(forked_id, idempotency_key, patch)
            return None if row is None else campaigns.noun(row)

    def campaign_with_key(self, idempotency_key: str) -> Campaign | None:
        """Return the campaign that was created with this key, None if there is none."""
        with self._database.read() as session:
            campaigns = CampaignRepository(session)
            row = campaigns.with_key(idempotency_key)
            return None if row is None else campaigns.noun(row)

    def launched_spec(self, campaign_id: str) -> CampaignSpec:
        """Return the spec as it was launched, name and notes included. Raises `NotFound`."""
        with self._database.read() as session:
            return CampaignSpec.model_validate(CampaignRepository(session).get(campaign_id).spec)

    def campaign(self, campaign_id: str) -> Campaign:
        """Return the campaign. Raises `NotFound`."""
        with self._database.read() as session:
            campaigns = CampaignRepository(session)
            return campaigns.noun(campaigns.get(campaign_id))

    def campaigns(
        self, limit: int, before: str | None = None, wanted: CampaignFilter = ALL_CAMPAIGNS
    ) -> list[Campaign]:
        """Return up to `limit` of the campaigns `wanted`, the newest first, from the one made before `before` on.

        Raises `NotFound` for a `before` that is no campaign.
        """
        with self._database.read() as session:
            campaigns = CampaignRepository(session)
            return campaigns.nouns(campaigns.page(limit, before, wanted))

    def edit_campaign(self, campaign_id: str, edit: CampaignEdit, expected: Collection[str] | None = None) -> Campaign:
        """Change name or notes, in any state. Raises `NotFound`, and `ChangedMeanwhile` as `step` does."""
        with self._database.write() as session:
            campaigns = CampaignRepository(session)
            row = campaigns.lock(campaign_id)
            campaigns.check_unchanged(row, expected)
            campaigns.edit(row, edit.changes)
            return campaigns.noun(row)

    def step(
        self,
        campaign_id: str,
        step: CampaignStep,
        reason: str | None = None,
        lease: Lease | None = None,
        expected: Collection[str] | None = None,
    ) -> Campaign:
        """Move a campaign, and cancel its open trials when it ends. Raises `NotFound` or `IllegalTransition`.

        People pass no lease; a worker passes its own, so that a stale one cannot finish another's campaign. Where
        versions are `expected`, a campaign that is at none of them is left alone, and `ChangedMeanwhile` raised.
        """
        with self._database.write() as session:
            campaigns = CampaignRepository(session)
            row = campaigns.lock(campaign_id) if lease is None else LeaseRepository(session).held(lease)
            campaigns.check_unchanged(row, expected)
            campaigns.step(row, step, reason)
            if CampaignState(row.state).is_final:
                TrialRepository(session).cancel_open(row, reason or f"the campaign is {row.state}")
            return campaigns.noun(row)

    def delete_campaign(self, campaign_id: str, expected: Collection[str] | None = None) -> None:
        """Delete a campaign that is over, its trials, measurements and events included, for good.

        What other campaigns took over from it stays theirs. Its id is never given again: whatever asks for it gets
        `Gone`. Raises `NotFound`, `IllegalTransition` before the campaign is over, `ChangedMeanwhile` as `step` does.
        """
        with self._database.write() as session:
            campaigns = CampaignRepository(session)
            row = campaigns.lock(campaign_id)
            campaigns.check_unchanged(row, expected)
            if not CampaignState(row.state).is_final:
                raise IllegalTransition(f"a {row.state} campaign cannot be deleted; cancel it first")
            TrialRepository(session).delete_all(row)
            campaigns.delete(row)

    def queue_points(
        self, campaign_id: str, baselines: Sequence[Candidate], points: Sequence[Candidate]
    ) -> tuple[list[Trial], int]:
        """Queue points of the user's; return the trial of each, and how many of them are new.

        A point whose recipe the campaign has already is answered with the trial that there is. In a campaign that no
        worker has begun, the `baselines` are queued first. Raises `NotFound`, and `Conflict` unless the campaign is
        queued, running or paused.
        """
        with self._database.write() as session:
            campaigns, trials = CampaignRepository(session), TrialRepository(session)
            row = campaigns.lock(campaign_id)
            refuse_points(row, len(points))
            if not row.trials_asked:
                trials.add(row, baselines)
            found, created = trials.add_points(row, points)
            if created:
                campaigns.note_points(row, created)
            return [trial_noun(trial) for trial in found], len(created)

    def queued_trials(self, campaign_id: str) -> list[Trial]:
        """Return the trials that wait to be run, by number."""
        with self._database.read() as session:
            return TrialRepository(session).queued(campaign_id)

    def lease_next(self, worker_id: str, seconds: float, fits: Fits = anything_fits) -> Lease | None:
        """Take the first queued, running or stopping campaign whose lease is free or expired; None without one.

        The highest priority goes first, then the oldest, of those that `fits` says yes to. It is called within the
        transaction, with the campaign's claim and `claims(worker_id)`, so that two workers never fill the same room.
        """
        with self._database.write() as session:
            return LeaseRepository(session).take_next(worker_id, seconds, fits)

    def claims(self, worker_id: str) -> list[Claim]:
        """Return the claims of the campaigns held by this worker, and by others on its cluster, the oldest first."""
        with self._database.read() as session:
            return LeaseRepository(session).claims(worker_id)

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

    def add_baselines(self, lease: Lease, candidates: Sequence[Candidate]) -> list[Trial]:
        """Queue what the search begins with, unless there are trials already; return all trials, by number.

        Raises `IllegalTransition` in a final campaign.
        """
        with self._database.write() as session:
            row, trials = LeaseRepository(session).held(lease), TrialRepository(session)
            refuse_if_final(row)
            if not row.trials_asked:
                trials.add(row, candidates)
            return trials.page(row.id, after=-1, limit=None, with_outcomes=False)

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
        measurements that the campaign did not ask for, and for estimates.
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

    def prune(  # noqa: PLR0913  as `tell`, with the reason of `reject`
        self,
        lease: Lease,
        trial_id: str,
        evaluated: Evaluated,
        reason: str,
        strategy_state: dict[str, Any],
        summary: SearchSummary,
    ) -> Trial:
        """End a running trial that a race stopped, with its measurements on a part of the search items.

        Raises `IllegalTransition` unless the trial is running, and `Conflict` for a baseline, and for measurements that
        the campaign did not ask for or without any estimate.
        """
        with self._database.write() as session:
            row = LeaseRepository(session).held(lease)
            trial = TrialRepository(session).prune(row, trial_id, evaluated, reason, summary)
            row.strategy_state = strategy_state
            row.summary = summary.model_dump(mode="json")
            session.flush()
            return trial_noun(trial)

    def reuse(
        self, lease: Lease, result: ImportedResult, strategy_state: dict[str, Any], summary: SearchSummary
    ) -> Trial:
        """End a queued trial with what another campaign measured of its recipe.

        Raises `Conflict` for a trial that is not queued, or measurements that the campaign did not ask for.
        """
        with self._database.write() as session:
            row = LeaseRepository(session).held(lease)
            refuse_if_final(row)
            [trial] = TrialRepository(session).take_over(row, [result], summary)
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

    def note_budget_spent(self, lease: Lease, spent: SpentBudget) -> None:
        """Note which budget ended the search; a second call changes nothing."""
        with self._database.write() as session:
            CampaignRepository(session).note_budget_spent(LeaseRepository(session).held(lease), spent)

    def finish(self, lease: Lease, points_known: int) -> Campaign:
        """Complete a campaign of whose queued points the worker knows so many; with more of them, change nothing."""
        with self._database.write() as session:
            campaigns = CampaignRepository(session)
            row = LeaseRepository(session).held(lease)
            if row.points_queued == points_known:
                campaigns.step(row, CampaignStep.FINISH, None)
                TrialRepository(session).cancel_open(row, f"the campaign is {row.state}")
            return campaigns.noun(row)

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

    def trial_page(self, campaign_id: str, listing: TrialListing, limit: int) -> list[ListedTrial]:
        """Return up to `limit` trials as `listing` says, without outcomes. Raises `NotFound` for the campaign."""
        with self._database.read() as session:
            CampaignRepository(session).get(campaign_id)
            objectives = CampaignRepository(session).objectives([campaign_id])[campaign_id]
            return TrialRepository(session).listed(campaign_id, objectives, listing, limit)

    def trials_with_ids(self, trial_ids: Sequence[str], with_outcomes: bool = False) -> list[Trial]:
        """Return those of `trial_ids` that exist, by number."""
        with self._database.read() as session:
            return TrialRepository(session).with_ids(trial_ids, with_outcomes)

    def trials_of_recipe(self, recipe_digest: str, but_not_campaign: str) -> list[Trial]:
        """Return complete trials of other campaigns with this recipe, outcomes included: the first 20 to finish."""
        with self._database.read() as session:
            return TrialRepository(session).of_recipe(recipe_digest, but_not_campaign)

    def trial_with_recipe(self, campaign_id: str, digest_prefix: str) -> Trial:
        """Return the campaign's first trial whose recipe's digest begins like this, outcomes included.

        Raises `NotFound`.
        """
        with self._database.read() as session:
            return TrialRepository(session).with_recipe(campaign_id, digest_prefix)

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

    def item_evaluations(self, campaign_ids: Sequence[str]) -> dict[str, int]:
        """Return how many items of tasks were scored for the search, by campaign; imported results took none here.

        Each trial counts every task's items once, as many as it was scored on, whichever metrics were taken of them.
        """
        with self._database.read() as session:
            objectives = CampaignRepository(session).objectives(campaign_ids)
            found = TrialRepository(session).item_evaluations(objectives)
            return {campaign_id: found.get(campaign_id, 0) for campaign_id in campaign_ids}

    def events(self, campaign_id: str | None, after: int = 0, limit: int = 1000) -> list[Event]:
        """Return up to `limit` events with an id above `after`, by id; of every campaign when `campaign_id` is None."""
        with self._database.read() as session:
            return EventRepository(session).page(campaign_id, after, limit)

    def last_event_id(self) -> int:
        """Return the id of the last event of any campaign, 0 before the first."""
        with self._database.read() as session:
            return EventRepository(session).last_id()

    def statistics(self, worker_seen_seconds: float) -> StoreStatistics:
        """Return how many campaigns, trials, events and live workers there are."""
        with self._database.read() as session:
            return count_all(session, worker_seen_seconds)

    def schema_revisions(self) -> tuple[str | None, str | None]:
        """Return the revision that the database's schema is at, and the one that this Mergefront works with."""
        return schema.revisions(self._database)

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

    def add_token(self, token: Token, digest: str) -> None:
        """Remember a new token by the digest of its secret. Raises `Conflict` for a name that was ever given before."""
        with self._database.write() as session:
            TokenRepository(session).add(token, digest)

    def tokens(self) -> list[Token]:
        """Return every token by creation, revoked and expired ones included."""
        with self._database.read() as session:
            return TokenRepository(session).all()

    def has_tokens(self) -> bool:
        """Return whether a token was ever created, be it valid still or not."""
        with self._database.read() as session:
            return TokenRepository(session).has_any()

    def has_valid_token(self) -> bool:
        """Return whether there is a token that opens anything."""
        with self._database.read() as session:
            return TokenRepository(session).has_valid(now())

    def valid_token(self, digest: str) -> Token | None:
        """Return the token whose secret has this digest; None without one, or when it was revoked or has expired."""
        with self._database.read() as session:
            token = TokenRepository(session).with_digest(digest)
        return token if token is not None and token.is_valid(now()) else None

    def note_use(self, token: Token) -> None:
        """Note that a token was used just now, unless its last use was written within the last minute."""
        if token.last_used_at is None or token.last_used_at <= now() - USED_EVERY:
            with self._database.write() as session:
                TokenRepository(session).note_use(token.name)

    def revoke_token(self, name: str) -> Token:
        """End a token at once; one that was revoked before stays as it is. Raises `NotFound`."""
        with self._database.write() as session:
            return TokenRepository(session).revoke(name)
