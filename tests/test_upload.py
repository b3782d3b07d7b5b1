"""Uploads over real sockets: every kind of source, exact lengths, filenames as browsers do."""

from __future__ import annotations

import asyncio
import io
import os
import re
import tempfile
import threading
import time
from collections.abc import AsyncIterator, Iterator
from datetime import timedelta
from pathlib import Path

import aiofiles
import anyio
import pytest
from conftest import (
    KEY,
    QUICK_RETRIES,
    RawRequest,
    client_of,
    hang_up,
    nothing_leaks,
    raw_server,
    reply,
)
from fastapi import UploadFile

from aiofiles_api import (
    APIConnectionError,
    APITimeoutError,
    BadRequestError,
    ExpiresAfter,
    FilesClient,
    FilesError,
    IntegrityError,
    InvalidArgumentError,
    Progress,
    RequestTooLargeError,
    SourceChangedError,
    SourceError,
    SourceNotReplayableError,
    Timeouts,
)
from aiofiles_api.emulator import Emulator
from aiofiles_api.sendfile import FileSender, Span

pytestmark = pytest.mark.anyio

CONTENT = os.urandom(3_000_000)

STORED = (
    '{"id": "file-1", "object": "file", "bytes": %d, "created_at": 1, "filename": "f",'
    ' "purpose": "batch", "status": "processed"}'
)


def make_path(directory: Path) -> Path:
    path = directory / "data.jsonl"
    path.write_bytes(CONTENT)
    return path


def pieces() -> Iterator[bytes]:
    for start in range(0, len(CONTENT), 70_001):
        yield CONTENT[start : start + 70_001]


async def async_pieces() -> AsyncIterator[bytes]:
    yield b""
    for piece in pieces():
        yield piece


async def endless() -> AsyncIterator[bytes]:
    while True:
        yield b"x" * 1024
        await asyncio.sleep(0.01)


async def cut_early(request: RawRequest, writer: asyncio.StreamWriter) -> None:
    await request.reader.readexactly(50)
    writer.close()


class OnlyReads:
    """A file-like object that knows nothing but `read`, as a response of urllib."""

    def __init__(self) -> None:
        self._file = io.BytesIO(CONTENT)

    def read(self, size: int, /) -> bytes:
        return self._file.read(size)


def spooled() -> UploadFile:
    file = tempfile.SpooledTemporaryFile(1024)  # noqa: SIM115 - closed with the UploadFile
    file.write(CONTENT)
    file.seek(0)
    return UploadFile(file, filename="form.jsonl")  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("source", "name"),
    [
        (CONTENT, "upload"),
        (bytearray(CONTENT), "upload"),
        (memoryview(CONTENT), "upload"),
        (io.BytesIO(CONTENT), "upload"),
        (OnlyReads(), "upload"),
        (list(pieces()), "upload"),
    ],
    ids=lambda value: type(value).__name__,
)
async def test_every_kind_of_source_in_memory_arrives_whole(
    files: FilesClient, source: object, name: str
) -> None:
    file = await files.upload(source, purpose="batch")  # type: ignore[arg-type]
    assert (file.bytes, file.filename) == (len(CONTENT), name)
    assert await files.read(file) == CONTENT


async def test_paths_files_and_iterables_arrive_whole_and_keep_their_names(
    files: FilesClient, tmp_path: Path
) -> None:
    path = make_path(tmp_path)
    stored = [
        await files.upload(path, purpose="batch"),
        await files.upload(str(path), purpose="batch"),
        await files.upload(pieces(), purpose="batch"),
        await files.upload(async_pieces(), purpose="batch"),
    ]
    with path.open("rb") as file:
        stored.append(await files.upload(file, purpose="batch"))
        assert not file.closed
    form = spooled()
    stored.append(await files.upload(form, purpose="batch"))
    await form.close()
    async with await anyio.open_file(path, "rb") as anyio_file:
        stored.append(await files.upload(anyio_file, purpose="batch"))
    async with aiofiles.open(path, "rb") as aio_file:
        stored.append(await files.upload(aio_file, purpose="batch"))
    assert [one.filename for one in stored] == [
        "data.jsonl",
        "data.jsonl",
        "upload",
        "upload",
        "data.jsonl",
        "form.jsonl",
        "data.jsonl",
        "data.jsonl",
    ]
    for one in stored:
        assert await files.read(one) == CONTENT


