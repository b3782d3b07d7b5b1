"""A service that uploads whatever appears in a directory, each file once.

    python examples/watch_directory.py inbox/ uploads.journal

A file is taken for complete when its size and time of modification are the same in two looks. What
was uploaded stands in the journal, so the service may be ended (SIGTERM, Ctrl-C) or killed at any
time: started again it goes on where it was. A file that is changed later is uploaded anew.
"""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from collections.abc import AsyncIterator
from contextlib import aclosing, suppress

from aiofiles_api import FilesClient, TransferManager

INTERVAL = 0.5
"""Seconds between two looks."""

Version = tuple[int, int]


def look(directory: str) -> dict[str, Version]:
    """Return the size and time of modification of each file in a directory."""
    found = {}
    with os.scandir(directory) as entries:
        for entry in entries:
            if entry.is_file() and not entry.name.startswith("."):
                with suppress(FileNotFoundError):  # renamed meanwhile
                    status = entry.stat()
                    found[entry.path] = (status.st_size, status.st_mtime_ns)
    return found


async def complete_files(directory: str, stop: asyncio.Event) -> AsyncIterator[str]:
    """Yield each file when it is complete, and again when it has changed, until told to stop."""
    before: dict[str, Version] = {}
    yielded: dict[str, Version] = {}
    while not stop.is_set():
        now = await asyncio.to_thread(look, directory)
        for path, version in sorted(now.items()):
            if before.get(path) == version != yielded.get(path):
                yielded[path] = version
                yield path
        # What has gone need not be remembered.
        yielded = {path: version for path, version in yielded.items() if path in now}
        before = now
        try:
            await asyncio.wait_for(stop.wait(), INTERVAL)
        except TimeoutError:
            continue


async def main(directory: str, journal: str) -> None:
    """Upload until a signal comes; then finish what is in flight."""
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    print(f"watching {directory}", flush=True)
    async with FilesClient() as files:
        manager = TransferManager(files, concurrency=8, journal=journal)
        paths = complete_files(directory, stop)
        async with aclosing(manager.upload_all(paths, purpose="user_data")) as outcomes:
            async for outcome in outcomes:
                if outcome.result is None:
                    print(f"failed {outcome.item}: {outcome.error}", flush=True)
                elif outcome.attempts:
                    print(f"uploaded {outcome.item} as {outcome.result.id}", flush=True)
    print("stopped", flush=True)


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
