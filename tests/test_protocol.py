"""The API without I/O: the requests that are built, and every reply that may come back."""

from __future__ import annotations

import json
import pickle
from collections.abc import Callable, Iterator, Mapping
from http import HTTPStatus
from types import ModuleType
from urllib.parse import urlsplit

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from multidict import CIMultiDict

from aiofiles_api import (
    APIResponseError,
    APIStatusError,
    AuthenticationError,
    BadRequestError,
    ConflictError,
    DeletedFile,
    ExpiresAfter,
    FileObject,
    FilesError,
    InternalServerError,
    InvalidArgumentError,
    NotFoundError,
    PermissionDeniedError,
    QuotaExceededError,
    RateLimitError,
    RequestTooLargeError,
    UnprocessableEntityError,
)
from aiofiles_api import protocol as protocol_module
from aiofiles_api.protocol import (
    ListQuery,
    Reply,
    Request,
    content_request,
    delete_request,
    list_request,
    origin,
    read_file,
    read_page,
    redirect_url,
    retrieve_request,
    server_time,
    status_error,
    upload_fields,
    upload_request,
)

KEY = "sk-proj-Ab/+0123456789_Xyz"
BASE = "https://api.example/v1"
NOW = 1_700_000_000.0

FILE = {"id": "file-1", "bytes": 3, "created_at": 1, "filename": "a", "purpose": "batch"}

json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(st.characters()),
    lambda children: (
        st.lists(children, max_size=3)
        | st.dictionaries(
            st.text() | st.sampled_from(["error", "message", "code", "data", "id", "detail"]),
            children,
        )
    ),
    max_leaves=8,
)
bodies = (
    st.binary()
    | json_values.map(lambda value: json.dumps(value).encode())
    | st.fixed_dictionaries({"error": json_values}).map(lambda value: json.dumps(value).encode())
    | st.sampled_from(
        [
            b"",
            b"NaN",
            b"[" * 100_000,
            b'{"a":' * 100_000,
            b"9" * 10_000,
            b'{"id":' + b"9" * 10_000 + b"}",
            b'{"error": {"message": "\\ud800"}}',
            b'{"error": {"code": 1e999}}',
            b"\xff\xfe[\x00]\x00",
            b"<html><body><h1>502 Bad Gateway</h1></body></html>",
        ]
    )
)
told = [
    "x-request-id",
    "content-type",
    "location",
    "retry-after",
    "retry-after-ms",
    "x-should-retry",
    "date",
]
headers = st.dictionaries(st.sampled_from(told), st.text(st.characters()))
statuses = st.sampled_from([*HTTPStatus]) | st.integers(100, 999)


def reply(
    status: int = 200,
    body: object = b"",
    headers: Mapping[str, str] | None = None,
    *,
    secret: str | None = KEY,
) -> Reply:
    encoded = body if isinstance(body, bytes) else json.dumps(body).encode()
    return Reply(
        status, CIMultiDict(headers or {}), encoded, NOW, () if secret is None else (secret,)
    )


@pytest.fixture(params=["orjson", "stdlib"], scope="module")
def protocol(request: pytest.FixtureRequest) -> Iterator[ModuleType]:
    """Give the module with each of its parsers."""
    with pytest.MonkeyPatch.context() as patch:
        if request.param == "stdlib":
            patch.setattr("aiofiles_api.decoding._loads", json.loads)
        yield protocol_module


READERS = ("read_file", "read_deleted", "read_page", "status_error")


def outcome(read: Callable[[Request, Reply], object], answer: Reply) -> object:
    """Return what a reader returns, or the error that it raises."""
    try:
        return read(retrieve_request("file-1"), answer)
    except FilesError as error:
        return error


def everything_in(error: BaseException | None) -> Iterator[str]:
    """Yield all text that an error, its attributes and what it is chained to hold."""
    while error is not None:
        yield from (str(error), repr(error), repr(error.args), *map(repr, vars(error).values()))
        for name in ("doc", "object", "msg"):
            yield repr(getattr(error, name, ""))
        if isinstance(error, FilesError):
            yield pickle.dumps(error).decode("latin-1")
        error = error.__cause__ or error.__context__


# --- any reply at all ---------------------------------------------------------------------------


