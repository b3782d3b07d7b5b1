"""Pure decision: would the service refuse this file? Better to know before the first one is sent.

What is checked can be switched off, for servers with other limits.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from typing import Final, Literal, TypeAlias, get_args

__all__ = ["CHECKS", "LONGEST_LINE", "Check", "LineCheck", "has_lines", "problem_of"]

Check: TypeAlias = Literal["empty", "size", "suffix", "json"]

CHECKS: Final[frozenset[Check]] = frozenset(get_args(Check))

LONGEST_LINE: Final = 16 * 1024 * 1024
"""Bytes; what is longer is not read as JSON, so as not to hold it in memory."""

_LARGEST = 512 * 1024 * 1024
_LARGEST_BATCH = 200 * 1024 * 1024
_OF_LINES = frozenset({"batch", "fine-tune"})


def problem_of(
    filename: str, size: int | None, purpose: str, checks: Iterable[Check]
) -> tuple[Check, str] | None:
    """Return what is wrong with a file as far as its name and size tell, and which check says so.

    Args:
        filename: What it will be called.
        size: Its bytes, if known.
        purpose: What it is for.
        checks: What to look at.
    """
    wanted = frozenset(checks)
    largest = _LARGEST_BATCH if purpose == "batch" else _LARGEST
    if "empty" in wanted and size == 0:
        return "empty", "it is empty"
    if "size" in wanted and size is not None and size > largest:
        limit = f"{largest // (1024 * 1024)} MB"
        return "size", f"it has {size:,} bytes, and purpose {purpose} allows {limit}; split it"
    if "suffix" in wanted and purpose in _OF_LINES and not filename.lower().endswith(".jsonl"):
        return "suffix", f"purpose {purpose} needs a .jsonl file, a JSON object in each line"
    return None


def has_lines(purpose: str) -> bool:
    """Return whether files with this purpose consist of lines of JSON."""
    return purpose in _OF_LINES


class LineCheck:
    """Looks at the lines of a file one after the other.

    Attributes:
        problem: What is wrong with the first line that is no JSON.
    """

    def __init__(self) -> None:
        self.problem: str | None = None
        self._number = 0

    def take(self, line: bytes) -> bool:
        """Look at the next line; return whether all is well so far."""
        self._number += 1
        if line.strip() and not _is_json(line):
            self.problem = f"line {self._number:,} is not JSON"
        return self.problem is None

    def pass_over(self) -> None:
        """Count a line that is too long to be looked at."""
        self._number += 1


def _is_json(line: bytes) -> bool:
    try:
        json.loads(line.decode(), parse_constant=_refuse)
    except (ValueError, RecursionError):
        return False
    return True


def _refuse(name: str) -> Iterator[object]:
    # Python reads NaN and Infinity, which are no JSON.
    raise ValueError(name)
