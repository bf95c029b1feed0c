"""The heartbeat of a worker."""

import logging
import threading
from collections.abc import Callable

from campaigns.errors import LeaseLost, NotFound
from storage import Lease, Store

logger = logging.getLogger(__name__)


class Heart:
    """Beats in a thread of its own: keeps the worker seen and its leases alive while loops wait for their actors."""

    def __init__(self, store: Store, worker_id: str, lease_seconds: float, publish: Callable[[], None]) -> None:
        self._store = store
        self._publish = publish
        self._worker_id = worker_id
        self._lease_seconds = lease_seconds
        self._held: dict[Lease, Callable[[], None]] = {}
        self._changing = threading.Lock()
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._beat, name="heart", daemon=True)

    def start(self) -> None:
        """Start beating, a few times per lease."""
        self._thread.start()

    def hold(self, lease: Lease, lost: Callable[[], None] = lambda: None) -> None:
        """Renew `lease` with every beat from now on; call `lost`, in the heart's thread, when another worker has it."""
        with self._changing:
            self._held[lease] = lost

    def drop(self, lease: Lease) -> None:
        """Renew `lease` no more."""
        with self._changing:
            self._held.pop(lease, None)

    def stop(self) -> None:
        """Beat no more."""
        self._stopped.set()
        self._thread.join()

    def _beat(self) -> None:
        while not self._stopped.wait(self._lease_seconds / 4):
            with self._changing:
                held = dict(self._held)
            for lease, lost in held.items():
                self._renew(lease, lost)
            self._show_life()

    def _renew(self, lease: Lease, lost: Callable[[], None]) -> None:
        try:
            self._store.renew(lease, self._lease_seconds)
        except LeaseLost:
            with self._changing:
                was_held = self._held.pop(lease, None) is not None
            if was_held:  # and was not given back in this moment
                logger.warning("the lease of campaign %s is lost", lease.campaign_id)
                lost()
        except Exception:
            logger.exception("the lease of campaign %s could not be renewed; the next beat tries", lease.campaign_id)

    def _show_life(self) -> None:
        try:
            self._store.heartbeat(self._worker_id)
        except NotFound:  # cut off for so long that it was forgotten
            self._publish()
        except Exception:
            logger.exception("a heartbeat failed; the next one tries again")
