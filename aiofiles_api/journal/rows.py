"""What is written down of one item."""

from __future__ import annotations

import marshal
import zlib
from collections.abc import Sequence
from functools import cache
from operator import attrgetter
from typing import Literal, TypeAlias

import attrs

from aiofiles_api.journal.problems import damaged

__all__ = [
    "COLUMNS",
    "JournalEntry",
    "Kind",
    "Row",
    "State",
    "read_row",
    "restored",
    "storable",
    "write_statement",
]

Kind: TypeAlias = Literal["upload", "download", "delete"]
State: TypeAlias = Literal["planned", "started", "done", "failed"]


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
            values = tuple(map(storable, values))
        return (*values, _checksum(values))


_FIELDS = tuple(field.name for field in attrs.fields(Row))
_values_of = attrgetter(*_FIELDS)
_CHANGING = tuple(name for name in _FIELDS if name not in {"number", "place", "kind", "server"})
COLUMNS = ", ".join((*_FIELDS, "checksum"))
_PLAIN = frozenset({str, type(None)})


@cache
def write_statement(count: int) -> str:
    """Return the SQL that writes so many rows, new ones and changed ones."""
    values = ", ".join([f"({', '.join('?' * (len(_FIELDS) + 1))})"] * count)
    changes = ", ".join(f"{name} = excluded.{name}" for name in (*_CHANGING, "checksum"))
    return (
        f"INSERT INTO entry ({COLUMNS}) VALUES {values}"  # noqa: S608 - our own names
        f" ON CONFLICT (number) DO UPDATE SET {changes}"
    )


def storable(value: object) -> object:
    """Return a value as SQLite gives it back: a name that is no text (PEP 383) as bytes."""
    if not isinstance(value, str):
        return value
    encoded = value.encode("utf-8", "surrogatepass")
    try:
        return encoded.decode()  # no member of an enum, or the like, any more
    except UnicodeDecodeError:
        return encoded


def restored(value: object) -> object:
    """Return a value as it was before `storable`."""
    return value.decode("utf-8", "surrogatepass") if isinstance(value, bytes) else value


def _checksum(values: Sequence[object]) -> int:
    # The cheapest way to make bytes of a row. Version 2 of this format is the same in every Python
    # since 2.5, and a test holds a checksum made earlier against what it is now.
    return zlib.crc32(marshal.dumps(values, 2))  # type: ignore[arg-type]  # what SQLite takes


def read_row(columns: tuple[object, ...], path: str) -> Row:
    """Return the row of some columns; raise `JournalError` if it is not what was written."""
    if _checksum(columns[:-1]) != columns[-1]:
        raise damaged(path, f"entry {columns[0]} is not what was written")
    values = [
        value if name == "place" else restored(value)
        for name, value in zip(_FIELDS, columns, strict=False)
    ]
    return Row(**dict(zip(_FIELDS, values, strict=True)))  # type: ignore[arg-type]  # the checksum says that they are as written
