"""Runs the rows: one server, and a fresh process for each run of each contender.

The entries of a row take turns, A B C A B C, so that what happens to the machine happens to all.
What a job should have done is checked after each run, on the server and on disk.
"""

from __future__ import annotations

import contextlib
import functools
import json
import os
import platform
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from importlib import metadata
from pathlib import Path

import attrs
import psutil
import trustme

from benchmarks import server
from benchmarks.content import check_file, write_file
from benchmarks.jobs import Job, Outcome, Target
from benchmarks.process import Task
from benchmarks.results import Measured, Results
from benchmarks.rows import Entry, Row

__all__ = ["FailedError", "NoSpaceError", "Plan", "machine", "run"]

_IMPORT = """
import json, time
wall, cpu = time.perf_counter(), time.process_time()
import {}
print(json.dumps({{"wall": time.perf_counter() - wall, "cpu": time.process_time() - cpu}}))
"""
_PACKAGES = ("aiofiles_api", "aiohttp", "openai", "httpx2", "obstore", "orjson", "uvloop")
_RUN_LIMIT = 900
"""Seconds after which a run has failed."""


class FailedError(Exception):
    """A contender did not do its job."""


class NoSpaceError(Exception):
    """The disk has no room for a row's files."""


@attrs.frozen
class Plan:
    """How to run.

    Attributes:
        rows: Which rows.
        runs: How often each contender runs, after the warm-up.
        warm_up: Whether a first run is left out.
        directory: Where temporary files go.
        uvloop: Whether contenders run on uvloop.
    """

    rows: Sequence[Row]
    runs: int
    warm_up: bool
    directory: Path
    uvloop: bool = False

    def rounds(self, row: Row) -> list[bool]:
        """Return, for each time that the contenders of a row run, whether it counts."""
        if row.runs:
            return [True] * min(row.runs, self.runs)
        return [False] * self.warm_up + [True] * self.runs

    def steps(self) -> int:
        """Return how many runs there are in all."""
        return sum(len(self.rounds(row)) * len(row.present()) for row in self.rows)


def run(plan: Plan, results: Results, on_step: Callable[[str], None]) -> None:
    """Run every row.

    Args:
        plan: What to run, and how often.
        results: Gets what was measured, row by row.
        on_step: Told before each run what it is.

    Raises:
        NoSpaceError: The disk has no room; earlier rows are in the results.
    """
    with tempfile.TemporaryDirectory(prefix="benchmarks-", dir=plan.directory) as folder:
        authority = trustme.CA()
        certificate = authority.issue_cert("127.0.0.1")
        for name, pem in (
            ("authority.pem", authority.cert_pem),
            ("certificate.pem", certificate.cert_chain_pems[0]),
            ("key.pem", certificate.private_key_pem),
        ):
            pem.write_to_path(f"{folder}/{name}")
        with server.running(f"{folder}/certificate.pem", f"{folder}/key.pem") as running:
            lane = Lane(running, Path(folder), uvloop=plan.uvloop)
            for row in plan.rows:
                lane.run_row(row, plan, results, on_step)


