"""curl: what a C program needs."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import attrs

from benchmarks.jobs import Target

__all__ = ["opened"]


@attrs.frozen
class Curl:
    """The jobs."""

    target: Target

    async def download(self, file_id: str, destination: Path) -> None:
        """Download to a path."""
        await self._run(
            f"{self.target.base_url}/files/{file_id}/content", "--output", str(destination)
        )

    async def upload(self, path: Path) -> None:
        """Upload from a path."""
        url = f"{self.target.base_url}/files"
        await self._run(
            url, "--form", "purpose=batch", "--form", f"file=@{path}", "--output", "/dev/null"
        )

    async def _run(self, *arguments: str) -> None:
        process = await asyncio.create_subprocess_exec(
            "curl",
            "--silent",
            "--show-error",
            "--fail",
            "--noproxy",
            "*",
            "--cacert",
            self.target.authority,
            *arguments,
        )
        if status := await process.wait():
            raise ChildProcessError(f"curl ended with status {status}")


@asynccontextmanager
async def opened(target: Target) -> AsyncIterator[Curl]:
    """Give the command."""
    yield Curl(target)
