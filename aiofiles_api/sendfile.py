"""Sends bytes of a file into a connection without bringing them into this process: sendfile(2).

The kernel copies them once, from its page cache into the connection, and neither the loop nor the
interpreter has anything to do with them. Only a thread may ask it to: what is not in the page cache
has to come from the disk first. And a thread must not wait for the network: when the connection
takes no more, the loop waits until it does.

TLS needs the bytes in the process, to encrypt them; there this cannot be used.
"""

from __future__ import annotations

import asyncio
import errno
import os
import select
from functools import partial

import attrs

from aiofiles_api.errors import SourceChangedError, SourceError
from aiofiles_api.threads import Threads

__all__ = ["FileSender", "Span", "takes_files"]

_UNSUPPORTED = {errno.EINVAL, errno.ENOSYS, errno.ENOTSUP, errno.EOPNOTSUPP}
"""What a file system says that cannot do it."""

_SOON = 5
"""Milliseconds for which a thread may wait for the network."""

_COPY = 256 * 1024
"""Bytes that are copied at a time then."""


@attrs.frozen
class Span:
    """Bytes of an open file.

    Attributes:
        descriptor: The file's.
        offset: Where they begin.
        length: How many.
    """

    descriptor: int
    offset: int
    length: int

    def __len__(self) -> int:
        return self.length

    def behind(self, sent: int) -> Span:
        """Return what remains when the first `sent` bytes are sent."""
        return Span(self.descriptor, self.offset + sent, self.length - sent)


def takes_files(transport: asyncio.BaseTransport | None) -> bool:
    """Return whether the kernel can send files into a connection by itself."""
    return (
        transport is not None
        and hasattr(os, "sendfile")
        and transport.get_extra_info("sslcontext") is None
        and transport.get_extra_info("socket") is not None
    )


class FileSender:
    """Sends spans into one connection, which must have nothing in its own buffer meanwhile.

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
        # A second descriptor: the loop lets nobody watch the transport's own, and it could be
        # closed, and its number be another file's, while a thread is at it.
        self._socket = os.dup(transport.get_extra_info("socket").fileno())

    async def send(self, span: Span) -> None:
        """Send a span.

        Raises:
            SourceChangedError: The file has become shorter.
            SourceError: It cannot be read.
            OSError: The connection was lost.
        """
        while span.length:
            sent = await self._threads.run(partial(_send, self._socket, span))
            span = span.behind(sent)
            if self._transport.is_closing():
                raise ConnectionResetError(errno.ECONNRESET, "the connection was closed")
            if span.length:
                await self._wait_until_writable()

    async def _wait_until_writable(self) -> None:
        loop = asyncio.get_running_loop()
        writable = asyncio.Event()
        loop.add_writer(self._socket, writable.set)
        try:
            async with asyncio.timeout(self._limit):
                await writable.wait()
        except TimeoutError:
            self.stalled = True
            self._transport.abort()
            raise
        finally:
            loop.remove_writer(self._socket)

    def close(self) -> None:
        """Release the descriptor; no thread works with it any more when `send` has ended."""
        os.close(self._socket)


def _send(socket: int, span: Span) -> int:
    """Send as much as the connection takes now, and return how many bytes that was."""
    sent = 0
    while sent < span.length:
        try:
            count = _send_some(socket, span.behind(sent))
        except BlockingIOError:
            if _takes_more_soon(socket):
                continue
            break
        if not count:
            msg = (
                "the source has become shorter since its upload began; nothing was stored: upload"
                " it when nobody writes to it"
            )
            raise SourceChangedError(msg)
        sent += count
    return sent


def _takes_more_soon(socket: int) -> bool:
    """Wait for a fast connection here, because the way over the loop is longer."""
    poller = select.poll()
    poller.register(socket, select.POLLOUT)
    return bool(poller.poll(_SOON))


def _send_some(socket: int, span: Span) -> int:
    try:
        return os.sendfile(socket, span.descriptor, span.offset, span.length)
    except OSError as error:
        if error.errno == errno.EIO:
            msg = f"the source cannot be read: {error.strerror}; check the disk"
            raise SourceError(msg) from error
        if error.errno not in _UNSUPPORTED:
            raise
    return os.write(socket, os.pread(span.descriptor, min(span.length, _COPY), span.offset))
