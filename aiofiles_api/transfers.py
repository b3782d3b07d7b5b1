"""`TransferManager`: many uploads, downloads or deletions, a few at a time.

The three operations are three trades of one engine (`bulk`). With a journal, an item is looked up
there before it is worked on, and its outcome is on disk before it is handed out.
"""

from __future__ import annotations

import asyncio
import os
from abc import ABC, abstractmethod
from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import aclosing
from datetime import timedelta
from functools import partial
from typing import Generic, TypeVar, get_args

import attrs

from aiofiles_api.bulk import Items, Job, Outcome, checked_items, run
from aiofiles_api.client import FilesClient
from aiofiles_api.download import download
from aiofiles_api.errors import (
    ClientClosedError,
    FilesError,
    InvalidArgumentError,
    JournalError,
    NotFoundError,
)
from aiofiles_api.journal import Journal
from aiofiles_api.models import DeletedFile, DownloadedFile, ExpiresAfter, FileObject, file_id
from aiofiles_api.naming import Names
from aiofiles_api.progress import Progress, ProgressSink
from aiofiles_api.protocol import (
    delete_request,
    read_deleted,
    read_file,
    retrieve_request,
    upload_fields,
)
from aiofiles_api.reconcile import OnUncertain
from aiofiles_api.sources import UploadSource
from aiofiles_api.upload import upload

__all__ = ["DownloadItem", "Outcome", "TransferManager", "UploadItem"]


@attrs.frozen
class UploadItem:
    """An upload with what is its own; what is `None` is as for all.

    Attributes:
        source: What to send, as for `FilesClient.upload`.
        filename: Its name; by default the source's own, else "upload".
        purpose: What it is for.
        content_type: Its media type; by default what its name's extension says.
        expires_after: When the server shall delete it.
    """

    source: UploadSource
    filename: str | None = None
    purpose: str | None = None
    content_type: str | None = None
    expires_after: ExpiresAfter | timedelta | int | None = None


@attrs.frozen
class DownloadItem:
    """A download with what is its own.

    Attributes:
        file: An id, or a `FileObject`.
        filename: Its name in the directory instead of the server's; made safe all the same.
        sha256: The digest in hex that its content must have.
    """

    file: str | FileObject
    filename: str | None = None
    sha256: str | None = None


Item = TypeVar("Item")
Result = TypeVar("Result")
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
        self._journal = journal

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
        trade: _Uploads[Upload] = _Uploads(
            self._client, defaults, on_uncertain, checksum=checksum, progress=progress
        )
        return self._outcomes(items, trade, fail_fast=fail_fast)

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
                costs a request for its name.
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
        how = _HowToDownload(path, overwrite=overwrite, resume=resume, durable=durable)
        return self._outcomes(files, _Downloads(self._client, how, progress), fail_fast=fail_fast)

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
        trade: _Deletions[Deletion] = _Deletions(self._client, missing_ok=missing_ok)
        return self._outcomes(files, trade, fail_fast=fail_fast)

    async def _outcomes(
        self, items: Items[Item], trade: _Trade[Item, Result], *, fail_fast: bool
    ) -> AsyncGenerator[Outcome[Item, Result], None]:
        jobs = run(trade.session, items, trade, concurrency=self._concurrency, fail_fast=fail_fast)
        async with aclosing(jobs):
            async for job in jobs:
                if job.outcome is not None:
                    yield job.outcome


class _Trade(ABC, Generic[Item, Result]):
    """What the three operations have in common."""

    ahead = 8
    is_recorded = False

    def __init__(self, client: FilesClient) -> None:
        self.client = client
        # The façade keeps its parts to itself; here, on the floor above, they are needed singly.
        self.session = client._session  # noqa: SLF001
        self.claims = client._claims  # noqa: SLF001

    async def open(self) -> None:
        """Get ready."""

    async def close(self) -> None:
        """Release what `open` has taken."""

    def make(self, item: Item, number: int) -> Job[Item, Result]:
        """Make a job of an item."""
        return Job(item, number)

    async def prepare(self, jobs: Sequence[Job[Item, Result]]) -> Sequence[Job[Item, Result]]:
        """Look at jobs together."""
        return jobs

    async def record(self, jobs: Sequence[Job[Item, Result]]) -> Sequence[Job[Item, Result]]:
        """Write down what became of jobs."""
        return jobs

    async def release(self, jobs: Sequence[Job[Item, Result]]) -> None:
        """Take note that these jobs will not be worked on."""

    async def work(self, job: Job[Item, Result]) -> None:
        """Give a job its outcome."""
        try:
            job.succeed(await self.do(job))
        except (ClientClosedError, JournalError):
            raise
        except FilesError as error:
            job.fail(error)

    @abstractmethod
    async def do(self, job: Job[Item, Result]) -> Result:
        """Do a job, or raise what it fails with."""


