"""Work in threads is waited for to its end, whatever becomes of the waiter."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator

import pytest

from aiofiles_api.emulator.threads import Gatherer, Threads

pytestmark = pytest.mark.anyio


@pytest.fixture
async def threads() -> AsyncIterator[Threads]:
    threads = Threads(2)
    yield threads
    await threads.aclose()


class Work:
    """Blocks a thread until it is told to go on."""

    def __init__(self, error: Exception | None = None) -> None:
        self.has_begun = threading.Event()
        self.may_end = threading.Event()
        self.has_ended = False
        self._error = error

    def __call__(self) -> str:
        self.has_begun.set()
        assert self.may_end.wait(10)
        self.has_ended = True
        if self._error is not None:
            raise self._error
        return "done"


async def until(event: threading.Event) -> None:
    while not event.is_set():
        await asyncio.sleep(0.001)


async def some_turns() -> None:
    for _ in range(10):
        await asyncio.sleep(0)


async def test_what_the_function_returns_or_raises_comes_back(threads: Threads) -> None:
    assert await threads.run(divmod, 7, 2) == (3, 1)
    with pytest.raises(ZeroDivisionError):
        await threads.run(divmod, 7, 0)


@pytest.mark.parametrize("error", [None, OSError("disk")])
async def test_a_cancelled_waiter_goes_only_when_the_work_has_ended(
    threads: Threads, error: Exception | None
) -> None:
    work = Work(error)
    task = asyncio.create_task(threads.run(work))
    await until(work.has_begun)
    for _ in range(3):  # as often as one likes
        task.cancel()
        await some_turns()
        assert not task.done()
    work.may_end.set()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert work.has_ended


async def test_what_is_held_is_ended_when_the_block_is_left(threads: Threads) -> None:
    ended: list[str] = []
    async with threads.hold(lambda: "thing", ended.append) as held:
        assert held == "thing"
        assert ended == []
    assert ended == ["thing"]


async def test_what_is_held_is_ended_even_if_its_making_was_cancelled(threads: Threads) -> None:
    work, ended = Work(), list[str]()

    async def hold() -> None:
        async with threads.hold(work, ended.append):
            pytest.fail("the block must not be entered")

    task = asyncio.create_task(hold())
    await until(work.has_begun)
    task.cancel()
    await some_turns()
    work.may_end.set()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert ended == ["done"]


async def test_what_could_not_be_made_is_not_ended(threads: Threads) -> None:
    ended: list[tuple[int, int]] = []
    with pytest.raises(ZeroDivisionError):
        async with threads.hold(lambda: divmod(1, 0), ended.append):
            pytest.fail("the block must not be entered")
    assert ended == []


async def test_closing_leaves_no_thread(threads: Threads) -> None:
    before = set(threading.enumerate())
    others = Threads(3)
    await asyncio.gather(*(others.run(int) for _ in range(20)))
    assert set(threading.enumerate()) - before
    await others.aclose()
    assert not set(threading.enumerate()) - before


class Batches:
    """Doubles numbers, keeps the batches in which they came, and waits to be told in the first."""

    def __init__(self) -> None:
        self.seen: list[list[int]] = []
        self.first = Work()

    def __call__(self, batch: list[int]) -> list[int]:
        self.seen.append(batch)
        if len(self.seen) == 1:
            self.first()
        if 13 in batch:
            raise ValueError("unlucky")
        return [2 * number for number in batch]


async def test_items_that_wait_are_done_in_one_batch(threads: Threads) -> None:
    batches = Batches()
    gatherer: Gatherer[int, int] = Gatherer(threads, batches)
    tasks = [asyncio.create_task(gatherer.run(number)) for number in range(5)]
    await until(batches.first.has_begun)
    await some_turns()
    batches.first.may_end.set()
    assert await asyncio.gather(*tasks) == [0, 2, 4, 6, 8]
    assert batches.seen == [[0], [1, 2, 3, 4]]
    assert await gatherer.run(5) == 10  # and it starts anew


async def test_a_batch_that_fails_fails_for_each_of_its_items_and_no_other(
    threads: Threads,
) -> None:
    batches = Batches()
    gatherer: Gatherer[int, int] = Gatherer(threads, batches)
    tasks = [asyncio.create_task(gatherer.run(number)) for number in (1, 13, 2)]
    await until(batches.first.has_begun)
    await some_turns()
    batches.first.may_end.set()
    results = await asyncio.gather(*tasks, return_exceptions=True)
    assert results[0] == 2
    assert [str(result) for result in results[1:]] == ["unlucky", "unlucky"]
    assert await gatherer.run(5) == 10


async def test_a_cancelled_item_is_waited_for_and_holds_up_no_other(threads: Threads) -> None:
    batches = Batches()
    gatherer: Gatherer[int, int] = Gatherer(threads, batches)
    first, second, third = (asyncio.create_task(gatherer.run(number)) for number in range(3))
    await until(batches.first.has_begun)
    first.cancel()
    second.cancel()
    await some_turns()
    assert not first.done()
    assert not second.done()
    batches.first.may_end.set()
    assert await third == 4
    for task in (first, second):
        with pytest.raises(asyncio.CancelledError):
            await task
