"""Keep files: small ones in SQLite, of others the bytes in a blob each beside it.

A file exists when, and only when, it has a row. Its blob is written first, at once in its final
place, then the row is inserted; to delete, the row goes first. A process that is killed in between
leaves at worst a blob without a row, which the next start sweeps away. (Nothing waits for the disk:
a power cut may take the uploads of the last seconds. The database survives it, and a row whose
blob is missing is swept away too.)

A File object never changes, so its JSON is rendered once, when it is stored. A page of a listing
is then one concatenation, which SQLite makes without holding Python's lock.

All methods block; any thread may call them.
"""

import fcntl
import hashlib
import json
import os
import sqlite3
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, closing, contextmanager
from pathlib import Path
from typing import Final, Literal, Self

import attrs

__all__ = [
    "Arrival",
    "BlobReader",
    "BlobWriter",
    "Claim",
    "DataDirInUseError",
    "NewFile",
    "Order",
    "Store",
    "UnknownCursorError",
]

Order = Literal["asc", "desc"]

_BATCH_EXPIRES_AFTER: Final = 30 * 24 * 3600  # the API's default for purpose=batch
_EXPIRED_AT_ONCE: Final = 500
_CLAIMS_KEPT_SECONDS: Final = 24 * 3600

# A file's place in the listing is one number: the second of its creation, then the count of files
# within that second. No place is given twice while a cursor can tell, or a new file might hide
# behind a deleted one's.
#
# A deleted file leaves a tombstone, so that a cursor which names it still has its place. The last
# 100,000 are kept: ten of the longest pages.
_PLACES_PER_SECOND: Final = 2**28

_SCHEMA: Final = """
CREATE TABLE IF NOT EXISTS files (
    place INTEGER PRIMARY KEY,
    id TEXT NOT NULL UNIQUE,
    purpose TEXT NOT NULL,
    expires_at INTEGER,
    has_blob INTEGER NOT NULL,
    object TEXT NOT NULL
);
CREATE INDEX IF NOT EXISTS files_by_purpose ON files (purpose, place);
CREATE INDEX IF NOT EXISTS files_by_expiry ON files (expires_at) WHERE expires_at IS NOT NULL;
CREATE INDEX IF NOT EXISTS files_with_blob ON files (id) WHERE has_blob;
CREATE TABLE IF NOT EXISTS contents (
    place INTEGER PRIMARY KEY,
    content BLOB NOT NULL
);
CREATE TABLE IF NOT EXISTS tombstones (
    number INTEGER PRIMARY KEY,
    id TEXT NOT NULL UNIQUE,
    place INTEGER NOT NULL UNIQUE
);
CREATE TABLE IF NOT EXISTS claims (
    key TEXT PRIMARY KEY,
    fingerprint BLOB NOT NULL,
    object TEXT NOT NULL,
    claimed_at INTEGER NOT NULL
);
CREATE TRIGGER IF NOT EXISTS bury AFTER DELETE ON files BEGIN
    DELETE FROM contents WHERE place = old.place;
    INSERT INTO tombstones (id, place) VALUES (old.id, old.place);
    DELETE FROM tombstones WHERE number <= last_insert_rowid() - 100000;
END;
"""

# The first statement must be the first: else the second already waits for the disk.
_LASTING: Final = "PRAGMA synchronous = NORMAL; PRAGMA journal_mode = WAL;"
_PASSING: Final = "PRAGMA synchronous = OFF; PRAGMA journal_mode = WAL;"

_LAST_PLACE: Final = """
SELECT max(place) FROM (
    SELECT :first - 1 AS place
    UNION ALL SELECT max(place) FROM files WHERE place BETWEEN :first AND :last
    UNION ALL SELECT max(place) FROM tombstones WHERE place BETWEEN :first AND :last
)
"""

_INSERT_FILE: Final = """
INSERT INTO files (place, id, purpose, expires_at, has_blob, object)
VALUES (:place, :id, :purpose, :expires_at, :content IS NULL, :object)
"""

