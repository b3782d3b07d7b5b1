"""The commands for files: each reads its arguments, and leaves the work to the client.

What cyclopts makes of a signature is the command's interface: positional parameters come first,
keywords are options, and the docstring is the help.
"""

from __future__ import annotations

import hashlib
import io
import os
import re
import select
import stat
from collections.abc import AsyncGenerator, Iterable, Sequence
from contextlib import aclosing, suppress
from datetime import timedelta
from typing import Annotated, Literal, TypeAlias

import anyio
import attrs
from cyclopts import CycloptsError, Parameter, Token, validators

from aiofiles_api import (
    ExpiresAfter,
    FileObject,
    FilesClient,
    IntegrityError,
    Progress,
    ProgressSink,
)
from aiofiles_api.cli.batch import Batch, Item
from aiofiles_api.cli.connection import Connection
from aiofiles_api.cli.screen import Screen
from aiofiles_api.cli.text import Result, duration, json_line, size

__all__ = ["delete", "download", "info", "list_", "upload"]

_ENVIRONMENT = Connection()
_CHUNK = 1024 * 1024
_MOST_SHOWN = 20
_STDIN = 0
_PIPE_POLL = 100
"""Milliseconds for which a thread waits for a pipe before it looks whether it is still wanted."""


def _expiry(_: object, tokens: Iterable[Token]) -> timedelta:
    (token,) = tokens
    lifetime = duration(token.value)
    ExpiresAfter.of(lifetime)
    return lifetime


def _check_digest(_: object, digest: str | None) -> None:
    if digest is not None and not re.fullmatch("[0-9a-fA-F]{64}", digest):
        raise ValueError("It must be 64 hexadecimal digits.")


Ids: TypeAlias = Annotated[list[str], Parameter(name="ID")]
Concurrency: TypeAlias = Annotated[int, Parameter(validator=validators.Number(gte=1, lte=1000))]
Flag: TypeAlias = Annotated[bool, Parameter(show_default=False)]
AsJson: TypeAlias = Annotated[bool, Parameter(name="--json", show_default=False)]


async def upload(
    paths: Annotated[list[str], Parameter(name="PATH", allow_leading_hyphen=True)],
    /,
    *,
    purpose: Annotated[str, Parameter(alias="-p")],
    filename: str | None = None,
    expires_after: Annotated[timedelta | None, Parameter(converter=_expiry)] = None,
    concurrency: Concurrency = 8,
    as_json: AsJson = False,
    connection: Connection = _ENVIRONMENT,
) -> int:
    """Upload files, and print their ids.

    Args:
        paths: The files; - is standard input.
        purpose: What they are for: assistants, batch, evals, fine-tune, user_data, vision, or what
            else the server knows.
        filename: The name that the server shall give to a single file.
        expires_after: When the server shall delete them: seconds, or 45m, 12h, 30d; from an hour to
            30 days.
        concurrency: How many to send at a time.
        as_json: Print a line of JSON for each file.
        connection: Where to.
    """
    if filename is not None and len(paths) > 1:
        raise CycloptsError(msg="--filename is for a single file; give one path with it")
    if paths.count("-") > 1:
        raise CycloptsError(msg="standard input, -, can be uploaded only once")
    screen = Screen(as_json=as_json)
    batch = Batch(screen, "uploaded", concurrency=concurrency)
    sizes = await anyio.to_thread.run_sync(_sizes, paths)
    total = None if "-" in paths else sum(sizes.values())
    async with connection.client(concurrency=concurrency) as files:
        with screen.bars("uploaded", count=len(paths), total=total) as track:

            async def send(path: str) -> Result:
                with track(path, sizes.get(path)) as sink:
                    is_stdin = path == "-"
                    file = await files.upload(
                        _standard_input() if is_stdin else path,
                        purpose=purpose,
                        filename=filename or ("stdin" if is_stdin else None),
                        expires_after=expires_after,
                        progress=sink,
                    )
                return _as_it_is(file, path=path)

            await batch.run([Item(path, path) for path in paths], send)
    return batch.status


