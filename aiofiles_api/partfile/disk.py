"""Files as they are written, and put where nothing is."""

from __future__ import annotations

import errno
import os
import random
from collections.abc import Sequence

__all__ = ["open_new", "part_beside", "put_where_nothing_is", "write_all"]

_random = random.Random()  # noqa: S311 - no secret: O_EXCL sees to it that a name is nobody's yet
"""For names. `os.urandom` would give up the interpreter once more for each file."""

os.register_at_fork(after_in_child=_random.seed)

_MOST_BUFFERS = 1024
"""Buffers in one call of writev (Linux: IOV_MAX)."""

_NO_LINKS = {errno.EPERM, errno.EOPNOTSUPP, errno.ENOTSUP, errno.ENOSYS, errno.EMLINK}


def part_beside(target: str) -> str:
    """Return the path of a part file that is nobody's yet."""
    return os.path.join(os.path.dirname(target), f".{_random.getrandbits(96):024x}.part")


def open_new(part: str, mode: int) -> int:
    """Make a part file that only this process writes to."""
    return os.open(part, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, mode)


def write_all(descriptor: int, chunks: Sequence[bytes | memoryview]) -> None:
    """Write all of the chunks, however much the system takes at a time."""
    pending = [memoryview(chunk) for chunk in chunks if chunk]
    while pending:
        written = os.writev(descriptor, pending[:_MOST_BUFFERS])
        while pending and written >= len(pending[0]):
            written -= len(pending.pop(0))
        if written:
            pending[0] = pending[0][written:]


def put_where_nothing_is(part: str, target: str) -> None:
    """Give a part file its destination's name.

    Raises:
        FileExistsError: There is something, or came meanwhile.
    """
    try:
        # Unlike a rename, a link fails where something is, and it decides that atomically.
        os.link(part, target)
    except OSError as error:
        if error.errno not in _NO_LINKS:
            raise
        _reserve_and_replace(part, target)
    else:
        os.unlink(part)


def _reserve_and_replace(part: str, target: str) -> None:
    """Do the same on a file system without links: take the name first, empty."""
    os.close(os.open(target, os.O_CREAT | os.O_EXCL | os.O_CLOEXEC))
    try:
        os.replace(part, target)
    except OSError:
        os.unlink(target)
        raise
