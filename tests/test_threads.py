"""Blocking work in threads is waited for, whatever is cancelled meanwhile."""

from __future__ import annotations

import asyncio
import gc
import threading
from collections.abc import AsyncIterator, Callable

import anyio
import pytest

from aiofiles_api import FilesError
from aiofiles_api.threads import Pending, Threads, join, settle

pytestmark = pytest.mark.anyio


class Work:
    """Blocks until it is released, and tells where it is."""

    def __init__(self, outcome: Callable[[], object] = lambda: "done") -> None:
        self.started = asyncio.Event()
        self.released = threading.Event()
        self.finished = False
        self._outcome = outcome
        self._loop = asyncio.get_running_loop()

    def __call__(self) -> object:
        self._loop.call_soon_threadsafe(self.started.set)
        assert self.released.wait(10)
        self.finished = True
        return self._outcome()

    def release_soon(self) -> None:
        asyncio.get_running_loop().call_later(0.03, self.released.set)


class BrokenError(Exception):
    pass


def fail() -> object:
    raise BrokenError


@pytest.fixture
async def threads() -> AsyncIterator[Threads]:
    threads = Threads()
    yield threads
    threads.close()


@pytest.fixture
async def complaints() -> AsyncIterator[list[dict[str, object]]]:
    """What the loop would log."""
    loop = asyncio.get_running_loop()
    heard: list[dict[str, object]] = []
    loop.set_exception_handler(lambda _, context: heard.append(context))
    yield heard
    loop.set_exception_handler(None)


async def test_work_runs_in_a_thread_of_our_own_and_its_result_comes_back(threads: Threads) -> None:
    name = await threads.run(lambda: threading.current_thread().name)
    assert name.startswith("aiofiles_api")


async def test_what_work_raises_comes_back(threads: Threads) -> None:
    with pytest.raises(BrokenError):
        await threads.run(fail)


async def test_a_result_that_is_there_already_is_returned_at_once(threads: Threads) -> None:
    future = threads.start(lambda: 3)
    await settle(future)
    assert await join(future) == 3


async def test_what_nobody_waits_for_any_more_disturbs_nobody(threads: Threads) -> None:
    for outcome in (lambda: "done", fail):
        work = Work(outcome)
        threads.start(work)
        other = threads.start(lambda: "other")
        work.released.set()
        assert await join(other) == "other"


async def test_another_thread_joins_in_where_one_does_not_get_on(threads: Threads) -> None:
    slow = Work()
    waiting = threads.start(slow)
    assert await threads.run(lambda: "quick") == "quick"
    assert not waiting.done()
    slow.released.set()
    assert await join(waiting) == "done"


async def test_what_is_stuck_holds_nothing_up_once_that_is_known(
    threads: Threads, monkeypatch: pytest.MonkeyPatch
) -> None:
    stuck = [Work() for _ in range(3)]
    waiting = [threads.start(work) for work in stuck]
    for work in stuck:
        await work.started.wait()
    assert await threads.run(lambda: "quick") == "quick"
    monkeypatch.setattr("aiofiles_api.threads._PATIENCE", 60)
    async with asyncio.timeout(5):
        for number in range(5):
            assert await threads.run(lambda: number) == number  # noqa: B023 - it is awaited
    for work, pending in zip(stuck, waiting, strict=True):
        work.released.set()
        assert await join(pending) == "done"


async def test_what_was_stuck_and_gets_on_does_what_waits() -> None:
    threads = Threads(1)
    stuck, other = Work(), Work()
    first, second, third = threads.start(stuck), threads.start(other), threads.start(lambda: 3)
    while not threads._stuck:
        await asyncio.sleep(0.005)
    assert not threads._active
    stuck.released.set()
    assert await join(first) == "done"
    await other.started.wait()
    fourth = threads.start(lambda: 4)
    other.released.set()
    assert [await join(work) for work in (second, third, fourth)] == ["done", 3, 4]
    assert await threads.run(lambda: 5) == 5
    while threads._active:
        await asyncio.sleep(0.005)
    assert not threads._stuck
    threads.close()


async def test_more_is_stuck_than_there_are_threads_and_all_is_done() -> None:
    threads = Threads(2)
    stuck = [Work() for _ in range(2)]
    waiting: list[Pending[object]] = [threads.start(work) for work in stuck]
    for work in stuck:
        await work.started.wait()
    while len(threads._stuck) < 2:
        waiting.append(threads.start(lambda: "later"))
        await asyncio.sleep(0.005)
    waiting.append(threads.start(lambda: "last"))
    await asyncio.sleep(0.005)
    assert not waiting[-1].done()
    stuck[1].released.set()
    assert await join(waiting[-1]) == "last"
    stuck[0].released.set()
    for pending in waiting:
        await join(pending)
    threads.close()


async def test_a_thread_is_told_that_it_is_wanted_elsewhere(threads: Threads) -> None:
    first, second = threads.start(lambda: threads.is_wanted), threads.start(lambda: None)
    assert await join(first)
    await join(second)
    assert not await threads.run(lambda: threads.is_wanted)


async def test_a_cancelled_task_waits_for_its_thread(threads: Threads) -> None:
    work = Work()
    task = asyncio.create_task(threads.run(work))
    await work.started.wait()
    task.cancel()
    await asyncio.sleep(0.01)
    assert not task.done()
    work.release_soon()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert work.finished


async def test_repeated_cancellations_do_not_end_the_waiting(threads: Threads) -> None:
    work = Work()
    task = asyncio.create_task(threads.run(work))
    await work.started.wait()
    for _ in range(5):
        task.cancel()
        await asyncio.sleep(0.002)
        assert not task.done()
    work.release_soon()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert work.finished
    assert task.cancelling() == 5


