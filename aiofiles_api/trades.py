"""What is done with each item of a bulk run: upload, download or delete it, and write that down.

With a journal, an item that it says is done is not touched again. Every other one is written down
as begun before it is worked on, together with some of those behind it, so that a commit serves many
and nobody waits for it; and as done, or failed, before its outcome is handed out.
"""

from __future__ import annotations

import asyncio
import base64
import os
import stat
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Sequence
from datetime import timedelta
from functools import partial
from hashlib import blake2b
from pathlib import Path
from typing import Generic, TypeVar, cast

import attrs

from aiofiles_api.bulk import Job
from aiofiles_api.client import FilesClient
from aiofiles_api.download import download
from aiofiles_api.errors import (
    ClientClosedError,
    DestinationError,
    FilesError,
    InvalidArgumentError,
    JournalError,
    NotFoundError,
    UploadUncertainError,
)
from aiofiles_api.identity import (
    Version,
    absolute,
    deleted_from,
    digest_of_path,
    download_from,
    file_from,
    place_of,
    result_to,
    version_of,
)
from aiofiles_api.journal import Journal, Kind, Row
from aiofiles_api.models import (
    DeletedFile,
    DownloadedFile,
    ExpiresAfter,
    FileObject,
    check_text,
    file_id,
)
from aiofiles_api.naming import Names
from aiofiles_api.progress import Progress, ProgressSink
from aiofiles_api.protocol import DeletionReplies, delete_request, read_file, retrieve_request
from aiofiles_api.reconcile import OnUncertain, digest_of_content
from aiofiles_api.recovery import Recovery
from aiofiles_api.sources import PathSource, UploadSource
from aiofiles_api.upload import upload

__all__ = [
    "Deletions",
    "DownloadItem",
    "Downloads",
    "HowToDownload",
    "HowToUpload",
    "Trade",
    "UploadItem",
    "Uploads",
]

Item = TypeVar("Item")
Result = TypeVar("Result", bound=FileObject | DownloadedFile | DeletedFile)

_AHEAD = 8
_AHEAD_WITH_JOURNAL = 48
"""Items that are pulled beyond those that are worked on; with a journal, some wait for commits."""

_RECENT = 10.0
"""Seconds in which another run's results may be mistaken for those of this one."""

_HASHED_TOGETHER = 256 * 1024
"""Files up to this length are read for their digests one after the other in one thread."""


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


_UNKNOWN = Version("")

_CLOCK_SLACK = 2.0
"""Seconds by which the clock of a file system may be behind, or coarse."""


@attrs.define(eq=False)
class Work(Job[Item, Result]):
    """A job that a journal may know.

    Attributes:
        key: What it is, for people: an upload's path, else the file's id.
        version: An upload's file as it is now.
        place: What the journal finds it by.
        row: What the journal says of it.
        begun_at: When an earlier run had begun what it may have done, in Unix time; `None` if none
            had.
        is_changed: Whether the row is to be written again.
        name: A download's name in its directory, as soon as it has one.
        twins: Jobs of the same run for the very same item, which share its outcome.
        source: What an upload is sent from.
    """

    key: str = ""
    version: Version = _UNKNOWN
    place: bytes = b""
    row: Row | None = None
    begun_at: float | None = None
    is_changed: bool = False
    name: str | None = None
    twins: list[Work[Item, Result]] = attrs.field(factory=list)
    source: PathSource | None = None

    @property
    def was_begun(self) -> bool:
        """Whether an earlier run had begun it, and may have done it."""
        return self.begun_at is not None

    @property
    def known_row(self) -> Row:
        """The row, of a job that has one by now."""
        return cast("Row", self.row)

    @property
    def identity(self) -> tuple[object, ...]:
        """What tells it from every other item of the run."""
        version = self.version
        return (self.place, version.size, version.sha256 or version.mtime_ns)