async def list_(
    *,
    purpose: Annotated[str | None, Parameter(alias="-p")] = None,
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
            screen.told_if_interrupted(lambda: f"{_files(count)} listed"),
            screen.waiting("asking for the first page") as stop_waiting,
        ):
            async with aclosing(listing) as pages:
                async for page in pages:
                    stop_waiting()
                    await screen.files(page.data)
                    count += len(page.data)
                    total += sum(file.bytes for file in page.data)
    screen.remark(f"{_files(count)}, {size(total)}" if count else "no files")
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
    asking = Batch(screen, "found", concurrency=concurrency)
    async with connection.client(concurrency=concurrency) as files:
        found = await asking.retrieve(files, ids)
    await screen.details(found)
    return asking.status


async def download(
    ids: Ids,
    /,
    *,
    output: Annotated[str, Parameter(alias="-o", allow_leading_hyphen=True)] = ".",
    overwrite: Annotated[bool, Parameter(negative="--no-overwrite", show_default=False)] = True,
    sha256: Annotated[str | None, Parameter(validator=_check_digest)] = None,
    concurrency: Concurrency = 8,
    as_json: AsJson = False,
    connection: Connection = _ENVIRONMENT,
) -> int:
    """Download files: each is there as a whole in the end, or not at all.

    Args:
        ids: Their ids.
        output: A directory, which gets the server's filenames made safe; DIR/ is made if need be.
            For a single file also the file's own path, or - for standard output.
        overwrite: Whether files that are there already are replaced, which is the default.
        sha256: The digest that a single file must have, in hex.
        concurrency: How many to fetch at a time.
        as_json: Print a line of JSON for each file.
        connection: Where from.
    """
    await _check_download(ids, output, sha256, as_json=as_json)
    screen = Screen(as_json=as_json)
    asking = Batch(screen, "found", concurrency=concurrency)
    batch = Batch(screen, "downloaded", concurrency=concurrency)
    async with connection.client(concurrency=concurrency) as files:
        named = with_distinct_names(await asking.retrieve(files, ids))
        total = sum(file.bytes for file in named)
        with screen.bars("downloaded", count=len(named), total=total) as track:

            async def fetch(file: FileObject) -> Result | None:
                with track(file.filename, file.bytes) as sink:
                    if output == "-":
                        await _print_content(files, file, screen, sha256, sink)
                        return None
                    done = await files.download(
                        file, output, overwrite=overwrite, sha256=sha256, progress=sink
                    )
                return Result((done.file_id, str(done.path)), json_line(done), size(done.bytes))

            await batch.run([Item(file.id, file) for file in named], fetch)
    return asking.status or batch.status


async def delete(
    ids: Ids,
    /,
    *,
    yes: Annotated[bool, Parameter(alias="-y", show_default=False)] = False,
    dry_run: Annotated[bool, Parameter(alias="-n", show_default=False)] = False,
    missing_ok: Flag = False,
    concurrency: Concurrency = 8,
    as_json: AsJson = False,
    connection: Connection = _ENVIRONMENT,
) -> int:
    """Delete files for ever; asks first.

    Args:
        ids: Their ids.
        yes: Do not ask.
        dry_run: Only show which files would be deleted.
        missing_ok: Do not mind files that are gone already.
        concurrency: How many to delete at a time.
        as_json: Print a line of JSON for each file.
        connection: Where.
    """
    screen = Screen(as_json=as_json)
    if not (yes or dry_run or screen.can_ask):
        raise CycloptsError(msg="nothing was deleted: there is no terminal to ask on; pass --yes")
    asking = Batch(screen, "found", concurrency=concurrency)
    batch = Batch(screen, "deleted", concurrency=concurrency)
    async with connection.client(concurrency=concurrency) as files:
        if dry_run or not yes:
            found = await asking.retrieve(files, ids, missing_ok=missing_ok)
            if dry_run:
                for file in found:
                    await screen.result(_as_it_is(file))
                screen.remark(f"{_files(len(found))} would be deleted")
                return asking.status
            if not await _is_confirmed(screen, found):
                screen.complain("nothing was deleted")
                return 1
            ids = [file.id for file in found]

        async def remove(identifier: str) -> Result:
            gone = await files.delete(identifier, missing_ok=missing_ok)
            return Result((gone.id, "deleted" if gone.deleted else "missing"), json_line(gone))

        with screen.waiting("deleting"):
            await batch.run([Item(each, each) for each in dict.fromkeys(ids)], remove)
    return asking.status or batch.status