async def test_a_file_object_is_sent_from_where_it_stands(files: FilesClient) -> None:
    source = io.BytesIO(b"0123456789")
    source.seek(4)
    assert await files.read(await files.upload(source, purpose="batch")) == b"456789"


async def test_a_pipe_is_sent_in_chunks_until_its_writer_closes_it(
    files: FilesClient, tmp_path: Path
) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)

    def write_slowly() -> None:
        with pipe.open("wb", buffering=0) as writer:
            for piece in pieces():
                writer.write(piece)

    writer = threading.Thread(target=write_slowly)
    writer.start()
    file = await files.upload(pipe, purpose="batch")
    writer.join()
    assert await files.read(file) == CONTENT


@pytest.mark.parametrize("size", [0, 1, 262_143, 262_144, 262_145, 1_048_576, 1_048_577, 2_097_152])
async def test_every_length_around_a_boundary_arrives_exactly(
    files: FilesClient, tmp_path: Path, size: int
) -> None:
    path = tmp_path / "file"
    path.write_bytes(CONTENT[:size])
    file = await files.upload(path, purpose="batch")
    assert file.bytes == size
    assert await files.read(file) == CONTENT[:size]


@pytest.mark.parametrize(
    "filename",
    [
        "plain.jsonl",
        "Übergröße 文件 🎉.jsonl",
        'quo"ted\\back.txt',
        "line\r\nbreak\n.txt",
        "tab\tbell\x07.txt",
        "100%25 %22.txt",
        "a" * 5_000 + ".txt",
        "semi;colon=; name.txt",
        " spaces ",
    ],
)
async def test_a_filename_arrives_as_a_browser_would_send_it(filename: str) -> None:
    bodies: list[bytes] = []

    async def keep(request: RawRequest, writer: asyncio.StreamWriter) -> None:
        bodies.append(await request.body())
        content = (STORED % 1).encode()
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % len(content) + content)

    async with raw_server(keep) as raw, client_of(raw) as files:
        await files.upload(b"x", purpose="batch", filename=filename)
    quoted = filename.replace('"', "%22").replace("\r", "%0D").replace("\n", "%0A")
    assert f'name="file"; filename="{quoted}"\r\n'.encode() in bodies[0]


async def test_a_filename_comes_back_as_it_was_given(files: FilesClient) -> None:
    filename = 'Größe "文件"\r\n\t🎉.jsonl'
    file = await files.upload(b"x", purpose="batch", filename=filename)
    assert (await files.retrieve(file)).filename == filename


async def test_known_lengths_are_announced_and_unknown_ones_are_chunked() -> None:
    async with raw_server(reply(STORED % 5)) as raw, client_of(raw) as files:
        await files.upload(b"12345", purpose="batch")
        assert int(raw.requests[0].headers["content-length"]) > 5

    async def read_chunks(request: RawRequest, writer: asyncio.StreamWriter) -> None:
        body = await request.reader.readuntil(b"0\r\n\r\n")
        assert b"12345" in body
        content = (STORED % 5).encode()
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % len(content) + content)

    async with raw_server(read_chunks) as raw, client_of(raw) as files:
        await files.upload(iter([b"12345"]), purpose="batch")
        assert raw.requests[0].headers["transfer-encoding"] == "chunked"


