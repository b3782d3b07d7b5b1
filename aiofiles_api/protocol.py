"""The API without I/O: builds each request, reads each reply into a model or an error.

Whatever of a reply goes into an error goes through `Reply.scrub`, which removes the key: servers
do echo it ("Incorrect API key provided: …"). No exception of a parser is chained, because those
hold the whole text that they could not read.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Callable, Mapping
from contextlib import suppress
from datetime import UTC
from email.utils import parsedate_to_datetime
from http import HTTPStatus
from typing import Literal, TypeAlias, TypeVar
from urllib.parse import quote, unquote, urlencode, urljoin, urlsplit

import attrs

from aiofiles_api.decoding import Pieces, decode, decode_page
from aiofiles_api.errors import (
    APIResponseError,
    APIStatusError,
    AuthenticationError,
    BadRequestError,
    ConflictError,
    InternalServerError,
    InvalidArgumentError,
    NotFoundError,
    PermissionDeniedError,
    QuotaExceededError,
    RateLimitError,
    RequestTooLargeError,
    UnprocessableEntityError,
)
from aiofiles_api.models import DeletedFile, ExpiresAfter, FileObject, Order, structure

__all__ = [
    "DeletionReplies",
    "ListQuery",
    "RawPage",
    "Reply",
    "Request",
    "content_request",
    "delete_request",
    "list_request",
    "origin",
    "read_deleted",
    "read_file",
    "read_page",
    "redirect_url",
    "retrieve_request",
    "scrub",
    "server_time",
    "spellings",
    "status_error",
    "upload_fields",
    "upload_request",
]

_FILES = "files/"

_LONGEST_TEXT = 64 * 1024
_LONGEST_BODY = 2_000
_LONGEST_MESSAGE = 1_000
_LARGEST_PAGE = 10_000

_UNPRINTABLE = r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\ud800-\udfff]"
"""What could steer a terminal, and what UTF-8 cannot say."""

Method: TypeAlias = Literal["GET", "POST", "DELETE"]
_Model = TypeVar("_Model", FileObject, DeletedFile)
_Decoded = TypeVar("_Decoded")


@attrs.frozen
class Request:
    """A request to the API, still without credentials.

    Attributes:
        method: The HTTP method.
        path: The path below the base URL.
        what: What is being done to what, for messages: "retrieving file-abc".
        query: The query's names and values.
        headers: What this request says beyond what all say.
        is_content: Whether the reply is a file's content, which may come from another origin.
    """

    method: Method
    path: str
    what: str
    query: tuple[tuple[str, str], ...] = ()
    headers: Mapping[str, str] = attrs.field(factory=dict)
    is_content: bool = False

    @property
    def endpoint(self) -> str:
        """What a server limits together: the method, and the path without the file's id."""
        collection, slash, rest = self.path.partition("/")
        if not slash:
            return f"{self.method} /{collection}"
        _, slash, action = rest.partition("/")
        return f"{self.method} /{collection}/{{file_id}}{slash}{action}"

    @property
    def is_listing(self) -> bool:
        """Whether the reply has many objects in it."""
        return self.method == "GET" and self.path == "files"

    def url(self, base_url: str, params: tuple[tuple[str, str], ...]) -> str:
        """Return the absolute URL with the query of the request and of the client."""
        query = self.query + params
        return f"{base_url}/{self.path}" + (f"?{urlencode(query)}" if query else "")


@attrs.frozen
class Reply:
    """A whole reply, its body bounded by whoever read it.

    Attributes:
        status: The HTTP status.
        headers: The headers; looking one up ignores case.
        body: The body, decompressed.
        received_at: Unix time in seconds, to read a `Retry-After` that is a date.
        secrets: The key and the like, to be removed from all text that goes into an error.
    """

    status: int
    headers: Mapping[str, str] = attrs.field(repr=False)
    body: bytes = attrs.field(repr=False)
    received_at: float
    secrets: tuple[str, ...] = attrs.field(repr=False)

    @property
    def text(self) -> str:
        """The beginning of the body for people: decoded, and scrubbed."""
        return self.scrub(self.body[:_LONGEST_TEXT].decode("utf-8", "replace"))

    def scrub(self, text: str) -> str:
        """Return `text` without the key, in whatever case, and without control characters."""
        return scrub(text, self.secrets)


