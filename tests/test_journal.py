"""The journal: what is written is there, and what is not right is said."""

from __future__ import annotations

import asyncio
import os
import sqlite3
import subprocess
import sys
from collections.abc import AsyncGenerator
from contextlib import aclosing, closing
from pathlib import Path
from typing import TypeVar

import pytest
from conftest import nothing_leaks

from aiofiles_api import InvalidArgumentError, Journal, JournalError, read_journal
from aiofiles_api.journal import Row

pytestmark = pytest.mark.anyio

T = TypeVar("T")


async def collected(found: AsyncGenerator[T, None]) -> list[T]:
    async with aclosing(found):
        return [one async for one in found]


def row(journal: Journal, key: str = "/a", **fields: object) -> Row:
    """Return a new row."""
    number = journal.new_number()
    return Row(number, b"place", "upload", key, server="http://s", **fields)  # type: ignore[arg-type]


async def written(path: Path, count: int) -> None:
    async with Journal(path) as journal:
        await journal.write([row(journal, f"/{number}") for number in range(count)])


async def test_what_is_written_can_be_read_again(tmp_path: Path) -> None:
    path = tmp_path / "journal"
    odd = os.fsdecode(b"/caf\xe9/\xff")
    async with nothing_leaks():
        async with Journal(path) as journal:
            first = row(journal, odd, size=3, mtime_ns=2**62, state="done", result='{"é": 1}')
            await journal.write([first, row(journal, "/é", updated_at=1.5)])
            first.attempts = 2
            await journal.write([first])
            identity = journal.identity
        async with Journal(path) as journal:
            assert journal.identity == identity
            assert journal.alive_at == 1.5
            assert journal.new_number() == 3
            [[one, two], none] = await journal.find([b"place", b"elsewhere"])
            assert (one.key, one.result, one.attempts) == (odd, '{"é": 1}', 2)
            assert (two.key, none) == ("/é", [])
    entries = await collected(read_journal(path))
    assert [(entry.key, entry.state, entry.mtime_ns) for entry in entries] == [
        (odd, "done", 2**62),
        ("/é", "planned", None),
    ]
    assert await collected(read_journal(path, state="done")) == entries[:1]
    assert await collected(read_journal(path, kind="delete")) == []


def test_a_row_has_the_same_checksum_on_every_python() -> None:
    mtime_ns = 1_700_000_000_123_456_789
    some = Row(7, b"place", "upload", "/é", 2**40, mtime_ns, "ab" * 32, server="http://s")
    some.updated_at = 0.1
    assert some.to_columns()[-1] == 1785412769


async def test_it_is_its_owners_alone_and_leaves_nothing_beside_it(tmp_path: Path) -> None:
    path = tmp_path / "journal"
    async with Journal(path) as journal:
        await journal.write([row(journal)])
        assert {os.stat(one).st_mode & 0o777 for one in tmp_path.iterdir()} == {0o600}
    assert os.listdir(tmp_path) == ["journal"]


async def test_the_names_of_a_directorys_downloads_are_read_some_at_a_time(tmp_path: Path) -> None:
    odd = os.fsdecode(b"/r\xe9sultats")
    async with Journal(tmp_path / "journal") as journal:
        rows = [row(journal, filename=f"{odd}{number}", scope=odd) for number in range(600)]
        for one in rows:
            one.kind = "download"
        nameless, elsewhere, upload = rows[0], rows[1], rows[2]
        nameless.filename, elsewhere.scope, upload.kind = None, "/", "upload"
        await journal.write(rows)
        first = await journal.filenames(odd, 0)
        rest = await journal.filenames(odd, first[-1][0])
        assert first + rest == [(one.number, one.filename) for one in rows[3:]]
        assert len(first) == 500
        assert await journal.filenames(odd, rest[-1][0]) == []


async def test_calls_that_come_together_share_commits(tmp_path: Path) -> None:
    async with Journal(tmp_path / "journal") as journal:
        transactions = 0

        def count(statement: str) -> None:
            nonlocal transactions
            transactions += statement.startswith("COMMIT")

        journal._opened()._connection.set_trace_callback(count)
        await asyncio.gather(*(journal.write([row(journal)]) for _ in range(100)))
        assert transactions <= 2
        assert len(await collected(journal.entries())) == 100


async def test_it_is_read_while_another_process_writes(tmp_path: Path) -> None:
    path = tmp_path / "journal"
    async with Journal(path) as journal:
        assert await collected(read_journal(path)) == []
        await journal.write([row(journal, f"/{number}") for number in range(1200)])
        program = f"""
import asyncio
from aiofiles_api import read_journal
async def main():
    print(len([entry async for entry in read_journal({str(path)!r})]))
asyncio.run(main())
"""
        done = await asyncio.to_thread(
            subprocess.run, [sys.executable, "-c", program], capture_output=True, check=True
        )
        assert done.stdout == b"1200\n"
        reading = read_journal(path)
        await anext(reading)
        await journal.write([row(journal, "/new")])  # nobody holds it up
        assert (await collected(reading))[-1].key == "/new"


