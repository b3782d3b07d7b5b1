"""Pure decision: may a failed attempt be made again, and after how long?

The error says whether it is worth it (`retryable`) and what the server asked for (`retry_after`),
which the first retry waits for exactly, and later ones at least.
Otherwise the delay is exponential with full jitter: any time up to a bound that doubles with each
attempt, so that many clients that failed together do not come back together
(https://aws.amazon.com/blogs/architecture/exponential-backoff-and-jitter/).
"""

from __future__ import annotations

import math
from collections.abc import Callable

import attrs

from aiofiles_api.errors import APIStatusError, ConfigurationError, FilesError

__all__ = ["RetryPolicy", "delay_before_retry", "why_no_retry"]


@attrs.frozen(kw_only=True)
class RetryPolicy:
    """How often and how patiently a failed request is made again.

    Attributes:
        attempts: Requests in all, the first one included; 1 means no retries.
        backoff: Seconds; the bound of the first delay, doubled for each further one.
        max_backoff: Seconds; the bound that the doubling stops at.
        max_retry_after: Seconds; a server that asks for a longer wait ends the operation at once.
        deadline: Seconds for the whole operation, or `None`; no retry begins that would pass it.

    Raises:
        ConfigurationError: A value is out of its range.
    """

    attempts: int = 8
    backoff: float = 0.5
    max_backoff: float = 30.0
    max_retry_after: float = 120.0
    deadline: float | None = None

    def __attrs_post_init__(self) -> None:
        """Refuse what cannot work."""
        if type(self.attempts) is not int or self.attempts < 1:
            msg = f"RetryPolicy.attempts is {self.attempts!r}; pass 1 (no retries) or more"
            raise ConfigurationError(msg)
        for name in ("backoff", "max_backoff", "max_retry_after", "deadline"):
            seconds = getattr(self, name)
            if not _is_duration(seconds) and not (name == "deadline" and seconds is None):
                msg = f"RetryPolicy.{name} is {seconds!r}; pass a number of seconds, 0 or more"
                raise ConfigurationError(msg)


def _is_duration(seconds: object) -> bool:
    # Not infinite: a random 0 times infinity is no number.
    return isinstance(seconds, int | float) and 0 <= seconds < math.inf


def delay_before_retry(
    policy: RetryPolicy,
    error: FilesError,
    *,
    attempt: int,
    elapsed: float,
    random: Callable[[], float],
) -> float | None:
    """Return the seconds to wait before the next attempt, or `None` when there must be none.

    Args:
        policy: The bounds.
        error: How the attempt failed.
        attempt: The number of the attempt that failed, from 1.
        elapsed: Seconds since the operation began.
        random: Gives a number from 0 to 1.
    """
    if not error.retryable or attempt >= policy.attempts:
        return None
    asked = (error.retry_after if isinstance(error, APIStatusError) else None) or 0.0
    if asked > policy.max_retry_after:
        return None
    delay = asked
    # Of those who wait for the same moment one may be served; and all attempts at waits of a few
    # milliseconds, or of none, would be over before an overloaded server is well again.
    if asked <= 0 or attempt > 1:
        # The exponent is capped before it can overflow a float.
        bound = min(policy.backoff * 2.0 ** min(attempt - 1, 64), policy.max_backoff)
        delay = max(asked, random() * bound)
    if policy.deadline is not None and elapsed + delay >= policy.deadline:
        return None
    return delay


def why_no_retry(policy: RetryPolicy, error: FilesError, attempt: int, *, is_last: bool) -> str:
    """Say why an error that is worth another attempt gets none.

    Args:
        policy: The bounds.
        error: How the attempt failed.
        attempt: Its number, from 1.
        is_last: Whether it was the last that the policy allows.
    """
    asked = error.retry_after if isinstance(error, APIStatusError) else None
    if asked is not None and asked > policy.max_retry_after:
        return (
            f"The server asks to wait {asked:g} s, more than RetryPolicy.max_retry_after"
            f" ({policy.max_retry_after:g} s) allows."
        )
    if is_last:
        return f"This was attempt {attempt}, the last that the RetryPolicy allows."
    return (
        f"This was attempt {attempt}; another one would begin behind RetryPolicy.deadline"
        f" ({policy.deadline:g} s)."
    )
