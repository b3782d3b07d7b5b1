"""Bytes in memory."""

from __future__ import annotations

from aiofiles_api.sources.contract import Buffer, Reader
from aiofiles_api.sources.reading import CHUNK, unreadable

__all__ = ["MemoryReader", "MemorySource"]


class MemoryReader:
    """Slices of bytes in memory, without copies."""

    def __init__(self, view: memoryview) -> None:
        self.length: int | None = len(view)
        self._view = view
        self._position = 0

    async def read(self) -> Buffer:
        """Return the next slice."""
        chunk = self._view[self._position : self._position + CHUNK]
        self._position += len(chunk)
        return chunk

    async def aclose(self) -> None:
        """Let go of the bytes."""
        self._view = memoryview(b"")


class MemorySource:
    """Bytes in memory, which are viewed only while a reader is open: a view locks them."""

    def __init__(self, content: Buffer) -> None:
        self.name: str | None = None
        self._content = content

    @property
    def is_spent(self) -> bool:
        """Whether it cannot be read again: it always can."""
        return False

    async def open(self) -> Reader:
        """Return a reader of all bytes."""
        try:
            view = memoryview(self._content)
        except ValueError as error:
            raise unreadable(f"the {type(self._content).__name__}", error) from error
        try:
            return MemoryReader(view.cast("B"))
        except (TypeError, ValueError):
            # With gaps, of no length, or of a format that cast() does not know: copy it.
            return MemoryReader(memoryview(view.tobytes()))
