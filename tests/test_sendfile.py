"""Files that the kernel sends by itself."""

from __future__ import annotations

import asyncio
import errno
import io
import json
import os
import socket
import tempfile
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import attrs
import pytest
from conftest import KEY, RawRequest, client_of, nothing_leaks, raw_server, reply

from aiofiles_api import (
    APITimeoutError,
    FilesClient,
    IntegrityError,
    Progress,
    RequestTooLargeError,
    SourceChangedError,
    SourceError,
    Timeouts,
)
from aiofiles_api.emulator import Emulator, Fault, Reset
from aiofiles_api.sendfile import FileSender, Span, takes_files
from aiofiles_api.threads import Threads

if TYPE_CHECKING:
    from _typeshed import WriteableBuffer

pytestmark = pytest.mark.anyio

CONTENT = os.urandom(3_000_000)


@attrs.define
class Line:
    """A connection, and what stands at its other end."""

    transport: asyncio.WriteTransport
    sender: FileSender
    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter

    async def send(self, span: Span) -> None:
        """Send all of a span."""
        while span:
            span = span.behind(await self.sender.send(span))


@pytest.fixture
async def line() -> AsyncIterator[Line]:
    async with connected(limit=None) as line:
        yield line


@asynccontextmanager
async def connected(*, limit: float | None) -> AsyncIterator[Line]:
    accepted: asyncio.Future[tuple[asyncio.StreamReader, asyncio.StreamWriter]]
    loop = asyncio.get_running_loop()
    accepted = loop.create_future()
    listener = socket.create_server(("127.0.0.1", 0))
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 65_536)
    server = await asyncio.start_server(
        lambda *ends: accepted.set_result(ends), sock=listener, limit=1024
    )
    transport, _ = await loop.create_connection(
        asyncio.Protocol, *server.sockets[0].getsockname()[:2]
    )
    transport.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 65_536)
    reader, writer = await accepted
    threads = Threads()
    sender = FileSender(transport, threads, limit)
    try:
        yield Line(transport, sender, reader, writer)
    finally:
        sender.close()
        transport.abort()
        writer.close()
        server.close()
        threads.close()
        await asyncio.sleep(0)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    path = tmp_path / "a"
    path.write_bytes(CONTENT)
    return path


@pytest.fixture
def descriptor(path: Path) -> Iterator[int]:
    descriptor = os.open(path, os.O_RDONLY)
    yield descriptor
    os.close(descriptor)


async def test_a_span_arrives_however_slowly_the_other_side_reads(
    line: Line, descriptor: int
) -> None:
    sending = asyncio.create_task(line.send(Span(descriptor, 10, len(CONTENT) - 10)))
    await asyncio.sleep(0.05)
    assert not sending.done()
    assert await line.reader.readexactly(len(CONTENT) - 10) == CONTENT[10:]
    await sending


@pytest.mark.parametrize("code", [errno.EINVAL, errno.ENOSYS, errno.EOPNOTSUPP])
async def test_what_a_file_system_cannot_do_is_done_for_it(
    line: Line, descriptor: int, code: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "sendfile", raising(code))
    sending = asyncio.create_task(line.send(Span(descriptor, 0, len(CONTENT))))
    assert await line.reader.readexactly(len(CONTENT)) == CONTENT
    await sending


def raising(code: int) -> object:
    def fail(*_: object) -> int:
        raise OSError(code, os.strerror(code))

    return fail


async def test_a_disk_that_fails_is_a_source_error(
    line: Line, descriptor: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "sendfile", raising(errno.EIO))
    monkeypatch.setattr(os, "pread", raising(errno.EIO))
    with pytest.raises(SourceError, match="check the disk"):
        await line.send(Span(descriptor, 0, 10))


async def test_a_file_that_has_become_shorter_is_told(line: Line, descriptor: int) -> None:
    with pytest.raises(SourceChangedError, match="has become shorter"):
        await line.send(Span(descriptor, len(CONTENT) - 10, 11))


