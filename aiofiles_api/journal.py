"""The record of bulk runs on disk, so that one that was killed goes on where it was.

A SQLite database in WAL mode, in a thread of its own. Calls that come while a commit is under way
are committed together with the next one, so that a write costs little even though every commit
waits for the disk (`synchronous=FULL`: not even a power cut takes back what was said to be done).

Nothing is guessed: an entry carries a checksum over all its columns, and at the opening the whole
database is looked through. A lock file beside it keeps a second process out; SQLite's own locks
could not, because readers shall come in, and one on the database itself would be lost as soon as
anybody in this process closed another descriptor of it (fcntl(2)).
"""

from __future__ import annotations

import asyncio
import errno
import fcntl
import marshal
import os
import secrets
import sqlite3
import time
import zlib
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Iterable, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager, suppress
from functools import cache, partial
from itertools import chain, count
from operator import attrgetter
from types import TracebackType
from typing import Any, Literal, Protocol, Self, TypeAlias, TypeVar
from urllib.parse import quote

import attrs

from aiofiles_api.digests import Digests
from aiofiles_api.errors import InvalidArgumentError, JournalError
from aiofiles_api.threads import Threads, join, settle

__all__ = ["Journal", "JournalEntry", "Kind", "Row", "State", "read_journal"]

T = TypeVar("T")

Kind: TypeAlias = Literal["upload", "download", "delete"]
State: TypeAlias = Literal["planned", "started", "done", "failed"]

_APPLICATION = 0x61665F6A
"""What SQLite keeps in a database's header to tell whose it is: "af_j"."""

_VERSION = 2

_SCHEMA = f"""
CREATE TABLE entry (
    number INTEGER PRIMARY KEY,
    place BLOB NOT NULL,
    kind TEXT NOT NULL,
    key NOT NULL,
    size INTEGER,
    mtime_ns INTEGER,
    sha256 TEXT,
    state TEXT NOT NULL,
    file_id TEXT,
    reason TEXT,
    attempts INTEGER NOT NULL,
    updated_at REAL NOT NULL,
    server TEXT NOT NULL,
    scope TEXT,
    filename TEXT,
    tries INTEGER NOT NULL,
    started_at REAL,
    newest_before INTEGER NOT NULL,
    result TEXT,
    checksum INTEGER NOT NULL
);
CREATE TABLE property (name TEXT PRIMARY KEY, value NOT NULL) WITHOUT ROWID;
PRAGMA application_id = {_APPLICATION};
PRAGMA user_version = {_VERSION};
"""

_BATCH = 500
"""Entries that are read at a time; between two batches a writer may write."""

_ENDINGS = ("", "-wal", "-shm", "-journal", "-lock")
"""What is behind its name in those of a journal's files: SQLite's and ours."""

_MOST_ROWS = 40
"""Rows that one statement writes."""

_LEAVING = 2.0
"""Seconds in which a run, or a process, that is at its end may still have the journal."""

_BUSY = 10.0
"""Seconds to wait for a reader that is in the way."""


@attrs.frozen
class JournalEntry:
    """What a journal says of one item.

    Attributes:
        kind: "upload", "download" or "delete".
        key: An upload's absolute path, else the file's id.
        size: An upload's length, as it was when it was planned; a finished download's.
        mtime_ns: An upload's time of modification, in nanoseconds.
        sha256: An upload's digest in hex, where `checksum=True` had it made.
        state: "planned": seen, and not begun. "started": begun, so that the server may have it.
            "done", or "failed".
        file_id: The file's id on the server, as soon as it is known.
        reason: Why it failed.
        attempts: Requests that it took.
        updated_at: Unix time in seconds of the last change.
    """

    kind: Kind
    key: str
    size: int | None
    mtime_ns: int | None
    sha256: str | None
    state: State
    file_id: str | None
    reason: str | None
    attempts: int
    updated_at: float


