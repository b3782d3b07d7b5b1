"""`TransferManager`: many uploads, downloads or deletions, a few at a time.

The three operations are three trades (`trades`) of one engine (`bulk`); here is how
they are called.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from contextlib import aclosing, asynccontextmanager
from datetime import timedelta
from typing import TypeVar, get_args

from aiofiles_api.bulk import Items, Outcome, checked_items, run
from aiofiles_api.client import FilesClient
from aiofiles_api.errors import InvalidArgumentError
from aiofiles_api.journal import Journal, Kind
from aiofiles_api.models import DeletedFile, DownloadedFile, ExpiresAfter, FileObject
from aiofiles_api.progress import Progress
from aiofiles_api.protocol import upload_fields
from aiofiles_api.reconcile import OnUncertain
from aiofiles_api.sources import UploadSource
from aiofiles_api.trades import (
    Deletions,
    DownloadItem,
    Downloads,
    HowToDownload,
    HowToUpload,
    Trade,
    UploadItem,
    Uploads,
)

__all__ = ["DownloadItem", "Outcome", "TransferManager", "UploadItem"]

Item = TypeVar("Item")
Result = TypeVar("Result", bound=FileObject | DownloadedFile | DeletedFile)
Upload = TypeVar("Upload", bound=UploadItem | UploadSource)
Download = TypeVar("Download", bound=DownloadItem | FileObject | str)
Deletion = TypeVar("Deletion", bound=FileObject | str)


class TransferManager:
    """Moves or deletes many files, a few at a time, in memory that does not grow with their number.

    Args:
        client: Whose connections are used; it is not closed.
        concurrency: Files that are worked on at a time, 1 or more.
        journal: A record on disk that lets a run which was killed go on where it was: a `Journal`
            that is open, or the path of one, which is opened while a generator runs.

    Raises:
        InvalidArgumentError: An argument cannot work.
    """

    def __init__(
        self,
        client: FilesClient,
        *,
        concurrency: int = 8,
        journal: Journal | str | os.PathLike[str] | None = None,
    ) -> None:
        if type(concurrency) is not int or concurrency < 1:
            msg = f"concurrency: {concurrency!r} is no number of workers; pass 1 or more"
            raise InvalidArgumentError(msg)
        self._client = client
        self._concurrency = concurrency
        self._journal = journal if isinstance(journal, Journal | None) else Journal(journal).path
        self._shared: Journal | None = None
        self._users = 0
        self._opening = asyncio.Lock()

    def upload_all(
        self,
        items: Items[Upload],
        *,
        purpose: str,
        content_type: str | None = None,
        expires_after: ExpiresAfter | timedelta | int | None = None,
        on_uncertain: OnUncertain = "reconcile",
        checksum: bool = False,
        fail_fast: bool = False,
        progress: Callable[[Upload, Progress], object] | None = None,
    ) -> AsyncGenerator[Outcome[Upload, FileObject], None]:
        """Upload each item, and yield its outcome as soon as it is known.

        Args:
            items: What to send: any iterable or async iterable of sources, as for
                `FilesClient.upload`, or of `UploadItem`s. It is gone through as workers become
                free; one that may block is advanced in a thread.
            purpose: What the files are for, unless an item says otherwise.
            content_type: Their media type; by default what each name's extension says.
            expires_after: When the server shall delete them.
            on_uncertain: As for `FilesClient.upload`; and with a journal, what to do with an item
                that an earlier run had begun to send when it was killed.
            checksum: With a journal: whether an item is recognized by its content (sha256) rather
                than by its time of modification. It is read once more for that.
            fail_fast: Whether to end behind the first item that fails, cancelling what is in
                flight.
            progress: Called on the event loop with an item and its `Progress`.

        Raises:
            InvalidArgumentError: An argument cannot work; nothing was sent.
            ClientClosedError: The client is closed, or was meanwhile.
            JournalError: The journal cannot be used.
            UploadUncertainError: What an earlier run had begun cannot be looked up.
        """
        checked_items(items, "items")
        upload_fields(purpose, None if expires_after is None else ExpiresAfter.of(expires_after))
        if on_uncertain not in get_args(OnUncertain):
            msg = f"on_uncertain: {on_uncertain!r} is none of {', '.join(get_args(OnUncertain))}"
            raise InvalidArgumentError(msg)
        defaults = UploadItem(b"", None, purpose, content_type, expires_after)
        how = HowToUpload(defaults, on_uncertain, checksum, self._concurrency)

        def make(journal: Journal | None) -> Uploads[Upload]:
            return Uploads(self._client, journal, how, progress)

        return self._outcomes("upload", items, make, fail_fast=fail_fast)

    def download_all(
        self,
        files: Items[Download],
        directory: str | os.PathLike[str],
        *,
        overwrite: bool = True,
        resume: bool = True,
        durable: bool = False,
        fail_fast: bool = False,
        progress: Callable[[Download, Progress], object] | None = None,
    ) -> AsyncGenerator[Outcome[Download, DownloadedFile], None]:
        """Download each file into a directory, and yield its outcome as soon as it is known.

        A file has the name that the server gives it, made safe. Of several with the same name
        (whatever its case) the first one in the order of `files` keeps it; a later one gets its id
        into its name: `stem-<id>.ext`. So none overwrites another one of the same run.

        Args:
            files: Ids, `FileObject`s or `DownloadItem`s; any iterable or async iterable. An id
                costs a request for its name, and those behind it wait for that, so that names
                are given in order.
            directory: Where to put them; it is made if it is missing.
            overwrite: Whether to replace a file that was there before.
            resume: As for `FilesClient.download`.
            durable: As for `FilesClient.download`.
            fail_fast: As for `upload_all`.
            progress: As for `upload_all`.

        Raises:
            InvalidArgumentError: An argument cannot work; nothing was sent.
            ClientClosedError: The client is closed, or was meanwhile.
            JournalError: The journal cannot be used.
        """
        checked_items(files, "files")
        path = os.fspath(directory) if isinstance(directory, str | os.PathLike) else None
        if not isinstance(path, str):
            msg = f"directory: pass a path as str or PathLike, not {type(directory).__name__}"
            raise InvalidArgumentError(msg)
        how = HowToDownload(path, overwrite, resume, durable)

        def make(journal: Journal | None) -> Downloads[Download]:
            return Downloads(self._client, journal, how, progress)

        return self._outcomes("download", files, make, fail_fast=fail_fast)

    def delete_all(
        self,
        files: Items[Deletion],
        *,
        missing_ok: bool = True,
        fail_fast: bool = False,
    ) -> AsyncGenerator[Outcome[Deletion, DeletedFile], None]:
        """Delete each file, and yield its outcome as soon as it is known.

        Args:
            files: Ids or `FileObject`s; any iterable or async iterable.
            missing_ok: Whether a file that is gone already is fine; its result's `.deleted` is
                `False` then.
            fail_fast: As for `upload_all`.

        Raises:
            InvalidArgumentError: An argument cannot work; nothing was sent.
            ClientClosedError: The client is closed, or was meanwhile.
            JournalError: The journal cannot be used.
        """
        checked_items(files, "files")

        def make(journal: Journal | None) -> Deletions[Deletion]:
            return Deletions(self._client, journal, missing_ok=missing_ok)

        return self._outcomes("delete", files, make, fail_fast=fail_fast)

    async def _outcomes(
        self,
        kind: Kind,
        items: Items[Item],
        make: Callable[[Journal | None], Trade[Item, Result]],
        *,
        fail_fast: bool,
    ) -> AsyncGenerator[Outcome[Item, Result], None]:
        async with self._opened_journal(kind) as journal:
            trade = make(journal)
            jobs = run(
                trade.session, items, trade, concurrency=self._concurrency, fail_fast=fail_fast
            )
            async with aclosing(jobs):
                async for job in jobs:
                    # An error's traceback holds the job: that must not hold the error in turn.
                    outcome, job.outcome = job.known_outcome, None
                    yield outcome

    @asynccontextmanager
    async def _opened_journal(self, kind: Kind) -> AsyncIterator[Journal | None]:
        """Open the journal unless another generator, or the caller, has."""
        if self._journal is None:
            yield None
            return
        if isinstance(self._journal, Journal):
            async with self._journal.reserved_for(kind):
                yield self._journal
            return
        self._users += 1
        try:
            async with self._opening:
                self._shared = self._shared or await Journal(self._journal).__aenter__()
            async with self._shared.reserved_for(kind):
                yield self._shared
        finally:
            self._users -= 1
            if not self._users and self._shared is not None:
                shared, self._shared = self._shared, None
                await shared.__aexit__(None, None, None)
