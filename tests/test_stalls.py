"""Connections that stand still are broken off, and those that are merely slow are not."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import aiohttp
import attrs
import pytest
from conftest import NO_RETRIES, RawRequest, client_of, nothing_leaks, raw_server, reply

from aiofiles_api import IntegrityError, Timeouts
from aiofiles_api.stalls import Movement, StallWatch

pytestmark = pytest.mark.anyio

LIMIT = 0.5
SIZE = 2_000_000
STORED = (
    b'{"id": "file-1", "object": "file", "bytes": %d, "created_at": 1, "filename": "upload",'
    b' "purpose": "batch", "status": "processed"}' % SIZE
)


@asynccontextmanager
async def line() -> AsyncIterator[tuple[asyncio.WriteTransport, socket.socket]]:
    """Give a connection whose buffers are small, and a socket at its other end."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 8_192)
        loop = asyncio.get_running_loop()
        ours = small_buffer()
        await loop.sock_connect(ours, listener.getsockname())
        transport, _ = await loop.create_connection(asyncio.Protocol, sock=ours)
        with listener.accept()[0] as other:
            other.setblocking(False)
            yield transport, other
            transport.abort()
            await asyncio.sleep(0)


def small_buffer(_: object = None) -> socket.socket:
    ours = socket.socket()
    ours.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 262_144)
    ours.setsockopt(socket.IPPROTO_TCP, socket.TCP_MAXSEG, 1_400)  # as on a network
    ours.setblocking(False)
    return ours


async def test_what_the_other_side_takes_is_movement_though_nothing_more_can_be_written() -> None:
    async with line() as (transport, other):
        transport.write(bytes(SIZE))
        waiting = transport.get_write_buffer_size()
        movement = Movement(transport)
        while movement.silence(0) < 0.1:  # until the other side's buffer is full
            await asyncio.sleep(0.02)
        other.recv(100_000)
        await asyncio.sleep(0.05)
        assert movement.silence(0) == 0
        assert transport.get_write_buffer_size() == waiting


async def test_silence_is_counted_from_the_look_that_found_something_new() -> None:
    async with line() as (transport, _):
        movement = Movement(transport)
        await asyncio.sleep(0.05)
        assert movement.silence(0) >= 0.05
        assert movement.silence(1) == 0
        assert movement.silence(1) < 0.05
        await asyncio.sleep(0.05)
        movement.begin_anew()
        assert movement.silence(1) < 0.05


async def test_a_connection_that_tells_nothing_can_be_watched_all_the_same() -> None:
    async with line() as (transport, _):
        movement = Movement(transport)
        transport.abort()
        await asyncio.sleep(0.05)
        assert movement.silence(0) >= 0
    movement = Movement(asyncio.Transport())
    assert movement.silence(1) == 0


async def test_a_connection_without_movement_is_broken_off() -> None:
    async with line() as (transport, _):
        transport.write(bytes(SIZE))
        watch = StallWatch(transport, 0.05)
        watch.written = SIZE
        await asyncio.sleep(0.3)
        assert watch.stalled
        assert transport.is_closing()


@pytest.mark.parametrize("source", ["path", "bytes"])
async def test_a_slow_line_is_no_reply_timeout(source: str, tmp_path: Path) -> None:
    async def take_slowly(request: RawRequest, writer: asyncio.StreamWriter) -> None:
        # The kernel has taken all long before the last byte has left it.
        left = int(request.headers["content-length"])
        while left:
            left -= len(await request.reader.read(2_000))
            await asyncio.sleep(0.02)
        await reply(STORED)(attrs.evolve(request, headers={}), writer)

    content = bytes(SIZE // 10)
    path = tmp_path / "upload"
    path.write_bytes(content)
    async with (
        nothing_leaks(),
        raw_server(take_slowly, buffer=8_192) as raw,
        aiohttp.TCPConnector(socket_factory=small_buffer) as connector,
        client_of(
            raw, timeouts=Timeouts(reply=LIMIT), connector=connector, retry=NO_RETRIES
        ) as files,
    ):
        source_ = path if source == "path" else content
        with pytest.raises(IntegrityError, match=f"{len(content):,} bytes were sent"):
            await files.upload(source_, purpose="batch")  # it says that it has stored more


@pytest.mark.parametrize("source", ["path", "bytes"])
async def test_a_slow_line_is_no_write_timeout(source: str, tmp_path: Path) -> None:
    async def take_slowly(request: RawRequest, writer: asyncio.StreamWriter) -> None:
        # The kernel takes more when a third of its 512 KB is free: that takes longer than LIMIT.
        taken = 0
        while taken < 75_000:
            taken += len(await request.reader.read(2_000))
            await asyncio.sleep(0.04)
        await request.reader.readexactly(int(request.headers["content-length"]) - taken)
        await reply(STORED)(attrs.evolve(request, headers={}), writer)

    content = bytes(SIZE)
    path = tmp_path / "upload"
    path.write_bytes(content)
    async with (
        nothing_leaks(),
        raw_server(take_slowly, buffer=8_192) as raw,
        aiohttp.TCPConnector(socket_factory=small_buffer) as connector,
        client_of(raw, timeouts=Timeouts(write=LIMIT), connector=connector) as files,
    ):
        assert (await files.upload(path if source == "path" else content, purpose="batch")).bytes
