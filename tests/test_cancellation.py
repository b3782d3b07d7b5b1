"""Cancelling each operation at every await, and closing the client under it, leaves nothing."""

from __future__ import annotations

import asyncio
import gc
import os
import weakref
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from pathlib import Path

import anyio
import pytest
from conftest import KEY, RawRequest, client_of, nothing_leaks, raw_server, reply, silence

from aiofiles_api import (
    ClientClosedError,
    FileObject,
    FilesClient,
    FilesError,
    RequestTooLargeError,
    RetryPolicy,
)
from aiofiles_api.emulator import Emulator

pytestmark = pytest.mark.anyio

CONTENT = os.urandom(5_000_000)

Operation = Callable[[FilesClient, FileObject, Path], Awaitable[object]]


async def upload_path(files: FilesClient, _file: FileObject, directory: Path) -> object:
    return await files.upload(directory / "source", purpose="batch")


async def upload_iterable(files: FilesClient, _file: FileObject, _directory: Path) -> object:
    async def pieces() -> AsyncIterator[bytes]:
        for _ in range(20):
            yield CONTENT[:100_000]
            await asyncio.sleep(0)

    return await files.upload(pieces(), purpose="batch")


async def upload_generator(files: FilesClient, _file: FileObject, _directory: Path) -> object:
    def pieces() -> Iterator[bytes]:
        for _ in range(20):
            yield CONTENT[:100_000]

    return await files.upload(pieces(), purpose="batch")


async def download(files: FilesClient, file: FileObject, directory: Path) -> object:
    return await files.download(file, directory / "copy", durable=True)


async def download_to_directory(files: FilesClient, file: FileObject, directory: Path) -> object:
    return await files.download(file.id, directory, overwrite=True)


async def stream(files: FilesClient, file: FileObject, _directory: Path) -> object:
    async with files.stream(file) as content:
        return [len(chunk) async for chunk in content]


async def read(files: FilesClient, file: FileObject, _directory: Path) -> object:
    return await files.read(file)


async def listing(files: FilesClient, _file: FileObject, _directory: Path) -> object:
    return [file async for file in files.list(page_size=1)]


async def retrieve(files: FilesClient, file: FileObject, _directory: Path) -> object:
    return await files.retrieve(file)


async def delete(files: FilesClient, file: FileObject, _directory: Path) -> object:
    return await files.delete(file, missing_ok=True)


async def wait(files: FilesClient, file: FileObject, _directory: Path) -> object:
    return await files.wait_for_processing(file)


OPERATIONS: list[Operation] = [
    upload_path,
    upload_iterable,
    upload_generator,
    download,
    download_to_directory,
    stream,
    read,
    listing,
    retrieve,
    delete,
    wait,
]


async def cancel_after(turns: int, work: Awaitable[object]) -> bool:
    """Cancel `work` after so many turns of the loop; return whether it was done before."""
    task = asyncio.ensure_future(work)
    for _ in range(turns):
        if task.done():
            break
        await asyncio.sleep(0)
    if task.done():
        task.result()
        return True
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    return False


async def cancel_scope_after(turns: int, work: Awaitable[object]) -> bool:
    """Cancel `work` as anyio does it: again at every turn of the loop until it is gone."""
    done = False

    async def run() -> None:
        nonlocal done
        await work
        done = True

    async with anyio.create_task_group() as group:
        group.start_soon(run)
        for _ in range(turns):
            if done:
                break
            await asyncio.sleep(0)
        group.cancel_scope.cancel()
    return done


@pytest.mark.parametrize("cancel", [cancel_after, cancel_scope_after], ids=lambda f: f.__name__)
@pytest.mark.parametrize("operation", OPERATIONS, ids=lambda f: f.__name__)
async def test_cancelling_at_any_turn_leaves_nothing(
    operation: Operation,
    cancel: Callable[[int, Awaitable[object]], Awaitable[bool]],
    tmp_path: Path,
) -> None:
    (tmp_path / "source").write_bytes(CONTENT)
    async with (
        nothing_leaks(),
        Emulator(api_key=KEY) as server,
        FilesClient(base_url=server.base_url, api_key=KEY) as keeper,
    ):
        file = await keeper.upload(CONTENT[:3_000_000], purpose="batch", filename="name")
        await keeper.upload(b"x", purpose="batch")
        expected = {"source"}
        turns = 0
        while True:
            async with FilesClient(base_url=server.base_url, api_key=KEY) as files:
                done = await cancel(turns, operation(files, file, tmp_path))
                assert not files._session._operations.active
                assert not files._session._exchanges
                assert files._session._slots._slots._value == files._session.config.max_connections
            left = set(os.listdir(tmp_path)) - expected
            # A file may be there, but only whole; a part file never.
            for name in left:
                assert name in {"copy", "name"}
                assert (tmp_path / name).read_bytes() == CONTENT[:3_000_000]
                (tmp_path / name).unlink()
            if done:
                break
            turns += 1 if turns < 40 else turns // 4


