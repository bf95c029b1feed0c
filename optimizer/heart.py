"""The heartbeat of a worker."""

import logging
import threading

from campaigns.errors import LeaseLost
from storage import Lease, Store

logger = logging.getLogger(__name__)


class Heart:
    """Beats in a thread of its own: keeps the worker seen and its lease alive while the loop waits for actors."""

    def __init__(self, store: Store, worker_id: str, lease_seconds: float) -> None:
        self._store = store
        self._worker_id = worker_id
        self._lease_seconds = lease_seconds
        self._lease: Lease | None = None
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._beat, name="heart", daemon=True)

    def start(self) -> None:
        """Start beating, a few times per lease."""
        self._thread.start()

    def hold(self, lease: Lease | None) -> None:
        """Renew `lease` with every beat from now on, or none."""
        self._lease = lease

    def stop(self) -> None:
        """Beat no more."""
        self._stopped.set()
        self._thread.join()

    def _beat(self) -> None:
        while not self._stopped.wait(self._lease_seconds / 4):
            lease = self._lease
            try:
                self._store.heartbeat(self._worker_id)
                if lease is not None:
                    self._store.renew(lease, self._lease_seconds)
            except LeaseLost:
                logger.warning("the lease of campaign %s is lost", lease and lease.campaign_id)
                self._lease = None
            except Exception:
                logger.exception("a heartbeat failed; the next one tries again")
