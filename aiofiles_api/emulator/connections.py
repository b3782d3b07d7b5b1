"""Take connections, refuse them for a time, and leave none behind at the end."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Final

from aiohttp import web
from aiohttp.typedefs import Handler, Middleware

from aiofiles_api.emulator.app import BATCH_BYTES
from aiofiles_api.emulator.threads import settled

__all__ = ["Connections"]

_GRACE_SECONDS: Final = 0.2  # for the requests that are under way at the end


class Connections:
    """All that go to one address."""

    def __init__(self, host: str, port: int) -> None:
        self._host = host
        self._wanted_port = port
        self._port = 0
        self._runner: web.AppRunner | None = None
        self._site: web.TCPSite | None = None
        self._refusals = 0
        self._changing = asyncio.Lock()
        self._tasks: set[asyncio.Task[None]] = set()
        self._busy: set[web.RequestHandler] = set()

    @property
    def base_url(self) -> str:
        """Where clients find the application.

        Raises:
            RuntimeError: They lead to none.
        """
        if self._runner is None:
            raise RuntimeError("The emulator is not running: enter it with 'async with' first")
        host = f"[{self._host}]" if ":" in self._host else self._host
        return f"http://{host}:{self._port}/v1"

    def middleware(self) -> Middleware:
        """Make the middleware that keeps track of what is under way."""

        @web.middleware
        async def watch(request: web.Request, handler: Handler) -> web.StreamResponse:
            # The request has a task of its own beside that of its connection.
            for task in (request.task, asyncio.current_task()):
                if task is not None and task not in self._tasks:
                    self._tasks.add(task)
                    task.add_done_callback(self._tasks.discard)
            self._busy.add(request.protocol)
            try:
                return await handler(request)
            finally:
                self._busy.discard(request.protocol)

        return watch

    @asynccontextmanager
    async def lead_to(self, app: web.Application) -> AsyncIterator[None]:
        """Take them for an application, which has the middleware."""
        runner = web.AppRunner(
            app, access_log=None, shutdown_timeout=_GRACE_SECONDS, read_bufsize=BATCH_BYTES
        )
        await runner.setup()
        self._port, self._changing = self._wanted_port, asyncio.Lock()
        try:
            self._runner = runner
            await self._listen_or_not()
            yield
        finally:
            self._runner = None
            await self._listen_or_not()
            await self._shut_down(runner)

    @asynccontextmanager
    async def refused(self) -> AsyncIterator[None]:
        """Refuse new ones, and close the others as soon as they have no request under way.

        Raises:
            OSError: At the end, if somebody else has taken the port.
        """
        self._refusals += 1
        try:
            await self._listen_or_not()
            self._close_idle()
            yield
        finally:
            self._refusals -= 1
            await self._listen_or_not()

    async def _listen_or_not(self) -> None:
        """Make of the listening socket what it has to be by now, one caller after the other."""
        async with self._changing:
            # To its end: a start that is cancelled in asyncio would leave the socket listening.
            await settled(asyncio.ensure_future(self._change_listening()))

    async def _change_listening(self) -> None:
        runner = None if self._refusals else self._runner
        if runner is None and self._site is not None:
            site, self._site = self._site, None
            await site.stop()
        elif runner is not None and self._site is None:
            site = web.TCPSite(runner, self._host, self._port)
            await site.start()
            self._site, self._port = site, site.port

    def _close_idle(self) -> None:
        for connection in _connections(self._runner):
            connection.close()  # A request that is under way still gets its reply.
            if connection not in self._busy and connection.transport is not None:
                connection.transport.close()

    async def _shut_down(self, runner: web.AppRunner) -> None:
        transports = [it.transport for it in _connections(runner) if it.transport is not None]
        await runner.cleanup()
        # What that does not do: it never waits for a task that it cancels, it forgets those that
        # still wait for a body whose client has gone, and it keeps a connection open until all is
        # sent, which is for ever where the client has stopped reading.
        for transport in transports:
            transport.abort()
        for task in self._tasks:
            task.cancel()
        if self._tasks:
            await asyncio.wait(self._tasks)


def _connections(runner: web.AppRunner | None) -> list[web.RequestHandler]:
    server = None if runner is None else runner.server
    return [] if server is None else server.connections
