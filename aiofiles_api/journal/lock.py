"""One process at a time."""

from __future__ import annotations

import fcntl
import os
import time
from contextlib import suppress

from aiofiles_api.errors import JournalError

__all__ = ["LEAVING", "Lock"]

LEAVING = 2.0
"""Seconds in which a run, or a process, that is at its end may still have the journal."""


class Lock:
    """A lock on a file beside the journal, which is removed with it."""

    def __init__(self, target: str, shown: str) -> None:
        self._path = f"{target}-lock"
        give_up_at = time.monotonic() + LEAVING
        while not self._try_to_lock():
            if time.monotonic() >= give_up_at:
                msg = (
                    f"the journal {shown!r} is in use by another process, or by another run of"
                    " this one; wait until that is done, or take another journal"
                )
                raise JournalError(msg)
            time.sleep(0.02)

    def _try_to_lock(self) -> bool:
        flags = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW
        self._descriptor = os.open(self._path, flags, 0o600)
        is_mine = False
        try:
            fcntl.flock(self._descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            is_mine = self._is_still_there()
        except BlockingIOError:
            pass
        finally:
            if not is_mine:
                os.close(self._descriptor)
        return is_mine

    def _is_still_there(self) -> bool:
        """Return whether nobody has removed it between our opening and our locking it."""
        try:
            there = os.stat(self._path, follow_symlinks=False)
        except FileNotFoundError:
            return False
        return os.path.samestat(os.fstat(self._descriptor), there)

    def release(self) -> None:
        """Remove the file, and only then let others have it."""
        with suppress(OSError):
            os.unlink(self._path)
        os.close(self._descriptor)
