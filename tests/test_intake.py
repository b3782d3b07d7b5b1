"""A body that comes straight into buffers: whole, in order, never too much, and given back."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

import attrs
import pytest
from conftest import RawRequest, client_of, raw_server, reply

from aiofiles_api.buffers import Buffers
from aiofiles_api.intake import Intake

pytestmark = pytest.mark.anyio

CONTENT = os.urandom(1_000_000)
SIZE = 100_000


class Before(asyncio.Protocol):
    """The protocol whose connection is taken over; it writes down what it hears."""

    def __init__(self) -> None:
        self.heard = bytearray()
        self.lost: list[Exception | None] = []

    def data_received(self, data: bytes) -> None:
        self.heard += data

    def connection_lost(self, exc: Exception | None) -> None:
        self.lost.append(exc)


@attrs.frozen
class Line:
    """A connection from both its ends."""

    transport: asyncio.Transport
    before: Before
    writer: asyncio.StreamWriter

    buffers: Buffers = attrs.field(factory=lambda: Buffers(2 * SIZE, least=SIZE, most=SIZE))

    def take(self, *, length: int = len(CONTENT), limit: float | None = None) -> Intake:
        return Intake(self.transport, length, buffers=self.buffers, limit=limit)


@asynccontextmanager
async def connected() -> AsyncIterator[Line]:
    loop = asyncio.get_running_loop()
    accepted: asyncio.Future[asyncio.StreamWriter] = loop.create_future()
    server = await asyncio.start_server(lambda _, writer: accepted.set_result(writer), "127.0.0.1")
    transport, before = await loop.create_connection(Before, *server.sockets[0].getsockname()[:2])
    writer = await accepted
    try:
        yield Line(transport, before, writer)
    finally:
        transport.abort()
        writer.close()
        server.close()
        await asyncio.sleep(0)


@pytest.fixture
async def line() -> AsyncIterator[Line]:
    async with connected() as line:
        yield line


async def rest_of(intake: Intake) -> bytes:
    content = bytearray()
    async with asyncio.timeout(5):
        while chunk := await intake.read():
            assert len(chunk) <= SIZE
            content += chunk
    return bytes(content)


async def until(condition: object) -> None:
    assert callable(condition)
    async with asyncio.timeout(5):
        while not condition():
            await asyncio.sleep(0.005)


async def test_a_body_comes_whole_and_what_is_behind_it_goes_to_whoever_was_there_before(
    line: Line,
) -> None:
    intake = line.take()
    line.writer.write(CONTENT + b"more")
    assert await rest_of(intake) == CONTENT
    assert not line.before.heard
    intake.give_back()
    await until(lambda: line.before.heard == b"more")
    line.writer.write(b" and more")
    await until(lambda: line.before.heard == b"more and more")


async def test_a_reader_that_is_slow_holds_the_other_side_back(line: Line) -> None:
    intake = line.take(limit=0.2)
    line.writer.write(CONTENT)
    await until(lambda: not line.transport.is_reading())
    await asyncio.sleep(0.5)  # which is no silence of the other side
    assert await rest_of(intake) == CONTENT


async def test_what_was_read_stays_until_the_next_call(line: Line) -> None:
    intake = line.take()
    line.writer.write(CONTENT)
    chunk = await intake.read()
    await until(lambda: not line.transport.is_reading())
    assert bytes(chunk) == CONTENT[: len(chunk)]


async def test_what_comes_slowly_is_not_kept_back(line: Line) -> None:
    intake = line.take()
    for piece in (b"a", b"bc"):
        line.writer.write(piece)
        assert bytes(await intake.read()) == piece


async def test_what_comes_meanwhile_is_gathered(line: Line) -> None:
    intake = line.take()
    line.writer.write(CONTENT[:SIZE])
    await asyncio.sleep(0.02)
    line.writer.write(b"a")
    await asyncio.sleep(0.1)
    line.writer.write(b"b")
    await asyncio.sleep(0.02)
    assert bytes(await intake.read()) == CONTENT[:SIZE]
    assert bytes(await intake.read()) == b"ab"


@pytest.mark.parametrize("sent", [0, 10, SIZE, SIZE + 10, 3 * SIZE])
async def test_a_lost_connection_is_an_error_behind_all_that_has_come(
    line: Line, sent: int
) -> None:
    intake = line.take(limit=5)
    line.writer.write(CONTENT[:sent])
    line.writer.close()
    content = bytearray()
    for _ in range(2):
        with pytest.raises(ConnectionResetError):
            while True:
                content += await intake.read()
    assert content == CONTENT[:sent]
    assert line.before.lost == [None]


async def test_a_connection_that_is_lost_while_it_waits_is_an_error_too(line: Line) -> None:
    intake = line.take()
    line.writer.write(CONTENT)
    await until(lambda: not line.transport.is_reading())
    line.transport.abort()
    with pytest.raises(ConnectionResetError):
        await rest_of(intake)


async def test_a_connection_that_ends_with_the_body_is_none(line: Line) -> None:
    intake = line.take()
    line.writer.write(CONTENT)
    line.writer.close()
    assert await rest_of(intake) == CONTENT
    line.transport.abort()
    intake.give_back()
    await until(lambda: line.before.lost == [None])


async def test_silence_is_an_error_and_speaking_slowly_is_none(line: Line) -> None:
    intake = line.take(limit=0.2)
    for _ in range(4):
        await asyncio.sleep(0.1)
        line.writer.write(b"a")
    for _ in range(2):
        with pytest.raises(TimeoutError):
            while await intake.read():
                pass


async def test_whoever_waits_may_be_cancelled(line: Line) -> None:
    intake = line.take()
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.02):
            await intake.read()
    line.writer.write(CONTENT)
    assert await rest_of(intake) == CONTENT
    intake.close()


async def test_what_comes_when_nobody_reads_any_more_goes_into_no_buffer_of_others(
    line: Line,
) -> None:
    intake = line.take()
    line.writer.write(CONTENT)
    await intake.read()
    intake.close()
    lent = [line.buffers.lend() for _ in range(2)]
    before = [bytes(buffer) for buffer in lent]
    for _ in range(2 * SIZE // 1024):
        view = intake.get_buffer(-1)
        view[:1024] = b"\xff" * 1024
        intake.buffer_updated(1024)
    assert [bytes(buffer) for buffer in lent] == before
    assert any(any(buffer) for buffer in before)
    intake.close()
    assert not any(line.buffers.lend())


async def test_buffers_are_given_back_once(line: Line) -> None:
    intake = line.take()
    line.writer.write(CONTENT)
    await rest_of(intake)
    intake.give_back()
    intake.close()
    lent = [line.buffers.lend() for _ in range(3)]
    assert len({id(buffer) for buffer in lent}) == 3
    assert [any(buffer) for buffer in lent] == [True, True, False]  # one is new


async def test_a_body_that_fits_takes_one_buffer(line: Line) -> None:
    intake = line.take(length=SIZE)
    line.writer.write(CONTENT[:SIZE])
    assert await rest_of(intake) == CONTENT[:SIZE]
    intake.give_back()
    assert [any(line.buffers.lend()) for _ in range(2)] == [True, False]


async def test_what_is_behind_a_body_shorter_than_a_buffer_is_not_taken_either(line: Line) -> None:
    line.writer.write(CONTENT[:1000] + b"more")
    intake = line.take(length=1000)
    assert await rest_of(intake) == CONTENT[:1000]
    intake.give_back()
    await until(lambda: line.before.heard == b"more")


# --- another one lets the connection go on -------------------------------------------------------


async def test_what_comes_although_nothing_was_to_come_is_in_its_place(line: Line) -> None:
    intake = line.take()
    line.writer.write(CONTENT)
    content = bytearray()
    async with asyncio.timeout(5):
        for _ in range(4):
            await until(lambda: not line.transport.is_reading())
            line.transport.resume_reading()
        while chunk := await intake.read():
            content += chunk
            line.transport.resume_reading()
            await asyncio.sleep(0)
    assert content == CONTENT
    lent = [line.buffers.lend() for _ in range(2)]
    intake.give_back()
    assert all(len(buffer) == SIZE for buffer in lent)


async def test_half_a_buffer_that_was_handed_out_is_not_filled_further(line: Line) -> None:
    intake = line.take()
    line.writer.write(CONTENT[:SIZE])
    chunk = await intake.read()
    line.writer.write(CONTENT[SIZE : SIZE + 10])
    await until(lambda: not line.transport.is_reading())
    line.writer.write(CONTENT[SIZE + 10 : SIZE + 20])
    line.transport.resume_reading()
    await until(lambda: not line.transport.is_reading())
    assert bytes(chunk) == CONTENT[:SIZE]
    line.writer.write(CONTENT[SIZE + 20 :])
    assert await rest_of(intake) == CONTENT[SIZE:]


async def test_what_comes_behind_the_body_ends_the_connection(line: Line) -> None:
    intake = line.take()
    line.writer.write(CONTENT)
    content = bytearray()
    while len(content) < len(CONTENT):
        content += await intake.read()
    assert not line.transport.is_reading()
    line.writer.write(b"more")
    line.transport.resume_reading()
    await until(line.transport.is_closing)
    assert not await intake.read()
    intake.give_back()
    assert content == CONTENT
    assert not line.before.heard


async def test_a_stream_that_is_read_late_leaves_the_downloads_of_its_connection_alone(
    tmp_path: Path,
) -> None:
    small, large = os.urandom(100_000), os.urandom(5_000_000)

    async def serve(request: RawRequest, writer: asyncio.StreamWriter) -> None:
        await reply(small if "small" in request.line else large)(request, writer)

    async with raw_server(serve) as raw, client_of(raw) as files:
        write = os.writev

        def slowly(descriptor: int, buffers: Sequence[bytes]) -> int:
            time.sleep(0.2)
            return write(descriptor, buffers)

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(os, "writev", slowly)
            async with files.stream("file-small") as stream, asyncio.TaskGroup() as group:
                group.create_task(files.download("file-large", tmp_path / "large"))
                await asyncio.sleep(0.15)
                assert b"".join([chunk async for chunk in stream]) == small
        assert raw.connections == 1
        assert (tmp_path / "large").read_bytes() == large
