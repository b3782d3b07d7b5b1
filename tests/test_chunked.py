"""Bodies of unknown length: what is framed here is what comes out at the other end."""

from __future__ import annotations

import asyncio
import os
import socket
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager, suppress
from pathlib import Path

import pytest
from aiohttp import TraceConfig, TraceRequestChunkSentParams
from conftest import KEY
from hypothesis import given
from hypothesis import strategies as st

from aiofiles_api import FilesClient
from aiofiles_api.chunked import ChunkedWriter
from aiofiles_api.emulator import Emulator

pytestmark = pytest.mark.anyio

LARGE = os.urandom(3_000_000)


@asynccontextmanager
async def connected() -> AsyncIterator[tuple[asyncio.StreamWriter, asyncio.StreamReader]]:
    """Connect the one who writes with the one who reads."""
    ours, theirs = socket.socketpair()
    _, writer = await asyncio.open_connection(sock=ours)
    reader, other = await asyncio.open_connection(sock=theirs)
    try:
        yield writer, reader
    finally:
        for one in (writer, other):
            one.close()
            with suppress(OSError):
                await one.wait_closed()


async def unframed(reader: asyncio.StreamReader) -> list[bytes]:
    """Read chunks to their end, as RFC 9112 has it."""
    found: list[bytes] = []
    while size := int(await reader.readuntil(b"\r\n"), 16):
        found.append(await reader.readexactly(size))
        assert await reader.readexactly(2) == b"\r\n"
    return found


async def written_and_read(pieces: Sequence[bytes | bytearray | memoryview]) -> list[bytes]:
    async with connected() as (writer, reader):
        reading = asyncio.create_task(unframed(reader))
        chunks = ChunkedWriter(writer.transport, writer.drain)
        for piece in pieces:
            await chunks.write(piece)
        chunks.end()
        writer.write(b"0\r\n\r\n")
        return await reading


@given(st.lists(st.binary(min_size=1, max_size=20), min_size=1))
def test_pieces_come_out_as_they_went_in(pieces: list[bytes]) -> None:
    assert asyncio.run(written_and_read(pieces)) == pieces


@pytest.mark.parametrize("can_gather", [True, False], ids=["writev", "without writev"])
async def test_pieces_that_the_connection_takes_bit_by_bit_come_whole(
    monkeypatch: pytest.MonkeyPatch, *, can_gather: bool
) -> None:
    if not can_gather:
        monkeypatch.delattr("os.writev")
    views = (LARGE, bytearray(b"x"), memoryview(LARGE)[1:], b"y" * 70_000)
    assert await written_and_read(views) == [bytes(view) for view in views]


async def test_a_frame_that_is_cut_is_completed(monkeypatch: pytest.MonkeyPatch) -> None:
    writev = os.writev

    def two_bytes_only(descriptor: int, buffers: Sequence[bytes]) -> int:
        return writev(descriptor, [bytes(buffers[0])[:2]])

    monkeypatch.setattr("os.writev", two_bytes_only)
    assert await written_and_read([LARGE[:1000], LARGE[:7]]) == [LARGE[:1000], LARGE[:7]]


async def test_a_connection_that_is_full_takes_it_later() -> None:
    async with connected() as (writer, reader):
        transport = writer.transport
        before = 0
        with suppress(BlockingIOError):
            while True:
                before += os.write(transport.get_extra_info("socket").fileno(), b"." * 65536)
        chunks = ChunkedWriter(transport, writer.drain)
        await chunks.write(b"abc")
        chunks.end()
        assert transport.get_write_buffer_size() == len(b"3\r\nabc\r\n")
        await reader.readexactly(before)
        assert await reader.readexactly(8) == b"3\r\nabc\r\n"


async def test_a_closed_connection_is_said_to_be_lost() -> None:
    async with connected() as (writer, _):
        chunks = ChunkedWriter(writer.transport, writer.drain)
        await chunks.write(b"abc")
        writer.close()
        with pytest.raises(ConnectionResetError):
            await chunks.write(b"abc")
        with pytest.raises(ConnectionResetError):
            chunks.end()


async def test_an_iterable_arrives_whole_beside_others(files: FilesClient) -> None:
    async def pieces(number: int) -> AsyncIterator[bytes]:
        for start in range(0, len(LARGE), 300_000 + number):
            yield LARGE[start : start + 300_000 + number]
            await asyncio.sleep(0)

    uploads = [files.upload(pieces(number), purpose="batch") for number in range(5)]
    for file in await asyncio.gather(*uploads):
        assert await files.read(file) == LARGE


async def test_who_watches_what_is_sent_sees_every_byte(server: Emulator, tmp_path: Path) -> None:
    seen = 0

    async def look(_session: object, _context: object, sent: TraceRequestChunkSentParams) -> None:
        nonlocal seen
        seen += len(sent.chunk)

    async def pieces() -> AsyncIterator[bytes]:
        for start in range(0, len(LARGE), 500_000):
            yield LARGE[start : start + 500_000]

    path = tmp_path / "a"
    path.write_bytes(LARGE)
    watching = TraceConfig()
    watching.on_request_chunk_sent.append(look)
    async with FilesClient(
        base_url=server.base_url, api_key=KEY, trace_configs=[watching]
    ) as files:
        for source in (path, pieces()):
            seen = 0
            await files.upload(source, purpose="batch")
            assert len(LARGE) < seen < len(LARGE) + 1000
