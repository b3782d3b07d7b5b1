"""Many transfers at a time: lazily, in bounded memory, and none is lost or done twice."""

from __future__ import annotations

import asyncio
import enum
import errno
import hashlib
import os
import queue
import signal
import sys
import time
from collections import Counter
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Coroutine, Iterator, Sequence
from contextlib import aclosing, suppress
from email.utils import formatdate
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import anyio
import attrs
import pytest
from conftest import (
    KEY,
    NO_RETRIES,
    QUICK_RETRIES,
    RawRequest,
    RawServer,
    client_of,
    nothing_leaks,
    raw_server,
    reply,
    silence,
)

from aiofiles_api import (
    APIConnectionError,
    APITimeoutError,
    ClientClosedError,
    DestinationError,
    DownloadItem,
    FileObject,
    FilesClient,
    FilesError,
    InternalServerError,
    InvalidArgumentError,
    Journal,
    JournalEntry,
    JournalError,
    NotFoundError,
    Outcome,
    Progress,
    RetryPolicy,
    SourceError,
    TransferManager,
    UploadItem,
    UploadUncertainError,
    bulk,
    identity,
    read_journal,
)
from aiofiles_api.emulator import Delay, Emulator, ErrorReply, Fault, LostReply, Reset, Stall
from aiofiles_api.journal import Row
from aiofiles_api.naming import Names

pytestmark = pytest.mark.anyio


@pytest.fixture
def settles_soon(monkeypatch: pytest.MonkeyPatch) -> None:
    """What a run has sent before it was ended is stored at once, or never."""
    monkeypatch.setattr("aiofiles_api.recovery.SETTLED", 1.0)


T = TypeVar("T")
R = TypeVar("R")
MOST_AHEAD = 48
"""The small constant: items that are pulled beyond those that are worked on."""


async def collected(outcomes: AsyncGenerator[T, None]) -> list[T]:
    async with aclosing(outcomes):
        return [outcome async for outcome in outcomes]


def sources(directory: Path, count: int, *, size: int = 10) -> list[str]:
    """Return the paths of new files, all of different content."""
    directory.mkdir(exist_ok=True)
    paths = [directory / f"{number}.bin" for number in range(count)]
    for number, path in enumerate(paths):
        path.write_bytes(str(number).encode().rjust(size, b"."))
    return [str(path) for path in paths]


async def contents(files: FilesClient) -> Counter[bytes]:
    """Return what is on the server."""
    return Counter([await files.read(file) async for file in files.list()])


async def stored(files: FilesClient, count: int, *, name: str = "same.txt") -> list[FileObject]:
    """Return new files of one name and different contents."""
    return [
        await files.upload(b"%d" % number, purpose="batch", filename=name)
        for number in range(count)
    ]


# --- the engine ----------------------------------------------------------------------------------


async def test_every_item_has_its_outcome(files: FilesClient, tmp_path: Path) -> None:
    items: list[str | bytes | UploadItem] = [
        *sources(tmp_path, 20),
        b"bytes",
        UploadItem(b"more", filename="x"),
    ]
    outcomes = await collected(TransferManager(files).upload_all(items, purpose="batch"))
    assert [outcome.error for outcome in outcomes] == [None] * 22
    assert {outcome.attempts for outcome in outcomes} == {1}
    assert sorted(map(repr, items)) == sorted(repr(outcome.item) for outcome in outcomes)
    assert len(await contents(files)) == 22


async def test_what_an_item_says_itself_prevails(files: FilesClient) -> None:
    item = UploadItem(
        b"{}",
        filename="own.jsonl",
        purpose="user_data",
        content_type="text/x-own",
        expires_after=3600,
    )
    manager = TransferManager(files)
    both = manager.upload_all([item, UploadItem(b"x")], purpose="batch", expires_after=7200)
    results = {outcome.item: outcome.result for outcome in await collected(both)}
    own = results[item]
    other = results[UploadItem(b"x")]
    assert own is not None
    assert other is not None
    assert (own.filename, own.purpose) == ("own.jsonl", "user_data")
    assert own.expires_at == own.created_at + 3600
    assert (other.filename, other.purpose) == ("upload", "batch")
    assert other.expires_at == other.created_at + 7200


async def test_an_item_that_fails_stops_no_other(files: FilesClient) -> None:
    items: list[str | bytes | UploadItem] = ["/nowhere", b"x", ""]
    items += [UploadItem(b"y", expires_after=1), UploadItem(b"z", purpose="")]
    outcomes = await collected(TransferManager(files).upload_all(items, purpose="batch"))
    errors = {str(one.item): type(one.error) for one in outcomes}
    assert errors.pop("b'x'") is type(None)
    assert errors.pop("/nowhere") is SourceError
    assert sum(kind is InvalidArgumentError for kind in errors.values()) == 2
    assert {outcome.attempts for outcome in outcomes if outcome.error} == {0}
    assert all(outcome.result is None for outcome in outcomes if outcome.error)


class Counted:
    """An iterable of numbered bytes that counts how many were taken."""

    def __init__(self, count: int) -> None:
        self.count = count
        self.taken = 0
        self.is_closed = False

    def generator(self) -> Iterator[bytes]:
        try:
            for number in range(self.count):
                self.taken += 1
                yield b"%d" % number
        finally:
            self.is_closed = True

    async def agenerator(self) -> AsyncIterator[bytes]:
        for one in self.generator():
            yield one

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, index: int) -> bytes:
        if index >= self.count:
            raise IndexError
        self.taken = max(self.taken, index + 1)
        return b"%d" % index


KINDS: list[Callable[[Counted], object]] = [Counted.generator, Counted.agenerator]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("concurrency", [1, 4])
async def test_items_are_taken_only_as_they_are_needed(
    files: FilesClient, kind: Callable[[Counted], Iterator[bytes]], concurrency: int
) -> None:
    counted = Counted(100)
    manager = TransferManager(files, concurrency=concurrency)
    yielded = 0
    async for _ in manager.upload_all(kind(counted), purpose="batch"):
        yielded += 1
        assert counted.taken - yielded <= concurrency + 8
        if yielded % 10 == 0:
            await asyncio.sleep(0.01)  # a slow consumer holds everybody back
            assert counted.taken - yielded <= concurrency + 8
    assert yielded == 100
    assert counted.is_closed


async def test_memory_is_bounded_whatever_the_number_of_items() -> None:
    """Refused ids cost no request, so many items can be gone through in a test."""
    async with FilesClient(base_url="http://127.0.0.1:9/v1", api_key=KEY) as files:
        manager = TransferManager(files, concurrency=4)
        alive = 0
        most = 0

        class Item(str):
            __slots__ = ()

            def __init__(self, _text: str) -> None:
                nonlocal alive, most
                alive += 1
                most = max(most, alive)

            def __del__(self) -> None:
                nonlocal alive
                alive -= 1

        items = (Item("a/b") for _ in range(5_000))
        count = 0
        async for outcome in manager.delete_all(items):
            assert isinstance(outcome.error, InvalidArgumentError)
            count += 1
        assert count == 5_000
        assert most <= 4 + 8 + 4


async def test_an_iterable_that_blocks_holds_up_neither_the_loop_nor_what_it_gave(
    files: FilesClient,
) -> None:
    given: queue.Queue[bytes | None] = queue.Queue()
    items: Iterator[Any] = iter(given.get, None)
    outcomes = TransferManager(files).upload_all(items, purpose="batch")
    with anyio.fail_after(20):
        for number in range(3):  # each is uploaded although the next one is not there yet
            given.put(b"%d" % number)
            assert (await anext(outcomes)).error is None
        given.put(b"a")
        given.put(b"b")
        assert [(await anext(outcomes)).error for _ in range(2)] == [None, None]
        given.put(None)
        assert [outcome async for outcome in outcomes] == []


async def test_items_may_come_from_any_asynchronous_iterator(files: FilesClient) -> None:
    class Items:
        def __init__(self) -> None:
            self.left = 3

        def __aiter__(self) -> Items:
            return self

        async def __anext__(self) -> bytes:
            self.left -= 1
            if self.left < 0:
                raise StopAsyncIteration
            return b"x"

    outcomes = await collected(TransferManager(files).upload_all(Items(), purpose="batch"))
    assert [one.error for one in outcomes] == [None] * 3


async def test_items_may_come_from_a_listing_of_the_same_client(files: FilesClient) -> None:
    await stored(files, 30)
    manager = TransferManager(files, concurrency=4)
    outcomes = await collected(manager.delete_all(files.list(page_size=7)))
    assert [one.result.deleted for one in outcomes if one.result] == [True] * 30
    assert not await contents(files)


@pytest.mark.parametrize("is_async", [False, True])
async def test_what_the_iterable_raises_ends_all_and_is_raised(
    server: Emulator, *, is_async: bool
) -> None:
    def items() -> Iterator[bytes]:
        yield b"0"
        yield b"1"
        raise LookupError("no more")

    async def aitems() -> AsyncIterator[bytes]:
        for one in items():
            yield one

    async with (
        nothing_leaks(),
        FilesClient(base_url=server.base_url, api_key=KEY) as files,
    ):
        outcomes = TransferManager(files).upload_all(
            aitems() if is_async else items(), purpose="batch"
        )
        with pytest.raises(LookupError, match="no more"):
            await collected(outcomes)


async def test_what_a_progress_sink_raises_ends_all_and_is_raised(files: FilesClient) -> None:
    def sink(item: bytes, progress: Progress) -> None:
        if item == b"3":
            raise LookupError("no more")

    items = [b"%d" % number for number in range(10)]
    with pytest.raises(LookupError, match="no more"):
        await collected(TransferManager(files).upload_all(items, purpose="batch", progress=sink))


@pytest.mark.parametrize("what", ["items", "asynchronous items", "sink"])
async def test_a_cancelled_error_of_the_callers_own_ends_all_and_is_no_cancellation(
    files: FilesClient, what: str
) -> None:
    async def aitems() -> AsyncIterator[bytes]:
        for item in items():
            yield item

    def items() -> Iterator[bytes]:
        yield from (b"%d" % number for number in range(100))
        if what != "sink":
            raise asyncio.CancelledError

    def sink(item: bytes, progress: Progress) -> None:
        if what == "sink" and item == b"3":
            raise asyncio.CancelledError

    given = aitems() if what == "asynchronous items" else items()
    async with asyncio.timeout(10):
        with pytest.raises(FilesError, match="raised CancelledError, although nobody cancelled"):
            await collected(
                TransferManager(files).upload_all(given, purpose="batch", progress=sink)
            )


