"""Listings over real sockets: pages of every kind, leaving early, servers that go in circles."""

from __future__ import annotations

import asyncio
import json
from urllib.parse import parse_qs, urlsplit

import pytest
from conftest import (
    QUICK_RETRIES,
    RawRequest,
    Script,
    client_of,
    hang_up,
    nothing_leaks,
    raw_server,
    reply,
    silence,
)

from aiofiles_api import (
    APIResponseError,
    BadRequestError,
    ContentTooLargeError,
    DeletedFile,
    FileObject,
    FilesClient,
    InvalidArgumentError,
    NotFoundError,
    PermissionDeniedError,
    RetryPolicy,
    TransferManager,
)

pytestmark = pytest.mark.anyio


def entry(number: int) -> dict[str, object]:
    return {
        "id": f"file-{number}",
        "object": "file",
        "bytes": number,
        "created_at": number,
        "filename": f"{number}.jsonl",
        "purpose": "batch",
    }


def pages(
    total: int, *, has_more: bool | None = True, ignores_after: bool = False, most: int = 10_000
) -> Script:
    """Serve `total` files in pages, with the failings that were asked for."""

    async def follow(request: RawRequest, writer: asyncio.StreamWriter) -> None:
        query = parse_qs(urlsplit(request.line.split()[1]).query)
        limit = int(query.get("limit", ["20"])[0])
        if limit > most:
            await reply('{"error": {"message": "limit"}}', status="400 Bad Request")(
                request, writer
            )
            return
        after = query.get("after", ["file-0"])[0]
        first = 1 if ignores_after else int(after.removeprefix("file-")) + 1
        data = [entry(number) for number in range(first, min(first + limit, total + 1))]
        page: dict[str, object] = {"object": "list", "data": data}
        if has_more is not None:
            page["has_more"] = has_more and first + limit <= total
        await reply(json.dumps(page))(request, writer)

    return follow


@pytest.fixture
async def ten(files: FilesClient) -> list[FileObject]:
    return [
        await files.upload(b"x", purpose="batch" if number % 2 else "user_data")
        for number in range(10)
    ]


@pytest.mark.parametrize("page_size", [None, 1, 2, 3, 9, 10, 11, 10_000])
async def test_every_page_size_gives_the_same_files_in_either_order(
    files: FilesClient, ten: list[FileObject], page_size: int | None
) -> None:
    assert [f async for f in files.list(order="asc", page_size=page_size)] == ten
    assert [f async for f in files.list(page_size=page_size)] == ten[::-1]


async def test_a_listing_is_filtered_begun_and_bounded_as_asked(
    files: FilesClient, ten: list[FileObject]
) -> None:
    assert [f async for f in files.list(purpose="batch", order="asc")] == ten[1::2]
    assert [f async for f in files.list(after=ten[6], order="asc")] == ten[7:]
    assert [f async for f in files.list(after=ten[6].id)] == ten[5::-1]
    for bound in (0, 1, 4, 5, 10, 11):
        listed = [f async for f in files.list(order="asc", page_size=4, max_items=bound)]
        assert listed == ten[:bound]


async def test_pages_are_given_as_the_server_cuts_them(
    files: FilesClient, ten: list[FileObject]
) -> None:
    listed = [page async for page in files.list_pages(order="asc", page_size=4)]
    assert [len(page.data) for page in listed] == [4, 4, 2]
    assert [page.has_more for page in listed] == [True, True, False]
    assert (listed[0].first_id, listed[0].last_id) == (ten[0].id, ten[3].id)
    cut = [page async for page in files.list_pages(order="asc", page_size=4, max_items=6)]
    assert [(len(page.data), page.has_more) for page in cut] == [(4, True), (2, True)]


async def test_an_empty_listing_is_empty(files: FilesClient) -> None:
    assert [f async for f in files.list()] == []
    assert [page async for page in files.list_pages()] == []


