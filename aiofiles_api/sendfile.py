"""Sends bytes of a file into a connection without bringing them into this process: sendfile(2).

The kernel copies them once, from its page cache into the connection, and neither the loop nor the
interpreter has anything to do with them. Only a thread may ask it to: what is not in the page cache
has to come from the disk first. And a thread must not wait for the network for long: when the
connection takes no more, the loop waits until it does.

What the kernel has taken is still the file's own memory until it has left the machine, and changes
with the file: whoever sends has to look afterwards whether it was written to.

TLS needs the bytes in the process, to encrypt them; there this cannot be used.
"""

from __future__ import annotations

import asyncio
import errno
import os
import select
import time
from collections.abc import Callable
from functools import partial

import attrs

from aiofiles_api.errors import SourceChangedError, SourceError
from aiofiles_api.stalls import Movement, time_to_look
from aiofiles_api.threads import Threads

__all__ = ["FileSender", "Span", "takes_files"]

_SOON = 5
"""How often a thread waits a millisecond for the network, while nothing else waits for a thread."""

_STEP = 512 * 1024
"""Bytes that the kernel is told to send at a time."""

_COPY = 256 * 1024
"""Bytes that are copied at a time where it cannot."""

_STINT = 0.005
"""Seconds after which a thread comes back, to say how far it got. Shorter than what others wait
before another thread joins in (`threads._PATIENCE`), or each large upload would cost one."""


@attrs.frozen
class Span:
    """Bytes of an open file.

    Attributes:
        descriptor: The file's.
        offset: Where they begin.
        length: How many.
        check: Called in a thread again and again: what it raises ends the sending.
    """

    descriptor: int
    offset: int
    length: int
    check: Callable[[], object] = lambda: None

    def __len__(self) -> int:
        return self.length

    def behind(self, sent: int) -> Span:
        """Return what remains when the first `sent` bytes are sent."""
        return attrs.evolve(self, offset=self.offset + sent, length=self.length - sent)


def takes_files(transport: asyncio.BaseTransport | None) -> bool:
    """Return whether the kernel can send files into a connection by itself."""
    return (
        transport is not None
        and hasattr(os, "sendfile")
        and transport.get_extra_info("sslcontext") is None
        and transport.get_extra_info("socket") is not None
    )


class FileSender:
    """Sends from a file into one connection, whose own buffer must be empty meanwhile.

    Attributes:
        stalled: Whether it was broken off because the other side took nothing for too long.

    Args:
        transport: The connection.
        threads: Where to send.
        limit: Seconds for which the other side may take nothing; `None` for ever.
    """

    def __init__(
        self, transport: asyncio.WriteTransport, threads: Threads, limit: float | None
    ) -> None:
        self.stalled = False
        self._transport = transport
        self._threads = threads
        self._limit = limit
        self._is_to_wait = False
        # A second descriptor: the loop lets nobody watch the transport's own, and it could be
        # closed, and its number be another file's, while a thread is at it.
        self._socket = os.dup(transport.get_extra_info("socket").fileno())

    async def send(self, span: Span) -> int:
        """Send as much of a span as the connection takes for a while; return how many bytes.

        Raises:
            SourceChangedError: The file has become shorter.
            SourceError: It cannot be read.
            OSError: The connection was lost.
        """
        if self._is_to_wait:
            await self._wait_until_writable()
        sent = await self._threads.run(partial(self._send, span))
        self._is_to_wait = sent < span.length
        if self._transport.is_closing():
            raise ConnectionResetError(errno.ECONNRESET, "the connection was closed")
        return sent

    async def _wait_until_writable(self) -> None:
        loop = asyncio.get_running_loop()
        writable = asyncio.Event()
        loop.add_writer(self._socket, writable.set)
        try:
            if self._limit is None:
                await writable.wait()
            else:
                await self._watch(writable, self._limit)
        finally:
            loop.remove_writer(self._socket)

    async def _watch(self, writable: asyncio.Event, limit: float) -> None:
        movement = Movement(self._transport)
        while not writable.is_set():
            try:
                async with asyncio.timeout(time_to_look(limit)):
                    await writable.wait()
            except TimeoutError:
                if movement.silence(0) >= limit:
                    self.stalled = True
                    self._transport.abort()
                    raise

    def close(self) -> None:
        """Release the descriptor; no thread works with it any more when `send` has ended."""
        os.close(self._socket)

    # --- in a thread -----------------------------------------------------------------------------

    def _send(self, span: Span) -> int:
        """Send as much as the connection takes for a while, and return how many bytes that was."""
        span.check()
        sent = 0
        until = time.monotonic() + _STINT
        while sent < span.length and time.monotonic() < until:
            try:
                count = _send_some(self._socket, span, sent)
            except BlockingIOError:
                if self._takes_more_soon():
                    continue
                break
            if not count:
                msg = (
                    "the source has become shorter since its upload began; nothing was stored:"
                    " upload it when nobody writes to it"
                )
                raise SourceChangedError(msg)
            sent += count
        return sent

    def _takes_more_soon(self) -> bool:
        """Wait for a fast connection here, because the way over the loop is longer."""
        poller = select.poll()
        poller.register(self._socket, select.POLLOUT)
        return any(not self._threads.is_wanted and poller.poll(1) for _ in range(_SOON))


def _send_some(socket: int, span: Span, sent: int) -> int:
    offset, left = span.offset + sent, span.length - sent
    try:
        return os.sendfile(socket, span.descriptor, offset, min(left, _STEP))
    except BlockingIOError:
        raise
    except OSError:
        pass  # some file systems cannot do that; else what follows shows whether it was the file
    try:
        piece = os.pread(span.descriptor, min(left, _COPY), offset)
    except OSError as error:
        msg = f"the source cannot be read: {error.strerror}; check the disk"
        raise SourceError(msg) from error
    return os.write(socket, piece)
