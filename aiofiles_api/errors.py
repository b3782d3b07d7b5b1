"""One tree of exceptions; every failure of this package is a `FilesError`.

    FilesError
    ├── ConfigurationError            a setting that cannot work: no key, a bad base URL
    ├── InvalidArgumentError          refused before anything was sent (also a ValueError)
    ├── ClientClosedError             the client was closed, before or during the call
    ├── APIError
    │   ├── APIConnectionError        no connection, or the connection was lost
    │   │   └── APITimeoutError       a bound of `Timeouts` was passed
    │   ├── APIResponseError          a reply that is not what the API promises
    │   │   └── ContentTooLargeError  more content than the bound that the caller set
    │   └── APIStatusError            a status of 4xx or 5xx
    │       ├── BadRequestError 400, AuthenticationError 401, PermissionDeniedError 403
    │       ├── NotFoundError 404, ConflictError 409, RequestTooLargeError 413
    │       ├── UnprocessableEntityError 422
    │       ├── RateLimitError 429
    │       │   └── QuotaExceededError   429 with the code insufficient_quota
    │       └── InternalServerError 5xx
    ├── SourceError                   what was to be uploaded cannot be read
    │   ├── SourceChangedError        it changed while it was sent
    │   └── SourceNotReplayableError  it was partly consumed and cannot be read again
    ├── DestinationError              the downloaded file cannot be put where it was asked for
    ├── IntegrityError                length, checksum or source are not what they must be
    ├── UploadUncertainError          all was sent, no reply came: it may or may not be stored
    │   └── UncertainServerError      the same where 5xx came, and one of those too
    ├── ProcessingError               the service could not process the file
    └── JournalError                  the record of a bulk run cannot be used

Messages say what was being done to what, and what to do about it. None holds the API key.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from aiofiles_api.models import FileObject

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
    "ContentTooLargeError",
    "DestinationError",
    "FilesError",
    "IntegrityError",
    "InternalServerError",
    "InvalidArgumentError",
    "JournalError",
    "NotFoundError",
    "PermissionDeniedError",
    "ProcessingError",
    "QuotaExceededError",
    "RateLimitError",
    "RequestTooLargeError",
    "SourceChangedError",
    "SourceError",
    "SourceNotReplayableError",
    "UncertainServerError",
    "UnprocessableEntityError",
    "UploadUncertainError",
]


class FilesError(Exception):
    """Root of every error that this package raises.

    Attributes:
        retryable: Whether the same call may succeed when it is made again unchanged.
    """

    def __init__(self, message: str, *, retryable: bool = False) -> None:
        super().__init__(message)
        self.retryable = retryable

    def __reduce__(self) -> tuple[object, ...]:
        # The default would call the class with the message alone, which the subclasses with
        # further attributes do not accept.
        return _restore, (type(self), self.args, self.__dict__)


def _restore(
    kind: type[FilesError], args: tuple[object, ...], state: dict[str, object]
) -> FilesError:
    error = kind.__new__(kind, *args)
    error.__dict__.update(state)
    return error


class ConfigurationError(FilesError):
    """A setting of the client cannot work: no key, a bad base URL, a bound out of range."""


class InvalidArgumentError(FilesError, ValueError):
    """An argument of a call was refused before anything was sent."""


class ClientClosedError(FilesError):
    """The client was closed before the call, or while it ran."""


class APIError(FilesError):
    """The exchange with the server failed."""


class APIConnectionError(APIError):
    """No connection could be made, or it was lost."""

    def __init__(self, message: str, *, retryable: bool = True) -> None:
        super().__init__(message, retryable=retryable)


class APITimeoutError(APIConnectionError):
    """A bound of `Timeouts`, or of the call, was passed."""


class APIResponseError(APIError):
    """A reply is not what the API promises: HTML, cut JSON, a repeated cursor, not HTTP."""

    def __init__(self, message: str, *, retryable: bool = True) -> None:
        super().__init__(message, retryable=retryable)


class ContentTooLargeError(APIResponseError):
    """The content is longer than the bound that the caller set, or a reply than any may be."""

    def __init__(self, message: str) -> None:
        super().__init__(message, retryable=False)


class APIStatusError(APIError):
    """The server answered with an error status.

    Attributes:
        status_code: The HTTP status.
        message: What the server said, or the status's standard phrase.
        code: The API's error code, such as `"invalid_api_key"`.
        type: The API's error type, such as `"invalid_request_error"`.
        param: The parameter that the server objects to.
        request_id: The reply's `x-request-id`, to quote to the service's support.
        retry_after: Seconds to wait before the next try, as the server asked for.
        body: The beginning of the reply's body, decoded.
    """

    def __init__(
        self,
        summary: str,
        *,
        status_code: int,
        message: str,
        code: str | None = None,
        type: str | None = None,  # noqa: A002 - the API's own name for it
        param: str | None = None,
        request_id: str | None = None,
        retry_after: float | None = None,
        body: str = "",
        retryable: bool = False,
    ) -> None:
        super().__init__(summary, retryable=retryable)
        self.status_code = status_code
        self.message = message
        self.code = code
        self.type = type
        self.param = param
        self.request_id = request_id
        self.retry_after = retry_after
        self.body = body


class BadRequestError(APIStatusError):
    """400: the server refuses the request as it is."""


class AuthenticationError(APIStatusError):
    """401: the key is missing, wrong or revoked."""


class PermissionDeniedError(APIStatusError):
    """403: the key may not do this."""


class NotFoundError(APIStatusError):
    """404: no such file, or no such endpoint."""


class ConflictError(APIStatusError):
    """409: the request conflicts with another."""


class RequestTooLargeError(APIStatusError):
    """413: the file is larger than the server takes."""


class UnprocessableEntityError(APIStatusError):
    """422: the server cannot use a value of the request."""


class RateLimitError(APIStatusError):
    """429: too many requests."""


class QuotaExceededError(RateLimitError):
    """429 with the code `insufficient_quota`: waiting does not help, paying does."""


class InternalServerError(APIStatusError):
    """5xx: the server, or a proxy before it, failed."""


class SourceError(FilesError):
    """What was to be uploaded is missing, is not a file, or cannot be read."""


class SourceChangedError(SourceError):
    """The source changed while it was sent; the server has not stored it."""


class SourceNotReplayableError(SourceError):
    """Another attempt is needed, but the source was consumed and cannot be read again."""


class DestinationError(FilesError):
    """The file cannot be put at its destination, which is left as it was."""


class IntegrityError(FilesError):
    """Length or checksum are not what they must be, or what was sent is not what the source was.

    Attributes:
        file: For an upload, the file as the server stored it; for a download `None`.
    """

    def __init__(self, message: str, *, file: FileObject | None = None) -> None:
        super().__init__(message, retryable=True)
        self.file = file


class UploadUncertainError(FilesError):
    """The whole body was sent and no usable reply came: the file may or may not be stored.

    Attributes:
        candidates: Files on the server that may be this upload.
    """

    def __init__(self, message: str, *, candidates: tuple[FileObject, ...] = ()) -> None:
        super().__init__(message)
        self.candidates = candidates


class UncertainServerError(UploadUncertainError, InternalServerError):
    """5xx came when the whole body was sent, and whether the file is stored cannot be found out.

    It has the attributes of both; trying again may leave a duplicate, so it is not `retryable`.
    """

    def __init__(
        self,
        message: str,
        *,
        error: InternalServerError,
        candidates: tuple[FileObject, ...] = (),
    ) -> None:
        FilesError.__init__(self, message)
        self.__dict__.update(vars(error), retryable=False, candidates=candidates)


class ProcessingError(FilesError):
    """The service says that it could not process the file.

    Attributes:
        file: The file as the service last described it.
    """

    def __init__(self, message: str, *, file: FileObject) -> None:
        super().__init__(message)
        self.file = file


class JournalError(FilesError):
    """The record of a bulk run is damaged, or in use by another process."""
