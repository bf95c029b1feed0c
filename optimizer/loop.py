"""The loop: ask, merge, score, tell, remember; from wherever the database says that the campaign stands.

It imports no Ray and holds no truth: every step is one transaction of the store, and a loop that starts again after a
crash finds what was queued, running and told. Work is handed out in this order: queued trials (baselines first, then
what must be run again), the next step of the greedy soup, new candidates, holdout scoring. Results of other campaigns
are taken over once the first own one says what this campaign's protocols are; new candidates wait for that.
"""

import contextlib
import logging
from collections import Counter
from collections.abc import Callable

from campaigns.campaign import Campaign
from campaigns.errors import Fault, IllegalTransition
from campaigns.objectives import Split
from campaigns.states import CampaignState, CampaignStep, TrialState
from campaigns.trial import Candidate, Evaluated, Trial
from optimizer import imports
from optimizer.executors.executor import Executor
from optimizer.greedy_soup import label_of
from optimizer.jobs import Faulted, Infeasible, Job, JobResult
from optimizer.strategies import Strategy
from optimizer.trial_book import TrialBook
from search_spaces import SearchSpace, user_points
from storage import Lease, Store

WAIT_SECONDS = 0.5
MAX_DUPLICATE_ASKS = 100
MIN_FAULTS_IN_A_ROW = 12
FAULTS_IN_A_ROW_PER_ACTOR = 3  # a node that is lost takes a job of each of its actors with it

logger = logging.getLogger(__name__)