class Trade(ABC, Generic[Item, Result]):
    """What the three operations have in common.

    Args:
        client: Who does it.
        journal: What is written to, if anything; it is open.
        kind: Which of the three it is.
    """

    def __init__(self, client: FilesClient, journal: Journal | None, kind: Kind) -> None:
        self.client = client
        # The façade keeps its parts to itself; here, on a floor above, they are needed singly.
        self.session = client._session  # noqa: SLF001
        self.claims = client._claims  # noqa: SLF001
        self.is_recorded = journal is not None
        self.ahead = _AHEAD if journal is None else _AHEAD_WITH_JOURNAL
        self._journal = journal
        self._kind: Kind = kind
        self._server = self.session.config.base_url
        self._in_flight: dict[tuple[object, ...], Work[Item, Result]] = {}

    @property
    def journal(self) -> Journal:
        """The journal; the engine prepares and records only where there is one."""
        return cast("Journal", self._journal)

    # --- for the engine ------------------------------------------------------------------------

    async def open(self) -> None:
        """Get ready, before the first item is pulled."""

    def make(self, item: Item, number: int) -> Work[Item, Result]:
        """Make a job of an item."""
        return Work(item, number)

    async def prepare(self, jobs: Sequence[Work[Item, Result]]) -> Sequence[Work[Item, Result]]:
        """Look jobs up in the journal, and write down that those which are left are begun."""
        await self.identify(jobs)
        ready = [job for job in jobs if job.outcome is not None]
        fresh: list[Work[Item, Result]] = []
        for job in jobs:
            if job.outcome is None:
                first = self._in_flight.setdefault(job.identity, job)
                (fresh if first is job else first.twins).append(job)
        found = await self.journal.find([job.place for job in fresh])
        for job, rows in zip(fresh, found, strict=True):
            known = [row for row in rows if self.is_same(job, row)]
            job.row = known[-1] if known else None
        await self.check_done([job for job in fresh if job.row and job.row.state == "done"])
        for job in fresh:
            if job.outcome is None:
                self.begin(job)
        await self.journal.write([job.row for job in fresh if job.row and job.is_changed])
        for job in fresh:
            ready += [job] if job.outcome is None else self._settled(job)
        return sorted(ready, key=lambda job: job.number)

    async def record(self, jobs: Sequence[Work[Item, Result]]) -> Sequence[Work[Item, Result]]:
        """Write down what became of jobs; without any, that this process is alive."""
        if not jobs:
            await self.journal.touch()
        await self.journal.write([self.finished(job) for job in jobs])
        return [settled for job in jobs for settled in self._settled(job)]

    async def release(self, jobs: Sequence[Work[Item, Result]]) -> None:
        """Write down that jobs which were to be begun next have not been."""
        begun = [job for job in jobs if job.outcome is None and job.is_changed]
        rows = [job.known_row for job in begun if not job.was_begun]
        for row in rows:
            row.state = "planned"
        await self.journal.write(rows)

    async def work(self, job: Work[Item, Result]) -> None:
        """Give a job its outcome."""
        try:
            job.succeed(await self.do(job))
        except (ClientClosedError, JournalError):
            raise
        except FilesError as error:
            job.fail(error)

    # --- for each operation --------------------------------------------------------------------

    @abstractmethod
    async def do(self, job: Work[Item, Result]) -> Result:
        """Do a job, or raise what it fails with."""

    @abstractmethod
    async def identify(self, jobs: Sequence[Work[Item, Result]]) -> None:
        """Find out what the items are; one that nobody can recognize has failed."""

    @abstractmethod
    async def check_done(self, jobs: Sequence[Work[Item, Result]]) -> None:
        """Give jobs that are done the results that the journal has, if these still hold."""

    def is_same(self, _job: Work[Item, Result], _row: Row) -> bool:
        """Return whether a row of its place is a job's own."""
        return True

    def begin(self, job: Work[Item, Result]) -> None:
        """Make a job's row say that it is begun."""
        row = job.row
        if row is None:
            number = self.journal.new_number()
            row = job.row = Row(number, job.place, self._kind, job.key, server=self._server)
        job.is_changed = True
        job.begun_at = row.started_at if row.state in {"started", "failed"} else None
        row.tries += row.state in {"failed", "done"}
        row.state = "started"
        row.reason = None
        row.attempts = 0
        row.updated_at = time.time()
        if not job.was_begun:
            row.started_at = row.updated_at
            row.newest_before = self.claims.newest
        self.describe(job, row)

    def describe(self, job: Work[Item, Result], row: Row) -> None:
        """Write down what is known of a job that begins."""

    def finished(self, job: Work[Item, Result]) -> Row:
        """Return a job's row with what became of it."""
        row, outcome = job.known_row, job.known_outcome
        row.attempts = job.attempts
        row.updated_at = time.time()
        if outcome.result is not None:
            row.state = "done"
            row.result = result_to(outcome.result)
            self.describe_result(job, outcome.result, row)
        else:
            # What may be stored is looked for by the next run.
            error = cast("FilesError", outcome.error)
            is_uncertain = isinstance(error, UploadUncertainError)
            row.state = "started" if is_uncertain else "failed"
            row.reason = str(error)
            if not job.was_begun and not self.may_be_done(error):
                row.started_at = None
        return row

    def may_be_done(self, error: FilesError) -> bool:
        """Return whether what has failed so may have been done all the same."""
        return error.retryable

    def describe_result(self, job: Work[Item, Result], result: Result, row: Row) -> None:
        """Write down what is known of a job that is done."""

    def _settled(self, job: Work[Item, Result]) -> list[Work[Item, Result]]:
        """Return a job that has its outcome, and all that share it."""
        del self._in_flight[job.identity]
        for twin in job.twins:
            twin.outcome = attrs.evolve(job.known_outcome, item=twin.item, attempts=0)
        return [job, *job.twins]