async def test_one_page_is_fetched_ahead_and_no_more() -> None:
    async with raw_server(pages(100)) as raw, client_of(raw) as files:
        listing = files.list(page_size=10)
        await anext(listing)
        await asyncio.sleep(0.1)
        assert len(raw.requests) == 2
        await listing.aclose()


async def test_no_more_is_asked_for_than_is_wanted() -> None:
    async with raw_server(pages(100)) as raw, client_of(raw) as files:
        assert len([f async for f in files.list(page_size=10, max_items=15)]) == 15
        assert limits_of(raw.requests) == ["10", "5"]


def limits_of(requests: list[RawRequest]) -> list[str | None]:
    """Return the page sizes that were asked for."""
    queries = [parse_qs(urlsplit(request.line.split()[1]).query) for request in requests]
    return [query["limit"][0] if "limit" in query else None for query in queries]


async def test_the_default_page_is_the_largest_that_the_api_allows() -> None:
    async with raw_server(pages(13_000)) as raw, client_of(raw) as files:
        assert len([f async for f in files.list()]) == 13_000
        assert limits_of(raw.requests) == ["10000", "10000"]


async def test_more_than_a_page_is_asked_for_page_by_page() -> None:
    async with raw_server(pages(13_000)) as raw, client_of(raw) as files:
        assert len([f async for f in files.list(max_items=12_000)]) == 12_000
        assert limits_of(raw.requests) == ["10000", "2000"]


async def test_larger_pages_that_are_refused_are_not_asked_for_again() -> None:
    async with raw_server(pages(5_000, most=2_000)) as raw, client_of(raw) as files:
        assert len([f async for f in files.list()]) == 5_000
        assert limits_of(raw.requests) == ["10000", "2000", "2000", "2000"]


async def test_a_page_that_breaks_off_into_nonsense_is_an_error_behind_what_was_read() -> None:
    data = [json.dumps(entry(number)) for number in range(5_000)]
    data[4_000] = '{"id": }'
    listed = ", ".join(data)
    async with (
        raw_server(reply(f'{{"data": [{listed}], "has_more": false}}')) as raw,
        client_of(raw) as files,
    ):
        seen = 0
        with pytest.raises(APIResponseError, match="not JSON from byte"):
            async for _ in files.list():
                seen += 1
        assert 0 < seen <= 4_000


async def test_others_come_to_their_turn_while_a_page_is_worked_through() -> None:
    turns = 0

    async def count() -> None:
        nonlocal turns
        while True:
            turns += 1
            await asyncio.sleep(0)

    async with raw_server(pages(2_000)) as raw, client_of(raw) as files:
        listing = files.list()
        await anext(listing)
        counting = asyncio.create_task(count())
        assert len([f async for f in listing]) == 1_999
        counting.cancel()
        assert turns >= 3


async def leave_by_break(files: FilesClient) -> None:
    async for _ in files.list(page_size=10):
        break


async def leave_by_exception(files: FilesClient) -> None:
    with pytest.raises(LookupError):
        async for _ in files.list(page_size=10):
            raise LookupError


async def leave_by_cancellation(files: FilesClient) -> None:
    async def iterate() -> None:
        async for _ in files.list(page_size=10):
            await asyncio.sleep(3600)

    task = asyncio.create_task(iterate())
    await asyncio.sleep(0.05)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


@pytest.mark.parametrize(
    "leave", [leave_by_break, leave_by_exception, leave_by_cancellation], ids=lambda f: f.__name__
)
@pytest.mark.parametrize("is_second_page_silent", [False, True])
async def test_leaving_early_leaves_no_task_and_no_connection(
    leave: object, *, is_second_page_silent: bool
) -> None:
    script = [pages(100), silence] if is_second_page_silent else [pages(100)]
    async with nothing_leaks(), raw_server(*script) as raw:
        files = client_of(raw)
        await leave(files)  # type: ignore[operator]
        for _ in range(5):
            await asyncio.sleep(0)
        assert not [t for t in asyncio.all_tasks() if "_fetch_pages" in repr(t)]
        await files.aclose()
        await raw.wait_until_closed()