@pytest.mark.parametrize("operation", OPERATIONS, ids=lambda f: f.__name__)
async def test_closing_the_client_ends_what_is_in_flight(
    operation: Operation, tmp_path: Path
) -> None:
    (tmp_path / "source").write_bytes(CONTENT)
    file = FileObject("file-1", 10, 1, "name", "batch")
    async with nothing_leaks(), raw_server(silence) as raw:
        files = client_of(raw)
        task = asyncio.ensure_future(operation(files, file, tmp_path))
        while not raw.requests:
            await asyncio.sleep(0.001)
        await files.aclose()
        with pytest.raises(ClientClosedError):
            await task
        await raw.wait_until_closed()
    assert os.listdir(tmp_path) == ["source"]


async def test_closing_wakes_a_back_off() -> None:
    slow_down = reply("", status="429 Slow Down", headers={"Retry-After": "100"})
    async with nothing_leaks(), raw_server(slow_down) as raw:
        files = client_of(raw, retry=RetryPolicy())
        task = asyncio.ensure_future(files.retrieve("file-1"))
        while not raw.requests:
            await asyncio.sleep(0.001)
        await asyncio.sleep(0.02)
        with anyio.fail_after(2):
            await files.aclose()
        with pytest.raises(ClientClosedError):
            await task


async def test_a_stream_in_the_callers_hands_ends_with_the_client(files: FilesClient) -> None:
    file = await files.upload(CONTENT, purpose="batch")
    async with files.stream(file) as content:
        await anext(content)
        await files.aclose()
        with pytest.raises(ClientClosedError):
            await anext(content)


async def test_a_listing_in_the_callers_hands_ends_with_the_client(files: FilesClient) -> None:
    for _ in range(5):
        await files.upload(b"x", purpose="batch")
    pages = files.list(page_size=1)
    await anext(pages)
    await files.aclose()
    with pytest.raises(ClientClosedError):
        [file async for file in pages]


async def test_a_closed_client_refuses_every_call(files: FilesClient, tmp_path: Path) -> None:
    await files.aclose()
    await files.aclose()  # twice is fine
    file = FileObject("file-1", 10, 1, "name", "batch")
    (tmp_path / "source").write_bytes(b"x")
    for operation in OPERATIONS:
        with pytest.raises(ClientClosedError):
            await operation(files, file, tmp_path)


async def test_a_cancelled_close_still_closes() -> None:
    async with nothing_leaks(), raw_server(silence) as raw:
        files = client_of(raw)
        task = asyncio.ensure_future(files.retrieve("file-1"))
        while not raw.requests:
            await asyncio.sleep(0.001)
        closing = asyncio.ensure_future(files.aclose())
        await asyncio.sleep(0)
        closing.cancel()
        with pytest.raises(asyncio.CancelledError):
            await closing
        with pytest.raises(ClientClosedError):
            await task


@pytest.mark.parametrize("spool", [False, True])
@pytest.mark.parametrize("in_a_task", [False, True])
@pytest.mark.parametrize("before", [0, 1_000, 1_000_000])
async def test_an_uploads_own_source_may_close_the_client(
    server: Emulator, files: FilesClient, before: int, *, in_a_task: bool, spool: bool
) -> None:
    async with FilesClient(api_key=KEY, base_url=server.base_url) as another:

        async def source() -> AsyncIterator[bytes]:
            yield CONTENT[:before]
            await (asyncio.create_task(files.aclose()) if in_a_task else files.aclose())
            yield b"never"

        async with asyncio.timeout(10), nothing_leaks():
            with pytest.raises(ClientClosedError):
                await files.upload(source(), purpose="batch", spool=spool)
            await files.aclose()
        assert [file async for file in another.list()] == []


async def test_what_gives_the_key_may_close_the_client(server: Emulator) -> None:
    async def no_key() -> str:
        await files.aclose()
        return KEY

    async with nothing_leaks(), asyncio.timeout(10):
        files = FilesClient(api_key=no_key, base_url=server.base_url)
        with pytest.raises(ClientClosedError):
            await files.retrieve("file-1")


