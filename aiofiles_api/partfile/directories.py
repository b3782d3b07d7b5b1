"""The directories that a download makes for its destination."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from typing import TypeVar

from aiofiles_api.errors import DestinationError

__all__ = ["Directories"]

Opened = TypeVar("Opened")

_MOST_REMOVALS = 10
"""How often a directory is made anew that downloads which have failed remove meanwhile."""


class Directories:
    """Makes them where they are missing, and removes them again where nothing was left in them.

    Args:
        durable: Whether to wait until the disk itself has what is put into a directory.
    """

    def __init__(self, *, durable: bool) -> None:
        self._durable = durable
        self._made: list[str] = []

    def check(self, directory: str) -> None:
        """See that a directory can be synced, if that is to be done and it is there.

        Raises:
            DestinationError: It may not be read.
        """
        if self._durable:
            with suppress(FileNotFoundError):  # it is made when there is something to write
                os.close(_open_directory(directory))

    def open_in(self, directory: str, open_file: Callable[[], Opened]) -> Opened:
        """Call what opens a file; if its directory is missing, make that first."""
        for _ in range(_MOST_REMOVALS):
            try:
                return open_file()
            except FileNotFoundError:
                with suppress(FileNotFoundError):
                    self._make(directory)
        return open_file()

    def _make(self, directory: str) -> None:
        """Make a directory and those above it that are missing."""
        missing = []
        while not os.path.exists(directory):
            missing.append(directory)
            directory = os.path.dirname(directory)
        for path in reversed(missing):
            with self.synced(os.path.dirname(path)):
                try:
                    os.mkdir(path)
                except FileExistsError:  # another download has made it meanwhile
                    if os.path.islink(path):  # to nothing
                        raise
                else:
                    self._made.append(path)

    def synced(self, directory: str) -> AbstractContextManager[None]:
        """Sync a directory into which something is put, if that is to be durable."""
        return _synced(directory) if self._durable else nullcontext()

    def keep(self) -> None:
        """Remove none of them any more: there is something in them."""
        self._made.clear()

    def remove(self) -> None:
        """Remove those that were made, and are empty."""
        for directory in reversed(self._made):
            with suppress(OSError):  # another download may have put something there
                os.rmdir(directory)


@contextmanager
def _synced(directory: str) -> Iterator[None]:
    """Sync a directory when something has been put into it; see before that this is possible.

    Raises:
        DestinationError: It may not be read, and nothing has been put into it.
    """
    descriptor = _open_directory(directory)
    try:
        yield
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _open_directory(directory: str) -> int:
    try:
        return os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except PermissionError as error:
        msg = (
            f"{directory!r} may not be read, so nothing in it can be synced; choose a directory"
            " that you may read, or pass durable=False"
        )
        raise DestinationError(msg) from error
