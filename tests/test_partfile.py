"""A destination in the making: all of the content or nothing, whatever happens meanwhile."""

from __future__ import annotations

import asyncio
import errno
import fcntl
import hashlib
import os
import re
import secrets
import shutil
import stat
import struct
import subprocess
import sys
import tempfile
import threading
import unicodedata
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import TypeVar

import anyio
import pytest
from blockbuster import BlockBuster
from hypothesis import example, given
from hypothesis import strategies as st

from aiofiles_api import (
    DestinationError,
    FilesError,
    IntegrityError,
    InvalidArgumentError,
)
from aiofiles_api.partfile import (
    Destination,
    PartFile,
    disk,
    filenames,
    locate,
    safe_filename,
)
from aiofiles_api.partfile import part as part_module
from aiofiles_api.threads import Threads, Work, join, settle

pytestmark = pytest.mark.anyio

T = TypeVar("T")

CONTENT = os.urandom(300_000)


class HeldThreads(Threads):
    """Threads that can be held up."""

    def __init__(self) -> None:
        super().__init__()
        self.gate = threading.Event()
        self.gate.set()

    def start(self, function: Callable[[], T]) -> Work[T]:
        def held() -> T:
            assert self.gate.wait(10)
            return function()

        return super().start(held)


@pytest.fixture(params=["nameless", "named"])
async def threads(request: pytest.FixtureRequest) -> AsyncIterator[HeldThreads]:
    """Give threads on systems that have files without a name, and on others."""
    threads = HeldThreads()
    with pytest.MonkeyPatch.context() as patch:
        if request.param == "named":
            patch.setattr(disk, "_has_nameless_files", lambda: False)
        yield threads
    threads.close()


@pytest.fixture(autouse=True)
def no_descriptor_stays_open() -> Iterator[None]:
    def regular_files() -> set[str]:
        paths = set()
        for name in os.listdir("/proc/self/fd"):
            try:
                target = os.readlink(f"/proc/self/fd/{name}")
            except FileNotFoundError:
                continue
            if "pytest-of-" in target:
                paths.add(f"{name} {target}")
        return paths

    before = regular_files()
    yield
    assert regular_files() <= before


def part_file(
    path: Path,
    threads: Threads,
    *,
    overwrite: bool = True,
    durable: bool = False,
    sha256: str | None = None,
) -> PartFile:
    return PartFile(path, threads, overwrite=overwrite, durable=durable, sha256=sha256)


async def put(part: PartFile, content: bytes = CONTENT, *, size: int = 100_000) -> None:
    """Write content as a download does, and remove what is left when that fails."""
    try:
        await part.prepare()
        chunks = [content[start : start + size] for start in range(0, len(content), size)]
        for chunk in chunks[:-1]:
            await part.append([chunk])
        await part.commit(chunks[-1:])
    except BaseException:
        await part.discard()
        raise


def names(directory: Path) -> list[str]:
    return sorted(os.listdir(directory))


# --- the destination ----------------------------------------------------------------------------


@pytest.mark.parametrize("content", [b"", b"x", CONTENT], ids=["empty", "small", "large"])
async def test_the_content_takes_the_destinations_place(
    threads: Threads, tmp_path: Path, content: bytes
) -> None:
    part = part_file(tmp_path / "a", threads)
    await put(part, content)
    assert (tmp_path / "a").read_bytes() == content
    await part.discard()  # too late to remove anything
    assert names(tmp_path) == ["a"]


async def test_the_destination_never_holds_half_of_the_content(
    threads: Threads, tmp_path: Path
) -> None:
    path = tmp_path / "a"
    path.write_bytes(b"old")
    part = part_file(path, threads)
    await part.prepare()
    for start in range(0, len(CONTENT), 50_000):
        await part.append([CONTENT[start : start + 50_000]])
        assert path.read_bytes() == b"old"
    await part.commit([b"end"])
    assert path.read_bytes() == CONTENT + b"end"


async def test_discarding_leaves_the_directory_as_it_was(threads: Threads, tmp_path: Path) -> None:
    path = tmp_path / "a"
    path.write_bytes(b"old")
    part = part_file(path, threads)
    await part.prepare()
    await part.append([CONTENT])
    await part.append([CONTENT])
    await part.discard()
    await part.discard()
    assert names(tmp_path) == ["a"]
    assert path.read_bytes() == b"old"


async def test_discarding_before_the_first_chunk_is_nothing(
    threads: Threads, tmp_path: Path
) -> None:
    part = part_file(tmp_path / "a", threads)
    await part.discard()
    await part.prepare()
    await part.discard()
    assert names(tmp_path) == []


async def test_preparing_touches_nothing(threads: Threads, tmp_path: Path) -> None:
    await part_file(tmp_path / "new" / "a", threads).prepare()
    assert names(tmp_path) == []


async def test_missing_directories_are_made(threads: Threads, tmp_path: Path) -> None:
    await put(part_file(tmp_path / "new" / "deep" / "a", threads))
    assert (tmp_path / "new" / "deep" / "a").read_bytes() == CONTENT


async def test_a_directory_that_another_makes_meanwhile_will_do(
    threads: Threads, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = os.mkdir

    def mkdir(path: str) -> None:
        real(path)
        real(path)

    monkeypatch.setattr(os, "mkdir", mkdir)
    await put(part_file(tmp_path / "new" / "deep" / "a", threads))
    assert (tmp_path / "new" / "deep" / "a").read_bytes() == CONTENT


@pytest.mark.parametrize("removed", ["new", "deep"])
async def test_a_directory_that_another_removes_meanwhile_is_made_again(
    threads: Threads, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, removed: str
) -> None:
    real, times = os.mkdir, 0

    def mkdir(path: str) -> None:
        nonlocal times
        real(path)
        if os.path.basename(path) == removed and times < 2:
            times += 1
            os.rmdir(path)

    monkeypatch.setattr(os, "mkdir", mkdir)
    await put(part_file(tmp_path / "new" / "deep" / "a", threads))
    assert times == 2
    assert (tmp_path / "new" / "deep" / "a").read_bytes() == CONTENT


async def test_a_directory_that_is_removed_whenever_it_is_made_is_said(
    threads: Threads, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "mkdir", lambda _path: None)
    with pytest.raises(DestinationError, match="No such file or directory"):
        await put(part_file(tmp_path / "new" / "a", threads))


@pytest.mark.parametrize("is_kept", [False, True])
async def test_where_nothing_is_left_the_directories_that_were_made_go_too(
    threads: Threads,
    tmp_path: Path,
    is_kept: bool,  # noqa: FBT001
) -> None:
    (tmp_path / "there").mkdir()
    path = tmp_path / "there" / "new" / "deep" / "a"
    make = kept_part if is_kept else part_file
    with pytest.raises(IntegrityError):
        await put(make(path, threads, sha256="0" * 64))
    assert names(tmp_path) == ["there"]
    assert names(tmp_path / "there") == []


async def test_what_cannot_be_made_wholly_leaves_no_half_of_it(
    threads: Threads, tmp_path: Path
) -> None:
    with pytest.raises(DestinationError, match="File name too long"):
        await put(part_file(tmp_path / "new" / ("x" * 256) / "a", threads))
    assert names(tmp_path) == []


@pytest.mark.parametrize("kept", ["part", "another's"])
async def test_directories_that_were_made_stay_where_something_is_in_them(
    threads: Threads, tmp_path: Path, kept: str
) -> None:
    path = tmp_path / "new" / "deep" / "a"
    if kept == "part":
        await leave(kept_part(path, threads), CONTENT)
    else:
        part = part_file(path, threads)
        await part.prepare()
        await part.append([CONTENT])
        await part.written()
        (tmp_path / "new" / "b").touch()
        await part.discard()
    assert names(tmp_path / "new") == (["deep"] if kept == "part" else ["b"])


async def test_directories_that_were_made_are_not_removed_behind_the_file(
    threads: Threads, tmp_path: Path
) -> None:
    part = part_file(tmp_path / "new" / "a", threads)
    await put(part)
    (tmp_path / "new" / "a").unlink()
    await part.discard()
    assert names(tmp_path) == ["new"]


async def test_no_directory_is_made_through_a_link_to_nothing(
    threads: Threads, tmp_path: Path
) -> None:
    (tmp_path / "link").symlink_to("target")
    with pytest.raises(DestinationError, match="File exists"):
        await put(part_file(tmp_path / "link" / "deep" / "a", threads))
    assert names(tmp_path) == ["link"]


async def test_a_name_of_255_bytes_is_no_problem(threads: Threads, tmp_path: Path) -> None:
    await put(part_file(tmp_path / ("x" * 255), threads))
    assert names(tmp_path) == ["x" * 255]


async def test_many_small_chunks_are_written_in_one_go(threads: Threads, tmp_path: Path) -> None:
    chunks = [bytes([number % 256]) * (number % 7) for number in range(5_000)]
    part = part_file(tmp_path / "a", threads)
    await part.prepare()
    await part.append(chunks)
    await part.commit(chunks)
    assert (tmp_path / "a").read_bytes() == b"".join(chunks) * 2


@given(
    st.lists(st.binary(max_size=50), max_size=20),
    st.lists(st.integers(1, 60), min_size=1),
)
def test_what_the_system_writes_in_part_is_written_to_its_end(
    tmp_path_factory: pytest.TempPathFactory, chunks: list[bytes], portions: list[int]
) -> None:
    from aiofiles_api.partfile.disk import write_all  # noqa: PLC0415

    written = bytearray()
    turn = 0

    def writev(descriptor: int, buffers: Sequence[memoryview]) -> int:
        nonlocal turn
        assert 0 < len(buffers) <= 1_024
        assert all(buffers)
        portion = b"".join(buffers)[: portions[turn % len(portions)]]
        turn += 1
        written.extend(portion)
        return len(portion)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "writev", writev)
        write_all(7, chunks)
    assert written == b"".join(chunks)


