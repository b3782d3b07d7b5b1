"""The official client, unmodified, takes the emulator for the service."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator
from pathlib import Path

import openai
import pytest

from aiofiles_api.emulator import Emulator

pytestmark = pytest.mark.anyio

KEY = "secret-key"
MIB = 1024 * 1024


@pytest.fixture
async def emulator() -> AsyncIterator[Emulator]:
    async with Emulator(api_key=KEY, max_file_bytes=4 * MIB) as running:
        yield running


@pytest.fixture
async def client(emulator: Emulator) -> AsyncIterator[openai.AsyncOpenAI]:
    async with openai.AsyncOpenAI(api_key=KEY, base_url=emulator.base_url, max_retries=0) as opened:
        yield opened


async def upload_some(client: openai.AsyncOpenAI, count: int) -> list[str]:
    """Upload small files, every third of them for batches, and give their ids."""
    ids: list[str] = []
    for index in range(count):
        file = await client.files.create(
            file=(f"{index}.jsonl", b"{}"), purpose="evals" if index % 3 else "batch"
        )
        ids.append(file.id)
    return ids


async def test_it_creates_and_retrieves_a_file(client: openai.AsyncOpenAI) -> None:
    created = await client.files.create(file=("naïve 文件.txt", b"0123456789"), purpose="evals")
    assert created.id.startswith("file-")
    assert created.object == "file"
    assert created.bytes == 10
    assert created.filename == "naïve 文件.txt"
    assert str(created.purpose) == "evals"  # which is missing from its own list of purposes
    assert created.status == "processed"
    assert created.expires_at is None
    assert await client.files.retrieve(created.id) == created


async def test_it_creates_a_file_from_a_path(client: openai.AsyncOpenAI, tmp_path: Path) -> None:
    path = tmp_path / "train.jsonl"
    path.write_bytes(b"{}\n" * 100_000)
    created = await client.files.create(file=path, purpose="fine-tune")
    assert (created.filename, created.bytes) == ("train.jsonl", 300_000)


@pytest.mark.parametrize("seconds", [3600, 2_592_000])
async def test_it_sets_an_expiry(client: openai.AsyncOpenAI, seconds: int) -> None:
    created = await client.files.create(
        file=("a.txt", b"x"),
        purpose="user_data",
        expires_after={"anchor": "created_at", "seconds": seconds},
    )
    assert created.expires_at == created.created_at + seconds


@pytest.mark.parametrize("size", [0, 1000, 3 * MIB])
async def test_it_reads_a_file_back(client: openai.AsyncOpenAI, tmp_path: Path, size: int) -> None:
    content = os.urandom(size)
    created = await client.files.create(file=("a.bin", content), purpose="assistants")
    assert (await client.files.content(created.id)).read() == content
    async with client.files.with_streaming_response.content(created.id) as response:
        assert response.headers["content-length"] == str(size)
        assert b"".join([chunk async for chunk in response.iter_bytes()]) == content
    async with client.files.with_streaming_response.content(created.id) as response:
        await response.stream_to_file(tmp_path / "copy")
    assert (tmp_path / "copy").read_bytes() == content


async def test_it_pages_through_all_files_by_itself(client: openai.AsyncOpenAI) -> None:
    ids = await upload_some(client, 10)
    assert [file.id async for file in client.files.list()] == ids[::-1]
    assert [file.id async for file in client.files.list(limit=3)] == ids[::-1]
    assert [file.id async for file in client.files.list(limit=3, order="asc")] == ids
    batches = client.files.list(limit=2, order="asc", purpose="batch")
    assert [file.id async for file in batches] == ids[::3]


async def test_it_pages_by_hand(client: openai.AsyncOpenAI) -> None:
    ids = await upload_some(client, 5)
    page = await client.files.list(limit=2, order="asc", after=ids[0])
    assert [file.id for file in page.data] == ids[1:3]
    assert page.has_more
    assert page.has_next_page()
    page = await page.get_next_page()
    assert [file.id for file in page.data] == ids[3:]
    assert not page.has_more


async def test_it_deletes_while_it_pages(client: openai.AsyncOpenAI) -> None:
    ids = await upload_some(client, 7)
    deleted = [(await client.files.delete(file.id)).id async for file in client.files.list(limit=2)]
    assert deleted == ids[::-1]
    assert [file async for file in client.files.list()] == []


async def test_it_deletes_a_file(client: openai.AsyncOpenAI) -> None:
    [file_id] = await upload_some(client, 1)
    deleted = await client.files.delete(file_id)
    assert (deleted.id, deleted.object, deleted.deleted) == (file_id, "file", True)
    with pytest.raises(openai.NotFoundError):
        await client.files.retrieve(file_id)


async def test_it_waits_for_processing(client: openai.AsyncOpenAI) -> None:
    [file_id] = await upload_some(client, 1)
    assert (await client.files.wait_for_processing(file_id)).status == "processed"


async def test_its_sync_client_does_all_that_too(emulator: Emulator) -> None:
    def use() -> None:
        with openai.OpenAI(api_key=KEY, base_url=emulator.base_url, max_retries=0) as client:
            ids = [
                client.files.create(file=(f"{index}", b"0123456789"), purpose="vision").id
                for index in range(3)
            ]
            assert [file.id for file in client.files.list(limit=1, order="asc")] == ids
            assert client.files.retrieve(ids[0]).filename == "0"
            assert client.files.content(ids[0]).read() == b"0123456789"
            with client.files.with_streaming_response.content(ids[0]) as response:
                assert b"".join(response.iter_bytes(3)) == b"0123456789"
            assert all(client.files.delete(file_id).deleted for file_id in ids)
            with pytest.raises(openai.NotFoundError):
                client.files.content(ids[0])

    await asyncio.to_thread(use)


async def test_an_unknown_file_is_not_found(client: openai.AsyncOpenAI) -> None:
    for operation in (client.files.retrieve, client.files.delete, client.files.content):
        with pytest.raises(openai.NotFoundError) as caught:
            await operation("file-0")
        assert caught.value.type == "invalid_request_error"
        assert caught.value.param == "id"
        assert caught.value.code is None
        assert caught.value.request_id
        assert "No such File object: file-0" in caught.value.message


async def test_a_wrong_key_is_an_authentication_error(client: openai.AsyncOpenAI) -> None:
    with pytest.raises(openai.AuthenticationError) as caught:
        await client.with_options(api_key="wrong").files.list()
    assert caught.value.code == "invalid_api_key"
    assert caught.value.request_id


async def test_what_the_api_does_not_allow_is_a_bad_request(client: openai.AsyncOpenAI) -> None:
    file = ("a.txt", b"x")
    with pytest.raises(openai.BadRequestError) as caught:
        await client.files.create(file=file, purpose="nonsense")  # type: ignore[arg-type]
    assert caught.value.param == "purpose"
    with pytest.raises(openai.BadRequestError) as caught:
        await client.files.create(
            file=file, purpose="evals", expires_after={"anchor": "created_at", "seconds": 60}
        )
    assert caught.value.param == "expires_after[seconds]"
    with pytest.raises(openai.BadRequestError) as caught:
        await client.files.create(file=file, purpose="evals", extra_body={"model": "x"})
    assert caught.value.param == "model"
    with pytest.raises(openai.BadRequestError) as caught:
        await client.files.list(limit=10_001)
    assert caught.value.param == "limit"
    with pytest.raises(openai.BadRequestError) as caught:
        await client.files.list(after="file-0")
    assert caught.value.param == "after"


async def test_a_file_that_is_too_large_is_told_so(client: openai.AsyncOpenAI) -> None:
    for excess in (1, 2 * MIB):  # found out at the end of the body, and before it
        with pytest.raises(openai.APIStatusError) as caught:
            await client.files.create(file=("a", b"x" * (4 * MIB + excess)), purpose="evals")
        assert caught.value.status_code == 413
        assert caught.value.param == "file"
