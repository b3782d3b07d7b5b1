"""Every input that a user may hold gives exactly its bytes, as often as it can."""

from __future__ import annotations

import array
import asyncio
import ctypes
import errno
import gzip
import io
import mmap
import os
import re
import socket
import tempfile
import threading
import time
import zipfile
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import AsyncExitStack, ExitStack, suppress
from itertools import count
from pathlib import Path
from typing import IO, BinaryIO, NamedTuple, TypeVar, cast

import aiofiles
import anyio
import pytest
from fastapi import UploadFile

from aiofiles_api import (
    InvalidArgumentError,
    SourceChangedError,
    SourceError,
    SourceNotReplayableError,
)
from aiofiles_api.sources import PathSource, Source, UploadSource, as_source, spooled
from aiofiles_api.threads import Threads, Work

pytestmark = pytest.mark.anyio

T = TypeVar("T")

SMALL = bytes(range(256)) * 20
LARGE = os.urandom(64 * 1024) * 35  # 2.2 MiB: read in three chunks
SKIPPED = b"skipped"


class WatchedThreads(Threads):
    """Threads that count what they do, and that can be held up."""

    def __init__(self) -> None:
        super().__init__()
        self.started = 0
        self.active: set[object] = set()
        self.marks: dict[int, object] = {}
        self.gate = threading.Event()
        self.gate.set()

    def start(self, function: Callable[[], T]) -> Work[T]:
        mark = object()

        def watched() -> T:
            try:
                assert self.gate.wait(10)
                return function()
            finally:
                self.active.remove(mark)

        self.active.add(mark)
        self.started += 1
        work = super().start(watched)
        self.marks[id(work)] = mark
        return work

    def withdraw(self, work: Work[T]) -> bool:
        is_withdrawn = super().withdraw(work)
        if is_withdrawn:
            self.active.remove(self.marks[id(work)])
        return is_withdrawn


@pytest.fixture
def threads() -> Iterator[WatchedThreads]:
    threads = WatchedThreads()
    yield threads
    threads.close()
    assert not threads.active


@pytest.fixture(autouse=True)
def descriptors() -> Iterator[Callable[[], set[str]]]:
    """Return the open descriptors; at the end there must be no more than at the beginning."""

    def opened() -> set[str]:
        with os.scandir("/proc/self/fd") as entries:
            return {f"{entry.name} {os.readlink(entry)}" for entry in entries if is_link(entry)}

    def is_link(entry: os.DirEntry[str]) -> bool:
        try:
            target = os.readlink(entry)
        except FileNotFoundError:  # the descriptor of this very loop
            return False
        # Those of the loop come and go.
        return not target.startswith(("anon_inode:", "socket:", "/proc/"))

    before = opened()
    yield opened
    assert opened() <= before


async def whole(source: Source) -> bytes:
    """Read a source once, and hold its length against what came."""
    reader = await source.open()
    chunks = []
    try:
        while chunk := await reader.read():
            chunks.append(chunk)
        assert not await reader.read()
    finally:
        await reader.aclose()
    content = b"".join(chunks)
    assert reader.length in {None, len(content)}
    return content


# --- every kind of input ------------------------------------------------------------------------


class PlainPath:
    def __init__(self, path: Path) -> None:
        self._path = path

    def __fspath__(self) -> str:
        return str(self._path)


class OnlyRead:
    """What a reply of urllib or boto is: something that can be read, once."""

    def __init__(self, content: bytes) -> None:
        self._file = io.BytesIO(content)

    def read(self, size: int, /) -> bytes:
        return self._file.read(min(size, 100_000))


class OnlyAsyncRead:
    def __init__(self, content: bytes) -> None:
        self._file = io.BytesIO(content)

    async def read(self, size: int, /) -> bytes:
        await asyncio.sleep(0)
        return self._file.read(min(size, 100_000))


class SeekTellsNothing(io.BytesIO):
    def seek(self, offset: int, whence: int = 0, /) -> int:
        super().seek(offset, whence)
        return cast("int", None)


class OneBuffer:
    """Gives the same memory again and again, as whoever wants to save copies does."""

    def __init__(self, content: bytes) -> None:
        self._file = io.BytesIO(content)
        self._buffer = bytearray(100_000)

    def read(self, _: int, /) -> memoryview:
        return memoryview(self._buffer)[: self._file.readinto(self._buffer)]


async def async_one_buffer(content: bytes) -> AsyncIterator[memoryview]:
    file = OneBuffer(content)
    while chunk := file.read(0):
        yield chunk


class Lines:
    def __init__(self, content: bytes) -> None:
        self._content = content

    def __iter__(self) -> Iterator[bytes]:
        return lines(self._content)


class AsyncLines:
    def __init__(self, content: bytes) -> None:
        self._content = content

    async def __aiter__(self) -> AsyncIterator[bytes]:
        for line in lines(self._content):
            await asyncio.sleep(0)
            yield line


def lines(content: bytes) -> Iterator[bytes]:
    yield b""
    for start in range(0, len(content), 90_001):
        yield content[start : start + 90_001]
        yield b""


def written(path: Path, content: bytes) -> Path:
    path.write_bytes(content)
    return path


def behind(file: T, position: int = len(SKIPPED)) -> T:
    cast("io.BytesIO", file).seek(position)
    return file


class Kind(NamedTuple):
    make: Callable[[AsyncExitStack, Path, bytes], object]
    replayable: bool = True
    has_length: bool = True


async def anyio_file(stack: AsyncExitStack, path: Path, content: bytes) -> object:
    file = await stack.enter_async_context(
        await anyio.open_file(written(path, SKIPPED + content), "rb")
    )
    await file.seek(len(SKIPPED))
    return file


async def aiofiles_file(stack: AsyncExitStack, path: Path, content: bytes) -> object:
    file = await stack.enter_async_context(aiofiles.open(written(path, SKIPPED + content), "rb"))
    await file.seek(len(SKIPPED))
    return file


def opened(stack: AsyncExitStack, path: Path, content: bytes, buffering: int = -1) -> object:
    written(path, SKIPPED + content)
    return behind(stack.enter_context(open(path, "rb", buffering)))


def spooled_file(
    stack: AsyncExitStack, content: bytes, size: int
) -> tempfile.SpooledTemporaryFile[bytes]:
    file: tempfile.SpooledTemporaryFile[bytes]
    file = stack.enter_context(tempfile.SpooledTemporaryFile(size))  # noqa: SIM115
    file.write(SKIPPED + content)
    return behind(file)


def gzipped(stack: AsyncExitStack, path: Path, content: bytes) -> object:
    with gzip.open(path, "wb", compresslevel=0) as packed:
        packed.write(SKIPPED + content)
    return behind(stack.enter_context(gzip.open(path, "rb")))


