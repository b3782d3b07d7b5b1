"""`demo`: every operation once, on files of all sizes, with a table of what each of them took.

Without --base-url it talks to an emulator in another process, so that the memory and the event
loop that are measured here are the client's own. Whatever happens, what was made is removed: the
files on disk, those on the server, and the server itself.
"""

from __future__ import annotations

import asyncio
import hashlib
import os
import secrets
import shutil
import tempfile
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from contextlib import AsyncExitStack, aclosing, asynccontextmanager, contextmanager, suppress
from functools import partial
from typing import Annotated, TypeVar

import attrs
from cyclopts import Parameter, validators

from aiofiles_api import FileObject, FilesClient, FilesError, Progress, ProgressSink
from aiofiles_api.cli.embedded import embedded_server
from aiofiles_api.cli.memory import PeakMemory
from aiofiles_api.cli.screen import Screen, Track
from aiofiles_api.cli.text import Result, Step, size
from aiofiles_api.cli.thread import in_thread

__all__ = ["demo"]

T = TypeVar("T")

_KB = 1000
_MB = 1000 * _KB
_SMALLER_SIZES = (4 * _KB, 1 * _MB, 10 * _MB, 50 * _MB)
_BLOCK = 2 * _MB
_PAGE = 2
"""Files a page: so few that five files already need several pages."""

_STEPS = 6
_SPARE = 32 * _MB
_SECONDS_TO_CLEAN_UP = 30.0
_MOST_STRAYS = 100


@attrs.frozen
class Sample:
    """A file that the demo made up.

    Attributes:
        path: Where it is.
        bytes: Its length.
        sha256: Its digest in hex.
    """

    path: str
    bytes: int
    sha256: str

    @property
    def name(self) -> str:
        """What it is called, on the server too."""
        return os.path.basename(self.path)

    @property
    def copy(self) -> str:
        """Where its download goes."""
        return f"{self.path}.copy"


async def demo(
    *,
    base_url: str | None = None,
    api_key: str | None = None,
    purpose: Annotated[str, Parameter(alias="-p")] = "user_data",
    size_mb: Annotated[int, Parameter(validator=validators.Number(gte=1, lte=512))] = 200,
) -> int:
    """See it work: upload, list, download, compare and delete files, and what it costs.

    It needs neither a key nor a network: it runs a server of its own, in another process so that
    what is measured is the client.

    Args:
        base_url: Use this server instead, with its /v1.
        api_key: The key for it. Default: $OPENAI_API_KEY.
        purpose: What the files are for, which some servers are particular about.
        size_mb: The size of the largest file in megabytes, up to 512.
    """
    sizes = [*(it for it in _SMALLER_SIZES if it < size_mb * _MB), size_mb * _MB]
    screen = Screen()
    record = Record(screen)
    with screen.told_if_interrupted(record.summary):
        async with AsyncExitStack() as stack:
            copies = 3 if base_url is None else 2
            directory = await stack.enter_async_context(_directory(copies * sum(sizes)))
            if base_url is None:
                server = await stack.enter_async_context(embedded_server(directory))
                files = FilesClient(base_url=server, api_key="any", trust_env=False)
            else:
                server = base_url
                files = FilesClient(base_url=base_url, api_key=api_key)
            screen.say(f"{len(sizes)} files, {size(sum(sizes))} in all, to {server} and back")
            await stack.enter_async_context(record.memory)
            await stack.enter_async_context(files)
            tour = Tour(files, directory, purpose, screen, record)
            stack.push_async_callback(tour.clean_up)
            differing = await tour.go(sizes)
    screen.steps(record.steps)
    if differing:
        raise FilesError(f"these came back differently: {', '.join(differing)}")
    await screen.result(Result((f"All {len(sizes)} files came back byte for byte.",)))
    return 0