@pytest.mark.parametrize(
    ("expires_after", "seconds"),
    [(3_600, 3_600), (timedelta(days=30), 2_592_000), (ExpiresAfter(86_400), 86_400)],
)
async def test_an_upload_expires_as_asked(
    files: FilesClient, expires_after: int | timedelta | ExpiresAfter, seconds: int
) -> None:
    file = await files.upload(b"x", purpose="user_data", expires_after=expires_after)
    assert file.expires_at == file.created_at + seconds


async def test_an_unknown_purpose_is_for_the_server_to_judge(files: FilesClient) -> None:
    with pytest.raises(BadRequestError, match="quite-new"):
        await files.upload(b"x", purpose="quite-new")


@pytest.mark.parametrize(
    "arguments",
    [
        {"source": b"x", "purpose": ""},
        {"source": b"x", "purpose": "batch", "expires_after": 3_599},
        {"source": b"x", "purpose": "batch", "expires_after": timedelta(days=31)},
        {"source": b"x", "purpose": "batch", "content_type": "a\r\nb"},
        {"source": 7, "purpose": "batch"},
        {"source": None, "purpose": "batch"},
        {"source": io.StringIO("text"), "purpose": "batch"},
    ],
)
async def test_bad_arguments_are_refused_before_anything_is_sent(
    arguments: dict[str, object],
) -> None:
    async with raw_server(hang_up) as raw, client_of(raw) as files:
        with pytest.raises(InvalidArgumentError):
            await files.upload(**arguments)  # type: ignore[arg-type]
        assert raw.connections == 0


@pytest.mark.parametrize("path", ["missing.jsonl", ".", "nul\0.txt"])
async def test_a_source_that_cannot_be_read_is_refused_before_anything_is_sent(
    path: str, tmp_path: Path
) -> None:
    async with raw_server(hang_up) as raw, client_of(raw) as files:
        with pytest.raises(SourceError, match=re.escape(repr(str(tmp_path / path))[:-1])):
            await files.upload(str(tmp_path / path), purpose="batch")
        assert raw.connections == 0


class Shifting(io.BytesIO):
    """A file that is longer or shorter than it was when its length was taken."""

    def __init__(self, announced: int, actual: int) -> None:
        super().__init__(CONTENT[:announced])
        self._actual = actual

    def read(self, size: int | None = -1, /) -> bytes:
        if len(self.getbuffer()) != self._actual:
            position = self.tell()
            self.seek(0)
            self.truncate()
            self.write(CONTENT[: self._actual])
            self.seek(position)
        return super().read(size)


@pytest.mark.parametrize(
    ("announced", "actual"),
    [(10, 9), (10, 11), (10, 0), (2_500_000, 2_499_999), (2_000_000, 2_900_000)],
)
async def test_a_source_whose_length_changes_is_never_stored(
    files: FilesClient, announced: int, actual: int
) -> None:
    with pytest.raises(SourceChangedError, match="nothing was stored"):
        await files.upload(Shifting(announced, actual), purpose="batch")
    assert [file async for file in files.list()] == []


async def test_a_path_that_grows_while_it_is_sent_is_never_stored(
    files: FilesClient, tmp_path: Path
) -> None:
    path = make_path(tmp_path)

    def grow(_progress: Progress) -> None:
        os.truncate(path, len(CONTENT) + 1)

    with pytest.raises(SourceChangedError):
        await files.upload(path, purpose="batch", progress=grow)
    assert [file async for file in files.list()] == []


