"""The command line: what it prints, where, and how it ends."""

from __future__ import annotations

import asyncio
import fcntl
import hashlib
import io
import json
import os
import pty
import signal
import subprocess
import sys
import termios
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from pathlib import Path

import aiohttp
import anyio
import pytest
from aiohttp.client_reqrep import ConnectionKey
from command_line import (
    COMMAND,
    CommandLine,
    Ran,
    Screen,
    Server,
    emulated,
    ended,
    in_terminal,
    scripted,
    started,
    until,
)
from conftest import KEY, NO_RETRIES, RawRequest, Script, raw_server, reply, silence
from multidict import CIMultiDict, CIMultiDictProxy
from rich.cells import cell_len
from yarl import URL

from aiofiles_api import (
    AuthenticationError,
    FilesClient,
    FilesError,
    InternalServerError,
    RateLimitError,
    __version__,
)
from aiofiles_api.__main__ import main
from aiofiles_api.cli import app, outlet, process, run
from aiofiles_api.cli.outlet import Outlet
from aiofiles_api.cli.text import in_options, moment, one_line, printable, size, span
from aiofiles_api.emulator import Emulator
from aiofiles_api.session.failures import DripsError, raise_ours
from aiofiles_api.sources.reading import not_replayable

HOSTILE = "a\x1b[31m\tb\n[bold red]c\u202e.txt"
NO_HOST = ConnectionKey(
    "-", 443, is_ssl=True, ssl=True, proxy=None, proxy_auth=None, proxy_headers_hash=None
)
NO_REQUEST = aiohttp.RequestInfo(
    URL("http://-"), "GET", CIMultiDictProxy(CIMultiDict()), URL("http://-")
)
SHOWN = r"a\x1b[31m\tb\n[bold red]c\u202e.txt"


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    """Run an emulator, and have the environment point at it."""
    with emulated() as server:
        monkeypatch.setenv("OPENAI_BASE_URL", server.base_url)
        monkeypatch.setenv("OPENAI_API_KEY", KEY)
        yield server