async def test_a_key_whose_task_was_cancelled_fails_one_item_and_no_other(
    server: Emulator,
) -> None:
    asked = 0

    async def key() -> str:
        nonlocal asked
        asked += 1
        if asked == 3:
            refreshing = asyncio.ensure_future(asyncio.sleep(60))
            refreshing.cancel()
            await refreshing
        return KEY

    items = [b"%d" % number for number in range(100)]
    async with asyncio.timeout(10), FilesClient(api_key=key, base_url=server.base_url) as files:
        outcomes = await collected(TransferManager(files).upload_all(items, purpose="batch"))
        assert len(outcomes) == 100
        [error] = [outcome.error for outcome in outcomes if outcome.error is not None]
        assert error.retryable
        assert str(error).startswith("api_key: what it waits for was cancelled")
        assert len(await contents(files)) == 99


async def test_progress_is_told_with_its_item(files: FilesClient, tmp_path: Path) -> None:
    told: list[tuple[object, Progress]] = []
    manager = TransferManager(files)
    outcomes = await collected(
        manager.upload_all(
            [b"abc", b"x"], purpose="batch", progress=lambda item, now: told.append((item, now))
        )
    )
    assert (b"abc", Progress(3, 3, 1)) in told
    assert (b"x", Progress(1, 1, 1)) in told
    downloaded: list[tuple[object, Progress]] = []
    results = [outcome.result for outcome in outcomes if outcome.result]
    await collected(
        manager.download_all(
            results, tmp_path, progress=lambda item, now: downloaded.append((item, now))
        )
    )
    assert {item.id for item, _ in downloaded if isinstance(item, FileObject)} == {
        result.id for result in results
    }


@pytest.mark.parametrize("items", ["path", b"bytes", 3, None])
async def test_one_item_is_not_many(files: FilesClient, items: Any) -> None:
    manager = TransferManager(files)
    for call in (
        lambda: manager.upload_all(items, purpose="batch"),
        lambda: manager.download_all(items, "x"),
        lambda: manager.delete_all(items),
    ):
        with pytest.raises(InvalidArgumentError, match="iterable of items"):
            call()


async def test_what_cannot_work_is_refused_at_once(files: FilesClient) -> None:
    for concurrency in (0, -1, 1.5, True):
        with pytest.raises(InvalidArgumentError, match="concurrency"):
            TransferManager(files, concurrency=concurrency)  # type: ignore[arg-type]
    with pytest.raises(InvalidArgumentError, match="journal"):
        TransferManager(files, journal="")
    manager = TransferManager(files)
    with pytest.raises(InvalidArgumentError, match="purpose"):
        manager.upload_all([], purpose="")
    with pytest.raises(InvalidArgumentError, match="expires_after"):
        manager.upload_all([], purpose="batch", expires_after=1)
    with pytest.raises(InvalidArgumentError, match="on_uncertain"):
        manager.upload_all([], purpose="batch", on_uncertain="hope")  # type: ignore[arg-type]
    with pytest.raises(InvalidArgumentError, match="directory"):
        manager.download_all([], b"x")  # type: ignore[arg-type]


async def test_no_items_are_no_outcomes(files: FilesClient) -> None:
    assert await collected(TransferManager(files).upload_all([], purpose="batch")) == []
    assert await collected(TransferManager(files).delete_all(iter(()))) == []


async def test_attempts_are_those_that_were_made(server: Emulator, tmp_path: Path) -> None:
    async with FilesClient(base_url=server.base_url, api_key=KEY, retry=QUICK_RETRIES) as files:
        manager = TransferManager(files)

        async def attempts(outcomes: AsyncGenerator[Outcome[T, R], None]) -> int:
            [outcome] = await collected(outcomes)
            return outcome.attempts

        server.faults = [Fault(ErrorReply(500, moment="early"), on="upload", times=2)]
        assert await attempts(manager.upload_all([b"x"], purpose="batch")) == 3
        [file] = [file async for file in files.list()]
        server.faults = [Fault(ErrorReply(503), on="content", times=1)]
        assert await attempts(manager.download_all([file], tmp_path)) == 2
        server.faults = [Fault(ErrorReply(503), on="content")]
        assert await attempts(manager.download_all([file], tmp_path)) == 4
        server.faults = [Fault(ErrorReply(503), on="delete", times=3)]
        assert await attempts(manager.delete_all([file])) == 4
        server.faults = [Fault(ErrorReply(500, moment="early"), on="upload")]
        assert await attempts(manager.upload_all([b"x"], purpose="batch")) == 4
        assert await attempts(manager.download_all(["file-unknown"], tmp_path)) == 1


# --- the end -------------------------------------------------------------------------------------


async def test_fail_fast_ends_behind_the_first_failure(server: Emulator) -> None:
    server.faults = [Fault(Stall("request"), on="upload", nth=2)]
    async with FilesClient(base_url=server.base_url, api_key=KEY) as files, nothing_leaks():
        counted = Counted(1000)

        def items() -> Iterator[bytes | str]:
            yield b"a"
            yield b"stalls"
            yield "/nowhere"
            yield from counted.generator()

        manager = TransferManager(files, concurrency=3)
        outcomes = await collected(manager.upload_all(items(), purpose="batch", fail_fast=True))
        assert outcomes[-1].item == "/nowhere"
        assert [one.error is None for one in outcomes] == [True] * (len(outcomes) - 1) + [False]
        assert counted.taken < 100
        await files.aclose()


Operation = Callable[[TransferManager, Path], AsyncGenerator[Outcome[object, object], None]]


def uploading(manager: TransferManager, _directory: Path) -> AsyncGenerator[object, None]:
    return manager.upload_all((b"%d" % number for number in range(100)), purpose="batch")


def downloading(manager: TransferManager, directory: Path) -> AsyncGenerator[object, None]:
    return manager.download_all((f"file-{number}" for number in range(100)), directory)


def deleting(manager: TransferManager, _directory: Path) -> AsyncGenerator[object, None]:
    async def ids() -> AsyncIterator[str]:
        for number in range(100):
            yield f"file-{number}"

    return manager.delete_all(ids())


def journalled(manager: TransferManager, directory: Path) -> AsyncGenerator[object, None]:
    manager = TransferManager(manager._client, concurrency=4, journal=directory / "journal")
    return manager.upload_all(sources(directory / "sources", 100), purpose="batch")


OPERATIONS = [uploading, downloading, deleting, journalled]


@pytest.mark.parametrize("turns", [0, 1, 2, 5, 10, 50, 200])
@pytest.mark.parametrize("operation", OPERATIONS)
async def test_cancelling_at_any_turn_leaves_nothing(
    tmp_path: Path, operation: Operation, turns: int
) -> None:
    async with nothing_leaks(), raw_server(silence) as raw, client_of(raw) as files:
        manager = TransferManager(files, concurrency=4)
        task = asyncio.ensure_future(collected(operation(manager, tmp_path)))
        for _ in range(turns):
            await asyncio.sleep(0.0005)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        with anyio.move_on_after(turns * 0.0005) as scope:
            await collected(operation(manager, tmp_path))
        assert scope.cancelled_caught


@pytest.mark.parametrize("operation", OPERATIONS)
async def test_leaving_early_cancels_and_awaits_what_is_in_flight(
    server: Emulator, tmp_path: Path, operation: Operation
) -> None:
    server.faults = [Fault(Stall("request"), on="upload", nth=3)]
    async with (
        FilesClient(base_url=server.base_url, api_key=KEY, retry=NO_RETRIES) as files,
        nothing_leaks(),
    ):
        outcomes = operation(TransferManager(files, concurrency=4), tmp_path)
        await anext(outcomes)
        await outcomes.aclose()
        await files.aclose()


@pytest.mark.parametrize("operation", OPERATIONS)
async def test_closing_the_client_ends_all(tmp_path: Path, operation: Operation) -> None:
    async with nothing_leaks(), raw_server(silence) as raw, client_of(raw) as files:
        outcomes = operation(TransferManager(files, concurrency=4), tmp_path)
        task = asyncio.ensure_future(anext(outcomes))
        while not raw.requests:
            await asyncio.sleep(0.001)
        await files.aclose()
        with pytest.raises(ClientClosedError):
            await task
        with pytest.raises(ClientClosedError):
            await collected(operation(TransferManager(files), tmp_path))


async def test_closing_the_client_ends_the_wait_for_items(files: FilesClient) -> None:
    async def never() -> AsyncIterator[bytes]:
        await asyncio.Event().wait()
        yield b""

    task = asyncio.ensure_future(
        collected(TransferManager(files).upload_all(never(), purpose="batch"))
    )
    await asyncio.sleep(0.01)
    await files.aclose()
    with pytest.raises(ClientClosedError):
        await task


async def test_the_items_may_close_the_client(files: FilesClient) -> None:
    async def closing() -> AsyncIterator[bytes]:
        yield b"x"
        await files.aclose()
        yield b"never"

    async with asyncio.timeout(10):
        with pytest.raises(ClientClosedError):
            await collected(TransferManager(files).upload_all(closing(), purpose="batch"))


async def test_a_generator_that_is_never_begun_does_nothing(files: FilesClient) -> None:
    outcomes = TransferManager(files).upload_all([b"x"], purpose="batch")
    await outcomes.aclose()
    assert not await contents(files)


# --- downloads -----------------------------------------------------------------------------------


async def test_files_of_one_name_do_not_overwrite_one_another(
    files: FilesClient, tmp_path: Path
) -> None:
    same = await stored(files, 12)
    same += await stored(files, 2, name="SAME.TXT")
    items: list[str | FileObject] = [
        file if number % 2 else file.id for number, file in enumerate(same)
    ]
    manager = TransferManager(files, concurrency=5)
    for _ in range(2):  # the second time decides the same
        outcomes = await collected(manager.download_all(items, tmp_path / "out"))
        assert [one.error for one in outcomes] == [None] * 14
        paths = {one.result.file_id: one.result.path for one in outcomes if one.result}
        assert paths[same[0].id].name == "same.txt"
        for number, file in enumerate(same):
            stem, dot, extension = file.filename.partition(".")
            if number:
                assert paths[file.id].name == f"{stem}-{file.id}{dot}{extension}"
            assert paths[file.id].read_bytes() == b"%d" % (number if number < 12 else number - 12)
        assert len(os.listdir(tmp_path / "out")) == 14