async def test_where_no_thread_can_be_had_to_send_a_file_the_error_says_so(
    files: FilesClient, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> None:
        monkeypatch.undo()
        raise RuntimeError("can't start new thread")

    send = FileSender.send

    async def without_threads(sender: FileSender, span: Span) -> int:
        monkeypatch.setattr(files._session.threads._executor, "submit", refuse)
        return await send(sender, span)

    monkeypatch.setattr(FileSender, "send", without_threads)
    with pytest.raises(FilesError, match="no thread can be started") as caught:
        await files.upload(make_path(tmp_path), purpose="batch")
    assert not isinstance(caught.value, APIConnectionError)
    assert [file async for file in files.list()] == []


async def test_another_length_in_the_reply_is_an_integrity_error_with_the_stored_file() -> None:
    async with raw_server(reply(STORED % 4)) as raw, client_of(raw) as files:
        with pytest.raises(IntegrityError, match="5 bytes were sent") as caught:
            await files.upload(b"12345", purpose="batch")
    assert caught.value.file is not None
    assert caught.value.file.id == "file-1"


async def test_an_error_of_the_source_is_told_with_its_cause(files: FilesClient) -> None:
    async def broken() -> AsyncIterator[bytes]:
        yield b"some"
        raise OSError(5, "Input/output error")

    with pytest.raises(SourceError, match="Input/output error") as caught:
        await files.upload(broken(), purpose="batch")
    assert isinstance(caught.value.__cause__, OSError)
    assert [file async for file in files.list()] == []


async def test_progress_begins_at_zero_ends_at_the_total_and_is_not_called_too_often(
    files: FilesClient, tmp_path: Path
) -> None:
    seen: list[Progress] = []
    await files.upload(make_path(tmp_path), purpose="batch", progress=seen.append)
    assert seen[0] == Progress(0, len(CONTENT), 1)
    assert seen[-1] == Progress(len(CONTENT), len(CONTENT), 1)
    assert [one.done for one in seen] == sorted(one.done for one in seen)
    unknown: list[Progress] = []
    await files.upload(pieces(), purpose="batch", progress=unknown.append)
    assert unknown[0].total is None
    assert unknown[-1] == Progress(len(CONTENT), len(CONTENT), 1)


async def test_what_a_progress_sink_raises_ends_the_upload() -> None:
    def refuse(progress: Progress) -> None:
        if progress.done:
            raise LookupError

    async def read_on(request: RawRequest, _writer: asyncio.StreamWriter) -> None:
        await request.reader.read(-1)

    async with nothing_leaks(), raw_server(read_on) as raw, client_of(raw) as files:
        with pytest.raises(LookupError):
            await files.upload(endless(), purpose="batch", progress=refuse)


async def test_a_sink_that_raises_at_once_leaves_no_descriptor(tmp_path: Path) -> None:
    def refuse(_progress: Progress) -> None:
        raise LookupError

    async with nothing_leaks(), raw_server(hang_up) as raw, client_of(raw) as files:
        with pytest.raises(LookupError):
            await files.upload(make_path(tmp_path), purpose="batch", progress=refuse)


async def test_an_early_refusal_is_told_without_sending_the_rest() -> None:
    async def refuse(request: RawRequest, writer: asyncio.StreamWriter) -> None:
        await request.reader.readexactly(100)
        body = b'{"error": {"message": "too large", "type": "t", "param": null, "code": null}}'
        writer.write(
            b"HTTP/1.1 413 Payload Too Large\r\nContent-Length: %d\r\n\r\n" % len(body) + body
        )
        await writer.drain()
        await asyncio.sleep(3600)

    async with nothing_leaks(), raw_server(refuse) as raw, client_of(raw) as files:
        with pytest.raises(RequestTooLargeError, match="too large"):
            await files.upload(endless(), purpose="batch")


async def test_a_server_that_takes_no_bytes_is_a_write_timeout() -> None:
    async def stop_reading(_request: RawRequest, writer: asyncio.StreamWriter) -> None:
        writer.transport.pause_reading()  # type: ignore[attr-defined]
        await asyncio.sleep(3600)

    async with (
        nothing_leaks(),
        raw_server(stop_reading) as raw,
        client_of(raw, timeouts=Timeouts(write=0.2)) as files,
    ):
        with pytest.raises(APITimeoutError, match=r"Timeouts\.write"):
            await files.upload(CONTENT * 20, purpose="batch")


async def test_an_upload_needs_no_bound_on_a_stalled_write(server: Emulator) -> None:
    async with FilesClient(
        base_url=server.base_url, api_key=KEY, timeouts=Timeouts(write=None, read=None, reply=None)
    ) as files:
        assert await files.read(await files.upload(CONTENT, purpose="batch")) == CONTENT


@pytest.mark.parametrize("size", [1, 40_000])
async def test_a_slow_source_is_no_write_timeout(size: int) -> None:
    async def slowly() -> AsyncIterator[bytes]:
        for _ in range(4):
            yield b"x" * size
            await asyncio.sleep(0.3)

    async def read_chunks(request: RawRequest, writer: asyncio.StreamWriter) -> None:
        taken = b""
        while not taken.endswith(b"\r\n0\r\n\r\n"):
            taken = taken[-10:] + await request.reader.read(100_000)
        content = (STORED % (4 * size)).encode()
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % len(content) + content)

    async with (
        raw_server(read_chunks) as raw,
        client_of(raw, timeouts=Timeouts(write=0.15)) as files,
    ):
        assert (await files.upload(slowly(), purpose="batch")).bytes == 4 * size


