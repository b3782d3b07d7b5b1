"""One job of one contender, measured in a process of its own.

    python -m benchmarks.process < task.json

The clock starts when the contender is imported and its client built, and stops when the job is
done. The figures go to standard output, in JSON.
"""

from __future__ import annotations

import asyncio
import gc
import importlib
import json
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import cast

import attrs

from benchmarks import content
from benchmarks.jobs import (
    CanDownload,
    CanList,
    CanUpload,
    CanUploadAll,
    CanUploadBytes,
    CanUploadIterable,
    CanUploadObject,
    Job,
    Opener,
    Outcome,
    Target,
)
from benchmarks.measure import Heartbeat, HeldSelector, Meter

__all__ = ["Task", "main"]


@attrs.frozen
class Task:
    """What the process is to do.

    Attributes:
        opener: The contender, as "module:function" among the contenders.
        job: What to do.
        target: Where.
        sources: The directory with the files to upload, named by their numbers.
        destination: The directory for the files that are downloaded, named likewise.
        command: Whether the contender is a command.
        uvloop: Whether to run on uvloop.
    """

    opener: str
    job: Job
    target: Target
    sources: str
    destination: str
    command: bool = False
    uvloop: bool = False

    def dumps(self) -> str:
        """Render it as JSON."""
        return json.dumps(attrs.asdict(self))

    @classmethod
    def loads(cls, text: str) -> Task:
        """Read it from JSON."""
        values = json.loads(text)
        return cls(**{**values, "job": Job(**values["job"]), "target": Target(**values["target"])})


@attrs.frozen
class Work:
    """What a contender's client is asked to do."""

    client: object
    task: Task

    async def run(self) -> None:
        """Do all of it, as often as the job says."""
        for _ in range(self.task.job.repeat):
            await self._once()

    async def _once(self) -> None:
        """Do all of it, as many at a time as the job says."""
        job = self.task.job
        one: Callable[[int], Awaitable[None]] = getattr(self, job.operation.replace(" ", "_"))
        is_one = job.operation in {"list", "upload all"}
        numbers = iter(range(1 if is_one else job.count))

        async def worker() -> None:
            for number in numbers:
                await one(number)

        async with asyncio.TaskGroup() as group:
            for _ in range(1 if is_one else job.concurrency):
                group.create_task(worker())

    async def download(self, number: int) -> None:
        """Download one file."""
        name = f"file-{self.task.job.size}-{number:07}"
        client = cast("CanDownload", self.client)
        await client.download(name, Path(self.task.destination, str(number)))

    async def upload(self, number: int) -> None:
        """Upload one file from its path."""
        await cast("CanUpload", self.client).upload(self._source(number))

    async def upload_object(self, number: int) -> None:
        """Upload one file from a file object."""
        await cast("CanUploadObject", self.client).upload_object(self._source(number))

    async def upload_all(self, _number: int) -> None:
        """Upload all files in one call."""
        job = self.task.job
        paths = map(self._source, range(job.count))
        done = await cast("CanUploadAll", self.client).upload_all(paths, job.concurrency)
        if done != job.count:
            raise ValueError(f"{done:,} files were uploaded, not {job.count:,}")

    async def upload_bytes(self, _number: int) -> None:
        """Upload one file from memory."""
        small = bytes(content.piece(0, self.task.job.size))
        await cast("CanUploadBytes", self.client).upload_bytes(small)

    async def upload_iterable(self, _number: int) -> None:
        """Upload one file from an async iterable."""
        chunks = content.chunks(self.task.job.size)
        await cast("CanUploadIterable", self.client).upload_iterable(chunks)

    async def list(self, _number: int) -> None:
        """List all files."""
        seen = await cast("CanList", self.client).list_all()
        if seen != self.task.job.count:
            raise ValueError(f"{seen:,} files were listed, not {self.task.job.count:,}")

    async def serve(self, number: int) -> None:
        """Move a file down and one up, while the service is asked."""
        await self.download(number)
        await self.upload(number)

    def _source(self, number: int) -> Path:
        return Path(self.task.sources, str(number))


@asynccontextmanager
async def surroundings(task: Task, outcome: Outcome) -> AsyncIterator[None]:
    """Have around the job what belongs to it: for "serve", a service and those who ask it.

    What was left of getting ready is collected before the job begins, and before anybody asks.
    """
    if task.job.operation == "serve":
        # FastAPI is imported by those alone who need it.
        service = importlib.import_module("benchmarks.service")
        async with service.asked(outcome):
            yield
    else:
        gc.collect()
        yield


async def measured(task: Task, held: HeldSelector | None) -> Outcome:
    """Do the job, and return the figures."""
    module, _, function = task.opener.partition(":")
    contender = importlib.import_module(f"benchmarks.contenders.{module}")
    opened: Opener = getattr(contender, function)
    meter = Meter(held or Heartbeat(asyncio.get_running_loop()), command=task.command)
    outcome: Outcome = {}
    async with opened(task.target) as client, surroundings(task, outcome):
        work = Work(client, task)
        meter.start()
        await work.run()
        outcome.update(meter.stop())
    return outcome


def new_loop(held: HeldSelector | None) -> asyncio.AbstractEventLoop:
    """Return asyncio's loop with a selector that knows how long it was held, else uvloop's."""
    if held:
        return asyncio.SelectorEventLoop(held)
    loop: asyncio.AbstractEventLoop = importlib.import_module("uvloop").new_event_loop()
    return loop


def main() -> None:
    """Read the task, do it, and print the figures."""
    task = Task.loads(sys.stdin.read())
    held = None if task.uvloop else HeldSelector()
    with asyncio.Runner(loop_factory=lambda: new_loop(held)) as runner:
        outcome = runner.run(measured(task, held))
    print(json.dumps(outcome))


if __name__ == "__main__":
    main()
