"""The command line for many files: what is found, checked, sent, shown, and told in the end."""

from __future__ import annotations

import asyncio
import hashlib
import io
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path

import pytest
from command_line import (
    COMMAND,
    CommandLine,
    Server,
    emulated,
    ended,
    files_limited_to,
    scripted,
    started,
    until,
)
from conftest import KEY, raw_server, reply, silence
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

from aiofiles_api import FileObject, FilesError, Progress, read_journal
from aiofiles_api.__main__ import main
from aiofiles_api.cli.bars import Flight
from aiofiles_api.cli.concurrently import concurrently
from aiofiles_api.cli.gathering import Gathering, Local, Wanted, read_list
from aiofiles_api.cli.preflight import CHECKS, Check, LineCheck, problem_of
from aiofiles_api.cli.selection import Selection
from aiofiles_api.cli.spool import Spool, batches
from aiofiles_api.cli.standard_input import Content
from aiofiles_api.cli.text import json_line, printable

MIB = 1024 * 1024


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


def write(path: Path, content: bytes = b"{}\n") -> str:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    return str(path)


def names(server: Server) -> list[str]:
    return sorted(file.filename for file in server.files())


# --- finding -------------------------------------------------------------------------------------


def gathered(*paths: str | None, **wanted: object) -> tuple[list[str], Gathering]:
    """Return the paths of the files that are found, and what else is known."""
    with Spool[Local]() as found:
        gathering = Gathering(Wanted("batch", **wanted), found)  # type: ignore[arg-type]
        for _ in gathering.steps(paths):
            pass
        return [file.path for file in found], gathering


def test_directories_are_gone_through_in_order(tmp_path: Path) -> None:
    below = ["b/1", "b/2", "b/a/3", "c", "a0"]
    for name in below:
        write(tmp_path / name)
    found, gathering = gathered(str(tmp_path), recursive=True)
    assert found == sorted(str(tmp_path / name) for name in below)
    assert gathering.bytes == 3 * len(below)
    assert gathering.problems == []


def test_directories_may_be_deeper_than_the_stack(tmp_path: Path) -> None:
    below = "d/" * sys.getrecursionlimit()
    try:
        subprocess.run(["mkdir", "-p", str(tmp_path / below)], check=True)
        write(tmp_path / below / "f")
        found, gathering = gathered(str(tmp_path), recursive=True)
    finally:
        # Where that is done by recursion, as by older versions of shutil, it is too deep as well.
        subprocess.run(["rm", "-r", str(tmp_path / "d")], check=True)
    assert found == [f"{tmp_path}/{below}f"]
    assert gathering.problems == []


def test_a_directory_is_no_file(tmp_path: Path) -> None:
    found, gathering = gathered(str(tmp_path))
    assert found == []
    assert gathering.problems == [
        f"{tmp_path}: it is a directory; pass --recursive for the files in it"
    ]


def test_globs_choose_by_name_and_with_a_slash_by_path(tmp_path: Path) -> None:
    for name in ("a.txt", "a.jsonl", "x/b.jsonl", "x/y/c.jsonl", ".git/d.jsonl"):
        write(tmp_path / name)

    def chosen(**wanted: object) -> list[str]:
        found, _ = gathered(str(tmp_path), recursive=True, **wanted)
        return [os.path.relpath(path, tmp_path) for path in found]

    assert chosen(include=("*.jsonl",), exclude=(".git",)) == [
        "a.jsonl",
        "x/b.jsonl",
        "x/y/c.jsonl",
    ]
    assert chosen(include=("x/*",)) == ["x/b.jsonl", "x/y/c.jsonl"]
    assert chosen(exclude=("x/y", "*.jsonl")) == ["a.txt"]
    assert chosen(exclude=("x/", ".*/", "a.txt/")) == ["a.jsonl", "a.txt"]
    assert chosen(exclude=("x/y/", ".git")) == ["a.jsonl", "a.txt", "x/b.jsonl"]


def test_the_runs_own_journal_is_no_file_to_send(
    server: Server, command: CommandLine, tmp_path: Path
) -> None:
    write(tmp_path / "a.jsonl")
    (tmp_path / "link").symlink_to(tmp_path)
    arguments = ("upload", str(tmp_path), "-rp", "user_data", "--no-check", "all")
    for _ in range(3):
        ran = command(*arguments, "--journal", str(tmp_path / "link" / "run.db"))
        assert ran.status == 0
        command("journal", str(tmp_path / "run.db"))
    assert names(server) == ["a.jsonl"]
    named = gathered(str(tmp_path / "run.db"), journal=str(tmp_path / "run.db"))[0]
    assert named == []


