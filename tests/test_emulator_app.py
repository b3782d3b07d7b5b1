"""The emulator over real sockets: the API as documented, and an orderly server around it."""

from __future__ import annotations

import asyncio
import gzip
import io
import json
import os
import re
import signal
import socket
import sys
import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager, closing, suppress
from pathlib import Path

import aiohttp
import anyio
import attrs
import pytest
from conftest import nothing_leaks

from aiofiles_api.emulator import DataDirInUseError, Emulator
from aiofiles_api.emulator import server as server_module
from aiofiles_api.emulator.store import Arrival, NewFile, Store

pytestmark = pytest.mark.anyio

KEY = "secret-key"
MIB = 1024 * 1024
MAX_FILE_BYTES = 40 * MIB
DAY = 24 * 3600
MULTIPART = "multipart/form-data; boundary=BOUNDARY"


@attrs.define
class Clock:
    now: float = 1_700_000_000.5

    def __call__(self) -> float:
        return self.now


@attrs.frozen
class Reply:
    status: int
    headers: dict[str, str]
    body: bytes

    def json(self) -> dict[str, object]:
        assert self.headers["content-type"].startswith("application/json")
        value = json.loads(self.body)
        assert isinstance(value, dict)
        return value

    def error(self, status: int) -> dict[str, object]:
        """Check that it is an error as documented, and give what it says."""
        assert self.status == status, self.body
        [(key, error)] = self.json().items()
        assert key == "error"
        assert isinstance(error, dict)
        assert list(error) == ["message", "type", "param", "code"]
        assert error["message"]
        assert error["type"] == ("server_error" if status >= 500 else "invalid_request_error")
        return error


@attrs.frozen
class Caller:
    """A plain HTTP client that knows where the emulator is, and its key."""

    base_url: str
    session: aiohttp.ClientSession

    async def __call__(
        self,
        method: str,
        path: str,
        *,
        body: bytes | AsyncIterator[bytes] | aiohttp.FormData | None = None,
        headers: dict[str, str] | None = None,
        key: str | None = KEY,
    ) -> Reply:
        sent = {} if key is None else {"Authorization": f"Bearer {key}"}
        async with self.session.request(
            method,
            self.base_url + path,
            data=io.BytesIO(body) if isinstance(body, bytes) else body,
            headers=sent | (headers or {}),
        ) as response:
            names = {name.lower(): value for name, value in response.headers.items()}
            return Reply(response.status, names, await response.read())

    async def post(self, body: bytes | AsyncIterator[bytes]) -> Reply:
        return await self("POST", "/files", body=body, headers={"Content-Type": MULTIPART})

    async def upload(self, content: bytes = b"content", purpose: str = "evals") -> str:
        """Upload a file and give its id."""
        reply = await self.post(form(part("purpose", purpose), file_part(content)))
        assert reply.status == 200, reply.body
        return str(reply.json()["id"])

    async def listed(self, query: str = "") -> list[str]:
        reply = await self("GET", f"/files{query}")
        assert reply.status == 200, reply.body
        data = reply.json()["data"]
        assert isinstance(data, list)
        return [described["id"] for described in data]


def part(name: str, value: str | bytes, filename: str | None = None) -> bytes:
    suffix = "" if filename is None else f'; filename="{filename}"'
    head = f'Content-Disposition: form-data; name="{name}"{suffix}\r\n\r\n'
    return head.encode() + (value.encode() if isinstance(value, str) else value)


def file_part(content: bytes = b"content", filename: str = "a.txt") -> bytes:
    return part("file", content, filename)


def form(*parts: bytes) -> bytes:
    return b"".join(b"--BOUNDARY\r\n%b\r\n" % one for one in parts) + b"--BOUNDARY--\r\n"


PURPOSE = part("purpose", "evals")
ANCHOR = part("expires_after[anchor]", "created_at")


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
async def emulator(tmp_path: Path, clock: Clock) -> AsyncIterator[Emulator]:
    async with Emulator(
        tmp_path / "data", api_key=KEY, max_file_bytes=MAX_FILE_BYTES, clock=clock
    ) as running:
        yield running


@pytest.fixture
async def call(emulator: Emulator) -> AsyncIterator[Caller]:
    async with aiohttp.ClientSession() as session:
        yield Caller(emulator.base_url, session)


# --- sockets -------------------------------------------------------------------------------------


@attrs.frozen
class Wire:
    """A connection on which every byte is ours."""

    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter

    async def send(self, data: bytes) -> None:
        self.writer.write(data)
        await self.writer.drain()

    async def head(self) -> str:
        """Read the next status line and headers."""
        return (await self.reader.readuntil(b"\r\n\r\n")).decode()

    async def rest(self) -> bytes:
        return await self.reader.read()

    def abort(self) -> None:
        self.writer.transport.abort()


@asynccontextmanager
async def wire_to(base_url: str) -> AsyncIterator[Wire]:
    host, port = base_url.removeprefix("http://").removesuffix("/v1").rsplit(":", 1)
    wire = Wire(*await asyncio.open_connection(host, int(port)))
    try:
        yield wire
    finally:
        wire.abort()
        with suppress(ConnectionError):
            await wire.writer.wait_closed()


