"""What all tests share: the emulator, a client, a server that follows a script, and the guards."""

from __future__ import annotations

import asyncio
import gc
import os
import signal
import socket
import threading
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager, suppress

import anyio
import attrs
import pytest
from blockbuster import BlockBuster, blockbuster_ctx
from hypothesis import HealthCheck, settings

from aiofiles_api import FilesClient, RetryPolicy
from aiofiles_api.emulator import Emulator

KEY = "sk-test-0123456789"

NO_RETRIES = RetryPolicy(attempts=1)

# On a busy machine one example may take long, and that is no failure.
settings.register_profile(
    "any-machine", deadline=None, suppress_health_check=[HealthCheck.too_slow]
)
settings.load_profile("any-machine")
QUICK_RETRIES = RetryPolicy(attempts=4, backoff=0.001)


def pytest_xdist_auto_num_workers() -> int:
    """Two for each processor: half of the time a test waits, for a timeout or another process."""
    return 2 * (os.cpu_count() or 1)


def pytest_configure() -> None:
    """Let Ctrl-C end the commands under test, even where it is ignored for us (`nohup`, `&`)."""
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_collection_finish() -> None:
    """Spare each look for leaks the walk through all that was imported, which is no leak."""
    gc.collect()
    gc.freeze()


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture(autouse=True)
def no_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """Keep what the developer's own shell says out of the tests."""
    for name in (
        "OPENAI_API_KEY",
        "OPENAI_BASE_URL",
        "OPENAI_ORG_ID",
        "OPENAI_PROJECT_ID",
        "HTTP_PROXY",
        "HTTPS_PROXY",
        "http_proxy",
        "https_proxy",
    ):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture(autouse=True)
def no_blocking_call() -> Iterator[BlockBuster]:
    """Fail a test whose package code blocks the event loop."""
    with blockbuster_ctx("aiofiles_api") as detector:
        # What measures coverage takes a lock of its own wherever it is called.
        lock = detector.functions["threading.Lock.acquire"]
        lock.can_block_in("coverage/collector.py", "lock_data")
        yield detector


@pytest.fixture
async def server() -> AsyncIterator[Emulator]:
    async with Emulator(api_key=KEY) as emulator:
        yield emulator


@pytest.fixture
async def files(server: Emulator) -> AsyncIterator[FilesClient]:
    async with FilesClient(base_url=server.base_url, api_key=KEY) as client:
        yield client


# --- a server that says exactly what a test wants ------------------------------------------------


@attrs.frozen
class RawRequest:
    """A request as it came over the socket.

    Attributes:
        line: The request line, such as "GET /v1/files HTTP/1.1".
        headers: The headers, their names in lower case.
        reader: Where the body is, which was not read yet.
    """

    line: str
    headers: dict[str, str]
    reader: asyncio.StreamReader

    async def body(self) -> bytes:
        """Read the whole body, which must have a Content-Length."""
        return await self.reader.readexactly(int(self.headers.get("content-length", "0")))


Script = Callable[[RawRequest, asyncio.StreamWriter], Awaitable[None]]


@attrs.define
class RawServer:
    """A server on a socket that follows a script: one entry a request, the last one for ever.

    Attributes:
        base_url: Where it listens.
        requests: What came.
        connections: How many connections were made.
        open_connections: How many of them are open.
    """

    base_url: str
    script: list[Script]
    requests: list[RawRequest] = attrs.field(factory=list)
    connections: int = 0
    open_connections: int = 0

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        self.open_connections += 1
        try:
            with suppress(ConnectionError, asyncio.IncompleteReadError):
                while True:
                    head = await reader.readuntil(b"\r\n\r\n")
                    line, *rest = head.decode("latin-1").strip().split("\r\n")
                    pairs = (one.split(": ", 1) for one in rest)
                    headers = {name.lower(): value for name, value in pairs}
                    request = RawRequest(line, headers, reader)
                    step = self.script[min(len(self.requests), len(self.script) - 1)]
                    self.requests.append(request)
                    await step(request, writer)
                    if writer.is_closing():
                        break
        finally:
            self.open_connections -= 1
            writer.close()

    async def wait_until_closed(self) -> None:
        """Wait until the client holds no connection any more."""
        with anyio.fail_after(5):
            while self.open_connections:
                await asyncio.sleep(0.005)


