"""Wires on which bodies do not go as they should, in either direction."""

import math
import re
from typing import Final, Self, cast

from aiohttp import HttpVersion11, web
from aiohttp.abc import AbstractStreamWriter

from aiofiles_api.emulator.app import Incoming, Wire
from aiofiles_api.emulator.faults import (
    Drip,
    Kind,
    Overlong,
    Place,
    Reset,
    Stall,
    Truncate,
    WrongContentRange,
    WrongLength,
)
from aiofiles_api.emulator.sockets import close, flush, reset, wait

__all__ = ["HeldBack", "Tampered", "TamperedWith", "place"]

_CONTENT_RANGE: Final = re.compile(r"bytes (\d+)-(\d+)/(\d+)")


class HeldBack(Wire):
    """A wire on which the request's body comes slowly."""

    def __init__(self, request: web.Request, kind: Stall | Drip) -> None:
        super().__init__(request)
        self._kind = kind

    def incoming(self) -> Incoming:
        """Read the request's body, and wait in between."""
        chunks = super().incoming()
        if isinstance(self._kind, Stall):
            return self._stalled(chunks, self._kind)
        return self._dripping(chunks, self._kind)

    async def _stalled(self, chunks: Incoming, stall: Stall) -> Incoming:
        held_at = place(stall.at, self._request.content_length)
        passed = 0
        async for chunk, is_whole in chunks:
            if passed <= held_at < passed + len(chunk):
                await wait(self._request, stall.seconds)
            passed += len(chunk)
            yield chunk, is_whole
        if passed <= held_at:
            await wait(self._request, stall.seconds)

    async def _dripping(self, chunks: Incoming, drip: Drip) -> Incoming:
        async for chunk, _ in chunks:
            for start in range(0, len(chunk), drip.size):
                yield chunk[start : start + drip.size], False
                await wait(self._request, drip.pause)


class TamperedWith(Wire):
    """A wire on which the response is tampered with."""

    def __init__(self, request: web.Request, kind: Kind) -> None:
        super().__init__(request)
        self._kind = kind

    def outgoing(self) -> web.StreamResponse:
        """Make the response."""
        return Tampered(self._kind)


class Tampered(web.StreamResponse):
    """A response that is tampered with on its way out."""

    def __init__(self, kind: Kind, content: bytes = b"") -> None:
        super().__init__()
        self._kind = kind
        self._content = content
        self._left = math.inf  # of the bytes that pass before it happens
        self._is_befallen = False
        self._is_ended = False

    @classmethod
    def copy_of(cls, response: web.StreamResponse, kind: Kind) -> Self:
        """Take over a response that has its content with it."""
        content = cast("bytes", cast("web.Response", response).body)
        copy = cls(kind, content)
        copy.set_status(response.status)
        copy.headers.update(response.headers)
        copy.content_length = len(content)
        return copy

    async def prepare(self, request: web.BaseRequest) -> AbstractStreamWriter | None:
        """Send the headers, which may be wrong."""
        if self.prepared:
            return await super().prepare(request)
        self._answered = request
        length = self.content_length or 0
        match self._kind:
            case Reset(_, at) | Stall(_, at) | Truncate(at):
                self._left = place(at, length)
        match self._kind:
            case Truncate(chunked=True) if request.version >= HttpVersion11:
                self.content_length = None
                self.enable_chunked_encoding()
            case WrongLength(by):
                self.content_length = max(length + by, 0)
            case WrongContentRange(shift) if "Content-Range" in self.headers:
                self.headers["Content-Range"] = _shifted(self.headers["Content-Range"], shift)
        writer = await super().prepare(request)
        request.writer.length = None  # or it sends no more bytes than the header says
        return writer

    async def write(self, data: bytes | bytearray | memoryview) -> None:
        """Send some of the body; where it is due, let the fault happen."""
        if self._left <= len(data):
            left = int(self._left)
            await self._pass(data[:left])
            await self._befall()
            data = data[left:]
        self._left -= len(data)
        await self._pass(data)

    async def write_eof(self, data: bytes = b"") -> None:
        """Send what is left; let the fault happen if it has not yet."""
        if self._is_ended:
            return
        self._is_ended = True
        await self.write(self._content + data)
        if not self._is_befallen:
            await self._befall()
        await super().write_eof()

    async def _pass(self, data: bytes | bytearray | memoryview) -> None:
        match self._kind:
            case Drip(_, size, pause):
                for start in range(0, len(data), size):
                    await super().write(data[start : start + size])
                    await wait(self._answered, pause)
            case _:
                await super().write(data)

    async def _befall(self) -> None:
        self._left, self._is_befallen = math.inf, True
        match self._kind:
            case Reset():
                await flush(self._answered)
                reset(self._answered)
            case Stall(seconds=seconds):
                await wait(self._answered, seconds)
            case Truncate():
                close(self._answered)
            case WrongLength(by) if by > 0:
                close(self._answered)
            case Overlong(extra):
                await super().write(b"?" * extra)


def place(at: Place, length: int | None) -> float:
    """Count the bytes that pass before."""
    match at:
        case "start":
            return 0
        case "middle":
            return (length or 0) // 2
        case "end":
            return math.inf
        case _:
            return at


def _shifted(content_range: str, shift: int) -> str:
    return _CONTENT_RANGE.sub(
        lambda it: f"bytes {int(it[1]) + shift}-{int(it[2]) + shift}/{it[3]}", content_range
    )
