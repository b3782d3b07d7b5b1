"""What is under way, so that `aclose()` can interrupt it from any task, and await its end."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextvars import Context, ContextVar
from functools import partial
from types import TracebackType
from typing import TypeVar

from aiofiles_api.errors import APITimeoutError, ClientClosedError

__all__ = ["BoundedOperation", "Operation", "Operations", "carried", "closed_error"]

T = TypeVar("T")

_operating: ContextVar[tuple[Operation, ...]] = ContextVar("operating", default=())
"""The operations for which a task works, of one client within another's. They may be another task's
than this one, which writes a body, or was begun by an upload's own source."""


class Operations:
    """Those of one client.

    Attributes:
        active: What is under way, by the task that does it.
        left: Set when one has ended.
    """

    def __init__(self) -> None:
        self.active: dict[asyncio.Task[object], Operation] = {}
        self.left = asyncio.Event()

    def is_within_one(self) -> bool:
        """Return whether this task works for one that is under way."""
        return any(one.is_under_way(self) for one in _operating.get())

    def is_within_another(self) -> bool:
        """Return whether this task works for more than one, as the source of an upload may."""
        operating = _operating.get()
        return len(operating) > 1 and sum(one.is_under_way(self) for one in operating) > 1

    async def interrupt(self) -> None:
        """Interrupt whatever is under way, and wait for it."""
        for task, operation in self.active.items():
            operation.interrupt(task)
        while self.active:
            self.left.clear()
            await self.left.wait()


class Operation:
    """What a task does for the client, as a context that `aclose()` can interrupt.

    It counts cancellations as `asyncio.timeout` does, so that somebody else's is not swallowed.
    Inside another one of the same task it does nothing. Not a generator: it is entered for each
    chunk of a stream.
    """

    __slots__ = ("_cancellations_before", "_interrupted", "_operations", "_task", "_token")

    def __init__(self, operations: Operations) -> None:
        self._task: asyncio.Task[object] | None = None
        self._operations = operations
        self._interrupted = False

    def __enter__(self) -> None:
        task = asyncio.current_task()
        active = self._operations.active
        if task is not None and task not in active:
            self._task = task
            self._cancellations_before = task.cancelling()
            active[task] = self
            self._token = _operating.set((*_operating.get(), self))

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        task = self._task
        if task is None:
            return
        del self._operations.active[task]
        # Connections keep the context in which they were opened, and with it this for long.
        self._task = None
        self._operations.left.set()
        _operating.reset(self._token)
        if self._interrupted:
            is_ours = task.uncancel() <= self._cancellations_before
            if is_ours and isinstance(error, asyncio.CancelledError):
                raise closed_error() from None

    async def __aenter__(self) -> None:
        self.__enter__()

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.__exit__(kind, error, traceback)

    def is_under_way(self, operations: Operations) -> bool:
        """Return whether it is entered, and one of those."""
        return self._operations is operations and self._task is not None

    def interrupt(self, task: asyncio.Task[object]) -> None:
        """Cancel the task that it is entered by, and remember that it was us."""
        self._interrupted = True
        task.cancel()


class BoundedOperation(Operation):
    """An operation that has a deadline."""

    __slots__ = ("_bound", "_what")

    def __init__(self, operations: Operations, deadline: float, what: str) -> None:
        super().__init__(operations)
        self._bound = asyncio.timeout_at(deadline)
        self._what = what

    async def __aenter__(self) -> None:
        self.__enter__()
        await self._bound.__aenter__()

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        try:
            await self._leave_bound(kind, error, traceback)
        except BaseException as other:
            self.__exit__(type(other), other, other.__traceback__)
            raise
        self.__exit__(kind, error, traceback)

    async def _leave_bound(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        try:
            await self._bound.__aexit__(kind, error, traceback)
        except TimeoutError as timeout:
            msg = f"{self._what}: not done within RetryPolicy.deadline; allow more time"
            raise APITimeoutError(msg) from timeout


def carried(function: Callable[[], T]) -> Callable[[], T]:
    """Return a function for a thread, which works there for the same operations as this task.

    What a source asks the client for by `asyncio.run_coroutine_threadsafe` is within its upload.
    """
    context = Context()
    context.run(_operating.set, _operating.get())
    return partial(context.run, function)


def closed_error() -> ClientClosedError:
    """Return what is raised by a client that is closed."""
    return ClientClosedError(
        "the client is closed; use it inside its `async with`, or make another"
    )
