"""A file's content: to a consumer, into memory, or into a file on disk.

`Content` is the one way in which content is fetched. It gives the bytes from an offset on as one
unbroken sequence over any number of connections: when one is cut, the next request asks for what
is missing, and where the server cannot do that, what is in hand already is read again and dropped.
"""

from __future__ import annotations

import asyncio
import logging
import os
import re
from collections.abc import Callable
from io import BytesIO
from pathlib import Path
from types import TracebackType
from typing import Self

from aiofiles_api.errors import (
    APIConnectionError,
    APIError,
    APIResponseError,
    ContentTooLargeError,
    IntegrityError,
    InvalidArgumentError,
)
from aiofiles_api.models import DownloadedFile, FileObject, check_text, file_id
from aiofiles_api.partfile import PartFile
from aiofiles_api.progress import Meter, ProgressSink
from aiofiles_api.protocol import (
    Request,
    content_request,
    read_file,
    retrieve_request,
    scrub,
    status_error,
)
from aiofiles_api.resume import Continuation, continue_from, refuses_ranges
from aiofiles_api.session import Exchange, Retries, SessionManager

__all__ = ["ContentStream", "download", "read_content"]

_log = logging.getLogger("aiofiles_api")

_PLAIN = {"", "identity", "aws-chunked"}
"""Encodings that are none; S3 keeps the last one with what was uploaded in such chunks."""

_LONGEST_WAIT = 0.05
"""Seconds after which bytes that are to survive the process are on their way to the file: what a
kill loses of them is fetched again."""


async def download(
    session: SessionManager,
    file: str | FileObject,
    destination: str | os.PathLike[str],
    *,
    overwrite: bool,
    resume: bool,
    durable: bool,
    sha256: str | None,
    progress: ProgressSink | None,
    on_attempt: Callable[[int], object] | None = None,
) -> DownloadedFile:
    """Put a file's content at `destination`, all of it or nothing.

    `on_attempt` is called with the number of requests for the content, once it is known.
    """
    identifier = file_id(file)
    digest = _checked_digest(sha256)
    async with session.operation(f"downloading {identifier}"):
        part = PartFile(
            destination,
            session.threads,
            overwrite=overwrite,
            durable=durable,
            sha256=digest,
            kept_as=_identity(session, file) if resume else None,
        )
        transfer = _Transfer(session, file, part, Meter(progress), is_kept=resume)
        try:
            with session.receiving:
                await transfer.run()
        finally:
            if on_attempt is not None:
                on_attempt(transfer.attempts)
    return DownloadedFile(
        file_id=identifier,
        path=Path(part.path),
        bytes=transfer.bytes,
        sha256=digest,
        attempts=transfer.attempts,
        resumed_from=transfer.resumed_from,
    )


def _identity(session: SessionManager, file: str | FileObject) -> str:
    """Return what tells one content from every other: the content of an id never changes."""
    known = (file.id, file.bytes, file.created_at) if isinstance(file, FileObject) else (file,)
    return "\n".join(map(str, (session.config.base_url, *known)))


class _Transfer:
    """One download into a part file, which is thrown away or kept when it fails.

    Attributes:
        bytes: The content's length, at the end.
        attempts: How many requests for the content were made.
        resumed_from: How many bytes an earlier download had left.
    """

    def __init__(
        self,
        session: SessionManager,
        file: str | FileObject,
        part: PartFile,
        meter: Meter,
        *,
        is_kept: bool,
    ) -> None:
        self.bytes = self.attempts = self.resumed_from = 0
        self._session = session
        self._file = file
        self._part = part
        self._meter = meter
        self._is_kept = is_kept
        self._batch = _Batch(part, session.receiving.share, is_urgent=is_kept)

    async def run(self) -> None:
        """Bring the content into the part file, and that into its place."""
        try:
            self.resumed_from = await self._prepare()
            try:
                await self._fill(self.resumed_from)
            except IntegrityError as error:
                # Pieces of different attempts may not belong together: once more, in one.
                _log.info("%s; trying once more from the beginning", error)
                self._batch.take()
                await self._part.restart()
                self.resumed_from = 0
                await self._fill(0)
        except IntegrityError:
            self._batch.take()
            await self._part.discard()
            raise
        except BaseException:
            chunks = self._batch.take()
            await (self._part.keep(chunks) if self._is_kept else self._part.discard())
            raise

    async def _prepare(self) -> int:
        """Find the destination; the server is asked for a name only where it is needed."""
        file = self._file
        if isinstance(file, str):
            kept = await self._part.prepare()
            if kept is not None:
                return kept
            file = await self._session.call(retrieve_request(file_id(file)), read_file)
        return await self._part.prepare(file.filename, fallback=file.id) or 0

    async def _fill(self, start: int) -> None:
        """Bring the content in from `start` on; one batch is written while the next one comes."""
        content = Content(
            self._session,
            file_id(self._file),
            start=start,
            expected=_known_length(self._file),
            into_buffers=True,
        )
        earlier, attempt = self.attempts, 0
        try:
            while chunk := await content.read():
                self.attempts = earlier + content.attempts
                if self.attempts != attempt:
                    attempt = self.attempts
                    done = content.position - len(chunk)
                    self._meter.begin(content.total, attempt=attempt, done=done)
                self._meter.advance(len(chunk))
                await self._batch.add(chunk)
        except APIError:
            made = earlier + content.attempts
            if made != attempt:  # the last ones have brought nothing, and count all the same
                self._meter.begin(content.total, attempt=made, done=content.position)
            raise
        finally:
            self.attempts = earlier + content.attempts
            await content.aclose()
        if self.attempts != attempt:  # nothing has come, and nothing was missing
            self._meter.begin(content.total, attempt=self.attempts, done=content.position)
        await self._part.commit(self._batch.take())
        self.bytes = content.position
        self._meter.finish(content.position)


