"""Waits until the service has processed a file."""

from __future__ import annotations

import asyncio
import math
import time

from aiofiles_api.errors import APITimeoutError, InvalidArgumentError, ProcessingError
from aiofiles_api.models import FileObject, file_id
from aiofiles_api.protocol import read_file, retrieve_request, scrub
from aiofiles_api.session import SessionManager

__all__ = ["wait_for_processing"]

_DONE = frozenset({None, "processed", "succeeded"})
_FAILED = frozenset({"error", "failed", "cancelled", "canceled", "deleted"})
"""The API's own words and those of Azure; any other status is one on the way."""

_LAST_ANSWER = 5.0
"""Seconds that a question has for its answer, with retries, even where the time is over."""

_LONGEST_STATUS = 80
_LONGEST_REASON = 1_000


async def wait_for_processing(
    session: SessionManager, file: str | FileObject, *, timeout: float, poll_interval: float
) -> FileObject:
    """Ask for a file again and again until its status is final."""
    identifier = file_id(file)
    if not isinstance(timeout, int | float) or not timeout >= 0:
        raise InvalidArgumentError(f"timeout: {timeout!r} is no time; pass 0 or more seconds")
    if not isinstance(poll_interval, int | float) or not poll_interval > 0:
        msg = f"poll_interval: {poll_interval!r} is no time; pass more than 0 seconds"
        raise InvalidArgumentError(msg)
    give_up_at = time.monotonic() + timeout
    with session.registered():
        while True:
            described = await _ask(session, identifier, give_up_at, timeout)
            if described.status in _DONE:
                return described
            status = scrub(described.status or "", session.secrets)[:_LONGEST_STATUS]
            if described.status in _FAILED:
                why = described.status_details or "the service does not say why"
                why = scrub(why, session.secrets)[:_LONGEST_REASON]
                msg = f"processing {identifier}: {status}: {why}; upload a corrected file"
                raise ProcessingError(msg, file=described)
            remaining = give_up_at - time.monotonic()
            if remaining <= 0:
                raise _timeout_error(identifier, f"still {status!r}", timeout)
            await asyncio.sleep(min(poll_interval, remaining))


async def _ask(
    session: SessionManager, identifier: str, give_up_at: float, timeout: float
) -> FileObject:
    left = max(give_up_at - time.monotonic(), _LAST_ANSWER)
    bound = asyncio.timeout(None if left == math.inf else left)
    try:
        async with bound:
            return await session.call(retrieve_request(identifier), read_file)
    except TimeoutError as error:
        if not bound.expired():
            raise
        raise _timeout_error(identifier, "no answer", timeout) from error


def _timeout_error(identifier: str, what: str, timeout: float) -> APITimeoutError:
    msg = f"processing {identifier}: {what} after {timeout:g} s; pass a longer timeout="
    return APITimeoutError(msg)
