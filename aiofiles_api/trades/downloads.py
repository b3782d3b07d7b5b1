"""Downloading each item."""

from __future__ import annotations

import asyncio
import os
import stat
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from pathlib import Path
from typing import TypeVar, cast

import attrs

from aiofiles_api.client import FilesClient
from aiofiles_api.download import download
from aiofiles_api.errors import DestinationError, InvalidArgumentError
from aiofiles_api.identity import absolute, digest_in_pieces, download_from, place_of
from aiofiles_api.journal import Journal, Row
from aiofiles_api.models import DownloadedFile, FileObject, check_text, file_id
from aiofiles_api.naming import Names
from aiofiles_api.progress import Progress
from aiofiles_api.protocol import read_file, retrieve_request
from aiofiles_api.reconcile import digest_of_content
from aiofiles_api.trades.trade import Trade, Work, sink_for

__all__ = ["DownloadItem", "Downloads", "HowToDownload"]


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


@attrs.frozen
class HowToDownload:
    """What holds for all downloads of a run.

    Attributes:
        directory: Where the files go.
        overwrite: Whether to replace what was there before.
        resume: Whether to keep and continue part files.
        durable: Whether to wait for the disk.
    """

    directory: str
    overwrite: bool
    resume: bool
    durable: bool


Download = TypeVar("Download", bound=DownloadItem | FileObject | str)