class _Batch:
    """Chunks on their way into a part file: written when they are many, or have waited long.

    Args:
        part: Where they go.
        size: Asked for how many bytes are to be gathered: one hop to a thread for many packets.
        is_urgent: Whether they may be lost with the process, so that they must not wait long.
    """

    def __init__(self, part: PartFile, size: Callable[[], int], *, is_urgent: bool) -> None:
        self._part = part
        self._enough = size
        self._is_urgent = is_urgent
        self._chunks: list[bytes] = []
        self._size = 0
        self._timer: asyncio.TimerHandle | None = None

    async def add(self, chunk: bytes | memoryview) -> None:
        """Take a chunk, and have the batch written when it is large enough."""
        if isinstance(chunk, memoryview):
            # One of two buffers, the other of which is being filled meanwhile.
            await self._part.append([*self.take(), chunk])
            await self._part.written()
            return
        self._chunks.append(chunk)
        self._size += len(chunk)
        if self._size >= self._enough():
            await self._part.append(self.take())
        elif self._is_urgent and self._timer is None:
            self._timer = asyncio.get_running_loop().call_later(_LONGEST_WAIT, self._hurry)

    def take(self) -> list[bytes]:
        """Return the chunks that wait, and begin another batch."""
        if self._timer is not None:
            self._timer.cancel()
        chunks, self._chunks, self._size, self._timer = self._chunks, [], 0, None
        return chunks

    def _hurry(self) -> None:
        if self._part.append_if_idle(self._chunks):
            self.take()
        else:
            self._timer = asyncio.get_running_loop().call_later(_LONGEST_WAIT / 4, self._hurry)


async def read_content(session: SessionManager, file: str | FileObject, *, max_bytes: int) -> bytes:
    """Return a file's content, if it is no longer than `max_bytes`."""
    if type(max_bytes) is not int or max_bytes < 0:
        msg = f"max_bytes: {max_bytes!r} is no bound; pass 0 or more bytes"
        raise InvalidArgumentError(msg)
    identifier = file_id(file)
    async with session.operation(f"reading {identifier}"):
        try:
            return await _read(session, file, max_bytes)
        except IntegrityError as error:
            _log.info("%s; trying once more from the beginning", error)
            return await _read(session, file, max_bytes)


async def _read(session: SessionManager, file: str | FileObject, max_bytes: int) -> bytes:
    identifier = file_id(file)
    content = Content(session, identifier, expected=_known_length(file))
    body = BytesIO()  # which hands out what it holds, where a bytearray would be copied
    try:
        _check_bound(identifier, content.total, max_bytes)
        await content.open()
        _check_bound(identifier, content.total, max_bytes)
        while chunk := await content.read():
            body.write(chunk)
            _check_bound(identifier, body.tell(), max_bytes)
    finally:
        await content.aclose()
    return body.getvalue()