def test_that_no_file_was_found_is_told(
    command: CommandLine, server: Server, tmp_path: Path
) -> None:
    write(tmp_path / "a.jsonl")
    ran = command("upload", str(tmp_path), "-rp", "batch", "--include", "*.json")
    assert (ran.status, ran.err) == (0, "aiofiles-api: no file was found\n")
    assert names(server) == []


def test_one_name_is_for_one_file_also_in_a_directory(
    command: CommandLine, server: Server, tmp_path: Path
) -> None:
    for name in ("a.jsonl", "b.jsonl"):
        write(tmp_path / name)
    ran = command("upload", str(tmp_path), "-rp", "batch", "--filename", "c.jsonl")
    assert ran.status == 2
    assert "for a single file, and these are 2" in ran.err
    assert command("upload", str(tmp_path / "a.jsonl"), "-p", "batch", "--filename=").status == 2
    assert names(server) == []


@pytest.mark.parametrize("option", ["--skip-existing", "--dry-run", "--journal=x"])
def test_what_content_from_a_pipe_cannot_have_is_refused(
    command: CommandLine, server: Server, option: str
) -> None:
    ran = command("upload", "-", "-p", "batch", "--filename", "a.jsonl", option)
    assert ran.status == 2
    assert names(server) == []


def test_globs_are_for_directories_and_not_for_files_that_are_named(tmp_path: Path) -> None:
    path = write(tmp_path / "a.txt")
    assert gathered(path, include=("*.jsonl",), exclude=("*.txt",))[0] == [path]


def test_links_that_lead_back_end_the_way_and_others_are_followed(tmp_path: Path) -> None:
    write(tmp_path / "a/1")
    (tmp_path / "a/back").symlink_to(tmp_path)
    (tmp_path / "a/self").symlink_to(tmp_path / "a")
    (tmp_path / "link").symlink_to(tmp_path / "a/1")
    found, gathering = gathered(str(tmp_path), recursive=True)
    assert found == [str(tmp_path / "a/1"), str(tmp_path / "link")]
    assert gathering.problems == []


def test_what_cannot_be_read_is_told_and_what_is_no_file_is_left_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "broken").symlink_to(tmp_path / "nowhere")
    os.mkfifo(tmp_path / "fifo")
    locked = tmp_path / "locked"
    locked.mkdir()
    listdir = os.listdir

    def refuse(path: str) -> list[str]:
        if path == str(locked):
            raise PermissionError(13, "Permission denied")
        return listdir(path)

    monkeypatch.setattr(os, "listdir", refuse)
    found, gathering = gathered(str(tmp_path), "a\0b", recursive=True)
    assert found == []
    assert gathering.problems == [
        f"{tmp_path}/broken: it cannot be read: No such file or directory",
        f"{locked}: it cannot be read: Permission denied",
        r"a\x00b: it cannot be read: it is no path",
    ]


def test_a_pipe_that_is_named_is_sent_though_nobody_knows_its_length(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "fifo")
    found, gathering = gathered(str(tmp_path / "fifo"), None, checks=CHECKS)
    assert found == [str(tmp_path / "fifo")]
    assert gathering.bytes == 0


@given(
    st.lists(st.text(st.characters(exclude_characters="\0\n", codec="utf-8"), max_size=20)),
    st.lists(st.integers(1, 10), min_size=1),
)
def test_a_list_is_read_however_it_is_cut(paths: list[str], cuts: list[int]) -> None:
    for separator in (b"\0", b"\n"):
        data = separator.join(path.encode() for path in paths)
        chunks: list[bytes | None] = []
        while data:
            cut = cuts[len(chunks) % len(cuts)]
            chunks += [data[:cut], None]
            data = data[cut:]
        read = [path for path in read_list(chunks, separator) if path is not None]
        assert read == [path for path in paths if path]


def test_a_list_without_an_end_of_line_does_not_fill_the_memory() -> None:
    read = [path for path in read_list([b"x" * MIB] * 5, b"\n") if path is not None]
    assert len(read[0]) <= 2 * MIB


# --- checks --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("filename", "size", "purpose", "check", "text"),
    [
        ("a.jsonl", 0, "batch", "empty", "empty"),
        ("a.pdf", 512 * MIB + 1, "user_data", "size", "allows 512 MB"),
        ("a.jsonl", 200 * MIB + 1, "batch", "size", "allows 200 MB"),
        ("a.json", 1, "batch", "suffix", ".jsonl"),
        ("a.txt", 1, "fine-tune", "suffix", ".jsonl"),
    ],
)
def test_what_the_service_would_refuse_is_known_before(
    filename: str, size: int, purpose: str, check: Check, text: str
) -> None:
    for checks in (CHECKS, frozenset((check,))):
        problem = problem_of(filename, size, purpose, checks)
        assert problem is not None
        assert problem[0] == check
        assert text in problem[1]
    assert problem_of(filename, size, purpose, CHECKS - {check}) is None


