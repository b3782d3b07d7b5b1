"""What one process is asked to do, and what it tells in the end."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterable
from contextlib import AbstractAsyncContextManager
from pathlib import Path
from typing import Literal, Protocol, TypeAlias

import attrs

__all__ = [
    "CanDownload",
    "CanList",
    "CanUpload",
    "CanUploadAll",
    "CanUploadBytes",
    "CanUploadIterable",
    "CanUploadObject",
    "Figure",
    "Job",
    "Opener",
    "Operation",
    "Outcome",
    "Target",
]

Operation: TypeAlias = Literal[
    "download",
    "upload",
    "upload object",
    "upload iterable",
    "upload bytes",
    "upload all",
    "list",
    "import",
    "serve",
]

Figure: TypeAlias = Literal[
    "wall", "cpu", "memory", "held", "turn", "p50", "p99", "slowest", "server", "stolen"
]
"""`wall`, `cpu`, `held`, `p50`, `p99`, `slowest` in seconds, `memory` in bytes; `turn` is the CPU
seconds of the loop's turn that took most of them, `server` those of the server, and `stolen` the
seconds for which the host of a virtual machine kept each of its processors waiting."""

Outcome: TypeAlias = dict[Figure, float]


@attrs.frozen
class Job:
    """One thing to do.

    Attributes:
        operation: What it is.
        size: Bytes of each file.
        count: How many files.
        concurrency: How many of them at a time.
        repeat: How often all of it is done, one time after the other.
        tls: Whether over TLS.
        delay: Seconds that each page of a listing is late.
        module: What to import, for "import".
    """

    operation: Operation
    size: int = 0
    count: int = 1
    concurrency: int = 1
    repeat: int = 1
    tls: bool = False
    delay: float = 0.0
    module: str = ""

    @property
    def uploads(self) -> bool:
        """Whether files go to the server."""
        return self.operation.startswith("upload") or self.operation == "serve"

    @property
    def downloads(self) -> bool:
        """Whether files come from it."""
        return self.operation in {"download", "serve"}

    @property
    def disk(self) -> int:
        """Bytes that its files take on disk."""
        return self.size * self.count * (self.uploads + self.downloads)


@attrs.frozen
class Target:
    """Where the server is, and whom to trust.

    Attributes:
        base_url: With its `/v1`.
        authority: The path of the certificate authority's certificate, as PEM.
    """

    base_url: str
    authority: str


class CanDownload(Protocol):
    """Puts a file on disk."""

    async def download(self, file_id: str, destination: Path) -> None:
        """Download one file."""


class CanUpload(Protocol):
    """Sends a file that lies on disk."""

    async def upload(self, path: Path) -> None:
        """Upload one file."""


class CanUploadObject(Protocol):
    """Sends an open file."""

    async def upload_object(self, path: Path) -> None:
        """Open the file, and upload it from the file object."""


class CanUploadAll(Protocol):
    """Sends many files that lie on disk, a few at a time."""

    async def upload_all(self, paths: Iterable[Path], concurrency: int) -> int:
        """Upload them, and return how many there were."""
        ...


class CanUploadBytes(Protocol):
    """Sends bytes."""

    async def upload_bytes(self, content: bytes) -> None:
        """Upload what is in memory."""


class CanUploadIterable(Protocol):
    """Sends what an async iterable yields."""

    async def upload_iterable(self, chunks: AsyncIterator[bytes]) -> None:
        """Upload it."""


class CanList(Protocol):
    """Lists files."""

    async def list_all(self) -> int:
        """Look at each file, and return how many there were."""
        ...


class Opener(Protocol):
    """Builds a contender's client."""

    def __call__(self, target: Target) -> AbstractAsyncContextManager[object]:
        """Open the client, and close it at the end."""
        ...
