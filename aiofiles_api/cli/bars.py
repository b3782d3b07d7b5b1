"""Bars for transfers: one for each that is under way, and one for all of them."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, Progress, ProgressColumn, Task, TaskID
from rich.table import Column
from rich.text import Text

from aiofiles_api import FilesError, ProgressSink
from aiofiles_api import Progress as Transferred
from aiofiles_api.cli.text import printable, size, span

__all__ = ["Bars"]

_WIDEST = 110
"""Columns after which a line with a bar in it is easier to read if it does not grow."""

_COUNTS = len("10 of 12 files uploaded, 1 failed")
_NUMBERS = len(" 999.9 MB of 999.9 MB 999.9 MB/s 59 s left ")

_NARROWEST_NAME = 16


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
        BarColumn(bar_width=bar, complete_style="cyan", finished_style="green"),
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