class Record:
    """Takes down what each step took.

    Args:
        screen: Where bars are drawn.

    Attributes:
        memory: Measures this process.
        steps: The steps that are done.
        leftovers: What could not be removed.
    """

    def __init__(self, screen: Screen) -> None:
        self.memory = PeakMemory()
        self.steps: list[Step] = []
        self.leftovers = ""
        self._screen = screen

    def summary(self) -> str:
        """Say in few words how far it came."""
        rest = f"{self.leftovers} is left" if self.leftovers else "nothing is left behind"
        return f"{len(self.steps)} of {_STEPS} steps done, {rest}"

    @contextmanager
    def step(self, name: str, *, files: int, total: int = 0) -> Iterator[None]:
        """Measure what happens inside."""
        self.memory.take()
        began = time.perf_counter()
        yield
        seconds = time.perf_counter() - began
        self.steps.append(Step(name, files, total, seconds, self.memory.take()))

    @contextmanager
    def transfers(self, name: str, done: str, sizes: Sequence[int]) -> Iterator[Track]:
        """Measure the transfers inside, and draw their bars."""
        files, total = len(sizes), sum(sizes)
        with (
            self._screen.bars(done, count=files, total=total) as track,
            self.step(name, files=files, total=total),
        ):
            yield track


class Tour:
    """One way through all steps.

    Args:
        files: The client.
        directory: Where files may be put.
        purpose: What the files are for.
        screen: Where to show what happens.
        record: Takes down what each step took.
    """

    def __init__(
        self, files: FilesClient, directory: str, purpose: str, screen: Screen, record: Record
    ) -> None:
        self._files = files
        self._directory = directory
        self._purpose = purpose
        self._screen = screen
        self._record = record
        self._prefix = f"demo-{secrets.token_hex(4)}-"
        self._samples: list[Sample] = []
        self._unanswered: set[str] = set()
        self._stored: dict[str, FileObject] = {}

    async def go(self, sizes: Sequence[int]) -> list[str]:
        """Take all steps, and return the names of files that did not come back as they were."""
        await self._make(sizes)
        with self._record.transfers("upload", "uploaded", sizes) as track:
            await self._for_each(partial(self._upload, track))
        await self._list()
        with self._record.transfers("download", "downloaded", sizes) as track:
            await self._for_each(partial(self._download, track))
        differing = await self._compare()
        with self._record.step("delete", files=len(sizes)):
            await self._for_each(self._delete)
        self._screen.heading(f"{len(sizes)} files deleted")
        return differing

    async def clean_up(self) -> None:
        """Delete from the server what is still there, whatever became of the steps."""
        try:
            async with asyncio.timeout(_SECONDS_TO_CLEAN_UP):
                await self._find_strays()
                await self._for_each(self._delete)
        except* (FilesError, TimeoutError):
            left = [file.id for file in self._stored.values()] or [f"{self._prefix}*"]
            self._record.leftovers = f"{', '.join(left)} on the server"
            self._screen.complain(f"could not delete {self._record.leftovers}")

    async def _make(self, sizes: Sequence[int]) -> None:
        with self._record.transfers("make", "made", sizes) as track:
            for length in sizes:
                path = os.path.join(self._directory, f"{self._prefix}{_label(length)}.bin")
                with track(os.path.basename(path), length) as sink:
                    self._samples.append(await _make(path, length, sink))

    async def _upload(self, track: Track, sample: Sample) -> None:
        self._unanswered.add(sample.name)
        with track(sample.name, sample.bytes) as sink:
            self._stored[sample.name] = await self._files.upload(
                sample.path, purpose=self._purpose, progress=sink
            )
        self._unanswered.discard(sample.name)

    async def _list(self) -> None:
        """Page through the newest files until all of ours were seen."""
        unseen = {file.id for file in self._stored.values()}
        number = 0
        self._screen.heading(f"The listing, {_PAGE} files a page")
        with self._record.step("list", files=len(unseen)):
            listing = self._files.list_pages(purpose=self._purpose, page_size=_PAGE)
            async with aclosing(listing) as pages:
                async for page in pages:
                    number += 1
                    names = ", ".join(file.filename for file in page.data)
                    self._screen.say(f"  page {number}  {names}")
                    unseen.difference_update(file.id for file in page.data)
                    if not unseen:
                        break
        if unseen:
            raise FilesError(f"the server does not list {', '.join(sorted(unseen))}")

    async def _download(self, track: Track, sample: Sample) -> None:
        with track(sample.name, sample.bytes) as sink:
            await self._files.download(self._stored[sample.name], sample.copy, progress=sink)

    async def _compare(self) -> list[str]:
        """Read every copy, and return the names of those that differ."""
        differing: list[str] = []
        total = sum(sample.bytes for sample in self._samples)
        self._screen.heading("The sha256 of what came back, and of what was sent")
        with self._record.step("compare", files=len(self._samples), total=total):
            for sample in self._samples:
                digest = await _on_disk(partial(_digest, sample.copy))
                if digest == sample.sha256:
                    await self._screen.result(Result((sample.name, f"sha256 {digest[:24]}…")))
                else:
                    differing.append(sample.name)
        return differing

    async def _delete(self, sample: Sample) -> None:
        file = self._stored.get(sample.name)
        if file is not None:
            await self._files.delete(file, missing_ok=True)
            del self._stored[sample.name]

    async def _find_strays(self) -> None:
        """Look for files whose upload was broken off: the server may have them all the same."""
        if not self._unanswered:
            return
        listing = self._files.list(purpose=self._purpose, max_items=_MOST_STRAYS)
        async with aclosing(listing) as newest:
            async for file in newest:
                if file.filename in self._unanswered:
                    self._stored[file.filename] = file

    async def _for_each(self, do: Callable[[Sample], Awaitable[None]]) -> None:
        """Do something for all files at the same time."""

        async def do_one(sample: Sample) -> None:
            await do(sample)

        async with asyncio.TaskGroup() as group:
            for sample in self._samples:
                group.create_task(do_one(sample))


