"""Let faults befall requests, on their real connections.

Most are done here, around the handler that does the work. Those that lie within a body need a hand
inside: the handler then gets a wire of ours, which holds back the request's body as it is read, and
gives it a response that is tampered with as it is written.
"""

import asyncio
import time
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager, suppress
from email.utils import formatdate
from typing import Final, cast

from aiohttp import web
from aiohttp.abc import AbstractStreamWriter
from aiohttp.typedefs import Handler, Middleware

from aiofiles_api.emulator.app import WIRE, ApiError, ask_for_body
from aiofiles_api.emulator.faults import (
    CutJson,
    Delay,
    Drip,
    ErrorReply,
    HtmlReply,
    IgnoreRange,
    Kind,
    LostReply,
    Place,
    RefuseConnections,
    RepeatPage,
    Reset,
    RetryAfterForm,
    Stall,
)
from aiofiles_api.emulator.record import RECEIVED
from aiofiles_api.emulator.schedule import Schedule
from aiofiles_api.emulator.sockets import close, reset, wait
from aiofiles_api.emulator.tampering import HeldBack, Tampered, TamperedWith, place

__all__ = ["Injector", "drop_body"]

_YEAR: Final = 366 * 24 * 3600
_CODES: Final = {429: "rate_limit_exceeded"}

_Refusing = Callable[[], AbstractAsyncContextManager[None]]


class Injector:
    """Let the faults of a schedule, which may be replaced, befall an application's requests."""

    def __init__(self, refusing: _Refusing) -> None:
        self.schedule = Schedule(())
        self._refusing = refusing

    def middleware(self) -> Middleware:
        """Make the middleware that does so, behind the one of the record."""

        @web.middleware
        async def inject(request: web.Request, handler: Handler) -> web.StreamResponse:
            received = request.get(RECEIVED)
            if received is None or self.schedule.is_empty:
                return await handler(request)
            received.fault = self.schedule.next(received)
            if received.fault is None:
                return await handler(request)
            return await self._befall(request, handler, received.fault)

        return inject

    async def _befall(
        self, request: web.Request, handler: Handler, kind: Kind
    ) -> web.StreamResponse:
        match kind:
            case RefuseConnections() | Reset("request") | LostReply():
                await self._hang_up(request, handler, kind)
                return _NoReply()
            case Delay(seconds):
                done = await _do(request, handler)
                await wait(request, seconds)
                return done or await handler(request)
            case ErrorReply() | HtmlReply():
                return await _refuse(request, handler, kind)
            case IgnoreRange() | RepeatPage():
                return await handler(_simplified(request, kind))
            case CutJson():
                return _cut_in_half(await handler(request))
            case _:
                return await _over_faulty_wire(request, handler, kind)

    async def _hang_up(
        self, request: web.Request, handler: Handler, kind: RefuseConnections | Reset | LostReply
    ) -> None:
        match kind:
            case RefuseConnections(seconds):
                async with self._refusing():
                    reset(request)
                    await asyncio.sleep(min(seconds, _YEAR))
            case Reset(_, at):
                await drop_body(request, at)
                reset(request)
            case _:
                await _do(request, handler)
                end = close if kind.orderly else reset
                end(request)


async def _over_faulty_wire(
    request: web.Request, handler: Handler, kind: Kind
) -> web.StreamResponse:
    if isinstance(kind, Stall | Drip) and kind.body == "request":
        request[WIRE] = HeldBack(request, kind)
        return await handler(request)
    request[WIRE] = TamperedWith(request, kind)
    response = await handler(request)
    if not isinstance(response, Tampered):
        response = Tampered.copy_of(response, kind)
    # It is sent from here, for it may take long: what has left the handler is thought to be done.
    with suppress(ConnectionError):
        await response.prepare(request)
        await response.write_eof()
    return response


class _NoReply(web.StreamResponse):
    """What a handler returns when there is nobody any more to reply to."""

    async def prepare(self, request: web.BaseRequest) -> AbstractStreamWriter | None:
        raise ConnectionResetError(f"{request.path} gets no reply")


async def _do(request: web.Request, handler: Handler) -> web.StreamResponse | None:
    """Do what is asked for, unless that is nothing else than to send content."""
    return None if request[RECEIVED].operation == "content" else await handler(request)


def _simplified(request: web.Request, kind: IgnoreRange | RepeatPage) -> web.Request:
    """Leave out of a request what is to be overlooked."""
    if isinstance(kind, IgnoreRange):
        headers = request.headers.copy()
        del headers["Range"]
        return request.clone(headers=headers)
    query = [pair for pair in request.query.items() if pair[0] != "after"]
    return request.clone(rel_url=str(request.rel_url.with_query(query)))


async def _refuse(
    request: web.Request, handler: Handler, kind: ErrorReply | HtmlReply
) -> web.Response:
    if kind.moment == "afterwards":
        await _do(request, handler)
    elif kind.moment == "instead":
        await drop_body(request, "end")
    response = _error(kind) if isinstance(kind, ErrorReply) else _page(kind.status)
    if request.can_read_body:
        response.force_close()
    return response


async def drop_body(request: web.Request, until: Place) -> None:
    """Read the request's body up to a place."""
    left = place(until, request.content_length)
    if left > 0:
        with suppress(ConnectionError, web.RequestPayloadError):
            await ask_for_body(request)
            while left > 0 and (chunk := await request.content.readany()):
                left -= len(chunk)


def _error(kind: ErrorReply) -> web.Response:
    code = kind.code or _CODES.get(kind.status)
    return ApiError(
        kind.status,
        f"This {kind.status} is a fault of the emulator's own making.",
        kind=code if code == "insufficient_quota" else None,
        code=code,
        headers=_retry_after(kind.retry_after, kind.retry_after_form),
    ).response()


def _retry_after(seconds: float | None, form: RetryAfterForm) -> dict[str, str]:
    if seconds is None:
        return {}
    match form:
        case "seconds":
            return {"Retry-After": str(int(seconds) if seconds == int(seconds) else seconds)}
        case "date":
            return {"Retry-After": formatdate(time.time() + seconds, usegmt=True)}
        case _:
            return {"retry-after-ms": str(round(seconds * 1000))}


def _page(status: int) -> web.Response:
    response = web.Response(status=status, content_type="text/html")
    title = f"{status} {response.reason}"
    response.text = f"<html><head><title>{title}</title></head><body><h1>{title}</h1></body></html>"
    return response


def _cut_in_half(response: web.StreamResponse) -> web.StreamResponse:
    whole = cast("web.Response", response)
    content = cast("bytes", whole.body)
    whole.body = content[: len(content) // 2]
    return whole
