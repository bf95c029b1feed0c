"""Items shared out to threads: each once, failures told, no thread left over."""

import threading
import time
from collections.abc import Iterator

import pytest

from merging.threads import spread


def merging_threads() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name.startswith("merge-")]


@pytest.mark.parametrize("count", [1, 2, 5])
def test_every_item_once(count: int) -> None:
    workers: list[set[int]] = []

    def make_worker() -> "Worker":
        workers.append(set())
        return Worker(workers[-1])

    class Worker:
        def __init__(self, threads: set[int]) -> None:
            self.threads = threads

        def __call__(self, item: int) -> int:
            self.threads.add(threading.get_ident())
            return item * item

    assert sorted(spread(make_worker, range(100), count)) == [n * n for n in range(100)]
    assert len(workers) == count
    assert all(len(threads) <= 1 for threads in workers), "a worker belongs to one thread"
    assert not merging_threads()


@pytest.mark.parametrize("count", [1, 3])
def test_what_a_worker_raises_ends_all(count: int) -> None:
    taken: list[int] = []

    def work(item: int) -> int:
        taken.append(item)
        if item == 10:
            raise OSError("the disk is full")
        time.sleep(0.001)
        return item

    with pytest.raises(OSError, match="the disk is full"):
        list(spread(lambda: work, range(10_000), count))
    assert max(taken) < 1000
    assert not merging_threads()


@pytest.mark.parametrize("count", [1, 3])
def test_what_the_items_raise_is_told(count: int) -> None:
    def items() -> Iterator[int]:
        yield 1
        raise ValueError("no more")

    with pytest.raises(ValueError, match="no more"):
        list(spread(lambda: int, items(), count))
    assert not merging_threads()


def test_a_caller_that_stops_asking_leaves_no_thread() -> None:
    found = spread(lambda: int, iter(range(1_000_000)), 3)
    next(found)
    found.close()
    assert not merging_threads()
