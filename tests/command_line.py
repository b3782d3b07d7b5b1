"""How tests run the command line: in this process, in one of its own, and on a terminal."""

from __future__ import annotations

import asyncio
import io
import os
import pty
import re
import resource
import signal
import subprocess
import sys
import termios
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import ExitStack, asynccontextmanager, contextmanager, suppress

import anyio
import attrs
import pytest
from anyio.from_thread import BlockingPortal, start_blocking_portal
from conftest import KEY, Script, raw_server

from aiofiles_api import FileObject, FilesClient
from aiofiles_api.cli import run
from aiofiles_api.emulator import Emulator

COMMAND = (sys.executable, "-m", "aiofiles_api")


# --- in this process -----------------------------------------------------------------------------


class Screen(io.StringIO):
    """A stream that says it is a terminal."""

    def __init__(self, encoding: str = "utf-8") -> None:
        super().__init__()
        self._encoding = encoding

    @property
    def encoding(self) -> str:  # type: ignore[override]
        return self._encoding

    def isatty(self) -> bool:
        return True

    @property
    def text(self) -> str:
        """What was written, without colours and cursor movements."""
        return re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", self.getvalue())


@attrs.frozen
class Ran:
    """How a command ended."""

    status: int
    out: str
    err: str

    @property
    def lines(self) -> list[list[str]]:
        """The fields of what a pipe got."""
        return [line.split("\t") for line in self.out.splitlines()]


@attrs.frozen
class CommandLine:
    """Runs commands in this process, with pipes or with terminals."""

    capsys: pytest.CaptureFixture[str]
    monkeypatch: pytest.MonkeyPatch

    def __call__(self, *arguments: str) -> Ran:
        """Run a command with pipes."""
        self.capsys.readouterr()
        status = run(arguments)
        out, err = self.capsys.readouterr()
        return Ran(status, out, err)

    def to_bytes(self, *arguments: str, encoding: str = "utf-8") -> tuple[bytes, str]:
        """Run a command, and return the bytes of its output, and its standard error."""
        content = io.BytesIO()
        self.capsys.readouterr()
        with self.monkeypatch.context() as patch:
            patch.setattr(sys, "stdout", io.TextIOWrapper(content, encoding=encoding))
            run(arguments)
            return content.getvalue(), self.capsys.readouterr().err

    def on_terminal(
        self,
        *arguments: str,
        out: bool = True,
        term: str = "xterm-256color",
        columns: int | str = 120,
        encoding: str = "utf-8",
        types: str | None = None,
    ) -> Ran:
        """Run a command with standard error, and maybe standard output, on a terminal.

        With `types` its standard input is one too, on which that was typed.
        """
        screen = Screen(encoding)
        self.capsys.readouterr()
        with self.monkeypatch.context() as patch, ExitStack() as stack:
            patch.setenv("TERM", term)
            patch.setenv("COLUMNS", str(columns))
            patch.setattr(sys, "stderr", screen)
            if out:
                patch.setattr(sys, "stdout", screen)
            if types is not None:
                leader, follower = os.openpty()
                stack.callback(os.close, leader)
                os.write(leader, types.encode(errors="surrogateescape"))
                patch.setattr(sys, "stdin", stack.enter_context(open(follower)))
            status = run(arguments)
        return Ran(status, screen.text if out else self.capsys.readouterr().out, screen.text)


@contextmanager
def files_limited_to(count: int) -> Iterator[None]:
    """Let this process, and those that it starts, write no files that are longer."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (count, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


@attrs.frozen
class Server:
    """An emulator in a thread, and a client of it."""

    base_url: str
    portal: BlockingPortal
    client: FilesClient

    def put(self, content: bytes, filename: str, purpose: str = "user_data") -> FileObject:
        return self.portal.call(self._put, content, filename, purpose)

    async def _put(self, content: bytes, filename: str, purpose: str) -> FileObject:
        return await self.client.upload(content, purpose=purpose, filename=filename)

    def files(self) -> list[FileObject]:
        """Return all files, the oldest first."""
        return self.portal.call(self._files)

    async def _files(self) -> list[FileObject]:
        return [file async for file in self.client.list(order="asc")]

    def read(self, file: str) -> bytes:
        return self.portal.call(self.client.read, file)


@contextmanager
def emulated() -> Iterator[Server]:
    """Run an emulator in a thread."""
    with (
        start_blocking_portal() as portal,
        portal.wrap_async_context_manager(Emulator(api_key=KEY)) as emulator,
        portal.wrap_async_context_manager(
            FilesClient(base_url=emulator.base_url, api_key=KEY)
        ) as client,
    ):
        yield Server(emulator.base_url, portal, client)


@contextmanager
def scripted(*script: Script) -> Iterator[str]:
    """Run a server that follows a script in a thread, and give its base URL."""
    with (
        start_blocking_portal() as portal,
        portal.wrap_async_context_manager(raw_server(*script)) as raw,
    ):
        yield raw.base_url


# --- in a process of its own ---------------------------------------------------------------------


@asynccontextmanager
async def started(
    *command: str, stdout: int | None = subprocess.PIPE, **environment: str
) -> AsyncIterator[asyncio.subprocess.Process]:
    """Start a process, and kill it in the end if it still runs."""
    process = await asyncio.create_subprocess_exec(
        *command,
        stdin=subprocess.PIPE,
        stdout=stdout,
        stderr=subprocess.PIPE,
        env={**os.environ, **environment},
    )
    try:
        with anyio.fail_after(30):
            yield process
    finally:
        with suppress(ProcessLookupError):
            process.kill()
        await process.communicate()


async def until(condition: Callable[[], object]) -> None:
    """Wait until something is the case."""
    while not condition():
        await asyncio.sleep(0.01)


async def ended(process: asyncio.subprocess.Process, number: signal.Signals) -> Ran:
    """Send a signal, and wait for the end."""
    process.send_signal(number)
    out, err = await process.communicate()
    return Ran(process.returncode or 0, (out or b"").decode(), err.decode())


def in_terminal(
    *arguments: str,
    types: str = "",
    is_interrupted: bool = False,
    raw: bool = False,
    columns: int = 100,
    **environment: str,
) -> Ran:
    """Run a command in a pseudo-terminal; type when it asks, then maybe interrupt it.

    With `raw` what it gets is returned as it is, with colours and cursor movements.
    """
    leader, follower = pty.openpty()
    termios.tcsetwinsize(follower, (24, columns))
    with subprocess.Popen(
        [*COMMAND, *arguments],
        stdin=follower,
        stdout=follower,
        stderr=follower,
        env={**os.environ, "TERM": "xterm-256color", "COLUMNS": "", **environment},
    ) as process:
        os.close(follower)
        shown = b""
        while chunk := _read(leader):
            if b"[y/N]" in chunk:
                os.write(leader, types.encode())
                if is_interrupted:
                    time.sleep(0.3 if types else 0)  # until that was read
                    process.send_signal(signal.SIGINT)
            shown += chunk
    os.close(leader)
    text = shown.decode()
    if not raw:
        text = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", text)
    return Ran(process.returncode, text, text)


def _read(descriptor: int) -> bytes:
    try:
        return os.read(descriptor, 65536)
    except OSError:  # how Linux says that the other end is closed
        return b""