@pytest.fixture
def command(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> CommandLine:
    return CommandLine(capsys, monkeypatch)


def write(path: Path, content: bytes) -> str:
    path.write_bytes(content)
    return str(path)


# --- upload --------------------------------------------------------------------------------------


def test_upload_prints_the_id_and_name_of_each_file(
    server: Server, command: CommandLine, tmp_path: Path
) -> None:
    paths = [write(tmp_path / f"{name}.jsonl", b'"%s"' % name.encode()) for name in "abc"]
    ran = command("upload", *paths, "--purpose", "batch")
    assert (ran.status, ran.err) == (0, "")
    assert sorted(ran.lines) == sorted([file.id, file.filename] for file in server.files())
    contents = {file.filename: server.read(file.id) for file in server.files()}
    assert contents == {"a.jsonl": b'"a"', "b.jsonl": b'"b"', "c.jsonl": b'"c"'}


def test_upload_prints_one_json_object_for_each_file(
    server: Server, command: CommandLine, tmp_path: Path
) -> None:
    path = write(tmp_path / "ä.jsonl", b"{}")
    ran = command("upload", path, "--purpose", "batch", "--json")
    (file,) = server.files()
    shown = json.loads(ran.out)
    assert ran.out.count("\n") == 1
    assert ran.out.isascii()
    assert shown["path"] == path
    assert (shown["id"], shown["bytes"], shown["filename"]) == (file.id, 2, "ä.jsonl")


def test_upload_sends_nothing_where_it_knows_that_something_is_wrong(
    server: Server, command: CommandLine, tmp_path: Path
) -> None:
    good = write(tmp_path / "good", b"1")
    missing = str(tmp_path / "missing")
    ran = command("upload", missing, good, str(tmp_path), "--purpose", "vision")
    assert ran.status == 1
    assert server.files() == []
    first, second, last = ran.err.splitlines()
    assert first == f"aiofiles-api: {missing}: it cannot be read: No such file or directory"
    assert second.startswith(f"aiofiles-api: {tmp_path}: it is a directory; pass --recursive")
    assert last.startswith("aiofiles-api: nothing was sent")


@pytest.mark.parametrize("name", ["a  b", "a\xa0b", "a\tb", "a\nb", "a\r"])
def test_what_is_wrong_with_a_file_is_told_under_its_name_and_no_other(
    server: Server, command: CommandLine, tmp_path: Path, name: str
) -> None:
    path = write(tmp_path / name, b"")
    err = command("upload", path, "-p", "vision").err
    assert err.splitlines()[0] == f"aiofiles-api: {tmp_path}/{printable(name)}: it is empty"
    err = command("upload", path, "-p", "no-such-purpose", "--no-check=all").err
    assert err.startswith(f"aiofiles-api: {tmp_path}/{printable(name)}: uploading ")


def test_a_failure_that_does_not_name_the_path_gets_it_in_front(
    server: Server, command: CommandLine, tmp_path: Path
) -> None:
    path = write(tmp_path / "a", b"1")
    ran = command("upload", path, "--purpose", "no-such-purpose")
    assert ran.status == 1
    assert ran.err.startswith(f"aiofiles-api: {path}: uploading 'a': 400")


def test_upload_takes_a_name_for_a_single_file(
    server: Server, command: CommandLine, tmp_path: Path
) -> None:
    path = write(tmp_path / "a", b"1")
    assert command("upload", path, "-p", "batch", "--filename", "b.jsonl").status == 0
    assert [file.filename for file in server.files()] == ["b.jsonl"]


@pytest.mark.parametrize(
    ("lifetime", "seconds"), [("3600", 3600), ("90m", 5400), ("12h", 43_200), ("30d", 2_592_000)]
)
def test_upload_takes_an_expiry_in_seconds_or_with_a_unit(
    server: Server, command: CommandLine, tmp_path: Path, lifetime: str, seconds: int
) -> None:
    path = write(tmp_path / "a", b"1")
    assert command("upload", path, "-p", "vision", "--expires-after", lifetime).status == 0
    (file,) = server.files()
    assert file.expires_at is not None
    assert file.expires_at - file.created_at == seconds


def test_upload_reads_a_pipe_on_standard_input(server: Server) -> None:
    content = os.urandom(300_000)
    with subprocess.Popen(
        [*COMMAND, "upload", "-", "--purpose", "evals", "--filename", "piped"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    ) as process:
        assert process.stdin is not None
        process.stdin.write(content[:7])
        process.stdin.flush()
        process.stdin.write(content[7:])
        process.stdin.close()
        process.wait()
    assert process.returncode == 0
    (file,) = server.files()
    assert file.filename == "piped"
    assert server.read(file.id) == content


def test_upload_reads_a_file_on_standard_input_from_where_it_stands(
    server: Server, tmp_path: Path
) -> None:
    with open(write(tmp_path / "a", b"{\n{}\n[]"), "rb", buffering=0) as file:
        file.seek(2)
        subprocess.run(
            [*COMMAND, "upload", "-", "-p=batch", "--filename=b.jsonl"], stdin=file, check=True
        )
    (stored,) = server.files()
    assert stored.filename == "b.jsonl"
    assert server.read(stored.id) == b"{}\n[]"


@pytest.mark.parametrize(
    ("content", "filename", "is_file", "problem"),
    [
        (b"", "a.jsonl", False, "it is empty"),
        (b"", "a.jsonl", True, "it is empty"),
        (b"{}", "a.txt", False, "purpose batch needs a .jsonl file"),
        (b"{}\n{", "a.jsonl", True, "line 2 is not JSON"),
    ],
)
def test_content_from_standard_input_is_checked_as_far_as_it_can_be(
    server: Server, tmp_path: Path, content: bytes, filename: str, *, is_file: bool, problem: str
) -> None:
    def upload(*options: str) -> subprocess.CompletedProcess[bytes]:
        arguments = [*COMMAND, "upload", "-", "-p=batch", "--filename", filename, *options]
        if not is_file:
            return subprocess.run(arguments, input=content, capture_output=True, check=False)
        with open(write(tmp_path / "a", content), "rb") as file:
            return subprocess.run(arguments, stdin=file, capture_output=True, check=False)

    ran = upload()
    assert (ran.returncode, ran.stdout) == (1, b"")
    assert ran.stderr.decode().startswith(f"aiofiles-api: standard input: {problem}")
    assert server.files() == []
    assert upload("--no-check=all").returncode == 0
    assert [server.read(file.id) for file in server.files()] == [content]


@pytest.mark.parametrize("options", [[], ["--filename=a.jsonl"]])
@pytest.mark.parametrize("name", ["/dev/null", "file"])
def test_standard_input_that_cannot_be_read_is_told_in_one_line(
    server: Server, tmp_path: Path, name: str, options: list[str]
) -> None:
    path = tmp_path / name
    if name == "file":
        path.write_bytes(b"{}")
    only_to_write = os.open(path, os.O_WRONLY)
    ran = subprocess.run(
        [*COMMAND, "upload", "-", "-p=batch", *options],
        stdin=only_to_write,
        capture_output=True,
        text=True,
        check=False,
    )
    os.close(only_to_write)
    assert ran.returncode == 1
    assert ran.stderr == "aiofiles-api: standard input cannot be read: Bad file descriptor\n"


def test_upload_draws_bars_on_a_terminal(
    server: Server, command: CommandLine, tmp_path: Path
) -> None:
    paths = [write(tmp_path / name, bytes(2_000_000)) for name in ("one", "[bold]two\x1b[0m")]
    ran = command.on_terminal("upload", *paths, "--purpose", "user_data")
    assert ran.status == 0
    for file in server.files():
        assert f"✓ {file.id}  {printable(file.filename)}  2.0 MB" in ran.out
    assert "2 of 2 uploaded" in ran.out
    assert "━" in ran.out
    assert r"[bold]two\x1b[0m" in ran.out


def test_bars_go_to_standard_error_where_that_alone_is_a_terminal(
    server: Server, command: CommandLine, tmp_path: Path
) -> None:
    path = write(tmp_path / "one", bytes(1_000_000))
    ran = command.on_terminal("upload", path, "-p", "user_data", out=False)
    assert ran.lines == [[file.id, "one"] for file in server.files()]
    assert "━" in ran.err
    assert "✓" not in ran.err


def test_a_bar_tells_that_it_is_a_later_attempt(command: CommandLine, tmp_path: Path) -> None:
    file = {"id": "x", "bytes": 1, "created_at": 1, "filename": "a", "purpose": "batch"}

    async def late(request: RawRequest, writer: asyncio.StreamWriter) -> None:
        await asyncio.sleep(0.3)
        await reply(json.dumps(file))(request, writer)

    path = write(tmp_path / "a", b"1")
    with scripted(reply(status="429 Slow", headers={"Retry-After": "0"}), late) as base_url:
        options = ("--purpose=vision", "--base-url", base_url, "--api-key", KEY)
        ran = command.on_terminal("upload", path, *options)
    assert ran.status == 0
    assert "attempt 2" in ran.out


# --- list ----------------------------------------------------------------------------------------


def test_list_prints_fields_between_tabs(server: Server, command: CommandLine) -> None:
    first = server.put(b"1", "one file.txt")
    second = server.put(b"22", HOSTILE, "batch")
    ran = command("list")
    assert (ran.status, ran.err) == (0, "")
    assert ran.lines == [
        [second.id, "2", moment(second.created_at), "batch", SHOWN],
        [first.id, "1", moment(first.created_at), "user_data", "one file.txt"],
    ]


def test_list_prints_one_json_object_for_each_file(server: Server, command: CommandLine) -> None:
    files = [server.put(b"1", name) for name in ("a", HOSTILE)]
    shown = [json.loads(line) for line in command("list", "--json").out.splitlines()]
    assert [one["id"] for one in shown] == [file.id for file in reversed(files)]
    assert shown[0]["filename"] == HOSTILE


def test_list_takes_what_the_client_takes(server: Server, command: CommandLine) -> None:
    files = [server.put(b"1", str(number), "batch") for number in range(5)]
    server.put(b"1", "other")
    options = ("--purpose=batch", "--order=asc", "--page-size=2", f"--after={files[0].id}")
    ran = command("list", *options, "--max-items=3")
    assert [line[0] for line in ran.lines] == [file.id for file in files[1:4]]


def test_list_draws_a_table_on_a_terminal(server: Server, command: CommandLine) -> None:
    files = [server.put(b"1", f"{number}{HOSTILE}") for number in range(3)]
    long = server.put(b"1", "x" * 200)
    ran = command.on_terminal("list", "--page-size", "2")
    header, *rows, total = ran.out.strip().splitlines()[-6:]
    assert header.split() == ["ID", "Filename", "Size", "Purpose", "Created,", "UTC"]
    assert [row.split()[0] for row in rows] == [it.id for it in (long, *reversed(files))]
    assert "…" in rows[0]
    assert rf"2{SHOWN} " in rows[1]
    assert total == "4 files, 4 B"


@pytest.mark.parametrize(("columns", "headers"), [(100, 5), (90, 4), (70, 3), (60, 3)])
def test_a_narrow_terminal_gets_fewer_columns(
    server: Server, command: CommandLine, columns: int, headers: int
) -> None:
    server.put(b"1", "a" * 200)
    header, *_ = command.on_terminal("list", columns=columns).out.rpartition("ID")[2].splitlines()
    names = ["Filename", "Size", "Purpose", "Created, UTC"]
    assert [name for name in names if name in header] == names[: headers - 1]


def test_short_purposes_do_not_cut_their_title(server: Server, command: CommandLine) -> None:
    server.put(b"1", "a", "evals")
    assert "Purpose" in command.on_terminal("list").out


@pytest.mark.parametrize("columns", [66, 80, 100, 200])
def test_rows_fill_the_terminal_and_never_cut_an_id(
    server: Server, command: CommandLine, columns: int
) -> None:
    files = [server.put(b"1", name) for name in ("a" * 200, "世" * 200, "b世")]
    *_, first, second, third, _ = command.on_terminal("list", columns=columns).out.splitlines()
    for row, file in zip((third, second, first), files, strict=True):
        assert row.startswith(f"{file.id}  {file.filename[0]}")
        assert cell_len(row) == columns


def test_an_id_is_whole_though_those_of_the_first_page_are_shorter(command: CommandLine) -> None:
    def page(identifier: str, *, has_more: bool) -> str:
        file = {"id": identifier, "bytes": 1, "created_at": 1, "filename": "f", "purpose": "evals"}
        return json.dumps({"object": "list", "data": [file], "has_more": has_more})

    pages = page("file-1", has_more=True), page("file-" + "2" * 40, has_more=False)
    with scripted(*map(reply, pages)) as base_url:
        ran = command.on_terminal("list", "--base-url", base_url, "--api-key", KEY, columns=70)
    first, second, _ = ran.out.splitlines()[-3:]
    assert first.startswith("file-1  f ")
    assert second.startswith(f"file-{'2' * 40}  f ")


def test_an_empty_listing_is_nothing_to_a_pipe_and_told_to_a_person(
    server: Server, command: CommandLine
) -> None:
    assert command("list").out == ""
    assert command.on_terminal("list").out.strip().endswith("no files")


def test_json_on_a_terminal_is_json(server: Server, command: CommandLine) -> None:
    file = server.put(b"1", "[red]" + "x" * 200)
    ran = command.on_terminal("list", "--json")
    assert json.loads(ran.out.strip().splitlines()[-1])["id"] == file.id


# --- info ----------------------------------------------------------------------------------------


def test_info_prints_a_line_for_each_file_in_the_given_order(
    server: Server, command: CommandLine
) -> None:
    files = [server.put(b"1", name) for name in "abc"]
    ran = command("info", files[1].id, "file-none", files[0].id)
    assert ran.status == 1
    assert [line[4] for line in ran.lines] == ["b", "a"]
    assert ran.err.startswith("aiofiles-api: retrieving file-none: 404")
    assert ran.err.count("\n") == 1


def test_info_prints_json(server: Server, command: CommandLine) -> None:
    file = server.put(b"1", "a")
    assert json.loads(command("info", file.id, "--json").out)["id"] == file.id


def test_info_prints_json_for_what_is_not_found_too(server: Server, command: CommandLine) -> None:
    ran = command("info", "file-none", "--json")
    assert ran.status == 1
    assert json.loads(ran.out)["error"] == "NotFoundError"


def test_info_shows_all_fields_on_a_terminal(server: Server, command: CommandLine) -> None:
    first = server.put(b"1" * 2000, HOSTILE, "batch")
    second = server.put(b"1", "b")
    ran = command.on_terminal("info", first.id, second.id)
    assert SHOWN in ran.out
    assert "size     2.0 kB (2,000 bytes)" in ran.out
    assert "status   processed" in ran.out
    assert ran.out.count("expires") == 1


def test_info_shows_fields_that_it_does_not_know(
    command: CommandLine, monkeypatch: pytest.MonkeyPatch
) -> None:
    known = {"id": "x", "bytes": 1, "created_at": 1, "filename": "f", "purpose": "batch"}
    script = reply(json.dumps({**known, "etag": "\x1b[0m"}))
    with scripted(script) as base_url:
        ran = command.on_terminal("info", "x", "--base-url", base_url, "--api-key", KEY)
    assert ran.status == 0
    assert r"etag     \x1b[0m" in ran.out


def test_numbers_that_json_cannot_say_are_null(command: CommandLine) -> None:
    fields = '"id": "x", "bytes": 1, "created_at": 1, "filename": "f", "purpose": "evals"'
    script = reply(f'{{{fields}, "a": 1e999, "b": {{"c": [-1e999, 1.5]}}}}')
    with scripted(script) as base_url:
        ran = command("info", "x", "--json", "--base-url", base_url, "--api-key", KEY)
    shown = json.loads(ran.out, parse_constant=pytest.fail)
    assert (shown["a"], shown["b"]) == (None, {"c": [None, 1.5]})


def test_fields_that_are_nested_deeply_are_written_as_they_are(command: CommandLine) -> None:
    deep = '{"a": ' * 400 + "1" + "}" * 400
    fields = '"id": "x", "bytes": 1, "created_at": 1, "filename": "f", "purpose": "evals"'
    with scripted(reply(f'{{{fields}, "deep": {deep}}}')) as base_url:
        ran = command("info", "x", "--json", "--base-url", base_url, "--api-key", KEY)
    assert deep in ran.out


# --- download ------------------------------------------------------------------------------------


def test_download_puts_files_into_the_current_directory(
    server: Server, command: CommandLine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    file = server.put(b"content", "../../a.txt")
    ran = command("download", file.id)
    assert (ran.status, ran.err) == (0, "")
    assert ran.lines == [[file.id, "a.txt"]]
    assert Path("a.txt").read_bytes() == b"content"


def test_download_makes_a_directory_that_ends_with_a_slash(
    server: Server, command: CommandLine, tmp_path: Path
) -> None:
    files = [server.put(name.encode(), name) for name in "ab"]
    ran = command("download", *(file.id for file in files), "-o", f"{tmp_path}/new/", "--json")
    assert {json.loads(line)["file_id"] for line in ran.out.splitlines()} == {
        file.id for file in files
    }
    assert {path.name for path in (tmp_path / "new").iterdir()} == {"a", "b"}


def test_files_of_the_same_name_do_not_replace_one_another(
    server: Server, command: CommandLine, tmp_path: Path
) -> None:
    files = [server.put(str(number).encode(), "a.txt") for number in range(3)]
    ran = command("download", *(file.id for file in files), files[0].id, "-o", str(tmp_path))
    assert ran.status == 0
    names = ["a.txt", *(f"a-{file.id}.txt" for file in files[1:])]
    assert [(tmp_path / name).read_text() for name in names] == ["0", "1", "2"]


def test_download_takes_a_path_for_a_single_file(
    server: Server, command: CommandLine, tmp_path: Path
) -> None:
    file = server.put(b"content", "a.txt")
    path = tmp_path / "b.txt"
    digest = hashlib.sha256(b"content").hexdigest()
    ran = command.on_terminal("download", file.id, "-o", str(path), "--sha256", digest)
    assert ran.status == 0
    assert path.read_bytes() == b"content"
    assert f"✓ {file.id}  {path}  7 B" in ran.out


@pytest.mark.parametrize("output", ["a", "dir/"])
@pytest.mark.parametrize(
    ("last", "status"),
    [(reply("content", headers={"Content-Type": "x/y"}), 0), (reply("{}", status="410 Gone"), 1)],
)
def test_download_tells_how_many_attempts_were_made(
    command: CommandLine, tmp_path: Path, output: str, last: Script, status: int
) -> None:
    file = {"id": "x", "bytes": 7, "created_at": 1, "filename": "a", "purpose": "batch"}
    overloaded = reply("{}", status="503 Service Unavailable", headers={"Retry-After": "0"})
    with scripted(reply(json.dumps(file)), overloaded, last) as base_url:
        options = ("--json", "--base-url", base_url, "--api-key", KEY)
        ran = command("download", "x", "-o", f"{tmp_path}/{output}", *options)
    assert ran.status == status
    assert json.loads(ran.out)["attempts"] == 2


def test_download_replaces_a_file_unless_told_not_to(
    server: Server, command: CommandLine, tmp_path: Path
) -> None:
    file = server.put(b"new", "a")
    path = Path(write(tmp_path / "a", b"old"))
    ran = command("download", file.id, "-o", str(tmp_path), "--no-overwrite")
    assert ran.status == 1
    assert ran.err.endswith("exists; leave out --no-overwrite, or choose another name\n")
    assert path.read_bytes() == b"old"
    assert command("download", file.id, "-o", str(tmp_path)).status == 0
    assert path.read_bytes() == b"new"


def test_download_refuses_content_of_another_digest(
    server: Server, command: CommandLine, tmp_path: Path
) -> None:
    file = server.put(b"content", "a")
    ran = command("download", file.id, "-o", str(tmp_path), "--sha256", "0" * 64)
    assert ran.status == 1
    assert ran.err.startswith(f"aiofiles-api: {file.id}: ")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("expected", [None, "right", "wrong"])
def test_download_writes_to_standard_output(
    server: Server, command: CommandLine, expected: str | None
) -> None:
    content = os.urandom(1_500_000)
    file = server.put(content, "a")
    digest = hashlib.sha256(content).hexdigest()
    digests = {"right": digest.upper(), "wrong": "0" * 64}
    options = () if expected is None else ("--sha256", digests[expected])
    shown, complaint = command.to_bytes("download", file.id, "-o", "-", *options)
    assert shown == content
    told = f"{file.id}: the content's sha256 is {digest}, not {'0' * 64}"
    assert (told in complaint) == (expected == "wrong")


def test_a_directory_may_be_called_like_standard_output(
    server: Server, command: CommandLine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = server.put(b"content", "a")
    monkeypatch.chdir(tmp_path)
    (tmp_path / "-").mkdir()
    assert command.to_bytes("download", file.id, "-o", "-") == (b"content", "")
    assert command("download", file.id, "-o", "-/").status == 0
    assert (tmp_path / "-" / "a").read_bytes() == b"content"


def test_content_on_standard_output_leaves_standard_error_for_the_bar(
    server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = server.put(b"content", "a")
    monkeypatch.setattr(sys, "stderr", screen := Screen())
    monkeypatch.setattr(sys, "stdout", out := io.TextIOWrapper(io.BytesIO()))
    assert run(["download", file.id, "--output", "-"]) == 0
    out.seek(0)
    assert out.read() == "content"
    assert "7 B" in screen.text


def test_content_on_a_terminal_stands_there_alone(server: Server) -> None:
    content = b"one\ntwo\nthree"
    ran = in_terminal("download", server.put(content, "a").id, "--output", "-", raw=True)
    assert ran.out.encode() == content.replace(b"\n", b"\r\n")


# --- delete --------------------------------------------------------------------------------------


def test_delete_refuses_to_delete_without_a_terminal_or_yes(
    server: Server, command: CommandLine
) -> None:
    file = server.put(b"1", "a")
    ran = command("delete", file.id)
    assert ran.status == 2
    assert "pass --yes" in ran.err
    assert server.files() == [file]


@pytest.mark.parametrize(
    "arguments", [("list", "--after", "a/b"), ("list", "--page-size", "0"), ("list", "-p", "")]
)
def test_what_cannot_be_asked_for_is_a_wrong_call(
    server: Server, command: CommandLine, arguments: tuple[str, ...]
) -> None:
    ran = command(*arguments)
    assert server.files() == []
    assert ran.status == 2
    assert len(ran.err.splitlines()) == 1


def test_delete_deletes_with_yes(server: Server, command: CommandLine) -> None:
    files = [server.put(b"1", name) for name in "ab"]
    ran = command("delete", files[0].id, "file-none", "--yes")
    assert ran.status == 1
    assert ran.lines == [[files[0].id, "deleted"]]
    assert "file-none" in ran.err
    assert server.files() == files[1:]


def test_delete_does_not_mind_missing_files_if_told_so(
    server: Server, command: CommandLine
) -> None:
    file = server.put(b"1", "a")
    ran = command("delete", file.id, "file-none", "--yes", "--missing-ok", "--concurrency=1")
    assert (ran.status, ran.err) == (0, "")
    assert ran.lines == [[file.id, "deleted"], ["file-none", "missing"]]


@pytest.mark.parametrize("yes", [[], ["--yes"]])
def test_a_dry_run_deletes_nothing(server: Server, command: CommandLine, yes: list[str]) -> None:
    file = server.put(b"1", "a")
    ran = command("delete", file.id, "file-none", "--dry-run", *yes)
    assert ran.status == 1
    assert ran.lines == [[file.id, "a"]]
    assert command("delete", file.id, "file-none", "--dry-run", "--missing-ok").status == 0
    shown = command.on_terminal("delete", file.id, "--dry-run", *yes).out
    assert "1 file, 1 B, would be deleted" in shown
    assert "✓" not in shown
    assert server.files() == [file]


@pytest.mark.parametrize(
    ("answer", "status"), [("Yes\n", 0), ("\n", 1), ("\x04", 1), ("y\x04es\n", 0), ("\udcff\n", 1)]
)
def test_delete_asks_on_a_terminal(
    server: Server, command: CommandLine, answer: str, status: int
) -> None:
    files = [server.put(b"1", HOSTILE), server.put(b"1", "kept")]
    ran = command.on_terminal("delete", files[0].id, types=answer)
    assert ran.status == status
    assert f"  {files[0].id}  {SHOWN}  1 B" in ran.out
    assert "Delete 1 file, 1 B, for ever? [y/N]" in ran.out
    assert ("nothing was deleted" in ran.out) == (status == 1)
    assert server.files() == (files if status else files[1:])


def test_delete_waits_for_an_answer(server: Server) -> None:
    file = server.put(b"1", "a")
    ran = in_terminal("delete", file.id, types="y\n")
    assert ran.status == 0
    assert f"✓ {file.id}  deleted" in ran.out
    assert server.files() == []


def test_delete_asks_also_on_a_terminal_that_can_only_print_lines(server: Server) -> None:
    file = server.put(b"1", "a")
    ran = in_terminal("delete", file.id, types="n\n", TERM="dumb")
    assert ran.status == 1
    assert "Delete 1 file" in ran.out
    assert ran.out.endswith("aiofiles-api: nothing was deleted\r\n")


@pytest.mark.parametrize("typed", ["", "y\x04"])
def test_ctrl_c_is_an_answer_too(server: Server, typed: str) -> None:
    file = server.put(b"1", "a")
    ran = in_terminal("delete", file.id, types=typed, is_interrupted=True)
    assert ran.status == 130
    assert ran.out.endswith("aiofiles-api: interrupted: nothing was deleted\r\n")
    assert server.files() == [file]


def test_delete_shows_some_of_many_files(server: Server, command: CommandLine) -> None:
    files = [server.put(b"1", str(number)) for number in range(25)]
    ran = command.on_terminal("delete", *(file.id for file in files), types="n\n")
    assert ran.status == 1
    assert sum(file.id in ran.out for file in files) == 20
    assert "and 5 more" in ran.out
    assert "Delete 25 files" in ran.out


def test_delete_asks_nothing_where_no_file_is_found(server: Server, command: CommandLine) -> None:
    ran = command.on_terminal("delete", "file-none", types="")
    assert ran.status == 1
    assert "?" not in ran.out


@pytest.mark.parametrize("arguments", ["file-none --missing-ok", "--filename nothing*"])
def test_delete_does_not_fail_where_there_is_nothing_to_delete(
    server: Server, command: CommandLine, arguments: str
) -> None:
    server.put(b"1", "a")
    ran = command.on_terminal("delete", *arguments.split(), types="")
    assert ran.status == 0
    assert "no file was found" in ran.err + ran.out
    assert len(server.files()) == 1


# --- usage ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "arguments",
    [
        "frobnicate",
        "list --frobnicate",
        "list --page-size 0",
        "list --page-size 10001",
        "list --order sideways",
        "list --max-items -1",
        "upload a",
        "upload --purpose batch",
        "upload a --purpose batch --concurrency 0",
        "upload a b --purpose batch --filename c",
        "upload - - --purpose batch",
        "upload a --journla x --purpose batch",
        "upload a --purpose batch --expires-after soon",
        "upload a --purpose batch --expires-after 59m",
        "upload a --purpose batch --expires-after 31d",
        "info",
        "download a --sha256 xyz",
        "download a b --sha256 " + "0" * 64,
        "download a b --output -",
        "download a b --output no-such-directory",
        "download a --output - --json",
        "download a --output=",
        "serve --port 65536",
        "serve --data-dir=",
        "demo --size-mb 0",
    ],
)
def test_what_makes_no_sense_is_refused_in_one_line(command: CommandLine, arguments: str) -> None:
    ran = command(*arguments.split())
    assert (ran.status, ran.out) == (2, "")
    assert ran.err.startswith("aiofiles-api: ")
    assert ran.err.count("\n") == 1


def test_without_a_key_it_says_where_to_put_one(command: CommandLine) -> None:
    ran = command("list")
    assert (ran.status, ran.out) == (1, "")
    assert ran.err.startswith("aiofiles-api: no API key: set OPENAI_API_KEY")


def test_what_the_library_would_have_done_in_python_is_said_in_words(
    command: CommandLine, server: Server
) -> None:
    err = command("info", "a b").err
    assert "pass an id that upload or list printed" in err
    err = command("list", "--api-key", "sk-1\n").err
    assert "comes from a file: take it away" in err
    assert "strip" not in err
    err = command("list", "--base-url", "http://me:secret@127.0.0.1/v1").err
    assert "user name or password, which have no place there; pass one like" in err
    err = command("list", "--base-url", "http://127.0.0.1/v1?a=b").err
    assert "query or fragment, which have no place there; pass one like" in err


def test_who_asks_too_much_is_told_what_the_command_line_can_do_about_it(
    command: CommandLine,
) -> None:
    script = reply("{}", status="429 Too Many Requests", headers={"Retry-After": "500"})
    with scripted(script) as base_url:
        ran = command("info", "x", "--json", "--base-url", base_url, "--api-key", KEY)
    assert "send fewer requests at a time, or try again later" in ran.err
    assert ran.err == f"aiofiles-api: {json.loads(ran.out)['message']}\n"


def test_content_from_a_pipe_that_would_have_to_be_read_again_belongs_into_a_file() -> None:
    async def refuse(request: RawRequest, writer: asyncio.StreamWriter) -> None:
        await request.reader.readuntil(b"\r\n0\r\n\r\n")
        await reply("{}", status="503 Service Unavailable")(request, writer)

    none = reply('{"object": "list", "data": [], "has_more": false}')
    with scripted(refuse, none) as base_url:
        ran = subprocess.run(
            [*COMMAND, "upload", "-", "-p=evals", "--filename=piped"],
            input=b"content",
            env={**os.environ, "OPENAI_BASE_URL": base_url, "OPENAI_API_KEY": KEY},
            capture_output=True,
            check=False,
        )
    assert ran.returncode == 1
    assert ran.stderr.endswith(b"read again: write it to a file first, and upload that\n")


def test_a_pipe_is_no_place_for_a_download_but_standard_output_may_be_one(
    server: Server, command: CommandLine, tmp_path: Path
) -> None:
    file = server.put(b"1", "a")
    os.mkfifo(tmp_path / "pipe")
    err = command("download", file.id, "-o", str(tmp_path / "pipe")).err
    assert err.endswith("is no regular file; use -o - to write to pipes and devices\n")
    err = command("download", file.id, "another", "-o", "-").err
    assert err == "aiofiles-api: --output - is for a single file; give one id with it\n"


@pytest.mark.parametrize(
    ("error", "shown"),
    [
        (aiohttp.SocketTimeoutError(), "the server was silent for too long"),
        (DripsError(), "the reply drips on for too long"),
        (
            aiohttp.ConnectionTimeoutError(),
            "no connection in time; check --base-url and the network",
        ),
        (
            aiohttp.ClientHttpProxyError(NO_REQUEST, (), status=407),
            "the proxy refused the connection with status 407; check HTTPS_PROXY and NO_PROXY",
        ),
        (
            aiohttp.ClientConnectorCertificateError(NO_HOST, ValueError("expired")),
            "the certificate is not trusted (expired); check --base-url, or set SSL_CERT_FILE",
        ),
        (ValueError(), "the request cannot be made (ValueError); check --base-url"),
    ],
)
def test_what_goes_wrong_on_the_way_is_told_without_arguments_of_the_library(
    error: Exception, shown: str
) -> None:
    with pytest.raises(FilesError) as raised:
        raise_ours(error, "listing files", None, is_secret=False)
    assert in_options(str(raised.value)) == f"listing files: {shown}"


def test_other_hints_are_translated_too() -> None:
    spent = in_options(str(not_replayable("it")))
    assert spent.endswith("cannot be read again; write it to a file first, and upload that")
    slow = in_options("the server took no bytes for too long (Timeouts.write)")
    assert slow == "the server took no bytes for too long"
    unclear = in_options("compare and delete by hand, or upload with spool=True")
    assert unclear.endswith("by hand; the next time write it to a file first, and upload that")


def test_options_come_before_the_environment_and_the_key_is_never_shown(
    server: Server, command: CommandLine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OPENAI_BASE_URL", "http://127.0.0.1:1/v1")
    monkeypatch.setenv("OPENAI_API_KEY", "sk-wrong-in-environment")
    options = ("--base-url", server.base_url, "--api-key")
    assert command("list", *options, KEY).status == 0
    ran = command("list", *options, "sk-wrong-in-option")
    assert ran.status == 1
    assert "401" in ran.err
    assert "sk-wrong" not in ran.err


@pytest.mark.parametrize(
    "arguments", ["", "upload", "list", "info", "download", "delete", "demo", "serve"]
)
def test_there_is_help_for_every_command(command: CommandLine, arguments: str) -> None:
    ran = command(*arguments.split(), "--help")
    assert (ran.status, ran.err) == (0, "")
    assert ran.out.startswith(f"Usage: aiofiles-api {arguments}")


def test_without_a_command_it_shows_the_help(command: CommandLine) -> None:
    assert command() == command("--help")


def test_it_tells_its_version(command: CommandLine) -> None:
    assert command("--version").out == f"aiofiles-api {__version__}\n"


# --- values --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("count", "text"),
    [
        (0, "0 B"),
        (999, "999 B"),
        (1000, "1.0 kB"),
        (999_949, "999.9 kB"),
        (999_950, "1.0 MB"),
        (261_004_000, "261.0 MB"),
        (5e12, "5.0 TB"),
        (3e18, "3000.0 PB"),
    ],
)
def test_sizes_read_as_people_say_them(count: float, text: str) -> None:
    assert size(count) == text


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0.04, "0.0 s"),
        (3, "3 s"),
        (59.9, "59.9 s"),
        (59.96, "1:00"),
        (3_599, "59:59"),
        (3_661, "1:01:01"),
    ],
)
def test_spans_of_time_read_as_people_say_them(seconds: float, text: str) -> None:
    assert span(seconds) == text


def test_a_number_that_is_no_time_is_left_as_it_is() -> None:
    assert moment(0) == "1970-01-01T00:00:00Z"
    assert moment(10**15) == str(10**15)


def test_only_what_does_not_show_as_itself_is_escaped() -> None:
    assert printable("Grüße, 世界 🎉 at\u202f9:41") == "Grüße, 世界 🎉 at\u202f9:41"
    assert printable("\x00\x9b\x7f\u2028\udc80\u200b") == r"\x00\x9b\x7f\u2028\udc80\u200b"
    assert one_line("a\n  b\x1b\n\n") == r"a b\x1b"


# --- the process ---------------------------------------------------------------------------------


def test_output_that_the_encoding_lacks_is_escaped(server: Server, command: CommandLine) -> None:
    server.put(b"1", "ä世")
    shown, _ = command.to_bytes("list", encoding="ascii")
    assert rb"\xe4\u4e16" in shown


def test_a_dumb_terminal_gets_plain_lines(server: Server, command: CommandLine) -> None:
    file = server.put(b"1", "a")
    ran = command.on_terminal("info", file.id, term="dumb")
    assert ran.lines[0][0] == file.id


def test_a_terminal_of_no_width_is_printed_to_all_the_same(
    server: Server, command: CommandLine, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = server.put(b"1", "a")
    assert file.id in command.on_terminal("list", columns=0).out
    assert "404" in command.on_terminal("info", "file-none", columns=0).err
    for columns in (0, 2):
        # A process of its own would begin with none, and other tests are to.
        monkeypatch.setattr(app["list"], "_fallback_console", None)
        assert "Usage: aiofiles-api" in command.on_terminal("list", "--help", columns=columns).out


@pytest.mark.parametrize(
    "size", ["", "-5", "00", "05", "\u00b2", "\u0665\u0660", "99999999999", "a"]
)
def test_what_is_no_size_of_a_terminal_is_not_taken_for_one(
    server: Server, command: CommandLine, monkeypatch: pytest.MonkeyPatch, size: str
) -> None:
    file = server.put(b"1", "a")
    monkeypatch.setenv("LINES", size)
    ran = command.on_terminal("list", columns=size)
    assert ran.status == 0
    assert file.id in ran.out


@pytest.mark.parametrize("columns", [1, 2, 9])
def test_in_a_very_narrow_terminal_it_comes_to_an_end(columns: int) -> None:
    ran = in_terminal("list", "--help", columns=columns)
    assert ran.status == 0
    assert "Usage" in ran.out


def test_an_ascii_terminal_gets_ok_for_a_tick(
    server: Server, command: CommandLine, tmp_path: Path
) -> None:
    path = write(tmp_path / "a", b"1")
    ran = command.on_terminal("upload", path, "-p", "vision", encoding="ascii")
    assert f"ok {server.files()[0].id}" in ran.out


@pytest.mark.parametrize("name", ["list", "demo"])
def test_a_closed_pipe_ends_it_without_a_word(server: Server, name: str) -> None:
    server.put(b"1", "a")
    with subprocess.Popen(
        [*COMMAND, name], stdout=subprocess.PIPE, stderr=subprocess.PIPE
    ) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdout.close()
        assert process.stderr.read() == b""
    assert process.returncode == 128 + signal.SIGPIPE


def test_a_command_that_is_cancelled_without_a_signal_has_no_status() -> None:
    async def cancelled() -> int:
        raise asyncio.CancelledError

    with pytest.raises(asyncio.CancelledError):
        asyncio.run(process.until_signalled(cancelled()))


def test_a_full_disk_is_told_in_one_line(server: Server, tmp_path: Path) -> None:
    paths = [write(tmp_path / name, b"1") for name in "ab"]
    with open("/dev/full", "wb") as full:
        done = subprocess.run(
            [*COMMAND, "upload", *paths, "--purpose=vision"],
            stdout=full,
            stderr=subprocess.PIPE,
            text=True,
            check=False,
        )
    assert done.returncode == 1
    assert done.stderr == "aiofiles-api: standard output: No space left on device\n"


@pytest.mark.parametrize("unbuffered", ["", "1"])
def test_output_that_goes_out_only_in_part_is_a_failure(tmp_path: Path, unbuffered: str) -> None:
    file = {"id": "x", "bytes": 1, "created_at": 1, "filename": "a" * 3_000_000, "purpose": "evals"}
    listing = json.dumps({"object": "list", "data": [file], "has_more": False})
    with scripted(reply(listing)) as base_url, open(tmp_path / "out", "wb") as out:
        done = subprocess.run(
            # No file may be as large as that: what is written goes out, but not all of it.
            ["sh", "-c", 'ulimit -f 2000; "$@"', "sh", *COMMAND, "list", "--api-key", KEY],
            stdout=out,
            stderr=subprocess.PIPE,
            text=True,
            check=False,
            env={**os.environ, "PYTHONUNBUFFERED": unbuffered, "OPENAI_BASE_URL": base_url},
        )
    assert done.returncode == 1
    assert done.stderr == "aiofiles-api: standard output: File too large\n"


@pytest.mark.parametrize(
    ("arguments", "status"), [("info file-none", 1), ("frobnicate", 2), ("list", 1)]
)
def test_what_nobody_can_be_told_is_in_the_status_all_the_same(
    server: Server, arguments: str, status: int
) -> None:
    server.put(b"1", "a")
    with open("/dev/full", "wb") as full:
        done = subprocess.run([*COMMAND, *arguments.split()], stdout=full, stderr=full, check=False)
    assert done.returncode == status


def test_a_terminal_that_is_closed_ends_it_as_its_signal_does() -> None:
    program = """
import fcntl, signal, sys, termios
from aiofiles_api.__main__ import main
# Whoever runs the tests may ignore it, as nohup does, and a child inherits that.
signal.signal(signal.SIGHUP, signal.SIG_DFL)
fcntl.ioctl(0, termios.TIOCSCTTY, 0)
sys.exit(main())
"""
    leader, follower = pty.openpty()
    with (
        scripted(silence) as base_url,
        subprocess.Popen(
            [sys.executable, "-c", program, "list", "--base-url", base_url, "--api-key", KEY],
            stdin=follower,
            stdout=follower,
            stderr=follower,
            env={**os.environ, "TERM": "xterm-256color"},
            start_new_session=True,  # whose terminal it can then be
        ) as process,
    ):
        os.close(follower)
        shown = b""
        while b"asking for the first page" not in shown:
            shown += os.read(leader, 4096)
        os.close(leader)
        try:
            assert process.wait(30) == 128 + signal.SIGHUP
        finally:
            process.kill()


def test_closed_streams_do_no_harm(server: Server, tmp_path: Path) -> None:
    path = write(tmp_path / "a", b"1")
    done = subprocess.run(
        ["sh", "-c", '"$@" <&- >&- 2>&-', "sh", *COMMAND, "upload", path, "--purpose=vision"],
        check=False,
    )
    assert done.returncode == 0
    (file,) = server.files()
    assert server.read(file.id) == b"1"


def test_content_is_not_written_to_a_standard_output_that_is_closed(server: Server) -> None:
    file = server.put(b"content", "a")
    ran = subprocess.run(
        ["sh", "-c", '"$@" >&-', "sh", *COMMAND, "download", file.id, "-o", "-"],
        stderr=subprocess.PIPE,
        text=True,
        check=False,
    )
    assert ran.returncode == 2
    assert ran.stderr.startswith("aiofiles-api: standard output is closed")


@pytest.mark.parametrize("library", ["rich", "cyclopts"])
def test_without_its_extra_it_says_what_to_install(library: str) -> None:
    program = f"""
import sys
import termios
sys.modules[{library!r}] = None
from aiofiles_api.__main__ import main
sys.exit(main())
"""
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stdout) == (1, "")
    assert f"needs {library}, which is not installed" in done.stderr
    assert "pip install 'aiofiles_api[cli]'" in done.stderr
    assert done.stderr.count("\n") == 1


def test_a_defect_is_not_taken_for_a_missing_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "aiofiles_api.cli", None)
    with pytest.raises(ModuleNotFoundError, match="aiofiles_api"):
        main()


