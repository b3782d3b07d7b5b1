"""A job that a journal may know, and what every trade does with it."""

from __future__ import annotations

import asyncio
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from functools import partial
from typing import Generic, TypeVar, cast

import attrs

from aiofiles_api.bulk import Job
from aiofiles_api.client import FilesClient
from aiofiles_api.errors import ClientClosedError, FilesError, JournalError, UploadUncertainError
from aiofiles_api.identity import Version, result_to
from aiofiles_api.journal import Journal, Kind, Row
from aiofiles_api.models import DeletedFile, DownloadedFile, FileObject
from aiofiles_api.progress import Progress, ProgressSink
from aiofiles_api.sources import PathSource
from aiofiles_api.threads import is_being_cancelled

__all__ = ["Item", "Result", "Trade", "Work", "sink_for"]

Item = TypeVar("Item")
Result = TypeVar("Result", bound=FileObject | DownloadedFile | DeletedFile)

_AHEAD = 8
_AHEAD_WITH_JOURNAL = 48
"""Items that are pulled beyond those that are worked on; with a journal, some wait for commits."""

_UNKNOWN = Version("")


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
        except asyncio.CancelledError as error:
            if is_being_cancelled():
                raise
            # As any other error of the caller's own code, it ends the run.
            msg = "progress=, or a hook, raised CancelledError, although nobody cancelled"
            raise FilesError(msg) from error

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


def sink_for(
    progress: Callable[[Item, Progress], object] | None, job: Work[Item, Result]
) -> ProgressSink | None:
    """Return what hands a job's progress out together with its item, if anybody wants it."""
    return None if progress is None else partial(progress, job.item)
