"""Run the emulator: its directory, its threads, its socket, and an orderly end of all."""

import asyncio
import shutil
import tempfile
import time
from collections.abc import AsyncIterator, Callable, Iterable, Sequence
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager, suppress
from functools import partial
from os import PathLike
from pathlib import Path
from types import TracebackType
from typing import Final, Self

from aiofiles_api.emulator.app import FilesApi, application
from aiofiles_api.emulator.connections import Connections
from aiofiles_api.emulator.faults import Fault
from aiofiles_api.emulator.injection import Injector
from aiofiles_api.emulator.limits import Limiter, RateLimit
from aiofiles_api.emulator.record import ReceivedRequest, Record, note_reply
from aiofiles_api.emulator.schedule import Schedule
from aiofiles_api.emulator.store import Store
from aiofiles_api.emulator.threads import Threads, settled

__all__ = ["Emulator"]

_THREADS: Final = 8
_REQUESTS_KEPT: Final = 100_000
_SECONDS_BETWEEN_EXPIRIES: Final = 60.0


class Emulator:
    """Serve the Files API while its context is open.

    Files live in `data_dir`, which one emulator at a time may use; `None` is a temporary directory
    that is removed at the end. With `api_key=None` any key is good, though one must be given.
    `port=0` takes a free port: see `base_url`. `max_file_bytes` reads the API's "512 MB" as MiB,
    its larger meaning, so as to refuse nothing that the service accepts. Without `ranges` a
    download is always the whole content and has no ETag, as the API promises no more than that.
    `clock` gives the time in seconds since the epoch.

    Each of the `faults` befalls the requests that it is meant for. Requests over the `rate_limit`
    are refused. With `idempotency` an upload
    that repeats an Idempotency-Key is answered with the file that was stored first, while its
    content is the same; the service itself does not look at that header.

    Raises:
        DataDirInUseError: On entry, where another emulator is using `data_dir`.
    """

    def __init__(
        self,
        data_dir: str | PathLike[str] | None = None,
        *,
        api_key: str | None = None,
        host: str = "127.0.0.1",
        port: int = 0,
        max_file_bytes: int = 512 * 1024 * 1024,
        ranges: bool = True,
        faults: Iterable[Fault] = (),
        rate_limit: RateLimit | None = None,
        idempotency: bool = False,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._data_dir = None if data_dir is None else Path(data_dir)
        self._api_key = api_key
        self._max_file_bytes = max_file_bytes
        self._ranges = ranges
        self._faults = tuple(faults)
        self._rate_limit = rate_limit
        self._idempotency = idempotency
        self._clock = clock
        self._record = Record(_REQUESTS_KEPT)
        self._connections = Connections(host, port)
        self._injector = Injector(self._connections.refused)
        self._running = AsyncExitStack()

    @property
    def base_url(self) -> str:
        """Where it is served, with the `/v1` that clients expect.

        Raises:
            RuntimeError: It is not running.
        """
        return self._connections.base_url

    @property
    def requests(self) -> Sequence[ReceivedRequest]:
        """What has come since the start, in that order: the latest 100,000 requests."""
        return self._record.requests

    @property
    def faults(self) -> Sequence[Fault]:
        """What goes wrong; may be replaced at any time, and then begins to count anew."""
        return self._faults

    @faults.setter
    def faults(self, faults: Iterable[Fault]) -> None:
        self._faults = tuple(faults)
        self._injector.schedule = Schedule(self._faults)

    def refusing_connections(self) -> AbstractAsyncContextManager[None]:
        """Refuse connections while the context is open, and then take them again on the same port.

        Connections that are open are closed, each as soon as it has no request under way.

        Raises:
            OSError: At the end, if somebody else has taken the port.
        """
        return self._connections.refused()

    async def __aenter__(self) -> Self:
        async with AsyncExitStack() as starting:
            threads = Threads(_THREADS)
            starting.push_async_callback(threads.aclose)
            data_dir, is_temporary = self._data_dir, self._data_dir is None
            if data_dir is None:
                data_dir = await starting.enter_async_context(
                    threads.hold(_make_temporary_directory, shutil.rmtree)
                )
            make_store = partial(Store, data_dir, self._clock, is_temporary=is_temporary)
            store = await starting.enter_async_context(threads.hold(make_store, Store.close))
            await starting.enter_async_context(_expiring(store, threads))
            api = FilesApi(
                store,
                threads,
                max_file_bytes=self._max_file_bytes,
                ranges=self._ranges,
                idempotency=self._idempotency,
            )
            await starting.enter_async_context(self._serving(api))
            self._running = starting.pop_all()
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await settled(asyncio.ensure_future(self._running.aclose()))

    @asynccontextmanager
    async def _serving(self, api: FilesApi) -> AsyncIterator[None]:
        self._record = Record(_REQUESTS_KEPT)
        self._injector.schedule = Schedule(self._faults)
        limiter = Limiter(self._rate_limit)
        watches = (self._connections, self._record, limiter, self._injector)
        app = application(
            api, api_key=self._api_key, middlewares=[watch.middleware() for watch in watches]
        )
        app.on_response_prepare.append(note_reply)
        async with self._connections.lead_to(app):
            yield


def _make_temporary_directory() -> Path:
    return Path(tempfile.mkdtemp(prefix="files-emulator-"))


@asynccontextmanager
async def _expiring(store: Store, threads: Threads) -> AsyncIterator[None]:
    """Remove expired files, now and regularly: nobody sees them any more, but they take space."""

    async def expire() -> None:
        while True:
            while await threads.run(store.expire):
                pass
            await asyncio.sleep(_SECONDS_BETWEEN_EXPIRIES)

    task = asyncio.create_task(expire())
    try:
        yield
    finally:
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task
