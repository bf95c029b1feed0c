"""What the demo leaves behind as `report.json`."""

import math
from collections.abc import Sequence
from datetime import datetime
from typing import Any

from mergefront.tables import group_trials

Json = dict[str, Any]


def demo_report(campaign: Json, front: Json, trials: Sequence[Json], seconds: dict[str, float]) -> Json:
    """Return baselines and front with parameters and scores, seconds per phase, evaluations and utilization."""
    report = {
        "campaign_id": campaign["id"],
        "recommended": campaign["summary"]["recommendation"],
        "hypervolume": campaign["summary"]["hypervolume"],
        "baselines": [_entry(front, trial) for trial in front["baselines"]],
        "front": [_entry(front, trial) for trial in front["front"]],
        "front_without_baselines": len(group_trials(front, "front")),
        "seconds": {**seconds, **campaign_seconds(campaign)},
        "evaluations": sum(len(trial["timings"]) for trial in trials),
        "search_evaluations": sum("search" in trial["timings"] for trial in trials),
        "candidates": sum(trial["candidate"]["kind"] == "candidate" for trial in trials),
        "actor_utilization": campaign["progress"]["actor_utilization"],
    }
    return {**report, "holdout_margins": margins(report)}


def campaign_seconds(campaign: Json) -> dict[str, float]:
    """Return the seconds of a complete campaign's own phases: waiting for actors, search, holdout scoring."""
    phases = {
        "campaign: actors": ("created_at", "started_at"),
        "campaign: search": ("started_at", "search_finished_at"),
        "campaign: holdout": ("search_finished_at", "finished_at"),
    }
    return {phase: _seconds(campaign[start], campaign[end]) for phase, (start, end) in phases.items()}


def _seconds(start: str, end: str) -> float:
    return round((datetime.fromisoformat(end) - datetime.fromisoformat(start)).total_seconds(), 2)


def margins(report: Json) -> Json:
    """Return by how much the recommended merge beats the best single parent and the uniform soup, on holdout items.

    Trials that could not be scored there are left out. The standard error of a difference takes both scores as
    independent, which is cautious: they share the items.
    """
    scored = [entry for entry in report["baselines"] if entry["macro_average"]["holdout"] is not None]
    entries = {entry["trial_id"]: entry for entry in [*report["front"], *report["baselines"]]}
    best = entries[report["recommended"]["trial_id"]]["macro_average"]["holdout"]
    if best is None:
        return {}
    parents = [entry for entry in scored if entry["kind"] == "parent"]
    rivals = [max(parents, key=lambda entry: _holdout(entry)["value"])] if parents else []
    rivals += [entry for entry in scored if entry["kind"] == "soup"]
    return {
        entry["label"]: {
            "difference": best["value"] - _holdout(entry)["value"],
            "standard_error": math.hypot(best["standard_error"] or 0.0, _holdout(entry)["standard_error"] or 0.0),
        }
        for entry in rivals
    }


def _holdout(entry: Json) -> Json:
    score: Json = entry["macro_average"]["holdout"]
    return score


def _entry(front: Json, trial: Json) -> Json:
    scores: Json = {"search": {}, "holdout": {}}
    for measurement in trial["measurements"]:
        score = {key: measurement[key] for key in ("value", "standard_error", "items")}
        scores[measurement["split"]][measurement["objective"]] = score
    return {
        "trial_id": trial["id"],
        "kind": trial["candidate"]["kind"],
        "label": trial["candidate"]["label"],
        "parameters": trial["candidate"]["parameters"],
        **scores,
        "macro_average": front["macro"].get(trial["id"]),
    }
