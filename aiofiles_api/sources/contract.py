"""What a source is, and what can be one."""

from __future__ import annotations

import os
from collections.abc import AsyncIterable, Callable, Iterable
from typing import Protocol, TypeAlias

__all__ = [
    "AsyncBinaryFile",
    "BinaryFile",
    "Buffer",
    "ChunkSize",
    "Reader",
    "Source",
    "UploadSource",
]

Buffer: TypeAlias = bytes | bytearray | memoryview

ChunkSize: TypeAlias = Callable[[], int]
"""Says how many bytes to read now."""


class BinaryFile(Protocol):
    """A binary file object, as `open(…, "rb")` gives it."""

    def read(self, size: int, /) -> bytes:
        """Return up to `size` bytes, none at the end."""
        ...


class AsyncBinaryFile(Protocol):
    """An asynchronous binary file object: FastAPI's `UploadFile`, anyio's and aiofiles' files."""

    async def read(self, size: int, /) -> bytes:
        """Return up to `size` bytes, none at the end."""
        ...


UploadSource: TypeAlias = (
    str
    | os.PathLike[str]
    | Buffer
    | BinaryFile
    | AsyncBinaryFile
    | AsyncIterable[bytes]
    | Iterable[bytes]
)
"""What can be uploaded: a path, bytes, a binary file object, or an iterable of bytes."""


class Reader(Protocol):
    """One pass over a source.

    Attributes:
        length: The bytes that it will give, or `None` when that cannot be known.
    """

    length: int | None

    async def read(self) -> Buffer:
        """Return the next chunk, empty at the end.

        Raises:
            SourceError: The source cannot be read.
        """
        ...

    async def aclose(self) -> None:
        """Wait for what a thread still does, and release what was opened here."""
        ...


class Source(Protocol):
    """Something that can be uploaded.

    Attributes:
        name: The name that it bears, or `None`.
    """

    name: str | None

    @property
    def is_spent(self) -> bool:
        """Whether it was consumed, at least in part, and cannot be read a second time."""
        ...

    async def open(self) -> Reader:
        """Return a reader that stands where the first one stood.

        Raises:
            SourceError: It cannot be read.
            SourceNotReplayableError: It was consumed and cannot be read a second time.
        """
        ...
