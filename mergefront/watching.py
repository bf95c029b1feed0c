"""Following a campaign in a terminal."""

import time
from collections.abc import Mapping
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn

from mergefront.client import Client, Json

POLL_SECONDS = 1.0
FINAL_STATES = ("complete", "failed", "cancelled")


def watch_campaign(client: Client, campaign_id: str, console: Console) -> Json:
    """Show a campaign's progress until it ends, and return it as it ended."""
    columns = (
        TextColumn("[bold]{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[found]}"),
    )
    with Progress(*columns, console=console) as progress:
        task = progress.add_task("queued", total=None, found="")
        while True:
            campaign = client.campaign(campaign_id)
            done, total = campaign["progress"]["evaluations_done"], campaign["progress"]["evaluations_total"]
            progress.update(
                task, description=_phase(campaign), completed=done, total=total, found=_found(client, campaign)
            )
            if campaign["state"] in FINAL_STATES:
                break
            time.sleep(POLL_SECONDS)
    if campaign["reason"]:
        console.print(f"{campaign['state']}: {campaign['reason']}", markup=False)
    return campaign


def _phase(campaign: Json) -> str:
    if campaign["state"] == "running" and campaign["search_finished_at"] is not None:
        return "scoring on holdout items"
    return str(campaign["state"])


def _found(client: Client, campaign: Json) -> str:
    summary, progress = campaign["summary"], campaign["progress"]
    parts = []
    if summary["hypervolume"] is not None:
        parts.append(f"hypervolume {summary['hypervolume']:.4f}")
    if summary["recommendation"] is not None:
        parts.append(_best(client.front(campaign["id"]), summary["recommendation"]["trial_id"]))
    if progress["seconds_left"] is not None and campaign["state"] == "running":
        parts.append(f"{format_seconds(progress['seconds_left'])} left")
    return " · ".join(parts)


def _best(front: Mapping[str, Any], trial_id: str) -> str:
    macro = (front["macro"].get(trial_id) or {}).get("search")
    return f"best {trial_id}" + (f" at {macro['value']:.3f}" if macro else "")


def format_seconds(seconds: float) -> str:
    """Return a duration as `42 s` or `3 min 07 s`."""
    whole = round(seconds)
    return f"{whole} s" if whole < 60 else f"{whole // 60} min {whole % 60:02d} s"
