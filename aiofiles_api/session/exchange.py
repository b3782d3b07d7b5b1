"""A request that was sent, and its reply, whose body is still to be read."""

from __future__ import annotations

import asyncio
import math
import time
import zlib
from collections import deque
from collections.abc import Mapping
from contextlib import suppress
from typing import TYPE_CHECKING

import aiohttp

from aiofiles_api.buffers import Buffers
from aiofiles_api.errors import ContentTooLargeError
from aiofiles_api.intake import Intake
from aiofiles_api.protocol import Reply, Request
from aiofiles_api.session.failures import DripsError, raise_ours
from aiofiles_api.session.payload import Payload

__all__ = ["Exchange"]

if TYPE_CHECKING:
    from aiofiles_api.session.manager import SessionManager

_WORTH_INTAKE = 512 * 1024
"""Bytes of a body that are worth changing its connection's protocol, there and back."""

_LOOK = 0.5
"""Seconds after which who waits for a body looks whether its connection is still there."""

_LEAST_RATE = 8 * 1024
"""Bytes a second of a reply that is no drip: `Timeouts.reply` does not end it."""

_LARGEST_JSON = 32 * 1024 * 1024
_LARGEST_OBJECT = 1024 * 1024
_LARGEST_ERROR = 64 * 1024

_MALFORMED = "what came is no HTTP"


