"""`Journal`: the record as a run uses it, and as people read it."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from functools import partial
from itertools import count
from types import TracebackType
from typing import Any, Protocol, Self, TypeVar

import attrs

from aiofiles_api.digests import Digests
from aiofiles_api.errors import InvalidArgumentError, JournalError
from aiofiles_api.journal.database import Database, open_to_read, read_batch
from aiofiles_api.journal.lock import LEAVING
from aiofiles_api.journal.rows import JournalEntry, Kind, Row, State
from aiofiles_api.threads import Threads, join, settle

__all__ = ["Journal", "read_journal"]

T = TypeVar("T")


class Journal:
    """A record of bulk runs on disk, for `TransferManager(journal=...)`.

    An async context manager. One process at a time may have it open; `read_journal` reads it all
    the same. It may be used by several runs, one after the other or at once.

    Args:
        path: The file, which is made if it is missing. Beside it, SQLite keeps `-wal` and `-shm`
            while it is open, and this class `-lock`.

    Attributes:
        path: The file.
        alive_at: When it was last written to, in Unix time; 0 for never.

    Raises:
        JournalError: On entry: it is in use, damaged, no journal, or of another version. Later:
            the disk is full, or fails.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = _checked_path(path)
        self._threads: Threads | None = None
        self._database: Database | None = None
        self._numbers = count(1)
        self._places = Digests()
        self._queued: list[_Call] = []
        self._committing: asyncio.Task[None] | None = None
        self._reserved: dict[Kind, asyncio.Event] = {}
        self.alive_at = 0.0

    async def __aenter__(self) -> Self:
        if self._threads is not None:
            msg = f"the journal {self.path!r} is open already; open it once, and share it"
            raise JournalError(msg)
        self._threads = Threads(1)
        try:
            self._database = await _opened_in(self._threads, partial(Database, self.path))
        except BaseException:
            self._threads = None
            raise
        self.alive_at = self._database.alive_at
        self._numbers = count(self._database.highest + 1)
        self._places = self._database.places
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        threads, database = self._threads, self._database
        if threads is None or database is None:
            return
        try:
            if self._committing is not None:
                await settle(self._committing)
        finally:
            self._threads = self._database = None
            try:
                await threads.run(database.close)
            finally:
                threads.close()

    def entries(
        self, *, state: State | None = None, kind: Kind | None = None
    ) -> AsyncGenerator[JournalEntry, None]:
        """Yield what it says of each item, in the order in which they came.

        Args:
            state: Only those in this state.
            kind: Only those of this kind.

        Raises:
            JournalError: It cannot be read.
        """
        return _entries(self.path, state, kind)

    # --- for a run -----------------------------------------------------------------------------

    @property
    def identity(self) -> str:
        """What tells this journal from every other; it stays the same."""
        return self._opened().identity

    @property
    def files(self) -> Sequence[str]:
        """The absolute paths of all files that are its own, whether they are there or not."""
        return self._opened().files

    @asynccontextmanager
    async def reserved_for(self, kind: Kind) -> AsyncIterator[None]:
        """Let nobody else in this process run the same kind of operation with it.

        A run that was just left (a generator behind a `break`) is given some time to end.

        Raises:
            JournalError: Somebody else does.
        """
        try:
            async with asyncio.timeout(LEAVING):
                while (other := self._reserved.get(kind)) is not None:
                    await other.wait()
        except TimeoutError as error:
            msg = f"the journal {self.path!r} has a run of {kind}s already; give each its own"
            raise JournalError(msg) from error
        mine = self._reserved[kind] = asyncio.Event()
        try:
            yield
        finally:
            del self._reserved[kind]
            mine.set()

    def new_number(self) -> int:
        """Return a number for a row that is to be written."""
        return next(self._numbers)

    async def find(self, places: Sequence[bytes]) -> list[list[Row]]:
        """Return the rows of each place, the latest last."""
        # The places are kept in memory: an index would cost more than all the rest of a write, as
        # each entry would touch a page of its own.
        numbers = [self._places.numbers(place) for place in places]
        wanted = [number for some in numbers for number in some]
        if not wanted:
            return [[] for _ in places]
        rows = await self._call(lambda database: database.numbered(wanted))
        return [
            [rows[one] for one in sorted(some) if one in rows and rows[one].place == place]
            for place, some in zip(places, numbers, strict=True)
        ]

    async def write(self, rows: Sequence[Row]) -> None:
        """Write rows, and return when the disk has them."""
        if rows:
            # Made here, as the thread could do it only by turns with the loop.
            columns = [row.to_columns() for row in rows]
            # Before they are there: who is cancelled meanwhile does not take them back.
            for row in rows:
                self._places.add(row.place, row.number)
            await self._call(lambda database: database.write(columns))
            self.alive_at = time.time()

    async def touch(self) -> None:
        """Write down that this process is alive."""
        await self._call(lambda database: database.touch())
        self.alive_at = time.time()

    async def rows(self, where: str, values: Sequence[object]) -> list[Row]:
        """Return the rows that a condition holds for."""
        return await self._call(lambda database: database.rows(where, values))

    async def filenames(self, scope: str, last: int) -> list[tuple[int, str]]:
        """Return some names that downloads into a directory have, of numbers above `last`."""
        return await self._call(lambda database: database.filenames(scope, last))

    async def known_ids(self, server: str, ids: frozenset[str]) -> set[str]:
        """Return which of some ids of files on a server are those of finished uploads."""
        return await self._call(lambda database: database.known_ids(server, ids))

    def _opened(self) -> Database:
        if self._database is None:
            msg = f"the journal {self.path!r} is not open; use it inside its `async with`"
            raise JournalError(msg)
        return self._database

    async def _call(self, work: Callable[[Database], T]) -> T:
        """Have something done in the thread, in one transaction with all that waits by then."""
        self._opened()
        loop = asyncio.get_running_loop()
        future: asyncio.Future[T] = loop.create_future()
        self._queued.append(_Call(work, future))
        if self._committing is None:
            self._committing = loop.create_task(self._commit())
        return await future

    async def _commit(self) -> None:
        """Have calls done, all that are there at once, until none are left."""
        cancelled: asyncio.CancelledError | None = None
        try:
            threads, database = self._threads, self._opened()
            while self._queued and threads is not None:
                calls, self._queued = self._queued, []
                done = threads.start(partial(database.transact, [call.work for call in calls]))
                try:
                    await settle(done)
                except asyncio.CancelledError as error:
                    # As at the end of a loop, where others still have to write: theirs comes first.
                    cancelled = error
                failure = done.exception()
                for number, call in enumerate(calls):
                    if call.future.done():  # whoever waited was cancelled
                        continue
                    if failure is not None:
                        call.future.set_exception(failure)
                    else:
                        call.future.set_result(done.result()[number])
        finally:
            self._committing = None
        if cancelled is not None:
            raise cancelled


