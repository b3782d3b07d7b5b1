"""A batch round trip: upload many request files, wait until they are processed, fetch results.

    python examples/batch_round_trip.py work/ [1000]

With OPENAI_API_KEY and OPENAI_BASE_URL it runs against that server; without a base URL it starts
the embedded one, which has another address each time, so that the journal of the time before does
not speak of it. What stands in for the batches' results here are the files themselves: where a
batch endpoint is there, its `output_file_id`s are what is downloaded.
"""

from __future__ import annotations

import asyncio
import json
import os
import sys
from contextlib import AsyncExitStack
from pathlib import Path

from aiofiles_api import FileObject, FilesClient, TransferManager
from aiofiles_api.emulator import Emulator


def write_requests(directory: Path, count: int) -> list[Path]:
    """Write the files of requests that are not there yet, and return all their paths."""
    directory.mkdir(parents=True, exist_ok=True)
    paths = [directory / f"requests-{number:05}.jsonl" for number in range(count)]
    for number, path in enumerate(paths):
        if path.exists():  # the journal knows it by its time of modification
            continue
        body = {"model": "gpt-4o-mini", "messages": [{"role": "user", "content": f"{number}?"}]}
        line = {"method": "POST", "url": "/v1/chat/completions", "body": body}
        path.write_text(json.dumps({"custom_id": f"request-{number}", **line}) + "\n")
    return paths


async def round_trip(files: FilesClient, work: Path, count: int) -> None:
    """Send the files, wait for each, and fetch them."""
    paths = await asyncio.to_thread(write_requests, work / "requests", count)
    manager = TransferManager(files, concurrency=16, journal=work / "journal")

    uploaded: list[FileObject] = []
    async for outcome in manager.upload_all(paths, purpose="batch"):
        if outcome.result is None:
            print(f"failed {outcome.item}: {outcome.error}")
        else:
            uploaded.append(outcome.result)
    print(f"uploaded {len(uploaded)} files")

    limit = asyncio.Semaphore(16)

    async def processed(file: FileObject) -> FileObject:
        async with limit:
            return await files.wait_for_processing(file, timeout=600)

    ready = await asyncio.gather(*map(processed, uploaded))
    print(f"processed {len(ready)} files")

    downloaded = 0
    async for result in manager.download_all(ready, work / "results"):
        downloaded += result.error is None
    print(f"downloaded {downloaded} files")


async def main(work: str, count: str = "1000") -> None:
    """Run it, on a server of its own where none is named."""
    async with AsyncExitStack() as stack:
        base_url, key = os.environ.get("OPENAI_BASE_URL"), os.environ.get("OPENAI_API_KEY")
        if not base_url:
            data = Path(work, "server")
            server = await stack.enter_async_context(Emulator(data))
            base_url, key = server.base_url, "any"
        files = await stack.enter_async_context(FilesClient(base_url=base_url, api_key=key))
        await round_trip(files, Path(work), int(count))


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
