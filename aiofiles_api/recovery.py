"""What has become of the uploads that a killed process had begun?

The same question as in `reconcile`, for many at once, and with the same rules: files of the same
purpose and length, created since the upload began, by the server's own clock, that are no known
result; compared by the SHA-256 of their content, each taken at most once, one of the right name
rather than another. All files are listed once a look, and each candidate is read at most once.

A request of the killed process may still be on its way into the server's store. So what is not
found is looked for again until `SETTLED` seconds have passed since that process last wrote to its
journal. What remains uncertain: a server that stores a file later than that, and one that does not
show contents, where an upload that was stored is sent again.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections import defaultdict
from collections.abc import Awaitable, Callable, Iterable, Sequence
from contextlib import aclosing
from functools import partial

import anyio
import attrs

from aiofiles_api.bulk import first_error
from aiofiles_api.errors import APIError, IntegrityError, InvalidArgumentError, UploadUncertainError
from aiofiles_api.identity import digest_in_pieces, version_of
from aiofiles_api.journal import Row
from aiofiles_api.listing import list_files
from aiofiles_api.models import FileObject
from aiofiles_api.protocol import ListQuery, Reply, Request, list_request, server_time
from aiofiles_api.reconcile import Claims, Kind, digest_of_content
from aiofiles_api.session import SessionManager
from aiofiles_api.threads import Threads

__all__ = ["SETTLED", "Recovery"]

_log = logging.getLogger("aiofiles_api")

SETTLED = 4.0
"""Seconds after its last sign of life in which what a process has sent may still be stored."""

_FIRST_PAUSE = 0.5
_CLOCK_SLACK = 10
"""Seconds by which clocks may disagree: this machine's in two runs, or those of the servers."""


@attrs.define(eq=False)
class _Begun:
    """An upload that was begun.

    Attributes:
        row: What the journal says of it.
        since: The server's time since which it may have been stored; `None` for always.
        digest: Its content's SHA-256, as soon as it is known.
    """

    row: Row
    since: int | None
    digest: bytes | None = None

    @property
    def kind(self) -> Kind:
        return self.row.scope or "", self.row.size or 0

    def may_be(self, file: FileObject) -> bool:
        return self.since is None or file.created_at >= self.since