@attrs.frozen
class HowToUpload:
    """What holds for all uploads of a run.

    Attributes:
        defaults: What an item has where it says nothing.
        on_uncertain: What to do when it is not known whether an upload was stored.
        checksum: Whether a journal recognizes files by their content.
        concurrency: Files that are read at a time when an earlier run's uploads are looked for.
    """

    defaults: UploadItem
    on_uncertain: OnUncertain
    checksum: bool
    concurrency: int

    def purpose_of(self, given: UploadItem | UploadSource) -> str:
        """Return an item's purpose, its own or that of all."""
        own = given.purpose if isinstance(given, UploadItem) else None
        return (self.defaults.purpose or "") if own is None else own

    def complete(self, given: UploadItem | UploadSource) -> UploadItem:
        """Return an item with all that it leaves to the defaults."""
        fallback = self.defaults
        if not isinstance(given, UploadItem):
            return UploadItem(
                given, None, self.purpose_of(given), fallback.content_type, fallback.expires_after
            )
        return UploadItem(
            given.source,
            given.filename,
            self.purpose_of(given),
            fallback.content_type if given.content_type is None else given.content_type,
            fallback.expires_after if given.expires_after is None else given.expires_after,
        )


Upload = TypeVar("Upload", bound=UploadItem | UploadSource)