@attrs.frozen
class _Call:
    work: Callable[[Database], object]
    future: asyncio.Future[Any]


def read_journal(
    path: str | os.PathLike[str], *, state: State | None = None, kind: Kind | None = None
) -> AsyncGenerator[JournalEntry, None]:
    """Yield what a journal says of each item, even while another process writes it.

    Args:
        path: The journal's file; nothing is changed in it.
        state: Only items in this state.
        kind: Only those of this kind.

    Raises:
        JournalError: It is missing, damaged, no journal, or of another version.
    """
    return _entries(_checked_path(path), state, kind)


async def _entries(
    path: str, state: State | None, kind: Kind | None
) -> AsyncGenerator[JournalEntry, None]:
    threads = Threads(1)
    connection = await _opened_in(threads, partial(open_to_read, path))
    try:
        last = 0
        while rows := await threads.run(partial(read_batch, connection, path, last)):
            last = rows[-1].number
            for row in rows:
                if state in {None, row.state} and kind in {None, row.kind}:
                    yield row.entry
    finally:
        try:
            await threads.run(connection.close)
        finally:
            threads.close()


class _Closable(Protocol):
    def close(self) -> None: ...


C = TypeVar("C", bound=_Closable)


async def _opened_in(threads: Threads, open_it: Callable[[], C]) -> C:
    """Open something in a thread; if that does not come to its end, end the thread as well."""
    opening = threads.start(open_it)
    try:
        return await join(opening)
    except BaseException:
        try:
            # The thread may have opened it although we were cancelled meanwhile.
            if opening.exception() is None:
                await threads.run(opening.result().close)
        finally:
            threads.close()
        raise


def _checked_path(path: str | os.PathLike[str]) -> str:
    text = os.fspath(path) if isinstance(path, str | os.PathLike) else None
    if not isinstance(text, str) or not text or "\0" in text:
        msg = f"journal: pass the path of a file as str or PathLike, not {path!r:.80}"
        raise InvalidArgumentError(msg)
    return text
