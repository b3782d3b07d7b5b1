"""How much memory this process holds, and how much it held at most, step by step."""

from __future__ import annotations

import os
import resource
import sys
import threading
from types import TracebackType
from typing import Self

from aiofiles_api.cli.thread import in_thread

__all__ = ["PeakMemory"]

_STATM = "/proc/self/statm"
_INTERVAL = 0.01
"""Seconds."""


class PeakMemory:
    """Samples the resident memory of this process in a thread while its context is open.

    Where there is no /proc it asks for the peak that the system keeps, which never goes down.
    """

    def __init__(self) -> None:
        self._start = self._latest = self._peak = 0
        self._stopped = threading.Event()

    async def __aenter__(self) -> Self:
        self._start = self._latest = self._peak = await in_thread(_resident)
        threading.Thread(target=self._sample, name="peak-memory", daemon=True).start()
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._stopped.set()

    def take(self) -> int:
        """Return the peak since the last call, in bytes above the start."""
        peak, self._peak = self._peak, self._latest
        return max(peak - self._start, 0)

    def _sample(self) -> None:
        while not self._stopped.wait(_INTERVAL):
            self._latest = _resident()
            self._peak = max(self._peak, self._latest)


def _resident() -> int:
    try:
        with open(_STATM, encoding="ascii") as statm:
            pages = int(statm.read().split()[1])
    except FileNotFoundError:
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        return peak if sys.platform == "darwin" else peak * 1024
    return pages * os.sysconf("SC_PAGE_SIZE")
