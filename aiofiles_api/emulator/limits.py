"""Answer requests with 429 that come faster than a limit allows, as the service does."""

import math
import time
from collections import deque
from typing import Literal

import attrs
from aiohttp import web
from aiohttp.typedefs import Handler, Middleware
from attrs.validators import ge, gt, in_, instance_of, lt

from aiofiles_api.emulator.app import ApiError
from aiofiles_api.emulator.faults import OPERATIONS, Operation
from aiofiles_api.emulator.injection import drop_body
from aiofiles_api.emulator.record import RECEIVED

__all__ = ["Fixed", "Limiter", "RateLimit", "Sliding"]


@attrs.frozen
class RateLimit:
    """Allow so many requests in so many seconds, to each operation by itself.

    The others are answered with 429, the time to wait, and nothing done; they do not count. With
    `on` there is a limit for this operation alone. A "sliding" window is the time before each
    request; "fixed" ones follow each other from the first request on, and each has all of its
    requests whenever they come.

    Raises:
        TypeError: A value is not of its type.
        ValueError: A value is out of its bounds.
    """

    requests: int = attrs.field(validator=[instance_of(int), ge(1)])
    seconds: float = attrs.field(
        default=60.0, validator=[instance_of((int, float)), gt(0), lt(math.inf)]
    )
    on: Operation | Literal["any"] = attrs.field(
        default="any", kw_only=True, validator=in_(("any", *sorted(OPERATIONS)))
    )
    window: Literal["sliding", "fixed"] = attrs.field(
        default="sliding", kw_only=True, validator=in_(("sliding", "fixed"))
    )


class Sliding:
    """What is left of a limit whose window is the time before each request."""

    def __init__(self, limit: RateLimit) -> None:
        self._limit = limit
        self._taken: deque[float] = deque()

    def take(self, now: float) -> float:
        """Take a request and return 0, or return the seconds until there is one to take."""
        while self._taken and self._taken[0] <= now - self._limit.seconds:
            self._taken.popleft()
        if len(self._taken) < self._limit.requests:
            self._taken.append(now)
            return 0.0
        return self._taken[0] + self._limit.seconds - now


class Fixed:
    """What is left of a limit whose windows follow each other."""

    def __init__(self, limit: RateLimit) -> None:
        self._limit = limit
        self._begin = -math.inf
        self._taken = 0

    def take(self, now: float) -> float:
        """Take a request and return 0, or return the seconds until there is one to take."""
        age = now - self._begin
        if age >= self._limit.seconds:
            self._begin = now if math.isinf(age) else now - age % self._limit.seconds
            self._taken = 0
        if self._taken < self._limit.requests:
            self._taken += 1
            return 0.0
        return self._begin + self._limit.seconds - now


class Limiter:
    """Hold an application's requests against a limit, if there is one."""

    def __init__(self, limit: RateLimit | None) -> None:
        self._limit = limit
        self._left: dict[Operation, Sliding | Fixed] = {}
        if limit is not None:
            window = Sliding if limit.window == "sliding" else Fixed
            limited = OPERATIONS if limit.on == "any" else frozenset((limit.on,))
            self._left = {operation: window(limit) for operation in limited}

    def middleware(self) -> Middleware:
        """Make the middleware that does so, behind the one of the record."""

        @web.middleware
        async def hold_against(request: web.Request, handler: Handler) -> web.StreamResponse:
            received = request.get(RECEIVED)
            left = None if received is None else self._left.get(received.operation)
            wait = 0.0 if left is None else left.take(time.monotonic())
            if wait:
                await drop_body(request, "end")
                return _refusal(wait)
            return await handler(request)

        return hold_against


def _refusal(seconds: float) -> web.Response:
    return ApiError(
        429,
        "Rate limit reached: too many requests.",
        kind="requests",
        code="rate_limit_exceeded",
        headers={
            "Retry-After": str(math.ceil(seconds)),
            "retry-after-ms": str(math.ceil(seconds * 1000)),
        },
    ).response()
