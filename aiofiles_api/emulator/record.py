"""Keep account of the requests that come, for tests to look at."""

from collections import deque
from collections.abc import Mapping, Sequence
from typing import Final

import attrs
from aiohttp import web
from aiohttp.typedefs import Handler, Middleware

from aiofiles_api.emulator.faults import Kind, Operation

__all__ = ["RECEIVED", "ReceivedRequest", "Record", "note_reply"]

_OPERATIONS: Final[Mapping[tuple[str, str], Operation]] = {
    ("POST", "/v1/files"): "upload",
    ("GET", "/v1/files"): "list",
    ("GET", "/v1/files/{file_id}"): "retrieve",
    ("DELETE", "/v1/files/{file_id}"): "delete",
    ("GET", "/v1/files/{file_id}/content"): "content",
}


@attrs.define
class ReceivedRequest:
    """A request for one of the operations; what is known of it grows until it has its reply."""

    operation: Operation
    file_id: str | None = None
    """The id in the path of `retrieve`, `delete` and `content`."""
    range: str | None = None
    """The header of this name."""
    after: str | None = None
    """The cursor of a listing."""
    fault: Kind | None = None
    """What befell it."""
    status: int | None = None
    """The status of the reply, as soon as there is one."""
    bytes_received: int = 0
    """How much of the request's body had come when the request was done with."""
    bytes_sent: int = 0
    """How much of the response's body has gone, or waits in the socket's buffer."""

    def count_sent(self, size: int, _: int) -> None:
        """Add to the bytes that were sent."""
        self.bytes_sent += size


RECEIVED: Final = web.RequestKey("RECEIVED", ReceivedRequest)
"""Where a request holds its entry in the record."""


class Record:
    """The latest requests, in the order in which they came; those to other URLs are left out."""

    def __init__(self, size: int) -> None:
        self._requests: deque[ReceivedRequest] = deque(maxlen=size)

    @property
    def requests(self) -> Sequence[ReceivedRequest]:
        """Give those that have come by now."""
        return tuple(self._requests)

    def middleware(self) -> Middleware:
        """Make the middleware that enters each request."""

        @web.middleware
        async def enter(request: web.Request, handler: Handler) -> web.StreamResponse:
            received = _received(request)
            if received is None:
                return await handler(request)
            self._requests.append(received)
            request[RECEIVED] = received
            try:
                return await handler(request)
            finally:
                received.bytes_received = request.content.total_bytes

        return enter


async def note_reply(request: web.Request, response: web.StreamResponse) -> None:
    """Enter the reply, of which nothing was sent yet, and what will be sent of its body."""
    received = request.get(RECEIVED)
    if received is not None:
        received.status = response.status
        request.writer.on_body_write = received.count_sent


def _received(request: web.Request) -> ReceivedRequest | None:
    resource = request.match_info.route.resource
    path = "" if resource is None else resource.canonical
    operation = _OPERATIONS.get((request.method, path))
    if operation is None:
        return None
    return ReceivedRequest(
        operation,
        file_id=request.match_info.get("file_id"),
        range=request.headers.get("Range"),
        after=request.query.get("after"),
    )