def post_head(*headers: str, version: str = "1.1") -> bytes:
    lines = [
        f"POST /v1/files HTTP/{version}",
        "Host: localhost",
        f"Authorization: Bearer {KEY}",
        f"Content-Type: {MULTIPART}",
        *headers,
    ]
    return "\r\n".join(lines).encode() + b"\r\n\r\n"


def get_head(path: str, *headers: str) -> bytes:
    lines = [f"GET {path} HTTP/1.1", "Host: localhost", f"Authorization: Bearer {KEY}", *headers]
    return "\r\n".join(lines).encode() + b"\r\n\r\n"


def blobs(data_dir: Path) -> list[str]:
    return os.listdir(data_dir / "blobs")


async def until_there_are_blobs(data_dir: Path, count: int) -> None:
    with anyio.fail_after(10):
        while len(blobs(data_dir)) != count:
            await asyncio.sleep(0.002)


# --- uploads -------------------------------------------------------------------------------------


async def test_an_upload_is_answered_with_its_file_object(call: Caller) -> None:
    reply = await call.post(form(PURPOSE, file_part(b"0123456789", "numbers.txt")))
    described = reply.json()
    assert reply.status == 200
    assert re.fullmatch("file-[0-9a-f]{32}", str(described.pop("id")))
    assert described == {
        "object": "file",
        "bytes": 10,
        "created_at": 1_700_000_000,
        "filename": "numbers.txt",
        "purpose": "evals",
        "status": "processed",
    }


@pytest.mark.parametrize("size", [0, 1, 64 * 1024, 64 * 1024 + 1, MIB, 5 * MIB + 7])
async def test_what_is_uploaded_is_what_is_downloaded(call: Caller, size: int) -> None:
    content = os.urandom(size)
    for parts in ([PURPOSE, file_part(content)], [file_part(content), PURPOSE]):
        described = (await call.post(form(*parts))).json()
        assert described["bytes"] == size
        reply = await call("GET", f"/files/{described['id']}/content")
        assert reply.status == 200
        assert reply.headers["content-length"] == str(size)
        assert reply.body == content
        assert (await call("GET", f"/files/{described['id']}")).json() == described


async def test_a_body_of_unknown_length_is_accepted(call: Caller) -> None:
    content = os.urandom(2 * MIB)

    async def chunks() -> AsyncIterator[bytes]:
        body = form(PURPOSE, file_part(content))
        for start in range(0, len(body), 99_991):
            yield body[start : start + 99_991]

    described = (await call.post(chunks())).json()
    assert (await call("GET", f"/files/{described['id']}/content")).body == content


async def test_a_body_that_trickles_in_byte_by_byte_is_accepted(emulator: Emulator) -> None:
    body = form(PURPOSE, file_part())
    async with wire_to(emulator.base_url) as wire:
        wire.writer.get_extra_info("socket").setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        await wire.send(post_head("Connection: close", f"Content-Length: {len(body)}"))
        for at in range(len(body)):
            await wire.send(body[at : at + 1])
            await asyncio.sleep(0)
        assert b'"bytes":7' in await wire.rest()


async def test_a_form_of_another_library_is_accepted(call: Caller) -> None:
    data = aiohttp.FormData({"purpose": "vision"}, quote_fields=False)
    data.add_field("file", b"image", filename="naïve 🗎.png", content_type="image/png")
    described = (await call("POST", "/files", body=data)).json()
    assert described["filename"] == "naïve 🗎.png"
    assert described["purpose"] == "vision"


@pytest.mark.parametrize(
    ("sent", "filename"),
    [
        ("%22a%22%0D%0A", '"a"\r\n'),
        ("100%25 %2F\\", "100%25 %2F\\"),
        ("", ""),
        ("x" * 40_000, "x" * 40_000),
        ("\x00\x01\x1f\x7f", "\x00\x01\x1f\x7f"),
    ],
)
async def test_filenames_come_back_in_every_reply(call: Caller, sent: str, filename: str) -> None:
    described = (await call.post(form(PURPOSE, file_part(b"", sent)))).json()
    assert described["filename"] == filename
    assert (await call("GET", f"/files/{described['id']}")).json() == described
    assert (await call("GET", "/files")).json()["data"] == [described]


@pytest.mark.parametrize("purpose", ["assistants", "fine-tune", "vision", "user_data", "evals"])
async def test_files_of_most_purposes_do_not_expire(call: Caller, purpose: str) -> None:
    described = (await call.post(form(part("purpose", purpose), file_part()))).json()
    assert described["purpose"] == purpose
    assert "expires_at" not in described


async def test_files_for_batches_expire_after_thirty_days(call: Caller) -> None:
    described = (await call.post(form(part("purpose", "batch"), file_part()))).json()
    assert described["expires_at"] == 1_700_000_000 + 30 * DAY


