"""The content that travels: a pattern that every party knows, so that what arrived can be checked.

Byte `n` of every file is byte `n` modulo `PERIOD` of one block of pseudo-random bytes.
"""

from __future__ import annotations

import os
import random
from collections.abc import AsyncIterator

__all__ = ["CHUNK", "PERIOD", "check_file", "chunks", "piece", "write_file"]

CHUNK = 2**18
"""Bytes of a chunk of `chunks()`."""

PERIOD = 15 * CHUNK
"""Bytes after which the pattern repeats; no power of two, as every buffer's size is one, so that a
buffer that is out of place is found."""

_BLOCK = random.Random(4).randbytes(PERIOD)
_TWICE = memoryview(_BLOCK + _BLOCK)
_CHUNKS = [_BLOCK[start : start + CHUNK] for start in range(0, PERIOD, CHUNK)]
_SAMPLES = 64
_SAMPLE = 4096
"""So many samples of so many bytes are looked at; up to 256 KB that is all there is."""


def piece(start: int, length: int) -> memoryview:
    """Return up to `length` bytes of the pattern from `start` on; at most `PERIOD` at a time."""
    start %= PERIOD
    return _TWICE[start : start + min(length, PERIOD)]


async def chunks(size: int) -> AsyncIterator[bytes]:
    """Yield a content of `size` bytes in chunks that were made beforehand."""
    for start in range(0, size, CHUNK):
        chunk = _CHUNKS[start // CHUNK % len(_CHUNKS)]
        yield chunk if start + CHUNK <= size else chunk[: size - start]


def write_file(path: str | os.PathLike[str], size: int) -> None:
    """Write a file of `size` bytes."""
    with open(path, "wb") as file:
        written = 0
        while written < size:
            written += file.write(piece(written, size - written))


def check_file(path: str | os.PathLike[str], size: int) -> None:
    """Hold a file's length, and samples from its first byte to its last, against the pattern.

    Raises:
        ValueError: It is not what it should be.
    """
    found = os.stat(path).st_size
    if found != size:
        raise ValueError(f"{os.fspath(path)} has {found:,} bytes, not {size:,}")
    last = max(0, size - _SAMPLE)
    with open(path, "rb") as file:
        for start in sorted({last * number // (_SAMPLES - 1) for number in range(_SAMPLES)}):
            file.seek(start)
            sample = file.read(_SAMPLE)
            if sample != piece(start, len(sample)):
                raise ValueError(f"{os.fspath(path)} is wrong within {_SAMPLE} bytes of {start:,}")