@pytest.mark.parametrize(
    ("filename", "size", "purpose"),
    [
        ("a.pdf", 512 * MIB, "user_data"),
        ("A.JSONL", 200 * MIB, "batch"),
        ("a.jsonl", 201 * MIB, "fine-tune"),
        ("a", 1, "purpose of its own"),
    ],
)
def test_what_it_takes_is_no_problem(filename: str, size: int, purpose: str) -> None:
    assert problem_of(filename, size, purpose, CHECKS) is None


@pytest.mark.parametrize(
    ("lines", "problem"),
    [
        ([b'{"a": 1}\n', b"\n", b"[]"], None),
        ([b"{}\n", b"{'a': 1}\n", b"x\n"], "line 2 is not JSON"),
        ([b'{"a": NaN}'], "line 1 is not JSON"),
        ([b"\xff\xfe"], "line 1 is not JSON"),
        ([b"[" * 100_000], "line 1 is not JSON"),
    ],
    ids=repr,
)
def test_each_line_must_be_json(lines: list[bytes], problem: str | None) -> None:
    check = LineCheck()
    taken = [check.take(line) for line in lines if check.problem is None]
    assert all(taken) == (problem is None)
    assert check.problem == problem


def test_lines_are_looked_at_where_the_purpose_has_lines(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("aiofiles_api.cli.gathering.LONGEST_LINE", 100)
    good = write(tmp_path / "good.jsonl", b"{}\n" * 1000)
    bad = write(tmp_path / "bad.jsonl", b"{}\n" * 1000 + b"{\n")
    long = write(tmp_path / "long.jsonl", b"x" * 1000 + b"\nx\n")
    found, gathering = gathered(good, bad, long, checks=frozenset({"json"}))
    assert found == [good]
    assert gathering.problems == [
        f"{bad}: line 1,001 is not JSON",
        f"{long}: line 2 is not JSON",
    ]
    assert len(gathered(good, bad, long, checks=CHECKS - {"json"})[0]) == 3


@pytest.mark.parametrize("checks", [CHECKS, frozenset[Check]()])
def test_a_file_that_goes_away_while_it_is_looked_at_is_a_problem(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, checks: frozenset[Check]
) -> None:
    path = write(tmp_path / "a.jsonl")

    def vanish(*_: object) -> None:
        os.remove(path)

    monkeypatch.setattr("aiofiles_api.cli.gathering.problem_of", vanish)
    found, gathering = gathered(path, checks=checks)
    assert found == []
    assert gathering.problems == [f"{path}: it cannot be read: No such file or directory"]


def test_content_is_waited_for_until_it_is_known_whether_there_is_any(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for coming, size in ((b"x", None), (b"", 0)):
        reading, writing = os.pipe()
        monkeypatch.setattr("aiofiles_api.cli.standard_input._STDIN", reading)
        content = Content()
        steps = content.steps()
        next(steps)  # nothing has come yet
        os.write(writing, coming)
        os.close(writing)
        list(steps)
        assert content.size == size
        os.close(reading)


def test_only_checks_that_refuse_a_file_are_said_to_be_left_out(
    command: CommandLine, server: Server, tmp_path: Path
) -> None:
    nothing = "aiofiles-api: nothing was sent; mend or leave out these files"
    gone = "it cannot be read: No such file or directory; the list has CRLF line ends"
    ran = command("upload", "gone\r", "-p", "batch")
    assert ran.err.splitlines() == [rf"aiofiles-api: gone\r: {gone}", nothing]
    for name, content in (("a.txt", b"{}"), ("b.jsonl", b"")):
        write(tmp_path / name, content)
    ran = command("upload", str(tmp_path / "a.txt"), str(tmp_path / "b.jsonl"), "-p", "batch")
    assert "(or add --no-check empty,suffix, where" in ran.err


def test_upload_tells_all_that_is_wrong_and_sends_nothing(
    server: Server, command: CommandLine, tmp_path: Path
) -> None:
    write(tmp_path / "good.jsonl")
    for number in range(30):
        write(tmp_path / f"{number}.jsonl", b"")
    ran = command("upload", str(tmp_path), "-r", "-p", "batch")
    assert (ran.status, ran.out) == (1, "")
    *problems, more, last = ran.err.splitlines()
    assert len(problems) == 20
    assert all(line.endswith(".jsonl: it is empty") for line in problems)
    assert more == "aiofiles-api: and 10 more"
    assert "--no-check empty," in last
    assert server.files() == []


@pytest.mark.parametrize("no_check", ["suffix,json", "all"])
def test_checks_can_be_switched_off(
    server: Server, command: CommandLine, tmp_path: Path, no_check: str
) -> None:
    path = write(tmp_path / "a.txt", b"{")
    assert command("upload", path, "-p", "batch", "--no-check", no_check).status == 0
    assert names(server) == ["a.txt"]


# --- upload --------------------------------------------------------------------------------------


def test_upload_takes_directories_and_lists(
    server: Server, command: CommandLine, tmp_path: Path
) -> None:
    for name in ("a/1.jsonl", "a/b/2.jsonl", "a/3.txt", "4.jsonl", "5 .jsonl"):
        write(tmp_path / name)
    listed = f"{tmp_path}/4.jsonl\0\0{tmp_path}/5 .jsonl".encode()
    options = ("-0rp", "batch", "--include", "*.jsonl", "--exclude", "none")
    arguments = ["upload", *options, f"{tmp_path}/a", "-"]
    done = subprocess.run(
        [*COMMAND, *arguments], input=listed, capture_output=True, text=False, check=True
    )
    assert len(done.stdout.splitlines()) == 4
    assert names(server) == ["1.jsonl", "2.jsonl", "4.jsonl", "5 .jsonl"]


def test_a_dry_run_shows_what_would_be_sent(
    server: Server, command: CommandLine, tmp_path: Path
) -> None:
    paths = [write(tmp_path / name) for name in ("a.jsonl", "b.jsonl")]
    ran = command("upload", *paths, "-p", "batch", "--dry-run")
    assert ran.lines == [[path, "3"] for path in paths]
    ran = command("upload", paths[0], "-p", "batch", "-n", "--json", "--filename=c.jsonl")
    assert json.loads(ran.out) == {"path": paths[0], "bytes": 3, "filename": "c.jsonl"}
    shown = command.on_terminal("upload", *paths, "-p", "batch", "-n").out
    assert "2 files, 6 B, would be uploaded" in shown
    assert server.files() == []


def test_existing_files_are_left_out(server: Server, command: CommandLine, tmp_path: Path) -> None:
    stored = server.put(b"same", "a")
    # The newest is looked at first.
    for content in (b"diff", b"also"):
        server.put(content, "b")
    server.put(b"same", "c", "vision")
    for name in "abc":
        write(tmp_path / name, b"same")
    options = ("-r", "--purpose=user_data", "--skip-existing", "--json")
    ran = command("upload", str(tmp_path), *options)
    told = {Path(one["path"]).name: one for one in map(json.loads, ran.out.splitlines())}
    assert {name: one["attempts"] for name, one in told.items()} == {"a": 0, "b": 1, "c": 1}
    assert told["a"]["id"] == stored.id
    assert names(server) == ["a", "b", "b", "b", "c", "c"]
    assert command("upload", str(tmp_path), *options).status == 0
    assert len(server.files()) == 6


def test_an_existing_file_is_known_by_a_name_that_is_no_text(
    server: Server, command: CommandLine, tmp_path: Path
) -> None:
    (tmp_path / os.fsdecode(b"\xff.txt")).write_bytes(b"same")
    for attempts in (1, 0):
        ran = command("upload", str(tmp_path), "-rp", "user_data", "--skip-existing", "--json")
        assert json.loads(ran.out)["attempts"] == attempts
    assert names(server) == ["\ufffd.txt"]


EXISTING = '{"id": "file-1", "bytes": 1, "created_at": 1, "filename": "a", "purpose": "vision"}'
OTHER = EXISTING.replace("vision", "batch")  # from a server that does not listen
LISTING = f'{{"object": "list", "data": [{OTHER}, {EXISTING}], "has_more": false}}'


@pytest.mark.parametrize(("status", "attempts"), [("400 No", 0), ("403 No", 0), ("404 No", 1)])
def test_what_may_not_be_read_is_the_same_if_name_and_size_are(
    command: CommandLine, tmp_path: Path, status: str, attempts: int
) -> None:
    path = write(tmp_path / "a", b"1")
    with scripted(reply(LISTING), reply(status=status), reply(EXISTING)) as base_url:
        options = ("--skip-existing", "--json", "--base-url", base_url, "--api-key", KEY)
        ran = command("upload", path, "-p", "vision", *options)
    assert ran.status == 0
    assert json.loads(ran.out)["attempts"] == attempts


def test_a_file_that_cannot_be_compared_is_left_to_the_upload(
    server: Server, command: CommandLine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    server.put(b"1", "a")
    path = write(tmp_path / "a", b"1")

    def vanish(path: str) -> str:
        os.remove(path)
        raise FileNotFoundError(path)

    monkeypatch.setattr("aiofiles_api.cli.existing._digest_of", vanish)
    ran = command("upload", path, "-p", "user_data", "--skip-existing")
    assert ran.status == 1
    assert "cannot be read" in ran.err


def test_failures_are_named_in_the_end_with_what_to_do(
    server: Server, command: CommandLine, tmp_path: Path
) -> None:
    paths = [write(tmp_path / str(number)) for number in range(25)]
    ran = command("upload", *paths, "-p", "no-such-purpose", "--json")
    assert ran.status == 1
    *named, more, last = ran.err.splitlines()
    assert len(named) == 20
    assert all(": 400" in line for line in named)
    assert more == "aiofiles-api: and 5 more"
    assert last == (
        "aiofiles-api: 25 of 25 files failed;"
        " with --journal FILE, running it again would do only what is missing"
    )
    told = [json.loads(line) for line in ran.out.splitlines()]
    assert sorted(one["path"] for one in told) == sorted(paths)
    assert {(one["error"], one["attempts"]) for one in told} == {("BadRequestError", 1)}
    assert "no-such-purpose" in told[0]["message"]


def test_fail_fast_stops_at_the_first_failure(
    server: Server, command: CommandLine, tmp_path: Path
) -> None:
    paths = [write(tmp_path / str(number)) for number in range(25)]
    options = ("--fail-fast", "--concurrency=1", "--json")
    ran = command("upload", *paths, "-p", "no-such-purpose", *options)
    assert ran.status == 1
    assert len(ran.out.splitlines()) == 1
    assert "1 of 25 files failed, 24 were not tried; " in ran.err


def test_many_files_get_one_bar_and_no_line_each(
    server: Server, command: CommandLine, tmp_path: Path
) -> None:
    for number in range(30):
        write(tmp_path / str(number))
    ran = command.on_terminal("upload", str(tmp_path), "-r", "-p", "vision", "--rpm=100000")
    assert ran.status == 0
    assert "30 of 30 uploaded" in ran.out
    assert "✓" not in ran.out


# --- download ------------------------------------------------------------------------------------


def test_download_takes_all_that_fit(server: Server, command: CommandLine, tmp_path: Path) -> None:
    for name, purpose in (("a.txt", "vision"), ("b.txt", "batch"), ("b.bin", "batch")):
        server.put(name.encode(), name, purpose)
    out = f"{tmp_path}/out/"
    ran = command("download", "--all", "-o", out, "-p=batch", "--filename=*.txt")
    assert ran.status == 0
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["b.txt"]
    assert command("download", "--all", "-o", out, "--older-than=1d").lines == []
    assert len(command("download", "--all", "-o", out, "--newer-than=1d").lines) == 3


def test_ids_that_are_not_found_are_failures_among_others(
    server: Server, command: CommandLine, tmp_path: Path
) -> None:
    file = server.put(b"1", "a")
    ran = command("download", file.id, "file-none", "-o", f"{tmp_path}/", "--json")
    assert ran.status == 1
    failure, done = map(json.loads, ran.out.splitlines())
    assert (failure["id"], failure["error"]) == ("file-none", "NotFoundError")
    assert (done["file_id"], done["attempts"]) == (file.id, 1)
    assert "1 of 2 files failed" in ran.err


@pytest.mark.parametrize("arguments", ["download -o {}/", "delete", "delete --dry-run"])
def test_fail_fast_stops_at_an_id_that_is_not_found(
    server: Server, command: CommandLine, tmp_path: Path, arguments: str
) -> None:
    file = server.put(b"1", "a")
    words = (*arguments.format(tmp_path).split(), "file-none", file.id, "file-none-either")
    ran = command.on_terminal(*words, "--fail-fast", "--concurrency=1", types="y\n")
    assert ran.status == 1
    assert "retrieving file-none: 404" in ran.err
    assert "1 of 3 files failed, 2 were not tried; " in ran.err
    assert "[y/N]" not in ran.err
    assert list(tmp_path.iterdir()) == []
    assert server.files() == [file]


def test_download_goes_on_from_what_was_kept(
    command: CommandLine, server: Server, tmp_path: Path
) -> None:
    file = server.put(b"0123456789", "a")
    assert command("download", file.id, "-o", f"{tmp_path}/b", "--resume").status == 0
    assert (tmp_path / "b").read_bytes() == b"0123456789"


# --- delete --------------------------------------------------------------------------------------


def test_delete_takes_all_that_fit(server: Server, command: CommandLine) -> None:
    for name, purpose in (("a.txt", "vision"), ("b.txt", "batch"), ("b.bin", "batch")):
        server.put(b"1", name, purpose)
    ran = command("delete", "-p=batch", "--filename=*.txt", "--yes")
    assert [line[1] for line in ran.lines] == ["deleted"]
    assert names(server) == ["a.txt", "b.bin"]
    assert command("delete", "--older-than=30d", "--yes").lines == []
    ran = command.on_terminal("delete", "--all", types="yes\n")
    assert "Delete 2 files, 2 B, for ever? [y/N]" in ran.out
    assert "2 of 2 deleted" in ran.out
    assert server.files() == []


def test_delete_names_what_failed(server: Server, command: CommandLine) -> None:
    ran = command("delete", "file-1", "file-2", "--yes")
    assert ran.status == 1
    assert ran.err.splitlines()[-1] == (
        "aiofiles-api: 2 of 2 files failed; run it again to try them again"
    )


@pytest.mark.parametrize(
    "arguments",
    [
        "download",
        "download file-1 --all",
        "download file-1 --purpose batch",
        "download --purpose batch",
        "download --all --output file",
        "download --all --sha256 " + "0" * 64,
        "download file-1 --output file --journal j",
        "delete",
        "delete --yes",
        "delete file-1 --older-than 30d --yes",
        "delete --older-than soon",
        "delete --all",
        "upload a -p batch --no-check everything",
        "upload a -p batch --rpm 0",
        "journal",
        "journal j --state lost",
    ],
)
def test_what_makes_no_sense_is_refused_in_one_line(command: CommandLine, arguments: str) -> None:
    ran = command(*arguments.split())
    assert (ran.status, ran.out) == (2, "")
    assert ran.err.startswith("aiofiles-api: ")
    assert ran.err.count("\n") == 1


def test_a_selection_looks_at_all_that_it_names() -> None:
    file = FileObject("f", 1, 1000, "a.txt", "batch")
    day = timedelta(days=1)
    later = 1000 + 86_400
    assert Selection().fits(file, now=0)
    assert Selection("batch", "a.*", day, None).fits(file, now=later - 1)
    assert not Selection(newer_than=day).fits(file, now=later)
    assert not Selection(older_than=day).fits(file, now=later)
    assert Selection(older_than=day).fits(file, now=later + 1)
    assert not Selection("vision").fits(file, now=0)
    assert not Selection(filename="b*").fits(file, now=0)


# --- the journal ---------------------------------------------------------------------------------


def test_with_a_journal_only_what_is_missing_is_done_again(
    server: Server, command: CommandLine, tmp_path: Path
) -> None:
    paths = [write(tmp_path / "files" / name) for name in ("a", "b")]
    journal = str(tmp_path / "journal")
    options = ("-r", "-p=vision", "--journal", journal, "--json")
    assert command("upload", paths[0], *options).status == 0
    ran = command("upload", str(tmp_path / "files"), *options)
    told = {one["path"]: one["attempts"] for one in map(json.loads, ran.out.splitlines())}
    assert told == {paths[0]: 0, paths[1]: 1}
    assert names(server) == ["a", "b"]
    out = f"{tmp_path}/out/"
    for attempts in (1, 0):
        ran = command("download", "--all", "-o", out, "--journal", f"{journal}-2", "--json")
        assert [json.loads(line)["attempts"] for line in ran.out.splitlines()] == [attempts] * 2


def test_one_file_of_a_known_digest_can_go_to_a_directory_with_a_journal(
    server: Server, command: CommandLine, tmp_path: Path
) -> None:
    file = server.put(b"1", "a")
    digest = hashlib.sha256(b"1").hexdigest()
    options = ("--sha256", digest, "--journal", f"{tmp_path}/journal", "--json")
    for attempts in (1, 0):
        ran = command("download", file.id, "-o", f"{tmp_path}/out/", *options)
        assert json.loads(ran.out)["attempts"] == attempts
    assert (tmp_path / "out" / "a").read_bytes() == b"1"


def test_a_journal_can_be_read_by_people_and_scripts(
    server: Server, command: CommandLine, tmp_path: Path
) -> None:
    journal = str(tmp_path / "the journal")
    good, bad = write(tmp_path / "good"), write(tmp_path / "bad\x1b")
    options = ("--journal", journal)
    assert command("upload", good, "-p=vision", *options).status == 0
    ran = command("upload", good, bad, "-p=no-such-purpose", *options)
    assert "run it again to try them again" in ran.err
    assert f"aiofiles-api journal '{journal}' --state failed names them all" in ran.err
    states = sorted((line[0], line[1], line[2]) for line in command("journal", journal).lines)
    assert ("done", "upload", good) in states
    assert ("failed", "upload", printable(bad)) in states
    (failed, *_) = command("journal", journal, "--state=failed", "--json").out.splitlines()
    assert "no-such-purpose" in json.loads(failed)["reason"]
    shown = command.on_terminal("journal", journal).out
    assert "bad\\x1b" in shown
    assert "no-such-purpose" in shown
    assert server.files()[0].id in shown
    assert f"1 done, {len(states) - 1} failed" in shown


def test_a_long_journal_is_shown_in_pieces(
    server: Server, command: CommandLine, tmp_path: Path
) -> None:
    for number in range(101):
        write(tmp_path / "files" / str(number))
    journal = str(tmp_path / "journal")
    command("upload", str(tmp_path / "files"), "-r", "-p=vision", "--journal", journal)
    assert len(command("journal", journal).lines) == 101
    assert command("journal", journal, "--state=failed").out == ""
    assert "101 done" in command.on_terminal("journal", journal, "--state=failed").out


def test_a_journal_that_is_none_is_told_in_one_line(command: CommandLine, tmp_path: Path) -> None:
    ran = command("journal", write(tmp_path / "a"))
    assert (ran.status, ran.out) == (1, "")
    assert "no journal" in ran.err
    assert ran.err.count("\n") == 1


@pytest.mark.anyio
async def test_ctrl_c_leaves_a_journal_with_which_it_goes_on(tmp_path: Path) -> None:
    file = '{"id": "file-1", "bytes": 3, "created_at": 1, "filename": "0", "purpose": "vision"}'
    for number in range(9):
        write(tmp_path / "files" / str(number))
    journal = str(tmp_path / "journal")
    arguments = ("upload", str(tmp_path / "files"), "-r", "-p=vision", "--journal", journal)
    async with (
        raw_server(reply(file), silence) as raw,
        started(
            *COMMAND,
            *arguments,
            "--concurrency=1",
            OPENAI_BASE_URL=raw.base_url,
            OPENAI_API_KEY=KEY,
        ) as child,
    ):
        assert child.stdout is not None
        await child.stdout.readline()
        await until(lambda: len(raw.requests) == 2)
        ran = await ended(child, signal.SIGINT)
    assert ran.status == 130
    assert ran.err == ("aiofiles-api: interrupted: 1 of 9 files uploaded; run it again to go on\n")
    states = [entry.state async for entry in read_journal(journal)]
    assert states.count("done") == 1
    assert "failed" not in states


# --- the display ---------------------------------------------------------------------------------


def drawn(flight: Flight, console: Console) -> str:
    with console.capture() as capture:
        console.print(flight.drawing.get_renderable())
    return capture.get()


def test_the_display_has_rows_for_what_takes_long_and_no_more_than_fit(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    now = 1000.0
    monkeypatch.setattr("aiofiles_api.cli.bars.time.monotonic", lambda: now)
    console = Console(width=110, height=30, file=io.StringIO())
    flight = Flight(console, "uploaded", count=20, total=2000)
    for key in range(12):
        flight.move(key, f"name{key}\x1b", Progress(10, 100, 1))
    assert "name" not in drawn(flight, console)
    now += 1
    flight.move(12, "late", Progress(10, 100, 1))
    flight.move(1, "name1", Progress(50, 100, 2))
    shown = drawn(flight, console)
    assert [f"name{key}" in shown for key in range(12)] == [True] * 8 + [False] * 4
    assert "late" not in shown
    assert "attempt 2" in shown
    assert r"\x1b" in shown
    assert "0 of 20 uploaded" in shown
    assert "170 B of 2.0 kB" in shown
    flight.end(0, 100, has_failed=False, was_done=False)
    flight.end(1, 100, has_failed=True, was_done=False)
    flight.end(2, 100, has_failed=False, was_done=True)
    flight.end(98, None, has_failed=False, was_done=True)
    flight.end(99, None, has_failed=False, was_done=False)
    shown = drawn(flight, console)
    assert "4 of 20 uploaded, 1 failed, 2 before" in shown
    assert "300 B of 1.9 kB" in shown
    flight.land()
    assert "200 B" in drawn(flight, console)


def test_of_content_from_a_pipe_the_display_has_a_name_and_the_bytes_so_far() -> None:
    console = Console(width=110, height=30, file=io.StringIO())
    flight = Flight(console, "uploaded", count=1, total=0)
    flight.move(1, "name", Progress(2_000_000, None, 1))
    shown = drawn(flight, console)
    assert shown.startswith("name")
    assert "2.0 MB" in shown
    assert "of" not in shown
    flight.end(1, None, has_failed=False, was_done=False)
    flight.land()
    assert "2.0 MB" in drawn(flight, console)


def test_where_files_count_their_number_is_what_moves() -> None:
    console = Console(width=110, height=30, file=io.StringIO())
    flight = Flight(console, "deleted", count=3, total=None)
    for key in range(2):
        flight.end(key, 100, has_failed=False, was_done=False)
    assert "2 of 3 deleted" in drawn(flight, console)
    flight.end(2, 100, has_failed=False, was_done=False)
    shown = drawn(flight, console)
    assert "files/s" in shown
    assert " B" not in shown


# --- what is found waits -------------------------------------------------------------------------


@given(st.lists(st.binary(max_size=100)))
def test_a_spool_gives_back_what_was_put_in_as_often_as_asked(values: list[bytes]) -> None:
    with Spool[bytes]() as spool:
        for value in values:
            spool.append(value)
        assert list(spool) == list(spool) == values
        assert spool.count == len(values)


def test_what_is_nested_too_deeply_is_told_and_no_traceback() -> None:
    deep: dict[str, object] = {}
    for _ in range(100_000):
        deep = {"a": deep}
    file = FileObject("x", 1, 1, "f", "batch", extra=deep)
    with pytest.raises(FilesError, match="too deeply to be written"):
        json_line(file)
    with Spool[FileObject]() as spool, pytest.raises(FilesError, match="too deeply to be kept"):
        spool.append(file)


def test_a_list_that_the_temporary_directory_cannot_hold_names_that(
    command: CommandLine, server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("aiofiles_api.cli.spool._MEMORY", 1)
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "none"))
    ran = command("upload", write(tmp_path / "a.jsonl"), "-p", "batch")
    assert ran.status == 1
    assert ran.err.startswith(f"aiofiles-api: the temporary directory {tmp_path}/none cannot hold")
    assert "set TMPDIR" in ran.err
    monkeypatch.setattr("tempfile.tempdir", None)
    with files_limited_to(0):
        ran = command("upload", str(tmp_path / "a.jsonl"), "-p", "batch")
    assert ran.status == 1
    assert ran.err.startswith("aiofiles-api: this machine cannot hold the list of files: No usable")


@pytest.mark.anyio
async def test_batches_are_taken_in_threads() -> None:
    def slow() -> Iterator[int]:
        for number in range(2500):
            if number % 1000 == 0:
                time.sleep(0.001)
            yield number

    sizes = [len(batch) async for batch in batches(slow())]
    assert sizes == [1000, 1000, 500]


@pytest.mark.anyio
async def test_answers_come_in_the_order_of_the_questions_and_few_are_asked_at_a_time() -> None:
    asked = most = 0

    async def ask(number: int) -> int:
        nonlocal asked, most
        asked += 1
        most = max(most, asked)
        await asyncio.sleep(0.001 * (7 - number % 7))
        asked -= 1
        return number

    answers = [one async for one in concurrently(range(50), ask, concurrency=4)]
    assert answers == list(range(50))
    assert most == 4


@pytest.mark.anyio
async def test_who_stops_listening_leaves_no_question_behind() -> None:
    asked = 0

    async def ask(number: int) -> int:
        nonlocal asked
        asked += 1
        try:
            await asyncio.sleep(0 if number == 0 else 60)
        finally:
            asked -= 1
        return number

    answers = concurrently(range(50), ask, concurrency=4)
    assert await anext(answers) == 0
    assert asked == 3
    await answers.aclose()
    assert asked == 0


# --- signals -------------------------------------------------------------------------------------


@pytest.mark.anyio
async def test_ctrl_c_while_a_list_is_awaited_sends_nothing() -> None:
    url = "http://127.0.0.1:1/v1"
    arguments = ("upload", "-", "-p=batch")
    async with started(*COMMAND, *arguments, OPENAI_BASE_URL=url, OPENAI_API_KEY=KEY) as child:
        assert child.stdin is not None
        child.stdin.write(b"nowhere\n" * 100_000)  # more than a pipe holds
        await child.stdin.drain()
        ran = await ended(child, signal.SIGINT)
    assert (ran.status, ran.out) == (130, "")
    assert ran.err == "aiofiles-api: interrupted: nothing was sent\n"


def test_ctrl_c_while_libraries_are_loaded_ends_it_without_a_word(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    class Interrupted:
        def __getattr__(self, name: str) -> object:
            raise KeyboardInterrupt

    monkeypatch.setitem(sys.modules, "aiofiles_api.cli", Interrupted())
    assert main() == 130