async def test_an_item_may_name_its_file_and_its_digest(files: FilesClient, tmp_path: Path) -> None:
    [file] = await stored(files, 1)
    items = [
        DownloadItem(file.id, filename="../own name.txt"),
        DownloadItem(file, sha256="0" * 64),
    ]
    outcomes = await collected(TransferManager(files, concurrency=1).download_all(items, tmp_path))
    assert outcomes[0].result is not None
    assert outcomes[0].result.path == tmp_path / "own name.txt"
    assert "sha256" in str(outcomes[1].error)
    assert os.listdir(tmp_path) == ["own name.txt"]


async def test_a_file_that_is_missing_is_an_outcome(files: FilesClient, tmp_path: Path) -> None:
    [file] = await stored(files, 1)
    items = ["file-unknown", file.id, "no/id"]
    outcomes = await collected(TransferManager(files).download_all(items, tmp_path))
    errors = {str(one.item): type(one.error) for one in outcomes}
    assert errors == {
        "file-unknown": NotFoundError,
        file.id: type(None),
        "no/id": InvalidArgumentError,
    }


def test_names_are_given_once_whatever_a_server_sends() -> None:
    names = Names()
    hostile = [
        "a.txt",
        "A.TXT",
        "a-1.txt",
        "a-1-2.txt",
        "a.txt",
        "é",
        "e\u0301",
        "../a.txt",
        ".",
        "",
    ]
    hostile += (
        ["x" * 300 + ".txt"] * 3 + ["y" * 100 + "." + "z" * 100] * 3 + [f"{n}" for n in range(99)]
    )
    given = [names.choose(name, "1") for name in hostile]
    given += [names.choose("long.txt", "i" * 400) for _ in range(3)]
    assert len({name.casefold() for name in given}) == len(given)
    assert all(len(name.encode()) <= 255 and "/" not in name for name in given)
    assert given[:3] == ["a.txt", "A-1.TXT", "a-1-1.txt"]


# --- deletions -----------------------------------------------------------------------------------


async def test_deletions_are_each_reported_rightly(server: Emulator) -> None:
    async with FilesClient(base_url=server.base_url, api_key=KEY, retry=QUICK_RETRIES) as files:
        there = await stored(files, 60)
        gone = there[::20]
        for file in gone:
            await files.delete(file)
        server.faults = [Fault(ErrorReply(503), on="delete", probability=0.2, seed=3, times=6)]
        outcomes = await collected(TransferManager(files).delete_all(there))
        assert [one.error for one in outcomes] == [None] * 60
        not_deleted = {one.item.id for one in outcomes if one.result and not one.result.deleted}
        assert not_deleted == {file.id for file in gone}
        assert sum(one.attempts - 1 for one in outcomes) == 6
        assert not await contents(files)
        missing = await collected(TransferManager(files).delete_all(gone, missing_ok=False))
        assert {type(one.error) for one in missing} == {NotFoundError}


# --- with a journal ------------------------------------------------------------------------------


async def entries(journal: Path) -> list[JournalEntry]:
    return await collected(read_journal(journal))


async def test_what_is_done_is_not_done_again(files: FilesClient, tmp_path: Path) -> None:
    paths = sources(tmp_path / "in", 30)
    manager = TransferManager(files, journal=tmp_path / "journal")
    first = await collected(manager.upload_all(paths, purpose="batch"))
    again = await collected(manager.upload_all(map(Path, paths), purpose="batch"))
    assert {one.attempts for one in first} == {1}
    assert {one.attempts for one in again} == {0}
    assert {one.item: one.result for one in first} == {str(one.item): one.result for one in again}
    other = await collected(manager.upload_all(paths[:3], purpose="user_data"))
    assert {one.attempts for one in other} == {1}  # of another purpose it is another file
    assert (await contents(files)).total() == 33
    results = [one.result for one in first if one.result]
    out = tmp_path / "out"
    for attempts in (1, 0):
        outcomes = await collected(manager.download_all(results, out))
        assert {one.attempts for one in outcomes} == {attempts}
        assert len(os.listdir(out)) == 30
    (out / "3.bin").unlink()
    (out / "4.bin").write_bytes(b"shorter")
    by_id = await collected(manager.download_all([one.id for one in results], out))
    assert sorted(one.attempts for one in by_id) == [0] * 28 + [1] * 2
    assert sorted(os.listdir(out)) == sorted(Path(path).name for path in paths)
    for attempts in (1, 0):
        gone = await collected(manager.delete_all(results))
        assert {one.attempts for one in gone} == {attempts}
    states = Counter((entry.kind, entry.state) for entry in await entries(tmp_path / "journal"))
    assert states == {("upload", "done"): 33, ("download", "done"): 30, ("delete", "done"): 30}


async def test_the_name_of_a_finished_download_is_not_given_away(
    files: FilesClient, tmp_path: Path
) -> None:
    one, two = await stored(files, 2)
    manager = TransferManager(files, journal=tmp_path / "journal")
    out = tmp_path / "out"
    await collected(manager.download_all([one], out))
    await collected(manager.download_all([two], out))
    assert (out / "same.txt").read_bytes() == b"0"
    assert (out / f"same-{two.id}.txt").read_bytes() == b"1"
    (out / "same.txt").unlink()
    await collected(manager.download_all([two, one], out))
    assert (out / "same.txt").read_bytes() == b"0"


@pytest.mark.parametrize("is_link", [True, False])
async def test_no_download_is_given_the_name_of_a_file_of_the_runs_own_journal(
    files: FilesClient, tmp_path: Path, *, is_link: bool
) -> None:
    names = ["a.txt", "run.db", "RUN.DB-wal", "run.db-shm", "run.db-journal", "run.db-lock"]
    wanted = [await files.upload(b"1", purpose="batch", filename=name) for name in names]
    out = tmp_path / "out"
    out.mkdir()
    if is_link:
        (tmp_path / "elsewhere").mkdir()
        (out / "run.db").symlink_to(tmp_path / "elsewhere" / "real.db")
    manager = TransferManager(files, journal=out / "run.db")
    for attempts in (1, 0):
        outcomes = await collected(manager.download_all(wanted, out))
        assert [(one.error, one.attempts) for one in outcomes] == [(None, attempts)] * 6
    assert {path.name for path in out.iterdir()} & set(names) == {"a.txt", "run.db"}
    assert len(await entries(out / "run.db")) == 6


async def test_a_run_does_not_send_its_own_journal(files: FilesClient, tmp_path: Path) -> None:
    items: list[str | Path] = [*sources(tmp_path, 3), tmp_path / "run.db"]
    items.append(str(tmp_path / "run.db-wal"))
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "run.db").write_bytes(b"of the same name")
    items.append(tmp_path / "other" / "run.db")
    manager = TransferManager(files, journal=tmp_path / "run.db")
    for _ in range(2):
        outcomes = await collected(manager.upload_all(items, purpose="batch"))
        refused = {outcome.item: str(outcome.error) for outcome in outcomes if outcome.error}
        assert set(refused) == set(items[3:5])
        assert all("is the run's own journal" in error for error in refused.values())
    assert (await contents(files)).total() == 4


@pytest.mark.parametrize("has_journal", [False, True])
@pytest.mark.parametrize("is_first_lost", [False, True])
async def test_two_items_of_one_content_become_two_files_though_the_server_heeds_the_key(
    tmp_path: Path, *, has_journal: bool, is_first_lost: bool
) -> None:
    """The look for one finds what the other's lost reply was about."""
    for name in "ab":
        (tmp_path / name).write_bytes(b"the same")
    async with (
        Emulator(idempotency=True) as server,
        FilesClient(base_url=server.base_url, api_key=KEY, retry=QUICK_RETRIES) as files,
    ):
        server.faults = [
            Fault(LostReply(), on="upload", nth=1 if is_first_lost else 2),
            Fault(ErrorReply(503), on="upload", nth=2 if is_first_lost else 1),
        ]
        manager = TransferManager(files, journal=tmp_path / "journal" if has_journal else None)
        items = [tmp_path / "a", tmp_path / "b"]
        outcomes = await collected(manager.upload_all(items, purpose="batch"))
        ids = {outcome.result.id for outcome in outcomes if outcome.result}
        assert ids == {file.id async for file in files.list()}
        assert len(ids) == 2


async def test_a_server_that_stores_equal_contents_once_gets_each_upload_once(
    tmp_path: Path,
) -> None:
    stored_once = (
        '{"id": "file-1", "bytes": 10, "created_at": 1, "filename": "f", "purpose": "batch"}'
    )
    async with raw_server(reply(stored_once)) as raw, client_of(raw) as files:
        manager = TransferManager(files, journal=tmp_path / "journal")
        items = sources(tmp_path / "in", 10)
        outcomes = await collected(manager.upload_all(items, purpose="batch"))
        assert [outcome.error for outcome in outcomes] == [None] * 10
        assert len(raw.requests) == 10


async def test_a_changed_file_is_a_new_item(files: FilesClient, tmp_path: Path) -> None:
    [path] = sources(tmp_path / "in", 1)
    manager = TransferManager(files, journal=tmp_path / "journal")

    async def attempts(*, checksum: bool = False) -> int:
        [one] = await collected(manager.upload_all([path], purpose="batch", checksum=checksum))
        return one.attempts

    assert await attempts() == 1
    os.utime(path, ns=(1, 1))
    assert await attempts() == 1  # touched: nobody knows that it is the same
    assert await attempts(checksum=True) == 0  # its digest is known from here on
    os.utime(path, ns=(2, 2))
    assert await attempts(checksum=True) == 0
    assert await attempts() == 0
    Path(path).write_bytes(b"another..!")
    os.utime(path, ns=(2, 2))
    assert await attempts(checksum=True) == 1  # of the same time and length
    large = tmp_path / "large"
    large.write_bytes(b"x" * 300_000)
    mixed: list[str | Path] = [large, tmp_path, "/nowhere"]
    outcomes = await collected(manager.upload_all(mixed, purpose="batch", checksum=True))
    assert sorted(one.error is None for one in outcomes) == [False, False, True]
    found = {entry.key: entry.sha256 for entry in await entries(tmp_path / "journal")}
    assert len(found[str(large)] or "") == 64