@attrs.define(eq=False)
class Row:
    """An entry with all that a later run needs; its fields are the table's columns in order.

    Whoever has asked for it may change it, and write it again.

    Attributes:
        number: The row's own number; entries are read in its order.
        place: A digest of what the item is apart from its version: kind, server, path or id.
        server: The base URL.
        scope: An upload's purpose; a download's directory.
        filename: An upload's filename; a download's in its directory.
        tries: How often it was begun anew after a failure.
        started_at: When it was begun, in Unix time by this machine's clock: since when it may have
            been done. `None` as well if it has failed, and surely was not.
        newest_before: The highest `created_at` that was known from the server then; 0 for none.
        result: What it has become, as JSON.
    """

    number: int
    place: bytes
    kind: Kind
    key: str
    size: int | None = None
    mtime_ns: int | None = None
    sha256: str | None = None
    state: State = "planned"
    file_id: str | None = None
    reason: str | None = None
    attempts: int = 0
    updated_at: float = 0.0
    server: str = attrs.field(kw_only=True)
    scope: str | None = None
    filename: str | None = None
    tries: int = 0
    started_at: float | None = None
    newest_before: int = 0
    result: str | None = None

    @property
    def entry(self) -> JournalEntry:
        """The row for people."""
        return JournalEntry(
            self.kind,
            self.key,
            self.size,
            self.mtime_ns,
            self.sha256,
            self.state,
            self.file_id,
            self.reason,
            self.attempts,
            self.updated_at,
        )

    def to_columns(self) -> tuple[object, ...]:
        """Return what is stored: names that are no text as bytes, and a checksum behind all."""
        values = _values_of(self)
        names = (self.key, self.filename, self.scope, self.reason)
        if not _PLAIN.issuperset(map(type, names)) or not "".join(filter(None, names)).isascii():
            values = tuple(map(_storable, values))
        return (*values, _checksum(values))


_FIELDS = tuple(field.name for field in attrs.fields(Row))
_values_of = attrgetter(*_FIELDS)
_CHANGING = tuple(name for name in _FIELDS if name not in {"number", "place", "kind", "server"})
_COLUMNS = ", ".join((*_FIELDS, "checksum"))
_PLAIN = frozenset({str, type(None)})


@cache
def _write_statement(count: int) -> str:
    values = ", ".join([f"({', '.join('?' * (len(_FIELDS) + 1))})"] * count)
    changes = ", ".join(f"{name} = excluded.{name}" for name in (*_CHANGING, "checksum"))
    return (
        f"INSERT INTO entry ({_COLUMNS}) VALUES {values}"  # noqa: S608 - our own names
        f" ON CONFLICT (number) DO UPDATE SET {changes}"
    )


def _storable(value: object) -> object:
    """Return a value as SQLite gives it back: a name that is no text (PEP 383) as bytes."""
    if not isinstance(value, str):
        return value
    encoded = value.encode("utf-8", "surrogatepass")
    try:
        return encoded.decode()  # no member of an enum, or the like, any more
    except UnicodeDecodeError:
        return encoded


def _restored(value: object) -> object:
    """Return a value as it was before `_storable`."""
    return value.decode("utf-8", "surrogatepass") if isinstance(value, bytes) else value


def _checksum(values: Sequence[object]) -> int:
    # The cheapest way to make bytes of a row. Version 2 of this format is the same in every Python
    # since 2.5, and a test holds a checksum made earlier against what it is now.
    return zlib.crc32(marshal.dumps(values, 2))  # type: ignore[arg-type]  # what SQLite takes


def _read_row(columns: tuple[object, ...], path: str) -> Row:
    if _checksum(columns[:-1]) != columns[-1]:
        raise _damaged(path, f"entry {columns[0]} is not what was written")
    values = [
        value if name == "place" else _restored(value)
        for name, value in zip(_FIELDS, columns, strict=False)
    ]
    return Row(**dict(zip(_FIELDS, values, strict=True)))  # type: ignore[arg-type]  # the checksum says that they are as written


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
        self._database: _Database | None = None
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
            self._database = await _opened_in(self._threads, partial(_Database, self.path))
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
            async with asyncio.timeout(_LEAVING):
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

    def _opened(self) -> _Database:
        if self._database is None:
            msg = f"the journal {self.path!r} is not open; use it inside its `async with`"
            raise JournalError(msg)
        return self._database

    async def _call(self, work: Callable[[_Database], T]) -> T:
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
    work: Callable[[_Database], object]
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
    connection = await _opened_in(threads, partial(_open_to_read, path))
    try:
        last = 0
        while rows := await threads.run(partial(_read_batch, connection, path, last)):
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


# --- in threads ----------------------------------------------------------------------------------