@pytest.mark.parametrize("seconds", [3600, 2_592_000])
async def test_an_expiry_is_kept_and_holds(call: Caller, clock: Clock, seconds: int) -> None:
    expiry = part("expires_after[seconds]", str(seconds))
    described = (await call.post(form(expiry, file_part(), ANCHOR, PURPOSE))).json()
    assert described["expires_at"] == 1_700_000_000 + seconds
    clock.now += seconds - 1
    assert await call.listed() == [described["id"]]
    clock.now += 1
    assert await call.listed() == []
    for method, path in (("GET", ""), ("GET", "/content"), ("DELETE", "")):
        (await call(method, f"/files/{described['id']}{path}")).error(404)


async def test_expired_files_are_cleared_away_while_it_runs(
    tmp_path: Path, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(server_module, "_SECONDS_BETWEEN_EXPIRIES", 0.01)
    async with Emulator(tmp_path, clock=clock) as running, aiohttp.ClientSession() as session:
        call = Caller(running.base_url, session)
        await call.upload(b"x" * 100_000, "batch")
        kept = await call.upload(b"x" * 100_000)
        clock.now += 30 * DAY
        await until_there_are_blobs(tmp_path, 1)
        assert await call.listed() == [kept]


async def test_many_uploads_at_once_are_all_stored(call: Caller) -> None:
    contents = [os.urandom(1000) if index % 5 else os.urandom(200_000) for index in range(60)]
    ids = await asyncio.gather(*map(call.upload, contents))
    assert sorted(await call.listed()) == sorted(ids)
    replies = await asyncio.gather(*(call("GET", f"/files/{it}/content") for it in ids))
    assert [reply.body for reply in replies] == contents


# --- forms that are refused ----------------------------------------------------------------------


def seconds_part(value: str) -> bytes:
    return part("expires_after[seconds]", value)


@pytest.mark.parametrize(
    ("parts", "param"),
    [
        ([PURPOSE], "file"),
        ([file_part()], "purpose"),
        ([], "file"),
        ([PURPOSE, part("file", "content")], "file"),
        ([PURPOSE, file_part(), file_part()], "file"),
        ([PURPOSE, file_part(), PURPOSE], "purpose"),
        ([PURPOSE, file_part(), part("model", "x")], "model"),
        ([PURPOSE, file_part(), part("x" * 5000, "x")], "x" * 100),
        ([part("purpose", "batch_output"), file_part()], "purpose"),
        ([part("purpose", ""), file_part()], "purpose"),
        ([part("purpose", b"\xff"), file_part()], "purpose"),
        ([part("purpose", "x" * 70_000), file_part()], "purpose"),
        ([PURPOSE, file_part(), ANCHOR], "expires_after[seconds]"),
        ([PURPOSE, file_part(), seconds_part("3600")], "expires_after[anchor]"),
        (
            [PURPOSE, file_part(), part("expires_after[anchor]", "now"), seconds_part("3600")],
            "expires_after[anchor]",
        ),
        *(
            ([PURPOSE, file_part(), ANCHOR, seconds_part(value)], "expires_after[seconds]")
            for value in ("3599", "2592001", "", "-3600", "3600.0", "4e3", "٣٦٠٠", "9" * 5000)
        ),
    ],
)
async def test_a_form_that_the_api_does_not_allow_is_refused(
    call: Caller, parts: list[bytes], param: str
) -> None:
    reply = await call.post(form(*parts))
    assert reply.error(400)["param"] == param
    assert len(reply.body) < 1000
    assert await call.listed() == []


@pytest.mark.parametrize(
    ("content_type", "body"),
    [
        ("application/json", b"{}"),
        ("application/x-www-form-urlencoded", b"purpose=evals"),
        ("multipart/form-data", form(PURPOSE, file_part())),
        ("multipart/form-data; boundary=OTHER", form(PURPOSE, file_part())),
        (MULTIPART, b""),
        (MULTIPART, b"nonsense"),
        (MULTIPART, form(PURPOSE, b"nonsense\r\n\r\n")),
        (MULTIPART, form(PURPOSE, file_part(b"x" * 3 * MIB))[:-20]),
    ],
)
async def test_a_body_that_is_no_whole_form_is_refused_and_leaves_nothing(
    call: Caller, tmp_path: Path, content_type: str, body: bytes
) -> None:
    reply = await call("POST", "/files", body=body, headers={"Content-Type": content_type})
    assert reply.error(400)["param"] is None
    assert await call.listed() == []
    assert blobs(tmp_path / "data") == []


async def test_a_form_that_is_refused_at_its_end_leaves_no_blob(
    call: Caller, tmp_path: Path
) -> None:
    reply = await call.post(form(file_part(b"x" * 3 * MIB), part("purpose", "nonsense")))
    reply.error(400)
    assert blobs(tmp_path / "data") == []


async def test_a_body_that_is_compressed_is_read_and_refused_where_it_cannot_be(
    call: Caller,
) -> None:
    headers = {"Content-Type": MULTIPART, "Content-Encoding": "gzip"}
    whole = gzip.compress(form(PURPOSE, file_part()))
    assert (await call("POST", "/files", body=whole, headers=headers)).status == 200
    damaged = whole[:20] + b"nonsense" + whole[28:]
    (await call("POST", "/files", body=damaged, headers=headers)).error(400)
    assert len(await call.listed()) == 1


async def test_a_file_may_be_as_large_as_the_limit_and_no_larger(
    call: Caller, tmp_path: Path
) -> None:
    largest = await call.upload(b"x" * MAX_FILE_BYTES)
    reply = await call.post(form(PURPOSE, file_part(b"x" * (MAX_FILE_BYTES + 1))))
    assert reply.error(413)["param"] == "file"
    assert await call.listed() == [largest]
    assert blobs(tmp_path / "data") == [largest]


@pytest.mark.parametrize("where", ["file", "preamble", "epilogue"])
async def test_a_body_of_unknown_length_is_refused_where_it_becomes_too_large(
    call: Caller, tmp_path: Path, where: str
) -> None:
    async def chunks() -> AsyncIterator[bytes]:
        if where == "file":
            yield b"--BOUNDARY\r\n" + file_part(b"")
        if where == "epilogue":
            yield form(PURPOSE, file_part())
        for _ in range(MAX_FILE_BYTES // MIB + 2):
            yield b"x" * MIB

    (await call.post(chunks())).error(413)
    assert await call.listed() == []
    assert blobs(tmp_path / "data") == []


async def test_a_length_that_is_too_large_is_refused_before_the_body_is_sent(
    emulator: Emulator,
) -> None:
    async with wire_to(emulator.base_url) as wire:
        await wire.send(post_head(f"Content-Length: {MAX_FILE_BYTES + 2 * MIB}"))
        assert (await wire.head()).startswith("HTTP/1.1 413 ")


async def test_a_client_that_expects_to_be_asked_for_its_body_is_asked(
    emulator: Emulator,
) -> None:
    body = form(PURPOSE, file_part())
    async with wire_to(emulator.base_url) as wire:
        await wire.send(post_head(f"Content-Length: {len(body)}", "Expect: 100-continue"))
        assert await wire.head() == "HTTP/1.1 100 Continue\r\n\r\n"
        await wire.send(body)
        assert (await wire.head()).startswith("HTTP/1.1 200 ")


async def test_a_client_of_http_1_0_is_not_asked_for_its_body(emulator: Emulator) -> None:
    body = form(PURPOSE, file_part())
    head = post_head(f"Content-Length: {len(body)}", "Expect: 100-continue", version="1.0")
    async with wire_to(emulator.base_url) as wire:
        await wire.send(head + body)
        assert (await wire.head()).startswith("HTTP/1.0 200 ")


@pytest.mark.parametrize(
    ("old", "new", "status"),
    [
        (KEY, "wrong", 401),
        ("multipart/form-data", "text/plain", 400),
        ("Length: 1", f"Length: {MAX_FILE_BYTES + 2 * MIB}", 413),
    ],
)
async def test_a_client_that_expects_to_be_asked_is_refused_without_its_body(
    emulator: Emulator, old: str, new: str, status: int
) -> None:
    head = post_head("Content-Length: 1", "Expect: 100-continue")
    async with wire_to(emulator.base_url) as wire:
        await wire.send(head.replace(old.encode(), new.encode()))
        refusal = await wire.head()
        assert refusal.startswith(f"HTTP/1.1 {status} ")
        assert "connection: close" in refusal.lower()  # or the body might still be waited for


async def test_a_client_that_goes_away_while_it_uploads_leaves_nothing(
    emulator: Emulator, call: Caller, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async with wire_to(emulator.base_url) as wire:
        await wire.send(post_head("Content-Length: 9999999"))
        await wire.send(b"--BOUNDARY\r\n" + file_part(b"x" * 3 * MIB))
        await until_there_are_blobs(tmp_path / "data", 1)
        wire.abort()
        await until_there_are_blobs(tmp_path / "data", 0)
        assert await call.listed() == []
        assert not caplog.records


# --- the other operations ------------------------------------------------------------------------


async def test_a_deleted_file_is_gone(call: Caller) -> None:
    for content in (b"small", b"x" * MIB):
        file_id = await call.upload(content)
        reply = await call("DELETE", f"/files/{file_id}")
        assert reply.status == 200
        assert reply.json() == {"id": file_id, "object": "file", "deleted": True}
        for method, path in (("GET", ""), ("GET", "/content"), ("DELETE", "")):
            (await call(method, f"/files/{file_id}{path}")).error(404)
    assert await call.listed() == []


@pytest.mark.parametrize(("method", "path"), [("GET", ""), ("GET", "/content"), ("DELETE", "")])
@pytest.mark.parametrize("file_id", ["file-0", "%2e%2e%2Flock", "%00", "x" * 5000])
async def test_an_unknown_id_is_not_found(
    call: Caller, method: str, path: str, file_id: str
) -> None:
    error = (await call(method, f"/files/{file_id}{path}")).error(404)
    assert str(error["message"]).startswith("No such File object: ")
    assert (error["param"], error["code"]) == ("id", None)


async def test_an_empty_list_has_all_its_keys(call: Caller) -> None:
    assert (await call("GET", "/files")).json() == {
        "object": "list",
        "data": [],
        "first_id": None,
        "last_id": None,
        "has_more": False,
    }


async def test_a_list_is_paged_filtered_and_ordered(call: Caller) -> None:
    ids = [await call.upload(purpose=purpose) for purpose in ("evals", "batch", "evals", "evals")]
    assert await call.listed() == ids[::-1]
    assert await call.listed("?order=asc") == ids
    assert await call.listed("?order=asc&purpose=evals") == [ids[0], ids[2], ids[3]]
    assert await call.listed("?purpose=unheard-of") == []
    assert await call.listed(f"?after={ids[2]}") == [ids[1], ids[0]]
    assert await call.listed("?limit=1&unknown=parameter") == [ids[3]]
    reply = (await call("GET", f"/files?limit=2&order=asc&purpose=evals&after={ids[0]}")).json()
    assert (reply["first_id"], reply["last_id"], reply["has_more"]) == (ids[2], ids[3], False)
    assert (await call("GET", "/files?limit=3")).json()["has_more"] is True


async def test_a_list_has_up_to_ten_thousand_files(tmp_path: Path) -> None:
    arrivals = [Arrival(f"file-{at}", NewFile("a", "evals"), b"") for at in range(10_001)]

    def store_all() -> None:
        with closing(Store(tmp_path, time.time)) as store:
            store.add(arrivals)

    await asyncio.to_thread(store_all)
    async with Emulator(tmp_path) as running, aiohttp.ClientSession() as session:
        call = Caller(running.base_url, session)
        for query in ("?order=asc", "?order=asc&limit=10000"):
            ids = await call.listed(query)
            assert ids == [arrival.id for arrival in arrivals[:10_000]]
        assert await call.listed(f"?order=asc&after={ids[-1]}") == ["file-10000"]


@pytest.mark.parametrize(
    ("query", "param"),
    [
        *((f"limit={value}", "limit") for value in ("0", "10001", "-1", "", "ten", "1.5", "1e3")),
        *((f"order={value}", "order") for value in ("", "ASC", "newest")),
        ("after=file-0", "after"),
        ("after=", "after"),
    ],
)
async def test_a_query_that_the_api_does_not_allow_is_refused(
    call: Caller, query: str, param: str
) -> None:
    await call.upload()
    assert (await call("GET", f"/files?{query}")).error(400)["param"] == param


@pytest.mark.parametrize("path", ["/", "/file", "/files/", "/files/a/b", "/files/a/content/b"])
@pytest.mark.parametrize("key", [KEY, None])
async def test_an_unknown_url_is_not_found(call: Caller, path: str, key: str | None) -> None:
    error = (await call("GET", path, key=key)).error(404)
    assert error["message"] == f"Invalid URL (GET /v1{path})"


@pytest.mark.parametrize(
    ("method", "path", "allowed"),
    [
        ("PUT", "/files", "GET, POST"),
        ("DELETE", "/files", "GET, POST"),
        ("POST", "/files/a", "DELETE, GET"),
        ("PATCH", "/files/a/content", "GET"),
        ("OPTIONS", "/files", "GET, POST"),
    ],
)
async def test_a_wrong_method_is_refused_with_those_that_are_right(
    call: Caller, method: str, path: str, allowed: str
) -> None:
    reply = await call(method, path)
    assert reply.error(405)["code"] == "method_not_supported"
    assert reply.headers["allow"] == allowed


async def test_head_is_no_method_of_the_api(call: Caller) -> None:
    for path in ("/files", "/files/a", "/files/a/content"):
        reply = await call("HEAD", path)
        assert (reply.status, reply.body) == (405, b"")


# --- keys ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "headers",
    [
        {"Authorization": f"Bearer {KEY}"},
        {"Authorization": f"bearer  {KEY} "},
        {"api-key": KEY},
        {"Authorization": "Basic eDp5", "api-key": KEY},
    ],
)
async def test_the_right_key_is_admitted(call: Caller, headers: dict[str, str]) -> None:
    assert (await call("GET", "/files", key=None, headers=headers)).status == 200


@pytest.mark.parametrize(
    "headers",
    [
        {"Authorization": "Bearer wrong"},
        {"Authorization": f"Bearer {KEY}x"},
        {"Authorization": "Bearer clé"},
        {"api-key": "wrong"},
        {"Authorization": "Bearer wrong", "api-key": KEY},
    ],
)
async def test_a_wrong_key_is_refused(call: Caller, headers: dict[str, str]) -> None:
    reply = await call("GET", "/files", key=None, headers=headers)
    assert reply.error(401)["code"] == "invalid_api_key"
    assert "www-authenticate" in reply.headers


@pytest.mark.parametrize(
    "headers", [{}, {"Authorization": "Bearer "}, {"Authorization": KEY}, {"api-key": ""}]
)
@pytest.mark.parametrize("api_key", [KEY, None])
async def test_a_missing_key_is_refused_with_the_remedy(
    headers: dict[str, str], api_key: str | None
) -> None:
    async with Emulator(api_key=api_key) as running, aiohttp.ClientSession() as session:
        call = Caller(running.base_url, session)
        error = (await call("GET", "/files", key=None, headers=headers)).error(401)
        assert "Authorization: Bearer" in str(error["message"])
        assert error["code"] is None


async def test_any_key_is_admitted_where_none_was_set() -> None:
    async with Emulator() as running, aiohttp.ClientSession() as session:
        call = Caller(running.base_url, session)
        assert (await call("GET", "/files", key="whatever")).status == 200


# --- downloads -----------------------------------------------------------------------------------


async def test_a_download_says_what_it_is(call: Caller) -> None:
    file_id = await call.upload(b"0123456789")
    headers = (await call("GET", f"/files/{file_id}/content")).headers
    assert headers["content-type"] == "application/octet-stream"
    assert headers["content-length"] == "10"
    assert headers["accept-ranges"] == "bytes"
    assert headers["etag"] == f'"{file_id}"'


@pytest.mark.parametrize(
    ("sent", "named"),
    [
        ("a b.txt", "filename=\"a b.txt\"; filename*=UTF-8''a%20b.txt"),
        ("%22\\%0D%0A%", "filename=\"_____\"; filename*=UTF-8''%22%5C%0D%0A%25"),
        ("é", "filename=\"_\"; filename*=UTF-8''%C3%A9"),
        ("", "filename=\"\"; filename*=UTF-8''"),
        ("x" * 300, f"filename=\"{'x' * 255}\"; filename*=UTF-8''{'x' * 255}"),
    ],
)
async def test_a_download_names_its_file_for_every_kind_of_client(
    call: Caller, sent: str, named: str
) -> None:
    described = (await call.post(form(PURPOSE, file_part(b"", sent)))).json()
    headers = (await call("GET", f"/files/{described['id']}/content")).headers
    assert headers["content-disposition"] == f"attachment; {named}"


@pytest.mark.parametrize("size", [1000, 3 * MIB])
@pytest.mark.parametrize(
    ("asked", "start", "stop"),
    [
        ("bytes=0-0", 0, 1),
        ("bytes=10-99", 10, 100),
        ("BYTES=990-", 990, None),
        ("bytes=-10", -10, None),
        ("bytes=-99999999", 0, None),
        ("bytes=5-99999999", 5, None),
    ],
)
async def test_a_part_of_the_content_can_be_asked_for(
    call: Caller, size: int, asked: str, start: int, stop: int | None
) -> None:
    content = os.urandom(size)
    file_id = await call.upload(content)
    reply = await call("GET", f"/files/{file_id}/content", headers={"Range": asked})
    first, last, _ = slice(start, stop).indices(size)
    assert reply.status == 206
    assert reply.body == content[start:stop]
    assert reply.headers["content-range"] == f"bytes {first}-{last - 1}/{size}"
    assert reply.headers["content-length"] == str(last - first)
    assert reply.headers["etag"] == f'"{file_id}"'


@pytest.mark.parametrize(
    "asked",
    ["bytes=-", "bytes=5-4", "bytes=0-1,5-6", "lines=0-1", "bytes 0-1", "bytes=a-b", "bytes=--1"],
)
async def test_a_range_that_is_malformed_or_multiple_is_not_heeded(
    call: Caller, asked: str
) -> None:
    file_id = await call.upload(b"0123456789")
    reply = await call("GET", f"/files/{file_id}/content", headers={"Range": asked})
    assert (reply.status, reply.body) == (200, b"0123456789")
    assert "content-range" not in reply.headers


@pytest.mark.parametrize(
    ("size", "asked"),
    [(10, "bytes=10-"), (10, "bytes=10-20"), (10, "bytes=-0"), (0, "bytes=0-"), (0, "bytes=-1")],
)
async def test_a_range_beyond_the_content_is_refused_with_its_length(
    call: Caller, size: int, asked: str
) -> None:
    file_id = await call.upload(b"x" * size)
    reply = await call("GET", f"/files/{file_id}/content", headers={"Range": asked})
    assert reply.error(416)["param"] == "Range"
    assert reply.headers["content-range"] == f"bytes */{size}"


async def test_a_range_is_heeded_only_for_the_content_that_the_client_has(call: Caller) -> None:
    file_id = await call.upload(b"0123456789")
    for validator, status in (
        (f'"{file_id}"', 206),
        (f'W/"{file_id}"', 200),
        ('"file-0"', 200),
        ("Sat, 29 Oct 1994 19:43:31 GMT", 200),
    ):
        headers = {"Range": "bytes=5-", "If-Range": validator}
        reply = await call("GET", f"/files/{file_id}/content", headers=headers)
        assert (reply.status, len(reply.body)) == (status, 5 if status == 206 else 10)


async def test_without_ranges_a_download_is_always_whole_and_promises_nothing() -> None:
    async with Emulator(ranges=False) as running, aiohttp.ClientSession() as session:
        call = Caller(running.base_url, session)
        for content in (b"0123456789", os.urandom(2 * MIB)):
            path = f"/files/{await call.upload(content)}/content"
            reply = await call("GET", path, headers={"Range": "bytes=5-"})
            assert (reply.status, reply.body) == (200, content)
            assert not {"etag", "accept-ranges", "content-range"} & set(reply.headers)


async def test_a_file_that_is_deleted_while_it_is_downloaded_is_delivered_whole(
    emulator: Emulator, call: Caller, tmp_path: Path
) -> None:
    content = os.urandom(30 * MIB)  # far more than all buffers on the way
    file_id = await call.upload(content)
    async with wire_to(emulator.base_url) as wire:
        await wire.send(get_head(f"/v1/files/{file_id}/content"))
        await wire.head()
        assert (await call("DELETE", f"/files/{file_id}")).status == 200
        assert blobs(tmp_path / "data") == []
        assert await wire.reader.readexactly(len(content)) == content


async def test_a_blob_that_breaks_off_while_it_is_downloaded_cuts_the_body(
    emulator: Emulator, call: Caller, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    file_id = await call.upload(os.urandom(30 * MIB))
    async with wire_to(emulator.base_url) as wire:
        await wire.send(get_head(f"/v1/files/{file_id}/content"))
        await wire.head()
        os.truncate(tmp_path / "data" / "blobs" / file_id, MIB)
        assert len(await wire.rest()) < 30 * MIB
        wire.abort()
        assert [record.message for record in caplog.records] == [f"Reading {file_id} failed"]
        assert await call.listed() == [file_id]


async def test_a_client_that_goes_away_while_it_downloads_is_no_error(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async with nothing_leaks():
        async with Emulator(tmp_path) as running, aiohttp.ClientSession() as session:
            call = Caller(running.base_url, session)
            file_id = await call.upload(b"x" * 30 * MIB)
            for _ in range(3):
                async with wire_to(running.base_url) as wire:
                    await wire.send(get_head(f"/v1/files/{file_id}/content"))
                    await wire.head()
            assert await call.listed() == [file_id]
    assert not caplog.records


# --- errors and headers --------------------------------------------------------------------------


async def test_a_failure_of_the_emulator_is_told_in_the_words_of_the_api(
    call: Caller, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    file_id = await call.upload(b"x" * MIB)
    os.truncate(tmp_path / "data" / "blobs" / file_id, 10)
    (await call("GET", f"/files/{file_id}/content")).error(500)
    assert [record.message for record in caplog.records] == [
        f"GET /v1/files/{file_id}/content failed"
    ]


async def test_every_reply_has_a_request_id_of_its_own_and_a_date(call: Caller) -> None:
    small, large = await call.upload(), await call.upload(b"x" * MIB)
    replies = [
        await call("GET", "/files"),
        await call("GET", "/files"),
        await call("GET", f"/files/{small}"),
        await call("GET", f"/files/{small}/content"),
        await call("GET", f"/files/{large}/content"),
        await call("GET", f"/files/{large}/content", headers={"Range": "bytes=1-"}),
        await call("GET", f"/files/{large}/content", headers={"Range": "bytes=9999999-"}),
        await call("GET", "/files", key="wrong"),
        await call("GET", "/files", key=None),
        await call("GET", "/nowhere"),
        await call("PUT", "/files"),
        await call("HEAD", "/files"),
        await call.post(form()),
        await call("DELETE", f"/files/{small}"),
    ]
    ids = [reply.headers["x-request-id"] for reply in replies]
    assert all(re.fullmatch("req_[0-9a-f]{32}", it) for it in ids)
    assert len(set(ids)) == len(ids)
    assert all("date" in reply.headers for reply in replies)


async def test_a_connection_is_used_again_even_after_a_refusal(emulator: Emulator) -> None:
    async with wire_to(emulator.base_url) as wire:
        body = form(part("nonsense", "x"), file_part(b"x" * 2 * MIB))
        await wire.send(post_head(f"Content-Length: {len(body)}") + body)
        assert (await wire.head()).startswith("HTTP/1.1 400 ")
        await wire.send(get_head("/v1/files", "Connection: close"))
        assert b"HTTP/1.1 200 OK" in await wire.rest()


# --- starting and stopping -----------------------------------------------------------------------


async def test_files_outlive_the_emulator_in_its_directory(tmp_path: Path) -> None:
    async with Emulator(tmp_path) as running, aiohttp.ClientSession() as session:
        file_id = await Caller(running.base_url, session).upload(b"x" * MIB)
    async with Emulator(str(tmp_path)) as running, aiohttp.ClientSession() as session:
        call = Caller(running.base_url, session)
        assert (await call("GET", f"/files/{file_id}/content")).body == b"x" * MIB


async def test_without_a_directory_nothing_outlives_the_emulator(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    async with Emulator() as running, aiohttp.ClientSession() as session:
        await Caller(running.base_url, session).upload(b"x" * MIB)
        assert list(tmp_path.iterdir())
    assert not list(tmp_path.iterdir())


async def test_two_emulators_cannot_use_one_directory(emulator: Emulator, tmp_path: Path) -> None:
    async with nothing_leaks():
        with pytest.raises(DataDirInUseError, match="Another emulator is using"):
            async with Emulator(tmp_path / "data"):
                pytest.fail("it must not start")


async def test_a_port_that_is_taken_is_an_error_and_leaves_nothing(
    emulator: Emulator, tmp_path: Path
) -> None:
    taken = int(emulator.base_url.removesuffix("/v1").rsplit(":")[-1])
    async with nothing_leaks():
        with pytest.raises(OSError, match="in use"):
            async with Emulator(tmp_path / "other", port=taken):
                pytest.fail("it must not start")
    async with Emulator(tmp_path / "other"):
        pass  # its directory is free


async def test_the_base_url_is_known_only_while_it_runs() -> None:
    emulator = Emulator()
    with pytest.raises(RuntimeError, match="not running"):
        _ = emulator.base_url
    async with emulator as running:
        assert running is emulator
        assert re.fullmatch(r"http://127\.0\.0\.1:\d+/v1", emulator.base_url)
    with pytest.raises(RuntimeError, match="not running"):
        _ = emulator.base_url


async def test_the_base_url_of_an_ipv6_address_is_bracketed() -> None:
    try:
        socket.create_server(("::1", 0), family=socket.AF_INET6).close()
    except OSError:
        pytest.skip("no IPv6 here")
    async with Emulator(host="::1") as running, aiohttp.ClientSession() as session:
        assert running.base_url.startswith("http://[::1]:")
        assert await Caller(running.base_url, session).listed() == []


async def test_closing_is_quick_and_complete_whatever_clients_are_doing(tmp_path: Path) -> None:
    content = b"x" * 30 * MIB
    async with nothing_leaks(), AsyncExitStack() as stack:
        async with Emulator(tmp_path) as running:
            async with aiohttp.ClientSession() as session:
                file_id = await Caller(running.base_url, session).upload(content)
            wires = [await stack.enter_async_context(wire_to(running.base_url)) for _ in range(5)]
            silent, idle, uploading, downloading, refused = wires
            await idle.send(get_head("/v1/files"))
            await idle.head()
            await uploading.send(post_head("Content-Length: 9999999"))
            await uploading.send(b"--BOUNDARY\r\n" + file_part(b"x" * 3 * MIB))
            await downloading.send(get_head(f"/v1/files/{file_id}/content"))
            await downloading.head()
            await refused.send(post_head(f"Content-Length: {10**12}"))
            await refused.head()
            await until_there_are_blobs(tmp_path, 2)
            begun = time.monotonic()
        assert time.monotonic() - begun < 2
        assert blobs(tmp_path) == [file_id]
        for wire in (silent, idle, uploading, refused):
            with anyio.fail_after(1):
                await wire.rest()


async def test_a_cancelled_start_leaves_nothing(tmp_path: Path) -> None:
    async def start() -> None:
        async with Emulator(tmp_path):
            started.set()
            await asyncio.sleep(60)

    async with nothing_leaks():
        for power in range(20):  # at one moment after another, until it is too late
            started = asyncio.Event()
            task = asyncio.create_task(start())
            for _ in range(2**power):
                await asyncio.sleep(0)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            if started.is_set():
                break
    async with Emulator(tmp_path):
        pass


async def test_a_cancelled_stop_still_stops_all_of_it(tmp_path: Path) -> None:
    async def run() -> None:
        async with Emulator(tmp_path) as running:
            wire = await stack.enter_async_context(wire_to(running.base_url))
            await wire.send(post_head("Content-Length: 9999999"))
            stopping.set()
        pytest.fail("it was cancelled")

    async with nothing_leaks(), AsyncExitStack() as stack:
        stopping = asyncio.Event()
        task = asyncio.create_task(run())
        await stopping.wait()
        for _ in range(5):
            await asyncio.sleep(0)
            task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
    async with Emulator(tmp_path):
        pass


SERVER = """
import asyncio, sys
from aiofiles_api.emulator import Emulator

async def serve():
    async with Emulator(sys.argv[1]) as emulator:
        print(emulator.base_url, flush=True)
        await asyncio.sleep(60)

asyncio.run(serve())
"""


async def test_a_killed_emulator_comes_back_with_every_file_that_it_answered_for(
    tmp_path: Path,
) -> None:
    # Who is killed cannot report what lines it ran, so it need not be asked.
    environment = {name: it for name, it in os.environ.items() if "COVERAGE" not in name}
    answered: list[str] = []
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-c",
        SERVER,
        str(tmp_path),
        env=environment,
        stdout=asyncio.subprocess.PIPE,
    )
    assert process.stdout is not None
    base_url = (await process.stdout.readline()).decode().strip()
    enough = asyncio.Event()

    async def upload(call: Caller, content: bytes) -> None:
        try:
            while True:
                answered.append(await call.upload(content))
                if len(answered) >= 40:
                    enough.set()
        except aiohttp.ClientError:
            pass  # killed

    async with aiohttp.ClientSession() as session, asyncio.TaskGroup() as uploads:
        call = Caller(base_url, session)
        for content in (b"x" * 1000, b"y" * 1000, b"z" * 2 * MIB, b"w" * 100_000):
            uploads.create_task(upload(call, content))
        await enough.wait()
        process.send_signal(signal.SIGKILL)
    await process.wait()
    async with Emulator(tmp_path) as running, aiohttp.ClientSession() as session:
        call = Caller(running.base_url, session)
        ids = await call.listed()
        assert set(answered) <= set(ids)
        for file_id in ids:
            described = (await call("GET", f"/files/{file_id}")).json()
            reply = await call("GET", f"/files/{file_id}/content")
            assert (reply.status, len(reply.body)) == (200, described["bytes"])
        assert set(blobs(tmp_path)) <= set(ids)
