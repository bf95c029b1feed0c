"""What every command of the service shares: where things lie."""

import os
from pathlib import Path

DEFAULT_HOST = "127.0.0.1"
DEFAULT_PORT = 8400
DEFAULT_REQUESTS_PER_SECOND = 200.0
DEFAULT_BURST = 1000
DEFAULT_MAX_STREAMS = 4
DATABASE_VARIABLE = "MERGEFRONT_DATABASE"
HOME_VARIABLE = "MERGEFRONT_HOME"
TOKEN_VARIABLE = "MERGEFRONT_TOKEN"
URL_VARIABLE = "MERGEFRONT_URL"


def default_home() -> Path:
    """Return the folder for database and caches: $MERGEFRONT_HOME, else ~/.mergefront."""
    return Path(os.environ.get(HOME_VARIABLE) or Path.home() / ".mergefront")


def sqlite_url(home: Path) -> str:
    """Return the URL of the database that lies in `home`."""
    return f"sqlite:///{home.resolve() / 'mergefront.db'}"
