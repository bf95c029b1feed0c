"""What is remembered: SQLAlchemy rows, repositories over them, migrations, and the `Store` that opens it all."""

from storage.lease import Lease
from storage.store import Store
from storage.trial_repository import ImportedResult

__all__ = ["ImportedResult", "Lease", "Store"]
