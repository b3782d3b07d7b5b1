"""The emulator's store: what is listed can be read, and pages hold together, come what may."""

from __future__ import annotations

import json
import os
import secrets
import signal
import sqlite3
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import get_args

import attrs
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from aiofiles_api.emulator import store as store_module
from aiofiles_api.emulator.store import (
    Arrival,
    BlobReader,
    DataDirInUseError,
    NewFile,
    Order,
    Store,
    UnknownCursorError,
)

DAY = 24 * 3600


@attrs.define
class Clock:
    now: float = 1_700_000_000.5

    def __call__(self) -> float:
        return self.now


@attrs.frozen
class Page:
    ids: list[str]
    has_more: bool


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def store(tmp_path: Path, clock: Clock) -> Iterator[Store]:
    with closing(Store(tmp_path, clock)) as opened:
        yield opened


def small(purpose: str = "evals", content: bytes = b"content") -> Arrival:
    return Arrival(f"file-{secrets.token_hex(16)}", NewFile("a.txt", purpose), content)


def add(store: Store, *purposes: str) -> list[str]:
    """Add a small file for each purpose and give their ids."""
    arrivals = [small(purpose) for purpose in purposes]
    store.add(arrivals)
    return [arrival.id for arrival in arrivals]


def add_blob(store: Store, *chunks: bytes) -> str:
    file_id = f"file-{secrets.token_hex(16)}"
    blob = store.blob(file_id)
    blob.write(chunks[:1])
    blob.finish(chunks[1:])
    store.add([Arrival(file_id, NewFile("b.bin", "evals"), blob)])
    return file_id


def content(store: Store, file_id: str) -> bytes | None:
    reader = BlobReader(store, file_id)
    if not reader.open():
        return None
    if reader.content is not None:
        return reader.content
    with closing(reader):
        return reader.read(0, reader.bytes)


def page(
    store: Store,
    *,
    purpose: str | None = None,
    order: Order = "asc",
    after: str | None = None,
    limit: int = 10_000,
) -> Page:
    """Read a page and check its envelope."""
    text = store.page(purpose=purpose, order=order, after=after, limit=limit)
    body = json.loads(text)
    ids = [described["id"] for described in body["data"]]
    assert list(body) == ["object", "data", "first_id", "last_id", "has_more"]
    assert body["object"] == "list"
    assert body["first_id"] == (ids[0] if ids else None)
    assert body["last_id"] == (ids[-1] if ids else None)
    return Page(ids, body["has_more"])


def pages(
    store: Store,
    *,
    purpose: str | None = None,
    order: Order = "asc",
    limit: int,
    between: Callable[[Page], object] = lambda _: None,
) -> list[str]:
    """Go through all pages, with something happening after each."""
    ids: list[str] = []
    after = None
    while True:
        one = page(store, purpose=purpose, order=order, after=after, limit=limit)
        ids += one.ids
        if not one.has_more:
            return ids
        assert len(one.ids) == limit
        after = one.ids[-1]
        between(one)


# --- files ---------------------------------------------------------------------------------------


def test_a_small_file_is_kept_as_it_came(store: Store) -> None:
    arrival = Arrival("file-1", NewFile('na"me\x00\n🗎', "assistants"), b"\x00\xff")
    [described] = store.add([arrival])
    assert described
    assert json.loads(described) == {
        "id": "file-1",
        "object": "file",
        "bytes": 2,
        "created_at": 1_700_000_000,
        "filename": 'na"me\x00\n🗎',
        "purpose": "assistants",
        "status": "processed",
    }
    assert store.find("file-1") == described
    assert json.loads(store.page(purpose=None, order="asc", after=None, limit=1))["data"] == [
        json.loads(described)
    ]
    assert content(store, "file-1") == b"\x00\xff"


