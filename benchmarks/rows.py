"""The table of the rows: who does what, which figures count, and what they shall reach."""

from __future__ import annotations

import fnmatch
import importlib.util
import shutil
from collections.abc import Sequence

import attrs

from benchmarks.jobs import Figure, Job, Operation

__all__ = [
    "AIOHTTP",
    "FULL",
    "LIMITS",
    "OPENAI",
    "OURS",
    "QUICK",
    "Contender",
    "Entry",
    "Goal",
    "Row",
    "Sizes",
    "growth",
    "matching",
    "named",
    "rows",
]

MB = 2**20


@attrs.frozen
class Contender:
    """Someone who can do jobs.

    Attributes:
        label: Its name in the table.
        opener: Where it is among the contenders, as "module:function"; empty for imports.
        needs: The module, or the command, that must be there.
        command: Whether it is a command rather than a library.
        yardstick: Whether it shows what is possible, rather than being a client for Python.
    """

    label: str
    opener: str
    needs: str
    command: bool = False
    yardstick: bool = False

    def is_here(self) -> bool:
        """Whether it is installed."""
        if self.command:
            return shutil.which(self.needs) is not None
        return importlib.util.find_spec(self.needs) is not None


OURS = Contender("aiofiles_api", "ours:opened", "aiofiles_api")
OPENAI = Contender("openai-python", "openai_python:opened", "openai")
JOURNALLED = Contender("aiofiles_api, journal", "ours:opened_with_journal", "aiofiles_api")
OPENAI_AIOHTTP = Contender("openai-python, aiohttp", "openai_python:opened_with_aiohttp", "openai")
AIOHTTP = Contender("plain aiohttp", "plain_aiohttp:opened", "aiohttp")
OBSTORE = Contender("obstore", "obstore_http:opened", "obstore")
CURL = Contender("curl", "curl:opened", "curl", command=True, yardstick=True)
BY_HAND = Contender("by hand", "by_hand:opened", "orjson", yardstick=True)

PYTHONS = (OURS, OPENAI, OPENAI_AIOHTTP, AIOHTTP)


@attrs.frozen
class Entry:
    """A contender in a row.

    Attributes:
        contender: Who.
        job: What it does.
        name: Its name in this row, where it is not the contender's.
    """

    contender: Contender
    job: Job
    name: str = ""

    @property
    def label(self) -> str:
        """Its name in this row."""
        return self.name or self.contender.label


@attrs.frozen
class Goal:
    """What our figure shall be, as a ratio to another's in the same row.

    Attributes:
        figure: Which figure.
        against: The other's label.
        bound: The greatest ratio of our figure to the other's; for a rate, the least ratio of ours
            per second to the other's per second.
        rate: Whether it is a rate that counts.
    """

    figure: Figure
    against: str
    bound: float
    rate: bool = False


LIMITS: dict[Figure, float] = {"held": 0.010, "memory": 24 * MB}
"""What no row may pass with our client: seconds for which the loop is held, bytes of memory."""


@attrs.frozen
class Row:
    """One comparison.

    Attributes:
        name: What `--only` asks for.
        title: What the table says.
        figures: The figures that the short table shows.
        entries: Who takes part, in the order in which they run; ours first.
        goals: What ours shall reach.
        runs: How often, without a warm-up, where few runs will do.
        series: The plot that it is a point of, if any.
        x: Where it stands in that plot: how many files, bytes or objects.
        units: How many of these a run handled in all, so that a cost can be told for each.
        notes: Why someone is missing.
    """

    name: str
    title: str
    figures: Sequence[Figure]
    entries: Sequence[Entry]
    goals: Sequence[Goal] = ()
    runs: int | None = None
    series: str = ""
    x: int = 0
    units: int = 1
    notes: str = ""

    def present(self) -> list[Entry]:
        """Return the entries whose contenders are installed."""
        return [entry for entry in self.entries if entry.contender.is_here()]