def scrub(text: str, secrets: tuple[str, ...]) -> str:
    """Return `text` without the secrets, in whatever case, and without control characters."""
    for secret in secrets:
        # Shorter ones than this are no secret, and removing them would garble every word.
        if len(secret) >= 6:  # noqa: PLR2004
            text = re.sub(re.escape(secret), "***", text, flags=re.IGNORECASE)
    return re.sub(_UNPRINTABLE, "\ufffd", text)


def spellings(secret: str) -> tuple[str, ...]:
    """Return how a server may write a secret in a text: plain, in JSON, a URL or HTML."""
    return tuple(
        dict.fromkeys(
            (
                secret,
                secret.replace("/", r"\/"),
                re.sub("[^A-Za-z0-9]", lambda found: f"\\u{ord(found[0]):04x}", secret),
                re.sub("[^A-Za-z0-9._-]", lambda found: f"\\u{ord(found[0]):04x}", secret),
                quote(secret, safe=""),
                secret.translate(_IN_HTML),
            )
        )
    )


_IN_HTML = str.maketrans({"&": "&amp;", "<": "&lt;", ">": "&gt;", '"': "&quot;", "'": "&#x27;"})


@attrs.frozen
class ListQuery:
    """The parameters of a listing.

    Attributes:
        purpose: Only files with this purpose.
        order: By time of creation.
        after: Begin behind the file with this id.
        limit: Files a page, from 1 to 10,000; `None` leaves it to the server.

    Raises:
        InvalidArgumentError: A value is out of its range.
    """

    purpose: str | None = None
    order: Order = "desc"
    after: str | None = None
    limit: int | None = None

    def __attrs_post_init__(self) -> None:
        """Refuse what the API would refuse."""
        if self.purpose is not None:
            _checked_purpose(self.purpose)
        if self.order not in ("asc", "desc"):  # which may be of any type
            msg = f"order: {self.order!r} is neither 'asc' (oldest first) nor 'desc'"
            raise InvalidArgumentError(msg)
        if self.limit is not None and not (
            type(self.limit) is int and 1 <= self.limit <= _LARGEST_PAGE
        ):
            msg = f"page_size: {self.limit!r} is out of bounds; pass 1 to {_LARGEST_PAGE:,}"
            raise InvalidArgumentError(msg)


@attrs.frozen
class RawPage:
    """One page of a listing whose files are not structured yet.

    Attributes:
        data: The files as JSON, decoded a piece at a time.
        first_id: As the server sent it; `None` for an empty string.
        last_id: As the server sent it; `None` for an empty string.
        has_more: As the server sent it; `None` where it does not say.
    """

    data: Pieces
    first_id: str | None
    last_id: str | None
    has_more: bool | None


def list_request(query: ListQuery) -> Request:
    """Ask for one page of files."""
    parameters = {
        # As plain text: a member of an enum would go as its own name.
        "purpose": None if query.purpose is None else _checked_purpose(query.purpose),
        "limit": query.limit,
        "order": query.order,
        "after": query.after,
    }
    pairs = tuple((name, str(value)) for name, value in parameters.items() if value is not None)
    return Request("GET", "files", "listing files", query=pairs)


def retrieve_request(identifier: str) -> Request:
    """Ask for what the server knows of a file."""
    return Request("GET", _path(identifier), f"retrieving {identifier}")


def delete_request(identifier: str) -> Request:
    """Ask for a file to be deleted."""
    return Request("DELETE", _path(identifier), f"deleting {identifier}")


def content_request(identifier: str, *, offset: int = 0, etag: str | None = None) -> Request:
    """Ask for a file's content from `offset` on, if it is still that of the strong `etag`."""
    headers = {"Accept": "*/*"}
    if offset:
        headers["Range"] = f"bytes={offset}-"
        if etag is not None:
            headers["If-Range"] = etag
    return Request(
        "GET",
        f"{_path(identifier)}/content",
        f"downloading {identifier}",
        headers=headers,
        is_content=True,
    )


def _path(identifier: str) -> str:
    # What an id may hold that is not ASCII must be encoded in a URL.
    return _FILES + quote(identifier, safe=":@!$&'()*+,;=")


