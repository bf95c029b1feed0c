"""Results of related campaigns: which of their trials are this campaign's too, and at which points.

A trial is taken over where its recipe can be made of this pool, every objective was measured under this campaign's
protocol, and a point of this space makes the recipe. Nothing is evaluated again.
"""

import logging
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime

from campaigns.campaign import Campaign, ImportReport
from campaigns.errors import Gone
from campaigns.methods import LinearMerge, TaskArithmeticMerge
from campaigns.pools import Pool
from campaigns.recipe import Recipe
from campaigns.states import TrialState
from campaigns.trial import Candidate, Evaluated, Trial
from optimizer.greedy_soup import label_of
from optimizer.trial_book import TrialBook
from search_spaces import SearchSpace
from storage import ImportedResult, Store

logger = logging.getLogger(__name__)

READ_AT_ONCE = 1000  # a statement may name 32,766 trials in SQLite, 65,535 in PostgreSQL


def results(
    store: Store, campaign: Campaign, space: SearchSpace, book: TrialBook, first: Trial
) -> tuple[list[ImportedResult], ImportReport]:
    """Return what `campaign` takes over of the campaigns that its spec names, in the order of telling, and the report.

    `first` is a complete trial that was evaluated here: it says what this campaign's protocols are. What has been
    deleted since the launch is passed over.
    """
    importer = Importer(campaign, space, book, first)
    found: list[ImportedResult] = []
    number = len(book)
    for other_id in campaign.spec.warm_start.import_from:
        try:
            taken = importer.take(store.campaign(other_id), store.trials(other_id))
        except Gone:
            logger.warning("campaign %s: nothing is imported from %s, which has been deleted", campaign.id, other_id)
            continue
        for start in range(0, len(taken), READ_AT_ONCE):
            batch = taken[start : start + READ_AT_ONCE]
            sources = {t.id: t for t in store.trials_with_ids([each.source for each in batch], with_outcomes=True)}
            for each in batch:
                if each.source not in sources:
                    continue  # deleted this very moment
                trial_id = each.into or f"{campaign.id}-{number}"
                number += each.into is None
                found.append(ImportedResult(trial_id, each.candidate, _evaluated(campaign, sources[each.source])))
    return found, importer.report


def trial_of(result: ImportedResult, campaign_id: str, book: TrialBook) -> Trial:
    """Return the trial that `result` becomes, as far as it is known before it is written."""
    told = {"candidate": result.candidate, "state": TrialState.COMPLETE, "measurements": result.evaluated.measurements}
    if result.trial_id in book:
        return book[result.trial_id].replace(**told)
    fields = {"id": result.trial_id, "campaign_id": campaign_id, "number": len(book), "created_at": datetime.now(UTC)}
    return Trial.model_validate({**fields, **told})


@dataclass(frozen=True)
class Import:
    """The id of another campaign's trial, and the candidate that it is here: of the queued trial `into`, or new."""

    source: str
    candidate: Candidate
    into: str | None


