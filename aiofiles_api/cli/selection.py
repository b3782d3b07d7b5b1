"""Which of the server's files a command is for: those with the given ids, or all that fit."""

from __future__ import annotations

import time
from collections.abc import AsyncGenerator, Iterable, Sequence
from contextlib import aclosing
from datetime import timedelta
from fnmatch import fnmatchcase
from functools import partial
from typing import TypeAlias

import attrs
from cyclopts import CycloptsError

from aiofiles_api import FileObject, FilesClient, FilesError, NotFoundError
from aiofiles_api.cli.concurrently import concurrently
from aiofiles_api.cli.screen import Screen
from aiofiles_api.cli.spool import Spool
from aiofiles_api.cli.thread import in_thread

__all__ = ["MOST_SHOWN", "Found", "Selection", "find"]

MOST_SHOWN = 20
"""Files that a question names."""

_Answer: TypeAlias = FileObject | tuple[str, FilesError]


@attrs.frozen
class Selection:
    """What files have to be like; what is `None` does not matter.

    Attributes:
        purpose: Their purpose.
        filename: A glob that their name fits.
        newer_than: They were created within so much time before now.
        older_than: They were created earlier than so much time before now.
    """

    purpose: str | None = None
    filename: str | None = None
    newer_than: timedelta | None = None
    older_than: timedelta | None = None

    def check(self, ids: Sequence[str], *, is_all: bool) -> None:
        """Refuse ids beside a selection, a selection without --all, and neither of them.

        Raises:
            CycloptsError: It is so.
        """
        if ids and (is_all or self != Selection()):
            raise CycloptsError(msg="give either ids, or --all and what the files must be like")
        if not ids and not is_all:
            raise CycloptsError(msg="give the ids of files, or --all")

    def fits(self, file: FileObject, *, now: float) -> bool:
        """Return whether a file is selected, at a time in seconds since the epoch."""
        age = now - file.created_at
        return (
            # Asked of the server as well, some of which do not listen.
            (self.purpose is None or file.purpose == self.purpose)
            and (self.filename is None or fnmatchcase(file.filename, self.filename))
            and (self.newer_than is None or age < self.newer_than.total_seconds())
            and (self.older_than is None or age > self.older_than.total_seconds())
        )


@attrs.define
class Found:
    """The files that were found, and what was not.

    Attributes:
        files: All that were found.
        first: The first ones.
        bytes: How many bytes they have.
        failures: The ids of others, and what is wrong with each.
    """

    files: Spool[FileObject]
    first: list[FileObject] = attrs.field(factory=list)
    bytes: int = 0
    failures: list[tuple[str, FilesError]] = attrs.field(factory=list)

    @property
    def count(self) -> int:
        """How many were found."""
        return self.files.count

    @property
    def sought(self) -> int:
        """How many were looked for."""
        return self.files.count + len(self.failures)

    def add(self, files: Iterable[FileObject]) -> None:
        """Take some more; it may touch the disk."""
        for file in files:
            self.files.append(file)
            self.bytes += file.bytes
            if len(self.first) < MOST_SHOWN:
                self.first.append(file)


async def find(
    screen: Screen,
    files: FilesClient,
    wanted: Sequence[str] | Selection,
    found: Found,
    *,
    concurrency: int,
    missing_ok: bool = False,
    fail_fast: bool = False,
) -> None:
    """Find the files with some ids, in that order, or those that fit, the oldest first.

    What is uploaded later then comes last, and does not change the names of the others. With
    `fail_fast` the first id that comes to nothing is the last one that is looked up.
    """
    with (
        screen.told_if_interrupted(lambda: f"{found.count:,} files found, nothing was done"),
        screen.waiting("looking for the files"),
    ):
        if isinstance(wanted, Selection):
            await _list(files, wanted, found)
        else:
            answers = _retrieve(files, wanted, concurrency)
            await _take(answers, found, missing_ok=missing_ok, fail_fast=fail_fast)


async def _list(files: FilesClient, selection: Selection, found: Found) -> None:
    now = time.time()
    pages = files.list_pages(purpose=selection.purpose, order="asc")
    async with aclosing(pages):
        async for page in pages:
            fitting = [file for file in page.data if selection.fits(file, now=now)]
            await in_thread(partial(found.add, fitting))


def _retrieve(
    files: FilesClient, ids: Iterable[str], concurrency: int
) -> AsyncGenerator[_Answer, None]:
    async def ask(identifier: str) -> _Answer:
        try:
            return await files.retrieve(identifier)
        except FilesError as error:
            return identifier, error

    return concurrently(ids, ask, concurrency=concurrency)


async def _take(
    answers: AsyncGenerator[_Answer, None], found: Found, *, missing_ok: bool, fail_fast: bool
) -> None:
    async with aclosing(answers):
        async for answer in answers:
            if isinstance(answer, FileObject):
                await in_thread(partial(found.add, [answer]))
            elif not (missing_ok and isinstance(answer[1], NotFoundError)):
                found.failures.append(answer)
                if fail_fast:
                    return
