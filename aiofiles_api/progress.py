"""What a transfer tells about its progress, and to whom.

A sink is a plain callable. It is called on the event loop, so it must return quickly; what it
raises ends the transfer.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Protocol

import attrs

__all__ = ["Meter", "Progress", "ProgressSink"]

_INTERVAL = 0.05
"""Seconds between two reports: smooth to the eye, and no burden on the loop."""


@attrs.frozen
class Progress:
    """How far a transfer has come.

    Attributes:
        done: Bytes of the file moved so far. It may go back when an attempt starts anew.
        total: Bytes of the whole file, or `None` while the length is unknown.
        attempt: The number of the attempt, from 1.
    """

    done: int
    total: int | None
    attempt: int


class ProgressSink(Protocol):
    """Anything that can be called with a `Progress`."""

    def __call__(self, progress: Progress, /) -> object:
        """Take note of the progress; what is returned is ignored."""
        ...


class Meter:
    """Counts a transfer's bytes and reports them to a sink, a few tens of times a second."""

    def __init__(
        self, sink: ProgressSink | None, *, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._sink = sink
        self._clock = clock
        self._reported_at = -_INTERVAL
        self._attempt = 0
        self._total: int | None = None
        self._done = 0

    def begin(self, total: int | None, *, attempt: int, done: int = 0) -> None:
        """Start an attempt that has `done` bytes in hand, and report it."""
        self._total = total
        self._attempt = attempt
        self._done = done
        self._report()

    def advance(self, count: int) -> None:
        """Count `count` more bytes; report them if the last report is old enough."""
        self._done += count
        if self._sink is not None and self._clock() - self._reported_at >= _INTERVAL:
            self._report()

    def finish(self, total: int) -> None:
        """Report the end, whenever the last report was; the total is known now."""
        self._total = self._done = total
        self._report()

    def _report(self) -> None:
        if self._sink is not None:
            self._reported_at = self._clock()
            self._sink(Progress(self._done, self._total, self._attempt))