async def test_the_mode_of_a_file_that_is_replaced_is_kept(
    threads: Threads, tmp_path: Path
) -> None:
    path = tmp_path / "a"
    path.write_bytes(b"secret")
    path.chmod(0o4640)
    await put(part_file(path, threads))
    assert stat.S_IMODE(path.stat().st_mode) == 0o640  # but it runs as nobody else any more


def watch_groups(patch: pytest.MonkeyPatch, *, refuse: bool = False) -> list[tuple[int, int]]:
    """Return which groups will be given to files of which modes."""
    given: list[tuple[int, int]] = []
    real = os.fchown

    def fchown(descriptor: int, owner: int, group: int) -> None:
        given.append((stat.S_IMODE(os.fstat(descriptor).st_mode), group))
        if refuse:
            raise PermissionError(errno.EPERM, "Operation not permitted")
        real(descriptor, owner, group)

    patch.setattr(os, "fchown", fchown)
    return given


@pytest.mark.parametrize("is_kept", [True, False])
async def test_nobody_can_open_what_will_replace_a_file_before_it_has_that_ones_group_and_mode(
    threads: Threads, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, *, is_kept: bool
) -> None:
    path = tmp_path / "a"
    path.write_bytes(b"secret")
    path.chmod(0o640)
    if os.geteuid() == 0:  # who else may give it to any group
        os.chown(path, -1, 1234)
    before = path.stat()
    given = watch_groups(monkeypatch)
    await put((kept_part if is_kept else part_file)(path, threads))
    assert given[0] == (0o600, before.st_gid)
    assert (path.stat().st_mode, path.stat().st_gid) == (before.st_mode, before.st_gid)


@pytest.mark.parametrize(("mode", "left"), [(0o664, 0o604), (0o604, 0o600), (0o646, 0o604)])
async def test_where_the_group_cannot_be_kept_no_other_one_gets_its_rights_nor_that_one_more(
    threads: Threads, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, mode: int, left: int
) -> None:
    path = tmp_path / "a"
    path.write_bytes(b"secret")
    path.chmod(mode)
    assert watch_groups(monkeypatch, refuse=True) == []
    await put(part_file(path, threads))
    assert stat.S_IMODE(path.stat().st_mode) == left


ACL = "system.posix_acl_access"

Entry = tuple[int, int, int]


def acl(*named: Entry, mode: int) -> bytes:
    """Return an access control list: entries of named users, and what a mode allows.

    Where there is a named user, the group's bits of the mode are the mask.
    """
    owner, group, other = mode >> 6 & 7, mode >> 3 & 7, mode & 7
    nobody = 0xFFFFFFFF
    entries = [(1, owner, nobody), *named, (4, 0 if named else group, nobody)]
    entries += [(16, group, nobody)] * bool(named) + [(32, other, nobody)]
    return struct.pack("<I", 2) + b"".join(struct.pack("<HHI", *entry) for entry in entries)


FRIEND = acl((2, 4, 5555), mode=0o640)
"""What `chmod 600` and then `setfacl -m u:5555:r` make; the owning group may not read it."""


def set_acl(path: Path, entries: bytes, kind: str = ACL) -> None:
    try:
        os.setxattr(path, kind, entries)
    except OSError:
        pytest.skip("the file system has no access control lists")


def acl_of(path: Path) -> bytes | None:
    try:
        return os.getxattr(path, ACL)
    except OSError:
        return None


@pytest.mark.parametrize("is_kept", [True, False])
async def test_the_access_control_list_of_a_file_that_is_replaced_is_kept(
    threads: Threads, tmp_path: Path, *, is_kept: bool
) -> None:
    path = tmp_path / "a"
    path.write_bytes(b"secret")
    set_acl(path, FRIEND)
    await put((kept_part if is_kept else part_file)(path, threads))
    assert acl_of(path) == FRIEND
    assert stat.S_IMODE(path.stat().st_mode) == 0o640


@pytest.mark.parametrize("is_kept", [True, False])
async def test_what_replaces_a_file_without_a_list_gets_none_of_the_directorys(
    threads: Threads, tmp_path: Path, *, is_kept: bool
) -> None:
    path = tmp_path / "a"
    path.write_bytes(b"secret")
    path.chmod(0o640)
    set_acl(tmp_path, FRIEND, "system.posix_acl_default")
    await put((kept_part if is_kept else part_file)(path, threads))
    assert acl_of(path) is None
    assert stat.S_IMODE(path.stat().st_mode) == 0o640
    await put(part_file(tmp_path / "new", threads))
    assert acl_of(tmp_path / "new") == FRIEND  # as for every file that is made there


async def test_a_kept_part_loses_its_list_with_the_file_that_it_will_replace(
    threads: Threads, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "a"
    path.write_bytes(b"secret")
    set_acl(path, FRIEND)
    await leave(kept_part(path, threads), CONTENT)
    os.removexattr(path, ACL)
    path.chmod(0o600)
    [part] = tmp_path.glob(".*.part")
    assert acl_of(part) == FRIEND
    modes, real = [], os.removexattr

    def removexattr(descriptor: int, name: str) -> None:
        real(descriptor, name)
        modes.append(stat.S_IMODE(os.fstat(descriptor).st_mode))

    monkeypatch.setattr(os, "removexattr", removexattr)
    await put(kept_part(path, threads), b"")
    assert acl_of(path) is None
    assert modes == [0o600]  # without the list, those bits would be the group's for a moment
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


@pytest.mark.parametrize("refused", ["setxattr", "getxattr"])
async def test_where_the_list_cannot_be_kept_only_the_owner_keeps_rights(
    threads: Threads, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, refused: str
) -> None:
    def refuse(*_: object) -> None:
        raise PermissionError(errno.EPERM, "Operation not permitted")

    path = tmp_path / "a"
    path.write_bytes(b"secret")
    set_acl(path, acl((2, 0, 5555), mode=0o644))  # one who is not even one of the others
    monkeypatch.setattr(os, refused, refuse)
    await put(part_file(path, threads))
    monkeypatch.undo()
    assert acl_of(path) is None
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


@pytest.mark.parametrize("has_function", [True, False])
async def test_where_there_are_no_lists_the_mode_is_kept_all_the_same(
    threads: Threads, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, *, has_function: bool
) -> None:
    def refuse(*_: object) -> None:
        raise OSError(errno.EOPNOTSUPP, "Operation not supported")

    path = tmp_path / "a"
    path.write_bytes(b"secret")
    path.chmod(0o640)
    if has_function:
        monkeypatch.setattr(os, "getxattr", refuse)
    else:
        monkeypatch.delattr(os, "getxattr")
    await put(part_file(path, threads))
    assert path.read_bytes() == CONTENT
    assert stat.S_IMODE(path.stat().st_mode) == 0o640


async def test_the_mode_of_a_new_file_is_what_the_umask_says(
    threads: Threads, tmp_path: Path
) -> None:
    before = os.umask(0o027)
    try:
        await put(part_file(tmp_path / "a", threads))
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / "a").stat().st_mode) == 0o640