async def test_a_second_process_is_told_so(tmp_path: Path) -> None:
    path = tmp_path / "journal"
    async with Journal(path) as journal:
        program = f"""
import asyncio
from aiofiles_api import Journal, JournalError
async def main():
    try:
        async with Journal({str(path)!r}): pass
    except JournalError as error:
        print(error)
asyncio.run(main())
"""
        done = await asyncio.to_thread(
            subprocess.run, [sys.executable, "-c", program], capture_output=True, check=True
        )
        assert b"in use by another process" in done.stdout
        with pytest.raises(JournalError, match="in use"):
            async with Journal(path):
                pass
        with pytest.raises(JournalError, match="open already"):
            await journal.__aenter__()
        await journal.write([row(journal)])  # the others have taken none of its locks
    await written(path, 1)  # free again


async def test_a_lock_that_a_killed_process_has_left_is_no_hindrance(tmp_path: Path) -> None:
    (tmp_path / "journal-lock").touch()
    await written(tmp_path / "journal", 1)
    assert os.listdir(tmp_path) == ["journal"]


async def test_a_lock_file_that_goes_meanwhile_is_taken_anew(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened = os.open
    removals = 2

    def open_and_remove(path: str, *arguments: int) -> int:
        nonlocal removals
        descriptor = opened(path, *arguments)
        if str(path).endswith("-lock") and removals:
            removals -= 1
            os.unlink(path)
        return descriptor

    monkeypatch.setattr(os, "open", open_and_remove)
    async with Journal(tmp_path / "journal"):
        assert (tmp_path / "journal-lock").exists()


async def test_an_empty_file_becomes_a_journal(tmp_path: Path) -> None:
    (tmp_path / "journal").touch()
    assert await collected(read_journal(tmp_path / "journal")) == []
    await written(tmp_path / "journal", 2)
    assert len(await collected(read_journal(tmp_path / "journal"))) == 2


async def refused(path: Path, match: str) -> None:
    """Check that a journal is refused, to read and to write, and that the file is not touched."""
    before = path.read_bytes() if path.is_file() else None
    async with nothing_leaks():
        with pytest.raises(JournalError, match=match) as caught:
            async with Journal(path):
                pass
        assert repr(str(path)) in str(caught.value)
    with pytest.raises(JournalError):
        await collected(read_journal(path))
    assert before == (path.read_bytes() if path.is_file() else None)
    assert not Path(f"{path}-lock").exists()


async def test_what_is_no_journal_is_refused_and_left_as_it_is(tmp_path: Path) -> None:
    text = tmp_path / "notes.txt"
    text.write_text("notes" * 1000)
    await refused(text, "no journal")
    database = tmp_path / "other.db"
    with closing(sqlite3.connect(database)) as connection:
        connection.execute("CREATE TABLE mine (a)")
    await refused(database, "no journal")
    await refused(tmp_path, "cannot be used")


async def test_a_journal_of_another_version_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "journal"
    await written(path, 1)
    with closing(sqlite3.connect(path)) as connection:
        connection.execute("PRAGMA user_version = 99")
    await refused(path, "version 99")


async def test_a_journal_that_does_not_know_itself_is_damaged(tmp_path: Path) -> None:
    path = tmp_path / "journal"
    await written(path, 1)
    with closing(sqlite3.connect(path)) as connection, connection:
        connection.execute("DELETE FROM property")
    with pytest.raises(JournalError, match="damaged"):
        await written(path, 1)


@pytest.mark.parametrize("statement", ["UPDATE entry SET state = 'done'", "DROP TABLE entry"])
async def test_what_somebody_has_changed_is_damaged(tmp_path: Path, statement: str) -> None:
    path = tmp_path / "journal"
    await written(path, 3)
    with closing(sqlite3.connect(path)) as connection, connection:
        connection.execute(statement)
    with pytest.raises(JournalError):
        await collected(read_journal(path))
    with pytest.raises(JournalError):
        await written(path, 1)


async def test_damage_anywhere_is_seen_or_harms_nothing(tmp_path: Path) -> None:
    """Flip a byte in each part of the file: it is refused, or all entries are as they were."""
    path = tmp_path / "journal"
    await written(path, 40)
    intact = path.read_bytes()
    entries = await collected(read_journal(path))
    refusals = 0
    for place in range(0, len(intact), 211):
        damaged = bytearray(intact)
        damaged[place] ^= 0x55
        path.write_bytes(damaged)
        try:
            async with Journal(path) as journal:
                assert await collected(journal.entries()) == entries, place
                assert len((await journal.find([b"place"]))[0]) == 40, place
        except JournalError:
            refusals += 1
    assert refusals > 10


async def test_a_journal_that_is_cut_off_is_damaged(tmp_path: Path) -> None:
    path = tmp_path / "journal"
    await written(path, 300)
    path.write_bytes(path.read_bytes()[:9_000])
    with pytest.raises(JournalError, match="damaged"):
        await written(path, 1)


async def test_what_the_system_refuses_is_explained(tmp_path: Path) -> None:
    await refused(tmp_path / "nowhere" / "journal", "directory that is there")
    with pytest.raises(JournalError, match="check that it exists"):
        await collected(read_journal(tmp_path / "missing"))
    with pytest.raises(JournalError, match="cannot be used"):
        await collected(read_journal(tmp_path))
    for path in ("", "a\0b", b"bytes", 3):
        with pytest.raises(InvalidArgumentError, match="journal"):
            Journal(path)  # type: ignore[arg-type]


async def test_a_full_disk_loses_nothing(tmp_path: Path) -> None:
    path = tmp_path / "journal"
    async with Journal(path) as journal:
        await journal.write([row(journal)])
        await journal._call(lambda found: found._connection.execute("PRAGMA max_page_count = 10"))
        with pytest.raises(JournalError, match="free some space"):
            await journal.write([row(journal, "x" * 1000) for _ in range(100)])
        assert len(await collected(journal.entries())) == 1
    assert len(await collected(read_journal(path))) == 1


async def test_no_space_for_the_file_itself_is_explained(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_arguments: object) -> int:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "open", full)
    with pytest.raises(JournalError, match="free some space"):
        await written(tmp_path / "journal", 1)


