"""`PartFile`: what gathers beside a destination, and takes its place."""

from __future__ import annotations

import fcntl
import hashlib
import os
import stat
from collections.abc import Callable, Sequence
from contextlib import suppress
from functools import partial
from typing import TypeVar

from aiofiles_api.errors import DestinationError, FilesError, IntegrityError
from aiofiles_api.partfile.access import take_over_access
from aiofiles_api.partfile.destination import absolute, locate
from aiofiles_api.partfile.directories import Directories
from aiofiles_api.partfile.disk import (
    give_name,
    open_nameless,
    open_new,
    part_beside,
    put_where_nothing_is,
    write_all,
)
from aiofiles_api.partfile.failures import OsErrors
from aiofiles_api.partfile.locks import open_locked
from aiofiles_api.threads import Threads, Work, join, settle

__all__ = ["PartFile"]

Opened = TypeVar("Opened")

_REREAD = 1024 * 1024
"""Bytes read at a time to take up the digest of what an earlier download has left."""

_READ_AT_ONCE = 32 * _REREAD
"""Bytes of that for which whoever is cancelled has to wait."""


class PartFile:
    """The file that becomes the destination when all of it is there and right.

    Attributes:
        path: The destination as it was given, known for certain when `prepare` has returned.

    Args:
        destination: Where it shall be: a file's path, or that of a directory.
        threads: Where to write.
        overwrite: Whether it may replace a file.
        durable: Whether to wait until the disk itself has it (fsync of file and directory).
        sha256: The digest in hex that its content must have, or `None`.
        kept_as: What identifies the content, if an interrupted download of it is to be kept and
            continued by a later one; never the destination's name, which may be too long already.
    """

    def __init__(
        self,
        destination: str | os.PathLike[str],
        threads: Threads,
        *,
        overwrite: bool,
        durable: bool,
        sha256: str | None,
        kept_as: str | None = None,
    ) -> None:
        self.path = ""
        self._given = destination
        self._threads = threads
        self._overwrite = overwrite
        self._durable = durable
        self._sha256 = sha256
        self._hash = None if sha256 is None else hashlib.sha256()
        self._kept_as = kept_as
        self._target = self._part = ""
        self._descriptor: int | None = None
        self._directories = Directories(durable=durable)
        self._replaces = False
        self._has_gap = False
        self._writing: Work[int] | None = None
        self._to_read_again: Sequence[Callable[[], None]] = ()

    async def prepare(self, filename: str | None = None, *, fallback: str = "") -> int | None:
        """Refuse what can be known to fail before anything is asked of the server.

        Args:
            filename: The file's name in a directory, whatever a server sent; `None` while unknown.
            fallback: What to use where nothing of `filename` is left.

        Returns:
            How many bytes an earlier download has left here to be continued, 0 for none; `None`
            where the destination is a directory and the name is not known.

        Raises:
            InvalidArgumentError: The destination is no path.
            DestinationError: It exists and may not be replaced, or cannot be looked at.
        """
        kept = await self._threads.run(partial(self._prepare, filename, fallback))
        # A cancellation waits for the thread, which therefore reads a little at a time.
        for piece in self._to_read_again:
            await self._threads.run(piece)
        return kept

    async def append(self, chunks: Sequence[bytes | memoryview]) -> None:
        """Have `chunks` written; return as soon as those of the call before are.

        Raises:
            DestinationError: The earlier ones could not be written.
        """
        await self.written()
        self._start_writing(chunks)

    def append_if_idle(self, chunks: Sequence[bytes | memoryview]) -> bool:
        """Have `chunks` written unless others still are; return whether they will be."""
        writing = self._writing
        if writing is not None and (not writing.done() or writing.exception() is not None):
            return False
        self._start_writing(chunks)
        return True

    def _start_writing(self, chunks: Sequence[bytes | memoryview]) -> None:
        self._has_gap = True  # until they are written, for which there may be no thread
        self._writing = self._threads.start(partial(self._write, chunks))

    async def restart(self) -> None:
        """Throw away what was written, and begin anew."""
        await self.written()
        await self._threads.run(self._restart)

    async def commit(self, chunks: Sequence[bytes | memoryview]) -> None:
        """Write the last `chunks`, check the whole, and put it in the destination's place.

        Raises:
            DestinationError: It could not be written, or may not replace what is there.
            IntegrityError: Its digest is not the one that was asked for.
        """
        await self.written()
        await self._threads.run(partial(self._commit, chunks))

    async def discard(self) -> None:
        """Remove what was written and the directories made for it, unless it has been committed."""
        try:
            if self._writing is not None:
                await settle(self._writing)
        finally:
            await self._clean_up(self._discard)

    async def keep(self, chunks: Sequence[bytes | memoryview]) -> None:
        """Write the last `chunks` and leave all for a later download, if it can be kept."""
        try:
            if self._writing is not None:
                await settle(self._writing)
        finally:
            await self._clean_up(partial(self._keep, chunks))

    async def _clean_up(self, function: Callable[[], None]) -> None:
        """Have done what must be done at the end; where there is no thread for it, right here."""
        try:
            await self._threads.run(function)
        except FilesError:  # of the threads': what cleans up raises none
            function()

    async def written(self) -> None:
        """Wait until all that was appended is written.

        Raises:
            DestinationError: It could not be written.
        """
        writing, self._writing = self._writing, None
        if writing is not None:
            await join(writing)

    # --- in threads ----------------------------------------------------------------------------

    def _prepare(self, filename: str | None, fallback: str) -> int | None:
        place = locate(self._given)
        if place.is_directory:
            if filename is None:
                return None
            place = place.with_name(filename, fallback=fallback)
        self.path = place.path
        with OsErrors(self.path):
            # What a link points to is replaced, not the link.
            self._target = os.path.realpath(self.path) if place.is_link else absolute(self.path)
            self._replaces = place.exists
            # A link to nothing is something too: whoever made it would choose where we write.
            if not self._overwrite and (place.exists or place.is_link):
                raise self._exists()
            self._directories.check(os.path.dirname(self._target))
            return 0 if self._kept_as is None else self._continue(self._kept_as)

    def _continue(self, kept_as: str) -> int:
        """Open and lock what an earlier download has left; another process may be at it now."""
        part = self._kept_part(kept_as)
        descriptor = open_locked(part)
        if descriptor is None:
            return 0  # it is made when there is something to write: many downloads may wait by then
        self._begin_kept(part, descriptor)
        size = os.lseek(descriptor, 0, os.SEEK_END)
        if self._hash is not None:
            read_again = partial(self._read_again, descriptor, self._hash.update)
            self._to_read_again = [
                partial(read_again, range(start, min(start + _READ_AT_ONCE, size), _REREAD))
                for start in range(0, size, _READ_AT_ONCE)
            ]
        return size

    def _read_again(
        self, descriptor: int, take: Callable[[bytes], object], offsets: Sequence[int]
    ) -> None:
        with OsErrors(self.path):
            for offset in offsets:
                take(os.pread(descriptor, _REREAD, offset))

    def _kept_part(self, kept_as: str) -> str:
        name = hashlib.sha256(kept_as.encode()).hexdigest()[:24]
        return os.path.join(os.path.dirname(self._target), f".{name}.part")

    def _begin_kept(self, part: str, descriptor: int) -> None:
        self._part, self._descriptor = part, descriptor
        # Or it could not be opened again; the rest is taken over at the end.
        self._take_over_access(descriptor, besides=stat.S_IRUSR | stat.S_IWUSR)

    def _restart(self) -> None:
        if self._descriptor is not None:
            with OsErrors(self.path):
                os.ftruncate(self._descriptor, 0)
                os.lseek(self._descriptor, 0, os.SEEK_SET)
        if self._hash is not None:
            self._hash = hashlib.sha256()

    def _keep(self, chunks: Sequence[bytes | memoryview]) -> None:
        with suppress(DestinationError):
            # Behind a write that failed there is a gap.
            if chunks and self._kept_as is not None and not self._has_gap:
                self._write(chunks)
        if (
            self._kept_as is None
            or self._descriptor is None
            or not os.fstat(self._descriptor).st_size
        ):
            self._discard()
        else:
            self._close()

    def _write(self, chunks: Sequence[bytes | memoryview]) -> int:
        with OsErrors(self.path):
            descriptor = self._open() if self._descriptor is None else self._descriptor
            write_all(descriptor, chunks)
            self._has_gap = False
        if self._hash is not None:
            for chunk in chunks:
                self._hash.update(chunk)
        return descriptor

    def _open(self) -> int:
        if self._kept_as is not None:
            part = self._kept_part(self._kept_as)
            locked = self._open_here(partial(open_locked, part, mode=self._first_mode))
            if locked is not None:
                os.ftruncate(locked, 0)  # another one may have left something since we looked
                self._begin_kept(part, locked)
                return locked
            self._kept_as = None  # somebody else is at it: take a private one
        part = part_beside(self._target)
        descriptor = self._open_here(partial(open_new, part, self._first_mode))
        self._descriptor = descriptor
        self._part = part
        self._take_over_access(descriptor)
        return descriptor

    def _open_here(self, open_file: Callable[[], Opened]) -> Opened:
        return self._directories.open_in(os.path.dirname(self._target), open_file)

    @property
    def _first_mode(self) -> int:
        """A part file's mode until it gets the one of the file that it will replace."""
        return 0o600 if self._replaces else 0o666

    def _take_over_access(self, descriptor: int, *, besides: int = 0) -> None:
        if self._replaces:
            take_over_access(descriptor, self._target, besides=besides)

    def _commit(self, chunks: Sequence[bytes | memoryview]) -> None:
        is_whole = self._descriptor is None and self._kept_as is None
        if is_whole and not self._replaces and self._put_at_once(chunks):
            return
        descriptor = self._write(chunks)
        self._check_digest()
        with OsErrors(self.path):
            if self._kept_as is not None:
                self._take_over_access(descriptor)
            if self._durable:
                os.fsync(descriptor)
            # Some file systems tell only at a close that there is no space.
            if self._kept_as is None:
                self._close()
            else:
                # The last one comes after the rename: whoever gets the lock sees the part gone.
                os.close(os.dup(descriptor))
            with self._directories.synced(os.path.dirname(self._target)):
                self._take_place()
                self._directories.keep()
            self._close()

    def _put_at_once(self, chunks: Sequence[bytes | memoryview]) -> bool:
        """Put all of the content where nothing is, in a file without a name, if that can be done.

        To make one and name it takes a file system less than to make a part file and rename it.
        """
        directory = os.path.dirname(self._target)
        with OsErrors(self.path):
            self._descriptor = self._open_here(partial(open_nameless, directory))
        if self._descriptor is None:
            return False
        try:
            descriptor = self._write(chunks)
            self._check_digest()
            with OsErrors(self.path):
                if self._durable:
                    os.fsync(descriptor)
                with self._directories.synced(directory):
                    is_named = self._open_here(partial(give_name, descriptor, self._target))
        finally:
            with OsErrors(self.path):
                self._close()  # without a name it is gone
        if is_named:
            self._directories.keep()
        else:
            self._restart()
        return is_named

    def _check_digest(self) -> None:
        if self._hash is not None and self._hash.hexdigest() != self._sha256:
            msg = (
                f"downloading to {self.path!r}: the content's sha256 is"
                f" {self._hash.hexdigest()}, not {self._sha256}; nothing was put there"
            )
            raise IntegrityError(msg)

    def _take_place(self) -> None:
        if self._overwrite:
            os.replace(self._part, self._target)
        else:
            try:
                put_where_nothing_is(self._part, self._target)
            except FileExistsError as error:
                raise self._exists() from error
        self._part = ""  # the name may be another download's part from now on

    def _discard(self) -> None:
        with suppress(OSError):  # there is none before the first chunk, nor after the rename
            os.unlink(self._part)
        with suppress(OSError):
            self._close()
        self._directories.remove()

    def _close(self) -> None:
        descriptor, self._descriptor = self._descriptor, None
        if descriptor is not None:
            if self._kept_as is not None:
                # A child that was forked meanwhile has the descriptor too, and with it the lock.
                with suppress(OSError):
                    fcntl.flock(descriptor, fcntl.LOCK_UN)
            os.close(descriptor)

    def _exists(self) -> DestinationError:
        msg = f"{self.path!r} exists; pass overwrite=True, or choose another name"
        return DestinationError(msg)