@given(statuses, headers, bodies)
@example(200, {}, b"[" * 100_000)
@example(200, {}, b"\xff")
@example(500, {"retry-after": "\ud800", "x-request-id": "\udcff\x1b[2J"}, b"\x1b[31m")
def test_no_reply_raises_anything_but_our_errors(
    protocol: ModuleType, status: int, headers: dict[str, str], body: bytes
) -> None:
    for name in READERS:
        got = outcome(getattr(protocol, name), reply(status, body, headers))
        if not isinstance(got, FilesError):
            assert 200 <= status < 300
            continue
        assert isinstance(got, APIStatusError if status >= 400 else APIResponseError)
        assert "retrieving file-1" in str(got)
        assert len(str(got)) < 2_000
        str(got).encode()  # it can be printed
        assert "\x1b" not in str(got)
        assert len(getattr(got, "body", "")) <= 2_000
        assert len(getattr(got, "request_id", None) or "") <= 200
        for attribute in ("message", "code", "type", "param"):
            assert len(getattr(got, attribute, None) or "") <= 1_000
        wait = getattr(got, "retry_after", None)
        assert wait is None or 0 <= wait < float("inf")


@pytest.mark.parametrize("parse", ["read_file", "status_error"])
def test_no_depth_of_nesting_raises_anything_but_our_errors(
    protocol: ModuleType, parse: str
) -> None:
    read = getattr(protocol, parse)
    for depth in [*range(900, 1_040, 4), 5_000, 20_000, 50_000]:
        for status in (200, 400):
            for opening, closing in ((b"[", b"]"), (b'{"a":', b"1}"), (b'{"error":', b"1}")):
                answer = reply(status, opening * depth + closing[:-1] + closing[-1:] * depth)
                assert isinstance(outcome(read, answer), FilesError)
        nested = b'{"error": {"message": ' + b"[" * depth + b"]" * depth + b"}}"
        assert isinstance(outcome(read, reply(400, nested)), FilesError)


@given(bodies)
def test_what_is_read_is_what_was_sent(protocol: ModuleType, body: bytes) -> None:
    got = outcome(protocol.read_file, reply(200, body))
    assert isinstance(got, APIResponseError) or json.loads(body)["id"] == got.id  # type: ignore[attr-defined]


# --- the key ------------------------------------------------------------------------------------

ECHOES = {
    "as it is": KEY,
    "with slashes escaped": KEY.replace("/", "\\/"),
    "in code points": "".join(f"\\u{ord(character):04x}" for character in KEY),
    "in lower case": KEY.lower(),
    "within others": f"Bearer {KEY}{KEY}",
}


@pytest.mark.parametrize("echo", ECHOES.values(), ids=ECHOES)
@pytest.mark.parametrize("status", [200, 302, 400, 401, 429, 500])
def test_the_key_is_in_no_error_wherever_a_server_echoes_it(
    protocol: ModuleType, status: int, echo: str
) -> None:
    everywhere = dict.fromkeys(told, echo) | {"location": f"https://{echo}.evil/{echo}?{echo}"}
    for template in (
        "%s",
        "<p>%s</p>",
        '{"error": {"message": "%s"}}',
        '{"error": {"message": "no", "code": "%s", "type": "%s", "param": "%s"}}',
        '{"error": {"message": ["%s", {"%s": 1}]}}',
        '{"error": "%s"}',
        '{"detail": [{"loc": ["%s"], "msg": "%s"}]}',
        '["%s"]',
        '{"id": {"%s": "%s"}}',
        '{"%s": "%s"',
        "\xff%s",
    ):
        body = template.replace("%s", echo).encode("latin-1")
        for name in READERS:
            got = outcome(getattr(protocol, name), reply(status, body, everywhere))
            if name == "read_deleted" and got == DeletedFile("file-1"):
                continue  # a success, and nothing of what came with it
            assert isinstance(got, FilesError)
            for text in everything_in(got):
                assert KEY.lower() not in text.lower()


@pytest.mark.parametrize("method", ["GET", "POST"])
@pytest.mark.parametrize(
    "location",
    [
        f"http://{KEY}.evil/",
        f"https://{KEY.lower()}@evil/",
        f"https://[{KEY}/",
        f"https://evil.{KEY.replace('/', '')}/?{KEY}",
        f"https://evil:{KEY}/",
    ],
)
def test_the_key_is_in_no_error_about_a_redirect(method: str, location: str) -> None:
    request = Request(method, "files", "listing files")  # type: ignore[arg-type]
    with pytest.raises(APIResponseError) as caught:
        redirect_url(request, reply(301, b"", {"Location": location}), sent_to=BASE)
    for text in everything_in(caught.value):
        assert KEY.lower() not in text.lower()


