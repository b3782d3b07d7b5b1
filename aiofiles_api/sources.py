"""Byte sources over every input that a user may hold.

A `Source` can be opened once for each attempt and gives a `Reader` that stands at the same place
every time; where that is impossible it says so with `SourceNotReplayableError`. Blocking reads
happen in threads, one chunk ahead of whoever consumes them, so memory is a few chunks whatever
the source's size. Nothing that the caller opened is ever closed here.
"""

from __future__ import annotations

import asyncio
import inspect
import io
import os
import select
import socket
import stat
import tempfile
import time
from collections.abc import AsyncIterable, AsyncIterator, Awaitable, Callable, Iterable, Iterator
from contextlib import asynccontextmanager, suppress
from functools import partial
from typing import IO, Protocol, TypeAlias, TypeGuard, cast

from aiofiles_api.errors import (
    InvalidArgumentError,
    SourceChangedError,
    SourceError,
    SourceNotReplayableError,
)
from aiofiles_api.sendfile import Span
from aiofiles_api.threads import Threads, Work, join, settle, until_done

__all__ = [
    "AsyncBinaryFile",
    "BinaryFile",
    "Buffer",
    "FileReader",
    "PathSource",
    "Reader",
    "Source",
    "UploadSource",
    "as_source",
    "source_changed",
    "spooled",
]

Buffer: TypeAlias = bytes | bytearray | memoryview

ChunkSize: TypeAlias = Callable[[], int]
"""Says how many bytes to read now."""

_CHUNK = 1024 * 1024
"""Bytes read at a time where nobody says: few hops between threads, little memory."""

_PAGE = 4096

_SMALL = 256 * 1024
"""A file up to this length is opened, read and closed in one hop, and so is a longer one where a
single read may be as long."""

_GATHER = 0.1
"""Seconds for which the chunks of a slow iterable are gathered at most before they are sent."""

_PIPE_POLL = 100
"""Milliseconds for which a thread waits for a pipe before it looks whether it is still wanted."""

_PIPE_STEP = 5
"""Milliseconds after which it looks whether other work waits for a thread."""

_WRAPPERS = frozenset({"aiofiles", "anyio", "fastapi", "litestar", "starlette", "tempfile"})
"""Packages whose file objects are wrappers; anybody else's may give other bytes than their file."""


class BinaryFile(Protocol):
    """A binary file object, as `open(…, "rb")` gives it."""

    def read(self, size: int, /) -> bytes:
        """Return up to `size` bytes, none at the end."""
        ...


class AsyncBinaryFile(Protocol):
    """An asynchronous binary file object: FastAPI's `UploadFile`, anyio's and aiofiles' files."""

    async def read(self, size: int, /) -> bytes:
        """Return up to `size` bytes, none at the end."""
        ...


class _SeekableFile(BinaryFile, Protocol):
    """What a file object may have besides; whether it works is seen when it is tried."""

    def fileno(self) -> int: ...
    def seekable(self) -> bool: ...
    def tell(self) -> int: ...
    def seek(self, offset: int, whence: int = ..., /) -> int: ...


class _AsyncSeekableFile(AsyncBinaryFile, Protocol):
    """The same of an asynchronous one."""

    async def tell(self) -> int: ...
    async def seek(self, offset: int, whence: int = ..., /) -> int: ...


UploadSource: TypeAlias = (
    str
    | os.PathLike[str]
    | Buffer
    | BinaryFile
    | AsyncBinaryFile
    | AsyncIterable[bytes]
    | Iterable[bytes]
)
"""What can be uploaded: a path, bytes, a binary file object, or an iterable of bytes."""


class Reader(Protocol):
    """One pass over a source.

    Attributes:
        length: The bytes that it will give, or `None` when that cannot be known.
    """

    length: int | None

    async def read(self) -> Buffer:
        """Return the next chunk, empty at the end.

        Raises:
            SourceError: The source cannot be read.
        """
        ...

    async def aclose(self) -> None:
        """Wait for what a thread still does, and release what was opened here."""
        ...


