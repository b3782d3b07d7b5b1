"""Move files to and from an OpenAI-compatible Files API, from asyncio, in constant memory.

    async with FilesClient() as files:
        file = await files.upload("train.jsonl", purpose="fine-tune")
        await files.download(file, "copy.jsonl")

The command line is `aiofiles-api`; the embedded server for tests is `aiofiles_api.emulator`.
"""

import importlib
from typing import TYPE_CHECKING

from aiofiles_api.client import FilesClient
from aiofiles_api.config import Timeouts
from aiofiles_api.download import ContentStream
from aiofiles_api.errors import (
    APIConnectionError,
    APIError,
    APIResponseError,
    APIStatusError,
    APITimeoutError,
    AuthenticationError,
    BadRequestError,
    ClientClosedError,
    ConfigurationError,
    ConflictError,
    ContentTooLargeError,
    DestinationError,
    FilesError,
    IntegrityError,
    InternalServerError,
    InvalidArgumentError,
    JournalError,
    NotFoundError,
    PermissionDeniedError,
    ProcessingError,
    QuotaExceededError,
    RateLimitError,
    RequestTooLargeError,
    SourceChangedError,
    SourceError,
    SourceNotReplayableError,
    UncertainServerError,
    UnprocessableEntityError,
    UploadUncertainError,
)
from aiofiles_api.models import DeletedFile, DownloadedFile, ExpiresAfter, FileObject, FilePage
from aiofiles_api.progress import Progress, ProgressSink
from aiofiles_api.retry import RetryPolicy

if TYPE_CHECKING:
    from aiofiles_api.bulk import Outcome
    from aiofiles_api.journal import Journal, JournalEntry, read_journal
    from aiofiles_api.trades import DownloadItem, UploadItem
    from aiofiles_api.transfers import TransferManager

__version__ = "0.1.0"

__all__ = [
    "APIConnectionError",
    "APIError",
    "APIResponseError",
    "APIStatusError",
    "APITimeoutError",
    "AuthenticationError",
    "BadRequestError",
    "ClientClosedError",
    "ConfigurationError",
    "ConflictError",
    "ContentStream",
    "ContentTooLargeError",
    "DeletedFile",
    "DestinationError",
    "DownloadItem",
    "DownloadedFile",
    "ExpiresAfter",
    "FileObject",
    "FilePage",
    "FilesClient",
    "FilesError",
    "IntegrityError",
    "InternalServerError",
    "InvalidArgumentError",
    "Journal",
    "JournalEntry",
    "JournalError",
    "NotFoundError",
    "Outcome",
    "PermissionDeniedError",
    "ProcessingError",
    "Progress",
    "ProgressSink",
    "QuotaExceededError",
    "RateLimitError",
    "RequestTooLargeError",
    "RetryPolicy",
    "SourceChangedError",
    "SourceError",
    "SourceNotReplayableError",
    "Timeouts",
    "TransferManager",
    "UncertainServerError",
    "UnprocessableEntityError",
    "UploadItem",
    "UploadUncertainError",
    "__version__",
    "read_journal",
]

_LATE = {
    "DownloadItem": "trades",
    "Journal": "journal",
    "JournalEntry": "journal",
    "Outcome": "bulk",
    "TransferManager": "transfers",
    "UploadItem": "trades",
    "read_journal": "journal",
}
"""Where names stand that are imported when they are first asked for: SQLite takes time to load, and
only those who move thousands of files need it."""


def __getattr__(name: str) -> object:
    if name not in _LATE:
        msg = f"module {__name__!r} has no attribute {name!r}"
        raise AttributeError(msg)
    value: object = getattr(importlib.import_module(f"{__name__}.{_LATE[name]}"), name)
    globals()[name] = value
    return value
