"""How much a client may do before others come to their turn on the loop."""

from __future__ import annotations

import asyncio
import time
from collections import deque

__all__ = ["Turn"]

_TURN = 0.002
"""Seconds after which a client begins nothing more in the same turn of the loop."""


class Turn:
    """What a client may do before others come to their turn on the loop.

    Many requests that go on at once, or a source and a connection that never wait, would keep it.
    Who comes too late waits in a row, and of that each turn wakes as many as the last one had time
    for.
    """

    def __init__(self) -> None:
        self._ends_at = 0.0
        self._is_new = True
        self._will_end = False
        self._went_on = 0
        self._waiting: deque[asyncio.Future[None]] = deque()

    async def wait(self) -> None:
        """Go on, or wait for another turn if this one has lasted for long."""
        if not self._waiting and self._has_time():
            return
        loop = asyncio.get_running_loop()
        while True:
            waiter = loop.create_future()
            self._waiting.append(waiter)
            self._end_soon(loop)
            await waiter
            if self._has_time():
                return

    def _has_time(self) -> bool:
        now = time.monotonic()
        if self._is_new:
            self._is_new = False
            self._ends_at = now + _TURN
            self._end_soon(asyncio.get_running_loop())
        has_time = now < self._ends_at
        self._went_on += has_time
        return has_time

    def _end_soon(self, loop: asyncio.AbstractEventLoop) -> None:
        if not self._will_end:
            self._will_end = True
            loop.call_soon(self._end, loop)

    def _end(self, loop: asyncio.AbstractEventLoop) -> None:
        self._will_end = False
        self._is_new = True
        for _ in range(min(max(self._went_on, 1), len(self._waiting))):
            waiter = self._waiting.popleft()
            if not waiter.done():  # as it is when its task was cancelled
                waiter.set_result(None)
        self._went_on = 0
        if self._waiting:
            self._end_soon(loop)
