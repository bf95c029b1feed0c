"""Fronts and scores as tables for a terminal."""

from collections.abc import Mapping
from typing import Any

from rich.table import Table

from campaigns.objectives import Objective

Json = Mapping[str, Any]

SHOWN_WEIGHTS = 2


def front_table(front: Json, most: int | None = None) -> Table:
    """Return baselines and front, the recommended trial marked; a cell has the search score above the holdout score.

    The front is sorted by its macro-average on the search items; `most` cuts it.
    """
    recommended = (front["recommendation"] or {}).get("trial_id")
    table = Table(title="Pareto front beside the baselines (search above holdout, ± standard error)")
    table.add_column("trial", no_wrap=True)
    for objective in front["objectives"]:
        arrow = "↓" if objective["direction"] == "minimize" else "↑"
        table.add_column(f"{arrow} {objective['task']}\n{objective['metric']}", justify="right", overflow="fold")
    table.add_column("↑ macro-\naverage", justify="right")
    for group in ("baselines", "front"):
        for trial in group_trials(front, group)[: most if group == "front" else None]:
            style = "bold green" if trial["id"] == recommended else None
            table.add_row(*_row(front, trial, trial["id"] == recommended), style=style)
        table.add_section()
    return table


def group_trials(front: Json, group: str) -> list[Json]:
    """Return the trials of `baselines` or `front`, the latter by macro-average; a baseline is listed as such only."""
    if group == "baselines":
        return list(front["baselines"])
    baselines = {trial["id"] for trial in front["baselines"]}
    members = [trial for trial in front["front"] if trial["id"] not in baselines]
    return sorted(members, key=lambda trial: -front["macro"][trial["id"]]["search"]["value"])


def _row(front: Json, trial: Json, recommended: bool) -> list[str]:
    candidate = trial["candidate"]
    merge = candidate["label"] or _weights(candidate["parameters"])
    cells = [trial["id"] + (" ★" if recommended else "") + f"\n{merge}"]
    for document in front["objectives"]:
        objective = Objective.model_validate(document)
        scores = {m["split"]: m for m in trial["measurements"] if m["objective"] == objective.name}
        cells.append(_splits(scores))
    macro = front["macro"].get(trial["id"]) or {}
    return [*cells, _splits({split: score for split, score in macro.items() if score})]


def _splits(scores: Mapping[str, Json]) -> str:
    return "\n".join(_score(scores[split]) for split in ("search", "holdout") if split in scores)


def _score(score: Json) -> str:
    error = score["standard_error"]
    return f"{score['value']:.3f}" + ("" if error is None else f" ±{error:.3f}")


def _weights(parameters: Mapping[str, float]) -> str:
    weights = {name.removeprefix("weight."): w for name, w in parameters.items() if name.startswith("weight.")}
    heaviest = sorted(weights, key=lambda name: -abs(weights[name]))
    shown = "\n".join(f"{name} {weights[name]:.2f}" for name in heaviest[:SHOWN_WEIGHTS])
    return shown + (f"\n+ {len(heaviest) - SHOWN_WEIGHTS} more" if len(heaviest) > SHOWN_WEIGHTS else "")