class Source(Protocol):
    """Something that can be uploaded.

    Attributes:
        name: The name that it bears, or `None`.
    """

    name: str | None

    @property
    def is_spent(self) -> bool:
        """Whether it was consumed, at least in part, and cannot be read a second time."""
        ...

    async def open(self) -> Reader:
        """Return a reader that stands where the first one stood.

        Raises:
            SourceError: It cannot be read.
            SourceNotReplayableError: It was consumed and cannot be read a second time.
        """
        ...


def as_source(
    upload: UploadSource,
    threads: Threads,
    *,
    caller_threads: Threads | None = None,
    chunk_size: ChunkSize = lambda: _CHUNK,
) -> Source:
    """Return a source over what the caller handed in; nothing is read or opened yet.

    Args:
        upload: What the caller handed in.
        threads: Where to read files.
        caller_threads: Where to run code of the caller's, which may block for long, if not there.
        chunk_size: Asked before each read for how many bytes to read.

    Raises:
        InvalidArgumentError: It is none of the kinds of `UploadSource`.
    """
    if isinstance(upload, str | os.PathLike):
        return PathSource(upload, threads, chunk_size)
    if _is_memory(upload):
        return _MemorySource(upload)
    name = _name_of(upload)
    # UploadFile and anyio's files are wrappers around a plain file, which can be read ahead.
    plain = _unwrapped(upload)
    if isinstance(plain, io.TextIOBase):
        msg = "source: the file is open in text mode; open it in binary mode: open(path, 'rb')"
        raise InvalidArgumentError(msg)
    callers = caller_threads or threads
    read = getattr(plain, "read", None)
    if inspect.iscoroutinefunction(read):
        return _AsyncFileSource(cast("_AsyncSeekableFile", plain), name, chunk_size)
    if callable(read):
        return _FileSource(cast("_SeekableFile", plain), name, threads, callers, chunk_size)
    if isinstance(upload, AsyncIterable):
        return _AsyncIterableSource(upload, name)
    if isinstance(upload, Iterable):
        return _IterableSource(cast("Iterable[bytes]", upload), name, callers)
    msg = (
        f"source: cannot upload a {type(upload).__name__}; pass a path, bytes, a binary file"
        " object or an iterable of bytes"
    )
    raise InvalidArgumentError(msg)


def _is_memory(upload: object) -> TypeGuard[Buffer]:
    try:
        memoryview(upload)  # type: ignore[arg-type]
    except TypeError:
        return False
    except ValueError as error:
        msg = f"source: the {type(upload).__name__} cannot be read any more: {error}"
        raise InvalidArgumentError(msg) from error
    return True


def _unwrapped(upload: object) -> object:
    """Return the plain file in a wrapper around one, if what it gives is what the file has."""
    while type(upload).__module__.partition(".")[0] in _WRAPPERS:
        for attribute in ("file", "wrapped", "_file"):
            inner = getattr(upload, attribute, None)
            # One that is kept in memory so far may come to be in another file.
            if callable(getattr(inner, "read", None)) and getattr(upload, "_rolled", True):
                upload = inner
                break
        else:
            break
    return upload


def _name_of(upload: object) -> str | None:
    # What comes from a form has the form field's name besides.
    for attribute in ("name",) if isinstance(upload, io.IOBase) else ("filename", "name"):
        name = getattr(upload, attribute, None)
        if isinstance(name, str | bytes) and name:
            return os.path.basename(os.fsdecode(name)) or None
    return None


class _MemoryReader:
    """Slices of bytes in memory, without copies."""

    def __init__(self, view: memoryview) -> None:
        self.length: int | None = len(view)
        self._view = view
        self._position = 0

    async def read(self) -> Buffer:
        chunk = self._view[self._position : self._position + _CHUNK]
        self._position += len(chunk)
        return chunk

    async def aclose(self) -> None:
        self._view = memoryview(b"")


