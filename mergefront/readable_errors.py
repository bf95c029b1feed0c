"""Errors as a person at a terminal wants them: what is wrong, no traceback, exit code 1."""

from collections.abc import Iterator
from contextlib import contextmanager

import httpx
import typer
from rich.console import Console

from campaigns.errors import MergefrontError
from mergefront.client import RequestRefused


@contextmanager
def readable_errors() -> Iterator[None]:
    """Print errors that were raised on purpose, and those of files and network, and exit with 1."""
    try:
        yield
    except (MergefrontError, RequestRefused, httpx.HTTPError, OSError) as error:
        title = f"{error.title}: " if isinstance(error, MergefrontError) else ""
        Console(stderr=True).print(f"{title}{error}", style="red", markup=False, highlight=False)
        raise typer.Exit(1) from error
