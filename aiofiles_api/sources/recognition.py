"""What a caller handed in, and which source that makes."""

from __future__ import annotations

import inspect
import io
import os
from collections.abc import AsyncIterable, Iterable
from typing import TypeGuard, cast

from aiofiles_api.errors import InvalidArgumentError
from aiofiles_api.sources.asynchronous import AsyncFileSource, AsyncIterableSource
from aiofiles_api.sources.contract import (
    AsyncBinaryFile,
    BinaryFile,
    Buffer,
    ChunkSize,
    Source,
    UploadSource,
)
from aiofiles_api.sources.files import FileSource, PathSource
from aiofiles_api.sources.iterables import IterableSource
from aiofiles_api.sources.memory import MemorySource
from aiofiles_api.sources.reading import CHUNK
from aiofiles_api.threads import Threads

__all__ = ["as_source"]

_WRAPPERS = frozenset({"aiofiles", "anyio", "fastapi", "litestar", "starlette", "tempfile"})
"""Packages whose file objects are wrappers; anybody else's may give other bytes than their file."""


def as_source(
    upload: UploadSource,
    threads: Threads,
    *,
    caller_threads: Threads | None = None,
    chunk_size: ChunkSize = lambda: CHUNK,
) -> Source:
    """Return a source over what the caller handed in; nothing is read or opened yet.

    Args:
        upload: What the caller handed in.
        threads: Where to read files.
        caller_threads: Where to run code of the caller's, which may block for long, if not there.
        chunk_size: Asked before each read for how many bytes to read.

    Raises:
        InvalidArgumentError: It is none of the kinds of `UploadSource`, or raises when it is
            looked at.
    """
    try:
        return _recognized(upload, threads, caller_threads or threads, chunk_size)
    except InvalidArgumentError:
        raise
    except Exception as error:
        msg = f"source: the {type(upload).__name__} cannot be uploaded: it raised {error!r}"
        raise InvalidArgumentError(msg) from error


def _recognized(
    upload: UploadSource, threads: Threads, callers: Threads, chunk_size: ChunkSize
) -> Source:
    if isinstance(upload, str | os.PathLike):
        return PathSource(upload, threads, chunk_size)
    if _is_memory(upload):
        return MemorySource(upload)
    name = _name_of(upload)
    # UploadFile and anyio's files are wrappers around a plain file, which can be read ahead.
    plain = _unwrapped(upload)
    if isinstance(plain, io.TextIOBase):
        msg = "source: the file is open in text mode; open it in binary mode: open(path, 'rb')"
        raise InvalidArgumentError(msg)
    read = getattr(plain, "read", None)
    if inspect.iscoroutinefunction(read):
        return AsyncFileSource(cast("AsyncBinaryFile", plain), name, chunk_size)
    if callable(read):
        return FileSource(cast("BinaryFile", plain), name, threads, callers, chunk_size)
    if isinstance(upload, AsyncIterable):
        return AsyncIterableSource(upload, name)
    if isinstance(upload, Iterable):
        return IterableSource(cast("Iterable[bytes]", upload), name, callers)
    msg = (
        f"source: cannot upload a {type(upload).__name__}; pass a path, bytes, a binary file"
        " object or an iterable of bytes"
    )
    raise InvalidArgumentError(msg)


def _is_memory(upload: object) -> TypeGuard[Buffer]:
    try:
        memoryview(upload)  # type: ignore[arg-type]
    except TypeError:
        return False
    except ValueError as error:
        msg = f"source: the {type(upload).__name__} cannot be read any more: {error}"
        raise InvalidArgumentError(msg) from error
    return True


def _unwrapped(upload: object) -> object:
    """Return the plain file in a wrapper around one, if what it gives is what the file has."""
    while type(upload).__module__.partition(".")[0] in _WRAPPERS:
        for attribute in ("file", "wrapped", "_file"):
            inner = getattr(upload, attribute, None)
            # One that is kept in memory so far may come to be in another file.
            if callable(getattr(inner, "read", None)) and getattr(upload, "_rolled", True):
                upload = inner
                break
        else:
            break
    return upload


def _name_of(upload: object) -> str | None:
    # What comes from a form has the form field's name besides.
    for attribute in ("name",) if isinstance(upload, io.IOBase) else ("filename", "name"):
        name = getattr(upload, attribute, None)
        if isinstance(name, str | bytes) and name:
            return os.path.basename(os.fsdecode(name)) or None
    return None
