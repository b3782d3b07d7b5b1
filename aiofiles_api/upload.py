"""Sends a source as the last part of a form: every attempt over a fresh reader, exact to the byte.

    prefix | the source's bytes | suffix

The body's length is announced before its first byte is sent, so a source that shrinks or grows
meanwhile must not go unnoticed: its last chunk is held back until its end has been seen, and an
attempt that is broken off then is no file on any server.
"""

from __future__ import annotations

import logging
import mimetypes
import os
import time
from collections.abc import AsyncGenerator, Callable
from contextlib import nullcontext
from datetime import timedelta
from typing import get_args

from aiofiles_api.errors import (
    APIConnectionError,
    APIError,
    APIStatusError,
    APITimeoutError,
    IntegrityError,
    InvalidArgumentError,
    SourceNotReplayableError,
    UploadUncertainError,
)
from aiofiles_api.models import ExpiresAfter, FileObject, check_text
from aiofiles_api.multipart import Envelope, seal
from aiofiles_api.progress import Meter, ProgressSink
from aiofiles_api.protocol import read_file, scrub, upload_fields, upload_request
from aiofiles_api.reconcile import (
    Claims,
    Kind,
    OnUncertain,
    Uncertain,
    find_stored,
    holds_beginning_of,
    uncertain_error,
)
from aiofiles_api.sendfile import Span
from aiofiles_api.session import Retries, SessionManager
from aiofiles_api.sources import (
    Buffer,
    FileReader,
    PathSource,
    Reader,
    Source,
    UploadSource,
    as_source,
    source_changed,
    spooled,
)

__all__ = ["upload"]

_log = logging.getLogger("aiofiles_api")

_WAYS: tuple[str, ...] = get_args(OnUncertain)

_LONGEST_ID = 80
"""Characters of an id that a message shows."""

_SINGLE = 256 * 1024
"""A source up to this length is sent in one piece with its envelope."""

_PIECE = 256 * 1024
"""Bytes handed to the transport at a time: TLS encrypts them on the loop, so few enough."""


async def upload(
    session: SessionManager,
    claims: Claims,
    source: UploadSource | PathSource,
    *,
    purpose: str,
    filename: str | None,
    content_type: str | None,
    expires_after: ExpiresAfter | timedelta | int | None,
    on_uncertain: OnUncertain,
    spool: bool,
    progress: ProgressSink | None,
    idempotency_key: str | None = None,
    may_be_replayed: bool = False,
    on_attempt: Callable[[int], object] | None = None,
) -> FileObject:
    """Send a source and return the file as the server stored it.

    `idempotency_key` is that of an earlier process which may have sent the same already,
    `may_be_replayed` says that it has begun to, and `on_attempt` is called with the number of each
    attempt before it is made.
    """
    if on_uncertain not in _WAYS:
        msg = f"on_uncertain: {on_uncertain!r} is none of {', '.join(_WAYS)}"
        raise InvalidArgumentError(msg)
    check_text("filename", filename)
    check_text("content_type", content_type)
    expiry = None if expires_after is None else ExpiresAfter.of(expires_after)
    fields = upload_fields(purpose, expiry)
    given: Source
    if isinstance(source, PathSource):
        given = source
    else:
        given = as_source(
            source,
            session.threads,
            caller_threads=session.caller_threads,
            chunk_size=session.sending.share,
        )
    name = given.name or "upload" if filename is None else filename
    envelope = seal(fields, filename=name, content_type=content_type or _media_type(name))
    copied = spooled(given, session.threads) if spool else nullcontext(given)
    sending: _Sending | None = None
    try:
        async with session.operation(f"uploading {name[:80]!r}"), copied as replayable:
            sending = _Sending(
                session,
                claims,
                source=replayable,
                envelope=envelope,
                purpose=fields["purpose"],
                filename=name,
                meter=Meter(progress),
                idempotency_key=idempotency_key,
                may_be_replayed=may_be_replayed,
                on_attempt=on_attempt,
            )
            with session.sending:
                return await sending.run(on_uncertain)
    except APITimeoutError as error:
        # The deadline may end it anywhere, also while the reply to the whole body is awaited.
        if sending is not None and sending.may_be_stored:
            raise sending.uncertain() from error
        raise


