"""The same jobs over the same bad network, by this client and by openai-python.

    python -m benchmarks.campaign            # 2,000 downloads and 1,000 uploads each
    python -m benchmarks.campaign --quick    # a hundredth of it, to see that it runs

Of ten connections three fail while files are fetched (refused, cut and reset in either direction,
stalled, answered with HTML or noise); while files are sent, two lose the reply after the file was
stored and two the body. What counts is what is there in the end.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import random
import tempfile
import time
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

import aiohttp
import anyio
import openai

from aiofiles_api import FileObject, FilesClient, RetryPolicy, Timeouts
from aiofiles_api.emulator import Emulator
from benchmarks.bad_network import Proxy, fates_of_downloads, fates_of_uploads, proxied

_KEY = "sk-campaign"
_TASKS = 16
_SILENCE = 2.0
"""Seconds of silence that both clients bear, so that a stalled connection does not take minutes."""


@asynccontextmanager
async def ours(base_url: str) -> AsyncIterator[FilesClient]:
    """Give our client with its default policy, and a connection for each request."""
    connector = aiohttp.TCPConnector(force_close=True)
    timeouts = Timeouts(read=_SILENCE, write=_SILENCE, reply=10 * _SILENCE)
    async with FilesClient(
        base_url=base_url,
        api_key=_KEY,
        retry=RetryPolicy(deadline=300),
        timeouts=timeouts,
        connector=connector,
    ) as files:
        yield files
    await connector.close()


@asynccontextmanager
async def theirs(base_url: str) -> AsyncIterator[openai.AsyncOpenAI]:
    """Give openai-python's client with its default retries, and a connection for each request."""
    async with openai.AsyncOpenAI(
        base_url=base_url, api_key=_KEY, timeout=_SILENCE, default_headers={"Connection": "close"}
    ) as client:
        yield client


Fetch = Callable[[FileObject, Path], Awaitable[object]]
Send = Callable[[Path], Awaitable[str]]


async def fetch_all(
    fetch: Fetch, stored: Mapping[str, FileObject], originals: Path, directory: Path
) -> Counter[str]:
    """Fetch every file, and count what is at the destinations in the end."""
    outcome: Counter[str] = Counter()
    limiter = anyio.CapacityLimiter(_TASKS)

    async def one(name: str, file: FileObject) -> None:
        async with limiter:
            try:
                await fetch(file, directory / name)
            except Exception:  # noqa: BLE001 - whatever it is, it is a failure
                outcome["failed with an error"] += 1
                outcome["half a file at the destination"] += (directory / name).exists()
                return
        is_same = (directory / name).read_bytes() == (originals / name).read_bytes()
        outcome["right" if is_same else "wrong, and no error"] += 1

    async with anyio.create_task_group() as group:
        for name, file in stored.items():
            group.start_soon(one, name, file)
    outcome["stray files"] = len(set(os.listdir(directory)) - set(stored))
    return outcome


async def send_all(send: Send, paths: Sequence[Path], direct: FilesClient) -> Counter[str]:
    """Send every file, and count what is on the server in the end."""
    outcome: Counter[str] = Counter()
    limiter = anyio.CapacityLimiter(_TASKS)
    wanted = Counter(path.read_bytes() for path in paths)

    async def one(path: Path) -> None:
        async with limiter:
            try:
                await send(path)
            except Exception:  # noqa: BLE001 - whatever it is, it is a failure
                outcome["failed with an error"] += 1

    async with anyio.create_task_group() as group:
        for path in paths:
            group.start_soon(one, path)
    there: Counter[bytes] = Counter()
    async for file in direct.list():
        there[await direct.read(file)] += 1
        await direct.delete(file)
    outcome["there exactly once"] = sum(there[content] == 1 for content in wanted)
    outcome["there more than once"] = sum(there[content] > 1 for content in wanted)
    outcome["missing"] = sum(there[content] == 0 for content in wanted)
    return outcome


