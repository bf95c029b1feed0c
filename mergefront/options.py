"""Options that several commands share."""

from pathlib import Path
from typing import Annotated

import typer

from mergefront.settings import DATABASE_VARIABLE, HOME_VARIABLE, TOKEN_VARIABLE, URL_VARIABLE
from mergefront.structured_logs import LogFormat

Url = Annotated[str, typer.Option("--url", envvar=URL_VARIABLE, help="Where the service listens.")]
Token = Annotated[str | None, typer.Option("--token", envvar=TOKEN_VARIABLE, help="Bearer token of the service.")]
Home = Annotated[Path | None, typer.Option(envvar=HOME_VARIABLE, help="Folder for database and caches.")]
Database = Annotated[
    str | None,
    typer.Option(
        envvar=DATABASE_VARIABLE,
        help="sqlite:///FILE or postgresql+psycopg://...; default: in the home.",
        metavar="URL",
    ),
]
LogFormatOption = Annotated[
    LogFormat,
    typer.Option("--log-format", help="text: what is wrong, for people. json: all that happens, an object per line."),
]
