"""Serve the Files API over HTTP: the routes, and the emulator around them.

The event loop only parses and passes on. Every touch of the disk happens in the emulator's own
threads, in as few visits as can be: one for a small upload, one for a small download, one for a
page of a listing. Whoever waits for a thread is not let go before its work has ended, even when
cancelled: a descriptor that is closed too early may by then be another file's.
"""

import asyncio
import hmac
import json
import logging
import re
import secrets
import shutil
import tempfile
import threading
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import AsyncExitStack, asynccontextmanager
from os import PathLike
from pathlib import Path
from types import TracebackType
from typing import Final, ParamSpec, Self, TypeVar
from urllib.parse import quote

import attrs
from aiohttp import web

from aiofiles_api.emulator.form import (
    FormError,
    FormEvent,
    FormParser,
    PartBegin,
    PartData,
    PartEnd,
    boundary_of,
)
from aiofiles_api.emulator.store import (
    BlobReader,
    BlobWriter,
    NewFile,
    Order,
    Store,
    UnknownCursorError,
)

__all__ = ["Emulator"]

P = ParamSpec("P")
T = TypeVar("T")
Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]

_log = logging.getLogger(__name__)

_BATCH_BYTES: Final = 1024 * 1024  # what is read or written in one visit to a thread
_THREADS: Final = 4
_FORM_OVERHEAD_BYTES: Final = 1024 * 1024  # what a form may weigh beside its file
_MAX_VALUE_BYTES: Final = 64 * 1024
_MAX_PAGE: Final = 10_000
_GRACE_SECONDS: Final = 0.2  # for requests that are under way when the emulator closes
_EXPIRE_EVERY_SECONDS: Final = 60.0

_PURPOSES: Final = ("assistants", "batch", "fine-tune", "vision", "user_data", "evals")
_FIELDS: Final = ("file", "purpose", "expires_after[anchor]", "expires_after[seconds]")
_EXPIRES_AFTER_SECONDS: Final = range(3600, 2592000 + 1)

_RANGE: Final = re.compile("bytes=([0-9]{0,19})-([0-9]{0,19})")
_INTEGER: Final = re.compile("[0-9]{1,10}")


