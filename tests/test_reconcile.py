"""Uploads whose reply is lost end as exactly one file, or in one clear error."""

from __future__ import annotations

import asyncio
import json
import logging
import os
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from email.utils import formatdate
from functools import partial
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

import anyio
import attrs
import pytest
from conftest import QUICK_RETRIES, RawRequest, RawServer, Script, client_of, raw_server, reply

from aiofiles_api import (
    BadRequestError,
    FileObject,
    FilesClient,
    InternalServerError,
    InvalidArgumentError,
    RetryPolicy,
    SourceError,
    SourceNotReplayableError,
    Timeouts,
    UncertainServerError,
    UploadUncertainError,
)
from aiofiles_api.reconcile import Claims, OnUncertain

pytestmark = pytest.mark.anyio

CONTENT = os.urandom(20_000)


@attrs.define
class Shelf:
    """A server that stores what it is sent, and then does what it is told to with its replies.

    Attributes:
        losses: How many of the next uploads lose their reply, after the file was stored.
        lose: How a reply is lost.
        stores: Whether an upload whose reply is lost is stored.
        content_status: What `/content` answers.
        list_failures: How many of the next listings fail.
        has_date: Whether replies tell the server's clock.
        order_is_kept: Whether a listing is in the order that was asked for.
    """

    losses: int = 0
    lose: str = "hang up"
    stores: bool = True
    content_status: int = 200
    list_failures: int = 0
    has_date: bool = True
    order_is_kept: bool = True
    late: float = 0.0
    clock_offset: int = 0
    files: list[tuple[dict[str, object], bytes]] = attrs.field(factory=list)
    posts: int = 0
    keys: set[str] = attrs.field(factory=set)

    def add(self, content: bytes, *, age: int = 0, filename: str = "upload") -> dict[str, object]:
        described: dict[str, object] = {
            "id": f"file-{len(self.files)}",
            "object": "file",
            "bytes": len(content),
            "created_at": int(time.time()) + self.clock_offset - age,
            "filename": filename,
            "purpose": "batch",
        }
        self.files.append((described, content))
        return described

    async def serve(self, request: RawRequest, writer: asyncio.StreamWriter) -> None:
        method, target, _ = request.line.split()
        path = urlsplit(target).path
        if method == "POST":
            await self._post(request, writer)
        elif path == "/v1/files":
            await self._list(request, writer, parse_qs(urlsplit(target).query))
        else:
            content = self.files[int(path.split("/")[3].removeprefix("file-"))][1]
            status = f"{self.content_status} Status"
            await self._answer(content if self.content_status == 200 else b"{}", status)(
                request, writer
            )

    def _answer(self, body: bytes | str, status: str = "200 OK") -> Script:
        date = formatdate(time.time() + self.clock_offset, usegmt=True)
        return reply(body, status=status, headers={"Date": date} if self.has_date else {})

    async def _post(self, request: RawRequest, writer: asyncio.StreamWriter) -> None:
        body = await request.body()
        self.posts += 1
        self.keys.add(request.headers["idempotency-key"])
        _, _, rest = body.partition(b'name="file"')
        content = rest.partition(b"\r\n\r\n")[2].rpartition(b"\r\n--")[0]
        is_lost = self.losses > 0
        self.losses -= is_lost
        described: dict[str, object] = {}
        if self.stores or not is_lost:
            if is_lost and self.late:
                asyncio.get_running_loop().call_later(self.late, self.add, content)
            else:
                described = self.add(content)
        without_body = attrs.evolve(request, headers={})
        if not is_lost:
            await self._answer(json.dumps(described))(without_body, writer)
        elif self.lose == "hang up":
            writer.close()
        elif self.lose == "silence":
            await request.reader.read()
            writer.close()
        else:
            await self._answer("<html>", self.lose)(without_body, writer)

    async def _list(
        self, request: RawRequest, writer: asyncio.StreamWriter, query: dict[str, list[str]]
    ) -> None:
        if self.list_failures:
            self.list_failures -= 1
            await self._answer("{}", "503 Unavailable")(request, writer)
            return
        listed = [described for described, _ in self.files]
        if self.order_is_kept:
            listed.reverse()
        after = query.get("after", [""])[0]
        ids = [described["id"] for described in listed]
        first = ids.index(after) + 1 if after else 0
        limit = int(query["limit"][0])
        page = {"data": listed[first : first + limit], "has_more": first + limit < len(listed)}
        await self._answer(json.dumps(page))(request, writer)


