"""A chunk of whatever it is, checked; and what goes wrong with it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator

from aiofiles_api.errors import SourceChangedError, SourceError, SourceNotReplayableError
from aiofiles_api.sources.contract import ChunkSize

__all__ = [
    "CHUNK",
    "SMALL",
    "checked_chunk",
    "not_replayable",
    "read_chunk",
    "read_whole",
    "source_changed",
    "unreadable",
]

CHUNK = 1024 * 1024
"""Bytes read at a time where nobody says: few hops between threads, little memory."""

SMALL = 256 * 1024
"""A file up to this length is opened, read and closed in one hop, and so is a longer one where a
single read may be as long."""

_PAGE = 4096


def read_chunk(read: Callable[[int], object], chunk_size: ChunkSize, what: str) -> bytes:
    """Return the next chunk.

    Args:
        read: Reads up to so many bytes.
        chunk_size: Says how many.
        what: What is read, for the message.

    Raises:
        SourceError: Reading failed, or gave something else than bytes.
    """
    try:
        chunk = read(chunk_size())
    except (Exception, asyncio.CancelledError) as error:
        raise unreadable(what, error) from error
    return checked_chunk(chunk, what)


def read_whole(read: Callable[[int], object], size: int, limit: int, what: str) -> bytes:
    """Return all of a file from where it stands, or a little more than `limit` at most.

    Args:
        read: Reads up to so many bytes.
        size: How many there should be.
        limit: Where to stop.
        what: What is read, for the message.

    Raises:
        SourceError: Reading failed.
    """
    # One byte more is asked for: where it does not come, this is the end. Of what /proc shows,
    # some is given whole or not at all.
    content = read_chunk(read, lambda: max(size + 1, _PAGE), what)
    if len(content) == size:
        return content
    # It has changed, or is one of /proc or /sys, whose lengths are 0 and 4096.
    return b"".join((content, *_rest(read, limit, what)))


def _rest(read: Callable[[int], object], limit: int, what: str) -> Iterator[bytes]:
    left = limit
    while left > 0 and (chunk := read_chunk(read, lambda: SMALL, what)):
        left -= len(chunk)
        yield chunk


def checked_chunk(chunk: object, what: str) -> bytes:
    """Return a chunk as bytes, which nobody can change.

    Raises:
        SourceError: It is something else than bytes.
    """
    if isinstance(chunk, bytes | bytearray | memoryview):
        # A copy of what may be filled anew while it waits to be sent; bytes are not copied.
        return bytes(chunk)
    msg = f"{what} gave a {type(chunk).__name__} instead of bytes; use a binary, blocking one"
    raise SourceError(msg)


def source_changed(expected: int | None, now: int | None) -> SourceChangedError:
    """Make the error for a source that is not what it was when its upload began.

    Args:
        expected: Its length then.
        now: Its length now; `None` if that is more than it was.
    """
    if now == expected:
        what = "was written to while it was sent"
    else:
        what = f"had {expected:,} bytes when its upload began, and now has"
        what += " more" if now is None else f" {now:,}"
    msg = f"the source {what}; nothing was stored: upload it when nobody writes to it"
    return SourceChangedError(msg)


def unreadable(what: str, error: BaseException) -> SourceError:
    """Make the error for a source that raised one."""
    if isinstance(error, OSError) and error.strerror:
        return SourceError(
            f"{what} cannot be read: {error.strerror}; check that it exists and is readable"
        )
    return SourceError(f"{what} cannot be read: it raised {error!r}")


def not_replayable(what: str) -> SourceNotReplayableError:
    """Make the error for a source that would have to be read again."""
    msg = (
        f"another attempt is needed, but {what} was consumed and cannot be read again; upload"
        " from a path, from bytes or from a seekable file, or pass spool=True"
    )
    return SourceNotReplayableError(msg)