RawServers = Callable[..., Awaitable[RawServer]]


@asynccontextmanager
async def raw_server(*script: Script, buffer: int | None = None) -> AsyncIterator[RawServer]:
    raw = RawServer("", list(script))
    tasks: set[asyncio.Task[None]] = set()

    def connected(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.create_task(raw.serve(reader, writer))
        tasks.add(task)
        task.add_done_callback(tasks.discard)

    server = await asyncio.start_server(connected, "127.0.0.1", 0, limit=buffer or 65_536)
    if buffer is not None:
        server.sockets[0].setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, buffer)
    raw.base_url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/v1"
    try:
        yield raw
    finally:
        server.close()
        for task in tuple(tasks):
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


def client_of(raw: RawServer, **settings: object) -> FilesClient:
    """Return a client of a scripted server that does not retry unless it is told to."""
    settings = {"api_key": KEY, "retry": NO_RETRIES, **settings}
    return FilesClient(base_url=raw.base_url, **settings)  # type: ignore[arg-type]


def reply(
    body: bytes | str = b"",
    *,
    status: str = "200 OK",
    headers: dict[str, str] | None = None,
    length: int | None = None,
    close: bool = False,
) -> Script:
    """Return a script that reads the request's body and answers, maybe with a wrong length."""
    content = body.encode() if isinstance(body, str) else body
    size = len(content) if length is None else length
    fields = {"Content-Type": "application/json", "Content-Length": str(size), **(headers or {})}
    head = f"HTTP/1.1 {status}\r\n" + "".join(f"{n}: {v}\r\n" for n, v in fields.items())

    async def follow(request: RawRequest, writer: asyncio.StreamWriter) -> None:
        await request.body()
        writer.write(head.encode() + b"\r\n" + content)
        await writer.drain()
        if close:
            writer.close()

    return follow


def raw_bytes(content: bytes) -> Script:
    """Return a script that writes `content` as it is and closes the connection."""

    async def follow(request: RawRequest, writer: asyncio.StreamWriter) -> None:
        await request.body()
        writer.write(content)
        with suppress(ConnectionError):
            await writer.drain()
        writer.close()

    return follow


async def silence(request: RawRequest, writer: asyncio.StreamWriter) -> None:
    """Read, and never answer, until the client hangs up."""
    await request.reader.read()
    writer.close()


async def hang_up(_request: RawRequest, writer: asyncio.StreamWriter) -> None:
    """Close the connection without a word."""
    writer.close()


# --- leaks ---------------------------------------------------------------------------------------


@attrs.frozen
class Resources:
    """What a process holds."""

    tasks: int
    descriptors: int
    threads: frozenset[str]

    @classmethod
    def now(cls) -> Resources:
        gc.collect()
        ours = {t.name for t in threading.enumerate() if t.name.startswith("aiofiles_api_")}
        descriptors = len(os.listdir("/proc/self/fd"))  # Linux alone tells it so plainly
        return cls(len(asyncio.all_tasks()), descriptors, frozenset(ours))


@asynccontextmanager
async def nothing_leaks() -> AsyncIterator[None]:
    """Fail when tasks, descriptors or threads are left behind, given a moment to go away."""
    before = Resources.now()
    yield
    after = before
    for _ in range(200):
        after = Resources.now()
        if (
            after.tasks <= before.tasks
            and after.descriptors <= before.descriptors
            and not after.threads - before.threads
        ):
            return
        await asyncio.sleep(0.01)
    pytest.fail(f"left behind: {before} became {after}")
