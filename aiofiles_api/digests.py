"""Digests, and a number with each, in little memory: 18 to 36 bytes an entry."""

from __future__ import annotations

from array import array

__all__ = ["Digests"]

_FIRST_SLOTS = 64


class Digests:
    """The first 8 bytes of each of many digests, in a table with open addressing.

    Two digests that begin alike are the same here; whoever asks must be able to bear that.
    """

    def __init__(self) -> None:
        self._values = array("Q", bytes(8 * _FIRST_SLOTS))
        self._numbers = array("I", bytes(4 * _FIRST_SLOTS))
        self._count = 0

    def add(self, digest: bytes, number: int = 0) -> bool:
        """Put a digest with a number in; `False` when it was there with that number."""
        if not self._put(_value(digest), number):
            return False
        self._count += 1
        if 3 * self._count > 2 * len(self._values):
            self._grow()
        return True

    def numbers(self, digest: bytes) -> list[int]:
        """Return the numbers with which a digest was put in."""
        value, values = _value(digest), self._values
        mask = len(values) - 1
        place = value & mask
        found = []
        while values[place]:
            if values[place] == value:
                found.append(self._numbers[place])
            place = (place + 1) & mask
        return found

    def _put(self, value: int, number: int) -> bool:
        values = self._values
        mask = len(values) - 1
        place = value & mask
        while values[place]:
            if values[place] == value and self._numbers[place] == number:
                return False
            place = (place + 1) & mask
        values[place] = value
        self._numbers[place] = number
        return True

    def _grow(self) -> None:
        entries = zip(self._values, self._numbers, strict=True)
        size = 2 * len(self._values)
        self._values = array("Q", bytes(8 * size))
        self._numbers = array("I", bytes(4 * size))
        for value, number in entries:
            if value:
                self._put(value, number)


def _value(digest: bytes) -> int:
    return int.from_bytes(digest[:8], "little") or 1  # 0 is an empty slot
