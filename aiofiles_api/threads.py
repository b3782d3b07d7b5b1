"""Blocking work in threads of the client's own, never abandoned.

A file's descriptor must not be closed while a thread still works on it: its number may already
belong to another file. So whoever is cancelled here first waits for the thread, and only then
goes on. A pool of our own, because anyio's default one is shared with every other library of the
process: a handler of Starlette's must not wait for our disk, nor we for its.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from functools import partial
from typing import Generic, Protocol, TypeVar, cast

import anyio

from aiofiles_api.errors import FilesError

__all__ = ["Pending", "Threads", "Work", "join", "settle", "until_done"]

T = TypeVar("T")
T_co = TypeVar("T_co", covariant=True)

_REPORT = 0.002
"""Seconds for which what is done waits for more of it, while there is more to do."""

_PATIENCE = 0.01
"""Seconds for which nothing may be finished before another thread joins in. Not shorter than what
a thread may have to wait until the interpreter lets it run (`sys.getswitchinterval()`)."""


class Pending(Protocol[T_co]):
    """What can be joined and settled: a piece of work, a future or a task."""

    def done(self) -> bool:
        """Return whether it has come to its end."""
        ...

    def cancelled(self) -> bool:
        """Return whether that end was a cancellation."""
        ...

    def result(self) -> T_co:
        """Return what came of it, or raise that."""
        ...

    def exception(self) -> BaseException | None:
        """Return what it raised."""
        ...

    def add_done_callback(self, callback: Callable[[object], object], /) -> object:
        """Have `callback` called at the end."""
        ...

    def remove_done_callback(self, callback: Callable[[object], object], /) -> object:
        """Have it not called after all."""
        ...


class Carried(Protocol):
    """Makes of a function another one that returns the same."""

    def __call__(self, function: Callable[[], T], /) -> Callable[[], T]:
        """Return it."""
        ...


class Work(Generic[T]):
    """A piece of blocking work, and what comes of it: much of a future, but nobody cancels it.

    Its callbacks are called at once when the loop hears of the end, not a turn later.
    """

    __slots__ = ("_callbacks", "_error", "_is_done", "_result", "_work")

    def __init__(self, work: Callable[[], T]) -> None:
        self._work = work
        self._callbacks: list[Callable[[object], object]] = []
        self._is_done = False
        self._result: T | None = None
        self._error: BaseException | None = None

    def run(self) -> None:
        """Do it; to be called in a thread."""
        try:
            self._result = self._work()
        except BaseException as error:  # noqa: BLE001 - it goes to whoever waits
            self._error = error

    def fail(self, error: BaseException) -> None:
        """Take an error for what came of it, instead of doing it."""
        self._error = error

    def finish(self) -> None:
        """Tell whoever waits that it is done; to be called on the loop."""
        self._is_done = True
        for callback in self._callbacks:
            callback(self)

    def done(self) -> bool:
        """Return whether the loop has heard of the end."""
        return self._is_done

    def cancelled(self) -> bool:
        """Return `False`."""
        return False

    def result(self) -> T:
        """Return what the work returned, or raise what it raised; only when it is done."""
        if self._error is not None:
            raise self._error
        return cast("T", self._result)

    def exception(self) -> BaseException | None:
        """Return what the work raised; only when it is done."""
        return self._error

    def add_done_callback(self, callback: Callable[[object], object], /) -> None:
        """Have `callback` called at the end, which has not come yet."""
        self._callbacks.append(callback)

    def remove_done_callback(self, callback: Callable[[object], object], /) -> None:
        """Forget `callback`."""
        self._callbacks.remove(callback)


class Threads:
    """A bounded pool of threads that starts empty and grows with need.

    One thread works through all that waits, and another one joins in only when it does not get on.
    A thread for each piece of work would have them wait for the interpreter and wake each other:
    for small files that took several times as long as the work itself. For the same reason the
    thread sets out only behind what the loop has to do at once, and reports many at a time, so
    that it and the loop run by turns rather than in each other's way. A thread that did not get on
    is stuck until it does, and nothing waits for it any more.

    Args:
        limit: The most threads at one time.
        carried: Makes of a function one that brings along what the task knows that has it called.
    """

    def __init__(self, limit: int = 32, *, carried: Carried | None = None) -> None:
        self._limit = limit
        self._carried = carried
        self._executor = ThreadPoolExecutor(limit, thread_name_prefix="aiofiles_api")
        self._waiting: deque[Work[object]] = deque()
        self._done: deque[Callable[[], None]] = deque()
        # Threads that were sent to work, those apart that are stuck; changed on the loop alone.
        self._active: set[object] = set()
        self._stuck: set[object] = set()
        self._got_on_at = 0.0
        self._will_begin = False
        self._will_report = False
        self._timer: asyncio.TimerHandle | None = None

    def start(self, function: Callable[[], T]) -> Work[T]:
        """Have a function called; who has it done owes the work a `join` or a `settle`."""
        loop = asyncio.get_running_loop()
        work = Work(function if self._carried is None else self._carried(function))
        self._waiting.append(cast("Work[object]", work))
        if not self._active:
            if not self._will_begin:
                self._will_begin = True
                loop.call_soon(self._begin, loop)
        else:
            self._look_later(loop)
        return work

    async def run(self, function: Callable[[], T]) -> T:
        """Call a function in a thread and return what it returns."""
        return await join(self.start(function))

    def withdraw(self, work: Work[T]) -> bool:
        """Have work not done that no thread has begun; return whether that is so."""
        with suppress(ValueError):
            self._waiting.remove(cast("Work[object]", work))
            return True
        return False

    @property
    def is_wanted(self) -> bool:
        """Whether work waits for a thread, so that one that itself waits should rather not."""
        return bool(self._waiting)

    def close(self) -> None:
        """End the threads; each of them ends as soon as its work is done."""
        if self._timer is not None:
            self._timer.cancel()
        self._executor.shutdown(wait=False)

    def _begin(self, loop: asyncio.AbstractEventLoop) -> None:
        self._will_begin = False
        if not self._active:
            if len(self._waiting) > 1 or self._stuck:
                self._look_later(loop)
            self._send_another(loop)

    def _send_another(self, loop: asyncio.AbstractEventLoop) -> None:
        if len(self._active) + len(self._stuck) == self._limit:
            return
        thread = object()
        try:
            self._executor.submit(self._work, loop, thread)
        except RuntimeError as error:  # the system gives no more threads, or this is closed
            if not self._active and not self._stuck:
                self._give_up(error)
        else:
            self._active.add(thread)

    def _give_up(self, error: RuntimeError) -> None:
        """Let all work fail that waits: nobody will do it."""
        while self._waiting:
            work = self._waiting.popleft()
            ours = FilesError(
                f"no thread can be started for files ({error}); raise the limit on threads"
                " (ulimit -u, or the container's), or have fewer transfers at a time",
                retryable=True,
            )
            ours.__cause__ = error
            work.fail(ours)
            work.finish()

    def _look_later(self, loop: asyncio.AbstractEventLoop) -> None:
        if self._timer is None:
            self._timer = loop.call_later(_PATIENCE, self._look, loop)

    def _look(self, loop: asyncio.AbstractEventLoop) -> None:
        """Send another thread if those at work do not get on, and take what they have done."""
        self._timer = None
        if self._waiting:
            if time.monotonic() - self._got_on_at >= _PATIENCE:
                self._stuck |= self._active
                self._active.clear()
                self._send_another(loop)
            self._look_later(loop)
        self._report()

    # --- in threads ----------------------------------------------------------------------------

    def _work(self, loop: asyncio.AbstractEventLoop, thread: object) -> None:
        """Do what waits until nothing does."""
        reported_at = time.monotonic()
        while self._waiting:
            try:
                work = self._waiting.popleft()
            except IndexError:  # pragma: no cover - another thread was faster
                break
            work.run()
            self._done.append(work.finish)
            if thread in self._stuck:
                self._done.append(partial(self._got_on, thread))
            self._got_on_at = now = time.monotonic()
            if self._waiting and now - reported_at >= _REPORT:
                reported_at = now
                self._report_soon(loop)
        self._done.append(partial(self._left, thread))
        self._report_soon(loop)

    def _report_soon(self, loop: asyncio.AbstractEventLoop) -> None:
        if not self._will_report:
            self._will_report = True
            with suppress(RuntimeError):  # the loop was closed meanwhile: nobody waits any more
                loop.call_soon_threadsafe(self._report)

    # --- on the loop again -----------------------------------------------------------------------

    def _report(self) -> None:
        # Set first: what a thread adds from now on, it will have reported again.
        self._will_report = False
        while self._done:
            self._done.popleft()()

    def _got_on(self, thread: object) -> None:
        """Take note that a thread is stuck no more."""
        self._stuck.discard(thread)
        self._active.add(thread)

    def _left(self, thread: object) -> None:
        """Take note that a thread has left, and send another if work came meanwhile."""
        # What could not be sent for want of a thread is done by a later one, and is in neither.
        self._active.discard(thread)
        self._stuck.discard(thread)
        if self._waiting and not self._active:
            self._send_another(asyncio.get_running_loop())


def is_being_cancelled() -> bool:
    """Return whether a `CancelledError` that is caught here is meant for this task.

    If not, something that code of the caller's waited for was cancelled: that is an error like any
    other, for which a task group must not take this task for a cancelled one.
    """
    task = asyncio.current_task()
    return task is None or task.cancelling() > 0


async def join(pending: Pending[T]) -> T:
    """Wait for a thread's result; on cancellation, first wait for the thread."""
    try:
        await until_done(pending)
    except asyncio.CancelledError:
        await settle(pending)
        raise
    return pending.result()


