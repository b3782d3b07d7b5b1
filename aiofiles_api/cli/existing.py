"""`--skip-existing`: leave out what the server has already."""

from __future__ import annotations

import hashlib
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterable
from contextlib import aclosing
from functools import partial
from typing import TypeAlias

from aiofiles_api import (
    BadRequestError,
    FileObject,
    FilesClient,
    FilesError,
    PermissionDeniedError,
)
from aiofiles_api.cli.concurrently import concurrently
from aiofiles_api.cli.gathering import Local
from aiofiles_api.cli.spool import batches
from aiofiles_api.cli.thread import in_thread

__all__ = ["Existing"]

LeftOut: TypeAlias = Callable[[Local, FileObject], Awaitable[None]]


class Existing:
    """What the server has, and which local files that makes superfluous.

    Args:
        files: The client.
        concurrency: How many files to compare at a time.
    """

    def __init__(self, files: FilesClient, *, concurrency: int) -> None:
        self._files = files
        self._concurrency = concurrency
        self._stored: dict[tuple[str, int | None], list[FileObject]] = {}

    async def look(self, purpose: str) -> None:
        """Take note of all files with this purpose."""
        async with aclosing(self._files.list(purpose=purpose)) as listing:
            async for file in listing:
                if file.purpose == purpose:
                    self._stored.setdefault((file.filename, file.bytes), []).append(file)

    async def leave_out(
        self, items: Iterable[Local], left_out: LeftOut
    ) -> AsyncGenerator[Local, None]:
        """Yield the files that the server does not have, and tell `left_out` of the others."""
        async for batch in batches(items):
            found = concurrently(batch, self._find, concurrency=self._concurrency)
            async with aclosing(found) as answers:
                async for item, file in answers:
                    if file is None:
                        yield item
                    else:
                        await left_out(item, file)

    async def _find(self, item: Local) -> tuple[Local, FileObject | None]:
        digest: str | None = None
        for file in self._stored.get((item.sent_as, item.size), ()):
            try:
                if digest is None:
                    digest = await in_thread(partial(_digest_of, item.path))
                if await self._has_content(file, digest):
                    return item, file
            except OSError:
                break  # the upload will say why
        return item, None

    async def _has_content(self, file: FileObject, sha256: str) -> bool:
        digest = hashlib.sha256()
        try:
            async with self._files.stream(file) as content:
                async for chunk in content:
                    digest.update(chunk)
        except (BadRequestError, PermissionDeniedError):
            return True  # It may not be read: name and size have to do.
        except FilesError:
            return False  # It is gone, or cannot be read now: better twice than not at all.
        return digest.hexdigest() == sha256


def _digest_of(path: str) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
