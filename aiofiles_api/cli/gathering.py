"""From the paths on a command line to the files that are to be sent: found, checked and counted.

Everything is looked at before anything is sent, so that all that is wrong is told at once. What is
found goes to a spool, whatever its number, and what is sent is exactly what was checked.

It is a generator that works in small steps, so that a thread can be called back between two.
"""

from __future__ import annotations

import os
import re
import stat
from collections.abc import Callable, Generator, Iterable, Iterator
from contextlib import AbstractContextManager
from fnmatch import fnmatchcase
from typing import BinaryIO

import attrs

from aiofiles_api import UploadItem
from aiofiles_api.cli.preflight import LONGEST_LINE, Check, LineCheck, has_lines, problem_of
from aiofiles_api.cli.spool import Spool
from aiofiles_api.cli.standard_input import Content
from aiofiles_api.cli.text import printable

__all__ = ["Gathering", "Local", "Wanted", "read_list"]

_MOST_PROBLEMS = 20
_LINES_A_STEP = 200
_LONGEST_PATH = 64 * 1024

_NO_TEXT = re.compile("[\ud800-\udfff]")
"""What stands in a path for each byte that is no UTF-8."""

_BESIDE_A_JOURNAL = ("", "-lock", "-wal", "-shm", "-journal")
"""What is behind its name in those of a journal's files: ours and SQLite's."""


@attrs.frozen
class Local(UploadItem):
    """A file that is to be sent.

    Attributes:
        path: Where it is, or "-".
        size: Its bytes when it was looked at, if known.
    """

    path: str = attrs.field(kw_only=True)
    size: int | None = attrs.field(kw_only=True)

    @property
    def sent_as(self) -> str:
        """The name that it has on the server: a form cannot say bytes that are no text."""
        return _NO_TEXT.sub("\ufffd", self.filename or os.path.basename(self.path))


@attrs.frozen
class Wanted:
    """Which files are wanted, and what they have to be.

    Attributes:
        purpose: What they are for.
        filename: The name that the server shall give to a single file.
        recursive: Whether directories are gone through.
        include: Globs; of what is in directories, only files that one of them fits.
        exclude: Globs; files and directories in directories that one of them fits are left out,
            directories alone if it ends with a slash.
        checks: What is looked at.
        journal: The run's own journal, which is left out with what stands beside it.
    """

    purpose: str
    filename: str | None = None
    recursive: bool = False
    include: tuple[str, ...] = ()
    exclude: tuple[str, ...] = ()
    checks: frozenset[Check] = frozenset()
    journal: str | None = None


