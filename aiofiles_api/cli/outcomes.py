"""Tell what becomes of many files: each to a script, their number and the failures to people."""

from __future__ import annotations

import shlex
from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing
from typing import Generic, TypeVar

import attrs

from aiofiles_api import FilesError, Outcome, Progress
from aiofiles_api.cli.screen import NAME, Screen, Watch
from aiofiles_api.cli.text import Result, complaint, failure_line, files_of, printable

__all__ = ["JOURNAL_ADVICE", "Operation", "Telling"]

Item = TypeVar("Item")
Done = TypeVar("Done")

_MOST_SHOWN = 20
"""Failures that are named in the end, and files that a terminal gets a line for each of."""


JOURNAL_ADVICE = "with --journal FILE, running it again would do only what is missing"


@attrs.frozen
class Operation(Generic[Item, Done]):
    """What one command does to its files, and how it calls them.

    Attributes:
        done: What is done to them, as in "uploaded".
        kind: What their names are: "path" or "id".
        name: What the user calls an item.
        title: What an item is called beside its bar.
        size: The bytes of an item, if known.
        result: What to print for one that is done.
        advice: What to do about files that have failed.
    """

    done: str
    kind: str
    name: Callable[[Item], str]
    title: Callable[[Item], str]
    size: Callable[[Item], int | None]
    result: Callable[[Outcome[Item, Done], Done], Result]
    advice: str


class Telling(Generic[Item, Done]):
    """Counts what was done, and tells it.

    Args:
        screen: Where to tell.
        operation: What is done.
        count: To how many files.
        journal: The journal's path, if there is one.
    """

    def __init__(
        self,
        screen: Screen,
        operation: Operation[Item, Done],
        *,
        count: int,
        journal: str | None = None,
    ) -> None:
        self._screen = screen
        self._operation = operation
        self._count = count
        self._journal = journal
        self._succeeded = 0
        self._failed = 0
        self._complaints: list[str] = []

    @property
    def status(self) -> int:
        """The exit status that its failures make."""
        return 1 if self._failed else 0

    def moved(self, watch: Watch) -> Callable[[Item, Progress], None]:
        """Return a sink that shows how far each item is."""
        title = self._operation.title

        def show(item: Item, progress: Progress) -> None:
            watch.move(id(item), title(item), progress)

        return show

    async def tell(self, outcomes: AsyncGenerator[Outcome[Item, Done], None], watch: Watch) -> None:
        """Tell each outcome as it comes."""
        with self._screen.told_if_interrupted(self._summary):
            async with aclosing(outcomes):
                async for outcome in outcomes:
                    await self._tell_one(outcome, watch)

    async def tell_existing(self, item: Item, done: Done, *, watch: Watch) -> None:
        """Tell of an item that needed nothing to be done."""
        await self._tell_one(Outcome(item, done, None, 0), watch)

    async def tell_failure(self, name: str, error: FilesError, *, attempts: int) -> None:
        """Tell of a file that came to nothing."""
        self._failed += 1
        if len(self._complaints) < _MOST_SHOWN:
            self._complaints.append(complaint(name, error))
        await self._screen.failure(failure_line(self._operation.kind, name, error, attempts))

    def end(self) -> None:
        """Name the failures, and say what to do about them."""
        for line in self._complaints:
            self._screen.complain(line)
        more = self._failed - len(self._complaints)
        if more:
            self._screen.complain(f"and {more:,} more")
        if self._failed and self._count > 1:
            untried = self._count - self._succeeded - self._failed
            rest = f", {untried:,} were not tried" if untried else ""
            self._screen.complain(
                f"{self._failed:,} of {self._count:,} files failed{rest}; {self._advice}"
            )

    async def _tell_one(self, outcome: Outcome[Item, Done], watch: Watch) -> None:
        item, operation = outcome.item, self._operation
        watch.end(
            id(item),
            operation.size(item),
            has_failed=outcome.error is not None,
            was_done=outcome.attempts == 0,
        )
        if outcome.error is not None:
            await self.tell_failure(operation.name(item), outcome.error, attempts=outcome.attempts)
            return
        self._succeeded += 1
        if outcome.result is not None:
            result = operation.result(outcome, outcome.result)
            await self._screen.result(result, is_one_of_many=self._count > _MOST_SHOWN)

    def _summary(self) -> str:
        done = f"{self._succeeded:,} of {files_of(self._count)} {self._operation.done}"
        return f"{done}; run it again to go on" if self._journal else done

    @property
    def _advice(self) -> str:
        if self._journal is None:
            return self._operation.advice
        return (
            "run it again to try them again;"
            f" {NAME} journal {printable(shlex.quote(self._journal))} --state failed names them all"
        )