class Uploads(Trade[Upload, FileObject]):
    """Uploads each item."""

    def __init__(
        self,
        client: FilesClient,
        journal: Journal | None,
        how: HowToUpload,
        progress: Callable[[Upload, Progress], object] | None,
    ) -> None:
        super().__init__(client, journal, "upload")
        self._how = how
        self._progress = progress

    async def open(self) -> None:
        """Look for what an earlier run had begun, before anything is sent."""
        if self._journal is None:
            return
        await self._claim_recent()
        if self._how.on_uncertain != "reconcile":
            return
        begun = await self.journal.rows(
            "kind = 'upload' AND state = 'started' AND server = ?", (self._server,)
        )
        if begun:
            await self._recover(begun)

    async def _claim_recent(self) -> None:
        """Let nobody take what an earlier run has just stored for an upload of this one."""
        recent = await self.journal.rows(
            "kind = 'upload' AND state = 'done' AND server = ? AND updated_at > ?",
            (self._server, self.journal.alive_at - _RECENT),
        )
        for number, row in enumerate(recent):
            self.claims.claim(file_from(row.result or ""))
            if number % 500 == 0:
                await asyncio.sleep(0)

    async def _recover(self, begun: Sequence[Row]) -> None:
        recovery = Recovery(
            self.session,
            self.claims,
            partial(self.journal.known_ids, self._server),
            self._how.concurrency,
        )
        try:
            await recovery.look(begun, alive_at=self.journal.alive_at)
            await self._record_found(begun, recovery)
        except BaseException:
            # Not written down: the next run must be able to find it.
            for file in recovery.found.values():
                self.claims.give_up(file)
            raise

    async def _record_found(self, begun: Sequence[Row], recovery: Recovery) -> None:
        now = time.time()
        rows = []
        for row in begun:
            file = recovery.found.get(row.number)
            if file is not None:
                done = attrs.evolve(row, state="done", file_id=file.id, result=result_to(file))
                rows.append(attrs.evolve(done, reason=None, updated_at=now))
            elif row.number not in recovery.unclear:
                rows.append(attrs.evolve(row, state="planned", updated_at=now))
        await self.journal.write(rows)

    async def do(self, job: Work[Upload, FileObject]) -> FileObject:
        """Upload an item."""
        item = self._how.complete(job.item)
        source: UploadSource | PathSource = item.source
        if job.row is not None:
            # Where it was looked at, wherever this process has gone since.
            location, share = job.version.location, self.session.sending.share
            source = job.source = PathSource(location, self.session.threads, share)
        return await upload(
            self.session,
            self.claims,
            source,
            purpose=item.purpose or "",
            filename=item.filename,
            content_type=item.content_type,
            expires_after=item.expires_after,
            on_uncertain=self._how.on_uncertain,
            spool=False,
            progress=_sink(self._progress, job),
            idempotency_key=None if job.row is None else self._idempotency_key(job.row),
            on_attempt=partial(setattr, job, "attempts"),
        )

    def _idempotency_key(self, row: Row) -> str:
        """Return a key that is the same for an upload until it has failed for good."""
        # The number alone may be given again in a journal that was restored from an old copy.
        what = f"{row.place.hex()} {row.size}"
        text = f"{self.journal.identity} {row.number} {row.tries} {what}"
        return base64.urlsafe_b64encode(blake2b(text.encode(), digest_size=24).digest()).decode()

    async def record(
        self, jobs: Sequence[Work[Upload, FileObject]]
    ) -> Sequence[Work[Upload, FileObject]]:
        """Write down what became of jobs; what cannot be, the next run must be able to find."""
        try:
            return await super().record(jobs)
        except JournalError:
            for file in filter(None, (job.known_outcome.result for job in jobs)):
                self.claims.give_up(file)
            raise

    async def identify(self, jobs: Sequence[Work[Upload, FileObject]]) -> None:
        """Look at the items' files, in one thread but for the digests of large ones."""
        await self.session.threads.run(partial(self._look_at_sources, jobs))
        if self._how.checksum:
            await self._add_digests(jobs)
        for job in jobs:
            if job.outcome is None:
                purpose = self._how.purpose_of(job.item)
                job.key = job.version.path
                job.place = place_of(self._kind, self._server, purpose, job.key)

    def _look_at_sources(self, jobs: Sequence[Work[Upload, FileObject]]) -> None:
        for job in jobs:
            source = job.item.source if isinstance(job.item, UploadItem) else job.item
            if not isinstance(source, str | os.PathLike):
                msg = (
                    f"items: a journal cannot recognize a {type(source).__name__} in a later run;"
                    " pass a path, or upload it without a journal"
                )
                job.fail(InvalidArgumentError(msg))
                continue
            try:
                if isinstance(job.item, UploadItem):
                    # What else would not come back from the journal as it was.
                    check_text("filename", job.item.filename)
                    check_text("purpose", job.item.purpose)
                job.version = version_of(source)
            except InvalidArgumentError as error:
                job.fail(error)

    async def _add_digests(self, jobs: Sequence[Work[Upload, FileObject]]) -> None:
        regular = [job for job in jobs if job.outcome is None and job.version.size is not None]
        small = [job for job in regular if (job.version.size or 0) <= _HASHED_TOGETHER]
        await self.session.threads.run(partial(_add_digests, small))
        for job in regular:
            if job not in small:
                await self.session.threads.run(partial(_add_digests, [job]))

    def is_same(self, job: Work[Upload, FileObject], row: Row) -> bool:
        """Return whether a row is of the file as it is now."""
        return job.version.is_same(row.size, row.mtime_ns, row.sha256)

    async def check_done(self, jobs: Sequence[Work[Upload, FileObject]]) -> None:
        """Take the results that the journal has, unless the server has deleted them by now."""
        for job in jobs:
            row, version = job.known_row, job.version
            file = file_from(row.result or "")
            if file.expires_at is not None and file.created_at < file.expires_at <= time.time():
                continue
            job.succeed(file)
            known = (row.mtime_ns, row.sha256)
            if known != (version.mtime_ns, version.sha256 or row.sha256):
                # Touched since, or its digest is known only now: for the run that comes next.
                job.is_changed = True
                self.describe(job, row)

    def begin(self, job: Work[Upload, FileObject]) -> None:
        """Make its row say that it is begun, unless it may be stored already."""
        if job.row is not None and job.row.state == "started" and self._must_not_repeat:
            msg = (
                f"uploading {job.key!r}: an earlier attempt may have stored it; look at the"
                " server's files, or run again with on_uncertain='reconcile' to have it looked for"
            )
            job.fail(UploadUncertainError(msg))
            return
        super().begin(job)

    @property
    def _must_not_repeat(self) -> bool:
        return self._how.on_uncertain != "resend"

    def describe(self, job: Work[Upload, FileObject], row: Row) -> None:
        """Write down which file it is now."""
        item, version = self._how.complete(job.item), job.version
        row.scope = item.purpose
        row.filename = os.path.basename(job.key) if item.filename is None else item.filename
        row.size = version.size
        row.mtime_ns = version.mtime_ns
        row.sha256 = version.sha256 or row.sha256

    def may_be_done(self, error: FilesError) -> bool:
        """Return whether it may be stored."""
        return isinstance(error, UploadUncertainError)

    def describe_result(
        self,
        job: Work[Upload, FileObject],
        result: FileObject,
        row: Row,
    ) -> None:
        """Write down the file's id, and what was sent if that is not what was to be."""
        row.file_id = result.id
        sent = None if job.source is None else job.source.sent
        if sent is not None and sent != (job.version.size, job.version.mtime_ns):
            row.size, row.mtime_ns = sent
            row.sha256 = None