class Recovery:
    """The look for uploads that an earlier run had begun.

    Args:
        session: Where to look.
        claims: Which files are results of this client's uploads already.
        known_ids: Tells which of some ids are results that the journal knows.
        concurrency: Files that are read at a time.

    Attributes:
        found: What was found to be stored, by the number of its row.
        unclear: Numbers of rows whose sources are not what they were, so that nobody can compare.
    """

    def __init__(
        self,
        session: SessionManager,
        claims: Claims,
        known_ids: Callable[[frozenset[str]], Awaitable[set[str]]],
        concurrency: int,
    ) -> None:
        self.found: dict[int, FileObject] = {}
        self.unclear: set[int] = set()
        self._session = session
        self._claims = claims
        self._known_ids = known_ids
        self._reading = asyncio.Semaphore(concurrency)
        self._digests: dict[str, bytes | None] = {}

    async def look(self, rows: Sequence[Row], *, alive_at: float) -> None:
        """Look for the uploads of these rows, until what was under way must have been stored.

        Raises:
            UploadUncertainError: It cannot be found out.
        """
        pause = _FIRST_PAUSE
        # By a clock that nobody sets, though the other one may have been since.
        unsettled = min(max(alive_at + SETTLED - time.time(), 0.0), SETTLED)
        settled_at = time.monotonic() + unsettled
        try:
            begun = await self._begun(rows)
            while True:
                begun = await self._look_once(begun)
                left = settled_at - time.monotonic()
                if not begun or left <= 0:
                    break
                await asyncio.sleep(min(pause, left))
                pause *= 2
        except (APIError, IntegrityError) as error:
            msg = (
                f"an earlier run had begun {len(rows):,} uploads, and the look whether they are"
                f" stored failed: {error}; run again when the server answers, or send them again"
                " with on_uncertain='resend', which may leave duplicates"
            )
            raise UploadUncertainError(msg) from error

    async def _begun(self, rows: Sequence[Row]) -> list[_Begun]:
        now = await self._server_time() if any(not row.newest_before for row in rows) else None
        return [_Begun(row, _since(row, now)) for row in rows]

    async def _read_source(self, begun: _Begun) -> None:
        async with self._reading:
            begun.digest = await _digest_of_source(self._session.threads, begun.row)
        if begun.digest is None:
            self.unclear.add(begun.row.number)

    async def _server_time(self) -> float | None:
        def read(_request: Request, reply: Reply) -> float | None:
            return server_time(reply)

        return await self._session.call(list_request(ListQuery(limit=1)), read)

    async def _look_once(self, begun: list[_Begun]) -> list[_Begun]:
        """Find what is there by now, and return what is not."""
        by_kind: dict[Kind, list[_Begun]] = defaultdict(list)
        for one in begun:
            by_kind[one.kind].append(one)
        candidates: list[FileObject] = []
        for purpose in {kind[0] for kind in by_kind}:
            candidates += await self._candidates(purpose, by_kind)
        known = await self._known_ids(frozenset(file.id for file in candidates))
        claims = self._claims
        candidates = [one for one in candidates if one.id not in known]
        candidates = [one for one in candidates if not claims.is_claimed(one)]
        kinds = {(file.purpose, file.bytes) for file in candidates}
        sources = [one for one in begun if one.digest is None and one.kind in kinds]
        unread = [file for file in candidates if file.id not in self._digests]
        try:
            async with anyio.create_task_group() as group:
                for one in sources:
                    group.start_soon(self._read_source, one)
                for file in unread:
                    group.start_soon(self._read_candidate, file)
        except BaseExceptionGroup as errors:
            error = first_error(errors)
            raise error from error.__cause__
        self._match(by_kind, candidates)
        return [one for one in begun if one.row.number not in self.found.keys() | self.unclear]

    async def _candidates(
        self, purpose: str, by_kind: dict[Kind, list[_Begun]]
    ) -> list[FileObject]:
        """List the files of a purpose, the newest first, that may be one of the uploads."""
        sinces = [
            one.since for kind, group in by_kind.items() if kind[0] == purpose for one in group
        ]
        oldest = None if None in sinces else min(since for since in sinces if since is not None)
        candidates: list[FileObject] = []
        previous: int | None = None
        rises = falls = False  # as the times of creation go on; only a fall shows the order to hold
        listing = list_files(self._session, ListQuery(purpose=purpose), None)
        async with aclosing(listing) as files:
            async for file in files:
                rises |= previous is not None and file.created_at > previous
                falls |= previous is not None and file.created_at < previous
                previous = file.created_at
                if any(one.may_be(file) for one in by_kind.get((file.purpose, file.bytes), ())):
                    candidates.append(file)
                if oldest is not None and file.created_at < oldest and falls and not rises:
                    break
        return candidates

    async def _read_candidate(self, file: FileObject) -> None:
        async with self._reading:
            digest = self._digests[file.id] = await digest_of_content(self._session, file)
        if digest is None:
            _log.warning(
                "%s may be an upload that an earlier run had begun, but the server does not show"
                " its content: sending that again, which may leave a duplicate",
                file.id,
            )

    def _match(self, by_kind: dict[Kind, list[_Begun]], candidates: Iterable[FileObject]) -> None:
        """Give each upload a file with its content, and no file to two: those of its name first."""
        free = sorted(candidates, key=lambda file: (file.created_at, file.id))
        for needs_name in (True, False):
            for file in free:
                if self._claims.is_claimed(file):
                    continue
                for one in by_kind[file.purpose, file.bytes]:
                    if (
                        one.row.number not in self.found
                        and one.digest is not None
                        and one.digest == self._digests[file.id]
                        and one.may_be(file)
                        and (not needs_name or one.row.filename == file.filename)
                    ):
                        self.found[one.row.number] = file
                        self._claims.claim(file)
                        _log.info("%s: found to be stored as %s", one.row.key, file.id)
                        break


def _since(row: Row, now: float | None) -> int | None:
    """Return the server's time since which an upload may have been stored, if that is known."""
    if row.newest_before:
        return row.newest_before - _CLOCK_SLACK
    elapsed = time.time() - (row.started_at or 0.0)
    if now is None or elapsed < 0:  # this machine's clock was set back since: it tells nothing
        return None
    return int(now - elapsed) - _CLOCK_SLACK


async def _digest_of_source(threads: Threads, row: Row) -> bytes | None:
    """Return the digest of what was sent, or `None` when the source is not that any more."""
    if row.sha256 is not None:
        return bytes.fromhex(row.sha256)
    try:
        version = await threads.run(partial(version_of, row.key))
        if version.is_same(row.size, row.mtime_ns, None):
            return bytes.fromhex(await digest_in_pieces(threads, row.key))
    except (OSError, InvalidArgumentError):
        pass
    return None
