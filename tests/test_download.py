"""Downloads over real sockets: all of a file or nothing, whatever the server does."""

from __future__ import annotations

import asyncio
import hashlib
import os
import shutil
import tracemalloc
from pathlib import Path
from typing import Any

import anyio
import attrs
import pytest
from conftest import (
    KEY,
    QUICK_RETRIES,
    RawRequest,
    Script,
    client_of,
    hang_up,
    nothing_leaks,
    raw_bytes,
    raw_server,
    reply,
)

from aiofiles_api import (
    APIConnectionError,
    APIResponseError,
    APIStatusError,
    APITimeoutError,
    ContentTooLargeError,
    DestinationError,
    FileObject,
    FilesClient,
    FilesError,
    IntegrityError,
    InternalServerError,
    InvalidArgumentError,
    NotFoundError,
    Progress,
    RetryPolicy,
    Timeouts,
)
from aiofiles_api.buffers import Buffers
from aiofiles_api.emulator import Emulator

pytestmark = pytest.mark.anyio

CONTENT = os.urandom(5_000_000)
SMALL = b"0123456789"


def described(content: bytes = SMALL, *, filename: str = "data.jsonl") -> FileObject:
    return FileObject("file-1", len(content), 1, filename, "batch")


def describe(length: int) -> Script:
    return reply(
        f'{{"id": "file-1", "object": "file", "bytes": {length}, "created_at": 1,'
        ' "filename": "data.jsonl", "purpose": "batch"}'
    )


def ranged(content: bytes, *, cut_after: int | None = None) -> Script:
    """Answer with ranges, and cut each body after so many bytes."""

    async def follow(request: RawRequest, writer: asyncio.StreamWriter) -> None:
        asked = request.headers.get("range", "bytes=0-")
        start = int(asked.removeprefix("bytes=").rstrip("-"))
        body = content[start:]
        status, extra = "200 OK", {"ETag": '"v1"'}
        if start:
            status = "206 Partial Content"
            extra["Content-Range"] = f"bytes {start}-{len(content) - 1}/{len(content)}"
        cut = body if cut_after is None else body[:cut_after]
        script = reply(
            cut, status=status, headers=extra, length=len(body), close=len(cut) < len(body)
        )
        await script(request, writer)

    return follow


async def test_a_download_arrives_byte_for_byte_and_leaves_no_part_file(
    files: FilesClient, tmp_path: Path
) -> None:
    file = await files.upload(CONTENT, purpose="batch")
    seen: list[Progress] = []
    result = await files.download(file, tmp_path / "copy", progress=seen.append)
    assert (tmp_path / "copy").read_bytes() == CONTENT
    assert os.listdir(tmp_path) == ["copy"]
    assert (result.file_id, result.path, result.bytes) == (file.id, tmp_path / "copy", len(CONTENT))
    assert (result.sha256, result.attempts, result.resumed_from) == (None, 1, 0)
    assert seen[0].done == 0
    assert seen[-1] == Progress(len(CONTENT), len(CONTENT), 1)


async def test_an_empty_file_is_downloaded_too(files: FilesClient, tmp_path: Path) -> None:
    file = await files.upload(b"", purpose="batch")
    result = await files.download(file.id, tmp_path / "empty", durable=True)
    assert result.bytes == 0
    assert (tmp_path / "empty").read_bytes() == b""


async def test_missing_directories_are_made(files: FilesClient, tmp_path: Path) -> None:
    file = await files.upload(SMALL, purpose="batch")
    await files.download(file, str(tmp_path / "out" / "deep" / "copy"))
    assert (tmp_path / "out" / "deep" / "copy").read_bytes() == SMALL


@pytest.mark.parametrize(
    ("filename", "safe"),
    [
        ("train.jsonl", "train.jsonl"),
        ("../../etc/passwd", "passwd"),
        ("/etc/shadow", "shadow"),
        ("nul\0byte", "nul_byte"),
        ("CON.txt", "_CON.txt"),
        ("x" * 300 + ".jsonl", "x" * 249 + ".jsonl"),
        ("..", None),
        ("", None),
    ],
)
@pytest.mark.parametrize("by_id", [False, True])
async def test_a_directory_gets_the_servers_filename_made_safe(
    tmp_path: Path, filename: str, safe: str | None, *, by_id: bool
) -> None:
    file = described(filename=filename)
    metadata = reply(
        b'{"id": "file-1", "bytes": 10, "created_at": 1, "purpose": "p", "filename": %s}'
        % _json(filename)
    )
    script = [metadata, reply(SMALL)] if by_id else [reply(SMALL)]
    async with raw_server(*script) as raw, client_of(raw) as files:
        result = await files.download("file-1" if by_id else file, tmp_path)
    assert result.path == tmp_path / (safe or "file-1")
    assert result.path.read_bytes() == SMALL
    assert len(os.listdir(tmp_path)) == 1


async def test_a_directory_of_the_files_name_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "data.jsonl").mkdir()
    async with raw_server(reply(SMALL)) as raw, client_of(raw) as files:
        with pytest.raises(DestinationError, match=r"data\.jsonl' is a directory"):
            await files.download(described(), tmp_path)
        assert raw.connections == 0
    assert os.listdir(tmp_path / "data.jsonl") == []


async def test_long_contents_leave_their_connection_to_the_next_request(tmp_path: Path) -> None:
    async with (
        nothing_leaks(),
        raw_server(reply(CONTENT)) as raw,
        client_of(raw, timeouts=Timeouts(read=5)) as files,
    ):
        for number in range(3):
            await files.download(described(CONTENT), tmp_path / str(number))
            assert (tmp_path / str(number)).read_bytes() == CONTENT
        assert raw.connections == 1


