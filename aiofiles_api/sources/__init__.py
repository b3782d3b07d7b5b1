"""Byte sources over every input that a user may hold.

A `Source` can be opened once for each attempt and gives a `Reader` that stands at the same place
every time; where that is impossible it says so with `SourceNotReplayableError`. Blocking reads
happen in threads, one chunk ahead of whoever consumes them, so memory is a few chunks whatever
the source's size. Nothing that the caller opened is ever closed here.

    recognition      which source a thing makes
    ├─ memory        bytes
    ├─ files         paths and blocking file objects
    ├─ iterables     iterables of bytes
    └─ asynchronous  asynchronous file objects and iterables
    spooling         a copy of what can be read only once
    threaded         what blocks, read in threads
    reading          a chunk, checked, and what goes wrong with it
    contract         what a source is
"""

from aiofiles_api.sources.contract import (
    AsyncBinaryFile,
    BinaryFile,
    Buffer,
    Reader,
    Source,
    UploadSource,
)
from aiofiles_api.sources.files import FileReader, PathSource
from aiofiles_api.sources.reading import source_changed
from aiofiles_api.sources.recognition import as_source
from aiofiles_api.sources.spooling import spooled

__all__ = [
    "AsyncBinaryFile",
    "BinaryFile",
    "Buffer",
    "FileReader",
    "PathSource",
    "Reader",
    "Source",
    "UploadSource",
    "as_source",
    "source_changed",
    "spooled",
]