async def test_a_connection_that_is_reset_is_told(line: Line, descriptor: int) -> None:
    linger = b"\1\0\0\0\0\0\0\0"
    line.writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
    line.writer.transport.abort()
    with pytest.raises(ConnectionError):
        for _ in range(100):
            await line.send(Span(descriptor, 0, len(CONTENT)))


async def test_nothing_more_goes_into_a_connection_that_is_closed_meanwhile(
    line: Line, descriptor: int
) -> None:
    line.transport.abort()
    with pytest.raises(ConnectionResetError, match="was closed"):
        await line.send(Span(descriptor, 0, 10))


async def test_the_other_side_may_not_be_silent_for_ever(descriptor: int) -> None:
    async with connected(limit=0.05) as line:
        line.writer.transport.pause_reading()  # type: ignore[attr-defined]
        with pytest.raises(TimeoutError):
            for _ in range(100):
                await line.send(Span(descriptor, 0, len(CONTENT)))
        assert line.sender.stalled
        assert line.transport.is_closing()


def test_a_connection_that_is_gone_takes_no_files() -> None:
    assert not takes_files(None)


# --- in an upload --------------------------------------------------------------------------------


@pytest.fixture
async def files(server: Emulator) -> AsyncIterator[FilesClient]:
    async with FilesClient(base_url=server.base_url, api_key=KEY) as files:
        yield files


