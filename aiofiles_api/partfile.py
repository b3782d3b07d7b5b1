"""A destination in the making: bytes gather in a part file beside it, which takes its place whole.

The part file has a unique name in the destination's own directory, so that the final rename stays
within one file system and is atomic: whoever looks at the destination sees the old file or the
new one, never half of one. Writing happens in a thread, one batch behind whoever brings the bytes;
the last batch, the checks and the rename share one hop, so that a small file costs just that.
"""

from __future__ import annotations

import errno
import fcntl
import hashlib
import os
import random
import re
import stat
import tempfile
import unicodedata
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from functools import partial
from types import TracebackType
from typing import TypeVar

import attrs

from aiofiles_api.errors import (
    DestinationError,
    FilesError,
    IntegrityError,
    InvalidArgumentError,
)
from aiofiles_api.threads import Threads, Work, join, settle

__all__ = ["Destination", "PartFile", "locate", "safe_filename"]

Opened = TypeVar("Opened")

_LONGEST_NAME = 255
"""Bytes that a file system allows a name to have (POSIX NAME_MAX nearly everywhere)."""

_LONGEST_EXTENSION = 32

_ENOUGH = 1000
"""Characters of a long name's beginning, and of its end, that are looked at: fewer are kept."""

_RESERVED = r"(?i)(con|prn|aux|nul|conin\$|conout\$|(com|lpt)[0-9¹²³])(\s|\.|$)"
"""Names of devices on Windows, with anything behind a space or a dot."""

_FORBIDDEN = frozenset('<>:"|?*')
"""What Windows allows in no name."""

_UNSEEN = frozenset({"Cc", "Cf", "Cs", "Zl", "Zp"})
"""Unicode's categories of what does not show, or makes a name show otherwise than it is: control
characters, zero-width and direction marks and tags, surrogates, separators of lines."""

_JOINERS = frozenset("\u200c\u200d")
"""Of those, what Persian and Indic words and composed emoji need."""

_SHOWN = re.compile(
    r"[^\s._\u200c\u200d\u034f\u115f\u1160\u17b4\u17b5\u180b-\u180f\u2065\u2800\u3164"
    r"\ufe00-\ufe0f\uffa0\ufff0-\ufff8\U00013441\U00013442\U0001d159\U000e0000-\U000e0fff]"
)
"""What a name must have one of, to be seen: no space, dot or line, and no character that is drawn
as nothing (Unicode's Default_Ignorable_Code_Point, and a few blanks besides)."""

_random = random.Random()  # noqa: S311 - no secret: O_EXCL sees to it that a name is nobody's yet
"""For names. `os.urandom` would give up the interpreter once more for each file."""

os.register_at_fork(after_in_child=_random.seed)


@attrs.frozen
class Destination:
    """Where a download shall go.

    Attributes:
        path: A file's path, or that of a directory, as it was given.
        is_directory: Whether the file's name is still to be found.
        is_link: Whether the path is a symbolic link to it.
        exists: Whether there is a file already.
    """

    path: str
    is_directory: bool
    is_link: bool = attrs.field(default=False, eq=False)
    exists: bool = attrs.field(default=False, eq=False)

    def with_name(self, filename: str, *, fallback: str) -> Destination:
        """Return the file's own destination, below the directory that this one is.

        To be called in a thread.

        Raises:
            DestinationError: There is something else than a file.
        """
        path = os.path.join(self.path, safe_filename(filename, fallback=fallback))
        place = locate(path)
        if place.is_directory:
            raise DestinationError(f"{path!r} is a directory; pass the path of a file")
        return place


