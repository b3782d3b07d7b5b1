"""Run the emulator: its directory, its threads, its socket, and an orderly end of all."""

import asyncio
import shutil
import tempfile
import time
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from functools import partial
from os import PathLike
from pathlib import Path
from types import TracebackType
from typing import Final, Self

from aiohttp import web
from aiohttp.typedefs import Handler, Middleware

from aiofiles_api.emulator.app import BATCH_BYTES, FilesApi, application
from aiofiles_api.emulator.store import Store
from aiofiles_api.emulator.threads import Threads, settled

__all__ = ["Emulator"]

_THREADS: Final = 8
_GRACE_SECONDS: Final = 0.2  # for the requests that are under way at the end
_SECONDS_BETWEEN_EXPIRIES: Final = 60.0


class Emulator:
    """Serve the Files API while its context is open.

    Files live in `data_dir`, which one emulator at a time may use; `None` is a temporary directory
    that is removed at the end. With `api_key=None` any key is good, though one must be given.
    `port=0` takes a free port: see `base_url`. `max_file_bytes` reads the API's "512 MB" as MiB,
    its larger meaning, so as to refuse nothing that the service accepts. Without `ranges` a
    download is always the whole content and has no ETag, as the API promises no more than that.
    `clock` gives the time in seconds since the epoch.

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
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._data_dir = None if data_dir is None else Path(data_dir)
        self._api_key = api_key
        self._host = host
        self._port = port
        self._max_file_bytes = max_file_bytes
        self._ranges = ranges
        self._clock = clock
        self._base_url: str | None = None
        self._running = AsyncExitStack()

    @property
    def base_url(self) -> str:
        """Where it is served, with the `/v1` that clients expect.

        Raises:
            RuntimeError: It is not running.
        """
        if self._base_url is None:
            raise RuntimeError("The emulator is not running: enter it with 'async with' first")
        return self._base_url

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
            api = FilesApi(store, threads, max_file_bytes=self._max_file_bytes, ranges=self._ranges)
            self._base_url = await starting.enter_async_context(self._serving(api))
            self._running = starting.pop_all()
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._base_url = None
        await settled(asyncio.ensure_future(self._running.aclose()))

    @asynccontextmanager
    async def _serving(self, api: FilesApi) -> AsyncIterator[str]:
        tasks: set[asyncio.Task[None]] = set()
        app = application(api, api_key=self._api_key, middlewares=[_watch(tasks)])
        runner = web.AppRunner(
            app, access_log=None, shutdown_timeout=_GRACE_SECONDS, read_bufsize=BATCH_BYTES
        )
        await runner.setup()
        try:
            site = web.TCPSite(runner, self._host, self._port)
            await site.start()
            host = f"[{self._host}]" if ":" in self._host else self._host
            yield f"http://{host}:{site.port}/v1"
        finally:
            await _shut_down(runner, tasks)


async def _shut_down(runner: web.AppRunner, tasks: set[asyncio.Task[None]]) -> None:
    """Stop serving, and leave neither task nor connection behind."""
    server = runner.server
    connections = [] if server is None else server.connections
    transports = [it.transport for it in connections if it.transport is not None]
    await runner.cleanup()
    # What that does not do: it never waits for a task that it cancels, it forgets those that still
    # wait for a body whose client has gone, and it keeps a connection open until all is sent, which
    # is for ever where the client has stopped reading.
    for transport in transports:
        transport.abort()
    for task in tasks:
        task.cancel()
    if tasks:
        await asyncio.wait(tasks)


def _watch(tasks: set[asyncio.Task[None]]) -> Middleware:
    """Keep the tasks that handle requests in a set while they last."""

    @web.middleware
    async def watch(request: web.Request, handler: Handler) -> web.StreamResponse:
        # The request has a task of its own beside that of its connection.
        for task in (request.task, asyncio.current_task()):
            if task is not None and task not in tasks:
                tasks.add(task)
                task.add_done_callback(tasks.discard)
        return await handler(request)

    return watch


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