class Downloads(Trade[Download, DownloadedFile]):
    """Downloads each file into one directory, each under a name of its own."""

    def __init__(
        self,
        client: FilesClient,
        journal: Journal | None,
        how: HowToDownload,
        progress: Callable[[Download, Progress], object] | None,
    ) -> None:
        super().__init__(client, journal, "download")
        self._how = how
        self._progress = progress
        self._names = Names()
        self._turns = _Turns()
        self._directory = ""

    async def open(self) -> None:
        """Keep names for the files that have got them in an earlier run, and for the journal's."""
        threads = self.session.threads
        await threads.run(self._look_around)
        if self._journal is None:
            return
        last = 0
        while found := await self.journal.filenames(self._directory, last):
            last = found[-1][0]
            # In a thread as well, because it takes long at times to find room for them.
            await threads.run(partial(self._keep, [filename for _, filename in found]))

    def _look_around(self) -> None:
        try:
            self._directory = absolute(self._how.directory)
        except OSError as error:
            msg = (
                f"{self._how.directory!r} cannot be found: the directory in which this process"
                f" works is gone ({error.strerror}); pass an absolute path"
            )
            raise DestinationError(msg) from error
        if self._journal is None:
            return
        directory = os.path.realpath(self._directory)
        own = [path for path in self.journal.files if os.path.dirname(path) == directory]
        self._keep(map(os.path.basename, own))

    def _keep(self, names: Iterable[str]) -> None:
        for name in names:
            self._names.give(name)

    async def do(self, job: Work[Download, DownloadedFile]) -> DownloadedFile:
        """Download a file, under the name that it has or is given when its turn comes."""
        try:
            item = _download_item(job.item)
            file = item.file
            identifier = file_id(file)
            if isinstance(file, str) and item.filename is None and self._is_to_be_found(job):
                file = await self._find(job, file)
            if job.name is None:
                filename = item.filename
                if filename is None:
                    filename = cast("FileObject", file).filename
                await self._turns.wait_for(job.number)
                job.name = self._names.choose(filename, identifier)
        finally:
            self._turns.end(job.number)
        if job.row is not None and job.row.filename is None and not self._how.overwrite:
            # What stands in the way of a later run must be known as this item's own.
            job.row.filename = job.name
            await self.journal.write([job.row])
        # Where it was when the run began, wherever this process has gone since.
        path = os.path.join(self._directory, job.name)
        finished = await self._finished_before(job, file, path)
        result = finished or await download(
            self.session,
            file,
            path,
            overwrite=self._how.overwrite,
            resume=self._how.resume,
            durable=self._how.durable,
            sha256=item.sha256,
            progress=sink_for(self._progress, job),
            on_attempt=partial(setattr, job, "attempts"),
        )
        if self._directory == self._how.directory:
            return result
        there = result.path.relative_to(self._directory)
        return attrs.evolve(result, path=Path(self._how.directory, there))

    def _is_to_be_found(self, job: Work[Download, DownloadedFile]) -> bool:
        """Return whether more than a file's id is needed, which the server must be asked for.

        For its name; and where an earlier run may have left a part, because all that was known of
        the file then is in the name of that.
        """
        return job.name is None or (job.was_begun and self._how.resume)

    async def _finished_before(
        self, job: Work[Download, DownloadedFile], file: FileObject | str, path: str
    ) -> DownloadedFile | None:
        """Return what an earlier run has put in its place, but could not write down any more."""
        if not job.was_begun or self._how.overwrite:
            return None
        threads = self.session.threads
        length = await threads.run(partial(_length_of_file, path))
        if length is None:
            return None
        file = file if isinstance(file, FileObject) else await self._find(job, file)
        if length != file.bytes:
            return None
        try:
            digest = await digest_in_pieces(threads, path)
        except OSError:  # what is wrong with it shows when it is to be replaced
            return None
        wanted = _download_item(job.item).sha256
        if digest != await self._expected_digest(file, wanted):
            return None
        sha256 = None if wanted is None else digest
        return DownloadedFile(file.id, Path(path), length, sha256, attempts=0, resumed_from=0)

    async def _expected_digest(self, file: FileObject, wanted: str | None) -> str | None:
        """Return the digest of a file's content; nobody need have said it, and it is read then."""
        if wanted is not None:
            return wanted.lower()
        # Another file of its name may have its length as well.
        content = await digest_of_content(self.session, file)
        return None if content is None else content.hex()

    async def _find(self, job: Work[Download, DownloadedFile], identifier: str) -> FileObject:
        return await self.session.call(
            retrieve_request(identifier), read_file, on_attempt=partial(setattr, job, "attempts")
        )

    async def prepare(
        self, jobs: Sequence[Work[Download, DownloadedFile]]
    ) -> Sequence[Work[Download, DownloadedFile]]:
        """Look jobs up in the journal; those that are not worked on need no turn."""
        ready = await super().prepare(jobs)
        working = {job.number for job in ready if job.outcome is None}
        for job in jobs:
            if job.number not in working:
                self._turns.end(job.number)
        return ready

    async def identify(self, jobs: Sequence[Work[Download, DownloadedFile]]) -> None:
        """Take the ids, and where the files shall go."""
        for job in jobs:
            try:
                item = _download_item(job.item)
                job.key = file_id(item.file)
            except InvalidArgumentError as error:
                job.fail(error)
                continue
            wishes = (item.filename or "", (item.sha256 or "").lower())
            job.place = place_of(self._kind, self._server, self._directory, job.key, *wishes)

    async def check_done(self, jobs: Sequence[Work[Download, DownloadedFile]]) -> None:
        """Take the results that the journal has, where the files still are there."""
        # Where they are now: the directory may have been given otherwise, or from elsewhere.
        paths = [os.path.join(self._directory, job.known_row.filename or "") for job in jobs]
        lengths = await self.session.threads.run(partial(_lengths, paths))
        for job, length in zip(jobs, lengths, strict=True):
            result = download_from(job.known_row.result or "")
            if length == result.bytes:
                path = Path(self._how.directory, job.known_row.filename or "")
                job.succeed(attrs.evolve(result, path=path))

    def describe(self, job: Work[Download, DownloadedFile], row: Row) -> None:
        """Write down where it goes; it keeps the name that it had."""
        job.name = row.filename
        row.scope = self._directory
        row.file_id = job.key

    def describe_result(
        self, job: Work[Download, DownloadedFile], result: DownloadedFile, row: Row
    ) -> None:
        """Write down the name and length."""
        row.filename = job.name
        row.size = result.bytes
        row.sha256 = result.sha256


def _download_item(item: DownloadItem | FileObject | str) -> DownloadItem:
    """Return an item as one with wishes.

    Raises:
        InvalidArgumentError: A wish is no text.
    """
    if not isinstance(item, DownloadItem):
        return DownloadItem(item)
    check_text("filename", item.filename)
    check_text("sha256", item.sha256)
    return item


def _lengths(paths: Sequence[str]) -> list[int | None]:
    """Return the lengths of the files that are there; to be called in a thread."""
    lengths: list[int | None] = []
    for path in paths:
        try:
            lengths.append(os.stat(path).st_size)
        except OSError:
            lengths.append(None)
    return lengths


def _length_of_file(path: str) -> int | None:
    """Return the length of a regular file, if it is one; to be called in a thread."""
    try:
        status = os.stat(path)
    except OSError:
        return None
    return status.st_size if stat.S_ISREG(status.st_mode) else None


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