class SearchLoop:
    """Runs one leased campaign on one executor until there is nothing more to do for now."""

    def __init__(  # noqa: PLR0913  one argument per part of the loop
        self,
        store: Store,
        lease: Lease,
        executor: Executor,
        strategy: Strategy,
        space: SearchSpace,
        should_stop: Callable[[], bool] = lambda: False,
    ) -> None:
        self._store = store
        self._lease = lease
        self._executor = executor
        self._strategy = strategy
        self._space = space
        self._should_stop = should_stop
        self._campaign = store.campaign(lease.campaign_id)
        self._book = TrialBook(self._campaign.spec)
        self._in_flight: dict[str, Job] = {}
        self._faults: Counter[tuple[str, Split]] = Counter()
        self._faults_in_a_row = 0
        self._exhausted = False

    def run(self) -> Campaign:
        """Go on with the campaign; return it once it is final, paused with nothing running, or told to stop.

        Raises `LeaseLost` when another worker took over and `Fault` when nothing but faults comes back.
        """
        try:
            self._recover()
        except IllegalTransition:
            if not self._refresh().is_final:
                raise  # else somebody cancelled the campaign in the meantime
        while True:
            state = self._refresh()
            if self._should_stop() or state.is_final or (state is CampaignState.PAUSED and not self._in_flight):
                return self._campaign
            try:
                self._turn()
            except IllegalTransition:
                if self._refresh() is state:
                    raise  # else somebody moved the campaign in mid-turn: look again

    def _refresh(self) -> CampaignState:
        self._campaign = self._store.campaign(self._campaign.id)
        return self._campaign.state

    def _recover(self) -> None:
        if self._campaign.state is CampaignState.QUEUED:
            with contextlib.suppress(IllegalTransition):  # paused or cancelled in this moment: `run` will see
                self._store.step(self._campaign.id, CampaignStep.START, lease=self._lease)
        if self._refresh().is_final:
            return
        self._book.write(self._store.trials(self._campaign.id))
        self._book.imports = self._campaign.summary.imports
        for trial in self._book.in_state(TrialState.RUNNING):
            self._book.write([self._store.retry(self._lease, trial.id, "the worker that ran it is gone")])
        if len(self._book) == 0:
            self._book.write(self._store.add_trials(self._lease, self._baselines()))
        state = self._store.strategy_state(self._campaign.id)
        if state is not None:
            self._strategy.restore(state, self._book.observations())
        self._import_results()

    def _baselines(self) -> list[Candidate]:
        """Return what is scored first, each recipe once: parents, soup, task arithmetic, the user's points."""
        wanted = self._campaign.spec.baselines
        parents = range(len(self._campaign.pool.checkpoints)) if wanted.parents else range(0)
        candidates = [self._space.parent(index) for index in parents]
        candidates += [self._space.uniform_soup()] if wanted.uniform_soup else []
        candidates += [self._space.task_arithmetic()] if wanted.task_arithmetic else []
        candidates += user_points(self._campaign.spec, self._space)
        by_recipe: dict[str, Candidate] = {}
        for candidate in candidates:
            by_recipe.setdefault(candidate.recipe.digest, candidate)
        return list(by_recipe.values())

    @property
    def _awaits_import(self) -> bool:
        return bool(self._campaign.spec.warm_start.import_from) and self._book.imports is None

    def _import_results(self) -> None:
        """Take over results of other campaigns, once: as soon as a trial that was evaluated here is complete."""
        first = self._book.first_complete
        if not self._awaits_import or first is None:
            return
        results, report = imports.results(self._store, self._campaign, self._space, self._book, first)
        for result in results:
            trial = imports.trial_of(result, self._campaign.id, self._book)
            self._strategy.tell(self._book.observation(trial))
            self._book.write([trial])
        self._book.imports = report
        summary, state = self._book.summary(), self._strategy.state()
        self._book.write(self._store.import_results(self._lease, results, state, summary))

    def _turn(self) -> None:
        while self._executor.free_slots > 0 and (job := self._next_job()) is not None:
            self._submit(job)
        if not self._in_flight and self._executor.free_slots > 0 and self._campaign.state is not CampaignState.PAUSED:
            self._store.step(self._campaign.id, CampaignStep.FINISH, lease=self._lease)
            return
        for result in self._executor.wait(WAIT_SECONDS):
            self._receive(result)

    def _submit(self, job: Job) -> None:
        self._in_flight[job.trial_id] = job
        actor = self._executor.submit(job)
        if job.split == "search":
            self._book.write([self._store.start(self._lease, job.trial_id, actor)])

    def _next_job(self) -> Job | None:
        if self._campaign.state is CampaignState.PAUSED:
            return None
        queued = next(iter(self._book.in_state(TrialState.QUEUED)), None)
        trial = queued or self._next_soup() or self._next_candidate()
        if trial is not None:
            return Job(trial_id=trial.id, recipe=trial.candidate.recipe, split="search")
        if self._book.is_drained and self._campaign.search_finished_at is None:
            self._store.finish_search(self._lease)
            self._refresh()
        return self._next_holdout()

    def _next_soup(self) -> Trial | None:
        """Queue what the greedy soup tries next; its steps wait for each other, and nothing else waits for them."""
        if not self._campaign.spec.baselines.greedy_soup or self._campaign.state is not CampaignState.RUNNING:
            return None
        soup = self._book.greedy_soup()
        if soup is None or soup.next_members is None:
            return None
        label = label_of(soup.next_members, self._campaign.pool.names)
        candidate = self._space.soup(sorted(soup.next_members), label)
        [trial] = self._store.add_trials(self._lease, [candidate])
        self._book.write([trial])
        return trial

    def _next_candidate(self) -> Trial | None:
        spent = self._book.candidate_count >= self._campaign.spec.budget.evaluations
        waits = self._awaits_import and not self._book.is_drained
        if self._campaign.state is not CampaignState.RUNNING or spent or waits or self._exhausted:
            return None
        candidate = self._ask()
        if candidate is None:
            self._exhausted = True
            logger.warning("campaign %s: the strategy proposes no new recipe any more", self._campaign.id)
            return None
        trial = self._store.ask(self._lease, candidate, self._strategy.state())
        self._book.write([trial])
        return trial

    def _ask(self) -> Candidate | None:
        """Return a candidate whose recipe is new to this campaign, or None when the strategy has no more."""
        for _ in range(MAX_DUPLICATE_ASKS):
            candidate = self._space.candidate(self._strategy.ask(self._book.pending_points()))
            if self._book.of_recipe(candidate.recipe.digest) is None:
                return candidate
        return None

    def _next_holdout(self) -> Job | None:
        """Baselines may be scored on the holdout items while the search drains; the front only after it."""
        if not self._campaign.spec.has_holdout:
            return None
        front = self._campaign.summary.front if self._campaign.search_finished_at is not None else ()
        for trial in self._book.awaiting_holdout(front):
            given_up = self._faults[trial.id, "holdout"] > self._campaign.spec.resources.retries
            if trial.id not in self._in_flight and not given_up:
                return Job(trial_id=trial.id, recipe=trial.candidate.recipe, split="holdout")
        return None

    def _receive(self, result: JobResult) -> None:
        job, outcome = result.job, result.outcome
        del self._in_flight[job.trial_id]
        self._watch_for_faults(outcome)
        if job.split == "holdout":
            self._receive_holdout(result)
        elif isinstance(outcome, Infeasible):
            self._reject(job.trial_id, outcome.reason)
        elif isinstance(outcome, Faulted):
            self._retry_or_fail(job.trial_id, outcome.reason)
        else:
            self._tell(job.trial_id, outcome.evaluated)

    def _tell(self, trial_id: str, evaluated: Evaluated) -> None:
        told = self._book[trial_id].replace(state=TrialState.COMPLETE, measurements=evaluated.measurements)
        self._strategy.tell(self._book.observation(told))
        self._book.write([told])  # the summary is of what will be; where the store refuses it, the run is over
        summary, state = self._book.summary(), self._strategy.state()
        self._book.write([self._store.tell(self._lease, trial_id, evaluated, state, summary)])
        self._import_results()

    def _reject(self, trial_id: str, reason: str) -> None:
        trial = self._book[trial_id].replace(state=TrialState.INFEASIBLE)
        self._strategy.tell(self._book.observation(trial))
        self._book.write([trial])
        summary, state = self._book.summary(), self._strategy.state()
        self._book.write([self._store.reject(self._lease, trial_id, reason, state, summary)])

    def _retry_or_fail(self, trial_id: str, reason: str) -> None:
        """A fault says nothing of the point: the strategy is never told of it. Restarts do not count as faults."""
        self._faults[trial_id, "search"] += 1
        if self._faults[trial_id, "search"] <= self._campaign.spec.resources.retries:
            self._book.write([self._store.retry(self._lease, trial_id, reason)])
            return
        self._book.write([self._book[trial_id].replace(state=TrialState.FAILED)])
        self._book.write([self._store.fail(self._lease, trial_id, reason, self._book.summary())])

    def _receive_holdout(self, result: JobResult) -> None:
        trial_id, outcome = result.job.trial_id, result.outcome
        if isinstance(outcome, Infeasible | Faulted):
            self._faults[trial_id, "holdout"] += 1
            logger.warning("trial %s could not be scored on the holdout items: %s", trial_id, outcome.reason)
            return
        evaluated, trial = outcome.evaluated, self._book[trial_id]
        measurements = (*trial.measurements, *evaluated.measurements)
        timings = {**trial.timings, "holdout": evaluated.timing}
        self._book.write([trial.replace(measurements=measurements, timings=timings)])
        self._book.write([self._store.add_holdout(self._lease, trial_id, evaluated, self._book.summary())])

    def _watch_for_faults(self, outcome: object) -> None:
        self._faults_in_a_row = self._faults_in_a_row + 1 if isinstance(outcome, Faulted) else 0
        most = max(MIN_FAULTS_IN_A_ROW, FAULTS_IN_A_ROW_PER_ACTOR * self._campaign.spec.resources.actors)
        if isinstance(outcome, Faulted) and self._faults_in_a_row >= most:
            raise Fault(f"{self._faults_in_a_row} faults in a row; the last one: {outcome.reason}")
