"""Downloads that survive their process: part files that are kept, locked and continued."""

from __future__ import annotations

import asyncio
import hashlib
import logging
import os
import random
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import pytest
from conftest import (
    KEY,
    QUICK_RETRIES,
    RawRequest,
    Script,
    client_of,
    nothing_leaks,
    raw_bytes,
    raw_server,
    reply,
)

from aiofiles_api import APIConnectionError, FileObject, FilesClient, IntegrityError, NotFoundError
from aiofiles_api.emulator import Emulator
from aiofiles_api.partfile import PartFile

pytestmark = pytest.mark.anyio

CONTENT = os.urandom(6_000_000)
FILE = FileObject("file-1", len(CONTENT), 1, "data.jsonl", "batch")


def parts(directory: Path) -> list[Path]:
    return [path for path in directory.iterdir() if path.name.endswith(".part")]


def cut_at(position: int) -> Script:
    return reply(CONTENT[:position], length=len(CONTENT), close=True)


async def from_offset(request: RawRequest, writer: asyncio.StreamWriter) -> None:
    start = int(request.headers.get("range", "bytes=0-").removeprefix("bytes=").rstrip("-"))
    if start >= len(CONTENT):
        extra = {"Content-Range": f"bytes */{len(CONTENT)}"}
        await reply("<html>", status="416 No", headers=extra)(request, writer)
        return
    extra = {"Content-Range": f"bytes {start}-{len(CONTENT) - 1}/{len(CONTENT)}"} if start else {}
    status = "206 Partial" if start else "200 OK"
    await reply(CONTENT[start:], status=status, headers=extra)(request, writer)


@pytest.mark.parametrize("has_ranges", [True, False])
@pytest.mark.parametrize("by_id", [True, False])
async def test_what_one_call_leaves_the_next_one_continues(
    tmp_path: Path, *, has_ranges: bool, by_id: bool
) -> None:
    file = "file-1" if by_id else FILE
    place = tmp_path / ("x" * 255)
    last = from_offset if has_ranges else reply(CONTENT)
    async with nothing_leaks(), raw_server(cut_at(4_000_000), last) as raw, client_of(raw) as files:
        with pytest.raises(APIConnectionError):
            await files.download(file, place, resume=True)
        [part] = parts(tmp_path)
        kept = part.read_bytes()
        assert kept == CONTENT[: len(kept)]
        assert len(kept) > 2_000_000
        digest = hashlib.sha256(CONTENT).hexdigest()
        result = await files.download(file, place, resume=True, sha256=digest)
        assert result.resumed_from == len(kept)
        assert raw.requests[1].headers["range"] == f"bytes={len(kept)}-"
    assert place.read_bytes() == CONTENT
    assert parts(tmp_path) == []


@pytest.mark.parametrize("encoding", ["identity", "gzip"])
async def test_a_part_that_is_whole_already_only_takes_its_place(
    tmp_path: Path, encoding: str
) -> None:
    extra = {"Content-Range": f"bytes */{len(CONTENT)}", "Content-Encoding": encoding}
    nothing_more = reply(b"\x1f\x8b", status="416 No", headers=extra)
    async with raw_server(cut_at(4_000_000), nothing_more) as raw, client_of(raw) as files:
        with pytest.raises(APIConnectionError):
            await files.download(FILE, tmp_path / "copy", resume=True)
        [part] = parts(tmp_path)
        part.write_bytes(CONTENT)
        result = await files.download(FILE, tmp_path / "copy", resume=True)
    assert (result.resumed_from, result.bytes) == (len(CONTENT), len(CONTENT))
    assert (tmp_path / "copy").read_bytes() == CONTENT


@pytest.mark.parametrize("damaged", [CONTENT + b"more", b"?" * 5_000_000])
async def test_a_part_that_is_damaged_is_thrown_away(tmp_path: Path, damaged: bytes) -> None:
    async with raw_server(cut_at(4_000_000), from_offset) as raw, client_of(raw) as files:
        with pytest.raises(APIConnectionError):
            await files.download(FILE, tmp_path / "copy", resume=True)
        [part] = parts(tmp_path)
        part.write_bytes(damaged)
        digest = hashlib.sha256(CONTENT).hexdigest()
        result = await files.download(FILE, tmp_path / "copy", resume=True, sha256=digest)
        assert result.resumed_from == 0
    assert (tmp_path / "copy").read_bytes() == CONTENT


async def test_a_wrong_digest_leaves_nothing_to_be_continued(tmp_path: Path) -> None:
    async with raw_server(from_offset) as raw, client_of(raw) as files:
        with pytest.raises(IntegrityError):
            await files.download(FILE, tmp_path / "copy", resume=True, sha256="0" * 64)
    assert os.listdir(tmp_path) == []


