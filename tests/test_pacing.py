"""How long a client holds back, for any course of events."""

from __future__ import annotations

import math

import attrs
import pytest
from hypothesis import given
from hypothesis import strategies as st

from aiofiles_api import ConfigurationError
from aiofiles_api.emulator.limits import Fixed, RateLimit, Sliding
from aiofiles_api.pacing import ENDPOINTS, Pacing, rate_of_each_endpoint

TIMES = st.floats(0, 1e6)
RATES = st.one_of(st.floats(1, 100_000), st.integers(1, 100_000))

UPLOADS = "POST /files"


@attrs.define
class Run:
    """Requests to one endpoint, as fast as they may go, by a clock of their own.

    Attributes:
        pacing: What holds them back.
        now: The time.
        sent: When each of them went.
    """

    pacing: Pacing
    now: float = 0.0
    sent: list[float] = attrs.field(factory=list)

    def send(self, late: float = 0.0) -> float:
        """Wait for the next turn, from which one wakes up somewhat late, and take it."""
        while delay := self.pacing.take_turn(UPLOADS, now=self.now):
            # At least so much that the clock moves.
            self.now = max(self.now + delay + late, math.nextafter(self.now, math.inf))
        self.sent.append(self.now)
        return self.now


def paced(requests_per_minute: float, now: float = 0.0) -> Run:
    return Run(Pacing({UPLOADS: requests_per_minute}), now)


def most_in_any(seconds: float, times: list[float]) -> int:
    """Count the requests of the fullest window; one is the fullest that begins with a request."""
    most = end = 0
    for begin, first in enumerate(times):
        while end < len(times) and times[end] < first + seconds:
            end += 1
        most = max(most, end - begin)
    return most


# --- the rate ------------------------------------------------------------------------------------


@given(RATES, st.lists(st.tuples(st.integers(1, 60), st.floats(0, 100)), min_size=1, max_size=20))
def test_no_minute_has_more_than_the_rate_wherever_it_begins(
    rate: float, bursts: list[tuple[int, float]]
) -> None:
    run = paced(rate)
    for count, pause in bursts:
        for _ in range(count):
            run.send()
        run.now += pause
    assert most_in_any(60, run.sent) <= max(0.99 * rate + 1, 1)
    # Servers that allow 1,000 a minute are often tried out at 1,000 in 3 s.
    assert most_in_any(3, run.sent) <= max(0.98 * rate / 20 + 20, 1)


@pytest.mark.parametrize("rate", [1, 10, 60, 200, 1000, 5000, 20_000])
def test_over_a_long_run_at_least_95_percent_of_the_rate_are_used(rate: int) -> None:
    run = paced(rate)
    while run.now < 600:
        # A thousandth of a second late, as a loop's timers are.
        run.send(late=0.001)
    used = (len(run.sent) - 1) * 60 / run.sent[-1] / rate
    assert 0.95 < used <= 1


@pytest.mark.parametrize(("rate", "burst"), [(1, 1), (60, 1), (500, 5), (1000, 10), (20_000, 20)])
def test_a_burst_has_one_percent_of_a_minutes_requests_and_at_most_20(
    rate: float, burst: int
) -> None:
    for run in (paced(rate), paced(rate, now=1e6)):
        began = run.now
        for _ in range(burst):
            assert run.send() == pytest.approx(began, abs=1e-9)
        assert run.send() == pytest.approx(began + 60 / (0.98 * rate))
        run.now += 1000
        again = run.now
        assert [run.send() for _ in range(burst)] == pytest.approx([again] * burst, abs=1e-9)
        assert run.send() > again


@given(RATES, TIMES, st.floats(0.01, 100))
def test_what_was_held_back_goes_evenly_and_not_in_a_burst(
    rate: float, now: float, held: float
) -> None:
    run = paced(rate, now)
    run.pacing.hold_back(UPLOADS, until=now + held)
    interval = 60 / (0.98 * rate)
    for number in range(30):
        assert run.send() == pytest.approx(now + held + number * interval, abs=1e-6)


