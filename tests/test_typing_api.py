"""The public API as type checkers see it, and what its signatures promise."""

from __future__ import annotations

import inspect
import io
import subprocess
import sys
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Iterator
from datetime import datetime, timedelta
from pathlib import Path
from types import FunctionType, ModuleType
from typing import Any, Literal, assert_type, get_args, get_type_hints

import attrs
import pytest

import aiofiles_api
from aiofiles_api import (
    APIStatusError,
    ContentStream,
    DeletedFile,
    DownloadedFile,
    ExpiresAfter,
    FileObject,
    FilePage,
    FilesClient,
    FilesError,
    IntegrityError,
    ProcessingError,
    Progress,
    ProgressSink,
    RateLimitError,
    RetryPolicy,
    Timeouts,
    UploadUncertainError,
)

# --- read by type checkers, never run -----------------------------------------------------------


async def fresh_key() -> str:
    return "sk-fresh"


def ways_to_make_a_client() -> None:
    FilesClient()
    FilesClient(
        api_key=fresh_key,
        base_url="http://127.0.0.1:8787/v1",
        organization="org-1",
        project="proj-1",
        headers={"X-Team": "search"},
        params={"api-version": "2024-10-21"},
        timeouts=Timeouts(connect=5, total=None),
        retry=RetryPolicy(attempts=3, deadline=60),
        max_connections=8,
        proxy="http://127.0.0.1:3128",
        trust_env=False,
        ssl=False,
    )
    FilesClient("sk-positional")  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]
    FilesClient(api_key=7)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]


async def ways_to_call_a_client() -> None:
    async with FilesClient() as files:
        assert_type(files, FilesClient)
        file = await files.upload("train.jsonl", purpose="fine-tune")
        assert_type(file, FileObject)
        assert_type(await files.retrieve(file), FileObject)
        assert_type(await files.retrieve("file-1"), FileObject)
        assert_type(await files.wait_for_processing(file, timeout=60), FileObject)
        assert_type(await files.delete(file, missing_ok=True), DeletedFile)
        assert_type(await files.read(file, max_bytes=1_000), bytes)
        assert_type(await files.download(file, Path("out"), overwrite=False), DownloadedFile)
        assert_type(await files.download(file, "out", sha256="00" * 32), DownloadedFile)
        assert_type(files.list(purpose="batch", order="asc"), AsyncGenerator[FileObject, None])
        async for listed in files.list(after=file, page_size=100, max_items=10):
            assert_type(listed, FileObject)
        async for page in files.list_pages(after="file-1"):
            assert_type(page, FilePage)
            assert_type(page.data, tuple[FileObject, ...])
        assert_type(files.stream(file), ContentStream)
        async with files.stream(file, start=5) as content:
            assert_type(content.length, int | None)
            assert_type(content.content_type, str | None)
            async for chunk in content:
                assert_type(chunk, bytes)
    await FilesClient().aclose()


async def ways_to_call_a_client_wrongly(files: FilesClient) -> None:
    await files.upload("a")  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]
    await files.upload(7, purpose="batch")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    await files.retrieve(7)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    await files.download("file-1", b"out")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    files.list(order="up")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]


async def ways_to_hold_what_is_uploaded(
    files: FilesClient,
    blocks: Iterator[bytes],
    lines: AsyncIterator[bytes],
    generator: AsyncGenerator[bytes, None],
) -> None:
    for source in ("path", Path("path"), b"content", bytearray(), memoryview(b"")):
        await files.upload(source, purpose="batch")
    with open("path", "rb") as file:
        await files.upload(file, purpose="batch")
    await files.upload(io.BytesIO(), purpose="batch", filename="a", content_type="text/plain")
    await files.upload([b"a", b"b"], purpose="batch", expires_after=timedelta(days=1))
    await files.upload(blocks, purpose="batch", expires_after=3_600)
    await files.upload(lines, purpose="batch", expires_after=ExpiresAfter(3_600))
    await files.upload(generator, purpose="batch", progress=print)


def models(file: FileObject, page: FilePage, downloaded: DownloadedFile) -> None:
    assert_type(file.id, str)
    assert_type(file.bytes, int)
    assert_type(file.created, datetime)
    assert_type(file.expires, datetime | None)
    assert_type(file.status, str | None)
    assert_type(file.extra["etag"], object)
    assert_type(page.last_id, str | None)
    assert_type(downloaded.path, Path)
    assert_type(downloaded.sha256, str | None)
    assert_type(ExpiresAfter(3_600).anchor, Literal["created_at"])
    file.id = "other"  # type: ignore[misc]  # pyright: ignore[reportAttributeAccessIssue]


