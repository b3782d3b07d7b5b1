"""Part files that outlive a download: its user's own, and one process's at a time."""

from __future__ import annotations

import fcntl
import os
import stat
import tempfile
from contextlib import suppress

__all__ = ["open_locked"]


def open_locked(part: str, *, mode: int | None = None) -> int | None:
    """Open a part file for one process alone; `None` when another one has it, or another user.

    With a `mode`, it is made with that where there is none.
    """
    while (descriptor := _open_own(part, mode)) is not None:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if _is_still(descriptor, part):
                return descriptor
        except BlockingIOError:
            os.close(descriptor)
            return None
        except BaseException:
            os.close(descriptor)
            raise
        os.close(descriptor)
    return None


def _open_own(part: str, mode: int | None) -> int | None:
    """Open a part file, or make it if a mode is given; `None` if there is none of our user's own.

    In a directory for many, its owner chose what is in it, and may change it later.
    """
    # Never O_TRUNC: it may be another's, or by the time we have the lock the finished file.
    flags = os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK
    while True:
        if mode is not None:
            with suppress(FileExistsError):
                return os.open(part, flags | os.O_CREAT | os.O_EXCL, mode)
        try:
            descriptor = os.open(part, flags)
        except FileNotFoundError:
            if mode is not None:
                continue  # it has been renamed meanwhile: it is a finished file now
            return None
        except OSError:
            return None  # another user's, a link, a directory: there is no way to continue it
        status = os.fstat(descriptor)
        if stat.S_ISREG(status.st_mode) and _is_own(status.st_uid, os.path.dirname(part)):
            return descriptor
        os.close(descriptor)
        return None


def _is_own(owner: int, directory: str) -> bool:
    """Return whether the files that this process makes in a directory have this owner."""
    if owner == os.geteuid():
        return True
    # Some file systems give all that is made to one user (FAT, CIFS, NFS's root_squash).
    with suppress(OSError), tempfile.TemporaryFile(dir=directory) as file:
        return os.fstat(file.fileno()).st_uid == owner
    return False


def _is_still(descriptor: int, part: str) -> bool:
    """Return whether an open file is what its path still names, and nothing else names it."""
    mine = os.fstat(descriptor)
    try:
        there = os.stat(part, follow_symlinks=False)
    except FileNotFoundError:
        return False  # it has been renamed: it is a finished file now
    if not os.path.samestat(mine, there):
        return False
    if mine.st_nlink > 1:
        # A crash between the link to the destination and the removal: writing would change that.
        os.unlink(part)
        return False
    return True
