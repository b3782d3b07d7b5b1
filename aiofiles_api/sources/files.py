"""Paths and blocking file objects."""

from __future__ import annotations

import asyncio
import io
import os
import socket
import stat
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from typing import Protocol, TypeGuard, cast

from aiofiles_api.errors import SourceChangedError, SourceError
from aiofiles_api.sendfile import Span
from aiofiles_api.sources.contract import BinaryFile, ChunkSize, Reader
from aiofiles_api.sources.memory import MemoryReader
from aiofiles_api.sources.reading import (
    SMALL,
    not_replayable,
    read_chunk,
    read_whole,
    source_changed,
    unreadable,
)
from aiofiles_api.sources.threaded import PipeReader, ThreadReader, open_in_thread
from aiofiles_api.threads import Threads

__all__ = ["FileReader", "FileSource", "PathSource"]

_READINGS = 2
"""How often a small file is read that is written to meanwhile."""


class _SeekableFile(BinaryFile, Protocol):
    """What a file object may have besides; whether it works is seen when it is tried."""

    def fileno(self) -> int: ...
    def seekable(self) -> bool: ...
    def tell(self) -> int: ...
    def seek(self, offset: int, whence: int = ..., /) -> int: ...


class FileReader(ThreadReader):
    """Chunks of a regular file, for whoever does not have the kernel send them from it directly.

    Its end comes only if it has not been written to since it was opened.

    Attributes:
        sent: How many bytes of the span have been sent; to be told before the reader is closed.
        has_changed: Whether the file has been written to since it was opened, although the kernel
            has sent from it; known when the reader is closed.

    Args:
        threads: Where to read.
        read: Reads the next chunk.
        descriptor: The open file's, and its reader's own.
        status: The file's, when it was opened.
        start: Where in it to begin.
        length: Bytes from there to the end.
        leave: Called with the place behind what the kernel has sent, if it has sent any.
    """

    def __init__(
        self,
        threads: Threads,
        read: Callable[[], bytes],
        *,
        descriptor: int,
        status: os.stat_result,
        start: int,
        length: int,
        leave: Callable[[int], object] | None = None,
    ) -> None:
        super().__init__(threads, self._read_checked, length=length, close=self._leave)
        self.read_chunk = read
        self.sent = 0
        self.has_changed = False
        self._descriptor = descriptor
        self._status = status
        self._start = start
        self._length = length
        self._leave_at = leave

    def span(self) -> Span:
        """Return the whole as a span, instead of reading it."""
        return Span(self._descriptor, self._start, self._length, check=self._check)

    async def check(self) -> None:
        """See whether it has been written to since it was opened.

        Raises:
            SourceChangedError: It has.
        """
        await self._threads.run(self._check)

    def _read_checked(self) -> bytes:
        chunk = self.read_chunk()
        if not chunk:
            self._check()
        return chunk

    def _check(self) -> None:
        try:
            now = os.fstat(self._descriptor)
        except OSError as error:
            raise unreadable("the source", error) from error
        if _is_other(now, self._status):
            raise source_changed(self._length, now.st_size - self._start)

    def _leave(self) -> None:
        try:
            if self.sent:
                with suppress(OSError):
                    self.has_changed = _is_other(os.fstat(self._descriptor), self._status)
                if self._leave_at is not None:
                    self._leave_at(self._start + self.sent)
        finally:
            os.close(self._descriptor)


