"""The options that every command shares: which server, and who asks."""

from __future__ import annotations

from typing import Annotated

import attrs
from cyclopts import Group, Parameter

from aiofiles_api import FilesClient

__all__ = ["Connection"]

_GROUP = Group("Connection", sort_key=1)


@Parameter(name="*", group=_GROUP)
@attrs.frozen(kw_only=True)
class Connection:
    """Where to connect to; what is not given comes from the environment.

    Attributes:
        base_url: The API's address with its /v1. Default: $OPENAI_BASE_URL, else OpenAI's own.
        api_key: The key. Default: $OPENAI_API_KEY, which is the better place for it: what stands on
            a command line is seen by every user of the machine, and kept in the shell's history.
    """

    base_url: Annotated[str | None, Parameter(group=_GROUP)] = None
    api_key: Annotated[str | None, Parameter(group=_GROUP)] = attrs.field(default=None, repr=False)

    def client(self, *, concurrency: int = 1, rpm: float | None = None) -> FilesClient:
        """Return a client with at least so many connections, and at most so many requests a minute.

        Raises:
            ConfigurationError: There is no key, or the address cannot work.
        """
        return FilesClient(
            base_url=self.base_url,
            api_key=self.api_key,
            max_connections=max(concurrency, 64),
            requests_per_minute=rpm,
        )