class Importer:
    """Goes through other campaigns' trials, in order; each recipe is taken over once."""

    def __init__(self, campaign: Campaign, space: SearchSpace, book: TrialBook, first: Trial) -> None:
        self._campaign = campaign
        self._space = space
        self._book = book
        self._protocols = _search_protocols(first)
        self._taken: set[str] = set()
        self._counts = dict.fromkeys(ImportReport.model_fields, 0)

    def take(self, other: Campaign, trials: Iterable[Trial]) -> list[Import]:
        """Return what is taken over of the complete ones of `trials`, in order."""
        is_same_space = other.spec.space == self._campaign.spec.space and _is_same_pool(other.pool, self._campaign.pool)
        found = []
        for trial in trials:
            if trial.state is TrialState.COMPLETE:
                verdict = self._judged(trial, is_same_space)
                if isinstance(verdict, Import):
                    self._taken.add(verdict.candidate.recipe.digest)
                    found.append(verdict)
                    verdict = "trials" if verdict.into is None else "baselines"
                self._counts[verdict] += 1
        return found

    @property
    def report(self) -> ImportReport:
        """What has become of the trials so far."""
        return ImportReport.model_validate(self._counts)

    def _judged(self, trial: Trial, is_same_space: bool) -> Import | str:
        """Return the import, or the field of the report that says why there is none."""
        recipe = recipe_within(trial.candidate.recipe, self._campaign.pool)
        if recipe is None:
            return "other_sources"
        known = self._book.of_recipe(recipe.digest)
        if recipe.digest in self._taken or (known is not None and known.state is not TrialState.QUEUED):
            return "known"
        protocols = _search_protocols(trial)
        if any(protocols.get(name) != protocol for name, protocol in self._protocols.items()):
            return "other_protocol"
        if known is not None:
            return Import(trial.id, known.candidate.replace(imported_from=trial.id), known.id)
        point = trial.candidate.point if is_same_space else self._space.point_of(recipe)
        if point is None:
            return "out_of_reach"
        candidate = Candidate(
            kind="imported",
            point=point,
            parameters=(trial.candidate if is_same_space else self._space.candidate(point)).parameters,
            recipe=recipe,
            imported_from=trial.id,
        )
        return Import(trial.id, self._as_greedy_soup(candidate), None)

    def _as_greedy_soup(self, candidate: Candidate) -> Candidate:
        """Return an average of several parents as what the greedy soup would try, so that it is not tried again."""
        method = candidate.recipe.method
        if not self._campaign.spec.baselines.greedy_soup or not isinstance(method, LinearMerge):
            return candidate
        members = frozenset(index for index, weight in enumerate(method.weights) if weight)
        soup = self._space.soup(sorted(members), label_of(members, self._campaign.pool.names))
        is_soup = len(members) > 1 and soup.recipe == candidate.recipe
        return soup.replace(imported_from=candidate.imported_from) if is_soup else candidate


def recipe_within(recipe: Recipe, pool: Pool) -> Recipe | None:
    """Return the recipe of the same bytes over the sources of `pool`, in their order; None where there is none.

    A linear merge and task arithmetic pass over sources of weight 0, so that there the pools may differ in those.
    """
    base = None if pool.base is None else pool.base.digest
    sources = tuple(checkpoint.digest for checkpoint in pool.checkpoints)
    statistics = tuple(c.statistics.digest for c in pool.checkpoints if c.statistics is not None)
    if (recipe.template, recipe.dtype) != (pool.template.digest, pool.dtype) or recipe.base not in (None, base):
        return None
    if recipe.sources == sources:
        return recipe if recipe.statistics in ((), statistics) else None
    method = recipe.method
    if recipe.rules or not isinstance(method, LinearMerge | TaskArithmeticMerge):
        return None
    weights = {digest: w for digest, w in zip(recipe.sources, method.weights, strict=True) if w}
    if [digest for digest in sources if digest in weights] != list(weights):
        return None  # a source is missing, or sums would be rounded in another order
    spread = method.replace(weights=tuple(weights.get(digest, 0.0) for digest in sources))
    return recipe.replace(method=spread, sources=sources)


def _is_same_pool(one: Pool, other: Pool) -> bool:
    return one.names == other.names and one.layers == other.layers and _digests(one) == _digests(other)


def _digests(pool: Pool) -> list[str | None]:
    return [None if checkpoint is None else checkpoint.digest for checkpoint in (pool.base, *pool.checkpoints)]


def _search_protocols(trial: Trial) -> Mapping[str, str]:
    return {m.objective: m.protocol for m in trial.measurements if m.split == "search"}


def _evaluated(campaign: Campaign, source: Trial) -> Evaluated:
    """Return the source's results on the search items, of this campaign's objectives alone."""
    by_name = {m.objective: m for m in source.measurements if m.split == "search"}
    measurements = tuple(by_name[objective.name] for objective in campaign.spec.objectives)
    return Evaluated(measurements=measurements, timing=source.timings["search"])
