"""Pools whose files are open, the least recently used forgotten first."""

import threading
from collections import OrderedDict
from pathlib import Path

from campaigns.errors import Conflict, InvalidCheckpoint
from campaigns.pools import Pool
from merging.pool_files import PoolFiles

CAPACITY = 8


class OpenPools:
    """A small cache of `PoolFiles`; may be used from several threads.

    `cache_dir` keeps what merges find out about the pools.
    """

    def __init__(self, capacity: int = CAPACITY, cache_dir: Path | None = None) -> None:
        self._capacity = capacity
        self._cache_dir = cache_dir
        self._open: OrderedDict[str, PoolFiles] = OrderedDict()
        self._lock = threading.Lock()

    def files(self, pool: Pool) -> PoolFiles:
        """Return the files of `pool`. Raises `Conflict` when they are no longer what the campaign was made with."""
        key = pool.model_dump_json()
        with self._lock:
            found = self._open.get(key)
            try:
                if found is None:
                    found = self._open[key] = PoolFiles(pool, self._cache_dir)
                else:
                    found.verify()
            except InvalidCheckpoint as error:
                self._open.pop(key, None)
                raise Conflict(f"the campaign's checkpoints are not what they were: {error}") from error
            self._open.move_to_end(key)
            while len(self._open) > self._capacity:
                self._open.popitem(last=False)
            return found