@pytest.mark.parametrize("kind", ["files", "pages"])
async def test_a_server_that_ignores_the_cursor_is_an_error_not_an_endless_loop(kind: str) -> None:
    async with raw_server(pages(100, ignores_after=True)) as raw, client_of(raw) as files:
        seen = 0
        with pytest.raises(APIResponseError, match="repeats"):
            if kind == "files":
                async for _ in files.list(page_size=10):
                    seen += 1
            else:
                async for page in files.list_pages(page_size=10):
                    seen += len(page.data)
        assert seen == 10  # the page that was right


async def test_a_beginning_that_the_server_ignores_is_an_error() -> None:
    for has_more in (True, None):
        script = pages(30, ignores_after=True, has_more=has_more)
        async with raw_server(script) as raw, client_of(raw) as files:
            with pytest.raises(APIResponseError, match="repeats what came before 'file-5'"):
                [f async for f in files.list(after="file-5")]


async def test_a_longer_circle_is_seen_too() -> None:
    async def circle(request: RawRequest, writer: asyncio.StreamWriter) -> None:
        after = parse_qs(urlsplit(request.line.split()[1]).query).get("after", ["file-0"])[0]
        following = int(after.removeprefix("file-")) % 7 + 1
        page = {"data": [entry(following)], "has_more": True}
        await reply(json.dumps(page))(request, writer)

    async with raw_server(circle) as raw, client_of(raw) as files:
        with pytest.raises(APIResponseError, match="repeats"):
            [f async for f in files.list(page_size=1)]
        assert len(raw.requests) < 30


async def test_an_empty_page_that_promises_more_is_an_error() -> None:
    script = reply('{"data": [], "has_more": true}')
    async with raw_server(script) as raw, client_of(raw) as files:
        with pytest.raises(APIResponseError, match="empty page"):
            [f async for f in files.list()]


UNASKABLE = "file-\u200b"  # it cannot be printed, and so not be asked for


async def test_behind_an_id_that_cannot_be_asked_for_there_is_no_way_on() -> None:
    page = {"data": [entry(1), {**entry(2), "id": UNASKABLE}], "has_more": True}
    async with raw_server(reply(json.dumps(page))) as raw, client_of(raw) as files:
        listing = files.list()
        assert [(await anext(listing)).id for _ in range(2)] == ["file-1", UNASKABLE]
        with pytest.raises(APIResponseError, match="without an id"):
            await anext(listing)


@pytest.mark.parametrize(("has_more", "max_items"), [(False, None), (True, 2)])
async def test_where_no_more_is_asked_for_the_last_id_may_be_any(
    has_more: bool,  # noqa: FBT001 - pytest passes it by name
    max_items: int | None,
) -> None:
    page = {"data": [entry(1), {**entry(2), "id": UNASKABLE}], "has_more": has_more}
    async with raw_server(reply(json.dumps(page))) as raw, client_of(raw) as files:
        listing = files.list(max_items=max_items)
        assert [file.id async for file in listing] == ["file-1", UNASKABLE]


async def test_before_a_last_file_without_an_id_the_others_are_yielded() -> None:
    page = {"data": [entry(1), {"id": 7}], "has_more": True}
    async with raw_server(reply(json.dumps(page))) as raw, client_of(raw) as files:
        listing = files.list()
        assert (await anext(listing)).id == "file-1"
        with pytest.raises(APIResponseError, match="cannot be read"):
            await anext(listing)


async def test_a_file_that_cannot_be_read_is_an_error_when_its_turn_comes() -> None:
    page = {"data": [entry(1), {"id": "file-2"}], "has_more": False}
    async with raw_server(reply(json.dumps(page))) as raw, client_of(raw) as files:
        listing = files.list()
        assert (await anext(listing)).id == "file-1"
        with pytest.raises(APIResponseError, match="bytes"):
            await anext(listing)