@pytest.fixture
def sent(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Bytes of each call of sendfile(2)."""
    sent: list[int] = []
    sendfile = os.sendfile

    def counted(*arguments: int) -> int:
        sent.append(sendfile(*arguments))
        return sent[-1]

    monkeypatch.setattr(os, "sendfile", counted)
    return sent


async def test_an_upload_has_the_kernel_send_its_file(
    files: FilesClient, path: Path, sent: list[int]
) -> None:
    seen: list[Progress] = []
    file = await files.upload(path, purpose="batch", progress=seen.append)
    assert await files.read(file) == CONTENT
    assert sum(sent) == len(CONTENT)
    assert (seen[0].done, seen[-1].done) == (0, len(CONTENT))


async def test_a_sink_that_raises_while_a_file_is_sent_ends_the_upload(path: Path) -> None:
    def refuse(progress: Progress) -> None:
        if progress.done:
            raise BrokenPipeError  # as print() does; it is not the connection's

    async def read_on(request: RawRequest, _writer: asyncio.StreamWriter) -> None:
        await request.reader.read(-1)

    os.truncate(path, 100_000_000)
    async with nothing_leaks(), raw_server(read_on) as raw, client_of(raw) as files:
        with pytest.raises(BrokenPipeError):
            await files.upload(path, purpose="batch", progress=refuse)
    assert len(raw.requests) == 1


async def test_a_file_that_leaves_slowly_is_seen_to_move(path: Path) -> None:
    async def take_slowly(request: RawRequest, _writer: asyncio.StreamWriter) -> None:
        while await request.reader.read(1_000_000):
            await asyncio.sleep(0.01)

    seen: set[int] = set()
    os.truncate(path, 100_000_000)
    async with nothing_leaks(), raw_server(take_slowly) as raw, client_of(raw) as files:
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.6):
                await files.upload(path, purpose="batch", progress=lambda it: seen.add(it.done))
    assert len(seen) > 4


@pytest.mark.parametrize(("mode", "buffering"), [("rb", -1), ("rb", 0), ("r+b", -1)])
async def test_an_open_file_is_sent_by_the_kernel_from_where_it_stands(
    files: FilesClient, path: Path, sent: list[int], mode: str, buffering: int
) -> None:
    with path.open(mode, buffering) as opened:
        opened.read(10)
        file = await files.upload(opened, purpose="batch")
        assert opened.tell() == len(CONTENT)
    assert await files.read(file) == CONTENT[10:]
    assert sum(sent) == len(CONTENT) - 10


async def test_what_was_written_and_not_flushed_is_sent_too(
    files: FilesClient, sent: list[int]
) -> None:
    with tempfile.TemporaryFile() as opened:
        opened.write(CONTENT)
        opened.write(b"and more")
        opened.seek(0)
        file = await files.upload(opened, purpose="batch", filename="a")
    assert await files.read(file) == CONTENT + b"and more"
    assert sum(sent) == len(CONTENT) + 8


class Upper(io.BufferedReader):
    """Gives other bytes than its file has."""

    def read(self, size: int | None = -1, /) -> bytes:
        return super().read(size).upper()


class UpperRaw(io.FileIO):
    """Does the same below a buffer."""

    def readinto(self, buffer: WriteableBuffer, /) -> int:
        count = super().readinto(buffer)
        view = memoryview(buffer)[:count]
        view[:] = bytes(view).upper()
        return count


@pytest.mark.parametrize("reader", [Upper, io.BufferedReader])
async def test_a_file_object_that_gives_other_bytes_than_its_file_is_read(
    files: FilesClient, path: Path, sent: list[int], reader: type[io.BufferedReader]
) -> None:
    path.write_bytes(b"abc" * 200_000)
    raw = io.FileIO(path) if reader is Upper else UpperRaw(path)
    with reader(raw) as opened:
        file = await files.upload(opened, purpose="batch", filename="a")
    assert await files.read(file) == b"ABC" * 200_000
    assert sent == []


async def test_an_open_file_is_sent_anew_after_a_failure(
    server: Emulator, files: FilesClient, path: Path
) -> None:
    server.faults = [Fault(Reset("request", at=1_000_000), on="upload", nth=1)]
    with path.open("rb") as opened:
        opened.read(10)
        file = await files.upload(opened, purpose="batch")
    assert await files.read(file) == CONTENT[10:]


async def test_an_open_file_may_be_closed_while_it_is_sent(server: Emulator, path: Path) -> None:
    async with nothing_leaks(), FilesClient(base_url=server.base_url, api_key=KEY) as files:
        opened = path.open("rb")
        file = await files.upload(opened, purpose="batch", progress=lambda _: opened.close())
        assert await files.read(file) == CONTENT


async def test_an_open_file_for_which_no_descriptor_is_left_is_a_source_error(
    files: FilesClient, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "dup", raising(errno.EMFILE))
    with path.open("rb") as opened, pytest.raises(SourceError, match="Too many open files"):
        await files.upload(opened, purpose="batch")


async def test_an_open_file_that_changes_before_its_end_is_never_stored(
    files: FilesClient, path: Path
) -> None:
    with path.open("rb") as opened:
        opened.read(10)
        with pytest.raises(SourceChangedError, match="nothing was stored"):
            await files.upload(
                opened,
                purpose="batch",
                progress=lambda _: os.truncate(path, len(CONTENT) + 1),
            )
    assert [file async for file in files.list()] == []


@pytest.mark.parametrize("change", [-1, 1])
async def test_a_path_that_changes_before_its_end_is_never_stored(
    files: FilesClient, path: Path, change: int
) -> None:
    def resize(_progress: Progress) -> None:
        os.truncate(path, len(CONTENT) + change)

    with pytest.raises(SourceChangedError, match="nothing was stored"):
        await files.upload(path, purpose="batch", progress=resize)
    assert [file async for file in files.list()] == []


async def test_a_path_that_is_cut_while_it_is_sent_is_never_stored(
    files: FilesClient, path: Path
) -> None:
    with pytest.raises(SourceChangedError, match="nothing was stored"):
        await files.upload(path, purpose="batch", progress=lambda _: os.truncate(path, 300_000))
    assert [file async for file in files.list()] == []


@pytest.mark.parametrize("change", ["grow", "shrink", "overwrite"])
@pytest.mark.parametrize("sent", ["much", "all"])
async def test_a_path_that_changes_before_the_last_piece_is_never_stored(
    files: FilesClient, path: Path, change: str, sent: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("aiofiles_api.progress._INTERVAL", 0.0)  # each step is told
    size = 50_000_000
    os.truncate(path, size)

    def touch(progress: Progress) -> None:
        if progress.done == size if sent == "all" else 0 < progress.done < size:
            change_file(path, change, size)

    with pytest.raises(SourceChangedError, match="nothing was stored"):
        await files.upload(path, purpose="batch", progress=touch)
    assert [file async for file in files.list()] == []
    assert not files._claims._awaiting


async def test_a_change_while_others_look_is_seen_before_the_last_piece(
    files: FilesClient, path: Path
) -> None:
    async def change() -> None:
        await asyncio.sleep(0.3)
        change_file(path, "overwrite", len(CONTENT))

    async with files._claims.look(("batch", len(CONTENT))), asyncio.TaskGroup() as group:
        uploading = asyncio.create_task(files.upload(path, purpose="batch"))
        group.create_task(change())
    with pytest.raises(SourceChangedError, match="nothing was stored"):
        await uploading
    assert [file async for file in files.list()] == []


async def test_a_change_is_seen_long_before_the_end(path: Path) -> None:
    taken = 0

    async def take(request: RawRequest, _writer: asyncio.StreamWriter) -> None:
        nonlocal taken
        while chunk := await request.reader.read(100_000):
            taken += len(chunk)
            change_file(path, "overwrite", size)

    size = 200_000_000
    os.truncate(path, size)
    async with nothing_leaks(), raw_server(take) as raw, client_of(raw) as files:
        with pytest.raises(SourceChangedError, match="was written to while it was sent"):
            await files.upload(path, purpose="batch")
    assert taken < size / 2


def change_file(path: Path, change: str, size: int) -> None:
    if change == "overwrite":
        descriptor = os.open(path, os.O_WRONLY)
        os.pwrite(descriptor, b"other", size - 1000)
        os.close(descriptor)
    else:
        os.truncate(path, size + (1000 if change == "grow" else -1000))


@pytest.mark.parametrize("change", ["grow", "shrink", "overwrite"])
async def test_a_path_that_changes_while_its_end_is_on_the_way_is_an_integrity_error(
    path: Path, change: str
) -> None:
    async def wait_and_take(request: RawRequest, writer: asyncio.StreamWriter) -> None:
        await asyncio.sleep(0.2)  # all is in the kernel, and still the file's own memory
        change_file(path, change, size)
        await request.body()
        file = {"id": "file-1", "bytes": size, "created_at": 1, "filename": "a", "purpose": "p"}
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % len(json.dumps(file)))
        writer.write(json.dumps(file).encode())

    size = 1_500_000
    os.truncate(path, size)
    async with nothing_leaks(), raw_server(wait_and_take) as raw, client_of(raw) as files:
        with pytest.raises(IntegrityError, match="written to while its end was on the way") as told:
            await files.upload(path, purpose="batch")
    assert told.value.file is not None
    assert told.value.file.id == "file-1"


@pytest.mark.parametrize("shown", [200, 403, 503])
@pytest.mark.parametrize("change", ["touch", "append", "overwrite", "remove"])
@pytest.mark.parametrize("source", ["path", "object"])
async def test_a_change_that_did_not_reach_what_is_stored_is_none(
    path: Path, source: str, change: str, shown: int
) -> None:
    async def store(request: RawRequest, writer: asyncio.StreamWriter) -> None:
        body = await request.body()
        assert CONTENT in body
        if change in {"touch", "remove"}:
            os.utime(path, ns=(1, 1))
        if change == "remove":
            path.unlink()
        elif change != "touch":
            change_file(path, "grow" if change == "append" else change, len(CONTENT))
        await reply(json.dumps(stored))(attrs.evolve(request, headers={}), writer)

    stored = {"id": "file-1", "bytes": len(CONTENT), "created_at": 1, "filename": "a"}
    stored |= {"purpose": "batch"}
    show = reply(CONTENT if shown == 200 else b"{}", status=f"{shown} Status")
    async with nothing_leaks(), raw_server(store, show) as raw, client_of(raw) as files:
        with path.open("rb") as opened:
            uploading = files.upload(path if source == "path" else opened, purpose="batch")
            is_same = change in {"touch", "append"} or (change, source) == ("remove", "object")
            if shown == 200 and is_same:
                assert (await uploading).id == "file-1"
            else:
                with pytest.raises(IntegrityError, match="while its end was on the way"):
                    await uploading
            assert source == "path" or opened.tell() == len(CONTENT)
        assert raw.requests[1].line.startswith("GET /v1/files/file-1/content")


@pytest.mark.parametrize("broken", ["fstat", "pread"])
async def test_a_file_that_cannot_be_asked_any_more_is_a_source_error_and_not_sent_again(
    path: Path, monkeypatch: pytest.MonkeyPatch, broken: str
) -> None:
    async def read_on(request: RawRequest, _writer: asyncio.StreamWriter) -> None:
        await request.reader.read(-1)

    def break_off(_progress: Progress) -> None:
        monkeypatch.setattr(os, broken, raising(errno.ESTALE))
        monkeypatch.setattr(os, "sendfile", raising(errno.EINVAL))

    async with nothing_leaks(), raw_server(read_on) as raw, client_of(raw) as files:
        with pytest.raises(SourceError, match="the source cannot be read"):
            await files.upload(path, purpose="batch", progress=break_off)
        monkeypatch.undo()
    assert len(raw.requests) == 1


async def test_an_open_file_stands_behind_what_was_sent_when_its_upload_was_cancelled(
    path: Path,
) -> None:
    async def stop_reading(_request: RawRequest, writer: asyncio.StreamWriter) -> None:
        writer.transport.pause_reading()  # type: ignore[attr-defined]
        await asyncio.sleep(3600)

    os.truncate(path, 100_000_000)
    async with nothing_leaks(), raw_server(stop_reading) as raw, client_of(raw) as files:
        with path.open("rb") as opened:
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(0.3):
                    await files.upload(opened, purpose="batch")
            assert 0 < opened.tell() < 100_000_000


async def test_a_server_that_takes_nothing_of_a_file_is_a_write_timeout(path: Path) -> None:
    async def stop_reading(_request: RawRequest, writer: asyncio.StreamWriter) -> None:
        writer.transport.pause_reading()  # type: ignore[attr-defined]
        await asyncio.sleep(3600)

    os.truncate(path, 100_000_000)
    async with (
        nothing_leaks(),
        raw_server(stop_reading) as raw,
        client_of(raw, timeouts=Timeouts(write=0.2)) as files,
    ):
        with pytest.raises(APITimeoutError, match=r"Timeouts\.write"):
            await files.upload(path, purpose="batch")


async def test_an_early_refusal_of_a_file_is_told_without_sending_the_rest(path: Path) -> None:
    async def refuse(request: RawRequest, writer: asyncio.StreamWriter) -> None:
        await request.reader.readexactly(100)
        writer.write(b"HTTP/1.1 413 Payload Too Large\r\nContent-Length: 0\r\n\r\n")
        await writer.drain()
        await asyncio.sleep(3600)

    os.truncate(path, 100_000_000)
    async with nothing_leaks(), raw_server(refuse) as raw, client_of(raw) as files:
        with pytest.raises(RequestTooLargeError):
            await files.upload(path, purpose="batch")


async def test_a_cancelled_upload_of_a_file_leaves_nothing(path: Path) -> None:
    async def take_slowly(request: RawRequest, _writer: asyncio.StreamWriter) -> None:
        while await request.reader.read(10_000):
            await asyncio.sleep(0.01)

    os.truncate(path, 100_000_000)
    async with nothing_leaks(), raw_server(take_slowly) as raw, client_of(raw) as files:
        for delay in (0.0, 0.005, 0.05, 0.1):
            with pytest.raises(TimeoutError):
                await asyncio.wait_for(files.upload(path, purpose="batch"), delay)