_INSERT_CONTENT: Final = """
INSERT INTO contents (place, content) SELECT :place, :content WHERE :content IS NOT NULL
"""

_INSERT_CLAIM: Final = """
INSERT INTO claims (key, fingerprint, object, claimed_at)
VALUES (:key, :fingerprint, :object, :claimed_at)
"""

_CLAIMED: Final = "SELECT fingerprint, object FROM claims WHERE key = :key"

_FORGET_CLAIMS: Final = "DELETE FROM claims WHERE claimed_at <= :until"

_FIND: Final = """
SELECT object FROM files WHERE id = :id AND (expires_at IS NULL OR expires_at > :now)
"""

_READ: Final = """
SELECT object, content FROM files LEFT JOIN contents USING (place)
WHERE id = :id AND (expires_at IS NULL OR expires_at > :now)
"""

_DELETE: Final = """
DELETE FROM files WHERE id = :id AND (expires_at IS NULL OR expires_at > :now)
RETURNING id, has_blob
"""

_EXPIRE: Final = """
DELETE FROM files WHERE place IN (SELECT place FROM files WHERE expires_at <= :now LIMIT :limit)
RETURNING id, has_blob
"""

_PLACE: Final = """
SELECT place FROM files WHERE id = :id UNION ALL SELECT place FROM tombstones WHERE id = :id
"""

_PAGE: Final = """
SELECT CAST(group_concat(object) AS BLOB), group_concat(id, ' ') FROM (
    SELECT object, id FROM files
    WHERE {matches} AND place {beyond} :place AND (expires_at IS NULL OR expires_at > :now)
    ORDER BY place {order} LIMIT :limit
)
"""

_PAGES: Final[Mapping[tuple[Order, bool], str]] = {
    (order, is_filtered): _PAGE.format(
        matches="purpose = :purpose" if is_filtered else "TRUE",
        beyond={"asc": ">", "desc": "<"}[order],
        order=order,
    )
    for order in ("asc", "desc")
    for is_filtered in (False, True)
}

_BEGINNING: Final[Mapping[Order, int]] = {"asc": -(2**63), "desc": 2**63 - 1}

_NO_FILES: Final = b'{"object":"list","data":[],"first_id":null,"last_id":null,"has_more":false}'


class DataDirInUseError(RuntimeError):
    """Another emulator is using this data directory."""


class UnknownCursorError(LookupError):
    """No file with this id was ever stored, or it was deleted very long ago."""


@attrs.frozen
class NewFile:
    """What is said of a file by its sender."""

    filename: str
    purpose: str
    expires_after: int | None = None
    """In seconds; `None` means 30 days for `batch`, and never for all other purposes."""


class BlobWriter:
    """The bytes of a file on their way in; for one thread at a time."""

    def __init__(self, path: Path) -> None:
        self.bytes = 0
        self.is_loose = False
        """Is there a blob on the disk that no file owns?"""
        self._path = path
        self._descriptor = -1

    def write(self, chunks: Iterable[bytes | memoryview]) -> None:
        """Append chunks; the first call creates the blob."""
        if not self.is_loose:
            flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
            self._descriptor = os.open(self._path, flags, 0o600)
            self.is_loose = True
        for chunk in chunks:
            rest = memoryview(chunk)
            while rest:
                written = os.write(self._descriptor, rest)
                self.bytes += written
                rest = rest[written:]

    def finish(self, chunks: Iterable[bytes | memoryview]) -> None:
        """Append the last chunks, and let go of the descriptor."""
        self.write(chunks)
        self._close()

    def discard(self) -> None:
        """Remove the blob."""
        self._close()
        self._path.unlink()
        self.is_loose = False

    def digest(self) -> bytes:
        """Digest the finished blob."""
        with self._path.open("rb") as blob:
            return hashlib.file_digest(blob, "sha256").digest()

    def _close(self) -> None:
        descriptor, self._descriptor = self._descriptor, -1
        if descriptor >= 0:
            os.close(descriptor)