async def test_a_source_that_never_waits_leaves_the_loop_to_others(files: FilesClient) -> None:
    turns = 0
    at: list[int] = []

    async def others() -> None:
        nonlocal turns
        while True:
            turns += 1
            await asyncio.sleep(0)

    async def eager() -> AsyncIterator[bytes]:
        for _ in range(20):
            at.append(turns)
            made_at = time.monotonic() + 0.002  # longer than the loop may be held
            while time.monotonic() < made_at:
                pass
            yield b"x"

    task = asyncio.create_task(others())
    await files.upload(eager(), purpose="batch")
    task.cancel()
    assert at[-1] - at[0] >= 15


async def test_a_failed_attempt_is_made_again_from_the_beginning(tmp_path: Path) -> None:
    bodies: list[bytes] = []

    async def store(request: RawRequest, writer: asyncio.StreamWriter) -> None:
        bodies.append(await request.body())
        await reply(STORED % 200_000)(request_without_body(request), writer)

    def request_without_body(request: RawRequest) -> RawRequest:
        return RawRequest(request.line, {}, request.reader)

    path = tmp_path / "file"
    path.write_bytes(CONTENT[:200_000])
    attempts: list[Progress] = []
    unavailable = reply("", status="503 Service Unavailable")
    async with (
        raw_server(unavailable, hang_up, store) as raw,
        client_of(raw, retry=QUICK_RETRIES) as files,
    ):
        await files.upload(path, purpose="batch", progress=attempts.append, on_uncertain="resend")
    assert CONTENT[:200_000] in bodies[0]
    assert attempts[-1] == Progress(200_000, 200_000, 3)


async def test_a_consumed_iterable_is_not_sent_again() -> None:
    async with raw_server(cut_early) as raw, client_of(raw, retry=QUICK_RETRIES) as files:
        with pytest.raises(SourceNotReplayableError, match=r"lost.*spool=True") as caught:
            await files.upload(endless(), purpose="batch")
    assert isinstance(caught.value.__cause__, APIConnectionError)


async def test_a_lost_connection_is_a_connection_error() -> None:
    async with nothing_leaks(), raw_server(cut_early) as raw, client_of(raw) as files:
        with pytest.raises(APIConnectionError, match=r"uploading 'data\.jsonl'"):
            await files.upload(endless(), purpose="batch", filename="data.jsonl")


async def test_many_uploads_at_once_all_arrive(files: FilesClient) -> None:
    contents = {f"file-{number}": os.urandom(4_000) for number in range(200)}

    async def send(name: str, content: bytes) -> None:
        await files.upload(content, purpose="batch", filename=name)

    async with anyio.create_task_group() as group:
        for name, content in contents.items():
            group.start_soon(send, name, content)
    assert {f.filename: await files.read(f) async for f in files.list()} == contents
