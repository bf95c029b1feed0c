"""Who may look and pull: the HTTP API over the store and the merges, and the dashboard beside it."""

from api.app import create_app
from api.settings import Settings

__all__ = ["Settings", "create_app"]
