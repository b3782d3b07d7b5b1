"""openai-python, as its own pages show it, with its default transport and with its aiohttp one.

Its transports take whom to trust from `SSL_CERT_FILE`, which whoever starts the process sets.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager
from pathlib import Path

import attrs
import openai

from benchmarks.jobs import Target

__all__ = ["opened", "opened_with_aiohttp"]


@attrs.frozen
class OpenAIPython:
    """The jobs."""

    client: openai.AsyncOpenAI

    async def download(self, file_id: str, destination: Path) -> None:
        """Download to a path, as a stream: otherwise the whole file would be held in memory."""
        async with self.client.files.with_streaming_response.content(file_id) as response:
            await response.stream_to_file(destination)

    async def upload(self, path: Path) -> None:
        """Upload from a path."""
        await self.client.files.create(file=path, purpose="batch")

    async def upload_object(self, path: Path) -> None:
        """Upload from a file object."""
        with path.open("rb") as file:
            await self.client.files.create(file=file, purpose="batch")

    async def upload_all(self, paths: Iterable[Path], concurrency: int) -> int:
        """Upload many: a task for each, behind a semaphore."""
        limit = asyncio.Semaphore(concurrency)

        async def one(path: Path) -> None:
            async with limit:
                await self.upload(path)

        results = await asyncio.gather(*map(one, paths), return_exceptions=True)
        return sum(result is None for result in results)

    async def upload_bytes(self, content: bytes) -> None:
        """Upload from memory."""
        await self.client.files.create(file=content, purpose="batch")

    async def list_all(self) -> int:
        """List with the default page size, which is also the greatest and so its best."""
        count = 0
        async for _ in self.client.files.list():
            count += 1
        return count


@asynccontextmanager
async def opened(target: Target) -> AsyncIterator[OpenAIPython]:
    """Open the client with its default transport."""
    async with openai.AsyncOpenAI(base_url=target.base_url, api_key="sk-benchmark") as client:
        yield OpenAIPython(client)


@asynccontextmanager
async def opened_with_aiohttp(target: Target) -> AsyncIterator[OpenAIPython]:
    """Open the client with its aiohttp transport."""
    async with openai.AsyncOpenAI(
        base_url=target.base_url,
        api_key="sk-benchmark",
        http_client=openai.DefaultAioHttpClient(),
    ) as client:
        yield OpenAIPython(client)
