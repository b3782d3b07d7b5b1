"""Was an uncertain upload stored after all?

When the whole body was sent and no usable reply came, the file may or may not be on the server.
Sending it again without a look is how duplicates come about. The look:

- lists the newest files of the same purpose and length that were created since the upload began,
  by the server's own clock (its `Date`), and that are not known to be another upload's result;
- reads each of them, and compares its SHA-256 with that of the source, read once more;
- takes the one that is equal for the result. Without one, the upload is to be sent again.

Two uploads of one client must not take the same file. So nobody looks for a kind of file (purpose
and length) while an upload of that kind waits for its reply, and no body of that kind is finished
while somebody looks. What remains: another *process* that stored the very same bytes within the
same seconds. Its file is adopted then, and is gone when its owner deletes it.
"""

from __future__ import annotations

import asyncio
import hashlib
import logging
import time
from collections import defaultdict
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from functools import partial
from itertools import chain
from typing import Literal, TypeAlias, TypeVar

import attrs

from aiofiles_api.download import Content
from aiofiles_api.errors import (
    APIConnectionError,
    APIError,
    APIResponseError,
    APIStatusError,
    APITimeoutError,
    FilesError,
    IntegrityError,
    InternalServerError,
    SourceError,
    SourceNotReplayableError,
    UncertainServerError,
    UploadUncertainError,
)
from aiofiles_api.models import FileObject, structure_files
from aiofiles_api.protocol import (
    ListQuery,
    RawPage,
    Reply,
    Request,
    list_request,
    read_page,
    server_time,
)
from aiofiles_api.session import SessionManager, beside_the_queue
from aiofiles_api.sources import FileReader, PathSource, Source

__all__ = [
    "Claims",
    "Kind",
    "OnUncertain",
    "Uncertain",
    "digest_of_content",
    "find_stored",
    "holds_beginning_of",
    "uncertain_error",
]

OnUncertain: TypeAlias = Literal["reconcile", "resend", "raise"]
"""What to do when it is not known whether an upload was stored.

`reconcile` looks before it sends again: it costs a request, and where there is a candidate the
reading of that and of the source. `resend` sends again at once and may leave a duplicate. `raise`
leaves it to the caller.
"""

_Result = TypeVar("_Result")

Kind: TypeAlias = tuple[str, int]
"""Purpose and length: files of different kinds are never mistaken for each other."""

_log = logging.getLogger("aiofiles_api")

_MOST_CLAIMS = 20_000
"""Results that are remembered: more than any client stores within the seconds that count."""

_CLOCK_SLACK = 2
"""Seconds by which `Date` and `created_at`, both cut to seconds, may disagree."""

_PAGE = 100
"""Files a page: as many as every compatible server gives."""

_MOST_PAGES = 100
_MOST_CANDIDATES = 100

_LATE = (1.0, 2.0, 4.0, 6.0, 7.0)
"""Seconds between looks after a timeout: a server that was slow may store late. One that cut the
connection was not slow, and gets the first."""


_LONGEST_COMPARISON = 600.0
"""Seconds after which it is not known whether a stored file is what its source begins with."""

_NOT_SHOWN = {400, 403, 404, 405, 410, 501}
"""What servers answer that do not show contents, or none for that purpose."""

_END_OF_TIME = 2**62
"""What a server says beyond that is no time, and too much for a database."""


class Claims:
    """Which files are the results of this client's uploads, and who may look or finish now."""

    def __init__(self) -> None:
        self._claimed: dict[str, None] = {}
        self._awaiting: defaultdict[Kind, int] = defaultdict(int)
        self._drained: dict[Kind, asyncio.Event] = {}
        self._looks: dict[Kind, asyncio.Event] = {}
        self.newest = 0
        """The highest `created_at` of the results so far."""

    def claim(self, file: FileObject) -> bool:
        """Take a file for the result of an upload; `False` when it is one already."""
        if file.id in self._claimed:
            return False
        self._claimed[file.id] = None
        self.newest = max(self.newest, min(file.created_at, _END_OF_TIME))
        if len(self._claimed) > _MOST_CLAIMS:
            del self._claimed[next(iter(self._claimed))]
        return True

    def give_up(self, file: FileObject) -> None:
        """Let a file be found again whose upload nobody could write down."""
        self._claimed.pop(file.id, None)

    def is_claimed(self, file: FileObject) -> bool:
        """Return whether a file is the result of an upload."""
        return file.id in self._claimed

    async def begin_to_await(self, kind: Kind) -> None:
        """Wait until nobody looks for this kind, and count as awaiting a reply from then on."""
        while (look := self._looks.get(kind)) is not None:
            await look.wait()
        self._awaiting[kind] += 1

    def end_to_await(self, kind: Kind) -> None:
        """Say that the reply has come, or will not come any more."""
        self._awaiting[kind] -= 1
        if not self._awaiting[kind]:
            del self._awaiting[kind]
            drained = self._drained.pop(kind, None)
            if drained is not None:
                drained.set()

    @asynccontextmanager
    async def look(self, kind: Kind) -> AsyncIterator[None]:
        """Look for a kind alone, when no upload of that kind awaits its reply."""
        while (other := self._looks.get(kind)) is not None:
            await other.wait()
        mine = self._looks[kind] = asyncio.Event()
        try:
            while kind in self._awaiting:
                await self._drained.setdefault(kind, asyncio.Event()).wait()
            yield
        finally:
            del self._looks[kind]
            mine.set()


