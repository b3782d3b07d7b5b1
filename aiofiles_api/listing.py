"""Pages of a listing, and the generator over their files.

A task of its own fetches the next page while the caller works through the one in hand: so one page
is in hand and one is being fetched, and a listing of any length needs the memory of two, as text:
files are decoded and structured a few hundred at a time, and the loop has its turn in between. No
cancel scope is open while the caller's code runs, because a `break` finalizes a generator in
another task.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing

import attrs

from aiofiles_api.errors import (
    APIResponseError,
    BadRequestError,
    ContentTooLargeError,
    FilesError,
    InvalidArgumentError,
    UnprocessableEntityError,
)
from aiofiles_api.models import FileObject, FilePage, structure_files
from aiofiles_api.protocol import ListQuery, RawPage, list_request, read_page, scrub
from aiofiles_api.session import SessionManager
from aiofiles_api.threads import settle

__all__ = ["list_files", "list_pages"]

_DEFAULT_PAGES: Sequence[int] = (10_000, 2_000)
"""Files a page where the caller does not say: the most that the API allows, since each page costs a
round trip; and what is asked for where a server allows fewer."""


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
    left = max_items
    # The last file of a page says from where the next one is asked for: whoever deletes each file
    # as it comes must not have that one before the next page has come.
    held: FileObject | None = None
    try:
        async with aclosing(_raw_pages(session, query, max_items)) as pages:
            async for page in pages:
                for piece in page.data:
                    wanted = piece[:left]
                    for file in structure_files(wanted):
                        if held is not None:
                            yield held
                        held = file
                    left = None if left is None else left - len(wanted)
                    if left == 0:
                        break
                    # The caller may never wait, and the next page is on its way.
                    await asyncio.sleep(0)
                if left == 0:
                    break
    except FilesError:
        if held is not None:
            yield held
        raise
    if held is not None:
        yield held


async def _pages(
    session: SessionManager, query: ListQuery, max_items: int | None
) -> AsyncGenerator[FilePage, None]:
    left = max_items
    async with aclosing(_raw_pages(session, query, max_items)) as pages:
        async for page in pages:
            files: list[FileObject] = []
            is_cut = False
            for piece in page.data:
                wanted = piece[:left]
                files += structure_files(wanted)
                left = None if left is None else left - len(wanted)
                is_cut |= len(wanted) < len(piece)
                await asyncio.sleep(0)
            # Where the server does not say whether there is more, the next page will.
            has_more = bool(files) if page.has_more is None else page.has_more
            last_id = files[-1].id if is_cut else page.last_id
            yield FilePage(tuple(files), page.first_id, last_id, has_more or is_cut)


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
    number = 0
    while sizes.remaining != 0:
        number += 1
        page = await _fetch_page(session, query, sizes, is_first=number == 1)
        if not page.data and not page.has_more:
            return
        cursor = _cursor_behind(page)
        if (cursor and guard.has_seen(cursor)) or await _names(page, query.after):
            if page.has_more is None and number == 2:  # noqa: PLR2004 - the first repetition
                return  # a server without pages: the first one was everything
            shown = scrub(query.after or "", session.secrets)[:80]
            msg = (
                f"listing files: the server repeats what came before {shown!r}; it does"
                " not page as the API promises: list without after=, and pass max_items= to"
                " take the first page alone"
            )
            raise APIResponseError(msg, retryable=False)
        if page.data:
            yield page
        if page.has_more is False:
            return
        if sizes.remaining is not None:
            sizes.remaining = max(sizes.remaining - await _length(page), 0)
        if cursor is None and sizes.remaining != 0:
            what = "a page ends without an id" if page.data else "an empty page says has_more"
            msg = f"listing files: {what}, so there is no way on; check base_url"
            raise APIResponseError(msg, retryable=False)
        query = attrs.evolve(query, after=cursor)


async def _fetch_page(
    session: SessionManager, query: ListQuery, sizes: _PageSizes, *, is_first: bool
) -> RawPage:
    while True:
        request = list_request(attrs.evolve(query, limit=sizes.limit))
        try:
            return await session.call(request, read_page)
        except (BadRequestError, UnprocessableEntityError):
            # Some servers allow fewer files a page; one that the caller named is their matter.
            if not is_first or not sizes.take_fewer():
                raise
        except ContentTooLargeError:
            if not sizes.take_fewer():
                raise


async def _length(page: RawPage) -> int:
    length = 0
    for piece in page.data:
        length += len(piece)
        await asyncio.sleep(0)
    return length


async def _names(page: RawPage, identifier: str | None) -> bool:
    """Return whether a page has a file of this id."""
    if identifier is not None and page.data.mentions(identifier):
        for piece in page.data:
            if any(isinstance(file, dict) and file.get("id") == identifier for file in piece):
                return True
            await asyncio.sleep(0)
    return False


def _cursor_behind(page: RawPage) -> str | None:
    last = page.data.last
    identifier = last.get("id") if isinstance(last, dict) else None
    # One that cannot be printed can be neither sent nor asked for.
    if not isinstance(identifier, str) or not identifier or not identifier.isprintable():
        return None
    return identifier


class _PageSizes:
    """How many files to ask for: the caller's page size or ours, and no more than are wanted.

    Attributes:
        remaining: Files that are still wanted; `None` for all.
    """

    def __init__(self, named: int | None, max_items: int | None) -> None:
        self.remaining = max_items
        self._sizes: list[int | None] = [named] if named else [*_DEFAULT_PAGES, None]

    @property
    def limit(self) -> int | None:
        """The page size to ask for; `None` leaves it to the server."""
        size = self._sizes[0]
        return size if size is None or self.remaining is None else min(size, self.remaining)

    def take_fewer(self) -> bool:
        """Ask for fewer, since the server refuses so many; not if it was the caller who did."""
        asked = self.limit
        while len(self._sizes) > 1:
            del self._sizes[0]
            if self.limit != asked:  # not so where few are wanted
                return True
        return False


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
