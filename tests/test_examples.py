"""The examples, run as their readers would run them."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import aiohttp
import anyio
import anyio.abc
import attrs
import psutil
import pytest
from conftest import KEY, RawRequest, RawServer, raw_server

from aiofiles_api import FilesClient
from aiofiles_api.emulator import Emulator

pytestmark = [pytest.mark.anyio, pytest.mark.timeout(120)]

EXAMPLES = Path(__file__).parent.parent / "examples"
LARGE = 256 * 1024 * 1024


def environment(base_url: str) -> dict[str, str]:
    return {**os.environ, "OPENAI_API_KEY": KEY, "OPENAI_BASE_URL": base_url}


async def test_the_quick_start_does_what_it_says(server: Emulator, tmp_path: Path) -> None:
    (tmp_path / "train.jsonl").write_bytes(b"{}\n")
    done = await anyio.run_process(
        [sys.executable, "-W", "error", str(EXAMPLES / "quick_start.py"), "train.jsonl"],
        cwd=tmp_path,
        env=environment(server.base_url),
    )
    lines = done.stdout.decode().splitlines()
    assert [line.split()[0] for line in lines] == [
        "uploaded",
        "listed",
        "downloaded",
        "streamed",
        "deleted",
    ]
    assert (tmp_path / "out" / "train.jsonl").read_bytes() == b"{}\n"


@attrs.frozen
class App:
    """The FastAPI example, served by uvicorn in a process of its own."""

    url: str
    process: psutil.Process
    http: aiohttp.ClientSession


@asynccontextmanager
async def fastapi_app(base_url: str) -> AsyncIterator[App]:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        url = f"http://127.0.0.1:{listener.getsockname()[1]}"
        process = await asyncio.create_subprocess_exec(
            sys.executable,
            "-m",
            "uvicorn",
            "--log-level=warning",
            f"--app-dir={EXAMPLES}",
            f"--fd={listener.fileno()}",
            "fastapi_app:app",
            env=environment(base_url),
            pass_fds=[listener.fileno()],
        )
    try:
        async with aiohttp.ClientSession() as http:
            await wait_until_up(http, url)
            yield App(url, psutil.Process(process.pid), http)
    finally:
        process.terminate()
        await process.wait()


async def wait_until_up(http: aiohttp.ClientSession, url: str) -> None:
    with anyio.fail_after(30):
        while True:
            try:
                async with http.get(f"{url}/openapi.json") as response:
                    await response.read()
            except aiohttp.ClientConnectorError:
                await asyncio.sleep(0.05)
            else:
                return


@asynccontextmanager
async def flat_memory(process: psutil.Process, *, most: int) -> AsyncIterator[None]:
    """Fail when the process's resident memory grows by more than `most` bytes meanwhile."""
    before = peak = process.memory_info().rss

    async def watch() -> None:
        nonlocal peak
        while True:
            peak = max(peak, process.memory_info().rss)
            await asyncio.sleep(0.01)

    watching = asyncio.create_task(watch())
    yield
    watching.cancel()
    assert peak - before < most, f"grew by {(peak - before) / 1e6:.1f} MB"


async def send_form(app: App, path: Path) -> dict[str, object]:
    with path.open("rb") as file:
        form = aiohttp.FormData({"file": file})
        async with app.http.post(f"{app.url}/files", data=form) as response:
            answer: dict[str, object] = await response.json()
            return answer


