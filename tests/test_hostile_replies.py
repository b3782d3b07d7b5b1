"""Replies that are not what the API promises: each a typed error, bounded, and never our key."""

from __future__ import annotations

import asyncio
import gc
import gzip
import json
import logging
import time
import traceback
import tracemalloc
import zlib
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import suppress
from itertools import cycle

import anyio
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
    silence,
)

from aiofiles_api import (
    APIConnectionError,
    APIResponseError,
    APIStatusError,
    APITimeoutError,
    AuthenticationError,
    BadRequestError,
    ConflictError,
    ContentTooLargeError,
    FilesClient,
    FilesError,
    IntegrityError,
    InternalServerError,
    NotFoundError,
    PermissionDeniedError,
    QuotaExceededError,
    RateLimitError,
    RequestTooLargeError,
    RetryPolicy,
    Timeouts,
    UnprocessableEntityError,
    UploadUncertainError,
)

pytestmark = pytest.mark.anyio

FILE = '{"id": "file-1", "bytes": 1, "created_at": 1, "filename": "f", "purpose": "batch"}'
HTML = "<!DOCTYPE html><html><body><h1>502 Bad Gateway</h1>" + "x" * 5_000 + "</body></html>"


def html(status: str) -> Script:
    return reply(HTML, status=status, headers={"Content-Type": "text/html"})


