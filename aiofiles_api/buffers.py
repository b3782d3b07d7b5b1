"""How much memory a client's transfers may fill, divided among those that are under way.

One transfer alone works in large pieces, which cost the least; with many at one time each takes
smaller ones, so that together they need no more. Nobody waits for a share: there is always one.

What one transfer has filled, the next one fills again: memory that is new to the process is given
to it 4 KB at a time, and that costs about as much as receiving into it.
"""

from __future__ import annotations

import asyncio
from types import TracebackType

__all__ = ["Buffers"]

_KEPT = 2.0
"""Seconds for which buffers are kept that nobody uses."""


class Buffers:
    """A number of bytes and how many share it: a context manager that each of them enters.

    Args:
        total: Bytes that all shares together are, and bytes that are kept at most.
        least: Bytes that each has in any case.
        most: Bytes beyond which more would not make one any faster.
    """

    def __init__(self, total: int, *, least: int, most: int) -> None:
        self._total = total
        self._least = least
        self._most = most
        self._sharing = 0
        self._kept: list[bytearray] = []
        self._is_in_use = False
        self._timer: asyncio.TimerHandle | None = None

    def share(self) -> int:
        """Bytes that one of those who share may fill now; it changes as others come and go."""
        share = self._most
        # In halves, so that what one gives back is often just what the next one needs.
        while share * self._sharing > self._total and share > self._least:
            share //= 2
        return max(share, self._least)

    def lend(self) -> bytearray:
        """Return a buffer of a share's length, to be given back; there is anything in it."""
        self._is_in_use = True
        share = self.share()
        for index, buffer in enumerate(self._kept):
            if len(buffer) == share:
                return self._kept.pop(index)
        return bytearray(share)

    def take_back(self, buffer: bytearray) -> None:
        """Keep a buffer for the next one who needs one; nobody else may still read or fill it."""
        self._kept.append(buffer)
        while sum(map(len, self._kept)) > self._total:
            self._kept.pop(0)
        if self._timer is None:
            self._look_later()

    def close(self) -> None:
        """Let go what is kept."""
        self._kept.clear()
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _look_later(self) -> None:
        self._is_in_use = False
        self._timer = asyncio.get_running_loop().call_later(_KEPT, self._look)

    def _look(self) -> None:
        """Let go what nobody has used since the last look."""
        self._timer = None
        if self._is_in_use:
            self._look_later()
        else:
            self._kept.clear()

    def __enter__(self) -> None:
        self._sharing += 1

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._sharing -= 1
