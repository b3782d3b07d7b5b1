"""An emulator in a process of its own, so that what is measured in this one is the client's."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import anyio

from aiofiles_api import FilesError

__all__ = ["embedded_server"]

_GRACE_SECONDS = 5.0
_ANNOUNCEMENT = "export OPENAI_BASE_URL="


@asynccontextmanager
async def embedded_server(directory: str) -> AsyncIterator[str]:
    """Serve the emulator while the context is open, and give its base URL.

    Args:
        directory: Where it keeps its files and its log.

    Raises:
        FilesError: It did not start.
    """
    log = os.path.join(directory, "emulator.log")
    process = await anyio.to_thread.run_sync(_start, os.path.join(directory, "emulator"), log)
    try:
        yield await anyio.to_thread.run_sync(_announced_url, process, log)
    finally:
        with anyio.CancelScope(shield=True):
            await anyio.to_thread.run_sync(_stop, process)


def _start(data_dir: str, log: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "aiofiles_api", "serve", "--port=0", f"--data-dir={data_dir}"]
    with open(log, "w", encoding="utf-8") as errors:
        return subprocess.Popen(  # noqa: S603 - it is this very package
            command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=errors,
            text=True,
            # Ctrl-C in the terminal is for us: we still need the server to clean up.
            start_new_session=True,
        )


def _announced_url(process: subprocess.Popen[str], log: str) -> str:
    announcement = "" if process.stdout is None else process.stdout.readline()
    if not announcement.startswith(_ANNOUNCEMENT):
        with open(log, encoding="utf-8") as errors:
            raise FilesError(f"the embedded server did not start: {errors.read()[-500:]}")
    return announcement.removeprefix(_ANNOUNCEMENT).strip()


def _stop(process: subprocess.Popen[str]) -> None:
    process.terminate()
    try:
        process.communicate(timeout=_GRACE_SECONDS)
    except subprocess.TimeoutExpired:
        process.kill()
        process.communicate()