async def test_a_cancel_scope_waits_for_the_thread_without_keeping_the_loop_busy(
    threads: Threads,
) -> None:
    work = Work()
    task = asyncio.current_task()
    assert task is not None
    cancellations = 0
    with anyio.CancelScope() as scope:
        asyncio.get_running_loop().call_later(0.01, scope.cancel)
        asyncio.get_running_loop().call_later(0.05, work.released.set)
        try:
            await threads.run(work)
        finally:
            cancellations = task.cancelling()
    assert scope.cancelled_caught
    assert work.finished
    assert cancellations < 5  # a scope without our shield repeats it at every turn of the loop


async def test_a_timeout_waits_for_the_thread_and_stays_a_timeout(threads: Threads) -> None:
    work = Work()
    work.release_soon()
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.01):
            await threads.run(work)
    assert work.finished


async def test_a_scope_that_is_cancelled_already_lets_no_work_be_abandoned(
    threads: Threads,
) -> None:
    work = Work()
    with anyio.CancelScope() as scope:
        scope.cancel()
        work.release_soon()
        await threads.run(work)
    assert scope.cancelled_caught
    assert work.finished


async def test_settling_under_cancellation_waits_and_then_raises_it(threads: Threads) -> None:
    work = Work()
    future = threads.start(work)
    task = asyncio.create_task(settle(future))
    await work.started.wait()
    for _ in range(2):
        task.cancel("no longer wanted")
        await asyncio.sleep(0)
    work.release_soon()
    with pytest.raises(asyncio.CancelledError, match="no longer wanted"):
        await task
    assert future.result() == "done"


async def test_settling_ignores_what_the_work_raised_and_nobody_complains(
    threads: Threads, complaints: list[dict[str, object]]
) -> None:
    await settle(threads.start(fail))
    gc.collect()
    await asyncio.sleep(0)
    assert complaints == []


async def test_nobody_complains_of_what_work_raises_after_its_caller_was_cancelled(
    threads: Threads, complaints: list[dict[str, object]]
) -> None:
    work = Work(fail)
    task = asyncio.create_task(threads.run(work))
    await work.started.wait()
    task.cancel()
    work.release_soon()
    with pytest.raises(asyncio.CancelledError):
        await task
    del task
    gc.collect()
    await asyncio.sleep(0)
    assert complaints == []


async def test_settling_a_cancelled_future_is_no_error() -> None:
    future = asyncio.get_running_loop().create_future()
    future.cancel()
    await settle(future)
    with pytest.raises(asyncio.CancelledError):
        await join(future)


async def test_threads_are_as_many_as_allowed_and_start_with_need() -> None:
    threads = Threads(2)
    assert len(threads._executor._threads) == 0
    works = [Work() for _ in range(4)]
    futures = [threads.start(work) for work in works]
    await works[0].started.wait()
    await works[1].started.wait()
    assert len(threads._executor._threads) == 2
    assert not works[2].started.is_set()
    for work in works:
        work.released.set()
    for future in futures:
        assert await join(future) == "done"
    threads.close()


async def test_what_is_done_is_told_though_the_next_piece_of_work_takes_long(
    threads: Threads,
) -> None:
    slow = Work()
    first, second = threads.start(lambda: "done"), threads.start(slow)
    async with asyncio.timeout(5):
        assert await join(first) == "done"
    assert not second.done()
    slow.released.set()
    assert await join(second) == "done"


async def test_close_ends_the_threads_as_soon_as_their_work_is_done() -> None:
    threads = Threads()
    work = Work()
    future = threads.start(work)
    await work.started.wait()
    (thread,) = threads._executor._threads
    threads.close()
    assert thread.is_alive()
    work.released.set()
    assert await join(future) == "done"
    await asyncio.to_thread(thread.join, 5)
    assert not thread.is_alive()


async def test_a_wait_may_be_cancelled_in_the_very_turn_in_which_it_ends() -> None:
    future: asyncio.Future[str] = asyncio.get_running_loop().create_future()
    waiting = asyncio.create_task(join(future))
    await asyncio.sleep(0)
    waiting.cancel()
    future.set_result("done")
    with pytest.raises(asyncio.CancelledError):
        await waiting


async def test_where_no_thread_can_be_started_the_work_fails_and_later_work_does_not(
    threads: Threads, monkeypatch: pytest.MonkeyPatch
) -> None:
    start = threading.Thread.start
    refusals = iter([True])

    def refuse(thread: threading.Thread) -> None:
        if next(refusals, False):
            raise RuntimeError("can't start new thread")
        start(thread)

    monkeypatch.setattr(threading.Thread, "start", refuse)
    async with asyncio.timeout(5):
        first = asyncio.gather(*(threads.run(fail) for _ in range(3)), return_exceptions=True)
        for error in await first:
            assert isinstance(error, FilesError)
            assert error.retryable
            assert "(can't start new thread); raise the limit" in str(error)
            assert isinstance(error.__cause__, RuntimeError)
        for number in range(3):
            assert await threads.run(lambda: number) == number  # noqa: B023 - it is awaited


async def test_where_no_other_thread_can_be_started_the_one_at_work_does_all(
    threads: Threads, monkeypatch: pytest.MonkeyPatch
) -> None:
    work = Work()
    running = asyncio.ensure_future(threads.run(work))
    await work.started.wait()

    def refuse(_: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(threading.Thread, "start", refuse)
    waiting = asyncio.ensure_future(threads.run(lambda: 1))
    work.release_soon()
    async with asyncio.timeout(5):
        assert await running == "done"
        assert await waiting == 1
