"""A file's content: to a consumer, into memory, or into a file on disk.

`Content` is the one way in which content is fetched. It gives the bytes from an offset on as one
unbroken sequence over any number of connections: when one is cut, the next request asks for what
is missing, and where the server cannot do that, what is in hand already is read again and dropped.
"""

from __future__ import annotations

import os
import re
from functools import partial
from types import TracebackType
from typing import Self

from aiofiles_api.errors import (
    APIError,
    APIResponseError,
    ContentTooLargeError,
    IntegrityError,
    InvalidArgumentError,
)
from aiofiles_api.models import DownloadedFile, FileObject, file_id
from aiofiles_api.partfile import Destination, PartFile, locate
from aiofiles_api.progress import Meter, ProgressSink
from aiofiles_api.protocol import (
    Request,
    content_request,
    read_file,
    retrieve_request,
    status_error,
)
from aiofiles_api.resume import Continuation, continue_from
from aiofiles_api.session import Exchange, SessionManager

__all__ = ["ContentStream", "download", "read_content"]

_BATCH = 2 * 1024 * 1024
"""Bytes that are gathered before a thread writes them: one hop for many packets."""


async def download(
    session: SessionManager,
    file: str | FileObject,
    destination: str | os.PathLike[str],
    *,
    overwrite: bool,
    durable: bool,
    sha256: str | None,
    progress: ProgressSink | None,
) -> DownloadedFile:
    """Put a file's content at `destination`, all of it or nothing."""
    identifier = file_id(file)
    digest = _checked_digest(sha256)
    with session.registered():
        place = await _find_place(session, file, destination)
        part = PartFile(
            place.path, session.threads, overwrite=overwrite, durable=durable, sha256=digest
        )
        await part.prepare()
        content = Content(session, identifier, expected=_known_length(file))
        try:
            await _fill(part, content, Meter(progress))
        except BaseException:
            await part.discard()
            raise
        finally:
            await content.aclose()
    return DownloadedFile(
        file_id=identifier,
        path=place.path,
        bytes=content.position,
        sha256=digest,
        attempts=content.attempts,
        resumed_from=0,
    )


async def read_content(session: SessionManager, file: str | FileObject, *, max_bytes: int) -> bytes:
    """Return a file's content, if it is no longer than `max_bytes`."""
    if type(max_bytes) is not int or max_bytes < 0:
        msg = f"max_bytes: {max_bytes!r} is no bound; pass 0 or more bytes"
        raise InvalidArgumentError(msg)
    identifier = file_id(file)
    with session.registered():
        content = Content(session, identifier, expected=_known_length(file))
        body = bytearray()
        try:
            _check_bound(identifier, content.total, max_bytes)
            await content.open()
            _check_bound(identifier, content.total, max_bytes)
            while chunk := await content.read():
                body += chunk
                _check_bound(identifier, len(body), max_bytes)
        finally:
            await content.aclose()
    return bytes(body)


class ContentStream:
    """A file's content as it comes: an async context manager that is its own async iterator.

    A cut connection is resumed unseen. It drops straight into a `StreamingResponse`.

    Attributes:
        length: Bytes from `start` to the end, or `None` where the server does not tell.
        content_type: The media type that the server gives.
    """

    def __init__(self, session: SessionManager, file: str | FileObject, *, start: int) -> None:
        if type(start) is not int or start < 0:
            msg = f"start: {start!r} is no offset; pass 0 or more bytes"
            raise InvalidArgumentError(msg)
        self._session = session
        self._start = start
        self._content = Content(session, file_id(file), start=start, expected=_known_length(file))

    @property
    def length(self) -> int | None:
        """Bytes from `start` to the end, or `None` where the server does not tell."""
        total = self._content.total
        return None if total is None else total - self._start

    @property
    def content_type(self) -> str | None:
        """The media type that the server gives."""
        return self._content.content_type

    async def __aenter__(self) -> Self:
        with self._session.registered():
            try:
                await self._content.open()
            except BaseException:
                await self._content.aclose()
                raise
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self._content.aclose()

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> bytes:
        with self._session.registered():
            chunk = await self._content.read()
        if not chunk:
            raise StopAsyncIteration
        return chunk


