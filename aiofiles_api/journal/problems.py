"""What is wrong with a journal, and what to do about it."""

from __future__ import annotations

import errno
import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager

from aiofiles_api.errors import JournalError

__all__ = ["damaged", "explaining"]

_WRITABLE = "choose a path in a directory that is there and that you may write to"

_REMEDIES = {
    sqlite3.SQLITE_FULL: "free some space, and run again: nothing that was done is lost",
    sqlite3.SQLITE_READONLY: _WRITABLE,
    sqlite3.SQLITE_CANTOPEN: "check that it exists, and that you may read it and its directory",
    sqlite3.SQLITE_BUSY: "another program holds it; close that, and run again",
}


def damaged(path: str, what: str) -> JournalError:
    """Make the error for what is not as it was written."""
    msg = (
        f"the journal {path!r} is damaged ({what}); restore it from a copy. To begin another one,"
        " look first what the server has: what was sent already would be sent again"
    )
    return JournalError(msg)


@contextmanager
def explaining(path: str) -> Iterator[None]:
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
        return damaged(path, str(error))
    remedy = _REMEDIES.get(code, "check the disk, and that nobody else changes the file")
    return JournalError(f"the journal {path!r} cannot be used: {error}; {remedy}")