async def test_one_path_twice_in_a_run_is_one_upload(files: FilesClient, tmp_path: Path) -> None:
    paths = sources(tmp_path / "in", 3)
    manager = TransferManager(files, journal=tmp_path / "journal")
    outcomes = await collected(manager.upload_all(paths * 20, purpose="batch"))
    assert len(outcomes) == 60
    assert sum(one.attempts for one in outcomes) == 3
    assert len({one.result.id for one in outcomes if one.result}) == 3
    assert (await contents(files)).total() == 3


async def test_what_a_journal_cannot_recognize_is_refused(
    files: FilesClient, tmp_path: Path
) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    manager = TransferManager(files, journal=tmp_path / "journal")
    items: list[bytes | Path] = [b"bytes", pipe]
    outcomes = await collected(manager.upload_all(items, purpose="batch"))
    assert {type(one.error) for one in outcomes} == {InvalidArgumentError}
    assert {one.attempts for one in outcomes} == {0}
    wrong = await collected(manager.download_all(["no/id"], tmp_path))
    wrong_again = await collected(manager.delete_all(["no/id"]))
    assert {type(one.error) for one in wrong + wrong_again} == {InvalidArgumentError}
    assert await entries(tmp_path / "journal") == []


async def test_what_has_failed_is_tried_again(server: Emulator, tmp_path: Path) -> None:
    paths = sources(tmp_path / "in", 5)
    async with FilesClient(base_url=server.base_url, api_key=KEY, retry=NO_RETRIES) as files:
        manager = TransferManager(files, journal=tmp_path / "journal")
        server.faults = [Fault(ErrorReply(500, moment="early"), on="upload")]
        outcomes = await collected(manager.upload_all(paths * 2, purpose="batch"))
        assert {type(one.error) for one in outcomes} == {InternalServerError}
        failed = await entries(tmp_path / "journal")
        assert {(one.state, one.attempts, one.key in paths) for one in failed} == {
            ("failed", 1, True)
        }
        assert all("500" in (one.reason or "") for one in failed)
        server.faults = []
        outcomes = await collected(manager.upload_all(paths, purpose="batch"))
        assert [one.attempts for one in outcomes] == [1] * 5
        done = await entries(tmp_path / "journal")
        assert {(one.state, one.reason) for one in done} == {("done", None)}


async def begin(
    server: Emulator | RawServer,
    files: FilesClient,
    journal: Path,
    paths: list[str],
    count: int,
) -> None:
    """Begin to upload, and leave when so many requests have come to nothing."""
    manager = TransferManager(files, concurrency=count, journal=journal)
    await left_behind(server, collected(manager.upload_all(paths, purpose="batch")), count)


async def left_behind(
    server: Emulator | RawServer, run: Coroutine[object, object, object], count: int
) -> None:
    """Leave a run a little after so many more requests have come."""
    before = len(server.requests)
    task = asyncio.create_task(run)
    while len(server.requests) < before + count:
        await asyncio.sleep(0.01)
    await asyncio.sleep(0.3)  # in which what is to be stored is stored
    task.cancel()
    with suppress(asyncio.CancelledError):
        await task


@pytest.mark.usefixtures("settles_soon")
async def test_what_was_begun_is_looked_for_before_it_is_sent_again(
    server: Emulator, tmp_path: Path
) -> None:
    """Three are stored without a reply, two of them of the same content; three are not stored."""
    paths = sources(tmp_path / "in", 6)
    Path(paths[1]).write_bytes(Path(paths[0]).read_bytes())
    server.faults = [Fault(Stall("response"), on="upload", times=6)]
    async with FilesClient(base_url=server.base_url, api_key=KEY) as files:
        await begin(server, files, tmp_path / "journal", paths[:3], 3)
        server.faults = [Fault(Stall("request"), on="upload", times=6)]
        await begin(server, files, tmp_path / "journal", paths[3:], 3)
        server.faults = []
        # The second run has found what the first one had begun.
        states = [entry.state for entry in await entries(tmp_path / "journal")]
        assert states == ["done"] * 3 + ["started"] * 3
        before = {file.id: file.filename async for file in files.list()}
    async with FilesClient(base_url=server.base_url, api_key=KEY) as files:
        manager = TransferManager(files, journal=tmp_path / "journal")
        outcomes = await collected(manager.upload_all(paths, purpose="batch"))
        assert [one.error for one in outcomes] == [None] * 6
        ids = {one.item: one.result.id for one in outcomes if one.result}
        assert len(set(ids.values())) == 6
        for path in paths[:3]:  # each was found under its own name
            assert before[ids[path]] == Path(path).name
        wanted = Counter(Path(path).read_bytes() for path in paths)
        assert await contents(files) == wanted


@pytest.mark.usefixtures("settles_soon")
@pytest.mark.parametrize("clock", ["of this machine", "of the server"])
async def test_what_was_begun_is_found_though_a_clock_was_wrong(
    server: Emulator, tmp_path: Path, clock: str
) -> None:
    """This machine's has been set back by a minute since, or the server's parts disagree."""
    paths = sources(tmp_path / "in", 1)
    server.faults = [Fault(Stall("response"), on="upload", times=1)]
    async with FilesClient(base_url=server.base_url, api_key=KEY) as files:
        await begin(server, files, tmp_path / "journal", paths, 1)
        [file] = [file async for file in files.list()]
        async with Journal(tmp_path / "journal") as journal:
            [row] = await journal.rows("kind = 'upload'", ())
            if clock == "of the server":
                row.newest_before = file.created_at + 6
            else:
                row.started_at = time.time() + 60
            await journal.write([row])
        manager = TransferManager(files, journal=tmp_path / "journal")
        [outcome] = await collected(manager.upload_all(paths, purpose="batch"))
        assert (outcome.result, outcome.attempts) == (file, 0)


async def test_what_a_look_that_was_broken_off_had_found_is_found_again(
    server: Emulator, tmp_path: Path
) -> None:
    paths = sources(tmp_path / "in", 2)
    journal = tmp_path / "journal"
    async with FilesClient(base_url=server.base_url, api_key=KEY) as files:
        server.faults = [
            Fault(Stall("response"), on="upload", times=1),
            Fault(Stall("request"), on="upload", times=1),
        ]
        await begin(server, files, journal, paths, 2)
        # One of them is found, and while the other one may still come, the run is left.
        manager = TransferManager(files, journal=journal)
        await left_behind(server, collected(manager.upload_all(paths, purpose="batch")), 3)
        outcomes = await collected(manager.upload_all(paths, purpose="batch"))
        assert sorted(one.attempts for one in outcomes) == [0, 1]
        assert (await contents(files)).total() == 2


@pytest.mark.parametrize("on_uncertain", ["raise", "resend"])
async def test_the_caller_may_decide_what_becomes_of_what_was_begun(
    server: Emulator, tmp_path: Path, on_uncertain: str
) -> None:
    [path] = sources(tmp_path / "in", 1)
    server.faults = [Fault(Stall("response"), on="upload", times=1)]
    async with FilesClient(base_url=server.base_url, api_key=KEY) as files:
        await begin(server, files, tmp_path / "journal", [path], 1)
        manager = TransferManager(files, journal=tmp_path / "journal")
        [outcome] = await collected(
            manager.upload_all([path], purpose="batch", on_uncertain=on_uncertain)  # type: ignore[arg-type]
        )
        if on_uncertain == "raise":
            assert isinstance(outcome.error, UploadUncertainError)
            assert "on_uncertain='reconcile'" in str(outcome.error)
            assert outcome.attempts == 0
        else:
            assert outcome.attempts == 1


async def test_an_uncertain_upload_stays_begun(server: Emulator, tmp_path: Path) -> None:
    [path] = sources(tmp_path / "in", 1)
    server.faults = [Fault(LostReply(), on="upload"), Fault(ErrorReply(500), on="list")]
    async with FilesClient(base_url=server.base_url, api_key=KEY, retry=NO_RETRIES) as files:
        manager = TransferManager(files, journal=tmp_path / "journal")
        [outcome] = await collected(manager.upload_all([path], purpose="batch"))
        assert isinstance(outcome.error, UploadUncertainError)
        [entry] = await entries(tmp_path / "journal")
        assert (entry.state, entry.attempts) == ("started", 1)
        with pytest.raises(UploadUncertainError, match="run again"):
            await collected(manager.upload_all([path], purpose="batch"))
        server.faults = []
        [outcome] = await collected(manager.upload_all([path], purpose="batch"))
        assert (outcome.error, outcome.attempts) == (None, 0)
        assert (await contents(files)).total() == 1


@pytest.mark.usefixtures("settles_soon")
async def test_an_upload_that_is_repeated_has_the_same_idempotency_key(tmp_path: Path) -> None:
    keys: list[str] = []

    async def refuse(request: RawRequest, writer: asyncio.StreamWriter) -> None:
        keys.append(request.headers.get("idempotency-key", ""))
        await reply('{"data": [], "object": "list", "has_more": false}', status="400 No")(
            request, writer
        )

    async def hang(request: RawRequest, writer: asyncio.StreamWriter) -> None:
        keys.append(request.headers.get("idempotency-key", ""))
        await silence(request, writer)

    empty = reply('{"data": [], "object": "list", "has_more": false}')
    paths = sources(tmp_path / "in", 1)
    async with raw_server(hang, empty, empty, empty, empty, empty, refuse) as raw:
        async with client_of(raw) as files:
            await begin(raw, files, tmp_path / "journal", paths, 1)
            raw.script = [*raw.script[:1], *[empty] * 20]

            async def by_method(request: RawRequest, writer: asyncio.StreamWriter) -> None:
                step = refuse if request.line.startswith("POST") else empty
                await step(request, writer)

            raw.script = [by_method]
            manager = TransferManager(files, journal=tmp_path / "journal")
            for _ in range(2):
                [outcome] = await collected(manager.upload_all(paths, purpose="batch"))
                assert outcome.error is not None
    first, repeated, after_failure = keys
    assert first == repeated != after_failure