@asynccontextmanager
async def shelved(shelf: Shelf, **settings: object) -> AsyncIterator[tuple[RawServer, FilesClient]]:
    async with (
        raw_server(shelf.serve) as raw,
        client_of(raw, **{"retry": QUICK_RETRIES, **settings}) as files,
    ):
        yield raw, files


@pytest.mark.parametrize("lose", ["hang up", "500 Internal", "502 Bad Gateway", "200 OK"])
async def test_a_stored_file_whose_reply_is_lost_is_found(lose: str) -> None:
    shelf = Shelf(losses=1, lose=lose)
    shelf.add(os.urandom(len(CONTENT)))  # of the same kind, and another content
    async with shelved(shelf) as (_, files):
        file = await files.upload(CONTENT, purpose="batch")
    assert (file.id, shelf.posts, len(shelf.files)) == ("file-1", 1, 2)


async def test_an_uncertain_upload_is_told_and_what_became_of_it(
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.INFO, "aiofiles_api")
    async with shelved(Shelf(losses=1)) as (_, files):
        await files.upload(CONTENT, purpose="batch", filename="a.jsonl")
    lines = [record.getMessage() for record in caplog.records if record.name == "aiofiles_api"]
    assert len(lines) == 2
    assert "uploading 'a.jsonl': attempt 1 is uncertain" in lines[0]
    assert lines[1] == "uploading 'a.jsonl': found to be stored as file-0"


async def test_a_file_that_was_not_stored_is_sent_again_with_the_same_key() -> None:
    shelf = Shelf(losses=2, stores=False)
    async with shelved(shelf) as (_, files):
        file = await files.upload(CONTENT, purpose="batch")
    assert (file.id, shelf.posts, len(shelf.files), len(shelf.keys)) == ("file-0", 3, 1, 1)


async def test_each_upload_has_a_key_of_its_own() -> None:
    shelf = Shelf()
    async with shelved(shelf) as (_, files):
        await files.upload(CONTENT, purpose="batch")
        await files.upload(CONTENT, purpose="batch")
    assert len(shelf.keys) == 2


@pytest.mark.parametrize("clock_offset", [0, 86_400, -86_400])
async def test_only_files_since_the_upload_began_count_by_the_servers_clock(
    clock_offset: int,
) -> None:
    shelf = Shelf(losses=1, stores=False, clock_offset=clock_offset)
    shelf.add(CONTENT, age=60)  # the very same bytes, stored by somebody before
    async with shelved(shelf) as (_, files):
        file = await files.upload(CONTENT, purpose="batch")
    assert (file.id, shelf.posts) == ("file-1", 2)


async def test_without_a_clock_earlier_replies_tell_since_when() -> None:
    shelf = Shelf(has_date=False)
    shelf.add(CONTENT, age=60)
    async with shelved(shelf) as (_, files):
        await files.upload(b"another", purpose="batch")
        shelf.losses, shelf.stores = 1, False
        assert (await files.upload(CONTENT, purpose="batch")).id == "file-2"


async def test_without_any_clock_every_file_of_the_kind_counts() -> None:
    shelf = Shelf(has_date=False, losses=1, stores=False)
    shelf.add(CONTENT, age=60)
    async with shelved(shelf) as (_, files):
        assert (await files.upload(CONTENT, purpose="batch")).id == "file-0"


