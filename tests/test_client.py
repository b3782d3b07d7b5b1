"""The façade: settings, credentials, the life of a client, and waiting for the service."""

from __future__ import annotations

import asyncio
import json
import math
import os
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import aiohttp
import anyio
import pytest
from conftest import (
    KEY,
    NO_RETRIES,
    RawRequest,
    Script,
    client_of,
    hang_up,
    nothing_leaks,
    raw_server,
    reply,
    silence,
)

from aiofiles_api import (
    APIConnectionError,
    APIStatusError,
    APITimeoutError,
    AuthenticationError,
    ClientClosedError,
    ConfigurationError,
    FileObject,
    FilesClient,
    InvalidArgumentError,
    ProcessingError,
    RetryPolicy,
    Timeouts,
)
from aiofiles_api.emulator import Emulator

pytestmark = pytest.mark.anyio

FILE = '{"id": "file-1", "bytes": 1, "created_at": 1, "filename": "f", "purpose": "batch"}'


async def test_the_environment_gives_what_the_arguments_do_not(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async with raw_server(reply(FILE)) as raw:
        monkeypatch.setenv("OPENAI_API_KEY", KEY)
        monkeypatch.setenv("OPENAI_BASE_URL", raw.base_url + "/")
        monkeypatch.setenv("OPENAI_ORG_ID", "org-1")
        monkeypatch.setenv("OPENAI_PROJECT_ID", "proj-1")
        async with FilesClient() as files:
            await files.retrieve("file-1")
        async with FilesClient(
            api_key="other-key", organization="org-2", project="proj-2"
        ) as files:
            await files.retrieve("file-1")
    first, second = (request.headers for request in raw.requests)
    assert first["authorization"] == f"Bearer {KEY}"
    assert (first["openai-organization"], first["openai-project"]) == ("org-1", "proj-1")
    assert first["user-agent"] == "aiofiles-api"
    assert second["authorization"] == "Bearer other-key"
    assert (second["openai-organization"], second["openai-project"]) == ("org-2", "proj-2")


async def test_an_azure_style_key_and_version_take_the_place_of_ours(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    async with (
        raw_server(reply(FILE)) as raw,
        FilesClient(
            base_url=raw.base_url,
            headers={"api-key": "azure-key"},
            params={"api-version": "2024-10-21"},
        ) as files,
    ):
        await files.retrieve("file-1")
        await files.upload(b"x", purpose="batch")
    for request in raw.requests:
        assert "authorization" not in request.headers
        assert request.headers["api-key"] == "azure-key"
        assert "?api-version=2024-10-21 " in request.line


@pytest.mark.parametrize("name", ["Authorization", "authorization"])
async def test_an_authorization_of_the_callers_own_prevails_over_the_key(name: str) -> None:
    async with (
        raw_server(reply(FILE)) as raw,
        FilesClient(base_url=raw.base_url, api_key=KEY, headers={name: "Basic b3du"}) as files,
    ):
        await files.retrieve("file-1")
    assert raw.requests[0].headers["authorization"] == "Basic b3du"


async def test_a_key_can_be_fetched_anew_for_each_request() -> None:
    keys = iter(["first-key", "second-key"])

    async def fetch() -> str:
        await asyncio.sleep(0)
        return next(keys)

    async with raw_server(reply(FILE)) as raw, client_of(raw, api_key=fetch) as files:
        await files.retrieve("file-1")
        await files.retrieve("file-1")
    assert [request.headers["authorization"] for request in raw.requests] == [
        "Bearer first-key",
        "Bearer second-key",
    ]


async def test_a_fetched_key_that_cannot_be_one_is_refused_before_anything_is_sent() -> None:
    async def fetch() -> str:
        return "key\n"

    async with raw_server(hang_up) as raw, client_of(raw, api_key=fetch) as files:
        with pytest.raises(ConfigurationError, match="strip"):
            await files.retrieve("file-1")
        assert raw.connections == 0


def test_a_client_without_a_key_is_refused_with_the_remedy() -> None:
    with pytest.raises(ConfigurationError, match="OPENAI_API_KEY"):
        FilesClient()


async def test_a_wrong_key_is_an_authentication_error(server: Emulator) -> None:
    async with FilesClient(base_url=server.base_url, api_key="sk-wrong-key") as files:
        with pytest.raises(AuthenticationError, match="check the key") as caught:
            await files.retrieve("file-1")
    assert caught.value.code == "invalid_api_key"
    assert "sk-wrong-key" not in str(caught.value) + caught.value.body


def test_a_client_can_be_made_outside_a_loop_and_serves_one_loop_only() -> None:
    files = FilesClient(api_key=KEY, base_url="http://127.0.0.1:1/v1", retry=NO_RETRIES)

    async def fail_to_connect() -> None:
        with pytest.raises(APIConnectionError):
            await files.retrieve("file-1")
        await files._session._client().close()  # the connections alone, not the client

    asyncio.run(fail_to_connect())
    with pytest.raises(ConfigurationError, match="another event loop"):
        asyncio.run(files.retrieve("file-1"))


async def test_a_client_cannot_be_closed_from_another_loop_while_its_own_runs() -> None:
    async with raw_server(silence) as raw, client_of(raw) as files:
        asking = asyncio.create_task(files.retrieve("file-1"))
        await asyncio.sleep(0.05)
        with pytest.raises(ConfigurationError, match="another event loop"):
            await asyncio.to_thread(asyncio.run, files.aclose())
        await files.aclose()
        with pytest.raises(ClientClosedError):
            await asking


async def test_a_client_whose_loop_has_ended_can_be_closed() -> None:
    files = FilesClient(api_key=KEY, base_url="http://127.0.0.1:1/v1", retry=NO_RETRIES)

    async def fail_to_connect() -> None:
        with pytest.raises(APIConnectionError):
            await files.retrieve("file-1")

    await asyncio.to_thread(asyncio.run, fail_to_connect())
    await files.aclose()


async def test_a_connector_of_the_callers_has_its_own_tls() -> None:
    connector = aiohttp.TCPConnector()
    with pytest.raises(ConfigurationError, match="ssl= has no effect"):
        FilesClient(api_key=KEY, connector=connector, ssl=aiohttp.Fingerprint(b"x" * 32))
    await connector.close()


async def test_what_no_other_attempt_would_mend_is_not_tried_again(server: Emulator) -> None:
    connector = aiohttp.TCPConnector()
    await connector.close()
    retry = RetryPolicy(backoff=60)
    for files in (
        FilesClient(api_key=KEY, retry=retry, base_url="http://a..b/v1"),
        FilesClient(api_key=KEY, retry=retry, base_url=server.base_url, connector=connector),
    ):
        async with files:
            with anyio.fail_after(5), pytest.raises(APIConnectionError) as caught:
                await files.retrieve("file-1")
            assert not caught.value.retryable


async def test_uploads_may_read_from_their_own_client_whatever_its_connections(
    server: Emulator,
) -> None:
    content = bytes(300_000)
    async with FilesClient(base_url=server.base_url, api_key=KEY, max_connections=2) as files:
        file = await files.upload(content, purpose="batch")

        async def copy() -> FileObject:
            async def pieces() -> AsyncIterator[bytes]:
                async with files.stream(file) as stream:
                    async for piece in stream:
                        yield piece

            return await files.upload(pieces(), purpose="batch")

        with anyio.fail_after(10):
            copies = await asyncio.gather(*(copy() for _ in range(8)))
        assert [one.bytes for one in copies] == [len(content)] * 8


async def test_a_blocking_source_may_read_from_its_own_client_whatever_its_connections(
    server: Emulator,
) -> None:
    loop = asyncio.get_running_loop()
    content = bytes(range(200)) * 1_000
    async with FilesClient(base_url=server.base_url, api_key=KEY, max_connections=2) as files:
        file = await files.upload(content, purpose="batch")

        def pieces() -> Iterator[bytes]:
            yield asyncio.run_coroutine_threadsafe(files.read(file), loop).result()

        with anyio.fail_after(10):
            copies = await asyncio.gather(
                *(files.upload(pieces(), purpose="batch") for _ in range(8))
            )
        assert [one.bytes for one in copies] == [len(content)] * 8


async def test_a_client_opens_itself_and_is_closed_once(server: Emulator) -> None:
    async with nothing_leaks():
        files = FilesClient(base_url=server.base_url, api_key=KEY)
        await files.delete(await files.upload(b"x", purpose="batch"))
        await files.aclose()


async def test_a_connector_of_the_callers_is_used_and_never_closed(server: Emulator) -> None:
    connector = aiohttp.TCPConnector()
    async with FilesClient(base_url=server.base_url, api_key=KEY, connector=connector) as files:
        await files.upload(b"x", purpose="batch")
    assert not connector.closed
    await connector.close()


async def test_connections_are_kept_and_never_more_than_allowed() -> None:
    running = most = 0

    async def count(request: RawRequest, writer: asyncio.StreamWriter) -> None:
        nonlocal running, most
        running += 1
        most = max(most, running)
        await asyncio.sleep(0.005)
        running -= 1
        await reply(FILE)(request, writer)

    async with raw_server(count) as raw, client_of(raw, max_connections=3) as files:
        async with anyio.create_task_group() as group:
            for _ in range(30):
                group.start_soon(files.retrieve, "file-1")
        assert most == 3
        assert raw.connections == 3


async def test_waiting_for_a_connection_slot_is_no_timeout() -> None:
    async def slowly(request: RawRequest, writer: asyncio.StreamWriter) -> None:
        await asyncio.sleep(0.6)
        await reply(FILE)(request, writer)

    async with (
        raw_server(slowly) as raw,
        client_of(raw, max_connections=1, timeouts=Timeouts(connect=0.5)) as files,
    ):
        async with anyio.create_task_group() as group:
            for _ in range(3):
                group.start_soon(files.retrieve, "file-1")


@pytest.mark.parametrize("bound", ["limit", "limit_per_host"])
async def test_waiting_for_a_place_in_the_callers_connector_is_no_timeout(bound: str) -> None:
    async def slowly(request: RawRequest, writer: asyncio.StreamWriter) -> None:
        await asyncio.sleep(0.6)
        await reply(FILE)(request, writer)

    connector = (
        aiohttp.TCPConnector(limit=1)
        if bound == "limit"
        else aiohttp.TCPConnector(limit_per_host=1)
    )
    async with (
        raw_server(slowly) as raw,
        connector,
        client_of(
            raw, connector=connector, timeouts=Timeouts(connect=0.5), retry=NO_RETRIES
        ) as files,
    ):
        async with anyio.create_task_group() as group:
            for _ in range(3):
                group.start_soon(files.retrieve, "file-1")


@pytest.mark.parametrize("raised", [KeyError("x"), AttributeError("x"), ZeroDivisionError()])
async def test_a_tracing_hook_that_fails_is_not_taken_for_a_lost_connection(
    server: Emulator, raised: Exception
) -> None:
    async def fail(*_: object) -> None:
        raise raised

    trace = aiohttp.TraceConfig()
    trace.on_request_start.append(fail)
    async with FilesClient(
        base_url=server.base_url, api_key=KEY, trace_configs=[trace], retry=RetryPolicy(backoff=60)
    ) as files:
        with anyio.fail_after(5), pytest.raises(APIConnectionError) as caught:
            await files.retrieve("file-1")
    assert not caught.value.retryable
    assert type(raised).__name__ in str(caught.value)
    assert "trace_configs=" in str(caught.value)


async def test_tracing_hooks_are_passed_on(server: Emulator) -> None:
    seen: list[str] = []

    async def note(
        _session: object, _context: object, params: aiohttp.TraceRequestStartParams
    ) -> None:
        seen.append(params.method)

    trace = aiohttp.TraceConfig()
    trace.on_request_start.append(note)
    async with FilesClient(base_url=server.base_url, api_key=KEY, trace_configs=[trace]) as files:
        await files.delete(await files.upload(b"x" * 1_000_000, purpose="batch"))
    assert seen == ["POST", "DELETE"]


async def test_a_proxy_is_used_where_the_environment_names_one(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async with raw_server(reply(FILE)) as proxy:
        address = proxy.base_url.removesuffix("/v1")
        monkeypatch.setenv("HTTP_PROXY", address)
        monkeypatch.setenv("http_proxy", address)
        monkeypatch.setenv("NO_PROXY", "direct.test")
        monkeypatch.setenv("no_proxy", "direct.test")
        settings = {"api_key": KEY, "retry": NO_RETRIES}
        async with FilesClient(base_url="http://files.test/v1", **settings) as files:  # type: ignore[arg-type]
            await files.retrieve("file-1")
            assert proxy.requests[0].line.startswith("GET http://files.test/v1/files/file-1")
        for base_url, trust_env in (
            ("http://direct.test/v1", True),
            ("http://files.test/v1", False),
        ):
            async with FilesClient(base_url=base_url, trust_env=trust_env, **settings) as files:  # type: ignore[arg-type]
                with pytest.raises(APIConnectionError):
                    await files.retrieve("file-1")
        async with FilesClient(
            base_url="http://direct.test/v1",
            proxy=address,
            **settings,  # type: ignore[arg-type]
        ) as files:
            await files.retrieve("file-1")
        assert len(proxy.requests) == 2


async def test_a_host_is_excepted_from_the_proxy_with_its_port_too(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async with raw_server(reply(FILE)) as raw:
        host = raw.base_url.removesuffix("/v1").removeprefix("http://")
        for name in ("HTTP_PROXY", "http_proxy"):
            monkeypatch.setenv(name, "http://127.0.0.1:1")
        for name in ("NO_PROXY", "no_proxy"):
            monkeypatch.setenv(name, host)
        async with client_of(raw) as files:
            await files.retrieve("file-1")


async def test_a_password_of_the_environments_proxy_is_in_no_error(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async with raw_server(reply("no: passw0rd", status="407 No")) as proxy:
        address = proxy.base_url.removesuffix("/v1").replace("//", "//user:passw0rd@")
        for name in ("HTTP_PROXY", "http_proxy"):
            monkeypatch.setenv(name, address)
        async with FilesClient(base_url="http://files.test/v1", api_key=KEY) as files:
            with pytest.raises(APIStatusError, match=r"407 no: \*\*\*"):
                await files.retrieve("file-1")


@pytest.mark.parametrize("name", ["HTTP_PROXY", "http_proxy"])
async def test_a_proxy_in_the_environment_needs_no_scheme(
    monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    async with raw_server(reply(FILE)) as proxy:
        address = proxy.base_url.removesuffix("/v1").removeprefix("http://")
        monkeypatch.setenv(name, address)
        async with FilesClient(base_url="http://files.test/v1", api_key=KEY) as files:
            await files.retrieve("file-1")
        assert len(proxy.requests) == 1


async def test_a_proxy_of_another_kind_is_refused_before_anything_is_sent(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("HTTP_PROXY", "socks5://user:password@127.0.0.1:1080")
    async with nothing_leaks(), FilesClient(base_url="http://files.test/v1", api_key=KEY) as files:
        for _ in range(2):
            with pytest.raises(ConfigurationError, match="HTTP_PROXY: it does not") as caught:
                await files.upload(b"x", purpose="batch")
            assert "password" not in str(caught.value)


@pytest.mark.parametrize(
    ("status", "is_final"),
    [
        ("403 Forbidden", True),
        ("407 Proxy Authentication Required", True),
        ("502 Bad Gateway", False),
    ],
)
async def test_a_proxy_that_refuses_a_tunnel_is_named(status: str, is_final: bool) -> None:  # noqa: FBT001 - a parameter of pytest
    async with raw_server(reply("", status=status)) as proxy:
        async with FilesClient(
            base_url="https://files.test/v1",
            api_key=KEY,
            proxy=proxy.base_url.removesuffix("/v1"),
            retry=RetryPolicy(attempts=2, backoff=0.01),
        ) as files:
            with pytest.raises(APIConnectionError, match=f"proxy .* status {status[:3]};"):
                await files.retrieve("file-1")
    assert len(proxy.requests) == (1 if is_final else 2)
    assert "authorization" not in proxy.requests[0].headers


async def test_a_netrc_entry_is_not_used(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    netrc = tmp_path / "netrc"
    netrc.write_text("machine 127.0.0.1 login user password word\n")
    netrc.chmod(0o600)
    monkeypatch.setenv("NETRC", str(netrc))
    async with raw_server(reply(FILE)) as raw, client_of(raw) as files:
        await files.retrieve("file-1")
        assert raw.requests[0].headers["authorization"] == f"Bearer {KEY}"


async def test_the_loop_is_not_needed_to_import_and_orjson_is_not_needed_at_all() -> None:
    program = (
        "import sys; sys.modules['orjson'] = None\n"
        "import asyncio, aiofiles_api, aiofiles_api.emulator\n"
        "async def main():\n"
        "    async with aiofiles_api.emulator.Emulator() as server:\n"
        "        settings = {'base_url': server.base_url, 'api_key': 'k'}\n"
        "        async with aiofiles_api.FilesClient(**settings) as files:\n"
        "            file = await files.upload(b'x', purpose='batch')\n"
        "            assert [f async for f in files.list()] == [file]\n"
        "asyncio.run(main())\n"
    )
    await anyio.run_process([sys.executable, "-W", "error", "-c", program], stderr=None)


def test_importing_the_package_loads_none_of_its_extras() -> None:
    program = (
        "import sys, aiofiles_api\n"
        "extras = {'cyclopts', 'rich', 'fastapi', 'uvloop', 'sqlite3', 'aiofiles_api.emulator'}\n"
        "assert not extras & set(sys.modules), extras & set(sys.modules)\n"
    )
    # Without what measures coverage in subprocesses, which loads sqlite3 itself.
    environment = {name: v for name, v in os.environ.items() if not name.startswith("COV")}
    subprocess.run([sys.executable, "-c", program], check=True, env=environment)


# --- waiting for processing ----------------------------------------------------------------------


def with_status(status: str | None, details: str | None = None) -> str:
    fields = {**json.loads(FILE), "status": status, "status_details": details}
    return json.dumps(fields)


async def test_waiting_ends_when_the_service_has_processed_the_file() -> None:
    script = [
        reply(with_status("uploaded")),
        reply(with_status("new")),
        reply(with_status("processed")),
    ]
    async with raw_server(*script) as raw, client_of(raw) as files:
        file = await files.wait_for_processing("file-1", poll_interval=0.001)
        assert file.status == "processed"
        assert len(raw.requests) == 3


async def test_a_server_without_a_status_is_taken_to_be_done() -> None:
    async with raw_server(reply(FILE)) as raw, client_of(raw) as files:
        file = await files.wait_for_processing(FileObject("file-1", 1, 1, "f", "batch"))
        assert file.status is None


async def test_a_failed_processing_is_told_with_the_services_reason() -> None:
    async with raw_server(reply(with_status("error", "line 3"))) as raw, client_of(raw) as files:
        with pytest.raises(ProcessingError, match="line 3") as caught:
            await files.wait_for_processing("file-1")
    assert caught.value.file.id == "file-1"


async def test_a_reason_does_not_show_the_key() -> None:
    echo = reply(with_status("error", f"not for {KEY}"))
    async with raw_server(echo) as raw, client_of(raw) as files:
        with pytest.raises(ProcessingError, match=r"not for \*\*\*"):
            await files.wait_for_processing("file-1")


async def test_waiting_is_bounded() -> None:
    async with raw_server(reply(with_status("uploaded"))) as raw, client_of(raw) as files:
        with pytest.raises(APITimeoutError, match="still 'uploaded'"):
            await files.wait_for_processing("file-1", timeout=0.02, poll_interval=0.005)
        for interval in (0, None, "1", float("nan")):
            with pytest.raises(InvalidArgumentError, match=r"poll_interval: .* is no time"):
                await files.wait_for_processing("file-1", poll_interval=interval)  # type: ignore[arg-type]
        for timeout in (-1, None, "1", float("nan")):
            with pytest.raises(InvalidArgumentError, match=r"timeout: .* is no time"):
                await files.wait_for_processing("file-1", timeout=timeout)  # type: ignore[arg-type]


@pytest.mark.parametrize("script", [silence, reply("", status="503 Later")])
async def test_waiting_is_bounded_whatever_the_server_does(
    script: Script, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("aiofiles_api.processing._LAST_ANSWER", 0.1)
    async with (
        nothing_leaks(),
        raw_server(script) as raw,
        FilesClient(
            base_url=raw.base_url, api_key=KEY, retry=RetryPolicy(attempts=100, backoff=0.05)
        ) as files,
    ):
        with anyio.fail_after(5), pytest.raises(APITimeoutError, match=r"no answer after 0\.2 s"):
            await files.wait_for_processing("file-1", timeout=0.2)
    async with raw_server(silence) as raw, client_of(raw, timeouts=Timeouts(reply=0.1)) as files:
        with pytest.raises(APITimeoutError, match=r"Timeouts\.reply"):
            await files.wait_for_processing("file-1", timeout=math.inf)


async def test_a_timeout_of_the_callers_own_is_not_taken_for_ours() -> None:
    async def time_out() -> str:
        raise TimeoutError("the vault")

    async with raw_server(silence) as raw, client_of(raw, api_key=time_out) as files:
        with pytest.raises(TimeoutError, match="the vault"):
            await files.wait_for_processing("file-1")


async def test_a_held_connection_does_not_hold_up_the_close() -> None:
    async with nothing_leaks(), raw_server(silence) as raw:
        async with client_of(raw) as files:
            with anyio.move_on_after(0.05):
                await files.retrieve("file-1")
