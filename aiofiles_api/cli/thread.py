"""Blocking work that must be done before anything else happens, whatever happens meanwhile."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import TypeVar

import anyio

__all__ = ["in_thread"]

T = TypeVar("T")


async def in_thread(work: Callable[[], T], *, interrupt: Callable[[], object] | None = None) -> T:
    """Run `work` in a thread; a cancellation waits for its end, and then drops what it returns.

    anyio's threads are left alone when asyncio itself cancels, as Ctrl-C does: what they write
    would come into the way of whoever cleans up.

    Args:
        work: What to do.
        interrupt: Has it end sooner; called when this is cancelled.
    """
    future = asyncio.get_running_loop().run_in_executor(None, work)
    try:
        return await asyncio.shield(future)
    except asyncio.CancelledError:
        if interrupt is not None:
            interrupt()
        # A scope of anyio's, unlike asyncio, cancels again and again.
        with anyio.CancelScope(shield=True):
            await asyncio.wait((future,))
        future.exception()  # seen: the loop need not complain that nobody looked
        raise
