"""Writing one block of a file while the next is made."""

from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from io import FileIO


def write_behind(stream: FileIO, blocks: Iterable[bytes | memoryview]) -> Iterator[int]:
    """Write `blocks` one after the other in a thread of its own; yield the bytes of each that is written.

    A block must stay as it is until the one after it is being made. Raises what the write raises.
    """
    with ThreadPoolExecutor(1) as executor:
        waiting: Future[int] | None = None
        for block in blocks:
            if waiting is not None:
                yield waiting.result()
            waiting = executor.submit(_write_all, stream, block)
        if waiting is not None:
            yield waiting.result()


def _write_all(stream: FileIO, block: bytes | memoryview) -> int:
    view = memoryview(block)
    written = 0
    while written < len(view):
        written += stream.write(view[written:]) or 0
    return len(view)
