"""Standard output that others read at their own pace, or not at all."""

from __future__ import annotations

import os
import select
import stat
from contextlib import suppress
from functools import partial
from typing import TextIO

import anyio

from aiofiles_api.cli.thread import in_thread

__all__ = ["Outlet"]

_LOOK = 100
"""Milliseconds after which who waits for a reader looks whether the command is ended."""


class Outlet:
    """Writes in a thread; a cancellation ends it even while a reader, like a pager, pauses.

    Args:
        stream: Where to write, past its own buffers.
    """

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        self._turn = anyio.Lock()
        self._is_given_up = False

    async def write(self, content: bytes | str) -> None:
        """Write all of it; once cancelled, what a reader takes without a pause.

        Args:
            content: Bytes, or text in the encoding of the stream.

        Raises:
            OSError: It cannot be written.
        """
        async with self._turn:
            await in_thread(partial(self._write, content), interrupt=self._give_up)

    def _give_up(self) -> None:
        self._is_given_up = True

    def _write(self, content: bytes | str) -> None:
        pipe = self._open_pipe()
        if pipe is None:
            if isinstance(content, str):
                self._stream.write(content)
            else:
                self._stream.buffer.write(content)
            self._stream.flush()
            return
        if isinstance(content, str):
            content = content.encode(self._stream.encoding, self._stream.errors or "strict")
        try:
            poller = select.poll()
            poller.register(pipe, select.POLLOUT)
            left = memoryview(content)
            while left:
                is_last_look = self._is_given_up
                if poller.poll(_LOOK):
                    with suppress(BlockingIOError):
                        left = left[os.write(pipe, left) :]
                elif is_last_look:
                    break
        finally:
            os.close(pipe)

    def _open_pipe(self) -> int | None:
        """Open the pipe that the stream is once more, for writes that never wait.

        Those through its own descriptor must go on waiting, which may be another program's as well.

        Returns:
            Its descriptor; `None` where it is no pipe, or the system opens none anew.
        """
        with suppress(OSError):
            if stat.S_ISFIFO(os.fstat(self._stream.fileno()).st_mode):
                return os.open(
                    f"/proc/self/fd/{self._stream.fileno()}", os.O_WRONLY | os.O_NONBLOCK
                )
        return None
