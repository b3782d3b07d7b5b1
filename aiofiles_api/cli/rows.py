"""A table of files whose end is not known when its first rows are printed.

Columns are as wide as the first page asks for; where a later id is longer, so is its row. rich's
own table looks at all rows before it prints one, and takes five times as long for each.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

import attrs
from rich.cells import cell_len, set_cell_size
from rich.text import Text

from aiofiles_api import FileObject
from aiofiles_api.cli.text import moment, printable, size

__all__ = ["FileRows", "short_moment"]

_GAP = "  "
_LONGEST_PURPOSE = 18
_NARROWEST_NAME = 16


@attrs.frozen
class _Column:
    title: str
    width: int
    cell: Callable[[FileObject], str]
    style: str = ""
    may_cut: bool = True

    def fit(self, text: str) -> str:
        """Fill a text up, or cut it, to the column's width on the screen."""
        if text.isascii() and len(text) <= self.width:
            return text.ljust(self.width)
        if cell_len(text) > self.width:
            if not self.may_cut:
                return text
            return f"{set_cell_size(text, self.width - 1)}…"
        return set_cell_size(text, self.width)


@attrs.frozen
class FileRows:
    """Rows with the same columns."""

    _columns: tuple[_Column, ...]

    @classmethod
    def fitting(cls, files: Sequence[FileObject], width: int) -> FileRows:
        """Leave to the filename what the others do not need, and some out if that is too little.

        An id is never cut, because it is there to be copied.

        Args:
            files: The first page.
            width: That of the terminal.
        """
        longest_id = _longest(_identifier, files)
        identifier = _Column("ID", longest_id, _identifier, "cyan", may_cut=False)
        bytes_ = _Column("    Size", 8, _size)
        longest = max(_longest(_purpose, files), len("Purpose"))
        purpose = _Column("Purpose", min(longest, _LONGEST_PURPOSE), _purpose)
        created = _Column("Created, UTC", 16, _created, "dim")
        for others in ((bytes_, purpose, created), (bytes_, purpose), (bytes_,)):
            left = width - identifier.width - sum(len(_GAP) + it.width for it in others) - len(_GAP)
            if left >= _NARROWEST_NAME:
                break
        name = _Column("Filename", max(left, _NARROWEST_NAME), _filename)
        return cls((identifier, name, *others))

    def header(self) -> Text:
        """Return the titles."""
        return Text(_GAP.join(it.fit(it.title) for it in self._columns), style="bold")

    def rows(self, files: Iterable[FileObject]) -> Text:
        """Return a row for each file."""
        text = Text()
        for file in files:
            gap = ""
            for column in self._columns:
                text.append(gap).append(column.fit(column.cell(file)), style=column.style)
                gap = _GAP
            text.append("\n")
        return text


def short_moment(seconds: int) -> str:
    """Return a time in UTC as people read it."""
    return moment(seconds).replace("T", " ").removesuffix("Z")


def _longest(cell: Callable[[FileObject], str], files: Iterable[FileObject]) -> int:
    return max((cell_len(cell(file)) for file in files), default=0)


def _identifier(file: FileObject) -> str:
    return printable(file.id)


def _filename(file: FileObject) -> str:
    return printable(file.filename)


def _size(file: FileObject) -> str:
    return f"{size(file.bytes):>8}"


def _purpose(file: FileObject) -> str:
    return printable(file.purpose)


def _created(file: FileObject) -> str:
    return short_moment(file.created_at)[: len("2026-12-31 23:59")]
