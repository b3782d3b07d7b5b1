"""How a transfer tells about its progress."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aiofiles_api import Progress
from aiofiles_api.progress import Meter


class Clock:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


def test_begin_and_finish_are_always_reported() -> None:
    reports: list[Progress] = []
    meter = Meter(reports.append, clock=Clock())
    meter.begin(10, attempt=1)
    meter.finish(10)
    assert reports == [Progress(0, 10, 1), Progress(10, 10, 1)]


def test_the_total_is_known_at_the_end_of_a_transfer_of_unknown_length() -> None:
    reports: list[Progress] = []
    meter = Meter(reports.append)
    meter.begin(None, attempt=1)
    meter.advance(7)
    meter.finish(7)
    assert [report.total for report in reports] == [None, 7]
    assert reports[-1].done == 7


def test_what_is_done_goes_back_when_an_attempt_starts_anew() -> None:
    clock = Clock()
    reports: list[Progress] = []
    meter = Meter(reports.append, clock=clock)
    meter.begin(10, attempt=1)
    clock.now = 1.0
    meter.advance(8)
    meter.begin(10, attempt=2)
    meter.begin(10, attempt=3, done=4)
    assert reports == [
        Progress(0, 10, 1),
        Progress(8, 10, 1),
        Progress(0, 10, 2),
        Progress(4, 10, 3),
    ]


@given(st.lists(st.tuples(st.integers(0, 1 << 20), st.floats(0, 0.2)), max_size=100))
def test_reports_are_neither_rare_nor_many(steps: list[tuple[int, float]]) -> None:
    clock = Clock()
    reported_at: list[float] = []
    reports: list[Progress] = []

    def sink(progress: Progress) -> None:
        reported_at.append(clock.now)
        reports.append(progress)

    meter = Meter(sink, clock=clock)
    meter.begin(None, attempt=1)
    done = 0
    for count, elapsed in steps:
        clock.now += elapsed
        done += count
        meter.advance(count)
        # Whoever looks sees a state that is at most 50 ms old, as long as bytes move.
        assert clock.now - reported_at[-1] < 0.05
    assert all(later - earlier >= 0.05 for earlier, later in pairwise(reported_at))
    meter.finish(done)
    assert reports[-1] == Progress(done, done, 1)


def test_what_a_sink_raises_comes_out() -> None:
    class EnoughError(Exception):
        pass

    def sink(progress: Progress) -> None:
        if progress.done:
            raise EnoughError

    meter = Meter(sink, clock=Clock())
    meter.begin(1, attempt=1)
    meter.advance(1)  # within the interval: not reported
    with pytest.raises(EnoughError):
        meter.finish(1)


def test_nothing_is_called_and_no_clock_is_read_without_a_sink() -> None:
    meter = Meter(None, clock=pytest.fail)
    meter.begin(10, attempt=1)
    meter.advance(10)
    meter.finish(10)


def test_a_transfer_reports_by_the_clock_of_the_process_by_default() -> None:
    reports: list[Progress] = []
    meter = Meter(reports.append)
    meter.begin(3, attempt=1)
    meter.advance(3)
    meter.finish(3)
    assert reports[-1] == Progress(3, 3, 1)
