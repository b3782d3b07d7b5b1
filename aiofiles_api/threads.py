"""Blocking work in threads of the client's own, never abandoned.

A file's descriptor must not be closed while a thread still works on it: its number may already
belong to another file. So whoever is cancelled here first waits for the thread, and only then
goes on. A pool of our own, because anyio's default one is shared with every other library of the
process: a handler of Starlette's must not wait for our disk, nor we for its.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

import anyio

__all__ = ["Threads", "join", "settle"]

T = TypeVar("T")


class Threads:
    """A bounded pool of threads that starts empty and grows with need.

    Args:
        limit: The most threads at one time.
    """

    def __init__(self, limit: int = 32) -> None:
        self._executor = ThreadPoolExecutor(limit, thread_name_prefix="aiofiles_api")

    def start(self, work: Callable[[], T]) -> asyncio.Future[T]:
        """Start `work` now; its caller owes the future a `join` or a `settle`."""
        return asyncio.get_running_loop().run_in_executor(self._executor, work)

    async def run(self, work: Callable[[], T]) -> T:
        """Run `work` in a thread and return what it returns."""
        return await join(self.start(work))

    def close(self) -> None:
        """End the threads; each of them ends as soon as its work is done."""
        self._executor.shutdown(wait=False)


async def join(future: asyncio.Future[T]) -> T:
    """Wait for a thread's result; on cancellation, first wait for the thread."""
    try:
        # Not asyncio.shield: from Python 3.14 on it logs what a future that it shielded raises.
        if not future.done():
            await asyncio.wait((future,))
    except asyncio.CancelledError:
        await settle(future)
        raise
    return future.result()


async def settle(future: asyncio.Future[T]) -> None:
    """Wait until a thread is done and ignore its outcome; a cancellation is raised afterwards."""
    cancelled: asyncio.CancelledError | None = None
    # anyio repeats a scope's cancellation at every turn of the loop; the shield keeps it out.
    with anyio.CancelScope(shield=True):
        while not future.done():
            try:
                await asyncio.wait((future,))
            except asyncio.CancelledError as error:
                cancelled = error
    if not future.cancelled():
        future.exception()  # seen: the loop need not complain that nobody looked
    if cancelled is not None:
        raise cancelled
