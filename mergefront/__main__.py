"""`python -m mergefront` is the `mergefront` command."""

from mergefront.cli import app

app()
