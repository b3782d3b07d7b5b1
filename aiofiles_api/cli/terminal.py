"""The same things for the eyes: tables, coloured lines, and bars. All of rich is in this room.

What servers and files are called never comes to rich as markup: it is made printable and wrapped
into `Text`, which is taken literally.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import TextIO

import attrs
from rich import box
from rich.console import Console
from rich.progress import BarColumn, Progress, ProgressColumn, Task, TaskID
from rich.table import Column, Table
from rich.text import Text

from aiofiles_api import FileObject, FilesError, ProgressSink
from aiofiles_api import Progress as Transferred
from aiofiles_api.cli.text import Result, Step, moment, printable, size, span

__all__ = ["Bars", "Terminal"]

_WIDEST = 110
"""Columns after which a line with a bar in it is easier to read if it does not grow."""

_COUNTS = len("10 of 12 files uploaded, 1 failed")
_NUMBERS = len(" 999.9 MB of 999.9 MB 999.9 MB/s 59 s left ")

_GAP = 2
_SIZE = 9
_TIME = len("2026-12-31 23:59")
_LONGEST_PURPOSE = 18
_NARROWEST_NAME = 16


class Terminal:
    """A terminal to print and draw on.

    Args:
        stream: Standard output or standard error.
    """

    def __init__(self, stream: TextIO) -> None:
        self.console = Console(file=stream, highlight=False, markup=False, emoji=False)
        self._widths: _Widths | None = None

    def print_plain(self, text: str) -> None:
        """Print text that is safe already as it is."""
        self.console.out(text, end="", highlight=False)

    def print_line(self, line: str | Text) -> None:
        """Print one line, however long."""
        self.console.print(line, soft_wrap=True)

    def print_result(self, result: Result) -> None:
        """Print a line with a tick."""
        first, *others = (printable(field) for field in result.fields)
        line = Text.assemble((self._tick, "green"), " ", (first, "cyan"))
        for other in others:
            line.append(f"  {other}")
        if result.detail:
            line.append(f"  {result.detail}", style="dim")
        self.print_line(line)

    def print_remark(self, message: str) -> None:
        """Print a line that is there to be overlooked."""
        self.print_line(Text(message, style="dim"))

    def print_complaint(self, who: str, message: str) -> None:
        """Print a line that is not to be overlooked."""
        self.print_line(Text.assemble((f"{who}: ", "bold red"), message))

    def print_files(self, files: Sequence[FileObject], *, with_header: bool) -> None:
        """Print a row for each file; the first page decides how wide the columns are."""
        if self._widths is None:
            self._widths = _Widths.fitting(files, self.console.width)
        widths = self._widths
        table = Table(
            Column("ID", width=widths.identifier, overflow="fold", style="cyan"),
            Column("Filename", width=widths.filename, no_wrap=True, overflow="ellipsis"),
            Column("Size", width=_SIZE, justify="right", no_wrap=True),
            box=None,
            padding=(0, _GAP, 0, 0),
            pad_edge=False,
            show_header=with_header,
            header_style="bold",
        )
        if widths.purpose:
            table.add_column("Purpose", width=widths.purpose, no_wrap=True, overflow="ellipsis")
        if widths.created:
            table.add_column("Created, UTC", width=widths.created, no_wrap=True, style="dim")
        for file in files:
            table.add_row(*_cells(file)[: len(table.columns)])
        self.console.print(table)

    def print_details(self, files: Iterable[FileObject]) -> None:
        """Print the fields of each file one below the other."""
        for number, file in enumerate(files):
            grid = Table.grid(Column(style="dim", no_wrap=True), Column(overflow="fold"))
            grid.padding = (0, 2, 0, 0)
            for label, value in _details(file):
                grid.add_row(label, Text(printable(value)))
            if number:
                self.console.print()
            self.print_line(Text(printable(file.filename), style="bold"))
            self.console.print(grid)

    def print_steps(self, steps: Iterable[Step]) -> None:
        """Print a table of what each step took."""
        table = Table(
            "Step",
            Column("Files", justify="right"),
            Column("Bytes", justify="right"),
            Column("Seconds", justify="right"),
            Column("MB/s", justify="right", style="bold"),
            Column("Peak memory", justify="right", style="bold"),
            box=box.SIMPLE_HEAD,
            header_style="",
            caption="Peak memory: of the client's process, above its start",
            caption_justify="left",
        )
        for step in steps:
            table.add_row(
                step.name,
                str(step.files),
                size(step.bytes) if step.bytes else "",
                f"{step.seconds:.2f}",
                f"{step.bytes / step.seconds / 1e6:,.0f}" if step.bytes else "",
                f"+{step.peak / 1e6:.1f} MB",
            )
        self.console.print(table)

    def print_heading(self, line: str) -> None:
        """Print a line that begins something new."""
        self.console.print()
        self.print_line(Text(line, style="bold"))

    @contextmanager
    def waiting(self, what_for: str) -> Iterator[Callable[[], None]]:
        """Show that something is awaited, until the context ends or what it gives is called."""
        with self.console.status(Text(what_for, style="dim")) as status:
            yield status.stop

    @contextmanager
    def bars(self, done: str, *, count: int, total: int | None, keep: bool) -> Iterator[Bars]:
        """Draw bars while the context is open; the last state stays.

        Args:
            done: What is done to the files, as in "uploaded".
            count: How many files there are.
            total: Their bytes, as far as known.
            keep: Whether the bar of a file stays when the file is finished.
        """
        if keep:
            self.console.print()
        bars = Bars(self.console, done, count=count, total=total, keep=keep)
        with bars.drawing:
            yield bars
            bars.end()

    @property
    def _tick(self) -> str:
        return "✓" if self.console.encoding.startswith("utf") else "ok"


class Bars:
    """One bar for each file that is under way, and one for all of them.

    Args:
        console: Where to draw.
        done: What is done to the files.
        count: How many files there are.
        total: Their bytes, as far as known.
        keep: Whether the bar of a file stays when the file is finished.

    Attributes:
        drawing: The context in which they are drawn.
    """

    def __init__(
        self, console: Console, done: str, *, count: int, total: int | None, keep: bool
    ) -> None:
        self.drawing = _progress(console)
        self._done = done
        self._count = count
        self._keep = keep
        self._finished = self._failed = 0
        self._moved: dict[TaskID, int] = {}
        self._whole = self.drawing.add_task("", total=total, visible=count > 1)
        self._tell_count()

    @contextmanager
    def track(self, name: str, total: int | None) -> Iterator[ProgressSink]:
        """Draw a bar for a file while the context is open, fed by the sink that it gives."""
        bar = self.drawing.add_task(printable(name), total=total, is_part=self._keep, attempt=1)
        attempt = 1

        def show(progress: Transferred) -> None:
            nonlocal attempt
            if progress.attempt != attempt:
                attempt = progress.attempt
                self.drawing.reset(bar, attempt=attempt)
            self.drawing.update(bar, completed=progress.done, total=progress.total)
            self._move(bar, progress.done)

        try:
            yield show
        except FilesError:
            self._failed += 1
            self._move(bar, 0)
            self.drawing.remove_task(bar)
            raise
        else:
            self._finished += 1
            if not self._keep:
                self.drawing.remove_task(bar)
        finally:
            self._tell_count()

    def end(self) -> None:
        """Take what has been moved for the whole, whatever it was to be."""
        self.drawing.update(self._whole, total=sum(self._moved.values()))

    def _move(self, bar: TaskID, done: int) -> None:
        self._moved[bar] = done
        self.drawing.update(self._whole, completed=sum(self._moved.values()))

    def _tell_count(self) -> None:
        count = f"{self._finished} of {self._count} files {self._done}"
        failures = f", {self._failed} failed" if self._failed else ""
        self.drawing.update(self._whole, description=count + failures)


def _progress(console: Console) -> Progress:
    left = min(console.width, _WIDEST) - _NUMBERS
    bar = min(max(left - _COUNTS, 8), 24)
    name = Column(width=max(left - bar, _NARROWEST_NAME), no_wrap=True, overflow="ellipsis")
    return Progress(
        _Name(name),
        BarColumn(bar_width=bar, finished_style="green"),
        _Amount(),
        _Rate(),
        _Clock(),
        console=console,
        refresh_per_second=12,
        redirect_stdout=False,
        redirect_stderr=False,
    )


class _Name(ProgressColumn):
    """What is moved: a file, or, in bold, all files that are listed below."""

    def render(self, task: Task) -> Text:
        is_part = task.fields.get("is_part")
        if is_part is None:
            return Text(task.description, style="bold")
        return Text(f"  {task.description}" if is_part else task.description)


class _Amount(ProgressColumn):
    """The bytes moved, and those of the whole."""

    def render(self, task: Task) -> Text:
        done = size(task.completed)
        text = done if task.total is None or task.finished else f"{done} of {size(task.total)}"
        return Text(f"{text:>20}")


class _Rate(ProgressColumn):
    """Bytes per second of late, and in the end all in all."""

    def render(self, task: Task) -> Text:
        speed = task.completed / task.finished_time if task.finished_time else task.speed
        text = "" if speed is None else f"{size(speed)}/s"
        return Text(f"{text:>10}", style="dim")


class _Clock(ProgressColumn):
    """The time that is left, and in the end the time that it took; a later attempt is told."""

    def render(self, task: Task) -> Text:
        if task.finished_time is not None:
            return Text(f"{span(task.finished_time):>7}")
        attempt = task.fields.get("attempt", 1)
        if attempt > 1:
            return Text(f"attempt {attempt}", style="yellow")
        left = task.time_remaining
        return Text("" if left is None else f"{span(left)} left", style="dim")


@attrs.frozen
class _Widths:
    """Of the columns that depend on what is in them, and on the terminal; 0 leaves one out."""

    identifier: int
    filename: int
    purpose: int
    created: int

    @classmethod
    def fitting(cls, files: Sequence[FileObject], width: int) -> _Widths:
        """Leave to the filename what the others do not need, and others out if that is too little.

        An id is never cut, because it is there to be copied.
        """
        identifier = max((len(printable(file.id)) for file in files), default=2)
        longest = max((len(printable(file.purpose)) for file in files), default=0)
        purpose = min(max(longest, len("Purpose")), _LONGEST_PURPOSE)
        left = width - identifier - _SIZE - 3 * _GAP  # one behind each; the others bring theirs
        for others in ((purpose, _TIME), (purpose, 0), (0, 0)):
            filename = left - sum(it + _GAP for it in others if it)
            if filename >= _NARROWEST_NAME:
                return cls(identifier, filename, *others)
        return cls(identifier, _NARROWEST_NAME, 0, 0)


def _cells(file: FileObject) -> tuple[Text, ...]:
    return (
        Text(printable(file.id)),
        Text(printable(file.filename)),
        Text(size(file.bytes)),
        Text(printable(file.purpose)),
        Text(_short_moment(file.created_at)[:_TIME]),
    )


def _short_moment(seconds: int) -> str:
    return moment(seconds).replace("T", " ").removesuffix("Z")


def _details(file: FileObject) -> Iterator[tuple[str, str]]:
    yield "id", file.id
    yield "size", f"{size(file.bytes)} ({file.bytes:,} bytes)"
    yield "purpose", file.purpose
    yield "created", f"{_short_moment(file.created_at)} UTC"
    if file.expires_at is not None:
        yield "expires", f"{_short_moment(file.expires_at)} UTC"
    if file.status is not None:
        yield "status", " ".join(filter(None, (file.status, file.status_details)))
    for name, value in file.extra.items():
        yield printable(name), str(value)
