"""obstore's HTTP store: a client in Rust, for downloads."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import attrs
import obstore
from obstore.store import HTTPStore

from benchmarks.jobs import Target

__all__ = ["opened"]


@attrs.frozen
class Obstore:
    """The job."""

    store: HTTPStore

    async def download(self, file_id: str, destination: Path) -> None:
        """Download to a path, in the chunks that it gives by default."""
        result = await obstore.get_async(self.store, f"{file_id}/content")
        with destination.open("wb") as file:
            async for chunk in result:
                file.write(chunk)


@asynccontextmanager
async def opened(target: Target) -> AsyncIterator[Obstore]:
    """Open the store."""
    store = HTTPStore.from_url(
        f"{target.base_url}/files",
        client_options={
            "allow_http": True,
            "timeout": "10 minutes",
            "root_certificate": Path(target.authority).read_bytes(),
        },
    )
    yield Obstore(store)
