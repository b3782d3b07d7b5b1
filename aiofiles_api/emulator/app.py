"""Answer the Files API's requests: routes, refusals, the key.

The event loop only parses and passes on. Every touch of the disk happens in the emulator's own
threads, in as few visits as can be: one for a small download or a page of a listing, and one for
all the small uploads that arrive at the same time.
"""

import hmac
import logging
import re
import secrets
from collections.abc import AsyncIterator, Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Final, TypeAlias
from urllib.parse import quote

from aiohttp import HttpVersion11, web
from aiohttp.typedefs import Handler, Middleware

from aiofiles_api.emulator.form import (
    FormError,
    FormEvent,
    FormParser,
    PartBegin,
    PartData,
    boundary_of,
)
from aiofiles_api.emulator.store import (
    Arrival,
    BlobReader,
    BlobWriter,
    Claim,
    NewFile,
    Order,
    Store,
    UnknownCursorError,
)
from aiofiles_api.emulator.threads import Gatherer, Threads

__all__ = ["WIRE", "ApiError", "FilesApi", "Incoming", "Wire", "application", "ask_for_body"]

_log = logging.getLogger(__name__)

BATCH_BYTES: Final = 1024 * 1024  # what one visit to a thread reads or writes
_SMALL_BYTES: Final = 64 * 1024  # what SQLite keeps faster than the file system does
_FORM_BYTES: Final = 1024 * 1024  # what a form may weigh beside the file in it
_MAX_VALUE_BYTES: Final = 64 * 1024
_SHOWN_CHARS: Final = 100  # of what was refused
_MAX_PAGE: Final = 10_000
_MAX_NAME_CHARS: Final = 255  # of a Content-Disposition, which clients bound to some kilobytes

_PURPOSES: Final = ("assistants", "batch", "fine-tune", "vision", "user_data", "evals")
_ANCHOR: Final = "expires_after[anchor]"
_SECONDS: Final = "expires_after[seconds]"
_FIELDS: Final = ("file", "purpose", _ANCHOR, _SECONDS)
_EXPIRES_AFTER: Final = range(3600, 2_592_000 + 1)

_INTEGER: Final = re.compile("[0-9]{1,18}")
_RANGE: Final = re.compile("bytes=([0-9]{0,18})-([0-9]{0,18})", re.IGNORECASE)


