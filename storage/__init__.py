"""What is remembered: SQLAlchemy rows, repositories over them, migrations, and the `Store` that opens it all."""

from storage.lease import Lease
from storage.store import Store

__all__ = ["Lease", "Store"]
