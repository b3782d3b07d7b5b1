"""What a command says: results on standard output, everything else on standard error.

A pipe gets plain lines, and rich, which takes time to import, only for the demo's table. A terminal
gets colours and bars; what is said while bars are drawn is printed above them, so it goes through
the same console.
"""

from __future__ import annotations

import asyncio
import os
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from functools import cached_property, partial
from typing import TYPE_CHECKING, Protocol, TextIO, TypeAlias

import anyio

from aiofiles_api import FileObject, JournalEntry, Progress, ProgressSink
from aiofiles_api.cli.outlet import Outlet
from aiofiles_api.cli.text import (
    Result,
    Step,
    entry_fields,
    file_fields,
    json_line,
    one_line,
    printable,
)

if TYPE_CHECKING:
    from aiofiles_api.cli.terminal import Terminal

__all__ = ["NAME", "Screen", "Track", "Watch", "abandon", "dispensable"]

NAME = "aiofiles-api"

Track: TypeAlias = Callable[[str, int], AbstractContextManager[ProgressSink | None]]
"""Given a name and a length, opens a context for one transfer, and gives the sink for it."""


class Watch(Protocol):
    """Follows many transfers, which are known by any key that is theirs alone."""

    def move(self, key: int, title: str, progress: Progress) -> None:
        """Take note of how far a transfer is."""
        ...

    def end(self, key: int, size: int | None, *, has_failed: bool, was_done: bool) -> None:
        """Take note that a transfer has ended, or was done before."""
        ...


class _NoWatch:
    """Follows nothing."""

    def move(self, key: int, title: str, progress: Progress) -> None:
        pass

    def end(self, key: int, size: int | None, *, has_failed: bool, was_done: bool) -> None:
        pass