@pytest.mark.parametrize("seconds", [3.0, 60.0])
@given(
    st.integers(5, 1000), st.floats(0, 1), st.lists(st.floats(0, 0.003), min_size=1, max_size=50)
)
def test_servers_refuse_next_to_nothing_however_they_count(
    seconds: float, allowed: int, phase: float, delays: list[float]
) -> None:
    limit = RateLimit(allowed, seconds)
    fixed = Fixed(limit)
    fixed.take(-phase * seconds)  # somebody's, long ago
    windows: tuple[Sliding | Fixed, ...] = (Sliding(limit), fixed)
    run = paced(allowed * 60 / seconds)
    refused = [0, 0]
    count = max(1000, 3 * allowed)
    for number in range(count):
        arrives = run.send() + delays[number % len(delays)] * seconds / 3
        for which, window in enumerate(windows):
            refused[which] += window.take(arrives) > 0
    assert max(refused) < 0.01 * count + 10


@pytest.mark.parametrize("rate", [0, -1, math.nan, math.inf, True, "1000"], ids=repr)
def test_a_rate_that_cannot_work_is_refused(rate: float) -> None:
    for given_ in (rate, {UPLOADS: rate}):
        with pytest.raises(ConfigurationError, match=r"requests_per_minute is .*; pass a number"):
            rate_of_each_endpoint(given_)


def test_a_rate_for_an_unknown_endpoint_is_refused_and_the_known_ones_are_named() -> None:
    with pytest.raises(ConfigurationError, match=r"no endpoint 'upload'; pass some of 'POST /file"):
        rate_of_each_endpoint({"upload": 1000})


def test_a_rate_is_for_each_endpoint_by_itself_or_for_those_that_are_named() -> None:
    assert rate_of_each_endpoint(None) == {}
    assert rate_of_each_endpoint(1000) == dict.fromkeys(ENDPOINTS, 1000)
    assert rate_of_each_endpoint({UPLOADS: 0.5}) == {UPLOADS: 0.5}
    pacing = Pacing(rate_of_each_endpoint(1))
    assert [pacing.take_turn(each, now=5.0) for each in ENDPOINTS] == [0] * 5
    assert all(pacing.take_turn(each, now=5.0) for each in ENDPOINTS)
    pacing = Pacing({UPLOADS: 1})
    assert not any(pacing.take_turn("GET /files", now=5.0) for _ in range(1000))


# --- what the server says ------------------------------------------------------------------------


def test_nothing_is_held_back_at_first() -> None:
    pacing = Pacing({})
    assert pacing.take_turn(UPLOADS, now=5.0) == 0
    assert pacing.delay_before_retry(now=5.0) == 0


@given(st.lists(TIMES, min_size=1), TIMES)
def test_an_endpoint_is_held_until_the_latest_time_that_was_asked_for(
    untils: list[float], now: float
) -> None:
    pacing = Pacing({})
    for until in untils:
        pacing.hold_back(UPLOADS, until=until)
    assert pacing.take_turn(UPLOADS, now=now) == max(max(untils) - now, 0)
    assert pacing.take_turn("GET /files", now=now) == 0


def test_a_schedule_that_is_behind_the_time_asked_for_is_not_moved_forward() -> None:
    run = paced(6)
    run.send()
    run.pacing.hold_back(UPLOADS, until=1.0)
    assert run.send() == pytest.approx(10 / 0.98)


# --- retries -------------------------------------------------------------------------------------


def test_retries_are_spaced_out_when_the_quota_is_spent_and_free_again_after_successes() -> None:
    pacing = Pacing({})
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
    pacing, now, retries = Pacing({}), 0.0, 0
    for event in events:
        if event is None:
            pacing.succeeded()
        else:
            now = max(now, event)
            retries += 1
            assert 0 <= pacing.delay_before_retry(now=now) <= 0.5 * retries


def test_successes_save_up_no_more_than_the_quota() -> None:
    pacing = Pacing({})
    for _ in range(1_000):
        pacing.succeeded()
    for _ in range(101):
        pacing.delay_before_retry(now=1.0)
    assert pacing.delay_before_retry(now=1.0) == 0.5
