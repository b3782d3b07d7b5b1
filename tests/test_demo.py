"""The demo: it shows what is true, and leaves nothing behind however it ends."""

from __future__ import annotations

import asyncio
import os
import re
import shutil
import signal
import sys
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress
from pathlib import Path
from urllib.parse import urlsplit

import anyio
import pytest
from command_line import (
    COMMAND,
    CommandLine,
    Server,
    emulated,
    ended,
    files_limited_to,
    started,
    until,
)
from conftest import KEY

from aiofiles_api.cli import embedded, memory
from aiofiles_api.cli.memory import PeakMemory
from aiofiles_api.cli.thread import in_thread


@pytest.fixture
def server() -> Iterator[Server]:
    with emulated() as server:
        yield server


@pytest.fixture
def command(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> CommandLine:
    return CommandLine(capsys, monkeypatch)


@pytest.fixture(autouse=True)
def temporary(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Give the demo a temporary directory of its own, so that it is seen what it leaves there."""
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr("tempfile.tempdir", None)
    return tmp_path


def is_left(directory: Path) -> list[str]:
    return [path.name for path in directory.iterdir() if path.name.startswith("files-demo-")]


def emulators() -> list[str]:
    """Return the command lines of emulators that run as processes of their own below us."""
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):
            words = (process / "cmdline").read_bytes().decode().split("\0")
            if "serve" in words and any(os.environ["TMPDIR"] in word for word in words):
                found.append(" ".join(words))
    return found


TABLE = re.compile(
    r"Step +Files +Bytes +Seconds +MB/s +Peak memory\s+─+\s+"
    r"make +3 +3\.0 MB +[\d.]+ +[\d,]+ +\+[\d.]+ MB\s+"
    r"upload +3 +3\.0 MB +[\d.]+ +[\d,]+ +\+[\d.]+ MB\s+"
    r"list +3 +[\d.]+ +\+[\d.]+ MB\s+"
    r"download +3 +3\.0 MB +[\d.]+ +[\d,]+ +\+[\d.]+ MB\s+"
    r"compare +3 +3\.0 MB +[\d.]+ +[\d,]+ +\+[\d.]+ MB\s+"
    r"delete +3 +[\d.]+ +\+[\d.]+ MB\s+"
)
SMALL = ("demo", "--size-mb", "2")


# --- against the embedded server -----------------------------------------------------------------


def test_it_shows_every_operation_and_what_it_took(command: CommandLine, temporary: Path) -> None:
    ran = command(*SMALL)
    assert (ran.status, ran.err) == (0, "")
    for done in ("made", "uploaded", "downloaded"):
        named = re.findall(rf"^{done} demo-[0-9a-f]{{8}}-(\w+)\.bin$", ran.out, re.MULTILINE)
        assert sorted(named) == ["1MB", "2MB", "4kB"]
    # In which order they were stored is a matter of luck: they are sent at the same time.
    assert re.search(r"page 1 .*\.bin, demo-.*\.bin\n  page 2 .*\.bin\n", ran.out)
    assert len(re.findall(r"^demo-.*\tsha256 [0-9a-f]{24}…$", ran.out, re.MULTILINE)) == 3
    assert TABLE.search(ran.out)
    assert ran.out.endswith("All 3 files came back byte for byte.\n")
    assert is_left(temporary) == emulators() == []


def test_it_draws_bars_on_a_terminal(command: CommandLine, temporary: Path) -> None:
    ran = command.on_terminal(*SMALL)
    assert ran.status == 0
    for done in ("made", "uploaded", "downloaded"):
        assert f"3 of 3 files {done}" in ran.out
    assert "━" * 24 in ran.out
    assert TABLE.search(ran.out)
    assert ran.out.endswith("✓ All 3 files came back byte for byte.\n")
    assert is_left(temporary) == emulators() == []


def test_it_neither_needs_nor_uses_what_the_environment_says(
    command: CommandLine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OPENAI_BASE_URL", "http://127.0.0.1:1/v1")
    monkeypatch.setenv("OPENAI_API_KEY", "a key with\na line break")
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:1")
    assert command("demo", "--size-mb", "1").status == 0


def test_it_runs_no_module_that_lies_in_the_working_directory(
    command: CommandLine, monkeypatch: pytest.MonkeyPatch, temporary: Path
) -> None:
    (temporary / "random.py").write_text("raise SystemExit('a stranger')")
    monkeypatch.chdir(temporary)
    monkeypatch.setenv("PYTHONPATH", "")
    ran = command("demo", "--size-mb", "1")
    assert (ran.status, ran.err) == (0, "")


def test_its_server_finds_modules_where_the_environment_says(
    command: CommandLine, monkeypatch: pytest.MonkeyPatch, temporary: Path
) -> None:
    (temporary / "sitecustomize.py").write_text(f"open({str(temporary / 'seen')!r}, 'w').close()")
    monkeypatch.setenv("PYTHONPATH", str(temporary))
    assert command("demo", "--size-mb", "1").status == 0
    assert (temporary / "seen").exists()


def test_it_refuses_to_begin_without_enough_space(
    command: CommandLine, monkeypatch: pytest.MonkeyPatch, temporary: Path
) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda _: shutil._ntuple_diskusage(9, 8, 1_000_000))
    ran = command("demo")
    assert (ran.status, ran.out) == (1, "")
    assert ran.err.startswith(
        f"aiofiles-api: the demo needs 815.0 MB of space, and {temporary} has 1.0 MB; "
    )
    assert is_left(temporary) == []


def test_a_disk_that_takes_no_more_is_not_taken_for_standard_output(
    command: CommandLine, temporary: Path
) -> None:
    with files_limited_to(1_500_000):
        ran = command(*SMALL)
    assert ran.status == 1
    assert ran.err.splitlines()[-1] == (
        "aiofiles-api: the temporary directory cannot be used: File too large;"
        " set TMPDIR to another one"
    )
    assert is_left(temporary) == emulators() == []


@pytest.mark.anyio
async def test_ctrl_c_leaves_neither_files_nor_the_server(temporary: Path) -> None:
    async with started(*COMMAND, "demo", "--size-mb", "400") as process:
        assert process.stdout is not None
        while not (await process.stdout.readline()).startswith(b"made"):
            pass
        assert emulators()
        ran = await ended(process, signal.SIGINT)
    assert ran.status == 130
    assert ran.err.startswith("aiofiles-api: interrupted: 0 of 6 steps done, nothing is left")
    assert ran.err.count("\n") == 1
    assert is_left(temporary) == emulators() == []


def test_a_server_that_does_not_start_is_told(
    command: CommandLine, monkeypatch: pytest.MonkeyPatch, temporary: Path
) -> None:
    monkeypatch.setattr(sys, "executable", executable(temporary, "echo no luck >&2; exit 1"))
    ran = command(*SMALL)
    assert ran.status == 1
    assert ran.err == "aiofiles-api: the embedded server did not start: no luck\n"
    assert is_left(temporary) == []


@pytest.mark.anyio
async def test_a_server_that_does_not_end_is_killed(
    monkeypatch: pytest.MonkeyPatch, temporary: Path
) -> None:
    script = "trap '' TERM; echo export OPENAI_BASE_URL=here; while :; do sleep 0.05; done"
    monkeypatch.setattr(sys, "executable", executable(temporary, script))
    monkeypatch.setattr(embedded, "_GRACE_SECONDS", 0.1)
    async with embedded.embedded_server(str(temporary)) as base_url:
        assert base_url == "here"
        assert emulators()
    assert emulators() == []


@pytest.mark.anyio
async def test_a_server_that_was_never_started_needs_no_end(temporary: Path) -> None:
    with pytest.raises(FileNotFoundError):
        async with embedded.embedded_server(f"{temporary}/none"):
            pytest.fail("it cannot have started")


def executable(directory: Path, script: str) -> str:
    path = directory / "python"
    path.write_text(f"#!/bin/sh\n{script}\n")
    path.chmod(0o755)
    return str(path)


# --- against another server ----------------------------------------------------------------------


@contextmanager
def between(
    server: Server,
    *,
    answer: Callable[[str], bytes | None] = lambda _: None,
    change: Callable[[str, bytes], bytes] = lambda _, content: content,
) -> Iterator[str]:
    """Stand between the demo and the server, and give the base URL of that.

    Args:
        server: The server.
        answer: Given a request line, what to answer instead of the server.
        change: Given a request line and a piece of what the server answers, what to pass on.
    """

    async def pass_on(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        parts = urlsplit(server.base_url)
        from_server, to_server = await asyncio.open_connection(parts.hostname, parts.port)
        line = ""

        async def pass_back() -> None:
            while content := await from_server.read(65536):
                writer.write(change(line, content))
                await writer.drain()

        answering = asyncio.create_task(pass_back())
        with suppress(ConnectionError):
            while content := await reader.read(65536):
                if re.match(rb"[A-Z]+ /", content):
                    line = content.partition(b"\r\n")[0].decode()
                instead = answer(line)
                if instead is None:
                    to_server.write(content)
                    await to_server.drain()
                else:
                    writer.write(instead)
                    await writer.drain()
        answering.cancel()
        await asyncio.wait([answering])
        to_server.close()
        writer.close()

    @asynccontextmanager
    async def listening() -> AsyncIterator[str]:
        listener = await asyncio.start_server(pass_on, "127.0.0.1", 0)
        yield f"http://127.0.0.1:{listener.sockets[0].getsockname()[1]}/v1"
        listener.close()

    with server.portal.wrap_async_context_manager(listening()) as base_url:
        yield base_url


def refuses_to_delete(line: str) -> bytes | None:
    refusal = b"HTTP/1.1 403 Forbidden\r\nContent-Length: 0\r\n\r\n"
    return refusal if line.startswith("DELETE") else None


def keeps_uploads_to_itself(line: str, content: bytes) -> bytes:
    return b"" if line.startswith("POST") else content


def test_it_leaves_on_another_server_only_what_was_there_before(
    server: Server, command: CommandLine, monkeypatch: pytest.MonkeyPatch, temporary: Path
) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    file = server.put(b"1", "mine", "vision")
    ran = command(*SMALL, "--base-url", server.base_url, "--purpose", "vision")
    assert (ran.status, ran.err) == (0, "")
    assert TABLE.search(ran.out)
    assert server.files() == [file]
    assert is_left(temporary) == []


def test_content_that_comes_back_differently_is_a_failure(
    server: Server, command: CommandLine
) -> None:
    def flip_a_bit(line: str, content: bytes) -> bytes:
        if line.endswith("/content HTTP/1.1") and len(content) > 10_000:
            return content[:-1] + bytes([content[-1] ^ 1])
        return content

    with between(server, change=flip_a_bit) as base_url:
        ran = command(*SMALL, "--base-url", base_url, "--api-key", KEY)
    assert ran.status == 1
    assert re.fullmatch(
        r"aiofiles-api: these came back differently: demo-\w+-1MB.bin, demo-\w+-2MB.bin\n", ran.err
    )
    assert TABLE.search(ran.out)
    assert "byte for byte" not in ran.out
    assert server.files() == []


def test_files_that_are_not_listed_are_a_failure(server: Server, command: CommandLine) -> None:
    listing = b'{"object": "list", "data": [], "has_more": false}'
    reply = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n%s"

    def answer(line: str) -> bytes | None:
        return reply % (len(listing), listing) if line.startswith("GET /v1/files?") else None

    with between(server, answer=answer) as base_url:
        ran = command(*SMALL, "--base-url", base_url, "--api-key", KEY)
    assert ran.status == 1
    assert ran.err.startswith("aiofiles-api: the server does not list file-")
    assert server.files() == []


def test_files_that_cannot_be_deleted_are_named(server: Server, command: CommandLine) -> None:
    with between(server, answer=refuses_to_delete) as base_url:
        ran = command(*SMALL, "--base-url", base_url, "--api-key", KEY)
    assert ran.status == 1
    first, second = ran.err.splitlines()
    assert first.startswith("aiofiles-api: could not delete file-")
    assert all(file.id in first for file in server.files())
    assert "403" in second


@pytest.mark.anyio
@pytest.mark.parametrize("may_delete", [True, False])
async def test_ctrl_c_deletes_even_files_whose_upload_was_never_answered(
    server: Server, temporary: Path, *, may_delete: bool
) -> None:
    def answer(line: str) -> bytes | None:
        return None if may_delete else refuses_to_delete(line)

    mine = server.put(b"1", "mine")
    with between(server, answer=answer, change=keeps_uploads_to_itself) as base_url:
        options = ("--base-url", base_url, "--size-mb", "1")
        async with started(*COMMAND, "demo", *options, OPENAI_API_KEY=KEY) as process:
            await until(lambda: len(server.files()) == 3)
            ran = await ended(process, signal.SIGINT)
    assert ran.status == 130
    assert is_left(temporary) == []
    if may_delete:
        assert server.files() == [mine]
        assert ran.err.endswith("interrupted: 1 of 6 steps done, nothing is left behind\n")
    else:
        assert ran.err.count("could not delete") == 1
        assert ran.err.endswith("on the server is left\n")
        assert all(file.id in ran.err.splitlines()[-1] for file in server.files()[1:])


# --- what it is made of --------------------------------------------------------------------------


@pytest.mark.anyio
async def test_the_peak_of_memory_is_that_since_the_last_look() -> None:
    async with PeakMemory() as peak:
        assert peak.take() < 20_000_000
        block = bytearray(os.urandom(50_000_000))
        await asyncio.sleep(0.1)
        del block
        await asyncio.sleep(0.1)
        assert peak.take() >= 45_000_000
        assert peak.take() < 20_000_000


@pytest.mark.anyio
@pytest.mark.parametrize("platform", ["linux", "darwin"])
async def test_without_proc_the_peak_is_what_the_system_kept(
    monkeypatch: pytest.MonkeyPatch, platform: str
) -> None:
    monkeypatch.setattr(memory, "_STATM", "/proc/none")
    monkeypatch.setattr(sys, "platform", platform)
    async with PeakMemory() as peak:
        assert peak.take() == 0


@pytest.mark.anyio
async def test_work_in_a_thread_is_waited_for_even_when_it_is_cancelled() -> None:
    may_end = threading.Event()
    ended_at_last: list[bool] = []

    def work() -> None:
        ended_at_last.append(may_end.wait(10))
        raise ValueError("nobody hears this")

    task = asyncio.create_task(in_thread(work))
    await asyncio.sleep(0.05)
    task.cancel()
    await asyncio.sleep(0.05)
    assert not task.done()
    may_end.set()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert ended_at_last == [True]


@pytest.mark.anyio
async def test_work_in_a_thread_is_waited_for_by_a_scope_that_cancels_again_and_again() -> None:
    may_end = threading.Event()
    ended_at_last: list[bool] = []
    with anyio.CancelScope() as scope:
        asyncio.get_running_loop().call_later(0.05, scope.cancel)
        asyncio.get_running_loop().call_later(0.1, may_end.set)
        await in_thread(lambda: ended_at_last.append(may_end.wait(10)))
    assert scope.cancelled_caught
    assert ended_at_last == [True]
