"""What all tests share: the event loop's library, the emulator, a client, and the guards."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator

import pytest
from blockbuster import BlockBuster, blockbuster_ctx

from aiofiles_api import FilesClient, RetryPolicy
from aiofiles_api.emulator import Emulator

KEY = "sk-test-0123456789"

NO_RETRIES = RetryPolicy(attempts=1)


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture(autouse=True)
def no_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """Keep what the developer's own shell says out of the tests."""
    for name in (
        "OPENAI_API_KEY",
        "OPENAI_BASE_URL",
        "OPENAI_ORG_ID",
        "OPENAI_PROJECT_ID",
        "HTTP_PROXY",
        "HTTPS_PROXY",
        "http_proxy",
        "https_proxy",
    ):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture(autouse=True)
def no_blocking_call() -> Iterator[BlockBuster]:
    """Fail a test whose package code blocks the event loop."""
    with blockbuster_ctx("aiofiles_api") as detector:
        yield detector


@pytest.fixture
async def server() -> AsyncIterator[Emulator]:
    async with Emulator(api_key=KEY) as emulator:
        yield emulator


@pytest.fixture
async def files(server: Emulator) -> AsyncIterator[FilesClient]:
    async with FilesClient(base_url=server.base_url, api_key=KEY) as client:
        yield client