def locate(path: str | os.PathLike[str]) -> Destination:
    """Look what a path is; to be called in a thread.

    A path that ends with a separator is a directory, even if it is still to be made.

    Raises:
        InvalidArgumentError: It is no path.
        DestinationError: It is neither a file nor a directory, or cannot be looked at.
    """
    text = os.fspath(path) if isinstance(path, str | os.PathLike) else None
    if not isinstance(text, str):
        msg = f"destination: pass a path as str or PathLike, not {type(path).__name__}"
        raise InvalidArgumentError(msg)
    is_link = False
    with _OsErrors(text):
        try:
            mode = os.lstat(text).st_mode
            is_link = stat.S_ISLNK(mode)
            if is_link:
                mode = os.stat(text).st_mode
        except FileNotFoundError:
            is_directory = os.path.basename(text) in {"", ".", ".."}
            return Destination(text, is_directory, is_link=is_link)
        if not stat.S_ISDIR(mode) and not stat.S_ISREG(mode):
            msg = f"{text!r} is no regular file; use stream() to write to pipes and devices"
            raise DestinationError(msg)
    return Destination(text, stat.S_ISDIR(mode), is_link=is_link, exists=True)


def safe_filename(filename: str, *, fallback: str) -> str:
    """Return a name that is one plain file in a directory, whatever a server sent.

    Directories are cut off, characters that are unsafe on some system become `_`, names of
    devices and hidden files get a `_` in front, and it is cut to 255 bytes before its extension.

    Args:
        filename: What the server sent.
        fallback: The name to use where nothing of `filename` is left; made safe as well.
    """
    return _one_name(filename) or _one_name(fallback) or "file"


def _one_name(filename: str) -> str:
    """Return such a name, empty where it would not be seen."""
    name = _plain(filename)
    if name.startswith(".") or re.match(_RESERVED, name):
        name = f"_{name.lstrip('.')}"
    stem, extension = os.path.splitext(name)
    if len(extension.encode()) > _LONGEST_EXTENSION:
        stem, extension = name, ""
    name = _cut(stem, _LONGEST_NAME - len(extension.encode())) + extension
    return name if _SHOWN.search(name) else ""


def _plain(filename: str) -> str:
    """Return the last part of a path with what is unsafe replaced."""
    last = filename[max(filename.rfind("/"), filename.rfind("\\")) + 1 :]
    if len(last) > 2 * _ENOUGH:  # which would take long, on the loop in places
        last = last[:_ENOUGH] + last[-_ENOUGH:]
    name = "".join("_" if _is_unsafe(character) else character for character in last)
    return _strip_end(name.lstrip())


def _is_unsafe(character: str) -> bool:
    if character in _FORBIDDEN:
        return True
    return character not in _JOINERS and unicodedata.category(character) in _UNSEEN


def _strip_end(name: str) -> str:
    # Windows drops these by itself, and would open another file. Reversed, the search is linear.
    return re.sub(r"\A[\s.]+", "", name[::-1])[::-1]


