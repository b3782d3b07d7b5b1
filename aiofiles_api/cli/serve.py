"""`serve`: the emulator as a server of its own."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Iterator
from contextlib import AsyncExitStack, contextmanager, suppress
from functools import partial
from typing import Annotated

from cyclopts import CycloptsError, Parameter, validators

from aiofiles_api import FilesError
from aiofiles_api.cli.screen import Screen
from aiofiles_api.cli.text import printable
from aiofiles_api.cli.thread import in_thread

__all__ = ["serve"]


async def serve(
    *,
    host: str = "127.0.0.1",
    port: Annotated[int, Parameter(validator=validators.Number(gte=0, lte=65_535))] = 8787,
    data_dir: str | None = None,
    api_key: str | None = None,
    ranges: Annotated[bool, Parameter(negative="--no-ranges", show_default=False)] = True,
    requests_per_minute: Annotated[
        int | None, Parameter(validator=validators.Number(gte=1))
    ] = None,
    faults: str | None = None,
) -> int:
    """Serve an emulated Files API, for tests and for work offline.

    It runs until Ctrl-C, and prints the environment variables with which a client finds it, ready
    for a shell.

    Args:
        host: The address to listen on.
        port: The port; 0 takes a free one.
        data_dir: Where the files are kept. Default: a directory that is removed at the end.
        api_key: The one key to accept. Default: any.
        ranges: Whether downloads can be resumed, which is the default; many servers cannot.
        requests_per_minute: How many of each operation to allow; others are answered with 429.
        faults: A TOML file that says what shall go wrong, and when.
    """
    if data_dir == "":
        raise CycloptsError(msg="--data-dir is empty; give a directory, or leave it out")
    import sqlite3  # noqa: PLC0415 - see the next line

    from aiofiles_api.emulator import (  # noqa: PLC0415 - a slow import
        DataDirInUseError,
        Emulator,
        FaultsFileError,
        RateLimit,
        load_faults,
    )

    with _told("cannot use the faults", OSError, FaultsFileError):
        wanted = () if faults is None else await in_thread(partial(load_faults, faults))
    limit = None if requests_per_minute is None else RateLimit(requests_per_minute)
    emulator = Emulator(
        data_dir,
        api_key=api_key,
        host=host,
        port=port,
        ranges=ranges,
        faults=wanted,
        rate_limit=limit,
    )
    kept = "" if data_dir is None else f" with --data-dir {printable(data_dir)}"
    told = partial(
        _told,
        f"cannot serve on {host} port {port}{kept}",
        OSError,
        UnicodeError,  # the host is no name that can be looked up
        DataDirInUseError,
        sqlite3.Error,
    )
    async with AsyncExitStack() as stack:
        with told():
            server = await stack.enter_async_context(emulator)
        # Outside of that, because output that fails is no failure of the server.
        _announce(server.base_url, api_key, data_dir)
        await _until_cancelled()
        with told():
            await stack.aclose()
    return 0


@contextmanager
def _told(task: str, *kinds: type[Exception]) -> Iterator[None]:
    """Tell errors of some kinds as those of a task."""
    try:
        yield
    except kinds as error:
        raise FilesError(f"{task}: {error}") from error


def _announce(base_url: str, api_key: str | None, data_dir: str | None) -> None:
    key = "any" if api_key is None else "'the key that you chose'"
    sys.stdout.write(f"export OPENAI_BASE_URL={base_url}\nexport OPENAI_API_KEY={key}\n")
    sys.stdout.flush()
    kept = "a temporary directory" if data_dir is None else data_dir
    Screen().announce(f"serving from {kept}; Ctrl-C stops it")


async def _until_cancelled() -> None:
    # For a server this is how it ends, and no failure.
    with suppress(asyncio.CancelledError):
        await asyncio.Event().wait()
