"""The commands of a campaign's life: `mergefront pause`, `resume`, `stop`, `cancel`, `fork`, `queue` and `delete`."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import typer
import yaml
from rich.console import Console

from campaigns.errors import InvalidInput, field_error
from mergefront.client import DEFAULT_URL, Client, Json, RequestRefused, Step
from mergefront.documents import read_document
from mergefront.options import Token, Url
from mergefront.readable_errors import readable_errors

UNCONFIRMED = "urn:mergefront:problem:unconfirmed"

console = Console()

AsJson = Annotated[bool, typer.Option("--json", help="Print the API's document.")]


def add_commands(app: typer.Typer) -> None:
    """Add the commands to `app`."""
    for command in (pause, resume, stop, cancel, fork, queue, delete):
        app.command()(command)


def pause(campaign: str, url: Url = DEFAULT_URL, token: Token = None, as_json: AsJson = False) -> None:
    """Start no more trials of CAMPAIGN until it is resumed; running ones end."""
    _step(campaign, "pause", url, token, as_json)


def resume(campaign: str, url: Url = DEFAULT_URL, token: Token = None, as_json: AsJson = False) -> None:
    """Go on with a paused CAMPAIGN."""
    _step(campaign, "resume", url, token, as_json)


def stop(campaign: str, url: Url = DEFAULT_URL, token: Token = None, as_json: AsJson = False) -> None:
    """End the search of CAMPAIGN early: running trials end, the front is scored on holdout items."""
    _step(campaign, "stop", url, token, as_json)


def cancel(campaign: str, url: Url = DEFAULT_URL, token: Token = None, as_json: AsJson = False) -> None:
    """End CAMPAIGN at once; what was told is kept."""
    _step(campaign, "cancel", url, token, as_json)


def fork(  # noqa: PLR0913  one argument per option
    campaign: str,
    patch: Annotated[
        Path | None, typer.Argument(help="What to change in the spec, YAML or JSON.", exists=True, dir_okay=False)
    ] = None,
    changes: Annotated[
        list[str] | None, typer.Option("--set", help="One change, such as budget.evaluations=200; repeatable.")
    ] = None,
    url: Url = DEFAULT_URL,
    token: Token = None,
    as_json: AsJson = False,
) -> None:
    """Launch a campaign with the spec of CAMPAIGN, changed, which imports its results; print its id."""
    with readable_errors(), Client(url, token) as client:
        document = {} if patch is None else dict(read_document(patch))
        for change in changes or ():
            _set(document, change)
        found = client.fork(campaign, document)
        _print(found, found["id"], as_json)


def queue(  # noqa: PLR0913  one argument per option
    campaign: str,
    coordinates: Annotated[
        list[str] | None, typer.Argument(help="One point, every coordinate by name: weight.math=0.6 weight.code=0.4")
    ] = None,
    points: Annotated[
        Path | None,
        typer.Option("--points", help="Document with a list of points, YAML or JSON.", exists=True, dir_okay=False),
    ] = None,
    url: Url = DEFAULT_URL,
    token: Token = None,
    as_json: AsJson = False,
) -> None:
    """Queue points of your own in CAMPAIGN, before new candidates and beside the budget; print their trials."""
    with readable_errors(), Client(url, token) as client:
        listed = [] if points is None else _listed(read_document(points))
        own = dict(_assignment(coordinate) for coordinate in coordinates or ())
        found = client.queue_points(campaign, [*listed, *([own] if own else [])])
        _print(found, "\n".join(trial["id"] for trial in found["items"]), as_json)


def delete(
    campaign: str,
    url: Url = DEFAULT_URL,
    token: Token = None,
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask.")] = False,
    as_json: AsJson = False,
) -> None:
    """Delete CAMPAIGN, which must be over, with all its trials, for good. Asks first."""
    with readable_errors(), Client(url, token) as client:
        found = client.delete(campaign, confirm=campaign) if yes else _delete_if_confirmed(client, campaign)
        _print(found, f"{campaign} is deleted", as_json)


def _delete_if_confirmed(client: Client, campaign: str) -> Json:
    try:
        return client.delete(campaign)
    except RequestRefused as refusal:
        if refusal.problem.get("type") != UNCONFIRMED:
            raise
        Console(stderr=True).print(refusal.problem["detail"], markup=False, highlight=False, soft_wrap=True)
    return client.delete(campaign, confirm=typer.prompt("Its id or name, to delete it", err=True))


def _step(campaign: str, step: Step, url: str, token: str | None, as_json: bool) -> None:
    with readable_errors(), Client(url, token) as client:
        found = client.step(campaign, step)
        _print(found, f"{found['id']} is {found['state']}", as_json)


def _print(document: Json, text: str, as_json: bool) -> None:
    if as_json:
        print(json.dumps(document, indent=2))  # noqa: T201  a document
    else:
        console.print(text, markup=False, highlight=False, soft_wrap=True)


def _assignment(text: str) -> tuple[str, Any]:
    name, is_assignment, value = text.partition("=")
    try:
        if is_assignment and name:
            return name, yaml.safe_load(value)
    except yaml.YAMLError as error:
        raise InvalidInput([field_error(name, value, "not a YAML value")]) from error
    raise InvalidInput([field_error("argument", text, "not an assignment", "NAME=VALUE")])


def _set(document: dict[str, Any], change: str) -> None:
    """Set one field, whose name is a dotted path, in the document."""
    path, value = _assignment(change)
    *outer, last = path.split(".")
    for name in outer:
        inner = document.get(name)
        document[name] = dict(inner) if isinstance(inner, Mapping) else {}
        document = document[name]
    document[last] = value


def _listed(document: Mapping[str, Any]) -> list[Any]:
    listed = document.get("points")
    if not isinstance(listed, list):
        raise InvalidInput([field_error("points", listed, "the document must hold a list of points", "points: [...]")])
    return listed
