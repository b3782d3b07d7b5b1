"""The process around a command: its streams, its signals and its exit status.

0: all went well. 1: something failed, and standard error says what. 2: the command line cannot be
understood, or asks for what cannot be. 128 + n: it was ended by signal n, as a shell reports that.
"""

from __future__ import annotations

import asyncio
import inspect
import io
import os
import re
import signal
import sys
import time
from collections.abc import Coroutine, Sequence
from contextlib import suppress
from typing import TextIO

from cyclopts import CycloptsError

from aiofiles_api import FilesError, InvalidArgumentError
from aiofiles_api.cli.app import app
from aiofiles_api.cli.screen import Screen, abandon, dispensable
from aiofiles_api.cli.text import in_options, printable

__all__ = ["run", "until_signalled"]

_FAILED = 1
_MISUSED = 2
_INTERRUPTED = 128 + signal.SIGINT
_CUT_OFF = 128 + signal.SIGPIPE

_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
_PATIENCE = 2.0
"""Seconds for which a command may clean up undisturbed."""

_FEWEST_COLUMNS = 10
"""With the help in very few it never ends."""

_SIZES = {"COLUMNS": "[1-9][0-9]{1,3}", "LINES": "[1-9][0-9]{0,3}"}
"""What of these variables is a size. Some programs set 0, for which rich prints nothing at all; and
it cannot read all that it takes for numbers."""


def run(arguments: Sequence[str] | None = None) -> int:
    """Run one command and return its exit status.

    Args:
        arguments: The words of the command line; by default those of this process.
    """
    _prepare_streams()
    status = _FAILED
    try:
        status = _dispatch(sys.argv[1:] if arguments is None else arguments)
        sys.stdout.flush()
    except* KeyboardInterrupt:
        status = _INTERRUPTED
    except* BrokenPipeError:
        abandon(sys.stdout)
        status = _CUT_OFF
    except* CycloptsError as group:
        _complain(_first(group))
        status = _MISUSED
    except* InvalidArgumentError as group:
        _complain(_first(group))
        status = _MISUSED
    except* FilesError as group:
        _complain(_first(group))
    except* OSError as group:
        abandon(sys.stdout)
        _complain(_first(group))
        status = status or _FAILED
    with dispensable(sys.stderr):
        sys.stderr.flush()
    return int(status)


def _dispatch(arguments: Sequence[str]) -> int:
    command, bound, _ = app.parse_args(
        arguments, print_error=False, exit_on_error=False, help_on_error=False, verbose=False
    )
    outcome = command(*bound.args, **bound.kwargs)
    if inspect.iscoroutine(outcome):
        return asyncio.run(until_signalled(outcome))
    return 0  # it was --help or --version


async def until_signalled(command: Coroutine[object, object, int]) -> int:
    """Let the signals that end a process cancel a command, so that it leaves nothing behind.

    Pressing Ctrl-C again changes nothing at first; after a while it kills, also where the loop is
    held, as by a terminal that takes no more output.
    """
    loop = asyncio.get_running_loop()
    running = loop.create_task(command)
    # nohup and shells have signals ignored, which must stay so.
    heeded = [it for it in _SIGNALS if signal.getsignal(it) is not signal.SIG_IGN]
    received: list[tuple[int, float]] = []

    def end() -> None:
        if not running.cancelling():
            running.cancel()

    def receive(number: int, _: object) -> None:
        received.append((number, time.monotonic()))
        if received[-1][1] - received[0][1] > _PATIENCE:
            signal.signal(number, signal.SIG_DFL)
            signal.raise_signal(number)

    for number in heeded:
        loop.add_signal_handler(number, end)
        # Called at once, also in the middle of a write; the loop is woken as before.
        signal.signal(number, receive)
    try:
        return await running
    except (asyncio.CancelledError, OSError):
        # A terminal that is closed tells so by a signal, and then cannot be drawn on.
        if not received:
            raise
        return 128 + received[0][0]


def _prepare_streams() -> None:
    """Have something in the place of streams that are closed, and nothing fatal in the others."""
    # In this order, because each takes the lowest number that is free.
    sys.stdin = sys.stdin or open(os.devnull, encoding="utf-8")  # noqa: SIM115 - open to the end
    sys.stdout = sys.stdout or open(os.devnull, "w", encoding="utf-8")  # noqa: SIM115 - as above
    sys.stderr = sys.stderr or open(os.devnull, "w", encoding="utf-8")  # noqa: SIM115 - as above
    sys.stdout, sys.stderr = _whole(sys.stdout), _whole(sys.stderr)
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
    _prepare_size()


def _prepare_size() -> None:
    """Have the terminal be of a size in which something can be shown."""
    for name, form in _SIZES.items():
        if not re.fullmatch(form, os.environ.get(name, "")):
            os.environ.pop(name, None)
    if "COLUMNS" not in os.environ and 0 < _columns() < _FEWEST_COLUMNS:
        os.environ["COLUMNS"] = str(_FEWEST_COLUMNS)


def _columns() -> int:
    """Return how wide the terminal is, which may be at any of the streams; 0 if there is none."""
    for descriptor in range(3):
        with suppress(OSError):
            return os.get_terminal_size(descriptor).columns
    return 0


def _whole(stream: TextIO) -> TextIO:
    """Return a stream that writes all that it is given, or fails."""
    raw = getattr(stream, "buffer", None)
    if not isinstance(raw, io.RawIOBase):
        return stream
    # With PYTHONUNBUFFERED there is no buffer, which would write what a raw file leaves over.
    buffer = io.BufferedWriter(raw)
    return io.TextIOWrapper(buffer, encoding=stream.encoding, line_buffering=True)


def _complain(error: BaseException) -> None:
    if isinstance(error, OSError):
        # All files are the client's business; what is left is our own output.
        message = f"{printable(str(error.filename or 'standard output'))}: {error.strerror}"
    else:
        message = in_options(str(error))
    Screen().complain(message)


def _first(error: BaseException) -> BaseException:
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return error