@attrs.frozen
class Sizes:
    """How much there is to do; sizes in bytes.

    Attributes:
        big: A big file.
        memory: The files with which memory is measured.
        tiny: A tiny file, `tiny_count` of them at `concurrency` at a time.
        bulk_count: Tiny files that are moved in one call.
        middle: A file of middle size, `middle_count` of them.
        listed: Files in a listing.
        delay: Seconds that a page of the late listing is late.
        moved: What a service moves, half of it down and half of it up.
        growing_files: How many files are moved, from few to many.
        growing_bytes: The lengths of one file, from short to long.
        growing_listed: How many files are listed, from few to many.
        least_files: A run that shows how the cost grows handles no fewer files than this, again
            and again if need be: otherwise it would show what the first call of a process costs.
        least_bytes: The same for bytes.
        least_listed: The same for listed files.
        growing_peers: Whether others than ours show how their cost grows.
    """

    big: int
    memory: Sequence[int]
    tiny: int
    tiny_count: int
    bulk_count: int
    middle: int
    middle_count: int
    concurrency: int
    listed: int
    delay: float
    moved: int
    growing_files: Sequence[int]
    growing_bytes: Sequence[int]
    growing_listed: Sequence[int]
    least_files: int
    least_bytes: int
    least_listed: int
    growing_peers: bool


FULL = Sizes(
    big=512 * MB,
    memory=[64 * MB, 512 * MB, 4096 * MB],
    tiny=4096,
    tiny_count=2_000,
    bulk_count=5_000,
    middle=4 * MB,
    middle_count=200,
    concurrency=32,
    listed=100_000,
    delay=0.1,
    moved=1024 * MB,
    growing_files=[100, 500, 2_000, 10_000, 50_000],
    growing_bytes=[MB, 4 * MB, 16 * MB, 64 * MB, 256 * MB, 1024 * MB, 4096 * MB],
    growing_listed=[1_000, 10_000, 100_000, 1_000_000],
    least_files=2_000,
    least_bytes=256 * MB,
    least_listed=20_000,
    growing_peers=True,
)

QUICK = Sizes(
    big=8 * MB,
    memory=[MB],
    tiny=4096,
    tiny_count=40,
    bulk_count=80,
    middle=MB,
    middle_count=8,
    concurrency=8,
    listed=2_500,
    delay=0.01,
    moved=8 * MB,
    growing_files=[10],
    growing_bytes=[MB],
    growing_listed=[100],
    least_files=20,
    least_bytes=MB,
    least_listed=200,
    growing_peers=False,
)


def named(size: int) -> str:
    """Say a number of bytes: "4 KB", "512 MB", "4 GB"; each unit is 1,024 of the one below."""
    for unit, name in ((2**30, "GB"), (2**20, "MB"), (2**10, "KB")):
        if size >= unit:
            return f"{size / unit:g} {name}"
    return f"{size} B"


def rows(sizes: Sizes) -> list[Row]:
    """Return the rows of the table, in the order in which they run."""
    return [
        *_downloads(sizes),
        *_uploads(sizes),
        *_listings(sizes),
        *_many(sizes),
        *_memory(sizes),
        _imports(),
        _service(sizes),
    ]


def growth(sizes: Sizes) -> list[Row]:
    """Return the rows that show how the cost grows, point by point."""
    return [
        *_growing_files("upload", sizes),
        *_growing_files("download", sizes),
        *_growing_bytes("upload", sizes),
        *_growing_bytes("download", sizes),
        *_growing_listings(sizes),
    ]


def matching(table: Sequence[Row], only: str | None) -> list[Row]:
    """Return the rows whose names match.

    Args:
        table: The rows.
        only: Names between commas, in which `*` and `?` stand for any letters; all by default.
    """
    patterns = only.split(",") if only else ["*"]
    return [row for row in table if any(fnmatch.fnmatch(row.name, p) for p in patterns)]


def _all_do(job: Job, *contenders: Contender) -> list[Entry]:
    return [Entry(contender, job) for contender in contenders]


def _downloads(sizes: Sizes) -> list[Row]:
    size = named(sizes.big)
    return [
        Row(
            "download-tls",
            f"download {size} to disk, TLS",
            ["cpu", "wall"],
            _all_do(Job("download", size=sizes.big, tls=True), *PYTHONS, OBSTORE, CURL),
            [Goal("cpu", "openai-python", 0.17), Goal("cpu", "curl", 1.25)],
        ),
        Row(
            "download",
            f"download {size} to disk, plain",
            ["cpu", "wall"],
            _all_do(Job("download", size=sizes.big), *PYTHONS, OBSTORE, CURL),
            [
                Goal("cpu", "openai-python", 0.27),
                Goal("cpu", "curl", 1.2),
                Goal("wall", "obstore", 1.0),
            ],
        ),
    ]


