"""This client, with its default settings."""

from __future__ import annotations

import ssl
import tempfile
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager
from pathlib import Path

import attrs

from aiofiles_api import FilesClient, TransferManager
from benchmarks.jobs import Target

__all__ = ["opened", "opened_with_journal"]


@attrs.frozen
class Ours:
    """The jobs."""

    files: FilesClient
    journal: Path | None = None

    async def download(self, file_id: str, destination: Path) -> None:
        """Download to a path."""
        await self.files.download(file_id, destination)

    async def upload(self, path: Path) -> None:
        """Upload from a path."""
        await self.files.upload(path, purpose="batch")

    async def upload_object(self, path: Path) -> None:
        """Upload from a file object."""
        with path.open("rb") as file:
            await self.files.upload(file, purpose="batch")

    async def upload_all(self, paths: Iterable[Path], concurrency: int) -> int:
        """Upload many, with a journal if there is one."""
        manager = TransferManager(self.files, concurrency=concurrency, journal=self.journal)
        done = 0
        async for outcome in manager.upload_all(paths, purpose="batch"):
            done += outcome.error is None
        return done

    async def upload_bytes(self, content: bytes) -> None:
        """Upload from memory."""
        await self.files.upload(content, purpose="batch")

    async def upload_iterable(self, chunks: AsyncIterator[bytes]) -> None:
        """Upload from an async iterable."""
        await self.files.upload(chunks, purpose="batch")

    async def list_all(self) -> int:
        """List with the default page size."""
        count = 0
        async for _ in self.files.list():
            count += 1
        return count


@asynccontextmanager
async def opened(target: Target) -> AsyncIterator[Ours]:
    """Open the client."""
    trusted = ssl.create_default_context(cafile=target.authority)
    async with FilesClient(base_url=target.base_url, api_key="sk-benchmark", ssl=trusted) as files:
        yield Ours(files)


@asynccontextmanager
async def opened_with_journal(target: Target) -> AsyncIterator[Ours]:
    """Open the client, and keep a journal on disk."""
    with tempfile.TemporaryDirectory() as folder:
        async with opened(target) as ours:
            yield attrs.evolve(ours, journal=Path(folder, "journal"))
