"""Pure decision: how long must this client hold back before it sends?

Two mechanisms, for all operations of one client together; the clock is passed in:

- A hold-back: when the server answers 429 with a time to wait, every request of the client to that
  endpoint waits, so that many tasks do not each find out for themselves.
- A quota of retries: each retry takes a token, each success gives one back. When none is left,
  retries are spaced out, so that a server which fails is not stormed by all tasks at once. It
  delays and never refuses: how often an operation may try is the retry policy's matter alone.
"""

from __future__ import annotations

__all__ = ["Pacing"]

_TOKENS = 100
"""Retries that may come as fast as their own delays allow, before they are spaced out."""

_SPACING = 0.5
"""Seconds between two retries of the client when no token is left."""


class Pacing:
    """What one client has learnt about the server's patience."""

    def __init__(self) -> None:
        self._held_until: dict[str, float] = {}
        self._tokens = _TOKENS
        self._next_spaced = 0.0

    def hold_back(self, endpoint: str, *, until: float) -> None:
        """Let nothing go to the endpoint before `until`, unless it is held longer already."""
        self._held_until[endpoint] = max(until, self._held_until.get(endpoint, until))

    def delay_before_request(self, endpoint: str, *, now: float) -> float:
        """Return the seconds for which the endpoint is still held, 0 for none."""
        return max(self._held_until.get(endpoint, now) - now, 0.0)

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
