"""Pure decision: how does a reply to a request for content continue the bytes in hand?

Nothing promises that a server supports ranges (most compatible ones do not), so resuming is
opportunistic: 206 continues, 200 begins again and what is in hand is read and dropped, 416 at the
full length says that nothing is missing. A 206 for another range than was asked for is refused:
appending it would corrupt the file (RFC 9110, sections 14 and 15.3.7). It may give less than was
asked for.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

import attrs

from aiofiles_api.errors import APIResponseError

__all__ = ["Continuation", "continue_from", "refuses_ranges"]

_REFUSALS = frozenset({400, 405, 416, 501})


@attrs.frozen
class Continuation:
    """What to do with a reply's body.

    Attributes:
        skip: Bytes at the body's beginning to read and drop.
        total: The whole content's length, if the reply tells it.
        end: The offset behind the last byte of a part; `None` where the body is all there is.
        is_empty: Nothing is there from the offset on; the body is no content.
    """

    skip: int
    total: int | None
    end: int | None = None
    is_empty: bool = False


def continue_from(offset: int, *, status: int, headers: Mapping[str, str]) -> Continuation | None:
    """Judge a reply to the request for the content from `offset` on.

    Returns:
        What to do with the body, or `None` when the reply is no content but an error.

    Raises:
        APIResponseError: The reply claims to be content and cannot be used.
    """
    if status in {200, 203}:  # 203: a proxy has changed something; lengths and digests tell
        return Continuation(skip=offset, total=_length(headers))
    if status == 206:  # noqa: PLR2004 - an HTTP status says itself
        return _judge_partial(offset, headers)
    total = _unsatisfied_total(headers)
    if status == 416 and total is not None and total <= offset:  # noqa: PLR2004
        return Continuation(skip=0, total=total, is_empty=True)
    return None


def refuses_ranges(status: int) -> bool:
    """Return whether a server that gives no range but an error may yet give the whole."""
    return status in _REFUSALS


def _judge_partial(offset: int, headers: Mapping[str, str]) -> Continuation:
    content_range = headers.get("Content-Range", "")
    match = re.fullmatch(r"(?i:bytes) ([0-9]{1,19})-([0-9]{1,19})/([0-9]{1,19}|\*)", content_range)
    if match is None:
        # Not shown: a hostile server could echo the key in it.
        raise APIResponseError("a partial reply with a Content-Range that cannot be read")
    first, last = int(match[1]), int(match[2])
    total = None if match[3] == "*" else int(match[3])
    length = _length(headers)
    contradicts_itself = (
        last < first
        or (total is not None and last >= total)
        or (length is not None and length != last - first + 1)
    )
    if first != offset or contradicts_itself:
        msg = f"a partial reply with the range {content_range!r}, asked for bytes from {offset}"
        raise APIResponseError(msg)
    return Continuation(skip=0, total=total, end=last + 1)


def _length(headers: Mapping[str, str]) -> int | None:
    value = headers.get("Content-Length", "")
    return int(value) if re.fullmatch(r"[0-9]{1,19}", value) else None


def _unsatisfied_total(headers: Mapping[str, str]) -> int | None:
    match = re.fullmatch(r"(?i:bytes) \*/([0-9]{1,19})", headers.get("Content-Range", ""))
    return int(match[1]) if match else None