class _Sending:
    """One upload, over any number of attempts."""

    def __init__(
        self,
        session: SessionManager,
        claims: Claims,
        *,
        source: Source,
        envelope: Envelope,
        purpose: str,
        filename: str,
        meter: Meter,
        idempotency_key: str | None,
        may_be_replayed: bool,
        on_attempt: Callable[[int], object] | None,
    ) -> None:
        self._session = session
        self._claims = claims
        self._source = source
        self._envelope = envelope
        self._purpose = purpose
        self._filename = filename
        self._meter = meter
        self._request = upload_request(filename, envelope.content_type, idempotency_key)
        self._on_attempt = on_attempt
        self._retries = Retries(session, self._request)
        self._body: _FormBody | None = None
        self._began = time.monotonic()
        self._newest_before = claims.newest
        self._hidden: list[FileObject] = []
        # Whether an attempt may be stored that nobody has looked for, or seen when they did.
        self._was_uncertain = False
        # Whether the server may have had this key before, from an earlier attempt or run.
        self._may_be_replayed = may_be_replayed

    async def run(self, on_uncertain: OnUncertain) -> FileObject:
        """Send until there is a result, looking before each attempt that may be the second."""
        while True:
            self._body = None
            try:
                return await self._attempt()
            except APIError as error:
                self._may_be_replayed = True
                kind = self._kind_if_uncertain(error)
                if kind is None:
                    self._body = None
                elif on_uncertain != "resend":
                    found = await self._resolve(kind, error, on_uncertain)
                    if found is not None:
                        return found
                if kind is not None and (self._hidden or on_uncertain == "resend"):
                    self._was_uncertain = True
                # Late on its way, although it was looked for.
                was_lost = kind is not None and isinstance(error, APIConnectionError)
                await self._pause(error, was_lost=was_lost)

    @property
    def may_be_stored(self) -> bool:
        """Whether all was sent, and nothing that came says that it was not stored."""
        return self._was_uncertain or (self._body is not None and self._body.is_complete)

    async def _attempt(self) -> FileObject:
        try:
            reply = await self._session.fetch(self._request, self._open_body)
            file = read_file(self._request, reply)
            # Claimed before anybody may look again.
            if not self._claims.claim(file) and self._may_be_replayed:
                return await self._send_anew()
            # Others may look from here on, whose end uploads with all slots wait for.
            self._end_to_await()
            await self._check_stored(file)
        finally:
            self._end_to_await()
        self._meter.finish(file.bytes)
        return file

    async def _send_anew(self) -> FileObject:
        """Send with a new key, where another upload of the same content has looked first.

        It took for its own what this one had stored, and a server that heeds the old key would
        only show that file again.
        """
        self._may_be_replayed = False
        self._request = upload_request(self._filename, self._envelope.content_type, None)
        self._retries.ask_on()
        self._end_to_await()
        return await self._attempt()

    def _end_to_await(self) -> None:
        if self._body is not None:
            self._body.end_to_await()

    async def _check_stored(self, file: FileObject) -> None:
        """Hold what is stored against what was sent; `fetch` has closed the body."""
        sent = 0 if self._body is None else self._body.seen
        if file.bytes != sent:
            msg = (
                f"{self._request.what}: {sent:,} bytes were sent, but the server stored"
                f" {file.bytes:,} as {self._shown(file)}; delete it and upload again, or, where a"
                " gateway converts files by intent, take this error's .file"
            )
            raise IntegrityError(msg, file=file)
        if (
            self._body is not None
            and self._body.has_changed
            and not await holds_beginning_of(self._session, file, self._source)
        ):
            msg = (
                f"{self._request.what}: the source was written to while its end was on the way;"
                f" what is stored as {self._shown(file)} may be neither the old nor the new: delete"
                " it and upload again when nobody writes to it"
            )
            raise IntegrityError(msg, file=file)

    def _shown(self, file: FileObject) -> str:
        return scrub(file.id, self._session.secrets)[:_LONGEST_ID]

    async def _open_body(self) -> _FormBody:
        reader = await self._source.open()
        if isinstance(self._source, PathSource):
            self._source.sent = self._source.opened
        try:
            self._end_to_await()  # after a redirect: what was sent there is not awaited
            self._body = _FormBody(self._envelope, reader, self._meter, self._claims, self._purpose)
            self._meter.begin(reader.length, attempt=self._retries.attempt)
            if self._on_attempt is not None:
                self._on_attempt(self._retries.attempt)
        except BaseException:
            await reader.aclose()
            raise
        return self._body

    def _kind_if_uncertain(self, error: APIError) -> Kind | None:
        """Return what to look for, if all was sent and the reply does not say what became of it."""
        is_refused = isinstance(error, APIStatusError) and error.status_code < 500  # noqa: PLR2004
        is_final = is_refused or not error.retryable
        if self._body is None or not self._body.is_complete or is_final:
            return None
        return self._body.kind

    async def _resolve(
        self, kind: Kind, error: APIError, on_uncertain: OnUncertain
    ) -> FileObject | None:
        purpose, length = kind
        _log.info(
            "%s: attempt %d is uncertain, all was sent (%s): %s",
            self._request.what,
            self._retries.attempt,
            on_uncertain,
            error,
        )
        if on_uncertain == "raise":
            raise self.uncertain(error) from error
        uncertain = Uncertain(
            request=self._request,
            purpose=purpose,
            filename=self._filename,
            source=self._source,
            length=length,
            began=self._began,
            newest_before=self._newest_before,
            error=error,
            hidden=self._hidden,
        )
        found = await find_stored(self._session, self._claims, uncertain)
        if found is not None:
            self._meter.finish(found.bytes)
        return found

    async def _pause(self, error: APIError, *, was_lost: bool) -> None:
        try:
            delay = self._retries.delay_after(error)
        except APIError as last:
            if was_lost or self._was_uncertain:
                raise self.uncertain(last) from last
            raise
        if self._source.is_spent:
            if self._was_uncertain:
                raise self.uncertain(error) from error
            msg = (
                f"{error}. Another attempt is needed, but the source was consumed and cannot be"
                " read again: upload from a path, from bytes or a seekable file, or pass spool=True"
            )
            raise SourceNotReplayableError(msg) from error
        await self._retries.wait(delay, error)

    def uncertain(self, error: APIError | None = None) -> UploadUncertainError:
        """Make the error for an upload of which nobody knows whether it is stored."""
        rest = "it may or may not be stored: list the files before you send it again"
        return uncertain_error(self._request, error, rest, tuple(self._hidden))