@pytest.mark.parametrize("broken", [17, {}, ["file-2"]])
async def test_a_later_page_with_what_is_no_file_is_an_error_when_its_turn_comes(
    broken: object,
) -> None:
    async def follow(request: RawRequest, writer: asyncio.StreamWriter) -> None:
        is_first = "after" not in request.line
        data = [entry(1)] if is_first else [entry(2), broken, entry(3)]
        await reply(json.dumps({"data": data, "has_more": is_first}))(request, writer)

    async with raw_server(follow) as raw, client_of(raw) as files:
        listing = files.list()
        assert [(await anext(listing)).id for _ in range(2)] == ["file-1", "file-2"]
        with pytest.raises(APIResponseError, match=r"JSON object|without the field"):
            await anext(listing)


async def test_a_server_without_has_more_is_read_to_its_end() -> None:
    async with raw_server(pages(25, has_more=None)) as raw, client_of(raw) as files:
        assert len([f async for f in files.list(page_size=10)]) == 25


async def test_a_server_without_pages_is_read_once() -> None:
    script = pages(5, has_more=None, ignores_after=True)
    async with raw_server(script) as raw, client_of(raw) as files:
        assert len([f async for f in files.list()]) == 5


async def test_a_default_page_size_that_is_refused_is_left_to_the_server() -> None:
    async with raw_server(pages(50, most=100)) as raw, client_of(raw) as files:
        assert len([f async for f in files.list()]) == 50
        assert limits_of(raw.requests) == ["10000", "2000", None, None, None]
        with pytest.raises(BadRequestError):
            [f async for f in files.list(page_size=101)]