def test_a_reply_shows_neither_key_nor_body() -> None:
    assert KEY not in repr(reply(200, KEY.encode()))


def test_a_word_that_is_no_secret_stays_readable() -> None:
    error = status_error(retrieve_request("file-1"), reply(404, b"not found", secret="no"))
    assert "not found" in str(error)


def test_without_a_key_of_ours_the_text_stays_as_it_is() -> None:
    error = status_error(retrieve_request("file-1"), reply(404, b"not found", secret=None))
    assert "404 not found" in str(error)


# --- replies that are read ----------------------------------------------------------------------


def test_a_file_is_read(protocol: ModuleType) -> None:
    got = protocol.read_file(retrieve_request("file-1"), reply(200, FILE | {"etag": "x"}))
    assert got == FileObject("file-1", 3, 1, "a", "batch")
    assert got.extra == {"etag": "x"}


def test_a_file_is_also_read_from_another_success() -> None:
    assert read_file(retrieve_request("file-1"), reply(201, FILE)).id == "file-1"


def test_a_deletion_is_read(protocol: ModuleType) -> None:
    got = protocol.read_deleted(
        delete_request("file-1"), reply(200, {"id": "file-1", "deleted": True, "object": "file"})
    )
    assert got == DeletedFile("file-1")


@pytest.mark.parametrize(
    ("status", "body", "deleted"),
    [
        (204, b"", True),
        (200, b" \n", True),
        (202, {"deleted": True, "error": None}, True),
        (200, {"id": None, "deleted": False}, False),
    ],
)
def test_a_deletion_may_be_confirmed_in_fewer_words(
    protocol: ModuleType,
    status: int,
    body: object,
    deleted: bool,  # noqa: FBT001 - pytest passes it by name
) -> None:
    got = protocol.read_deleted(delete_request("file-\u00e9:1"), reply(status, body))
    assert got == DeletedFile("file-\u00e9:1", deleted)


@pytest.mark.parametrize(
    "body", [{"error": "no"}, {"message": "no"}, {"deleted": "yes"}, {}, b"<html>", b"true"]
)
def test_a_success_that_confirms_nothing_is_not_what_was_promised(
    protocol: ModuleType, body: object
) -> None:
    with pytest.raises(APIResponseError, match="deleting file-1: the reply"):
        protocol.read_deleted(delete_request("file-1"), reply(200, body))


def test_a_page_is_read(protocol: ModuleType) -> None:
    body = {"data": [FILE], "first_id": "file-1", "last_id": "file-1", "has_more": True}
    page = protocol.read_page(list_request(ListQuery()), reply(200, body))
    assert (list(page.data), page.first_id, page.last_id) == ([[FILE]], "file-1", "file-1")
    assert page.has_more is True


@pytest.mark.parametrize(
    "rest",
    [
        {},
        {"first_id": None, "last_id": None, "has_more": None},
        {"first_id": "", "last_id": "", "has_more": "yes"},
        {"first_id": 1, "last_id": [], "has_more": 0},
    ],
    ids=str,
)
def test_a_page_may_leave_out_all_but_the_files(rest: dict[str, object]) -> None:
    page = read_page(list_request(ListQuery()), reply(200, {"data": []} | rest))
    assert list(page.data) == []
    assert (page.first_id, page.last_id, page.has_more) == (None, None, None)


@pytest.mark.parametrize("body", [{}, {"data": None}, {"data": {}}, [], [FILE], "files", None, 7])
def test_a_listing_without_a_list_is_not_what_the_api_promises(body: object) -> None:
    with pytest.raises(APIResponseError, match=r'listing files: .* JSON without the list "data"'):
        read_page(list_request(ListQuery()), reply(200, body))