class _FormBody:
    """The body of one attempt: the envelope around a reader.

    Attributes:
        length: The exact length, or `None` for a source of unknown length.
        seen: Bytes of the source that were read; all of them are sent before the last piece is.
        is_complete: Whether the last piece was handed out, so that the server may store it.
    """

    def __init__(
        self, envelope: Envelope, reader: Reader, meter: Meter, claims: Claims, purpose: str
    ) -> None:
        self.length = envelope.length(reader.length)
        self._sent = 0
        self.seen = 0
        self._reader = reader
        self._expected = reader.length
        self._meter = meter
        self._envelope = envelope
        self._pieces: AsyncGenerator[Buffer | Span, None] | None = None
        self.takes_files = False
        self._claims = claims
        self._purpose = purpose
        self.is_complete = False
        self._is_awaiting = False

    @property
    def has_changed(self) -> bool:
        """Whether the source was written to while the kernel sent it."""
        return isinstance(self._reader, FileReader) and self._reader.has_changed

    @property
    def kind(self) -> Kind:
        """Purpose and length of what is sent."""
        return self._purpose, self.seen

    def end_to_await(self) -> None:
        """Say that the reply has come, or will not come any more."""
        if self._is_awaiting:
            self._is_awaiting = False
            self._claims.end_to_await(self.kind)

    async def _complete(self, file: FileReader | None = None) -> None:
        """Wait for those who look for files of this kind, before the last piece is sent."""
        await self._claims.begin_to_await(self.kind)
        self._is_awaiting = True
        if file is not None:
            await file.check()
        self.is_complete = True

    async def read(self) -> Buffer | Span:
        if self._pieces is None:
            if self.is_complete:  # all was sent in one piece
                self.advance(self.seen)
                return b""
            reader = self._reader
            if self.takes_files and isinstance(reader, FileReader):
                self._pieces = self._spans(reader)
            else:
                held = await reader.read()
                following = await reader.read() if held else held
                self._check(held, following)
                if not following and len(held) <= _SINGLE:
                    await self._complete()
                    return b"".join((self._envelope.prefix, held, self._envelope.suffix))
                self._pieces = self._cut(held, following)
        return await anext(self._pieces, b"")

    async def aclose(self) -> None:
        try:
            if self._pieces is not None:
                await self._pieces.aclose()
        finally:
            await self._reader.aclose()

    async def _spans(self, file: FileReader) -> AsyncGenerator[Buffer | Span, None]:
        """Yield the whole body, the file as a span whose last bytes wait until its end is sure."""
        yield self._envelope.prefix
        try:
            yield file.span()
        finally:
            file.sent = self._sent
        self.seen = self._sent
        await self._complete(file)
        yield self._envelope.suffix

    async def _cut(self, held: Buffer, following: Buffer) -> AsyncGenerator[Buffer, None]:
        """Yield the whole body, each chunk only when the one behind it has been read."""
        yield self._envelope.prefix
        while held:
            view = memoryview(held)
            for start in range(0, len(view), _PIECE):
                piece = view[start : start + _PIECE]
                yield piece
                self.advance(len(piece))
            held, following = following, await self._reader.read() if following else following
            self._check(held, following)
        await self._complete()
        yield self._envelope.suffix

    def _check(self, held: Buffer, following: Buffer) -> None:
        """Break off before the last chunk is sent if it does not end where it was to end."""
        self.seen = seen = self._sent + len(held) + len(following)
        if (
            self._expected is None
            or seen == self._expected
            or (following and seen < self._expected)
        ):
            return
        raise source_changed(self._expected, None if following else seen)

    def advance(self, size: int) -> None:
        """Take note that so many more bytes of the source have been sent."""
        self._sent += size
        self._meter.advance(size)


def _media_type(filename: str) -> str:
    # The table that comes with Python: guess_type() would read files of the system, on the loop.
    extension = os.path.splitext(filename)[1].lower()
    return mimetypes.types_map.get(extension, "application/octet-stream")