async def test_deletions_that_were_begun_may_find_nothing(server: Emulator, tmp_path: Path) -> None:
    async with FilesClient(base_url=server.base_url, api_key=KEY, retry=NO_RETRIES) as files:
        there = await stored(files, 2)
        server.faults = [Fault(Stall("response"), on="delete", nth=1)]
        manager = TransferManager(files, concurrency=1, journal=tmp_path / "journal")
        await left_behind(server, collected(manager.delete_all(there)), 1)
        server.faults = []
        outcomes = await collected(manager.delete_all(there, missing_ok=False))
        assert [one.error for one in outcomes] == [None, None]


async def test_a_deletion_that_lost_its_reply_may_find_nothing_in_the_next_run(
    server: Emulator, tmp_path: Path
) -> None:
    async with FilesClient(base_url=server.base_url, api_key=KEY, retry=NO_RETRIES) as files:
        gone, lost = await stored(files, 2)
        await files.delete(gone)
        server.faults = [Fault(LostReply(), on="delete")]
        manager = TransferManager(files, journal=tmp_path / "journal")
        [first] = await collected(manager.delete_all([lost], missing_ok=False))
        assert isinstance(first.error, APIConnectionError)
        server.faults = []
        for _ in range(2):  # what the server refuses is not done, however often
            [refused] = await collected(manager.delete_all([gone], missing_ok=False))
            assert isinstance(refused.error, NotFoundError)
        assert {entry.state for entry in await entries(tmp_path / "journal")} == {"failed"}
        [outcome] = await collected(manager.delete_all([lost], missing_ok=False))
        assert outcome.result is not None
        assert not outcome.result.deleted