async def downloads(count: int, seed: int) -> None:
    """Fetch files of 1 byte to 8 MB."""
    dice = random.Random(seed)
    with tempfile.TemporaryDirectory() as folder:
        originals = Path(folder, "originals")
        originals.mkdir()
        async with (
            Emulator() as server,
            FilesClient(base_url=server.base_url, api_key=_KEY) as direct,
        ):
            stored: dict[str, FileObject] = {}
            for number in range(count):
                path = originals / str(number)
                path.write_bytes(os.urandom(int(10 ** dice.uniform(0, 6.9))))
                stored[path.name] = await direct.upload(path, purpose="user_data")
            draw = fates_of_downloads(random.Random(seed))
            async with proxied(server.base_url, draw) as (proxy, base_url), ours(base_url) as files:

                async def fetch_ours(file: FileObject, path: Path) -> None:
                    await files.download(file, path)

                await report(
                    "aiofiles_api",
                    proxy,
                    fetch_all(fetch_ours, stored, originals, made(folder, "ours")),
                )
            draw = fates_of_downloads(random.Random(seed))
            async with (
                proxied(server.base_url, draw) as (proxy, base_url),
                theirs(base_url) as client,
            ):

                async def fetch_theirs(file: FileObject, path: Path) -> None:
                    streaming = client.files.with_streaming_response
                    async with streaming.content(file.id) as response:
                        await response.stream_to_file(path)

                await report(
                    "openai-python",
                    proxy,
                    fetch_all(fetch_theirs, stored, originals, made(folder, "theirs")),
                )


async def uploads(count: int, seed: int) -> None:
    """Send files of a few lengths, all of different contents, many at a time."""
    dice = random.Random(seed)
    with tempfile.TemporaryDirectory() as folder:
        paths = [Path(folder, str(number)) for number in range(count)]
        for path in paths:
            path.write_bytes(os.urandom(dice.choice([4_000, 20_000, 20_001, 300_000])))
        async with (
            Emulator() as server,
            FilesClient(base_url=server.base_url, api_key=_KEY) as direct,
        ):
            draw = fates_of_uploads(random.Random(seed))
            async with proxied(server.base_url, draw) as (proxy, base_url), ours(base_url) as files:

                async def send_ours(path: Path) -> str:
                    file = await files.upload(path, purpose="user_data", filename="same")
                    return file.id

                await report("aiofiles_api", proxy, send_all(send_ours, paths, direct))
            draw = fates_of_uploads(random.Random(seed))
            async with (
                proxied(server.base_url, draw) as (proxy, base_url),
                theirs(base_url) as client,
            ):

                async def send_theirs(path: Path) -> str:
                    file = await client.files.create(file=path, purpose="user_data")
                    return file.id

                await report("openai-python", proxy, send_all(send_theirs, paths, direct))


def made(folder: str, name: str) -> Path:
    """Return a new directory."""
    path = Path(folder, name)
    path.mkdir()
    return path


async def report(who: str, proxy: Proxy, job: Awaitable[Counter[str]]) -> None:
    """Run a job and print a line for each kind of outcome."""
    began = time.monotonic()
    outcome = await job
    faults = sum(fate.kind != "none" for fate in proxy.fates)
    print(f"  {who}: {len(proxy.fates)} connections, {faults} of them bad,", end=" ")
    print(f"{time.monotonic() - began:.0f} s")
    for what, number in outcome.items():
        print(f"    {number:6,} {what}")


async def main() -> None:
    """Run both campaigns."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0] if __doc__ else None)
    parser.add_argument("--quick", action="store_true", help="a hundredth of the full size")
    parser.add_argument("--seed", type=int, default=7)
    arguments = parser.parse_args()
    scale = 100 if arguments.quick else 1
    print(f"{2_000 // scale:,} downloads of 1 byte to 8 MB, seed {arguments.seed}")
    await downloads(2_000 // scale, arguments.seed)
    print(f"{1_000 // scale:,} uploads, seed {arguments.seed}")
    await uploads(1_000 // scale, arguments.seed)


if __name__ == "__main__":
    asyncio.run(main())