async def test_what_a_server_sends_behind_long_content_is_in_no_file(tmp_path: Path) -> None:
    async with (
        nothing_leaks(),
        raw_server(reply(CONTENT + SMALL, length=len(CONTENT))) as raw,
        client_of(raw, retry=QUICK_RETRIES) as files,
    ):
        for number in range(2):
            await files.download("file-1", tmp_path / str(number))
            assert (tmp_path / str(number)).read_bytes() == CONTENT


async def test_all_of_a_transfer_may_be_bounded(tmp_path: Path) -> None:
    """aiohttp measures that time, so it reads the content itself."""

    async def stall(_request: RawRequest, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % len(CONTENT))
        writer.write(CONTENT[:-1])
        await asyncio.sleep(3600)

    async with (
        raw_server(stall) as raw,
        client_of(raw, timeouts=Timeouts(total=0.3)) as files,
    ):
        with pytest.raises(APITimeoutError, match="total"):
            await files.download("file-1", tmp_path / "copy")


async def test_content_that_has_come_already_needs_no_buffer(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("aiofiles_api.session.exchange._WORTH_INTAKE", 1)
    async with raw_server(reply(SMALL)) as raw, client_of(raw) as files:
        await files.download("file-1", tmp_path / "copy")
    assert (tmp_path / "copy").read_bytes() == SMALL


async def test_many_downloads_at_a_time_come_whole_in_small_pieces(
    server: Emulator, tmp_path: Path
) -> None:
    contents = [os.urandom(1_500_000) for _ in range(16)]
    async with FilesClient(base_url=server.base_url, api_key=KEY) as files:
        stored = [await files.upload(content, purpose="batch") for content in contents]
        await asyncio.gather(*(files.download(file, tmp_path / file.id) for file in stored))
    for file, content in zip(stored, contents, strict=True):
        assert (tmp_path / file.id).read_bytes() == content


def _json(text: str) -> bytes:
    return b'"' + text.encode().replace(b"\0", b"\\u0000") + b'"'


async def test_no_extra_request_is_made_where_none_is_needed(tmp_path: Path) -> None:
    async with raw_server(reply(SMALL)) as raw, client_of(raw) as files:
        await files.download("file-1", tmp_path / "copy")
        await files.download(described(), tmp_path)
        assert [request.line.split()[1] for request in raw.requests] == [
            "/v1/files/file-1/content",
            "/v1/files/file-1/content",
        ]


async def test_a_reply_without_any_length_is_held_against_the_metadata(tmp_path: Path) -> None:
    until_close = raw_bytes(b"HTTP/1.1 200 OK\r\n\r\n" + SMALL)
    async with raw_server(until_close, describe(10)) as raw, client_of(raw) as files:
        await files.download("file-1", tmp_path / "copy")
        assert (tmp_path / "copy").read_bytes() == SMALL
    twice = [until_close, describe(11)] * 2
    async with raw_server(*twice) as raw, client_of(raw) as files:
        with pytest.raises(IntegrityError):
            await files.download("file-1", tmp_path / "other")
        assert len(raw.requests) == 4  # once more from the beginning
        assert os.listdir(tmp_path) == ["copy"]


async def test_a_checksum_is_compared(files: FilesClient, tmp_path: Path) -> None:
    file = await files.upload(CONTENT, purpose="batch")
    digest = hashlib.sha256(CONTENT).hexdigest()
    result = await files.download(file, tmp_path / "copy", sha256=digest.upper())
    assert result.sha256 == digest
    with pytest.raises(IntegrityError, match="sha256"):
        await files.download(file, tmp_path / "copy", sha256="0" * 64)
    assert (tmp_path / "copy").read_bytes() == CONTENT
    assert os.listdir(tmp_path) == ["copy"]


async def test_an_existing_file_is_replaced_or_kept_as_asked(
    files: FilesClient, tmp_path: Path
) -> None:
    file = await files.upload(SMALL, purpose="batch")
    (tmp_path / "copy").write_bytes(b"old")
    with pytest.raises(DestinationError, match="overwrite=True"):
        await files.download(file, tmp_path / "copy", overwrite=False)
    assert (tmp_path / "copy").read_bytes() == b"old"
    await files.download(file, tmp_path / "copy")
    assert (tmp_path / "copy").read_bytes() == SMALL
    await files.download(file, tmp_path / "new", overwrite=False)
    assert sorted(os.listdir(tmp_path)) == ["copy", "new"]


@pytest.mark.parametrize("cut", [0, 1, 9])
async def test_a_cut_download_leaves_nothing_and_raises_a_connection_error(
    tmp_path: Path, cut: int
) -> None:
    script = reply(SMALL[:cut], length=10, close=True)
    for file in ("file-1", described()):
        async with nothing_leaks(), raw_server(script) as raw, client_of(raw) as files:
            with pytest.raises(APIConnectionError, match="downloading file-1"):
                await files.download(file, tmp_path / "copy")
        assert os.listdir(tmp_path) == []


async def test_a_cut_at_any_byte_of_a_chunked_body_leaves_nothing(tmp_path: Path) -> None:
    whole = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
    whole += b"5\r\n01234\r\n5\r\n56789\r\n0\r\n\r\n"
    # The last line break ends an (empty) trailer, which tells nothing about the content.
    for end in range(1, len(whole) - 4):
        async with raw_server(raw_bytes(whole[:end])) as raw, client_of(raw) as files:
            with pytest.raises((APIConnectionError, APIResponseError)):
                await files.download(described(), tmp_path / "copy")
        assert os.listdir(tmp_path) == []
    async with raw_server(raw_bytes(whole)) as raw, client_of(raw) as files:
        await files.download(described(), tmp_path / "copy")
    assert (tmp_path / "copy").read_bytes() == SMALL


@pytest.mark.parametrize("cut_after", [400_000, 1_700_000])
async def test_a_cut_download_goes_on_where_it_was_cut(tmp_path: Path, cut_after: int) -> None:
    seen: list[Progress] = []
    async with (
        raw_server(ranged(CONTENT, cut_after=cut_after)) as raw,
        client_of(raw, retry=attrs.evolve(QUICK_RETRIES, attempts=20)) as files,
    ):
        result = await files.download("file-1", tmp_path / "copy", progress=seen.append)
        assert raw.requests[1].headers["if-range"] == '"v1"'
    assert (tmp_path / "copy").read_bytes() == CONTENT
    assert result.attempts == len(raw.requests) > 1
    assert seen[-1] == Progress(len(CONTENT), len(CONTENT), result.attempts)


async def test_a_server_without_ranges_sends_it_all_again(tmp_path: Path) -> None:
    cut = reply(CONTENT[:3_000_000], length=len(CONTENT), close=True)
    async with (
        raw_server(cut, cut, reply(CONTENT)) as raw,
        client_of(raw, retry=QUICK_RETRIES) as files,
    ):
        await files.download("file-1", tmp_path / "copy")
        assert len(raw.requests) == 3
    assert (tmp_path / "copy").read_bytes() == CONTENT


def in_parts(content: bytes, most: int, *, total: str | None = None) -> Script:
    """Answer with ranges of which each has only so many bytes, as a server may."""

    async def follow(request: RawRequest, writer: asyncio.StreamWriter) -> None:
        asked = request.headers.get("range", "bytes=0-")
        start = int(asked.removeprefix("bytes=").rstrip("-"))
        if not start:
            cut = reply(content[:most], length=len(content), close=True)
            await cut(request, writer)
            return
        part = content[start : start + most]
        end = f"{start + len(part) - 1}/{total or len(content)}"
        script = reply(
            part, status="206 Partial Content", headers={"Content-Range": f"bytes {start}-{end}"}
        )
        await script(request, writer)

    return follow


@pytest.mark.parametrize("total", [None, "*"])
async def test_the_rest_of_a_range_that_was_not_given_whole_is_asked_for(
    tmp_path: Path, total: str | None
) -> None:
    async with (
        nothing_leaks(),
        raw_server(in_parts(CONTENT, 900_000, total=total)) as raw,
        client_of(raw, retry=QUICK_RETRIES) as files,
    ):
        result = await files.download(described(CONTENT), tmp_path / "copy")
        assert (result.attempts, len(raw.requests)) == (6, 6)
        async with files.stream(described(CONTENT)) as content:
            assert b"".join([chunk async for chunk in content]) == CONTENT
    assert (tmp_path / "copy").read_bytes() == CONTENT


async def test_a_range_of_which_nothing_comes_is_not_asked_for_again_and_again() -> None:
    cut = reply(SMALL[:4], length=len(SMALL), close=True)
    nothing = raw_bytes(
        b"HTTP/1.1 206 Partial Content\r\nContent-Range: bytes 4-9/10\r\n"
        b"Transfer-Encoding: chunked\r\n\r\n0\r\n\r\n"
    )
    async with (
        nothing_leaks(),
        raw_server(cut, nothing) as raw,
        client_of(raw, retry=QUICK_RETRIES) as files,
    ):
        async with files.stream(described()) as content:
            with pytest.raises(IntegrityError, match="10, but it ends at 4;"):
                [chunk async for chunk in content]
        assert len(raw.requests) == 2


def chunked_part(content: bytes, where: str) -> Script:
    """Answer with a part that HTTP's chunks end, so that no length says where that must be."""
    return raw_bytes(
        b"HTTP/1.1 206 Partial Content\r\nContent-Range: bytes %b\r\n"
        b"Transfer-Encoding: chunked\r\n\r\n%x\r\n%b\r\n0\r\n\r\n"
        % (where.encode(), len(content), content)
    )


@pytest.mark.parametrize(
    ("part", "reason"),
    [
        (chunked_part(SMALL[4:8], "4-9/10"), "its length must be 10, but it ends at 8"),
        (chunked_part(SMALL[4:6], "4-6/10"), "the end of a part of it must be 7, but it ends at 6"),
        (chunked_part(SMALL[4:9], "4-6/10"), "a part of it must be 7, but the server sends more"),
    ],
    ids=["shorter than the rest", "shorter than it says", "longer than it says"],
)
async def test_a_part_of_another_length_than_it_says_is_not_built_upon(
    tmp_path: Path, part: Script, reason: str
) -> None:
    cut = reply(SMALL[:4], length=len(SMALL), close=True)
    async with (
        nothing_leaks(),
        raw_server(cut, part, cut, part) as raw,
        client_of(raw, retry=QUICK_RETRIES) as files,
    ):
        with pytest.raises(IntegrityError, match=reason):
            await files.download(described(), tmp_path / "copy")
        assert len(raw.requests) == 4
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize(
    "refusal",
    [
        *(reply("", status=f"{status} No") for status in (400, 405, 416, 501)),
        reply("", status="416 No", headers={"Content-Range": "bytes */10"}),
        reply(SMALL[4:], status="206 Partial Content"),
    ],
)
async def test_where_a_range_is_refused_the_whole_is_asked_for(
    tmp_path: Path, refusal: Script
) -> None:
    cut = reply(SMALL[:4], length=len(SMALL), close=True)
    async with (
        nothing_leaks(),
        raw_server(cut, refusal, cut, reply(SMALL)) as raw,
        client_of(raw, retry=QUICK_RETRIES) as files,
    ):
        assert (await files.download(described(), tmp_path / "copy")).attempts == 4
        ranges = [request.headers.get("range") for request in raw.requests]
        assert ranges == [None, "bytes=4-", None, None]
    assert (tmp_path / "copy").read_bytes() == SMALL


async def test_a_refused_range_from_the_beginning_on_is_what_it_says() -> None:
    refused = reply("", status="416 Range Not Satisfiable")
    async with (
        nothing_leaks(),
        raw_server(refused, reply(SMALL), refused, reply(SMALL), refused, refused) as raw,
        client_of(raw) as files,
    ):
        async with files.stream("file-1", start=4) as content:
            assert content.length == 6
            assert b"".join([chunk async for chunk in content]) == SMALL[4:]
        with pytest.raises(InvalidArgumentError, match="11 is beyond the 10 bytes"):
            async with files.stream("file-1", start=11):
                pass
        with pytest.raises(APIStatusError, match="416"):
            async with files.stream("file-1", start=4):
                pass


async def test_the_end_of_a_range_that_was_not_asked_for_is_no_end() -> None:
    refused = reply("", status="400 No")
    at_the_end = reply("", status="416 No", headers={"Content-Range": "bytes */10"})
    async with (
        nothing_leaks(),
        raw_server(refused, at_the_end) as raw,
        client_of(raw) as files,
    ):
        with pytest.raises(APIStatusError, match="416"):
            async with files.stream("file-1", start=10):
                pass
        assert [request.headers.get("range") for request in raw.requests] == ["bytes=10-", None]


async def test_a_length_that_cannot_be_found_out_ends_the_attempts() -> None:
    fails = reply("", status="500 Oh")
    content = raw_bytes(b"HTTP/1.1 200 OK\r\n\r\n" + SMALL)
    async with (
        nothing_leaks(),
        raw_server(content, fails, fails, fails) as raw,
        client_of(raw, retry=RetryPolicy(attempts=3, backoff=0.01)) as files,
    ):
        with pytest.raises(InternalServerError):
            await files.read("file-1")
        assert len(raw.requests) == 1 + 3


async def test_a_stream_whose_context_another_task_leaves_asks_for_nothing_more() -> None:
    async def stall(_request: RawRequest, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\n01234")
        await asyncio.sleep(3600)

    async with (
        nothing_leaks(),
        raw_server(stall, reply(SMALL)) as raw,
        client_of(raw, retry=QUICK_RETRIES, max_connections=1) as files,
    ):
        content = files.stream(described())
        async with content:
            assert await anext(content) == b"01234"
            reading = asyncio.ensure_future(anext(content))
            await asyncio.sleep(0.02)
        with pytest.raises(InvalidArgumentError, match="not open"):
            await reading
        assert len(raw.requests) == 1
        assert await files.read("file-1") == SMALL


async def test_a_stream_is_read_by_one_task_at_a_time() -> None:
    goes_on = asyncio.Event()

    async def in_two(_request: RawRequest, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\n" + SMALL[:4])
        await goes_on.wait()
        writer.write(SMALL[4:])

    async with (
        nothing_leaks(),
        raw_server(in_two) as raw,
        client_of(raw) as files,
        files.stream(described()) as content,
    ):
        assert await anext(content) == SMALL[:4]
        reading = asyncio.ensure_future(anext(content))
        await asyncio.sleep(0)
        with pytest.raises(InvalidArgumentError, match=r"one task at a time; .* stream\(\)"):
            await anext(content)
        goes_on.set()
        assert await reading == SMALL[4:]
        with pytest.raises(StopAsyncIteration):
            await anext(content)


async def test_the_progress_of_nothing_is_that_of_one_attempt(
    server: Emulator, files: FilesClient, tmp_path: Path
) -> None:
    file = await files.upload(b"", purpose="batch")
    seen: list[Progress] = []
    await files.download(file, tmp_path / "copy", progress=seen.append)
    assert seen[-1] == Progress(0, 0, 1)


async def test_the_progress_tells_of_attempts_that_bring_nothing(tmp_path: Path) -> None:
    seen: list[Progress] = []
    async with (
        raw_server(reply("{}", status="503 Service Unavailable")) as raw,
        client_of(raw, retry=QUICK_RETRIES) as files,
    ):
        with pytest.raises(InternalServerError):
            await files.download("file-1", tmp_path / "copy", progress=seen.append)
    assert seen == [Progress(0, None, QUICK_RETRIES.attempts)]


async def test_a_stream_is_read_within_its_context_alone(server: Emulator) -> None:
    async with (
        nothing_leaks(),
        FilesClient(api_key=KEY, base_url=server.base_url, max_connections=1) as files,
    ):
        file = await files.upload(CONTENT, purpose="batch")
        content = files.stream(file)
        with pytest.raises(InvalidArgumentError, match="inside its `async with`"):
            await anext(content)
        async with content:
            assert await anext(content)
        with pytest.raises(InvalidArgumentError, match="inside its `async with`"):
            await anext(content)
        assert await files.read(file) == CONTENT  # there is a connection for it


async def test_a_wrong_range_is_never_appended(tmp_path: Path) -> None:
    cut = reply(CONTENT[:3_000_000], length=len(CONTENT), close=True)
    wrong = reply(
        CONTENT[:2_000_000],
        status="206 Partial Content",
        headers={"Content-Range": f"bytes 0-1999999/{len(CONTENT)}"},
    )
    async with (
        raw_server(cut, wrong, ranged(CONTENT)) as raw,
        client_of(raw, retry=QUICK_RETRIES) as files,
    ):
        await files.download("file-1", tmp_path / "copy")
    assert (tmp_path / "copy").read_bytes() == CONTENT


@pytest.mark.parametrize(
    "script",
    [
        reply(SMALL + b"more"),
        reply(SMALL[:-1]),
        raw_bytes(b"HTTP/1.1 200 OK\r\n\r\n" + SMALL + b"more"),
        raw_bytes(b"HTTP/1.1 200 OK\r\n\r\n" + SMALL[:-1]),
    ],
    ids=["longer", "shorter", "longer, no length", "shorter, no length"],
)
async def test_another_length_than_the_files_own_is_an_integrity_error(
    tmp_path: Path, script: Script
) -> None:
    async with nothing_leaks(), raw_server(script) as raw, client_of(raw) as files:
        with pytest.raises(IntegrityError, match="length must be 10"):
            await files.download(described(), tmp_path / "copy")
    assert os.listdir(tmp_path) == []


def cut_short(content: bytes, head: str = "HTTP/1.0 200 OK") -> Script:
    """Return a script whose reply ends with its connection, and does not tell where it should."""
    return raw_bytes(f"{head}\r\n\r\n".encode() + content)


PARTIAL = "HTTP/1.1 206 Partial Content\r\nContent-Range: bytes 4-9/10"


@pytest.mark.parametrize(
    ("rest", "requests"),
    [
        ([cut_short(SMALL[4:], PARTIAL)], 2),
        ([cut_short(SMALL[4:6], PARTIAL), reply(SMALL)], 3),
        ([cut_short(b"", PARTIAL), reply(SMALL)], 3),
        ([cut_short(SMALL[:7]), cut_short(SMALL)], 3),
    ],
    ids=["the rest", "some of the rest", "nothing of the rest", "a server without ranges"],
)
async def test_a_body_that_ends_with_its_connection_is_continued_where_it_was_cut(
    tmp_path: Path, rest: list[Script], requests: int
) -> None:
    async with (
        nothing_leaks(),
        raw_server(cut_short(SMALL[:4]), *rest) as raw,
        client_of(raw, retry=QUICK_RETRIES) as files,
    ):
        assert (await files.download(described(), tmp_path / "copy")).attempts == requests
        assert raw.requests[1].headers["range"] == "bytes=4-"
    assert (tmp_path / "copy").read_bytes() == SMALL


async def test_a_body_that_always_ends_too_early_is_an_integrity_error(tmp_path: Path) -> None:
    async with (
        nothing_leaks(),
        raw_server(cut_short(SMALL[:4])) as raw,
        client_of(raw, retry=QUICK_RETRIES) as files,
    ):
        with pytest.raises(IntegrityError, match="must be 10, but 4 came"):
            await files.download(described(), tmp_path / "copy")
        assert len(raw.requests) == 2 * 2  # to know that it is no cut; once more from the beginning


async def test_a_body_that_never_begins_is_asked_for_as_often_as_the_policy_says() -> None:
    async with (
        nothing_leaks(),
        raw_server(cut_short(b"")) as raw,
        client_of(raw, retry=QUICK_RETRIES) as files,
    ):
        with pytest.raises(IntegrityError, match="must be 10, but 0 came"):
            async with files.stream(described()) as content:
                await anext(content)
        assert len(raw.requests) == QUICK_RETRIES.attempts


@pytest.mark.parametrize("cuts", [[0], [4, 2], [4, 0, 0], [4, 2, 4]], ids=str)
@pytest.mark.parametrize("by_id", [False, True])
async def test_a_stream_goes_on_wherever_its_connection_was_closed(
    cuts: list[int], *, by_id: bool
) -> None:
    script = [cut_short(SMALL[:cut]) for cut in cuts]
    if by_id:
        script.insert(1, describe(len(SMALL)))
    async with (
        nothing_leaks(),
        raw_server(*script, cut_short(SMALL)) as raw,
        client_of(raw, retry=QUICK_RETRIES) as files,
    ):
        async with files.stream("file-1" if by_id else described()) as content:
            assert b"".join([chunk async for chunk in content]) == SMALL
        assert len(raw.requests) == len(script) + 1


async def test_a_part_that_always_ends_too_early_is_kept(tmp_path: Path) -> None:
    cut = reply(SMALL[:4], length=len(SMALL), close=True)
    short = cut_short(SMALL[4:6], PARTIAL)
    async with (
        nothing_leaks(),
        raw_server(cut, short, reply(SMALL)) as raw,
        client_of(raw) as files,
    ):
        for _ in range(2):
            with pytest.raises(APIConnectionError):
                await files.download(described(), tmp_path / "copy", resume=True)
        result = await files.download(described(), tmp_path / "copy", resume=True)
        assert result.resumed_from == 6
    assert (tmp_path / "copy").read_bytes() == SMALL


async def test_another_content_matters_only_where_some_has_come() -> None:
    cut = reply(b"", length=len(SMALL), close=True, headers={"ETag": '"old"'})
    async with (
        raw_server(cut, reply(SMALL, headers={"ETag": '"new"'})) as raw,
        client_of(raw, retry=QUICK_RETRIES) as files,
        files.stream("file-1") as stream,
    ):
        assert b"".join([chunk async for chunk in stream]) == SMALL


async def test_a_stream_that_could_not_be_opened_may_be_entered_again() -> None:
    async with (
        raw_server(reply("{}", status="503 No"), reply(SMALL)) as raw,
        client_of(raw) as files,
    ):
        stream = files.stream("file-1")
        with pytest.raises(InternalServerError):
            await stream.__aenter__()
        async with stream:
            assert b"".join([chunk async for chunk in stream]) == SMALL


@pytest.mark.parametrize(
    "changed",
    [
        reply(SMALL[::-1], headers={"ETag": '"new"'}),
        reply(
            SMALL[::-1][4:],
            status="206 Partial Content",
            headers={"ETag": '"new"', "Content-Range": "bytes 4-9/10"},
        ),
    ],
    ids=["the whole", "a part"],
)
async def test_what_a_server_says_is_of_another_content_is_not_put_together(
    tmp_path: Path, changed: Script
) -> None:
    cut = reply(SMALL[:4], length=len(SMALL), close=True, headers={"ETag": '"old"'})
    whole = reply(SMALL[::-1], headers={"ETag": '"new"'})
    async with (
        nothing_leaks(),
        raw_server(cut, changed, whole) as raw,
        client_of(raw, retry=QUICK_RETRIES) as files,
    ):
        assert (await files.download("file-1", tmp_path / "copy")).attempts == 3
        assert [request.headers.get("if-range") for request in raw.requests] == [
            None,
            '"old"',
            None,
        ]
    assert (tmp_path / "copy").read_bytes() == SMALL[::-1]


@pytest.mark.parametrize("etag", ['"caf\xe9"', '"a\x7fb"', 'W/"v1"', ""])
async def test_an_etag_that_a_range_cannot_be_bound_to_is_left_out(etag: str) -> None:
    cut = reply(SMALL[:4], length=len(SMALL), close=True, headers={"ETag": etag})
    rest = raw_bytes(f"{PARTIAL}\r\nETag: {etag}\r\n\r\n".encode() + SMALL[4:])
    async with (
        raw_server(cut, rest) as raw,
        client_of(raw, retry=QUICK_RETRIES) as files,
        files.stream("file-1") as stream,
    ):
        assert b"".join([chunk async for chunk in stream]) == SMALL
        assert raw.requests[1].headers["range"] == "bytes=4-"
        assert "if-range" not in raw.requests[1].headers


@pytest.mark.parametrize("encoding", ["", "identity", "Identity", "aws-chunked"])
async def test_what_is_not_encoded_is_taken_as_it_is(tmp_path: Path, encoding: str) -> None:
    script = reply(SMALL, headers={"Content-Encoding": encoding})
    async with raw_server(script) as raw, client_of(raw) as files:
        await files.download("file-1", tmp_path / "copy")
    assert (tmp_path / "copy").read_bytes() == SMALL


async def test_what_a_proxy_has_touched_is_content_too() -> None:
    script = reply(SMALL, status="203 Non-Authoritative Information")
    async with raw_server(script) as raw, client_of(raw) as files:
        assert await files.read("file-1") == SMALL


async def test_a_stream_is_entered_once(files: FilesClient, server: Emulator) -> None:
    stream = files.stream(await files.upload(SMALL, purpose="batch"))
    async with stream:
        assert b"".join([chunk async for chunk in stream]) == SMALL
    with pytest.raises(InvalidArgumentError, match=r"stream\(\)"):
        async with stream:
            pass


async def test_totals_that_disagree_are_asked_for_once_more_from_the_beginning(
    tmp_path: Path,
) -> None:
    cut = reply(CONTENT[:3_000_000], length=len(CONTENT), close=True)
    fewer = reply(CONTENT[:1_000])
    async with (
        raw_server(cut, fewer, reply(CONTENT)) as raw,
        client_of(raw, retry=QUICK_RETRIES) as files,
    ):
        result = await files.download("file-1", tmp_path / "copy")
        assert result.attempts == len(raw.requests) == 3
        assert "range" not in raw.requests[2].headers
    assert (tmp_path / "copy").read_bytes() == CONTENT


async def test_content_that_shrinks_is_an_integrity_error_at_last(tmp_path: Path) -> None:
    cut = reply(CONTENT[:3_000_000], length=len(CONTENT), close=True)
    fewer = raw_bytes(
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n4\r\n%b\r\n0\r\n\r\n" % CONTENT[:4]
    )
    async with (
        raw_server(cut, fewer, cut, fewer) as raw,
        client_of(raw, retry=QUICK_RETRIES) as files,
    ):
        with pytest.raises(IntegrityError, match="less than before"):
            await files.download("file-1", tmp_path / "copy")
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize("encoding", ["gzip", "identity\r\nContent-Encoding: gzip"])
async def test_encoded_content_is_refused_rather_than_stored(tmp_path: Path, encoding: str) -> None:
    script = reply(b"\x1f\x8b", headers={"Content-Encoding": encoding})
    async with raw_server(script) as raw, client_of(raw) as files:
        with pytest.raises(APIResponseError, match="gzip"):
            await files.download("file-1", tmp_path / "copy")
        assert raw.requests[0].headers["accept-encoding"] == "identity"


@pytest.mark.parametrize(
    ("script", "error"),
    [
        (reply("<html>no</html>", status="502 Bad Gateway"), InternalServerError),
        (reply('{"error": {"message": "gone"}}', status="404 Not Found"), NotFoundError),
        (reply("", status="204 No Content"), APIResponseError),
        (reply("", status="416 Range Not Satisfiable"), APIStatusError),
        (reply("", status="416 No", headers={"Content-Range": "bytes */0"}), APIStatusError),
        (raw_bytes(b"SSH-2.0-OpenSSH_9.2\r\n"), APIResponseError),
        (hang_up, APIConnectionError),
    ],
)
async def test_a_reply_that_is_no_content_is_a_typed_error_and_leaves_nothing(
    tmp_path: Path, script: Script, error: type[FilesError]
) -> None:
    async with nothing_leaks(), raw_server(script) as raw, client_of(raw) as files:
        with pytest.raises(error):
            await files.download("file-1", tmp_path / "copy")
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize("length", [10, 10_000_000])
async def test_silence_inside_the_body_is_a_timeout(tmp_path: Path, length: int) -> None:
    async def stall(_request: RawRequest, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n01234" % length)
        await asyncio.sleep(3600)

    async with (
        nothing_leaks(),
        raw_server(stall) as raw,
        client_of(raw, timeouts=Timeouts(read=0.1)) as files,
    ):
        with pytest.raises(APITimeoutError):
            await files.download("file-1", tmp_path / "copy")
    assert os.listdir(tmp_path) == []


async def test_a_destination_that_becomes_a_directory_is_a_destination_error(
    tmp_path: Path,
) -> None:
    place = tmp_path / "copy"

    async def meddle(request: RawRequest, writer: asyncio.StreamWriter) -> None:
        place.mkdir()
        await reply(SMALL)(request, writer)

    async with nothing_leaks(), raw_server(meddle) as raw, client_of(raw) as files:
        with pytest.raises(DestinationError, match="become a directory"):
            await files.download("file-1", place)
    assert os.listdir(tmp_path) == ["copy"]


async def test_a_directory_that_vanishes_meanwhile_is_a_destination_error(tmp_path: Path) -> None:
    place = tmp_path / "out" / "copy"

    async def meddle(request: RawRequest, writer: asyncio.StreamWriter) -> None:
        half = len(CONTENT) // 2
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % len(CONTENT))
        writer.write(CONTENT[:half])
        await writer.drain()
        while not await asyncio.to_thread(
            lambda: place.parent.exists() and any(place.parent.iterdir())
        ):
            await asyncio.sleep(0.005)
        await asyncio.to_thread(shutil.rmtree, place.parent)
        writer.write(CONTENT[half:])

    async with nothing_leaks(), raw_server(meddle) as raw, client_of(raw) as files:
        with pytest.raises(DestinationError, match="vanished"):
            await files.download("file-1", place)
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize("destination", ["/dev/null", "/proc/self/mem/x"])
async def test_devices_and_impossible_paths_are_refused_before_anything_is_sent(
    destination: str,
) -> None:
    async with raw_server(hang_up) as raw, client_of(raw) as files:
        with pytest.raises(DestinationError):
            await files.download("file-1", destination)
        assert raw.connections == 0


@pytest.mark.parametrize("file", ["", ".", "..", "a/b", "a\\b", "a?b", "a#b", "a%2e", "a b", "a\n"])
async def test_bad_ids_are_refused_before_anything_is_sent(file: str, tmp_path: Path) -> None:
    async with raw_server(hang_up) as raw, client_of(raw) as files:
        for call in (
            lambda: files.download(file, tmp_path),
            lambda: files.read(file),
            lambda: files.retrieve(file),
            lambda: files.delete(file),
            lambda: files.wait_for_processing(file),
        ):
            with pytest.raises(InvalidArgumentError):
                await call()
        with pytest.raises(InvalidArgumentError):
            files.stream(file)
        assert raw.connections == 0


@pytest.mark.parametrize("sha256", ["123", b"0" * 64, 5])
async def test_what_is_no_digest_is_refused(
    files: FilesClient, tmp_path: Path, sha256: Any
) -> None:
    with pytest.raises(InvalidArgumentError, match="sha256"):
        await files.download("file-1", tmp_path, sha256=sha256)


async def test_bad_arguments_of_a_download_are_refused(files: FilesClient) -> None:
    with pytest.raises(InvalidArgumentError, match="start"):
        files.stream("file-1", start=-1)
    with pytest.raises(InvalidArgumentError, match="max_bytes"):
        await files.read("file-1", max_bytes=-1)


async def test_downloads_give_their_buffers_back_however_they_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def stall(_request: RawRequest, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 3000000\r\n\r\n" + bytes(1_000_000))
        await asyncio.sleep(3600)

    async def cut(_request: RawRequest, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 3000000\r\n\r\n" + bytes(1_000_000))
        writer.close()

    lent: list[bytearray] = []
    lend, take_back = Buffers.lend, Buffers.take_back

    def watched_lend(self: Buffers) -> bytearray:
        lent.append(lend(self))
        return lent[-1]

    def watched_take_back(self: Buffers, buffer: bytearray) -> None:
        lent[:] = [one for one in lent if one is not buffer]
        take_back(self, buffer)

    monkeypatch.setattr(Buffers, "lend", watched_lend)
    monkeypatch.setattr(Buffers, "take_back", watched_take_back)
    async with nothing_leaks(), raw_server(cut, stall) as raw, client_of(raw) as files:
        with pytest.raises(APIConnectionError):
            await files.download("file-1", tmp_path / "a", resume=False)
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.2):
                await files.download("file-1", tmp_path / "a", resume=False)
        assert lent == []
    assert len(raw.requests) == 2


async def test_many_downloads_at_once_all_arrive(files: FilesClient, tmp_path: Path) -> None:
    contents = {f"file-{number}": os.urandom(10_000) for number in range(100)}
    for name, content in contents.items():
        await files.upload(content, purpose="batch", filename=name)
    async with anyio.create_task_group() as group:
        async for file in files.list():
            group.start_soon(files.download, file, tmp_path)
    assert {name: (tmp_path / name).read_bytes() for name in os.listdir(tmp_path)} == contents


# --- stream and read -----------------------------------------------------------------------------


async def test_a_stream_gives_length_type_and_all_bytes(files: FilesClient) -> None:
    file = await files.upload(CONTENT, purpose="batch")
    async with files.stream(file.id) as content:
        assert content.length == len(CONTENT)
        assert content.content_type == "application/octet-stream"
        assert b"".join([chunk async for chunk in content]) == CONTENT


@pytest.mark.parametrize("ranges", [True, False])
@pytest.mark.parametrize("start", [0, 1, 4_999_999, 5_000_000])
async def test_a_stream_begins_where_it_is_asked_to(start: int, *, ranges: bool) -> None:
    async with (
        Emulator(ranges=ranges) as server,
        FilesClient(base_url=server.base_url, api_key=KEY) as files,
    ):
        file = await files.upload(CONTENT, purpose="batch")
        async with files.stream(file, start=start) as content:
            assert content.length == len(CONTENT) - start
            assert b"".join([chunk async for chunk in content]) == CONTENT[start:]


@pytest.mark.parametrize("ranges", [True, False])
async def test_a_start_beyond_the_end_is_an_invalid_argument(*, ranges: bool) -> None:
    async with (
        Emulator(ranges=ranges) as server,
        FilesClient(base_url=server.base_url, api_key=KEY) as files,
    ):
        file = await files.upload(SMALL, purpose="batch")
        with pytest.raises(InvalidArgumentError, match="beyond"):
            async with files.stream(file.id, start=11):
                pytest.fail("there is nothing to stream")


async def test_the_media_type_is_never_that_of_an_error(files: FilesClient) -> None:
    file = await files.upload(SMALL, purpose="batch")
    async with files.stream(file, start=len(SMALL)) as content:
        assert (content.length, content.content_type) == (0, None)
        assert [chunk async for chunk in content] == []


async def test_a_cut_stream_is_resumed_unseen() -> None:
    async with (
        raw_server(ranged(CONTENT, cut_after=2_000_000)) as raw,
        client_of(raw, retry=QUICK_RETRIES) as files,
    ):
        async with files.stream("file-1", start=7) as content:
            assert b"".join([chunk async for chunk in content]) == CONTENT[7:]
        assert len(raw.requests) == 3


async def test_a_stream_that_cannot_be_resumed_raises_what_cut_it() -> None:
    async with raw_server(reply(SMALL, length=20, close=True), hang_up) as raw, client_of(raw) as f:
        async with f.stream("file-1") as content:
            with pytest.raises(APIConnectionError):
                [chunk async for chunk in content]


async def test_leaving_a_stream_early_gives_the_connection_up() -> None:
    async def endless(_request: RawRequest, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 1000000000000\r\n\r\n")
        while True:
            writer.write(b"x" * 65536)
            await writer.drain()

    async with nothing_leaks(), raw_server(endless) as raw, client_of(raw) as files:
        async with files.stream("file-1") as content:
            async for _ in content:
                break
        await raw.wait_until_closed()


async def test_an_error_on_entering_a_stream_is_raised_there(files: FilesClient) -> None:
    with pytest.raises(NotFoundError):
        async with files.stream("file-unknown"):
            pytest.fail("there is nothing to stream")


async def test_a_stream_without_any_length_says_so() -> None:
    until_close = raw_bytes(b"HTTP/1.1 200 OK\r\n\r\n" + SMALL)
    async with raw_server(until_close, describe(10)) as raw, client_of(raw) as files:
        async with files.stream("file-1") as content:
            assert content.length is None
            assert content.content_type is None
            assert b"".join([chunk async for chunk in content]) == SMALL


async def test_read_returns_small_contents_and_refuses_large_ones(files: FilesClient) -> None:
    file = await files.upload(SMALL, purpose="batch")
    assert await files.read(file, max_bytes=10) == SMALL
    for reference in (file, file.id):
        with pytest.raises(ContentTooLargeError, match="max_bytes=9"):
            await files.read(reference, max_bytes=9)


async def test_read_and_stream_hold_the_length_against_the_files_own() -> None:
    async with raw_server(reply(b"shorter"), reply(SMALL)) as raw, client_of(raw) as files:
        assert await files.read(described()) == SMALL  # once more from the beginning
    async with raw_server(reply(b"shorter")) as raw, client_of(raw) as files:
        with pytest.raises(IntegrityError):
            await files.read(described())
        with pytest.raises(IntegrityError):
            async with files.stream(described()):
                pytest.fail("it is not the file")


async def test_read_stops_at_the_bound_where_no_length_was_told() -> None:
    async def endless(_request: RawRequest, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 200 OK\r\n\r\n")
        while True:
            writer.write(b"x" * 65536)
            await writer.drain()

    async with nothing_leaks(), raw_server(endless) as raw, client_of(raw) as files:
        with pytest.raises(ContentTooLargeError):
            await files.read("file-1", max_bytes=1_000_000)


async def test_what_is_read_is_held_once() -> None:
    size = 16_000_000
    head = b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % size

    async def send(_request: RawRequest, writer: asyncio.StreamWriter) -> None:
        writer.write(head)
        for _ in range(size // 50_000):
            writer.write(bytes(50_000))
            await writer.drain()

    async with raw_server(send) as raw, client_of(raw) as files:
        tracemalloc.start()
        try:
            content = await files.read("file-1")
            _, peak = tracemalloc.get_traced_memory()
        finally:
            tracemalloc.stop()
    assert content == bytes(size)
    assert peak < 1.5 * size