@attrs.frozen
class Claim:
    """An Idempotency-Key, and the fingerprint of what it was sent with."""

    key: str
    fingerprint: bytes

    @classmethod
    def of(cls, key: str, new: NewFile, content: bytes | BlobWriter) -> Self:
        """Take the fingerprint."""
        if isinstance(content, BlobWriter):
            digest = content.digest()
        else:
            digest = hashlib.sha256(content).digest()
        described = json.dumps(attrs.astuple(new)).encode()
        return cls(key, hashlib.sha256(digest + described).digest())


@attrs.frozen
class Arrival:
    """A file that has come in whole."""

    id: str
    new: NewFile
    content: bytes | BlobWriter
    """A small file's bytes, or the finished blob of another."""
    claim: Claim | None = None


@attrs.frozen
class _Row:
    place: int
    id: str
    purpose: str
    expires_at: int | None
    content: bytes | None
    object: str


class BlobReader:
    """The bytes of a file on their way out, whole even if it is deleted meanwhile."""

    def __init__(self, store: "Store", file_id: str) -> None:
        self.file_id = file_id
        self.filename = ""
        self.bytes = 0
        self.content: bytes | None = None
        """All of a small file, for which nothing is left to read or to close."""
        self._store = store
        self._descriptor = -1

    @property
    def is_open(self) -> bool:
        """Is a descriptor held?"""
        return self._descriptor >= 0

    def open(self) -> bool:
        """Open the file; tell if there is such a one.

        Raises:
            OSError: Its blob is damaged.
        """
        found = self._store.read(self.file_id)
        if found is None:
            return False
        described, self.content = found
        known = json.loads(described)
        self.filename, self.bytes = known["filename"], known["bytes"]
        return self.content is not None or self._open_blob()

    def read(self, start: int, length: int) -> bytes:
        """Read bytes from within the blob.

        Raises:
            OSError: They cannot be read, or are there no more.
        """
        data = os.pread(self._descriptor, length, start)
        if len(data) < length:
            raise OSError(f"The blob of {self.file_id} was cut")
        return data

    def close(self) -> None:
        """Let go of the descriptor."""
        descriptor, self._descriptor = self._descriptor, -1
        os.close(descriptor)

    def _open_blob(self) -> bool:
        path = self._store.blob_path(self.file_id)
        try:
            self._descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        except FileNotFoundError:  # deleted since the look at its row
            return False
        if os.fstat(self._descriptor).st_size != self.bytes:
            raise OSError(f"The blob of {self.file_id} is not of {self.bytes} bytes any more")
        return True


