"""Keep files: what is known of them in SQLite, their bytes in one blob each beside it.

A file exists when, and only when, it has a row. Its blob is written first and in its final place,
then the row is inserted; to delete, the row goes first. A process that is killed in between leaves
a blob without a row at worst, which the next start sweeps away. (A power cut may take the last
seconds' uploads: nothing waits for the disk. Rows whose blob is missing are swept as well.)

A File object never changes, so its JSON is rendered once, when it is stored: a page of a listing is
then one concatenation, made by SQLite without Python's lock, however many objects it holds.

Every method blocks, and any thread may call it.
"""

import fcntl
import json
import os
import secrets
import sqlite3
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Final, Literal

import attrs

__all__ = [
    "BlobReader",
    "BlobWriter",
    "DataDirInUseError",
    "NewFile",
    "Order",
    "Store",
    "UnknownCursorError",
]

Order = Literal["asc", "desc"]

_BATCH_SECONDS: Final = 30 * 24 * 3600  # purpose=batch expires after 30 days if nothing else is said

# Files are listed by (created_at, seq); seq is the rowid, which SQLite appends to every index.
# AUTOINCREMENT: the seq of a deleted file is never given again, or cursors would skip its successor.
#
# A cursor must go on to name its place after its file is deleted, as a tombstone; the newest 100,000
# of these are kept, ten times the longest page.
_SCHEMA: Final = """
CREATE TABLE IF NOT EXISTS files (
    seq INTEGER PRIMARY KEY AUTOINCREMENT,
    id TEXT NOT NULL UNIQUE,
    created_at INTEGER NOT NULL,
    purpose TEXT NOT NULL,
    expires_at INTEGER,
    bytes INTEGER NOT NULL,
    object TEXT NOT NULL
);
CREATE INDEX IF NOT EXISTS files_by_age ON files (created_at);
CREATE INDEX IF NOT EXISTS files_by_purpose ON files (purpose, created_at);
CREATE INDEX IF NOT EXISTS files_by_expiry ON files (expires_at) WHERE expires_at IS NOT NULL;
CREATE TABLE IF NOT EXISTS tombstones (
    number INTEGER PRIMARY KEY,
    id TEXT NOT NULL UNIQUE,
    created_at INTEGER NOT NULL,
    seq INTEGER NOT NULL
);
CREATE TRIGGER IF NOT EXISTS bury AFTER DELETE ON files BEGIN
    INSERT INTO tombstones (id, created_at, seq) VALUES (old.id, old.created_at, old.seq);
    DELETE FROM tombstones WHERE number <= last_insert_rowid() - 100000;
END;
"""

_INSERT: Final = """
INSERT INTO files (id, created_at, purpose, expires_at, bytes, object) VALUES (?, ?, ?, ?, ?, ?)
"""

_ALIVE: Final = "(expires_at IS NULL OR expires_at > :now)"

_PAGE: Final = """
SELECT CAST(group_concat(object) AS BLOB), group_concat(id, ' ') FROM (
    SELECT object, id FROM files
    WHERE {condition} AND (created_at, seq) {beyond} (:created_at, :seq) AND {alive}
    ORDER BY created_at {order}, seq {order} LIMIT :limit
)
"""

_PAGES: Final[dict[tuple[Order, bool], str]] = {
    (order, is_filtered): _PAGE.format(
        condition="purpose = :purpose" if is_filtered else "TRUE",
        beyond={"asc": ">", "desc": "<"}[order],
        alive=_ALIVE,
        order=order,
    )
    for order in ("asc", "desc")
    for is_filtered in (False, True)
}

# The places before the first file of all.
_BEFORE_ALL: Final[dict[Order, tuple[int, int]]] = {
    "asc": (-(2**63), -(2**63)),
    "desc": (2**63 - 1, 2**63 - 1),
}

_PLACE: Final = """
SELECT created_at, seq FROM files WHERE id = :id
UNION ALL SELECT created_at, seq FROM tombstones WHERE id = :id
"""

_EXPIRE_AT_ONCE: Final = 500


class DataDirInUseError(RuntimeError):
    """Another emulator is using this data directory."""


class UnknownCursorError(LookupError):
    """The id after which a page should start was never given out, or was forgotten."""


@attrs.frozen
class NewFile:
    """What the sender says of a file."""

    filename: str
    purpose: str
    expires_after: int | None = None
    """Seconds; `None` is 30 days for purpose=batch, and never for all others."""