def _uploads(sizes: Sizes) -> list[Row]:
    size = named(sizes.big)
    path = Job("upload", size=sizes.big)
    iterable = Job("upload iterable", size=sizes.big)
    return [
        Row(
            "upload-path",
            f"upload {size} from a path",
            ["cpu", "wall"],
            _all_do(path, *PYTHONS, CURL),
            [Goal("cpu", "openai-python", 0.5), Goal("cpu", "curl", 0.85)],
        ),
        Row(
            "upload-object",
            f"upload {size} from a file object",
            ["cpu", "wall"],
            _all_do(Job("upload object", size=sizes.big), *PYTHONS),
            [Goal("cpu", "openai-python", 0.35)],
        ),
        Row(
            "upload-iterable",
            f"upload {size} from an async iterable of 256 KB chunks",
            ["cpu", "wall"],
            [*_all_do(iterable, OURS, AIOHTTP), Entry(OURS, path, "ours from a path")],
            [Goal("cpu", "ours from a path", 1.2)],
            notes="openai-python refuses async iterables",
        ),
    ]


def _listings(sizes: Sizes) -> list[Row]:
    count = f"{sizes.listed:,}"
    at_once = Job("list", count=sizes.listed)
    late = attrs.evolve(at_once, delay=sizes.delay)
    return [
        Row(
            "list",
            f"list {count}",
            ["wall", "cpu"],
            [*_all_do(at_once, *PYTHONS), Entry(BY_HAND, at_once, "read and orjson.loads")],
            [
                Goal("wall", "openai-python", 11, rate=True),
                Goal("cpu", "read and orjson.loads", 2.5),
            ],
        ),
        Row(
            "list-delayed",
            f"list {count}, each page {sizes.delay * 1000:g} ms late",
            ["wall", "cpu"],
            _all_do(late, *PYTHONS),
            [Goal("wall", "openai-python", 1.0)],
            notes="openai-python's default page is the greatest, 10,000, and so its best",
        ),
    ]


def _many(sizes: Sizes) -> list[Row]:
    tiny = Job("upload", size=sizes.tiny, count=sizes.tiny_count, concurrency=sizes.concurrency)
    middle = attrs.evolve(tiny, size=sizes.middle, count=sizes.middle_count)
    bulk = attrs.evolve(tiny, operation="upload all", count=sizes.bulk_count)
    of_tiny = f"of {named(sizes.tiny)}, {sizes.concurrency} at a time"
    of_middle = f"of {named(sizes.middle)}, {sizes.concurrency} at a time"
    goals = [
        Goal("wall", "openai-python", 10, rate=True),
        Goal("wall", "by hand", 0.7, rate=True),
    ]
    return [
        Row(
            "upload-tiny",
            f"{tiny.count:,} uploads {of_tiny}, from paths",
            ["wall", "cpu"],
            _all_do(tiny, *PYTHONS, BY_HAND),
            goals,
        ),
        Row(
            "upload-tiny-bytes",
            f"{tiny.count:,} uploads {of_tiny}, from bytes",
            ["wall", "cpu"],
            _all_do(attrs.evolve(tiny, operation="upload bytes"), *PYTHONS, BY_HAND),
            goals,
        ),
        Row(
            "download-tiny",
            f"{tiny.count:,} downloads {of_tiny}, to disk",
            ["wall", "cpu"],
            _all_do(attrs.evolve(tiny, operation="download"), *PYTHONS, OBSTORE),
            [Goal("wall", "openai-python", 6, rate=True)],
        ),
        Row(
            "upload-bulk",
            f"{bulk.count:,} uploads {of_tiny}, in one call, with a journal",
            ["wall", "cpu"],
            [
                Entry(JOURNALLED, bulk, "aiofiles_api"),
                Entry(OURS, bulk, "without the journal"),
                Entry(OPENAI, bulk, "openai-python and a semaphore"),
            ],
            [Goal("wall", "without the journal", 0.8, rate=True)],
        ),
        Row(
            "upload-middle",
            f"{middle.count} uploads {of_middle}, from paths",
            ["wall", "cpu"],
            _all_do(middle, *PYTHONS),
        ),
        Row(
            "download-middle",
            f"{middle.count} downloads {of_middle}, to disk",
            ["wall", "cpu"],
            _all_do(attrs.evolve(middle, operation="download"), *PYTHONS, OBSTORE),
        ),
    ]


