"""Iterables of bytes."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterable, Iterator
from functools import partial

from aiofiles_api.errors import SourceError
from aiofiles_api.sources.contract import Reader
from aiofiles_api.sources.reading import SMALL, checked_chunk, not_replayable, unreadable
from aiofiles_api.sources.threaded import ThreadReader
from aiofiles_api.threads import Threads

__all__ = ["IterableSource"]

_GATHER = 0.1
"""Seconds for which the chunks of a slow iterable are gathered at most before they are sent."""


class IterableSource:
    """An iterable of bytes; only a sequence can be trusted to give the same a second time."""

    def __init__(self, iterable: Iterable[bytes], name: str | None, threads: Threads) -> None:
        self.name = name
        self._iterable = iterable
        self._what = f"the {type(iterable).__name__}"
        self._threads = threads
        self._replayable = isinstance(iterable, list | tuple)
        self._consumed = False

    @property
    def is_spent(self) -> bool:
        """Whether it was consumed, and may not give the same again."""
        return self._consumed and not self._replayable

    async def open(self) -> Reader:
        """Return a reader of its items from the first one on."""
        if self.is_spent:
            raise not_replayable(self._what)
        return ThreadReader(self._threads, partial(next, self._batches(), b""), length=None)

    def _batches(self) -> Iterator[bytes]:
        """Join chunks up to a useful size: a hop to a thread for each line would be slow."""
        self._consumed = True
        batch = bytearray()
        began = time.monotonic()
        try:
            for chunk in self._iterable:
                if not batch and len(chunk) >= SMALL:
                    yield checked_chunk(chunk, self._what)
                    began = time.monotonic()
                    continue
                batch += checked_chunk(chunk, self._what)
                if batch and (len(batch) >= SMALL or time.monotonic() - began >= _GATHER):
                    yield bytes(batch)
                    batch.clear()
                    began = time.monotonic()
        except SourceError:
            raise
        except (Exception, asyncio.CancelledError) as error:
            raise unreadable(self._what, error) from error
        if batch:
            yield bytes(batch)