def test_a_large_file_is_kept_as_it_came(store: Store) -> None:
    chunks = [os.urandom(300_000) for _ in range(3)]
    file_id = add_blob(store, *chunks)
    assert json.loads(store.find(file_id) or "")["bytes"] == 900_000
    assert content(store, file_id) == b"".join(chunks)


def test_part_of_a_large_file_can_be_read(store: Store) -> None:
    file_id = add_blob(store, b"0123456789")
    with closing(BlobReader(store, file_id)) as reader:
        assert reader.open()
        assert reader.is_open
        assert reader.read(3, 4) == b"3456"
        with pytest.raises(OSError, match="cut"):
            reader.read(8, 4)


def test_an_empty_file_is_a_file(store: Store) -> None:
    store.add([small(content=b"")])
    [file_id] = page(store).ids
    assert content(store, file_id) == b""


def test_a_deleted_file_is_gone_with_its_bytes(store: Store, tmp_path: Path) -> None:
    for file_id in (*add(store, "evals"), add_blob(store, b"x")):
        assert store.delete(file_id)
        assert store.find(file_id) is None
        assert content(store, file_id) is None
        assert not store.delete(file_id)
    assert page(store) == Page([], has_more=False)
    assert not list((tmp_path / "blobs").iterdir())
    assert not store._reader.execute("SELECT * FROM contents").fetchall()


def test_a_file_that_is_being_read_survives_its_deletion(store: Store) -> None:
    file_id = add_blob(store, b"0123456789")
    with closing(BlobReader(store, file_id)) as reader:
        assert reader.open()
        assert store.delete(file_id)
        assert reader.read(0, 10) == b"0123456789"


def test_a_file_that_is_deleted_just_before_it_is_opened_is_not_found(store: Store) -> None:
    file_id = add_blob(store, b"x")
    store.blob_path(file_id).unlink()
    assert not BlobReader(store, file_id).open()


def test_a_blob_of_another_length_is_an_error_and_never_delivered(store: Store) -> None:
    file_id = add_blob(store, b"0123456789")
    store.blob_path(file_id).write_bytes(b"01234")
    reader = BlobReader(store, file_id)
    with pytest.raises(OSError, match="not of 10 bytes"):
        reader.open()
    reader.close()


def test_a_discarded_blob_leaves_nothing(store: Store, tmp_path: Path) -> None:
    for end in (lambda _: None, lambda blob: blob.finish([])):
        blob = store.blob("file-1")
        blob.write([b"x"])
        end(blob)
        assert blob.is_loose
        blob.discard()
        assert not blob.is_loose
    assert not list((tmp_path / "blobs").iterdir())


def test_arrivals_are_added_all_or_none(store: Store) -> None:
    first, second = small(), small()
    blob = store.blob("file-1")
    blob.finish([b"x"])
    loose = Arrival("file-1", NewFile("a", "evals"), blob)
    with pytest.raises(sqlite3.IntegrityError):
        store.add([first, loose, second, attrs.evolve(second)])
    assert page(store).ids == []
    assert blob.is_loose
    store.add([first, loose, second])
    assert page(store).ids == [first.id, "file-1", second.id]
    assert not blob.is_loose


# --- expiry --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("new", "lifetime"),
    [
        (NewFile("a", "batch"), 30 * DAY),
        (NewFile("a", "batch", 3600), 3600),
        (NewFile("a", "evals", 7200), 7200),
    ],
)
def test_a_file_vanishes_when_its_time_has_come(
    store: Store, clock: Clock, new: NewFile, lifetime: int
) -> None:
    [described] = store.add([Arrival("file-1", new, b"x")])
    assert described
    assert json.loads(described)["expires_at"] == 1_700_000_000 + lifetime
    clock.now = 1_700_000_000 + lifetime - 1
    assert store.find("file-1")
    clock.now += 1
    assert store.find("file-1") is None
    assert content(store, "file-1") is None
    assert page(store) == Page([], has_more=False)
    assert not store.delete("file-1")