async def test_what_a_run_that_is_left_was_about_to_begin_is_not_begun(
    files: FilesClient, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    done, begun, new = await stored(files, 3)
    is_written = asyncio.Event()
    async with Journal(tmp_path / "journal") as journal:
        manager = TransferManager(files, journal=journal)
        await collected(manager.download_all([done, begun], tmp_path / "out"))
        [row] = await journal.rows("file_id = ?", (begun.id,))
        row.state = "started"
        await journal.write([row])
        write = journal.write

        async def write_and_stay(rows: Sequence[Row]) -> None:
            await write(rows)
            if not is_written.is_set():
                is_written.set()
                await asyncio.Event().wait()

        monkeypatch.setattr(journal, "write", write_and_stay)
        run = manager.download_all([done, begun, new], tmp_path / "out")
        task = asyncio.create_task(collected(run))
        await is_written.wait()
        states = [entry.state async for entry in journal.entries()]
        assert states == ["done", "started", "started"]
        task.cancel()
        await asyncio.wait([task])
        states = [entry.state async for entry in journal.entries()]
        assert states == ["done", "started", "planned"]


async def test_a_journal_that_is_open_stays_open(files: FilesClient, tmp_path: Path) -> None:
    paths = sources(tmp_path / "in", 4)
    async with Journal(tmp_path / "journal") as journal:
        manager = TransferManager(files, journal=journal)
        await collected(manager.upload_all(paths, purpose="batch"))
        results = await collected(manager.upload_all(paths, purpose="batch"))
        assert {one.attempts for one in results} == {0}
        found = await collected(journal.entries(state="done", kind="upload"))
        assert [entry.key for entry in found] == paths
        assert await collected(journal.entries(kind="delete")) == []
        downloads = manager.download_all([one.result for one in results if one.result], tmp_path)
        deletions = manager.delete_all([one.result for one in results if one.result])
        await anext(downloads)  # two kinds at once
        await anext(deletions)
        await collected(downloads)
        await collected(deletions)
    with pytest.raises(JournalError, match="not open"):
        await collected(manager.upload_all(paths, purpose="batch"))


async def test_two_kinds_of_runs_share_the_journal_of_a_manager(
    files: FilesClient, tmp_path: Path
) -> None:
    manager = TransferManager(files, concurrency=1, journal=tmp_path / "journal")
    there = await stored(files, 30)
    uploads = manager.upload_all(sources(tmp_path / "in", 30), purpose="batch")
    deletions = manager.delete_all(there)
    await anext(uploads)
    await anext(deletions)
    assert len(await collected(uploads)) == 29
    assert len(await collected(deletions)) == 29
    assert len(await entries(tmp_path / "journal")) == 60


async def test_two_runs_of_a_kind_do_not_share_a_journal(
    files: FilesClient, tmp_path: Path
) -> None:
    manager = TransferManager(files, concurrency=1, journal=tmp_path / "journal")
    paths = sources(tmp_path / "in", 100)
    first = manager.upload_all(paths, purpose="batch")
    await anext(first)
    with pytest.raises(JournalError, match="already"):
        await collected(manager.upload_all(paths, purpose="batch"))
    await first.aclose()


async def test_a_journal_that_cannot_be_opened_ends_the_run(
    files: FilesClient, tmp_path: Path
) -> None:
    manager = TransferManager(files, journal=tmp_path / "nowhere" / "journal")
    with pytest.raises(JournalError, match="directory that is there"):
        await collected(manager.upload_all([], purpose="batch"))


async def test_what_could_not_be_written_down_is_found_by_the_next_run(
    files: FilesClient, tmp_path: Path
) -> None:
    class Full(Journal):
        async def write(self, rows: Sequence[Row]) -> None:
            if any(row.state == "done" for row in rows):
                raise JournalError("no space")
            await super().write(rows)

    paths = sources(tmp_path / "in", 1)
    async with Full(tmp_path / "journal") as journal:
        manager = TransferManager(files, journal=journal)
        with pytest.raises(JournalError, match="no space"):
            await collected(manager.upload_all(paths, purpose="batch"))
    manager = TransferManager(files, journal=tmp_path / "journal")
    [outcome] = await collected(manager.upload_all(paths, purpose="batch"))
    assert (outcome.error, outcome.attempts) == (None, 0)
    assert (await contents(files)).total() == 1


async def test_what_is_done_when_a_run_fails_is_written_down_and_handed_out(
    files: FilesClient, tmp_path: Path
) -> None:
    """The second is done while the first is being written down, and then the third fails all."""
    paths = sources(tmp_path / "in", 3)
    is_writing, is_ending = asyncio.Event(), asyncio.Event()

    class Slow(Journal):
        async def write(self, rows: Sequence[Row]) -> None:
            if any(row.state == "done" for row in rows):
                is_writing.set()
                await is_ending.wait()
            await super().write(rows)

    async def items() -> AsyncIterator[str]:
        yield paths[0]
        await is_writing.wait()
        yield paths[1]
        yield paths[2]
        try:
            await asyncio.Event().wait()
        finally:
            is_ending.set()  # all stages are cancelled

    def sink(item: str, progress: Progress) -> None:
        if item == paths[2]:
            raise LookupError("no more")

    done = []
    async with Slow(tmp_path / "journal") as journal:
        manager = TransferManager(files, concurrency=1, journal=journal)
        with pytest.raises(LookupError, match="no more"):
            async for outcome in manager.upload_all(items(), purpose="batch", progress=sink):
                assert outcome.result is not None
                done.append((outcome.item, outcome.result.id))
    assert [path for path, _ in done] == paths[:2]
    found = await entries(tmp_path / "journal")
    assert [entry.state for entry in found] == ["done", "done", "started"]
    assert [(entry.key, entry.file_id) for entry in found[:2]] == done


async def test_a_disk_that_is_full_ends_the_run(files: FilesClient, tmp_path: Path) -> None:
    paths = sources(tmp_path / "in", 300)
    async with Journal(tmp_path / "journal") as journal:
        manager = TransferManager(files, journal=journal)
        await journal._call(lambda found: found._connection.execute("PRAGMA max_page_count = 12"))
        with pytest.raises(JournalError, match="free some space"):
            await collected(manager.upload_all([*paths, "/nowhere"], purpose="batch"))
    # With space, it goes on: nothing was lost, nothing is sent twice.
    manager = TransferManager(files, journal=tmp_path / "journal")
    outcomes = await collected(manager.upload_all(paths, purpose="batch"))
    assert [one.error for one in outcomes] == [None] * 300
    assert set((await contents(files)).values()) == {1}
    assert (await contents(files)).total() == 300


RUN = """
import asyncio, sys
from aiofiles_api import FilesClient, TransferManager

async def main(base_url, key, journal, most, *paths):
    left = int(most)
    async with FilesClient(base_url=base_url, api_key=key) as files:
        manager = TransferManager(files, concurrency=8, journal=journal)
        async for outcome in manager.upload_all(paths, purpose="batch"):
            assert outcome.error is None, outcome
            left -= outcome.attempts > 0  # what an earlier run has finished is not counted
            if not left:
                print("enough", flush=True)
                await asyncio.Event().wait()

asyncio.run(main(*sys.argv[1:]))
"""


@pytest.mark.timeout(120)
async def test_runs_that_are_killed_leave_each_file_exactly_once(
    server: Emulator, files: FilesClient, tmp_path: Path
) -> None:
    paths = sources(tmp_path / "in", 200, size=500)
    for one in range(0, 200, 10):
        Path(paths[one]).write_bytes(Path(paths[one + 1]).read_bytes())
    journal = str(tmp_path / "journal")
    # Who is killed cannot report what lines it ran, so it need not be asked.
    environment = {name: it for name, it in os.environ.items() if "COVERAGE" not in name}
    for most in (1, 40, 30, None):
        arguments = [server.base_url, KEY, journal, str(most or len(paths) + 1), *paths]
        run = [sys.executable, "-c", RUN, *arguments]
        async with await anyio.open_process(run, stderr=None, env=environment) as process:
            assert process.stdout is not None
            async for _ in process.stdout:
                process.send_signal(signal.SIGKILL)
            assert await process.wait() == (-signal.SIGKILL if most else 0)
    wanted = Counter(Path(path).read_bytes() for path in paths)
    assert await contents(files) == wanted
    found = await entries(tmp_path / "journal")
    assert {entry.state for entry in found} == {"done"}
    assert {entry.file_id for entry in found} == {file.id async for file in files.list()}


async def test_a_slow_server_is_given_time_to_store_what_a_killed_run_has_sent(
    tmp_path: Path,
) -> None:
    """The file shows in the listing only some time after the run has ended."""
    paths = sources(tmp_path / "in", 1)
    content = Path(paths[0]).read_bytes()
    shows_at = time.monotonic() + 1.5
    posts = 0

    async def script(request: RawRequest, writer: asyncio.StreamWriter) -> None:
        nonlocal posts
        if request.line.startswith("POST"):
            posts += 1
            await silence(request, writer)
        elif "/content" in request.line:
            await reply(content, headers={"Content-Type": "text/plain"})(request, writer)
        else:
            now = int(time.time())
            file = (
                f'{{"id": "file-late", "bytes": {len(content)}, "created_at": {now},'
                ' "filename": "0.bin", "purpose": "batch"}'
            )
            data = file if time.monotonic() > shows_at else ""
            await reply(f'{{"data": [{data}], "has_more": false}}')(request, writer)

    async with raw_server(script) as raw, client_of(raw) as files:
        await begin(raw, files, tmp_path / "journal", paths, 1)
        shows_at = time.monotonic() + 1.5
        manager = TransferManager(files, journal=tmp_path / "journal")
        [outcome] = await collected(manager.upload_all(paths, purpose="batch"))
        assert outcome.result is not None
        assert (outcome.result.id, outcome.attempts, posts) == ("file-late", 0, 1)


async def test_what_was_begun_and_has_changed_since_is_not_decided(
    server: Emulator, tmp_path: Path
) -> None:
    """Nobody can compare it any more, so the journal goes on saying that it was begun."""
    paths = sources(tmp_path / "in", 3)
    server.faults = [Fault(Stall("response"), on="upload", times=3)]
    async with FilesClient(base_url=server.base_url, api_key=KEY) as files:
        await begin(server, files, tmp_path / "journal", paths, 3)
    server.faults = []
    Path(paths[0]).write_bytes(b"changed")
    Path(paths[1]).unlink()
    os.mkfifo(paths[1])
    os.utime(paths[2], ns=(1, 1))
    Path(paths[2]).chmod(0)
    async with FilesClient(base_url=server.base_url, api_key=KEY) as files:
        manager = TransferManager(files, journal=tmp_path / "journal")
        outcomes = await collected(manager.upload_all(paths[:1], purpose="batch"))
        assert [(one.error, one.attempts) for one in outcomes] == [(None, 1)]
    states = [entry.state for entry in await entries(tmp_path / "journal")]
    assert states == ["started"] * 3 + ["done"]


@pytest.mark.usefixtures("settles_soon")
@pytest.mark.parametrize("has_date", [True, False])
@pytest.mark.parametrize("status", ["200 OK", "403 Forbidden", "500 Oh"])
async def test_a_candidate_is_read_or_it_is_said_that_it_cannot_be(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, status: str, *, has_date: bool
) -> None:
    """A server that shows no contents, fails, or does not tell the time; another file is there."""
    paths = sources(tmp_path / "in", 1)
    content = Path(paths[0]).read_bytes()
    posts = 0

    async def script(request: RawRequest, writer: asyncio.StreamWriter) -> None:
        nonlocal posts
        headers = {"Date": formatdate(usegmt=True)} if has_date else {}
        if request.line.startswith("POST"):
            posts += 1
            file = described("file-new", content)
            await (reply(file) if posts > 1 else silence)(request, writer)
        elif "/content" in request.line:
            body = content if "file-it" in request.line else content[::-1]
            await reply(body, status=status)(request, writer)
        else:
            both = ", ".join(described(name, content) for name in ("file-it", "file-other"))
            listed = f'{{"data": [{both}], "has_more": false}}'
            await reply(listed, headers=headers)(request, writer)

    async with raw_server(script) as raw, client_of(raw) as files:
        await begin(raw, files, tmp_path / "journal", paths, 1)
        manager = TransferManager(files, journal=tmp_path / "journal")
        outcomes = manager.upload_all(paths, purpose="batch")
        if status.startswith("500"):
            with pytest.raises(UploadUncertainError, match=r"500.*on_uncertain='resend'"):
                await collected(outcomes)
            return
        with caplog.at_level("WARNING", "aiofiles_api"):
            [outcome] = await collected(outcomes)
    assert outcome.result is not None
    is_read = status.startswith("200")
    assert outcome.result.id == ("file-it" if is_read else "file-new")
    assert ("does not show" in caplog.text) is not is_read


def described(identifier: str, content: bytes, *, age: int = 0) -> str:
    return (
        f'{{"id": "{identifier}", "bytes": {len(content)}, "created_at": {int(time.time()) - age},'
        ' "filename": "0.bin", "purpose": "batch"}'
    )


@pytest.mark.usefixtures("settles_soon")
async def test_what_was_there_before_an_upload_began_is_not_taken_for_it(tmp_path: Path) -> None:
    """The same bytes under the same name, but an hour old; and nobody looks behind that."""
    paths = sources(tmp_path / "in", 1)
    content = Path(paths[0]).read_bytes()
    posts = 0

    async def script(request: RawRequest, writer: asyncio.StreamWriter) -> None:
        nonlocal posts
        if request.line.startswith("POST"):
            posts += 1
            await (reply(described("file-new", content)) if posts > 1 else silence)(request, writer)
        elif "/content" in request.line:
            await reply(content[::-1])(request, writer)
        else:
            files = [
                described("file-other", content),
                described("file-old", content, age=3600),
                '"not a file"',
                described("file-last", b""),
            ]
            await reply(
                f'{{"data": [{", ".join(files)}], "has_more": false}}',
                headers={"Date": formatdate(usegmt=True)},
            )(request, writer)

    async with raw_server(script) as raw, client_of(raw) as files:
        await begin(raw, files, tmp_path / "journal", paths, 1)
        manager = TransferManager(files, journal=tmp_path / "journal")
        [outcome] = await collected(manager.upload_all(paths, purpose="batch"))
        assert outcome.result is not None
        assert (outcome.result.id, posts) == ("file-new", 2)


class Purpose(str, enum.Enum):  # noqa: UP042 - unlike a StrEnum, its text is another than its value
    BATCH = "batch"


async def test_a_purpose_may_be_a_member_of_an_enum(files: FilesClient, tmp_path: Path) -> None:
    paths = sources(tmp_path / "in", 2)
    items: list[str | UploadItem] = [UploadItem(paths[0], purpose=Purpose.BATCH), paths[1]]
    manager = TransferManager(files, journal=tmp_path / "journal")
    for attempts in (1, 0):
        outcomes = await collected(manager.upload_all(items, purpose=Purpose.BATCH))
        assert [(one.error, one.attempts) for one in outcomes] == [(None, attempts)] * 2
    assert [file.purpose async for file in files.list(purpose=Purpose.BATCH)] == ["batch"] * 2


async def test_an_item_whose_purpose_is_no_text_is_an_outcome(files: FilesClient) -> None:
    items = [UploadItem(b"1", purpose=5), UploadItem(b"2")]  # type: ignore[arg-type]
    outcomes = await collected(TransferManager(files).upload_all(items, purpose="batch"))
    failed = [outcome.item.source for outcome in outcomes if outcome.error is not None]
    assert (len(outcomes), failed) == (2, [b"1"])


async def test_of_what_is_to_be_uploaded_only_pieces_are_read_in_one_go(
    files: FilesClient, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "large"
    path.write_bytes(b"x" * 300_000)
    lengths = watch_pieces(monkeypatch, 200_000)
    manager = TransferManager(files, journal=tmp_path / "journal")
    [outcome] = await collected(manager.upload_all([path], purpose="batch", checksum=True))
    assert outcome.error is None
    assert lengths == [200_000, 100_000]


async def test_of_what_is_looked_for_only_pieces_are_read_in_one_go(
    server: Emulator, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    [path] = sources(tmp_path / "in", 1)
    server.faults = [Fault(Stall("response"), on="upload", times=1)]
    async with FilesClient(base_url=server.base_url, api_key=KEY) as files:
        manager = TransferManager(files, concurrency=1, journal=tmp_path / "journal")
        await left_behind(server, collected(manager.upload_all([path], purpose="batch")), 1)
        size = Path(path).stat().st_size
        lengths = watch_pieces(monkeypatch, size - 1)
        [outcome] = await collected(manager.upload_all([path], purpose="batch"))
    assert (outcome.error, outcome.attempts) == (None, 0)
    assert lengths == [size - 1, 1]


async def test_a_digest_in_the_journal_needs_no_source(server: Emulator, tmp_path: Path) -> None:
    [path] = sources(tmp_path / "in", 1)
    server.faults = [Fault(Stall("response"), on="upload", times=1)]
    async with FilesClient(base_url=server.base_url, api_key=KEY) as files:
        manager = TransferManager(files, concurrency=1, journal=tmp_path / "journal")
        run = collected(manager.upload_all([path], purpose="batch", checksum=True))
        await left_behind(server, run, 1)
        Path(path).unlink()
        assert await collected(manager.upload_all([], purpose="batch")) == []
        [entry] = await entries(tmp_path / "journal")
        assert (entry.state, entry.attempts) == ("done", 0)


async def test_a_deadline_that_ends_the_wait_for_a_reply_leaves_the_upload_uncertain(
    server: Emulator, tmp_path: Path
) -> None:
    [path] = sources(tmp_path / "in", 1)
    server.faults = [Fault(Delay(0.6), on="upload", times=1)]
    impatient = RetryPolicy(deadline=0.3)
    async with FilesClient(base_url=server.base_url, api_key=KEY, retry=impatient) as files:
        manager = TransferManager(files, journal=tmp_path / "journal")
        [outcome] = await collected(manager.upload_all([path], purpose="batch"))
        assert isinstance(outcome.error, UploadUncertainError)
        assert [entry.state for entry in await entries(tmp_path / "journal")] == ["started"]
        await asyncio.sleep(0.6)
        [outcome] = await collected(manager.upload_all([path], purpose="batch"))
        assert outcome.error is None
        [entry] = await entries(tmp_path / "journal")
        assert (entry.state, entry.reason) == ("done", None)
    async with FilesClient(base_url=server.base_url, api_key=KEY) as files:
        assert len([file async for file in files.list()]) == 1


async def test_a_deadline_within_a_pause_after_a_refusal_is_only_a_timeout(
    server: Emulator, monkeypatch: pytest.MonkeyPatch
) -> None:
    # As when many others wait for their retries, which the policy does not know.
    monkeypatch.setattr("aiofiles_api.session.SessionManager.hold_back", lambda *_: 5.0)
    server.faults = [Fault(ErrorReply(429), on="upload")]
    impatient = RetryPolicy(deadline=0.3, backoff=0.01)
    async with FilesClient(base_url=server.base_url, api_key=KEY, retry=impatient) as files:
        with pytest.raises(APITimeoutError, match="deadline"):
            await files.upload(b"1", purpose="batch")


@pytest.mark.parametrize("wishes", [{"filename": 5}, {"purpose": 5}, {"filename": Path("x")}])
async def test_with_a_journal_what_is_no_text_is_an_outcome_and_no_damage(
    files: FilesClient, tmp_path: Path, wishes: dict[str, Any]
) -> None:
    paths = sources(tmp_path / "in", 2)
    manager = TransferManager(files, journal=tmp_path / "journal")
    items = [UploadItem(paths[0], **wishes), UploadItem(paths[1])]
    outcomes = await collected(manager.upload_all(items, purpose="batch"))
    errors = [outcome.error for outcome in outcomes if outcome.error is not None]
    assert len(outcomes) == 2
    assert len(errors) == 1
    assert isinstance(errors[0], InvalidArgumentError)
    assert [entry.state for entry in await entries(tmp_path / "journal")] == ["done"]


@pytest.mark.parametrize("wishes", [{"filename": Path("x")}, {"sha256": b"0"}])
@pytest.mark.parametrize("has_journal", [False, True])
async def test_a_wish_for_a_download_that_is_no_text_is_an_outcome(
    files: FilesClient, tmp_path: Path, wishes: dict[str, Any], *, has_journal: bool
) -> None:
    file = await files.upload(b"1", purpose="batch")
    manager = TransferManager(files, journal=tmp_path / "journal" if has_journal else None)
    items = [DownloadItem(file, **wishes), DownloadItem(file)]
    outcomes = await collected(manager.download_all(items, tmp_path / "out"))
    errors = [outcome.error for outcome in outcomes if outcome.error is not None]
    assert len(outcomes) == 2
    assert len(errors) == 1
    assert isinstance(errors[0], InvalidArgumentError)


@pytest.mark.parametrize("wishes", [{"filename": 5}, {"content_type": 5}])
async def test_an_upload_with_what_is_no_text_is_refused(
    files: FilesClient, wishes: dict[str, Any]
) -> None:
    with pytest.raises(InvalidArgumentError, match="pass a str, not int"):
        await files.upload(b"1", purpose="batch", **wishes)


async def test_what_is_done_is_looked_for_where_it_is_from_wherever_one_works(
    files: FilesClient, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = await files.upload(b"1", purpose="batch", filename="a")
    for name in ("here", "there"):
        (tmp_path / name).mkdir()
    manager = TransferManager(files, journal=tmp_path / "journal")
    monkeypatch.chdir(tmp_path / "here")
    await collected(manager.download_all([file], "out"))
    monkeypatch.chdir(tmp_path / "there")
    Path("out").mkdir()
    Path("out", "a").write_bytes(b"2")  # somebody else's
    [outcome] = await collected(manager.download_all([file], tmp_path / "here" / "out"))
    assert outcome.result is not None
    assert outcome.attempts == 0
    assert outcome.result.path == tmp_path / "here" / "out" / "a"


async def killed_before_it_was_written_down(journal: Path, *, hours_ago: float = 0) -> None:
    """Leave a journal as a process does that ended behind a rename, and before the next commit."""
    async with Journal(journal) as opened:
        for row in await opened.rows("kind = 'download'", ()):
            row.state = "started"
            row.filename = row.size = row.sha256 = row.result = None
            row.started_at = (row.started_at or 0) - hours_ago * 3600
            await opened.write([row])


@pytest.mark.parametrize("is_known", [True, False], ids=["file", "id"])
@pytest.mark.parametrize("has_digest", [True, False], ids=["digest", "no digest"])
async def test_a_download_that_was_finished_but_not_written_down_is_taken_as_it_is(
    files: FilesClient, tmp_path: Path, *, is_known: bool, has_digest: bool
) -> None:
    file = await files.upload(b"content", purpose="batch", filename="a")
    digest = hashlib.sha256(b"content").hexdigest() if has_digest else None
    item = DownloadItem(file if is_known else file.id, sha256=digest and digest.upper())
    manager = TransferManager(files, journal=tmp_path / "journal")
    run = partial(manager.download_all, [item], tmp_path / "out", overwrite=False)
    [first] = await collected(run())
    await killed_before_it_was_written_down(tmp_path / "journal")
    [second] = await collected(run())
    assert first.result is not None
    assert second.result == attrs.evolve(first.result, attempts=0)
    [entry] = await entries(tmp_path / "journal")
    assert (entry.state, entry.size) == ("done", 7)


def watch_pieces(patch: pytest.MonkeyPatch, size: int) -> list[int]:
    """Have files read in pieces of this size for their digests; gather the lengths of these."""
    patch.setattr(identity, "_PIECE", size)
    read, lengths = identity._read, list[int]()

    def watched(path: str, take: Callable[[bytes], object], start: int, most: int) -> int:
        lengths.append(read(path, take, start, most))
        return lengths[-1]

    patch.setattr(identity, "_read", watched)
    return lengths


async def test_of_a_finished_download_only_pieces_are_read_in_one_go(
    files: FilesClient, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = await files.upload(b"content", purpose="batch", filename="a")
    manager = TransferManager(files, journal=tmp_path / "journal")
    run = partial(manager.download_all, [file], tmp_path / "out", overwrite=False)
    await collected(run())
    await killed_before_it_was_written_down(tmp_path / "journal")
    lengths = watch_pieces(monkeypatch, 3)
    [outcome] = await collected(run())
    assert (outcome.error, outcome.attempts) == (None, 0)
    assert lengths == [3, 3, 1]


@pytest.mark.parametrize("change", ["longer", "other", "digest", "gone", "directory", "unreadable"])
async def test_what_is_not_surely_that_download_is_not_taken_for_it(
    files: FilesClient, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, change: str
) -> None:
    file = await files.upload(b"content", purpose="batch", filename="a")
    digest = hashlib.sha256(b"content").hexdigest() if change == "digest" else None
    item = DownloadItem(file, sha256=digest)
    manager = TransferManager(files, journal=tmp_path / "journal")
    run = partial(manager.download_all, [item], tmp_path / "out", overwrite=False)
    await collected(run())
    await killed_before_it_was_written_down(tmp_path / "journal")
    there = tmp_path / "out" / "a"
    if change == "longer":
        there.write_bytes(b"content and more")
    elif change in {"other", "digest"}:
        there.write_bytes(b"CONTENT")
    elif change == "unreadable":  # which root could read all the same

        def refuse(*_arguments: object) -> int:
            raise PermissionError(errno.EACCES, "Permission denied")

        monkeypatch.setattr(identity, "_read", refuse)
    else:
        there.unlink()
        if change == "directory":
            there.mkdir()
    [outcome] = await collected(run())
    if change in {"gone", "directory"}:  # where it goes into that
        assert outcome.result is not None
        assert outcome.result.path == (there if change == "gone" else there / "a")
        assert outcome.result.path.read_bytes() == b"content"
    else:
        assert isinstance(outcome.error, DestinationError)


async def test_a_finished_download_is_taken_whatever_the_clocks_say(
    files: FilesClient, tmp_path: Path
) -> None:
    file = await files.upload(b"content", purpose="batch", filename="a")
    manager = TransferManager(files, journal=tmp_path / "journal")
    run = partial(manager.download_all, [file], tmp_path / "out", overwrite=False)
    await collected(run())
    await killed_before_it_was_written_down(tmp_path / "journal")
    os.utime(tmp_path / "out" / "a", (1, 1))
    [outcome] = await collected(run())
    assert (outcome.error, outcome.attempts) == (None, 0)


@pytest.mark.parametrize("overwrite", [False, True])
async def test_the_part_that_a_run_has_left_is_continued_by_the_next(
    server: Emulator, tmp_path: Path, *, overwrite: bool
) -> None:
    content = os.urandom(2_000_000)
    async with FilesClient(base_url=server.base_url, api_key=KEY, retry=NO_RETRIES) as files:
        file = await files.upload(content, purpose="user_data", filename="a")
        manager = TransferManager(files, journal=tmp_path / "journal")
        run = partial(manager.download_all, [file.id], tmp_path / "out", overwrite=overwrite)
        server.faults = [Fault(Reset("response", at=1_500_000), on="content")]
        [first] = await collected(run())
        assert first.error is not None
        server.faults = []
        [second] = await collected(run())
        assert second.result is not None
        assert second.result.resumed_from == 1_500_000
    assert [path.read_bytes() for path in (tmp_path / "out").iterdir()] == [content]


@pytest.mark.parametrize("has_journal", [False, True])
async def test_downloads_go_where_the_directory_was_when_the_run_began(
    files: FilesClient, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, *, has_journal: bool
) -> None:
    ids = [file.id for file in await stored(files, 30)]
    monkeypatch.chdir(tmp_path)
    (tmp_path / "elsewhere").mkdir()
    manager = TransferManager(files, journal=tmp_path / "journal" if has_journal else None)
    outcomes = []
    async for outcome in manager.download_all(ids, "out"):
        monkeypatch.chdir(tmp_path / "elsewhere")
        outcomes.append(outcome)
    monkeypatch.chdir(tmp_path)
    paths = [outcome.result.path for outcome in outcomes if outcome.result]
    assert {str(path.parent) for path in paths} == {"out"}
    assert len({path.read_bytes() for path in paths}) == 30
    assert not list((tmp_path / "elsewhere").iterdir())


@pytest.mark.parametrize("end", ["failed", "killed"])
async def test_a_finished_download_is_taken_as_it_is_however_often_a_run_ends_before_that(
    server: Emulator, tmp_path: Path, end: str
) -> None:
    journal, there = tmp_path / "journal", tmp_path / "out" / "same.txt"
    async with FilesClient(base_url=server.base_url, api_key=KEY, retry=NO_RETRIES) as files:
        [file] = await stored(files, 1)
        manager = TransferManager(files, journal=journal)
        run = partial(manager.download_all, [file], tmp_path / "out", overwrite=False)
        await collected(run())
        await killed_before_it_was_written_down(journal, hours_ago=1)
        os.utime(there, (time.time() - 3600, time.time() - 3600))
        if end == "failed":
            server.faults = [Fault(ErrorReply(503), on="content")]
            [outcome] = await collected(run())
            assert isinstance(outcome.error, InternalServerError)
            assert [entry.state for entry in await entries(journal)] == ["failed"]
        else:
            server.faults = [Fault(Stall("response"), on="content")]
            await left_behind(server, collected(run()), 1)
        server.faults = []
        [outcome] = await collected(run())
        assert (outcome.error, outcome.attempts) == (None, 0)


async def test_of_one_name_and_length_each_download_is_taken_for_itself(
    files: FilesClient, tmp_path: Path
) -> None:
    """Killed behind the renames: the next run has another order, and one file more."""
    new, *both = await stored(files, 3)
    manager = TransferManager(files, journal=tmp_path / "journal")
    run = partial(manager.download_all, directory=tmp_path / "out", overwrite=False)
    await collected(run(both))
    async with Journal(tmp_path / "journal") as journal:
        for row in await journal.rows("kind = 'download'", ()):
            row.state = "started"
            row.size = row.result = None
            await journal.write([row])
    outcomes = await collected(run([new, *reversed(both)]))
    found = {one.item: one.result.path.read_bytes() for one in outcomes if one.result}
    assert found == {file: await files.read(file) for file in (new, *both)}
    assert sorted(one.attempts for one in outcomes) == [0, 0, 1]
    assert len(os.listdir(tmp_path / "out")) == 3


async def test_a_download_has_its_name_in_the_journal_before_it_begins(
    server: Emulator, files: FilesClient, tmp_path: Path
) -> None:
    [file] = await stored(files, 1)
    server.faults = [Fault(Stall("response"), on="content")]
    manager = TransferManager(files, journal=tmp_path / "journal")
    run = collected(manager.download_all([file], tmp_path / "out", overwrite=False))
    await left_behind(server, run, 1)
    async with Journal(tmp_path / "journal") as journal:
        [row] = await journal.rows("kind = 'download'", ())
        assert (row.state, row.filename) == ("started", "same.txt")


# --- what a run finds otherwise than it was ------------------------------------------------------


@pytest.mark.parametrize("checksum", [True, False])
async def test_a_file_that_was_rewritten_before_its_turn_is_known_by_what_was_sent(
    tmp_path: Path, *, checksum: bool
) -> None:
    paths = sources(tmp_path / "in", 3)
    old = Path(paths[2]).read_bytes()

    async def run(files: FilesClient) -> dict[str, Outcome[str, FileObject]]:
        manager = TransferManager(files, journal=tmp_path / "journal", concurrency=1)
        run = manager.upload_all(paths, purpose="batch", checksum=checksum)
        return {outcome.item: outcome for outcome in await collected(run)}

    async def rewrite() -> None:
        await asyncio.sleep(0.2)
        Path(paths[2]).write_bytes(b"other".rjust(10))

    async with (
        Emulator(faults=[Fault(Delay(0.5), on="upload", nth=1)]) as server,
        FilesClient(base_url=server.base_url, api_key=KEY) as files,
        asyncio.TaskGroup() as group,
    ):
        group.create_task(rewrite())
        await run(files)
        assert {outcome.attempts for outcome in (await run(files)).values()} == {0}
        Path(paths[2]).write_bytes(old)
        last = (await run(files))[paths[2]]
        assert last.attempts == 1
        assert last.result is not None
        assert await files.read(last.result) == old


@pytest.mark.parametrize(
    ("size", "fault", "after"),
    [(1000, LostReply(), 0.0), (1000, Delay(0.5), 0.1), (3_000_000, Delay(0.5), 0.1)],
)
async def test_what_is_appended_while_a_file_is_sent_is_sent_by_the_next_run(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    size: int,
    fault: LostReply | Delay,
    after: float,
) -> None:
    monkeypatch.setattr("aiofiles_api.progress._INTERVAL", 0.0)  # each step is told
    [path] = sources(tmp_path / "in", 1, size=size)
    appended = False

    def append(_item: str, progress: Progress) -> None:
        nonlocal appended
        if not appended and progress.done == size:
            appended = True
            asyncio.get_running_loop().call_later(after, os.truncate, path, size + 40)

    async with (
        Emulator(faults=[Fault(fault, on="upload", nth=1)]) as server,
        FilesClient(base_url=server.base_url, api_key=KEY) as files,
    ):
        manager = TransferManager(files, journal=tmp_path / "journal")
        for expected in (size, size + 40):
            run = manager.upload_all([path], purpose="batch", progress=append)
            [outcome] = await collected(run)
            assert outcome.result is not None
            assert outcome.result.bytes == expected
            assert Path(path).stat().st_size == size + 40


async def test_behind_a_link_a_path_leads_where_the_system_says(tmp_path: Path) -> None:
    (tmp_path / "data" / "below").mkdir(parents=True)
    (tmp_path / "link").symlink_to(tmp_path / "data" / "below")
    (tmp_path / "data" / "file").write_bytes(b"right")
    (tmp_path / "file").write_bytes(b"wrong")
    async with (
        Emulator() as server,
        FilesClient(base_url=server.base_url, api_key=KEY) as files,
    ):
        manager = TransferManager(files, journal=tmp_path / "journal")
        items = [f"{tmp_path}/link/../file"]
        for checksum in (True, False):
            run = manager.upload_all(items, purpose="batch", checksum=checksum)
            [outcome] = await collected(run)
        assert outcome.attempts == 0
        assert outcome.result is not None
        assert await files.read(outcome.result) == b"right"
        # Neither is the other, though they be of one length and time.
        os.utime(tmp_path / "file", ns=(1, 1))
        os.utime(tmp_path / "data" / "file", ns=(1, 1))
        run = manager.upload_all([*items, str(tmp_path / "file")], purpose="batch")
        results = [outcome.result for outcome in await collected(run) if outcome.result]
        read = [await files.read(result) for result in results]
        assert sorted(read) == [b"right", b"wrong"]
        for attempts in (1, 0):
            downloads = manager.download_all(results[:1], f"{tmp_path}/link/..")
            assert [one.attempts for one in await collected(downloads)] == [attempts]


async def test_where_the_working_directory_is_gone_absolute_paths_work(
    files: FilesClient, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    [path] = sources(tmp_path / "in", 1)
    (tmp_path / "gone").mkdir()
    monkeypatch.chdir(tmp_path / "gone")
    (tmp_path / "gone").rmdir()
    manager = TransferManager(files, journal=tmp_path / "journal")
    outcomes = await collected(manager.upload_all([path, "0.bin"], purpose="batch"))
    errors = {outcome.item: type(outcome.error) for outcome in outcomes}
    assert errors == {path: type(None), "0.bin": SourceError}
    results = [outcome.result for outcome in outcomes if outcome.result]
    [outcome] = await collected(manager.download_all(results, tmp_path / "out"))
    assert outcome.error is None
    with pytest.raises(DestinationError, match="absolute"):
        await collected(manager.download_all(results, "out"))


async def test_a_path_is_that_of_the_directory_in_which_the_run_began(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sources(tmp_path / "in", 2)
    (tmp_path / "other").mkdir()
    monkeypatch.chdir(tmp_path / "in")

    async def move() -> None:
        await asyncio.sleep(0.2)
        monkeypatch.chdir(tmp_path / "other")

    async with (
        Emulator(faults=[Fault(Delay(0.5), on="upload", nth=1)]) as server,
        FilesClient(base_url=server.base_url, api_key=KEY) as files,
        asyncio.TaskGroup() as group,
    ):
        group.create_task(move())
        manager = TransferManager(files, journal=tmp_path / "journal", concurrency=1)
        outcomes = await collected(manager.upload_all(["0.bin", "1.bin"], purpose="batch"))
        assert [outcome.error for outcome in outcomes] == [None, None]


async def test_a_result_that_has_expired_is_uploaded_again(tmp_path: Path) -> None:
    now = time.time() - 10_000
    [path] = sources(tmp_path / "in", 1)
    async with (
        Emulator(clock=lambda: now, idempotency=True) as server,
        FilesClient(base_url=server.base_url, api_key=KEY) as files,
    ):
        manager = TransferManager(files, journal=tmp_path / "journal")
        [first] = await collected(manager.upload_all([path], purpose="batch", expires_after=3600))
        now += 10_000
        for attempts in (1, 0):
            [again] = await collected(
                manager.upload_all([path], purpose="batch", expires_after=3600)
            )
            assert again.error is None
            assert again.attempts == attempts
            assert again.result != first.result


async def test_a_journal_that_was_restored_gives_no_other_file_the_same_key(
    tmp_path: Path,
) -> None:
    paths = sources(tmp_path / "in", 3)
    async with (
        Emulator(idempotency=True) as server,
        FilesClient(base_url=server.base_url, api_key=KEY) as files,
    ):
        manager = TransferManager(files, journal=tmp_path / "journal")
        await collected(manager.upload_all(paths[:1], purpose="batch"))
        (tmp_path / "copy").write_bytes((tmp_path / "journal").read_bytes())
        await collected(manager.upload_all(paths[1:2], purpose="batch"))
        os.replace(tmp_path / "copy", tmp_path / "journal")
        [outcome] = await collected(manager.upload_all(paths[2:], purpose="batch"))
        assert outcome.error is None
        assert len(await contents(files)) == 3


async def test_a_directory_whose_name_is_no_text_has_a_journal_too(
    files: FilesClient, tmp_path: Path
) -> None:
    file = await files.upload(b"some", purpose="batch", filename="a")
    directory = os.fsdecode(os.fsencode(tmp_path) + b"/r\xe9sultats")
    manager = TransferManager(files, journal=tmp_path / "journal")
    for attempts in (1, 0):
        [outcome] = await collected(manager.download_all([file], directory))
        assert (outcome.error, outcome.attempts) == (None, attempts)


async def test_what_came_late_from_a_source_that_waits_is_worked_on_at_once(
    files: FilesClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    items: queue.Queue[bytes | None] = queue.Queue()
    advance = bulk._Puller.advance

    def late(puller: bulk._Puller[bytes], most: int) -> bool:
        time.sleep(0.1)  # as behind others' work
        return advance(puller, most)

    monkeypatch.setattr(bulk._Puller, "advance", late)
    items.put(b"first")
    items.put(b"second")
    outcomes = TransferManager(files).upload_all(iter(items.get, None), purpose="batch")
    async with aclosing(outcomes), asyncio.timeout(5):
        assert {(await anext(outcomes)).item for _ in range(2)} == {b"first", b"second"}
        items.put(None)
        with pytest.raises(StopAsyncIteration):
            await anext(outcomes)