def _add_digests(jobs: Sequence[Work[Upload, FileObject]]) -> None:
    for job in jobs:
        try:
            digest = digest_of_path(job.version.location)
        except OSError:  # a directory, or a file that has gone: it will fail when it is sent
            continue
        job.version = attrs.evolve(job.version, sha256=digest)


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
        self._turns = Turns()
        self._directory = ""

    async def open(self) -> None:
        """Keep names for the files that have got them in an earlier run, and for the journal's."""
        if self._journal is None:
            return
        threads = self.session.threads
        await threads.run(self._look_around)
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
            if job.name is None:
                filename = item.filename
                if filename is None:
                    file = file if isinstance(file, FileObject) else await self._find(job, file)
                    filename = file.filename
                await self._turns.wait_for(job.number)
                job.name = self._names.choose(filename, identifier)
        finally:
            self._turns.end(job.number)
        if job.row is not None and job.row.filename is None and not self._how.overwrite:
            # What stands in the way of a later run must be known as this item's own.
            job.row.filename = job.name
            await self.journal.write([job.row])
        path = os.path.join(self._how.directory, job.name)
        finished = await self._finished_before(job, file, path)
        return finished or await download(
            self.session,
            file,
            path,
            overwrite=self._how.overwrite,
            resume=self._how.resume,
            durable=self._how.durable,
            sha256=item.sha256,
            progress=_sink(self._progress, job),
            on_attempt=partial(setattr, job, "attempts"),
        )

    async def _finished_before(
        self, job: Work[Download, DownloadedFile], file: FileObject | str, path: str
    ) -> DownloadedFile | None:
        """Return what an earlier run has put in its place, but could not write down any more."""
        if job.begun_at is None or self._how.overwrite:
            return None
        look = partial(_finished_since, path, job.begun_at)
        found = await self.session.threads.run(look)
        if found is None:
            return None
        file = file if isinstance(file, FileObject) else await self._find(job, file)
        length, digest = found
        wanted = _download_item(job.item).sha256
        if length != file.bytes or digest != await self._expected_digest(file, wanted):
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


def _finished_since(path: str, since: float) -> tuple[int, str] | None:
    """Return length and digest of a file if it was written since then; to be called in a thread."""
    try:
        status = os.stat(path)
        if not stat.S_ISREG(status.st_mode) or status.st_mtime < since - _CLOCK_SLACK:
            return None
        return status.st_size, digest_of_path(path)
    except OSError:
        return None


class Turns:
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


def _sink(
    progress: Callable[[Item, Progress], object] | None, job: Work[Item, Result]
) -> ProgressSink | None:
    return None if progress is None else partial(progress, job.item)
