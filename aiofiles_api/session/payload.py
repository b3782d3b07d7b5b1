"""What an attempt sends, and how aiohttp sends it."""

from __future__ import annotations

import asyncio
import errno
from collections.abc import Awaitable, Callable
from typing import Protocol, TypeAlias

import aiohttp
from aiohttp.abc import AbstractStreamWriter

from aiofiles_api.chunked import ChunkedWriter
from aiofiles_api.config import Timeouts
from aiofiles_api.errors import FilesError
from aiofiles_api.sendfile import FileSender, Span, takes_files
from aiofiles_api.session.turn import Turn
from aiofiles_api.sources import Buffer
from aiofiles_api.stalls import Movement, StallWatch, time_to_look
from aiofiles_api.threads import Threads, settle

__all__ = ["SILENT", "Body", "OpenBody", "Payload"]

_NEVER_WAITS = 32 * 1024
"""Bytes that a connection's transport always takes at once, together with a request's headers
(asyncio's transports and aiohttp's writer: 64 KiB), so that nobody need watch whether they move."""

SILENT = "the server was silent for too long (Timeouts.reply before its reply, .read within)"


class Body(Protocol):
    """What an attempt sends.

    Attributes:
        length: Its bytes, or `None` when that cannot be known.
        takes_files: Whether the connection takes spans of files: set before the first `read`.
    """

    length: int | None
    takes_files: bool

    async def read(self) -> Buffer | Span:
        """Return the next piece, empty at the end."""
        ...

    def advance(self, size: int) -> None:
        """Take note that so many more bytes of the span that it gave last have been sent."""
        ...

    async def aclose(self) -> None:
        """Release what was opened for it."""
        ...


OpenBody: TypeAlias = Callable[[], Awaitable[Body]]
"""Makes a fresh body for each attempt, standing at the beginning."""