class PathSource:
    """A path, opened anew for each attempt.

    Attributes:
        opened: Length and time of last change (ns) of the file that was opened last; `None` for a
            pipe.
        sent: The same of what was last opened to be sent, and not to be compared; whoever sends it
            says so.
    """

    def __init__(
        self, path: str | os.PathLike[str], threads: Threads, chunk_size: ChunkSize
    ) -> None:
        self._path = os.fspath(path)
        self._chunk_size = chunk_size
        self._what = f"the file {os.fsdecode(self._path)!r}"
        self._threads = threads
        self._is_consumed_pipe = False
        self.opened: tuple[int, int] | None = None
        self.sent: tuple[int, int] | None = None
        self.name: str | None = os.path.basename(os.fsdecode(self._path)) or None

    @property
    def is_spent(self) -> bool:
        """Whether it was a pipe, and consumed."""
        return self._is_consumed_pipe

    @property
    def was_rewritten(self) -> bool:
        """Whether what was opened last may be another content than what was sent.

        Not where it has grown, as a log does: what was sent is its beginning.
        """
        now, then = self.opened, self.sent
        return now is not None and then is not None and now != then and now[0] <= then[0]

    async def open(self) -> Reader:
        """Return a reader that stands at the beginning of what is there now."""
        if self.is_spent:
            raise not_replayable(self._what)
        return await open_in_thread(self._threads, self._open)

    def _open(self) -> Reader:
        try:
            descriptor = _open_to_read(self._path)
            try:
                reader = self._reader(descriptor)
            except BaseException:
                os.close(descriptor)
                raise
            if isinstance(reader, MemoryReader):
                os.close(descriptor)
        except (OSError, ValueError) as error:
            raise unreadable(self._what, error) from error
        return reader

    def _reader(self, descriptor: int) -> Reader:
        status = before = os.fstat(descriptor)
        if stat.S_ISDIR(status.st_mode):
            msg = f"{self._what} is a directory; pass the path of a file in it"
            raise SourceError(msg)
        if not stat.S_ISREG(status.st_mode):
            self._is_consumed_pipe = True
            return PipeReader(
                self._threads,
                lambda: descriptor,
                lambda size: os.read(descriptor, size),
                self._what,
                close=partial(os.close, descriptor),
            )
        read = partial(os.read, descriptor)
        # Asked once: it changes as other transfers come and go.
        limit = max(SMALL, self._chunk_size())
        for _ in range(_READINGS):
            self.opened = (status.st_size, status.st_mtime_ns)
            if status.st_size > limit:
                return FileReader(
                    self._threads,
                    partial(read_chunk, read, self._chunk_size, self._what),
                    descriptor=descriptor,
                    status=status,
                    start=0,
                    length=status.st_size,
                )
            content = read_whole(read, status.st_size, limit, self._what)
            before, status = status, os.fstat(descriptor)
            if not _is_other(status, before):
                return _in_memory(content, limit, self._what)
            os.lseek(descriptor, 0, os.SEEK_SET)
        raise source_changed(before.st_size, status.st_size)


class FileSource:
    """A blocking file object, read from where it stands; rewound for each attempt if it can be."""

    def __init__(
        self,
        file: BinaryFile,
        name: str | None,
        threads: Threads,
        caller_threads: Threads,
        chunk_size: ChunkSize,
    ) -> None:
        self.name = name
        self._chunk_size = chunk_size
        self._file = cast("_SeekableFile", file)
        self._what = f"the file object {name!r}" if name else f"the {type(file).__name__}"
        self._threads = threads
        self._caller_threads = caller_threads
        self._start: int | None = None
        self._consumed = False

    @property
    def is_spent(self) -> bool:
        """Whether it was consumed and cannot go back."""
        return self._consumed and self._start is None

    async def open(self) -> Reader:
        """Return a reader that stands where the file object stood at first."""
        return await open_in_thread(self._caller_threads, self._open)

    def _open(self) -> Reader:
        length = self._rewind()
        read = partial(read_chunk, self._read, self._chunk_size, self._what)
        start = self._start
        if start is None and (read_ready := _reads_what_is_ready(self._file)) is not None:
            return PipeReader(
                self._caller_threads,
                self._file.fileno,
                partial(self._read_with, read_ready),
                self._what,
            )
        if start is None or length is None or not _is_plain(self._file):
            return ThreadReader(self._caller_threads, read, length=length)
        try:
            status = os.fstat(self._file.fileno())
            if length <= SMALL:
                return self._whole(length, status)
            # One of our own: the caller may close theirs at any time.
            descriptor = os.dup(self._file.fileno())
        except (OSError, ValueError) as error:
            raise unreadable(self._what, error) from error
        return FileReader(
            self._threads,
            read,
            descriptor=descriptor,
            status=status,
            start=start,
            length=length,
            leave=self._leave,
        )

    def _whole(self, length: int, before: os.stat_result) -> Reader:
        content = read_whole(self._read, length, SMALL, self._what)
        now = os.fstat(self._file.fileno())
        if _is_other(now, before):
            raise source_changed(before.st_size, now.st_size)
        return _in_memory(content, SMALL, self._what)

    def _rewind(self) -> int | None:
        """Go to where it stood, and return the length from there if that can be known."""
        if self.is_spent:
            raise not_replayable(self._what)
        try:
            if not self._consumed:
                self._start = _position(self._file)
            return None if self._start is None else _length_from(self._file, self._start)
        except (Exception, asyncio.CancelledError) as error:
            raise unreadable(self._what, error) from error

    def _read(self, size: int) -> object:
        return self._read_with(self._file.read, size)

    def _read_with(self, read: Callable[[int], object], size: int) -> object:
        self._consumed = True
        return read(size)

    def _leave(self, place: int) -> None:
        """Leave the file object where reading as much would have."""
        self._consumed = True
        with suppress(OSError, ValueError):  # the caller may have closed it
            self._file.seek(place)


