"""`SessionManager`: connections, credentials, timeouts, redirects, errors, and the retry loop.

The only core module that knows aiohttp. It sends a `protocol.Request`, gives back an `Exchange`
whose body is still to be read, and turns every exception of aiohttp into one of ours. What aiohttp
would do by itself and we must do otherwise is switched off:

- redirects: it would forward `api-key` to other origins, and turn a POST into a GET;
- the environment's proxies: a netrc entry would clash with our `Authorization`;
- its total timeout: 300 s would end every large transfer;
- decompression of content, cookies, and waiting for a connection (our own slots come first, so
  that the bound on connecting does not count the time in the queue).

Work is registered with the session while it runs, so that `aclose()` can interrupt it from any
task: whoever was interrupted gets `ClientClosedError`, and nothing is left behind.
"""

from __future__ import annotations

import asyncio
import errno
import logging
import math
import random
import select
import ssl as ssl_module
import time
from collections import defaultdict, deque
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from types import TracebackType
from typing import TYPE_CHECKING, NoReturn, Protocol, TypeAlias, TypeVar
from urllib.request import getproxies, proxy_bypass

import aiohttp
from aiohttp.abc import AbstractStreamWriter
from aiohttp.typedefs import URL  # type: ignore[attr-defined]  # yarl is aiohttp's, not ours

from aiofiles_api.buffers import Buffers
from aiofiles_api.chunked import ChunkedWriter
from aiofiles_api.config import (
    Config,
    Secret,
    Timeouts,
    checked_key,
    proxy_of_environment,
    secrets_of_proxy,
)
from aiofiles_api.errors import (
    APIConnectionError,
    APIError,
    APIResponseError,
    APITimeoutError,
    ClientClosedError,
    ConfigurationError,
    ContentTooLargeError,
    FilesError,
    RateLimitError,
    SourceError,
)
from aiofiles_api.intake import Intake
from aiofiles_api.pacing import Pacing
from aiofiles_api.protocol import Reply, Request, origin, redirect_url, spellings
from aiofiles_api.retry import delay_before_retry, why_no_retry
from aiofiles_api.sendfile import FileSender, Span, takes_files
from aiofiles_api.sources import Buffer
from aiofiles_api.stalls import StallWatch
from aiofiles_api.threads import Threads, join, settle

__all__ = [
    "Connector",
    "Exchange",
    "OpenBody",
    "Retries",
    "SessionManager",
    "TlsSetting",
    "TraceConfig",
]

if TYPE_CHECKING:
    from aiohttp.client_reqrep import ConnectionKey
    from aiohttp.connector import Connection
    from aiohttp.tracing import Trace

T = TypeVar("T")

_log = logging.getLogger("aiofiles_api")

TlsSetting: TypeAlias = ssl_module.SSLContext | aiohttp.Fingerprint | bool
"""How to check the server's certificate; `False` does not, which is for tests alone."""

Connector: TypeAlias = aiohttp.BaseConnector
"""An aiohttp connector of the caller's own."""

TraceConfig: TypeAlias = aiohttp.TraceConfig
"""aiohttp's tracing hooks."""

_slots_beside: ContextVar[asyncio.Semaphore | None] = ContextVar("slots_beside", default=None)
"""The slot of a task that does not wait in the queue, if it has one."""

_operating: ContextVar[tuple[_Registered, ...]] = ContextVar("operating", default=())
"""The operations for which a task works, of one client within another's. They may be another task's
than this one, which writes a body, or was begun by an upload's own source."""

_READ_BUFFER = 256 * 1024
"""Bytes after which a connection stops reading: twice this may wait for a slow consumer."""

_LEAST_READ_BUFFER = 64 * 1024

_SENDING = 4 * 1024 * 1024
_RECEIVING = 8 * 1024 * 1024

_NEVER_WAITS = 32 * 1024
"""Bytes that a connection's transport always takes at once, together with a request's headers
(asyncio's transports and aiohttp's writer: 64 KiB), so that nobody need watch whether they move."""

_TURN = 0.002
"""Seconds after which a client begins nothing more in the same turn of the loop."""

_IDLE = 4.0
"""Seconds for which an unused connection is kept. Shorter than servers do (uvicorn: 5 s), so that
a POST does not meet a connection that is being closed at the other end."""

_WORTH_INTAKE = 512 * 1024
"""Bytes of a body that are worth changing its connection's protocol, there and back."""

_HEADERS = {
    "User-Agent": "aiofiles-api",
    "Accept": "application/json",
    # Lengths and ranges are those of the file only when nothing is encoded.
    "Accept-Encoding": "identity",
}

_KEYS_REMEMBERED = 8
"""Keys that may still be on their way, where each request may have another."""

_LOOK = 0.5
"""Seconds after which who waits for a body looks whether its connection is still there."""