class Payload(aiohttp.Payload):
    """Adapts a body to aiohttp, and watches that its bytes move.

    aiohttp writes it in a task of its own, wraps what it raises, and forgets that task when a reply
    comes early; so the failure is kept here, and `aclose()` ends the task.

    Attributes:
        failure: What the body raised.
        sent: Set when there is no more to send.
    """

    def __init__(
        self,
        body: Body,
        content_type: str,
        timeouts: Timeouts,
        threads: Threads,
        turn: Turn,
        *,
        check_usable: Callable[[], None],
        is_watched: bool,
    ) -> None:
        super().__init__(body, content_type=content_type)
        self._check_usable = check_usable
        self._is_watched = is_watched
        self._turn = turn
        self._size = body.length
        self._body = body
        self._limit = timeouts.write
        self._reply_limit = timeouts.reply
        self._giving_up: asyncio.TimerHandle | None = None
        self._writer: asyncio.Task[object] | None = None
        self._watch: StallWatch | None = None
        self._threads = threads
        self._sender: FileSender | None = None
        self.failure: Exception | None = None
        self.sent = asyncio.Event()
        self._is_unanswered = False

    @property
    def is_sending(self) -> bool:
        """Whether the body is on its way."""
        return self._writer is not None and not self.sent.is_set()

    @property
    def overdue(self) -> str | None:
        """What the server has not done in its time, if the connection was broken off for that."""
        if any(one is not None and one.stalled for one in (self._watch, self._sender)):
            return "the server took no bytes for too long (Timeouts.write)"
        return SILENT if self._is_unanswered else None

    async def write(self, writer: AbstractStreamWriter) -> None:  # pragma: no cover - see below
        """Abstract in aiohttp, which for a body like ours calls `write_with_length` instead."""
        await self.write_with_length(writer, None)

    async def write_with_length(
        self,
        writer: AbstractStreamWriter,
        content_length: int | None,  # noqa: ARG002 - always that of the body
    ) -> None:
        """Send the body: called by aiohttp, in a task of its own."""
        self._writer = asyncio.current_task()
        try:
            await self._write(writer)
        finally:
            self.sent.set()
            if self._reply_limit is not None:
                movement = None
                if self._watch is not None and writer.transport is not None:
                    movement = Movement(writer.transport)
                self._give_up_later(writer, movement, self._reply_limit)

    def _give_up_later(
        self, writer: AbstractStreamWriter, movement: Movement | None, limit: float
    ) -> None:
        delay = limit if movement is None else time_to_look(limit)
        loop = asyncio.get_running_loop()
        self._giving_up = loop.call_later(delay, self._give_up, writer, movement, limit)

    def _give_up(
        self, writer: AbstractStreamWriter, movement: Movement | None, limit: float
    ) -> None:
        if movement is not None and movement.silence(0) < limit:
            # The kernel may have taken megabytes, which leave it in minutes on a slow line.
            self._give_up_later(writer, movement, limit)
            return
        self._is_unanswered = True
        if writer.transport is not None:  # pragma: no branch - it may be lost just now
            writer.transport.abort()

    def is_answered(self) -> None:
        """Take note that a reply's headers have come, or will not be waited for any more."""
        self._reply_limit = None
        if self._giving_up is not None:
            self._giving_up.cancel()

    async def _write(self, writer: AbstractStreamWriter) -> None:
        # Without a length the body goes in HTTP's chunks, each with a frame of its own.
        self._body.takes_files = (
            self._size is not None and not self._is_watched and takes_files(writer.transport)
        )
        piece = await self._read()
        chunks: ChunkedWriter | None = None
        if not isinstance(piece, Span) and len(piece) <= _NEVER_WAITS:
            await writer.write(piece)
            piece = await self._read()
            if not piece:
                return
            if self._size is None and not self._is_watched:
                chunks = ChunkedWriter(_transport_of(writer), writer.drain)
        watch = self._watch = StallWatch(writer.transport, self._limit)
        try:
            while piece:
                if isinstance(piece, Span):
                    await self._send_span(writer, piece)
                else:
                    await (writer if chunks is None else chunks).write(piece)
                    watch.written += len(piece)
                    await self._turn.wait()
                piece = await self._read()
            if chunks is not None:
                chunks.end()
        finally:
            watch.stop()

    async def _read(self) -> Buffer | Span:
        try:
            piece = await self._body.read()
            self._check_usable()  # a source may close the client, and go on
        except Exception as error:
            self.failure = error
            raise
        return piece

    async def _send_span(self, writer: AbstractStreamWriter, span: Span) -> None:
        transport = _transport_of(writer)
        # What was written before must have left, and nothing may be written meanwhile.
        transport.set_write_buffer_limits(0)
        await writer.drain()
        self._sender = FileSender(transport, self._threads, self._limit)
        try:
            while span:
                sent = await self._sender.send(span)
                span = span.behind(sent)
                self._advance(sent)
        except FilesError as error:  # the source, or no thread for it
            self.failure = error
            raise
        finally:
            self._sender.close()

    def _advance(self, sent: int) -> None:
        try:
            self._body.advance(sent)
        except Exception as error:
            self.failure = error
            raise

    def decode(  # pragma: no cover - see below
        self, encoding: str = "utf-8", errors: str = "strict"
    ) -> str:
        """Abstract in aiohttp, which calls it only to show a body of text."""
        raise NotImplementedError

    async def aclose(self) -> None:
        """End aiohttp's task that writes the body, and release the body."""
        self.is_answered()
        try:
            if self._writer is not None:
                self._writer.cancel()  # which is nothing where it is done
                await settle(self._writer)
        finally:
            await self._body.aclose()


def _transport_of(writer: AbstractStreamWriter) -> asyncio.WriteTransport:
    if writer.transport is None:  # pragma: no cover - it may be lost between any two pieces
        raise ConnectionResetError(errno.ECONNRESET, "the connection was lost")
    return writer.transport
