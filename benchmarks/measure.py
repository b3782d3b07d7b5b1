"""What a job costs the process that does it: time, CPU, memory, and how long it held its loop.

How long the loop was held is the time from one `select()` of the loop to the next, in which
nothing else on it can run: it is measured in the selector, and costs a few readings of clocks for
each turn. What other processes take from the machine meanwhile is in it, and what the host of a
virtual machine takes: measure on a machine that does nothing else. How much of the processor the
loop itself took in a turn is measured besides. A loop without a Python selector (uvloop's) has a
heartbeat instead.
"""

from __future__ import annotations

import asyncio
import re
import resource
import selectors
import threading
import time
from pathlib import Path

import psutil

from benchmarks.jobs import Outcome

__all__ = ["Heartbeat", "HeldSelector", "Meter", "PeakMemory"]


class HeldSelector(selectors.DefaultSelector):
    """A selector that knows the longest time between its waits, and the most CPU."""

    def __init__(self) -> None:
        super().__init__()
        self.start()

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        """Wait, as every selector does."""
        self._look()
        events = super().select(timeout)
        self._woke, self._woke_cpu = time.perf_counter(), time.thread_time()
        return events

    def start(self) -> None:
        """Forget what was."""
        self._woke, self._woke_cpu = time.perf_counter(), time.thread_time()
        self._longest = self._most_cpu = 0.0

    def stop(self) -> Outcome:
        """Return for how long the loop was held at most, and what a turn took at most."""
        self._look()
        return {"held": self._longest, "turn": self._most_cpu}

    def _look(self) -> None:
        self._longest = max(self._longest, time.perf_counter() - self._woke)
        self._most_cpu = max(self._most_cpu, time.thread_time() - self._woke_cpu)


class Heartbeat:
    """A callback that wants to run each millisecond, and notes how late it was."""

    _BEAT = 0.001

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._due = 0.0
        self._longest = 0.0
        self._handle: asyncio.TimerHandle | None = None

    def start(self) -> None:
        """Begin to beat."""
        self._longest = 0.0
        self._wait()

    def stop(self) -> Outcome:
        """Return for how long the loop was held at most."""
        if self._handle:
            self._handle.cancel()
        self._look()
        return {"held": self._longest}

    def _wait(self) -> None:
        self._due = time.perf_counter() + self._BEAT
        self._handle = self._loop.call_later(self._BEAT, self._beat)

    def _beat(self) -> None:
        self._look()
        self._wait()

    def _look(self) -> None:
        self._longest = max(self._longest, time.perf_counter() - self._due)


class PeakMemory:
    """The greatest resident memory from `start()` to `stop()`, above that at `start()`.

    On Linux the kernel keeps it, and forgets it when told so through `clear_refs`; elsewhere a
    thread looks every few milliseconds.
    """

    def __init__(self) -> None:
        self._process = psutil.Process()
        self._base = 0
        self._sampled = 0
        self._done = threading.Event()
        self._thread: threading.Thread | None = None

    def start(self) -> None:
        """Begin."""
        self._base = self._sampled = self._process.memory_info().rss
        try:
            Path("/proc/self/clear_refs").write_text("5")
        except OSError:
            self._thread = threading.Thread(target=self._sample, daemon=True)
            self._thread.start()

    def stop(self) -> int:
        """Return the bytes."""
        if self._thread:
            self._done.set()
            self._thread.join()
            return self._sampled - self._base
        status = Path("/proc/self/status").read_text()
        [peak] = re.findall(r"VmHWM:\s+(\d+) kB", status)
        return int(peak) * 1024 - self._base

    def _sample(self) -> None:
        while not self._done.wait(0.002):
            self._sampled = max(self._sampled, self._process.memory_info().rss)


def _stolen() -> float:
    """Return the seconds for which each processor waited for its host so far; 0 without a host."""
    return float(getattr(psutil.cpu_times(), "steal", 0.0)) / (psutil.cpu_count() or 1)


class Meter:
    """Measures what happens from `start()` to `stop()`.

    Args:
        held: What knows how long the loop is held.
        command: Whether the work is done by child processes: then it is their CPU time that
            counts, and this process's memory and loop say nothing.
    """

    def __init__(self, held: HeldSelector | Heartbeat, *, command: bool) -> None:
        self._held = held
        self._command = command
        self._memory = PeakMemory()
        self._wall = 0.0
        self._cpu = 0.0
        self._stolen = 0.0

    def start(self) -> None:
        """Begin."""
        self._memory.start()
        self._held.start()
        self._stolen = _stolen()
        self._cpu = self._cpu_time()
        self._wall = time.perf_counter()

    def stop(self) -> Outcome:
        """Return the figures."""
        outcome: Outcome = {
            "wall": time.perf_counter() - self._wall,
            "cpu": self._cpu_time() - self._cpu,
            "stolen": _stolen() - self._stolen,
        }
        if not self._command:
            outcome.update(self._held.stop())
            outcome["memory"] = self._memory.stop()
        return outcome

    def _cpu_time(self) -> float:
        if self._command:
            children = resource.getrusage(resource.RUSAGE_CHILDREN)
            return children.ru_utime + children.ru_stime
        return time.process_time()
