"""Standard input, which may be a file, or a pipe that is silent for as long as it likes."""

from __future__ import annotations

import io
import os
import select
import stat
from collections.abc import AsyncGenerator, Iterator

from aiofiles_api.cli.thread import in_thread

__all__ = ["chunks", "source"]

_STDIN = 0
_CHUNK = 1024 * 1024
_POLL = 100
"""Milliseconds for which a thread waits for a pipe before it looks whether it is still wanted."""


def source() -> io.FileIO | AsyncGenerator[bytes, None]:
    """Return it as a file that can be read again, if it is one, or else as it comes."""
    if stat.S_ISREG(os.fstat(_STDIN).st_mode):
        return io.FileIO(_STDIN, closefd=False)
    return _as_it_comes()


def chunks() -> Iterator[bytes | None]:
    """Yield what comes, and `None` whenever nothing has for a while; it blocks so long."""
    while (chunk := _read()) != b"":
        yield chunk


async def _as_it_comes() -> AsyncGenerator[bytes, None]:
    while (chunk := await in_thread(_read)) != b"":
        if chunk is not None:
            yield chunk


def _read() -> bytes | None:
    """Return what came, nothing at the end, or `None` while nothing comes."""
    poller = select.poll()
    poller.register(_STDIN, select.POLLIN)
    return os.read(_STDIN, _CHUNK) if poller.poll(_POLL) else None
