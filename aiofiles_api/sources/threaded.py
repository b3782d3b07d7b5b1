"""What blocks, read in threads."""

from __future__ import annotations

import asyncio
import os
import select
from collections.abc import Callable
from contextlib import ExitStack

from aiofiles_api.sources.contract import Buffer, Reader
from aiofiles_api.sources.reading import CHUNK, checked_chunk, unreadable
from aiofiles_api.threads import Threads, Work, settle, until_done

__all__ = ["PipeReader", "ThreadReader", "open_in_thread"]

_LOOK = 1.0
"""Seconds after which a silent pipe is looked at again: of its being closed nobody tells."""

_PAUSE = 0.05
"""Seconds after which what cannot be watched is looked at again."""


class ThreadReader:
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
        """Return the chunk that was read ahead, and have the next one read."""
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
        """Wait for the thread that reads ahead, and release what was opened."""
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


class PipeReader:
    """A pipe, a terminal or a device: it may be silent for long, and a thread must not wait for it.

    The loop waits, and a thread reads what has come.

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
        """Return what has come, waiting for some."""
        while (chunk := await self._threads.run(self._read_ready)) is None:
            await self._wait()
        return chunk

    def _read_ready(self) -> bytes | None:
        """Return what has come, or `None`; to be called in a thread."""
        try:
            poller = select.poll()
            poller.register(self._descriptor(), select.POLLIN)
            chunk = self._read(CHUNK) if poller.poll(0) else None
        except BlockingIOError:
            return None
        except (OSError, ValueError) as error:
            raise unreadable(self._what, error) from error
        return None if chunk is None else checked_chunk(chunk, self._what)

    async def _wait(self) -> None:
        """Wait until something may have come, or something else has happened to it."""
        loop = asyncio.get_running_loop()
        ready = asyncio.Event()
        with ExitStack() as stack:
            try:
                # One of our own: the caller may close theirs, or have the loop watch it.
                descriptor = os.dup(self._descriptor())
                stack.callback(os.close, descriptor)
                loop.add_reader(descriptor, ready.set)
                stack.callback(loop.remove_reader, descriptor)
                pause = _LOOK
            except (OSError, ValueError):  # closed, or one of the devices that cannot be watched
                pause = _PAUSE
            stack.callback(loop.call_later(pause, ready.set).cancel)
            await ready.wait()

    async def aclose(self) -> None:
        """Release what was opened."""
        if self._close is not None:
            await self._threads.run(self._close)


async def open_in_thread(threads: Threads, open_reader: Callable[[], Reader]) -> Reader:
    """Return the reader that a thread opens, or have it closed where a cancellation comes first."""
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
