"""Asynchronous file objects and iterables, read in the caller's own way."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterable, AsyncIterator, Awaitable, Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Protocol, cast

from aiofiles_api.sources.contract import AsyncBinaryFile, Buffer, ChunkSize, Reader
from aiofiles_api.sources.reading import checked_chunk, not_replayable, unreadable
from aiofiles_api.threads import is_being_cancelled

__all__ = ["AsyncFileSource", "AsyncIterableSource"]

_TURN = 100
"""Chunks of an iterable after which others get a turn: one that waits for nothing gives them none,
and empty ones fill no connection either."""


class _AsyncSeekableFile(AsyncBinaryFile, Protocol):
    """What an asynchronous file object may have besides; whether it works is seen as well."""

    async def tell(self) -> int: ...
    async def seek(self, offset: int, whence: int = ..., /) -> int: ...


class AsyncFileSource:
    """An asynchronous file object, read from where it stands."""

    def __init__(self, file: AsyncBinaryFile, name: str | None, chunk_size: ChunkSize) -> None:
        self.name = name
        self._chunk_size = chunk_size
        self._file = cast("_AsyncSeekableFile", file)
        self._what = f"the file object {name!r}" if name else f"the {type(file).__name__}"
        self._start: int | None = None
        self._consumed = False

    @property
    def is_spent(self) -> bool:
        """Whether it was consumed and cannot go back."""
        return self._consumed and self._start is None

    async def open(self) -> Reader:
        """Return a reader that stands where the file object stood at first."""
        if self.is_spent:
            raise not_replayable(self._what)
        length = None
        with _readable(self._what):
            if not self._consumed:
                self._start = await _async_position(self._file)
            if self._start is not None:
                length = await _async_length_from(self._file, self._start)
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
        with _readable(self._what):
            chunk = await self._read()
        return checked_chunk(chunk, self._what)

    async def aclose(self) -> None:
        pass  # what the caller opened stays open


class AsyncIterableSource:
    """An asynchronous iterable, which can be asked only once."""

    def __init__(self, iterable: AsyncIterable[bytes], name: str | None) -> None:
        self.name = name
        self._iterable = iterable
        self._iterator: AsyncIterator[bytes] | None = None
        self._asked = 0
        self._what = f"the {type(iterable).__name__}"

    @property
    def is_spent(self) -> bool:
        """Whether it was asked for its items."""
        return self._iterator is not None

    async def open(self) -> Reader:
        """Return the one reader that there can be."""
        if self.is_spent:
            raise not_replayable(self._what)
        return _AsyncReader(self._next, self._what, length=None)

    async def _next(self) -> object:
        if self._iterator is None:
            self._iterator = aiter(self._iterable)
        # Not `async for`, which asks an iterator for an iterator: not all of them have one.
        with suppress(StopAsyncIteration):
            while (chunk := await self._ask(self._iterator)) == b"":
                pass  # an empty one would say that this is the end
            return chunk
        return b""

    async def _ask(self, iterator: AsyncIterator[bytes]) -> bytes:
        self._asked += 1
        if not self._asked % _TURN:
            await asyncio.sleep(0)
        return await anext(iterator)


@contextmanager
def _readable(what: str) -> Iterator[None]:
    """Make a `SourceError` of what the caller's code raises."""
    try:
        yield
    except Exception as error:
        raise unreadable(what, error) from error
    except asyncio.CancelledError as error:
        if is_being_cancelled():
            raise
        raise unreadable(what, error) from error  # a task of the source's own was


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