def _cut(text: str, size: int) -> str:
    encoded = text.encode()
    return text if len(encoded) <= size else _strip_end(encoded[:size].decode(errors="ignore"))


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
        self._made: list[str] = []
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
        with _OsErrors(self.path):
            # What a link points to is replaced, not the link.
            self._target = os.path.realpath(self.path) if place.is_link else _absolute(self.path)
            self._replaces = place.exists
            # A link to nothing is something too: whoever made it would choose where we write.
            if not self._overwrite and (place.exists or place.is_link):
                raise self._exists()
            if self._durable:
                with suppress(FileNotFoundError):  # it is made when there is something to write
                    os.close(_open_directory(os.path.dirname(self._target)))
            return 0 if self._kept_as is None else self._continue(self._kept_as)

    def _continue(self, kept_as: str) -> int:
        """Open and lock what an earlier download has left; another process may be at it now."""
        part = self._kept_part(kept_as)
        descriptor = _open_locked(part)
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
        with _OsErrors(self.path):
            for offset in offsets:
                take(os.pread(descriptor, _REREAD, offset))

    def _kept_part(self, kept_as: str) -> str:
        name = hashlib.sha256(kept_as.encode()).hexdigest()[:24]
        return os.path.join(os.path.dirname(self._target), f".{name}.part")

    def _begin_kept(self, part: str, descriptor: int) -> None:
        self._part, self._descriptor = part, descriptor
        # Or it could not be opened again; the rest is taken over at the end.
        self._take_over_mode(descriptor, besides=stat.S_IRUSR | stat.S_IWUSR)

    def _restart(self) -> None:
        if self._descriptor is not None:
            with _OsErrors(self.path):
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
        with _OsErrors(self.path):
            descriptor = self._open() if self._descriptor is None else self._descriptor
            _write_all(descriptor, chunks)
            self._has_gap = False
        if self._hash is not None:
            for chunk in chunks:
                self._hash.update(chunk)
        return descriptor

    def _open(self) -> int:
        if self._kept_as is not None:
            part = self._kept_part(self._kept_as)
            locked = self._in_directory(partial(_open_locked, part, mode=self._first_mode))
            if locked is not None:
                os.ftruncate(locked, 0)  # another one may have left something since we looked
                self._begin_kept(part, locked)
                return locked
            self._kept_as = None  # somebody else is at it: take a private one
        part = os.path.join(os.path.dirname(self._target), f".{_random.getrandbits(96):024x}.part")
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
        descriptor = self._in_directory(partial(os.open, part, flags, self._first_mode))
        self._descriptor = descriptor
        self._part = part
        self._take_over_mode(descriptor)
        return descriptor

    def _in_directory(self, open_file: Callable[[], Opened]) -> Opened:
        """Open a file; if its directory is missing, make that first."""
        for _ in range(_MOST_REMOVALS):
            try:
                return open_file()
            except FileNotFoundError:
                with suppress(FileNotFoundError):
                    self._make(os.path.dirname(self._target))
        return open_file()

    def _make(self, directory: str) -> None:
        """Make a directory and those above it that are missing."""
        missing = []
        while not os.path.exists(directory):
            missing.append(directory)
            directory = os.path.dirname(directory)
        for path in reversed(missing):
            with self._synced(os.path.dirname(path)):
                try:
                    os.mkdir(path)
                except FileExistsError:  # another download has made it meanwhile
                    if os.path.islink(path):  # to nothing
                        raise
                else:
                    self._made.append(path)

    @property
    def _first_mode(self) -> int:
        """A part file's mode until it gets the one of the file that it will replace."""
        return 0o600 if self._replaces else 0o666

    def _take_over_mode(self, descriptor: int, *, besides: int = 0) -> None:
        """See that whoever could not read the file before cannot read the new one."""
        if self._replaces:
            with suppress(FileNotFoundError):
                old = os.stat(self._target)
                mode = old.st_mode & 0o777 | besides
                allowed = stat.S_IRWXU
                try:
                    acl = _acl(self._target)
                    if acl is None:  # else a list, which may refuse some of the others
                        allowed |= mode >> 3 & stat.S_IRWXO
                    os.fchown(descriptor, -1, old.st_gid)
                    _set_acl(descriptor, acl)
                except OSError:
                    # We are not in that group, say: ours has no right to it, and whoever is in that
                    # one, or on the list, is one of the others now.
                    mode &= allowed
                os.fchmod(descriptor, mode)

    def _commit(self, chunks: Sequence[bytes | memoryview]) -> None:
        descriptor = self._write(chunks)
        if self._hash is not None and self._hash.hexdigest() != self._sha256:
            msg = (
                f"downloading to {self.path!r}: the content's sha256 is"
                f" {self._hash.hexdigest()}, not {self._sha256}; nothing was put there"
            )
            raise IntegrityError(msg)
        with _OsErrors(self.path):
            if self._kept_as is not None:
                self._take_over_mode(descriptor)
            if self._durable:
                os.fsync(descriptor)
            # Some file systems tell only at a close that there is no space.
            if self._kept_as is None:
                self._close()
            else:
                # The last one comes after the rename: whoever gets the lock sees the part gone.
                os.close(os.dup(descriptor))
            with self._synced(os.path.dirname(self._target)):
                if self._overwrite:
                    os.replace(self._part, self._target)
                else:
                    self._put_where_nothing_is()
                self._part = ""  # the name may be another download's part from now on
                self._made.clear()
            self._close()

    def _synced(self, directory: str) -> AbstractContextManager[None]:
        """Sync a directory into which something is put, if that is to be durable."""
        return _synced(directory) if self._durable else nullcontext()

    def _put_where_nothing_is(self) -> None:
        try:
            # Unlike a rename, a link fails where something is, and it decides that atomically.
            os.link(self._part, self._target)
        except FileExistsError as error:
            raise self._exists() from error
        except OSError as error:
            if error.errno not in _NO_LINKS:
                raise
            self._reserve_and_replace()
        else:
            os.unlink(self._part)

    def _reserve_and_replace(self) -> None:
        """Do the same on a file system without links: take the name first, empty."""
        try:
            os.close(os.open(self._target, os.O_CREAT | os.O_EXCL | os.O_CLOEXEC))
        except FileExistsError as error:
            raise self._exists() from error
        try:
            os.replace(self._part, self._target)
        except OSError:
            os.unlink(self._target)
            raise

    def _discard(self) -> None:
        with suppress(OSError):  # there is none before the first chunk, nor after the rename
            os.unlink(self._part)
        with suppress(OSError):
            self._close()
        for directory in reversed(self._made):
            with suppress(OSError):  # another download may have put something there
                os.rmdir(directory)

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