def with_distinct_names(files: Iterable[FileObject]) -> list[FileObject]:
    """Put the id into the names of files that would replace one another in a directory.

    What counts as the same name is more than what is: directories, case and all but letters and
    digits are left out, because the client makes names safe, and file systems differ.
    """
    taken: set[bytes] = set()
    distinct: list[FileObject] = []
    for file in files:
        key = _name_key(file.filename)
        distinct.append(_with_id(file) if key in taken else file)
        taken.add(key)
    return distinct


def _with_id(file: FileObject) -> FileObject:
    stem, extension = os.path.splitext(file.filename)
    return attrs.evolve(file, filename=f"{stem}-{file.id}{extension}")


def _name_key(filename: str) -> bytes:
    name = re.split(r"[/\\]", filename)[-1].casefold()
    # Long names may have to be cut; their beginnings decide.
    return re.sub(r"[\W_]+", "_", name).strip("_").encode(errors="replace")[:200]


async def _check_download(
    ids: list[str], output: str, sha256: str | None, *, as_json: bool
) -> None:
    """Refuse what does not fit together.

    Raises:
        CycloptsError: It does not.
    """
    if output == "-" and as_json:
        raise CycloptsError(msg="--json and the content cannot both go to standard output")
    if len(set(ids)) == 1:
        return
    if sha256 is not None:
        raise CycloptsError(msg="--sha256 is for a single file; give one id with it")
    is_directory = output.endswith(os.sep) or await anyio.Path(output).is_dir()
    if not is_directory:
        raise CycloptsError(
            msg=f"--output {output} is no directory, which several files need;"
            f" write {output}{os.sep} to have it made"
        )


async def _print_content(
    files: FilesClient,
    file: FileObject,
    screen: Screen,
    sha256: str | None,
    sink: ProgressSink | None,
) -> None:
    digest = hashlib.sha256()
    done = 0
    async with files.stream(file) as content:
        async for chunk in content:
            await screen.content(chunk)
            if sha256 is not None:
                digest.update(chunk)
            done += len(chunk)
            if sink is not None:
                sink(Progress(done, file.bytes, 1))
    if sha256 is not None and digest.hexdigest() != sha256.lower():
        msg = f"{file.id}: the content's sha256 is {digest.hexdigest()}, not {sha256}"
        raise IntegrityError(msg)


async def _is_confirmed(screen: Screen, files: Sequence[FileObject]) -> bool:
    if not files:
        return False
    lines = [f"{file.id}  {file.filename}  {size(file.bytes)}" for file in files[:_MOST_SHOWN]]
    if len(files) > _MOST_SHOWN:
        lines.append(f"and {len(files) - _MOST_SHOWN:,} more")
    with screen.told_if_interrupted(lambda: "nothing was deleted"):
        return await screen.ask(lines, f"Delete {_files(len(files))} for ever?")


def _as_it_is(file: FileObject, **more: object) -> Result:
    return Result((file.id, file.filename), json_line(file, **more), size(file.bytes))


def _files(count: int) -> str:
    return "1 file" if count == 1 else f"{count:,} files"


def _sizes(paths: Iterable[str]) -> dict[str, int]:
    """Look how long files are; what is wrong with the others, the client will say."""
    sizes: dict[str, int] = {}
    for path in paths:
        with suppress(OSError, ValueError):
            sizes[path] = os.stat(path).st_size
    return sizes


def _standard_input() -> io.FileIO | AsyncGenerator[bytes, None]:
    """Return standard input as a file that can be read again, if it is one, or else as it comes."""
    if stat.S_ISREG(os.fstat(_STDIN).st_mode):
        return io.FileIO(_STDIN, closefd=False)
    return _piped_chunks()


async def _piped_chunks() -> AsyncGenerator[bytes, None]:
    while (chunk := await anyio.to_thread.run_sync(_read_piped)) != b"":
        if chunk is not None:
            yield chunk


def _read_piped() -> bytes | None:
    """Return what came, nothing at the end, or `None` while nothing comes."""
    poller = select.poll()
    poller.register(_STDIN, select.POLLIN)
    return os.read(_STDIN, _CHUNK) if poller.poll(_PIPE_POLL) else None
