"""The record of a bulk run on disk (a stub)."""

from __future__ import annotations

import os
from collections.abc import AsyncGenerator
from types import TracebackType
from typing import Literal, Self, TypeAlias

import attrs

__all__ = ["Journal", "JournalEntry", "Kind", "State", "read_journal"]

Kind: TypeAlias = Literal["upload", "download", "delete"]
State: TypeAlias = Literal["planned", "started", "done", "failed"]


@attrs.frozen
class JournalEntry:
    """What a journal says of one item."""

    kind: Kind
    key: str
    size: int | None
    mtime_ns: int | None
    sha256: str | None
    state: State
    file_id: str | None
    reason: str | None
    attempts: int
    updated_at: float


class Journal:
    """A record of bulk runs on disk."""

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = path

    async def __aenter__(self) -> Self:
        raise NotImplementedError

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        raise NotImplementedError

    def entries(
        self, *, state: State | None = None, kind: Kind | None = None
    ) -> AsyncGenerator[JournalEntry, None]:
        """Yield what it says of each item."""
        raise NotImplementedError


def read_journal(path: str | os.PathLike[str]) -> AsyncGenerator[JournalEntry, None]:
    """Yield what a journal says of each item, even while another process writes it."""
    raise NotImplementedError
