"""A bad network between the client and the emulator: in the end, exactly the right files.

Each connection draws its fate from a seed, which a failure prints: `CAMPAIGN_SEED=… pytest` repeats
it (as far as the order in which connections are made repeats).
"""

from __future__ import annotations

import os
import random
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import aiohttp
import anyio
import pytest
from conftest import KEY, nothing_leaks

from aiofiles_api import FilesClient, RetryPolicy, Timeouts
from aiofiles_api.emulator import Emulator
from benchmarks.bad_network import fates_of_downloads, fates_of_uploads, proxied

pytestmark = [pytest.mark.anyio, pytest.mark.timeout(120)]

POLICY = RetryPolicy(backoff=0.01, max_backoff=0.2, deadline=60)
TIMEOUTS = Timeouts(connect=5, read=0.5, write=2, reply=5)


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
    contents = [os.urandom(int(10 ** rolls.uniform(0, 6.3))) for _ in range(100)]
    async with (
        nothing_leaks(),
        Emulator(api_key=KEY, ranges=ranges) as server,
        proxied(server.base_url, fates_of_downloads(rolls)) as (proxy, base_url),
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

    # Sixteen kinds of content in each of few lengths, many of the same name: easy to mix up.
    contents = [os.urandom(rolls.choice([1, 20_000, 20_001, 300_000])) for _ in range(120)]
    results: dict[str, int] = {}
    async with (
        nothing_leaks(),
        Emulator(api_key=KEY) as server,
        proxied(server.base_url, fates_of_uploads(rolls)) as (proxy, base_url),
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