@attrs.frozen
class Uncertain:
    """An upload of which it is not known whether it was stored.

    Attributes:
        request: What was asked for.
        purpose: The file's purpose.
        filename: The file's name; servers rewrite names, so it only orders the candidates.
        source: The source, which is read once more to compare.
        length: Its length in bytes.
        began: When the upload began, by `time.monotonic()`.
        newest_before: The highest `created_at` that was known then; 0 for none.
        error: Why it is not known.
        hidden: Files that may be it, whose content the server does not show, added by the look.
    """

    request: Request
    purpose: str
    filename: str
    source: Source
    length: int
    began: float
    newest_before: int
    error: FilesError
    hidden: list[FileObject]

    @property
    def kind(self) -> Kind:
        """Purpose and length."""
        return self.purpose, self.length


async def find_stored(
    session: SessionManager, claims: Claims, upload: Uncertain
) -> FileObject | None:
    """Return the file that an uncertain upload has become, claimed, or `None` if there is none.

    Raises:
        UploadUncertainError: It cannot be found out.
    """
    for delay in (0.0, *_later_looks(upload.error)):
        await asyncio.sleep(delay)
        async with claims.look(upload.kind):
            # Uploads that wait for the end of this look may hold every slot of the queue.
            with beside_the_queue():
                found = await _look(session, claims, upload)
            if found is not None:
                claims.claim(found)
                _log.info("%s: found to be stored as %s", upload.request.what, found.id)
                return found
    return None


def _later_looks(error: FilesError) -> Sequence[float]:
    """Return the seconds between further looks: a server that gave no answer may store late."""
    status = error.status_code if isinstance(error, APIStatusError) else None
    if isinstance(error, APITimeoutError) or status == 504:  # noqa: PLR2004 - Gateway Timeout
        return _LATE
    is_cut = isinstance(error, APIConnectionError) or status == 502  # noqa: PLR2004 - Bad Gateway
    return _LATE[:1] if is_cut else ()


async def _look(session: SessionManager, claims: Claims, upload: Uncertain) -> FileObject | None:
    candidates = await _explained(upload, (), partial(_candidates, session, claims, upload))
    if not candidates:
        return None
    try:
        digest = await _digest_of_source(session, upload.source, upload.length)
    except SourceError as error:
        rest = (
            f"the source cannot be read again to compare it with {_names(candidates)}: compare and"
            " delete by hand"
        )
        if isinstance(error, SourceNotReplayableError):
            rest += ", or upload with spool=True"
        raise uncertain_error(upload.request, upload.error, rest, candidates) from error
    hidden = upload.hidden
    hidden.clear()
    for candidate in candidates:
        compare = partial(digest_of_content, session, candidate)
        found = await _explained(upload, candidates, compare)
        if found == digest:
            return candidate
        if found is None:
            hidden.append(candidate)
    if isinstance(upload.source, PathSource) and upload.source.was_rewritten:
        rest = (
            "the source has changed since, so that it cannot be compared with"
            f" {_names(candidates)}: compare and delete by hand"
        )
        raise uncertain_error(upload.request, upload.error, rest, candidates)
    if hidden:
        _log.warning(
            "%s: all was sent and no result came; %s may be it, but the server does not show the"
            " content: sending it again, which may leave a duplicate",
            upload.request.what,
            _names(hidden),
        )
    return None


async def _explained(
    upload: Uncertain,
    candidates: tuple[FileObject, ...],
    step: Callable[[], Awaitable[_Result]],
) -> _Result:
    """Take a step of the look; when it fails for good, the upload stays uncertain."""
    try:
        return await step()
    except (APIError, IntegrityError) as error:
        rest = (
            f"the look whether it is stored failed: {error}; look yourself before you send it again"
        )
        raise uncertain_error(upload.request, upload.error, rest, candidates) from error


