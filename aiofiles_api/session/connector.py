"""aiohttp's connections and replies, where we need other ones."""

from __future__ import annotations

import asyncio
import select
from typing import TYPE_CHECKING

import aiohttp

__all__ = ["QuietConnector", "response_class"]

if TYPE_CHECKING:
    from aiohttp.client_reqrep import ConnectionKey
    from aiohttp.connector import Connection
    from aiohttp.tracing import Trace


def response_class(limit: float | None) -> type[aiohttp.ClientResponse]:
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


class QuietConnector(aiohttp.TCPConnector):
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
