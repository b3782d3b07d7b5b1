"""Digests of files: of any length, and never long in one go."""

from __future__ import annotations

import asyncio
import hashlib
import os
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest

from aiofiles_api import identity
from aiofiles_api.identity import digest_in_pieces, digest_of_path
from aiofiles_api.threads import Threads

pytestmark = pytest.mark.anyio


@pytest.fixture
async def threads() -> AsyncIterator[Threads]:
    threads = Threads()
    yield threads
    threads.close()


@pytest.fixture
def pieces(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Gather the offsets of what is read in one go, some hundred bytes."""
    offsets: list[int] = []
    real = identity._read

    def read(path: str, take: Callable[[bytes], object], start: int, most: int) -> int:
        offsets.append(start)
        return real(path, take, start, most)

    monkeypatch.setattr(identity, "_BLOCK", 30)
    monkeypatch.setattr(identity, "_PIECE", 100)
    monkeypatch.setattr(identity, "_read", read)
    return offsets


@pytest.mark.parametrize(
    ("length", "offsets"),
    [(0, [0]), (99, [0]), (100, [0, 100]), (101, [0, 100]), (250, [0, 100, 200])],
)
async def test_a_digest_is_made_piece_by_piece(
    threads: Threads, tmp_path: Path, pieces: list[int], length: int, offsets: list[int]
) -> None:
    content = os.urandom(length)
    path = tmp_path / "file"
    path.write_bytes(content)
    digest = hashlib.sha256(content).hexdigest()
    assert await digest_in_pieces(threads, str(path)) == digest
    assert pieces == offsets
    assert await asyncio.to_thread(digest_of_path, str(path)) == digest


async def test_a_cancellation_waits_for_a_piece_and_not_for_the_whole_file(
    threads: Threads, tmp_path: Path, pieces: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "file"
    path.write_bytes(bytes(1_000))
    real, loop = identity._read, asyncio.get_running_loop()

    def read(path: str, take: Callable[[bytes], object], start: int, most: int) -> int:
        loop.call_soon_threadsafe(task.cancel)
        return real(path, take, start, most)

    monkeypatch.setattr(identity, "_read", read)
    task = asyncio.create_task(digest_in_pieces(threads, str(path)))
    with pytest.raises(asyncio.CancelledError):
        await task
    assert pieces == [0]