def zipped(stack: AsyncExitStack, path: Path, content: bytes) -> object:
    with zipfile.ZipFile(path, "w") as packed:
        packed.writestr("inner.bin", SKIPPED + content)
    archive = stack.enter_context(zipfile.ZipFile(path))
    return behind(stack.enter_context(archive.open("inner.bin")))


def mapped(stack: AsyncExitStack, path: Path, content: bytes) -> object:
    written(path, content or b"\0")
    with path.open("rb") as file:
        view = stack.enter_context(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ))
    return view if content else bytearray()


def piped(stack: AsyncExitStack, content: bytes) -> object:
    reading, writing = os.pipe()
    writer = threading.Thread(target=feed, args=(writing, content))
    writer.start()
    stack.callback(writer.join)
    return stack.enter_context(os.fdopen(reading, "rb"))


def feed(descriptor: int, content: bytes, pause: float = 0.0) -> None:
    with open(descriptor, "wb", buffering=0) as file:
        for start in range(0, len(content), 300_000):
            time.sleep(pause)
            view = memoryview(content)[start : start + 300_000]
            while view:
                view = view[file.write(view) :]


def fifo(stack: AsyncExitStack, path: Path, content: bytes) -> object:
    """Make a named pipe whose writer comes late and writes slowly."""
    os.mkfifo(path)

    def write() -> None:
        time.sleep(0.12)
        feed(os.open(path, os.O_WRONLY), content, 0.005)

    writer = threading.Thread(target=write)
    writer.start()
    stack.callback(writer.join)
    return path


def standard_input(stack: AsyncExitStack, content: bytes) -> object:
    """Return a path like /dev/stdin, behind which a pipe is."""
    file = cast("io.BufferedReader", piped(stack, content))
    return f"/proc/self/fd/{file.fileno()}"


def upload_file(file: object) -> UploadFile:
    return UploadFile(cast("BinaryIO", file), filename="upload.bin")


def strided(content: bytes) -> memoryview:
    spread = bytearray(2 * len(content))
    spread[::2] = content
    return memoryview(spread)[::2]