async def test_what_a_link_points_to_is_replaced_and_the_link_stays(
    threads: Threads, tmp_path: Path
) -> None:
    (tmp_path / "there").mkdir()
    target = tmp_path / "there" / "target"
    target.write_bytes(b"old")
    link = tmp_path / "link"
    link.symlink_to("there/target")
    await put(part_file(link, threads))
    assert link.is_symlink()
    assert target.read_bytes() == CONTENT
    assert names(tmp_path / "there") == ["target"]
    with pytest.raises(DestinationError, match="exists; pass overwrite=True"):
        await put(part_file(link, threads, overwrite=False))


async def test_a_link_to_nothing_gets_its_target(threads: Threads, tmp_path: Path) -> None:
    link = tmp_path / "link"
    link.symlink_to("target")
    assert await asyncio.to_thread(locate, link) == Destination(str(link), is_directory=False)
    await put(part_file(link, threads))
    assert link.is_symlink()
    assert (tmp_path / "target").read_bytes() == CONTENT


# --- overwrite=False ----------------------------------------------------------------------------


async def test_an_existing_file_is_refused_before_anything_is_written(
    threads: Threads, tmp_path: Path
) -> None:
    path = tmp_path / "a"
    path.write_bytes(b"old")
    with pytest.raises(DestinationError, match=r"'.*/a' exists; pass overwrite=True, or choose"):
        await part_file(path, threads, overwrite=False).prepare()


@pytest.mark.parametrize("filename", [None, "link"])
async def test_a_link_to_nothing_is_something_that_exists(
    threads: Threads, tmp_path: Path, filename: str | None
) -> None:
    (tmp_path / "link").symlink_to("target")
    part = part_file(tmp_path if filename else tmp_path / "link", threads, overwrite=False)
    with pytest.raises(DestinationError, match="link' exists; pass overwrite=True"):
        await part.prepare(filename)
    assert names(tmp_path) == ["link"]


def no_links(patch: pytest.MonkeyPatch, code: int) -> None:
    def link(source: str, _target: str, **_: object) -> None:
        raise OSError(code, os.strerror(code), source)

    patch.setattr(os, "link", link)


WITHOUT_LINKS = [None, errno.EPERM, errno.ENOTSUP, errno.EOPNOTSUPP, errno.EMLINK, errno.ENOSYS]


@pytest.mark.parametrize("code", WITHOUT_LINKS)
async def test_a_new_file_is_put_where_nothing_is(
    threads: Threads, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: int | None
) -> None:
    if code is not None:
        no_links(monkeypatch, code)
    await put(part_file(tmp_path / "a", threads, overwrite=False))
    assert (tmp_path / "a").read_bytes() == CONTENT
    assert names(tmp_path) == ["a"]


@pytest.mark.parametrize("code", WITHOUT_LINKS)
async def test_of_two_that_finish_together_exactly_one_wins(
    threads: Threads, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: int | None
) -> None:
    if code is not None:
        no_links(monkeypatch, code)
    path = tmp_path / "a"
    parts = [part_file(path, threads, overwrite=False) for _ in range(8)]
    for number, part in enumerate(parts):
        await part.prepare()
        await part.append([bytes([number]) * 1_000])
    outcomes = await asyncio.gather(*(part.commit([]) for part in parts), return_exceptions=True)
    for part in parts:
        await part.discard()
    winners = [number for number, outcome in enumerate(outcomes) if outcome is None]
    assert len(winners) == 1
    assert path.read_bytes() == bytes(winners) * 1_000
    for outcome in outcomes:
        assert outcome is None or isinstance(outcome, DestinationError)
        assert outcome is None or "exists; pass overwrite=True" in str(outcome)
    assert names(tmp_path) == ["a"]


