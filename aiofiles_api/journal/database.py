"""The database of a journal; all of it runs in threads."""

from __future__ import annotations

import os
import secrets
import sqlite3
import time
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from itertools import chain
from urllib.parse import quote

from aiofiles_api.digests import Digests
from aiofiles_api.errors import JournalError
from aiofiles_api.journal.lock import Lock
from aiofiles_api.journal.problems import damaged, explaining
from aiofiles_api.journal.rows import COLUMNS, Row, read_row, restored, storable, write_statement

__all__ = ["Database", "open_to_read", "read_batch"]

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

_BUSY = 10.0
"""Seconds to wait for a reader that is in the way."""


class Database:
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
        with explaining(path):
            target = os.path.realpath(path)
            directory, name = os.path.split(path)
            given = os.path.join(os.path.realpath(directory), name)
            self.files = [one + ending for one in {given, target} for ending in _ENDINGS]
            self._lock = Lock(target, path)
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
            raise damaged(self._path, "it does not say which it is")
        self.alive_at = alive_at
        return identity

    def _look_through(self) -> None:
        [(verdict,)] = self._connection.execute("PRAGMA integrity_check(1)")
        if verdict != "ok":
            raise damaged(self._path, str(verdict))
        for columns in self._connection.execute(f"SELECT {COLUMNS} FROM entry ORDER BY number"):  # noqa: S608
            row = read_row(columns, self._path)
            self.highest = row.number
            self.places.add(row.place, row.number)
            self.alive_at = max(self.alive_at, row.updated_at)

    def transact(self, calls: Iterable[Callable[[Database], object]]) -> list[object]:
        """Make calls in one transaction, which is on disk afterwards."""
        with explaining(self._path):
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
        query = f"SELECT {COLUMNS} FROM entry WHERE {where} ORDER BY number"  # noqa: S608 - our own
        return [
            read_row(columns, self._path)
            for columns in self._connection.execute(query, tuple(map(storable, values)))
        ]

    def filenames(self, scope: str, last: int) -> list[tuple[int, str]]:
        """Return the numbers and names of some downloads into a directory."""
        query = (
            "SELECT number, filename FROM entry WHERE kind = 'download' AND scope = ?"
            " AND filename IS NOT NULL AND number > ? ORDER BY number LIMIT ?"
        )
        found = self._connection.execute(query, (storable(scope), last, _BATCH))
        return [(number, str(restored(filename))) for number, filename in found]

    def write(self, rows: Sequence[tuple[object, ...]]) -> None:
        """Write rows, new ones and changed ones; each statement gives the loop's thread up once."""
        for start in range(0, len(rows), _MOST_ROWS):
            some = rows[start : start + _MOST_ROWS]
            values = tuple(chain.from_iterable(some))
            self._connection.execute(write_statement(len(some)), values)

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
            with explaining(self._path):
                self._connection.close()
        finally:
            self._lock.release()


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


def open_to_read(path: str) -> sqlite3.Connection:
    """Open a journal that another process may be writing, and change nothing in it."""
    with explaining(path):
        connection = _connect(os.path.realpath(path), "ro")
        try:
            if not _is_blank(connection):
                _check_owner(connection, path)
        except BaseException:
            connection.close()
            raise
        return connection


def read_batch(connection: sqlite3.Connection, path: str, last: int) -> list[Row]:
    """Return some rows with numbers above `last`, in their order."""
    with explaining(path):
        if _is_blank(connection):
            return []
        query = f"SELECT {COLUMNS} FROM entry WHERE number > ? ORDER BY number LIMIT {_BATCH}"  # noqa: S608
        return [read_row(columns, path) for columns in connection.execute(query, (last,))]


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
