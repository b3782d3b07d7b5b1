"""Sends a source as the last part of a form: every attempt over a fresh reader, exact to the byte.

    prefix | the source's bytes | suffix

The body's length is announced before its first byte is sent, so a source that shrinks or grows
meanwhile must not go unnoticed: its last chunk is held back until its end has been seen, and an
attempt that is broken off then is no file on any server.
"""

from __future__ import annotations

import mimetypes
import os
from collections.abc import AsyncGenerator
from datetime import timedelta

from aiofiles_api.errors import IntegrityError, SourceChangedError
from aiofiles_api.models import ExpiresAfter, FileObject
from aiofiles_api.multipart import Envelope, seal
from aiofiles_api.progress import Meter, ProgressSink
from aiofiles_api.protocol import read_file, upload_fields, upload_request
from aiofiles_api.session import SessionManager
from aiofiles_api.sources import Buffer, Reader, UploadSource, as_source

__all__ = ["upload"]

_SINGLE = 256 * 1024
"""A body up to this length is sent in one piece."""

_PIECE = 256 * 1024
"""Bytes handed to the transport at a time: TLS encrypts them on the loop, so few enough."""


async def upload(
    session: SessionManager,
    source: UploadSource,
    *,
    purpose: str,
    filename: str | None,
    content_type: str | None,
    expires_after: ExpiresAfter | timedelta | int | None,
    progress: ProgressSink | None,
) -> FileObject:
    """Send a source and return the file as the server stored it."""
    expiry = None if expires_after is None else ExpiresAfter.of(expires_after)
    fields = upload_fields(purpose, expiry)
    opened = as_source(source, session.threads)
    name = opened.name or "upload" if filename is None else filename
    envelope = seal(fields, filename=name, content_type=content_type or _media_type(name))
    meter = Meter(progress)
    bodies: list[_FormBody] = []

    async def open_body() -> Reader:
        reader = await opened.open()
        body = _FormBody(envelope, reader, meter)
        bodies.append(body)
        try:
            meter.begin(reader.length, attempt=len(bodies))
        except BaseException:
            await reader.aclose()
            raise
        return body

    request = upload_request(name, envelope.content_type)
    file = await session.call(request, read_file, open_body=open_body)
    sent = bodies[-1].sent
    if file.bytes != sent:
        msg = (
            f"{request.what}: {sent:,} bytes were sent, but the server stored {file.bytes:,} as"
            f" {file.id}; delete it and upload again"
        )
        raise IntegrityError(msg, file=file)
    meter.finish()
    return file


class _FormBody:
    """The body of one attempt: the envelope around a reader.

    Attributes:
        length: The exact length, or `None` for a source of unknown length.
        sent: Bytes of the source that were handed out.
    """

    def __init__(self, envelope: Envelope, reader: Reader, meter: Meter) -> None:
        self.length = envelope.length(reader.length)
        self.sent = 0
        self._reader = reader
        self._expected = reader.length
        self._meter = meter
        self._pieces = self._cut(envelope)

    async def read(self) -> Buffer:
        return await anext(self._pieces, b"")

    async def aclose(self) -> None:
        try:
            await self._pieces.aclose()
        finally:
            await self._reader.aclose()

    async def _cut(self, envelope: Envelope) -> AsyncGenerator[Buffer, None]:
        """Yield the whole body, each chunk only when the one behind it has been read."""
        held = await self._reader.read()
        following = await self._reader.read() if held else held
        self._check(held, following)
        if not following and len(envelope.prefix) + len(held) <= _SINGLE:
            yield b"".join((envelope.prefix, held, envelope.suffix))
            self._count(held)
            return
        yield envelope.prefix
        while held:
            view = memoryview(held)
            for start in range(0, len(view), _PIECE):
                piece = view[start : start + _PIECE]
                yield piece
                self._count(piece)
            held, following = following, await self._reader.read() if following else following
            self._check(held, following)
        yield envelope.suffix

    def _check(self, held: Buffer, following: Buffer) -> None:
        """Break off before the last chunk is sent if it does not end where it was to end."""
        seen = self.sent + len(held) + len(following)
        if (
            self._expected is None
            or seen == self._expected
            or (following and seen < self._expected)
        ):
            return
        msg = (
            f"the source had {self._expected:,} bytes when its upload began, and now has"
            f" {'more' if following else f'{seen:,}'}; nothing was stored: upload it when nobody"
            " writes to it"
        )
        raise SourceChangedError(msg)

    def _count(self, piece: Buffer) -> None:
        self.sent += len(piece)
        self._meter.advance(len(piece))


def _media_type(filename: str) -> str:
    # The table that comes with Python: guess_type() would read files of the system, on the loop.
    extension = os.path.splitext(filename)[1].lower()
    return mimetypes.types_map.get(extension, "application/octet-stream")
