"""aiohttp without more, as most people write it: a form around an open file, 64 KiB at a time."""

from __future__ import annotations

import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import aiohttp
import attrs

from benchmarks.jobs import Target

__all__ = ["opened"]


@attrs.frozen
class PlainAiohttp:
    """The jobs."""

    session: aiohttp.ClientSession
    base_url: str

    async def download(self, file_id: str, destination: Path) -> None:
        """Download to a path, which is written on the event loop."""
        async with self.session.get(f"{self.base_url}/files/{file_id}/content") as response:
            response.raise_for_status()
            with destination.open("wb") as file:
                async for chunk in response.content.iter_chunked(65_536):
                    file.write(chunk)

    async def upload(self, path: Path) -> None:
        """Upload from a path."""
        with path.open("rb") as file:
            await self._post(file, path.name)

    async def upload_object(self, path: Path) -> None:
        """Upload from a file object: it knows no other way."""
        await self.upload(path)

    async def upload_bytes(self, content: bytes) -> None:
        """Upload from memory."""
        await self._post(content, "upload")

    async def upload_iterable(self, chunks: AsyncIterator[bytes]) -> None:
        """Upload from an async iterable."""
        await self._post(chunks, "upload")

    async def list_all(self) -> int:
        """List with the default page size, into dictionaries."""
        count = 0
        after: dict[str, str] = {}
        while True:
            async with self.session.get(f"{self.base_url}/files", params=after) as response:
                response.raise_for_status()
                page = await response.json()
            for _ in page["data"]:
                count += 1
            if not page["has_more"]:
                return count
            after = {"after": page["last_id"]}

    async def _post(self, content: object, filename: str) -> None:
        form = aiohttp.FormData()
        form.add_field("purpose", "batch")
        form.add_field("file", content, filename=filename)
        async with self.session.post(f"{self.base_url}/files", data=form) as response:
            response.raise_for_status()
            await response.json()


@asynccontextmanager
async def opened(target: Target) -> AsyncIterator[PlainAiohttp]:
    """Open a session."""
    trusted = ssl.create_default_context(cafile=target.authority)
    connector = aiohttp.TCPConnector(ssl=trusted)
    async with aiohttp.ClientSession(
        connector=connector, headers={"Authorization": "Bearer sk-benchmark"}
    ) as session:
        yield PlainAiohttp(session, target.base_url)