class _MemorySource:
    """Bytes in memory, which are viewed only while a reader is open: a view locks them."""

    def __init__(self, content: Buffer) -> None:
        self.name: str | None = None
        self._content = content

    @property
    def is_spent(self) -> bool:
        return False

    async def open(self) -> Reader:
        try:
            view = memoryview(self._content)
        except ValueError as error:
            raise _unreadable(f"the {type(self._content).__name__}", error) from error
        try:
            return _MemoryReader(view.cast("B"))
        except (TypeError, ValueError):
            # With gaps, of no length, or of a format that cast() does not know: copy it.
            return _MemoryReader(memoryview(view.tobytes()))


class _ThreadReader:
    """Chunks that a blocking function returns, read one ahead in a thread."""

    def __init__(
        self,
        threads: Threads,
        read: Callable[[], bytes],
        *,
        length: int | None,
        close: Callable[[], None] | None = None,
    ) -> None:
        self.length = length
        self._threads = threads
        self._read = read
        self._close = close
        self._ahead: Work[bytes] | None = None

    async def read(self) -> Buffer:
        if self._ahead is None:
            self._ahead = self._threads.start(self._read)
        try:
            await until_done(self._ahead)
        except asyncio.CancelledError:
            await self._leave_thread()
            raise
        chunk = self._ahead.result()
        self._ahead = self._threads.start(self._read) if chunk else None
        return chunk

    async def aclose(self) -> None:
        try:
            await self._leave_thread()
        finally:
            if self._close is not None:
                await self._threads.run(self._close)

    async def _leave_thread(self) -> None:
        """Wait for the thread that reads ahead, or have none do that if none has begun."""
        if self._ahead is None:
            return
        if self._threads.withdraw(self._ahead):
            self._ahead = None
        else:
            await settle(self._ahead)


class FileReader(_ThreadReader):
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
        self._read_chunk = read
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
        chunk = self._read_chunk()
        if not chunk:
            self._check()
        return chunk

    def _check(self) -> None:
        try:
            now = os.fstat(self._descriptor)
        except OSError as error:
            raise _unreadable("the source", error) from error
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


def _is_other(now: os.stat_result, before: os.stat_result) -> bool:
    return (now.st_size, now.st_mtime_ns) != (before.st_size, before.st_mtime_ns)


