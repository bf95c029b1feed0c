"""The heartbeat of a worker."""

import logging
import threading
from collections.abc import Callable

from campaigns.errors import LeaseLost, NotFound
from storage import Lease, Store

logger = logging.getLogger(__name__)


class Heart:
    """Beats in a thread of its own: keeps the worker seen and its lease alive while the loop waits for actors."""

    def __init__(self, store: Store, worker_id: str, lease_seconds: float, publish: Callable[[], None]) -> None:
        self._store = store
        self._publish = publish
        self._worker_id = worker_id
        self._lease_seconds = lease_seconds
        self._lease: Lease | None = None
        self._changing = threading.Lock()
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._beat, name="heart", daemon=True)

    def start(self) -> None:
        """Start beating, a few times per lease."""
        self._thread.start()

    def hold(self, lease: Lease | None) -> None:
        """Renew `lease` with every beat from now on, or none."""
        with self._changing:
            self._lease = lease

    def stop(self) -> None:
        """Beat no more."""
        self._stopped.set()
        self._thread.join()

    def _drop(self, lost: Lease | None) -> None:
        with self._changing:
            if self._lease is lost:  # and not the next campaign's, taken in the meantime
                self._lease = None

    def _beat(self) -> None:
        while not self._stopped.wait(self._lease_seconds / 4):
            lease = self._lease
            try:
                if lease is not None:
                    self._store.renew(lease, self._lease_seconds)
            except LeaseLost:
                logger.warning("the lease of campaign %s is lost", lease and lease.campaign_id)
                self._drop(lease)
            except Exception:
                logger.exception("the lease could not be renewed; the next beat tries again")
            self._show_life()

    def _show_life(self) -> None:
        try:
            self._store.heartbeat(self._worker_id)
        except NotFound:  # cut off for so long that it was forgotten
            self._publish()
        except Exception:
            logger.exception("a heartbeat failed; the next one tries again")