class ApiError(Exception):
    """A refusal, as the API words it."""

    def __init__(
        self,
        status: int,
        message: str,
        *,
        param: str | None = None,
        code: str | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(message)
        self.status = status
        self.param = param
        self.code = code
        self.headers = headers

    def response(self) -> web.Response:
        """Render the documented error body, all four keys of it."""
        error = {
            "message": str(self),
            "type": "invalid_request_error" if self.status < 500 else "server_error",
            "param": self.param,
            "code": self.code,
        }
        return web.json_response({"error": error}, status=self.status, headers=self.headers)


class Threads:
    """The emulator's own threads."""

    def __init__(self) -> None:
        self._started: list[threading.Thread] = []
        self._executor = ThreadPoolExecutor(
            _THREADS, "emulator", lambda: self._started.append(threading.current_thread())
        )

    async def run(self, function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Call the function in a thread; when cancelled, go only after it has ended."""
        call = self._executor.submit(function, *args, **kwargs)
        future = asyncio.wrap_future(call)
        cancelled: asyncio.CancelledError | None = None
        while not future.done():
            try:
                await asyncio.wait([future])
            except asyncio.CancelledError as error:
                cancelled = error
        if cancelled is not None:
            future.exception()
            raise cancelled
        return future.result()

    async def aclose(self) -> None:
        """End the threads."""
        self._executor.shutdown(wait=False)
        # Joining would block the loop; idle threads end within a few of its turns.
        while any(thread.is_alive() for thread in self._started):
            await asyncio.sleep(0)


@attrs.frozen
class Settings:
    """What an emulator was asked to be."""

    api_key: str | None
    max_file_bytes: int
    ranges: bool


class Upload:
    """One form on its way in: its values in memory, its file to disk."""

    def __init__(self, blob: BlobWriter, max_file_bytes: int) -> None:
        self.blob = blob
        self.pending: list[bytes | memoryview] = []
        self.pending_bytes = 0
        self._max_file_bytes = max_file_bytes
        self._file_bytes = 0
        self._filename: str | None = None
        self._values: dict[str, bytearray] = {}
        self._field = ""

    def take(self, event: FormEvent) -> None:
        """Take in one event."""
        match event:
            case PartBegin():
                self._begin(event)
            case PartData(data) if self._field == "file":
                self._extend_file(data)
            case PartData(data):
                self._extend_value(data)
            case PartEnd():
                pass

    def take_pending(self) -> list[bytes | memoryview]:
        """Hand over the file's bytes that were received and not yet written."""
        pending, self.pending, self.pending_bytes = self.pending, [], 0
        return pending

    def new_file(self) -> NewFile:
        """Judge the whole form."""
        if self._filename is None:
            raise _bad_request("'file' is a required property", "file")
        return NewFile(self._filename, self._purpose(), self._expires_after())

    def _begin(self, part: PartBegin) -> None:
        if part.name not in _FIELDS:
            raise _bad_request(f"Unrecognized field: {part.name!r}", part.name)
        if part.name in self._values or (part.name == "file" and self._filename is not None):
            raise _bad_request(f"Duplicate field: {part.name!r}", part.name)
        self._field = part.name
        if part.name != "file":
            self._values[part.name] = bytearray()
        elif part.filename is None:
            raise _bad_request("'file' must be a file, with a filename", "file")
        else:
            self._filename = part.filename

    def _extend_file(self, data: memoryview) -> None:
        self._file_bytes += len(data)
        if self._file_bytes > self._max_file_bytes:
            raise _too_large(self._max_file_bytes)
        self.pending.append(data)
        self.pending_bytes += len(data)

    def _extend_value(self, data: memoryview) -> None:
        value = self._values[self._field]
        value += data
        if len(value) > _MAX_VALUE_BYTES:
            raise _bad_request(f"The value of {self._field!r} is too long", self._field)

    def _value(self, field: str) -> str | None:
        value = self._values.get(field)
        return None if value is None else value.decode("utf-8", "replace")

    def _purpose(self) -> str:
        purpose = self._value("purpose")
        if purpose is None:
            raise _bad_request("'purpose' is a required property", "purpose")
        if purpose not in _PURPOSES:
            raise _bad_request(f"{purpose!r} is not one of {list(_PURPOSES)}", "purpose")
        return purpose

    def _expires_after(self) -> int | None:
        anchor, seconds = self._value("expires_after[anchor]"), self._value("expires_after[seconds]")
        if anchor is None and seconds is None:
            return None
        if anchor != "created_at":
            raise _bad_request(
                "'expires_after[anchor]' must be 'created_at'", "expires_after[anchor]"
            )
        number = _integer(seconds or "")
        if number not in _EXPIRES_AFTER_SECONDS:
            raise _bad_request(
                "'expires_after[seconds]' must be an integer from 3600 to 2592000",
                "expires_after[seconds]",
            )
        return number


class FilesApi:
    """The five operations."""

    def __init__(self, store: Store, threads: Threads, settings: Settings) -> None:
        self._store = store
        self._threads = threads
        self._settings = settings

    def routes(self) -> list[web.RouteDef]:
        """Name the operations' methods and paths."""
        return [
            web.get("/v1/files", self.list_files, allow_head=False),
            web.post("/v1/files", self.create_file, expect_handler=_expect),
            web.get("/v1/files/{file_id}", self.retrieve_file, allow_head=False),
            web.delete("/v1/files/{file_id}", self.delete_file),
            web.get("/v1/files/{file_id}/content", self.download_file, allow_head=False),
        ]

    async def list_files(self, request: web.Request) -> web.StreamResponse:
        """GET /files."""
        query = request.query
        limit = _integer(query.get("limit", str(_MAX_PAGE)))
        if limit is None or not 1 <= limit <= _MAX_PAGE:
            raise _bad_request(f"'limit' must be an integer from 1 to {_MAX_PAGE}", "limit")
        after = query.get("after")
        try:
            page = await self._threads.run(
                self._store.page,
                purpose=query.get("purpose"),
                order=_order(query.get("order", "desc")),
                after=after,
                limit=limit,
            )
        except UnknownCursorError as error:
            raise _bad_request(f"No such File object: {after}", "after") from error
        return _json_response(page)

    async def create_file(self, request: web.Request) -> web.StreamResponse:
        """POST /files."""
        parser = FormParser(_boundary(request))
        limit = self._settings.max_file_bytes
        if (request.content_length or 0) > limit + _FORM_OVERHEAD_BYTES:
            raise _too_large(limit)
        if "Expect" in request.headers:
            await request.writer.write(b"HTTP/1.1 100 Continue\r\n\r\n")
            request.writer.output_size = 0
        upload = Upload(self._store.blob(), limit)
        try:
            await self._receive(request, parser, upload)
            described = await self._threads.run(
                self._store.add, upload.new_file(), upload.blob, upload.take_pending()
            )
        finally:
            if upload.blob.is_loose:
                await self._threads.run(upload.blob.discard)
        return _json_response(described.encode())

    async def _receive(self, request: web.Request, parser: FormParser, upload: Upload) -> None:
        received = 0
        try:
            async for chunk, _ in request.content.iter_chunks():
                received += len(chunk)
                for event in parser.feed(chunk):
                    upload.take(event)
                if upload.pending_bytes >= _BATCH_BYTES:
                    await self._threads.run(upload.blob.write, upload.take_pending())
            parser.close()
        except FormError as error:
            raise _bad_request(str(error)) from error
        except (ConnectionError, web.RequestPayloadError) as error:
            raise _bad_request("The body was cut.") from error

    async def retrieve_file(self, request: web.Request) -> web.StreamResponse:
        """GET /files/{file_id}."""
        file_id = request.match_info["file_id"]
        described = await self._threads.run(self._store.find, file_id)
        if described is None:
            raise _no_such_file(file_id)
        return _json_response(described.encode())

    async def delete_file(self, request: web.Request) -> web.StreamResponse:
        """DELETE /files/{file_id}."""
        file_id = request.match_info["file_id"]
        if not await self._threads.run(self._store.delete, file_id):
            raise _no_such_file(file_id)
        return web.json_response({"id": file_id, "object": "file", "deleted": True})

    async def download_file(self, request: web.Request) -> web.StreamResponse:
        """GET /files/{file_id}/content."""
        reader = BlobReader(self._store, request.match_info["file_id"])
        try:
            if not await self._threads.run(reader.open):
                raise _no_such_file(reader.file_id)
            return await self._send(request, reader)
        finally:
            if reader.is_open:
                await self._threads.run(reader.close)

    async def _send(self, request: web.Request, reader: BlobReader) -> web.StreamResponse:
        headers = {
            "Content-Type": "application/octet-stream",
            "Content-Disposition": _attachment(reader.filename),
        }
        span = range(reader.bytes)
        status = 200
        response = web.StreamResponse(status=status, headers=headers)
        response.content_length = len(span)
        await response.prepare(request)
        for start in range(span.start, span.stop, _BATCH_BYTES):
            length = min(_BATCH_BYTES, span.stop - start)
            await response.write(await self._threads.run(reader.read, start, length))
        return response


async def _expect(_: web.Request) -> None:
    """Leave "100 Continue" to the handler, which sends it only if it wants the body."""


def _boundary(request: web.Request) -> str:
    try:
        return boundary_of(request.headers.get("Content-Type", ""))
    except FormError as error:
        raise _bad_request(str(error)) from error


def _integer(text: str) -> int | None:
    return int(text) if _INTEGER.fullmatch(text) else None


def _order(text: str) -> Order:
    match text:
        case "asc" | "desc":
            return text
        case _:
            raise _bad_request("'order' must be 'asc' or 'desc'", "order")


def _attachment(filename: str) -> str:
    fallback = re.sub(r'[^ !#$&-\[\]-~]', "_", filename)
    return f"attachment; filename=\"{fallback}\"; filename*=UTF-8''{quote(filename, safe='')}"


def _json_response(body: bytes) -> web.Response:
    return web.Response(body=body, content_type="application/json")


def _bad_request(message: str, param: str | None = None) -> ApiError:
    return ApiError(400, message, param=param)


def _no_such_file(file_id: str) -> ApiError:
    return ApiError(404, f"No such File object: {file_id}", param="id")


def _too_large(limit: int) -> ApiError:
    return ApiError(413, f"The file is larger than the limit of {limit} bytes", param="file")


@web.middleware
async def answer_errors(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Answer every error with the documented body."""
    try:
        return await handler(request)
    except ApiError as error:
        return error.response()
    except web.HTTPMethodNotAllowed as error:
        return ApiError(
            405,
            f"Not allowed to {request.method} on {request.path}",
            code="method_not_supported",
            headers={"Allow": ", ".join(sorted(error.allowed_methods))},
        ).response()
    except web.HTTPNotFound:
        return ApiError(404, f"Invalid URL ({request.method} {request.path})").response()
    except ConnectionError:
        raise
    except Exception:
        _log.exception("%s %s failed", request.method, request.path)
        return ApiError(500, "The emulator failed; its log says how").response()


def authentication(api_key: str | None) -> Callable[[web.Request, Handler], Awaitable[web.StreamResponse]]:
    """Make the middleware that asks for the key."""

    @web.middleware
    async def authenticate(request: web.Request, handler: Handler) -> web.StreamResponse:
        if request.match_info.http_exception is None:
            _check_key(request, api_key)
        return await handler(request)

    return authenticate


def _check_key(request: web.Request, api_key: str | None) -> None:
    scheme, _, given = request.headers.get("Authorization", "").partition(" ")
    if scheme.lower() != "bearer":
        given = request.headers.get("api-key", "")
    if not given.strip():
        raise ApiError(
            401,
            "You did not provide an API key. Send one as 'Authorization: Bearer KEY'.",
            headers={"WWW-Authenticate": "Bearer"},
        )
    if api_key is not None and not hmac.compare_digest(given.strip().encode(), api_key.encode()):
        raise ApiError(
            401,
            "Incorrect API key provided.",
            code="invalid_api_key",
            headers={"WWW-Authenticate": "Bearer"},
        )


async def _identify(_: web.Request, response: web.StreamResponse) -> None:
    response.headers["x-request-id"] = f"req_{secrets.token_hex(16)}"


class Emulator:
    """Serve the Files API from a data directory while the context is open."""

    def __init__(
        self,
        data_dir: str | PathLike[str] | None = None,
        *,
        api_key: str | None = None,
        host: str = "127.0.0.1",
        port: int = 0,
        max_file_bytes: int = 512 * 1024 * 1024,
        ranges: bool = True,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._data_dir = None if data_dir is None else Path(data_dir)
        self._settings = Settings(api_key, max_file_bytes, ranges)
        self._host = host
        self._port = port
        self._clock = clock
        self._base_url: str | None = None
        self._stack = AsyncExitStack()

    @property
    def base_url(self) -> str:
        """Where it listens, as clients want it, `/v1` included."""
        if self._base_url is None:
            raise RuntimeError("The emulator is not running: use 'async with'")
        return self._base_url

    async def __aenter__(self) -> Self:
        async with AsyncExitStack() as stack:
            threads = Threads()
            stack.push_async_callback(threads.aclose)
            data_dir = self._data_dir
            if data_dir is None:
                data_dir = Path(await threads.run(tempfile.mkdtemp, prefix="emulator-"))
                stack.push_async_callback(threads.run, shutil.rmtree, data_dir)
            store = await threads.run(Store, data_dir, self._clock)
            stack.push_async_callback(threads.run, store.close)
            self._base_url = await stack.enter_async_context(self._serve(FilesApi(store, threads, self._settings)))
            self._stack = stack.pop_all()
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._base_url = None
        await self._stack.aclose()

    @asynccontextmanager
    async def _serve(self, api: FilesApi) -> AsyncIterator[str]:
        app = web.Application(middlewares=[answer_errors, authentication(self._settings.api_key)])
        app.add_routes(api.routes())
        app.on_response_prepare.append(_identify)
        runner = web.AppRunner(app, access_log=None, shutdown_timeout=_GRACE_SECONDS, read_bufsize=_BATCH_BYTES)
        await runner.setup()
        try:
            site = web.TCPSite(runner, self._host, self._port)
            await site.start()
            host = f"[{self._host}]" if ":" in self._host else self._host
            yield f"http://{host}:{site.port}/v1"
        finally:
            await runner.cleanup()