class _PipeReader:
    """A pipe, a terminal or a device: it may be silent for long, and a thread must not wait for it.

    Args:
        threads: Where to read.
        descriptor: Gives the number to be watched.
        read: Reads what there is, up to so many bytes.
        what: What it is, for the message.
        close: Called in a thread at the end.
    """

    length: int | None = None

    def __init__(
        self,
        threads: Threads,
        descriptor: Callable[[], int],
        read: Callable[[int], object],
        what: str,
        *,
        close: Callable[[], object] | None = None,
    ) -> None:
        self._threads = threads
        self._descriptor = descriptor
        self._read = read
        self._what = what
        self._close = close

    async def read(self) -> Buffer:
        while True:
            chunk = await self._threads.run(self._poll)
            if chunk is not None:
                return chunk

    def _poll(self) -> bytes | None:
        try:
            poller = select.poll()
            poller.register(self._descriptor(), select.POLLIN)
            is_ready = self._waits_for(poller)
            chunk = self._read(_CHUNK) if is_ready else None
        except BlockingIOError:
            return None
        except (OSError, ValueError) as error:
            raise _unreadable(self._what, error) from error
        return None if chunk is None else _checked_chunk(chunk, self._what)

    def _waits_for(self, poller: select.poll) -> bool:
        """Wait a while, as long as nothing else waits for the thread; return whether it came."""
        is_ready = bool(poller.poll(_PIPE_STEP))
        for _ in range(_PIPE_POLL // _PIPE_STEP - 1):
            if is_ready or self._threads.is_wanted:
                break
            is_ready = bool(poller.poll(_PIPE_STEP))
        return is_ready

    async def aclose(self) -> None:
        if self._close is not None:
            await self._threads.run(self._close)


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
            raise _not_replayable(self._what)
        return await _open_in_thread(self._threads, self._open)

    def _open(self) -> Reader:
        try:
            descriptor = _open_to_read(self._path)
        except (OSError, ValueError) as error:
            raise _unreadable(self._what, error) from error
        keep_open = False
        try:
            status = os.fstat(descriptor)
            if stat.S_ISDIR(status.st_mode):
                msg = f"{self._what} is a directory; pass the path of a file in it"
                raise SourceError(msg)
            if not stat.S_ISREG(status.st_mode):
                keep_open = self._is_consumed_pipe = True
                return _PipeReader(
                    self._threads,
                    lambda: descriptor,
                    lambda size: os.read(descriptor, size),
                    self._what,
                    close=partial(os.close, descriptor),
                )
            self.opened = (status.st_size, status.st_mtime_ns)
            # Asked once: it changes as other transfers come and go.
            limit = max(_SMALL, self._chunk_size())
            if status.st_size <= limit:
                return self._read_whole(descriptor, status.st_size, limit)
            keep_open = True
            read = partial(_read_chunk, partial(os.read, descriptor), self._chunk_size, self._what)
            return FileReader(
                self._threads,
                read,
                descriptor=descriptor,
                status=status,
                start=0,
                length=status.st_size,
            )
        finally:
            if not keep_open:
                os.close(descriptor)

    def _read_whole(self, descriptor: int, size: int, limit: int) -> Reader:
        read = partial(os.read, descriptor)
        # One byte more is asked for: where it does not come, this is the end. Of what /proc shows,
        # some is given whole or not at all.
        content = _read_chunk(read, lambda: max(size + 1, _PAGE), self._what)
        if len(content) != size:  # it has changed, or is one of /proc, whose lengths are 0
            content = b"".join((content, *self._rest(read, limit)))
        if len(content) > limit:
            msg = f"{self._what} grew while it was read; upload it when nobody writes to it"
            raise SourceChangedError(msg)
        return _MemoryReader(memoryview(content))

    def _rest(self, read: Callable[[int], object], limit: int) -> Iterator[bytes]:
        """Yield what is behind, a little more than `limit` at most."""
        left = limit
        while left > 0 and (chunk := _read_chunk(read, lambda: _SMALL, self._what)):
            left -= len(chunk)
            yield chunk


class _FileSource:
    """A blocking file object, read from where it stands; rewound for each attempt if it can be."""

    def __init__(
        self,
        file: _SeekableFile,
        name: str | None,
        threads: Threads,
        caller_threads: Threads,
        chunk_size: ChunkSize,
    ) -> None:
        self.name = name
        self._chunk_size = chunk_size
        self._file = file
        self._what = f"the file object {name!r}" if name else f"the {type(file).__name__}"
        self._threads = threads
        self._caller_threads = caller_threads
        self._start: int | None = None
        self._consumed = False

    @property
    def is_spent(self) -> bool:
        return self._consumed and self._start is None

    async def open(self) -> Reader:
        return await _open_in_thread(self._caller_threads, self._open)

    def _open(self) -> Reader:
        length = self._rewind()
        read = partial(_read_chunk, self._read, self._chunk_size, self._what)
        start = self._start
        if start is None and (read_ready := _reads_what_is_ready(self._file)) is not None:
            return _PipeReader(
                self._caller_threads,
                self._file.fileno,
                partial(self._read_with, read_ready),
                self._what,
            )
        if start is None or length is None or length <= _SMALL or not _is_plain(self._file):
            return _ThreadReader(self._caller_threads, read, length=length)
        try:
            status = os.fstat(self._file.fileno())
            # One of our own: the caller may close theirs at any time.
            descriptor = os.dup(self._file.fileno())
        except OSError as error:
            raise _unreadable(self._what, error) from error
        return FileReader(
            self._threads,
            read,
            descriptor=descriptor,
            status=status,
            start=start,
            length=length,
            leave=self._leave,
        )

    def _rewind(self) -> int | None:
        """Go to where it stood, and return the length from there if that can be known."""
        if self.is_spent:
            raise _not_replayable(self._what)
        try:
            if not self._consumed:
                self._start = _position(self._file)
            return None if self._start is None else _length_from(self._file, self._start)
        except Exception as error:
            raise _unreadable(self._what, error) from error

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


class _AsyncFileSource:
    """An asynchronous file object, read from where it stands."""

    def __init__(self, file: _AsyncSeekableFile, name: str | None, chunk_size: ChunkSize) -> None:
        self.name = name
        self._chunk_size = chunk_size
        self._file = file
        self._what = f"the file object {name!r}" if name else f"the {type(file).__name__}"
        self._start: int | None = None
        self._consumed = False

    @property
    def is_spent(self) -> bool:
        return self._consumed and self._start is None

    async def open(self) -> Reader:
        if self.is_spent:
            raise _not_replayable(self._what)
        length = None
        try:
            if not self._consumed:
                self._start = await _async_position(self._file)
            if self._start is not None:
                length = await _async_length_from(self._file, self._start)
        except Exception as error:
            raise _unreadable(self._what, error) from error
        return _AsyncReader(self._read, self._what, length=length)

    async def _read(self) -> object:
        self._consumed = True
        return await self._file.read(self._chunk_size())


class _AsyncReader:
    """Chunks that a coroutine function returns."""

    def __init__(
        self, read: Callable[[], Awaitable[object]], what: str, *, length: int | None
    ) -> None:
        self.length = length
        self._read = read
        self._what = what

    async def read(self) -> Buffer:
        try:
            chunk = await self._read()
        except Exception as error:
            raise _unreadable(self._what, error) from error
        except asyncio.CancelledError as error:
            task = asyncio.current_task()
            if task is None or task.cancelling():
                raise
            raise _unreadable(self._what, error) from error  # a task of the source's own was
        return _checked_chunk(chunk, self._what)

    async def aclose(self) -> None:
        pass  # what the caller opened stays open


class _AsyncIterableSource:
    """An asynchronous iterable, which can be asked only once."""

    def __init__(self, iterable: AsyncIterable[bytes], name: str | None) -> None:
        self.name = name
        self._iterable = iterable
        self._iterator: AsyncIterator[bytes] | None = None
        self._what = f"the {type(iterable).__name__}"

    @property
    def is_spent(self) -> bool:
        return self._iterator is not None

    async def open(self) -> Reader:
        if self.is_spent:
            raise _not_replayable(self._what)
        return _AsyncReader(self._next, self._what, length=None)

    async def _next(self) -> object:
        if self._iterator is None:
            self._iterator = aiter(self._iterable)
        # Not `async for`, which asks an iterator for an iterator: not all of them have one.
        with suppress(StopAsyncIteration):
            while (chunk := await anext(self._iterator)) == b"":
                pass  # an empty one would say that this is the end
            return chunk
        return b""


class _IterableSource:
    """An iterable of bytes; only a sequence can be trusted to give the same a second time."""

    def __init__(self, iterable: Iterable[bytes], name: str | None, threads: Threads) -> None:
        self.name = name
        self._iterable = iterable
        self._what = f"the {type(iterable).__name__}"
        self._threads = threads
        self._replayable = isinstance(iterable, list | tuple)
        self._consumed = False

    @property
    def is_spent(self) -> bool:
        return self._consumed and not self._replayable

    async def open(self) -> Reader:
        if self.is_spent:
            raise _not_replayable(self._what)
        return _ThreadReader(self._threads, partial(next, self._batches(), b""), length=None)

    def _batches(self) -> Iterator[bytes]:
        """Join chunks up to a useful size: a hop to a thread for each line would be slow."""
        self._consumed = True
        batch = bytearray()
        began = time.monotonic()
        try:
            for chunk in self._iterable:
                if not batch and len(chunk) >= _SMALL:
                    yield _checked_chunk(chunk, self._what)
                    began = time.monotonic()
                    continue
                batch += _checked_chunk(chunk, self._what)
                if batch and (len(batch) >= _SMALL or time.monotonic() - began >= _GATHER):
                    yield bytes(batch)
                    batch.clear()
                    began = time.monotonic()
        except SourceError:
            raise
        except (Exception, asyncio.CancelledError) as error:
            raise _unreadable(self._what, error) from error
        if batch:
            yield bytes(batch)


def _open_to_read(path: str | bytes) -> int:
    flags = os.O_RDONLY | os.O_CLOEXEC
    try:
        # O_NONBLOCK: opening a pipe that nobody writes to yet would block for ever.
        return os.open(path, flags | os.O_NONBLOCK)
    except BlockingIOError:
        # A file that a server of files has a lease on, which it gives up when it is asked.
        return os.open(path, flags)


def _read_chunk(read: Callable[[int], object], chunk_size: ChunkSize, what: str) -> bytes:
    try:
        chunk = read(chunk_size())
    except (Exception, asyncio.CancelledError) as error:
        raise _unreadable(what, error) from error
    return _checked_chunk(chunk, what)


def _checked_chunk(chunk: object, what: str) -> bytes:
    if isinstance(chunk, bytes | bytearray | memoryview):
        # A copy of what may be filled anew while it waits to be sent; bytes are not copied.
        return bytes(chunk)
    msg = f"{what} gave a {type(chunk).__name__} instead of bytes; use a binary, blocking one"
    raise SourceError(msg)


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


async def _open_in_thread(threads: Threads, open_reader: Callable[[], Reader]) -> Reader:
    opening = threads.start(open_reader)
    try:
        await until_done(opening)
    except asyncio.CancelledError:
        if not threads.withdraw(opening):
            try:
                await settle(opening)
            finally:
                # The thread may have opened it all the same, and now nobody else knows.
                if opening.exception() is None:
                    await opening.result().aclose()
        raise
    return opening.result()


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


async def _async_position(file: _AsyncSeekableFile) -> int | None:
    try:
        position = await file.tell()
        await file.seek(position)
    except (AttributeError, OSError):
        return None
    return position


async def _async_length_from(file: _AsyncSeekableFile, start: int) -> int | None:
    try:
        await file.seek(0, os.SEEK_END)
        length = max(await file.tell() - start, 0)
    except (OSError, ValueError, NotImplementedError):
        length = None
    await file.seek(start)
    return length


def source_changed(expected: int | None, now: int | None) -> SourceChangedError:
    """Make the error for a source that is not what it was when its upload began.

    Args:
        expected: Its length then.
        now: Its length now; `None` if that is more than it was.
    """
    if now == expected:
        what = "was written to while it was sent"
    else:
        what = f"had {expected:,} bytes when its upload began, and now has"
        what += " more" if now is None else f" {now:,}"
    msg = f"the source {what}; nothing was stored: upload it when nobody writes to it"
    return SourceChangedError(msg)


def _unreadable(what: str, error: BaseException) -> SourceError:
    if isinstance(error, OSError) and error.strerror:
        return SourceError(
            f"{what} cannot be read: {error.strerror}; check that it exists and is readable"
        )
    return SourceError(f"{what} cannot be read: it raised {error!r}")


def _not_replayable(what: str) -> SourceNotReplayableError:
    msg = (
        f"another attempt is needed, but {what} was consumed and cannot be read again; upload"
        " from a path, from bytes or from a seekable file, or pass spool=True"
    )
    return SourceNotReplayableError(msg)


@asynccontextmanager
async def spooled(source: Source, threads: Threads) -> AsyncIterator[Source]:
    """Copy a source into a temporary file first, so that it can be read as often as is needed.

    Raises:
        SourceError: The source cannot be read, or there is no space for the copy.
    """
    opening = threads.start(tempfile.TemporaryFile)
    try:
        try:
            file = await join(opening)
            await _copy(source, file, threads)
        except OSError as error:
            msg = f"spool=True: no temporary copy: {error.strerror}; free space, or set TMPDIR"
            raise SourceError(msg) from error
        yield _FileSource(file, source.name, threads, threads, lambda: _CHUNK)
    finally:
        # The thread may have opened it although we were cancelled meanwhile.
        if opening.exception() is None:
            await threads.run(opening.result().close)


async def _copy(source: Source, file: IO[bytes], threads: Threads) -> None:
    reader = await source.open()
    try:
        while chunk := await reader.read():
            await threads.run(partial(file.write, chunk))
    finally:
        await reader.aclose()
    await threads.run(partial(file.seek, 0))