# --- signals -------------------------------------------------------------------------------------


async def begun_content(request: RawRequest, writer: asyncio.StreamWriter) -> None:
    """Send the beginning of a file's content, and no more."""
    head = b"HTTP/1.1 200 OK\r\nContent-Type: x/y\r\nContent-Length: 5000000\r\n\r\n"
    writer.write(head + bytes(3_000_000))
    await silence(request, writer)


@pytest.mark.anyio
async def test_ctrl_c_ends_a_listing_in_one_line() -> None:
    async with (
        raw_server(silence) as raw,
        started(*COMMAND, "list", OPENAI_BASE_URL=raw.base_url, OPENAI_API_KEY=KEY) as child,
    ):
        await until(lambda: raw.requests)
        ran = await ended(child, signal.SIGINT)
    assert (ran.status, ran.out) == (130, "")
    assert ran.err == "aiofiles-api: interrupted: 0 files listed\n"


@pytest.mark.anyio
async def test_ctrl_c_leaves_nothing_of_a_download(tmp_path: Path) -> None:
    file = {"id": "x", "bytes": 5_000_000, "created_at": 1, "filename": "f", "purpose": "batch"}
    arguments = ("download", "x", "y", "--concurrency=1", "-o", f"{tmp_path}/")
    async with (
        raw_server(reply(json.dumps(file)), reply(json.dumps(file)), begun_content) as raw,
        started(*COMMAND, *arguments, OPENAI_BASE_URL=raw.base_url, OPENAI_API_KEY=KEY) as child,
    ):
        await until(lambda: list(tmp_path.iterdir()))
        ran = await ended(child, signal.SIGINT)
    assert (ran.status, ran.out) == (130, "")
    assert ran.err == "aiofiles-api: interrupted: 0 of 2 files downloaded\n"
    assert list(tmp_path.iterdir()) == []


