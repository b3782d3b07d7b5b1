"""Takes a body of known length off a connection straight into up to two buffers.

Meanwhile the connection's protocol is another one than aiohttp's: the kernel, or TLS, writes into
one buffer while the other one is on its way to the disk. No object is made for each piece, nothing
is copied on the way, and no parser looks for an end that is known. Afterwards the connection is
given back as it was, to be used again.
"""

from __future__ import annotations

import asyncio
from collections import deque

from aiofiles_api.buffers import Buffers

__all__ = ["Intake"]

_LATEST = 0.05
"""Seconds after which what has come is handed out, though the buffer is not full: a slow transfer
shall be seen to move, and what a kill loses of it has to be fetched again."""

_MOST = 2
"""Buffers: one that is being filled, one on its way to the disk."""

_SCRAP = 16 * 1024
"""Bytes of a buffer for what nobody reads."""

_UNASKED = 64 * 1024
"""Bytes of a buffer for what comes although the connection was told to wait."""


class Intake(asyncio.BufferedProtocol):
    """The protocol of a connection while a body comes in.

    Args:
        transport: The connection; its protocol so far must have nothing in hand any more.
        length: Bytes of the body that are still to come, 1 or more.
        buffers: Lends what it takes, two at most.
        limit: Seconds for which the other side may be silent; `None` for ever.
    """

    def __init__(
        self,
        transport: asyncio.Transport,
        length: int,
        *,
        buffers: Buffers,
        limit: float | None,
    ) -> None:
        self._transport = transport
        self._before = transport.get_protocol()
        self._loop = asyncio.get_running_loop()
        self._left = length
        self._buffers = buffers
        self._borrowed: list[bytearray] = []
        self._free: list[bytearray] = []
        self._buffer = self._borrow()
        self._is_filling = True
        self._count = 0
        # Never beyond the body: what is behind it is not ours.
        self._room = memoryview(self._buffer)[:length]
        self._filled: deque[tuple[bytearray, int]] = deque()
        self._lent: bytearray | None = None
        self._waiter: asyncio.Future[None] | None = None
        self._error: Exception | None = None
        self._hurrying: asyncio.TimerHandle | None = None
        self._watching: asyncio.TimerHandle | None = None
        self._moved_at = self._loop.time()
        if limit is not None:
            self._watching = self._loop.call_later(limit, self._watch, limit)
        self._hand_over_to(self)

    async def read(self) -> memoryview:
        """Return what comes next, waiting for it; empty at the end. The next call overwrites it.

        Raises:
            ConnectionError: The connection was lost.
            TimeoutError: The other side was silent.
        """
        self._take_back()
        while not self._filled:
            if not self._left:
                return memoryview(b"")
            if self._error is not None:
                raise self._error
            self._waiter = self._loop.create_future()
            await self._waiter
        self._lent, count = self._filled.popleft()
        return memoryview(self._lent)[:count]

    def give_back(self) -> None:
        """Let the connection be as it was before: all has come, and is read."""
        self.close()
        if not self._transport.is_closing():
            self._hand_over_to(self._before)

    def close(self) -> None:
        """Take note that nobody reads any more, not even what was read last."""
        self._stop_timers()
        while self._borrowed:
            self._buffers.take_back(self._borrowed.pop())

    # --- what the connection calls ---------------------------------------------------------------

    def get_buffer(self, sizehint: int) -> memoryview:  # noqa: ARG002 - ours is what it is
        """Return where to put what comes; TLS may have something in hand when nobody reads."""
        if not self._borrowed:
            return memoryview(bytearray(_SCRAP))
        if not self._is_filling:
            # aiohttp has let the connection go on: whoever reads an earlier reply of it late, of
            # which all had come, does that. What comes is the body's all the same.
            self._begin(bytearray(_UNASKED))
        return self._room

    def buffer_updated(self, nbytes: int) -> None:
        """Take note that so many bytes have come."""
        if not self._borrowed:
            return
        if not self._left:
            self._transport.abort()  # more than the body: it cannot be used again
            return
        self._moved_at = self._loop.time()
        self._left -= nbytes
        self._count += nbytes
        self._room = self._room[nbytes:]
        if not self._room or not self._is_borrowed(self._buffer):
            self._hand_out()
        elif self._hurrying is None:
            self._hurrying = self._loop.call_later(_LATEST, self._hurry)

    def connection_lost(self, exc: Exception | None) -> None:
        """Take note that no more will come."""
        self._error = exc or ConnectionResetError("the other side has closed the connection")
        if self._is_filling and self._count:
            self._filled.append((self._buffer, self._count))
        self._is_filling = False
        self._stop_timers()
        self._wake()
        self._before.connection_lost(exc)

    # ---------------------------------------------------------------------------------------------

    def _hand_over_to(self, protocol: asyncio.BaseProtocol) -> None:
        # Not while it reads: some transports look only then what kind of protocol they have.
        self._transport.pause_reading()
        self._transport.set_protocol(protocol)
        self._transport.resume_reading()

    def _hand_out(self) -> None:
        """Let the buffer be read, and go on with the other one; without one, let it wait."""
        if self._hurrying is not None:
            self._hurrying.cancel()
            self._hurrying = None
        self._filled.append((self._buffer, self._count))
        self._is_filling = False
        if not self._go_on():
            self._transport.pause_reading()
        self._wake()

    def _go_on(self) -> bool:
        """Begin another buffer if there is one to be filled, and bytes to fill it."""
        if not self._left or not (self._free or len(self._borrowed) < _MOST):
            return False
        self._begin(self._free.pop() if self._free else self._borrow())
        return True

    def _begin(self, buffer: bytearray) -> None:
        self._buffer = buffer
        self._is_filling = True
        self._count = 0
        # Never beyond the body; behind it, anything else than the end of the connection is wrong.
        self._room = memoryview(buffer)[: self._left or _SCRAP]

    def _borrow(self) -> bytearray:
        self._borrowed.append(self._buffers.lend())
        return self._borrowed[-1]

    def _is_borrowed(self, buffer: bytearray) -> bool:
        return any(buffer is one for one in self._borrowed)

    def _take_back(self) -> None:
        """Let what was read last be overwritten."""
        if self._lent is not None:
            if self._is_borrowed(self._lent):
                self._free.append(self._lent)
            self._lent = None
            if not self._is_filling and self._error is None and self._go_on():
                self._moved_at = self._loop.time()
                self._transport.resume_reading()

    def _stop_timers(self) -> None:
        for timer in (self._hurrying, self._watching):
            if timer is not None:
                timer.cancel()

    def _hurry(self) -> None:
        """Hand out what has come so far, unless there is something to do already."""
        if self._filled:
            self._hurrying = self._loop.call_later(_LATEST, self._hurry)
        else:
            self._hand_out()

    def _watch(self, limit: float) -> None:
        """See whether the other side was silent for too long, while it was allowed to speak."""
        now = self._loop.time()
        if not self._is_filling:
            self._moved_at = now
        if now < self._moved_at + limit:
            self._watching = self._loop.call_at(self._moved_at + limit, self._watch, limit)
        else:
            self._error = TimeoutError()
            self._wake()

    def _wake(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)