class BlobWriter:
    """The bytes of a file on their way in; used by one thread at a time."""

    def __init__(self, file_id: str, path: Path) -> None:
        self.file_id = file_id
        self.bytes = 0
        self.is_loose = False
        """A blob is on disk, and no file owns it yet."""
        self._path = path
        self._descriptor = -1

    def write(self, chunks: Iterable[bytes | memoryview]) -> None:
        """Append the chunks."""
        if not self.is_loose:
            self._create()
        for chunk in chunks:
            rest = memoryview(chunk)
            while rest:
                written = os.write(self._descriptor, rest)
                self.bytes += written
                rest = rest[written:]

    def close(self) -> None:
        """Let go of the descriptor; the blob stays."""
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1

    def discard(self) -> None:
        """Remove the blob."""
        self.close()
        self._path.unlink()
        self.is_loose = False

    def _create(self) -> None:
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
        try:
            self._descriptor = os.open(self._path, flags, 0o600)
        except FileNotFoundError:  # the first blob of its directory
            self._path.parent.mkdir(exist_ok=True)
            self._descriptor = os.open(self._path, flags, 0o600)
        self.is_loose = True


class BlobReader:
    """The bytes of a file on their way out; whole even if the file is deleted meanwhile."""

    def __init__(self, store: "Store", file_id: str) -> None:
        self.file_id = file_id
        self.filename = ""
        self.bytes = 0
        self._store = store
        self._descriptor = -1

    @property
    def is_open(self) -> bool:
        """Tell whether a descriptor is held."""
        return self._descriptor >= 0

    def open(self) -> bool:
        """Open the blob, or tell that there is no such file."""
        found = self._store.find(self.file_id)
        if found is None:
            return False
        try:
            self._descriptor = os.open(
                self._store.blob_path(self.file_id), os.O_RDONLY | os.O_CLOEXEC
            )
        except FileNotFoundError:  # deleted since the line above
            return False
        described = json.loads(found)
        self.filename, self.bytes = described["filename"], described["bytes"]
        return True

    def read(self, start: int, length: int) -> bytes:
        """Read exactly so many bytes from a place within the content."""
        data = os.pread(self._descriptor, length, start)
        if len(data) != length:
            raise OSError(f"The blob of {self.file_id} is shorter than it was")
        return data

    def close(self) -> None:
        """Let go of the descriptor."""
        os.close(self._descriptor)
        self._descriptor = -1


