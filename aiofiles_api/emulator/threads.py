"""Do blocking work off the event loop, and never abandon it.

Whoever waits here is not let go before the work has ended, even when cancelled: a descriptor that
is closed under a thread's hands may by then be another file's.
"""

import asyncio
import threading
from collections.abc import AsyncIterator, Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from functools import partial
from typing import Generic, ParamSpec, TypeVar

__all__ = ["Gatherer", "Threads", "settled"]

P = ParamSpec("P")
T = TypeVar("T")
Item = TypeVar("Item")
Result = TypeVar("Result")


class Threads:
    """A few threads that end together."""

    def __init__(self, count: int) -> None:
        self._executor = ThreadPoolExecutor(count, "aiofiles_api-emulator")

    async def run(self, function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Call a function in a thread."""
        return await settled(self.start(function, *args, **kwargs))

    @asynccontextmanager
    async def hold(self, make: Callable[[], T], end: Callable[[T], None]) -> AsyncIterator[T]:
        """Make something in a thread, and end it in one, even if cancelled in the making."""
        making = self.start(make)
        try:
            yield await settled(making)
        finally:
            if making.exception() is None:
                await self.run(end, making.result())

    def start(
        self, function: Callable[P, T], *args: P.args, **kwargs: P.kwargs
    ) -> asyncio.Future[T]:
        """Call a function in a thread, without waiting for it."""
        return asyncio.wrap_future(self._executor.submit(function, *args, **kwargs))

    async def aclose(self) -> None:
        """End the threads, which must be idle."""
        # To join them would block the loop, if only for a moment: another thread does that, and
        # nothing but a look tells when that one has ended in turn.
        closer = threading.Thread(target=self._executor.shutdown)
        closer.start()
        while closer.is_alive():  # noqa: ASYNC110
            await asyncio.sleep(0.001)


class Gatherer(Generic[Item, Result]):
    """Do in one visit to a thread what many tasks ask for at the same time.

    While one batch is worked on, the next one gathers: the busier it gets, the longer the batches
    and the less each item costs. Results stand in the order of the items.
    """

    def __init__(
        self, threads: Threads, function: Callable[[list[Item]], Sequence[Result]]
    ) -> None:
        self._threads = threads
        self._function = function
        self._waiting: list[tuple[Item, asyncio.Future[Result]]] = []
        self._is_working = False

    async def run(self, item: Item) -> Result:
        """Have an item done; what its batch raises is raised for each of its items."""
        future: asyncio.Future[Result] = asyncio.get_running_loop().create_future()
        self._waiting.append((item, future))
        if not self._is_working:
            self._begin()
        return await settled(future)

    def _begin(self) -> None:
        batch, self._waiting = self._waiting, []
        self._is_working = True
        call = self._threads.start(self._function, [item for item, _ in batch])
        call.add_done_callback(partial(self._end, [future for _, future in batch]))

    def _end(
        self, futures: list[asyncio.Future[Result]], call: asyncio.Future[Sequence[Result]]
    ) -> None:
        failure = call.exception()
        if failure is None:
            for future, result in zip(futures, call.result(), strict=True):
                future.set_result(result)
        else:
            for future in futures:
                future.set_exception(failure)
        self._is_working = False
        if self._waiting:
            self._begin()


async def settled(future: asyncio.Future[T]) -> T:
    """Wait for the future's end, and only then heed a cancellation."""
    cancellation: asyncio.CancelledError | None = None
    while not future.done():
        try:
            await asyncio.wait([future])
        except asyncio.CancelledError as error:
            cancellation = error
    if cancellation is not None:
        future.exception()  # asked for, or the loop complains that nobody did
        raise cancellation
    return future.result()
