"""Do the same to many files, some at a time: one failure is told, and does not stop the rest."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable, Sequence
from typing import Generic, TypeVar

import attrs

from aiofiles_api import FileObject, FilesClient, FilesError, NotFoundError
from aiofiles_api.cli.screen import Screen
from aiofiles_api.cli.text import Result

__all__ = ["Batch", "Item"]

T = TypeVar("T")


@attrs.frozen
class Item(Generic[T]):
    """One thing to do.

    Attributes:
        name: What the user calls it: a path or an id.
        value: What it is done to.
    """

    name: str
    value: T


class Batch:
    """Counts what was done, and tells it.

    Args:
        screen: Where to tell.
        done: What is done to the files, as in "uploaded".
        concurrency: How many at a time.
    """

    def __init__(self, screen: Screen, done: str, *, concurrency: int) -> None:
        self._screen = screen
        self._done = done
        self._concurrency = concurrency
        self._count = 0
        self._succeeded = 0
        self._failed = 0

    @property
    def status(self) -> int:
        """The exit status that its failures make."""
        return 1 if self._failed else 0

    async def run(
        self, items: Sequence[Item[T]], work: Callable[[T], Awaitable[Result | None]]
    ) -> None:
        """Do the work for each item, and print its result."""
        self._count = len(items)
        # All workers draw from the one iterator: who is done takes the next.
        pending = iter(items)
        with self._screen.told_if_interrupted(self._summary):
            async with asyncio.TaskGroup() as group:
                for _ in range(min(self._concurrency, len(items))):
                    group.create_task(self._work_through(pending, work))

    async def retrieve(
        self, files: FilesClient, ids: Iterable[str], *, missing_ok: bool = False
    ) -> list[FileObject]:
        """Ask what the server knows of each file, once for each id; failures are left out."""
        asked = list(dict.fromkeys(ids))
        found: dict[str, FileObject] = {}

        async def retrieve(identifier: str) -> None:
            try:
                found[identifier] = await files.retrieve(identifier)
            except NotFoundError:
                if not missing_ok:
                    raise

        with self._screen.waiting("asking for the files"):
            await self.run([Item(identifier, identifier) for identifier in asked], retrieve)
        return [found[identifier] for identifier in asked if identifier in found]

    async def _work_through(
        self, items: Iterable[Item[T]], work: Callable[[T], Awaitable[Result | None]]
    ) -> None:
        for item in items:
            try:
                result = await work(item.value)
            except FilesError as error:
                self._failed += 1
                self._screen.complain(_named(item.name, error))
                continue
            self._succeeded += 1
            if result is not None:
                await self._screen.result(result)

    def _summary(self) -> str:
        return f"{self._succeeded} of {self._count} files {self._done}"


def _named(name: str, error: FilesError) -> str:
    message = str(error)
    return message if name in message else f"{name}: {message}"
