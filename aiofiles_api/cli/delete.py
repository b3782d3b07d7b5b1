"""`delete`: files by their ids, or all that fit; it asks first."""

from __future__ import annotations

from typing import Annotated

from cyclopts import CycloptsError, Parameter

from aiofiles_api import DeletedFile, FileObject, Outcome, TransferManager
from aiofiles_api.cli.connection import Connection
from aiofiles_api.cli.options import (
    Age,
    AsJson,
    Concurrency,
    DryRun,
    Flag,
    Purpose,
    RequestsPerMinute,
)
from aiofiles_api.cli.outcomes import Operation, Telling
from aiofiles_api.cli.screen import Screen
from aiofiles_api.cli.selection import MOST_SHOWN, Found, Selection, find
from aiofiles_api.cli.spool import Spool, batches
from aiofiles_api.cli.text import Result, files_of, json_line, size

__all__ = ["delete"]

_ENVIRONMENT = Connection()


async def delete(
    ids: Annotated[list[str] | None, Parameter(name="ID")] = None,
    /,
    *,
    all_: Annotated[bool, Parameter(name="--all", show_default=False)] = False,
    purpose: Purpose = None,
    filename: str | None = None,
    newer_than: Age = None,
    older_than: Age = None,
    yes: Annotated[bool, Parameter(alias="-y", show_default=False)] = False,
    dry_run: DryRun = False,
    missing_ok: Flag = False,
    concurrency: Concurrency = 8,
    rpm: RequestsPerMinute = None,
    fail_fast: Flag = False,
    as_json: AsJson = False,
    connection: Connection = _ENVIRONMENT,
) -> int:
    """Delete files for ever; asks first.

    Args:
        ids: Their ids.
        all_: All files.
        purpose: All files with this purpose; with the next three, those that fit all of them.
        filename: All files whose name this glob fits.
        newer_than: All files created since then: seconds ago, or 45m, 12h, 30d.
        older_than: All files created before then.
        yes: Do not ask.
        dry_run: Only show which files would be deleted.
        missing_ok: Do not mind files that are gone already.
        concurrency: How many to delete at a time.
        rpm: How many requests to make in a minute at most.
        fail_fast: Stop at the first failure.
        as_json: Print a line of JSON for each file.
        connection: Where.
    """
    ids = list(dict.fromkeys(ids or ()))
    selection = Selection(purpose, filename, newer_than, older_than)
    selection.check(ids, is_all=all_ or selection != Selection())
    screen = Screen(as_json=as_json)
    if not (yes or dry_run or screen.can_ask):
        raise CycloptsError(msg="nothing was deleted: there is no terminal to ask on; pass --yes")
    with Spool[FileObject]() as spool:
        found = Found(spool)
        async with connection.client(concurrency=concurrency, rpm=rpm) as files:
            # Ids need not be looked up where nobody wants to see what they stand for.
            is_known = bool(ids) and yes and not dry_run
            if not is_known:
                await find(
                    screen,
                    files,
                    ids or selection,
                    found,
                    concurrency=concurrency,
                    missing_ok=missing_ok,
                    fail_fast=fail_fast,
                )
            is_over = fail_fast and bool(found.failures)
            count = len(ids) if is_known or is_over else found.sought
            telling = Telling(screen, _DELETION, count=count)
            for name, error in found.failures:
                await telling.tell_failure(name, error, attempts=1)
            if is_over:
                telling.end()
                return telling.status
            if dry_run:
                await _show(screen, found)
                telling.end()
                return telling.status
            if not yes and not found.count:
                telling.end()
                screen.complain("no file was found, so nothing was deleted")
                return telling.status
            if not (yes or await _is_confirmed(screen, found)):
                telling.end()
                screen.complain("nothing was deleted")
                return 1
            with screen.watching("deleted", count=count, total=None) as watch:
                items = ids if is_known else spool
                manager = TransferManager(files, concurrency=concurrency)
                outcomes = manager.delete_all(items, missing_ok=missing_ok, fail_fast=fail_fast)
                await telling.tell(outcomes, watch)
    telling.end()
    return telling.status


async def _show(screen: Screen, found: Found) -> None:
    async for batch in batches(found.files):
        for file in batch:
            fields = (file.id, file.filename)
            await screen.result(Result(fields, json_line(file), size(file.bytes), is_done=False))
    screen.remark(f"{files_of(found.count)}, {size(found.bytes)}, would be deleted")


async def _is_confirmed(screen: Screen, found: Found) -> bool:
    lines = [f"{file.id}  {file.filename}  {size(file.bytes)}" for file in found.first]
    if found.count > MOST_SHOWN:
        lines.append(f"and {found.count - MOST_SHOWN:,} more")
    with screen.told_if_interrupted(lambda: "nothing was deleted"):
        what = f"{files_of(found.count)}, {size(found.bytes)},"
        return await screen.ask(lines, f"Delete {what} for ever?")


def _id(item: str | FileObject) -> str:
    return item if isinstance(item, str) else item.id


def _size(item: str | FileObject) -> int | None:
    return None if isinstance(item, str) else item.bytes


def _result(outcome: Outcome[str | FileObject, DeletedFile], gone: DeletedFile) -> Result:
    fields = (gone.id, "deleted" if gone.deleted else "missing")
    return Result(fields, json_line(gone, attempts=outcome.attempts))


_DELETION: Operation[str | FileObject, DeletedFile] = Operation(
    "deleted",
    "id",
    name=_id,
    title=_id,
    size=_size,
    result=_result,
    advice="run it again to try them again",
)