class ApiError(Exception):
    """A refusal, as the API words it."""

    def __init__(
        self,
        status: int,
        message: str,
        *,
        kind: str | None = None,
        param: str | None = None,
        code: str | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(message)
        self.status = status
        self.kind = kind or ("server_error" if status >= 500 else "invalid_request_error")  # noqa: PLR2004
        self.param = param
        self.code = code
        self.headers = headers

    def response(self) -> web.Response:
        """Render the documented body, all four keys of it."""
        error = {
            "message": str(self),
            "type": self.kind,
            "param": self.param,
            "code": self.code,
        }
        return web.json_response({"error": error}, status=self.status, headers=self.headers)


Incoming: TypeAlias = AsyncIterator[tuple[bytes, bool]]
"""The chunks of a body, as aiohttp's `iter_chunks` gives them."""


class Wire:
    """How bodies come in and go out."""

    def __init__(self, request: web.Request) -> None:
        self._request = request

    def incoming(self) -> Incoming:
        """Read the request's body."""
        return self._request.content.iter_chunks()

    def outgoing(self) -> web.StreamResponse:
        """Make a response whose body can be written bit by bit."""
        return web.StreamResponse()


WIRE: Final = web.RequestKey("WIRE", Wire)
"""Where a middleware may give a request a wire of its own making."""


class Form:
    """The form of one upload: values are kept, the file's bytes wait to be taken away."""

    def __init__(self, max_file_bytes: int) -> None:
        self.waiting: list[memoryview] = []
        self.waiting_bytes = 0
        self._max_file_bytes = max_file_bytes
        self._file_bytes = 0
        self._filename: str | None = None
        self._values: dict[str, bytearray] = {}
        self._field = ""

    def take(self, event: FormEvent) -> None:
        """Take in what the parser found, or refuse it."""
        match event:
            case PartBegin():
                self._begin(event)
            case PartData(data) if self._field == "file":
                self._extend_file(data)
            case PartData(data):
                self._extend_value(data)

    def hand_over(self) -> list[memoryview]:
        """Give the file's bytes that came since the last call."""
        waiting, self.waiting, self.waiting_bytes = self.waiting, [], 0
        return waiting

    def new_file(self) -> NewFile:
        """Judge the form as a whole."""
        if self._filename is None:
            raise _invalid("'file' is a required property.", "file")
        return NewFile(self._filename, self._purpose(), self._expires_after())

    def _begin(self, part: PartBegin) -> None:
        if part.name not in _FIELDS:
            name = part.name[:_SHOWN_CHARS]
            raise _invalid(f"Additional properties are not allowed: {name!r}.", name)
        if part.name in self._values:
            raise _invalid(f"{part.name!r} was given twice.", part.name)
        if part.name == "file":
            if part.filename is None:
                raise _invalid("'file' needs a filename.", "file")
            self._filename = part.filename
        self._values[part.name] = bytearray()
        self._field = part.name

    def _extend_file(self, data: memoryview) -> None:
        self._file_bytes += len(data)
        if self._file_bytes > self._max_file_bytes:
            raise _too_large(self._max_file_bytes)
        self.waiting.append(data)
        self.waiting_bytes += len(data)

    def _extend_value(self, data: memoryview) -> None:
        value = self._values[self._field]
        value += data
        if len(value) > _MAX_VALUE_BYTES:
            raise _invalid(f"{self._field!r} is too long.", self._field)

    def _value(self, field: str) -> str | None:
        value = self._values.get(field)
        return None if value is None else value.decode("utf-8", "replace")

    def _purpose(self) -> str:
        purpose = self._value("purpose")
        if purpose is None:
            raise _invalid("'purpose' is a required property.", "purpose")
        if purpose not in _PURPOSES:
            raise _invalid(
                f"{purpose[:_SHOWN_CHARS]!r} is not one of {', '.join(_PURPOSES)}.", "purpose"
            )
        return purpose

    def _expires_after(self) -> int | None:
        anchor, seconds = self._value(_ANCHOR), self._value(_SECONDS)
        if anchor is None and seconds is None:
            return None
        if anchor != "created_at":
            raise _invalid(f"{_ANCHOR!r} must be 'created_at'.", _ANCHOR)
        number = _integer(seconds)
        if number not in _EXPIRES_AFTER:
            raise _invalid(f"{_SECONDS!r} must be an integer from 3600 to 2592000.", _SECONDS)
        return number


class FilesApi:
    """The five operations."""

    def __init__(
        self,
        store: Store,
        threads: Threads,
        *,
        max_file_bytes: int,
        ranges: bool,
        idempotency: bool,
    ) -> None:
        self._store = store
        self._threads = threads
        self._add: Gatherer[Arrival, str | None] = Gatherer(threads, store.add)
        self._max_file_bytes = max_file_bytes
        self._ranges = ranges
        self._idempotency = idempotency
        self._keys_under_way: set[str] = set()

    def routes(self) -> list[web.RouteDef]:
        """Give each operation its method and path."""
        return [
            web.get("/v1/files", self.list_files, allow_head=False),
            web.post("/v1/files", self.create_file, expect_handler=_leave_it_to_the_handler),
            web.get("/v1/files/{file_id}", self.retrieve_file, allow_head=False),
            web.delete("/v1/files/{file_id}", self.delete_file),
            web.get("/v1/files/{file_id}/content", self.download_file, allow_head=False),
        ]

    async def list_files(self, request: web.Request) -> web.StreamResponse:
        """List files; an `after` that names no file, nor one deleted of late, is refused (400)."""
        query = request.query
        after = query.get("after")
        try:
            page = await self._threads.run(
                self._store.page,
                purpose=query.get("purpose"),
                order=_order(query.get("order", "desc")),
                after=after,
                limit=_limit(query.get("limit", str(_MAX_PAGE))),
            )
        except UnknownCursorError as error:
            raise _invalid(f"No such File object: {after}", "after") from error
        return _json_response(page)

    async def create_file(self, request: web.Request) -> web.StreamResponse:
        """Store an upload; all of its form is judged before anything of it can be seen."""
        try:
            parser = FormParser(boundary_of(request.headers.get("Content-Type", "")))
        except FormError as error:
            raise _invalid(str(error)) from error
        if (request.content_length or 0) > self._max_file_bytes + _FORM_BYTES:
            raise _too_large(self._max_file_bytes)
        with self._claimed(request.headers.get("Idempotency-Key")) as key:
            return await self._store_file(request, parser, key)

    async def retrieve_file(self, request: web.Request) -> web.StreamResponse:
        """Describe a file."""
        file_id = request.match_info["file_id"]
        described = await self._threads.run(self._store.find, file_id)
        if described is None:
            raise _no_such_file(file_id)
        return _json_response(described.encode())

    async def delete_file(self, request: web.Request) -> web.StreamResponse:
        """Delete a file; downloads of it that are under way go on to their end."""
        file_id = request.match_info["file_id"]
        if not await self._threads.run(self._store.delete, file_id):
            raise _no_such_file(file_id)
        return web.json_response({"id": file_id, "object": "file", "deleted": True})

    async def download_file(self, request: web.Request) -> web.StreamResponse:
        """Send a file's bytes, or a range of them."""
        reader = BlobReader(self._store, request.match_info["file_id"])
        try:
            if not await self._threads.run(reader.open):
                raise _no_such_file(reader.file_id)
            return await self._send(request, reader)
        finally:
            if reader.is_open:
                await self._threads.run(reader.close)

    @contextmanager
    def _claimed(self, key: str | None) -> Iterator[str | None]:
        """Hold an Idempotency-Key while its request is under way, if it matters at all."""
        if not (key and self._idempotency):
            yield None
            return
        if not key.isascii():
            raise _invalid("The Idempotency-Key must be in ASCII.", "Idempotency-Key")
        if key in self._keys_under_way:
            raise ApiError(
                409, "A request with this Idempotency-Key is under way.", param="Idempotency-Key"
            )
        self._keys_under_way.add(key)
        try:
            yield key
        finally:
            self._keys_under_way.remove(key)

    async def _store_file(
        self, request: web.Request, parser: FormParser, key: str | None
    ) -> web.StreamResponse:
        file_id = f"file-{secrets.token_hex(16)}"
        form, blob = Form(self._max_file_bytes), self._store.blob(file_id)
        try:
            await self._receive(request, parser, form, blob)
            new = form.new_file()
            content = await self._content(form, blob)
            claim = await self._threads.run(Claim.of, key, new, content) if key else None
            described = await self._add.run(Arrival(file_id, new, content, claim))
        finally:
            if blob.is_loose:
                await self._threads.run(blob.discard)
        if described is None:
            raise ApiError(
                422, "This Idempotency-Key was used for another file.", param="Idempotency-Key"
            )
        return _json_response(described.encode())

    async def _receive(
        self, request: web.Request, parser: FormParser, form: Form, blob: BlobWriter
    ) -> None:
        """Read the form to its end, writing what is large of the file in batches meanwhile."""
        received = 0
        try:
            await ask_for_body(request)
            async for chunk, _ in _wire(request).incoming():
                received += len(chunk)
                if received > self._max_file_bytes + _FORM_BYTES:
                    raise _too_large(self._max_file_bytes)
                for event in parser.feed(chunk):
                    form.take(event)
                if form.waiting_bytes >= BATCH_BYTES:
                    await self._threads.run(blob.write, form.hand_over())
            parser.close()
        except FormError as error:
            raise _invalid(str(error)) from error
        except (ConnectionError, web.RequestPayloadError) as error:
            raise _invalid("The body was cut.") from error

    async def _content(self, form: Form, blob: BlobWriter) -> bytes | BlobWriter:
        """Bring the content into the form in which it will be kept."""
        if form.waiting_bytes <= _SMALL_BYTES and not blob.is_loose:
            return b"".join(form.hand_over())
        await self._threads.run(blob.finish, form.hand_over())
        return blob

    async def _send(self, request: web.Request, reader: BlobReader) -> web.StreamResponse:
        headers = {
            "Content-Type": "application/octet-stream",
            "Content-Disposition": _attachment(reader.filename),
        }
        status, span = 200, range(reader.bytes)
        if self._ranges:
            # An id's content never changes: the id is as strong a validator as any digest.
            etag = f'"{reader.file_id}"'
            headers |= {"Accept-Ranges": "bytes", "ETag": etag}
            asked = _asked_span(request.headers, etag, reader.bytes)
            if asked is not None:
                status, span = 206, asked
                headers["Content-Range"] = f"bytes {span[0]}-{span[-1]}/{reader.bytes}"
        if reader.content is not None:
            body = reader.content[span.start : span.stop]
            return web.Response(status=status, headers=headers, body=body)
        response = _wire(request).outgoing()
        response.set_status(status)
        response.headers.update(headers)
        response.content_length = len(span)
        await self._stream(request, response, reader, span)
        return response

    async def _stream(
        self, request: web.Request, response: web.StreamResponse, reader: BlobReader, span: range
    ) -> None:
        try:
            await response.prepare(request)
            for start in span[::BATCH_BYTES]:
                length = min(BATCH_BYTES, span.stop - start)
                await response.write(await self._threads.run(reader.read, start, length))
        except ConnectionError:
            pass  # The client has gone.
        except OSError:
            # The status is long sent: all that is left is to cut the body, for the client to see.
            _log.exception("Reading %s failed", reader.file_id)
            request.protocol.force_close()


def application(
    api: FilesApi, *, api_key: str | None, middlewares: Iterable[Middleware] = ()
) -> web.Application:
    """Build the application.

    `middlewares` see each request before all else, those to unknown URLs and without a key too, and
    may answer it themselves.
    """
    app = web.Application(middlewares=[*middlewares, _answer_errors, _authentication(api_key)])
    app.add_routes(api.routes())
    app.on_response_prepare.append(_name_request)
    return app


async def _leave_it_to_the_handler(_: web.Request) -> None:
    """Send no "100 Continue" yet: a body that will be refused is better not sent at all."""


async def ask_for_body(request: web.Request) -> None:
    """Say "100 Continue" to a client that waits for it."""
    asks = request.headers.get("Expect", "").lower() == "100-continue"
    if asks and request.version >= HttpVersion11:
        await request.writer.write(b"HTTP/1.1 100 Continue\r\n\r\n")
        request.writer.output_size = 0  # This was not yet the response.


def _wire(request: web.Request) -> Wire:
    return request.get(WIRE) or Wire(request)


def _integer(text: str | None) -> int | None:
    return int(text) if text and _INTEGER.fullmatch(text) else None


def _limit(text: str) -> int:
    limit = _integer(text)
    if limit is None or not 1 <= limit <= _MAX_PAGE:
        raise _invalid(f"'limit' must be an integer from 1 to {_MAX_PAGE}.", "limit")
    return limit


def _order(text: str) -> Order:
    match text:
        case "asc" | "desc":
            return text
        case _:
            raise _invalid("'order' must be 'asc' or 'desc'.", "order")


def _asked_span(headers: Mapping[str, str], etag: str, size: int) -> range | None:
    """Find what part is asked for, `None` being the whole (RFC 9110, section 14.2).

    Ranges that are malformed, several at once, or of another representation are not heeded.

    Raises:
        ApiError: Nothing of the content lies in the range.
    """
    asked = _RANGE.fullmatch(headers.get("Range", ""))
    if asked is None or headers.get("If-Range", etag) != etag:
        return None
    first, last = asked.groups()
    if first:
        if last and int(last) < int(first):
            return None
        span = range(int(first), min(int(last) + 1, size) if last else size)
    elif last:
        span = range(max(size - int(last), 0), size)
    else:
        return None
    if not span:
        raise ApiError(
            416,
            f"Nothing of the {size} bytes lies in the range.",
            param="Range",
            headers={"Content-Range": f"bytes */{size}"},
        )
    return span


def _attachment(filename: str) -> str:
    """Name a download, in ASCII and in full (RFC 6266); very long names are shortened."""
    name = filename[:_MAX_NAME_CHARS]
    plain = re.sub(r"[^ !#$&-\[\]-~]", "_", name)
    return f"attachment; filename=\"{plain}\"; filename*=UTF-8''{quote(name, safe='')}"


def _json_response(body: bytes) -> web.Response:
    return web.Response(body=body, content_type="application/json")


def _invalid(message: str, param: str | None = None) -> ApiError:
    return ApiError(400, message, param=param)


def _no_such_file(file_id: str) -> ApiError:
    return ApiError(404, f"No such File object: {file_id}", param="id")


def _too_large(limit: int) -> ApiError:
    return ApiError(413, f"The file is larger than {limit} bytes.", param="file")


@web.middleware
async def _answer_errors(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Answer every error with the documented body."""
    try:
        return await handler(request)
    except ApiError as error:
        response = error.response()
        if "Expect" in request.headers:
            response.force_close()  # The client need not send the body that it held back.
        return response
    except web.HTTPMethodNotAllowed as error:
        return ApiError(
            405,
            f"Not allowed to {request.method} on {request.path}.",
            code="method_not_supported",
            headers={"Allow": ", ".join(sorted(error.allowed_methods))},
        ).response()
    except web.HTTPNotFound:
        return ApiError(404, f"Invalid URL ({request.method} {request.path})").response()
    except Exception:  # noqa: BLE001 - whatever it is, the client is told in the API's words
        _log.exception("%s %s failed", request.method, request.path)
        return ApiError(500, "The emulator failed; its log says how.").response()


def _authentication(api_key: str | None) -> Middleware:
    """Make the guard before all operations; `None` admits every key, but asks for one."""

    @web.middleware
    async def authenticate(request: web.Request, handler: Handler) -> web.StreamResponse:
        if request.match_info.http_exception is None:
            _check_key(_given_key(request.headers), api_key)
        return await handler(request)

    return authenticate


def _given_key(headers: Mapping[str, str]) -> str:
    scheme, _, key = headers.get("Authorization", "").partition(" ")
    return (key if scheme.lower() == "bearer" else headers.get("api-key", "")).strip()


def _check_key(given: str, expected: str | None) -> None:
    challenge = {"WWW-Authenticate": "Bearer"}
    if not given:
        raise ApiError(
            401,
            "You didn't provide an API key. Send it in a header, 'Authorization: Bearer KEY'.",
            headers=challenge,
        )
    # aiohttp decodes headers so that any bytes come through.
    given_bytes = given.encode("utf-8", "surrogateescape")
    if expected is not None and not hmac.compare_digest(given_bytes, expected.encode()):
        raise ApiError(
            401, "Incorrect API key provided.", code="invalid_api_key", headers=challenge
        )


async def _name_request(_: web.Request, response: web.StreamResponse) -> None:
    response.headers["x-request-id"] = f"req_{secrets.token_hex(16)}"
