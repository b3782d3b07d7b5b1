"""The key that goes with each request, and what must not show in an error."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Iterable, Mapping

from aiofiles_api.config import Config, Secret, checked_key
from aiofiles_api.errors import FilesError
from aiofiles_api.protocol import spellings
from aiofiles_api.threads import is_being_cancelled

__all__ = ["Credentials"]

_KEYS_REMEMBERED = 8
"""Keys that may still be on their way, where each request may have another."""


class Credentials:
    """The headers of the client's own, and its secrets.

    Attributes:
        secrets: What must not show in an error, in each spelling that a server may give it.

    Args:
        config: The key, or who is to be asked for it; the caller's own headers.
    """

    def __init__(self, config: Config) -> None:
        self.secrets: tuple[str, ...] = ()
        self._headers_of_config = config.headers
        self._headers: Mapping[str, str] = config.headers
        self._lasting_secrets = config.secrets
        self._keys: deque[str] = deque(maxlen=_KEYS_REMEMBERED)
        self._ask_for_key: Callable[[], Awaitable[str]] | None = None
        self._spell()
        if "authorization" not in map(str.lower, config.headers):
            if isinstance(config.api_key, Secret):
                self._take(config.api_key)
            else:
                self._ask_for_key = config.api_key

    async def headers(self, others: Mapping[str, str]) -> dict[str, str]:
        """Return a request's headers with credentials; the caller's own ones prevail."""
        if self._ask_for_key is not None:
            self._take(checked_key(await self._ask(self._ask_for_key)))
        return {**others, **self._headers}

    async def _ask(self, for_key: Callable[[], Awaitable[str]]) -> str:
        try:
            return await for_key()
        except asyncio.CancelledError as error:
            if is_being_cancelled():
                raise
            msg = "api_key: what it waits for was cancelled; let no request own what all wait for"
            raise FilesError(msg, retryable=True) from error

    def hide(self, secrets: Iterable[str]) -> None:
        """Count these among the secrets as well."""
        self._lasting_secrets = (*self._lasting_secrets, *secrets)
        self._spell()

    def _take(self, key: Secret) -> None:
        self._headers = {**self._headers_of_config, "Authorization": Secret(f"Bearer {key}")}
        if key not in self._keys:
            # The earlier ones as well: requests that bear them may still be on their way.
            self._keys.appendleft(key)
            self._spell()

    def _spell(self) -> None:
        known = (*self._keys, *self._lasting_secrets)
        self.secrets = tuple(
            dict.fromkeys(spelling for secret in known for spelling in spellings(secret))
        )