async def test_fewer_are_asked_for_where_a_page_is_longer_than_any_reply_may_be(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("aiofiles_api.session.exchange._LARGEST_JSON", 300_000)
    async with raw_server(pages(5_000)) as raw, client_of(raw) as files:
        assert len([f async for f in files.list()]) == 5_000
        assert limits_of(raw.requests) == ["10000", "2000", "2000", "2000"]
        with pytest.raises(ContentTooLargeError, match="longer than"):
            [f async for f in files.list(page_size=5_000)]


async def test_a_cursor_that_is_refused_later_is_no_matter_of_the_page_size() -> None:
    first = reply(json.dumps({"data": [entry(1)], "has_more": True}))
    script = [first, reply('{"detail": "gone"}', status="400 Bad Request")]
    async with raw_server(*script) as raw, client_of(raw) as files:
        with pytest.raises(BadRequestError):
            [f async for f in files.list()]
        assert limits_of(raw.requests) == ["10000", "10000"]


async def test_what_is_behind_the_bound_is_not_even_read() -> None:
    page = {"data": [*map(entry, range(3_000)), {"id": "odd"}], "has_more": False}
    async with raw_server(reply(json.dumps(page))) as raw, client_of(raw) as files:
        assert len([f async for f in files.list(max_items=2)]) == 2
        (cut,) = [page async for page in files.list_pages(max_items=2)]
        assert ([file.id for file in cut.data], cut.has_more) == (["file-0", "file-1"], True)


async def test_an_id_that_only_begins_like_the_last_one_is_no_repetition() -> None:
    async with raw_server(pages(30)) as raw, client_of(raw) as files:
        listed = [f.id async for f in files.list(after="file-1", page_size=20)]
    assert listed == [f"file-{number}" for number in range(2, 31)]


async def test_a_file_that_comes_twice_is_seen_also_where_its_id_is_escaped() -> None:
    ids = [f"a+{number}" for number in range(20)]

    async def inclusive(request: RawRequest, writer: asyncio.StreamWriter) -> None:
        after = parse_qs(urlsplit(request.line.split()[1]).query).get("after", ["a+0"])[0]
        first = ids.index(after)
        data = [entry(1) | {"id": one} for one in ids[first : first + 5]]
        page = json.dumps({"data": data, "has_more": True}).replace("+", "\\u002b")
        await reply(page)(request, writer)

    async with raw_server(inclusive) as raw, client_of(raw) as files:
        with pytest.raises(APIResponseError, match="repeats what came before"):
            [f async for f in files.list(page_size=5)]


async def test_a_page_size_that_is_refused_is_not_asked_for_again_where_few_are_wanted() -> None:
    async with raw_server(pages(50, most=25)) as raw, client_of(raw) as files:
        assert len([f async for f in files.list(max_items=30)]) == 30
        assert limits_of(raw.requests) == ["30", None, None]


async def test_a_request_that_stays_refused_is_an_error() -> None:
    script = reply('{"detail": "no"}', status="422 Unprocessable Entity")
    async with raw_server(script) as raw, client_of(raw) as files:
        with pytest.raises(Exception, match="no"):
            [f async for f in files.list()]
        assert limits_of(raw.requests) == ["10000", "2000", None]


async def test_tolerance_towards_what_compatible_servers_send() -> None:
    page = {
        "data": [{**entry(1), "created_at": 1.5, "purpose": "new", "etag": "x", "status": ""}],
        "first_id": None,
        "last_id": "",
        "has_more": False,
        "object": "list",
    }
    async with raw_server(reply(json.dumps(page))) as raw, client_of(raw) as files:
        [only] = [page async for page in files.list_pages()]
    assert (only.first_id, only.last_id, only.has_more) == (None, None, False)
    [file] = only.data
    assert (file.created_at, file.purpose, file.status, file.extra) == (
        1,
        "new",
        None,
        {"etag": "x"},
    )


@pytest.mark.parametrize(
    "arguments",
    [
        {"page_size": 0},
        {"page_size": 10_001},
        {"page_size": True},
        {"max_items": -1},
        {"max_items": 1.5},
        {"order": "random"},
        {"order": ["asc"]},
        {"after": "a/b"},
        {"purpose": ""},
    ],
)
async def test_bad_arguments_are_refused_at_once(arguments: dict[str, object]) -> None:
    async with raw_server(hang_up) as raw, client_of(raw) as files:
        with pytest.raises(InvalidArgumentError):
            files.list(**arguments)  # type: ignore[arg-type]
        with pytest.raises(InvalidArgumentError):
            files.list_pages(**arguments)  # type: ignore[arg-type]
        assert raw.connections == 0


async def test_listing_is_stable_while_files_come_and_go(files: FilesClient) -> None:
    kept = [await files.upload(b"x", purpose="batch") for _ in range(6)]
    doomed = await files.upload(b"x", purpose="batch")
    kept += [await files.upload(b"x", purpose="batch") for _ in range(6)]
    seen: list[str] = []
    async for file in files.list(order="asc", page_size=2):
        seen.append(file.id)
        if file == kept[1]:
            await files.delete(doomed)
            await files.upload(b"late", purpose="batch")
    assert [one for one in seen if one != doomed.id][:12] == [file.id for file in kept]
    assert len(seen) == len(set(seen))


async def test_retrieve_and_delete_tell_what_the_server_says(files: FilesClient) -> None:
    file = await files.upload(b"x", purpose="batch")
    assert await files.retrieve(file) == file == await files.retrieve(file.id)
    assert (await files.delete(file.id)).deleted is True
    with pytest.raises(NotFoundError):
        await files.delete(file)
    assert (await files.delete(file, missing_ok=True)).deleted is False


@pytest.mark.parametrize("way", ["one by one", "all at once"])
async def test_each_file_may_be_deleted_as_it_is_listed_though_a_page_fails_at_first(
    way: str,
) -> None:
    left = list(range(1, 41))
    listings = 0

    async def serve(request: RawRequest, writer: asyncio.StreamWriter) -> None:
        nonlocal listings
        target = urlsplit(request.line.split()[1])
        if request.line.startswith("DELETE"):
            number = int(target.path.rpartition("-")[2])
            left.remove(number)
            deleted = {"id": f"file-{number}", "deleted": True}
            await reply(json.dumps(deleted))(request, writer)
            return
        listings += 1
        if listings in {2, 4}:
            await reply("", status="503 Later")(request, writer)
            return
        after = int(parse_qs(target.query).get("after", ["file-0"])[0].removeprefix("file-"))
        # As many servers do: behind a file that is gone there is nothing.
        known = not after or after in left
        coming = [number for number in left if known and number > after]
        data = [entry(number) for number in coming[:5]]
        page = {"data": data, "has_more": len(coming) > 5}
        await reply(json.dumps(page))(request, writer)

    retry = RetryPolicy(backoff=0.05)
    async with raw_server(serve) as raw, client_of(raw, retry=retry) as files:
        if way == "one by one":
            async for file in files.list():
                await files.delete(file)
        else:
            manager = TransferManager(files, concurrency=4)
            async for outcome in manager.delete_all(files.list()):
                assert outcome.error is None
    assert left == []


async def test_a_failing_page_takes_nothing_from_the_one_before() -> None:
    script = [pages(10), reply("", status="403 No")]
    got: list[str] = []
    async with raw_server(*script) as raw, client_of(raw) as files:
        with pytest.raises(PermissionDeniedError):
            async for file in files.list(page_size=2):
                got.append(file.id)  # noqa: PERF401 - it is to be seen what came before the error
    assert got == ["file-1", "file-2"]


async def test_a_first_page_that_fails_is_an_error() -> None:
    async with raw_server(reply("", status="403 No")) as raw, client_of(raw) as files:
        with pytest.raises(PermissionDeniedError):
            await anext(files.list())


async def test_a_later_page_that_is_repeated_is_an_error_whatever_it_says_of_more() -> None:
    first = {"data": [entry(1), entry(2)]}
    second = {"data": [entry(3), entry(4)]}
    script = [reply(json.dumps(page)) for page in (first, second, second)]
    got: list[str] = []
    async with raw_server(*script) as raw, client_of(raw) as files:
        with pytest.raises(APIResponseError, match="repeats"):
            async for file in files.list():
                got.append(file.id)  # noqa: PERF401 - as above
    assert got == ["file-1", "file-2", "file-3", "file-4"]


async def test_a_page_can_be_gone_on_from_whatever_the_server_says_of_it() -> None:
    script = pages(6, has_more=None, most=10_000)
    async with raw_server(script) as raw, client_of(raw) as files:
        listed = [page async for page in files.list_pages(page_size=3)]
        assert [page.has_more for page in listed] == [True, True]
    nine = {"data": [entry(number) for number in range(1, 10)], "last_id": "file-9"}
    async with raw_server(reply(json.dumps(nine))) as raw, client_of(raw) as files:
        [page] = [page async for page in files.list_pages(max_items=3)]
        assert (len(page.data), page.has_more, page.last_id) == (3, True, "file-3")


@pytest.mark.parametrize("answer", ["OK", "{}", '{"status": "ok"}', '{"deleted": "yes"}'])
async def test_a_deletion_that_is_confirmed_in_words_that_nobody_knows_is_one(answer: str) -> None:
    script = [reply(answer), reply("", status="404 Gone")]
    for missing_ok in (True, False):
        async with raw_server(*script) as raw, client_of(raw, retry=QUICK_RETRIES) as files:
            assert (await files.delete("file-1", missing_ok=missing_ok)).deleted
            assert len(raw.requests) == 2


async def test_a_confirmation_needs_no_id() -> None:
    script = reply('{"id": 5, "deleted": true}')
    async with raw_server(script) as raw, client_of(raw) as files:
        assert await files.delete("file-1") == DeletedFile("file-1")
