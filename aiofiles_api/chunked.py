"""HTTP's chunks (RFC 9112, section 7.1), for bodies whose length is not known beforehand.

aiohttp joins each piece with its frame, and so copies all that is sent. Here frame and piece go
into the connection as they are, in one call of the kernel where it takes them at once.
"""

from __future__ import annotations

import asyncio
import errno
import os
from collections.abc import Awaitable, Callable
from typing import TypeAlias

__all__ = ["ChunkedWriter"]

_Piece: TypeAlias = bytes | bytearray | memoryview

_END = b"\r\n"


class ChunkedWriter:
    """Writes pieces of a body, of which aiohttp has written the beginning and will write the end.

    Args:
        transport: The connection.
        drain: Waits until its buffer has room.
    """

    def __init__(
        self, transport: asyncio.WriteTransport, drain: Callable[[], Awaitable[None]]
    ) -> None:
        self._transport = transport
        self._drain = drain
        self._end_of_last = b""
        is_plain = transport.get_extra_info("sslcontext") is None and hasattr(os, "writev")
        self._socket = transport.get_extra_info("socket") if is_plain else None

    async def write(self, piece: _Piece) -> None:
        """Write a piece of one byte or more, of which the transport may keep what is not sent.

        Raises:
            OSError: The connection was lost.
        """
        view = memoryview(piece)
        frame = b"%b%x\r\n" % (self._end_of_last, view.nbytes)
        self._end_of_last = _END
        sent = self._send_at_once(frame, view)
        if sent < len(frame):
            self._transport.write(frame[sent:])
            sent = len(frame)
        if sent - len(frame) < view.nbytes:
            self._transport.write(view[sent - len(frame) :])
        await self._drain()

    def end(self) -> None:
        """End the last piece.

        Raises:
            OSError: The connection was lost.
        """
        self._check()
        self._transport.write(self._end_of_last)

    def _send_at_once(self, *buffers: _Piece) -> int:
        """Send what the connection takes now; not if something still waits in its transport."""
        self._check()
        if self._socket is None or self._transport.get_write_buffer_size():
            return 0
        try:
            return os.writev(self._socket.fileno(), buffers)
        except BlockingIOError:
            return 0

    def _check(self) -> None:
        if self._transport.is_closing():
            raise ConnectionResetError(errno.ECONNRESET, "the connection was closed")