def _set_acl(descriptor: int, acl: bytes | None) -> None:
    """Give a part file this access control list, or see that it has none.

    Where a file has one, the group's bits of its mode are what the list allows at most: with the
    same bits and another list, others may read it.

    Raises:
        OSError: It cannot be given, or not be taken away.
    """
    if acl is not None:
        os.setxattr(descriptor, _ACL, acl)
    elif _acl(descriptor) is not None:  # the directory's, or that of what was there earlier
        os.fchmod(descriptor, stat.S_IRUSR | stat.S_IWUSR)
        os.removexattr(descriptor, _ACL)


def _acl(file: str | int) -> bytes | None:
    """Return a file's access control list, if it has one, and its file system such lists."""
    if not hasattr(os, "getxattr"):  # Linux alone has it
        return None
    try:
        return os.getxattr(file, _ACL)
    except OSError as error:
        if error.errno not in _NO_ACL:
            raise
        return None


def _absolute(path: str) -> str:
    # Not os.path.abspath: behind a link to a directory, ".." is another one than it seems.
    return path if os.path.isabs(path) else os.path.join(os.getcwd(), path)


_REREAD = 1024 * 1024
"""Bytes read at a time to take up the digest of what an earlier download has left."""

_READ_AT_ONCE = 32 * _REREAD
"""Bytes of that for which whoever is cancelled has to wait."""

_MOST_REMOVALS = 10
"""How often a directory is made anew that downloads which have failed remove meanwhile."""

_ACL = "system.posix_acl_access"

_NO_ACL = {errno.ENODATA, errno.EOPNOTSUPP, errno.ENOTSUP, errno.ENOSYS}

_NO_LINKS = {errno.EPERM, errno.EOPNOTSUPP, errno.ENOTSUP, errno.ENOSYS, errno.EMLINK}

_MOST_BUFFERS = 1024
"""Buffers in one call of writev (Linux: IOV_MAX)."""


def _write_all(descriptor: int, chunks: Sequence[bytes | memoryview]) -> None:
    pending = [memoryview(chunk) for chunk in chunks if chunk]
    while pending:
        written = os.writev(descriptor, pending[:_MOST_BUFFERS])
        while pending and written >= len(pending[0]):
            written -= len(pending.pop(0))
        if written:
            pending[0] = pending[0][written:]


