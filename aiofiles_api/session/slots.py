"""Which request goes next: a slot for each that is under way, and the pace of each endpoint."""

from __future__ import annotations

import asyncio
import time
from collections import defaultdict
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar

from aiofiles_api.config import Config
from aiofiles_api.errors import FilesError, RateLimitError
from aiofiles_api.pacing import Pacing
from aiofiles_api.protocol import Request

__all__ = ["Slots", "beside_the_queue"]

_slots_beside: ContextVar[asyncio.Semaphore | None] = ContextVar("slots_beside", default=None)
"""The slot of a task that does not wait in the queue, if it has one."""


@contextmanager
def beside_the_queue() -> Iterator[None]:
    """Let what runs inside have a slot of its own, so that it waits for no other request.

    For those whom the holders of all slots may be waiting for.
    """
    token = _slots_beside.set(asyncio.Semaphore(1))
    try:
        yield
    finally:
        _slots_beside.reset(token)


class Slots:
    """The queue in which requests wait, first come, first served for each endpoint.

    Args:
        config: How many requests may be under way, and how many may begin in a minute.
        bounds: What bounds them besides, as a connector does; 0 is no bound.
    """

    def __init__(self, config: Config, bounds: Iterable[int] = ()) -> None:
        self._pacing = Pacing(config.requests_per_minute)
        self._turns: defaultdict[str, asyncio.Lock] = defaultdict(asyncio.Lock)
        self._slots = asyncio.Semaphore(min([config.max_connections, *filter(None, bounds)]))

    def succeeded(self) -> None:
        """Take note of a reply that is no error."""
        self._pacing.succeeded()

    def hold_back(self, request: Request, error: FilesError, delay: float) -> float:
        """Return the delay of a retry, made longer where the client as a whole must hold back."""
        now = time.monotonic()
        if isinstance(error, RateLimitError) and error.retry_after is not None:
            self._pacing.hold_back(request.endpoint, until=now + delay)
        return max(delay, self._pacing.delay_before_retry(now=now))

    async def wait(self, endpoint: str, *, is_nested: bool) -> asyncio.Semaphore:
        """Return the slot that was taken, when it is also the endpoint's turn.

        Args:
            endpoint: Where the request goes.
            is_nested: Whether it is made within another operation, as for its source: whose slot,
                or those of others like it, may be the last one.
        """
        beside = _slots_beside.get()
        if beside is None and is_nested:
            beside = asyncio.Semaphore(1)
        if beside is not None:
            # Not behind those of the endpoint, the first of whom waits for a slot.
            return await self._wait_for_both(endpoint, beside)
        turn = self._turns[endpoint]
        is_free = not turn.locked() and not self._slots.locked()
        if is_free and not self._pacing.take_turn(endpoint, now=time.monotonic()):
            await self._slots.acquire()  # at once
            return self._slots
        # First come, first served; and only the first one waits for the time.
        async with turn:
            return await self._wait_for_both(endpoint, self._slots)

    async def _wait_for_both(self, endpoint: str, slots: asyncio.Semaphore) -> asyncio.Semaphore:
        while True:
            await slots.acquire()
            # Looked at after each wait: it may be held for longer by then.
            delay = self._pacing.take_turn(endpoint, now=time.monotonic())
            if not delay:
                return slots
            slots.release()  # meanwhile other endpoints may have it
            await asyncio.sleep(delay)
