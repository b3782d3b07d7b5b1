"""A copy of what can be read only once."""

from __future__ import annotations

import tempfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from functools import partial
from typing import IO

from aiofiles_api.errors import SourceError
from aiofiles_api.sources.contract import Source
from aiofiles_api.sources.files import FileSource
from aiofiles_api.sources.reading import CHUNK
from aiofiles_api.threads import Threads, join

__all__ = ["spooled"]


@asynccontextmanager
async def spooled(source: Source, threads: Threads) -> AsyncIterator[Source]:
    """Copy a source into a temporary file first, so that it can be read as often as is needed.

    Raises:
        SourceError: The source cannot be read, or there is no space for the copy.
    """
    opening = threads.start(tempfile.TemporaryFile)
    try:
        try:
            file = await join(opening)
            await _copy(source, file, threads)
        except OSError as error:
            msg = f"spool=True: no temporary copy: {error.strerror}; free space, or set TMPDIR"
            raise SourceError(msg) from error
        yield FileSource(file, source.name, threads, threads, lambda: CHUNK)
    finally:
        # The thread may have opened it although we were cancelled meanwhile.
        if opening.exception() is None:
            with suppress(OSError):  # it writes once more what there was no space for
                await threads.run(opening.result().close)


async def _copy(source: Source, file: IO[bytes], threads: Threads) -> None:
    reader = await source.open()
    try:
        while chunk := await reader.read():
            await threads.run(partial(file.write, chunk))
    finally:
        await reader.aclose()
    await threads.run(partial(file.seek, 0))
