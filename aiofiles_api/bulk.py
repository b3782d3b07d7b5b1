"""One engine for many items: pulled lazily, worked on by a fixed crew, handed out as they finish.

    items ─ pull ─ prepare ─ work (a crew) ─ record ─ outcomes

Each stage is a task of one group, which one `asyncio.Task` owns: no cancel scope is open while the
caller's code runs, because a `break` finalizes a generator in another task. An item takes a place
when it is pulled and gives it back when its outcome is handed out, so the queues between the stages
need no bound of their own, and a slow consumer holds everybody back.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import (
    AsyncGenerator,
    AsyncIterable,
    Collection,
    Generator,
    Iterable,
    Iterator,
    Sequence,
    ValuesView,
)
from collections.abc import Set as AbstractSet
from contextlib import suppress
from functools import cache, partial
from typing import Generic, Protocol, TypeGuard, TypeVar, cast

import anyio
import attrs

from aiofiles_api.errors import FilesError, InvalidArgumentError, JournalError
from aiofiles_api.session import SessionManager
from aiofiles_api.threads import is_being_cancelled, join, settle, until_done

__all__ = ["Items", "Job", "Outcome", "Trade", "checked_items", "first_error", "run"]

Item = TypeVar("Item")
Item_contra = TypeVar("Item_contra", contravariant=True)
Result = TypeVar("Result")
T = TypeVar("T")

Items = Iterable[Item] | AsyncIterable[Item]

_HOP = 0.01
"""Seconds after which a thread that advances an iterable comes back with the next item."""

_SIGN_OF_LIFE = 2.0
"""Seconds after which a record says that this process is alive, though nothing has finished."""

_GATHER = 0.02
"""Seconds between two commits of a stage: what comes meanwhile shares the next one."""

_PATIENCE = 0.02
"""Seconds for which an item that is there waits at most for others of the same hop."""


_LONGEST_PATIENCE = 0.25
"""The same, where the next item does not come for long."""


@attrs.frozen
class Outcome(Generic[Item, Result]):
    """What became of one item of a bulk operation.

    Attributes:
        item: Exactly what the caller handed in.
        result: What the operation returned, or `None` where it failed.
        error: Why it failed, or `None`.
        attempts: Requests that it took. 0 where none was made: a journal says that it was finished
            before, or it was refused before anything was sent.
    """

    item: Item
    result: Result | None
    error: FilesError | None
    attempts: int


@attrs.define(eq=False)
class Job(Generic[Item, Result]):
    """One item on its way through the stages.

    Attributes:
        item: What the caller handed in.
        number: Its place among the items, from 0.
        attempts: Requests made for it so far.
        outcome: What became of it, as soon as that is known.
    """

    item: Item
    number: int
    attempts: int = 0
    outcome: Outcome[Item, Result] | None = None

    @property
    def known_outcome(self) -> Outcome[Item, Result]:
        """The outcome, of a job that has one by now."""
        return cast("Outcome[Item, Result]", self.outcome)

    def succeed(self, result: Result) -> None:
        """Say that it is done."""
        self.outcome = Outcome(self.item, result, None, self.attempts)

    def fail(self, error: FilesError) -> None:
        """Say that it is not to be done."""
        self.outcome = Outcome(self.item, None, error, self.attempts)


J = TypeVar("J", bound=Job)  # type: ignore[type-arg]


class Trade(Protocol[Item_contra, J]):
    """What is done with the items.

    Attributes:
        ahead: Items that may be pulled beyond those that are worked on.
        is_recorded: Whether jobs are prepared and recorded; else these two stages are left out.
    """

    ahead: int
    is_recorded: bool

    async def open(self) -> None:
        """Get ready, before the first item is pulled."""
        ...

    def make(self, item: Item_contra, number: int) -> J:
        """Make a job of an item."""
        ...

    async def prepare(self, jobs: Sequence[J]) -> Sequence[J]:
        """Look at jobs together before they are worked on, and return those that are not put off.

        One that has an outcome afterwards is not worked on.
        """
        ...

    async def work(self, job: J) -> None:
        """Give a job its outcome."""
        ...

    async def record(self, jobs: Sequence[J]) -> Sequence[J]:
        """Write down what became of jobs, and return those whose outcomes may be handed out.

        Without any, write down that this process is alive.
        """
        ...

    async def release(self, jobs: Sequence[J]) -> None:
        """Take note that these jobs will not be worked on."""
        ...


def checked_items(items: object, name: str) -> None:
    """Refuse what cannot be gone through item by item.

    Raises:
        InvalidArgumentError: It is no iterable, or is one item rather than many.
    """
    is_one = isinstance(items, str | bytes | bytearray | memoryview)
    if is_one or not isinstance(items, Iterable | AsyncIterable):
        msg = f"{name}: pass an iterable of items, such as a list, not a {type(items).__name__}"
        raise InvalidArgumentError(msg)


async def run(
    session: SessionManager,
    items: Items[Item],
    trade: Trade[Item, J],
    *,
    concurrency: int,
    fail_fast: bool,
) -> AsyncGenerator[J, None]:
    """Yield each job when it has its outcome.

    Args:
        session: Whose threads advance an iterable that may block, and whose closing ends all.
        items: The items, of any number.
        trade: What is done with them.
        concurrency: Jobs that are worked on at a time.
        fail_fast: Whether to end behind the first failure.
    """
    engine = _Engine(session, items, trade, concurrency)
    running = asyncio.create_task(engine.run())
    try:
        while (job := await engine.take()) is not None:
            is_last = fail_fast and job.known_outcome.error is not None
            yield job
            if is_last:
                return
        await running  # which raises what ended it
    finally:
        running.cancel()
        await settle(running)


class _Engine(Generic[Item, J]):
    """The stages of one run, and the queues between them; `None` in a queue is its end."""

    def __init__(
        self,
        session: SessionManager,
        items: Items[Item],
        trade: Trade[Item, J],
        concurrency: int,
    ) -> None:
        self._session = session
        self._items = items
        self._trade = trade
        self._concurrency = concurrency
        self._places = asyncio.Semaphore(concurrency + trade.ahead)
        self._count = 0
        self._preparing: Sequence[J] = ()
        self._ready: asyncio.Queue[J | None] = asyncio.Queue()
        self._handed_out: asyncio.Queue[J | None] = asyncio.Queue()
        self._pulled = asyncio.Queue() if trade.is_recorded else self._ready
        self._finished = asyncio.Queue() if trade.is_recorded else self._handed_out

    async def take(self) -> J | None:
        """Return the next job that has its outcome, `None` behind the last one."""
        job = await self._handed_out.get()
        if job is not None:
            self._places.release()
        return job

    async def run(self) -> None:
        """Run all stages to their end."""
        try:
            with self._session.registered():
                await self._session.threads.run(_load_anyio)
                await self._trade.open()
            try:
                await self._run_stages()
            finally:
                with anyio.CancelScope(shield=True):
                    await self._close()
        except BaseExceptionGroup as group:
            error = first_error(group)
            raise error from error.__cause__
        finally:
            self._handed_out.put_nowait(None)

    async def _run_stages(self) -> None:
        async with anyio.create_task_group() as group:
            group.start_soon(self._pull)
            if self._trade.is_recorded:
                group.start_soon(self._prepare)
                group.start_soon(self._record)
            async with anyio.create_task_group() as crew:
                for _ in range(self._concurrency):
                    crew.start_soon(self._work)
            if self._trade.is_recorded:
                self._finished.put_nowait(None)

    async def _close(self) -> None:
        """Write down what is done, though nobody may want to hear of it any more."""
        if self._trade.is_recorded:
            with suppress(JournalError):
                if finished := _drain(self._finished):
                    for job in await self._trade.record(finished):
                        self._handed_out.put_nowait(job)
            with suppress(JournalError):
                waiting = _drain(self._pulled) + _drain(self._ready)
                await self._trade.release([*self._preparing, *waiting])

    # --- the stages ----------------------------------------------------------------------------

    async def _pull(self) -> None:
        with self._session.registered():
            try:
                await self._pull_all()
            except asyncio.CancelledError as error:
                if is_being_cancelled():
                    raise
                msg = "what gives the items raised CancelledError, although nobody cancelled"
                raise FilesError(msg) from error
        self._pulled.put_nowait(None)

    async def _pull_all(self) -> None:
        if isinstance(self._items, AsyncIterable):
            await self._pull_asynchronously(self._items)
        elif _is_in_memory(self._items):
            for item in self._items:
                await self._places.acquire()
                self._put(item)
        else:
            await self._pull_in_threads(self._items)

    async def _pull_asynchronously(self, items: AsyncIterable[Item]) -> None:
        # In this one task from the first item to the end: it may have cancel scopes of its own.
        iterator = aiter(items)
        try:
            while True:
                await self._places.acquire()
                self._put(await anext(iterator))
        except StopAsyncIteration:
            pass
        finally:
            if isinstance(iterator, AsyncGenerator):
                await iterator.aclose()

    async def _pull_in_threads(self, items: Iterable[Item]) -> None:
        threads = self._session.threads
        puller = _Puller(items)
        try:
            is_over = False
            while not is_over:
                room = await self._take_all_places()
                hop = threads.start(partial(puller.advance, room))
                patience = _PATIENCE
                try:
                    while not hop.done():
                        with suppress(TimeoutError):
                            async with asyncio.timeout(patience):
                                await until_done(hop)
                        room -= self._put_all(puller.taken)
                        patience = min(patience * 2, _LONGEST_PATIENCE)
                    is_over = await join(hop)
                finally:
                    await settle(hop)
                room -= self._put_all(puller.taken)
                for _ in range(room):
                    self._places.release()
        finally:
            await threads.run(puller.close)

    async def _take_all_places(self) -> int:
        await self._places.acquire()
        count = 1
        while not self._places.locked():
            await self._places.acquire()
            count += 1
        return count

    def _put_all(self, items: deque[Item]) -> int:
        count = 0
        while items:
            self._put(items.popleft())
            count += 1
        return count

    def _put(self, item: Item) -> None:
        self._pulled.put_nowait(self._trade.make(item, self._count))
        self._count += 1

    async def _prepare(self) -> None:
        with self._session.registered():
            is_over = False
            while not is_over:
                self._preparing, is_over = await _take_all(self._pulled)
                for job in await self._trade.prepare(self._preparing):
                    (self._ready if job.outcome is None else self._handed_out).put_nowait(job)
                self._preparing = ()
                if not is_over:
                    await asyncio.sleep(_GATHER)
        self._ready.put_nowait(None)

    async def _work(self) -> None:
        while (job := await self._ready.get()) is not None:
            await self._trade.work(job)
            self._finished.put_nowait(job)
        self._ready.put_nowait(None)  # for the next one of the crew

    async def _record(self) -> None:
        is_over = False
        while not is_over:
            jobs: list[J] = []
            # When nothing happens for long, none are recorded, which says that we are alive.
            with suppress(TimeoutError):
                async with asyncio.timeout(_SIGN_OF_LIFE):
                    jobs, is_over = await _take_all(self._finished)
            with anyio.CancelScope(shield=True):
                for job in await self._trade.record(jobs):
                    self._handed_out.put_nowait(job)
            if not is_over:
                await asyncio.sleep(_GATHER)


@cache
def _load_anyio() -> None:
    """Have anyio load what its first task group needs, for which the loop would be held."""
    anyio.run(anyio.sleep, 0)


class _Puller(Generic[Item]):
    """Advances an iterable that may block, in threads."""

    def __init__(self, items: Iterable[Item]) -> None:
        self.taken: deque[Item] = deque()
        self._items = items
        self._iterator: Iterator[Item] | None = None

    def advance(self, most: int) -> bool:
        """Take up to `most` items; return whether there are no more."""
        if self._iterator is None:
            self._iterator = iter(self._items)
        began = time.monotonic()
        for _ in range(most):
            try:
                self.taken.append(next(self._iterator))
            except StopIteration:
                return True
            if time.monotonic() - began >= _HOP:
                break
        return False

    def close(self) -> None:
        if isinstance(self._iterator, Generator):
            self._iterator.close()


def _is_in_memory(items: Iterable[Item]) -> TypeGuard[Collection[Item]]:
    """Return whether going through the items cannot block."""
    return isinstance(items, Sequence | AbstractSet | ValuesView)


async def _take_all(queue: asyncio.Queue[T | None]) -> tuple[list[T], bool]:
    """Return what is in a queue, waiting for the first, and whether that was the end."""
    job = await queue.get()
    return ([], True) if job is None else _with_what_is_there(queue, job)


def _with_what_is_there(queue: asyncio.Queue[T | None], first: T) -> tuple[list[T], bool]:
    jobs = [first]
    while not queue.empty():
        job = queue.get_nowait()
        if job is None:
            return jobs, True
        jobs.append(job)
    return jobs, False


def _drain(queue: asyncio.Queue[T | None]) -> list[T]:
    jobs = []
    while not queue.empty():
        job = queue.get_nowait()
        if job is not None:
            jobs.append(job)
    return jobs


def first_error(group: BaseExceptionGroup[BaseException]) -> BaseException:
    """Return the first of the errors that a task group raises."""
    error: BaseException = group
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return error