def test_a_file_without_expiry_says_nothing_of_it_and_stays(store: Store, clock: Clock) -> None:
    [file_id] = add(store, "evals")
    assert "expires_at" not in json.loads(store.find(file_id) or "")
    clock.now += 10_000 * DAY
    assert store.find(file_id)


def test_an_expired_file_does_not_count_as_more(store: Store, clock: Clock) -> None:
    [kept] = add(store, "evals")
    add(store, "batch", "batch")
    clock.now += 30 * DAY
    assert page(store, limit=1) == Page([kept], has_more=False)


def test_expired_files_are_cleared_away_in_batches(
    store: Store, clock: Clock, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(store_module, "_EXPIRED_AT_ONCE", 2)
    blob = store.blob("file-1")
    blob.finish([b"x"])
    store.add([small("batch"), Arrival("file-1", NewFile("a", "batch"), blob), small("batch")])
    [kept] = add(store, "evals")
    assert store.expire() == 0
    clock.now += 30 * DAY
    assert [store.expire() for _ in range(3)] == [2, 1, 0]
    assert store._reader.execute("SELECT id FROM files").fetchall() == [(kept,)]
    assert not list((tmp_path / "blobs").iterdir())


# --- listing -------------------------------------------------------------------------------------


def test_files_are_listed_by_age_and_those_of_a_second_by_arrival(
    store: Store, clock: Clock
) -> None:
    late = add(store, "evals", "evals")
    clock.now -= 10  # clocks are set back at times
    early = add(store, "evals", "evals", "evals")
    clock.now += 10
    later = add(store, "evals")
    assert page(store, order="asc").ids == early + late + later
    assert page(store, order="desc").ids == (early + late + later)[::-1]


operations = st.lists(
    st.sampled_from(["evals", "batch", "delete", "tick", "back"]), min_size=1, max_size=40
)


@settings(max_examples=40)
@given(operations, st.integers(1, 7), st.sampled_from([None, "evals", "batch", "vision"]))
def test_pages_of_any_length_make_up_the_whole_and_asc_is_desc_backwards(
    tmp_path_factory: pytest.TempPathFactory,
    history: list[str],
    limit: int,
    purpose: str | None,
) -> None:
    clock, kept = Clock(), list[tuple[float, str, str]]()
    with closing(Store(tmp_path_factory.mktemp("data"), clock)) as store:
        for what in history:
            match what:
                case "tick":
                    clock.now += 1
                case "back":
                    clock.now -= 1
                case "delete":
                    if kept:
                        assert store.delete(kept.pop(len(kept) // 2)[2])
                case _:
                    [added] = add(store, what)
                    kept.append((clock.now, what, added))
        kept.sort(key=lambda it: it[0])
        expected = [it[2] for it in kept if purpose in (None, it[1])]
        assert pages(store, purpose=purpose, order="asc", limit=limit) == expected
        assert pages(store, purpose=purpose, order="desc", limit=limit) == expected[::-1]


@pytest.mark.parametrize("order", get_args(Order))
@pytest.mark.parametrize("purpose", [None, "evals"])
def test_paging_goes_on_where_the_file_of_the_cursor_was_deleted(
    store: Store, order: Order, purpose: str | None
) -> None:
    ids = add(store, *["evals"] * 10)

    def delete_all_seen(seen: Page) -> None:
        for file_id in seen.ids:
            assert store.delete(file_id)

    expected = ids if order == "asc" else ids[::-1]
    found = pages(store, purpose=purpose, order=order, limit=3, between=delete_all_seen)
    assert found == expected


def test_paging_is_not_disturbed_by_files_that_come_meanwhile(store: Store, clock: Clock) -> None:
    ids = add(store, *["evals"] * 10)
    later: list[str] = []

    def add_some(_: Page) -> None:
        if len(later) < 10:
            later.extend(add(store, "evals", "evals"))
        clock.now += 1

    assert pages(store, order="desc", limit=3, between=add_some) == ids[::-1]
    assert pages(store, order="asc", limit=3, between=add_some) == ids + later


def test_a_new_file_never_hides_behind_the_cursor_of_a_deleted_one(
    tmp_path: Path, clock: Clock
) -> None:
    with closing(Store(tmp_path, clock)) as store:
        [cursor] = add(store, "evals")
        store.delete(cursor)
    with closing(Store(tmp_path, clock)) as store:  # all in the same second
        [new] = add(store, "evals")
        assert page(store, after=cursor).ids == [new]


def test_a_cursor_may_name_a_file_of_another_purpose(store: Store) -> None:
    ids = add(store, "evals", "batch", "evals", "batch")
    assert page(store, purpose="evals", after=ids[1]).ids == [ids[2]]


def test_a_cursor_that_never_was_a_file_is_unknown(store: Store) -> None:
    with pytest.raises(UnknownCursorError):
        page(store, after="file-0")
    assert page(store).ids == []  # and the connection is none the worse


def test_only_the_latest_tombstones_are_kept(store: Store) -> None:
    first, second, third = add(store, "evals", "evals", "evals")
    store.delete(first)
    # As if many files had been deleted since.
    store._writer.execute("UPDATE tombstones SET number = number - 99999")
    store._writer.execute("INSERT INTO tombstones (number, id, place) VALUES (1, 'file-0', 0)")
    assert page(store, after=first).ids == [second, third]
    store.delete(second)
    assert page(store, after=second).ids == [third]
    with pytest.raises(UnknownCursorError):
        page(store, after=first)


@pytest.mark.parametrize(("key", "sql"), store_module._PAGES.items())
def test_a_page_is_found_by_an_index_and_needs_neither_scan_nor_sorting(
    store: Store, key: tuple[Order, bool], sql: str
) -> None:
    asked = {"purpose": "evals", "place": 0, "now": 0, "limit": 10}
    plan = [row[3] for row in store._reader.execute(f"EXPLAIN QUERY PLAN {sql}", asked)]
    by_place, by_purpose = "USING INTEGER PRIMARY KEY (rowid", "files_by_purpose (purpose=? AND "
    assert sum("files" in step for step in plan) == 1
    assert any((by_purpose if key[1] else by_place) in step for step in plan), plan
    assert not any("TEMP B-TREE" in step or "SCAN files" in step for step in plan), plan


def test_a_page_far_into_a_long_listing_costs_no_more_than_the_first(
    store: Store, clock: Clock
) -> None:
    for _ in range(12):
        add(store, *["evals", "batch", "batch", "batch", "batch"] * 200)
        clock.now += 0.25  # so that many files share a second

    def steps(purpose: str | None, after: str | None) -> int:
        """Count what SQLite does for a page, in hundreds of its virtual machine's steps."""
        count = 0

        def one_more() -> int:
            nonlocal count
            count += 1
            return 0

        store._reader.set_progress_handler(one_more, 100)
        page(store, purpose=purpose, after=after, limit=100)
        store._reader.set_progress_handler(None, 0)
        return count

    for purpose in (None, "evals"):
        ids = pages(store, purpose=purpose, limit=1000)
        assert len(ids) == (12_000 if purpose is None else 2_400)
        assert steps(purpose, ids[-200]) < 1.5 * steps(purpose, None)


def test_a_long_page_does_not_hold_up_an_upload(store: Store) -> None:
    add(store, *["evals"] * 10)
    entered, done = threading.Event(), threading.Event()

    def wait_inside() -> int:
        entered.set()
        assert done.wait(10)
        return 0

    store._reader.set_progress_handler(wait_inside, 1)
    reading = threading.Thread(target=page, args=[store])
    reading.start()
    assert entered.wait(10)
    [file_id] = add(store, "evals")  # while the page is under way
    done.set()
    reading.join()
    store._reader.set_progress_handler(None, 0)
    assert file_id in page(store).ids


# --- opening and closing -------------------------------------------------------------------------


def test_files_outlive_the_store_that_took_them(tmp_path: Path, clock: Clock) -> None:
    with closing(Store(tmp_path / "new" / "directory", clock)) as store:
        [file_id] = add(store, "evals")
        large = add_blob(store, b"large")
    with closing(Store(tmp_path / "new" / "directory", clock)) as store:
        assert page(store).ids == [file_id, large]
        assert content(store, file_id) == b"content"
        assert content(store, large) == b"large"


def test_a_directory_belongs_to_one_store_at_a_time(tmp_path: Path, clock: Clock) -> None:
    with closing(Store(tmp_path, clock)), pytest.raises(DataDirInUseError, match=str(tmp_path)):
        Store(tmp_path, clock)
    Store(tmp_path, clock).close()


def test_a_store_that_cannot_be_opened_lets_go_of_its_directory(
    tmp_path: Path, clock: Clock
) -> None:
    (tmp_path / "files.sqlite3").write_bytes(b"no database" * 100)
    for _ in range(2):
        with pytest.raises(sqlite3.DatabaseError):
            Store(tmp_path, clock)
    (tmp_path / "files.sqlite3").unlink()
    Store(tmp_path, clock).close()


def test_opening_sweeps_away_blobs_without_a_file_and_files_without_their_blob(
    tmp_path: Path, clock: Clock
) -> None:
    with closing(Store(tmp_path, clock)) as store:
        [small_file] = add(store, "evals")
        large, lost = add_blob(store, b"large"), add_blob(store, b"lost")
        store.blob("file-orphan").finish([b"orphan"])
        store.blob_path(lost).unlink()
    with closing(Store(tmp_path, clock)) as store:
        assert page(store).ids == [small_file, large]
        assert [path.name for path in (tmp_path / "blobs").iterdir()] == [large]


WRITER = """
import itertools, os, secrets, sys, time
from pathlib import Path
from aiofiles_api.emulator.store import Arrival, NewFile, Store

store = Store(Path(sys.argv[1]), time.time)
print("open", flush=True)
for number in itertools.count():
    ids = [f"file-{secrets.token_hex(16)}" for _ in range(3)]
    blob = store.blob(ids[0])
    blob.write([os.urandom(100_000)])
    blob.finish([os.urandom(100_000)])
    new = NewFile("a", "evals")
    store.add([Arrival(ids[0], new, blob), *(Arrival(i, new, b"small") for i in ids[1:])])
    if number % 3 == 0:
        store.delete(ids[0])
    print(ids[1], flush=True)
"""


def test_whatever_moment_it_is_killed_every_file_that_is_listed_can_be_read(
    tmp_path: Path, clock: Clock
) -> None:
    # Who is killed cannot report what lines it ran, so it need not be asked.
    environment = {name: it for name, it in os.environ.items() if "COVERAGE" not in name}
    promised: list[str] = []
    for rounds in (1, 5, 20):
        writer = subprocess.Popen(
            [sys.executable, "-c", WRITER, str(tmp_path)],
            env=environment,
            stdout=subprocess.PIPE,
            text=True,
        )
        assert writer.stdout is not None
        assert writer.stdout.readline() == "open\n"
        promised += [writer.stdout.readline().strip() for _ in range(rounds)]
        writer.send_signal(signal.SIGKILL)
        rest = writer.stdout.read()
        promised += [line for line in rest.split("\n")[:-1] if line]
        writer.stdout.close()
        assert writer.wait() == -signal.SIGKILL
    with closing(Store(tmp_path, clock)) as store:
        ids = pages(store, limit=50)
        assert set(promised) <= set(ids)
        for file_id in ids:
            described = json.loads(store.find(file_id) or "")
            assert len(content(store, file_id) or b"") == described["bytes"]
        blobs = {path.name for path in (tmp_path / "blobs").iterdir()}
        assert blobs <= set(ids)