def _memory(sizes: Sizes) -> list[Row]:
    """Return rows of few runs: memory hardly differs from one to the next."""
    found: list[Row] = []
    for size in sizes.memory:
        holds_all = size > 1024 * MB
        found += [
            Row(
                f"memory-upload-{named(size).replace(' ', '')}",
                f"upload {named(size)} from a path",
                ["memory"],
                _all_do(
                    Job("upload", size=size),
                    *((OURS, AIOHTTP) if holds_all else (OURS, OPENAI, AIOHTTP)),
                ),
                runs=1 if holds_all else 3,
                notes="openai-python would hold all of it in memory" if holds_all else "",
            ),
            Row(
                f"memory-download-{named(size).replace(' ', '')}",
                f"download {named(size)} to disk",
                ["memory"],
                _all_do(Job("download", size=size), OURS, OPENAI, AIOHTTP),
                runs=1 if holds_all else 3,
            ),
        ]
    return found


def _imports() -> Row:
    bare = Contender("aiohttp and cattrs", "", "cattrs", yardstick=True)
    return Row(
        "import",
        "import",
        ["wall"],
        [
            Entry(OURS, Job("import", module="aiofiles_api")),
            Entry(OPENAI, Job("import", module="openai")),
            Entry(bare, Job("import", module="aiohttp, cattrs")),
        ],
        [Goal("wall", "openai-python", 0.4), Goal("wall", "aiohttp and cattrs", 1.2)],
    )


def _service(sizes: Sizes) -> Row:
    job = Job("serve", size=sizes.moved // 2)
    return Row(
        "fastapi",
        f"answers of a FastAPI route while its process moves {named(sizes.moved)}",
        ["p50", "p99"],
        _all_do(job, *PYTHONS),
        runs=3,
    )


def _growing_files(operation: Operation, sizes: Sizes) -> list[Row]:
    found: list[Row] = []
    for count in sizes.growing_files:
        repeat = max(1, sizes.least_files // count)
        job = Job(
            operation,
            size=sizes.tiny,
            count=count,
            concurrency=min(sizes.concurrency, count),
            repeat=repeat,
        )
        found.append(
            Row(
                f"growth-{operation}-files-{count}",
                f"{count:,} {operation}s of {named(sizes.tiny)}{_times(repeat)}",
                ["cpu"],
                _all_do(job, *_peers(sizes, with_openai=count <= 10_000)),
                runs=3 if count <= 2_000 else 1,
                series=f"{operation}-files",
                x=count,
                units=count * repeat,
            )
        )
    return found


def _growing_bytes(operation: Operation, sizes: Sizes) -> list[Row]:
    found: list[Row] = []
    for size in sizes.growing_bytes:
        repeat = max(1, sizes.least_bytes // size)
        found.append(
            Row(
                f"growth-{operation}-bytes-{named(size).replace(' ', '')}",
                f"{operation} of {named(size)}{_times(repeat)}",
                ["cpu"],
                _all_do(
                    Job(operation, size=size, repeat=repeat),
                    *_peers(sizes, with_openai=size <= 1024 * MB),
                ),
                runs=3 if size <= 256 * MB else 1,
                series=f"{operation}-bytes",
                x=size,
                units=size * repeat,
            )
        )
    return found


def _growing_listings(sizes: Sizes) -> list[Row]:
    found: list[Row] = []
    for count in sizes.growing_listed:
        repeat = max(1, sizes.least_listed // count)
        found.append(
            Row(
                f"growth-list-{count}",
                f"list {count:,}{_times(repeat)}",
                ["cpu"],
                _all_do(
                    Job("list", count=count, repeat=repeat),
                    *_peers(sizes, with_openai=count <= 100_000),
                ),
                runs=3 if count <= 100_000 else 1,
                series="list",
                x=count,
                units=count * repeat,
            )
        )
    return found


def _peers(sizes: Sizes, *, with_openai: bool) -> Sequence[Contender]:
    """Return who grows: openai-python only as far as that does not take minutes, or gigabytes."""
    if not sizes.growing_peers:
        return (OURS,)
    return (OURS, OPENAI, AIOHTTP) if with_openai else (OURS, AIOHTTP)


def _times(repeat: int) -> str:
    return f", {repeat} times" if repeat > 1 else ""