class Store:
    """The files of one data directory, which is its own while it is open."""

    def __init__(
        self, data_dir: Path, clock: Callable[[], float], *, is_temporary: bool = False
    ) -> None:
        """Open the directory, or begin it; a temporary one need not outlive a power cut.

        Raises:
            DataDirInUseError: Another store has it open.
        """
        self._clock = clock
        self._blobs = data_dir / "blobs"
        self._blobs.mkdir(parents=True, exist_ok=True)
        # Two connections: in WAL mode a long page holds up no upload.
        self._writing, self._reading = threading.Lock(), threading.Lock()
        with ExitStack() as resources:
            resources.callback(os.close, _lock(data_dir))
            self._writer = resources.enter_context(closing(_connect(data_dir)))
            self._reader = resources.enter_context(closing(_connect(data_dir)))
            for connection in (self._writer, self._reader):
                connection.executescript(_PASSING if is_temporary else _LASTING)
            self._writer.executescript(_SCHEMA)
            self._sweep()
            self._resources = resources.pop_all()

    def close(self) -> None:
        """Close the database and let go of the directory."""
        self._resources.close()

    def blob(self, file_id: str) -> BlobWriter:
        """Begin the blob of a file to be."""
        return BlobWriter(self.blob_path(file_id))

    def blob_path(self, file_id: str) -> Path:
        """Name the place of a file's blob."""
        return self._blobs / file_id

    def add(self, arrivals: Sequence[Arrival]) -> list[str | None]:
        """Make files of all arrivals, or of none; give each one's File object as JSON.

        Where the key of a claim was used before, nothing is stored: given is the object of that
        time or, if the fingerprint was another, `None`.
        """
        with self._transaction(self._writer, self._writing):
            repeated = self._repeated(arrivals)
            added = [arrival for arrival in arrivals if arrival.id not in repeated]
            created_at = int(self._clock())
            next_place = self._last_place(created_at) + 1
            rows = [
                _row(arrival, place, created_at) for place, arrival in enumerate(added, next_place)
            ]
            parameters = [attrs.asdict(row) for row in rows]
            self._writer.executemany(_INSERT_FILE, parameters)
            self._writer.executemany(_INSERT_CONTENT, parameters)
            for arrival, row in zip(added, rows, strict=True):
                if arrival.claim is not None:
                    self._claim(arrival.claim, row)
        for arrival in added:
            if isinstance(arrival.content, BlobWriter):
                arrival.content.is_loose = False
        answers = repeated | {row.id: row.object for row in rows}
        return [answers[arrival.id] for arrival in arrivals]

    def find(self, file_id: str) -> str | None:
        """Give a File object as JSON, if there is such a file."""
        now = self._clock()
        with self._reading:
            row = self._reader.execute(_FIND, {"id": file_id, "now": now}).fetchone()
        return None if row is None else row[0]

    def read(self, file_id: str) -> tuple[str, bytes | None] | None:
        """Give a File object as JSON, and the content of a small file, if there is such a one."""
        now = self._clock()
        with self._reading:
            row: tuple[str, bytes | None] | None = self._reader.execute(
                _READ, {"id": file_id, "now": now}
            ).fetchone()
        return row

    def delete(self, file_id: str) -> bool:
        """Delete a file; tell if there was one."""
        return self._remove(_DELETE, {"id": file_id, "now": self._clock()}) > 0

    def expire(self) -> int:
        """Remove files whose time has come, some hundreds at once; tell how many.

        Keys that were used more than a day ago are forgotten.
        """
        with self._writing:
            until = self._clock() - _CLAIMS_KEPT_SECONDS
            self._writer.execute(_FORGET_CLAIMS, {"until": until})
        return self._remove(_EXPIRE, {"now": self._clock(), "limit": _EXPIRED_AT_ONCE})

    def page(self, *, purpose: str | None, order: Order, after: str | None, limit: int) -> bytes:
        """Render a page of the listing as JSON.

        Raises:
            UnknownCursorError: `after` names no file, nor one that was deleted of late.
        """
        with self._transaction(self._reader, self._reading):
            start = _BEGINNING[order] if after is None else self._place(after)
            objects, ids = self._files_beyond(start, purpose, order, limit)
            if not ids:
                return _NO_FILES
            first_id, last_id = ids.partition(" ")[0], ids.rpartition(" ")[2]
            _, more = self._files_beyond(self._place(last_id), purpose, order, 1)
        end = {"first_id": first_id, "last_id": last_id, "has_more": bool(more)}
        return b'{"object":"list","data":[%b],%b' % (objects, _json(end).encode()[1:])

    def _repeated(self, arrivals: Sequence[Arrival]) -> dict[str, str | None]:
        """Answer those whose key was used before, by their ids."""
        answers: dict[str, str | None] = {}
        for arrival in arrivals:
            if arrival.claim is not None:
                key = {"key": arrival.claim.key}
                for fingerprint, described in self._writer.execute(_CLAIMED, key):
                    is_same = fingerprint == arrival.claim.fingerprint
                    answers[arrival.id] = described if is_same else None
        return answers

    def _claim(self, claim: Claim, row: _Row) -> None:
        self._writer.execute(
            _INSERT_CLAIM,
            {
                "key": claim.key,
                "fingerprint": claim.fingerprint,
                "object": row.object,
                "claimed_at": self._clock(),
            },
        )

    def _last_place(self, second: int) -> int:
        """Give the last place of a second that is or was taken."""
        first = second * _PLACES_PER_SECOND
        bounds = {"first": first, "last": first + _PLACES_PER_SECOND - 1}
        place: int = self._writer.execute(_LAST_PLACE, bounds).fetchone()[0]
        return place

    def _files_beyond(
        self, place: int, purpose: str | None, order: Order, limit: int
    ) -> tuple[bytes, str]:
        """Give the objects of the next files, comma-separated, and their ids, space-separated."""
        asked = {"purpose": purpose, "limit": limit, "now": self._clock(), "place": place}
        objects, ids = self._reader.execute(_PAGES[order, purpose is not None], asked).fetchone()
        return objects or b"", ids or ""

    def _place(self, file_id: str) -> int:
        row: tuple[int] | None = self._reader.execute(_PLACE, {"id": file_id}).fetchone()
        if row is None:
            raise UnknownCursorError(file_id)
        return row[0]

    def _remove(self, statement: str, parameters: Mapping[str, str | float]) -> int:
        with self._writing:
            removed = self._writer.execute(statement, parameters).fetchall()
        for file_id, has_blob in removed:
            if has_blob:
                self.blob_path(file_id).unlink(missing_ok=True)
        return len(removed)

    def _sweep(self) -> None:
        """Remove blobs without a row, and rows without their blob."""
        stored = {path.name for path in self._blobs.iterdir()}
        rows = self._writer.execute("SELECT id FROM files WHERE has_blob")
        known = {file_id for (file_id,) in rows}
        for orphan in stored - known:
            self.blob_path(orphan).unlink()
        for lost in known - stored:
            self._writer.execute("DELETE FROM files WHERE id = ?", (lost,))

    @contextmanager
    def _transaction(self, connection: sqlite3.Connection, lock: threading.Lock) -> Iterator[None]:
        with lock, connection:
            connection.execute("BEGIN")
            yield