def in_pipe(descriptor: int) -> int:
    """Return how many bytes a pipe holds."""
    return int.from_bytes(fcntl.ioctl(descriptor, termios.FIONREAD, bytes(4)), sys.byteorder)


@pytest.mark.anyio
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
async def test_one_signal_ends_a_download_whose_reader_pauses(number: signal.Signals) -> None:
    file = {"id": "x", "bytes": 5_000_000, "created_at": 1, "filename": "f", "purpose": "batch"}
    reading, writing = os.pipe()
    try:
        async with (
            raw_server(reply(json.dumps(file)), begun_content) as raw,
            started(
                *COMMAND,
                "download",
                "x",
                "--output=-",
                stdout=writing,
                OPENAI_BASE_URL=raw.base_url,
                OPENAI_API_KEY=KEY,
            ) as child,
        ):
            await until(lambda: in_pipe(reading) > 61_440)  # of 16 pages, each partly filled
            child.send_signal(number)
            _, err = await child.communicate()
    finally:
        os.close(reading)
        os.close(writing)
    assert (child.returncode, err) == (
        128 + number,
        b"aiofiles-api: interrupted: 0 of 1 file downloaded\n",
    )


@pytest.mark.anyio
@pytest.mark.parametrize("style", [(), ("--json",)])
async def test_one_signal_ends_a_listing_whose_reader_pauses(style: tuple[str, ...]) -> None:
    names = [f"{number:04}-{'n' * 100}" for number in range(1000)]
    files = [
        {"id": f"file-{name}", "bytes": 1, "created_at": 1, "filename": name, "purpose": "batch"}
        for name in names
    ]
    page = {"object": "list", "data": files, "has_more": False}
    reading, writing = os.pipe()
    try:
        async with (
            raw_server(reply(json.dumps(page))) as raw,
            started(
                *COMMAND,
                "list",
                *style,
                stdout=writing,
                OPENAI_BASE_URL=raw.base_url,
                OPENAI_API_KEY=KEY,
            ) as child,
        ):
            await until(lambda: in_pipe(reading) > 61_440)
            child.send_signal(signal.SIGINT)
            _, err = await child.communicate()
    finally:
        os.close(reading)
        os.close(writing)
    assert child.returncode == 130
    assert err.startswith(b"aiofiles-api: interrupted: ")
    assert err.count(b"\n") == 1