def errors(
    error: FilesError, status: APIStatusError, wrong: IntegrityError, lost: UploadUncertainError
) -> None:
    assert_type(error.retryable, bool)
    assert_type(status.status_code, int)
    assert_type(status.message, str)
    assert_type(status.code, str | None)
    assert_type(status.retry_after, float | None)
    assert_type(wrong.file, FileObject | None)
    assert_type(lost.candidates, tuple[FileObject, ...])
    if isinstance(error, RateLimitError):
        assert_type(error.request_id, str | None)
    if isinstance(error, ProcessingError):
        assert_type(error.file, FileObject)


def show(progress: Progress) -> int:
    return progress.done * 100 // (progress.total or 1)


class Bar:
    def __call__(self, progress: Progress, /) -> None:
        assert_type(progress.total, int | None)


def sinks() -> list[ProgressSink]:
    return [show, Bar(), print, list[Progress]().append]


# --- run ----------------------------------------------------------------------------------------

PUBLIC = {name: getattr(aiofiles_api, name) for name in aiofiles_api.__all__}
CLASSES = [thing for thing in PUBLIC.values() if inspect.isclass(thing)]


def members(kind: type) -> dict[str, FunctionType]:
    """Return the functions that a class defines for its users, its constructor among them."""
    found = {}
    for name, member in vars(kind).items():
        function = getattr(member, "fget", None) or getattr(member, "__func__", member)
        is_public = not name.startswith("_") or name in {"__init__", "__call__"}
        is_ours = isinstance(function, FunctionType) and function.__module__ == kind.__module__
        if is_public and is_ours:
            found[name] = function
    return found


FUNCTIONS = [
    pytest.param(kind, function, id=f"{kind.__name__}.{name}")
    for kind in CLASSES
    for name, function in members(kind).items()
]


def parts(hint: object) -> Iterator[object]:
    yield hint
    for part in get_args(hint):
        if isinstance(part, list):
            for one in part:
                yield from parts(one)
        else:
            yield from parts(part)


def hints_of(thing: Callable[..., object] | type) -> dict[str, object]:
    # What errors.py imports for type checkers alone.
    return get_type_hints(thing, localns=PUBLIC)


@pytest.mark.parametrize(("kind", "function"), FUNCTIONS)
def test_no_public_signature_says_any(kind: type, function: FunctionType) -> None:
    hints = hints_of(function)
    for name, hint in hints.items():
        assert Any not in parts(hint), name
    for name, parameter in inspect.signature(function).parameters.items():
        assert parameter.kind not in {parameter.VAR_KEYWORD, parameter.VAR_POSITIONAL}
        assert name == "self" or name == "cls" or name in hints  # noqa: PLR1714
    assert "return" in hints


@pytest.mark.parametrize("kind", CLASSES, ids=lambda kind: kind.__name__)
def test_no_public_attribute_says_any(kind: type) -> None:
    for name, hint in hints_of(kind).items():
        assert name.startswith("_") or Any not in parts(hint), name


@pytest.mark.parametrize(("kind", "function"), FUNCTIONS)
def test_a_flag_is_said_by_its_name(kind: type, function: FunctionType) -> None:
    if attrs.has(kind):
        return  # a value, whose fields are in the order of the API
    hints = hints_of(function)
    for name, parameter in inspect.signature(function).parameters.items():
        assert hints.get(name) is not bool or parameter.kind is parameter.KEYWORD_ONLY, name


@pytest.mark.parametrize(("kind", "function"), FUNCTIONS)
def test_no_default_can_be_changed(kind: type, function: FunctionType) -> None:
    for name, parameter in inspect.signature(function).parameters.items():
        assert not isinstance(parameter.default, dict | list | set), name


@pytest.mark.parametrize("kind", CLASSES, ids=lambda kind: kind.__name__)
def test_every_public_name_says_what_it_is(kind: type) -> None:
    assert (vars(kind).get("__doc__") or "").strip()
    for name, function in members(kind).items():
        # A constructor is described by its class.
        assert name == "__init__" or (function.__doc__ or "").strip(), name


def test_the_names_are_all_there_and_in_order() -> None:
    assert aiofiles_api.__all__ == sorted(aiofiles_api.__all__)
    found = {
        name
        for name, thing in vars(aiofiles_api).items()
        if not isinstance(thing, ModuleType) and not name.startswith("_") and thing is not False
    }
    assert found | {"__version__"} == set(aiofiles_api.__all__)


def test_a_name_that_is_not_there_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="nothing"):
        getattr(aiofiles_api, "nothing")  # noqa: B009 - type checkers know better


def test_sqlite_is_not_imported_before_it_is_needed() -> None:
    # Which module imports it; what measures coverage imports SQLite itself.
    program = "import sys, aiofiles_api; assert 'aiofiles_api.journal' not in sys.modules"
    subprocess.run([sys.executable, "-c", program], check=True)


def test_every_public_name_is_shown_from_where_it_is_imported() -> None:
    for name, thing in PUBLIC.items():
        assert name == "__version__" or thing.__module__.startswith("aiofiles_api.")


def test_the_package_says_that_it_is_typed() -> None:
    assert Path(aiofiles_api.__file__).with_name("py.typed").exists()