class Exchange:
    """A request that was sent, and its reply, whose body is still to be read.

    Attributes:
        status: The reply's HTTP status.
        headers: The reply's headers; looking one up ignores case.
    """

    def __init__(
        self,
        session: SessionManager,
        request: Request,
        response: aiohttp.ClientResponse,
        payload: Payload | None,
        *,
        is_secret: bool,
    ) -> None:
        self.status = response.status
        self.headers: Mapping[str, str] = response.headers
        self._session = session
        self._request = request
        self._response = response
        self._payload = payload
        self._is_secret = is_secret
        self._is_open = True
        self._in_hand: deque[bytes] = deque()
        self._intake: Intake | None = None

    def all_values(self, name: str) -> list[str]:
        """Return what all headers of a name say; `headers` has the first one alone."""
        return self._response.headers.getall(name, [])

    async def read_chunk(self) -> bytes:
        """Return what has come of the body since the last call, waiting for some; empty at the end.

        Raises:
            APIConnectionError: The body was cut.
            APITimeoutError: It fell silent.
        """
        body = self._response.content
        try:
            # What is there needs no timer, and neither does the end.
            chunk = body.read_nowait()
            return chunk if chunk or body.is_eof() else await self._wait_for_chunk(math.inf)
        except Exception as error:  # noqa: BLE001 - aiohttp raises more than its own
            raise_ours(error, self._request.what, self._payload, is_secret=self._is_secret)

    async def _wait_for_chunk(self, until: float) -> bytes:
        """Do so until some time by the loop's clock; raise what aiohttp does."""
        body = self._response.content
        now = asyncio.get_running_loop().time
        limit = self._session.config.timeouts.read
        silent_at = math.inf if limit is None else now() + limit
        while True:
            bound = asyncio.timeout_at(min(silent_at, until, now() + _LOOK))
            try:
                async with bound:
                    return await body.readany()
            except TimeoutError:
                if not bound.expired():  # it was aiohttp's, which bounds the whole
                    raise
            # What has come in the turn in which the time was over has come.
            if (chunk := body.read_nowait()) or body.is_eof():
                return chunk
            if self._is_abandoned():
                raise aiohttp.ClientPayloadError(_MALFORMED)
            if now() >= min(silent_at, until):
                raise DripsError if until < silent_at else aiohttp.SocketTimeoutError

    def _is_abandoned(self) -> bool:
        """Whether aiohttp has closed the connection for what it could not parse, and said nothing.

        While something is sent, a connection that was closed waits for that.
        """
        connection = self._response.connection
        is_sending = self._payload is not None and self._payload.is_sending
        protocol = None if connection is None else connection.protocol
        return not is_sending and (protocol is None or not protocol.is_connected())

    def take_in(self, buffers: Buffers) -> None:
        """Have the body come straight into buffers that are lent, where it is long enough.

        From now on it is to be read with `read_buffer`.
        """
        length, timeouts = self._response.content_length, self._session.config.timeouts
        if length is None or length < _WORTH_INTAKE or timeouts.total is not None:
            return
        body, connection = self._response.content, self._response.connection
        while body.exception() is None and (piece := body.read_nowait()):
            self._in_hand.append(piece)
        left = length - body.total_bytes
        transport = None if connection is None else connection.transport
        if transport is None or transport.is_closing() or left <= 0:
            return  # all has come, or no more will
        self._intake = Intake(transport, left, buffers=buffers, limit=timeouts.read)

    async def read_buffer(self) -> bytes | memoryview:
        """Return what comes next like `read_chunk`; the next call may overwrite it.

        Raises:
            APIConnectionError: The body was cut.
            APITimeoutError: It fell silent.
        """
        if self._in_hand:
            return self._in_hand.popleft()
        if self._intake is None:
            return await self.read_chunk()
        try:
            chunk = await self._intake.read()
        except (OSError, TimeoutError) as error:
            is_silent = isinstance(error, TimeoutError)
            cause = aiohttp.SocketTimeoutError() if is_silent else error
            raise_ours(cause, self._request.what, self._payload, is_secret=self._is_secret)
        if not chunk:
            self._intake.give_back()
            self._response.content.feed_eof()
        return chunk

    async def read_reply(self) -> Reply:
        """Read the whole body; of an error's, only the beginning.

        Raises:
            APIResponseError: The body of a success is longer than any that the API sends.
            APITimeoutError: It is silent, or comes so slowly that it would never end.
        """
        is_error = not 200 <= self.status < 300  # noqa: PLR2004 - the class of a status
        pieces: list[bytes] = []
        if self._response.content.is_eof():  # as that of a small reply is, when it has come at all
            pieces.append(await self.read_chunk())
        else:
            await self._gather(pieces, is_error=is_error)
        body = pieces[0] if len(pieces) == 1 else b"".join(pieces)
        if is_error and self._request.is_content:
            body = _decompressed(body, self.headers.get("Content-Encoding", ""))
        return Reply(
            status=self.status,
            headers=self.headers,
            body=body,
            received_at=time.time(),
            secrets=self._session.secrets,
        )

    async def _gather(self, pieces: list[bytes], *, is_error: bool) -> None:
        """Read a reply that has not come to its end yet, within bounds of size and of time."""
        largest = _LARGEST_JSON if self._request.is_listing else _LARGEST_OBJECT
        left = _LARGEST_ERROR if is_error else largest
        limit = self._session.config.timeouts.reply
        if not is_error:
            await self._until_sent()
        until = math.inf if limit is None else asyncio.get_running_loop().time() + limit
        try:
            body = self._response.content
            while left >= 0 and (chunk := body.read_nowait() or await self._wait_for_chunk(until)):
                pieces.append(chunk)
                left -= len(chunk)
                until += len(chunk) / _LEAST_RATE
        except Exception as error:  # noqa: BLE001 - aiohttp raises more than its own
            # An error's status says what is wrong, even where the text about it was cut.
            if not is_error:
                raise_ours(error, self._request.what, self._payload, is_secret=self._is_secret)
        if not is_error and left < 0:
            msg = f"{self._request.what}: the reply is longer than {largest:,} bytes"
            raise ContentTooLargeError(msg)

    async def _until_sent(self) -> None:
        """Wait for the end of what is sent, where the server's success begins before that.

        aiohttp ends the sending when the reply has come to its end; when the connection has, the
        source may not hear of it for long.
        """
        payload, body = self._payload, self._response.content
        while payload is not None and payload.is_sending and body.exception() is None:
            with suppress(TimeoutError):
                async with asyncio.timeout(_LOOK):
                    await payload.sent.wait()

    async def aclose(self) -> None:
        """Give the connection back, or close it where the reply or the body is not complete."""
        if self._is_open:
            self._session.release(self)
            await self.close()

    async def close(self) -> None:
        """End the exchange of an attempt that holds no slot of its own."""
        self._is_open = False
        if self._intake is not None:
            self._intake.close()
        if not self._response.closed:  # as it is when it was read to its end
            self._response.close()
        if self._payload is not None:
            await self._payload.aclose()


def _decompressed(body: bytes, encoding: str) -> bytes:
    """Return an error that came instead of content, which aiohttp is told to leave as it is."""
    if encoding.lower() in {"gzip", "deflate"}:
        with suppress(zlib.error):
            either = 32 + zlib.MAX_WBITS  # zlib sees by itself which of the two it is
            return zlib.decompressobj(either).decompress(body, _LARGEST_ERROR)
    return body