async def test_a_failure_after_the_name_was_taken_gives_the_name_back(
    threads: Threads, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def replace(source: str, target: str) -> None:
        raise OSError(errno.EIO, "Input/output error", source)

    no_links(monkeypatch, errno.EPERM)
    monkeypatch.setattr(os, "replace", replace)
    with pytest.raises(DestinationError, match="Input/output error"):
        await put(part_file(tmp_path / "a", threads, overwrite=False))
    assert names(tmp_path) == []


async def test_another_failure_to_link_is_no_reason_to_go_another_way(
    threads: Threads, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    no_links(monkeypatch, errno.ENOSPC)
    with pytest.raises(DestinationError, match="No space left on device; free some space"):
        await put(part_file(tmp_path / "a", threads, overwrite=False))
    assert names(tmp_path) == []


# --- checks -------------------------------------------------------------------------------------


async def test_the_right_digest_is_accepted(threads: Threads, tmp_path: Path) -> None:
    digest = hashlib.sha256(CONTENT).hexdigest()
    await put(part_file(tmp_path / "a", threads, sha256=digest))
    assert (tmp_path / "a").read_bytes() == CONTENT


async def test_a_wrong_digest_puts_nothing_there(threads: Threads, tmp_path: Path) -> None:
    path = tmp_path / "a"
    path.write_bytes(b"old")
    came = hashlib.sha256(CONTENT).hexdigest()
    with pytest.raises(IntegrityError, match=f"sha256 is {came}, not {'0' * 64}; nothing was put"):
        await put(part_file(path, threads, sha256="0" * 64))
    assert path.read_bytes() == b"old"
    assert names(tmp_path) == ["a"]


@pytest.mark.parametrize("overwrite", [True, False])
async def test_what_is_durable_is_synced_before_and_after_it_takes_its_place(
    threads: Threads,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    overwrite: bool,  # noqa: FBT001
) -> None:
    path = tmp_path / "a"
    synced = watch_syncs(path, monkeypatch)
    await put(part_file(path, threads, overwrite=overwrite))
    assert synced == []
    path.unlink()
    await put(part_file(path, threads, overwrite=overwrite, durable=True))
    assert synced == [("*", False), (tmp_path.name, True)]


def watch_syncs(path: Path, patch: pytest.MonkeyPatch) -> list[tuple[str, bool]]:
    """Gather the names of what is synced, and whether there is something at `path` then."""
    synced: list[tuple[str, bool]] = []
    real = os.fsync

    def fsync(descriptor: int) -> None:
        target = Path(os.readlink(f"/proc/self/fd/{descriptor}"))
        name = re.sub(r"^\.\w{24}\.part$|^#\d+ \(deleted\)$", "*", target.name)
        synced.append((name, path.exists()))
        real(descriptor)

    patch.setattr(os, "fsync", fsync)
    return synced


async def test_directories_that_were_made_are_durable_too(
    threads: Threads, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "new" / "deep" / "a"
    synced = watch_syncs(path, monkeypatch)
    await put(part_file(path, threads, durable=True))
    made = [(tmp_path.name, False), ("new", False)]
    assert synced == [*made, ("*", False), ("deep", True)]


async def test_no_directory_is_made_where_it_cannot_be_durable(
    threads: Threads, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    unreadable(tmp_path, monkeypatch)
    with pytest.raises(DestinationError, match="may not be read"):
        await put(part_file(tmp_path / "new" / "a", threads, durable=True))
    assert names(tmp_path) == []


def unreadable(directory: Path, patch: pytest.MonkeyPatch) -> None:
    """Let a directory be one that may be written to, and not read; root may read any."""
    real = os.open

    def open_(path: str, flags: int, *rest: int) -> int:
        if path == str(directory) and not flags & os.O_WRONLY:
            raise PermissionError(errno.EACCES, "Permission denied")
        return real(path, flags, *rest)

    patch.setattr(os, "open", open_)


async def test_what_cannot_be_durable_is_refused_before_anything_is_asked(
    threads: Threads, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    unreadable(tmp_path, monkeypatch)
    with pytest.raises(DestinationError, match="may not be read, so nothing in it can be synced"):
        await part_file(tmp_path / "a", threads, durable=True).prepare()
    await put(part_file(tmp_path / "a", threads))
    assert names(tmp_path) == ["a"]


async def test_what_cannot_be_durable_any_more_takes_no_place(
    threads: Threads, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "a").write_bytes(b"old")
    part = part_file(tmp_path / "a", threads, durable=True)
    await part.prepare()
    unreadable(tmp_path, monkeypatch)
    with pytest.raises(DestinationError, match="or pass durable=False"):
        await part.commit([CONTENT])
    await part.discard()
    assert names(tmp_path) == ["a"]
    assert (tmp_path / "a").read_bytes() == b"old"


# --- what the system refuses --------------------------------------------------------------------


def full_disk(patch: pytest.MonkeyPatch) -> None:
    real = os.writev

    def writev(descriptor: int, buffers: Sequence[memoryview]) -> int:
        if sum(map(len, buffers)) > 10:
            return real(descriptor, [b"".join(buffers)[:10]])
        raise OSError(errno.ENOSPC, "No space left on device")

    patch.setattr(os, "writev", writev)


async def test_a_full_disk_leaves_nothing_behind(
    threads: Threads, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    full_disk(monkeypatch)
    with pytest.raises(DestinationError, match=r"cannot write '.*/a': No space left on device; fr"):
        await put(part_file(tmp_path / "a", threads))
    assert names(tmp_path) == []


async def test_a_failure_behind_the_scenes_comes_out_with_the_next_call(
    threads: Threads, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    full_disk(monkeypatch)
    for next_call in ("append", "commit"):
        part = part_file(tmp_path / "a", threads)
        await part.prepare()
        await part.append([CONTENT])
        with pytest.raises(DestinationError, match="free some space"):
            await getattr(part, next_call)([CONTENT])
        await part.discard()
    assert names(tmp_path) == []


def test_a_limit_of_the_system_is_an_error_of_ours_and_leaves_nothing(tmp_path: Path) -> None:
    program = """
import asyncio, resource, signal, sys
from pathlib import Path
from aiofiles_api import DestinationError
from aiofiles_api.partfile import PartFile
from aiofiles_api.threads import Threads

async def main():
    threads = Threads()
    path = Path(sys.argv[1], "a")
    part = PartFile(path, threads, overwrite=True, durable=False, sha256=None)
    await part.prepare()
    try:
        await part.append([b"x" * 5_000] * 10)
        await part.commit([])
    except DestinationError as error:
        print(error)
    await part.discard()
    threads.close()

signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
before = resource.getrlimit(resource.RLIMIT_FSIZE)
resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, before[1]))
asyncio.run(main())
resource.setrlimit(resource.RLIMIT_FSIZE, before)  # what measures coverage writes at the end
"""
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", program, str(tmp_path)],
        capture_output=True,
        text=True,
        check=True,
    )
    assert "File too large; choose a file system for larger files, or raise" in done.stdout
    assert names(tmp_path) == []


async def test_a_directory_that_vanishes_meanwhile_is_said(
    threads: Threads, tmp_path: Path
) -> None:
    directory = tmp_path / "there"
    part = part_file(directory / "a", threads)
    await part.prepare()
    await part.append([CONTENT])
    await part.append([CONTENT])
    for entry in directory.iterdir():
        entry.unlink()
    directory.rmdir()
    with pytest.raises(DestinationError, match="No such file or directory; the directory or its"):
        await part.commit([CONTENT])
    await part.discard()
    assert names(tmp_path) == []


def when_made(patch: pytest.MonkeyPatch, done: Callable[[], object]) -> None:
    """Have something done when a file that shall become a download's has been made."""
    real = os.open

    def open_(path: str, flags: int, *rest: int) -> int:
        descriptor = real(path, flags, *rest)
        if flags & os.O_TMPFILE == os.O_TMPFILE or flags & os.O_CREAT:
            patch.undo()
            done()
        return descriptor

    patch.setattr(os, "open", open_)


@pytest.mark.parametrize("overwrite", [True, False])
async def test_what_comes_meanwhile_is_replaced_or_refused(
    threads: Threads, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, *, overwrite: bool
) -> None:
    path = tmp_path / "a"
    digest = hashlib.sha256(CONTENT).hexdigest()
    part = part_file(path, threads, overwrite=overwrite, sha256=digest)
    await part.prepare()
    when_made(monkeypatch, partial(path.write_bytes, b"other"))
    if overwrite:
        await part.commit([CONTENT])
    else:
        with pytest.raises(DestinationError, match="exists; pass overwrite=True"):
            await part.commit([CONTENT])
        await part.discard()
    assert path.read_bytes() == (CONTENT if overwrite else b"other")
    assert names(tmp_path) == ["a"]


async def test_small_content_is_put_into_a_directory_that_vanishes_meanwhile(
    threads: Threads, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Another download may have made it, failed, and removed it, since there was nothing in it.
    part = part_file(tmp_path / "new" / "a", threads)
    await part.prepare()
    when_made(monkeypatch, partial(shutil.rmtree, tmp_path / "new"))
    if await asyncio.to_thread(disk._has_nameless_files):
        await part.commit([CONTENT])
        assert (tmp_path / "new" / "a").read_bytes() == CONTENT
    else:
        with pytest.raises(DestinationError, match="the directory or its part file has vanished"):
            await part.commit([CONTENT])


async def test_where_nothing_may_be_linked_small_content_comes_in_a_part_file(
    threads: Threads, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    no_links(monkeypatch, errno.EACCES)
    digest = hashlib.sha256(CONTENT).hexdigest()
    part = part_file(tmp_path / "a", threads, durable=True, sha256=digest)
    await part.prepare()
    await part.commit([CONTENT])
    assert (tmp_path / "a").read_bytes() == CONTENT
    assert names(tmp_path) == ["a"]


@pytest.mark.parametrize("durable", [False, True])
async def test_small_content_is_right_durable_and_of_the_umasks_mode(
    threads: Threads, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, *, durable: bool
) -> None:
    path = tmp_path / "deep" / "a"
    synced = watch_syncs(path, monkeypatch)
    before = os.umask(0o027)
    try:
        part = part_file(path, threads, durable=durable, overwrite=False)
        await part.prepare()
        await part.commit([b"small"])
    finally:
        os.umask(before)
    assert path.read_bytes() == b"small"
    assert stat.S_IMODE(path.stat().st_mode) == 0o640
    assert synced == ([(tmp_path.name, False), ("*", False), ("deep", True)] if durable else [])


async def test_small_content_of_a_wrong_digest_leaves_nothing(
    threads: Threads, tmp_path: Path
) -> None:
    part = part_file(tmp_path / "deep" / "a", threads, sha256="0" * 64)
    await part.prepare()
    with pytest.raises(IntegrityError, match="nothing was put there"):
        await part.commit([CONTENT])
    await part.discard()
    assert names(tmp_path) == []


@pytest.mark.parametrize("size", [100_000, 1_000_000])
async def test_what_was_wrong_may_come_again_and_be_right(
    threads: Threads, tmp_path: Path, size: int
) -> None:
    part = part_file(tmp_path / "a", threads, sha256=hashlib.sha256(CONTENT).hexdigest())
    await part.prepare()
    with pytest.raises(IntegrityError):
        await part.commit([CONTENT[::-1]])
    await part.restart()
    for start in range(0, len(CONTENT) - size, size):
        await part.append([CONTENT[start : start + size]])
    await part.commit([CONTENT[-size:]])
    assert (tmp_path / "a").read_bytes() == CONTENT
    assert names(tmp_path) == ["a"]


@pytest.mark.parametrize("release", ["5.19.17", "6.0", "23.1.0-rc1", "?"])
@pytest.mark.parametrize("lacks", ["nothing", "O_TMPFILE", "/proc"])
def test_files_without_a_name_are_those_of_a_linux_that_heeds_the_umask(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, release: str, lacks: str
) -> None:
    disk._has_nameless_files.cache_clear()
    monkeypatch.setattr(os, "uname", lambda: SimpleNamespace(release=release))
    monkeypatch.setattr(os, "O_TMPFILE", 0o20200000, raising=False)
    if lacks == "O_TMPFILE":
        monkeypatch.delattr(os, "O_TMPFILE")
    if lacks == "/proc":
        monkeypatch.setattr(disk, "_OPEN_FILES", os.fspath(tmp_path / "nothing"))
    has_them = disk._has_nameless_files()
    disk._has_nameless_files.cache_clear()
    assert has_them == (lacks == "nothing" and release in {"6.0", "23.1.0-rc1"})


@pytest.mark.parametrize("code", [errno.EOPNOTSUPP, errno.ENOSPC])
async def test_where_a_file_system_has_no_files_without_a_name_there_are_part_files(
    threads: Threads, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: int
) -> None:
    real = os.open

    def open_(path: str, flags: int, *rest: int) -> int:
        if flags & os.O_TMPFILE == os.O_TMPFILE:
            raise OSError(code, os.strerror(code))
        return real(path, flags, *rest)

    monkeypatch.setattr(os, "open", open_)
    part = part_file(tmp_path / "a", threads)
    await part.prepare()
    if code == errno.ENOSPC and await asyncio.to_thread(disk._has_nameless_files):
        with pytest.raises(DestinationError, match="free some space"):
            await part.commit([CONTENT])
    else:
        await part.commit([CONTENT])
        assert (tmp_path / "a").read_bytes() == CONTENT


async def test_a_destination_that_becomes_a_directory_meanwhile_stays_one(
    threads: Threads, tmp_path: Path
) -> None:
    part = part_file(tmp_path / "a", threads)
    await part.prepare()
    await part.append([CONTENT])
    (tmp_path / "a").mkdir()
    with pytest.raises(DestinationError, match="Is a directory; it has become a directory"):
        await part.commit([])
    await part.discard()
    assert names(tmp_path) == ["a"]


async def test_a_path_through_a_file_is_refused(threads: Threads, tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(DestinationError, match="Not a directory; a part of the path is a file"):
        await asyncio.to_thread(locate, tmp_path / "file" / "a")
    for below in ("a", "deep/a"):
        with pytest.raises(DestinationError, match="cannot write"):
            await put(part_file(tmp_path / "file" / below, threads))
    assert names(tmp_path) == ["file"]


async def test_a_directory_that_one_may_not_write_to_is_said(
    threads: Threads, tmp_path: Path
) -> None:
    directory = tmp_path / "there"
    directory.mkdir()
    directory.chmod(0o500)
    with ExitStack() as stack:
        if os.geteuid() == 0:  # whom no mode keeps out
            os.seteuid(65_534)
            stack.callback(os.seteuid, 0)
        with pytest.raises(DestinationError, match="Permission denied; choose a directory that"):
            await put(part_file(directory / "a", threads))
    assert names(directory) == []


async def test_a_part_file_that_cannot_be_removed_hides_no_other_error(
    threads: Threads, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def close(descriptor: int) -> None:
        real(descriptor)
        raise OSError(errno.EIO, "Input/output error")

    part = part_file(tmp_path / "a", threads)
    await part.prepare()
    await part.append([CONTENT])
    await part.append([])
    real = os.close
    with monkeypatch.context() as patch:
        patch.setattr(os, "close", close)
        await part.discard()
    assert names(tmp_path) == []


class NoThreads(Threads):
    """Threads of which none can be started at times."""

    def __init__(self) -> None:
        super().__init__()
        self.are_there = True

    def _send_another(self, loop: asyncio.AbstractEventLoop) -> None:
        if self.are_there:
            super()._send_another(loop)
        else:
            self._give_up(RuntimeError("can't start new thread"))


@pytest.fixture
async def no_threads(no_blocking_call: BlockBuster) -> AsyncIterator[NoThreads]:
    no_blocking_call.functions["os.unlink"].can_block_in(
        "aiofiles_api/partfile/part.py", "_clean_up"
    )
    threads = NoThreads()
    yield threads
    threads.close()


@pytest.mark.parametrize("end", ["discard", "keep"])
async def test_where_no_thread_can_be_started_nothing_stays_open(
    no_threads: NoThreads, tmp_path: Path, end: str
) -> None:
    part = await begun_part(tmp_path / "file", no_threads)
    no_threads.are_there = False
    with pytest.raises(FilesError, match="no thread can be started"):
        await part.commit([b" and more"])
    await (part.discard() if end == "discard" else part.keep([]))
    assert [path.read_bytes() for path in tmp_path.iterdir()] == [b"some"] * (end == "keep")


# --- where it shall go --------------------------------------------------------------------------


def test_a_path_is_a_file_or_a_directory(tmp_path: Path) -> None:
    file, directory = tmp_path / "file", tmp_path / "directory"
    file.write_bytes(b"")
    directory.mkdir()
    (tmp_path / "to directory").symlink_to(directory)
    assert locate(file) == Destination(str(file), is_directory=False)
    assert locate(str(file)) == Destination(str(file), is_directory=False)
    assert locate(tmp_path / "new") == Destination(f"{tmp_path}/new", is_directory=False)
    assert locate(directory) == Destination(str(directory), is_directory=True)
    assert locate(tmp_path / "to directory").is_directory
    assert locate(f"{tmp_path}/new/") == Destination(f"{tmp_path}/new/", is_directory=True)
    assert locate("").is_directory
    for behind in (".", "..", "sub/."):
        assert locate(f"{tmp_path}/new/{behind}").is_directory


def test_a_directory_gets_the_servers_filename_made_safe(tmp_path: Path) -> None:
    place = locate(tmp_path).with_name("../../etc/passwd", fallback="file-1")
    assert place == Destination(f"{tmp_path}/passwd", is_directory=False)
    assert locate(tmp_path).with_name("..", fallback="../x").path == f"{tmp_path}/x"


def test_what_is_no_regular_file_is_refused(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    for path in (tmp_path / "pipe", "/dev/null", "/dev/full"):
        with pytest.raises(DestinationError, match="is no regular file; use stream"):
            locate(path)


@pytest.mark.parametrize("path", [None, 7, b"/tmp/a", ["a"]], ids=repr)
def test_what_is_no_path_is_refused_by_its_kind(path: str) -> None:
    with pytest.raises(InvalidArgumentError, match=f"PathLike, not {type(path).__name__}$"):
        locate(path)


def test_a_path_of_bytes_within_an_object_is_refused() -> None:
    class Odd(os.PathLike[bytes]):
        def __fspath__(self) -> bytes:
            return b"/tmp/a"

    with pytest.raises(InvalidArgumentError, match=r"PathLike, not Odd$"):
        locate(Odd())  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("path", "reason"),
    [
        ("a\0b", "null (byte|character)[^;]*; check the path"),
        ("a\ud800", "surrogates not allowed; check the path"),
        ("x" * 300, "File name too long; choose a shorter name"),
        ("loop", "Too many levels of symbolic links; check the path"),
    ],
)
def test_a_path_that_cannot_be_looked_at_is_refused(tmp_path: Path, path: str, reason: str) -> None:
    (tmp_path / "loop").symlink_to("loop")
    with pytest.raises(DestinationError, match=f"^cannot write .*: .*{reason}$"):
        locate(f"{tmp_path}/{path}")


# --- names from servers -------------------------------------------------------------------------

DEVICES = ["con", "PRN", "Aux", "nul", "COM1", "lpt9", "com²", "CONIN$", "con.txt", "Nul.tar.gz"]

UNSEEN = {"Cc", "Cf", "Cs", "Zl", "Zp"}

hostile = (
    st.text(st.characters())
    | st.text(st.sampled_from('./\\:*?"<>| \t\n\0\u200b\u202e\u2028\xa0\ud800_cona\u0301ä日\u3164'))
    | st.sampled_from(DEVICES).flatmap(lambda name: st.text(" ./x").map(lambda end: name + end))
    | st.builds("{}.{}".format, st.text("ax .", max_size=400), st.text("bx .", max_size=400))
)


@given(hostile, hostile)
@example("", "")
@example("con" + " " * 300 + "b.txt", "")
@example("." * 300, "../../etc/passwd")
@example("a." + " " * 40 + "x", "")
@example("日" * 100 + ".jsonl", "")
@example("_", "\ud800")
@example("\u200c" * 300 + "x", "_" * 300 + "x")
@example("\u3164" * 300 + "x" + "\u3164" * 3000, "")
def test_a_safe_name_is_one_plain_file_on_every_system(filename: str, fallback: str) -> None:
    name = safe_filename(filename, fallback=fallback)
    assert name not in {"", ".", ".."}
    assert os.path.basename(name) == name
    assert not re.search(r'[/\\<>:"|?*]', name)
    assert not {unicodedata.category(character) for character in name} & UNSEEN
    assert len(name.encode()) <= 255
    assert not name.startswith(".")
    assert not name[-1].isspace()
    assert not name.endswith(".")
    assert name.split(".")[0].strip().upper() not in {name.upper() for name in DEVICES}
    assert safe_filename(name, fallback=fallback) == name
    assert safe_filename(name, fallback="another") == name


@pytest.mark.parametrize(
    ("filename", "name"),
    [
        ("train.jsonl", "train.jsonl"),
        ("Zeugnis für Ärzte (2).pdf", "Zeugnis für Ärzte (2).pdf"),
        ("../../etc/passwd", "passwd"),
        ("/etc/passwd", "passwd"),
        ("C:\\x\\y.txt", "y.txt"),
        ("..\\..\\y.txt", "y.txt"),
        ("a\0b.txt", "a_b.txt"),
        ("a:b.txt", "a_b.txt"),
        ("invoice\u202efdp.exe", "invoice_fdp.exe"),
        ("train\u200b.jsonl", "train_.jsonl"),
        ("\u0645\u06cc\u200c\u062e\u0648.jsonl", "\u0645\u06cc\u200c\u062e\u0648.jsonl"),
        ("a\u200f\u061c\u2066b\u2028.txt", "a___b_.txt"),
        ("\ufeffa\U000e0001\U000e0041.txt", "_a__.txt"),
        (".bashrc", "_bashrc"),
        ("...x", "_x"),
        ("name. . .", "name"),
        (" name.txt ", "name.txt"),
        ("con", "_con"),
        ("NUL.tar.gz", "_NUL.tar.gz"),
        ("com1 .txt", "_com1 .txt"),
        ("console.log", "console.log"),
        ("x" * 300 + ".jsonl", "x" * 249 + ".jsonl"),
        ("ä" * 300 + ".jsonl", "ä" * 124 + ".jsonl"),
        ("a." + "b" * 300, "a." + "b" * 253),
        ("\ud800.txt", "_.txt"),
        ("\u2764\ufe0f.txt", "\u2764\ufe0f.txt"),
        ("\u3164.txt", "\u3164.txt"),
    ],
)
def test_a_name_is_kept_as_far_as_it_is_safe(filename: str, name: str) -> None:
    assert safe_filename(filename, fallback="file-1") == name


NOTHING = ["", ".", "..", "a/", "/", "\\", " ", "___", ". .", "\0", "?", "\u200b", "\u200d."]

FILLERS = "\u034f\u115f\u1160\u17b4\u180b\u2065\u2800\u3164\ufe0f\uffa0\ufff0\U0001d159\U000e0100"
"""Characters that are no spaces, and show as nothing."""


@pytest.mark.parametrize("nothing", [*NOTHING, *FILLERS, FILLERS, ".\ufe0f", "\u3164" * 300 + "x"])
def test_where_nothing_is_left_the_fallback_is_made_safe(nothing: str) -> None:
    assert safe_filename(nothing, fallback="file-1") == "file-1"
    assert safe_filename(nothing, fallback="../con") == "_con"
    assert safe_filename(nothing, fallback=nothing) == "file"


def test_a_name_of_a_million_characters_takes_no_time() -> None:
    assert safe_filename(" ." * 500_000 + "x", fallback="").endswith("x")
    assert safe_filename("a" + " ." * 500_000 + "x", fallback="").startswith("a")


def test_of_a_name_of_a_million_characters_only_few_are_looked_at(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    looked, is_unsafe = 0, filenames._is_unsafe

    def look(character: str) -> bool:
        nonlocal looked
        looked += 1
        return is_unsafe(character)

    monkeypatch.setattr(filenames, "_is_unsafe", look)
    name = "../" + "ä" * 1_000_000 + ".jsonl"
    assert safe_filename(name, fallback="") == "ä" * 124 + ".jsonl"
    assert looked < 10_000


# --- cancellation -------------------------------------------------------------------------------


@pytest.mark.parametrize("by", ["task", "scope"])
@pytest.mark.parametrize(
    "stage", ["prepare", "first append", "second append", "commit", "commit alone", "discard"]
)
async def test_cancelling_at_any_stage_leaves_nothing_behind(
    threads: HeldThreads, tmp_path: Path, stage: str, by: str
) -> None:
    part = part_file(tmp_path / "a", threads)
    running = asyncio.get_running_loop()

    def hold(reached: str) -> None:
        if reached == stage:
            threads.gate.clear()
            running.call_later(0.01, cancel)
            running.call_later(0.03, threads.gate.set)

    async def transfer() -> None:
        try:
            hold("prepare")
            await part.prepare()
            if stage != "commit alone":
                hold("first append")
                await part.append([CONTENT])
                hold("second append")
                await part.append([CONTENT])
            hold("commit")
            hold("commit alone")
            await part.commit([CONTENT])
        finally:
            hold("discard")
            await part.discard()

    if by == "task":
        task = asyncio.create_task(transfer())
        cancel: Callable[[], object] = task.cancel
        with pytest.raises(asyncio.CancelledError):
            await task
    else:
        with anyio.CancelScope() as scope:
            cancel = scope.cancel
            await transfer()
        assert scope.cancelled_caught
    # What has begun to take its place is carried to its end: all of it is there.
    found = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    nothing: dict[str, bytes] = {}
    all_of_it, commit_alone = {"a": CONTENT * 3}, {"a": CONTENT}
    allowed = {
        "commit": [nothing, all_of_it],  # by whether the batch before was written already
        "commit alone": [commit_alone],
        "discard": [all_of_it],
    }
    assert found in allowed.get(stage, [nothing])


async def test_a_part_file_has_a_name_of_its_own(threads: Threads, tmp_path: Path) -> None:
    parts = [part_file(tmp_path / "a", threads) for _ in range(3)]
    for part in parts:
        await part.prepare()
        await part.append([secrets.token_bytes(10)])
        await part.append([])
    assert len(names(tmp_path)) == 3
    assert all(re.fullmatch(r"\.[0-9a-f]{24}\.part", name) for name in names(tmp_path))
    for part in parts:
        await part.discard()
    assert names(tmp_path) == []


# --- part files that are kept --------------------------------------------------------------------


def kept_part(
    path: Path, threads: Threads, *, overwrite: bool = True, sha256: str | None = None
) -> PartFile:
    return PartFile(
        path,
        threads,
        overwrite=overwrite,
        durable=False,
        sha256=sha256,
        kept_as="server and file",
    )


async def begun_part(path: Path, threads: Threads) -> PartFile:
    part = kept_part(path, threads)
    await part.prepare()
    await part.append([b"some"])
    await part.written()
    return part


async def test_a_kept_part_is_one_processs_alone(threads: Threads, tmp_path: Path) -> None:
    first, second = (kept_part(tmp_path / "file", threads) for _ in range(2))
    assert await first.prepare() == 0
    await first.append([b"first"])
    assert await second.prepare() == 0
    await second.append([b"second"])
    await second.commit([])
    await first.keep([b" and more"])
    assert (tmp_path / "file").read_bytes() == b"second"
    third = kept_part(tmp_path / "file", threads)
    assert await third.prepare() == len(b"first and more")
    await third.commit([])
    assert (tmp_path / "file").read_bytes() == b"first and more"
    assert names(tmp_path) == ["file"]


async def test_a_forked_child_keeps_no_lock_of_a_part(threads: Threads, tmp_path: Path) -> None:
    part = await begun_part(tmp_path / "file", threads)
    [path] = tmp_path.iterdir()
    assert part._descriptor is not None
    childs = os.dup(part._descriptor)  # it shares the lock, as what a fork copies does
    try:
        assert is_locked(str(path))
        await part.keep([])
        assert not is_locked(str(path))
    finally:
        os.close(childs)


async def test_a_file_system_that_cannot_unlock_keeps_no_descriptor_open(
    threads: Threads, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> None:
        raise OSError(errno.ENOLCK, "No locks available")

    part = await begun_part(tmp_path / "file", threads)
    monkeypatch.setattr(fcntl, "flock", refuse)
    await part.keep([])  # what stays open fails each test here


async def test_a_part_that_is_finished_while_another_waits_to_lock_it_is_left_alone(
    threads: Threads, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, second = (kept_part(tmp_path / "file", threads) for _ in range(2))
    await first.prepare()
    await first.append([CONTENT])
    lock, finished = fcntl.flock, False

    def finish_before(descriptor: int, operation: int) -> None:
        # The other process has opened the part file, and gets its lock only now.
        nonlocal finished
        if not finished:
            finished = True
            first._commit([])
        lock(descriptor, operation)

    await first.written()
    monkeypatch.setattr(fcntl, "flock", finish_before)
    assert await second.prepare() == 0
    await second.commit([b"second"])
    assert (tmp_path / "file").read_bytes() == b"second"


async def test_a_part_that_is_finished_before_it_is_opened_is_made_anew(
    threads: Threads, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    part, opening = kept_part(tmp_path / "file", threads), os.open
    await part.prepare()
    await leave(kept_part(tmp_path / "file", threads), b"left")

    def finish_before(path: str, flags: int, mode: int = 0o777) -> int:
        if not flags & os.O_CREAT:
            monkeypatch.undo()
            os.unlink(path)
        return opening(path, flags, mode)

    monkeypatch.setattr(os, "open", finish_before)
    await part.commit([CONTENT])
    [path] = tmp_path.iterdir()
    assert path.read_bytes() == CONTENT


async def test_a_part_that_was_replaced_before_the_lock_is_opened_anew(
    threads: Threads, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    await leave(kept_part(tmp_path / "file", threads), b"old, and longer")
    part, lock, replaced = kept_part(tmp_path / "file", threads), fcntl.flock, False

    def replace_before(descriptor: int, operation: int) -> None:
        nonlocal replaced
        if not replaced:
            replaced = True
            [path] = tmp_path.iterdir()
            path.unlink()
            path.write_bytes(b"new")
        lock(descriptor, operation)

    monkeypatch.setattr(fcntl, "flock", replace_before)
    assert await part.prepare() == 3
    await part.discard()


async def leave(part: PartFile, content: bytes) -> None:
    await part.prepare()
    await part.keep([content])


async def test_a_download_that_waits_holds_nothing_open_and_leaves_nothing(
    threads: Threads, tmp_path: Path
) -> None:
    part = kept_part(tmp_path / "folder" / "file", threads)
    with nothing_open():
        assert await part.prepare() == 0
    assert not list(tmp_path.iterdir())
    await part.commit([CONTENT])
    assert (tmp_path / "folder" / "file").read_bytes() == CONTENT


@contextmanager
def nothing_open() -> Iterator[None]:
    before = set(os.listdir("/proc/self/fd"))
    yield
    assert set(os.listdir("/proc/self/fd")) == before


async def test_whoever_finds_the_part_in_use_keeps_nothing(
    threads: Threads, tmp_path: Path
) -> None:
    first, second = (kept_part(tmp_path / "file", threads) for _ in range(2))
    for part in (first, second):
        await part.prepare()
        await part.append([CONTENT])
        await part.written()
    assert len(list(tmp_path.iterdir())) == 2
    await second.keep([])
    assert len(list(tmp_path.iterdir())) == 1
    await first.keep([])
    assert len(list(tmp_path.iterdir())) == 1


async def test_what_another_one_left_meanwhile_is_not_continued(
    threads: Threads, tmp_path: Path
) -> None:
    part = kept_part(tmp_path / "file", threads)
    assert await part.prepare() == 0
    await leave(kept_part(tmp_path / "file", threads), CONTENT + CONTENT)
    await part.append([b"from the "])
    await part.commit([b"beginning"])
    [path] = tmp_path.iterdir()
    assert path.read_bytes() == b"from the beginning"


async def test_whoever_discards_what_is_in_its_place_leaves_the_next_one_s_part_alone(
    threads: Threads, tmp_path: Path
) -> None:
    first, second = kept_part(tmp_path / "file", threads), kept_part(tmp_path / "file", threads)
    await first.prepare()
    await first.commit([CONTENT])
    await second.prepare()
    await second.append([b"second"])
    await second.written()
    await first.keep([])
    await second.commit([b""])
    assert (tmp_path / "file").read_bytes() == b"second"


async def test_a_file_system_without_locks_is_said(
    threads: Threads, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_locks(_descriptor: int, _operation: int) -> None:
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

    await leave(kept_part(tmp_path / "file", threads), b"left")
    monkeypatch.setattr(fcntl, "flock", no_locks)
    with pytest.raises(DestinationError, match=r"[Ll]ock"):
        await kept_part(tmp_path / "file", threads).prepare()
    part = PartFile(
        tmp_path / "file",
        threads,
        overwrite=True,
        durable=False,
        sha256=None,
        kept_as="another",
    )
    await part.prepare()
    with pytest.raises(DestinationError, match=r"[Ll]ock"):
        await part.commit([CONTENT])


def test_a_forked_process_gives_other_names_than_its_parent() -> None:
    program = """
import os, sys
from aiofiles_api.partfile.disk import _random
readable, writable = os.pipe()
if not os.fork():
    os.write(writable, str(_random.random()).encode())
    os._exit(0)
os.close(writable)
sys.exit(os.read(readable, 100).decode() == str(_random.random()))
"""
    subprocess.run([sys.executable, "-c", program], check=True)


def _no_space() -> int:
    raise DestinationError("full")


async def test_chunks_are_hurried_only_when_nothing_is_being_written(
    threads: HeldThreads, tmp_path: Path
) -> None:
    part = part_file(tmp_path / "file", threads)
    await part.prepare()
    assert part.append_if_idle([b"1"])
    busy = Work(_no_space)
    written, part._writing = part._writing, busy
    assert not part.append_if_idle([b"2"])
    busy.run()
    busy.finish()
    assert not part.append_if_idle([b"2"])
    assert written is not None
    await join(written)
    part._writing = None
    assert part.append_if_idle([b"3"])
    await part.commit([])
    assert (tmp_path / "file").read_bytes() == b"13"


async def test_what_cannot_be_written_when_it_is_to_be_kept_hides_no_other_error(
    threads: Threads, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    part = await begun_part(tmp_path / "file", threads)
    full_disk(monkeypatch)
    await part.keep([b"more"])
    [left] = tmp_path.iterdir()
    assert left.read_bytes() == b"some"


@pytest.mark.parametrize("end", ["commit", "commit beside", "discard"])
async def test_the_lock_is_held_until_the_part_has_gone(
    threads: Threads, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, end: str
) -> None:
    # Otherwise another process may lock it in between, and write into the finished file.
    held: list[bool] = []

    def watch(name: str) -> None:
        real = getattr(os, name)

        def watched(path: str, *args: str) -> None:
            held.append(is_locked(path))
            real(path, *args)

        monkeypatch.setattr(os, name, watched)

    part = kept_part(tmp_path / "file", threads, overwrite=end != "commit beside")
    await part.prepare()
    await part.append([CONTENT])
    for name in ("replace", "unlink"):
        watch(name)
    await (part.discard() if end == "discard" else part.commit([]))
    assert held == [True]
    assert names(tmp_path) == ([] if end == "discard" else ["file"])


async def left_behind(threads: Threads, directory: Path) -> Path:
    """Leave a part file in an empty directory, and return its path."""
    part = kept_part(directory / "file", threads)
    await part.prepare()
    await part.append([b"left"])
    await part.keep([])
    [left] = directory.iterdir()
    return left


async def test_what_another_user_has_left_is_neither_continued_nor_changed(
    threads: Threads, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # In a directory for many, as /tmp: its owner chose what is in it.
    left = await left_behind(threads, tmp_path)
    real, planted = os.fstat, left.stat().st_ino

    def fstat(descriptor: int) -> os.stat_result:
        status = real(descriptor)
        is_planted = status.st_ino == planted
        return os.stat_result((*status[:4], status.st_uid + is_planted, *status[5:10]))

    monkeypatch.setattr(os, "fstat", fstat)
    part = kept_part(tmp_path / "file", threads)
    assert await part.prepare() == 0
    await part.commit([CONTENT])
    assert (tmp_path / "file").read_bytes() == CONTENT
    assert left.read_bytes() == b"left"


@pytest.mark.parametrize("kind", ["link", "broken link", "directory", "socket", "pipe"])
async def test_what_cannot_be_opened_where_a_part_file_would_be_is_left_alone(
    threads: Threads, tmp_path: Path, kind: str
) -> None:
    left = await left_behind(threads, tmp_path)
    left.unlink()
    (tmp_path / "other").write_bytes(b"other")
    if kind == "directory":
        left.mkdir()
    elif kind == "socket":
        os.mknod(left, stat.S_IFSOCK | 0o600)
    elif kind == "pipe":
        os.mkfifo(left)
    else:
        left.symlink_to(tmp_path / ("other" if kind == "link" else "nothing"))
    part = kept_part(tmp_path / "file", threads)
    assert await part.prepare() == 0
    await part.commit([CONTENT])
    assert (tmp_path / "file").read_bytes() == CONTENT
    assert (tmp_path / "other").read_bytes() == b"other"
    assert names(tmp_path) == sorted([left.name, "file", "other"])


@pytest.mark.parametrize("can_look", [True, False])
async def test_where_all_files_have_one_owner_what_was_left_is_continued(
    threads: Threads, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, *, can_look: bool
) -> None:
    # On FAT, CIFS or NFS (root_squash) what we make is not ours.
    def refuse(**_: object) -> None:
        raise PermissionError(errno.EACCES, "Permission denied")

    left = await left_behind(threads, tmp_path)
    us = os.geteuid()
    monkeypatch.setattr(os, "geteuid", lambda: us + 1)
    if not can_look:
        monkeypatch.setattr(tempfile, "TemporaryFile", refuse)
    part = kept_part(tmp_path / "file", threads)
    assert await part.prepare() == (len(b"left") if can_look else 0)
    await part.commit([CONTENT])
    assert (tmp_path / "file").read_bytes() == b"left" * can_look + CONTENT
    assert names(tmp_path) == (["file"] if can_look else sorted([left.name, "file"]))


async def test_a_part_file_that_takes_its_place_while_it_is_opened_is_made_anew(
    threads: Threads, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    left = await left_behind(threads, tmp_path)
    real = os.open

    def open_late(path: str, flags: int, *mode: int) -> int:
        if path == str(left) and not flags & os.O_CREAT:
            left.rename(tmp_path / "finished")
        return real(path, flags, *mode)

    monkeypatch.setattr(os, "open", open_late)
    part = kept_part(tmp_path / "file", threads)
    assert await part.prepare() == 0
    await part.commit([CONTENT])
    assert (tmp_path / "file").read_bytes() == CONTENT
    assert (tmp_path / "finished").read_bytes() == b"left"


def is_locked(path: str) -> bool:
    with open(path, "rb") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
    return False


async def test_nothing_is_written_behind_what_could_not_be_written(
    threads: Threads, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    part = await begun_part(tmp_path / "file", threads)
    with monkeypatch.context() as patch:
        full_disk(patch)
        await part.append([b"a batch that fits in part"])
        assert part._writing is not None
        await settle(part._writing)  # nobody has been told of the failure yet
    await part.keep([b"more, and now there is space again"])
    [left] = tmp_path.iterdir()
    assert left.read_bytes() == b"some" + b"a batch that fits in"


async def test_nothing_is_written_behind_what_no_thread_could_be_started_for(
    no_threads: NoThreads, tmp_path: Path
) -> None:
    part = await begun_part(tmp_path / "file", no_threads)
    no_threads.are_there = False
    assert part.append_if_idle([b"lost"])
    assert part._writing is not None
    await settle(part._writing)  # nobody has been told of the failure yet
    no_threads.are_there = True
    await part.keep([b"more"])
    [left] = tmp_path.iterdir()
    assert left.read_bytes() == b"some"


@pytest.mark.parametrize(("mode", "kept"), [(0o600, 0o600), (0o440, 0o640)])
async def test_a_kept_part_is_as_secret_as_what_it_will_replace_and_can_be_continued(
    threads: Threads, tmp_path: Path, mode: int, kept: int
) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"old")
    path.chmod(mode)
    part = kept_part(path, threads)
    await part.prepare()
    await part.append([b""])
    await part.written()
    [left] = set(tmp_path.iterdir()) - {path}
    assert stat.S_IMODE(left.stat().st_mode) == kept
    await part.append([b"left"])
    await part.keep([])
    assert stat.S_IMODE(left.stat().st_mode) == kept
    part = kept_part(path, threads)
    assert await part.prepare() == len(b"left")
    await part.commit([CONTENT])
    assert path.read_bytes() == b"left" + CONTENT
    assert stat.S_IMODE(path.stat().st_mode) == mode


async def test_what_could_not_take_its_place_is_kept(
    threads: Threads, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def replace(_source: str, _target: str) -> None:
        raise OSError(errno.EIO, "Input/output error")

    part = kept_part(tmp_path / "file", threads)
    await part.prepare()
    with monkeypatch.context() as patch:
        patch.setattr(os, "replace", replace)
        with pytest.raises(DestinationError, match="Input/output"):
            await part.commit([CONTENT])
    await part.keep([])
    again = kept_part(tmp_path / "file", threads)
    assert await again.prepare() == len(CONTENT)
    await again.commit([])
    assert (tmp_path / "file").read_bytes() == CONTENT


@pytest.mark.parametrize("at_once", [32 * 2**20, 2**20, 100_000])
async def test_a_kept_part_is_read_again_for_the_digest(
    threads: Threads, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, at_once: int
) -> None:
    monkeypatch.setattr(part_module, "_READ_AT_ONCE", at_once)
    monkeypatch.setattr(part_module, "_REREAD", min(at_once, 2**20))
    content = CONTENT * 5  # more than is read at a time
    digest = hashlib.sha256(content).hexdigest()
    first, second = (kept_part(tmp_path / "file", threads, sha256=digest) for _ in range(2))
    await first.prepare()
    await first.keep([content[:1_200_000]])
    assert await second.prepare() == 1_200_000
    await second.commit([content[1_200_000:]])
    assert (tmp_path / "file").read_bytes() == content


async def test_a_cancellation_waits_for_a_piece_of_what_is_read_again_and_not_for_all(
    threads: Threads, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    await leave(kept_part(tmp_path / "file", threads), CONTENT)
    part = kept_part(tmp_path / "file", threads, sha256="0" * 64)
    reads, read, loop = 0, os.pread, asyncio.get_running_loop()

    def pread(descriptor: int, size: int, offset: int) -> bytes:
        nonlocal reads
        reads += 1
        loop.call_soon_threadsafe(task.cancel)
        return read(descriptor, size, offset)

    monkeypatch.setattr(part_module, "_READ_AT_ONCE", 10)
    monkeypatch.setattr(part_module, "_REREAD", 10)
    monkeypatch.setattr(os, "pread", pread)
    task = asyncio.create_task(part.prepare())
    with pytest.raises(asyncio.CancelledError):
        await task
    assert reads == 1
    await part.keep([])
    [left] = tmp_path.iterdir()
    assert left.read_bytes() == CONTENT


@pytest.mark.parametrize("is_checked", [True, False])
@pytest.mark.parametrize("before", [[], [b"wrong"]], ids=["nothing", "something"])
async def test_beginning_anew_forgets_what_was_written(
    threads: Threads,
    tmp_path: Path,
    before: list[bytes],
    is_checked: bool,  # noqa: FBT001
) -> None:
    sha256 = hashlib.sha256(CONTENT).hexdigest() if is_checked else None
    part = part_file(tmp_path / "file", threads, sha256=sha256)
    await part.prepare()
    if before:
        await part.append(before)
    await part.restart()
    await part.commit([CONTENT])
    assert (tmp_path / "file").read_bytes() == CONTENT


async def test_without_a_name_to_keep_it_under_nothing_is_kept(
    threads: Threads, tmp_path: Path
) -> None:
    part = part_file(tmp_path / "file", threads)
    await part.prepare()
    await part.append([b"some"])
    await part.keep([b" and more"])
    assert names(tmp_path) == []


async def test_an_empty_part_is_not_kept(threads: Threads, tmp_path: Path) -> None:
    part = kept_part(tmp_path / "file", threads)
    await part.prepare()
    await part.keep([])
    assert names(tmp_path) == []


async def test_a_second_name_of_a_part_is_removed_and_not_written_through(
    threads: Threads, tmp_path: Path
) -> None:
    part = kept_part(tmp_path / "file", threads)
    await part.prepare()
    await part.keep([CONTENT])
    [left] = tmp_path.iterdir()
    os.link(left, tmp_path / "finished")
    again = kept_part(tmp_path / "file", threads)
    assert await again.prepare() == 0
    await again.commit([b"new"])
    assert (tmp_path / "finished").read_bytes() == CONTENT
    assert (tmp_path / "file").read_bytes() == b"new"
