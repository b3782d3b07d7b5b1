"""The attempts of one operation: the only place where a failure is tried again."""

from __future__ import annotations

import asyncio
import logging
import random
import time
from typing import TYPE_CHECKING

from aiofiles_api.errors import FilesError
from aiofiles_api.protocol import Request
from aiofiles_api.retry import delay_before_retry, why_no_retry

__all__ = ["Retries"]

if TYPE_CHECKING:
    from aiofiles_api.session.manager import SessionManager

_log = logging.getLogger("aiofiles_api")


class Retries:
    """The attempts of one operation.

    Attributes:
        attempt: The number of the attempt that runs now, from 1.
    """

    def __init__(self, session: SessionManager, request: Request) -> None:
        self.attempt = 1
        self._failures = 0
        self._session = session
        self._request = request
        self._began = time.monotonic()

    def made_progress(self) -> None:
        """Count the attempts anew: the last one has brought something that none had before."""
        self._failures = 0

    def ask_on(self) -> None:
        """Count another request, though none has failed: a part came, or a range was refused."""
        self.attempt += 1

    async def pause(self, error: FilesError) -> None:
        """Wait until the next attempt may begin.

        Raises:
            FilesError: `error` itself, when there must be no other attempt.
        """
        await self.wait(self.delay_after(error), error)

    def delay_after(self, error: FilesError) -> float:
        """Return the seconds to wait before the next attempt.

        Raises:
            FilesError: `error` itself, when there must be no other attempt.
        """
        self._failures += 1
        policy = self._session.config.retry
        delay = delay_before_retry(
            policy,
            error,
            attempt=self._failures,
            elapsed=time.monotonic() - self._began,
            random=random.random,
        )
        if delay is None:
            if error.retryable:
                is_last = self._failures >= policy.attempts
                error.add_note(why_no_retry(policy, error, self.attempt, is_last=is_last))
            raise error
        return self._session.hold_back(self._request, error, delay)

    async def wait(self, delay: float, error: FilesError) -> None:
        """Wait until the next attempt may begin, and say why there is one."""
        _log.info(
            "%s: attempt %d failed, trying again in %.1f s: %s",
            self._request.what,
            self.attempt,
            delay,
            error,
        )
        await asyncio.sleep(delay)
        self.attempt += 1