def _open_locked(part: str, *, mode: int | None = None) -> int | None:
    """Open a part file for one process alone; `None` when another one has it, or another user.

    With a `mode`, it is made with that where there is none.
    """
    while (descriptor := _open_own(part, mode)) is not None:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if _is_still(descriptor, part):
                return descriptor
        except BlockingIOError:
            os.close(descriptor)
            return None
        except BaseException:
            os.close(descriptor)
            raise
        os.close(descriptor)
    return None


def _open_own(part: str, mode: int | None) -> int | None:
    """Open a part file, or make it if a mode is given; `None` if there is none of our user's own.

    In a directory for many, its owner chose what is in it, and may change it later.
    """
    # Never O_TRUNC: it may be another's, or by the time we have the lock the finished file.
    flags = os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK
    while True:
        if mode is not None:
            with suppress(FileExistsError):
                return os.open(part, flags | os.O_CREAT | os.O_EXCL, mode)
        try:
            descriptor = os.open(part, flags)
        except FileNotFoundError:
            if mode is not None:
                continue  # it has been renamed meanwhile: it is a finished file now
            return None
        except OSError:
            return None  # another user's, a link, a directory: there is no way to continue it
        status = os.fstat(descriptor)
        if stat.S_ISREG(status.st_mode) and _is_own(status.st_uid, os.path.dirname(part)):
            return descriptor
        os.close(descriptor)
        return None


def _is_own(owner: int, directory: str) -> bool:
    """Return whether the files that this process makes in a directory have this owner."""
    if owner == os.geteuid():
        return True
    # Some file systems give all that is made to one user (FAT, CIFS, NFS's root_squash).
    with suppress(OSError), tempfile.TemporaryFile(dir=directory) as file:
        return os.fstat(file.fileno()).st_uid == owner
    return False


def _is_still(descriptor: int, part: str) -> bool:
    """Return whether an open file is what its path still names, and nothing else names it."""
    mine = os.fstat(descriptor)
    try:
        there = os.stat(part, follow_symlinks=False)
    except FileNotFoundError:
        return False  # it has been renamed: it is a finished file now
    if not os.path.samestat(mine, there):
        return False
    if mine.st_nlink > 1:
        # A crash between the link to the destination and the removal: writing would change that.
        os.unlink(part)
        return False
    return True


@contextmanager
def _synced(directory: str) -> Iterator[None]:
    """Sync a directory when something has been put into it; see before that this is possible.

    Raises:
        DestinationError: It may not be read, and nothing has been put into it.
    """
    descriptor = _open_directory(directory)
    try:
        yield
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _open_directory(directory: str) -> int:
    try:
        return os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except PermissionError as error:
        msg = (
            f"{directory!r} may not be read, so nothing in it can be synced; choose a directory"
            " that you may read, or pass durable=False"
        )
        raise DestinationError(msg) from error


_REMEDIES = {
    errno.ENOSPC: "free some space",
    errno.EDQUOT: "free some space",
    errno.EACCES: "choose a directory that you may write to",
    errno.EPERM: "choose a directory that you may write to",
    errno.EROFS: "choose a directory that you may write to",
    errno.EFBIG: "choose a file system for larger files, or raise the limit (ulimit -f)",
    errno.ENOENT: "the directory or its part file has vanished; see what removed it, and try again",
    errno.EISDIR: "it has become a directory; choose another name",
    errno.ENOTDIR: "a part of the path is a file; choose another one",
    errno.ENAMETOOLONG: "choose a shorter name",
}


class _OsErrors:
    """Turns what the operating system refuses into our error, with what to do about it."""

    __slots__ = ("_destination",)

    def __init__(self, destination: str) -> None:
        self._destination = destination

    def __enter__(self) -> None:
        pass

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        # ValueError: a path that holds a NUL.
        if not isinstance(error, OSError | ValueError):
            return
        code = error.errno if isinstance(error, OSError) else None
        reason = os.strerror(code) if code else str(error)
        remedy = _REMEDIES.get(code or 0, "check the path")
        msg = f"cannot write {self._destination!r}: {reason}; {remedy}"
        raise DestinationError(msg) from error