@asynccontextmanager
async def _directory(needed: int) -> AsyncIterator[str]:
    """Make a directory with so much space, and remove it in the end with all that is in it.

    Raises:
        FilesError: There is not so much space.
    """
    parent, free = await _on_disk(_free_space)
    if free < needed + _SPARE:
        raise FilesError(
            f"the demo needs {size(needed + _SPARE)} of space, and {parent} has {size(free)};"
            " choose a smaller --size-mb, or set TMPDIR to a directory with more space"
        )
    # Its name is known before it is there, so that no moment of Ctrl-C can make it stay.
    directory = os.path.join(parent, f"files-demo-{secrets.token_hex(8)}")
    try:
        await in_thread(partial(os.mkdir, directory, 0o700))
        yield directory
    finally:
        await in_thread(partial(_remove, directory))


def _free_space() -> tuple[str, int]:
    directory = tempfile.gettempdir()
    return directory, shutil.disk_usage(directory).free


def _remove(directory: str) -> None:
    with suppress(FileNotFoundError):
        shutil.rmtree(directory)


def _label(length: int) -> str:
    return f"{length // _MB}MB" if length >= _MB else f"{length // _KB}kB"


async def _make(path: str, length: int, sink: ProgressSink | None) -> Sample:
    """Write random bytes in a thread, block by block, so that Ctrl-C need not wait for the last."""
    digest = hashlib.sha256()
    for start in range(0, length, _BLOCK):
        block = min(_BLOCK, length - start)
        await _on_disk(partial(_append, path, block, digest))
        if sink is not None:
            sink(Progress(start + block, length, 1))
    return Sample(path, length, digest.hexdigest())


async def _on_disk(work: Callable[[], T]) -> T:
    """Do something with our own files in a thread.

    Raises:
        FilesError: They cannot be written or read: no OSError, which would be told of our output.
    """
    try:
        return await in_thread(work)
    except OSError as error:
        raise FilesError(
            f"the temporary directory cannot be used: {error.strerror}; set TMPDIR to another one"
        ) from error


def _append(path: str, count: int, digest: hashlib._Hash) -> None:
    block = os.urandom(count)
    with open(path, "ab") as file:  # whose buffer writes what a raw file leaves over
        file.write(block)
    digest.update(block)


def _digest(path: str) -> str:
    with open(path, "rb", buffering=0) as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
