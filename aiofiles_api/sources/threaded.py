"""What blocks, read in threads."""

from __future__ import annotations

import asyncio
import select
from collections.abc import Callable

from aiofiles_api.sources.contract import Buffer, Reader
from aiofiles_api.sources.reading import CHUNK, checked_chunk, unreadable
from aiofiles_api.threads import Threads, Work, settle, until_done

__all__ = ["PipeReader", "ThreadReader", "open_in_thread"]

_PIPE_POLL = 100
"""Milliseconds for which a thread waits for a pipe before it looks whether it is still wanted."""

_PIPE_STEP = 5
"""Milliseconds after which it looks whether other work waits for a thread."""


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
        while True:
            chunk = await self._threads.run(self._poll)
            if chunk is not None:
                return chunk

    def _poll(self) -> bytes | None:
        try:
            poller = select.poll()
            poller.register(self._descriptor(), select.POLLIN)
            is_ready = self._waits_for(poller)
            chunk = self._read(CHUNK) if is_ready else None
        except BlockingIOError:
            return None
        except (OSError, ValueError) as error:
            raise unreadable(self._what, error) from error
        return None if chunk is None else checked_chunk(chunk, self._what)

    def _waits_for(self, poller: select.poll) -> bool:
        """Wait a while, as long as nothing else waits for the thread; return whether it came."""
        is_ready = bool(poller.poll(_PIPE_STEP))
        for _ in range(_PIPE_POLL // _PIPE_STEP - 1):
            if is_ready or self._threads.is_wanted:
                break
            is_ready = bool(poller.poll(_PIPE_STEP))
        return is_ready

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
