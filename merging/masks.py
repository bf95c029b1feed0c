"""Chance by counting: each element is kept or dropped by itself, wherever and in whatever order it is merged."""

import hashlib

import torch

SPAN = 1 << 30
"""Elements of a span are told apart by 32-bit arithmetic, which is twice as fast as that of 64 bits."""
CHANCES = 1 << 24
"""Probabilities are multiples of 1 / CHANCES."""
MULTIPLIERS = (0x7FEB352D, 0x846CA68B - (1 << 32))
"""Of the 32-bit integer hash `lowbias32` (Chris Wellons, "Prospecting for Hash Functions"), as signed numbers."""


def random_keys(seed: int, tensor: str, source: str) -> tuple[int, int]:
    """Return the two keys (int32) from which the chances of a tensor of a source, named by its digest, follow."""
    content = hashlib.sha256(f"{seed}\0{tensor}\0{source}".encode()).digest()
    return int.from_bytes(content[:4], "big", signed=True), int.from_bytes(content[4:8], "big", signed=True)


def chances(offsets: torch.Tensor, start: torch.Tensor, keys: torch.Tensor) -> torch.Tensor:
    """Return a number in [0, CHANCES) for each element: uniform, and a function of its position and the keys alone.

    Positions are start + offsets; `offsets` is int32, 1-D, `start` one int64, and all lie in one span; `keys` are two
    int64; the result is int32. A counter-based generator: a 32-bit integer hash of the position, keyed at the start and
    between its rounds.
    """
    first, second = keys[0] ^ (start // SPAN * MULTIPLIERS[0]), keys[1]
    word = (offsets + (start % SPAN).to(torch.int32)) ^ first.to(torch.int32)
    word = (word ^ _shifted(word, 16)) * MULTIPLIERS[0]
    word = (word ^ _shifted(word, 15) ^ second.to(torch.int32)) * MULTIPLIERS[1]
    return _shifted(word ^ _shifted(word, 16), 8)


def _shifted(word: torch.Tensor, places: int) -> torch.Tensor:
    """Return the logical shift to the right; torch's own repeats the sign."""
    return (word >> places) & ((1 << (32 - places)) - 1)