class _Database:
    """The database, open for writing; all of it runs in the journal's thread.

    Attributes:
        files: The paths of its files, by the name that was given, and behind links.
        identity: What tells this journal from every other.
        alive_at: When it was last written to before it was opened.
        highest: The highest number of a row at the opening.
        places: The places of all rows at the opening, and their numbers.
    """

    def __init__(self, path: str) -> None:
        self._path = path
        self.alive_at = 0.0
        self.highest = 0
        self.places = Digests()
        with _errors(path):
            target = os.path.realpath(path)
            directory, name = os.path.split(path)
            given = os.path.join(os.path.realpath(directory), name)
            self.files = [one + ending for one in {given, target} for ending in _ENDINGS]
            self._lock = _Lock(target, path)
            try:
                _create_privately(target)
                self._connection = _connect(target, "rw")
                try:
                    self.identity = self._prepare()
                    self._look_through()
                except BaseException:
                    self._connection.close()
                    raise
            except BaseException:
                self._lock.release()
                raise

    def _prepare(self) -> str:
        connection = self._connection
        if _is_blank(connection):
            connection.execute("PRAGMA journal_mode = WAL")
            connection.execute("PRAGMA synchronous = FULL")
            new = secrets.token_hex(16)
            connection.executescript(f"BEGIN; {_SCHEMA}")
            properties = [("identity", new), ("alive_at", 0.0)]
            connection.executemany("INSERT INTO property VALUES (?, ?)", properties)
            connection.execute("COMMIT")
            return new
        _check_owner(connection, self._path)
        connection.execute("PRAGMA journal_mode = WAL")
        connection.execute("PRAGMA synchronous = FULL")
        found = dict(connection.execute("SELECT name, value FROM property"))
        alive_at = found.get("alive_at")
        identity = found.get("identity")
        if not isinstance(identity, str) or not isinstance(alive_at, float):
            raise _damaged(self._path, "it does not say which it is")
        self.alive_at = alive_at
        return identity

    def _look_through(self) -> None:
        [(verdict,)] = self._connection.execute("PRAGMA integrity_check(1)")
        if verdict != "ok":
            raise _damaged(self._path, str(verdict))
        for columns in self._connection.execute(f"SELECT {_COLUMNS} FROM entry ORDER BY number"):  # noqa: S608
            row = _read_row(columns, self._path)
            self.highest = row.number
            self.places.add(row.place, row.number)
            self.alive_at = max(self.alive_at, row.updated_at)

    def transact(self, calls: Iterable[Callable[[_Database], object]]) -> list[object]:
        """Make calls in one transaction, which is on disk afterwards."""
        with _errors(self._path):
            self._connection.execute("BEGIN IMMEDIATE")
            try:
                results = [call(self) for call in calls]
                self._connection.execute("COMMIT")
            except BaseException:
                with suppress(sqlite3.Error):  # a full disk has rolled it back already
                    self._connection.execute("ROLLBACK")
                raise
            return results

    def numbered(self, numbers: Sequence[int]) -> dict[int, Row]:
        """Return the rows with these numbers."""
        where = f"number IN ({', '.join(map(str, numbers))})"
        return {row.number: row for row in self.rows(where, ())}

    def rows(self, where: str, values: Sequence[object]) -> list[Row]:
        """Return the rows that a condition holds for."""
        query = f"SELECT {_COLUMNS} FROM entry WHERE {where} ORDER BY number"  # noqa: S608 - our own
        return [
            _read_row(columns, self._path)
            for columns in self._connection.execute(query, tuple(map(_storable, values)))
        ]

    def filenames(self, scope: str, last: int) -> list[tuple[int, str]]:
        """Return the numbers and names of some downloads into a directory."""
        query = (
            "SELECT number, filename FROM entry WHERE kind = 'download' AND scope = ?"
            " AND filename IS NOT NULL AND number > ? ORDER BY number LIMIT ?"
        )
        found = self._connection.execute(query, (_storable(scope), last, _BATCH))
        return [(number, str(_restored(filename))) for number, filename in found]

    def write(self, rows: Sequence[tuple[object, ...]]) -> None:
        """Write rows, new ones and changed ones; each statement gives the loop's thread up once."""
        for start in range(0, len(rows), _MOST_ROWS):
            some = rows[start : start + _MOST_ROWS]
            values = tuple(chain.from_iterable(some))
            self._connection.execute(_write_statement(len(some)), values)

    def touch(self) -> None:
        """Write down that this process is alive."""
        statement = "UPDATE property SET value = ? WHERE name = 'alive_at'"
        self._connection.execute(statement, (time.time(),))

    def known_ids(self, server: str, ids: frozenset[str]) -> set[str]:
        """Return which of some ids of files on a server are those of finished uploads."""
        query = "SELECT file_id FROM entry WHERE kind = 'upload' AND state = 'done' AND server = ?"
        return {found for (found,) in self._connection.execute(query, (server,)) if found in ids}

    def close(self) -> None:
        """Close the database, and only then let others have it."""
        try:
            with _errors(self._path):
                self._connection.close()
        finally:
            self._lock.release()


