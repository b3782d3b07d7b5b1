"""Deleting each item."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import TypeVar

from aiofiles_api.client import FilesClient
from aiofiles_api.errors import InvalidArgumentError, NotFoundError
from aiofiles_api.identity import deleted_from, place_of
from aiofiles_api.journal import Journal, Row
from aiofiles_api.models import DeletedFile, FileObject, file_id
from aiofiles_api.protocol import DeletionReplies, delete_request
from aiofiles_api.trades.trade import Trade, Work

__all__ = ["Deletions"]

Deletion = TypeVar("Deletion", bound=FileObject | str)


class Deletions(Trade[Deletion, DeletedFile]):
    """Deletes each file."""

    def __init__(self, client: FilesClient, journal: Journal | None, *, missing_ok: bool) -> None:
        super().__init__(client, journal, "delete")
        self._missing_ok = missing_ok

    async def do(self, job: Work[Deletion, DeletedFile]) -> DeletedFile:
        """Delete a file."""
        identifier = file_id(job.item)
        try:
            return await self.session.call(
                delete_request(identifier),
                DeletionReplies().read,
                on_attempt=partial(setattr, job, "attempts"),
            )
        except NotFoundError:
            # If an earlier run had begun, it was its reply that nobody has read.
            if not self._missing_ok and not job.was_begun:
                raise
            return DeletedFile(identifier, deleted=False)

    async def identify(self, jobs: Sequence[Work[Deletion, DeletedFile]]) -> None:
        """Take the ids."""
        for job in jobs:
            try:
                job.key = file_id(job.item)
            except InvalidArgumentError as error:
                job.fail(error)
            else:
                job.place = place_of(self._kind, self._server, job.key)

    async def check_done(self, jobs: Sequence[Work[Deletion, DeletedFile]]) -> None:
        """Take the results that the journal has."""
        for job in jobs:
            job.succeed(deleted_from(job.known_row.result or ""))

    def describe(self, job: Work[Deletion, DeletedFile], row: Row) -> None:
        """Write down the id."""
        row.file_id = job.key
