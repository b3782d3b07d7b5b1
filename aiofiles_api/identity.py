"""What makes an item of a bulk run the same item in a later one, and how results are kept.

An upload is the same while its path, length and time of modification are; with a digest, its path,
length and content. Purpose and server belong to it; name, media type and expiry do not.
"""

from __future__ import annotations

import hashlib
import json
import os
import stat
import sys
from collections.abc import Callable
from functools import partial
from hashlib import blake2b
from operator import attrgetter
from pathlib import Path

import attrs

from aiofiles_api.errors import InvalidArgumentError
from aiofiles_api.models import DeletedFile, DownloadedFile, FileObject, structure
from aiofiles_api.threads import Threads

__all__ = [
    "Version",
    "absolute",
    "deleted_from",
    "digest_in_pieces",
    "digest_of_path",
    "download_from",
    "file_from",
    "place_of",
    "result_to",
    "version_of",
]

_FILE_FIELDS = [field.name for field in attrs.fields(FileObject) if field.name != "extra"]
_file_values = attrgetter(*_FILE_FIELDS)

_BLOCK = 1024 * 1024

_PIECE = 32 * _BLOCK
"""Bytes read in one go in a thread, for which whoever is cancelled has to wait."""


@attrs.frozen
class Version:
    """A file on this machine as it is now.

    Attributes:
        path: Its absolute path.
        size: Its length in bytes; `None` where it cannot be looked at.
        mtime_ns: Its time of modification, in nanoseconds.
        sha256: Its digest in hex, or `None` where nobody has made it.
        location: Its path with links and `..` as they were given, by which it is opened: behind a
            link, `..` is another directory than it seems.
    """

    path: str
    size: int | None = None
    mtime_ns: int | None = None
    sha256: str | None = None
    location: str = attrs.field(
        default=attrs.Factory(lambda self: self.path, takes_self=True), eq=False
    )

    def is_same(self, size: int | None, mtime_ns: int | None, sha256: str | None) -> bool:
        """Return whether this is what was written down then; a digest says it best."""
        if self.sha256 is not None and sha256 is not None:
            return self.size == size and self.sha256 == sha256
        return (self.size, self.mtime_ns) == (size, mtime_ns)


def absolute(path: str) -> str:
    """Return a path from the root on and without `..`, by which the same file is found.

    Raises:
        OSError: It begins where this process works, and that directory is gone.
    """
    if ".." in path.split(os.sep):  # behind a link, that is another directory than it seems
        path = os.path.join(os.path.realpath(os.path.dirname(path)), os.path.basename(path))
    return os.path.abspath(path)


def version_of(source: str | os.PathLike[str]) -> Version:
    """Look at a file; to be called in a thread.

    Raises:
        InvalidArgumentError: It is a pipe or the like, which is never the same again.
    """
    path = location = os.fsdecode(os.fspath(source))
    try:
        if not os.path.isabs(location):
            location = os.path.join(os.getcwd(), location)
        path = absolute(location)
        status = os.stat(location)
    except (OSError, ValueError):
        return Version(path, location=location)  # what is wrong with it shows when it is sent
    if not stat.S_ISREG(status.st_mode) and not stat.S_ISDIR(status.st_mode):
        msg = (
            f"{path!r} is no regular file, so a journal cannot tell whether it was sent; upload it"
            " without a journal, or write it to a file first"
        )
        raise InvalidArgumentError(msg)
    return Version(path, status.st_size, status.st_mtime_ns, location=location)


def digest_of_path(path: str) -> str:
    """Return the sha256 of a file's content in hex; to be called in a thread.

    Raises:
        OSError: It cannot be read.
    """
    digest = hashlib.sha256()
    _read(path, digest.update, 0, sys.maxsize)
    return digest.hexdigest()


async def digest_in_pieces(threads: Threads, path: str) -> str:
    """Return the same in one hop for each piece, so that a cancellation waits for one alone.

    Raises:
        OSError: It cannot be read.
    """
    digest = hashlib.sha256()
    start = 0
    while await threads.run(partial(_read, path, digest.update, start, _PIECE)) == _PIECE:
        start += _PIECE
    return digest.hexdigest()


def _read(path: str, take: Callable[[bytes], object], start: int, most: int) -> int:
    """Read from an offset on; return how many bytes were taken, all that are there or the most."""
    left = most
    with open(path, "rb", buffering=0) as file:
        file.seek(start)
        while block := file.read(min(left, _BLOCK)):
            take(block)
            left -= len(block)
    return most - left


def place_of(*parts: str) -> bytes:
    """Return a digest of what tells an item from every other; the parts hold no NUL."""
    return blake2b("\0".join(parts).encode("utf-8", "surrogatepass"), digest_size=16).digest()


def result_to(result: FileObject | DownloadedFile | DeletedFile) -> str:
    """Write a result as JSON."""
    if isinstance(result, FileObject):
        known = zip(_FILE_FIELDS, _file_values(result), strict=True)
        fields = {**result.extra, **{name: value for name, value in known if value is not None}}
    else:
        fields = attrs.asdict(result, recurse=False)
        if isinstance(result, DownloadedFile):
            fields["path"] = str(result.path)
    return json.dumps(fields)


def file_from(text: str) -> FileObject:
    """Read an upload's result as it was written."""
    return structure(json.loads(text), FileObject)


def deleted_from(text: str) -> DeletedFile:
    """Read a deletion's result as it was written."""
    return structure(json.loads(text), DeletedFile)


def download_from(text: str) -> DownloadedFile:
    """Read a download's result as it was written."""
    fields = json.loads(text)
    return DownloadedFile(**{**fields, "path": Path(fields["path"])})
