"""Move files to and from an OpenAI-compatible Files API, from asyncio, in constant memory.

    async with FilesClient() as files:
        file = await files.upload("train.jsonl", purpose="fine-tune")
        await files.download(file, "copy.jsonl")

The command line is `aiofiles-api`; the embedded server for tests is `aiofiles_api.emulator`.
"""

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
    UnprocessableEntityError,
    UploadUncertainError,
)
from aiofiles_api.models import DeletedFile, DownloadedFile, ExpiresAfter, FileObject, FilePage
from aiofiles_api.progress import Progress, ProgressSink
from aiofiles_api.retry import RetryPolicy

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
    "DownloadedFile",
    "ExpiresAfter",
    "FileObject",
    "FilePage",
    "FilesClient",
    "FilesError",
    "IntegrityError",
    "InternalServerError",
    "InvalidArgumentError",
    "JournalError",
    "NotFoundError",
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
    "UnprocessableEntityError",
    "UploadUncertainError",
    "__version__",
]