def upload_fields(purpose: str, expires_after: ExpiresAfter | None) -> dict[str, str]:
    """Return the form's fields before the file.

    Raises:
        InvalidArgumentError: The purpose is empty or no string.
    """
    fields = {"purpose": _checked_purpose(purpose)}
    if expires_after is not None:
        fields["expires_after[anchor]"] = expires_after.anchor
        fields["expires_after[seconds]"] = str(expires_after.seconds)
    return fields


def upload_request(filename: str, content_type: str, idempotency_key: str | None = None) -> Request:
    """Ask for a file to be stored; `content_type` is the whole form's.

    The request has an `Idempotency-Key`, the same for all its attempts, for servers that heed one
    (https://datatracker.ietf.org/doc/draft-ietf-httpapi-idempotency-key-header/).
    """
    key = os.urandom(16).hex() if idempotency_key is None else idempotency_key
    headers = {"Content-Type": content_type, "Idempotency-Key": key}
    return Request("POST", "files", f"uploading {filename[:80]!r}", headers=headers)


def read_file(request: Request, reply: Reply) -> FileObject:
    """Read the description of a file."""
    return _structured(request, reply, _json(request, reply, decode), FileObject)


def read_deleted(request: Request, reply: Reply) -> DeletedFile:
    """Read the confirmation of a deletion; some servers say no more than that it was a success."""
    identifier = _deleted_id(request)
    if HTTPStatus.OK <= reply.status < HTTPStatus.MULTIPLE_CHOICES and not reply.body.strip():
        return DeletedFile(identifier)
    payload = _json(request, reply, decode)
    if isinstance(payload, dict) and isinstance(payload.get("deleted"), bool):
        payload = {**payload, "id": _identifier(payload.get("id")) or identifier}
    return _structured(request, reply, payload, DeletedFile)


class DeletionReplies:
    """Reads the replies to all attempts at one deletion.

    A success that cannot be read is tried again; that the file is gone by then confirms it.
    """

    def __init__(self) -> None:
        self._has_succeeded = False

    def read(self, request: Request, reply: Reply) -> DeletedFile:
        """Read the reply to another attempt."""
        if reply.status == HTTPStatus.NOT_FOUND and self._has_succeeded:
            return DeletedFile(_deleted_id(request))
        self._has_succeeded |= HTTPStatus.OK <= reply.status < HTTPStatus.MULTIPLE_CHOICES
        return read_deleted(request, reply)


def _deleted_id(request: Request) -> str:
    return unquote(request.path.removeprefix(_FILES))


def read_page(request: Request, reply: Reply) -> RawPage:
    """Read a page of a listing; its files are left to be decoded and structured bit by bit."""
    page, data = _json(request, reply, decode_page)
    if not isinstance(page, dict) or data is None:
        raise _not_promised(request, reply, 'JSON without the list "data"')
    has_more = page.get("has_more")
    return RawPage(
        data=data,
        first_id=_identifier(page.get("first_id")),
        last_id=_identifier(page.get("last_id")),
        has_more=has_more if isinstance(has_more, bool) else None,
    )


def status_error(request: Request, reply: Reply) -> APIStatusError | APIResponseError:
    """Make the error for a reply that is not a success."""
    if reply.status < HTTPStatus.BAD_REQUEST:
        return _not_promised(request, reply, "no success and no error")
    told = _read_error_body(reply)
    phrase = told.message or _phrase(reply.status)
    request_id = reply.headers.get("x-request-id")
    request_id = None if request_id is None else reply.scrub(request_id)[:200]
    kind = _error_class(reply.status, told)
    summary = f"{request.what}: {reply.status} {phrase}"
    if request_id:
        summary += f" (request {request_id})"
    if kind in _REMEDIES:
        summary += f"; {_REMEDIES[kind]}"
    return kind(
        summary,
        status_code=reply.status,
        message=phrase,
        code=told.code,
        type=told.type,
        param=told.param,
        request_id=request_id,
        retry_after=_retry_after(reply),
        body=reply.text[:_LONGEST_BODY],
        retryable=_is_retryable(kind, reply),
    )