@pytest.mark.parametrize(
    ("body", "problem"),
    [
        (b"", "a body that is not JSON"),
        (b'{"id": "file-1"', "a body that is not JSON"),
        (b"<!doctype html><title>Welcome</title>", "a body that is not JSON"),
        (b"{}", "a FileObject without the field 'id'"),
        (b"[]", "expected a JSON object for a FileObject, not a list"),
        (b'{"id": null}', "a FileObject with a field that cannot be read: NoneType instead of"),
    ],
)
def test_a_success_that_is_not_what_the_api_promises_says_what_came(
    protocol: ModuleType, body: bytes, problem: str
) -> None:
    with pytest.raises(APIResponseError) as caught:
        protocol.read_file(
            retrieve_request("file-1"), reply(200, body, {"Content-Type": "text/html"})
        )
    assert str(caught.value) == (
        "retrieving file-1: the reply (200, text/html) is not what the API promises: "
        f"{str(caught.value).split('promises: ')[1].split(';')[0]}; it begins {body.decode()!r}."
        " Check base_url, and any proxy in between"
    )
    assert problem in str(caught.value)
    assert caught.value.retryable


# --- error statuses -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("status", "kind", "retryable"),
    [
        (400, BadRequestError, False),
        (401, AuthenticationError, False),
        (402, APIStatusError, False),
        (403, PermissionDeniedError, False),
        (404, NotFoundError, False),
        (405, APIStatusError, False),
        (408, APIStatusError, True),
        (409, ConflictError, True),
        (413, RequestTooLargeError, False),
        (422, UnprocessableEntityError, False),
        (429, RateLimitError, True),
        (431, APIStatusError, False),
        (500, InternalServerError, True),
        (503, InternalServerError, True),
        (529, InternalServerError, True),
        (999, InternalServerError, True),
    ],
)
def test_each_status_has_its_class(
    status: int,
    kind: type[APIStatusError],
    retryable: bool,  # noqa: FBT001
) -> None:
    error = status_error(retrieve_request("file-1"), reply(status))
    assert type(error) is kind
    assert isinstance(error, APIStatusError)
    assert error.status_code == status
    assert error.retryable is retryable
    assert str(error).startswith(f"retrieving file-1: {status} {error.message}")


def test_the_documented_body_is_read_in_full() -> None:
    body = {
        "error": {
            "message": "Incorrect API key provided",
            "type": "invalid_request_error",
            "param": "purpose",
            "code": "invalid_api_key",
        }
    }
    error = status_error(
        delete_request("file-1"), reply(401, body, {"X-Request-ID": "req_1", "Retry-After": "2"})
    )
    assert isinstance(error, AuthenticationError)
    assert str(error) == (
        "deleting file-1: 401 Incorrect API key provided (request req_1);"
        " check the key (OPENAI_API_KEY or api_key=) and that it is for base_url"
    )
    assert (error.message, error.type) == ("Incorrect API key provided", "invalid_request_error")
    assert (error.param, error.code) == ("purpose", "invalid_api_key")
    assert (error.request_id, error.retry_after) == ("req_1", 2.0)
    assert json.loads(error.body) == body


@pytest.mark.parametrize(
    ("body", "message"),
    [
        (b'{"error": {"message": "no such file"}}', "no such file"),
        (b'{"error": "no such file"}', "no such file"),
        (b'{"error": null, "message": "no such file"}', "no such file"),
        (b'{"message": "no such file", "code": "404"}', "no such file"),
        (b'{"detail": "no such file"}', "no such file"),
        (b'{"detail": [{"loc": ["id"]}]}', '[{"loc": ["id"]}]'),
        (b'{"error": {"detail": "no such file"}}', "no such file"),
        (b'"no such file"', "no such file"),
        (b'["no such file"]', '["no such file"]'),
        (b" no such file\n", "no such file"),
        (b"7", "7"),
        (b"", "Not Found"),
        (b"{}", "Not Found"),
        (b"[]", "Not Found"),
        (b"null", "Not Found"),
        (b'{"error": {}}', "Not Found"),
        (b'{"error": {"message": ""}}', "Not Found"),
        (b"<html><h1>404</h1></html>", "Not Found"),
        (b"  <?xml version='1.0'?>", "Not Found"),
        (b'{"error": {"message": "cut of', '{"error": {"message": "cut of'),
        (b"\xffno", "\ufffdno"),
    ],
)
def test_whatever_form_an_error_has_its_message_is_found(body: bytes, message: str) -> None:
    error = status_error(retrieve_request("file-1"), reply(404, body))
    assert isinstance(error, NotFoundError)
    assert error.message == message


def test_an_unknown_status_has_no_phrase() -> None:
    error = status_error(retrieve_request("file-1"), reply(499))
    assert isinstance(error, APIStatusError)
    assert error.message == "an unknown status"