class _Uploads(_Trade[Upload, FileObject]):
    def __init__(
        self,
        client: FilesClient,
        defaults: UploadItem,
        on_uncertain: OnUncertain,
        checksum: bool,  # noqa: FBT001 - one of the caller's own, passed on
        progress: Callable[[Upload, Progress], object] | None,
    ) -> None:
        super().__init__(client)
        self._defaults = defaults
        self._on_uncertain: OnUncertain = on_uncertain
        self._checksum = checksum
        self._progress = progress

    async def do(self, job: Job[Upload, FileObject]) -> FileObject:
        item = self._item(job.item)
        return await upload(
            self.session,
            self.claims,
            item.source,
            purpose=item.purpose or "",
            filename=item.filename,
            content_type=item.content_type,
            expires_after=item.expires_after,
            on_uncertain=self._on_uncertain,
            spool=False,
            progress=_sink(self._progress, job),
            on_attempt=partial(setattr, job, "attempts"),
        )

    def _item(self, given: UploadItem | UploadSource) -> UploadItem:
        """Return an item with all that it leaves to the defaults."""
        if not isinstance(given, UploadItem):
            return attrs.evolve(self._defaults, source=given)
        fallback = self._defaults
        return UploadItem(
            given.source,
            given.filename,
            fallback.purpose if given.purpose is None else given.purpose,
            fallback.content_type if given.content_type is None else given.content_type,
            fallback.expires_after if given.expires_after is None else given.expires_after,
        )


@attrs.frozen
class _HowToDownload:
    directory: str
    overwrite: bool = attrs.field(kw_only=True)
    resume: bool = attrs.field(kw_only=True)
    durable: bool = attrs.field(kw_only=True)


class _Downloads(_Trade[Download, DownloadedFile]):
    def __init__(
        self,
        client: FilesClient,
        how: _HowToDownload,
        progress: Callable[[Download, Progress], object] | None,
    ) -> None:
        super().__init__(client)
        self._how = how
        self._progress = progress
        self._names = Names()
        self._turns = _Turns()

    async def do(self, job: Job[Download, DownloadedFile]) -> DownloadedFile:
        item = job.item if isinstance(job.item, DownloadItem) else DownloadItem(job.item)
        try:
            file, filename = item.file, item.filename
            identifier = file_id(file)
            if filename is None:
                file = file if isinstance(file, FileObject) else await self._retrieve(job, file)
                filename = file.filename
            await self._turns.wait_for(job.number)
            name = self._names.choose(filename, identifier)
        finally:
            self._turns.end(job.number)
        return await download(
            self.session,
            file,
            os.path.join(self._how.directory, name),
            overwrite=self._how.overwrite,
            resume=self._how.resume,
            durable=self._how.durable,
            sha256=item.sha256,
            progress=_sink(self._progress, job),
            on_attempt=partial(setattr, job, "attempts"),
        )

    async def _retrieve(self, job: Job[Download, DownloadedFile], identifier: str) -> FileObject:
        return await self.session.call(
            retrieve_request(identifier), read_file, on_attempt=partial(setattr, job, "attempts")
        )


class _Turns:
    """Lets each number do something only when all lower ones have."""

    def __init__(self) -> None:
        self._next = 0
        self._ended: set[int] = set()
        self._waiting: dict[int, asyncio.Future[None]] = {}

    async def wait_for(self, number: int) -> None:
        """Wait until it is this number's turn."""
        if number != self._next:
            self._waiting[number] = asyncio.get_running_loop().create_future()
            await self._waiting[number]

    def end(self, number: int) -> None:
        """Say that this number needs no turn any more."""
        self._ended.add(number)
        while self._next in self._ended:
            self._ended.remove(self._next)
            self._next += 1
        waiting = self._waiting.pop(self._next, None)
        if waiting is not None and not waiting.done():
            waiting.set_result(None)


class _Deletions(_Trade[Deletion, DeletedFile]):
    def __init__(self, client: FilesClient, *, missing_ok: bool) -> None:
        super().__init__(client)
        self._missing_ok = missing_ok

    async def do(self, job: Job[Deletion, DeletedFile]) -> DeletedFile:
        identifier = file_id(job.item)
        try:
            return await self.session.call(
                delete_request(identifier),
                read_deleted,
                on_attempt=partial(setattr, job, "attempts"),
            )
        except NotFoundError:
            if not self._missing_ok:
                raise
            return DeletedFile(identifier, deleted=False)


def _sink(
    progress: Callable[[Item, Progress], object] | None, job: Job[Item, Result]
) -> ProgressSink | None:
    return None if progress is None else partial(progress, job.item)
