"""The loop: ask, merge, score, tell, remember; from wherever the database says that the campaign stands.

It imports no Ray and holds no truth: every step is one transaction of the store, and a loop that starts again after a
crash finds what was queued, running and told. Work is handed out in this order: candidates that go on in a race, queued
trials (baselines first, then what must be run again and what the user queued meanwhile), the next step of the greedy
soup, new candidates until a budget is spent, holdout scoring. Results of other campaigns are taken over once the first
own one says what this campaign's protocols are; new candidates wait for an import, and what has been measured before
under these protocols is not measured again.
"""

import contextlib
import logging
from collections import Counter, deque
from collections.abc import Callable
from datetime import UTC, datetime

from campaigns.budgets import Spending, seconds_running, spent_budget
from campaigns.campaign import Campaign
from campaigns.errors import Fault, Gone, IllegalTransition, LeaseLost
from campaigns.log_context import log_fields
from campaigns.objectives import Items, Split
from campaigns.states import CampaignState, CampaignStep, TrialState
from campaigns.trial import Candidate, Evaluated, Timing, Trial
from optimizer import imports
from optimizer.executors.executor import Executor
from optimizer.greedy_soup import label_of
from optimizer.jobs import Faulted, Infeasible, Job, JobResult
from optimizer.race import Race
from optimizer.race_report import RaceReport
from optimizer.reuse import Reuse
from optimizer.strategies import Strategy
from optimizer.trial_book import TrialBook
from search_spaces import SearchSpace, first_candidates
from storage import ImportedResult, Lease, Store

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
        self._first = first_candidates(self._campaign.spec, self._campaign.pool, space)
        self._book = TrialBook(self._campaign.spec, {candidate.recipe.digest for candidate in self._first})
        self._points_known = 0
        self._reuse = Reuse(store, self._campaign)
        self._race = None if self._campaign.spec.evaluation.racing is None else Race(self._campaign.spec)
        self._race_report = RaceReport(self._campaign.summary.racing)
        self._going_on: deque[Job] = deque()
        self._spent: dict[str, Timing] = {}
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
            self._find_points()
            idle = not self._in_flight and not self._going_on
            if self._should_stop() or state.is_final or (state is CampaignState.PAUSED and idle):
                return self._campaign
            try:
                self._turn()
            except IllegalTransition:
                if self._refresh() is state:
                    raise  # else somebody moved the campaign in mid-turn: look again

    def _refresh(self) -> CampaignState:
        try:
            self._campaign = self._store.campaign(self._campaign.id)
        except Gone as error:  # with its lease: there is nothing left to write to
            raise LeaseLost(str(error)) from None
        return self._campaign.state

    def _find_points(self) -> None:
        """Take in the points that the user queued since the last look."""
        if self._campaign.points_queued != self._points_known:
            self._points_known = self._campaign.points_queued
            self._book.write(self._store.queued_trials(self._campaign.id))

    def _recover(self) -> None:
        if self._campaign.state is CampaignState.QUEUED:
            with contextlib.suppress(IllegalTransition):  # paused or cancelled in this moment: `run` will see
                self._store.step(self._campaign.id, CampaignStep.START, lease=self._lease)
        if self._refresh().is_final:
            return
        self._points_known = self._campaign.points_queued
        self._book.write(self._store.trials(self._campaign.id))
        self._book.imports = self._campaign.summary.imports
        self._book.racing = self._campaign.summary.racing
        for trial in self._book.in_state(TrialState.RUNNING):
            self._book.write([self._store.retry(self._lease, trial.id, "the worker that ran it is gone")])
        if len(self._book) == 0:
            self._book.write(self._store.add_baselines(self._lease, self._first))
        state = self._store.strategy_state(self._campaign.id)
        if state is not None:
            self._strategy.restore(state, self._book.observations())
        self._reuse.note(self._book.in_state(TrialState.COMPLETE))
        if self._race is not None:
            self._race = Race(self._campaign.spec)
            trials = self._store.trials(self._campaign.id, with_outcomes=True)
            complete = (trial for trial in trials if trial.state is TrialState.COMPLETE)
            for trial in sorted(complete, key=lambda trial: trial.told or 0):
                self._race.learn(trial)
        self._import_results()

    @property
    def _awaits_import(self) -> bool:
        return bool(self._campaign.spec.warm_start.import_from) and self._book.imports is None

    def _import_results(self) -> None:
        """Take over results of other campaigns, once: as soon as a trial that was evaluated here is complete."""
        first = self._book.first_complete
        if not self._awaits_import or first is None:
            return
        self._refresh()
        self._find_points()  # imported trials are numbered on from all that are known
        results, report = imports.results(self._store, self._campaign, self._space, self._book, first)
        for result in results:
            self._take(imports.trial_of(result, self._campaign.id, self._book))
        self._book.imports = report
        summary, state = self._book.summary(), self._strategy.state()
        self._book.write(self._store.import_results(self._lease, results, state, summary))

    def _turn(self) -> None:
        while self._executor.free_slots > 0 and (job := self._next_job()) is not None:
            with log_fields(campaign_id=self._campaign.id, trial_id=job.trial_id):
                self._submit(job)
                logger.info("trial %s is being scored on %s items", job.trial_id, job.split)
        if not self._in_flight and self._executor.free_slots > 0 and self._campaign.state is not CampaignState.PAUSED:
            self._store.finish(self._lease, self._points_known)
            return
        for result in self._executor.wait(WAIT_SECONDS):
            with log_fields(campaign_id=self._campaign.id, trial_id=result.job.trial_id):
                self._receive(result)
                logger.info("trial %s is %s", result.job.trial_id, self._book[result.job.trial_id].state)

    def _submit(self, job: Job) -> None:
        self._in_flight[job.trial_id] = job
        actor = self._executor.submit(job)
        if self._book[job.trial_id].state is TrialState.QUEUED:
            self._book.write([self._store.start(self._lease, job.trial_id, actor)])

    def _next_job(self) -> Job | None:
        if self._going_on:
            return self._going_on.popleft()
        while self._campaign.state is not CampaignState.PAUSED and (trial := self._next_trial()) is not None:
            if not self._take_over(trial):
                rungs = self._rungs(trial)[:1]
                return Job(trial_id=trial.id, recipe=trial.candidate.recipe, split="search", rungs=rungs)
            self._refresh()
        if self._campaign.state is CampaignState.PAUSED:
            return None
        if self._book.is_drained and self._campaign.search_finished_at is None:
            self._store.finish_search(self._lease)
            self._refresh()
        return self._next_holdout()

    def _next_trial(self) -> Trial | None:
        queued = next(iter(self._book.in_state(TrialState.QUEUED)), None)
        return queued or self._next_soup() or self._next_candidate()

    def _rungs(self, trial: Trial) -> tuple[Items, ...]:
        """Return the rungs of the race that `trial` is in; nothing for one that is scored on all items at once."""
        if self._race is None or trial.candidate.kind != "candidate" or self._book.summary().reference_point is None:
            return ()
        return self._race.rungs()

    def _take_over(self, trial: Trial) -> bool:
        """End a queued trial with what was measured of its recipe before; return whether there was such a thing."""
        found = self._reuse.find(trial, "search")
        if found is None:
            return False
        source, evaluated = found
        result = ImportedResult(trial.id, trial.candidate.replace(imported_from=source), evaluated)
        self._take(imports.trial_of(result, self._campaign.id, self._book))
        summary, state = self._book.summary(), self._strategy.state()
        self._book.write([self._store.reuse(self._lease, result, state, summary)])
        return True

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
        waits = self._awaits_import and not self._book.is_drained
        if self._campaign.state is not CampaignState.RUNNING or waits or self._exhausted or self._budget_is_spent():
            return None
        candidate = self._ask()
        if candidate is None:
            self._exhausted = True
            logger.warning("campaign %s: the strategy proposes no new recipe any more", self._campaign.id)
            return None
        trial = self._store.ask(self._lease, candidate, self._strategy.state())
        self._book.write([trial])
        return trial

    def _budget_is_spent(self) -> bool:
        """Return whether a budget has ended the search, which is then noted once."""
        if self._campaign.budget_spent is not None:
            return True
        seconds = self._book.search_seconds * self._campaign.spec.resources.gpus_per_actor
        spending = Spending(
            evaluations=self._book.candidate_count,
            item_evaluations=self._book.item_evaluations,
            seconds=seconds_running(self._campaign, datetime.now(UTC)),
            gpu_seconds=seconds,
        )
        spent = spent_budget(self._campaign.spec.budget, spending)
        if spent is None:
            return False
        self._store.note_budget_spent(self._lease, spent)
        self._refresh()
        return True

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
            if trial.id in self._in_flight or given_up:
                continue
            found = self._reuse.find(trial, "holdout")
            if found is None:
                return Job(trial_id=trial.id, recipe=trial.candidate.recipe, split="holdout")
            self._add_holdout(trial.id, found[1])
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
            self._receive_scores(job, self._with_time_of_earlier_rungs(job, outcome.evaluated))

    def _with_time_of_earlier_rungs(self, job: Job, evaluated: Evaluated) -> Evaluated:
        spent = self._spent.pop(job.trial_id, None)
        return evaluated if spent is None else evaluated.replace(timing=evaluated.timing.plus(spent))

    def _receive_scores(self, job: Job, evaluated: Evaluated) -> None:
        rungs = self._rungs(self._book[job.trial_id]) if job.rungs else ()
        if self._race is None or len(job.rungs) == len(rungs):
            self._tell(job.trial_id, evaluated)
            return
        worst = self._book.summary().reference_point
        assert worst is not None  # there are no rungs before
        trial = self._book[job.trial_id]
        verdict = self._race.verdict(trial, evaluated.measurements, self._book.front_losses, worst)
        items = sum(len(ids) for rung in job.rungs for ids in rung.values())
        self._race_report.note(trial.id, len(job.rungs) - 1, items, verdict.measurements)
        if verdict.stops:
            self._prune(job.trial_id, evaluated.replace(measurements=verdict.measurements), verdict.reason)
            return
        self._spent[job.trial_id] = evaluated.timing
        self._going_on.append(job.replace(rungs=rungs[: len(job.rungs) + 1]))

    def _tell(self, trial_id: str, evaluated: Evaluated) -> None:
        told = self._book[trial_id].replace(state=TrialState.COMPLETE, measurements=evaluated.measurements)
        self._race_report.completed(told)
        self._take(told)
        summary, state = self._book.summary(), self._strategy.state()
        self._book.write([self._store.tell(self._lease, trial_id, evaluated, state, summary)])
        self._import_results()

    def _prune(self, trial_id: str, evaluated: Evaluated, reason: str) -> None:
        self._race_report.stopped(trial_id)
        self._take(self._book[trial_id].replace(state=TrialState.PRUNED, measurements=evaluated.measurements))
        summary, state = self._book.summary(), self._strategy.state()
        self._book.write([self._store.prune(self._lease, trial_id, evaluated, reason, state, summary)])

    def _take(self, told: Trial) -> None:
        """Take a result in before the store has it, for the summary; where the store refuses it, the run is over."""
        self._strategy.tell(self._book.observation(told))
        self._book.racing = self._race_report.rungs
        self._book.write([told])
        self._learn(told)

    def _learn(self, told: Trial) -> None:
        if told.state is TrialState.COMPLETE:
            self._reuse.note([told])
            if self._race is not None:
                self._race.learn(told)

    def _forget_race(self, trial_id: str) -> None:
        self._spent.pop(trial_id, None)
        self._race_report.dropped(trial_id)

    def _reject(self, trial_id: str, reason: str) -> None:
        self._forget_race(trial_id)
        self._take(self._book[trial_id].replace(state=TrialState.INFEASIBLE))
        summary, state = self._book.summary(), self._strategy.state()
        self._book.write([self._store.reject(self._lease, trial_id, reason, state, summary)])

    def _retry_or_fail(self, trial_id: str, reason: str) -> None:
        """A fault says nothing of the point: the strategy is never told of it. Restarts do not count as faults."""
        self._forget_race(trial_id)
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
        self._add_holdout(trial_id, outcome.evaluated)

    def _add_holdout(self, trial_id: str, evaluated: Evaluated) -> None:
        trial = self._book[trial_id]
        measurements = (*trial.measurements, *evaluated.measurements)
        timings = {**trial.timings, "holdout": evaluated.timing}
        scored = trial.replace(measurements=measurements, timings=timings)
        self._book.write([scored])
        self._reuse.note([scored])
        self._book.write([self._store.add_holdout(self._lease, trial_id, evaluated, self._book.summary())])

    def _watch_for_faults(self, outcome: object) -> None:
        self._faults_in_a_row = self._faults_in_a_row + 1 if isinstance(outcome, Faulted) else 0
        most = max(MIN_FAULTS_IN_A_ROW, FAULTS_IN_A_ROW_PER_ACTOR * self._campaign.spec.resources.actors)
        if isinstance(outcome, Faulted) and self._faults_in_a_row >= most:
            raise Fault(f"{self._faults_in_a_row} faults in a row; the last one: {outcome.reason}")
