"""The same things for the eyes: tables, coloured lines, and bars. All of rich is in this room.

What servers and files are called never comes to rich as markup: it is made printable and wrapped
into `Text`, which is taken literally.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import TextIO

import attrs
from rich import box
from rich.console import Console
from rich.progress import BarColumn, Progress, ProgressColumn, Task, TaskID, TextColumn
from rich.table import Column, Table
from rich.text import Text

from aiofiles_api import FileObject, ProgressSink
from aiofiles_api import Progress as Transferred
from aiofiles_api.cli.text import Result, Step, moment, printable, size, span

__all__ = ["Bars", "Terminal"]

_WIDEST = 110
"""Columns after which a line with a bar in it is easier to read if it does not grow."""

_WIDE = 100
"""Columns from which there is room for the time beside the date."""

_NARROWEST_NAME = 12


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
        widths = self._widths
        if widths is None:
            widths = self._widths = _Widths.fitting(files, self.console.width)
        table = Table(
            Column("ID", width=widths.identifier, overflow="fold", style="cyan"),
            Column("Filename", width=widths.filename, no_wrap=True, overflow="ellipsis"),
            Column("Size", width=9, justify="right", no_wrap=True),
            Column("Purpose", width=widths.purpose, no_wrap=True, overflow="ellipsis"),
            Column("Created, UTC", width=widths.created, no_wrap=True, style="dim"),
            box=None,
            padding=(0, 2, 0, 0),
            pad_edge=False,
            show_header=with_header,
            header_style="bold",
        )
        for file in files:
            table.add_row(
                Text(printable(file.id)),
                Text(printable(file.filename)),
                size(file.bytes),
                Text(printable(file.purpose)),
                _short_moment(file.created_at)[: widths.created],
            )
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

    @contextmanager
    def bars(self, done: str, *, count: int, total: int | None, keep: bool) -> Iterator[Bars]:
        """Draw bars while the context is open; the last state stays.

        Args:
            done: What is done to the files, as in "uploaded".
            count: How many files there are.
            total: Their bytes, as far as known.
            keep: Whether the bar of a file stays when the file is finished.
        """
        bars = Bars(self.console, done, count=count, total=total, keep=keep)
        with bars.drawing:
            yield bars

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
        self._total = total
        self._keep = keep
        self._finished = 0
        self._moved: dict[TaskID, int] = {}
        self._whole = self.drawing.add_task("", total=total, visible=count > 1)
        self._count_one(0)

    @contextmanager
    def track(self, name: str, total: int | None) -> Iterator[ProgressSink]:
        """Draw a bar for a file while the context is open, fed by the sink that it gives."""
        bar = self.drawing.add_task(printable(name), total=total)

        def show(progress: Transferred) -> None:
            self._move(bar, progress.done)
            self.drawing.update(
                bar,
                completed=progress.done,
                total=progress.total,
                attempt=progress.attempt,
            )

        try:
            yield show
        except BaseException:
            self._move(bar, 0)
            self.drawing.remove_task(bar)
            raise
        self._count_one(1)
        if self._keep:
            self.drawing.stop_task(bar)
        else:
            self.drawing.remove_task(bar)

    def _move(self, bar: TaskID, done: int) -> None:
        self._moved[bar] = done
        self.drawing.update(self._whole, completed=sum(self._moved.values()))

    def _count_one(self, count: int) -> None:
        self._finished += count
        self.drawing.update(
            self._whole, description=f"{self._finished} of {self._count} files {self._done}"
        )


def _progress(console: Console) -> Progress:
    width = min(console.width, _WIDEST)
    name = Column(width=max(width - 66, 16), no_wrap=True, overflow="ellipsis")
    return Progress(
        TextColumn("{task.description}", markup=False, table_column=name),
        BarColumn(bar_width=24, finished_style="green"),
        _Amount(),
        _Rate(),
        _Clock(),
        console=console,
        refresh_per_second=12,
    )


class _Amount(ProgressColumn):
    """The bytes moved, and those of the whole."""

    def render(self, task: Task) -> Text:
        done = size(task.completed)
        text = done if task.total is None or task.finished else f"{done} of {size(task.total)}"
        return Text(f"{text:>20}")


class _Rate(ProgressColumn):
    """Bytes per second, of late; at the end, all in all."""

    def render(self, task: Task) -> Text:
        speed = task.finished_speed or task.speed
        text = "" if speed is None else f"{size(speed)}/s"
        return Text(f"{text:>10}", style="dim")


class _Clock(ProgressColumn):
    """The time that is left; at the end, the time that it took. A later attempt is told."""

    def render(self, task: Task) -> Text:
        attempt = task.fields.get("attempt", 1)
        if attempt > 1 and not task.finished:
            return Text(f"attempt {attempt}", style="yellow")
        seconds = task.finished_time if task.finished else task.time_remaining
        text = "" if seconds is None else span(seconds)
        return Text(f"{text:>7}")


@attrs.frozen
class _Widths:
    """Of the columns that depend on what is in them, and on the terminal."""

    identifier: int
    filename: int
    purpose: int
    created: int

    @classmethod
    def fitting(cls, files: Sequence[FileObject], width: int) -> _Widths:
        """Leave to the filename what the others do not need."""
        identifier = max((len(file.id) for file in files), default=2)
        purpose = min(max((len(file.purpose) for file in files), default=0), 18)
        created = 16 if width >= _WIDE else 10
        left = width - identifier - purpose - created - 9 - 4 * 2
        return cls(min(identifier, 40), max(left, _NARROWEST_NAME), max(purpose, 7), created)


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
