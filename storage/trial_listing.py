"""Pages of a campaign's trials: filtered, sorted and continued in the database, whatever their number."""

from collections.abc import Sequence
from typing import Any, NamedTuple

from sqlalchemy import Select, SQLColumnExpression, and_, case, func, or_, select
from sqlalchemy.orm import Session, aliased

from campaigns.objectives import Objective
from campaigns.states import TrialState
from campaigns.trial import Kind, Trial
from storage.rows import MeasurementRow, TrialRow

NUMBER, TOLD, MACRO = "number", "told", "macro"
SORTS = (NUMBER, TOLD, MACRO)
"""What every campaign's trials can be sorted by, beside the names of its objectives."""


Keyed = Select[str, int, Any]


class TrialPlace(NamedTuple):
    """Where a page ends: what its last trial was sorted by (None: nothing) and that trial's number."""

    key: float | None
    number: int


class TrialListing(NamedTuple):
    """Which trials, in which order, from where on.

    `sort` is one of `SORTS` or the name of an objective, whose values are those of the search items, estimates where a
    race stopped the trial. The macro-average is higher where a trial is better, and pruned trials have none. Trials
    without the value come last in both directions; equals go by number.
    """

    sort: str = NUMBER
    descending: bool = False
    states: tuple[TrialState, ...] = ()
    kinds: tuple[Kind, ...] = ()
    after: TrialPlace | None = None


class ListedTrial(NamedTuple):
    """A trial and its place in the listing, from which the next page goes on."""

    trial: Trial
    place: TrialPlace


def places(
    session: Session, campaign_id: str, objectives: Sequence[Objective], listing: TrialListing, limit: int
) -> list[tuple[str, TrialPlace]]:
    """Return ids and places of up to `limit` trials. Only these are read whole: recipes and points are long."""
    query = select(TrialRow.id, TrialRow.number).where(TrialRow.campaign_id == campaign_id)
    if listing.states:
        query = query.where(TrialRow.state.in_(listing.states))
    if listing.kinds:
        query = query.where(TrialRow.candidate["kind"].as_string().in_(listing.kinds))
    if listing.sort == NUMBER:
        rows = session.execute(_by_number(query, listing).limit(limit))
        return [(row[0], TrialPlace(row[1], row[1])) for row in rows]
    query, key = _with_key(query, objectives, listing.sort)
    found = session.execute(_by_key(query.add_columns(key), key, listing).limit(limit))
    return [(row[0], TrialPlace(row[2], row[1])) for row in found]


def _by_number(query: Select[str, int], listing: TrialListing) -> Select[str, int]:
    number = TrialRow.number
    if listing.after is not None:
        last = listing.after.number
        query = query.where(number < last if listing.descending else number > last)
    return query.order_by(number.desc() if listing.descending else number)


def _by_key(query: Keyed, key: SQLColumnExpression[Any], listing: TrialListing) -> Keyed:
    if listing.after is not None:
        last, number = listing.after
        equals = and_(key.is_(None) if last is None else key == last, TrialRow.number > number)
        beyond = [] if last is None else [key < last if listing.descending else key > last, key.is_(None)]
        query = query.where(or_(equals, *beyond))
    return query.order_by(key.is_(None), key.desc() if listing.descending else key, TrialRow.number)


def _with_key(
    query: Select[str, int], objectives: Sequence[Objective], sort: str
) -> tuple[Select[str, int], SQLColumnExpression[Any]]:
    """Return the query, joined with what it takes, and what it sorts by."""
    if sort == TOLD:
        return query, TrialRow.told
    if sort != MACRO:
        measured = aliased(MeasurementRow)
        return _joined(query, measured, sort), func.coalesce(measured.estimate, measured.value)
    key: Any = 0.0
    for objective in objectives:
        if objective.weight:
            measured = aliased(MeasurementRow)
            query = _joined(query, measured, objective.name)
            key = key + measured.value * -objective.loss(objective.weight)
    total = sum(objective.weight for objective in objectives)
    return query, case((TrialRow.state != TrialState.PRUNED, key / total))


def _joined(query: Select[str, int], measured: Any, objective: str) -> Select[str, int]:
    on = and_(measured.trial_id == TrialRow.id, measured.split == "search", measured.objective == objective)
    return query.outerjoin(measured, on)