@pytest.mark.parametrize("turns", range(0, 40, 3))
async def test_cancelling_at_any_turn_leaves_nothing(tmp_path: Path, turns: int) -> None:
    path = tmp_path / "journal"
    await written(path, 600)

    async def work() -> None:
        async with Journal(path) as journal:
            await asyncio.gather(*(journal.write([row(journal)]) for _ in range(5)))
            await journal.touch()
            await collected(journal.entries())

    async with nothing_leaks():
        task = asyncio.ensure_future(work())
        for _ in range(turns):
            await asyncio.sleep(0.0005)
        task.cancel()
        await asyncio.wait((task,))
        assert task.cancelled() or task.exception() is None
    await written(path, 1)  # and it can be opened again


async def test_leaving_it_waits_for_what_is_being_written(tmp_path: Path) -> None:
    async with Journal(tmp_path / "journal") as journal:
        writing = asyncio.ensure_future(journal.write([row(journal)]))
        await asyncio.sleep(0)
        assert not writing.done()
    await writing
    assert len(await collected(read_journal(tmp_path / "journal"))) == 1


async def test_leaving_it_unopened_is_nothing(tmp_path: Path) -> None:
    journal = Journal(tmp_path / "journal")
    await journal.__aexit__(None, None, None)
    with pytest.raises(JournalError, match="not open"):
        await journal.touch()
    assert not os.listdir(tmp_path)


async def test_who_writes_while_the_loop_is_wound_up_is_written_down(tmp_path: Path) -> None:
    async with Journal(tmp_path / "journal") as journal:
        first = asyncio.ensure_future(journal.write([row(journal)]))
        await asyncio.sleep(0)
        committing = journal._committing
        assert committing is not None
        await asyncio.sleep(0)
        second = asyncio.ensure_future(journal.write([row(journal)]))
        await asyncio.sleep(0)
        committing.cancel()  # as asyncio.run() does with all that is left
        async with asyncio.timeout(5):
            await asyncio.gather(first, second)
        assert len(await collected(journal.entries())) == 2


async def test_leaving_it_waits_for_all_that_is_written_also_where_the_loop_is_wound_up(
    tmp_path: Path,
) -> None:
    async with nothing_leaks():
        async with Journal(tmp_path / "journal") as journal:
            first = asyncio.ensure_future(journal.write([row(journal)]))
            await asyncio.sleep(0)
            committing = journal._committing
            assert committing is not None
            await asyncio.sleep(0)
            second = asyncio.ensure_future(journal.write([row(journal)]))
            await asyncio.sleep(0)
            committing.cancel()
        async with asyncio.timeout(5):
            await asyncio.gather(first, second)
    assert len(await collected(read_journal(tmp_path / "journal"))) == 2


async def test_rows_whose_writing_was_cancelled_are_found_all_the_same(tmp_path: Path) -> None:
    async with Journal(tmp_path / "journal") as journal:
        one = row(journal)
        writing = asyncio.ensure_future(journal.write([one]))
        await asyncio.sleep(0)
        writing.cancel()
        with pytest.raises(asyncio.CancelledError):
            await writing
        [found] = await journal.find([one.place])
        assert [other.number for other in found] == [one.number]