@pytest.mark.parametrize(
    "details",
    [
        {"code": "insufficient_quota"},
        {"type": "insufficient_quota"},
        {"code": "429", "type": "insufficient_quota"},
    ],
    ids=str,
)
def test_a_spent_quota_is_never_worth_another_try(details: dict[str, str]) -> None:
    headers = {"x-should-retry": "true"}
    error = status_error(retrieve_request("f"), reply(429, {"error": details}, headers))
    assert type(error) is QuotaExceededError
    assert not error.retryable
    assert "billing" in str(error)


def test_the_code_of_a_spent_quota_counts_with_429_alone() -> None:
    error = status_error(retrieve_request("f"), reply(403, {"code": "insufficient_quota"}))
    assert type(error) is PermissionDeniedError


@pytest.mark.parametrize(
    ("status", "told", "retryable"),
    [(500, "false", False), (400, "true", True), (500, "maybe", True), (400, "", False)],
)
def test_a_server_may_say_whether_to_try_again(
    status: int,
    told: str,
    retryable: bool,  # noqa: FBT001
) -> None:
    error = status_error(retrieve_request("f"), reply(status, b"", {"X-Should-Retry": told}))
    assert error.retryable is retryable


@pytest.mark.parametrize("status", [100, 204, 301, 304, 399])
def test_neither_success_nor_error_is_not_what_the_api_promises(status: int) -> None:
    error = status_error(retrieve_request("file-1"), reply(status))
    assert type(error) is APIResponseError
    assert "no success and no error" in str(error)


@pytest.mark.parametrize(
    ("headers", "seconds"),
    [
        ({}, None),
        ({"Retry-After": "3"}, 3.0),
        ({"Retry-After": " 0.5 "}, 0.5),
        ({"Retry-After": "-1"}, None),
        ({"Retry-After": "inf"}, None),
        ({"Retry-After": "nan"}, None),
        ({"Retry-After": "soon"}, None),
        ({"Retry-After": ""}, None),
        ({"Retry-After-Ms": "250"}, 0.25),
        ({"Retry-After-Ms": "250", "Retry-After": "3"}, 0.25),
        ({"Retry-After-Ms": "soon", "Retry-After": "3"}, 3.0),
        ({"Retry-After": "Tue, 14 Nov 2023 22:13:30 GMT"}, 10.0),
        ({"Retry-After": "Tue, 14 Nov 2023 22:13:30 -0000"}, 10.0),
        ({"Retry-After": "Tue, 14 Nov 2023 22:13:10 GMT"}, 0.0),
        # By the server's own clock, which goes an hour ahead of ours:
        (
            {
                "Retry-After": "Tue, 14 Nov 2023 23:13:30 GMT",
                "Date": "Tue, 14 Nov 2023 23:13:20 GMT",
            },
            10.0,
        ),
        ({"Retry-After": "Tue, 14 Nov 2023 22:13:30 GMT", "Date": "today"}, 10.0),
        ({"Retry-After": "Tue, 14 Nov 99999 22:13:30 GMT"}, None),
        ({"Retry-After": "Thu, 1 Jan 1970 00:00:00 +99999999999999999999"}, None),
    ],
    ids=str,
)
def test_the_wait_that_is_asked_for_is_read(headers: dict[str, str], seconds: float | None) -> None:
    error = status_error(retrieve_request("f"), reply(429, b"", headers))
    assert isinstance(error, RateLimitError)
    assert error.retry_after == seconds


# --- requests -----------------------------------------------------------------------------------


def url_of(request: Request, *params: tuple[str, str]) -> str:
    return f"{request.method} {request.url(BASE, params)}"


def test_each_request_goes_to_its_own_address() -> None:
    assert url_of(retrieve_request("file-1")) == f"GET {BASE}/files/file-1"
    assert url_of(delete_request("file-1")) == f"DELETE {BASE}/files/file-1"
    assert url_of(content_request("file-1")) == f"GET {BASE}/files/file-1/content"
    assert url_of(upload_request("a.txt", "text/plain")) == f"POST {BASE}/files"
    assert url_of(list_request(ListQuery())) == f"GET {BASE}/files?order=desc"


@given(st.text(min_size=1).filter(str.isprintable))
def test_an_id_stays_one_part_of_the_path(identifier: str) -> None:
    if set(identifier) & set("/\\?#% "):
        return  # refused by file_id()
    path = urlsplit(retrieve_request(identifier).url(BASE, ())).path
    assert path.isascii()
    assert path.count("/") == 3


