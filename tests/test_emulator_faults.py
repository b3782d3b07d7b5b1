"""The emulator's faults, each as it looks on the wire, and when they happen."""

from __future__ import annotations

import asyncio
import fcntl
import json
import math
import re
import socket
import time
from collections.abc import AsyncIterator, Callable, Iterable
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from email.utils import parsedate_to_datetime
from pathlib import Path

import anyio
import attrs
import pytest
from conftest import nothing_leaks

from aiofiles_api import emulator
from aiofiles_api.emulator import (
    CutJson,
    Delay,
    Drip,
    Emulator,
    ErrorReply,
    Fault,
    FaultsFileError,
    HtmlReply,
    IgnoreRange,
    Kind,
    LostReply,
    Operation,
    Overlong,
    ReceivedRequest,
    RefuseConnections,
    RepeatPage,
    Reset,
    Stall,
    Truncate,
    WrongContentRange,
    WrongLength,
    load_faults,
)
from aiofiles_api.emulator.faults import KINDS, Moment, Place
from aiofiles_api.emulator.schedule import Schedule

pytestmark = pytest.mark.anyio

MIB = 1024 * 1024
CONTENT = bytes(range(256)) * 8
BIG = CONTENT * 1536  # 3 MiB: more than is sent at once

# --- a client on whose connection every byte is seen ---------------------------------------------


@attrs.frozen
class Heard:
    """What came, and how it ended: the connection "closed", "reset" or still "open"."""

    head: str
    body: bytes
    end: str

    @property
    def status(self) -> int:
        return int(self.head.split(" ", 2)[1])

    @property
    def headers(self) -> dict[str, str]:
        lines = self.head.split("\r\n")[1:]
        return {name.lower(): value for name, value in (line.split(": ", 1) for line in lines)}

    def json(self) -> dict[str, object]:
        value = json.loads(self.body)
        assert isinstance(value, dict)
        return value


@attrs.frozen
class Wire:
    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter

    async def send(self, data: bytes) -> None:
        self.writer.write(data)
        await self.writer.drain()

    async def read(self, count: int) -> bytes:
        with anyio.fail_after(5):
            return await self.reader.readexactly(count)

    async def head(self) -> str:
        with anyio.fail_after(5):
            return (await self.reader.readuntil(b"\r\n\r\n")).decode().rstrip()

    async def hear(self, *, to_the_end: bool = True) -> Heard:
        """Listen until the connection ends, or until a reply is there as long as it says."""
        heard, end = b"", ""
        with anyio.fail_after(10):
            while not end:
                try:
                    chunk = await self.reader.read(MIB)
                except ConnectionResetError:
                    end = "reset"
                else:
                    heard += chunk
                    is_whole = not to_the_end and _is_whole(heard)
                    end = "open" if is_whole else "" if chunk else "closed"
        head, _, body = heard.partition(b"\r\n\r\n")
        return Heard(head.decode(), body, end)

    async def is_silent(self) -> bool:
        with anyio.move_on_after(0.05):
            await self.reader.read(1)
            return False
        return True


def _is_whole(heard: bytes) -> bool:
    head, _, body = heard.partition(b"\r\n\r\n")
    length = re.search(rb"Content-Length: (\d+)", head)
    return length is not None and len(body) == int(length[1])


@asynccontextmanager
async def wire_to(server: Emulator) -> AsyncIterator[Wire]:
    host, port = server.base_url.removeprefix("http://").removesuffix("/v1").split(":")
    wire = Wire(*await asyncio.open_connection(host, int(port), limit=64 * MIB))
    try:
        yield wire
    finally:
        wire.writer.transport.abort()
        with suppress(ConnectionError):
            await wire.writer.wait_closed()


def head(method: str, path: str, *headers: str, version: str = "1.1") -> bytes:
    lines = [f"{method} /v1{path} HTTP/{version}", "Host: h", "Authorization: Bearer k", *headers]
    return "\r\n".join(lines).encode() + b"\r\n\r\n"


def form(content: bytes = CONTENT) -> bytes:
    purpose = b'Content-Disposition: form-data; name="purpose"\r\n\r\nevals'
    file = b'Content-Disposition: form-data; name="file"; filename="a"\r\n\r\n' + content
    return b"--B\r\n%b\r\n--B\r\n%b\r\n--B--\r\n" % (purpose, file)


def upload_head(length: int, *headers: str) -> bytes:
    kind = "Content-Type: multipart/form-data; boundary=B"
    return head("POST", "/files", kind, f"Content-Length: {length}", *headers)


async def ask(server: Emulator, method: str, path: str, *headers: str) -> Heard:
    """Send a request and read its reply, as long as it says that it is."""
    async with wire_to(server) as wire:
        await wire.send(head(method, path, *headers))
        return await wire.hear(to_the_end=False)


async def ask_to_the_end(server: Emulator, method: str, path: str, *headers: str) -> Heard:
    """Send a request that leaves the connection open, and read all that comes."""
    async with wire_to(server) as wire:
        await wire.send(head(method, path, *headers))
        return await wire.hear()