def server_time(reply: Reply) -> float | None:
    """Return the server's own clock, in Unix time, if the reply tells it."""
    return _http_date(reply.headers.get("Date", ""))


def redirect_url(request: Request, reply: Reply, *, sent_to: str) -> str:
    """Return where a redirect leads, if it may be followed.

    A reply to POST or DELETE is followed only as 307 or 308, which keep the method. Only content
    may come from another origin, and nothing may go from https to http (RFC 9110, section 15.4).

    Raises:
        APIResponseError: It may not be followed. The query of the target may be a secret (a signed
            URL), so it is not shown.
    """
    target = _resolve(sent_to, reply.headers.get("Location", ""))
    if target is None:
        raise _redirect_error(request, reply, "to no web address that can be read")
    here, there = urlsplit(sent_to), urlsplit(target)
    if request.method != "GET" and reply.status not in {307, 308}:
        raise _redirect_error(request, reply, f"that would turn a {request.method} into a GET")
    if here.scheme == "https" and there.scheme == "http":
        raise _redirect_error(request, reply, f"from https to http, to {there.hostname}")
    if origin(sent_to) != origin(target) and not request.is_content:
        where = f"to another origin, {there.scheme}://{there.hostname}"
        raise _redirect_error(request, reply, where)
    return target


def _resolve(sent_to: str, location: str) -> str | None:
    """Return the absolute URL that a `Location` names, if it is one that can be asked."""
    try:
        there = urlsplit(urljoin(sent_to, location))
        # Reading the port checks it. A user name would clash with our own Authorization.
        names_a_server = there.hostname and there.port != 0 and "@" not in there.netloc
        if not location or there.scheme not in {"http", "https"} or not names_a_server:
            return None
        # Servers also send spaces and letters outside ASCII: as the bytes that they are.
        return quote(there.geturl(), safe="%/:=&?~#+!$,;'@()*[]", errors="surrogateescape")
    except ValueError:
        return None


def origin(url: str) -> tuple[str, str | None, int | None]:
    """Return a URL's scheme, host and port (RFC 6454).

    Raises:
        ValueError: The URL's port is no number.
    """
    parts = urlsplit(url)
    return parts.scheme, parts.hostname, parts.port or {"http": 80, "https": 443}.get(parts.scheme)


def _redirect_error(request: Request, reply: Reply, where: str) -> APIResponseError:
    msg = (
        f"{request.what}: refused a redirect ({reply.status}) {reply.scrub(where)[:200]};"
        " check base_url: its scheme, host and path must be the API's own"
    )
    return APIResponseError(msg, retryable=False)


def _checked_purpose(purpose: str) -> str:
    """Return a purpose as plain text: of a member of an enum, its value.

    Raises:
        InvalidArgumentError: It is empty or no string.
    """
    if not isinstance(purpose, str) or not purpose or not purpose.isprintable():
        msg = f"purpose: {purpose!r} is no purpose; pass one such as 'batch' or 'user_data'"
        raise InvalidArgumentError(msg)
    return str.__str__(purpose)  # not what its class makes of it


def _structured(request: Request, reply: Reply, payload: object, model: type[_Model]) -> _Model:
    try:
        return structure(payload, model)
    except APIResponseError as error:
        raise _not_promised(request, reply, str(error)) from error


def _json(request: Request, reply: Reply, read: Callable[[bytes], _Decoded]) -> _Decoded:
    if not HTTPStatus.OK <= reply.status < HTTPStatus.MULTIPLE_CHOICES:
        raise status_error(request, reply)
    with suppress(ValueError):
        return read(reply.body)
    raise _not_promised(request, reply, "a body that is not JSON")


def _not_promised(request: Request, reply: Reply, what_came: str) -> APIResponseError:
    kind = reply.headers.get("Content-Type", "no content type")
    msg = (
        f"{request.what}: the reply ({reply.status}, {reply.scrub(kind)[:80]}) is not what the API"
        f" promises: {what_came}; it begins {reply.text[:200]!r}."
        " Check base_url, and any proxy in between"
    )
    return APIResponseError(msg)


def _identifier(value: object) -> str | None:
    return value if isinstance(value, str) and value else None


@attrs.frozen
class _ErrorBody:
    message: str | None = None
    type: str | None = None
    param: str | None = None
    code: str | None = None


