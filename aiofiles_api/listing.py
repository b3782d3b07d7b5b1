"""Pages of a listing, and the generator over their files.

A task of its own fetches the next page while the caller works through the one in hand: so one page
is in hand and one is being fetched, and a listing of any length needs the memory of two. No cancel
scope is open while the caller's code runs, because a `break` finalizes a generator in another task.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import aclosing, suppress
from operator import itemgetter
from typing import Any

import attrs

from aiofiles_api.errors import (
    APIResponseError,
    BadRequestError,
    InvalidArgumentError,
    UnprocessableEntityError,
)
from aiofiles_api.models import FileObject, FilePage, structure_files
from aiofiles_api.protocol import ListQuery, RawPage, Reply, Request, list_request, read_page
from aiofiles_api.session import SessionManager
from aiofiles_api.threads import settle

__all__ = ["list_files", "list_pages"]

_DEFAULT_PAGES: Sequence[int] = (2_000, 5_000, 10_000)
"""Files a page where the caller does not say: the first to begin with. The larger the pages, the
less do the round trips count, and the longer is the loop held to read one. Not any number: what is
asked for again and again, servers may remember."""

_READING = 0.007
"""Seconds for which reading a page may hold the loop: that decides how large the next one is."""

_SLICE = 500
"""Files that are structured between two turns of the loop."""

_id_of: Callable[[Any], object] = itemgetter("id")


def list_files(
    session: SessionManager, query: ListQuery, max_items: int | None
) -> AsyncGenerator[FileObject, None]:
    """Return a generator over the files of a listing, each structured when its turn comes.

    Raises:
        InvalidArgumentError: `max_items` is negative or no whole number.
    """
    _check_max_items(max_items)
    return _files(session, query, max_items)


def list_pages(
    session: SessionManager, query: ListQuery, max_items: int | None
) -> AsyncGenerator[FilePage, None]:
    """Return a generator over the pages as the server cuts them, the last one cut at `max_items`.

    Raises:
        InvalidArgumentError: `max_items` is negative or no whole number.
    """
    _check_max_items(max_items)
    return _pages(session, query, max_items)


def _check_max_items(max_items: int | None) -> None:
    if max_items is not None and (type(max_items) is not int or max_items < 0):
        msg = f"max_items: {max_items!r} is no bound; pass 0 or more, or None for all"
        raise InvalidArgumentError(msg)


async def _files(
    session: SessionManager, query: ListQuery, max_items: int | None
) -> AsyncGenerator[FileObject, None]:
    async with aclosing(_raw_pages(session, query, max_items)) as pages:
        async for page in pages:
            for start in range(0, len(page.data), _SLICE):
                for file in structure_files(page.data[start : start + _SLICE]):
                    yield file
                # The caller may never wait, and the next page is on its way.
                await asyncio.sleep(0)


async def _pages(
    session: SessionManager, query: ListQuery, max_items: int | None
) -> AsyncGenerator[FilePage, None]:
    async with aclosing(_raw_pages(session, query, max_items)) as pages:
        async for page in pages:
            files: list[FileObject] = []
            for start in range(0, len(page.data), _SLICE):
                files += structure_files(page.data[start : start + _SLICE])
                await asyncio.sleep(0)
            yield FilePage(tuple(files), page.first_id, page.last_id, bool(page.has_more))


async def _raw_pages(
    session: SessionManager, query: ListQuery, max_items: int | None
) -> AsyncGenerator[RawPage, None]:
    pages = _fetch_pages(session, query, max_items)
    coming = asyncio.create_task(_next_of(pages))
    try:
        while (page := await coming) is not None:
            coming = asyncio.create_task(_next_of(pages))
            yield page
    finally:
        coming.cancel()
        await settle(coming)


async def _next_of(pages: AsyncGenerator[RawPage, None]) -> RawPage | None:
    return await anext(pages, None)


async def _fetch_pages(
    session: SessionManager, query: ListQuery, max_items: int | None
) -> AsyncGenerator[RawPage, None]:
    sizes = _PageSizes(query.limit, max_items)
    guard = _CursorGuard(query.after)
    first_after = query.after
    while sizes.remaining != 0:
        page = await _fetch_page(session, query, sizes)
        if not page.data and not page.has_more:
            return
        cursor = _cursor_behind(page)
        if guard.has_seen(cursor) or (query.after is not None and _names(page, query.after)):
            if page.has_more is None and query.after != first_after:
                return  # a server without pages: the first one was everything
            msg = (
                f"listing files: the server repeats what came before {query.after!r}; it does"
                " not page as the API promises: list without after=, and pass max_items= to"
                " take the first page alone"
            )
            raise APIResponseError(msg, retryable=False)
        yield sizes.cut(page)
        if page.has_more is False:
            return
        query = attrs.evolve(query, after=cursor)


async def _fetch_page(session: SessionManager, query: ListQuery, sizes: _PageSizes) -> RawPage:
    def read(request: Request, reply: Reply) -> RawPage:
        began = time.thread_time()
        page = read_page(request, reply)
        sizes.learn(len(page.data), time.thread_time() - began)
        return page

    while True:
        try:
            return await session.call(list_request(attrs.evolve(query, limit=sizes.limit)), read)
        except (BadRequestError, UnprocessableEntityError):
            # Some servers allow fewer files a page; one that the caller named is their matter.
            if not sizes.take_fewer():
                raise


def _names(page: RawPage, identifier: str) -> bool:
    """Return whether a page has a file of this id."""
    with suppress(LookupError, TypeError):  # what is no file is told when it is structured
        return identifier in map(_id_of, page.data)
    return False


def _cursor_behind(page: RawPage) -> str:
    last = page.data[-1] if page.data else None
    identifier = last.get("id") if isinstance(last, dict) else None
    if not isinstance(identifier, str) or not identifier:
        what = "a page ends without an id" if page.data else "an empty page says has_more"
        msg = f"listing files: {what}, so there is no way on; check base_url"
        raise APIResponseError(msg, retryable=False)
    return identifier


class _PageSizes:
    """How many files to ask for: the caller's page size or ours, and no more than are wanted.

    Attributes:
        remaining: Files that are still wanted; `None` for all.
    """

    def __init__(self, named: int | None, max_items: int | None) -> None:
        self.remaining = max_items
        self._size: int | None = _DEFAULT_PAGES[0] if named is None else named
        self._ours: Sequence[int] = _DEFAULT_PAGES if named is None else ()

    @property
    def limit(self) -> int | None:
        """The page size to ask for; `None` leaves it to the server."""
        if self._size is None:
            return None
        return self._size if self.remaining is None else min(self._size, self.remaining)

    def learn(self, count: int, seconds: float) -> None:
        """Ask for as many from now on as can be read in the time that there is for it.

        Args:
            count: Files of a page.
            seconds: For how long reading it has held the loop.
        """
        if self._ours and count >= self._ours[0]:
            fitting = [size for size in self._ours if size * seconds <= count * _READING]
            self._size = max(fitting, default=self._ours[0])

    def take_fewer(self) -> bool:
        """Ask for fewer, since the server refuses so many; not if it was the caller who did."""
        if not self._ours:
            return False
        least = self._ours[0]
        is_least = (self.limit or 0) <= least
        self._ours = () if is_least else (least,)
        self._size = None if is_least else least
        return True

    def cut(self, page: RawPage) -> RawPage:
        """Count a page, and cut off what is not wanted."""
        if self.remaining is None:
            return page
        kept = page.data[: self.remaining]
        self.remaining -= len(kept)
        return attrs.evolve(page, data=kept, has_more=page.has_more or len(kept) < len(page.data))


class _CursorGuard:
    """Sees that a server goes round in circles, in constant memory (Brent's algorithm).

    It remembers one cursor, and replaces it after 1, 2, 4, 8 … steps: a page that is repeated at
    once is seen at once, a longer circle within a few turns.
    """

    def __init__(self, after: str | None) -> None:
        self._marked = after
        self._steps = 0
        self._steps_to_next_mark = 1

    def has_seen(self, cursor: str) -> bool:
        """Take the next step, and return whether it leads back to the remembered cursor."""
        if cursor == self._marked:
            return True
        self._steps += 1
        if self._steps == self._steps_to_next_mark:
            self._marked = cursor
            self._steps = 0
            self._steps_to_next_mark *= 2
        return False