_LEAST_RATE = 8 * 1024
"""Bytes a second of a reply that is no drip: `Timeouts.reply` does not end it."""

_SILENT = "the server was silent for too long (Timeouts.reply before its reply, .read within)"

_MALFORMED = "what came is no HTTP"

_LARGEST_JSON = 32 * 1024 * 1024
_LARGEST_OBJECT = 1024 * 1024
_LARGEST_ERROR = 64 * 1024
_MOST_REDIRECTS = 10
_REDIRECTS = frozenset({301, 302, 303, 307, 308})


class Body(Protocol):
    """What an attempt sends.

    Attributes:
        length: Its bytes, or `None` when that cannot be known.
        takes_files: Whether the connection takes spans of files: set before the first `read`.
    """

    length: int | None
    takes_files: bool

    async def read(self) -> Buffer | Span:
        """Return the next piece, empty at the end."""
        ...

    def advance(self, size: int) -> None:
        """Take note that so many more bytes of the span that it gave last have been sent."""
        ...

    async def aclose(self) -> None:
        """Release what was opened for it."""
        ...


OpenBody: TypeAlias = Callable[[], Awaitable[Body]]
"""Makes a fresh body for each attempt, standing at the beginning."""


class SessionManager:
    """The connections of one client, and the one way through which all requests go.

    Attributes:
        config: The settings.
        threads: Where blocking work is done.
        caller_threads: Where code of the caller's is run, which may block for as long as it likes:
            a source that waits for somebody must not keep others from the disk.
        sending: What uploads read at a time. Each holds three such pieces: one on its way, one
            behind it, because the last one must be known for it, and one that is being read.
        receiving: What downloads gather at a time. Each holds two such buffers: one that is being
            written, and one that is being filled.
        secrets: What must not show in an error: the keys last used, the caller's own headers.

    Args:
        config: The settings.
        tls: How to check the server's certificate.
        connector: An aiohttp connector to use instead of our own; it is never closed.
        trace_configs: aiohttp's tracing hooks.
    """

    def __init__(
        self,
        config: Config,
        *,
        tls: TlsSetting = True,
        connector: Connector | None = None,
        trace_configs: Sequence[TraceConfig] = (),
    ) -> None:
        self.config = config
        self.threads = Threads()
        self.caller_threads = Threads()
        self._own_headers: Mapping[str, str] = config.headers
        self._lasting_secrets = config.secrets
        self._keys: deque[str] = deque(maxlen=_KEYS_REMEMBERED)
        self._spell_secrets()
        self.sending = Buffers(_SENDING, least=64 * 1024, most=1024 * 1024)
        self.receiving = Buffers(_RECEIVING, least=128 * 1024, most=2 * 1024 * 1024)
        self._ask_for_key: Callable[[], Awaitable[str]] | None = None
        if "authorization" not in map(str.lower, config.headers):
            if isinstance(config.api_key, Secret):
                self._take_key(config.api_key)
            else:
                self._ask_for_key = config.api_key
        self._timeout = aiohttp.ClientTimeout(
            total=config.timeouts.total,
            connect=config.timeouts.connect,
            # Silence is bounded here: aiohttp's own bound ends with the first 1xx and with what it
            # cannot parse, moves on with each byte of the headers, and goes on behind a body.
            sock_read=None,
        )
        self._proxies: dict[str, str | None] = {}
        if connector is not None and tls is not True:
            msg = "connector: ssl= has no effect on it; give it to the connector, or leave that out"
            raise ConfigurationError(msg)
        self._tls = tls
        self._connector = connector
        self._trace_configs = list(trace_configs)
        # Only aiohttp's own writer tells of each piece that it sends.
        self._is_watched = any(config.on_request_chunk_sent for config in self._trace_configs)
        self._pacing = Pacing(config.requests_per_minute)
        self._turns: defaultdict[str, asyncio.Lock] = defaultdict(asyncio.Lock)
        self._turn = _Turn()
        self._slots = asyncio.Semaphore(config.max_connections)
        self._loop: asyncio.AbstractEventLoop | None = None
        self._http: aiohttp.ClientSession | None = None
        self._active: dict[asyncio.Task[object], _Registered] = {}
        self._left = asyncio.Event()
        self._exchanges: dict[Exchange, asyncio.Semaphore] = {}
        self._closing: asyncio.Task[None] | None = None

    # --- one request, with retries -------------------------------------------------------------

    async def call(
        self,
        request: Request,
        read: Callable[[Request, Reply], T],
        *,
        open_body: OpenBody | None = None,
        on_attempt: Callable[[int], object] | None = None,
    ) -> T:
        """Send a request, as often as the policy allows, and return its reply as `read` reads it.

        Args:
            request: What to send.
            read: Reads the reply.
            open_body: Makes a fresh body for each attempt.
            on_attempt: Called with the number of each attempt before it is made.

        Raises:
            APIError: The last attempt failed so.
            ClientClosedError: The client is closed, or was while this ran.
        """
        async with self.operation(request.what):
            retries = Retries(self, request)
            while True:
                if on_attempt is not None:
                    on_attempt(retries.attempt)
                try:
                    return read(request, await self.fetch(request, open_body))
                except APIError as error:
                    await retries.pause(error)

    def hold_back(self, request: Request, error: FilesError, delay: float) -> float:
        """Return the delay of a retry, made longer where the client as a whole must hold back."""
        now = time.monotonic()
        if isinstance(error, RateLimitError) and error.retry_after is not None:
            self._pacing.hold_back(request.endpoint, until=now + delay)
        return max(delay, self._pacing.delay_before_retry(now=now))

    async def _wait_for_slot(self, endpoint: str) -> asyncio.Semaphore:
        """Return the slot that was taken, when it is also the endpoint's turn."""
        beside = _slots_beside.get()
        operating = _operating.get()
        if (
            beside is None
            and len(operating) > 1
            and sum(one.is_under_way(self._active) for one in operating) > 1
        ):
            # Within another operation, as for its source: whose slot, or those of others like it,
            # may be the last one.
            beside = asyncio.Semaphore(1)
        if beside is not None:
            # Not behind those of the endpoint, the first of whom waits for a slot.
            return await self._wait_for_both(endpoint, beside)
        # First come, first served; and only the first one waits for the time.
        async with self._turns[endpoint]:
            return await self._wait_for_both(endpoint, self._slots)

    async def _wait_for_both(self, endpoint: str, slots: asyncio.Semaphore) -> asyncio.Semaphore:
        while True:
            await slots.acquire()
            # Looked at after each wait: it may be held for longer by then.
            delay = self._pacing.take_turn(endpoint, now=time.monotonic())
            if not delay:
                return slots
            slots.release()  # meanwhile other endpoints may have it
            await asyncio.sleep(delay)

    async def fetch(self, request: Request, open_body: OpenBody | None) -> Reply:
        """Send a request once and return its whole reply, be it a success or an error.

        Raises:
            APIError: There was no reply, or none that could be read.
        """
        exchange = await self.open(request, open_body=open_body)
        try:
            return await exchange.read_reply()
        finally:
            await exchange.aclose()

    # --- one attempt ---------------------------------------------------------------------------

    async def open(self, request: Request, *, open_body: OpenBody | None = None) -> Exchange:
        """Send a request once and return the exchange when the reply's headers have come.

        The caller owes the exchange an `aclose()`.

        Raises:
            APIError: The attempt failed; a reply with an error status is no failure here.
        """
        self._check_usable()
        await self._turn.wait()
        slots = await self._wait_for_slot(request.endpoint)
        try:
            exchange = await self._follow(request, open_body)
        except BaseException:
            slots.release()
            raise
        self._exchanges[exchange] = slots
        if exchange.status < 400:  # noqa: PLR2004 - where errors begin
            self._pacing.succeeded()
        return exchange

    async def _follow(self, request: Request, open_body: OpenBody | None) -> Exchange:
        home = url = request.url(self.config.base_url, self.config.params)
        is_home = True
        for _ in range(_MOST_REDIRECTS):
            headers = await self._headers(request) if is_home else request.headers
            exchange = await self._send(request, url, headers, open_body, is_secret=url != home)
            if exchange.status not in _REDIRECTS:
                return exchange
            try:
                url = redirect_url(request, await exchange.read_reply(), sent_to=url)
                is_home = origin(url) == origin(home)
            finally:
                await exchange.close()
        msg = f"{request.what}: redirected more than {_MOST_REDIRECTS} times; check base_url"
        raise APIResponseError(msg, retryable=False)

    async def _headers(self, request: Request) -> dict[str, str]:
        """Return the headers with credentials; the caller's own ones prevail."""
        if self._ask_for_key is not None:
            self._take_key(checked_key(await self._ask_for_key()))
        return {**request.headers, **self._own_headers}

    def _take_key(self, key: Secret) -> None:
        headers = self.config.headers
        self._own_headers = {**headers, "Authorization": Secret(f"Bearer {key}")}
        if key not in self._keys:
            # The earlier ones as well: requests that bear them may still be on their way.
            self._keys.appendleft(key)
            self._spell_secrets()

    def _spell_secrets(self) -> None:
        known = (*self._keys, *self._lasting_secrets)
        self.secrets = tuple(
            dict.fromkeys(spelling for secret in known for spelling in spellings(secret))
        )

    async def _send(
        self,
        request: Request,
        url: str,
        headers: Mapping[str, str],
        open_body: OpenBody | None,
        *,
        is_secret: bool,
    ) -> Exchange:
        timeouts = self.config.timeouts
        proxy = self._proxy_for(url)
        payload = None
        if open_body is not None:
            kind = request.headers["Content-Type"]
            body = await open_body()
            payload = _Payload(
                body,
                kind,
                timeouts,
                self.threads,
                self._turn,
                check_usable=self._check_usable,
                is_watched=self._is_watched,
            )
        try:
            response = await self._client().request(
                request.method,
                URL(url, encoded=True),
                data=payload,
                headers=headers,
                allow_redirects=False,
                auto_decompress=not request.is_content,
                read_bufsize=self._read_buffer() if request.is_content else _READ_BUFFER,
                proxy=proxy,
                timeout=self._timeout,
            )
        except BaseException as error:
            if payload is not None:
                await payload.aclose()
            if isinstance(error, Exception):  # aiohttp raises more than its own
                _raise_ours(error, request.what, payload, is_secret=is_secret)
            raise
        if payload is not None:
            payload.is_answered()
        return Exchange(self, request, response, payload, is_secret=is_secret)

    def _read_buffer(self) -> int:
        """Return the read buffer of a download, the smaller the more of them there are."""
        return max(_LEAST_READ_BUFFER, min(_READ_BUFFER, self.receiving.share() // 4))

    def _client(self) -> aiohttp.ClientSession:
        if self._http is None:
            self._http = aiohttp.ClientSession(
                connector=self._connector
                or _Connector(limit=0, keepalive_timeout=_IDLE, ssl=self._tls),
                connector_owner=self._connector is None,
                cookie_jar=aiohttp.DummyCookieJar(),
                headers=_HEADERS,
                response_class=_response_class(self.config.timeouts.reply),
                trace_configs=self._trace_configs,
            )
        return self._http

    def _proxy_for(self, url: str) -> str | None:
        """Return the proxy for a URL; the environment is asked once for each origin.

        Raises:
            ConfigurationError: The environment names what is no HTTP proxy.
        """
        if self.config.proxy is not None or not self.config.trust_env:
            return self.config.proxy
        where = "/".join(url.split("/", 3)[:3])
        if where not in self._proxies:
            scheme, host, port = origin(url)
            proxy = getproxies().get(scheme)
            if proxy is None or (host and _bypasses_proxy(host, port)):
                self._proxies[where] = None
            else:
                self._proxies[where] = proxy_of_environment(proxy, f"{scheme.upper()}_PROXY")
                self._lasting_secrets += secrets_of_proxy(self._proxies[where])
                self._spell_secrets()
        return self._proxies[where]

    # --- closing -------------------------------------------------------------------------------

    def registered(self) -> _Registered:
        """Let `aclose()` interrupt and await what runs inside, which then raises our error.

        Raises:
            ClientClosedError: The client is closed, or was while this ran.
        """
        self._check_usable()
        return _Registered(self._active, self._left)

    def operation(self, what: str, *, began: float | None = None) -> _Registered:
        """Register what runs inside, and bound it by the policy's deadline.

        Not to be open while the caller's own code runs: it cancels its task.

        Args:
            what: What is being done to what, for the message.
            began: When the operation began, by the loop's clock, if not now.

        Raises:
            APITimeoutError: The deadline has passed.
            ClientClosedError: The client is closed, or was while this ran.
        """
        deadline = self.config.retry.deadline
        if deadline is None:
            return self.registered()
        self._check_usable()
        began = asyncio.get_running_loop().time() if began is None else began
        return _Bounded(self._active, self._left, began + deadline, what)

    def release(self, exchange: Exchange) -> None:
        """Take back the slot of an exchange that has ended."""
        self._exchanges.pop(exchange).release()

    @contextmanager
    def beside_the_queue(self) -> Iterator[None]:
        """Let what runs inside have a slot of its own, so that it waits for no other request.

        For those whom the holders of all slots may be waiting for.
        """
        token = _slots_beside.set(asyncio.Semaphore(1))
        try:
            yield
        finally:
            _slots_beside.reset(token)

    async def aclose(self) -> None:
        """Refuse new work, interrupt what runs, wait for it, and close every connection.

        Raises:
            ConfigurationError: It is in use in another event loop.
        """
        self._check_loop()
        if self._closing is None:
            self._closing = asyncio.create_task(self._close())
        if any(one.is_under_way(self._active) for one in _operating.get()):
            # The closing waits for that operation, and that perhaps for us, as for its own source:
            # so we do not wait. It is interrupted in the turn that is given up here.
            await asyncio.sleep(0)
        else:
            # Even when we are cancelled, what has begun to close is closed.
            await join(self._closing)

    async def _close(self) -> None:
        for task, registered in self._active.items():
            registered.interrupt(task)
        while self._active:
            self._left.clear()
            await self._left.wait()
        for exchange in list(self._exchanges):
            await exchange.aclose()
        try:
            if self._http is not None:
                await self._http.close()
        # aiohttp stumbles over connections that asyncio has closed already.
        except Exception:  # noqa: BLE001 - whatever it is, the rest is to be closed
            _log.debug("closing the connections failed", exc_info=True)
        finally:
            self.receiving.close()
            self.threads.close()
            self.caller_threads.close()

    def _check_usable(self) -> None:
        if self._closing is not None:
            raise _closed_error()
        loop = asyncio.get_running_loop()
        if self._loop is None:
            self._loop = loop
        elif self._loop is not loop:
            raise _other_loop_error()

    def _check_loop(self) -> None:
        """Refuse another loop than that in which the client runs; not one after that has ended."""
        loop = self._loop
        if loop is not None and loop is not asyncio.get_running_loop() and loop.is_running():
            raise _other_loop_error()


class Retries:
    """The attempts of one operation: the only place where a failure is tried again.

    Attributes:
        attempt: The number of the attempt that runs now, from 1.
    """

    def __init__(self, session: SessionManager, request: Request) -> None:
        self.attempt = 1
        self._failures = 0
        self._session = session
        self._request = request
        self._began = time.monotonic()

    def made_progress(self) -> None:
        """Count the attempts anew: the last one has brought something that none had before."""
        self._failures = 0

    def ask_on(self) -> None:
        """Count another request, though none has failed: a part came, or a range was refused."""
        self.attempt += 1

    async def pause(self, error: FilesError) -> None:
        """Wait until the next attempt may begin.

        Raises:
            FilesError: `error` itself, when there must be no other attempt.
        """
        await self.wait(self.delay_after(error), error)

    def delay_after(self, error: FilesError) -> float:
        """Return the seconds to wait before the next attempt.

        Raises:
            FilesError: `error` itself, when there must be no other attempt.
        """
        self._failures += 1
        policy = self._session.config.retry
        delay = delay_before_retry(
            policy,
            error,
            attempt=self._failures,
            elapsed=time.monotonic() - self._began,
            random=random.random,
        )
        if delay is None:
            if error.retryable:
                is_last = self._failures >= policy.attempts
                error.add_note(why_no_retry(policy, error, self.attempt, is_last=is_last))
            raise error
        return self._session.hold_back(self._request, error, delay)

    async def wait(self, delay: float, error: FilesError) -> None:
        """Wait until the next attempt may begin, and say why there is one."""
        _log.info(
            "%s: attempt %d failed, trying again in %.1f s: %s",
            self._request.what,
            self.attempt,
            delay,
            error,
        )
        await asyncio.sleep(delay)
        self.attempt += 1


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
        payload: _Payload | None,
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
            _raise_ours(error, self._request.what, self._payload, is_secret=self._is_secret)

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
            if self._is_abandoned():
                raise aiohttp.ClientPayloadError(_MALFORMED)
            if now() >= min(silent_at, until):
                raise _DripsError if until < silent_at else aiohttp.SocketTimeoutError

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
            _raise_ours(cause, self._request.what, self._payload, is_secret=self._is_secret)
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
        return Reply(
            status=self.status,
            headers=self.headers,
            body=pieces[0] if len(pieces) == 1 else b"".join(pieces),
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
                _raise_ours(error, self._request.what, self._payload, is_secret=self._is_secret)
        if not is_error and left < 0:
            msg = f"{self._request.what}: the reply is longer than {largest:,} bytes"
            raise ContentTooLargeError(msg)

    async def _until_sent(self) -> None:
        """Wait for the end of what is sent, where the server's success begins before that.

        aiohttp ends the sending when the reply has come to its end, or the connection has.
        """
        if self._payload is not None and self._payload.is_sending:
            await self._payload.sent.wait()

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


def _bypasses_proxy(host: str, port: int | None) -> bool:
    """Return whether NO_PROXY names a host, by itself or with its port."""
    place = f"[{host}]" if ":" in host else host
    return bool(proxy_bypass(host) or proxy_bypass(f"{place}:{port}"))


def _response_class(limit: float | None) -> type[aiohttp.ClientResponse]:
    """Return a class of replies whose headers have come after so many seconds, or never.

    Where a body is sent, the time begins behind it, and it is for whoever sends it to bound.
    """

    class Response(aiohttp.ClientResponse):
        async def start(self, connection: Connection) -> aiohttp.ClientResponse:
            if self.method == "POST" or limit is None:
                return await super().start(connection)
            bound = asyncio.timeout(limit)
            try:
                async with bound:
                    return await super().start(connection)
            except TimeoutError as error:
                if bound.expired():
                    raise aiohttp.SocketTimeoutError from error
                raise

    return Response


class _Connector(aiohttp.TCPConnector):
    """Connections that are used again only when nothing has come on them meanwhile.

    What a server sends unasked would be taken for the reply to the next request.
    """

    async def _get(self, key: ConnectionKey, traces: list[Trace]) -> Connection | None:
        while (connection := await super()._get(key, traces)) is not None:
            if _is_quiet(connection):
                break
            connection.close()
        return connection


def _is_quiet(connection: Connection) -> bool:
    protocol, transport = connection.protocol, connection.transport
    if protocol is None or transport is None or protocol.should_close:
        return False
    # What the loop has not read yet: a reply that nobody asked for, or the connection's end.
    poller = select.poll()
    poller.register(transport.get_extra_info("socket"), select.POLLIN)
    return not poller.poll(0)


class _Registered:
    """What a task does for the client, as a context that `aclose()` can interrupt.

    It counts cancellations as `asyncio.timeout` does, so that somebody else's is not swallowed.
    Inside another one of the same task it does nothing. Not a generator: it is entered for each
    chunk of a stream.
    """

    __slots__ = ("_active", "_cancellations_before", "_interrupted", "_left", "_task", "_token")

    def __init__(
        self, active: dict[asyncio.Task[object], _Registered], left: asyncio.Event
    ) -> None:
        self._task: asyncio.Task[object] | None = None
        self._active = active
        self._left = left
        self._interrupted = False

    def __enter__(self) -> None:
        task = asyncio.current_task()
        if task is not None and task not in self._active:
            self._task = task
            self._cancellations_before = task.cancelling()
            self._active[task] = self
            self._token = _operating.set((*_operating.get(), self))

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        task = self._task
        if task is None:
            return
        del self._active[task]
        # Connections keep the context in which they were opened, and with it this for long.
        self._task = None
        self._left.set()
        _operating.reset(self._token)
        if self._interrupted:
            is_ours = task.uncancel() <= self._cancellations_before
            if is_ours and isinstance(error, asyncio.CancelledError):
                raise _closed_error() from None

    async def __aenter__(self) -> None:
        self.__enter__()

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.__exit__(kind, error, traceback)

    def is_under_way(self, active: dict[asyncio.Task[object], _Registered]) -> bool:
        """Return whether it is entered, and one of those."""
        return self._active is active and self._task is not None

    def interrupt(self, task: asyncio.Task[object]) -> None:
        """Cancel the task that it is entered by, and remember that it was us."""
        self._interrupted = True
        task.cancel()


class _Bounded(_Registered):
    """A registered piece of work that has a deadline."""

    __slots__ = ("_bound", "_what")

    def __init__(
        self,
        active: dict[asyncio.Task[object], _Registered],
        left: asyncio.Event,
        deadline: float,
        what: str,
    ) -> None:
        super().__init__(active, left)
        self._bound = asyncio.timeout_at(deadline)
        self._what = what

    async def __aenter__(self) -> None:
        self.__enter__()
        await self._bound.__aenter__()

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        try:
            await self._leave_bound(kind, error, traceback)
        except BaseException as other:
            self.__exit__(type(other), other, other.__traceback__)
            raise
        self.__exit__(kind, error, traceback)

    async def _leave_bound(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        try:
            await self._bound.__aexit__(kind, error, traceback)
        except TimeoutError as timeout:
            msg = f"{self._what}: not done within RetryPolicy.deadline; allow more time"
            raise APITimeoutError(msg) from timeout


class _Payload(aiohttp.Payload):
    """Adapts a body to aiohttp, and watches that its bytes move.

    aiohttp writes it in a task of its own, wraps what it raises, and forgets that task when a reply
    comes early; so the failure is kept here, and `aclose()` ends the task.

    Attributes:
        failure: What the body raised.
        sent: Set when there is no more to send.
    """

    def __init__(
        self,
        body: Body,
        content_type: str,
        timeouts: Timeouts,
        threads: Threads,
        turn: _Turn,
        *,
        check_usable: Callable[[], None],
        is_watched: bool,
    ) -> None:
        super().__init__(body, content_type=content_type)
        self._check_usable = check_usable
        self._is_watched = is_watched
        self._turn = turn
        self._size = body.length
        self._body = body
        self._limit = timeouts.write
        self._reply_limit = timeouts.reply
        self._giving_up: asyncio.TimerHandle | None = None
        self._writer: asyncio.Task[object] | None = None
        self._watch: StallWatch | None = None
        self._threads = threads
        self._sender: FileSender | None = None
        self.failure: Exception | None = None
        self.sent = asyncio.Event()
        self._is_unanswered = False

    @property
    def is_sending(self) -> bool:
        """Whether the body is on its way."""
        return self._writer is not None and not self.sent.is_set()

    @property
    def overdue(self) -> str | None:
        """What the server has not done in its time, if the connection was broken off for that."""
        if any(one is not None and one.stalled for one in (self._watch, self._sender)):
            return "the server took no bytes for too long (Timeouts.write)"
        return _SILENT if self._is_unanswered else None

    # Abstract in aiohttp, which for a body like ours calls write_with_length() instead.
    async def write(self, writer: AbstractStreamWriter) -> None:  # pragma: no cover - see above
        await self.write_with_length(writer, None)

    async def write_with_length(
        self,
        writer: AbstractStreamWriter,
        content_length: int | None,  # noqa: ARG002 - always that of the body
    ) -> None:
        self._writer = asyncio.current_task()
        try:
            await self._write(writer)
        finally:
            self.sent.set()
            if self._reply_limit is not None:
                loop = asyncio.get_running_loop()
                self._giving_up = loop.call_later(self._reply_limit, self._give_up, writer)

    def _give_up(self, writer: AbstractStreamWriter) -> None:
        self._is_unanswered = True
        if writer.transport is not None:  # pragma: no branch - it may be lost just now
            writer.transport.abort()

    def is_answered(self) -> None:
        """Take note that a reply's headers have come, or will not be waited for any more."""
        self._reply_limit = None
        if self._giving_up is not None:
            self._giving_up.cancel()

    async def _write(self, writer: AbstractStreamWriter) -> None:
        # Without a length the body goes in HTTP's chunks, each with a frame of its own.
        self._body.takes_files = (
            self._size is not None and not self._is_watched and takes_files(writer.transport)
        )
        piece = await self._read()
        chunks: ChunkedWriter | None = None
        if not isinstance(piece, Span) and len(piece) <= _NEVER_WAITS:
            await writer.write(piece)
            piece = await self._read()
            if not piece:
                return
            if self._size is None and not self._is_watched:
                chunks = ChunkedWriter(_transport_of(writer), writer.drain)
        watch = self._watch = StallWatch(writer.transport, self._limit)
        try:
            while piece:
                if isinstance(piece, Span):
                    await self._send_span(writer, piece)
                else:
                    await (writer if chunks is None else chunks).write(piece)
                    watch.written += len(piece)
                    await self._turn.wait()
                piece = await self._read()
            if chunks is not None:
                chunks.end()
        finally:
            watch.stop()

    async def _read(self) -> Buffer | Span:
        try:
            piece = await self._body.read()
            self._check_usable()  # a source may close the client, and go on
        except Exception as error:
            self.failure = error
            raise
        return piece

    async def _send_span(self, writer: AbstractStreamWriter, span: Span) -> None:
        transport = _transport_of(writer)
        # What was written before must have left, and nothing may be written meanwhile.
        transport.set_write_buffer_limits(0)
        await writer.drain()
        self._sender = FileSender(transport, self._threads, self._limit)
        try:
            while span:
                sent = await self._sender.send(span)
                span = span.behind(sent)
                self._advance(sent)
        except SourceError as error:
            self.failure = error
            raise
        finally:
            self._sender.close()

    def _advance(self, sent: int) -> None:
        try:
            self._body.advance(sent)
        except Exception as error:
            self.failure = error
            raise

    # Abstract in aiohttp, which calls it only to show a body of text.
    def decode(  # pragma: no cover - see above
        self, encoding: str = "utf-8", errors: str = "strict"
    ) -> str:
        raise NotImplementedError

    async def aclose(self) -> None:
        """End aiohttp's task that writes the body, and release the body."""
        self.is_answered()
        try:
            if self._writer is not None and not self._writer.done():
                self._writer.cancel()
                await settle(self._writer)
        finally:
            await self._body.aclose()


def _transport_of(writer: AbstractStreamWriter) -> asyncio.WriteTransport:
    if writer.transport is None:  # pragma: no cover - it may be lost between any two pieces
        raise ConnectionResetError(errno.ECONNRESET, "the connection was lost")
    return writer.transport


class _Turn:
    """What a client may do before others come to their turn on the loop.

    Many requests that go on at once, or a source and a connection that never wait, would keep it.
    Who comes too late waits in a row, and of that each turn wakes as many as the last one had time
    for.
    """

    def __init__(self) -> None:
        self._ends_at = 0.0
        self._is_new = True
        self._will_end = False
        self._went_on = 0
        self._waiting: deque[asyncio.Future[None]] = deque()

    async def wait(self) -> None:
        """Go on, or wait for another turn if this one has lasted for long."""
        if not self._waiting and self._has_time():
            return
        loop = asyncio.get_running_loop()
        while True:
            waiter = loop.create_future()
            self._waiting.append(waiter)
            self._end_soon(loop)
            await waiter
            if self._has_time():
                return

    def _has_time(self) -> bool:
        now = time.monotonic()
        if self._is_new:
            self._is_new = False
            self._ends_at = now + _TURN
            self._end_soon(asyncio.get_running_loop())
        has_time = now < self._ends_at
        self._went_on += has_time
        return has_time

    def _end_soon(self, loop: asyncio.AbstractEventLoop) -> None:
        if not self._will_end:
            self._will_end = True
            loop.call_soon(self._end, loop)

    def _end(self, loop: asyncio.AbstractEventLoop) -> None:
        self._will_end = False
        self._is_new = True
        for _ in range(min(max(self._went_on, 1), len(self._waiting))):
            waiter = self._waiting.popleft()
            if not waiter.done():  # as it is when its task was cancelled
                waiter.set_result(None)
        self._went_on = 0
        if self._waiting:
            self._end_soon(loop)


class _DripsError(Exception):
    """A reply comes too slowly."""


# What an exception of aiohttp becomes, from the special to the general: the first that fits counts.
_TRANSLATIONS: tuple[tuple[type[Exception], type[APIConnectionError | APIResponseError], str], ...]
_TRANSLATIONS = (
    (_DripsError, APITimeoutError, "the reply drips on for longer than Timeouts.reply"),
    (
        aiohttp.ConnectionTimeoutError,
        APITimeoutError,
        "no connection within Timeouts.connect; check base_url and the network",
    ),
    (
        aiohttp.SocketTimeoutError,
        APITimeoutError,
        _SILENT,
    ),
    (TimeoutError, APITimeoutError, "not done within Timeouts.total; allow more time"),
    (
        aiohttp.ClientHttpProxyError,
        APIConnectionError,
        "the proxy refused the connection; check HTTPS_PROXY and NO_PROXY, or proxy=",
    ),
    (
        aiohttp.ClientResponseError,
        APIResponseError,
        "the reply is not HTTP, too large in its headers, or encoded unasked; check base_url",
    ),
)


def _raise_ours(
    error: Exception, what: str, payload: _Payload | None, *, is_secret: bool
) -> NoReturn:
    """Raise an error of ours for what aiohttp raised: here, and nowhere else.

    Args:
        error: What aiohttp raised.
        what: What is being done to what, for the message.
        payload: The body that is being sent; its own failure comes first.
        is_secret: Whether the URL may not be shown, as that of a redirect to a signed one.
    """
    if payload is not None and payload.failure is not None:
        raise payload.failure from payload.failure.__cause__
    is_quiet = isinstance(error, OSError | aiohttp.ClientPayloadError) or (
        isinstance(error, aiohttp.ServerDisconnectedError) and isinstance(error.message, str)
    )
    # The text of others may show the URL, what came instead of HTTP, or our headers with the key.
    raise _translate(error, what, payload) from (error if is_quiet and not is_secret else None)


def _translate(error: Exception, what: str, payload: _Payload | None) -> APIError:
    overdue = None if payload is None else payload.overdue
    if overdue is not None:
        return APITimeoutError(f"{what}: {overdue}")
    for of, into, text in _TRANSLATIONS:
        if isinstance(error, of):
            return into(f"{what}: {text}")
    problem = _lasting_problem(error)
    if problem is not None:
        return APIConnectionError(f"{what}: {problem}", retryable=False)
    if isinstance(error, aiohttp.ClientConnectorError):
        why = f"{error.host}:{error.port}: {error.os_error.strerror or error.os_error}"
        msg = f"{what}: cannot connect to {why}; check base_url and the network"
        return APIConnectionError(msg)
    if isinstance(error, aiohttp.ClientPayloadError) and "not completed" not in str(error):
        return APIResponseError(f"{what}: the reply's body is malformed; check base_url")
    msg = f"{what}: the connection was lost ({type(error).__name__}); try again"
    return APIConnectionError(msg)


def _lasting_problem(error: Exception) -> str | None:
    """Return what is wrong, if it would be no better another time."""
    if isinstance(error, aiohttp.ClientConnectorCertificateError):
        reason = error.certificate_error
        return f"the certificate is not trusted ({reason}); check base_url, or pass ssl="
    if isinstance(error, aiohttp.ServerFingerprintMismatch):
        return "the certificate is not the one that ssl= names; check that, and base_url"
    if isinstance(error, ValueError | TypeError | RuntimeError):
        kind = type(error).__name__
        return f"the request cannot be made ({kind}); check base_url, ssl= and connector="
    return None


def _other_loop_error() -> ConfigurationError:
    return ConfigurationError(
        "this client belongs to another event loop; make one client for each loop"
    )


def _closed_error() -> ClientClosedError:
    return ClientClosedError(
        "the client is closed; use it inside its `async with`, or make another"
    )
