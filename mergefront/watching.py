"""Following a campaign in a terminal."""

import time
from datetime import UTC, datetime
from typing import NamedTuple

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn

from campaigns.states import CampaignState
from mergefront.client import Client, Json

POLL_SECONDS = 1.0
LINE_SECONDS = 10.0  # how often a console that is no terminal, a log say, gets a line


class Glance(NamedTuple):
    """What one look at a campaign shows: its phase, how far that is, and what was found."""

    phase: str
    done: int
    total: int
    found: str

    def __str__(self) -> str:
        return f"{self.phase} {self.done}/{self.total} {self.found}".rstrip()


def watch_campaign(client: Client, campaign_id: str, console: Console) -> Json:
    """Show a campaign's progress until it ends, and return it as it ended."""
    columns = (
        TextColumn("[bold]{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[found]}"),
    )
    next_line = 0.0
    with Progress(*columns, console=console) as progress:
        task = progress.add_task("queued", total=None, found="")
        while True:
            campaign = client.campaign(campaign_id)
            glance = look(campaign, client.front(campaign_id))
            progress.update(
                task, description=glance.phase, completed=glance.done, total=glance.total, found=glance.found
            )
            if CampaignState(campaign["state"]).is_final:
                break
            if not console.is_terminal and time.monotonic() >= next_line:
                console.print(str(glance), markup=False, highlight=False)
                next_line = time.monotonic() + LINE_SECONDS
            time.sleep(POLL_SECONDS)
    if campaign["reason"]:
        console.print(f"{campaign['state']}: {campaign['reason']}", markup=False)
    return campaign


def look(campaign: Json, front: Json) -> Glance:
    """Return what to show of a campaign with its front: search progress first, then that of the holdout scoring."""
    progress = campaign["progress"]
    if campaign["state"] == "running" and campaign["search_finished_at"] is not None:
        trials = {trial["id"]: trial for trial in [*front["front"], *front["baselines"]]}
        done = sum("holdout" in trial["timings"] for trial in trials.values())
        left = _seconds_since(campaign["search_finished_at"]) / done * (len(trials) - done) if done else None
        return Glance("holdout", done, len(trials), _found(campaign, front, left))
    done, total = progress["evaluations_done"], progress["evaluations_total"]
    phase = "search" if campaign["state"] == "running" else campaign["state"]
    return Glance(phase, done, total, _found(campaign, front, progress["seconds_left"]))


def _found(campaign: Json, front: Json, seconds_left: float | None) -> str:
    summary = campaign["summary"]
    pruned = campaign["trial_counts"].get("pruned", 0)
    parts = [f"{pruned} pruned"] if pruned else []
    if summary["hypervolume"] is not None:
        parts.append(f"hypervolume {summary['hypervolume']:.4f}")
    recommended = summary["recommendation"]
    if recommended is not None and recommended["trial_id"] is None:
        parts.append("no trial keeps all constraints yet")
    elif recommended is not None:
        macro = (front["macro"].get(recommended["trial_id"]) or {}).get("search")
        parts.append(f"best {recommended['trial_id']}" + (f" at {macro['value']:.3f}" if macro else ""))
    if seconds_left is not None and campaign["state"] == "running":
        parts.append(f"{format_seconds(seconds_left)} left")
    return " · ".join(parts)


def _seconds_since(moment: str) -> float:
    return (datetime.now(UTC) - datetime.fromisoformat(moment)).total_seconds()


def format_seconds(seconds: float) -> str:
    """Return a duration as `42 s` or `3 min 07 s`."""
    whole = round(seconds)
    return f"{whole} s" if whole < 60 else f"{whole // 60} min {whole % 60:02d} s"
