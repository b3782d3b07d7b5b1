"""Decide which fault befalls which request: a pure function of the faults and what came before."""

import random
from collections.abc import Iterable, Sequence

from aiofiles_api.emulator.faults import (
    Fault,
    IgnoreRange,
    Kind,
    RepeatPage,
    WrongContentRange,
    operations_of,
)
from aiofiles_api.emulator.record import ReceivedRequest

__all__ = ["Schedule"]


class Schedule:
    """Hand out faults, request by request."""

    def __init__(self, faults: Iterable[Fault]) -> None:
        self._turns = [_Turn(fault, place) for place, fault in enumerate(faults)]

    @property
    def is_empty(self) -> bool:
        """Are there no faults at all?"""
        return not self._turns

    def next(self, request: ReceivedRequest) -> Kind | None:
        """Tell what befalls the request, which is the next one."""
        befalling: Kind | None = None
        for turn in self._turns:
            kinds = _kinds_for(turn.fault, request)
            if kinds:
                drawn = turn.draw(kinds)
                if befalling is None and drawn is not None:
                    turn.befallen += 1
                    befalling = drawn
        return befalling


class _Turn:
    """How far one fault is."""

    def __init__(self, fault: Fault, place: int) -> None:
        self.fault = fault
        self.befallen = 0
        self._seen = 0
        self._random = random.Random(f"{fault.seed}/{place}")  # noqa: S311 - it is to be repeatable
        once_or_always = None if fault.nth is None else 1
        self._times = once_or_always if fault.times is None else fault.times

    def draw(self, kinds: Sequence[Kind]) -> Kind | None:
        """Draw one of the kinds, if the fault is due."""
        self._seen += 1
        # Two numbers for each request, so that a draw does not depend on what came of the others.
        whether, which = self._random.random(), self._random.random()
        is_due = self._seen >= (self.fault.nth or 1) and self.befallen != self._times
        if not is_due or whether >= self.fault.probability:
            return None
        return kinds[int(which * len(kinds))]


def _kinds_for(fault: Fault, request: ReceivedRequest) -> list[Kind]:
    if fault.on not in {"any", request.operation}:
        return []
    return [kind for kind in fault.kinds if _can_befall(kind, request)]


def _can_befall(kind: Kind, request: ReceivedRequest) -> bool:
    match kind:
        case WrongContentRange() | IgnoreRange() if request.range is None:
            return False
        case RepeatPage() if request.after is None:
            return False
        case _:
            return request.operation in operations_of(kind)
