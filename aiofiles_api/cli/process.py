"""The process around a command: its streams, its signals and its exit status.

0: all went well. 1: something failed, and standard error says what. 2: the command line cannot be
understood. 128 + n: it was ended by signal n, as a shell reports that.
"""

from __future__ import annotations

import asyncio
import inspect
import io
import os
import signal
import sys
from collections.abc import Coroutine, Sequence

from cyclopts import CycloptsError

from aiofiles_api import FilesError
from aiofiles_api.cli.app import app
from aiofiles_api.cli.screen import Screen

__all__ = ["run"]

_FAILED = 1
_MISUSED = 2
_INTERRUPTED = 128 + signal.SIGINT
_CUT_OFF = 128 + signal.SIGPIPE


def run(arguments: Sequence[str] | None = None) -> int:
    """Run one command and return its exit status.

    Args:
        arguments: The words of the command line; by default those of this process.
    """
    _never_fail_to_encode()
    status = _FAILED
    try:
        status = _dispatch(sys.argv[1:] if arguments is None else arguments)
        sys.stdout.flush()
    except* KeyboardInterrupt:
        status = _INTERRUPTED
    except* BrokenPipeError:
        _abandon_output()
        status = _CUT_OFF
    except* CycloptsError as group:
        _complain(group)
        status = _MISUSED
    except* (FilesError, OSError) as group:
        _complain(group)
    return int(status)


def _dispatch(arguments: Sequence[str]) -> int:
    command, bound, _ = app.parse_args(
        arguments, print_error=False, exit_on_error=False, help_on_error=False, verbose=False
    )
    outcome = command(*bound.args, **bound.kwargs)
    if inspect.iscoroutine(outcome):
        return asyncio.run(_until_signalled(outcome))
    return 0  # it was --help or --version


async def _until_signalled(command: Coroutine[object, object, int]) -> int:
    """Let the signals that end a process cancel a command, so that it leaves nothing behind.

    Ctrl-C does that by itself in `asyncio.run`.
    """
    loop = asyncio.get_running_loop()
    running = asyncio.ensure_future(command)
    received: list[int] = []

    def end(number: int) -> None:
        received.append(number)
        running.cancel()

    for number in (signal.SIGTERM, signal.SIGHUP):
        # nohup has SIGHUP ignored, which must stay so.
        if signal.getsignal(number) is signal.SIG_DFL:
            loop.add_signal_handler(number, end, number)
    try:
        return await running
    except asyncio.CancelledError:
        if not received:
            raise
        return 128 + received[0]


def _never_fail_to_encode() -> None:
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


def _abandon_output() -> None:
    """Have Python flush to nowhere what it could not write, or it would complain at its exit."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, sys.stdout.fileno())
    os.close(nowhere)


def _complain(group: BaseExceptionGroup[Exception]) -> None:
    error: BaseException = group
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    Screen().complain(str(error))