@pytest.mark.parametrize(
    ("script", "expected"),
    [
        (html("200 OK"), APIResponseError),
        (html("502 Bad Gateway"), InternalServerError),
        (reply(FILE[:-9]), APIResponseError),
        (reply(""), APIResponseError),
        (reply("[]"), APIResponseError),
        (reply('"text"'), APIResponseError),
        (reply("null"), APIResponseError),
        (reply('{"id": "file-1"}'), APIResponseError),
        (reply("[" * 100_000), APIResponseError),
        (reply(b"\xff\xfe"), APIResponseError),
        (reply(FILE, length=len(FILE) + 1, close=True), APIConnectionError),
        (reply(FILE, length=len(FILE) - 1), APIResponseError),
        (raw_bytes(b"SSH-2.0-OpenSSH_9.2\r\n"), APIResponseError),
        (raw_bytes(b"HTTP/1.1 200 OK\r\nX: " + b"y" * 100_000 + b"\r\n\r\n"), APIResponseError),
        (raw_bytes(b"HTTP/1.1 200 OK\r\nContent-Length: x\r\n\r\n"), APIResponseError),
        (raw_bytes(b"HTTP/1.1 200 OK\r\nContent-Le"), APIConnectionError),
        (
            raw_bytes(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n"),
            APIResponseError,
        ),
        (
            raw_bytes(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\n{"),
            APIConnectionError,
        ),
        (reply("", status="304 Not Modified"), APIResponseError),
        (reply(b"\x1f\x8bnonsense", headers={"Content-Encoding": "gzip"}), APIResponseError),
        (hang_up, APIConnectionError),
    ],
)
async def test_what_is_not_promised_is_a_typed_error(
    script: Script, expected: type[FilesError]
) -> None:
    async with nothing_leaks(), raw_server(script) as raw, client_of(raw) as files:
        with pytest.raises(expected, match="retrieving file-1") as caught:
            await files.retrieve("file-1")
        assert len(str(caught.value)) < 1_000


@pytest.mark.parametrize(
    ("status", "body", "expected"),
    [
        (
            "400 Bad Request",
            '{"error": {"message": "m", "type": "t", "param": "p", "code": "c"}}',
            BadRequestError,
        ),
        ("401 Unauthorized", '{"error": {"message": "m"}}', AuthenticationError),
        ("403 Forbidden", '{"error": "m"}', PermissionDeniedError),
        ("404 Not Found", '{"detail": "m"}', NotFoundError),
        ("405 Method Not Allowed", "m", APIStatusError),
        ("405 Method Not Allowed", '{"error": true, "message": "m"}', APIStatusError),
        ("409 Conflict", '["m"]', ConflictError),
        ("413 Payload Too Large", '"m"', RequestTooLargeError),
        (
            "422 Unprocessable Entity",
            '{"detail": [{"loc": ["limit"], "msg": "m"}]}',
            UnprocessableEntityError,
        ),
        ("429 Too Many Requests", '{"error": {"message": "m", "code": 429}}', RateLimitError),
        (
            "429 Too Many Requests",
            '{"error": {"message": "m", "code": "insufficient_quota"}}',
            QuotaExceededError,
        ),
        ("500 Internal Server Error", '{"error": {"message": "m"}', InternalServerError),
        ("503 Service Unavailable", '{"message": "m"}', InternalServerError),
        ("599 What", '{"error": {"message": "m"}}', InternalServerError),
    ],
)
async def test_each_status_has_its_error_whatever_the_form_of_its_body(
    status: str, body: str, expected: type[APIStatusError]
) -> None:
    script = reply(body, status=status, headers={"x-request-id": "req-7"})
    async with raw_server(script) as raw, client_of(raw) as files:
        with pytest.raises(APIStatusError) as caught:
            await files.retrieve("file-1")
    error = caught.value
    assert type(error) is expected
    assert "m" in error.message
    assert "true" not in error.message
    assert error.status_code == int(status[:3])
    assert error.request_id == "req-7"
    assert error.body == body
    assert "req-7" in str(error)


async def test_all_fields_of_the_documented_error_are_read() -> None:
    body = {"error": {"message": "m", "type": "t", "param": "p", "code": "c"}}
    async with (
        raw_server(reply(json.dumps(body), status="400 Bad")) as raw,
        client_of(raw) as files,
    ):
        with pytest.raises(BadRequestError) as caught:
            await files.retrieve("file-1")
    error = caught.value
    assert (error.message, error.type, error.param, error.code) == ("m", "t", "p", "c")


async def test_an_error_without_a_body_is_named_by_its_status() -> None:
    async with raw_server(reply("", status="404 Nope")) as raw, client_of(raw) as files:
        with pytest.raises(NotFoundError, match="404 Not Found"):
            await files.retrieve("file-1")


async def test_an_error_whose_body_is_cut_or_endless_is_still_that_error() -> None:
    async def endless(_request: RawRequest, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 503 Service Unavailable\r\n\r\n")
        while True:
            writer.write(b"x" * 65536)
            await writer.drain()

    cut = reply('{"error', status="503 Service Unavailable", length=500, close=True)
    for script in (cut, endless):
        async with nothing_leaks(), raw_server(script) as raw, client_of(raw) as files:
            with pytest.raises(InternalServerError) as caught:
                await files.retrieve("file-1")
            assert len(caught.value.body) <= 2_000


async def test_an_endless_success_is_stopped() -> None:
    async def endless(_request: RawRequest, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 200 OK\r\n\r\n")
        while True:
            writer.write(b"x" * 262_144)
            await writer.drain()

    async with nothing_leaks(), raw_server(endless) as raw, client_of(raw) as files:
        with pytest.raises(APIResponseError, match="longer than"):
            await files.retrieve("file-1")


async def test_a_gzip_bomb_is_stopped() -> None:
    bomb = gzip.compress(b" " * 200_000_000, 9)
    script = reply(bomb, headers={"Content-Encoding": "gzip"})
    async with nothing_leaks(), raw_server(script) as raw, client_of(raw) as files:
        with pytest.raises(APIResponseError):
            await files.retrieve("file-1")


QUOTA = b'{"error": {"message": "m", "code": "insufficient_quota"}}'


@pytest.mark.parametrize(
    ("encoding", "body"),
    [
        ("gzip", gzip.compress(QUOTA)),
        ("GZIP", gzip.compress(QUOTA)[:-4]),
        ("deflate", zlib.compress(QUOTA)),
        ("gzip", QUOTA),
        ("br", QUOTA),
    ],
    ids=["gzip", "cut", "deflate", "neither", "unknown"],
)
async def test_why_there_is_no_content_is_read_however_it_comes(encoding: str, body: bytes) -> None:
    headers = {"Content-Encoding": encoding}
    script = reply(body, status="429 Too Many Requests", headers=headers)
    async with raw_server(script) as raw, client_of(raw, retry=QUICK_RETRIES) as files:
        with pytest.raises(QuotaExceededError):
            await files.read("file-1")
        assert len(raw.requests) == 1


async def test_a_gzip_bomb_instead_of_content_is_stopped() -> None:
    bomb = gzip.compress(b'"' + b" " * 50_000_000, 9)
    script = reply(bomb, status="400 Bad Request", headers={"Content-Encoding": "gzip"})
    async with raw_server(script) as raw, client_of(raw) as files:
        tracemalloc.start()
        try:
            with pytest.raises(BadRequestError) as caught:
                await files.read("file-1")
            _, peak = tracemalloc.get_traced_memory()
        finally:
            tracemalloc.stop()
    assert len(str(caught.value)) < 1_000
    assert peak < 20_000_000


async def test_gzip_that_nobody_asked_for_is_read_where_it_is_json() -> None:
    script = reply(gzip.compress(FILE.encode()), headers={"Content-Encoding": "gzip"})
    async with raw_server(script) as raw, client_of(raw) as files:
        assert (await files.retrieve("file-1")).id == "file-1"


async def test_silence_before_the_reply_is_a_timeout() -> None:
    async with (
        nothing_leaks(),
        raw_server(silence) as raw,
        client_of(raw, timeouts=Timeouts(reply=0.05)) as files,
    ):
        with pytest.raises(APITimeoutError, match=r"Timeouts\.reply"):
            await files.retrieve("file-1")


CONTINUE = b"HTTP/1.1 100 Continue\r\n\r\n"


async def say_continue_for_ever(request: RawRequest, writer: asyncio.StreamWriter) -> None:
    await request.body()
    with suppress(ConnectionError):
        while True:
            writer.write(CONTINUE)
            await writer.drain()
            await asyncio.sleep(0.02)


async def continue_and_fall_silent(request: RawRequest, writer: asyncio.StreamWriter) -> None:
    await request.body()
    writer.write(CONTINUE)
    await silence(request, writer)


@pytest.mark.parametrize("script", [say_continue_for_ever, continue_and_fall_silent])
@pytest.mark.parametrize("operation", ["retrieve", "upload", "read"])
async def test_a_server_that_says_it_will_go_on_is_not_waited_for_for_ever(
    script: Script, operation: str
) -> None:
    operations: dict[str, Callable[[FilesClient], Awaitable[object]]] = {
        "retrieve": lambda files: files.retrieve("file-1"),
        "upload": lambda files: files.upload(b"x", purpose="batch", on_uncertain="resend"),
        "read": lambda files: files.read("file-1"),
    }
    async with (
        nothing_leaks(),
        raw_server(script) as raw,
        client_of(raw, timeouts=Timeouts(reply=0.2)) as files,
    ):
        with anyio.fail_after(5), pytest.raises(FilesError) as caught:
            await operations[operation](files)
        assert "Timeouts.reply" in f"{caught.value}{caught.value.__cause__}"


@pytest.mark.parametrize("operation", ["retrieve", "read", "stream"])
@pytest.mark.parametrize("behind", ["close", "silence"])
async def test_what_is_no_http_within_a_body_ends_it(operation: str, behind: str) -> None:
    async def stumble(request: RawRequest, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n")
        await writer.drain()
        await asyncio.sleep(0.1)
        writer.write(b"HTTP/1.1 500 Internal Server Error\r\n\r\n")
        await writer.drain()
        if behind == "silence":
            await request.reader.read()
        writer.close()

    async def iterate(files: FilesClient) -> None:
        async with files.stream("file-1") as content:
            async for _ in content:
                pass

    operations: dict[str, Callable[[FilesClient], Awaitable[object]]] = {
        "retrieve": lambda files: files.retrieve("file-1"),
        "read": lambda files: files.read("file-1"),
        "stream": iterate,
    }
    async with nothing_leaks(), raw_server(stumble) as raw, client_of(raw) as files:
        with anyio.fail_after(5), pytest.raises(APIResponseError, match="malformed"):
            await operations[operation](files)


def dripping(content: bytes, *, pieces: int, every: float) -> Script:
    async def follow(_request: RawRequest, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % len(content))
        size = -(-len(content) // pieces)
        with suppress(ConnectionError):
            for start in range(0, len(content), size):
                await asyncio.sleep(every)
                writer.write(content[start : start + size])
                await writer.drain()

    return follow


async def test_a_reply_that_moves_is_read_however_long_it_takes_and_one_that_drips_is_not() -> None:
    page = json.dumps({"data": [json.loads(FILE)] * 300, "has_more": False}).encode()
    limits = Timeouts(reply=0.3, read=5)
    script = dripping(page, pieces=10, every=0.1)
    async with raw_server(script) as raw, client_of(raw, timeouts=limits) as files:
        assert len([file async for file in files.list()]) == 300
    script = dripping(FILE.encode(), pieces=len(FILE), every=0.1)
    async with (
        nothing_leaks(),
        raw_server(script) as raw,
        client_of(raw, timeouts=limits) as files,
    ):
        with pytest.raises(APITimeoutError, match="drips"):
            await files.retrieve("file-1")
    async with raw_server(script) as raw, client_of(raw, timeouts=Timeouts(read=0.05)) as files:
        with pytest.raises(APITimeoutError, match="silent"):
            await files.retrieve("file-1")
    unbounded = Timeouts(reply=None, read=None)
    script = dripping(FILE.encode(), pieces=2, every=0.6)
    async with raw_server(script) as raw, client_of(raw, timeouts=unbounded) as files:
        assert (await files.retrieve("file-1")).id == "file-1"


async def test_a_reply_that_has_come_when_the_loop_was_held_is_no_silence(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async def hold_the_loop(_: RawRequest, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % len(FILE))
        await asyncio.sleep(0.1)
        writer.write(FILE.encode())
        until = time.monotonic() + 0.5
        while time.monotonic() < until:
            pass

    monkeypatch.setattr("aiofiles_api.session.exchange._LOOK", 0.3)
    async with raw_server(hold_the_loop) as raw, client_of(raw) as files:
        assert (await files.retrieve("file-1")).bytes == 1


async def test_a_silent_source_does_not_hide_the_end_of_the_connection() -> None:
    async def begin_and_end(request: RawRequest, writer: asyncio.StreamWriter) -> None:
        await request.reader.readexactly(5)
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\n{")
        await asyncio.sleep(0.05)
        writer.close()

    async def source() -> AsyncIterator[bytes]:
        for _ in range(3):
            yield b"x" * 100_000
        await asyncio.sleep(60)

    async with asyncio.timeout(20), raw_server(begin_and_end) as raw, client_of(raw) as files:
        with pytest.raises(APIConnectionError):
            await files.upload(source(), purpose="batch", on_uncertain="raise")


@pytest.mark.parametrize("kind", ["bytes", "iterable", "small iterable"])
async def test_a_connection_that_is_reset_shows_no_parameter_and_leaves_no_complaint(
    kind: str,
) -> None:
    lengths = cycle([5] if kind == "small iterable" else range(0, 3_500_000, 500_000))

    async def reset(request: RawRequest, writer: asyncio.StreamWriter) -> None:
        await request.reader.readexactly(next(lengths))
        writer.transport.abort()

    async def pieces() -> AsyncIterator[bytes]:
        for _ in range(1 if kind == "small iterable" else 90):
            yield b"x" * (10 if kind == "small iterable" else 100_000)

    complaints: list[dict[str, object]] = []
    loop = asyncio.get_running_loop()
    loop.set_exception_handler(lambda _, context: complaints.append(context))
    params = {"subscription-key": "hidden-4711"}
    async with raw_server(reset) as raw, client_of(raw, params=params) as files:
        for _ in range(21):
            source = b"x" * 9_000_000 if kind == "bytes" else pieces()
            with pytest.raises((APIConnectionError, UploadUncertainError)) as caught:
                await files.upload(source, purpose="batch", on_uncertain="raise")
            shown = "".join(traceback.format_exception(caught.value))
            assert "hidden-4711" not in shown
            del caught
    gc.collect()
    assert complaints == []


@pytest.mark.parametrize("ending", ["early", "late", "cut"])
async def test_a_success_that_begins_before_the_body_has_ended_waits_for_that(ending: str) -> None:
    content = bytes(12_000_000)
    stored = FILE.replace('"bytes": 1', f'"bytes": {len(content)}').encode()
    told = b"%x\r\n%b\r\n0\r\n\r\n" % (len(stored), stored)

    async def begin_early(request: RawRequest, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
        await writer.drain()
        left = int(request.headers["content-length"])
        while left > 0:
            # What is behind lies in the kernel when all has been sent, which is not to take long.
            await asyncio.sleep(0.03 if left > 5_000_000 else 0)
            left -= len(await request.reader.read(65_536))
            if ending != "late" and left < 6_000_000:
                break
        if ending != "cut":
            await asyncio.sleep(0.05)
            writer.write(told)
            await writer.drain()
            await asyncio.sleep(0.05)
        writer.close()

    limits = Timeouts(read=1, reply=1)
    async with (
        nothing_leaks(),
        raw_server(begin_early, buffer=65_536) as raw,
        client_of(raw, timeouts=limits) as files,
    ):
        coming = files.upload(content, purpose="batch")
        if ending == "late":
            assert (await coming).bytes == len(content)
        else:
            with pytest.raises(IntegrityError if ending == "early" else APIConnectionError):
                await coming


async def test_what_comes_unasked_is_no_reply_to_the_next_request() -> None:
    body = b"a"

    async def say_it_twice(_request: RawRequest, writer: asyncio.StreamWriter) -> None:
        once = b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\n\r\n" + body
        writer.write(once)
        await writer.drain()
        await asyncio.sleep(0.02)
        writer.write(once)

    async with nothing_leaks(), raw_server(say_it_twice) as raw, client_of(raw) as files:
        assert await files.read("file-1") == b"a"
        await asyncio.sleep(0.1)
        body = b"b"
        assert await files.read("file-2") == b"b"
        assert raw.connections == 2


async def test_what_follows_a_body_at_once_is_no_reply_to_the_next_request() -> None:
    body = bytes(1_700_000)

    async def say_it_twice(_request: RawRequest, writer: asyncio.StreamWriter) -> None:
        once = b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % len(body) + body
        writer.write(once + once)

    async with nothing_leaks(), raw_server(say_it_twice) as raw, client_of(raw) as files:
        for number in range(4):
            body = bytes([number]) * len(body)
            assert await files.read(f"file-{number}") == body


async def test_one_object_is_not_a_page() -> None:
    script = reply(FILE[:-1] + ', "x": "' + "y" * 2_000_000 + '"}')
    async with raw_server(script) as raw, client_of(raw) as files:
        with pytest.raises(ContentTooLargeError, match="longer than 1,048,576 bytes"):
            await files.retrieve("file-1")


async def test_the_whole_attempt_can_be_bounded() -> None:
    async with (
        nothing_leaks(),
        raw_server(silence) as raw,
        client_of(raw, timeouts=Timeouts(total=0.05)) as files,
    ):
        with pytest.raises(APITimeoutError, match=r"Timeouts\.total"):
            await files.retrieve("file-1")


async def test_a_connection_that_is_never_made_is_a_timeout() -> None:
    # A listener whose queue is full takes no connection, and refuses none.
    import socket  # noqa: PLC0415 - this test alone

    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen(0)
        address = listener.getsockname()
        fillers = [socket.socket() for _ in range(4)]
        for filler in fillers:
            filler.setblocking(False)
            filler.connect_ex(address)
        async with FilesClient(
            base_url=f"http://127.0.0.1:{address[1]}/v1",
            api_key=KEY,
            retry=QUICK_RETRIES.__class__(attempts=1),
            timeouts=Timeouts(connect=0.1),
        ) as files:
            with pytest.raises(APITimeoutError, match=r"Timeouts\.connect"):
                await files.retrieve("file-1")
        for filler in fillers:
            filler.close()


async def test_a_refused_connection_names_the_address() -> None:
    async with raw_server(hang_up) as raw:
        pass  # nobody listens there any more
    async with client_of(raw) as files:
        with pytest.raises(APIConnectionError, match=r"127\.0\.0\.1:\d+") as caught:
            await files.retrieve("file-1")
    assert caught.value.retryable


# --- retries -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "script",
    [
        hang_up,
        html("502 Bad Gateway"),
        html("200 OK"),
        reply("", status="429 Slow Down", headers={"Retry-After": "0"}),
        reply("", status="408 Timeout"),
        reply("", status="409 Conflict"),
        reply("", status="400 Bad", headers={"x-should-retry": "true"}),
        raw_bytes(b"nonsense\r\n\r\n"),
    ],
)
async def test_a_passing_failure_is_tried_again(script: Script) -> None:
    async with (
        raw_server(script, script, reply(FILE)) as raw,
        client_of(raw, retry=QUICK_RETRIES) as files,
    ):
        assert (await files.retrieve("file-1")).id == "file-1"


@pytest.mark.parametrize(
    "script",
    [
        reply("", status="400 Bad"),
        reply("", status="401 No"),
        reply("", status="404 No"),
        reply("", status="503 No", headers={"x-should-retry": "false"}),
        reply("", status="429 No", headers={"Retry-After": "1000"}),
        reply('{"error": {"code": "insufficient_quota"}}', status="429 No"),
    ],
)
async def test_a_lasting_failure_is_not_tried_again(script: Script) -> None:
    async with raw_server(script) as raw, client_of(raw, retry=QUICK_RETRIES) as files:
        with pytest.raises(APIStatusError):
            await files.retrieve("file-1")
        assert len(raw.requests) == 1


async def test_attempts_are_bounded_and_their_number_is_told() -> None:
    async with (
        raw_server(reply("", status="503 No")) as raw,
        client_of(raw, retry=QUICK_RETRIES) as files,
    ):
        with pytest.raises(InternalServerError) as caught:
            await files.retrieve("file-1")
        assert len(raw.requests) == 4
    assert caught.value.__notes__ == ["This was attempt 4, the last that the RetryPolicy allows."]


# --- redirects -----------------------------------------------------------------------------------


def redirect(location: str, status: int = 307) -> Script:
    return reply("", status=f"{status} Moved", headers={"Location": location})


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
async def test_a_get_follows_redirects_within_its_origin(status: int) -> None:
    script = [redirect("/v1/elsewhere?sig=%2Fa%2B", status), reply(FILE)]
    async with raw_server(*script) as raw, client_of(raw) as files:
        assert (await files.retrieve("file-1")).id == "file-1"
        assert raw.requests[1].line == "GET /v1/elsewhere?sig=%2Fa%2B HTTP/1.1"
        assert raw.requests[1].headers["authorization"] == f"Bearer {KEY}"


@pytest.mark.parametrize("status", [307, 308])
async def test_an_upload_follows_a_redirect_that_keeps_the_method_with_its_body(
    status: int,
) -> None:
    bodies: list[bytes] = []

    async def store(request: RawRequest, writer: asyncio.StreamWriter) -> None:
        bodies.append(await request.body())
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % len(FILE) + FILE.encode())

    async with raw_server(redirect("/v1/there", status), store) as raw, client_of(raw) as files:
        await files.upload(b"x", purpose="batch")
        assert raw.requests[1].line.startswith("POST /v1/there")
    assert b"x" in bodies[0]


@pytest.mark.parametrize("status", [301, 302, 303])
async def test_an_upload_or_a_deletion_never_becomes_a_get(status: int) -> None:
    async with raw_server(redirect("/v1/there", status)) as raw, client_of(raw) as files:
        with pytest.raises(APIResponseError, match="POST into a GET"):
            await files.upload(b"x", purpose="batch")
        with pytest.raises(APIResponseError, match="DELETE into a GET"):
            await files.delete("file-1")
        assert len(raw.requests) == 2


async def test_content_may_come_from_another_origin_which_never_gets_a_credential() -> None:
    async with raw_server(reply("content")) as other:
        signed = other.base_url.replace("127.0.0.1", "localhost") + "/blob?sig=secret%2Fsig"
        async with (
            raw_server(redirect(signed, 302)) as raw,
            client_of(raw, organization="org", headers={"api-key": "k-1", "X-Own": "own"}) as files,
        ):
            assert await files.read("file-1") == b"content"
        [request] = other.requests
        assert request.line == "GET /v1/blob?sig=secret%2Fsig HTTP/1.1"
        assert not {"authorization", "api-key", "openai-organization", "cookie", "x-own"} & set(
            request.headers
        )


async def test_only_content_may_come_from_another_origin() -> None:
    async with raw_server(reply(FILE)) as other, raw_server(redirect(other.base_url)) as raw:
        async with client_of(raw) as files:
            with pytest.raises(APIResponseError, match="another origin"):
                await files.retrieve("file-1")
        assert other.requests == []


@pytest.mark.parametrize("location", ["ftp://x/", "http://[bad/", "http://h:x/", "javascript:1"])
async def test_a_redirect_to_nowhere_is_a_typed_error(location: str) -> None:
    async with raw_server(redirect(location)) as raw, client_of(raw) as files:
        with pytest.raises(APIResponseError, match="redirect"):
            await files.read("file-1")


async def test_a_redirect_without_a_location_is_a_typed_error() -> None:
    script = reply("", status="302 Found")
    async with raw_server(script) as raw, client_of(raw) as files:
        with pytest.raises(APIResponseError, match="redirect"):
            await files.read("file-1")


async def test_a_loop_of_redirects_ends() -> None:
    async with nothing_leaks(), raw_server(redirect("/v1/again")) as raw, client_of(raw) as files:
        with pytest.raises(APIResponseError, match="more than"):
            await files.retrieve("file-1")
        assert len(raw.requests) == 10


async def test_the_query_of_a_redirect_is_in_no_error() -> None:
    for last in (hang_up, raw_bytes(b"nonsense\r\n\r\n"), reply("", status="403 No")):
        async with raw_server(last) as other:
            signed = other.base_url + "/blob?sig=topsecret"
            async with raw_server(redirect(signed)) as raw, client_of(raw) as files:
                with pytest.raises(FilesError) as caught:
                    await files.read("file-1")
        assert "topsecret" not in "".join(traceback.format_exception(caught.value))


# --- the key -------------------------------------------------------------------------------------


def text_of(error: BaseException) -> str:
    """Return all text that a log or an error reporter would show of an error and its causes."""
    return "\n".join([*traceback.format_exception(error), repr(error), repr(error.__dict__)])


def locals_of(error: BaseException) -> str:
    """Return what a debugger would show of all frames but the test's own."""
    shown: list[str] = []
    link: BaseException | None = error
    while link is not None:
        for frame, _ in traceback.walk_tb(link.__traceback__):
            if frame.f_code.co_filename != __file__:
                shown += map(repr, frame.f_locals.values())
        link = link.__cause__ or link.__context__
    return "\n".join(shown)


@pytest.mark.parametrize(
    "script",
    [
        reply(
            json.dumps({"error": {"message": f"bad key {KEY}", "code": KEY, "type": KEY}}),
            status="401 No",
            headers={"x-request-id": KEY},
        ),
        reply(f"<html>{KEY}", status="502 No"),
        reply(f'{{"id": "{KEY}", "bytes": "{KEY}"}}', headers={"Content-Type": KEY}),
        reply(f"{KEY} is no JSON"),
        redirect(f"http://other/{KEY}"),
        redirect(f"http://{KEY}/"),
        raw_bytes(f"HTTP/1.1 {KEY}\r\n\r\n".encode()),
        raw_bytes(f"HTTP/1.1 200 OK\r\nContent-Length: {KEY}\r\n\r\n".encode()),
        raw_bytes(f"HTTP/1.1 200 OK\r\nX-Echo: Bearer {KEY}\r\n".encode()),
        hang_up,
    ],
)
async def test_the_key_is_in_nothing_that_is_shown(
    script: Script, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    async with raw_server(script) as raw, client_of(raw) as files:
        with pytest.raises(FilesError) as caught:
            await files.retrieve("file-1")
        assert raw.requests[0].headers["authorization"] == f"Bearer {KEY}"
        assert KEY not in repr(files)
    assert KEY not in text_of(caught.value)
    assert KEY not in caplog.text


@pytest.mark.parametrize("how", ["own header", "rotating", "escaped"])
async def test_a_key_is_in_no_error_wherever_it_is_from(how: str) -> None:
    key = "c2VjcmV0/a2V5+b64=="
    shown = {"escaped": key.replace("/", r"\/")}.get(how, key)
    number = 0

    async def next_key() -> str:
        nonlocal number
        number += 1
        return f"{key}-{number}"

    settings: dict[str, dict[str, object]] = {
        "own header": {"headers": {"Authorization": f"Bearer {key}"}},
        "rotating": {"api_key": next_key},
        "escaped": {"api_key": key},
    }
    held = asyncio.Event()

    async def refuse(request: RawRequest, writer: asyncio.StreamWriter) -> None:
        if "held" in request.line:
            await held.wait()
        told = shown + request.headers["authorization"].removeprefix(f"Bearer {key}")
        await reply(f'{{"error": "no key {told}."}}', status="401 No")(request, writer)

    async with raw_server(refuse) as raw, client_of(raw, **settings[how]) as files:
        first = asyncio.create_task(files.retrieve("held"))
        await asyncio.sleep(0.05)
        for coming in (files.retrieve("file-1"), first):
            with pytest.raises(AuthenticationError, match=r"no key \*\*\*\.") as caught:
                await coming
            held.set()
            assert shown not in text_of(caught.value)
            assert key not in text_of(caught.value)


async def wait(files: FilesClient) -> object:
    return await files.wait_for_processing("file-1", timeout=0)


async def upload(files: FilesClient) -> object:
    return await files.upload(b"12345", purpose="batch")


async def read(files: FilesClient) -> object:
    return await files.read("file-1")


async def list_all(files: FilesClient) -> object:
    return [file async for file in files.list()]


def described(**fields: object) -> str:
    return json.dumps(json.loads(FILE) | fields)


@pytest.mark.parametrize(
    ("operation", "script"),
    [
        (wait, reply(described(status=KEY))),
        (wait, reply(described(status="error", status_details=f"{KEY} is wrong"))),
        (wait, reply(described(status="error", status_details="x" * 1_000_000))),
        (upload, reply(described(id=KEY))),
        (read, reply(b"1", headers={"Content-Encoding": KEY})),
        (list_all, reply(f'{{"data": [{described(id=KEY)}], "has_more": true}}')),
    ],
)
async def test_what_a_message_takes_from_a_good_reply_is_short_and_without_the_key(
    operation: Callable[[FilesClient], Awaitable[object]], script: Script
) -> None:
    async with raw_server(script) as raw, client_of(raw) as files:
        with pytest.raises(FilesError) as caught:
            await operation(files)
    assert KEY not in str(caught.value)
    assert len(str(caught.value)) < 1_200


async def test_a_fetched_key_and_the_callers_own_headers_are_scrubbed_too() -> None:
    async def fetch() -> str:
        return "fetched-key"

    echo = reply("fetched-key and azure-key are no JSON")
    settings = {"api_key": fetch, "headers": {"api-key": "azure-key"}}
    async with raw_server(echo) as raw, client_of(raw, **settings) as files:
        with pytest.raises(FilesError, match=r"\*\*\* and \*\*\* are no JSON"):
            await files.retrieve("file-1")


async def test_a_reply_that_drips_is_ended_in_time() -> None:
    def drip(status: str) -> Script:
        async def follow(_request: RawRequest, writer: asyncio.StreamWriter) -> None:
            writer.write(f"HTTP/1.1 {status}\r\nContent-Length: 1000\r\n\r\n".encode())
            while True:
                writer.write(b" ")
                await writer.drain()
                await asyncio.sleep(0.02)

        return follow

    timeouts = Timeouts(reply=0.5, read=5)
    async with nothing_leaks(), raw_server(drip("200 OK")) as raw:
        async with client_of(raw, timeouts=timeouts) as files:
            with pytest.raises(APITimeoutError, match="drips"):
                await files.retrieve("file-1")
    async with nothing_leaks(), raw_server(drip("404 No")) as raw:
        async with client_of(raw, timeouts=timeouts) as files:
            with pytest.raises(NotFoundError):
                await files.retrieve("file-1")


async def test_the_key_that_was_sent_is_in_no_local_variable_as_it_is_shown() -> None:
    async with raw_server(hang_up) as raw, client_of(raw, headers={"X-Key": KEY}) as files:
        with pytest.raises(FilesError) as caught:
            await files.upload(b"x", purpose="batch")
    assert "Authorization" in locals_of(caught.value)
    assert KEY not in locals_of(caught.value)


async def test_one_refusal_with_a_time_to_wait_holds_back_the_whole_client() -> None:
    refusal = reply("", status="429 Slow Down", headers={"retry-after-ms": "1500"})
    async with (
        raw_server(refusal, reply(FILE)) as raw,
        client_of(raw, retry=QUICK_RETRIES) as files,
    ):
        first = asyncio.create_task(files.retrieve("file-1"))
        while not raw.requests:
            await asyncio.sleep(0.001)
        await asyncio.sleep(0.05)
        others = [asyncio.create_task(files.retrieve("file-1")) for _ in range(10)]
        await asyncio.sleep(0.1)
        assert len(raw.requests) == 1
        await asyncio.gather(first, *others)
        assert len(raw.requests) == 12


async def test_a_wait_that_is_too_long_fails_at_once_and_says_so() -> None:
    refusal = reply("", status="429 Slow Down", headers={"Retry-After": "1000"})
    async with raw_server(refusal) as raw, client_of(raw, retry=QUICK_RETRIES) as files:
        with pytest.raises(RateLimitError) as caught:
            await files.retrieve("file-1")
        assert len(raw.requests) == 1
    assert "max_retry_after" in caught.value.__notes__[0]


async def test_the_deadline_bounds_the_whole_operation_wherever_it_is() -> None:
    policy = RetryPolicy(deadline=0.2)
    busy = reply("", status="503 No", headers={"Retry-After": "0"})
    for script in (silence, busy):
        async with (
            nothing_leaks(),
            raw_server(script) as raw,
            client_of(raw, retry=policy) as files,
        ):
            for call in (
                lambda: files.retrieve("file-1"),
                lambda: files.read("file-1"),
                lambda: files.upload(b"x", purpose="batch"),
            ):
                began = time.monotonic()
                with pytest.raises(FilesError):
                    await call()
                assert time.monotonic() - began < 2
            with pytest.raises(FilesError):
                async with files.stream("file-1"):
                    pytest.fail("nothing comes")


async def test_somebody_elses_timeout_inside_an_operation_is_not_taken_for_the_deadline() -> None:
    async def key() -> str:
        raise TimeoutError("the vault is slow")

    async with raw_server(reply(FILE)) as raw, client_of(raw, api_key=key) as files:
        with pytest.raises(TimeoutError, match="vault"):
            await files.retrieve("file-1")


async def test_each_retry_is_one_line_in_the_log_with_its_reason(
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.INFO, "aiofiles_api")
    busy = reply("", status="503 No", headers={"x-request-id": "req-9"})
    async with raw_server(busy, reply(FILE)) as raw, client_of(raw, retry=QUICK_RETRIES) as files:
        await files.retrieve("file-1")
    [line] = [record.getMessage() for record in caplog.records if record.name == "aiofiles_api"]
    for part in ("retrieving file-1", "attempt 1", "503", "req-9", "in 0.0 s"):
        assert part in line