class Store:
    """The files of one data directory, which belongs to it alone while it is open."""

    def __init__(self, data_dir: Path, clock: Callable[[], float]) -> None:
        """Open the directory, creating it where needed.

        Raises:
            DataDirInUseError: Another store has it open.
        """
        self._clock = clock
        self._blobs = data_dir / "blobs"
        self._blobs.mkdir(parents=True, exist_ok=True)
        self._lock = _lock(data_dir)
        # In WAL mode a long listing, on its own connection, holds up no upload.
        self._writer, self._writing = _connect(data_dir), threading.Lock()
        self._writer.executescript(_SCHEMA)
        self._reader, self._reading = _connect(data_dir), threading.Lock()
        self._sweep()

    def close(self) -> None:
        """Close the database and let go of the directory."""
        self._reader.close()
        self._writer.close()
        os.close(self._lock)

    def blob_path(self, file_id: str) -> Path:
        """Name the place of a file's blob."""
        return self._blobs / _shard(file_id) / file_id

    def blob(self) -> BlobWriter:
        """Begin the blob of a file to be."""
        file_id = f"file-{secrets.token_hex(16)}"
        return BlobWriter(file_id, self.blob_path(file_id))

    def add(self, new: NewFile, blob: BlobWriter, rest: Iterable[bytes | memoryview]) -> str:
        """Write the rest of the blob, make it a file, and give the File object as JSON."""
        blob.write(rest)
        blob.close()
        created_at = int(self._clock())
        expires_at = _expiry(new, created_at)
        described = _describe(new, blob, created_at, expires_at)
        row = (blob.file_id, created_at, new.purpose, expires_at, blob.bytes, described)
        with self._writing:
            self._writer.execute(_INSERT, row)
        blob.is_loose = False
        return described

    def find(self, file_id: str) -> str | None:
        """Give a File object as JSON."""
        with self._reading:
            row = self._reader.execute(
                f"SELECT object FROM files WHERE id = :id AND {_ALIVE}",
                {"id": file_id, "now": self._clock()},
            ).fetchone()
        return None if row is None else row[0]

    def delete(self, file_id: str) -> bool:
        """Delete a file, or tell that there is none."""
        with self._writing:
            deleted = self._writer.execute(
                f"DELETE FROM files WHERE id = :id AND {_ALIVE} RETURNING id",
                {"id": file_id, "now": self._clock()},
            ).fetchall()
        self._remove_blobs(deleted)
        return bool(deleted)

    def page(self, *, purpose: str | None, order: Order, after: str | None, limit: int) -> bytes:
        """Render a page of the listing as JSON.

        Raises:
            UnknownCursorError: `after` is no file's id, nor that of a file deleted of late.
        """
        with self._snapshot():
            place = _BEFORE_ALL[order] if after is None else self._place(after)
            objects, ids = self._read_page(purpose, order, place, limit)
            if objects is None:
                return b'{"object":"list","data":[],"first_id":null,"last_id":null,"has_more":false}'
            first_id, last_id = ids.partition(" ")[0], ids.rpartition(" ")[2]
            _, more = self._read_page(purpose, order, self._place(last_id), 1)
        end = {"first_id": first_id, "last_id": last_id, "has_more": more is not None}
        return b'{"object":"list","data":[%b],%b' % (objects, _json(end)[1:].encode())

    def expire(self) -> int:
        """Remove files whose time has come, some hundreds at once; tell how many."""
        with self._writing:
            expired = self._writer.execute(
                "DELETE FROM files WHERE seq IN "
                "(SELECT seq FROM files WHERE expires_at <= ? LIMIT ?) RETURNING id",
                (self._clock(), _EXPIRE_AT_ONCE),
            ).fetchall()
        self._remove_blobs(expired)
        return len(expired)

    def _sweep(self) -> None:
        """Remove blobs without a row, and rows without a blob."""
        for shard in (f"{number:02x}" for number in range(256)):
            directory = self._blobs / shard
            stored = set(os.listdir(directory)) if directory.exists() else set()
            rows = self._writer.execute(
                "SELECT id FROM files WHERE id >= ? AND id < ?",
                (f"file-{shard}", f"file-{shard}g"),
            )
            known = {file_id for (file_id,) in rows}
            for orphan in stored - known:
                (directory / orphan).unlink()
            for lost in known - stored:
                self._writer.execute("DELETE FROM files WHERE id = ?", (lost,))

    def _remove_blobs(self, rows: Iterable[tuple[str]]) -> None:
        for (file_id,) in rows:
            self.blob_path(file_id).unlink()

    @contextmanager
    def _snapshot(self) -> Iterator[None]:
        with self._reading:
            self._reader.execute("BEGIN")
            try:
                yield
            finally:
                self._reader.execute("COMMIT")

    def _place(self, file_id: str) -> tuple[int, int]:
        row: tuple[int, int] | None = self._reader.execute(_PLACE, {"id": file_id}).fetchone()
        if row is None:
            raise UnknownCursorError(file_id)
        return row

    def _read_page(
        self, purpose: str | None, order: Order, place: tuple[int, int], limit: int
    ) -> tuple[bytes | None, str | None]:
        sql = _PAGES[order, purpose is not None]
        row = self._reader.execute(
            sql,
            {
                "purpose": purpose,
                "created_at": place[0],
                "seq": place[1],
                "now": self._clock(),
                "limit": limit,
            },
        ).fetchone()
        return row


def _connect(data_dir: Path) -> sqlite3.Connection:
    # No isolation level: a statement is its own transaction unless BEGIN is said.
    connection = sqlite3.connect(
        data_dir / "files.sqlite3", isolation_level=None, check_same_thread=False
    )
    connection.execute("PRAGMA journal_mode = WAL")
    connection.execute("PRAGMA synchronous = NORMAL")
    return connection


def _lock(data_dir: Path) -> int:
    """Take the directory for this process until the descriptor is closed."""
    descriptor = os.open(data_dir / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        os.close(descriptor)
        raise DataDirInUseError(f"Another emulator is using {data_dir}") from error
    return descriptor


def _shard(file_id: str) -> str:
    """Spread blobs over 256 directories: the first two digits of an id's random part."""
    return file_id.removeprefix("file-")[:2]


def _expiry(new: NewFile, created_at: int) -> int | None:
    if new.expires_after is not None:
        return created_at + new.expires_after
    return created_at + _BATCH_SECONDS if new.purpose == "batch" else None


def _describe(new: NewFile, blob: BlobWriter, created_at: int, expires_at: int | None) -> str:
    described: dict[str, str | int] = {
        "id": blob.file_id,
        "object": "file",
        "bytes": blob.bytes,
        "created_at": created_at,
        "filename": new.filename,
        "purpose": new.purpose,
        "status": "processed",
    }
    if expires_at is not None:
        described["expires_at"] = expires_at
    return _json(described)


def _json(value: Mapping[str, str | int | None]) -> str:
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"))