@pytest.mark.parametrize("identifier", ["file-abc_DEF", "a.b~c", "1:2", "a@b"])
def test_an_id_of_the_kinds_that_servers_give_is_not_encoded(identifier: str) -> None:
    assert url_of(retrieve_request(identifier)) == f"GET {BASE}/files/{identifier}"


def test_parameters_of_a_listing_are_encoded_and_the_clients_own_follow() -> None:
    request = list_request(ListQuery("user data", "asc", "file-1", 100))
    assert url_of(request, ("api-version", "2024 &")) == (
        f"GET {BASE}/files?purpose=user+data&limit=100&order=asc&after=file-1&api-version=2024+%26"
    )


def test_what_a_server_limits_together_has_one_name() -> None:
    assert retrieve_request("file-1").endpoint == retrieve_request("file-2").endpoint
    assert retrieve_request("file-1").endpoint == "GET /files/{file_id}"
    assert content_request("file-1").endpoint == "GET /files/{file_id}/content"
    assert delete_request("file-1").endpoint == "DELETE /files/{file_id}"
    assert list_request(ListQuery()).endpoint == "GET /files"
    assert upload_request("a", "text/plain").endpoint == "POST /files"


def test_every_upload_has_a_key_of_its_own_for_servers_that_heed_one() -> None:
    keys = {upload_request("a", "text/plain").headers["Idempotency-Key"] for _ in range(100)}
    assert len(keys) == 100
    assert all(key.isascii() and key.isprintable() for key in keys)


def test_the_servers_clock_is_read_where_it_is_told() -> None:
    date = {"Date": "Tue, 14 Nov 2023 22:13:20 GMT"}
    assert server_time(reply(200, b"", date)) == NOW
    assert server_time(reply(200, b"", {"Date": "today"})) is None
    assert server_time(reply(200)) is None


def test_content_is_asked_for_from_the_offset_on_if_it_is_still_the_same() -> None:
    assert content_request("f").headers == {"Accept": "*/*"}
    assert content_request("f", etag='"x"').headers == {"Accept": "*/*"}
    assert content_request("f", offset=5).headers == {"Accept": "*/*", "Range": "bytes=5-"}
    assert content_request("f", offset=5, etag='"x"').headers == {
        "Accept": "*/*",
        "Range": "bytes=5-",
        "If-Range": '"x"',
    }
    assert content_request("f").is_content
    assert not retrieve_request("f").is_content


def test_a_request_says_what_it_does_in_few_words() -> None:
    assert upload_request("a" * 10_000, "text/plain").what == f"uploading {'a' * 80!r}"
    assert upload_request("\ud800\n", "text/plain").what.isprintable()


def test_the_fields_of_an_upload_are_those_of_the_api() -> None:
    assert upload_fields("batch", None) == {"purpose": "batch"}
    assert upload_fields("batch", ExpiresAfter(3_600)) == {
        "purpose": "batch",
        "expires_after[anchor]": "created_at",
        "expires_after[seconds]": "3600",
    }


@pytest.mark.parametrize("purpose", ["", None, 7, "a\n", "\ud800"], ids=repr)
def test_a_purpose_that_is_none_is_refused(purpose: str) -> None:
    with pytest.raises(InvalidArgumentError, match=r"^purpose: .* pass one such as 'batch'"):
        upload_fields(purpose, None)
    if purpose is not None:
        with pytest.raises(InvalidArgumentError, match=r"^purpose: "):
            ListQuery(purpose=purpose)


@pytest.mark.parametrize("limit", [0, -1, 10_001, 1.5, True, "10"], ids=repr)
def test_a_page_size_out_of_bounds_is_refused(limit: int) -> None:
    with pytest.raises(InvalidArgumentError, match=r"^page_size: .* pass 1 to 10,000$"):
        ListQuery(limit=limit)


@pytest.mark.parametrize("limit", [None, 1, 10_000])
def test_a_page_size_within_bounds_passes(limit: int | None) -> None:
    assert ListQuery(limit=limit).limit == limit


@pytest.mark.parametrize("order", ["", "ascending", None], ids=repr)
def test_an_order_that_the_api_does_not_know_is_refused(order: str) -> None:
    with pytest.raises(InvalidArgumentError, match=r"^order: .* is neither 'asc'"):
        ListQuery(order=order)  # type: ignore[arg-type]


# --- redirects ----------------------------------------------------------------------------------

