"""A client that keeps to a rate, before servers that count: real sockets, real time."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Literal

import anyio
import pytest
from conftest import KEY, NO_RETRIES, QUICK_RETRIES, client_of, nothing_leaks, raw_server, reply

from aiofiles_api import ClientClosedError, FilesClient, RateLimitError, RetryPolicy
from aiofiles_api.emulator import Emulator, RateLimit
from aiofiles_api.session import beside_the_queue

pytestmark = pytest.mark.anyio

FILE = '{"id": "file-1", "bytes": 1, "created_at": 1, "filename": "f", "purpose": "batch"}'

MANY_ATTEMPTS = RetryPolicy(attempts=50, backoff=0.001)


@asynccontextmanager
async def limited(limit: RateLimit) -> AsyncIterator[Emulator]:
    async with Emulator(api_key=KEY, rate_limit=limit) as server:
        yield server


def client(server: Emulator, rate: float | None, retry: RetryPolicy = MANY_ATTEMPTS) -> FilesClient:
    return FilesClient(base_url=server.base_url, api_key=KEY, requests_per_minute=rate, retry=retry)


async def upload_many(files: FilesClient, count: int, concurrency: int = 8) -> None:
    numbers = iter(range(count))

    async def work() -> None:
        for number in numbers:
            await files.upload(b"x", purpose="batch", filename=str(number))

    async with asyncio.TaskGroup() as group:
        for _ in range(concurrency):
            group.create_task(work())


def statuses(server: Emulator) -> Counter[int | None]:
    return Counter(request.status for request in server.requests)


@pytest.mark.parametrize("window", ["sliding", "fixed"])
async def test_next_to_nothing_is_refused_where_the_client_knows_the_limit(
    window: Literal["sliding", "fixed"],
) -> None:
    async with (
        limited(RateLimit(200, 1, on="upload", window=window)) as server,
        client(server, 60 * 200) as files,
    ):
        await upload_many(files, 400)
        done = statuses(server)
        assert done[200] == 400
        assert done[429] < 40  # a machine that stops for a while must not fail this test


async def test_what_exceeds_an_unknown_limit_waits_and_nothing_fails() -> None:
    async with (
        nothing_leaks(),
        limited(RateLimit(20, 0.2, on="upload")) as server,
        client(server, None) as files,
    ):
        await upload_many(files, 100)
        done = statuses(server)
        assert done[200] == 100
        assert done[429] > 0


async def test_a_server_that_refuses_everything_is_told_after_the_last_attempt() -> None:
    async with limited(RateLimit(1, 3600, on="upload")) as server:
        async with client(server, None, QUICK_RETRIES) as files:
            await files.upload(b"x", purpose="batch")
            with pytest.raises(RateLimitError):
                await files.upload(b"x", purpose="batch")
            assert [file.filename async for file in files.list()] == ["upload"]


async def test_requests_go_in_the_order_in_which_they_came_and_retries_count() -> None:
    busy = reply("", status="503 No")
    async with (
        raw_server(busy, busy, reply(FILE)) as raw,
        # On one connection, where none overtakes another.
        client_of(
            raw, retry=QUICK_RETRIES, requests_per_minute=60 * 50, max_connections=1
        ) as files,
    ):
        began = time.monotonic()
        tasks = []
        for number in range(40):
            tasks.append(asyncio.create_task(files.retrieve(f"file-{number}")))
            await asyncio.sleep(0)
        await asyncio.gather(*tasks)
        # 42 requests, of which 20 may go at once.
        assert time.monotonic() - began >= 21 / 50
    paths = [request.line.split()[1].rpartition("-")[2] for request in raw.requests]
    first_times = list(dict.fromkeys(paths))
    assert first_times == [str(number) for number in range(40)]
    assert sorted(number for number in paths if paths.count(number) > 1) == ["0", "0", "1", "1"]


async def test_one_endpoint_at_its_limit_does_not_hold_up_another() -> None:
    async with (
        raw_server(reply(FILE)) as raw,
        client_of(raw, requests_per_minute=1, max_connections=1) as files,
    ):
        await files.retrieve("file-1")
        waiting = [asyncio.create_task(files.retrieve("file-1")) for _ in range(3)]
        await asyncio.sleep(0.02)
        assert await files.read("file-1") == FILE.encode()
        assert not any(task.done() for task in waiting)
        for task in waiting:
            task.cancel()
        await asyncio.wait(waiting)
        assert len(raw.requests) == 2


async def test_who_leaves_the_queue_takes_no_turn() -> None:
    async with (
        nothing_leaks(),
        raw_server(reply(FILE)) as raw,
        client_of(raw, requests_per_minute=60 * 5) as files,
    ):
        for _ in range(3):
            await files.retrieve("file-1")
        began = time.monotonic()
        waiting = [asyncio.create_task(files.retrieve("file-1")) for _ in range(100)]
        await asyncio.sleep(0)
        for task in waiting[:-1]:
            task.cancel()
        await waiting[-1]
        assert time.monotonic() - began < 5
        assert len(raw.requests) == 4


async def test_the_turn_is_taken_with_the_connection_slot_and_not_before_it() -> None:
    """Else those who wait for a slot would all go at once when slots become free."""
    release = asyncio.Event()

    async def slow(request: object, writer: asyncio.StreamWriter) -> None:
        await release.wait()
        await reply(FILE)(request, writer)  # type: ignore[arg-type]

    async with (
        raw_server(slow, reply(FILE)) as raw,
        client_of(raw, requests_per_minute=60 * 5, max_connections=1) as files,
    ):
        first = asyncio.create_task(files.retrieve("file-1"))
        others = [asyncio.create_task(files.retrieve("file-1")) for _ in range(5)]
        await asyncio.sleep(1)
        began = time.monotonic()
        release.set()
        await asyncio.gather(first, *others)
        assert time.monotonic() - began >= 0.4


async def test_closing_the_client_wakes_those_who_wait() -> None:
    async with (
        nothing_leaks(),
        raw_server(reply(FILE)) as raw,
        client_of(raw, requests_per_minute=1) as files,
    ):
        await files.retrieve("file-1")
        waiting = [asyncio.create_task(files.retrieve("file-1")) for _ in range(3)]
        await asyncio.sleep(0.02)
        with anyio.fail_after(5):
            await files.aclose()
            ends: Sequence[object] = await asyncio.gather(*waiting, return_exceptions=True)
        assert [type(end) for end in ends] == [ClientClosedError] * 3


async def test_the_look_for_an_uncertain_upload_does_not_wait_behind_who_waits_for_a_slot() -> None:
    async with (
        Emulator(api_key=KEY) as server,
        FilesClient(
            base_url=server.base_url,
            api_key=KEY,
            retry=NO_RETRIES,
            max_connections=1,
            requests_per_minute=60_000,
        ) as files,
    ):
        file = await files.upload(b"x", purpose="batch")
        async with files.stream(file):
            first = asyncio.create_task(anext(files.list()))
            await asyncio.sleep(0.02)
            with beside_the_queue(), anyio.fail_after(5):
                assert await anext(files.list()) == file
            assert not first.done()
        assert await first == file


async def test_the_emulator_tells_how_long_to_wait_in_both_forms() -> None:
    async with limited(RateLimit(1, 90)) as server, client(server, None, NO_RETRIES) as files:
        await files.upload(b"x" * 100_000, purpose="batch")
        with pytest.raises(RateLimitError) as caught:
            await files.upload(b"x" * 100_000, purpose="batch")
        assert caught.value.code == "rate_limit_exceeded"
        assert 80 < (caught.value.retry_after or 0) <= 90
        assert len([file async for file in files.list()]) == 1
        with pytest.raises(RateLimitError):
            await anext(files.list())
    assert [request.status for request in server.requests] == [200, 429, 200, 429]


@pytest.mark.parametrize(
    ("requests", "more"),
    [(0, {}), (1.5, {}), (1, {"seconds": 0}), (1, {"on": "any!"}), (1, {"window": "open"})],
    ids=str,
)
def test_the_emulator_refuses_a_limit_that_is_none(requests: int, more: dict[str, object]) -> None:
    with pytest.raises((TypeError, ValueError)):
        RateLimit(requests, **more)  # type: ignore[arg-type]