@pytest.mark.parametrize("order_is_kept", [True, False])
async def test_the_look_goes_through_pages_and_stops_early_only_where_the_order_holds(
    *, order_is_kept: bool
) -> None:
    shelf = Shelf(losses=1, order_is_kept=order_is_kept)
    for number in range(350):
        shelf.add(b"old", age=1_000 - number // 2)
    async with shelved(shelf) as (raw, files):
        file = await files.upload(CONTENT, purpose="batch")
        pages = [r for r in raw.requests if r.line.startswith("GET /v1/files?")]
        assert len(pages) == (1 if order_is_kept else 4)
    assert (file.bytes, shelf.posts) == (len(CONTENT), 1)


async def test_a_file_of_the_same_name_is_compared_first() -> None:
    shelf = Shelf(losses=1)
    async with shelved(shelf) as (raw, files):
        for _ in range(3):
            shelf.add(os.urandom(len(CONTENT)), filename="other")
        await files.upload(CONTENT, purpose="batch")
        read = [r for r in raw.requests if "/content" in r.line]
        assert len(read) == 1


@pytest.mark.parametrize("status", [400, 403, 404, 405, 410, 501])
async def test_candidates_that_are_not_shown_are_named_and_the_file_is_sent_again(
    status: int, caplog: pytest.LogCaptureFixture
) -> None:
    shelf = Shelf(losses=1, content_status=status)
    async with shelved(shelf) as (_, files):
        file = await files.upload(CONTENT, purpose="batch")
    assert (file.id, shelf.posts) == ("file-1", 2)
    warning, *_ = [r for r in caplog.records if r.levelno == logging.WARNING]
    assert "file-0" in warning.getMessage()


async def test_a_look_that_fails_passingly_is_repeated() -> None:
    shelf = Shelf(losses=1, list_failures=2)
    async with shelved(shelf) as (_, files):
        assert (await files.upload(CONTENT, purpose="batch")).id == "file-0"
    assert shelf.posts == 1


async def test_a_look_that_fails_for_good_leaves_it_uncertain_and_never_sends_again() -> None:
    shelf = Shelf(losses=1, list_failures=100)
    async with shelved(shelf) as (_, files):
        with pytest.raises(UploadUncertainError, match="look yourself") as caught:
            await files.upload(CONTENT, purpose="batch")
    assert shelf.posts == 1
    assert caught.value.candidates == ()


@pytest.mark.parametrize("on_uncertain", ["reconcile", "raise"])
async def test_a_server_that_fails_whatever_it_is_asked_is_one_that_fails(
    on_uncertain: OnUncertain,
) -> None:
    shelf = Shelf(losses=100, lose="503 Busy", list_failures=100)
    async with shelved(shelf) as (_, files):
        with pytest.raises(InternalServerError, match="the server answered 503") as caught:
            await files.upload(CONTENT, purpose="batch", on_uncertain=on_uncertain)
    assert isinstance(caught.value, UncertainServerError)
    assert (caught.value.status_code, caught.value.retryable) == (503, False)
    assert shelf.posts == 1


async def test_a_candidate_that_cannot_be_read_leaves_it_uncertain() -> None:
    shelf = Shelf(losses=1, content_status=503)
    async with shelved(shelf) as (_, files):
        with pytest.raises(UploadUncertainError) as caught:
            await files.upload(CONTENT, purpose="batch")
    assert shelf.posts == 1
    assert [file.id for file in caught.value.candidates] == ["file-0"]


async def pieces() -> AsyncIterator[bytes]:
    yield CONTENT


async def test_a_one_shot_source_cannot_be_compared() -> None:
    shelf = Shelf(losses=1, stores=False)
    async with shelved(shelf) as (raw, files):
        script = chunked_once(shelf)
        raw.script.insert(0, script)
        with pytest.raises(UploadUncertainError, match="spool=True") as caught:
            await files.upload(pieces(), purpose="batch")
    assert [file.id for file in caught.value.candidates] == ["file-0"]


def chunked_once(shelf: Shelf) -> Script:
    async def store_and_hang_up(request: RawRequest, writer: asyncio.StreamWriter) -> None:
        await request.reader.readuntil(b"\r\n0\r\n\r\n")
        shelf.add(CONTENT)
        writer.close()

    return store_and_hang_up


async def test_a_one_shot_source_that_was_not_stored_cannot_be_sent_again() -> None:
    async def hang_up_at_the_end(request: RawRequest, writer: asyncio.StreamWriter) -> None:
        await request.reader.readuntil(b"\r\n0\r\n\r\n")
        writer.close()

    shelf = Shelf()
    async with shelved(shelf) as (raw, files):
        raw.script.insert(0, hang_up_at_the_end)
        with pytest.raises(SourceNotReplayableError):
            await files.upload(pieces(), purpose="batch")


async def test_a_spooled_source_is_sent_again() -> None:
    shelf = Shelf(losses=1, stores=False)
    async with shelved(shelf) as (_, files):
        file = await files.upload(pieces(), purpose="batch", spool=True)
    assert (file.bytes, shelf.posts) == (len(CONTENT), 2)


async def test_resend_skips_the_look_and_may_leave_a_duplicate() -> None:
    shelf = Shelf(losses=1)
    async with shelved(shelf) as (raw, files):
        file = await files.upload(CONTENT, purpose="batch", on_uncertain="resend")
        assert not [r for r in raw.requests if r.line.startswith("GET")]
    assert (file.id, len(shelf.files)) == ("file-1", 2)


async def test_raise_leaves_it_to_the_caller() -> None:
    shelf = Shelf(losses=1)
    async with shelved(shelf) as (_, files):
        with pytest.raises(UploadUncertainError):
            await files.upload(CONTENT, purpose="batch", on_uncertain="raise")
        with pytest.raises(InvalidArgumentError, match="on_uncertain"):
            await files.upload(CONTENT, purpose="batch", on_uncertain="hope")  # type: ignore[arg-type]
    assert shelf.posts == 1


@pytest.mark.parametrize("on_uncertain", ["reconcile", "resend"])
async def test_what_a_failed_server_may_have_stored_stays_uncertain_when_no_attempt_is_left(
    on_uncertain: OnUncertain,
) -> None:
    shelf = Shelf(losses=100, lose="503 Busy", content_status=400)
    async with shelved(shelf) as (_, files):
        with pytest.raises(UncertainServerError) as caught:
            await files.upload(CONTENT, purpose="batch", on_uncertain=on_uncertain)
    assert shelf.posts == QUICK_RETRIES.attempts
    assert len(caught.value.candidates) == (shelf.posts if on_uncertain == "reconcile" else 0)


@pytest.mark.parametrize("on_uncertain", ["reconcile", "resend"])
async def test_what_an_earlier_attempt_may_have_stored_stays_uncertain_when_a_later_is_refused(
    on_uncertain: OnUncertain,
) -> None:
    shelf = Shelf(losses=1, content_status=403)

    async def refuse_the_second(request: RawRequest, writer: asyncio.StreamWriter) -> None:
        serve = reply("", status="400 Bad") if shelf.posts else shelf.serve
        await (serve if request.line.startswith("POST") else shelf.serve)(request, writer)

    async with shelved(shelf) as (raw, files):
        raw.script[:] = [refuse_the_second]
        with pytest.raises(UploadUncertainError) as caught:
            await files.upload(CONTENT, purpose="batch", on_uncertain=on_uncertain)
    assert isinstance(caught.value.__cause__, BadRequestError)
    assert len(caught.value.candidates) == (1 if on_uncertain == "reconcile" else 0)


async def test_what_is_to_be_sent_again_and_cannot_be_stays_uncertain() -> None:
    shelf = Shelf(losses=1)
    async with shelved(shelf) as (_, files):
        with pytest.raises(UploadUncertainError):
            await files.upload(pieces(), purpose="batch", on_uncertain="resend")
    assert shelf.posts == 1


async def test_when_no_attempt_is_left_the_last_failure_says_what_is_known() -> None:
    shelf = Shelf(losses=10, stores=False)
    async with shelved(shelf) as (_, files):
        with pytest.raises(UploadUncertainError):
            await files.upload(CONTENT, purpose="batch")
        shelf.losses, shelf.lose = 10, "500 Internal"
        with pytest.raises(InternalServerError):
            await files.upload(CONTENT, purpose="batch")
    assert shelf.posts == 2 * QUICK_RETRIES.attempts


async def test_a_refusal_is_not_uncertain() -> None:
    shelf = Shelf(losses=1, lose="429 Slow Down", stores=False)
    async with shelved(shelf) as (raw, files):
        await files.upload(CONTENT, purpose="batch")
        assert not [r for r in raw.requests if r.line.startswith("GET")]


async def test_after_a_timeout_it_is_looked_for_again_because_servers_store_late() -> None:
    shelf = Shelf(losses=1, lose="silence", late=1.2)
    async with shelved(shelf, timeouts=Timeouts(reply=0.8)) as (_, files):
        assert (await files.upload(CONTENT, purpose="batch")).id == "file-0"
    assert shelf.posts == 1


async def test_a_path_is_read_again_to_be_compared(tmp_path: Path) -> None:
    path = tmp_path / "data.jsonl"
    path.write_bytes(os.urandom(1_000_000))
    shelf = Shelf(losses=1)
    async with shelved(shelf) as (_, files):
        assert (await files.upload(path, purpose="batch")).id == "file-0"
    assert shelf.posts == 1


@pytest.mark.parametrize("size", [20_000, 2_000_000])
async def test_what_was_appended_meanwhile_makes_it_no_other_file(
    tmp_path: Path, size: int
) -> None:
    class Appending(Shelf):
        def add(
            self, content: bytes, *, age: int = 0, filename: str = "upload"
        ) -> dict[str, object]:
            os.truncate(path, size + 1)
            return super().add(content, age=age, filename=filename)

    path = tmp_path / "log.jsonl"
    path.write_bytes(os.urandom(size))
    shelf = Appending(losses=1)
    async with shelved(shelf) as (_, files):
        assert (await files.upload(path, purpose="batch")).bytes == size
    assert (shelf.posts, len(shelf.files)) == (1, 1)


@pytest.mark.parametrize("change", ["rewritten", "removed"])
@pytest.mark.parametrize("size", [20_000, 2_000_000])
async def test_a_source_that_cannot_be_compared_any_more_leaves_it_uncertain(
    tmp_path: Path, size: int, change: str
) -> None:
    class Changing(Shelf):
        async def _post(self, request: RawRequest, writer: asyncio.StreamWriter) -> None:
            await super()._post(request, writer)
            path.unlink()
            if change == "rewritten":
                path.symlink_to(tmp_path / "other")

    path = tmp_path / "data.jsonl"
    path.write_bytes(os.urandom(size))
    (tmp_path / "other").write_bytes(os.urandom(size))
    shelf = Changing(losses=1)
    async with shelved(shelf) as (_, files):
        with pytest.raises(UploadUncertainError, match="compare and delete by hand") as told:
            await files.upload(path, purpose="batch")
    assert [file.id for file in told.value.candidates] == ["file-0"]
    assert (shelf.posts, len(shelf.files)) == (1, 1)


async def test_a_file_that_is_stored_after_its_connection_was_cut_is_found() -> None:
    shelf = Shelf(losses=1, late=0.3)
    async with shelved(shelf) as (_, files):
        assert (await files.upload(CONTENT, purpose="batch")).id == "file-0"
    assert shelf.posts == 1


async def test_a_result_that_is_compared_holds_up_nobody_who_looks(tmp_path: Path) -> None:
    paths = [tmp_path / name for name in "abcd"]
    for path in paths:
        path.write_bytes(path.name.encode() * 3_000_000)
    came = {path.name: asyncio.Event() for path in paths}
    answers = asyncio.Event()
    stored: dict[str, dict[str, object]] = {}

    async def serve(request: RawRequest, writer: asyncio.StreamWriter) -> None:
        without_body = attrs.evolve(request, headers={})
        if "/content" in request.line:
            name = request.line.partition("file-")[2][0]
            await reply(name.encode() * 3_000_000)(request, writer)
        elif request.line.startswith("GET"):
            await reply(json.dumps({"data": list(stored.values()), "has_more": False}))(
                request, writer
            )
        else:
            name = (await request.body()).partition(b'filename="')[2][:1].decode()
            is_first = not came[name].is_set()
            came[name].set()
            if name == "b" and is_first:
                await reply("{}", status="500 No")(without_body, writer)
                return
            stored[name] = {"id": f"file-{name}", "bytes": 3_000_000, "created_at": 1}
            stored[name] |= {"filename": name, "purpose": "batch"}
            if name == "a":
                await answers.wait()
                os.utime(paths[0], ns=(1, 1))
            await reply(json.dumps(stored[name]))(without_body, writer)

    async with (
        raw_server(serve) as raw,
        client_of(raw, retry=QUICK_RETRIES, max_connections=2) as files,
        asyncio.timeout(20),
    ):
        uploads = []
        for path in paths:
            uploads.append(asyncio.create_task(files.upload(path, purpose="batch")))
            if path.name in "ab":
                await came[path.name].wait()
        await asyncio.sleep(0.5)
        answers.set()
        results = await asyncio.gather(*uploads)
    assert [file.filename for file in results] == list("abcd")


async def test_many_uploads_of_one_kind_never_take_each_others_file() -> None:
    shelf = Shelf(losses=30)
    contents = [os.urandom(1_000) for _ in range(60)] + [b"x" * 1_000] * 6
    results: dict[int, str] = {}
    async with shelved(shelf, retry=RetryPolicy(backoff=0.001)) as (_, files):

        async def send(number: int) -> None:
            file = await files.upload(contents[number], purpose="batch", filename="same")
            results[number] = file.id

        async with anyio.create_task_group() as group:
            for number in range(len(contents)):
                group.start_soon(send, number)
    assert len(set(results.values())) == len(contents) == len(shelf.files)
    stored = {described["id"]: content for described, content in shelf.files}
    assert all(stored[results[number]] == content for number, content in enumerate(contents))


# --- claims --------------------------------------------------------------------------------------


async def test_a_look_waits_for_replies_and_holds_up_the_last_piece_of_others() -> None:
    claims, kind, log = Claims(), ("batch", 1), list[str]()

    async def look(name: str) -> None:
        async with claims.look(kind):
            log.append(f"{name} looks")
            await asyncio.sleep(0.02)
            log.append(f"{name} is done")

    async def send() -> None:
        await asyncio.sleep(0.005)
        await claims.begin_to_await(kind)
        log.append("sent")
        claims.end_to_await(kind)

    await claims.begin_to_await(kind)
    await claims.begin_to_await(kind)
    async with anyio.create_task_group() as group:
        group.start_soon(look, "first")
        group.start_soon(look, "second")
        group.start_soon(send)
        await asyncio.sleep(0.01)
        assert log == []
        claims.end_to_await(kind)
        claims.end_to_await(kind)
    assert log[:4] == ["first looks", "first is done", "second looks", "second is done"] or (
        "sent" in log and log.index("first is done") < log.index("second looks")
    )


async def test_a_cancelled_look_lets_others_go_on() -> None:
    claims, kind = Claims(), ("batch", 1)
    await claims.begin_to_await(kind)
    with anyio.move_on_after(0.01):
        async with claims.look(kind):
            pytest.fail("a reply is still awaited")
    claims.end_to_await(kind)
    with anyio.fail_after(1):
        await claims.begin_to_await(kind)
    claims.end_to_await(kind)


async def test_as_many_results_as_matter_are_remembered() -> None:
    claims = Claims()
    file = FileObject("file-1", 1, 1, "f", "batch")
    assert claims.claim(file)
    assert not claims.claim(file)
    for number in range(20_000):
        assert claims.claim(attrs.evolve(file, id=f"later-{number}"))
    assert not claims.is_claimed(file)


async def test_a_server_without_order_and_end_leaves_it_uncertain() -> None:
    class Endless(Shelf):
        async def _list(
            self, request: RawRequest, writer: asyncio.StreamWriter, query: dict[str, list[str]]
        ) -> None:
            last = int(query.get("after", ["file-0"])[0].removeprefix("file-"))
            data = [
                {"id": f"file-{last + 1}", "bytes": 1, "created_at": last, "filename": "f"}
                | {"purpose": "batch"}
            ]
            await self._answer(json.dumps({"data": data, "has_more": True}))(request, writer)

    async with shelved(Endless(losses=1)) as (_, files):
        with pytest.raises(UploadUncertainError, match="not all that may be it"):
            await files.upload(CONTENT, purpose="batch")


async def test_too_many_candidates_leave_it_uncertain() -> None:
    shelf = Shelf(losses=1)
    for _ in range(101):
        shelf.add(os.urandom(len(CONTENT)))
    async with shelved(shelf) as (_, files):
        with pytest.raises(UploadUncertainError, match="too many"):
            await files.upload(CONTENT, purpose="batch")
    assert shelf.posts == 1


async def test_a_copy_that_finds_no_space_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    def no_space() -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("tempfile.TemporaryFile", no_space)
    async with shelved(Shelf()) as (_, files):
        with pytest.raises(SourceError, match=r"No space left.*TMPDIR"):
            await files.upload(pieces(), purpose="batch", spool=True)


@pytest.mark.parametrize("max_connections", [1, 2, 5])
async def test_a_look_is_never_behind_those_who_wait_for_it(max_connections: int) -> None:
    shelf = Shelf(losses=4)
    contents = [os.urandom(1_000) for _ in range(10)]
    policy = RetryPolicy(backoff=0.001)
    async with shelved(shelf, retry=policy, max_connections=max_connections) as (_, files):
        with anyio.fail_after(20):
            async with anyio.create_task_group() as group:
                for content in contents:
                    group.start_soon(partial(files.upload, content, purpose="batch"))
    assert sorted(content for _, content in shelf.files) == sorted(contents)
