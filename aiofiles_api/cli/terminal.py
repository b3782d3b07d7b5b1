"""What a terminal shows: tables, coloured lines, and bars.

What servers and files are called never comes to rich as markup: it is made printable and wrapped
into `Text`, which is taken literally.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import TextIO

from rich import box
from rich.console import Console
from rich.table import Column, Table
from rich.text import Text

from aiofiles_api import FileObject, JournalEntry
from aiofiles_api.cli.bars import Bars, Flight
from aiofiles_api.cli.rows import FileRows, short_moment
from aiofiles_api.cli.text import Result, Step, one_line, printable, size

__all__ = ["Terminal"]

_STATE_STYLES = {"done": "green", "failed": "red", "started": "yellow", "planned": "dim"}

_ROWS_AT_A_TIME = 100
"""So few that the first ones are seen at once."""


class _Console(Console):
    """A console that tells of a closed pipe, instead of ending the process in the middle."""

    def on_broken_pipe(self) -> None:
        raise  # noqa: PLE0704 - called where the error is handled


class Terminal:
    """A terminal to print and draw on.

    Args:
        stream: Standard output or standard error.
    """

    def __init__(self, stream: TextIO) -> None:
        self.console = _Console(file=stream, highlight=False, markup=False, emoji=False)
        self._rows: FileRows | None = None

    def print_plain(self, text: str) -> None:
        """Print text that is safe already as it is."""
        self.console.out(text, end="", highlight=False)

    def print_line(self, line: str | Text) -> None:
        """Print one line, however long."""
        self.console.print(line, soft_wrap=True)

    def print_result(self, result: Result) -> None:
        """Print a line, with a tick if it is done."""
        first, *others = (printable(field) for field in result.fields)
        tick = f"{self._tick} " if result.is_done else ""
        line = Text.assemble((tick, "green"), (first, "cyan"))
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

    def print_files(self, files: Sequence[FileObject]) -> None:
        """Print a row for each file, below a header that comes but once."""
        if self._rows is None:
            self._rows = FileRows.fitting(files, self.console.width)
            self.print_line(self._rows.header())
        for start in range(0, len(files), _ROWS_AT_A_TIME):
            rows = self._rows.rows(files[start : start + _ROWS_AT_A_TIME])
            self.console.print(rows, soft_wrap=True, end="")

    def print_entries(self, entries: Sequence[JournalEntry]) -> None:
        """Print a row for each entry of a journal, with the reason below where there is one."""
        for entry in entries:
            row = Text.assemble(
                (f"{entry.state:<8}", _STATE_STYLES[entry.state]),
                f" {entry.kind:<8} ",
                (f"{short_moment(int(entry.updated_at))}  ", "dim"),
                f"{'' if entry.size is None else size(entry.size):>8}  ",
                printable(entry.key),
            )
            if entry.file_id is not None and entry.file_id != entry.key:
                row.append(f"  {printable(entry.file_id)}", style="cyan")
            if entry.reason is not None:
                row.append(f"\n         {one_line(entry.reason)}", style="dim")
            self.print_line(row)

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
    def bars(self, done: str, *, count: int, total: int) -> Iterator[Bars]:
        """Draw bars while the context is open; the last state stays.

        Args:
            done: What is done to the files, as in "uploaded".
            count: How many files there are.
            total: Their bytes.
        """
        self.console.print()
        bars = Bars(self.console, done, count=count, total=total)
        with bars.drawing:
            yield bars
            bars.end()

    @contextmanager
    def watching(self, done: str, *, count: int, total: int | None) -> Iterator[Flight]:
        """Draw how far many transfers are, while the context is open; the last state stays.

        Args:
            done: What is done to the files, as in "uploaded".
            count: How many files there are.
            total: Their bytes; `None` where files count, and not bytes.
        """
        flight = Flight(self.console, done, count=count, total=total)
        with flight.drawing:
            yield flight
            flight.land()

    @property
    def _tick(self) -> str:
        return "✓" if self.console.encoding.startswith("utf") else "ok"


def _details(file: FileObject) -> Iterator[tuple[str, str]]:
    yield "id", file.id
    yield "size", f"{size(file.bytes)} ({file.bytes:,} bytes)"
    yield "purpose", file.purpose
    yield "created", f"{short_moment(file.created_at)} UTC"
    if file.expires_at is not None:
        yield "expires", f"{short_moment(file.expires_at)} UTC"
    if file.status is not None:
        yield "status", " ".join(filter(None, (file.status, file.status_details)))
    for name, value in file.extra.items():
        yield printable(name), str(value)
