"""Whether what is to be sent on a connection moves; aiohttp has no such watch.

That a connection takes no more does not say that nothing moves: the kernel takes more only when a
third of its buffer is free, and to send a third of 4 MB takes a slow line longer than any sensible
bound. So the kernel is asked what the other side has yet to acknowledge.
"""

from __future__ import annotations

import asyncio
import fcntl
import sys
import termios

__all__ = ["Movement", "StallWatch", "time_to_look"]


def time_to_look(limit: float) -> float:
    """Return the seconds between two looks at what must not stand still for `limit` seconds."""
    return min(limit / 4, 1.0)


class Movement:
    """What a connection has sent, looked at again and again.

    Args:
        transport: The connection.
    """

    def __init__(self, transport: asyncio.BaseTransport) -> None:
        self._socket = transport.get_extra_info("socket")
        self._loop = asyncio.get_running_loop()
        self._seen = (0, self._unacknowledged())
        self._moved_at = self._loop.time()

    def silence(self, handed_over: int) -> float:
        """Return the seconds since a look first found what this one finds.

        Args:
            handed_over: Bytes that the kernel has taken, as far as is known.
        """
        now = self._loop.time()
        seen = (handed_over, self._unacknowledged())
        if seen != self._seen:
            self._seen = seen
            self._moved_at = now
        return now - self._moved_at

    def begin_anew(self) -> None:
        """Count the silence from now on: there was nothing to be sent."""
        self._moved_at = self._loop.time()

    def _unacknowledged(self) -> int:
        """Return how many bytes the kernel holds; always 0 where it does not tell."""
        try:
            # Linux, tcp(7): SIOCOUTQ, which is the same number.
            answer = fcntl.ioctl(self._socket, termios.TIOCOUTQ, bytes(4))
        except (OSError, ValueError, TypeError):  # another system, closed, or no socket
            return 0
        return int.from_bytes(answer, sys.byteorder)


class StallWatch:
    """Breaks a connection whose bytes wait in the transport without moving.

    A slow source does not count: while it gives nothing, nothing waits.

    Attributes:
        written: Bytes handed to the transport so far.
        stalled: Whether the connection was broken.
    """

    def __init__(self, transport: asyncio.WriteTransport | None, limit: float | None) -> None:
        self.written = 0
        self.stalled = False
        self._loop = asyncio.get_running_loop()
        self._timer: asyncio.TimerHandle | None = None
        if limit is not None and transport is not None:
            self._look_later(transport, Movement(transport), limit)

    def stop(self) -> None:
        """Look no more."""
        if self._timer is not None:
            self._timer.cancel()

    def _look_later(
        self, transport: asyncio.WriteTransport, movement: Movement, limit: float
    ) -> None:
        self._timer = self._loop.call_later(
            time_to_look(limit), self._look, transport, movement, limit
        )

    def _look(self, transport: asyncio.WriteTransport, movement: Movement, limit: float) -> None:
        waiting = transport.get_write_buffer_size()
        if waiting == 0:
            movement.begin_anew()
        elif movement.silence(self.written - waiting) >= limit:
            self.stalled = True
            transport.abort()
            return
        self._look_later(transport, movement, limit)
