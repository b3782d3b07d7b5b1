"""Ask the same of many, some at a time, and take the answers in the order of the questions."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterable
from typing import TypeVar

__all__ = ["concurrently"]

T = TypeVar("T")
R = TypeVar("R")


async def concurrently(
    items: Iterable[T], work: Callable[[T], Awaitable[R]], *, concurrency: int
) -> AsyncGenerator[R, None]:
    """Yield what `work` returns for each item; at most so many are worked on at a time."""
    running: deque[asyncio.Future[R]] = deque()
    try:
        for item in items:
            running.append(asyncio.ensure_future(work(item)))
            if len(running) == concurrency:
                yield await running[0]
                running.popleft()
        while running:
            yield await running[0]
            running.popleft()
    finally:
        for one in running:
            one.cancel()
        if running:
            await asyncio.wait(running)
