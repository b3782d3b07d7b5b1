"""Upload, list, download, stream and delete: the ten lines that most programs need.

Run it with OPENAI_API_KEY set, or against another server with OPENAI_BASE_URL as well:

    python examples/quick_start.py train.jsonl
"""

from __future__ import annotations

import asyncio
import sys

from aiofiles_api import FilesClient


async def main(path: str) -> None:
    """Send a file there and back, and delete it."""
    async with FilesClient() as files:
        file = await files.upload(path, purpose="user_data")
        print(f"uploaded {file.filename} as {file.id}, {file.bytes:,} bytes")

        async for listed in files.list(purpose="user_data", max_items=5):
            print(f"listed {listed.id}, created {listed.created:%Y-%m-%d %H:%M}")

        downloaded = await files.download(file, "out/")
        print(f"downloaded to {downloaded.path}")

        size = 0
        async with files.stream(file) as content:
            async for chunk in content:
                size += len(chunk)
        print(f"streamed {size:,} bytes")

        await files.delete(file)
        print(f"deleted {file.id}")


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1]))