class ContentStream:
    """A file's content as it comes: an async context manager that is its own async iterator.

    A cut connection is resumed unseen. It drops straight into a `StreamingResponse`, within the
    context: it is read there alone, because open it holds one of the client's connections.

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
        self._began: float | None = None
        self._is_open = self._was_open = self._is_read = False
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
        if self._was_open:
            msg = "a stream is read once; ask for another with stream()"
            raise InvalidArgumentError(msg)
        self._began = asyncio.get_running_loop().time()
        try:
            async with self._session.operation("opening a stream", began=self._began):
                await self._content.open()
        except IntegrityError as error:
            total = self._content.total
            if total is None or self._start <= total:
                raise
            msg = f"start: {self._start:,} is beyond the {total:,} bytes of the content"
            raise InvalidArgumentError(msg) from error
        self._is_open = self._was_open = True
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._is_open = False
        await self._content.close_for_good()

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> bytes:
        self._check_open()
        if self._is_read:
            msg = "a stream is read by one task at a time; ask for another with stream()"
            raise InvalidArgumentError(msg)
        self._is_read = True
        try:
            async with self._session.operation("streaming", began=self._began):
                chunk = await self._content.read()
        finally:
            self._is_read = False
        if not chunk:
            self._check_open()  # another task may have left the context meanwhile
            raise StopAsyncIteration
        return bytes(chunk)

    def _check_open(self) -> None:
        if not self._is_open:
            raise InvalidArgumentError("the stream is not open; read it inside its `async with`")


class Content:
    """A file's content from an offset on, over any number of connections.

    Args:
        session: Where to ask.
        identifier: The file's id.
        start: The offset of the first byte.
        expected: The whole content's length, where it is known beforehand.
        into_buffers: Whether what was read may be overwritten by the next `read`, which costs less.

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
        into_buffers: bool = False,
    ) -> None:
        self.position = start
        self.total = expected
        self.content_type: str | None = None
        self._session = session
        self._identifier = identifier
        self._request = content_request(identifier)
        self._retries = Retries(session, self._request)
        self._exchange: Exchange | None = None
        self._into_buffers = into_buffers
        self._to_skip = 0
        self._part_end: int | None = None
        self._etag: str | None = None
        self._start = start
        self._ends_with_connection = False
        self._ended_at = 0
        self._takes_ranges = True
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

    async def read(self) -> bytes | memoryview:
        """Return what comes next, empty at the end, which is verified; a call may overwrite it.

        Raises:
            IntegrityError: The content is longer or shorter than it must be.
            APIError: The connection was cut once more than the policy allows.
        """
        while not self._is_complete:
            try:
                exchange = self._exchange or await self._connect()
                if exchange is None:
                    continue
                chunk = await self._read_chunk(exchange)
            except APIError as error:
                await self.aclose()
                if not self._is_complete:
                    await self._retries.pause(error)
            else:
                if chunk:
                    return chunk
                await self.aclose()
                if not (self._ends_with_connection and await self._go_on_if_cut()):
                    await self._finish()
        return b""

    async def aclose(self) -> None:
        """Give the connection back, or close it where the content has not come to its end."""
        exchange, self._exchange = self._exchange, None
        if exchange is not None:
            await exchange.aclose()

    async def close_for_good(self) -> None:
        """Have nothing more be asked for: whoever reads is told that this is the end."""
        self._is_complete = True
        await self.aclose()

    async def _connect(self) -> Exchange | None:
        """Ask for what is missing; return `None` where nothing is, or it must be asked for anew."""
        request = self._request
        if self.position and self._takes_ranges:
            request = content_request(self._identifier, offset=self.position, etag=self._etag)
        if self.attempts > 1:
            _log.info("%s: attempt %d, from byte %d", request.what, self.attempts, self.position)
        exchange = await self._session.open(request)
        try:
            found = await self._judge(request, exchange)
        except BaseException:
            await exchange.aclose()
            raise
        self._is_complete |= found is not None and found.is_empty
        if found is None or self._is_complete:
            await exchange.aclose()
            return None
        self._exchange = exchange
        if self._into_buffers:
            exchange.take_in(self._session.receiving)
        return exchange

    async def _judge(self, request: Request, exchange: Exchange) -> Continuation | None:
        """Return how a reply continues what is in hand; `None` if that takes another request."""
        is_ranged = request is not self._request
        try:
            found = continue_from(self.position, status=exchange.status, headers=exchange.headers)
        except APIResponseError as error:
            self._takes_ranges = False
            raise APIResponseError(f"{request.what}: {error}") from error
        if found is None and is_ranged and refuses_ranges(exchange.status):
            # The whole may yet be had, and what is in hand of it be dropped.
            self._takes_ranges = False
            self._retries.ask_on()
            return None
        # Where no range was asked for, that none can be had says nothing of the content.
        if found is None or (found.is_empty and not is_ranged):
            raise status_error(request, await exchange.read_reply())
        if not found.is_empty:  # else it is the error's text that may be encoded
            self._check_encoding(exchange)
        if found.total is not None:
            if self.total is not None and self.total != found.total:
                raise self._wrong_length(f"the server offers {found.total:,} bytes")
            self.total = found.total
        if self.total is not None and self.total < self.position:
            raise self._wrong_length(f"it was asked for from {self.position:,} on")
        self._to_skip = found.skip
        self._part_end = found.end
        framed = "Content-Length" in exchange.headers or "Transfer-Encoding" in exchange.headers
        self._ends_with_connection = not framed
        if not found.is_empty:  # else these describe the error's text, not the content
            self.content_type = exchange.headers.get("Content-Type")
            self._check_same(_usable_etag(exchange.headers.get("ETag", "")))
        return found

    def _check_same(self, etag: str | None) -> None:
        """Refuse to put together what a server says is of different contents."""
        has_some = self.position > self._start
        if has_some and self._etag is not None and etag is not None and etag != self._etag:
            msg = (
                f"downloading {self._identifier}: the content has changed since its first bytes"
                " came (another ETag); try again"
            )
            raise IntegrityError(msg)
        self._etag = etag or self._etag

    def _check_encoding(self, exchange: Exchange) -> None:
        for encoding in exchange.all_values("Content-Encoding"):
            if encoding.lower() not in _PLAIN:
                shown = scrub(encoding, self._session.secrets)[:40]
                msg = (
                    f"downloading {self._identifier}: the content comes encoded as {shown!r},"
                    " which was not asked for; have the proxy in between leave it as it is"
                )
                raise APIResponseError(msg, retryable=False)

    async def _read_chunk(self, exchange: Exchange) -> bytes | memoryview:
        read = exchange.read_buffer if self._into_buffers else exchange.read_chunk
        while chunk := await read():
            if self._to_skip:
                dropped = min(self._to_skip, len(chunk))
                self._to_skip -= dropped
                chunk = chunk[dropped:]
                if not chunk:
                    continue
            self.position += len(chunk)
            self._retries.made_progress()
            for end in (self.total, self._part_end):
                if end is not None and self.position > end:
                    raise self._wrong_length("the server sends more", end)
            return chunk
        return b""

    async def _go_on_if_cut(self) -> bool:
        """Wait for another attempt if a reply that ended with its connection came to no end."""
        if self._part_end is not None:
            if self.position >= self._part_end:
                return False
            msg = f"downloading {self._identifier}: the connection was closed in the middle"
            await self._retries.pause(APIConnectionError(f"{msg}; try again"))
            return True
        if self.position >= await self._find_total():
            return False
        end = self.position - self._to_skip
        if 0 < end == self._ended_at:
            return False  # two are hardly cut at the same place: that is where it ends
        self._ended_at = end
        cut = self._wrong_length(f"{self.position:,} came before the connection was closed")
        try:
            await self._retries.pause(APIConnectionError(str(cut)))
        except APIError as error:
            raise cut from error
        return True

    async def _finish(self) -> None:
        """Judge whether a reply that has ended is whole, and the content with it."""
        if self._to_skip:
            raise self._wrong_length("the server now sends less than before")
        if self._part_end is not None and self.position != self._part_end:
            raise self._wrong_length(f"it ends at {self.position:,}", self._part_end)
        total = await self._find_total()
        if self._part_end is not None and self.position < total:
            self._retries.ask_on()  # a server may give less of a range than was asked for
        elif self.position != total:
            raise self._wrong_length(f"{self.position:,} came")
        else:
            self._is_complete = True

    async def _find_total(self) -> int:
        if self.total is None:
            # A reply without any length may have been cut unnoticed: ask how long it must be.
            request = retrieve_request(self._identifier)
            self.total = (await self._session.call(request, read_file)).bytes
        return self.total

    def _wrong_length(self, what_came: str, end: int | None = None) -> IntegrityError:
        what = "its length" if end in {None, self.total} else "the end of a part of it"
        msg = (
            f"downloading {self._identifier}: {what} must be {end or self.total}, but {what_came};"
            " try again, and if it stays so, ask the server's operator"
        )
        return IntegrityError(msg)


def _usable_etag(etag: str) -> str | None:
    """Return an ETag if If-Range may repeat it: a strong one, of what a header may hold.

    RFC 9110, sections 8.8.3 and 13.1.5; other bytes than ASCII's are opaque, and not to be sent.
    """
    is_fit = etag.isascii() and etag.isprintable() and not etag.startswith("W/")
    return etag if etag and is_fit else None


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
    check_text("sha256", sha256)
    if sha256 is not None and not re.fullmatch(r"[0-9a-fA-F]{64}", sha256):
        msg = f"sha256: {sha256!r} is no SHA-256 digest; pass its 64 hexadecimal digits"
        raise InvalidArgumentError(msg)
    return None if sha256 is None else sha256.lower()
