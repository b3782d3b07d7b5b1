"""Files as they are written: those without a name, and those with one."""

from __future__ import annotations

import errno
import os
import random
import re
from collections.abc import Sequence
from functools import cache

__all__ = [
    "give_name",
    "open_nameless",
    "open_new",
    "part_beside",
    "put_where_nothing_is",
    "write_all",
]

_random = random.Random()  # noqa: S311 - no secret: O_EXCL sees to it that a name is nobody's yet
"""For names. `os.urandom` would give up the interpreter once more for each file."""

os.register_at_fork(after_in_child=_random.seed)

_MOST_BUFFERS = 1024
"""Buffers in one call of writev (Linux: IOV_MAX)."""

_NO_LINKS = {errno.EPERM, errno.EOPNOTSUPP, errno.ENOTSUP, errno.ENOSYS, errno.EMLINK}


_FIRST_LINUX = 6

_NO_NAMELESS = {errno.EOPNOTSUPP, errno.ENOTSUP, errno.EISDIR, errno.EINVAL, errno.ENOSYS}

_OPEN_FILES = "/proc/self/fd"


def open_nameless(directory: str) -> int | None:
    """Make a file that has no name yet, and is gone when it is closed without one.

    Returns:
        Its descriptor; `None` where the system or the file system has no such files.

    Raises:
        OSError: Nothing can be made there.
    """
    if not _has_nameless_files():
        return None
    try:
        return os.open(directory, os.O_WRONLY | os.O_TMPFILE | os.O_CLOEXEC, 0o666)
    except OSError as error:
        if error.errno not in _NO_NAMELESS:
            raise
        return None


@cache
def _has_nameless_files() -> bool:
    """Return whether the system makes files without a name as it makes others.

    Linux before 6.0 leaves the umask out where a file system has no access control lists, and a
    name is given through /proc (open(2), O_TMPFILE).
    """
    release = re.match(r"\d+", os.uname().release)
    return (
        hasattr(os, "O_TMPFILE")
        and release is not None
        and int(release[0]) >= _FIRST_LINUX
        and os.path.isdir(_OPEN_FILES)
    )


def give_name(descriptor: int, path: str) -> bool:
    """Name a file that has no name yet, where nothing is; return whether it has that name now.

    Raises:
        FileNotFoundError: The directory has gone.
    """
    try:
        # Python has a link followed, as that of /proc must be, where a descriptor is given too.
        os.link(f"{_OPEN_FILES}/{descriptor}", path, src_dir_fd=descriptor, follow_symlinks=True)
    except FileNotFoundError:
        raise
    except OSError:  # there is something, or somebody forbids links
        return False
    return True


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