def ctypes_array(content: bytes) -> object:
    return (ctypes.c_uint16 * (len(content) // 2)).from_buffer_copy(content)


KINDS: dict[str, Kind] = {
    "str path": Kind(lambda _, path, content: str(written(path, content))),
    "Path": Kind(lambda _, path, content: written(path, content)),
    "anyio.Path": Kind(lambda _, path, content: anyio.Path(written(path, content))),
    "PathLike": Kind(lambda _, path, content: PlainPath(written(path, content))),
    "link": Kind(lambda _, path, content: linked(written(path, content))),
    "bytes": Kind(lambda _, __, content: content),
    "bytearray": Kind(lambda _, __, content: bytearray(content)),
    "memoryview": Kind(lambda _, __, content: memoryview(content)),
    "strided memoryview": Kind(lambda _, __, content: strided(content)),
    "array": Kind(lambda _, __, content: array.array("H", content)),
    "ctypes array": Kind(lambda _, __, content: ctypes_array(content)),
    "mmap": Kind(mapped),
    "open": Kind(opened),
    "raw": Kind(lambda stack, path, content: opened(stack, path, content, 0)),
    "BytesIO": Kind(lambda _, __, content: behind(io.BytesIO(SKIPPED + content))),
    "seek tells nothing": Kind(lambda _, __, content: behind(SeekTellsNothing(SKIPPED + content))),
    "spooled in memory": Kind(lambda stack, _, content: spooled_file(stack, content, 0)),
    "spooled on disk": Kind(lambda stack, _, content: spooled_file(stack, content, 10)),
    "GzipFile": Kind(gzipped),
    "ZipExtFile": Kind(zipped),
    "UploadFile": Kind(lambda stack, _, content: upload_file(spooled_file(stack, content, 0))),
    "UploadFile on disk": Kind(
        lambda stack, _, content: upload_file(spooled_file(stack, content, 10))
    ),
    "anyio file": Kind(anyio_file),
    "aiofiles file": Kind(aiofiles_file),
    "only read": Kind(lambda _, __, content: OnlyRead(content), False, False),
    "one buffer": Kind(lambda _, __, content: OneBuffer(content), False, False),
    "async one buffer": Kind(lambda _, __, content: async_one_buffer(content), False, False),
    "only async read": Kind(lambda _, __, content: OnlyAsyncRead(content), False, False),
    "pipe object": Kind(lambda stack, _, content: piped(stack, content), False, False),
    "raw pipe object": Kind(
        lambda stack, _, content: cast("io.BufferedReader", piped(stack, content)).raw, False, False
    ),
    "fifo": Kind(fifo, False, False),
    "standard input": Kind(lambda stack, _, content: standard_input(stack, content), False, False),
    "list": Kind(lambda _, __, content: list(lines(content)), has_length=False),
    "tuple": Kind(lambda _, __, content: tuple(lines(content)), has_length=False),
    "generator": Kind(lambda _, __, content: lines(content), False, False),
    "iterator": Kind(lambda _, __, content: iter(list(lines(content))), False, False),
    "iterable": Kind(lambda _, __, content: Lines(content), False, False),
    "async generator": Kind(lambda _, __, content: aiter(AsyncLines(content)), False, False),
    "async iterable": Kind(lambda _, __, content: AsyncLines(content), False, False),
}


def linked(path: Path) -> Path:
    link = path.with_name("link")
    link.symlink_to(path.name)
    return link


async def made(kind: Kind, stack: AsyncExitStack, path: Path, content: bytes) -> UploadSource:
    thing = kind.make(stack, path, content)
    return cast("UploadSource", await thing if isinstance(thing, Awaitable) else thing)


@pytest.mark.parametrize("content", [b"", SMALL, LARGE], ids=["empty", "small", "large"])
@pytest.mark.parametrize("name", KINDS)
async def test_every_source_gives_its_bytes_from_where_it_stands(
    threads: WatchedThreads, tmp_path: Path, name: str, content: bytes
) -> None:
    kind = KINDS[name]
    async with AsyncExitStack() as stack:
        upload = await made(kind, stack, tmp_path / "source.bin", content)
        source = as_source(upload, threads)
        assert not source.is_spent
        assert await whole(source) == content
        assert source.is_spent is not kind.replayable
        if kind.replayable:
            reader = await source.open()
            assert reader.length == (len(content) if kind.has_length else None)
            await reader.aclose()  # an attempt that failed before it read
            assert await whole(source) == content
        else:
            with pytest.raises(SourceNotReplayableError, match="consumed and cannot be read again"):
                await source.open()
        assert getattr(upload, "closed", False) is False


# Whoever opened the other end of a pipe would be told that we are gone.
@pytest.mark.parametrize("name", sorted(set(KINDS) - {"fifo", "standard input"}))
async def test_an_attempt_that_read_nothing_consumes_nothing(
    threads: WatchedThreads, tmp_path: Path, name: str
) -> None:
    async with AsyncExitStack() as stack:
        source = as_source(await made(KINDS[name], stack, tmp_path / "a", SMALL), threads)
        await (await source.open()).aclose()
        assert await whole(source) == SMALL


@pytest.mark.parametrize("name", [name for name, kind in KINDS.items() if kind.replayable])
async def test_an_attempt_that_is_broken_off_changes_nothing_for_the_next(
    threads: WatchedThreads, tmp_path: Path, name: str
) -> None:
    async with AsyncExitStack() as stack:
        source = as_source(await made(KINDS[name], stack, tmp_path / "a", LARGE), threads)
        reader = await source.open()
        await reader.read()
        await reader.aclose()
        assert await whole(source) == LARGE


async def test_bytes_are_content_and_no_path(threads: WatchedThreads, tmp_path: Path) -> None:
    path = os.fsencode(written(tmp_path / "a", SMALL))
    assert await whole(as_source(path, threads)) == path


async def test_a_file_of_the_kernel_has_content_beyond_its_length(threads: WatchedThreads) -> None:
    path = Path("/proc/self/limits")
    assert path.stat().st_size == 0
    assert await whole(as_source(path, threads)) == path.read_bytes()
    with path.open("rb") as file:
        source = as_source(file, threads)
        assert (await source.open()).length in {None, len(path.read_bytes())}
        assert await whole(source) == path.read_bytes()
        assert await whole(source) == path.read_bytes()


async def test_a_file_of_the_kernel_that_gives_all_or_nothing_is_read_whole(
    threads: WatchedThreads,
) -> None:
    path = Path("/proc/sys/kernel/pid_max")
    assert await whole(as_source(path, threads)) == path.read_bytes()


async def test_a_file_of_the_kernel_that_gives_more_than_fits_is_refused(
    threads: WatchedThreads, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("aiofiles_api.sources.files.SMALL", 100)
    with pytest.raises(SourceChangedError, match="the file '/proc/self/limits' grew"):
        await as_source("/proc/self/limits", threads, chunk_size=lambda: 100).open()


async def test_a_file_that_another_process_has_a_lease_on_is_waited_for(
    threads: WatchedThreads, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    opening = os.open

    def leased(path: str, flags: int) -> int:
        if flags & os.O_NONBLOCK:
            raise BlockingIOError(errno.EWOULDBLOCK, os.strerror(errno.EWOULDBLOCK))
        return opening(path, flags)

    path = written(tmp_path / "file", SMALL)
    monkeypatch.setattr(os, "open", leased)
    assert await whole(as_source(path, threads)) == SMALL


@pytest.mark.parametrize("error", [NotImplementedError, ValueError, io.UnsupportedOperation])
async def test_a_file_object_that_knows_no_end_has_no_length(
    threads: WatchedThreads, error: type[Exception]
) -> None:
    class Endless(io.BytesIO):
        def seek(self, offset: int, whence: int = os.SEEK_SET, /) -> int:
            if whence == os.SEEK_END:
                raise error("no end")
            return super().seek(offset, whence)

    class AsyncEndless:
        def __init__(self) -> None:
            self.inner = Endless(SMALL)

        async def read(self, size: int) -> bytes:
            return self.inner.read(size)

        async def tell(self) -> int:
            return self.inner.tell()

        async def seek(self, offset: int, whence: int = os.SEEK_SET, /) -> int:
            return self.inner.seek(offset, whence)

    for file in (FileObjectOf(Endless(SMALL)), AsyncEndless()):
        source = as_source(file, threads)
        reader = await source.open()
        assert reader.length is None
        await reader.aclose()
        assert await whole(source) == SMALL


class FileObjectOf:
    """What a file object is where it is no memory that can be looked at."""

    def __init__(self, file: io.BytesIO) -> None:
        self.seekable, self.tell, self.seek, self.read = (
            file.seekable,
            file.tell,
            file.seek,
            file.read,
        )


@pytest.mark.parametrize("change", ["overwrite", "grow", "touch"])
async def test_a_file_that_was_written_to_while_it_was_read_has_no_end(
    threads: WatchedThreads, tmp_path: Path, change: str
) -> None:
    path = tmp_path / "file"
    path.write_bytes(bytes(3_000_000))
    reader = await as_source(path, threads).open()
    seen = len(await reader.read())
    if change == "touch":
        os.utime(path, ns=(1, 1))
    else:
        with path.open("r+b" if change == "overwrite" else "ab") as file:
            file.write(b"other")
    with pytest.raises(SourceChangedError, match="upload it when nobody writes to it"):
        while chunk := await reader.read():
            seen += len(chunk)
    assert seen >= 3_000_000
    await reader.aclose()


async def test_an_asynchronous_file_without_an_end_has_no_length(threads: WatchedThreads) -> None:
    class Endless(OnlyAsyncRead):
        async def tell(self) -> int:
            return self._file.tell()

        async def seek(self, offset: int, whence: int = 0, /) -> int:
            if whence == os.SEEK_END:
                raise OSError(22, "Invalid argument")
            return self._file.seek(offset)

    source = as_source(Endless(SMALL), threads)
    assert (await source.open()).length is None
    assert await whole(source) == SMALL
    assert await whole(source) == SMALL


@pytest.mark.parametrize("buffering", [0, -1])
async def test_a_pipe_that_is_silent_holds_no_thread(
    threads: WatchedThreads, buffering: int
) -> None:
    reading, writing = os.pipe()
    with open(reading, "rb", buffering=buffering) as file:
        reader = await as_source(file, threads).open()
        for piece in (b"some", b"and more"):
            began = time.monotonic()
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(0.05):
                    await reader.read()
            assert time.monotonic() - began < 1
            os.write(writing, piece)
            assert await reader.read() == piece
        os.close(writing)
        assert await reader.read() == b""
        await reader.aclose()
        assert not file.closed


@pytest.mark.parametrize("buffering", [0, -1])
async def test_a_socket_that_is_silent_holds_no_thread(
    threads: WatchedThreads, buffering: int
) -> None:
    here, there = socket.socketpair()
    with here, here.makefile("rb", buffering=buffering) as file:
        reader = await as_source(cast("BinaryIO", file), threads).open()
        began = time.monotonic()
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.05):
                await reader.read()
        assert time.monotonic() - began < 1
        there.sendall(b"some")
        assert await reader.read() == b"some"
        there.close()
        assert await reader.read() == b""
        await reader.aclose()


async def test_pipes_that_are_silent_leave_the_threads_alone(
    threads: WatchedThreads, tmp_path: Path
) -> None:
    async with AsyncExitStack() as stack:
        readers = []
        for number in range(10):
            path = tmp_path / f"{number}"
            os.mkfifo(path)
            readers.append(await as_source(path, threads).open())
            reading, writing = os.pipe()
            stack.callback(os.close, writing)
            file = stack.enter_context(os.fdopen(reading, "rb"))
            readers.append(await as_source(file, threads).open())
        reads = [asyncio.create_task(reader.read()) for reader in readers]
        while threads.started < 40 or threads.active:  # each was opened, and looked at once
            await asyncio.sleep(0.005)
        await asyncio.sleep(0.03)
        assert threads.started == 40
        for read in reads:
            read.cancel()
            with pytest.raises(asyncio.CancelledError):
                await read
        for reader in readers:
            await reader.aclose()


async def test_a_pipe_that_is_closed_while_it_is_silent_is_a_source_error(
    threads: WatchedThreads, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("aiofiles_api.sources.threaded._LOOK", 0.02)
    reading, writing = os.pipe()
    with open(reading, "rb") as file:
        reader = await as_source(file, threads).open()
        read = asyncio.create_task(reader.read())
        await asyncio.sleep(0.03)
        assert not read.done()
        file.close()
        with pytest.raises(SourceError, match="closed file"):
            await read
    os.close(writing)


async def test_a_pipe_may_be_watched_by_its_owner_as_well(threads: WatchedThreads) -> None:
    reading, writing = os.pipe()
    loop = asyncio.get_running_loop()
    noticed = asyncio.Event()
    with open(reading, "rb") as file:
        loop.add_reader(file, noticed.set)
        reader = await as_source(file, threads).open()
        read = asyncio.create_task(reader.read())
        await asyncio.sleep(0.02)
        os.write(writing, b"some")
        assert await read == b"some"
        assert noticed.is_set()
        assert loop.remove_reader(file)
    os.close(writing)


async def test_sources_that_block_keep_no_thread_from_files_and_can_be_left(
    threads: WatchedThreads, tmp_path: Path
) -> None:
    entered, released = threading.Event(), threading.Event()

    def blocked() -> Iterator[bytes]:
        entered.set()
        assert released.wait(10)
        yield b"late"

    few = Threads(1)
    first = await as_source(blocked(), threads, caller_threads=few).open()
    reading = asyncio.create_task(first.read())
    await asyncio.to_thread(entered.wait)
    path = written(tmp_path / "a", LARGE)
    assert await whole(as_source(path, threads, caller_threads=few)) == LARGE
    second = await as_source(lines(SMALL), threads, caller_threads=few).open()
    with path.open("rb") as file:
        for coming in (second.read(), as_source(file, threads, caller_threads=few).open()):
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(0.05):
                    await coming
    await second.aclose()
    released.set()
    assert await reading == b"late"
    assert await second.read() != b""  # nothing of it was lost
    for reader in (first, second):
        await reader.aclose()
    few.close()


async def test_a_pipe_that_was_read_from_gives_what_is_in_its_buffer(
    threads: WatchedThreads,
) -> None:
    reading, writing = os.pipe()
    with open(reading, "rb") as file:
        os.write(writing, b"a line\nand the rest")
        assert file.readline() == b"a line\n"
        os.close(writing)
        assert await whole(as_source(file, threads)) == b"and the rest"


async def test_a_pipe_that_is_closed_meanwhile_is_a_source_error(threads: WatchedThreads) -> None:
    reading, writing = os.pipe()
    with open(reading, "rb") as file:
        reader = await as_source(file, threads).open()
        file.close()
        with pytest.raises(SourceError, match="closed file"):
            await reader.read()
    os.close(writing)


async def test_a_device_is_read_to_its_end(threads: WatchedThreads) -> None:
    assert await whole(as_source("/dev/null", threads)) == b""


async def test_memory_is_locked_only_while_a_reader_is_open(threads: WatchedThreads) -> None:
    content = bytearray(SMALL)
    source = as_source(content, threads)
    reader = await source.open()
    await reader.read()
    with pytest.raises(BufferError):
        content.clear()
    await reader.aclose()
    content.clear()
    assert await whole(source) == b""


async def test_memory_that_is_released_between_two_attempts_is_unreadable(
    threads: WatchedThreads,
) -> None:
    view = memoryview(SMALL)
    source = as_source(view, threads)
    assert await whole(source) == SMALL
    view.release()
    with pytest.raises(SourceError, match="the memoryview cannot be read: it raised ValueError"):
        await source.open()


# --- names --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("make", "name"),
    [
        (str, "a b.txt"),
        (lambda path: path, "a b.txt"),
        (lambda path: f"{path}/", None),
        (lambda _: b"content", None),
        (lambda _: io.BytesIO(), None),
        (lambda _: upload_file(io.BytesIO()), "upload.bin"),
        (lambda _: FormFile(), "upload.bin"),
        (lambda _: named(OnlyRead(b""), "/somewhere/else.bin"), "else.bin"),
        (lambda _: named(OnlyRead(b""), b"/somewhere/\xff.bin"), "\udcff.bin"),
        (lambda _: named(OnlyRead(b""), "/somewhere/"), None),
        (lambda _: named(OnlyRead(b""), ""), None),
        (lambda _: named(OnlyRead(b""), 3), None),
        (lambda _: Lines(b""), None),
        (lambda _: named(Lines(b""), "lines.txt"), "lines.txt"),
        (lambda _: named(AsyncLines(b""), "lines.txt"), "lines.txt"),
        (lambda _: named(OnlyAsyncRead(b""), "read.txt"), "read.txt"),
    ],
)
def test_a_source_bears_the_name_of_what_it_reads(
    threads: WatchedThreads, make: Callable[[Path], UploadSource], name: str | None
) -> None:
    assert as_source(make(Path("/somewhere/a b.txt")), threads).name == name


class FormFile(OnlyRead):
    name = "document"
    filename = "upload.bin"

    def __init__(self) -> None:
        super().__init__(b"")


def named(thing: T, name: str | bytes | int) -> T:
    """Give a thing a name as an attribute, in a class of its own."""
    object.__setattr__(thing, "__class__", type("Named", (type(thing),), {"name": name}))
    return thing


async def test_an_open_file_has_the_name_of_its_path(
    threads: WatchedThreads, tmp_path: Path
) -> None:
    with written(tmp_path / "a.txt", b"").open("rb") as file:
        assert as_source(file, threads).name == "a.txt"
    async with await anyio.open_file(tmp_path / "a.txt", "rb") as wrapped:
        assert as_source(wrapped, threads).name == "a.txt"


class Doubling:
    """An asynchronous file around another one, whose bytes it gives twice."""

    def __init__(self, file: IO[bytes]) -> None:
        self.file = self.wrapped = self._file = file

    async def read(self, size: int) -> bytes:
        return self.file.read(size // 2) * 2


async def test_a_file_object_of_the_callers_is_read_as_it_is(threads: WatchedThreads) -> None:
    assert await whole(as_source(Doubling(io.BytesIO(SMALL)), threads)) == SMALL * 2


@pytest.mark.parametrize("kind", ["temporary", "aiofiles", "spooled"])
async def test_a_file_that_is_written_to_meanwhile_is_noticed_through_its_wrapper(
    threads: WatchedThreads, tmp_path: Path, kind: str
) -> None:
    async with AsyncExitStack() as stack:
        source: UploadSource
        if kind == "aiofiles":
            path = written(tmp_path / "a", LARGE)
            source = await stack.enter_async_context(aiofiles.open(path, "rb"))
            descriptor = source.fileno()
        else:
            file = (
                tempfile.NamedTemporaryFile()  # noqa: SIM115 - the stack closes it
                if kind == "temporary"
                else tempfile.SpooledTemporaryFile(1000)  # noqa: SIM115 - as above
            )
            stack.enter_context(file)
            file.write(LARGE)
            file.seek(0)
            descriptor = file.fileno()
            source = cast("BinaryIO", file)
        reader = await as_source(source, threads).open()
        assert await reader.read() != b""
        path = Path(f"/proc/self/fd/{descriptor}")
        with path.open("r+b") as other:
            other.seek(len(LARGE) - 5)
            other.write(b"other")
        with pytest.raises(SourceChangedError):
            while await reader.read():
                pass
        await reader.aclose()


async def test_a_large_chunk_is_not_copied(threads: WatchedThreads) -> None:
    reader = await as_source(iter([b"x", LARGE, LARGE]), threads).open()
    assert await reader.read() == b"x" + LARGE
    assert await reader.read() is LARGE
    assert await reader.read() == b""
    await reader.aclose()


class Bare:
    """An asynchronous iterable whose iterator is only an iterator."""

    def __init__(self, *pieces: bytes) -> None:
        self._pieces = iter(pieces)

    def __aiter__(self) -> Bare:
        return cast("Bare", type("Iterator", (), {"__anext__": self._next})())

    async def _next(self, *_: object) -> bytes:
        try:
            return next(self._pieces)
        except StopIteration:
            raise StopAsyncIteration from None


async def test_an_asynchronous_iterator_needs_no_iterator_of_its_own(
    threads: WatchedThreads,
) -> None:
    source = cast("UploadSource", Bare(b"", b"a", b"", b"b"))
    assert await whole(as_source(source, threads)) == b"ab"


@pytest.mark.parametrize("chunk", [b"", b"x"], ids=["empty", "not empty"])
async def test_an_asynchronous_iterable_that_waits_for_nothing_leaves_turns_to_others(
    threads: WatchedThreads, chunk: bytes
) -> None:
    turns = most = 0
    ticking = True

    def tick() -> None:
        nonlocal turns
        turns += 1
        if ticking:
            asyncio.get_running_loop().call_soon(tick)

    async def hasty() -> AsyncIterator[bytes]:
        nonlocal most
        yield b"x"
        before = turns
        for _ in range(10_000):
            yield chunk
        most = turns - before

    tick()
    await whole(as_source(hasty(), threads))
    ticking = False
    assert 50 <= most <= 200


# --- what cannot be read ------------------------------------------------------------------------


async def cancelled_inside() -> AsyncIterator[bytes]:
    yield b"x"
    raise asyncio.CancelledError


def cancelled_in_a_thread() -> Iterator[bytes]:
    yield LARGE
    raise asyncio.CancelledError


@pytest.mark.parametrize("source", [cancelled_inside, cancelled_in_a_thread])
async def test_a_cancellation_within_a_source_is_a_source_error(
    threads: WatchedThreads, source: Callable[[], AsyncIterator[bytes]]
) -> None:
    reader = await as_source(source(), threads).open()
    assert await reader.read() != b""
    with pytest.raises(SourceError, match="raised CancelledError"):
        await reader.read()
    await reader.aclose()


class CancelledFile(io.BytesIO):
    def tell(self) -> int:
        raise asyncio.CancelledError


@pytest.mark.parametrize("where", ["tell", "seek", "blocking tell"])
async def test_a_cancellation_within_a_file_object_that_is_opened_is_a_source_error(
    threads: WatchedThreads, where: str
) -> None:
    error = asyncio.CancelledError()
    is_blocking = where == "blocking tell"
    file = FileObjectOf(CancelledFile()) if is_blocking else BrokenAsyncFile(error, where=where)
    with pytest.raises(SourceError, match="raised CancelledError"):
        await as_source(file, threads).open()


async def test_cancelling_the_opening_of_an_asynchronous_file_is_a_cancellation(
    threads: WatchedThreads,
) -> None:
    class Slow(OnlyAsyncRead):
        async def tell(self) -> int:
            await asyncio.Event().wait()
            return 0

    opening = asyncio.create_task(as_source(Slow(SMALL), threads).open())
    await asyncio.sleep(0)
    opening.cancel()
    with pytest.raises(asyncio.CancelledError):
        await opening


@pytest.mark.parametrize(
    "thing", [None, 7, 1.5, object(), len, int], ids=lambda thing: type(thing).__name__
)
def test_what_is_no_source_is_refused_by_its_kind(threads: WatchedThreads, thing: object) -> None:
    what = re.escape(type(thing).__name__)
    with pytest.raises(InvalidArgumentError, match=f"cannot upload a {what}; pass a path, bytes"):
        as_source(thing, threads)  # type: ignore[arg-type]


async def test_a_file_in_text_mode_is_refused(threads: WatchedThreads, tmp_path: Path) -> None:
    path = written(tmp_path / "a", b"text")
    with path.open() as text, pytest.raises(InvalidArgumentError, match="binary mode: open"):
        as_source(text, threads)  # type: ignore[arg-type]
    with pytest.raises(InvalidArgumentError, match="open in text mode"):
        as_source(io.StringIO("text"), threads)  # type: ignore[arg-type]
    async with await anyio.open_file(path) as wrapped:
        with pytest.raises(InvalidArgumentError, match="open in text mode"):
            as_source(wrapped, threads)  # type: ignore[arg-type]


def test_memory_that_was_released_is_refused(threads: WatchedThreads) -> None:
    view = memoryview(b"abc")
    view.release()
    with pytest.raises(InvalidArgumentError, match="the memoryview cannot be read any more"):
        as_source(view, threads)


class BrokenPath:
    def __fspath__(self) -> str:
        raise BrokenError("no path")


class NumberPath:
    def __fspath__(self) -> str:
        return cast("str", 5)


class BrokenName(OnlyRead):
    @property
    def name(self) -> str:
        raise BrokenError("no name")


@pytest.mark.parametrize(
    ("upload", "reason"),
    [
        (BrokenPath(), r"the BrokenPath cannot be uploaded: it raised BrokenError\('no path'"),
        (NumberPath(), r"the NumberPath cannot be uploaded: it raised TypeError\(.*not int"),
        (BrokenName(SMALL), r"the BrokenName cannot be uploaded: it raised BrokenError\('no name'"),
    ],
    ids=["path", "number", "name"],
)
def test_what_raises_when_it_is_looked_at_is_refused(
    threads: WatchedThreads, upload: UploadSource, reason: str
) -> None:
    with pytest.raises(InvalidArgumentError, match=f"source: {reason}") as caught:
        as_source(upload, threads)
    assert caught.value.__cause__ is not None


def directory(stack: ExitStack, path: Path) -> Path:
    path.mkdir()
    return path


def loop(stack: ExitStack, path: Path) -> Path:
    path.symlink_to(path.name)
    return path


def unix_socket(stack: ExitStack, path: Path) -> Path:
    stack.enter_context(socket.socket(socket.AF_UNIX)).bind(str(path))
    return path


def forbidden(stack: ExitStack, path: Path) -> Path:
    written(path, b"secret").chmod(0)
    if os.geteuid() == 0:  # whom no mode keeps out
        os.seteuid(65_534)
        stack.callback(os.seteuid, 0)
    return path


@pytest.mark.parametrize(
    ("make", "reason"),
    [
        (lambda _, path: path, "cannot be read: No such file or directory; check that it exists"),
        (lambda _, path: written(path, b"") / "below", "cannot be read: Not a directory; check"),
        (directory, "is a directory; pass the path of a file in it"),
        (loop, "cannot be read: Too many levels of symbolic links; check"),
        (unix_socket, "cannot be read: No such device or address; check"),
        (forbidden, "cannot be read: Permission denied; check that it exists and is readable"),
        (lambda _, path: path.with_name("x" * 300), "cannot be read: File name too long; check"),
        (lambda _, path: f"{path}\0", "cannot be read: it raised ValueError"),
        (lambda _, path: f"{path}\ud800", "cannot be read: it raised UnicodeEncodeError"),
        (lambda _, __: "", "cannot be read: No such file or directory"),
        (lambda _, __: "/proc/self/mem", "cannot be read: Input/output error"),
    ],
)
async def test_a_path_that_cannot_be_read_says_why(
    threads: WatchedThreads,
    tmp_path: Path,
    make: Callable[[ExitStack, Path], str | Path],
    reason: str,
) -> None:
    with ExitStack() as stack:
        path = make(stack, tmp_path / "a")
        source = as_source(path, threads)
        with pytest.raises(SourceError, match=reason) as caught:
            await source.open()
        assert repr(os.fspath(path)) in str(caught.value)
        assert not caught.value.retryable


class BrokenError(Exception):
    pass


class Broken(io.BytesIO):
    def __init__(self, error: BaseException) -> None:
        super().__init__(SMALL)
        self._error = error

    def read(self, _: int | None = -1, /) -> bytes:
        raise self._error


def broken_lines() -> Iterator[bytes]:
    yield b"a"
    raise BrokenError("no more")


async def broken_async_lines() -> AsyncIterator[bytes]:
    yield b"a"
    raise BrokenError("no more")


class BrokenIterable:
    def __iter__(self) -> Iterator[bytes]:
        raise BrokenError("no more")


class BrokenAsyncIterable:
    def __aiter__(self) -> AsyncIterator[bytes]:
        raise BrokenError("no more")


class BrokenAsyncFile:
    def __init__(self, error: BaseException, *, where: str) -> None:
        self._error = error
        self._where = where

    async def tell(self) -> int:
        return self._done("tell")

    async def seek(self, _: int, __: int = 0, /) -> int:
        return self._done("seek")

    async def read(self, _: int, /) -> bytes:
        return b"" * self._done("read")

    def _done(self, what: str) -> int:
        if what == self._where:
            raise self._error
        return 0


def closed(file: T) -> T:
    cast("io.BytesIO", file).close()
    return file


@pytest.mark.parametrize(
    ("upload", "what"),
    [
        (Broken(OSError(5, "Input/output error")), "the Broken cannot be read: Input/output error"),
        (Broken(BrokenError("no more")), r"the Broken cannot be read: it raised BrokenError\('no"),
        (Broken(StopIteration()), "the Broken cannot be read: it raised StopIteration"),
        (closed(io.BytesIO()), "the BytesIO cannot be read: it raised ValueError"),
        (BrokenAsyncFile(OSError(5, "Input/output error"), where="read"), "Input/output error"),
        (BrokenAsyncFile(ValueError("closed"), where="tell"), r"it raised ValueError\('closed"),
        (broken_lines(), r"the generator cannot be read: it raised BrokenError\('no more'\)"),
        (broken_async_lines(), r"the async_generator cannot be read: it raised BrokenError"),
        (BrokenIterable(), "the BrokenIterable cannot be read: it raised BrokenError"),
        (BrokenAsyncIterable(), "the BrokenAsyncIterable cannot be read: it raised BrokenError"),
    ],
    ids=lambda value: type(value).__name__,
)
async def test_what_a_source_raises_is_the_cause_of_a_source_error(
    threads: WatchedThreads, upload: UploadSource, what: str
) -> None:
    with pytest.raises(SourceError, match=f"^{what}" if what.startswith("the") else what) as caught:
        await whole(as_source(upload, threads))
    assert caught.value.__cause__ is not None


@pytest.mark.parametrize("chunk", ["text", None, 7, [b"x"]], ids=repr)
async def test_chunks_that_are_no_bytes_are_refused_by_their_kind(
    threads: WatchedThreads, chunk: object
) -> None:
    class Odd:
        def read(self, _: int, /) -> object:
            return chunk

    class OddAsync:
        async def read(self, _: int, /) -> object:
            return chunk

    async def odd_lines() -> AsyncIterator[object]:
        yield b"a"
        yield chunk

    for upload in (Odd(), OddAsync(), [b"a", chunk], odd_lines()):
        kind = type(chunk).__name__
        remedy = f"gave a {kind} instead of bytes; use a binary, blocking one"
        with pytest.raises(SourceError, match=remedy):
            await whole(as_source(cast("UploadSource", upload), threads))


async def test_an_error_comes_again_when_it_is_asked_again(threads: WatchedThreads) -> None:
    reader = await as_source(broken_lines(), threads).open()
    for _ in range(2):
        with pytest.raises(SourceError):
            await reader.read()
    await reader.aclose()


def change_when_read(
    monkeypatch: pytest.MonkeyPatch, path: Path, change: Callable[[], object], times: int = 1
) -> None:
    """Have a file changed behind so many of its first reads, and be of another time each time."""
    real = os.read
    left = iter(range(times))

    def read(descriptor: int, size: int) -> bytes:
        content = real(descriptor, size)
        if (number := next(left, None)) is not None:
            change()
            os.utime(path, ns=(number, number))
        return content

    monkeypatch.setattr(os, "read", read)


async def test_a_small_file_that_is_written_to_while_it_is_read_is_read_once_more(
    threads: WatchedThreads, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = written(tmp_path / "a", SMALL)
    other = SMALL[::-1]
    change_when_read(monkeypatch, path, lambda: path.write_bytes(other))
    source = as_source(path, threads)
    assert await whole(source) == other
    assert isinstance(source, PathSource)
    assert source.opened == (len(other), 0)
    assert threads.started == 1


@pytest.mark.parametrize("content", [SMALL, b""], ids=["same length", "shorter"])
async def test_a_small_file_that_is_written_to_again_and_again_is_refused(
    threads: WatchedThreads, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, content: bytes
) -> None:
    path = written(tmp_path / "a", SMALL)
    changes = iter([SMALL[::-1], content])
    change_when_read(monkeypatch, path, lambda: path.write_bytes(next(changes)), times=2)
    with pytest.raises(SourceChangedError, match="upload it when nobody writes to it"):
        await as_source(path, threads).open()


async def test_a_small_file_that_becomes_large_while_it_is_read_is_read_as_such(
    threads: WatchedThreads, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = written(tmp_path / "a", SMALL)
    change_when_read(monkeypatch, path, lambda: path.write_bytes(LARGE))
    source = as_source(path, threads)
    assert await whole(source) == LARGE
    assert isinstance(source, PathSource)
    assert source.opened == (len(LARGE), 0)


async def test_a_small_file_that_grows_does_not_fill_the_memory(
    threads: WatchedThreads, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = written(tmp_path / "a", SMALL)
    real = os.read
    most = 0

    def read(descriptor: int, size: int) -> bytes:
        nonlocal most
        with path.open("ab") as file:
            file.write(LARGE)
        content = real(descriptor, size)
        most = max(most, os.lseek(descriptor, 0, os.SEEK_CUR))
        return content

    monkeypatch.setattr(os, "read", read)
    reader = await as_source(path, threads).open()
    assert most < 2_000_000
    await reader.aclose()


@pytest.mark.parametrize("buffering", [0, -1])
async def test_a_small_open_file_that_is_written_to_while_it_is_read_is_refused(
    threads: WatchedThreads, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, buffering: int
) -> None:
    path = written(tmp_path / "a", SKIPPED + SMALL)
    real = os.fstat
    moments = iter(range(10))

    def fstat(descriptor: int) -> os.stat_result:
        os.utime(path, ns=(moment := next(moments), moment))
        return real(descriptor)

    with path.open("rb", buffering=buffering) as file:
        source = as_source(behind(file), threads)
        with monkeypatch.context() as changing:
            changing.setattr(os, "fstat", fstat)
            with pytest.raises(SourceChangedError, match="was written to while it was sent"):
                await source.open()
        assert await whole(source) == SMALL


async def test_a_file_of_the_kernel_may_have_another_time_whenever_it_is_asked(
    threads: WatchedThreads, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = Path("/proc/self/limits")
    content = path.read_bytes()
    real = os.fstat
    moments = count()

    def fstat(descriptor: int) -> os.stat_result:
        values = list(real(descriptor))
        return os.stat_result(values, {"st_mtime_ns": next(moments)})

    monkeypatch.setattr(os, "fstat", fstat)
    assert await whole(as_source(path, threads)) == content


# --- threads ------------------------------------------------------------------------------------


async def test_a_small_file_takes_one_hop_to_a_thread(
    threads: WatchedThreads, tmp_path: Path
) -> None:
    assert await whole(as_source(written(tmp_path / "a", SMALL), threads)) == SMALL
    assert threads.started == 1


async def test_a_file_of_one_chunk_takes_one_hop_too_however_many_transfers_come_meanwhile(
    threads: WatchedThreads, tmp_path: Path
) -> None:
    content = LARGE[: 1024 * 1024]
    sizes = iter([len(content)])  # then others come, and each may read less at a time
    source = as_source(
        written(tmp_path / "a", content), threads, chunk_size=lambda: next(sizes, 64 * 1024)
    )
    assert await whole(source) == content
    assert threads.started == 1


async def test_memory_takes_no_thread(threads: WatchedThreads) -> None:
    assert await whole(as_source(LARGE, threads)) == LARGE
    assert threads.started == 0


async def test_many_small_chunks_share_a_hop(threads: WatchedThreads) -> None:
    source = as_source((b"line\n" for _ in range(10_000)), threads)
    assert await whole(source) == b"line\n" * 10_000
    assert threads.started < 100  # 2, if nothing else runs on this machine


async def test_chunks_of_a_slow_iterable_are_not_held_back(threads: WatchedThreads) -> None:
    more = threading.Event()

    def slow() -> Iterator[bytes]:
        yield b"first"
        time.sleep(0.11)
        yield b"second"
        assert more.wait(10)
        yield b"third"

    reader = await as_source(slow(), threads).open()
    came = b""
    while came != b"firstsecond":
        came += await reader.read()
    more.set()
    assert await reader.read() == b"third"
    await reader.aclose()


async def test_blocking_sources_are_read_one_chunk_ahead(threads: WatchedThreads) -> None:
    class Counted(io.BytesIO):
        reads = 0

        def read(self, size: int | None = -1, /) -> bytes:
            self.reads += 1
            return super().read(size)

    file = Counted(LARGE)
    reader = await as_source(file, threads).open()
    assert file.reads == 0
    for expected in (2, 3, 4):
        assert await reader.read()
        while threads.active:
            await asyncio.sleep(0)
        assert file.reads == expected
    assert not await reader.read()
    assert file.reads == 4
    await reader.aclose()


async def test_closing_waits_for_the_chunk_that_is_being_read_ahead(
    threads: WatchedThreads, tmp_path: Path
) -> None:
    reader = await as_source(written(tmp_path / "a", LARGE), threads).open()
    await reader.read()
    await reader.aclose()
    assert not threads.active


# --- cancellation -------------------------------------------------------------------------------


async def until_begun(threads: WatchedThreads) -> None:
    while threads.is_wanted or not threads.active:
        await asyncio.sleep(0.005)


@pytest.mark.parametrize("is_begun", [False, True], ids=["waiting", "begun"])
@pytest.mark.parametrize("content", [SMALL, LARGE], ids=["small", "large"])
async def test_cancelling_while_a_file_is_opened_leaves_nothing_open(
    threads: WatchedThreads,
    tmp_path: Path,
    content: bytes,
    is_begun: bool,  # noqa: FBT001 - pytest passes it by name
) -> None:
    source = as_source(written(tmp_path / "a", content), threads)
    threads.gate.clear()
    opening = asyncio.create_task(source.open())
    await asyncio.sleep(0)
    if is_begun:
        await until_begun(threads)
    opening.cancel()
    asyncio.get_running_loop().call_later(0.02, threads.gate.set)
    with pytest.raises(asyncio.CancelledError):
        await opening
    assert not threads.active
    threads.gate.set()
    assert await whole(source) == content


@pytest.mark.parametrize("by", ["task", "scope"])
async def test_cancelling_the_opening_of_what_is_missing_is_a_cancellation(
    threads: WatchedThreads, tmp_path: Path, by: str
) -> None:
    async def open_it() -> None:
        with scope:  # which asks again at every turn of the loop, where a task asks once
            await as_source(tmp_path / "missing", threads).open()

    scope = anyio.CancelScope()
    threads.gate.clear()
    opening = asyncio.create_task(open_it())
    await until_begun(threads)
    cancel = opening.cancel if by == "task" else scope.cancel
    cancel()
    asyncio.get_running_loop().call_later(0.02, threads.gate.set)
    with suppress(asyncio.CancelledError):
        await opening
    assert opening.cancelled() == (by == "task")
    assert scope.cancelled_caught == (by == "scope")
    assert not threads.active


@pytest.mark.parametrize("by", ["task", "scope", "timeout"])
async def test_cancelling_a_read_waits_for_the_thread_and_leaves_nothing_open(
    threads: WatchedThreads, tmp_path: Path, by: str
) -> None:
    reader = await as_source(written(tmp_path / "a", LARGE), threads).open()
    threads.gate.clear()

    async def read() -> None:
        try:
            await reader.read()
        finally:
            assert not threads.active
            await reader.aclose()

    running = asyncio.get_running_loop()
    running.call_later(0.03, threads.gate.set)
    if by == "task":
        task = asyncio.create_task(read())
        running.call_later(0.01, task.cancel)
        with pytest.raises(asyncio.CancelledError):
            await task
    elif by == "scope":
        with anyio.move_on_after(0.01) as scope:
            await read()
        assert scope.cancelled_caught
    else:
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.01):
                await read()
    assert not threads.active


@pytest.mark.parametrize("has_writer", [False, True])
async def test_a_silent_pipe_is_left_soon_after_a_cancellation(
    threads: WatchedThreads,
    tmp_path: Path,
    has_writer: bool,  # noqa: FBT001
) -> None:
    path = tmp_path / "pipe"
    os.mkfifo(path)
    reader = await as_source(path, threads).open()
    writing = os.open(path, os.O_WRONLY) if has_writer else None
    cancelled_at = time.monotonic() + 0.02
    with anyio.move_on_after(0.02) as scope:
        try:
            await reader.read()
        finally:
            await reader.aclose()
    assert scope.cancelled_caught
    assert time.monotonic() - cancelled_at < 0.5
    assert not threads.active
    if writing is not None:
        os.close(writing)


async def test_a_pipe_that_has_nothing_after_all_is_asked_again(
    threads: WatchedThreads, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = os.read
    outcomes: list[Exception] = [BlockingIOError()]

    def read(descriptor: int, size: int) -> bytes:
        if outcomes:
            raise outcomes.pop()
        return real(descriptor, size)

    reader = await as_source("/dev/zero", threads).open()
    monkeypatch.setattr(os, "read", read)
    assert set(await reader.read()) == {0}
    outcomes.append(OSError(5, "Input/output error"))
    with pytest.raises(SourceError, match="the file '/dev/zero' cannot be read: Input/output"):
        await reader.read()
    await reader.aclose()


async def test_cancelling_while_the_callers_generator_runs_waits_for_it(
    threads: WatchedThreads,
) -> None:
    entered, released = threading.Event(), threading.Event()
    finished = False

    def slow() -> Iterator[bytes]:
        nonlocal finished
        entered.set()
        assert released.wait(10)
        finished = True
        yield b"late"

    reader = await as_source(slow(), threads).open()
    reading = asyncio.ensure_future(reader.read())
    await asyncio.to_thread(entered.wait)
    reading.cancel()
    asyncio.get_running_loop().call_later(0.01, released.set)
    with pytest.raises(asyncio.CancelledError):
        await reading
    assert finished
    assert await reader.read() == b"late"  # nothing of it was lost
    await reader.aclose()


# --- spooling -----------------------------------------------------------------------------------


@pytest.mark.parametrize("content", [b"", SMALL, LARGE], ids=["empty", "small", "large"])
async def test_a_spooled_source_can_be_read_again_and_knows_its_length(
    threads: WatchedThreads, content: bytes
) -> None:
    source = as_source(named(AsyncLines(content), "lines.txt"), threads)
    async with spooled(source, threads) as copy:
        assert copy.name == "lines.txt"
        assert not copy.is_spent
        for _ in range(2):
            assert await whole(copy) == content
        reader = await copy.open()
        assert reader.length == len(content)
        await reader.aclose()


async def test_what_cannot_be_read_cannot_be_spooled(threads: WatchedThreads) -> None:
    with pytest.raises(SourceError, match="the generator cannot be read: it raised BrokenError"):
        async with spooled(as_source(broken_lines(), threads), threads):
            pytest.fail("it was spooled")


async def test_without_space_for_the_copy_it_says_what_to_do(
    threads: WatchedThreads, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Full(io.BytesIO):
        def write(self, _: object, /) -> int:
            raise OSError(28, "No space left on device")

    def unwritable() -> io.BytesIO:
        raise FileNotFoundError(2, "No usable temporary directory found")

    for make, reason in ((Full, "No space left"), (unwritable, "No usable temporary directory")):
        monkeypatch.setattr(tempfile, "TemporaryFile", make)
        remedy = f"spool=True: no temporary copy: {reason}.*; free space, or set TMPDIR"
        with pytest.raises(SourceError, match=remedy):
            async with spooled(as_source(lines(SMALL), threads), threads):
                pytest.fail("it was spooled")


async def test_without_space_for_what_the_copy_holds_in_its_buffer_it_says_so_too(
    threads: WatchedThreads, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full() -> IO[bytes]:
        return open("/dev/full", "r+b")

    monkeypatch.setattr(tempfile, "TemporaryFile", full)
    with pytest.raises(SourceError, match="spool=True: no temporary copy: No space left"):
        async with spooled(as_source([b"few"], threads), threads):
            pytest.fail("it was spooled")


async def test_what_the_upload_raises_is_no_fault_of_the_copy(threads: WatchedThreads) -> None:
    with pytest.raises(BrokenPipeError):
        async with spooled(as_source(SMALL, threads), threads):
            raise BrokenPipeError(32, "Broken pipe")  # such as from print() as a progress sink


@pytest.mark.parametrize("hops", range(4))
async def test_cancelling_the_spooling_leaves_nothing_open(
    threads: WatchedThreads, hops: int
) -> None:
    async def spool() -> None:
        async with spooled(as_source(SMALL, threads), threads) as copy:
            await whole(copy)

    task = asyncio.create_task(spool())
    while threads.started < hops:
        await asyncio.sleep(0)
    threads.gate.clear()
    await asyncio.sleep(0)
    task.cancel()
    asyncio.get_running_loop().call_later(0.02, threads.gate.set)
    with pytest.raises(asyncio.CancelledError):
        await task
    assert not threads.active
