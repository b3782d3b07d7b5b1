"""`download`: files by their ids, or all that fit, into a directory."""

from __future__ import annotations

import hashlib
import os
import sys
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterable
from functools import partial
from typing import Annotated, TypeAlias

import anyio
from cyclopts import CycloptsError, Parameter

from aiofiles_api import (
    DownloadedFile,
    DownloadItem,
    FileObject,
    FilesClient,
    FilesError,
    IntegrityError,
    Outcome,
    Progress,
    ProgressSink,
    TransferManager,
)
from aiofiles_api.cli.connection import Connection
from aiofiles_api.cli.options import (
    Age,
    AsJson,
    Concurrency,
    Digest,
    Flag,
    Purpose,
    RequestsPerMinute,
)
from aiofiles_api.cli.outcomes import JOURNAL_ADVICE, Operation, Telling
from aiofiles_api.cli.screen import Screen
from aiofiles_api.cli.selection import Found, Selection, find
from aiofiles_api.cli.spool import Spool
from aiofiles_api.cli.text import Result, json_line, printable, size

__all__ = ["download"]

_ENVIRONMENT = Connection()


async def download(
    ids: Annotated[list[str] | None, Parameter(name="ID")] = None,
    /,
    *,
    output: Annotated[str, Parameter(alias="-o", allow_leading_hyphen=True)] = ".",
    all_: Annotated[bool, Parameter(name="--all", show_default=False)] = False,
    purpose: Purpose = None,
    filename: str | None = None,
    newer_than: Age = None,
    older_than: Age = None,
    overwrite: Annotated[bool, Parameter(negative="--no-overwrite", show_default=False)] = True,
    resume: Flag = False,
    sha256: Digest = None,
    journal: str | None = None,
    concurrency: Concurrency = 8,
    rpm: RequestsPerMinute = None,
    fail_fast: Flag = False,
    as_json: AsJson = False,
    connection: Connection = _ENVIRONMENT,
) -> int:
    """Download files: each is there as a whole in the end, or not at all.

    Args:
        ids: Their ids.
        output: A directory, which gets the server's filenames made safe; DIR/ is made if need be.
            For a single file also the file's own path, or - for standard output.
        all_: All files, or those that fit the next four options.
        purpose: With --all, only files with this purpose.
        filename: With --all, only files whose name this glob fits.
        newer_than: With --all, only files created since then: seconds ago, or 45m, 12h, 30d.
        older_than: With --all, only files created before then.
        overwrite: Whether files that are there already are replaced, which is the default.
        resume: Keep what was received when a download fails, and go on from what an earlier one has
            kept.
        sha256: The digest that a single file must have, in hex.
        journal: A file that keeps what is done: after a crash or Ctrl-C, the same command goes on
            where it was.
        concurrency: How many to fetch at a time.
        rpm: How many requests to make in a minute at most.
        fail_fast: Stop at the first failure.
        as_json: Print a line of JSON for each file.
        connection: Where from.
    """
    ids = list(dict.fromkeys(ids or ()))
    selection = Selection(purpose, filename, newer_than, older_than)
    selection.check(ids, is_all=all_)
    if not output:
        raise CycloptsError(msg="--output is empty; give a path, or leave it out")
    is_directory = output.endswith(os.sep) or (output != "-" and await anyio.Path(output).is_dir())
    if not is_directory or sha256 is not None:
        _check_single(ids, output, sha256, None if is_directory else journal, as_json=as_json)
    screen = Screen(as_json=as_json, has_content=output == "-")
    with Spool[FileObject]() as spool:
        found = Found(spool)
        async with connection.client(concurrency=concurrency, rpm=rpm) as files:
            await find(
                screen, files, ids or selection, found, concurrency=concurrency, fail_fast=fail_fast
            )
            is_over = fail_fast and bool(found.failures)
            count = len(ids) if is_over else found.sought
            telling = Telling(screen, _DOWNLOAD, count=count, journal=journal)
            for name, error in found.failures:
                await telling.tell_failure(name, error, attempts=1)
            if is_over:
                telling.end()
                return telling.status
            with screen.watching("downloaded", count=found.count, total=found.bytes) as watch:
                items = (DownloadItem(file, sha256=sha256) for file in spool)
                progress = telling.moved(watch)
                if is_directory:
                    manager = TransferManager(files, concurrency=concurrency, journal=journal)
                    outcomes = manager.download_all(
                        items,
                        output,
                        overwrite=overwrite,
                        resume=resume,
                        fail_fast=fail_fast,
                        progress=progress,
                    )
                elif output == "-":
                    outcomes = _single(items, partial(_print_content, files, screen), progress)
                else:
                    fetch = partial(_fetch, files, output, overwrite=overwrite, resume=resume)
                    outcomes = _single(items, fetch, progress)
                await telling.tell(outcomes, watch)
    telling.end()
    return telling.status


