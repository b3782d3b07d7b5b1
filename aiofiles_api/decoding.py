"""JSON as it comes: decoded whole, or the long list in it a piece at a time.

A page of ten thousand files that is decoded at once holds the loop for ten milliseconds and more,
and takes four times the memory of its text. So a long list is cut where one object ends and the
next begins, and each piece is decoded when its turn comes. Whether a cut was right shows in the
decoding: a text that is a list by itself ends where an element ends. If one is not, because the cut
was within a string or an object, all that is left is decoded at once.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Callable, Iterator
from contextlib import suppress
from typing import Any

import attrs

from aiofiles_api.errors import APIResponseError

_loads: Callable[[bytes], Any]
try:
    from orjson import loads as _loads
except ImportError:
    _loads = json.loads

__all__ = ["Pieces", "decode", "decode_page"]

_PIECE = 32 * 1024
"""Bytes of text that are decoded at once: little, so that it all stays in the processor's cache."""

_MOST = 500
"""Elements that are handed out at once, where a list had to be decoded whole."""

# No backslash: so a quotation mark begins or ends a string, and `"data"` is a member's name.
_HEAD = rb'[ \t\r\n]*\{[^\\\[\]{}]{0,4000}"data"[ \t\r\n]*:[ \t\r\n]*\[[ \t\r\n]*(?=\{)'
_BETWEEN = rb"\}[ \t\r\n]*,[ \t\r\n]*\{"
_END = rb'\](?<!\[\])[ \t\r\n]*,[ \t\r\n]*"'
"""The end of a list that is not empty, with a member of the object behind it."""

_ESCAPED = rb"\\u00[2-7]"

_TAIL = os.urandom(16).hex()
"""A name that no member has, which no server can know."""


def decode(text: bytes) -> Any:  # JSON may be anything
    """Decode a JSON text.

    Raises:
        ValueError: It is none, or nested too deeply.
    """
    try:
        try:
            return _loads(text)
        except ValueError:
            # orjson knows no half of a surrogate pair, which servers in Python send in a name.
            return json.loads(text)
    except RecursionError:  # from thousands of brackets
        msg = "nested too deeply"
        raise ValueError(msg) from None


@attrs.frozen
class Pieces:
    """The elements of a list, decoded as they are asked for, and then the caller's.

    Asked for again, only those of the last piece are the same objects.

    Attributes:
        last: The last element; `None` for an empty list.
    """

    _text: bytes = attrs.field(repr=False)
    _cuts: tuple[tuple[int, int], ...]
    _rest: list[Any] = attrs.field(repr=False)

    @property
    def last(self) -> object:
        """The last element, or `None`."""
        return self._rest[-1] if self._rest else None

    def __bool__(self) -> bool:
        """Whether there is any element."""
        return bool(self._rest)

    def __iter__(self) -> Iterator[list[Any]]:
        """Decode piece by piece.

        Raises:
            APIResponseError: From somewhere on the text is no JSON.
        """
        for start, end in self._cuts:
            try:
                piece = decode(b"[%b]" % self._text[start:end])
            except ValueError:
                yield from _few_at_a_time(self._decode_from(start))
                return
            yield piece
        yield from _few_at_a_time(self._rest)

    def mentions(self, word: str) -> bool:
        """Whether the word may be in the text: never `False` if it is in an element."""
        is_as_it_is = word.isascii() and word.isprintable() and not {'"', "\\", "/"} & set(word)
        # Any other character may be escaped too, and some servers do that to `+` and `&`.
        can_be_told = is_as_it_is and not re.search(_ESCAPED, self._text)
        return not can_be_told or word.encode() in self._text

    def _decode_from(self, start: int) -> list[Any]:
        try:
            return _decode_tail(self._text[start:])[1]
        except ValueError:
            msg = (
                f"listing files: the reply is not JSON from byte {start:,} on; list again, and"
                " check base_url, and any proxy in between"
            )
            raise APIResponseError(msg) from None


def decode_page(text: bytes) -> tuple[object, Pieces | None]:
    """Decode a page of a listing: what is there beside its list "data", and that list in pieces.

    Raises:
        ValueError: It is no JSON, or nested too deeply.
    """
    if len(text) > 2 * _PIECE:
        with suppress(ValueError):
            return _cut(text)
    page = decode(text)
    data = page.pop("data", None) if isinstance(page, dict) else None
    return page, Pieces(text, (), data) if isinstance(data, list) else None


def _cut(text: bytes) -> tuple[object, Pieces]:
    """Cut a long page into pieces; the last of them, and the rest, are decoded at once.

    Raises:
        ValueError: It does not look like a page that can be cut.
    """
    head = re.match(_HEAD, text)
    if head is None:
        msg = "not the beginning of a page"
        raise ValueError(msg)
    cuts: list[tuple[int, int]] = []
    start = head.end()
    following = re.compile(_BETWEEN)
    while between := following.search(text, start + _PIECE):
        cuts.append((start, between.start() + 1))
        start = between.end() - 1
    if re.compile(_END).search(text, head.end(), start):
        msg = "the last cut may be behind the list"
        raise ValueError(msg)
    before = decode(b"%b]}" % head[0])
    behind, rest = _decode_tail(text[start:])
    del before["data"]
    return {**before, **behind}, Pieces(text, tuple(cuts), rest)


def _decode_tail(text: bytes) -> tuple[dict[str, Any], list[Any]]:
    """Decode a page from some element of its list on: what is behind the list, and the elements.

    Raises:
        ValueError: It is no JSON, or there is another list.
    """
    behind = decode(b'{"%b":[%b' % (_TAIL.encode(), text))
    if "data" in behind:
        msg = 'there is more than one "data"'
        raise ValueError(msg)
    return behind, behind.pop(_TAIL)


def _few_at_a_time(elements: list[Any]) -> Iterator[list[Any]]:
    for start in range(0, len(elements), _MOST):
        yield elements[start : start + _MOST]