def uncertain_error(
    request: Request,
    error: FilesError | None,
    rest: str,
    candidates: tuple[FileObject, ...] = (),
) -> UploadUncertainError:
    """Make the error for an upload of which nobody knows whether it is stored.

    Args:
        request: The upload's.
        error: What came instead of an answer, if anything did.
        rest: Why it cannot be found out, and what to do.
        candidates: Files on the server that may be it.
    """
    sent = f"{request.what}: all was sent and"
    if isinstance(error, InternalServerError):
        msg = f"{sent} the server answered {error.status_code}; {rest}"
        return UncertainServerError(msg, error=error, candidates=candidates)
    return UploadUncertainError(f"{sent} no usable reply came; {rest}", candidates=candidates)


async def _candidates(
    session: SessionManager, claims: Claims, upload: Uncertain
) -> tuple[FileObject, ...]:
    """List the files that may be the upload: of its name first, then the newest first."""
    query = ListQuery(purpose=upload.purpose, limit=_PAGE)
    candidates: list[FileObject] = []
    previous: int | None = None
    rises = falls = False  # as the times of creation go on; only a fall shows the order to hold
    for _ in range(_MOST_PAGES):
        page, since = await _page(session, query, upload)
        file = None
        for file in chain.from_iterable(map(structure_files, page.data)):
            rises |= previous is not None and file.created_at > previous
            falls |= previous is not None and file.created_at < previous
            previous = file.created_at
            is_new = since is None or file.created_at >= since
            is_same = (file.purpose, file.bytes) == upload.kind
            if is_new and is_same and not claims.is_claimed(file):
                candidates.append(file)
        has_seen_older = since is not None and previous is not None and previous < since
        cursor = query.after if file is None else file.id
        is_last = not page.has_more or cursor == query.after
        if is_last or (falls and not rises and has_seen_older):
            break
        query = attrs.evolve(query, after=cursor)
    else:
        msg = f"the newest {_MOST_PAGES * _PAGE:,} files are not all that may be it"
        raise APIResponseError(msg, retryable=False)
    if len(candidates) > _MOST_CANDIDATES:
        msg = f"{len(candidates)} files may be it, too many to compare"
        raise APIResponseError(msg, retryable=False)
    return tuple(sorted(candidates, key=lambda file: file.filename != upload.filename))


async def _page(
    session: SessionManager, query: ListQuery, upload: Uncertain
) -> tuple[RawPage, int | None]:
    """Return a page, and since when by the server's clock a file may be the upload."""

    def read(request: Request, reply: Reply) -> tuple[RawPage, float | None]:
        return read_page(request, reply), server_time(reply)

    page, now = await session.call(list_request(query), read)
    if now is not None:
        return page, int(now - (time.monotonic() - upload.began)) - _CLOCK_SLACK
    return page, upload.newest_before - _CLOCK_SLACK if upload.newest_before else None


async def holds_beginning_of(session: SessionManager, file: FileObject, source: Source) -> bool:
    """Return whether a stored file is what its source now begins with, as far as can be told."""
    try:
        async with asyncio.timeout(_LONGEST_COMPARISON):
            stored = await digest_of_content(session, file)
            return stored == await _digest_of_source(session, source, file.bytes)
    except (APIError, IntegrityError, SourceError, TimeoutError):
        return False


async def _digest_of_source(session: SessionManager, source: Source, length: int) -> bytes:
    """Return the digest of as much as was sent; what was appended since is another matter."""
    digest = hashlib.sha256()
    reader = await source.open()
    try:
        read = 0
        while read < length and (chunk := await reader.read()):
            piece = chunk[: length - read]
            read += len(piece)
            await session.threads.run(partial(digest.update, piece))
        if isinstance(reader, FileReader):
            reader.sent = read  # a file object is left there
    finally:
        await reader.aclose()
    return digest.digest()


async def digest_of_content(session: SessionManager, file: FileObject) -> bytes | None:
    """Return the digest of a file's content, or `None` when the server does not show it."""
    digest = hashlib.sha256()
    content = Content(session, file.id, expected=file.bytes)
    try:
        while chunk := await content.read():
            await session.threads.run(partial(digest.update, chunk))
    except APIStatusError as error:
        if error.status_code not in _NOT_SHOWN:
            raise
        return None
    finally:
        await content.aclose()
    return digest.digest()


def _names(files: tuple[FileObject, ...] | list[FileObject]) -> str:
    return ", ".join(file.id for file in files)