def _check_single(
    ids: list[str], output: str, sha256: str | None, journal: str | None, *, as_json: bool
) -> None:
    """Refuse what does not fit together.

    Raises:
        CycloptsError: It does not.
    """
    shown = printable(output)
    if output == "-" and as_json:
        raise CycloptsError(msg="--json and the content cannot both go to standard output")
    if output == "-" and sys.__stdout__ is None:
        raise CycloptsError(msg="standard output is closed, so the content cannot go there")
    if len(ids) == 1:
        if journal is not None:
            raise CycloptsError(msg=f"--journal is for directories; write {shown}{os.sep}")
        return
    if sha256 is not None:
        raise CycloptsError(msg="--sha256 is for a single file; give one id with it")
    if output == "-":
        raise CycloptsError(msg="--output - is for a single file; give one id with it")
    raise CycloptsError(
        msg=f"--output {shown} is no directory, which several files need;"
        f" write {shown}{os.sep} to have it made"
    )


_Fetch: TypeAlias = Callable[[DownloadItem, ProgressSink], Awaitable[DownloadedFile | None]]


async def _single(
    items: Iterable[DownloadItem],
    fetch: _Fetch,
    progress: Callable[[DownloadItem, Progress], object],
) -> AsyncGenerator[Outcome[DownloadItem, DownloadedFile], None]:
    """Yield the outcome of the one item there is, if it was found."""
    for item in items:
        sink = _Sink(partial(progress, item))
        try:
            done = await fetch(item, sink)
        except FilesError as error:
            yield Outcome(item, None, error, sink.attempt)
        else:
            yield Outcome(item, done, None, done.attempts if done else 1)


class _Sink:
    """Passes progress on, and keeps the number of the attempt, which an error does not say."""

    def __init__(self, sink: ProgressSink) -> None:
        self.attempt = 0
        self._sink = sink

    def __call__(self, progress: Progress) -> None:
        self.attempt = progress.attempt
        self._sink(progress)


async def _fetch(
    files: FilesClient,
    output: str,
    item: DownloadItem,
    sink: ProgressSink,
    *,
    overwrite: bool,
    resume: bool,
) -> DownloadedFile:
    return await files.download(
        item.file, output, overwrite=overwrite, resume=resume, sha256=item.sha256, progress=sink
    )


async def _print_content(
    files: FilesClient, screen: Screen, item: DownloadItem, sink: ProgressSink
) -> None:
    digest = hashlib.sha256()
    done = 0
    async with files.stream(item.file) as content:
        async for chunk in content:
            await screen.content(chunk)
            if item.sha256 is not None:
                digest.update(chunk)
            done += len(chunk)
            sink(Progress(done, _size(item), 1))
    if item.sha256 is not None and digest.hexdigest() != item.sha256.lower():
        name = printable(_id(item))
        msg = f"{name}: the content's sha256 is {digest.hexdigest()}, not {item.sha256}"
        raise IntegrityError(msg)


def _id(item: DownloadItem) -> str:
    return item.file if isinstance(item.file, str) else item.file.id


def _title(item: DownloadItem) -> str:
    return item.file if isinstance(item.file, str) else item.file.filename


def _size(item: DownloadItem) -> int | None:
    return None if isinstance(item.file, str) else item.file.bytes


def _result(outcome: Outcome[DownloadItem, DownloadedFile], done: DownloadedFile) -> Result:
    fields = (done.file_id, str(done.path))
    return Result(fields, json_line(done, attempts=outcome.attempts), size(done.bytes))


_DOWNLOAD: Operation[DownloadItem, DownloadedFile] = Operation(
    "downloaded", "id", name=_id, title=_title, size=_size, result=_result, advice=JOURNAL_ADVICE
)
