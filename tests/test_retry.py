"""Which failures are tried again, and after how long."""

from __future__ import annotations

import math
from random import Random

import attrs
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from aiofiles_api import (
    APIConnectionError,
    ConfigurationError,
    FilesError,
    InternalServerError,
    RateLimitError,
    RetryPolicy,
)
from aiofiles_api.retry import delay_before_retry, why_no_retry

seconds = st.floats(0, 1e12)
anything = st.floats(allow_nan=False)
fractions = st.floats(0, 1)


@st.composite
def policies(draw: st.DrawFn) -> RetryPolicy:
    return RetryPolicy(
        attempts=draw(st.integers(1, 1_000)),
        backoff=draw(seconds | st.sampled_from([0.0, 1e308])),
        max_backoff=draw(seconds | st.sampled_from([0.0, 1.7e308])),
        max_retry_after=draw(seconds),
        deadline=draw(st.none() | seconds),
    )


@st.composite
def failures(draw: st.DrawFn) -> FilesError:
    retryable = draw(st.booleans())
    if draw(st.booleans()):
        return APIConnectionError("lost", retryable=retryable)
    return RateLimitError(
        "slow down",
        status_code=429,
        message="slow down",
        retry_after=draw(st.none() | seconds | anything),
        retryable=retryable,
    )


def failure(retry_after: float | None = None) -> FilesError:
    return InternalServerError(
        "failed", status_code=503, message="failed", retry_after=retry_after, retryable=True
    )


@given(policies(), failures(), st.integers(1, 2_000), seconds, fractions)
@example(RetryPolicy(backoff=1e308, max_backoff=1e308), failure(), 1_999, 0.0, 0.0)
def test_a_delay_stays_within_every_bound(
    policy: RetryPolicy, error: FilesError, attempt: int, elapsed: float, fraction: float
) -> None:
    delay = delay_before_retry(
        policy, error, attempt=attempt, elapsed=elapsed, random=lambda: fraction
    )
    if delay is None:
        return
    assert error.retryable
    assert attempt < policy.attempts
    assert 0 <= delay < math.inf
    asked = getattr(error, "retry_after", None) or 0
    assert delay <= max(policy.max_retry_after if asked > 0 else 0.0, policy.max_backoff)
    if policy.deadline is not None:
        assert elapsed + delay < policy.deadline


@given(policies(), seconds.filter(bool), seconds)
def test_the_wait_that_a_server_asks_for_is_kept_to_the_second(
    policy: RetryPolicy, asked: float, elapsed: float
) -> None:
    policy = attrs.evolve(policy, attempts=2)
    delay = delay_before_retry(
        policy, failure(asked), attempt=1, elapsed=elapsed, random=pytest.fail
    )
    in_time = policy.deadline is None or elapsed + asked < policy.deadline
    assert delay == (asked if asked <= policy.max_retry_after and in_time else None)


@given(policies(), st.integers(1, 2_000), fractions)
def test_what_is_not_retryable_is_never_tried_again(
    policy: RetryPolicy, attempt: int, fraction: float
) -> None:
    error = APIConnectionError("no such certificate", retryable=False)
    delay = delay_before_retry(policy, error, attempt=attempt, elapsed=0.0, random=lambda: fraction)
    assert delay is None


@given(st.integers(1, 50), st.integers(0))
def test_the_attempts_are_as_many_as_the_policy_says(attempts: int, seed: int) -> None:
    policy = RetryPolicy(attempts=attempts)
    random = Random(seed).random
    made = 1
    while (
        delay_before_retry(policy, failure(), attempt=made, elapsed=0.0, random=random) is not None
    ):
        made += 1
    assert made == attempts


@given(policies(), st.integers(1, 60), fractions)
def test_the_bound_doubles_with_each_attempt_up_to_the_largest(
    policy: RetryPolicy, attempt: int, fraction: float
) -> None:
    policy = attrs.evolve(policy, attempts=100, deadline=None)
    delay = delay_before_retry(
        policy, failure(), attempt=attempt, elapsed=0.0, random=lambda: fraction
    )
    assert delay == fraction * min(policy.backoff * 2 ** (attempt - 1), policy.max_backoff)


def test_waits_grow_where_a_server_asks_for_short_ones_again_and_again() -> None:
    policy = RetryPolicy(attempts=8, backoff=0.5)
    delays = [
        delay_before_retry(policy, failure(0.05), attempt=n, elapsed=0.0, random=lambda: 0.5)
        for n in range(1, 8)
    ]
    assert delays == [0.05, 0.5, 1.0, 2.0, 4.0, 8.0, 15.0]


@pytest.mark.parametrize("asked", [0.0, -3.0])
def test_a_server_that_asks_for_no_wait_is_not_asked_again_at_once(asked: float) -> None:
    delay = delay_before_retry(
        RetryPolicy(backoff=0.5), failure(asked), attempt=2, elapsed=0.0, random=lambda: 0.5
    )
    assert delay == 0.5


@pytest.mark.parametrize(
    "values",
    [
        {"attempts": 0},
        {"attempts": -1},
        {"attempts": 2.5},
        {"attempts": math.nan},
        {"attempts": True},
        {"backoff": -0.1},
        {"backoff": math.nan},
        {"backoff": math.inf},
        {"backoff": None},
        {"backoff": "1"},
        {"max_backoff": -1},
        {"max_backoff": math.inf},
        {"max_retry_after": -1},
        {"max_retry_after": math.nan},
        {"deadline": -1},
        {"deadline": math.nan},
    ],
    ids=str,
)
def test_a_policy_that_cannot_work_is_refused(values: dict[str, float]) -> None:
    (name,) = values
    with pytest.raises(ConfigurationError, match=rf"RetryPolicy\.{name} is .*; pass "):
        RetryPolicy(**values)  # type: ignore[arg-type]


def test_no_retries_and_no_waiting_are_policies() -> None:
    policy = RetryPolicy(attempts=1, backoff=0, max_backoff=0, max_retry_after=0, deadline=0)
    delay = delay_before_retry(policy, failure(), attempt=1, elapsed=0, random=pytest.fail)
    assert delay is None


def test_whoever_gets_no_other_attempt_is_told_why() -> None:
    policy = RetryPolicy(attempts=3, max_retry_after=120)
    assert why_no_retry(policy, failure(121), 1, is_last=False) == (
        "The server asks to wait 121 s, more than RetryPolicy.max_retry_after (120 s) allows."
    )
    last = "This was attempt 3, the last that the RetryPolicy allows."
    assert why_no_retry(policy, failure(120), 3, is_last=True) == last
    assert why_no_retry(policy, failure(), 3, is_last=True) == last
    assert why_no_retry(policy, APIConnectionError("lost"), 3, is_last=True) == last
    bounded = RetryPolicy(deadline=9)
    assert why_no_retry(bounded, failure(), 2, is_last=False) == (
        "This was attempt 2; another one would begin behind RetryPolicy.deadline (9 s)."
    )
