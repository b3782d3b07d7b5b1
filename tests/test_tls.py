"""Everything once more over TLS, with a certificate made on the spot."""

from __future__ import annotations

import asyncio
import os
import ssl
from collections.abc import AsyncIterator
from contextlib import suppress
from pathlib import Path

import pytest
import trustme
from aiohttp import Fingerprint, web
from conftest import KEY, NO_RETRIES, nothing_leaks

from aiofiles_api import (
    APIConnectionError,
    APIResponseError,
    FilesClient,
    Progress,
    SourceChangedError,
)

pytestmark = pytest.mark.anyio

CONTENT = os.urandom(3_000_000)


@pytest.fixture(scope="module")
def authority() -> trustme.CA:
    return trustme.CA()


@pytest.fixture
async def address(authority: trustme.CA) -> AsyncIterator[str]:
    """Serve one file's upload and content over TLS."""
    stored = bytearray()

    async def store(request: web.Request) -> web.Response:
        reader = await request.multipart()
        while (part := await reader.next()) is not None:
            if getattr(part, "name", None) == "file":
                stored[:] = await part.read()  # type: ignore[union-attr]
        return web.json_response(
            {"id": "file-1", "bytes": len(stored), "created_at": 1, "filename": "f", "purpose": "p"}
        )

    async def content(_request: web.Request) -> web.Response:
        return web.Response(body=bytes(stored))

    async def zeros(_request: web.Request) -> web.Response:
        return web.Response(body=bytes(len(CONTENT)))

    app = web.Application(client_max_size=10_000_000)
    app.router.add_post("/v1/files", store)
    app.router.add_get("/v1/files/file-1/content", content)
    app.router.add_get("/v1/files/file-0/content", zeros)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("localhost", "127.0.0.1").configure_cert(context)
    runner = web.AppRunner(app)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0, ssl_context=context).start()
    yield f"https://127.0.0.1:{runner.addresses[0][1]}/v1"
    await runner.cleanup()


@pytest.mark.parametrize("how", ["context", "unchecked"])
async def test_files_go_up_and_down_over_tls(
    address: str, authority: trustme.CA, tmp_path: Path, how: str
) -> None:
    trusting = ssl.create_default_context()
    authority.configure_trust(trusting)
    (tmp_path / "source").write_bytes(CONTENT)
    setting = trusting if how == "context" else False
    async with FilesClient(base_url=address, api_key=KEY, ssl=setting) as files:
        file = await files.upload(tmp_path / "source", purpose="batch")
        for name in ("copy", "again"):  # over the same connection
            await files.download(file, tmp_path / name)
            assert (tmp_path / name).read_bytes() == CONTENT


@pytest.mark.parametrize("source", ["path", "object"])
async def test_a_file_that_is_written_to_while_it_is_sent_is_never_stored(
    address: str, tmp_path: Path, source: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("aiofiles_api.progress._INTERVAL", 0.0)  # each step is told

    def write(progress: Progress) -> None:
        if progress.done:
            os.utime(path, ns=(1, 1))

    path = tmp_path / "source"
    path.write_bytes(CONTENT)
    async with FilesClient(base_url=address, api_key=KEY, ssl=False) as files:
        with path.open("rb") as opened, pytest.raises(SourceChangedError, match="nothing was"):
            await files.upload(
                path if source == "path" else opened, purpose="batch", progress=write
            )
        assert await files.read("file-1") == b""


async def test_what_comes_for_a_download_that_was_cancelled_gets_into_no_other_ones_file(
    address: str, tmp_path: Path
) -> None:
    async with FilesClient(base_url=address, api_key=KEY, ssl=False) as files:
        await files.upload(CONTENT, purpose="batch")

        async def download(number: int) -> None:
            await files.download("file-1", tmp_path / str(number))

        async def give_up(delay: float) -> None:
            with suppress(TimeoutError):
                async with asyncio.timeout(delay):
                    await files.download("file-0", tmp_path / "zeros", resume=False)

        for turn in range(4):
            async with asyncio.TaskGroup() as group:
                for number in range(4):
                    group.create_task(give_up(0.004 * (number + turn)))
                    group.create_task(download(number))
            for number in range(4):
                assert (tmp_path / str(number)).read_bytes() == CONTENT


async def test_a_certificate_that_is_not_trusted_is_named_and_not_tried_again(
    address: str,
) -> None:
    async with FilesClient(base_url=address, api_key=KEY) as files:
        with pytest.raises(APIConnectionError, match="certificate is not trusted") as caught:
            await files.read("file-1")
    assert not caught.value.retryable


async def test_a_server_that_speaks_no_tls_is_a_connection_error(address: str) -> None:
    plain = address.replace("https", "http")
    async with FilesClient(base_url=plain, api_key=KEY, retry=NO_RETRIES) as files:
        with pytest.raises(APIConnectionError):
            await files.read("file-1")


async def test_a_redirect_from_https_to_http_is_refused(authority: trustme.CA) -> None:
    async def redirect(_request: web.Request) -> web.Response:
        raise web.HTTPFound("http://127.0.0.1:1/plain?sig=secret")

    app = web.Application()
    app.router.add_get("/v1/files/file-1/content", redirect)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("127.0.0.1").configure_cert(context)
    runner = web.AppRunner(app)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0, ssl_context=context).start()
    base_url = f"https://127.0.0.1:{runner.addresses[0][1]}/v1"
    async with FilesClient(base_url=base_url, api_key=KEY, ssl=False) as files:
        with pytest.raises(APIResponseError, match="https to http") as caught:
            await files.read("file-1")
    assert "secret" not in str(caught.value)
    await runner.cleanup()


async def test_a_connection_that_brings_more_than_its_body_is_no_trouble_at_the_close(
    authority: trustme.CA,
) -> None:
    content = bytes(1_700_000)

    async def say_more(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(ConnectionError, asyncio.IncompleteReadError):
            await reader.readuntil(b"\r\n\r\n")
            writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % len(content))
            writer.write(content + b"and more")
            await writer.drain()
            await reader.read()
        writer.close()

    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("127.0.0.1").configure_cert(context)
    trusting = ssl.create_default_context()
    authority.configure_trust(trusting)
    server = await asyncio.start_server(say_more, "127.0.0.1", 0, ssl=context)
    base_url = f"https://127.0.0.1:{server.sockets[0].getsockname()[1]}/v1"
    async with nothing_leaks():
        for _ in range(3):
            async with FilesClient(base_url=base_url, api_key=KEY, ssl=trusting) as files:
                assert await files.read("file-1") == content
    server.close()


async def test_a_certificate_that_is_not_the_named_one_is_refused_at_once(address: str) -> None:
    pinned = Fingerprint(b"x" * 32)
    async with FilesClient(base_url=address, api_key=KEY, ssl=pinned) as files:
        with pytest.raises(APIConnectionError, match="not the one that ssl= names") as caught:
            await files.retrieve("file-1")
    assert not caught.value.retryable