async def test_what_is_too_short_twice_leaves_nothing_at_all(tmp_path: Path) -> None:
    async def too_short(_request: RawRequest, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
        writer.write(b"%x\r\n%b\r\n0\r\n\r\n" % (900, CONTENT[:900]))

    async with nothing_leaks(), raw_server(too_short) as raw, client_of(raw) as files:
        with pytest.raises(IntegrityError):
            await files.download(FILE, tmp_path / "copy", resume=True)
        await asyncio.sleep(0.1)  # in which what is not to be lost would be written
        assert os.listdir(tmp_path) == []


async def test_nothing_is_kept_where_nothing_came(tmp_path: Path) -> None:
    async with raw_server(reply("{}", status="404 No")) as raw, client_of(raw) as files:
        with pytest.raises(NotFoundError):
            await files.download(FILE, tmp_path / "copy", resume=True)
    assert os.listdir(tmp_path) == []


async def test_a_cancelled_download_keeps_what_it_has(tmp_path: Path) -> None:
    async def stall(_request: RawRequest, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % len(CONTENT))
        writer.write(CONTENT[:100_000])
        await asyncio.sleep(3600)

    async with nothing_leaks(), raw_server(stall) as raw, client_of(raw) as files:
        task = asyncio.create_task(files.download(FILE, tmp_path / "copy", resume=True))
        while not raw.requests:
            await asyncio.sleep(0.01)
        await asyncio.sleep(0.2)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
    [part] = parts(tmp_path)
    assert part.read_bytes() == CONTENT[:100_000]


async def test_bytes_reach_the_file_within_a_second_though_no_more_come(tmp_path: Path) -> None:
    async def stall(_request: RawRequest, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % len(CONTENT))
        writer.write(CONTENT[:100_000])
        await asyncio.sleep(3600)

    async with raw_server(stall) as raw, client_of(raw) as files:
        task = asyncio.create_task(files.download(FILE, tmp_path / "copy", resume=True))
        began = time.monotonic()
        while not any(part.stat().st_size == 100_000 for part in parts(tmp_path)):
            assert time.monotonic() - began < 3
            await asyncio.sleep(0.02)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task


async def test_bytes_that_find_the_disk_busy_are_written_a_little_later(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    refusals = iter([True, True])
    append_if_idle = PartFile.append_if_idle

    def busy_at_first(part: PartFile, chunks: Sequence[bytes]) -> bool:
        return False if next(refusals, False) else append_if_idle(part, chunks)

    monkeypatch.setattr(PartFile, "append_if_idle", busy_at_first)
    monkeypatch.setattr("aiofiles_api.download._LONGEST_WAIT", 0.01)

    async def in_pieces(_request: RawRequest, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\n")
        for _ in range(10):
            writer.write(b"x" * 100)
            await asyncio.sleep(0.01)

    async with raw_server(in_pieces) as raw, client_of(raw) as files:
        await files.download("file-1", tmp_path / "copy", resume=True)
    assert next(refusals, None) is None
    assert (tmp_path / "copy").read_bytes() == b"x" * 1_000


async def test_two_downloads_to_one_place_do_not_disturb_each_other(
    files: FilesClient, server: Emulator, tmp_path: Path
) -> None:
    file = await files.upload(CONTENT, purpose="batch")
    async with FilesClient(base_url=server.base_url, api_key=KEY) as other:
        results = await asyncio.gather(
            *(
                client.download(file, tmp_path / "copy", resume=True)
                for client in (files, other, files, other)
            )
        )
    assert {result.bytes for result in results} == {len(CONTENT)}
    assert (tmp_path / "copy").read_bytes() == CONTENT
    assert parts(tmp_path) == []


async def test_a_second_name_of_a_part_is_never_written_through(tmp_path: Path) -> None:
    async with raw_server(cut_at(4_000_000), from_offset) as raw, client_of(raw) as files:
        with pytest.raises(APIConnectionError):
            await files.download(FILE, tmp_path / "copy", resume=True)
        [part] = parts(tmp_path)
        os.link(part, tmp_path / "finished")  # as a crash before the removal leaves it
        before = (tmp_path / "finished").read_bytes()
        result = await files.download(FILE, tmp_path / "copy", resume=True)
    assert result.resumed_from == 0
    assert (tmp_path / "finished").read_bytes() == before


async def test_different_files_have_different_parts(tmp_path: Path) -> None:
    other = FileObject("file-2", len(CONTENT), 1, "data.jsonl", "batch")
    async with raw_server(cut_at(4_000_000)) as raw, client_of(raw) as files:
        for file in (FILE, other, "file-1"):
            with pytest.raises(APIConnectionError):
                await files.download(file, tmp_path / "copy", resume=True)
    assert len(parts(tmp_path)) == 3


async def test_each_resume_is_told_with_its_offset(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "aiofiles_api")
    async with (
        raw_server(cut_at(4_000_000), from_offset) as raw,
        client_of(raw, retry=QUICK_RETRIES) as files,
    ):
        await files.download(FILE, tmp_path / "copy")
        offset = raw.requests[1].headers["range"].removeprefix("bytes=").rstrip("-")
    lines = [record.getMessage() for record in caplog.records if record.name == "aiofiles_api"]
    assert len(lines) == 2
    assert "attempt 1 failed" in lines[0]
    assert lines[1] == f"downloading file-1: attempt 2, from byte {offset}"
    assert KEY not in caplog.text


async def test_attempts_are_counted_anew_only_when_the_offset_has_risen(tmp_path: Path) -> None:
    step = 200_000

    async def a_little_further(request: RawRequest, writer: asyncio.StreamWriter) -> None:
        start = int(request.headers.get("range", "bytes=0-").removeprefix("bytes=").rstrip("-"))
        extra = {"Content-Range": f"bytes {start}-{len(CONTENT) - 1}/{len(CONTENT)}"}
        status = "206 Partial" if start else "200 OK"
        head = f"HTTP/1.1 {status}\r\nContent-Length: {len(CONTENT) - start}\r\n"
        writer.write(f"{head}Content-Range: {extra['Content-Range']}\r\n\r\n".encode())
        writer.write(CONTENT[start : start + step])
        await writer.drain()
        await asyncio.sleep(0.01)  # so that the client has it before the end comes
        writer.close()

    async with (
        raw_server(a_little_further) as raw,
        client_of(raw, retry=QUICK_RETRIES) as files,
    ):
        result = await files.download(FILE, tmp_path / "copy")
        assert result.attempts == len(raw.requests) >= len(CONTENT) // step
    assert (tmp_path / "copy").read_bytes() == CONTENT
    always_cut = raw_bytes(b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\n1234")
    async with raw_server(always_cut) as raw, client_of(raw, retry=QUICK_RETRIES) as files:
        with pytest.raises(APIConnectionError):
            await files.download("file-1", tmp_path / "other")
        assert len(raw.requests) <= 2 * QUICK_RETRIES.attempts


PROGRAM = """
import asyncio, sys
from aiofiles_api import FilesClient
async def main():
    async with FilesClient(base_url=sys.argv[1], api_key=sys.argv[2]) as files:
        file = await files.retrieve(sys.argv[3])
        await files.download(file, sys.argv[4], resume=True)
asyncio.run(main())
"""


@pytest.mark.timeout(120)
async def test_a_download_that_is_killed_again_and_again_ends_whole(tmp_path: Path) -> None:
    seed = random.randrange(2**32)
    print(f"seed {seed}")  # noqa: T201 - shown when the test fails
    dice = random.Random(seed)
    content = os.urandom(30_000_000)
    fetched = 0

    async def slowly(request: RawRequest, writer: asyncio.StreamWriter) -> None:
        nonlocal fetched
        if "/content" not in request.line:
            await reply(
                f'{{"id": "file-1", "bytes": {len(content)}, "created_at": 1, "filename": "f",'
                ' "purpose": "batch"}'
            )(request, writer)
            return
        start = int(request.headers.get("range", "bytes=0-").removeprefix("bytes=").rstrip("-"))
        status = "206 Partial" if start else "200 OK"
        writer.write(
            f"HTTP/1.1 {status}\r\nContent-Length: {len(content) - start}\r\n"
            f"Content-Range: bytes {start}-{len(content) - 1}/{len(content)}\r\n\r\n".encode()
        )
        for position in range(start, len(content), 250_000):
            piece = content[position : position + 250_000]
            writer.write(piece)
            fetched += len(piece)
            await writer.drain()
            await asyncio.sleep(0.01)

    kills = 0
    async with raw_server(slowly) as raw:
        while True:
            process = await asyncio.create_subprocess_exec(
                sys.executable, "-c", PROGRAM, raw.base_url, KEY, "file-1", tmp_path / "copy"
            )
            try:
                async with asyncio.timeout(dice.uniform(0.3, 0.7) if kills < 5 else None):
                    await process.wait()
            except TimeoutError:
                process.kill()
                await process.wait()
                kills += 1
                if (tmp_path / "copy").exists():
                    break  # the kill came after the end: it must be whole, which is seen below
            else:
                assert process.returncode == 0
                break
    assert (tmp_path / "copy").read_bytes() == content
    assert os.listdir(tmp_path) == ["copy"]
    # What was in flight at each kill: in the sockets' buffers, and not yet written.
    assert fetched <= 1.2 * len(content) + kills * 10_000_000