def _read_error_body(reply: Reply) -> _ErrorBody:
    """Read the documented form, and what compatible servers send instead of it."""
    with suppress(ValueError, RecursionError):
        payload = json.loads(reply.text)
        error = payload.get("error") if isinstance(payload, dict) else payload
        if not isinstance(error, dict | str) or not error:
            error = payload
        if not isinstance(error, dict):
            return _ErrorBody(message=_told(reply, error))
        return _ErrorBody(
            message=_told(reply, error.get("message") or error.get("detail")),
            type=_told(reply, error.get("type")),
            param=_told(reply, error.get("param")),
            code=_told(reply, error.get("code")),
        )
    return _ErrorBody(message=_plain_text(reply.text))


def _plain_text(text: str) -> str | None:
    """Return a short plain text as the message, but no page of HTML."""
    stripped = text.strip()
    return None if not stripped or stripped.startswith("<") else stripped[:_LONGEST_MESSAGE]


def _told(reply: Reply, value: object) -> str | None:
    if value is None or value in ("", [], {}):
        return None
    text = value if isinstance(value, str) else json.dumps(value)
    # Scrubbed a second time: escapes of JSON may have hidden the key.
    return reply.scrub(text)[:_LONGEST_MESSAGE]


def _phrase(status: int) -> str:
    try:
        return HTTPStatus(status).phrase
    except ValueError:
        return "an unknown status"


_CLASSES: Mapping[int, type[APIStatusError]] = {
    400: BadRequestError,
    401: AuthenticationError,
    403: PermissionDeniedError,
    404: NotFoundError,
    409: ConflictError,
    413: RequestTooLargeError,
    422: UnprocessableEntityError,
    429: RateLimitError,
}

_REMEDIES: Mapping[type[APIStatusError], str] = {
    AuthenticationError: "check the key (OPENAI_API_KEY or api_key=) and that it is for base_url",
    PermissionDeniedError: "use a key of a project that may do this",
    NotFoundError: "check the id, and that the key's project owns the file",
    RequestTooLargeError: "send a smaller file, or split it",
    RateLimitError: "send fewer requests at a time, or retry more patiently (RetryPolicy)",
    QuotaExceededError: "waiting does not help: check the account's plan and billing",
    InternalServerError: "the server failed: try again later",
}


def _error_class(status: int, told: _ErrorBody) -> type[APIStatusError]:
    if status >= HTTPStatus.INTERNAL_SERVER_ERROR:
        return InternalServerError
    if status == HTTPStatus.TOO_MANY_REQUESTS and "insufficient_quota" in {told.code, told.type}:
        return QuotaExceededError
    return _CLASSES.get(status, APIStatusError)


def _is_retryable(kind: type[APIStatusError], reply: Reply) -> bool:
    if kind is QuotaExceededError:
        return False
    told = reply.headers.get("x-should-retry")
    if told in {"true", "false"}:
        return told == "true"
    return is_retryable_status(reply.status)


def is_retryable_status(status: int) -> bool:
    """Return whether an error of this HTTP status may be gone another time."""
    return status >= HTTPStatus.INTERNAL_SERVER_ERROR or status in {408, 409, 429}


def _retry_after(reply: Reply) -> float | None:
    """Read the wait that the server asks for, in seconds (RFC 9110, section 10.2.3)."""
    milliseconds = _number(reply.headers.get("retry-after-ms"))
    if milliseconds is not None:
        return milliseconds / 1_000
    value = reply.headers.get("Retry-After")
    seconds = _number(value)
    if seconds is not None or value is None:
        return seconds
    then = _http_date(value)
    if then is None:
        return None
    # The server's own clock, where it tells it: ours may be wrong.
    now = server_time(reply)
    return max(then - (reply.received_at if now is None else now), 0.0)


def _number(value: str | None) -> float | None:
    try:
        number = float(value or "")
    except ValueError:
        return None
    return number if 0 <= number < float("inf") else None


def _http_date(value: str) -> float | None:
    try:
        moment = parsedate_to_datetime(value)
        # A date without a zone is read as what HTTP prescribes.
        return (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp()
    except (ValueError, OverflowError):
        return None
