"""`upload`: files and directories of any number, checked before the first of them is sent."""

from __future__ import annotations

import json
import time
from collections.abc import Iterable, Iterator
from functools import partial
from typing import Annotated

import anyio
from cyclopts import CycloptsError, Parameter, Token

from aiofiles_api import FileObject, FilesClient, Outcome, TransferManager
from aiofiles_api.cli import standard_input
from aiofiles_api.cli.connection import Connection
from aiofiles_api.cli.existing import Existing
from aiofiles_api.cli.gathering import Gathering, Local, Wanted, read_list
from aiofiles_api.cli.options import (
    AsJson,
    Concurrency,
    DryRun,
    Flag,
    Globs,
    Lifetime,
    RequestsPerMinute,
)
from aiofiles_api.cli.outcomes import JOURNAL_ADVICE, Operation, Telling
from aiofiles_api.cli.preflight import CHECKS, Check
from aiofiles_api.cli.screen import Screen
from aiofiles_api.cli.spool import Spool, batches
from aiofiles_api.cli.text import Result, files_of, json_line, printable, size
from aiofiles_api.cli.thread import in_thread

__all__ = ["upload"]

_ENVIRONMENT = Connection()
_HOP = 0.05
"""Seconds for which a thread works before it looks whether it is still wanted."""


def _checks(_: object, tokens: Iterable[Token]) -> frozenset[Check]:
    names = {name.strip() for token in tokens for name in token.value.split(",")}
    if "all" in names:
        return CHECKS
    unknown = sorted(names - CHECKS)
    if unknown:
        raise ValueError(f"there is no check {unknown[0]!r}, but all, {', '.join(sorted(CHECKS))}")
    return frozenset(check for check in CHECKS if check in names)


async def upload(
    paths: Annotated[list[str], Parameter(name="PATH", allow_leading_hyphen=True)],
    /,
    *,
    purpose: Annotated[str, Parameter(alias="-p")],
    filename: str | None = None,
    expires_after: Lifetime = None,
    recursive: Annotated[bool, Parameter(alias="-r", show_default=False)] = False,
    include: Globs = (),
    exclude: Globs = (),
    null: Annotated[bool, Parameter(alias="-0", show_default=False)] = False,
    no_check: Annotated[
        frozenset[Check], Parameter(converter=_checks, show_default=False, n_tokens=1)
    ] = frozenset(),
    skip_existing: Flag = False,
    dry_run: DryRun = False,
    journal: str | None = None,
    concurrency: Concurrency = 8,
    rpm: RequestsPerMinute = None,
    fail_fast: Flag = False,
    as_json: AsJson = False,
    connection: Connection = _ENVIRONMENT,
) -> int:
    """Upload files, and print their ids.

    Everything is found and checked before the first file is sent: files that are empty, over 512 MB
    (200 MB for batch), not called .jsonl for batch or fine-tune, or with a line that is not JSON.

    Args:
        paths: Files, and directories with --recursive; - reads a list of them from standard input.
            With --filename, - is the content itself; of a pipe only name and emptiness are checked.
        purpose: What they are for: assistants, batch, evals, fine-tune, user_data, vision, or what
            else the server knows.
        filename: The name that the server shall give to a single file.
        expires_after: When the server shall delete them: seconds, or 45m, 12h, 30d; from an hour to
            30 days.
        recursive: Send the files in directories too, in all of them below.
        include: Of the files in directories, only those whose name this glob fits; with a slash in
            it, whose path below the directory. May be given several times.
        exclude: Leave out files and directories that this glob fits, as above; only directories if
            it ends with a slash.
        null: The list on standard input has NUL between the paths instead of line breaks.
        no_check: Checks to leave out, for servers with other limits: all, or some of empty, size,
            suffix, json, with commas between them.
        skip_existing: Leave out files that the server has: with the same name, size and, if it
            lets contents be read, sha256.
        dry_run: Only find, check and show the files.
        journal: A file that keeps what is done: after a crash or Ctrl-C, the same command goes on
            where it was.
        concurrency: How many to send at a time.
        rpm: How many requests to make in a minute at most; OpenAI allows 1000 uploads.
        fail_fast: Stop at the first failure.
        as_json: Print a line of JSON for each file.
        connection: Where to.
    """
    await _check_arguments(paths, filename)
    is_content = paths == ["-"] and filename is not None
    if is_content and (skip_existing or dry_run or journal is not None):
        msg = "--skip-existing, --dry-run and --journal are for files, not for content from -"
        raise CycloptsError(msg=msg)
    screen = Screen(as_json=as_json)
    with Spool[Local]() as found:
        checks = CHECKS - no_check
        wanted = Wanted(purpose, filename, recursive, include, exclude, checks, journal)
        gathering = Gathering(wanted, found)
        content = standard_input.Content()
        if is_content:
            await _gather(screen, gathering.look_at_content(content))
        else:
            listed = _paths(paths, b"\0" if null else b"\n")
            await _gather(screen, gathering.steps(listed))
            if filename is not None and found.count > 1:
                msg = f"--filename is for a single file, and these are {found.count:,}"
                raise CycloptsError(msg=msg)
            if not found.count and not gathering.count_of_problems:
                screen.complain("no file was found")
        if gathering.count_of_problems:
            return _refuse(screen, gathering)
        if dry_run:
            return await _show(screen, found, gathering.bytes)
        items: Iterable[Local] = found
        if is_content:
            items = [Local(content.source(), filename, path="-", size=content.size)]
        count = 1 if is_content else found.count
        telling = Telling(screen, _UPLOAD, count=count, journal=journal)
        async with connection.client(concurrency=concurrency, rpm=rpm) as files:
            existing = None
            if skip_existing:
                existing = await _existing(files, screen, purpose, concurrency)
            with screen.watching("uploaded", count=count, total=gathering.bytes) as watch:
                manager = TransferManager(files, concurrency=concurrency, journal=journal)
                left_out = partial(telling.tell_existing, watch=watch)
                outcomes = manager.upload_all(
                    existing.leave_out(items, left_out) if existing else items,
                    purpose=purpose,
                    expires_after=expires_after,
                    fail_fast=fail_fast,
                    progress=telling.moved(watch),
                )
                await telling.tell(outcomes, watch)
        telling.end()
    return telling.status