async def settle(pending: Pending[object]) -> None:
    """Wait until a thread is done and ignore its outcome; a cancellation is raised afterwards."""
    cancelled: asyncio.CancelledError | None = None
    while not pending.done():
        try:
            if cancelled is None:
                await until_done(pending)
            else:
                # Once more: anyio repeats a scope's cancellation at every turn of the loop. Not
                # before, because anyio's first scope loads modules, for which the loop is held.
                with anyio.CancelScope(shield=True):
                    await until_done(pending)
        except asyncio.CancelledError as error:
            cancelled = error
    if not pending.cancelled():
        pending.exception()  # seen: the loop need not complain that nobody looked
    if cancelled is not None:
        raise cancelled


async def until_done(pending: Pending[object]) -> None:
    """Wait for the end; a cancellation ends the waiting at once, and nothing else."""
    # Not asyncio.shield: from Python 3.14 on it logs what a future that it shielded raises. Nor
    # asyncio.wait, which does the same as this at several times the cost.
    if not pending.done():
        waiter: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        wake = partial(_wake, waiter)
        pending.add_done_callback(wake)
        try:
            await waiter
        finally:
            pending.remove_done_callback(wake)


def _wake(waiter: asyncio.Future[None], _: object) -> None:
    if not waiter.done():
        waiter.set_result(None)
