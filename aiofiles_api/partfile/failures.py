"""What the operating system refuses, as an error of ours."""

from __future__ import annotations

import errno
import os
from types import TracebackType

from aiofiles_api.errors import DestinationError

__all__ = ["OsErrors"]

_REMEDIES = {
    errno.ENOSPC: "free some space",
    errno.EDQUOT: "free some space",
    errno.EACCES: "choose a directory that you may write to",
    errno.EPERM: "choose a directory that you may write to",
    errno.EROFS: "choose a directory that you may write to",
    errno.EFBIG: "choose a file system for larger files, or raise the limit (ulimit -f)",
    errno.ENOENT: "the directory or its part file has vanished; see what removed it, and try again",
    errno.EISDIR: "it has become a directory; choose another name",
    errno.ENOTDIR: "a part of the path is a file; choose another one",
    errno.ENAMETOOLONG: "choose a shorter name",
}


class OsErrors:
    """Turns what the operating system refuses into our error, with what to do about it."""

    __slots__ = ("_destination",)

    def __init__(self, destination: str) -> None:
        self._destination = destination

    def __enter__(self) -> None:
        pass

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        # ValueError: a path that holds a NUL.
        if not isinstance(error, OSError | ValueError):
            return
        code = error.errno if isinstance(error, OSError) else None
        reason = os.strerror(code) if code else str(error)
        remedy = _REMEDIES.get(code or 0, "check the path")
        msg = f"cannot write {self._destination!r}: {reason}; {remedy}"
        raise DestinationError(msg) from error
