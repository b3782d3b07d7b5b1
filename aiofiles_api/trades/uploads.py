"""Uploading each item."""

from __future__ import annotations

import asyncio
import base64
import os
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from datetime import timedelta
from functools import partial
from hashlib import blake2b
from typing import TypeVar

import attrs

from aiofiles_api.client import FilesClient
from aiofiles_api.errors import FilesError, InvalidArgumentError, JournalError, UploadUncertainError
from aiofiles_api.identity import (
    digest_in_pieces,
    digest_of_path,
    file_from,
    place_of,
    result_to,
    version_of,
)
from aiofiles_api.journal import Journal, Row
from aiofiles_api.models import ExpiresAfter, FileObject, check_text
from aiofiles_api.progress import Progress
from aiofiles_api.reconcile import OnUncertain
from aiofiles_api.recovery import Recovery
from aiofiles_api.sources import PathSource, UploadSource
from aiofiles_api.trades.trade import Trade, Work, sink_for
from aiofiles_api.upload import upload

__all__ = ["HowToUpload", "UploadItem", "Uploads"]

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
            progress=sink_for(self._progress, job),
            idempotency_key=None if job.row is None else self._idempotency_key(job.row),
            may_be_replayed=job.was_begun,
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
                self._check_no_journal(job.version.location)
            except InvalidArgumentError as error:
                job.fail(error)

    def _check_no_journal(self, location: str) -> None:
        """Refuse the run's own journal, which may lie among the items.

        It is another one each time; and who closes it drops the locks that SQLite has on it.
        """
        own = self.journal.files
        if os.path.basename(location) in map(os.path.basename, own):
            directory, name = os.path.split(location)
            if os.path.join(os.path.realpath(directory), name) in own:
                msg = f"{location!r} is the run's own journal; leave it out, or keep it elsewhere"
                raise InvalidArgumentError(msg)

    async def _add_digests(self, jobs: Sequence[Work[Upload, FileObject]]) -> None:
        regular = [job for job in jobs if job.outcome is None and job.version.size is not None]
        small = [job for job in regular if (job.version.size or 0) <= _HASHED_TOGETHER]
        await self.session.threads.run(partial(_add_digests, small))
        for job in regular:
            if job not in small:
                with suppress(OSError):  # as there
                    location = job.version.location
                    digest = await digest_in_pieces(self.session.threads, location)
                    job.version = attrs.evolve(job.version, sha256=digest)

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