def _connect(data_dir: Path) -> sqlite3.Connection:
    # Without an isolation level each statement is a transaction of its own, unless BEGIN is said.
    return sqlite3.connect(
        data_dir / "files.sqlite3", isolation_level=None, check_same_thread=False
    )


def _lock(data_dir: Path) -> int:
    """Take the directory for as long as the descriptor is open."""
    descriptor = os.open(data_dir / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        os.close(descriptor)
        raise DataDirInUseError(f"Another emulator is using {data_dir}") from error
    return descriptor


def _row(arrival: Arrival, place: int, created_at: int) -> _Row:
    """Render the File object; it has `expires_at` only if the file expires."""
    new, content = arrival.new, arrival.content
    described: dict[str, str | int | None] = {
        "id": arrival.id,
        "object": "file",
        "bytes": content.bytes if isinstance(content, BlobWriter) else len(content),
        "created_at": created_at,
        "filename": new.filename,
        "purpose": new.purpose,
        "status": "processed",
    }
    expires_at = _expiry(new, created_at)
    if expires_at is not None:
        described["expires_at"] = expires_at
    return _Row(
        place=place,
        id=arrival.id,
        purpose=new.purpose,
        expires_at=expires_at,
        content=content if isinstance(content, bytes) else None,
        object=_json(described),
    )


def _expiry(new: NewFile, created_at: int) -> int | None:
    if new.expires_after is not None:
        return created_at + new.expires_after
    return created_at + _BATCH_EXPIRES_AFTER if new.purpose == "batch" else None


_json: Final = json.JSONEncoder(ensure_ascii=False, separators=(",", ":")).encode
