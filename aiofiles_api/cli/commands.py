"""The commands that only look: `list` and `info`.

What cyclopts makes of a signature is the command's interface: positional parameters come first,
keywords are options, and the docstring is the help.
"""

from __future__ import annotations

from contextlib import aclosing
from typing import Annotated, Literal

from cyclopts import Parameter, validators

from aiofiles_api import FileObject
from aiofiles_api.cli.connection import Connection
from aiofiles_api.cli.options import AsJson, Concurrency, Ids, Purpose
from aiofiles_api.cli.screen import Screen
from aiofiles_api.cli.selection import Found, find
from aiofiles_api.cli.spool import Spool, batches
from aiofiles_api.cli.text import complaint, failure_line, files_of, size

__all__ = ["info", "list_"]

_ENVIRONMENT = Connection()


async def list_(
    *,
    purpose: Purpose = None,
    order: Literal["asc", "desc"] = "desc",
    after: str | None = None,
    page_size: Annotated[
        int | None, Parameter(validator=validators.Number(gte=1, lte=10_000))
    ] = None,
    max_items: Annotated[int | None, Parameter(validator=validators.Number(gte=0))] = None,
    as_json: AsJson = False,
    connection: Connection = _ENVIRONMENT,
) -> int:
    """List files.

    To a pipe it prints lines of id, bytes, time of creation, purpose and filename, with tabs
    between them. A listing of any length is printed as it comes, and needs little memory.

    Args:
        purpose: Only files with this purpose.
        order: By time of creation: desc, the newest first, or asc.
        after: Begin behind the file with this id.
        page_size: How many to ask for at a time, from 1 to 10,000.
        max_items: Stop after so many.
        as_json: Print a line of JSON for each file.
        connection: Where.
    """
    screen = Screen(as_json=as_json)
    count = total = 0
    async with connection.client() as files:
        listing = files.list_pages(
            purpose=purpose, order=order, after=after, page_size=page_size, max_items=max_items
        )
        with (
            screen.told_if_interrupted(lambda: f"{files_of(count)} listed"),
            screen.waiting("asking for the first page") as stop_waiting,
        ):
            async with aclosing(listing) as pages:
                async for page in pages:
                    stop_waiting()
                    await screen.files(page.data)
                    count += len(page.data)
                    total += sum(file.bytes for file in page.data)
    screen.remark(f"{files_of(count)}, {size(total)}" if count else "no files")
    return 0


async def info(
    ids: Ids,
    /,
    *,
    concurrency: Concurrency = 8,
    as_json: AsJson = False,
    connection: Connection = _ENVIRONMENT,
) -> int:
    """Show what the server knows of files.

    Args:
        ids: Their ids.
        concurrency: How many to ask for at a time.
        as_json: Print a line of JSON for each file.
        connection: Where.
    """
    screen = Screen(as_json=as_json)
    with Spool[FileObject]() as spool:
        found = Found(spool)
        async with connection.client(concurrency=concurrency) as files:
            await find(screen, files, ids, found, concurrency=concurrency)
        async for batch in batches(spool):
            await screen.details(batch)
    for name, error in found.failures:
        await screen.failure(failure_line("id", name, error, 1))
        screen.complain(complaint(name, error))
    return 1 if found.failures else 0