class Screen:
    """The two streams of one command.

    Args:
        as_json: Whether results are lines of JSON.
        has_content: Whether standard output gets the content of a file.
    """

    def __init__(self, *, as_json: bool = False, has_content: bool = False) -> None:
        # Kept from now on, because rich puts others in their place while it draws.
        self._out, self._err = sys.stdout, sys.stderr
        self._as_json = as_json
        self._has_output = _is_terminal(self._out)
        self._has_errors = _is_terminal(self._err)
        self._is_pretty = self._has_output and not as_json
        # A bar below content would be drawn over its last lines.
        self._can_draw = not has_content if self._has_output else self._has_errors
        self._outlet = Outlet(self._out)
        self._turn = anyio.CapacityLimiter(1)

    # --- results -------------------------------------------------------------------------------

    async def result(self, result: Result, *, is_one_of_many: bool = False) -> None:
        """Print a line for what was done; not to a person, if it is one of many."""
        if not self._is_pretty:
            await self._lines([result.json if self._as_json else _tabbed(result.fields)])
        elif not is_one_of_many:
            await self._in_thread(partial(self._output.print_result, result))

    async def failure(self, json: str) -> None:
        """Print a line of JSON for what came to nothing, where lines of JSON are wanted."""
        if self._as_json:
            await self._lines([json])

    async def files(self, files: Sequence[FileObject]) -> None:
        """Print a row or a line for each file."""
        if self._is_pretty:
            await self._in_thread(partial(self._output.print_files, files))
        else:
            line = json_line if self._as_json else _file_line
            await self._lines([line(file) for file in files])

    async def entries(self, entries: Sequence[JournalEntry]) -> None:
        """Print a row or a line for each entry of a journal."""
        if self._is_pretty:
            await self._in_thread(partial(self._output.print_entries, entries))
        else:
            line = json_line if self._as_json else _entry_line
            await self._lines([line(entry) for entry in entries])

    async def details(self, files: Sequence[FileObject]) -> None:
        """Print all that is known of each file."""
        if self._is_pretty:
            await self._in_thread(partial(self._output.print_details, files))
        else:
            await self.files(files)

    async def content(self, chunk: bytes) -> None:
        """Write a piece of a file's content as it is."""
        await self._outlet.write(chunk)

    def heading(self, line: str) -> None:
        """Print a line that begins something new."""
        if self._has_output:
            self._output.print_heading(line)
        else:
            self.say(line)

    def say(self, line: str) -> None:
        """Print a line that no script wants to read."""
        self._output.print_line(printable(line))

    def steps(self, steps: Iterable[Step]) -> None:
        """Print a table of what each step took."""
        self._output.print_steps(steps)

    def remark(self, message: str) -> None:
        """Tell a person something that no script wants to know."""
        if self._is_pretty:
            self._output.print_remark(message)

    # --- everything else -----------------------------------------------------------------------

    def complain(self, message: str) -> None:
        """Print one line on standard error."""
        line = one_line(message)
        with dispensable(self._err):
            if self._has_errors:
                self._canvas.print_complaint(NAME, line)
            else:
                _write(self._err, f"{NAME}: {line}\n")

    def announce(self, message: str) -> None:
        """Print one line on standard error that is no complaint."""
        with dispensable(self._err):
            _write(self._err, f"{NAME}: {printable(message)}\n")

    @contextmanager
    def told_if_interrupted(self, summary: Callable[[], str]) -> Iterator[None]:
        """Say in one line what was done when Ctrl-C ends what runs inside."""
        try:
            yield
        except asyncio.CancelledError:
            self.complain(f"interrupted: {summary()}")
            raise

    @contextmanager
    def bars(self, done: str, *, count: int, total: int) -> Iterator[Track]:
        """Draw a bar for each transfer, or print a line for it where there is no terminal."""
        if self._can_draw:
            with self._canvas.bars(done, count=count, total=total) as bars:
                yield bars.track
        else:
            yield partial(self._told, done)

    @contextmanager
    def watching(self, done: str, *, count: int, total: int | None) -> Iterator[Watch]:
        """Draw how far many transfers are, where there is a terminal; see `Terminal.watching`."""
        if self._can_draw:
            with self._canvas.watching(done, count=count, total=total) as watch:
                yield watch
        else:
            yield _NoWatch()

    @contextmanager
    def waiting(self, what_for: str) -> Iterator[Callable[[], None]]:
        """Show on a terminal that something is awaited; see `Terminal.waiting`."""
        if self._can_draw:
            with self._canvas.waiting(what_for) as stop:
                yield stop
        else:
            yield lambda: None

    @property
    def can_ask(self) -> bool:
        """Whether somebody can read a question and answer it."""
        return self._err.isatty() and sys.stdin.isatty()

    async def ask(self, lines: Iterable[str], question: str) -> bool:
        """Ask a question below some lines; only a yes is a yes."""
        listed = "".join(f"  {printable(line)}\n" for line in lines)
        _write(self._err, f"{listed}{question} [y/N] ")
        answer = b""
        # Ctrl-D gives what was typed so far, and at the beginning of a line nothing: the end.
        while not answer.endswith(b"\n") and (typed := await _typed()):
            answer += typed
        return answer.strip().lower() in {b"y", b"yes"}

    # --- how -----------------------------------------------------------------------------------

    @cached_property
    def _output(self) -> Terminal:
        """Standard output."""
        return _terminal(self._out)

    @cached_property
    def _canvas(self) -> Terminal:
        """What to draw on: standard output if it is a terminal, else standard error."""
        return self._output if self._has_output else _terminal(self._err)

    @contextmanager
    def _told(self, done: str, name: str, _total: int) -> Iterator[None]:
        yield
        self.say(f"{done} {name}")

    async def _lines(self, lines: Iterable[str]) -> None:
        text = "".join(f"{line}\n" for line in lines)
        if self._has_output:
            await self._in_thread(partial(self._output.print_plain, text))
        else:
            await self._outlet.write(text)

    async def _in_thread(self, work: Callable[[], None]) -> None:
        # A terminal that pauses, as by Ctrl-S, must not hold the event loop.
        await anyio.to_thread.run_sync(work, limiter=self._turn)


def abandon(stream: TextIO) -> None:
    """Have Python flush to nowhere what it could not write, or it would complain at its exit."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, stream.fileno())
    os.close(nowhere)


@contextmanager
def dispensable(stream: TextIO) -> Iterator[None]:
    """Abandon a stream that cannot be written to, where the exit status tells the same."""
    try:
        yield
    except OSError:
        abandon(stream)


def _terminal(stream: TextIO) -> Terminal:
    from aiofiles_api.cli.terminal import Terminal  # noqa: PLC0415 - rich takes its time

    return Terminal(stream)


def _is_terminal(stream: TextIO) -> bool:
    """Return whether a stream is a terminal that can do more than print lines."""
    return stream.isatty() and os.environ.get("TERM", "").lower() not in {"dumb", "unknown"}


def _file_line(file: FileObject) -> str:
    return _tabbed(file_fields(file))


def _entry_line(entry: JournalEntry) -> str:
    return _tabbed(entry_fields(entry))


def _tabbed(fields: Iterable[str]) -> str:
    return "\t".join(printable(field) or "-" for field in fields)


async def _typed() -> bytes:
    """Return what was typed since the last time."""
    # Ctrl-C can end this wait, but not a thread that reads.
    await anyio.wait_readable(sys.stdin)
    return await anyio.to_thread.run_sync(os.read, sys.stdin.fileno(), 1024)


def _write(stream: TextIO, text: str) -> None:
    stream.write(text)
    stream.flush()