async def test_what_gives_the_key_may_close_the_client_while_it_is_closed() -> None:
    began = asyncio.Event()

    async def no_key() -> str:
        began.set()
        try:
            await asyncio.sleep(3600)
        finally:
            await files.aclose()
        return KEY

    async with nothing_leaks(), asyncio.timeout(10):
        files = FilesClient(api_key=no_key, base_url="http://127.0.0.1:9/v1")
        task = asyncio.ensure_future(files.retrieve("file-1"))
        await began.wait()
        await files.aclose()
        with pytest.raises(ClientClosedError):
            await task


@pytest.mark.parametrize("spool", [False, True])
@pytest.mark.parametrize("end", ["close", "cancel", "deadline"])
async def test_a_source_that_is_broken_off_may_close_the_client(
    server: Emulator, end: str, *, spool: bool
) -> None:
    began = asyncio.Event()

    async def source() -> AsyncIterator[bytes]:
        try:
            yield CONTENT
            began.set()
            await asyncio.sleep(3600)
        finally:
            await files.aclose()

    async with nothing_leaks(), asyncio.timeout(10):
        retry = RetryPolicy(deadline=0.1 if end == "deadline" else None)
        files = FilesClient(api_key=KEY, base_url=server.base_url, retry=retry)
        task = asyncio.ensure_future(files.upload(source(), purpose="batch", spool=spool))
        await began.wait()
        if end == "close":
            await files.aclose()
        elif end == "cancel":
            task.cancel()
        with pytest.raises(asyncio.CancelledError if end == "cancel" else FilesError):
            await task
        await files.aclose()


async def test_a_source_that_an_early_reply_breaks_off_may_close_the_client() -> None:
    async def too_large(_request: RawRequest, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 413 Too Large\r\nContent-Length: 0\r\n\r\n")
        await asyncio.sleep(3600)

    async with nothing_leaks(), asyncio.timeout(10), raw_server(too_large) as raw:
        files = client_of(raw)

        async def source() -> AsyncIterator[bytes]:
            try:
                yield CONTENT
                yield CONTENT
                await asyncio.sleep(3600)
            finally:
                await files.aclose()

        with pytest.raises((ClientClosedError, RequestTooLargeError)):
            await files.upload(source(), purpose="batch")
        await files.aclose()


async def test_a_source_within_a_source_may_close_the_outer_client(server: Emulator) -> None:
    async with (
        nothing_leaks(),
        asyncio.timeout(10),
        FilesClient(api_key=KEY, base_url=server.base_url) as outer,
        FilesClient(api_key=KEY, base_url=server.base_url) as inner,
    ):

        async def inner_source() -> AsyncIterator[bytes]:
            yield b"1"
            await outer.aclose()
            yield b"2"

        async def outer_source() -> AsyncIterator[bytes]:
            await inner.upload(inner_source(), purpose="batch")
            yield b"never"

        with pytest.raises(ClientClosedError):
            await outer.upload(outer_source(), purpose="batch")
        await outer.aclose()
        # The inner upload may have come to its end before it was broken off.
        assert {file.bytes async for file in inner.list()} <= {len(b"12")}


async def test_a_task_that_outlives_the_operation_which_began_it_closes_as_any_other(
    server: Emulator,
) -> None:
    tasks: list[asyncio.Task[None]] = []
    begin = asyncio.Event()

    async def close_later() -> None:
        await begin.wait()
        await files.aclose()

    async def key() -> str:
        if not tasks:
            tasks.append(asyncio.create_task(close_later()))
        return KEY

    async with nothing_leaks(), asyncio.timeout(10):
        files = FilesClient(api_key=key, base_url=server.base_url)
        await files.upload(b"x", purpose="batch")
        uploading = asyncio.ensure_future(files.upload(source_without_end(), purpose="batch"))
        await asyncio.sleep(0.05)
        begin.set()
        await tasks[0]
        assert uploading.done()
        with pytest.raises(ClientClosedError):
            await uploading


async def test_a_connection_does_not_keep_what_came_over_it(
    server: Emulator, files: FilesClient
) -> None:
    async def retrieve() -> FileObject:
        return await another.retrieve(file.id)

    file = await files.upload(b"x", purpose="batch")
    async with FilesClient(api_key=KEY, base_url=server.base_url) as another:
        task = asyncio.create_task(retrieve())  # which opens a connection
        result = weakref.ref(await task)
        del task
        await asyncio.sleep(0)
        gc.collect()
        assert result() is None


async def source_without_end() -> AsyncIterator[bytes]:
    while True:
        yield CONTENT
        await asyncio.sleep(0.01)


async def test_a_timeout_around_a_call_stays_a_timeout() -> None:
    async with nothing_leaks(), raw_server(silence) as raw, client_of(raw) as files:
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.05):
                await files.retrieve("file-1")
        with anyio.move_on_after(0.05) as scope:
            await files.retrieve("file-1")
        assert scope.cancelled_caught