class Gathering:
    """Finds and checks files.

    Args:
        wanted: Which ones.
        found: Where they are put.

    Attributes:
        bytes: How many bytes they have.
        problems: The first ones, each in a line.
        count_of_problems: How many there are in all.
        refused_by: The checks that have found some of them.
    """

    def __init__(self, wanted: Wanted, found: Spool[Local]) -> None:
        self.bytes = 0
        self.problems: list[str] = []
        self.count_of_problems = 0
        self.refused_by: set[Check] = set()
        self._wanted = wanted
        self._found = found
        self._entered: set[tuple[int, int]] = set()
        self._own: frozenset[str] = frozenset()

    def steps(self, paths: Iterable[str | None]) -> Iterator[None]:
        """Go through paths, step by step; `None` stands for none yet."""
        if self._wanted.journal is not None:
            journal = os.path.realpath(self._wanted.journal)
            self._own = frozenset(journal + ending for ending in _BESIDE_A_JOURNAL)
        for path in paths:
            if path is None:
                yield
                continue
            try:
                info = os.stat(path)
            except (OSError, ValueError) as error:
                hint = "; the list has CRLF line ends" if path.endswith("\r") else ""
                self._complain(path, f"it cannot be read: {_reason(error)}{hint}")
                continue
            if stat.S_ISDIR(info.st_mode):
                yield from self._enter(path, info)
            else:
                yield from self._look_at(path, info)
            yield

    def look_at_content(self, content: Content) -> Iterator[None]:
        """Look at what comes on standard input, step by step, as far as that can be known."""
        yield from content.steps()
        name = self._wanted.filename or ""
        problem = yield from self._problem_of(name, content.size, content.open)
        if problem is not None:
            self._refuse("standard input", *problem)
        self.bytes = content.size or 0

    def _enter(self, path: str, info: os.stat_result) -> Iterator[None]:
        if self._wanted.recursive:
            yield from self._walk(path, info)
        else:
            self._complain(path, "it is a directory; pass --recursive for the files in it")

    def _walk(self, root: str, info: os.stat_result) -> Iterator[None]:
        """Look at the files of a directory and of all below it, in the order of their names."""
        # Not by recursion, for directories may be deeper than Python's stack.
        entered = [self._names_in(root, "", info)]
        while entered:
            below = next(entered[-1], None)
            if below is None:
                entered.pop()
                continue
            inner = yield from self._visit(root, below)
            if inner is not None:
                entered.append(self._names_in(root, below, inner))
            yield

    def _names_in(self, root: str, below: str, info: os.stat_result) -> Iterator[str]:
        """Return the paths in a directory, below the root."""
        # Each directory but once: a symbolic link may lead back to where we come from.
        identity = (info.st_dev, info.st_ino)
        if identity in self._entered:
            return iter(())
        self._entered.add(identity)
        directory = os.path.join(root, below)
        try:
            names = sorted(os.listdir(directory))
        except OSError as error:
            self._complain(directory, f"it cannot be read: {_reason(error)}")
            return iter(())
        return (os.path.join(below, name) for name in names)

    def _visit(self, root: str, below: str) -> Generator[None, None, os.stat_result | None]:
        """Look at a path below the root, and return what is known of a directory to enter."""
        path = os.path.join(root, below)
        if _fits(below, self._wanted.exclude):
            return None
        try:
            info = os.stat(path)
        except OSError as error:
            self._complain(path, f"it cannot be read: {_reason(error)}")
            return None
        if stat.S_ISDIR(info.st_mode):
            is_left_out = _fits(below, (it[:-1] for it in self._wanted.exclude if it.endswith("/")))
            return None if is_left_out else info
        if stat.S_ISREG(info.st_mode) and (
            not self._wanted.include or _fits(below, self._wanted.include)
        ):
            yield from self._look_at(path, info)
        return None

    def _look_at(self, path: str, info: os.stat_result) -> Iterator[None]:
        if self._own and os.path.realpath(path) in self._own:
            return
        size = info.st_size if stat.S_ISREG(info.st_mode) else None
        if size is not None:
            name = self._wanted.filename or os.path.basename(path)
            opened = lambda: open(path, "rb")  # noqa: E731, SIM115 - it is for a with
            try:
                problem = yield from self._problem_of(name, size, opened)
            except OSError as error:
                self._complain(path, f"it cannot be read: {_reason(error)}")
                return
            if problem is not None:
                self._refuse(path, *problem)
                return
        self.bytes += size or 0
        self._found.append(Local(path, self._wanted.filename, path=path, size=size))

    def _problem_of(
        self, name: str, size: int | None, opened: Callable[[], AbstractContextManager[BinaryIO]]
    ) -> Generator[None, None, tuple[Check, str] | None]:
        wanted = self._wanted
        problem = problem_of(name, size, wanted.purpose, wanted.checks)
        if problem is not None or not size:
            return problem
        with opened() as file:  # which also shows that it can be read
            if "json" in wanted.checks and has_lines(wanted.purpose):
                lines = LineCheck()
                yield from _check_lines(file, lines)
                if lines.problem is not None:
                    return "json", lines.problem
        return None

    def _refuse(self, path: str, check: Check, problem: str) -> None:
        self.refused_by.add(check)
        self._complain(path, problem)

    def _complain(self, path: str, problem: str) -> None:
        self.count_of_problems += 1
        if len(self.problems) < _MOST_PROBLEMS:
            self.problems.append(f"{printable(path)}: {problem}")


def read_list(chunks: Iterable[bytes | None], separator: bytes) -> Iterator[str | None]:
    """Yield the paths of a list, without empty ones, and `None` while nothing comes."""
    rest = b""
    for chunk in chunks:
        *whole, rest = (rest + (chunk or b"")).split(separator)
        # What is longer than any path is no list, and must not fill the memory.
        rest = rest[:_LONGEST_PATH]
        yield from (os.fsdecode(path) for path in whole if path)
        yield None
    if rest:
        yield os.fsdecode(rest)


def _check_lines(file: BinaryIO, lines: LineCheck) -> Iterator[None]:
    for number, line in enumerate(iter(lambda: file.readline(LONGEST_LINE), b"")):
        if len(line) == LONGEST_LINE and not line.endswith(b"\n"):
            lines.pass_over()
            _drop_line(file.readline)
        elif not lines.take(line):
            return
        if number % _LINES_A_STEP == 0:
            yield


def _drop_line(readline: Callable[[int], bytes]) -> None:
    while (rest := readline(LONGEST_LINE)) and not rest.endswith(b"\n"):
        pass


def _fits(path: str, patterns: Iterable[str]) -> bool:
    """Return whether a glob fits: one with a slash the path below the directory, else the name."""
    name = os.path.basename(path)
    return any(fnmatchcase(path if "/" in one else name, one) for one in patterns)


def _reason(error: OSError | ValueError) -> str:
    if isinstance(error, OSError):
        return error.strerror or type(error).__name__
    return "it is no path"  # it holds a NUL