async def _check_arguments(paths: list[str], filename: str | None) -> None:
    """Refuse what does not fit together.

    Raises:
        CycloptsError: It does not.
    """
    if not filename and filename is not None:
        raise CycloptsError(msg="--filename is empty; give a name, or leave it out")
    if filename is not None and len(paths) > 1:
        raise CycloptsError(msg="--filename is for a single file; give one path with it")
    if paths.count("-") > 1:
        raise CycloptsError(msg="standard input, -, can be read only once")
    for path in paths:
        if path.startswith("--") and not await anyio.Path(path).exists():
            shown = printable(path)
            raise CycloptsError(msg=f"there is no option {shown}; for a file, write ./{shown}")


def _paths(paths: Iterable[str], separator: bytes) -> Iterator[str | None]:
    for path in paths:
        if path == "-":
            yield from read_list(standard_input.chunks(), separator)
        else:
            yield path


async def _gather(screen: Screen, steps: Iterator[None]) -> None:
    with (
        screen.told_if_interrupted(lambda: "nothing was sent"),
        screen.waiting("looking at the files"),
    ):
        while await in_thread(partial(_advance, steps)):
            pass


def _advance(steps: Iterator[None]) -> bool:
    """Take steps for a while; return whether there may be more."""
    until = time.monotonic() + _HOP
    return any(time.monotonic() >= until for _ in steps)


def _refuse(screen: Screen, gathering: Gathering) -> int:
    for problem in gathering.problems:
        screen.complain(problem)
    more = gathering.count_of_problems - len(gathering.problems)
    if more:
        screen.complain(f"and {more:,} more")
    remedy = "nothing was sent; mend or leave out these files"
    if gathering.refused_by:
        names = ",".join(sorted(gathering.refused_by))
        remedy += f" (or add --no-check {names}, where the server has other limits)"
    screen.complain(remedy)
    return 1


async def _existing(files: FilesClient, screen: Screen, purpose: str, concurrency: int) -> Existing:
    existing = Existing(files, concurrency=concurrency)
    with screen.waiting("asking what the server has"):
        await existing.look(purpose)
    return existing


async def _show(screen: Screen, found: Spool[Local], total: int) -> int:
    async for batch in batches(found):
        for file in batch:
            fields = (file.path, str(file.size))
            await screen.result(Result(fields, _local_json(file), is_done=False))
    screen.remark(f"{files_of(found.count)}, {size(total)}, would be uploaded")
    return 0


def _local_json(file: Local) -> str:
    return json.dumps({"path": file.path, "bytes": file.size, "filename": file.sent_as})


def _result(outcome: Outcome[Local, FileObject], file: FileObject) -> Result:
    line = json_line(file, path=outcome.item.path, attempts=outcome.attempts)
    return Result((file.id, file.filename), line, size(file.bytes))


_UPLOAD: Operation[Local, FileObject] = Operation(
    "uploaded",
    "path",
    name=lambda item: item.path,
    title=lambda item: item.filename or item.path,
    size=lambda item: item.size,
    result=_result,
    advice=JOURNAL_ADVICE,
)
