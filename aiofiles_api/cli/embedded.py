"""An emulator in a process of its own, so that what is measured in this one is the client's."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from aiofiles_api import FilesError
from aiofiles_api.cli.thread import in_thread

__all__ = ["embedded_server"]

# An import must not find what lies about in the working directory, which is what -m alone would
# have first on the path. The package itself may be there only because we are: it is told where.
_COMMAND = ("-P", "-m", "aiofiles_api", "serve")
_ROOT = str(Path(__file__).parents[2])

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
    server = _Server(directory)
    try:
        yield await in_thread(server.start)
    finally:
        await in_thread(server.stop)


class _Server:
    """The process. It is kept here, where it is found even if whoever starts it is cancelled."""

    def __init__(self, directory: str) -> None:
        self._data_dir = os.path.join(directory, "emulator")
        self._log = os.path.join(directory, "emulator.log")
        self._process: subprocess.Popen[str] | None = None

    def start(self) -> str:
        """Start it, wait until it serves, and return its base URL."""
        options = ["--port=0", f"--data-dir={self._data_dir}"]
        with open(self._log, "w", encoding="utf-8") as log:
            process = self._process = subprocess.Popen(  # noqa: S603 - it is this very package
                [sys.executable, *_COMMAND, *options],
                env={**os.environ, "PYTHONPATH": _python_path()},
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=log,
                text=True,
                # Ctrl-C in the terminal is for us: the server is still needed to clean up.
                start_new_session=True,
            )
        announcement = process.stdout.readline() if process.stdout else ""
        if not announcement.startswith(_ANNOUNCEMENT):
            with open(self._log, encoding="utf-8") as log:
                raise FilesError(f"the embedded server did not start: {log.read()[-500:]}")
        return announcement.removeprefix(_ANNOUNCEMENT).strip()

    def stop(self) -> None:
        """End it, and wait for its end."""
        if self._process is None:
            return
        with self._process as process:
            process.terminate()
            try:
                process.wait(_GRACE_SECONDS)
            except subprocess.TimeoutExpired:
                process.kill()


def _python_path() -> str:
    """Return where the server's process looks for modules besides the usual places."""
    there = os.environ.get("PYTHONPATH")
    return os.pathsep.join((_ROOT, there) if there else (_ROOT,))
