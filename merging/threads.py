"""Work on many items by several threads."""

import queue
import threading
from collections.abc import Callable, Iterable, Iterator
from typing import TypeVar

Item = TypeVar("Item")
Found = TypeVar("Found")
Worker = Callable[[Item], Found]


def spread(make_worker: Callable[[], Worker[Item, Found]], items: Iterable[Item], count: int) -> Iterator[Found]:
    """Yield what workers return for `items`, in any order; each of `count` threads has a worker of its own.

    One thread is the caller's own. Raises what a worker raises, once every thread has ended; no thread outlives this.
    """
    if count == 1:
        yield from map(make_worker(), items)
        return
    waiting = _Items(items)
    done: queue.SimpleQueue[tuple[list[Found], BaseException | None]] = queue.SimpleQueue()

    def run() -> None:
        try:
            worker = make_worker()
            for item in waiting:
                done.put(([worker(item)], None))
            done.put(([], None))
        except BaseException as error:
            waiting.end()
            done.put(([], error))

    threads = [threading.Thread(target=run, name=f"merge-{index}") for index in range(count)]
    for thread in threads:
        thread.start()
    running, failure = count, None
    try:
        while running:
            found, error = done.get()
            yield from found
            running -= not found
            failure = failure or error
    finally:
        waiting.end()
        for thread in threads:
            thread.join()
    if failure is not None:
        raise failure


class _Items(Iterator[Item]):
    """An iterator that threads share, until somebody ends it."""

    def __init__(self, items: Iterable[Item]) -> None:
        self._items = iter(items)
        self._lock = threading.Lock()
        self._is_over = False

    def __next__(self) -> Item:
        with self._lock:
            if self._is_over:
                raise StopIteration
            return next(self._items)

    def end(self) -> None:
        self._is_over = True