class Content:
    """A file's content from an offset on, over any number of connections.

    Args:
        session: Where to ask.
        identifier: The file's id.
        start: The offset of the first byte.
        expected: The whole content's length, where it is known beforehand.

    Attributes:
        position: The offset of the next byte that `read` gives.
        total: The whole content's length, as soon as it is known.
        content_type: The media type that the server gives, as soon as there is a reply.
    """

    def __init__(
        self,
        session: SessionManager,
        identifier: str,
        *,
        start: int = 0,
        expected: int | None = None,
    ) -> None:
        self.position = start
        self.total = expected
        self.content_type: str | None = None
        self._session = session
        self._identifier = identifier
        self._retries = session.retries()
        self._exchange: Exchange | None = None
        self._to_skip = 0
        self._etag: str | None = None
        self._is_complete = False

    @property
    def attempts(self) -> int:
        """How many requests for the content were made."""
        return self._retries.attempt

    async def open(self) -> None:
        """Connect, so that the length and the media type are known."""
        while self._exchange is None and not self._is_complete:
            try:
                await self._connect()
            except APIError as error:
                await self._retries.pause(error)

    async def read(self) -> bytes:
        """Return the next bytes, none at the end, which is verified.

        Raises:
            IntegrityError: The content is longer or shorter than it must be.
            APIError: The connection was cut once more than the policy allows.
        """
        while not self._is_complete:
            try:
                exchange = self._exchange or await self._connect()
                if exchange is not None and (chunk := await self._read_chunk(exchange)):
                    return chunk
            except APIError as error:
                await self.aclose()
                await self._retries.pause(error)
        return b""

    async def aclose(self) -> None:
        """Give the connection back, or close it where the content has not come to its end."""
        exchange, self._exchange = self._exchange, None
        if exchange is not None:
            await exchange.aclose()

    async def _connect(self) -> Exchange | None:
        """Ask for what is missing; return `None` when the server says that nothing is."""
        request = content_request(self._identifier, offset=self.position, etag=self._etag)
        exchange = await self._session.open(request)
        try:
            found = await self._judge(request, exchange)
        except BaseException:
            await exchange.aclose()
            raise
        if found.complete:
            self._is_complete = True
            await exchange.aclose()
            return None
        self._exchange = exchange
        return exchange

    async def _judge(self, request: Request, exchange: Exchange) -> Continuation:
        found = continue_from(self.position, status=exchange.status, headers=exchange.headers)
        if found is None:
            raise status_error(request, await exchange.read_reply())
        self._check_encoding(exchange)
        if found.total is not None:
            if self.total is not None and self.total != found.total:
                raise self._wrong_length(f"the server offers {found.total:,} bytes")
            self.total = found.total
        if self.total is not None and self.total < self.position:
            msg = f"start: {self.position:,} is beyond the {self.total:,} bytes of the content"
            raise InvalidArgumentError(msg)
        self._to_skip = found.skip
        self.content_type = exchange.headers.get("Content-Type")
        etag = exchange.headers.get("ETag", "")
        self._etag = None if etag.startswith("W/") else etag or None
        return found

    def _check_encoding(self, exchange: Exchange) -> None:
        encoding = exchange.headers.get("Content-Encoding", "identity")
        if encoding.lower() != "identity":
            msg = (
                f"downloading {self._identifier}: the content comes encoded as {encoding[:40]!r},"
                " which was not asked for; have the proxy in between leave it as it is"
            )
            raise APIResponseError(msg, retryable=False)

    async def _read_chunk(self, exchange: Exchange) -> bytes:
        while chunk := await exchange.read_chunk():
            if self._to_skip:
                dropped = min(self._to_skip, len(chunk))
                self._to_skip -= dropped
                chunk = chunk[dropped:]
                if not chunk:
                    continue
            self.position += len(chunk)
            if self.total is not None and self.position > self.total:
                raise self._wrong_length("the server sends more")
            return chunk
        await self._finish()
        return b""

    async def _finish(self) -> None:
        await self.aclose()
        if self._to_skip:
            raise self._wrong_length("the server now sends less than before")
        if self.total is None:
            # A reply without any length may have been cut unnoticed: ask how long it must be.
            request = retrieve_request(self._identifier)
            self.total = (await self._session.call(request, read_file)).bytes
        if self.position != self.total:
            raise self._wrong_length(f"{self.position:,} came")
        self._is_complete = True

    def _wrong_length(self, what_came: str) -> IntegrityError:
        msg = (
            f"downloading {self._identifier}: its length must be {self.total}, but {what_came};"
            " try again, and if it stays so, ask the server's operator"
        )
        return IntegrityError(msg)


async def _find_place(
    session: SessionManager, file: str | FileObject, destination: str | os.PathLike[str]
) -> Destination:
    place = await session.threads.run(partial(locate, destination))
    if not place.is_directory:
        return place
    if not isinstance(file, FileObject):
        file = await session.call(retrieve_request(file_id(file)), read_file)
    return place.with_name(file.filename, fallback=file.id)


async def _fill(part: PartFile, content: Content, meter: Meter) -> None:
    """Bring the content into the part file: one batch is written while the next one comes."""
    attempt = 0
    batch: list[bytes] = []
    size = 0
    while chunk := await content.read():
        if content.attempts != attempt:
            attempt = content.attempts
            meter.begin(content.total, attempt=attempt, done=content.position - len(chunk))
        meter.advance(len(chunk))
        batch.append(chunk)
        size += len(chunk)
        if size >= _BATCH:
            await part.append(batch)
            batch, size = [], 0
    await part.commit(batch)
    meter.finish()


def _known_length(file: str | FileObject) -> int | None:
    return file.bytes if isinstance(file, FileObject) else None


def _check_bound(identifier: str, length: int | None, max_bytes: int) -> None:
    if length is not None and length > max_bytes:
        msg = (
            f"reading {identifier}: its {length:,} bytes are more than max_bytes={max_bytes:,};"
            " use stream() or download(), which need no memory for it"
        )
        raise ContentTooLargeError(msg)


def _checked_digest(sha256: str | None) -> str | None:
    if sha256 is not None and not re.fullmatch(r"[0-9a-fA-F]{64}", sha256):
        msg = f"sha256: {sha256!r} is no SHA-256 digest; pass its 64 hexadecimal digits"
        raise InvalidArgumentError(msg)
    return None if sha256 is None else sha256.lower()
