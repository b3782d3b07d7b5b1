"""aiohttp by hand: the least that a program needs for one job, and nothing but that.

Yardsticks, not clients: no error is explained, nothing is tried again.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import aiohttp
import attrs
import orjson

from benchmarks.jobs import Target

__all__ = ["opened"]

_PREFIX = (
    b'--boundary\r\nContent-Disposition: form-data; name="purpose"\r\n\r\nbatch\r\n'
    b'--boundary\r\nContent-Disposition: form-data; name="file"; filename="upload"\r\n'
    b"Content-Type: application/octet-stream\r\n\r\n"
)
_SUFFIX = b"\r\n--boundary--\r\n"
_HEADERS = {"Content-Type": "multipart/form-data; boundary=boundary"}


@attrs.frozen
class ByHand:
    """The jobs."""

    session: aiohttp.ClientSession
    base_url: str

    async def upload(self, path: Path) -> None:
        """Upload a small file, read at once, in a body prepared as one `bytes`."""
        await self.upload_bytes(path.read_bytes())

    async def upload_bytes(self, content: bytes) -> None:
        """Upload from memory, in a body prepared as one `bytes`."""
        body = _PREFIX + content + _SUFFIX
        url = f"{self.base_url}/files"
        async with self.session.post(url, data=body, headers=_HEADERS) as response:
            response.raise_for_status()
            orjson.loads(await response.read())

    async def list_all(self) -> int:
        """Read each page and parse it, and do nothing with it."""
        count = 0
        after: dict[str, str] = {}
        while True:
            async with self.session.get(f"{self.base_url}/files", params=after) as response:
                page = orjson.loads(await response.read())
            count += len(page["data"])
            if not page["has_more"]:
                return count
            after = {"after": page["last_id"]}


@asynccontextmanager
async def opened(target: Target) -> AsyncIterator[ByHand]:
    """Open a session."""
    async with aiohttp.ClientSession() as session:
        yield ByHand(session, target.base_url)
