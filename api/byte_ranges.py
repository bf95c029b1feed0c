"""The Range header of a request for one file (RFC 9110, section 14)."""

import re

ONE_RANGE = re.compile(r"bytes=\s*(\d{0,18})-(\d{0,18})\s*", re.IGNORECASE)


class UnsatisfiableRange(Exception):
    """No byte of the file lies in the range."""


def requested_range(header: str | None, size_bytes: int) -> tuple[int, int] | None:
    """Return the half-open range [start, stop) that `header` asks of a file, None to send the whole file.

    Several ranges at once, other units and malformed headers are ignored, as the standard allows.
    Raises `UnsatisfiableRange` for one that starts behind the file's end.
    """
    match = ONE_RANGE.fullmatch(header or "")
    if match is None or match.groups() == ("", ""):
        return None
    first, last = match.groups()
    if not first:
        start, stop = max(size_bytes - int(last), 0), size_bytes
    else:
        start, stop = int(first), min(int(last) + 1, size_bytes) if last else size_bytes
        if last and int(last) < start:
            return None
    if start >= size_bytes or start >= stop:
        raise UnsatisfiableRange
    return start, stop
