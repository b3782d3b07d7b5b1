"""What an exception of aiohttp becomes: an error of ours, that tells no secret."""

from __future__ import annotations

from typing import NoReturn

import aiohttp
from aiohttp.http import HttpProcessingError

from aiofiles_api.errors import APIConnectionError, APIError, APIResponseError, APITimeoutError
from aiofiles_api.protocol import is_retryable_status
from aiofiles_api.session.payload import SILENT, Payload

__all__ = ["DripsError", "raise_ours"]


class DripsError(Exception):
    """A reply comes too slowly."""


# What an exception of aiohttp becomes, from the special to the general: the first that fits counts.
_TRANSLATIONS: tuple[tuple[type[Exception], type[APIConnectionError | APIResponseError], str], ...]
_TRANSLATIONS = (
    (DripsError, APITimeoutError, "the reply drips on for longer than Timeouts.reply"),
    (
        aiohttp.ConnectionTimeoutError,
        APITimeoutError,
        "no connection within Timeouts.connect; check base_url and the network",
    ),
    (
        aiohttp.SocketTimeoutError,
        APITimeoutError,
        SILENT,
    ),
    (TimeoutError, APITimeoutError, "not done within Timeouts.total; allow more time"),
    (
        aiohttp.ClientResponseError,
        APIResponseError,
        "the reply is not HTTP, too large in its headers, or encoded unasked; check base_url",
    ),
)


def raise_ours(
    error: Exception, what: str, payload: Payload | None, *, is_secret: bool
) -> NoReturn:
    """Raise an error of ours for what aiohttp raised: here, and nowhere else.

    Args:
        error: What aiohttp raised.
        what: What is being done to what, for the message.
        payload: The body that is being sent; its own failure comes first.
        is_secret: Whether the URL may not be shown, as that of a redirect to a signed one.
    """
    if payload is not None and payload.failure is not None:
        raise payload.failure from payload.failure.__cause__
    is_quiet = isinstance(error, OSError | aiohttp.ClientPayloadError) or (
        isinstance(error, aiohttp.ServerDisconnectedError) and isinstance(error.message, str)
    )
    cause: BaseException | None = error
    if isinstance(error, aiohttp.ClientOSError) and not isinstance(
        error, aiohttp.ClientConnectorError
    ):
        cause = error.__cause__  # as its own text may show the URL, with the caller's parameters
    # The text of others may show the URL, what came instead of HTTP, or our headers with the key.
    raise _translate(error, what, payload) from (cause if is_quiet and not is_secret else None)


def _translate(error: Exception, what: str, payload: Payload | None) -> APIError:
    overdue = None if payload is None else payload.overdue
    if overdue is not None:
        return APITimeoutError(f"{what}: {overdue}")
    if isinstance(error, aiohttp.ClientHttpProxyError):
        return APIConnectionError(
            f"{what}: the proxy refused the connection with status {error.status}; check"
            " HTTPS_PROXY and NO_PROXY, or proxy=",
            retryable=is_retryable_status(error.status),
        )
    for of, into, text in _TRANSLATIONS:
        if isinstance(error, of):
            return into(f"{what}: {text}")
    problem = _lasting_problem(error)
    if problem is not None:
        return APIConnectionError(f"{what}: {problem}", retryable=False)
    if isinstance(error, aiohttp.ClientPayloadError) and "not completed" not in str(error):
        return APIResponseError(f"{what}: the reply's body is malformed; check base_url")
    return APIConnectionError(f"{what}: {_passing_problem(error)}")


def _lasting_problem(error: Exception) -> str | None:
    """Return what is wrong, if it would be no better another time."""
    if isinstance(error, aiohttp.ClientConnectorCertificateError):
        reason = error.certificate_error
        return f"the certificate is not trusted ({reason}); check base_url, or pass ssl="
    if isinstance(error, aiohttp.ServerFingerprintMismatch):
        return "the certificate is not the one that ssl= names; check that, and base_url"
    if isinstance(error, ValueError | TypeError | RuntimeError) or not isinstance(
        error, OSError | EOFError | aiohttp.ClientError | HttpProcessingError
    ):
        kind = type(error).__name__
        return (
            f"the request cannot be made ({kind}); check base_url, and ssl=, connector= and"
            " trace_configs= where they are yours"
        )
    return None


def _passing_problem(error: Exception) -> str:
    """Return what is wrong now, and may be better another time."""
    if isinstance(error, aiohttp.ClientConnectorError):
        why = f"{error.host}:{error.port}: {error.os_error.strerror or error.os_error}"
        return f"cannot connect to {why}; check base_url and the network"
    return f"the connection was lost ({type(error).__name__}); try again"
