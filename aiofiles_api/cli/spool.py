"""A list of any length that is gone through later: in memory while it is short, then on disk."""

from __future__ import annotations

import pickle
from collections.abc import AsyncGenerator, Iterable, Iterator
from contextlib import contextmanager, suppress
from itertools import islice
from tempfile import SpooledTemporaryFile, gettempdir
from types import TracebackType
from typing import Generic, Self, TypeVar, cast

from aiofiles_api import FilesError
from aiofiles_api.cli.thread import in_thread

__all__ = ["Spool", "batches"]

T = TypeVar("T")

_MEMORY = 8 * 1024 * 1024
"""Bytes that are kept in memory."""

_AT_A_TIME = 1000
"""Values that are taken in one visit to a thread."""


class Spool(Generic[T]):
    """What is appended can be iterated over afterwards; both may touch the disk.

    Attributes:
        count: How many there are.
    """

    def __init__(self) -> None:
        self.count = 0
        self._file = SpooledTemporaryFile(max_size=_MEMORY)  # noqa: SIM115 - closed at the exit

    def append(self, value: T) -> None:
        """Put a value at the end.

        Raises:
            FilesError: There is no space for it, or it is nested more deeply than Python can keep.
        """
        try:
            with _named():
                pickle.dump(value, self._file)
        except RecursionError as error:
            raise FilesError("what the server sent is nested too deeply to be kept") from error
        self.count += 1

    def __iter__(self) -> Iterator[T]:
        with _named():
            self._file.seek(0)  # which writes what is left
        for _ in range(self.count):
            # A file without a name: nobody else has written it.
            yield cast("T", pickle.load(self._file))  # noqa: S301 - see above

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        with suppress(OSError):  # what could not be written is not wanted any more
            self._file.close()


@contextmanager
def _named() -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise FilesError(
            f"{_directory()} cannot hold the list of files: {error.strerror};"
            " set TMPDIR to a directory with more space"
        ) from error


def _directory() -> str:
    try:
        return f"the temporary directory {gettempdir()}"
    except OSError:  # there is none that one can write to
        return "this machine"


async def batches(values: Iterable[T]) -> AsyncGenerator[list[T], None]:
    """Yield lists of values, whose iteration may block."""
    iterator = iter(values)
    while batch := await in_thread(lambda: list(islice(iterator, _AT_A_TIME))):
        yield batch
