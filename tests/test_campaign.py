"""A bad network between the client and the emulator: in the end, exactly the right files.

Each connection draws its fate from a seed, which a failure prints: `CAMPAIGN_SEED=… pytest` repeats
it (as far as the order in which connections are made repeats).
"""

from __future__ import annotations

import asyncio
import os
import random
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Literal, TypeAlias

import aiohttp
import anyio
import attrs
import pytest
from conftest import KEY, nothing_leaks

from aiofiles_api import FilesClient, RetryPolicy, Timeouts
from aiofiles_api.emulator import Emulator

pytestmark = [pytest.mark.anyio, pytest.mark.timeout(120)]

POLICY = RetryPolicy(backoff=0.01, max_backoff=0.2, deadline=60)
TIMEOUTS = Timeouts(connect=5, read=0.5, write=2, reply=5)

Kind: TypeAlias = Literal[
    "none",
    "refuse",
    "cut up",
    "cut down",
    "reset down",
    "stall down",
    "lose reply",
    "html",
    "noise",
]


@attrs.frozen
class Fate:
    """What happens to a connection: which fault, and after how many bytes in its direction."""

    kind: Kind
    after: int = 0


@attrs.define
class Proxy:
    """Passes bytes on to the emulator, and does to each connection what its fate says."""

    draw: Callable[[], Fate]
    upstream_port: int
    fates: list[Fate] = attrs.field(factory=list)

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        fate = self.draw()
        self.fates.append(fate)
        try:
            with suppress(ConnectionError, asyncio.IncompleteReadError):
                if fate.kind in {"refuse", "html", "noise"}:
                    await self._answer(fate, reader, writer)
                else:
                    await self._pass_on(fate, reader, writer)
        finally:
            writer.close()

    async def _answer(
        self, fate: Fate, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        if fate.kind == "refuse":
            writer.transport.abort()
            return
        await reader.readuntil(b"\r\n\r\n")
        if fate.kind == "html":
            writer.write(b"HTTP/1.1 502 Bad Gateway\r\nContent-Length: 6\r\n\r\n<html>")
        else:
            writer.write(os.urandom(100) + b"\r\n\r\n")
        await writer.drain()

    async def _pass_on(
        self, fate: Fate, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        up_reader, up_writer = await asyncio.open_connection("127.0.0.1", self.upstream_port)
        pumps = [
            asyncio.create_task(self._pump(reader, up_writer, fate, "up")),
            asyncio.create_task(self._pump(up_reader, writer, fate, "down")),
        ]
        try:
            await asyncio.wait(pumps, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for pump in pumps:
                pump.cancel()
            await asyncio.gather(*pumps, return_exceptions=True)
            up_writer.close()

    async def _pump(
        self,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
        fate: Fate,
        direction: str,
    ) -> None:
        passed = 0
        while data := await reader.read(65_536):
            if fate.kind == "lose reply" and direction == "down":
                return
            if fate.kind.endswith(direction) and passed + len(data) > fate.after:
                writer.write(data[: fate.after - passed])
                await writer.drain()
                if fate.kind == "stall down":
                    await asyncio.sleep(10)
                if fate.kind == "reset down":
                    writer.transport.abort()
                return
            passed += len(data)
            writer.write(data)
            await writer.drain()


@asynccontextmanager
async def proxied(server: Emulator, draw: Callable[[], Fate]) -> AsyncIterator[tuple[Proxy, str]]:
    proxy = Proxy(draw, int(server.base_url.split(":")[2].partition("/")[0]))
    tasks: set[asyncio.Task[None]] = set()

    def connected(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.create_task(proxy.serve(reader, writer))
        tasks.add(task)
        task.add_done_callback(tasks.discard)

    listener = await asyncio.start_server(connected, "127.0.0.1", 0)
    try:
        yield proxy, f"http://127.0.0.1:{listener.sockets[0].getsockname()[1]}/v1"
    finally:
        listener.close()
        for task in tuple(tasks):
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


@asynccontextmanager
async def unreused(base_url: str) -> AsyncIterator[FilesClient]:
    """Give a client that makes a connection for each request, so that each draws a fate."""
    connector = aiohttp.TCPConnector(force_close=True)
    settings = {"retry": POLICY, "timeouts": TIMEOUTS, "connector": connector}
    async with FilesClient(base_url=base_url, api_key=KEY, **settings) as files:  # type: ignore[arg-type]
        yield files
    await connector.close()


def dice() -> random.Random:
    seed = int(os.environ.get("CAMPAIGN_SEED") or random.randrange(2**32))
    print(f"CAMPAIGN_SEED={seed}")  # noqa: T201 - shown when the test fails
    return random.Random(seed)


@pytest.mark.parametrize("ranges", [True, False])
async def test_downloads_over_a_bad_network_end_whole(tmp_path: Path, *, ranges: bool) -> None:
    rolls = dice()
    faults: list[Kind] = [
        "refuse",
        "cut up",
        "cut down",
        "cut down",
        "reset down",
        "stall down",
        "html",
        "noise",
    ]

    def draw() -> Fate:
        if rolls.random() > 0.3:
            return Fate("none")
        return Fate(rolls.choice(faults), int(10 ** rolls.uniform(0, 6.5)))

    contents = [os.urandom(int(10 ** rolls.uniform(0, 6.3))) for _ in range(100)]
    async with (
        nothing_leaks(),
        Emulator(api_key=KEY, ranges=ranges) as server,
        proxied(server, draw) as (proxy, base_url),
        FilesClient(base_url=server.base_url, api_key=KEY) as direct,
        unreused(base_url) as files,
    ):
        stored = [await direct.upload(content, purpose="user_data") for content in contents]
        limiter = anyio.CapacityLimiter(8)

        async def fetch(number: int) -> None:
            async with limiter:
                target = stored[number] if number % 2 else stored[number].id
                await files.download(target, tmp_path / str(number))

        async with anyio.create_task_group() as group:
            for number in range(len(contents)):
                group.start_soon(fetch, number)
        assert len([fate for fate in proxy.fates if fate.kind != "none"]) > 5
    # Nothing but the files themselves: no part file is left.
    assert sorted(os.listdir(tmp_path), key=int) == [str(n) for n in range(len(contents))]
    for number, content in enumerate(contents):
        assert (tmp_path / str(number)).read_bytes() == content


async def test_uploads_over_a_bad_network_are_each_there_exactly_once(tmp_path: Path) -> None:
    rolls = dice()

    def draw() -> Fate:
        roll = rolls.random()
        if roll < 0.2:
            return Fate("lose reply")
        if roll < 0.4:
            return Fate("cut up", int(10 ** rolls.uniform(0, 4.5)))
        return Fate("none")

    # Sixteen kinds of content in each of few lengths, many of the same name: easy to mix up.
    contents = [os.urandom(rolls.choice([1, 20_000, 20_001, 300_000])) for _ in range(120)]
    results: dict[str, int] = {}
    async with (
        nothing_leaks(),
        Emulator(api_key=KEY) as server,
        proxied(server, draw) as (proxy, base_url),
        unreused(base_url) as files,
        FilesClient(base_url=server.base_url, api_key=KEY) as direct,
    ):
        limiter = anyio.CapacityLimiter(16)

        async def send(number: int) -> None:
            path = tmp_path / str(number)
            path.write_bytes(contents[number])
            async with limiter:
                file = await files.upload(path, purpose="user_data", filename="same.bin")
                assert file.id not in results
                results[file.id] = number

        async with anyio.create_task_group() as group:
            for number in range(len(contents)):
                group.start_soon(send, number)
        on_server = [file async for file in direct.list()]
        assert sorted(file.id for file in on_server) == sorted(results)
        for file in on_server:
            assert await direct.read(file) == contents[results[file.id]]
        assert len([fate for fate in proxy.fates if fate.kind != "none"]) > 10