async def upload(server: Emulator, content: bytes = CONTENT) -> Heard:
    body = form(content)
    async with wire_to(server) as wire:
        await wire.send(upload_head(len(body)) + body)
        return await wire.hear(to_the_end=False)


async def stored(server: Emulator, content: bytes = CONTENT) -> str:
    """Store a file with no fault in the way, and give the path of its content."""
    faults, server.faults = server.faults, ()
    file_id = (await upload(server, content)).json()["id"]
    server.faults = faults
    return f"/files/{file_id}/content"


async def count(server: Emulator) -> int:
    """Count the files that are stored, with no fault in the way."""
    faults, server.faults = server.faults, ()
    listed = (await ask(server, "GET", "/files")).json()["data"]
    server.faults = faults
    assert isinstance(listed, list)
    return len(listed)


def place(at: Place, content: bytes) -> int:
    """Count the bytes that pass before."""
    named = {"start": 0, "middle": len(content) // 2, "end": len(content)}
    return named[at] if isinstance(at, str) else at


def suffering(kind: Kind) -> Emulator:
    """Make an emulator of which every request has the fault."""
    return Emulator(faults=[Fault(kind)])


async def until(condition: Callable[[], bool]) -> None:
    with anyio.fail_after(10):
        while not condition():
            await asyncio.sleep(0.005)


# --- the connection ------------------------------------------------------------------------------


@pytest.mark.parametrize("at", ["start", 1, 100, "middle", "end", 10**9])
async def test_a_reset_within_the_request_leaves_nothing_done(at: Place) -> None:
    async with suffering(Reset("request", at)) as server:
        assert await upload(server) == Heard("", b"", "reset")
        assert await count(server) == 0


async def test_a_request_is_reset_no_sooner_than_it_is_due() -> None:
    body = form()
    async with suffering(Reset("request", "middle")) as server, wire_to(server) as wire:
        await wire.send(upload_head(len(body)) + body[: len(body) // 2 - 1])
        assert await wire.is_silent()
        await wire.send(body[len(body) // 2 - 1 :][:1])
        assert (await wire.hear()).end == "reset"


async def test_a_request_that_waits_for_its_go_gets_it_before_it_is_reset() -> None:
    async with suffering(Reset("request", 1)) as server, wire_to(server) as wire:
        await wire.send(upload_head(100, "Expect: 100-continue"))
        assert "100 Continue" in await wire.head()
        await wire.send(b"--")
        assert (await wire.hear()).end == "reset"


async def test_a_client_may_be_quicker_to_hang_up_than_the_fault() -> None:
    async with suffering(Reset("request", "end")) as server:
        async with wire_to(server) as wire:
            await wire.send(upload_head(100) + b"--")
            await until(lambda: len(server.requests) == 1)
        await until(lambda: server.requests[0].bytes_received == 2)


@pytest.mark.parametrize("at", ["start", 1, 1000, "middle", "end", 10**9])
async def test_a_reset_within_the_response_comes_after_just_so_many_bytes(at: Place) -> None:
    async with suffering(Reset("response", at)) as server:
        for content in (CONTENT, BIG):
            heard = await ask_to_the_end(server, "GET", await stored(server, content))
            assert heard.end == "reset"
            assert heard.headers["content-length"] == str(len(content))
            assert heard.body == content[: place(at, content)]


async def test_a_reset_happens_where_the_system_does_not_tell_what_waits(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def unknown(*_: object) -> bytes:
        raise OSError("what is that?")

    async with suffering(Reset(at="end")) as server:
        monkeypatch.setattr(fcntl, "ioctl", unknown)
        assert (await ask_to_the_end(server, "GET", "/files")).end == "reset"


@pytest.mark.parametrize("kind", [Reset(at="end"), Truncate("end"), Stall("response", "end")])
async def test_a_client_that_does_not_read_may_hang_up_before_a_fault(kind: Kind) -> None:
    async with nothing_leaks(), suffering(kind) as server:
        tasks, path = len(asyncio.all_tasks()), await stored(server, BIG * 8)
        async with wire_to(server) as wire:
            await wire.send(head("GET", path))
            await wire.head()
        await until(lambda: len(asyncio.all_tasks()) <= tasks)


@pytest.mark.parametrize(
    ("kind", "end"), [(LostReply(), "reset"), (LostReply(orderly=True), "closed")]
)
async def test_a_lost_reply_is_that_of_something_done(kind: Kind, end: str) -> None:
    nothing = Heard("", b"", end)
    async with suffering(kind) as server:
        assert await upload(server) == nothing
        assert await count(server) == 1
        path = await stored(server)
        assert await ask(server, "GET", path) == nothing
        assert await count(server) == 2
        assert await ask(server, "DELETE", path.removesuffix("/content")) == nothing
        assert await count(server) == 1


async def test_connections_are_refused_for_a_time_and_then_taken_on_the_same_port() -> None:
    async with Emulator(faults=[Fault(RefuseConnections(0.3), nth=1)]) as server:
        base_url, began = server.base_url, time.monotonic()
        assert await upload(server) == Heard("", b"", "reset")
        with pytest.raises(ConnectionRefusedError):
            await ask(server, "GET", "/files")
        with anyio.fail_after(10):
            while await is_refused(server):
                await asyncio.sleep(0.01)
        assert time.monotonic() - began >= 0.3
        assert server.base_url == base_url
        assert await count(server) == 0


async def is_refused(server: Emulator) -> bool:
    try:
        async with wire_to(server):
            return False
    except ConnectionRefusedError:
        return True


async def test_connections_are_closed_when_idle_while_new_ones_are_refused() -> None:
    async with Emulator(faults=[Fault(Stall(seconds=0.5), on="content")]) as server:
        path = await stored(server)
        async with wire_to(server) as idle, wire_to(server) as busy:
            await idle.send(head("GET", "/files"))
            await idle.hear(to_the_end=False)
            await busy.send(head("GET", path))
            await busy.head()
            async with server.refusing_connections(), server.refusing_connections():
                assert await idle.hear() == Heard("", b"", "closed")
                assert await is_refused(server)
                assert await busy.read(len(CONTENT)) == CONTENT
                assert await busy.hear() == Heard("", b"", "closed")
        assert await count(server) == 1


async def test_an_emulator_that_refuses_connections_can_end() -> None:
    async with nothing_leaks(), suffering(RefuseConnections(math.inf)) as server:
        assert await upload(server) == Heard("", b"", "reset")
        await until(lambda: len(server.requests) == 1)


async def test_a_port_that_somebody_took_meanwhile_is_told() -> None:
    async with Emulator() as server:
        port = int(server.base_url.removesuffix("/v1").rsplit(":", 1)[1])
        with socket.socket() as other:
            other.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            with pytest.raises(OSError, match="in use"):
                async with server.refusing_connections():
                    other.bind(("127.0.0.1", port))
                    other.listen()


# --- slowness ------------------------------------------------------------------------------------


async def test_a_delay_puts_off_the_reply_to_what_is_done() -> None:
    async with suffering(Delay(0.2)) as server:
        path = await stored(server)
        for one in ("/files", path):
            began = time.monotonic()
            assert (await ask(server, "GET", one)).status == 200
            assert time.monotonic() - began >= 0.2


async def test_a_delay_does_not_outlast_the_client() -> None:
    async with suffering(Delay(math.inf)) as server:
        tasks = len(asyncio.all_tasks())
        async with wire_to(server) as wire:
            await wire.send(upload_head(len(form())) + form())
            assert await wire.is_silent()
            assert await count(server) == 1
        await until(lambda: len(asyncio.all_tasks()) <= tasks)


@pytest.mark.parametrize("at", ["start", 1000, "middle"])
async def test_a_response_stalls_after_just_so_many_bytes_and_then_goes_on(at: Place) -> None:
    async with suffering(Stall("response", at, 0.3)) as server:
        for content in (CONTENT, BIG):
            path = await stored(server, content)
            async with wire_to(server) as wire:
                began = time.monotonic()
                await wire.send(head("GET", path))
                await wire.head()
                first = await wire.read(place(at, content))
                if time.monotonic() - began < 0.2:
                    assert await wire.is_silent()
                rest = await wire.read(len(content) - len(first))
                assert time.monotonic() - began >= 0.3
                assert first + rest == content


@pytest.mark.parametrize("at", ["start", 10, "middle", "end", 10**9])
async def test_a_request_stalls_and_then_goes_on(at: Place) -> None:
    async with suffering(Stall("request", at, 0.1)) as server:
        began = time.monotonic()
        assert (await upload(server)).json()["bytes"] == len(CONTENT)
        assert time.monotonic() - began >= 0.1


async def test_a_request_of_no_known_length_stalls_in_its_middle_too() -> None:
    kind = "Content-Type: multipart/form-data; boundary=B"
    async with suffering(Stall("request", "middle", 0.1)) as server, wire_to(server) as wire:
        began = time.monotonic()
        await wire.send(head("POST", "/files", kind, "Transfer-Encoding: chunked"))
        await wire.send(b"%x\r\n%b\r\n0\r\n\r\n" % (len(form()), form()))
        assert (await wire.hear(to_the_end=False)).json()["bytes"] == len(CONTENT)
        assert time.monotonic() - began >= 0.1


@pytest.mark.parametrize(
    "kind",
    [
        Stall("request"),
        Stall("response", "start"),
        Stall("response", "end"),
        Drip("request", 1, 10),
        Drip("response", 1, 10),
        Delay(math.inf),
    ],
)
async def test_an_emulator_ends_quickly_in_the_midst_of_a_fault(kind: Kind) -> None:
    async with nothing_leaks(), AsyncExitStack() as running:
        server = await running.enter_async_context(suffering(kind))
        async with wire_to(server) as wire:
            await wire.send(upload_head(len(form())) + form())
            await until(lambda: len(server.requests) == 1)
            await asyncio.sleep(0.05)
            with anyio.fail_after(2):
                await running.aclose()


async def test_a_response_that_drips_comes_in_small_pieces() -> None:
    async with suffering(Drip("response", 256, 0.02)) as server:
        path = await stored(server)
        async with wire_to(server) as wire:
            began = time.monotonic()
            await wire.send(head("GET", path))
            await wire.head()
            first = await wire.reader.read(MIB)
            assert len(first) < len(CONTENT)
            assert first + await wire.read(len(CONTENT) - len(first)) == CONTENT
            assert time.monotonic() - began >= 7 * 0.02
        path = await stored(server, BIG)
        server.faults = [Fault(Drip("response", MIB, 0))]
        assert (await ask(server, "GET", path)).body == BIG


async def test_a_request_that_drips_is_read_in_small_pieces() -> None:
    async with suffering(Drip("request", len(form()) // 10, 0.02)) as server:
        began = time.monotonic()
        assert (await upload(server)).json()["bytes"] == len(CONTENT)
        assert time.monotonic() - began >= 10 * 0.02
        assert (await ask(server, "GET", await stored(server))).body == CONTENT


# --- replies that are not what they say ----------------------------------------------------------


@pytest.mark.parametrize("at", ["start", 1, 2047, "middle"])
async def test_a_truncated_response_ends_in_good_order_before_its_time(at: Place) -> None:
    async with suffering(Truncate(at)) as server:
        for content in (CONTENT, BIG):
            heard = await ask_to_the_end(server, "GET", await stored(server, content))
            assert heard.end == "closed"
            assert heard.headers["content-length"] == str(len(content))
            assert heard.body == content[: place(at, content)]


@pytest.mark.parametrize("at", ["start", 1000, "end"])
async def test_a_chunked_response_can_lack_its_end(at: Place) -> None:
    async with suffering(Truncate(at, chunked=True)) as server:
        heard = await ask_to_the_end(server, "GET", await stored(server))
        assert heard.end == "closed"
        assert "content-length" not in heard.headers
        assert heard.headers["transfer-encoding"] == "chunked"
        passed = CONTENT[: place(at, CONTENT)]
        assert heard.body == (b"%x\r\n%b\r\n" % (len(passed), passed) if passed else b"")


async def test_a_client_that_knows_no_chunks_gets_none() -> None:
    async with suffering(Truncate(10, chunked=True)) as server, wire_to(server) as wire:
        await wire.send(head("GET", await stored(server), version="1.0"))
        heard = await wire.hear()
        assert (heard.end, heard.body) == ("closed", CONTENT[:10])


@pytest.mark.parametrize("content", [CONTENT, BIG])
@pytest.mark.parametrize(
    ("kind", "more", "extra"), [(Overlong(3), 0, b"???"), (WrongLength(-5), -5, b"")]
)
async def test_bytes_beyond_the_end_stay_on_the_connection(
    kind: Kind, more: int, extra: bytes, content: bytes
) -> None:
    async with Emulator(faults=[Fault(kind, nth=1)]) as server:
        path, faults = await stored(server, content), server.faults
        async with wire_to(server) as wire:
            await wire.send(head("GET", path))
            assert f"\r\nContent-Length: {len(content) + more}\r\n" in await wire.head()
            assert await wire.read(len(content) + len(extra)) == content + extra
            await wire.send(head("GET", path))
            assert (await wire.hear(to_the_end=False)).body == content
        assert faults == server.faults


async def test_a_content_length_can_be_too_large() -> None:
    async with suffering(WrongLength(5)) as server:
        heard = await ask_to_the_end(server, "GET", await stored(server))
        assert (heard.end, heard.body) == ("closed", CONTENT)
        assert heard.headers["content-length"] == str(len(CONTENT) + 5)


async def test_a_content_length_is_never_below_nothing() -> None:
    async with suffering(WrongLength(-5)) as server:
        assert (await ask(server, "GET", await stored(server, b""))).body == b""


async def test_a_content_range_can_be_wrong() -> None:
    async with suffering(WrongContentRange(-2)) as server:
        for content in (CONTENT, BIG):
            path = await stored(server, content)
            heard = await ask(server, "GET", path, "Range: bytes=10-19")
            assert (heard.status, heard.body) == (206, content[10:20])
            assert heard.headers["content-range"] == f"bytes 8-17/{len(content)}"
            heard = await ask(server, "GET", path)
            assert (heard.status, heard.body) == (200, content)


async def test_a_content_range_that_is_not_there_cannot_be_wrong() -> None:
    async with Emulator(ranges=False, faults=[Fault(WrongContentRange())]) as server:
        heard = await ask(server, "GET", await stored(server), "Range: bytes=10-19")
        assert (heard.status, heard.body) == (200, CONTENT)


async def test_a_range_can_be_ignored() -> None:
    async with suffering(IgnoreRange()) as server:
        for content in (CONTENT, BIG):
            heard = await ask(server, "GET", await stored(server, content), "Range: bytes=10-19")
            assert (heard.status, heard.body) == (200, content)
            assert server.requests[-1].range == "bytes=10-19"


async def test_a_page_can_be_repeated() -> None:
    async with suffering(RepeatPage()) as server:
        for _ in range(3):
            await stored(server)
        first = (await ask(server, "GET", "/files?limit=1&order=asc")).json()
        assert first["has_more"]
        again = await ask(server, "GET", f"/files?limit=1&after={first['last_id']}&order=asc")
        assert again.json() == first
        assert server.requests[-1].after == first["last_id"]


async def test_json_can_be_cut_in_half() -> None:
    async with suffering(CutJson()) as server:
        path = (await stored(server)).removesuffix("/content")
        heard = await ask(server, "GET", path)
        assert (heard.status, heard.end) == (200, "open")
        assert len(heard.body) > 50
        with pytest.raises(json.JSONDecodeError):
            heard.json()
        assert (await ask(server, "GET", f"{path}/content")).body == CONTENT


async def test_what_goes_wrong_does_so_for_errors_too() -> None:
    async with suffering(Truncate("start")) as server:
        heard = await ask_to_the_end(server, "GET", "/files/file-0/content")
        assert (heard.status, heard.body, heard.end) == (404, b"", "closed")


# --- errors --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("kind", "error_type", "code"),
    [
        (ErrorReply(), "server_error", None),
        (ErrorReply(500), "server_error", None),
        (ErrorReply(413), "invalid_request_error", None),
        (ErrorReply(429), "invalid_request_error", "rate_limit_exceeded"),
        (ErrorReply(429, code="insufficient_quota"), "insufficient_quota", "insufficient_quota"),
        (ErrorReply(400, code="other"), "invalid_request_error", "other"),
    ],
)
async def test_errors_are_as_documented(
    kind: ErrorReply, error_type: str, code: str | None
) -> None:
    async with suffering(kind) as server:
        heard = await upload(server)
        assert heard.status == kind.status
        assert "connection" not in heard.headers
        error = heard.json()["error"]
        assert isinstance(error, dict)
        assert (error["type"], error["param"], error["code"]) == (error_type, None, code)
        assert str(kind.status) in error["message"]
        assert "retry-after" not in heard.headers
        assert "retry-after-ms" not in heard.headers
        assert await count(server) == 0


@pytest.mark.parametrize(
    ("kind", "name", "value"),
    [
        (ErrorReply(429, retry_after=2), "retry-after", "2"),
        (ErrorReply(503, retry_after=0), "retry-after", "0"),
        (ErrorReply(503, retry_after=0.25), "retry-after", "0.25"),
        (ErrorReply(500, 0.25, "milliseconds"), "retry-after-ms", "250"),
    ],
)
async def test_a_time_to_wait_can_be_told(kind: ErrorReply, name: str, value: str) -> None:
    async with suffering(kind) as server:
        headers = (await ask(server, "GET", "/files")).headers
        waits = {key: headers[key] for key in headers if key.startswith("retry-after")}
        assert waits == {name: value}


async def test_a_time_to_wait_can_be_told_as_a_date() -> None:
    async with suffering(ErrorReply(503, 90, "date")) as server:
        heard = await ask(server, "GET", "/files")
        assert heard.headers["retry-after"].endswith(" GMT")
        until_then = parsedate_to_datetime(heard.headers["retry-after"]).timestamp() - time.time()
        assert 85 < until_then <= 90


async def test_a_gateway_answers_in_html() -> None:
    async with suffering(HtmlReply()) as server:
        heard = await upload(server)
        assert heard.status == 502
        assert heard.headers["content-type"] == "text/html; charset=utf-8"
        assert b"<h1>502 Bad Gateway</h1>" in heard.body
        assert await count(server) == 0


@pytest.mark.parametrize(("moment", "kept"), [("instead", 0), ("afterwards", 1)])
async def test_an_error_can_hide_that_a_file_was_stored(moment: Moment, kept: int) -> None:
    for kind in (ErrorReply(500, moment=moment), HtmlReply(500, moment)):
        async with suffering(kind) as server:
            assert (await upload(server)).status == 500
            assert await count(server) == kept
            assert (await ask(server, "GET", await stored(server))).status == 500


@pytest.mark.parametrize("headers", [(), ("Expect: 100-continue",)])
async def test_an_early_error_comes_before_the_body_was_read(headers: Iterable[str]) -> None:
    async with suffering(ErrorReply(413, moment="early")) as server, wire_to(server) as wire:
        await wire.send(upload_head(1000, *headers))
        heard = await wire.hear(to_the_end=False)
        assert heard.status == 413
        assert heard.headers["connection"] == "close"
        assert server.requests[0].bytes_received == 0
        assert "connection" not in (await ask(server, "GET", "/files")).headers


# --- which requests ------------------------------------------------------------------------------


def requests(*operations: Operation, times: int = 1) -> list[ReceivedRequest]:
    return [ReceivedRequest(operation) for operation in operations * times]


def befallen(faults: Iterable[Fault], came: Iterable[ReceivedRequest]) -> list[Kind | None]:
    schedule = Schedule(faults)
    return [schedule.next(request) for request in came]


A, B = Reset(), LostReply()
LISTS = requests("list", times=6)


@pytest.mark.parametrize(
    ("fault", "expected"),
    [
        (Fault(A), [A, A, A, A, A, A]),
        (Fault(A, nth=3), [None, None, A, None, None, None]),
        (Fault(A, times=2), [A, A, None, None, None, None]),
        (Fault(A, nth=3, times=2), [None, None, A, A, None, None]),
        (Fault(A, probability=0), [None] * 6),
        (Fault(A, on="upload"), [None] * 6),
        (Fault(Stall("request")), [None] * 6),
    ],
)
def test_a_fault_befalls_the_requests_that_are_due(
    fault: Fault, expected: list[Kind | None]
) -> None:
    assert befallen([fault], LISTS) == expected


def test_only_the_requests_that_a_fault_could_befall_count() -> None:
    came = requests("list", "upload", "content", "upload", "list", "upload")
    fault = Fault(A, on="upload", nth=2)
    assert befallen([fault], came) == [None, None, None, A, None, None]
    ranged = [attrs.evolve(came[2], range="bytes=1-"), came[2], attrs.evolve(came[2], range="x")]
    assert befallen([Fault(IgnoreRange())], ranged) == [IgnoreRange(), None, IgnoreRange()]
    paged = [came[0], attrs.evolve(came[0], after="file-1")]
    assert befallen([Fault(RepeatPage())], paged) == [None, RepeatPage()]


def test_a_fault_that_comes_second_waits_for_the_next_request() -> None:
    assert befallen([Fault(A, times=1), Fault(B, times=1)], LISTS) == [A, B, *[None] * 4]
    assert befallen([Fault(A, nth=1), Fault(B, nth=2)], LISTS) == [A, B, *[None] * 4]
    assert befallen([Fault(A, nth=2), Fault(B, nth=2)], LISTS) == [None, A, B, *[None] * 3]


def test_a_campaign_draws_from_its_kinds_and_always_the_same() -> None:
    kinds: list[Kind] = [Reset(), LostReply(), ErrorReply(), RepeatPage(), Drip("request")]
    came = requests("list", times=10_000)
    campaign = Fault(kinds, probability=0.3, seed=7)
    drawn = befallen([campaign], came)
    assert drawn == befallen([campaign], came)
    assert drawn != befallen([attrs.evolve(campaign, seed=8)], came)
    assert drawn != befallen([Fault(A, times=1), campaign], came)
    assert 2_850 < len(came) - drawn.count(None) < 3_150
    for kind in kinds[:3]:
        assert 900 < drawn.count(kind) < 1_100
    assert drawn.count(kinds[3]) == drawn.count(kinds[4]) == 0


def test_what_is_drawn_for_a_request_does_not_depend_on_what_became_of_others() -> None:
    came = requests("list", times=200)
    campaign = Fault([A, B], probability=0.3, seed=7)
    alone = befallen([Fault(ErrorReply(), probability=0), campaign], came)
    second = befallen([Fault(ErrorReply(), nth=1, times=50), campaign], came)
    assert second == [ErrorReply()] * 50 + alone[50:]


async def test_the_same_seed_gives_the_same_sequence_on_the_wire() -> None:
    async def statuses() -> list[int | str]:
        campaign = Fault([ErrorReply(500), HtmlReply(), LostReply()], probability=0.5, seed=4)
        async with Emulator(faults=[campaign]) as server:
            return [await outcome(server) for _ in range(20)]

    async def outcome(server: Emulator) -> int | str:
        async with wire_to(server) as wire:
            await wire.send(head("GET", "/files", "Connection: close"))
            heard = await wire.hear()
            return heard.status if heard.head else heard.end

    seen = await statuses()
    assert set(seen) == {200, 500, 502, "reset"}
    assert await statuses() == seen


BRIEF = [RefuseConnections(0.05), Delay(0.05), Stall(seconds=0.05), Drip(size=20)]


@pytest.mark.parametrize("kind", BRIEF + [kind() for kind in KINDS if kind not in map(type, BRIEF)])
async def test_no_fault_leaves_anything_behind(kind: Kind) -> None:
    async with nothing_leaks(), Emulator(faults=[Fault(kind, nth=1)]) as server:
        for method, path in (("GET", "/files?after=file-0"), ("GET", "/files/file-0/content")):
            with suppress(ConnectionError):
                await ask_to_the_end(server, method, path, "Connection: close", "Range: bytes=1-2")


async def test_faults_can_be_replaced_and_count_anew() -> None:
    async with Emulator() as server:
        assert server.faults == ()
        for _ in range(2):
            server.faults = [Fault(ErrorReply(500), nth=2)]
            assert [(await ask(server, "GET", "/files")).status for _ in range(3)] == [
                200,
                500,
                200,
            ]
        assert tuple(server.faults) == (Fault(ErrorReply(500), nth=2),)


async def test_requests_for_what_is_no_operation_are_left_alone() -> None:
    async with suffering(ErrorReply(500)) as server:
        for method, path in (("GET", "/models"), ("PUT", "/files"), ("GET", "/files/a/b")):
            assert (await ask(server, method, path)).status in (404, 405)
        assert server.requests == ()


# --- what came -----------------------------------------------------------------------------------


async def test_what_came_is_told_in_its_order() -> None:
    faults = [Fault(Reset(at=1000), on="content", nth=2), Fault(LostReply(), on="delete")]
    async with Emulator(faults=faults) as server:
        path = await stored(server)
        file_id = path.split("/")[2]
        server.faults = faults
        await ask(server, "GET", "/files?after=file-0")
        await ask(server, "GET", f"/files/{file_id}")
        await ask(server, "GET", path)
        await ask_to_the_end(server, "GET", path, "Range: bytes=8-")
        await ask(server, "DELETE", f"/files/{file_id}")
        await ask(server, "GET", path)
        first, *rest = server.requests
        assert (first.operation, first.status, first.file_id) == ("upload", 200, None)
        assert first.bytes_received == len(form())
        assert [
            (it.operation, it.file_id, it.after, it.range, it.status, it.fault) for it in rest
        ] == [
            ("list", None, "file-0", None, 400, None),
            ("retrieve", file_id, None, None, 200, None),
            ("content", file_id, None, None, 200, None),
            ("content", file_id, None, "bytes=8-", 206, Reset(at=1000)),
            ("delete", file_id, None, None, None, LostReply()),
            ("content", file_id, None, None, 404, None),
        ]
        assert [it.bytes_sent for it in rest][2:5] == [len(CONTENT), 1000, 0]
    assert len(server.requests) == 7


async def test_bytes_sent_are_those_of_the_body_alone() -> None:
    async with Emulator() as server:
        path = await stored(server, BIG)
        body = form()
        async with wire_to(server) as wire:
            await wire.send(upload_head(len(body), "Expect: 100-continue"))
            await wire.head()
            await wire.send(body)
            heard = await wire.hear(to_the_end=False)
        assert server.requests[-1].bytes_sent == len(heard.body)
        await ask(server, "GET", path)
        assert server.requests[-1].bytes_sent == len(BIG)


async def test_what_came_before_the_start_is_forgotten() -> None:
    server = Emulator(faults=[Fault(ErrorReply(500), nth=1)])
    for _ in range(2):
        async with server:
            assert (await ask(server, "GET", "/files")).status == 500
            assert (await ask(server, "GET", "/files")).status == 200
            assert len(server.requests) == 2


# --- values --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Reset("reply"), "'body' must be 'request' or 'response', not 'reply'"),  # type: ignore[arg-type]
        (lambda: Reset(at=-1), "'at' must be 'start', 'middle', 'end' or a number of bytes"),
        (lambda: Reset(at=0.5), "'at' must be"),  # type: ignore[arg-type]
        (lambda: Reset(at=True), "'at' must be"),
        (lambda: Stall(seconds=-1), "'seconds' must be a number from 0 on, not -1"),
        (lambda: Stall(seconds=math.nan), "'seconds' must be"),
        (lambda: Delay(True), "'seconds' must be"),
        (lambda: Delay("1"), "'seconds' must be"),  # type: ignore[arg-type]
        (lambda: Drip(size=0), "'size' must be an integer above 0, not 0"),
        (lambda: Drip(pause=-0.1), "'pause' must be"),
        (lambda: Truncate(chunked=1), "'chunked' must be true or false, not 1"),  # type: ignore[arg-type]
        (lambda: Overlong(0), "'extra' must be"),
        (lambda: WrongLength(0), "'by' must be an integer other than 0"),
        (lambda: WrongContentRange(0), "'shift' must be"),
        (lambda: ErrorReply(200), "'status' must be a status from 400 to 599, not 200"),
        (lambda: ErrorReply(retry_after=math.inf), "'retry_after' must be a number from 0 to a ye"),
        (lambda: ErrorReply(retry_after_form="days"), "'retry_after_form' must be 'seconds' or"),  # type: ignore[arg-type]
        (lambda: ErrorReply(code=7), "'code' must be a string, not 7"),  # type: ignore[arg-type]
        (lambda: HtmlReply(moment="late"), "'moment' must be 'early' or 'instead' or 'after"),  # type: ignore[arg-type]
        (lambda: Fault([]), "'kinds' must name at least one kind of fault"),
        (lambda: Fault(["reset"]), "'reset' is not a kind of fault"),  # type: ignore[list-item]
        (lambda: Fault(Reset), "is not a kind of fault"),  # type: ignore[arg-type]
        (lambda: Fault(A, on="put"), "'on' must be 'any' or 'upload' or 'list'"),  # type: ignore[arg-type]
        (lambda: Fault(A, nth=0), "'nth' must be an integer above 0"),
        (lambda: Fault(A, times=0), "'times' must be an integer above 0"),
        (lambda: Fault(A, probability=1.1), "'probability' must be a number from 0 to 1, not 1.1"),
        (lambda: Fault(A, seed=0.5), "'seed' must be an integer, not 0.5"),  # type: ignore[arg-type]
        (lambda: Fault(RepeatPage(), on="upload"), "RepeatPage() cannot befall 'upload'"),
        (lambda: Fault([A, CutJson()], on="content"), "CutJson() cannot befall 'content'"),
        (lambda: Fault(Drip("request"), on="list"), "cannot befall 'list'"),
        (lambda: Fault(IgnoreRange(), on="list"), "IgnoreRange() cannot befall 'list'"),
    ],
)
def test_what_makes_no_sense_is_refused(make: Callable[[], object], message: str) -> None:
    with pytest.raises((ValueError, TypeError), match=re.escape(message)):
        make()


def test_every_kind_is_a_value_of_the_public_api() -> None:
    for kind in KINDS:
        assert kind() == kind()
        assert hash(kind()) == hash(kind())
        assert getattr(emulator, kind.__name__) is kind
        assert kind.__name__ in emulator.__all__
        assert Fault(kind()).kinds == (kind(),)
        with pytest.raises(attrs.exceptions.FrozenInstanceError):
            Fault(kind()).nth = 1  # type: ignore[misc]


# --- files of faults -----------------------------------------------------------------------------


FILE = """
[[fault]]
kind = "reset"
body = "request"
at = 65536
on = "upload"
nth = 2

[[fault]]
kind = "stall"
seconds = inf
times = 1

[[fault]]
probability = 0.3
seed = 7
kinds = [
    { kind = "lost-reply" },
    { kind = "truncate", chunked = true },
    { kind = "error-reply", status = 429, retry_after = 2, retry_after_form = "date" },
]
"""


def test_faults_are_read_from_a_file(tmp_path: Path) -> None:
    path = tmp_path / "faults.toml"
    path.write_text(FILE)
    expected = (
        Fault(Reset("request", 65_536), on="upload", nth=2),
        Fault(Stall(seconds=math.inf), times=1),
        Fault(
            [LostReply(), Truncate(chunked=True), ErrorReply(429, 2, "date")],
            probability=0.3,
            seed=7,
        ),
    )
    assert load_faults(path) == load_faults(str(path)) == expected


def test_every_kind_has_a_name_in_files(tmp_path: Path) -> None:
    path = tmp_path / "faults.toml"
    names = [re.sub("(.)([A-Z])", r"\1-\2", kind.__name__).lower() for kind in KINDS]
    path.write_text("".join(f'[[fault]]\nkind = "{name}"\n' for name in names))
    assert load_faults(path) == tuple(Fault(kind()) for kind in KINDS)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[[fault]", "Expected ']]'"),
        ("[[faults]]", "the file has no field 'faults', but fault"),
        ("[fault]", "'fault' must be an array of tables"),
        ("fault = [1]", "'fault' must be an array of tables"),
        ("[[fault]]", "fault 1: no 'kind' is given"),
        (
            '[[fault]]\nkind="stall"\n[[fault]]\nkind="rest"',
            "fault 2: there is no kind 'rest', ",
        ),
        ("[[fault]]\nkind=7", "fault 1: there is no kind 7, but cut-json, delay, drip"),
        ('[[fault]]\nkind="reset"\natt=1', "fault 1: 'reset' has no field 'att', but at, body"),
        ('[[fault]]\nkind="lost-reply"\nat=1', "'lost-reply' has no field 'at', but orderly"),
        ('[[fault]]\nkind="repeat-page"\nat=1', "'repeat-page' has no field 'at', but none at a"),
        ('[[fault]]\nkind="reset"\nat=-1', "fault 1: 'at' must be 'start', 'middle', 'end'"),
        ('[[fault]]\nkind="reset"\nnth=0', "fault 1: 'nth' must be an integer above 0, not 0"),
        ('[[fault]]\nkind="cut-json"\non="content"', "CutJson() cannot befall 'content'"),
        ("[[fault]]\nkinds=[]", "fault 1: 'kinds' must name at least one kind"),
        ('[[fault]]\nkinds="reset"', "fault 1: 'kinds' must be an array of tables"),
        ("[[fault]]\nkinds=[{at=1}]", "fault 1: no 'kind' is given"),
        ('[[fault]]\nkinds=[{kind="delay", nth=1}]', "'delay' has no field 'nth', but seconds"),
        ('[[fault]]\nkind="delay"\nkinds=[]', "a fault of several kinds has no field 'kind', but"),
    ],
)
def test_what_is_wrong_with_a_file_is_told(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "faults.toml"
    path.write_text(text)
    with pytest.raises(FaultsFileError) as caught:
        load_faults(path)
    assert str(caught.value).startswith(f"{path}: ")
    assert message in str(caught.value)


def test_a_file_that_is_not_text_is_no_file_of_faults(tmp_path: Path) -> None:
    path = tmp_path / "faults.toml"
    path.write_bytes(b"\xff")
    with pytest.raises(FaultsFileError, match=r"faults\.toml"):
        load_faults(path)
    with pytest.raises(FileNotFoundError):
        load_faults(tmp_path / "none.toml")
