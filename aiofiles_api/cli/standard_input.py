"""Standard input, which may be a file, or a pipe that is silent for as long as it likes."""

from __future__ import annotations

import io
import os
import select
import stat
from collections.abc import AsyncGenerator, Iterator
from contextlib import contextmanager
from typing import BinaryIO

from aiofiles_api import FilesError
from aiofiles_api.cli.thread import in_thread

__all__ = ["Content", "chunks"]

_STDIN = 0
_CHUNK = 1024 * 1024
_POLL = 100
"""Milliseconds for which a thread waits for a pipe before it looks whether it is still wanted."""


def chunks() -> Iterator[bytes | None]:
    """Yield what comes, and `None` whenever nothing has for a while; it blocks so long.

    Raises:
        FilesError: It cannot be read.
    """
    while (chunk := _read()) != b"":
        yield chunk


class Content:
    """Standard input as the content of one file, which can be looked at before it is sent.

    Attributes:
        size: Its bytes: if it is a file, or if nothing comes at all.
    """

    def __init__(self) -> None:
        self.size: int | None = None
        self._first: bytes | None = None

    def steps(self) -> Iterator[None]:
        """Wait, step by step, until it is known whether there is something.

        Raises:
            FilesError: It cannot be read.
        """
        info = os.fstat(_STDIN)
        if stat.S_ISREG(info.st_mode):
            self.size = max(info.st_size - os.lseek(_STDIN, 0, os.SEEK_CUR), 0)
            return
        while (first := _read()) is None:
            yield
        self._first = first
        if first == b"":
            self.size = 0

    @contextmanager
    def open(self) -> Iterator[BinaryIO]:
        """Open it for a look, if it is a file; afterwards it stands where it stood."""
        start = os.lseek(_STDIN, 0, os.SEEK_CUR)
        with _named(), open(_STDIN, "rb", closefd=False) as file:
            yield file
        os.lseek(_STDIN, start, os.SEEK_SET)

    def source(self) -> io.FileIO | AsyncGenerator[bytes, None]:
        """Return it as a file that can be read again, if it is one, or else as it comes."""
        if self._first is None:
            return io.FileIO(_STDIN, closefd=False)
        return self._as_it_comes(self._first)

    async def _as_it_comes(self, chunk: bytes | None) -> AsyncGenerator[bytes, None]:
        while chunk != b"":
            if chunk is not None:
                yield chunk
            chunk = await in_thread(_read)


def _read() -> bytes | None:
    """Return what came, nothing at the end, or `None` while nothing comes."""
    poller = select.poll()
    poller.register(_STDIN, select.POLLIN)
    with _named():
        return os.read(_STDIN, _CHUNK) if poller.poll(_POLL) else None


@contextmanager
def _named() -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise FilesError(f"standard input cannot be read: {error.strerror}") from error
