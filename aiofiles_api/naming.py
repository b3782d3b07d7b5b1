"""Names in one directory, each given once, whatever a server calls its files.

Names are compared as the least exact file systems do: without regard to case, and to whether an
accent is a character of its own. Only a digest of 8 bytes is kept of each: two names that share one
are taken for the same, so the later file gets a longer name than it needs, and none is overwritten.
"""

from __future__ import annotations

import os
import unicodedata
from array import array
from hashlib import blake2b

from aiofiles_api.partfile import safe_filename

__all__ = ["Names"]

_LONGEST_NAME = 255
_LONGEST_MARK = 64
"""Bytes of an id that go into a name; of a longer one, its digest does."""

_FIRST_SLOTS = 64


class Names:
    """The names that files of one directory have been given.

    An open-addressing table of digests: some 16 to 32 bytes a name.
    """

    def __init__(self) -> None:
        self._slots = array("Q", bytes(8 * _FIRST_SLOTS))
        self._count = 0

    def choose(self, filename: str, file_id: str) -> str:
        """Return a safe name that no other file has, and give it.

        The plain one if it is free; else `stem-<id>.ext`, and with a number if need be.
        """
        plain = safe_filename(filename, fallback=file_id)
        if self.give(plain):
            return plain
        number = 1
        while not self.give(name := _marked(plain, file_id, number)):
            number += 1
        return name

    def give(self, name: str) -> bool:
        """Give a name away; `False` when somebody has it."""
        folded = unicodedata.normalize("NFKD", name).casefold()
        folded = unicodedata.normalize("NFKD", folded)
        digest = blake2b(folded.encode("utf-8", "surrogatepass"), digest_size=8).digest()
        if not self._add(int.from_bytes(digest, "little") or 1):  # 0 is an empty slot
            return False
        self._count += 1
        if 3 * self._count > 2 * len(self._slots):
            self._grow()
        return True

    def _add(self, value: int) -> bool:
        slots = self._slots
        mask = len(slots) - 1
        place = value & mask
        while found := slots[place]:
            if found == value:
                return False
            place = (place + 1) & mask
        slots[place] = value
        return True

    def _grow(self) -> None:
        values, self._slots = self._slots, array("Q", bytes(16 * len(self._slots)))
        for value in values:
            if value:
                self._add(value)


def _marked(plain: str, file_id: str, number: int) -> str:
    """Return a name with the file's id in it, cut so that this and the extension stay whole."""
    mark = safe_filename(file_id, fallback="file").lstrip("_") or "file"
    if len(mark.encode()) > _LONGEST_MARK:
        mark = blake2b(file_id.encode("utf-8", "surrogatepass"), digest_size=8).hexdigest()
    if number > 1:
        mark += f"-{number}"
    stem, extension = os.path.splitext(plain)
    if len(extension.encode()) > 32:  # noqa: PLR2004 - as safe_filename() sees extensions
        stem, extension = plain, ""
    room = _LONGEST_NAME - len(f"-{mark}{extension}".encode())
    stem = stem.encode()[:room].decode(errors="ignore")
    return f"{stem}-{mark}{extension}"