@attrs.frozen
class Lane:
    """One server and one folder, in which one run follows another.

    Files are emptied when they have done their part, and deleted with the folder: ext4 does not
    use an inode again for minutes, and whoever made files after thousands were deleted would pay
    for its search for others, several times what making a file costs.
    """

    server: server.Server
    folder: Path
    uvloop: bool = attrs.field(kw_only=True)

    def run_row(
        self, row: Row, plan: Plan, results: Results, on_step: Callable[[str], None]
    ) -> None:
        """Let the contenders take turns."""
        entries = row.present()
        found = {entry.label: Measured(entry.label) for entry in entries}
        results.rows[row.name] = list(found.values())
        self._check_space(max(entry.job.disk for entry in entries))
        with self._sources(entries) as sources:
            for counts in plan.rounds(row):
                for entry in entries:
                    measured = found[entry.label]
                    on_step(f"{row.name}: {entry.label}")
                    if measured.failure:
                        continue
                    try:
                        outcome = self._run(entry, sources)
                    except FailedError as error:
                        measured.failure = str(error)
                    else:
                        if counts:
                            measured.runs.append(outcome)

    def _check_space(self, needed: int) -> None:
        free = shutil.disk_usage(self.folder).free
        if free < needed * 1.1:
            raise NoSpaceError(f"{self.folder} has {free:,} bytes free, {needed:,} are needed")

    @contextlib.contextmanager
    def _sources(self, entries: Sequence[Entry]) -> Iterator[Path]:
        """Put the files to upload on disk, as long as the row runs."""
        sources = self._new_folder()
        for job in {entry.job for entry in entries if entry.job.uploads}:
            for number in range(job.count):
                if not (sources / str(number)).exists():
                    write_file(sources / str(number), job.size)
        try:
            yield sources
        finally:
            _empty(sources)

    def _run(self, entry: Entry, sources: Path) -> Outcome:
        job = entry.job
        if job.operation == "import":
            return _child([sys.executable, "-c", _IMPORT.format(job.module)], "", _compiling())
        destination = self._new_folder()
        authority = f"{self.folder}/authority.pem"
        files = job.count if job.operation == "list" else 0
        task = Task(
            opener=entry.contender.opener,
            job=job,
            target=Target(
                self.server.base_url(tls=job.tls, files=files, delay=job.delay), authority
            ),
            sources=str(sources),
            destination=str(destination),
            command=entry.contender.command,
            uvloop=self.uvloop and not entry.contender.command,
        )
        environment = {
            **{name: value for name, value in os.environ.items() if "proxy" not in name.lower()},
            "SSL_CERT_FILE": authority,
        }
        _use_memory(destination / "before", job.size * job.count * job.downloads)
        before = self.server.stats()
        try:
            outcome = _child(
                [sys.executable, "-m", "benchmarks.process"], task.dumps(), environment
            )
            after = self.server.stats()
            _check(job, before, after, destination)
        finally:
            _empty(destination)
        return {**outcome, "server": after.cpu - before.cpu}

    def _new_folder(self) -> Path:
        return Path(tempfile.mkdtemp(dir=self.folder))


def _use_memory(path: Path, size: int) -> None:
    """Have the machine use as much memory for a file as it is about to, and let it go again.

    A virtual machine's host has to find what was not used lately: then writing costs several times
    as much, and at times nothing at all goes on, by no fault of whoever is measured.
    """
    if size:
        write_file(path, size)
        os.truncate(path, 0)


def _empty(folder: Path) -> None:
    for path in folder.iterdir():
        os.truncate(path, 0)


def _compiling() -> dict[str, str]:
    """Return an environment in which Python keeps what it compiles.

    Installers leave bytecode beside what they install, so the peers have it. Ours stands in a
    working copy, and is compiled in the run that does not count, as in a user's first one.
    """
    return {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}


def _child(command: Sequence[str], text: str, environment: Mapping[str, str]) -> Outcome:
    """Run a process that reads a text and prints figures as its last line.

    Raises:
        FailedError: It failed.
    """
    try:
        done = subprocess.run(  # noqa: S603 - this package's own modules
            command,
            input=text,
            env=environment,
            capture_output=True,
            text=True,
            check=True,
            timeout=_RUN_LIMIT,
        )
    except subprocess.CalledProcessError as error:
        raise FailedError(error.stderr.strip()[-2000:]) from error
    except subprocess.TimeoutExpired as error:
        raise FailedError(f"not done after {_RUN_LIMIT} s") from error
    outcome: Outcome = json.loads(done.stdout.splitlines()[-1])
    return outcome


def _check(job: Job, before: server.Stats, after: server.Stats, destination: Path) -> None:
    """Hold what was done against what should have been.

    Raises:
        FailedError: It is not the same.
    """
    times = job.count * job.repeat
    counts = {
        "uploads": times * job.uploads,
        "uploaded_bytes": times * job.size * job.uploads,
        "downloads": times * job.downloads,
    }
    for name, wanted in counts.items():
        found = getattr(after, name) - getattr(before, name)
        if found != wanted:
            raise FailedError(f"{name}: {found:,}, not {wanted:,}")
    for number in range(job.count * job.downloads):
        try:
            check_file(destination / str(number), job.size)
        except (OSError, ValueError) as error:
            raise FailedError(str(error)) from error


@functools.cache
def machine() -> dict[str, str]:
    """Return what the figures depend on."""
    versions: dict[str, str] = {}
    for package in _PACKAGES:
        with contextlib.suppress(metadata.PackageNotFoundError):
            versions[package] = metadata.version(package)
    if path := shutil.which("curl"):
        told = subprocess.run([path, "--version"], capture_output=True, text=True, check=True)  # noqa: S603
        versions["curl"] = told.stdout.split()[1]
    return {
        "system": f"{platform.system()} {platform.machine()}",
        "processors": str(psutil.cpu_count()),
        "memory": f"{psutil.virtual_memory().total / 2**30:.0f} GB",
        "python": platform.python_version(),
        **versions,
    }
