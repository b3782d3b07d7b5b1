"""`SessionManager`: the one way through which all requests of a client go."""

from __future__ import annotations

import asyncio
import logging
import ssl as ssl_module
from collections.abc import Callable, Mapping, Sequence
from typing import TypeAlias, TypeVar

import aiohttp
from aiohttp.typedefs import URL  # type: ignore[attr-defined]  # yarl is aiohttp's, not ours

from aiofiles_api.buffers import Buffers
from aiofiles_api.config import Config
from aiofiles_api.errors import APIError, APIResponseError, ConfigurationError, FilesError
from aiofiles_api.protocol import Reply, Request, origin, redirect_url
from aiofiles_api.session.connector import QuietConnector, response_class
from aiofiles_api.session.credentials import Credentials
from aiofiles_api.session.exchange import Exchange
from aiofiles_api.session.failures import raise_ours
from aiofiles_api.session.operations import (
    BoundedOperation,
    Operation,
    Operations,
    carried,
    closed_error,
)
from aiofiles_api.session.payload import OpenBody, Payload
from aiofiles_api.session.proxies import Proxies
from aiofiles_api.session.retries import Retries
from aiofiles_api.session.slots import Slots
from aiofiles_api.session.turn import Turn
from aiofiles_api.threads import Threads, join

__all__ = ["Connector", "SessionManager", "TlsSetting", "TraceConfig"]

T = TypeVar("T")

_log = logging.getLogger("aiofiles_api")

TlsSetting: TypeAlias = ssl_module.SSLContext | aiohttp.Fingerprint | bool
"""How to check the server's certificate; `False` does not, which is for tests alone."""

Connector: TypeAlias = aiohttp.BaseConnector
"""An aiohttp connector of the caller's own."""

TraceConfig: TypeAlias = aiohttp.TraceConfig
"""aiohttp's tracing hooks."""

_READ_BUFFER = 256 * 1024
"""Bytes after which a connection stops reading: twice this may wait for a slow consumer."""

_LEAST_READ_BUFFER = 64 * 1024

_SENDING = 4 * 1024 * 1024
_RECEIVING = 8 * 1024 * 1024

_IDLE = 4.0
"""Seconds for which an unused connection is kept. Shorter than servers do (uvicorn: 5 s), so that
a POST does not meet a connection that is being closed at the other end."""

_HEADERS = {
    "User-Agent": "aiofiles-api",
    "Accept": "application/json",
    # Lengths and ranges are those of the file only when nothing is encoded.
    "Accept-Encoding": "identity",
}

_MOST_REDIRECTS = 10
_REDIRECTS = frozenset({301, 302, 303, 307, 308})


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
        self.caller_threads = Threads(carried=carried)
        self._credentials = Credentials(config)
        self._proxies = Proxies(config, self._credentials)
        self.sending = Buffers(_SENDING, least=64 * 1024, most=1024 * 1024)
        self.receiving = Buffers(_RECEIVING, least=128 * 1024, most=2 * 1024 * 1024)
        self._timeout = aiohttp.ClientTimeout(
            total=config.timeouts.total,
            connect=config.timeouts.connect,
            # Silence is bounded here: aiohttp's own bound ends with the first 1xx and with what it
            # cannot parse, moves on with each byte of the headers, and goes on behind a body.
            sock_read=None,
        )
        if connector is not None and tls is not True:
            msg = "connector: ssl= has no effect on it; give it to the connector, or leave that out"
            raise ConfigurationError(msg)
        self._tls = tls
        self._connector = connector
        self._trace_configs = list(trace_configs)
        # Only aiohttp's own writer tells of each piece that it sends.
        self._is_watched = any(config.on_request_chunk_sent for config in self._trace_configs)
        self._turn = Turn()
        # Who waited for a place in the caller's connector would seem to have no network.
        self._slots = Slots(
            config, () if connector is None else (connector.limit, connector.limit_per_host)
        )
        self._operations = Operations()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._http: aiohttp.ClientSession | None = None
        self._exchanges: dict[Exchange, asyncio.Semaphore] = {}
        self._closing: asyncio.Task[None] | None = None

    @property
    def secrets(self) -> tuple[str, ...]:
        """What must not show in an error: the keys last used, the caller's own headers."""
        return self._credentials.secrets

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
        return self._slots.hold_back(request, error, delay)

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
        is_nested = self._operations.is_within_another()
        slots = await self._slots.wait(request.endpoint, is_nested=is_nested)
        try:
            exchange = await self._follow(request, open_body)
        except BaseException:
            slots.release()
            raise
        self._exchanges[exchange] = slots
        if exchange.status < 400:  # noqa: PLR2004 - where errors begin
            self._slots.succeeded()
        return exchange

    async def _follow(self, request: Request, open_body: OpenBody | None) -> Exchange:
        home = url = request.url(self.config.base_url, self.config.params)
        is_home = True
        for _ in range(_MOST_REDIRECTS):
            headers: Mapping[str, str] = request.headers
            if is_home:
                headers = await self._credentials.headers(headers)
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
        proxy = self._proxies.for_url(url)
        payload = None
        if open_body is not None:
            kind = request.headers["Content-Type"]
            body = await open_body()
            payload = Payload(
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
                raise_ours(error, request.what, payload, is_secret=is_secret)
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
                or QuietConnector(limit=0, keepalive_timeout=_IDLE, ssl=self._tls),
                connector_owner=self._connector is None,
                cookie_jar=aiohttp.DummyCookieJar(),
                headers=_HEADERS,
                response_class=response_class(self.config.timeouts.reply),
                trace_configs=self._trace_configs,
            )
        return self._http

    # --- closing -------------------------------------------------------------------------------

    def registered(self) -> Operation:
        """Let `aclose()` interrupt and await what runs inside, which then raises our error.

        Raises:
            ClientClosedError: The client is closed, or was while this ran.
        """
        self._check_usable()
        return Operation(self._operations)

    def operation(self, what: str, *, began: float | None = None) -> Operation:
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
        return BoundedOperation(self._operations, began + deadline, what)

    def release(self, exchange: Exchange) -> None:
        """Take back the slot of an exchange that has ended."""
        self._exchanges.pop(exchange).release()

    async def aclose(self) -> None:
        """Refuse new work, interrupt what runs, wait for it, and close every connection.

        Raises:
            ConfigurationError: It is in use in another event loop.
        """
        self._check_loop()
        if self._closing is None:
            self._closing = asyncio.create_task(self._close())
        if self._operations.is_within_one():
            # The closing waits for that operation, and that perhaps for us, as for its own source:
            # so we do not wait. It is interrupted in the turn that is given up here.
            await asyncio.sleep(0)
        else:
            # Even when we are cancelled, what has begun to close is closed.
            await join(self._closing)

    async def _close(self) -> None:
        await self._operations.interrupt()
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
            raise closed_error()
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


def _other_loop_error() -> ConfigurationError:
    return ConfigurationError(
        "this client belongs to another event loop; make one client for each loop"
    )
