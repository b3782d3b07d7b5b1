"""`serve`: the emulator as a server of its own."""

from __future__ import annotations

import asyncio
import sys
from contextlib import suppress
from functools import partial
from typing import Annotated

from cyclopts import CycloptsError, Parameter, validators

from aiofiles_api import FilesError
from aiofiles_api.cli.screen import NAME
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

    try:
        wanted = () if faults is None else await in_thread(partial(load_faults, faults))
    except (OSError, FaultsFileError) as error:
        raise FilesError(f"cannot use the faults: {error}") from error
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
    try:
        async with emulator as server:
            key = "any" if api_key is None else "'the key that you chose'"
            sys.stdout.write(
                f"export OPENAI_BASE_URL={server.base_url}\nexport OPENAI_API_KEY={key}\n"
            )
            sys.stdout.flush()
            kept = "a temporary directory" if data_dir is None else data_dir
            sys.stderr.write(f"{NAME}: serving from {kept}; Ctrl-C stops it\n")
            await _until_cancelled()
    except (OSError, DataDirInUseError, sqlite3.Error) as error:
        where = f"cannot serve on {host} port {port}"
        kept = "" if data_dir is None else f" with --data-dir {data_dir}"
        raise FilesError(f"{where}{kept}: {error}") from error
    return 0


async def _until_cancelled() -> None:
    # For a server this is how it ends, and no failure.
    with suppress(asyncio.CancelledError):
        await asyncio.Event().wait()
