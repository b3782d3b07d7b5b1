"""Pure decision: how long must this client hold back before it sends?

Two mechanisms, for all operations of one client together; the clock is passed in:

- A schedule for each endpoint, which is one number: the time from which on the next request may go.
  Each request that goes moves it by the interval of the wanted rate, and a 429 with a time to wait
  moves it behind that time, so that many tasks do not each find out for themselves. It may lag
  behind the clock by a few intervals: that is the burst (the "generic cell rate algorithm", which
  is a leaky bucket without a timer). After a 429 there is none: what waited goes at the rate.
- A quota of retries: each retry takes a token, each success gives one back. When none is left,
  retries are spaced out, so that a server which fails is not stormed by all tasks at once. It
  delays and never refuses: how often an operation may try is the retry policy's matter alone.

A server counts in windows that begin when it likes, and the network delivers unevenly. So the
steady rate is 98 % of what is wanted, and the burst at most 1 %: no minute, wherever it begins, has
more than 99 % of what is allowed, and what comes 0.6 s late or early is still within it. The burst
is never more than 20 requests, so that this holds too where a server allows 1,000 in 3 s.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Final

from aiofiles_api.errors import ConfigurationError

__all__ = ["ENDPOINTS", "Pacing", "rate_of_each_endpoint"]

ENDPOINTS: Final = (
    "POST /files",
    "GET /files",
    "GET /files/{file_id}",
    "DELETE /files/{file_id}",
    "GET /files/{file_id}/content",
)
"""What a server limits together, as the API's reference writes it."""

_TOKENS = 100
"""Retries that may come as fast as their own delays allow, before they are spaced out."""

_SPACING = 0.5
"""Seconds between two retries of the client when no token is left."""

_STEADY_SHARE = 0.98
_BURST_SHARE = 0.01
_LARGEST_BURST = 20

_MINUTE = 60.0


def rate_of_each_endpoint(
    requests_per_minute: float | Mapping[str, float] | None,
) -> dict[str, float]:
    """Return the requests a minute for each endpoint that has a limit.

    Raises:
        ConfigurationError: A rate is not a finite number above 0, or an endpoint is unknown.
    """
    if requests_per_minute is None:
        return {}
    if not isinstance(requests_per_minute, Mapping):
        requests_per_minute = dict.fromkeys(ENDPOINTS, requests_per_minute)
    for endpoint, rate in requests_per_minute.items():
        if endpoint not in ENDPOINTS:
            known = ", ".join(map(repr, ENDPOINTS))
            msg = f"requests_per_minute: there is no endpoint {endpoint!r}; pass some of {known}"
            raise ConfigurationError(msg)
        if isinstance(rate, bool) or not isinstance(rate, int | float) or not 0 < rate < math.inf:
            msg = f"requests_per_minute is {rate!r}; pass a number above 0, or None for no limit"
            raise ConfigurationError(msg)
    return dict(requests_per_minute)


class _Schedule:
    """When the next request to one endpoint may go.

    Attributes:
        interval: Seconds between two requests; 0 is no limit.
        lag: Seconds by which the schedule may lag behind the clock: a burst's further requests.
        next_at: The time from which on the next request may go.
    """

    def __init__(self, interval: float = 0.0, lag: float = 0.0) -> None:
        self.interval = interval
        self.lag = lag
        self.next_at = -math.inf

    @classmethod
    def at_rate(cls, requests_per_minute: float) -> _Schedule:
        interval = _MINUTE / (requests_per_minute * _STEADY_SHARE)
        burst = max(min(int(requests_per_minute * _BURST_SHARE), _LARGEST_BURST), 1)
        return cls(interval, (burst - 1) * interval)


class Pacing:
    """What one client knows and has learnt of the server's patience.

    Args:
        rates: Requests a minute for each endpoint that has a limit.
    """

    def __init__(self, rates: Mapping[str, float]) -> None:
        self._schedules = {
            endpoint: _Schedule.at_rate(rates[endpoint]) if endpoint in rates else _Schedule()
            for endpoint in ENDPOINTS
        }
        self._tokens = _TOKENS
        self._next_spaced = 0.0

    def hold_back(self, endpoint: str, *, until: float) -> None:
        """Let nothing go to the endpoint before `until`, unless it is held longer already."""
        schedule = self._schedules[endpoint]
        schedule.next_at = max(until, schedule.next_at)

    def take_turn(self, endpoint: str, *, now: float) -> float:
        """Let a request go now and return 0, or return the seconds after which to ask again."""
        schedule = self._schedules[endpoint]
        if schedule.next_at > now:
            return schedule.next_at - now
        schedule.next_at = max(schedule.next_at, now - schedule.lag) + schedule.interval
        return 0.0

    def delay_before_retry(self, *, now: float) -> float:
        """Take a token, or return the seconds to the next free place in the row."""
        if self._tokens > 0:
            self._tokens -= 1
            return 0.0
        self._next_spaced = max(self._next_spaced + _SPACING, now)
        return self._next_spaced - now

    def succeeded(self) -> None:
        """Give a token back."""
        self._tokens = min(self._tokens + 1, _TOKENS)
