"""Uploads that are sent again with an Idempotency-Key, where the emulator heeds it."""

from __future__ import annotations

import asyncio
import json
import os
from collections.abc import AsyncIterator
from pathlib import Path

import aiohttp
import attrs
import pytest
from conftest import nothing_leaks

from aiofiles_api.emulator import Emulator, Fault, LostReply, Stall
from aiofiles_api.emulator import server as server_module

pytestmark = pytest.mark.anyio

SMALL = b"content"
LARGE = os.urandom(200_000)
DAY = 24 * 3600


@attrs.define
class Clock:
    now: float = 1_700_000_000

    def __call__(self) -> float:
        return self.now


@attrs.frozen
class Reply:
    status: int
    body: dict[str, object]


@attrs.frozen
class Caller:
    server: Emulator
    session: aiohttp.ClientSession

    async def upload(
        self,
        content: bytes = SMALL,
        key: str | None = "key-1",
        filename: str = "a.txt",
        purpose: str = "evals",
    ) -> Reply:
        form = aiohttp.FormData({"purpose": purpose})
        form.add_field("file", content, filename=filename)
        headers = {"Authorization": "Bearer k"} | ({} if key is None else {"Idempotency-Key": key})
        async with self.session.post(
            f"{self.server.base_url}/files", data=form, headers=headers
        ) as response:
            return Reply(response.status, await response.json())

    async def count(self) -> int:
        headers = {"Authorization": "Bearer k"}
        async with self.session.get(f"{self.server.base_url}/files", headers=headers) as response:
            return len((await response.json())["data"])


@pytest.fixture
async def session() -> AsyncIterator[aiohttp.ClientSession]:
    async with aiohttp.ClientSession() as opened:
        yield opened


@pytest.fixture
async def caller(tmp_path: Path, session: aiohttp.ClientSession) -> AsyncIterator[Caller]:
    async with Emulator(tmp_path, idempotency=True) as server:
        yield Caller(server, session)


@pytest.mark.parametrize("content", [SMALL, LARGE])
async def test_the_same_upload_is_answered_with_the_same_file(
    caller: Caller, tmp_path: Path, content: bytes
) -> None:
    first = await caller.upload(content)
    assert first.status == 200
    assert await caller.upload(content) == first
    assert await caller.count() == 1
    assert len(os.listdir(tmp_path / "blobs")) == (content is LARGE)


@pytest.mark.parametrize("key", [None, ""])
async def test_without_a_key_each_upload_is_another(caller: Caller, key: str | None) -> None:
    assert await caller.upload(key=key) != await caller.upload(key=key)
    assert await caller.count() == 2


async def test_each_key_has_its_own_file(caller: Caller) -> None:
    assert await caller.upload(key="key-1") != await caller.upload(key="key-2")
    assert await caller.count() == 2


@pytest.mark.parametrize(
    "other",
    [
        {"content": b"CONTENT"},
        {"content": LARGE},
        {"filename": "b.txt"},
        {"purpose": "vision"},
    ],
)
async def test_a_key_that_comes_with_another_file_is_refused(
    caller: Caller, tmp_path: Path, other: dict[str, str]
) -> None:
    first = await caller.upload()
    refused = await caller.upload(**other)  # type: ignore[arg-type]
    assert refused.status == 422
    assert json.dumps(refused.body).count("Idempotency-Key") == 2
    assert await caller.upload() == first
    assert await caller.count() == 1
    assert os.listdir(tmp_path / "blobs") == []


async def test_a_key_that_is_no_ascii_is_refused(caller: Caller) -> None:
    assert (await caller.upload(key="ké")).status == 400
    assert await caller.count() == 0


async def test_a_key_whose_upload_is_under_way_is_refused(session: aiohttp.ClientSession) -> None:
    fault = Fault(Stall("request", seconds=0.5), nth=1)
    async with nothing_leaks(), Emulator(idempotency=True, faults=[fault]) as server:
        caller = Caller(server, session)
        first = asyncio.create_task(caller.upload())
        while not server.requests:
            await asyncio.sleep(0.005)
        assert (await caller.upload()).status == 409
        assert (await caller.upload(key="key-2")).status == 200
        assert (await first).status == 200
        assert await caller.upload() == await first


async def test_a_key_whose_upload_failed_is_free(caller: Caller) -> None:
    assert (await caller.upload(purpose="nonsense")).status == 400
    assert (await caller.upload()).status == 200


async def test_an_upload_whose_reply_was_lost_can_be_sent_again(
    session: aiohttp.ClientSession,
) -> None:
    fault = Fault(LostReply(), on="upload", nth=1)
    async with Emulator(idempotency=True, faults=[fault]) as server:
        caller = Caller(server, session)
        with pytest.raises(aiohttp.ClientConnectionError):
            await caller.upload()
        assert (await caller.upload()).status == 200
        assert await caller.count() == 1


async def test_keys_outlive_the_server_and_their_files_for_a_day(
    tmp_path: Path, session: aiohttp.ClientSession, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(server_module, "_SECONDS_BETWEEN_EXPIRIES", 0.01)
    clock = Clock()
    async with Emulator(tmp_path, idempotency=True, clock=clock) as server:
        first = await Caller(server, session).upload(purpose="batch")
    clock.now += DAY - 1
    async with Emulator(tmp_path, idempotency=True, clock=clock) as server:
        caller = Caller(server, session)
        url = f"{server.base_url}/files/{first.body['id']}"
        await session.delete(url, headers={"Authorization": "Bearer k"})
        assert await caller.count() == 0
        assert await caller.upload(purpose="batch") == first
        clock.now += 1
        await asyncio.sleep(0.2)
        assert await caller.upload(purpose="batch") != first
        assert await caller.count() == 1


async def test_the_header_is_ignored_by_default(
    tmp_path: Path, session: aiohttp.ClientSession
) -> None:
    async with Emulator(tmp_path) as server:
        caller = Caller(server, session)
        assert await caller.upload() != await caller.upload()
        assert await caller.count() == 2
