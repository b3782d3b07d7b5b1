"""What faults do to the connection of a request: wait on it, close it, reset it."""

import asyncio
import fcntl
import socket
import struct
import termios
import time
from typing import Final

from aiohttp import web

__all__ = ["close", "flush", "reset", "wait"]

_LOOK_SECONDS: Final = 0.05  # between two looks whether the client is still there
_FLUSH_SECONDS: Final = 0.001
_NO_LINGERING: Final = struct.pack("ii", 1, 0)  # makes of a close a reset


async def wait(request: web.BaseRequest, seconds: float) -> None:
    """Let seconds pass, but none for a client that has gone."""
    end = time.monotonic() + seconds
    # Nothing wakes a handler when the client goes.
    while _transport(request) and (left := end - time.monotonic()) > 0:  # noqa: ASYNC110
        await asyncio.sleep(min(left, _LOOK_SECONDS))


async def flush(request: web.BaseRequest) -> None:
    """Wait until the client's side has all that was written, if maybe not the client itself."""
    if transport := _transport(request):
        transport.set_write_buffer_limits(0)
        await request.writer.drain()
    while (transport := _transport(request)) and _unacknowledged(transport):  # noqa: ASYNC110
        await asyncio.sleep(_FLUSH_SECONDS)


def close(request: web.BaseRequest) -> None:
    """Close in good order, behind what was written."""
    if transport := _transport(request):
        transport.close()


def reset(request: web.BaseRequest) -> None:
    """Close at once, with TCP's RST."""
    if transport := _transport(request):
        sock: socket.socket = transport.get_extra_info("socket")
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _NO_LINGERING)
        transport.abort()


def _transport(request: web.BaseRequest) -> asyncio.Transport | None:
    """Give the connection, if the client is still there."""
    transport = request.transport
    return None if transport is None or transport.is_closing() else transport


def _unacknowledged(transport: asyncio.Transport) -> int:
    """Count the bytes that the kernel still holds, where it tells."""
    sock: socket.socket = transport.get_extra_info("socket")
    try:
        (count,) = struct.unpack("i", fcntl.ioctl(sock.fileno(), termios.TIOCOUTQ, bytes(4)))
    except OSError:
        return 0
    return int(count)
