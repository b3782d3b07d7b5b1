"""Names in one directory, each given once, whatever a server calls its files.

Names are compared as the least exact file systems do: without regard to case, and to whether an
accent is a character of its own. Only a digest of 8 bytes is kept of each: two names that share one
are taken for the same, so the later file gets a longer name than it needs, and none is overwritten.
"""

from __future__ import annotations

import os
import unicodedata
from hashlib import blake2b

from aiofiles_api.digests import Digests
from aiofiles_api.partfile import safe_filename

__all__ = ["Names"]

_LONGEST_NAME = 255
_LONGEST_MARK = 64
"""Bytes of an id that go into a name; of a longer one, its digest does."""


class Names:
    """The names that files of one directory have been given."""

    def __init__(self) -> None:
        self._given = Digests()

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
        return self._given.add(
            blake2b(folded.encode("utf-8", "surrogatepass"), digest_size=8).digest()
        )


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
