"""How far a front can be believed, as a table and a few sentences for a terminal."""

from collections.abc import Mapping, Sequence
from typing import Any

from rich.table import Table

from fronts.gaps import MACRO

Json = Mapping[str, Any]


def statistics_table(statistics: Json) -> Table:
    """Return one row per member of the front that was compared, the surest first.

    Differences are of the macro-average, with 95% interval and p-value: to the parent that is hardest to beat, Holm's
    correction over the parents included, and to the best soup.
    """
    table = Table(title=f"How far to believe it (macro-averages on the {statistics['split']} items)")
    table.add_column("trial", no_wrap=True)
    table.add_column("on the front", justify="right")
    table.add_column("hardest parent", justify="right")
    table.add_column("hardest soup", justify="right")
    table.add_column("search − holdout", justify="right")
    table.add_column("beats every parent in", overflow="fold")
    for member in sorted(statistics["members"], key=lambda member: -(member["non_dominated"] or 0)):
        table.add_row(
            member["trial_id"] + (f"\n{member['label']}" if member["label"] else ""),
            "-" if member["non_dominated"] is None else f"{member['non_dominated']:.0%}",
            _hardest(member["comparisons"], "parent"),
            _hardest(member["comparisons"], "soup"),
            _gap(member["gaps"][MACRO]),
            "\n".join(name.replace(MACRO, "macro-average") for name in member["better_than_every_parent"]) or "-",
        )
    return table


def remarks(front: Json, statistics: Json) -> list[str]:
    """Return what the numbers come to: recommendations, how much the search flattered the front, and warnings.

    Where every trial breaks a constraint, that is all there is to say.
    """
    recommended = front["recommendation"]
    if recommended is not None and recommended["trial_id"] is None:
        return [f"Nothing to take: {recommended['reason']}."]
    kinds = {"macro": "Take", "knee": "Knee", "prefer": "Preferred"}
    found = [
        f"{kinds[kind]} {chosen['trial_id']}: {chosen['reason']}."
        for kind, chosen in statistics["recommendations"].items()
    ]
    if len(statistics["members"]) < statistics["front"]:
        found.append(f"The second table has {len(statistics['members'])} of the {statistics['front']} on the front.")
    optimism = statistics["optimism"].get(MACRO, {})
    if optimism.get("front") is not None:
        beside = "" if optimism["baselines"] is None else f" (the baselines: {optimism['baselines']:+.3f})"
        found.append(
            f"On the search items the front looks {optimism['front']:+.3f} better than on the holdout{beside}."
        )
    found += [f"{member['trial_id']}: {warning}." for member in statistics["members"] for warning in member["warnings"]]
    found += [f"{trial_id} is left out: {reason}." for trial_id, reason in statistics["left_out"].items()]
    return found


def _hardest(comparisons: Sequence[Json], kind: str) -> str:
    """Return the least gain over the baselines of `kind`, above its interval and p-value."""
    rivals = [c for c in comparisons if c["kind"] == kind and MACRO in c["differences"]]
    if not rivals:
        return "-"
    rival = min(rivals, key=lambda comparison: comparison["differences"][MACRO]["gain"])
    difference, p_value = rival["differences"][MACRO], rival["adjusted_p_values"][MACRO]
    low, high = difference["interval"]
    return f"{difference['gain']:+.3f} {rival['label']}\n[{low:+.3f}, {high:+.3f}] p {p_value:.2g}"


def _gap(gap: Json) -> str:
    if gap["optimism"] is None:
        return "-"
    error = gap["standard_error"]
    return f"{gap['optimism']:+.3f}" + ("" if error is None else f" ±{error:.3f}")
