"""A bulk upload that is killed again and again: in the end every file is there exactly once.

    python -m benchmarks.killed            # 20,000 files of 4 KB, 20 kills
    python -m benchmarks.killed --quick    # 400 files, 4 kills

The server, and each run of the client, are processes of their own. A run is killed with SIGKILL;
the next one begins with the journal that it has left. Most kills come a little after a random
number of outcomes, each at a greater one than the last; the others while a run starts and looks for
what the one before it had begun. How fast the machine is does not matter: a run that is to be
killed takes no outcome more, and has only what was pulled ahead to work on, until the kill comes.
At the end the files on the server are read, and held against the sources and the journal.
"""

from __future__ import annotations

import argparse
import asyncio
import hashlib
import os
import random
import signal
import sys
import tempfile
import time
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path

import anyio
import attrs
from anyio.abc import Process

from aiofiles_api import FilesClient, TransferManager, read_journal

_KEY = "sk-killed"
_CONCURRENCY = 32
_SIZE = 4096

_LONGEST_START = 2.0
"""Seconds in which a run starts, and mostly still looks for what was begun (up to 4 s)."""

_LONGEST_WORK = 0.05
"""Seconds in which a run that takes no more outcomes still has something to do."""


@attrs.frozen
class Kill:
    """When a run is killed.

    Attributes:
        outcomes: The outcomes that it takes before; 0 for a kill at its start.
        seconds: The time from then on, or from the start.
    """

    outcomes: int
    seconds: float


def plan(count: int, kills: int, dice: random.Random) -> list[Kill]:
    """Choose when so many runs are killed: a quarter at their start, but not the first one."""
    starts = kills // 4
    most = count - 2 * _CONCURRENCY  # more than are pulled ahead, so that the last run has work
    progress = sorted(dice.sample(range(1, most), kills - starts))
    chosen = [Kill(outcomes, dice.uniform(0, _LONGEST_WORK)) for outcomes in progress]
    for _ in range(starts):
        kill = Kill(0, dice.uniform(0, _LONGEST_START))
        chosen.insert(dice.randint(1, len(chosen)), kill)
    return chosen


@asynccontextmanager
async def server(folder: Path) -> AsyncIterator[str]:
    """Serve the emulator in a process of its own, and give its address."""
    command = [sys.executable, "-m", "benchmarks.killed", "--serve", str(folder)]
    async with await anyio.open_process(command, stderr=None) as process:
        base_url = await first_line(process)
        try:
            yield base_url
        finally:
            process.terminate()


async def first_line(process: Process) -> str:
    """Return the first line that a process prints."""
    text = b""
    while not text.endswith(b"\n"):
        if process.stdout is None:
            break
        text += await process.stdout.receive()
    return text.decode().strip()


async def serve(folder: str) -> None:
    """Be the server until somebody ends it."""
    from aiofiles_api.emulator import Emulator  # noqa: PLC0415 - only the server's process needs it

    async with Emulator(folder, api_key=_KEY) as emulator:
        print(emulator.base_url, flush=True)
        await asyncio.Event().wait()


async def upload(base_url: str, folder: str, journal: str, most: str) -> None:
    """Be one run: upload all that is in a folder, or take so many outcomes and wait for the end."""
    sources: Iterator[str] = (entry.path for entry in os.scandir(folder))
    taken = 0
    async with FilesClient(base_url=base_url, api_key=_KEY) as files:
        manager = TransferManager(files, concurrency=_CONCURRENCY, journal=journal)
        async for outcome in manager.upload_all(sources, purpose="user_data"):
            if outcome.error is not None:
                raise outcome.error
            taken += 1
            if taken >= int(most):
                print(taken, flush=True)
                await asyncio.Event().wait()


async def run(base_url: str, folder: Path, journal: Path, kill: Kill | None) -> None:
    """Start a run and kill it when it is time, or let it come to its end."""
    most = sys.maxsize if kill is None else kill.outcomes
    arguments = ["--upload", base_url, str(folder), str(journal), str(most)]
    command = [sys.executable, "-m", "benchmarks.killed", *arguments]
    async with await anyio.open_process(command, stderr=None) as process:
        if kill is not None:
            if kill.outcomes:
                await first_line(process)
            await anyio.sleep(kill.seconds)
            process.send_signal(signal.SIGKILL)
        if await process.wait() != (0 if kill is None else -signal.SIGKILL):
            raise SystemExit("a run has failed")


async def audit(base_url: str, folder: Path, journal: Path) -> bool:
    """Hold the server's files against the sources and the journal; print what is found."""
    wanted = Counter(hashlib.sha256(path.read_bytes()).digest() for path in folder.iterdir())
    there: Counter[bytes] = Counter()
    ids: dict[str, bytes] = {}
    async with FilesClient(base_url=base_url, api_key=_KEY) as files:
        async for file in files.list():
            ids[file.id] = hashlib.sha256(await files.read(file)).digest()
            there[ids[file.id]] += 1
    is_agreed = True
    recorded: set[str | None] = set()
    async for entry in read_journal(journal):
        digest = hashlib.sha256(Path(entry.key).read_bytes()).digest()
        is_agreed &= entry.state == "done" and ids.get(entry.file_id or "") == digest
        recorded.add(entry.file_id)
    missing, surplus = wanted - there, there - wanted
    print(f"  {there.total():,} files on the server")
    print(f"  {missing.total():,} missing, {surplus.total():,} too many or of wrong content")
    is_agreed &= recorded == set(ids)
    print(f"  the journal and the server {'agree' if is_agreed else 'DISAGREE'}")
    return is_agreed and not missing and not surplus


async def campaign(count: int, kills: int, seed: int) -> bool:
    """Run it all, and return whether everything is right."""
    dice = random.Random(seed)
    with tempfile.TemporaryDirectory() as name:
        folder, journal = Path(name, "sources"), Path(name, "journal")
        folder.mkdir()
        for number in range(count):
            # One in ten has the content of another, under another name.
            content = b"%020d" % (number // 2 if number % 20 == 1 else number)
            (folder / f"{number}.bin").write_bytes(content * (_SIZE // len(content)))
        async with server(Path(name, "data")) as base_url:
            began = time.monotonic()
            chosen = plan(count, kills, dice)
            for kill in chosen:
                await run(base_url, folder, journal, kill)
            await run(base_url, folder, journal, None)
            starts = sum(not kill.outcomes for kill in chosen)
            seconds = time.monotonic() - began
            print(f"  {len(chosen)} kills, {starts} of them at a start, {seconds:.0f} s")
            return await audit(base_url, folder, journal)


def main() -> None:
    """Run the campaign, or be one of its processes."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0] if __doc__ else None)
    parser.add_argument("--quick", action="store_true", help="400 files and 4 kills")
    parser.add_argument("--seed", type=int, default=7)
    parser.add_argument("--serve", metavar="FOLDER", help=argparse.SUPPRESS)
    parser.add_argument("--upload", nargs=4, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.serve:
        asyncio.run(serve(arguments.serve))
    elif arguments.upload:
        asyncio.run(upload(*arguments.upload))
    else:
        count, kills = (400, 4) if arguments.quick else (20_000, 20)
        print(f"{count:,} uploads of 4 KB, {kills} kills, seed {arguments.seed}")
        sys.exit(0 if asyncio.run(campaign(count, kills, arguments.seed)) else 1)


if __name__ == "__main__":
    main()