def _in_memory(content: bytes, limit: int, what: str) -> MemoryReader:
    if len(content) > limit:
        msg = f"{what} grew while it was read; upload it when nobody writes to it"
        raise SourceChangedError(msg)
    return MemoryReader(memoryview(content))


def _is_other(now: os.stat_result, before: os.stat_result) -> bool:
    if now.st_size == before.st_size == 0:
        return False  # empty, or one of /proc, whose time may be that at which it is asked
    return (now.st_size, now.st_mtime_ns) != (before.st_size, before.st_mtime_ns)


def _open_to_read(path: str | bytes) -> int:
    flags = os.O_RDONLY | os.O_CLOEXEC
    try:
        # O_NONBLOCK: opening a pipe that nobody writes to yet would block for ever.
        return os.open(path, flags | os.O_NONBLOCK)
    except BlockingIOError:
        # A file that a server of files has a lease on, which it gives up when it is asked.
        return os.open(path, flags)


def _is_plain(file: object) -> TypeGuard[io.BufferedReader]:
    """Return whether a file object's bytes are those of a regular file, and nothing between."""
    # Exactly these: what is derived from them may give other bytes than the file has.
    raw = file
    if type(file) is io.BufferedReader or type(file) is io.BufferedRandom:
        raw = file.raw
    return type(raw) is io.FileIO and stat.S_ISREG(os.fstat(raw.fileno()).st_mode)


def _reads_what_is_ready(file: object) -> Callable[[int], object] | None:
    """Return what reads a pipe's or a socket's file object without waiting for more than came."""
    raw, read = file, getattr(file, "read", None)
    if type(file) is io.BufferedReader:
        raw, read = file.raw, file.read1
    if type(raw) is socket.SocketIO:
        return read
    with suppress(OSError, ValueError):  # closed
        if type(raw) is io.FileIO and not stat.S_ISREG(os.fstat(raw.fileno()).st_mode):
            return read
    return None


def _position(file: _SeekableFile) -> int | None:
    """Return where a file object stands, or `None` if it cannot go back there."""
    try:
        if not file.seekable():
            return None
        position = file.tell()
        file.seek(position)
    except (AttributeError, OSError):
        return None
    return position


def _length_from(file: _SeekableFile, start: int) -> int | None:
    """Return the bytes from `start` to the end, if there is one to go to; go back to `start`."""
    try:
        file.seek(0, os.SEEK_END)
        length = max(file.tell() - start, 0)
    except (OSError, ValueError, NotImplementedError):  # one of /proc, or of a stream, has none
        length = None
    file.seek(start)
    return length
