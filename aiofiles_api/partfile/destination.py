"""Where a download shall go."""

from __future__ import annotations

import os
import stat

import attrs

from aiofiles_api.errors import DestinationError, InvalidArgumentError
from aiofiles_api.partfile.failures import OsErrors
from aiofiles_api.partfile.filenames import safe_filename

__all__ = ["Destination", "absolute", "locate"]


@attrs.frozen
class Destination:
    """Where a download shall go.

    Attributes:
        path: A file's path, or that of a directory, as it was given.
        is_directory: Whether the file's name is still to be found.
        is_link: Whether the path is a symbolic link to it.
        exists: Whether there is a file already.
    """

    path: str
    is_directory: bool
    is_link: bool = attrs.field(default=False, eq=False)
    exists: bool = attrs.field(default=False, eq=False)

    def with_name(self, filename: str, *, fallback: str) -> Destination:
        """Return the file's own destination, below the directory that this one is.

        To be called in a thread.

        Raises:
            DestinationError: There is something else than a file.
        """
        path = os.path.join(self.path, safe_filename(filename, fallback=fallback))
        place = locate(path)
        if place.is_directory:
            raise DestinationError(f"{path!r} is a directory; pass the path of a file")
        return place


def locate(path: str | os.PathLike[str]) -> Destination:
    """Look what a path is; to be called in a thread.

    A path that ends with a separator is a directory, even if it is still to be made.

    Raises:
        InvalidArgumentError: It is no path.
        DestinationError: It is neither a file nor a directory, or cannot be looked at.
    """
    text = os.fspath(path) if isinstance(path, str | os.PathLike) else None
    if not isinstance(text, str):
        msg = f"destination: pass a path as str or PathLike, not {type(path).__name__}"
        raise InvalidArgumentError(msg)
    is_link = False
    with OsErrors(text):
        try:
            mode = os.lstat(text).st_mode
            is_link = stat.S_ISLNK(mode)
            if is_link:
                mode = os.stat(text).st_mode
        except FileNotFoundError:
            is_directory = os.path.basename(text) in {"", ".", ".."}
            return Destination(text, is_directory, is_link=is_link)
        if not stat.S_ISDIR(mode) and not stat.S_ISREG(mode):
            msg = f"{text!r} is no regular file; use stream() to write to pipes and devices"
            raise DestinationError(msg)
    return Destination(text, stat.S_ISDIR(mode), is_link=is_link, exists=True)


def absolute(path: str) -> str:
    """Return a path that stays the same wherever this process works later."""
    # Not os.path.abspath: behind a link to a directory, ".." is another one than it seems.
    return path if os.path.isabs(path) else os.path.join(os.getcwd(), path)
