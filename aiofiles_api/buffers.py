"""How much memory a client's transfers may fill, divided among those that are under way.

One transfer alone works in large pieces, which cost the least; with many at one time each takes
smaller ones, so that together they need no more. Nobody waits for a share: there is always one.
"""

from __future__ import annotations

from types import TracebackType

__all__ = ["Buffers"]


class Buffers:
    """A number of bytes and how many share it: a context manager that each of them enters.

    Args:
        total: Bytes for all together.
        least: Bytes that each has in any case.
        most: Bytes beyond which more would not make one any faster.
    """

    def __init__(self, total: int, *, least: int, most: int) -> None:
        self._total = total
        self._least = least
        self._most = most
        self._sharing = 0

    def share(self) -> int:
        """Bytes that one of those who share may fill now; it changes as others come and go."""
        return max(self._least, min(self._total // max(self._sharing, 1), self._most))

    def __enter__(self) -> None:
        self._sharing += 1

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._sharing -= 1