HERE = "https://api.example/v1/files/f/content"


def follow(request: Request, status: int, location: str | None, sent_to: str = HERE) -> str:
    headers = {} if location is None else {"Location": location}
    return redirect_url(request, reply(status, b"", headers), sent_to=sent_to)


@pytest.mark.parametrize(
    ("location", "target"),
    [
        ("/v2/files", "https://api.example/v2/files"),
        ("metadata", "https://api.example/v1/files/f/metadata"),
        ("?page=2", "https://api.example/v1/files/f/content?page=2"),
        ("https://api.example:443/v2", "https://api.example:443/v2"),
        ("//API.example/v2", "https://API.example/v2"),
        ("/a b/ä?x=|", "https://api.example/a%20b/%C3%A4?x=%7C"),
        ("/\udcc3\udca4", "https://api.example/%C3%A4"),  # bytes as aiohttp gives them
        ("/signed%2Fpath?sig=a%3D+b==", "https://api.example/signed%2Fpath?sig=a%3D+b=="),
    ],
)
def test_a_redirect_within_the_origin_is_followed(location: str, target: str) -> None:
    assert follow(retrieve_request("f"), 302, location) == target
    assert follow(delete_request("f"), 307, location) == target
    assert follow(content_request("f"), 301, location) == target


def test_content_alone_may_come_from_another_origin() -> None:
    signed = "https://bucket.example/f?X-Signature=s3cret"
    assert follow(content_request("f"), 302, signed) == signed
    for request in (retrieve_request("f"), delete_request("f"), upload_request("a", "b")):
        with pytest.raises(APIResponseError, match=r"origin, https://bucket\.example;") as caught:
            follow(request, 307, signed)
        assert "s3cret" not in str(caught.value)
        assert not caught.value.retryable


@pytest.mark.parametrize("status", [301, 302, 303])
@pytest.mark.parametrize("method", ["POST", "DELETE"])
def test_a_redirect_that_would_change_the_method_is_refused(method: str, status: int) -> None:
    request = upload_request("a", "b") if method == "POST" else delete_request("f")
    with pytest.raises(APIResponseError, match=f"would turn a {method} into a GET; check base_url"):
        follow(request, status, "/v2")


def test_nothing_goes_from_https_to_http() -> None:
    with pytest.raises(APIResponseError, match=r"from https to http, to bucket\.example"):
        follow(content_request("f"), 302, "http://bucket.example/f")
    plain = "http://127.0.0.1/v1/files/f/content"
    assert follow(content_request("f"), 302, "https://bucket.example/f", plain).startswith("https")
    assert follow(content_request("f"), 302, "http://bucket.example/f", plain).startswith("http:")


@pytest.mark.parametrize(
    "location",
    [
        None,
        "",
        "ftp://api.example/f",
        "file:///etc/passwd",
        "javascript:alert(1)",
        "http:///f",
        "https://user:pw@api.example/f",
        "https://api.example:0/f",
        "https://api.example:port/f",
        "https://api.example:99999/f",
        "https://[::1/f",
        "//[",
        "https://\u2100.example/",
        "/\ud800",
    ],
)
def test_a_redirect_to_what_is_no_web_address_is_refused(location: str | None) -> None:
    with pytest.raises(APIResponseError, match="to no web address that can be read"):
        follow(content_request("f"), 302, location)


@given(st.text(st.characters()) | st.text("htps:/[]@?#.1% \n\\apiexample"), statuses)
def test_whatever_a_server_redirects_to_is_followed_safely_or_refused(
    text: str, status: int
) -> None:
    for location in (text, f"https://{text}", f"//api.example{text}"):
        for request in (retrieve_request("f"), content_request("f"), upload_request("a", "b")):
            try:
                target = follow(request, status, location)
            except APIResponseError:
                continue
            assert target.isascii()
            assert target.isprintable()
            assert urlsplit(target).scheme == "https"
            assert urlsplit(target).hostname
            assert request.is_content or origin(target) == origin(HERE)
            assert request.method == "GET" or status in {307, 308}


def test_an_origin_is_scheme_host_and_port() -> None:
    assert origin("HTTPS://API.example/v1") == ("https", "api.example", 443)
    assert origin("http://[::1]/v1") == ("http", "::1", 80)
    assert origin("http://api.example:8080") == ("http", "api.example", 8080)
    with pytest.raises(ValueError, match="Port"):
        origin("http://api.example:port")
