"""How long a client holds back, for any course of events."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from aiofiles_api.pacing import Pacing

TIMES = st.floats(0, 1e6)


def test_nothing_is_held_back_at_first() -> None:
    pacing = Pacing()
    assert pacing.delay_before_request("POST files", now=5.0) == 0
    assert pacing.delay_before_retry(now=5.0) == 0


@given(st.lists(TIMES, min_size=1), TIMES)
def test_an_endpoint_is_held_until_the_latest_time_that_was_asked_for(
    untils: list[float], now: float
) -> None:
    pacing = Pacing()
    for until in untils:
        pacing.hold_back("POST files", until=until)
    assert pacing.delay_before_request("POST files", now=now) == max(max(untils) - now, 0)
    assert pacing.delay_before_request("GET files", now=now) == 0


def test_retries_are_spaced_out_when_the_quota_is_spent_and_free_again_after_successes() -> None:
    pacing = Pacing()
    assert [pacing.delay_before_retry(now=10.0) for _ in range(100)] == [0.0] * 100
    assert [pacing.delay_before_retry(now=10.0) for _ in range(4)] == [0.0, 0.5, 1.0, 1.5]
    assert pacing.delay_before_retry(now=11.0) == 1.0
    pacing.succeeded()
    assert pacing.delay_before_retry(now=11.0) == 0
    assert pacing.delay_before_retry(now=11.0) == 1.5


@given(st.lists(st.one_of(TIMES, st.none()), max_size=300))
def test_a_retry_is_never_refused_and_the_delay_is_bounded_by_how_many_wait(
    events: list[float | None],
) -> None:
    pacing, now, retries = Pacing(), 0.0, 0
    for event in events:
        if event is None:
            pacing.succeeded()
        else:
            now = max(now, event)
            retries += 1
            assert 0 <= pacing.delay_before_retry(now=now) <= 0.5 * retries


def test_successes_save_up_no_more_than_the_quota() -> None:
    pacing = Pacing()
    for _ in range(1_000):
        pacing.succeeded()
    for _ in range(101):
        pacing.delay_before_retry(now=1.0)
    assert pacing.delay_before_retry(now=1.0) == 0.5
