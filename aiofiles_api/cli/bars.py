"""Bars for transfers: one for each that is under way, and one for all of them.

`Bars` has a bar for each of a few files, which stays when the file is finished. `Flight` is for any
number: it takes down what happens, which costs next to nothing, and looks at it whenever the screen
is drawn anew.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager

import attrs
from rich.console import Console, RenderableType
from rich.progress import BarColumn, Progress, ProgressColumn, Task, TaskID
from rich.table import Column
from rich.text import Text

from aiofiles_api import Progress as Transferred
from aiofiles_api import ProgressSink
from aiofiles_api.cli.text import printable, size, span

__all__ = ["Bars", "Flight"]

_WIDEST = 110
"""Columns after which a line with a bar in it is easier to read if it does not grow."""

_COUNTS = len("10 of 12 files uploaded, 1 failed")
_NUMBERS = len(" 999.9 MB of 999.9 MB 999.9 MB/s 59 s left ")

_NARROWEST_NAME = 16

_MOST_ROWS = 8
_SHORT = 0.3
"""Seconds; what takes no longer gets no bar, which nobody could read."""


class Bars:
    """One bar for each file that is under way, and one for all of them.

    Args:
        console: Where to draw.
        done: What is done to the files.
        count: How many files there are.
        total: Their bytes.

    Attributes:
        drawing: The context in which they are drawn.
    """

    def __init__(self, console: Console, done: str, *, count: int, total: int) -> None:
        self.drawing = _progress(console)
        self._done = done
        self._count = count
        self._finished = 0
        self._moved: dict[TaskID, int] = {}
        self._whole = self.drawing.add_task("", total=total)
        self._tell_count()

    @contextmanager
    def track(self, name: str, total: int) -> Iterator[ProgressSink]:
        """Draw a bar for a file while the context is open, fed by the sink that it gives."""
        bar = self.drawing.add_task(printable(name), total=total, is_part=True)

        def show(progress: Transferred) -> None:
            self.drawing.update(bar, completed=progress.done, attempt=progress.attempt)
            self._move(bar, progress.done)

        yield show
        self._finished += 1
        self._tell_count()

    def end(self) -> None:
        """Take what has been moved for the whole, whatever it was to be."""
        self.drawing.update(self._whole, total=sum(self._moved.values()))

    def _move(self, bar: TaskID, done: int) -> None:
        self._moved[bar] = done
        self.drawing.update(self._whole, completed=sum(self._moved.values()))

    def _tell_count(self) -> None:
        count = f"{self._finished} of {self._count} files {self._done}"
        self.drawing.update(self._whole, description=count)


@attrs.define
class _Transfer:
    """One transfer that is under way."""

    title: str
    began: float
    progress: Transferred


class Flight:
    """One bar for all files, and one for some of those that take long.

    Args:
        console: Where to draw.
        done: What is done to the files.
        count: How many files there are.
        total: Their bytes, 0 if unknown; `None` where files count, and not bytes.

    Attributes:
        drawing: The context in which they are drawn.
    """

    def __init__(self, console: Console, done: str, *, count: int, total: int | None) -> None:
        self.drawing = _progress(console, self._look)
        self._rows = max(min(_MOST_ROWS, console.height - 4), 1)
        self._done = done
        self._count = count
        self._total = total
        self._moved = self._finished = self._before = self._failed = 0
        self._title: str | None = None
        self._moving: dict[int, _Transfer] = {}
        self._whole = self.drawing.add_task("", total=self._whole_of(), files=total is None)

    def move(self, key: int, title: str, progress: Transferred) -> None:
        """Take note of how far a transfer is."""
        transfer = self._moving.get(key)
        if transfer is None:
            self._moving[key] = _Transfer(title, time.monotonic(), progress)
        else:
            transfer.progress = progress

    def end(self, key: int, size: int | None, *, has_failed: bool, was_done: bool) -> None:
        """Take note that a transfer has ended, or was done before."""
        transfer = self._moving.pop(key, None)
        if has_failed:
            self._failed += 1
        elif was_done:
            self._before += 1
        else:
            self._finished += 1
        if self._total is None:
            self._moved += 1
        elif was_done and not has_failed:
            # As if it had never been there, so that rate and time left are those of the others.
            self._total -= size or 0
        else:
            self._moved += size or (transfer.progress.done if transfer else 0)

    def land(self) -> None:
        """Take what has been moved for the whole, whatever it was to be."""
        self._moving.clear()
        self.drawing.update(self._whole, total=self._moved, completed=self._moved)

    def _look(self) -> Iterable[Task]:
        """Bring the bar for all up to date, and return one for each of the oldest transfers."""
        moving = list(self._moving.values())
        under_way = 0 if self._total is None else sum(it.progress.done for it in moving)
        self.drawing.update(
            self._whole,
            total=self._whole_of(),
            completed=self._moved + under_way,
            description=self._counts(),
        )
        if self._count == 1:
            return self._look_at_the_only_one(moving)
        now = time.monotonic()
        long = [it for it in moving if now - it.began > _SHORT]
        return [_row(transfer, now) for transfer in long[: self._rows]]

    def _look_at_the_only_one(self, moving: Iterable[_Transfer]) -> Iterable[Task]:
        """Have the bar for all be that of the one file there is."""
        for transfer in moving:
            self._title = transfer.title
            self.drawing.update(self._whole, attempt=transfer.progress.attempt)
        if self._title is not None:
            self.drawing.update(self._whole, description=printable(self._title), is_part=False)
        return ()

    def _whole_of(self) -> int | None:
        if self._total is None:
            return self._count
        return max(self._total, self._moved) or None  # of what comes from a pipe nothing is known

    def _counts(self) -> str:
        # Shortest first: what does not fit is cut at the end.
        counts = f"{self._finished + self._before:,} of {self._count:,} {self._done}"
        failed = f", {self._failed:,} failed" if self._failed else ""
        return counts + failed + (f", {self._before:,} before" if self._before else "")


def _row(transfer: _Transfer, now: float) -> Task:
    done, total = transfer.progress.done, transfer.progress.total
    fields = {
        "is_part": True,
        "attempt": transfer.progress.attempt,
        "speed": done / (now - transfer.began),
    }
    task = Task(
        TaskID(-1),
        f"{printable(transfer.title)}",
        total,
        done,
        _get_time=time.monotonic,
        fields=fields,
    )
    task.start_time = transfer.began
    return task


class _Drawing(Progress):
    """Asks for what is to be drawn when it is drawn."""

    look: Callable[[], Iterable[Task]] | None = None

    def get_renderables(self) -> Iterable[RenderableType]:
        """Return the table of all bars."""
        rows = () if self.look is None else self.look()
        yield self.make_tasks_table([*self.tasks, *rows])


def _progress(console: Console, look: Callable[[], Iterable[Task]] | None = None) -> Progress:
    left = min(console.width, _WIDEST) - _NUMBERS
    bar = min(max(left - _COUNTS, 8), 24)
    name = Column(width=max(left - bar, _NARROWEST_NAME), no_wrap=True, overflow="ellipsis")
    drawing = _Drawing(
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
    drawing.look = look
    return drawing


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
        if task.fields.get("files"):
            return Text(" " * 20)
        done = size(task.completed)
        text = done if task.total is None or task.finished else f"{done} of {size(task.total)}"
        return Text(f"{text:>20}")


class _Rate(ProgressColumn):
    """Bytes per second of late, and in the end all in all."""

    def render(self, task: Task) -> Text:
        speed = task.fields.get("speed", task.speed)
        if task.finished_time:
            speed = task.completed / task.finished_time
        if speed is None:
            text = ""
        elif task.fields.get("files"):
            text = f"{speed:,.0f} files/s"
        else:
            text = f"{size(speed)}/s"
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