async def test_the_fastapi_app_passes_files_on_in_flat_memory(
    server: Emulator, files: FilesClient, tmp_path: Path
) -> None:
    small, large = tmp_path / "small.jsonl", tmp_path / "large.jsonl"
    small.write_bytes(b"{}\n")
    with large.open("wb") as file:
        for number in range(LARGE // 1_048_576):
            file.write(number.to_bytes(4, "big") * 262_144)
    async with fastapi_app(server.base_url) as app:
        stored = await send_form(app, small)  # warms up what is loaded with the first request
        async with app.http.get(f"{app.url}/files/{stored['id']}/content") as response:
            assert await response.read() == b"{}\n"
        async with flat_memory(app.process, most=40_000_000):
            stored = await send_form(app, large)
            assert (stored["bytes"], stored["filename"]) == (LARGE, "large.jsonl")
        async with flat_memory(app.process, most=40_000_000):
            async with app.http.get(f"{app.url}/files/{stored['id']}/content") as response:
                assert response.content_length == LARGE
                assert await is_content_of(response, large)
    assert (await files.retrieve(str(stored["id"]))).bytes == LARGE


async def is_content_of(response: aiohttp.ClientResponse, path: Path) -> bool:
    with path.open("rb") as file:
        async for chunk in response.content.iter_any():
            if file.read(len(chunk)) != chunk:
                return False
        return file.read(1) == b""


async def test_errors_of_the_api_reach_the_apps_caller(server: Emulator) -> None:
    async with fastapi_app(server.base_url) as app:
        async with app.http.get(f"{app.url}/files/file-unknown/content") as response:
            assert response.status == 404
            assert "file-unknown" in (await response.json())["detail"]
        async with app.http.get(f"{app.url}/files/bad%20id/content") as response:
            assert response.status == 400


async def test_a_caller_that_goes_away_releases_the_connection_to_the_api() -> None:
    async def endless(_request: RawRequest, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 1000000000000\r\n\r\n")
        while True:
            writer.write(b"x" * 65536)
            await writer.drain()

    async with raw_server(endless) as raw, fastapi_app(raw.base_url) as app:
        async with app.http.get(f"{app.url}/files/file-1/content") as response:
            await response.content.readany()
            assert raw.open_connections == 1
            response.close()
        await closed_within(raw, 5)


async def closed_within(raw: RawServer, seconds: float) -> None:
    with anyio.fail_after(seconds):
        await raw.wait_until_closed()


async def lines_of(process: anyio.abc.Process, text: str) -> str:
    """Return what a process has printed until it printed `text`."""
    printed = ""
    assert process.stdout is not None
    with anyio.fail_after(60):
        while text not in printed:
            printed += (await process.stdout.receive()).decode()
    return printed


async def watch(server: Emulator, inbox: Path, journal: Path) -> anyio.abc.Process:
    program = str(EXAMPLES / "watch_directory.py")
    command = [sys.executable, "-W", "error", program, str(inbox), str(journal)]
    environ = environment(server.base_url)
    return await anyio.open_process(command, env=environ, stderr=None)


@pytest.mark.parametrize("end", [signal.SIGTERM, signal.SIGKILL])
async def test_the_watched_directory_is_uploaded_and_each_file_once(
    server: Emulator, files: FilesClient, tmp_path: Path, end: signal.Signals
) -> None:
    inbox, journal = tmp_path / "inbox", tmp_path / "journal"
    inbox.mkdir()
    (inbox / "first").write_bytes(b"1")
    (inbox / ".hidden").write_bytes(b"0")
    async with await watch(server, inbox, journal) as process:
        await lines_of(process, "first as file-")
        (inbox / "second").write_bytes(b"2")
        await lines_of(process, "second as file-")
        process.send_signal(end)
        if end == signal.SIGTERM:
            await lines_of(process, "stopped")
        assert await process.wait() == (0 if end == signal.SIGTERM else -end)
    (inbox / "third").write_bytes(b"3")
    async with await watch(server, inbox, journal) as process:
        printed = await lines_of(process, "third as file-")
        assert "first" not in printed
        process.terminate()
        await process.wait()
    assert sorted([file.filename async for file in files.list()]) == ["first", "second", "third"]


@pytest.mark.parametrize("has_server", [True, False])
async def test_the_batch_goes_there_and_back(
    server: Emulator, tmp_path: Path, *, has_server: bool
) -> None:
    environ = environment(server.base_url)
    if not has_server:
        del environ["OPENAI_BASE_URL"], environ["OPENAI_API_KEY"]
    program = str(EXAMPLES / "batch_round_trip.py")
    for _ in range(2):  # the second time, all is there
        done = await anyio.run_process(
            [sys.executable, "-W", "error", program, str(tmp_path), "100"], env=environ, stderr=None
        )
        assert done.stdout.decode().splitlines() == [
            "uploaded 100 files",
            "processed 100 files",
            "downloaded 100 files",
        ]
    for path in (tmp_path / "requests").iterdir():
        assert (tmp_path / "results" / path.name).read_bytes() == path.read_bytes()