@pytest.mark.anyio
async def test_a_reader_that_pauses_gets_all_of_it() -> None:
    reading, writing = os.pipe()
    content = bytes(range(256)) * 4096  # sixteen times what a pipe holds
    with open(reading, "rb") as reader, open(writing, "w", encoding="utf-8") as writer:
        task = asyncio.create_task(Outlet(writer).write(content))
        await until(lambda: in_pipe(reading) > 61_440)
        await asyncio.sleep(0.25)  # longer than the writer waits at a time
        taken = await anyio.to_thread.run_sync(reader.read, len(content))
        await task
    assert taken == content


@pytest.mark.anyio
async def test_what_its_reader_takes_is_written_though_the_command_is_ended(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(outlet, "_LOOK", 5000)  # the reader's thread may start late
    reading, writing = os.pipe()
    content = bytes(range(256)) * 4096
    with open(reading, "rb") as reader, open(writing, "w", encoding="utf-8") as writer:
        task = asyncio.create_task(Outlet(writer).write(content))
        await until(lambda: in_pipe(reading) > 61_440)
        task.cancel()
        await asyncio.sleep(0)
        taken = await anyio.to_thread.run_sync(reader.read, len(content))
        with pytest.raises(asyncio.CancelledError):
            await task
    assert taken == content


@pytest.mark.anyio
async def test_ctrl_c_ends_an_upload_from_a_silent_pipe() -> None:
    arguments = ("upload", "-", "--purpose=evals", "--filename=piped")
    async with (
        raw_server(silence) as raw,
        started(*COMMAND, *arguments, OPENAI_BASE_URL=raw.base_url, OPENAI_API_KEY=KEY) as child,
    ):
        assert child.stdin is not None
        child.stdin.write(bytes(3_000_000))
        await child.stdin.drain()
        await until(lambda: raw.requests)
        await asyncio.sleep(0.3)
        ran = await ended(child, signal.SIGINT)
    assert ran.status == 130
    assert ran.err == "aiofiles-api: interrupted: 0 of 1 file uploaded\n"


@pytest.mark.anyio
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
async def test_other_signals_end_it_as_orderly(number: signal.Signals) -> None:
    # Whoever runs the tests may ignore it, as nohup does, and a child inherits that.
    before = signal.signal(number, signal.SIG_DFL)
    async with (
        raw_server(silence) as raw,
        started(*COMMAND, "list", OPENAI_BASE_URL=raw.base_url, OPENAI_API_KEY=KEY) as child,
    ):
        signal.signal(number, before)
        await until(lambda: raw.requests)
        ran = await ended(child, number)
    assert ran.status == 128 + number
    assert ran.err == "aiofiles-api: interrupted: 0 files listed\n"


@asynccontextmanager
async def stubborn(*, until: Callable[[], object]) -> AsyncIterator[asyncio.Task[int]]:
    """Run what takes its time to clean up, in this process as if it were one of its own."""
    begun = asyncio.Event()

    async def command() -> int:
        try:
            begun.set()
            await asyncio.sleep(30)
        finally:
            while not until():
                await asyncio.sleep(0.01)
        return 0

    before = {number: signal.getsignal(number) for number in (*SIGNALS, signal.SIGHUP)}
    try:
        task = asyncio.create_task(process.until_signalled(command()))
        await begun.wait()
        yield task
    finally:
        for number, handler in before.items():
            asyncio.get_running_loop().remove_signal_handler(number)
            signal.signal(number, handler)


SIGNALS = (signal.SIGINT, signal.SIGTERM)


@pytest.mark.anyio
@pytest.mark.parametrize("number", SIGNALS)
async def test_a_second_signal_does_not_disturb_the_cleaning_up(number: signal.Signals) -> None:
    is_clean = False
    async with stubborn(until=lambda: is_clean) as task:
        os.kill(os.getpid(), number)
        await asyncio.sleep(0.05)
        os.kill(os.getpid(), signal.SIGINT)
        await asyncio.sleep(0.05)
        assert not task.done()
        is_clean = True
        assert await task == 128 + number


@pytest.mark.anyio
async def test_a_later_signal_kills_where_cleaning_up_takes_too_long(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    killed: list[int] = []
    monkeypatch.setattr(process, "_PATIENCE", 0.05)
    monkeypatch.setattr(signal, "raise_signal", killed.append)
    async with stubborn(until=lambda: killed) as task:
        os.kill(os.getpid(), signal.SIGTERM)
        await asyncio.sleep(0.1)
        assert not killed
        os.kill(os.getpid(), signal.SIGINT)
        assert await task == 143
        assert killed == [signal.SIGINT]
        assert signal.getsignal(signal.SIGINT) is signal.SIG_DFL


@pytest.mark.anyio
async def test_a_later_signal_kills_also_where_the_loop_is_held_by_a_write() -> None:
    program = """
import asyncio, os
from aiofiles_api.cli import process
process._PATIENCE = 0.05

async def command():
    _, full = os.pipe()
    os.write(1, b"begun")
    while True:
        os.write(full, bytes(65536))

asyncio.run(process.until_signalled(command()))
"""
    async with started(sys.executable, "-c", program) as child:
        assert child.stdout is not None
        await child.stdout.readexactly(len("begun"))
        child.send_signal(signal.SIGTERM)
        await asyncio.sleep(0.2)
        assert child.returncode is None
        assert (await ended(child, signal.SIGTERM)).status == -signal.SIGTERM


@pytest.mark.anyio
async def test_a_signal_that_was_ignored_stays_so() -> None:
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        async with stubborn(until=lambda: True) as task:
            os.kill(os.getpid(), signal.SIGHUP)
            await asyncio.sleep(0.05)
            assert not task.done()
            os.kill(os.getpid(), signal.SIGTERM)
            assert await task == 143
            assert signal.getsignal(signal.SIGHUP) is signal.SIG_IGN
    finally:
        signal.signal(signal.SIGHUP, before)


def test_ctrl_c_before_anything_begins_ends_it_without_a_word(
    command: CommandLine, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupt(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(type(app), "parse_args", interrupt)
    assert command("list") == Ran(130, "", "")


# --- serve ---------------------------------------------------------------------------------------


async def announced(child: asyncio.subprocess.Process) -> tuple[str, str]:
    """Read the two variables that `serve` prints."""
    assert child.stdout is not None
    lines = [(await child.stdout.readline()).decode().strip() for _ in range(2)]
    names, values = zip(*(line.split("=") for line in lines), strict=True)
    assert names == ("export OPENAI_BASE_URL", "export OPENAI_API_KEY")
    return values


@pytest.mark.anyio
async def test_serve_keeps_files_and_takes_any_key(tmp_path: Path) -> None:
    async with started(*COMMAND, "serve", "--port=0", "--data-dir", str(tmp_path)) as child:
        base_url, key = await announced(child)
        async with FilesClient(base_url=base_url, api_key=key) as files:
            file = await files.upload(b"1", purpose="batch")
        ran = await ended(child, signal.SIGINT)
    assert (ran.status, ran.out) == (0, "")
    assert ran.err == f"aiofiles-api: serving from {tmp_path}; Ctrl-C stops it\n"
    async with (
        Emulator(tmp_path) as emulator,
        FilesClient(base_url=emulator.base_url, api_key=KEY) as files,
    ):
        assert [it async for it in files.list()] == [file]


@pytest.mark.anyio
async def test_serve_needs_nobody_who_reads_what_it_says() -> None:
    with open("/dev/full", "wb") as full:
        child = await asyncio.create_subprocess_exec(
            *COMMAND, "serve", "--port=0", stdout=subprocess.PIPE, stderr=full
        )
    base_url, key = await announced(child)
    async with FilesClient(base_url=base_url, api_key=key) as files:
        assert [it async for it in files.list()] == []
    child.send_signal(signal.SIGINT)
    assert await child.wait() == 0


@pytest.mark.anyio
async def test_serve_asks_for_its_key_and_does_not_show_it() -> None:
    async with started(*COMMAND, "serve", "--port=0", "--api-key", KEY, "--no-ranges") as child:
        base_url, shown = await announced(child)
        async with FilesClient(base_url=base_url, api_key=KEY) as files:
            await files.upload(b"1", purpose="batch")
        async with FilesClient(base_url=base_url, api_key="other") as files:
            with pytest.raises(AuthenticationError):
                await files.upload(b"1", purpose="batch")
        ran = await ended(child, signal.SIGTERM)
    assert (ran.status, ran.out) == (0, "")
    assert ran.err == "aiofiles-api: serving from a temporary directory; Ctrl-C stops it\n"
    assert shown == "'the key that you chose'"


def test_serve_says_why_it_cannot(server: Server, command: CommandLine, tmp_path: Path) -> None:
    port = server.base_url.rpartition(":")[2].removesuffix("/v1")
    ran = command("serve", "--port", port)
    assert ran.status == 1
    assert f"cannot serve on 127.0.0.1 port {port}: " in ran.err
    path = write(tmp_path / "file", b"")
    ran = command("serve", "--port=0", "--data-dir", path)
    assert ran.status == 1
    assert f"with --data-dir {path}: " in ran.err


@pytest.mark.parametrize("host", ["a..b", "a" * 70 + ".com"])
def test_serve_says_that_a_host_is_none(command: CommandLine, host: str) -> None:
    ran = command("serve", "--port=0", "--host", host)
    assert ran.status == 1
    assert ran.err.startswith(f"aiofiles-api: cannot serve on {host} port 0: ")
    assert ran.err.count("\n") == 1


def test_serve_tells_of_output_that_fails_as_other_commands_do() -> None:
    serve = (*COMMAND, "serve", "--port=0")
    with open("/dev/full", "wb") as full:
        done = subprocess.run(serve, stdout=full, stderr=subprocess.PIPE, text=True, check=False)
    assert done.returncode == 1
    assert done.stderr == "aiofiles-api: standard output: No space left on device\n"
    with subprocess.Popen(serve, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdout.close()
        assert process.stderr.read() == b""
    assert process.returncode == 128 + signal.SIGPIPE


@pytest.mark.anyio
async def test_serve_lets_go_wrong_what_a_file_says(tmp_path: Path) -> None:
    path = write(tmp_path / "faults.toml", b'[[fault]]\nkind = "error-reply"\nstatus = 500')
    async with started(*COMMAND, "serve", "--port=0", "--faults", path) as child:
        base_url, key = await announced(child)
        async with FilesClient(base_url=base_url, api_key=key, retry=NO_RETRIES) as files:
            with pytest.raises(InternalServerError):
                await files.retrieve("file-1")
        await ended(child, signal.SIGINT)  # so that it removes its directory


def test_serve_says_what_is_wrong_with_the_faults(command: CommandLine, tmp_path: Path) -> None:
    path = write(tmp_path / "faults.toml", b'[[fault]]\nkind = "rest"')
    ran = command("serve", "--port=0", "--faults", path)
    assert ran.status == 1
    assert f"cannot use the faults: {path}: fault 1: there is no kind 'rest'" in ran.err
    ran = command("serve", "--port=0", "--faults", f"{path}.none")
    assert ran.status == 1
    assert "cannot use the faults: " in ran.err


@pytest.mark.anyio
async def test_serve_refuses_what_comes_faster_than_allowed() -> None:
    async with started(*COMMAND, "serve", "--port=0", "--requests-per-minute=1") as child:
        base_url, key = await announced(child)
        async with FilesClient(base_url=base_url, api_key=key, retry=NO_RETRIES) as files:
            await files.upload(b"1", purpose="batch")
            with pytest.raises(RateLimitError):
                await files.upload(b"1", purpose="batch")
        await ended(child, signal.SIGINT)