class _Lock:
    """A lock on a file beside the journal, which is removed with it."""

    def __init__(self, target: str, shown: str) -> None:
        self._path = f"{target}-lock"
        give_up_at = time.monotonic() + _LEAVING
        while not self._try_to_lock():
            if time.monotonic() >= give_up_at:
                msg = (
                    f"the journal {shown!r} is in use by another process, or by another run of"
                    " this one; wait until that is done, or take another journal"
                )
                raise JournalError(msg)
            time.sleep(0.02)

    def _try_to_lock(self) -> bool:
        flags = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW
        self._descriptor = os.open(self._path, flags, 0o600)
        is_mine = False
        try:
            fcntl.flock(self._descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            is_mine = self._is_still_there()
        except BlockingIOError:
            pass
        finally:
            if not is_mine:
                os.close(self._descriptor)
        return is_mine

    def _is_still_there(self) -> bool:
        """Return whether nobody has removed it between our opening and our locking it."""
        try:
            there = os.stat(self._path, follow_symlinks=False)
        except FileNotFoundError:
            return False
        return os.path.samestat(os.fstat(self._descriptor), there)

    def release(self) -> None:
        with suppress(OSError):
            os.unlink(self._path)
        os.close(self._descriptor)


def _create_privately(target: str) -> None:
    """Make the file for its owner alone, as it holds paths; SQLite's own files follow it."""
    with suppress(FileExistsError):
        # Only where it is new: closing a descriptor would drop SQLite's locks on the file.
        os.close(os.open(target, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600))
        directory = os.open(os.path.dirname(target), os.O_RDONLY | os.O_CLOEXEC)
        try:
            os.fsync(directory)
        finally:
            os.close(directory)


def _connect(path: str, mode: str) -> sqlite3.Connection:
    return sqlite3.connect(
        f"file:{quote(os.fsencode(path))}?mode={mode}",
        uri=True,
        timeout=_BUSY,
        isolation_level=None,
        check_same_thread=False,
    )


def _open_to_read(path: str) -> sqlite3.Connection:
    with _errors(path):
        connection = _connect(os.path.realpath(path), "ro")
        try:
            if not _is_blank(connection):
                _check_owner(connection, path)
        except BaseException:
            connection.close()
            raise
        return connection


def _read_batch(connection: sqlite3.Connection, path: str, last: int) -> list[Row]:
    with _errors(path):
        if _is_blank(connection):
            return []
        query = f"SELECT {_COLUMNS} FROM entry WHERE number > ? ORDER BY number LIMIT {_BATCH}"  # noqa: S608
        return [_read_row(columns, path) for columns in connection.execute(query, (last,))]


def _is_blank(connection: sqlite3.Connection) -> bool:
    """Return whether there is nothing in it, be it new or left by a kill at its making."""
    [(tables,)] = connection.execute("SELECT count(*) FROM sqlite_master")
    [(application,)] = connection.execute("PRAGMA application_id")
    return not tables and not application


def _check_owner(connection: sqlite3.Connection, path: str) -> None:
    [(application,)] = connection.execute("PRAGMA application_id")
    if application != _APPLICATION:
        msg = f"{path!r} is a database, but no journal of transfers; choose another path"
        raise JournalError(msg)
    [(version,)] = connection.execute("PRAGMA user_version")
    if version != _VERSION:
        msg = (
            f"the journal {path!r} is of version {version}, and this program knows {_VERSION};"
            " use the program that wrote it, or begin another journal"
        )
        raise JournalError(msg)


def _damaged(path: str, what: str) -> JournalError:
    msg = (
        f"the journal {path!r} is damaged ({what}); restore it from a copy. To begin another one,"
        " look first what the server has: what was sent already would be sent again"
    )
    return JournalError(msg)


@contextmanager
def _errors(path: str) -> Iterator[None]:
    """Turn what SQLite and the operating system refuse into our error, with what to do about it."""
    try:
        yield
    except sqlite3.Error as error:
        raise _explained(path, error) from error
    except (OSError, ValueError) as error:
        is_full = isinstance(error, OSError) and error.errno in {errno.ENOSPC, errno.EDQUOT}
        reason = error.strerror if isinstance(error, OSError) else str(error)
        remedy = "free some space" if is_full else _WRITABLE
        msg = f"the journal {path!r} cannot be used: {reason}; {remedy}"
        raise JournalError(msg) from error


def _explained(path: str, error: sqlite3.Error) -> JournalError:
    code = getattr(error, "sqlite_errorcode", 0) & 0xFF  # without the extension
    if code == sqlite3.SQLITE_NOTADB:
        msg = f"{path!r} is a file, but no journal of transfers; choose another path"
        return JournalError(msg)
    if code == sqlite3.SQLITE_CORRUPT or isinstance(error, sqlite3.ProgrammingError):
        return _damaged(path, str(error))
    remedy = _REMEDIES.get(code, "check the disk, and that nobody else changes the file")
    return JournalError(f"the journal {path!r} cannot be used: {error}; {remedy}")


_WRITABLE = "choose a path in a directory that is there and that you may write to"

_REMEDIES = {
    sqlite3.SQLITE_FULL: "free some space, and run again: nothing that was done is lost",
    sqlite3.SQLITE_READONLY: _WRITABLE,
    sqlite3.SQLITE_CANTOPEN: "check that it exists, and that you may read it and its directory",
    sqlite3.SQLITE_BUSY: "another program holds it; close that, and run again",
}
