"""The benchmarks' own rules: their rows, what they compare, and what their server says."""

from __future__ import annotations

import json
import socket
import subprocess
import sys
from collections.abc import Iterator
from http.client import HTTPConnection
from pathlib import Path

import pytest
import trustme
from conftest import KEY
from hypothesis import given
from hypothesis import strategies as st

from aiofiles_api import FilesClient
from benchmarks import content, report, server
from benchmarks.jobs import Job, Outcome, Target
from benchmarks.process import Task
from benchmarks.results import Measured, Results, ratios, spread
from benchmarks.rows import FULL, LIMITS, OURS, QUICK, Row, growth, matching, named, rows

TABLE = [*rows(FULL), *growth(FULL)]


def result(row: Row, **walls: float) -> Results:
    """Return results in which each entry of a row took so many seconds, thrice."""
    entries = [
        Measured(entry.label, [{"wall": walls.get(name, 1.0), "cpu": walls.get(name, 1.0)}] * 3)
        for entry in row.entries
        for name in [entry.label.replace(" ", "_")]
    ]
    return Results({"python": "3"}, quick=False, rows={row.name: entries})


# --- the table ------------------------------------------------------------------------------------


def test_no_two_rows_have_the_same_name() -> None:
    names = [row.name for row in TABLE]
    assert len(set(names)) == len(names)


@pytest.mark.parametrize("row", TABLE, ids=lambda row: row.name)
def test_ours_comes_first_and_every_goal_is_held_against_someone_in_the_row(row: Row) -> None:
    labels = [entry.label for entry in row.entries]
    assert labels[0] == OURS.label
    assert len(set(labels)) == len(labels)
    assert {goal.against for goal in row.goals} <= set(labels[1:])


def test_the_quick_rows_do_what_the_full_ones_do() -> None:
    def shape(row: Row) -> list[tuple[str, str]]:
        return [(entry.label, entry.job.operation) for entry in row.entries]

    full = {row.name: shape(row) for row in rows(FULL) if not row.name.startswith("memory")}
    quick = {row.name: shape(row) for row in rows(QUICK) if not row.name.startswith("memory")}
    assert full == quick
    assert {row.series for row in growth(FULL)} == {row.series for row in growth(QUICK)}


def test_rows_are_chosen_by_name_and_by_pattern() -> None:
    assert [row.name for row in matching(TABLE, "list,import")] == ["list", "import"]
    assert {row.series for row in matching(TABLE, "growth-list*")} == {"list"}
    assert matching(TABLE, None) == TABLE
    assert matching(TABLE, "nothing") == []


def test_sizes_are_said_in_the_greatest_unit_that_fits() -> None:
    assert [named(4096), named(512 * 2**20), named(2**32)] == ["4 KB", "512 MB", "4 GB"]
    assert named(100) == "100 B"


# --- what was measured ----------------------------------------------------------------------------


@given(st.lists(st.floats(0.001, 1e6), min_size=1), st.floats(0.1, 10))
def test_a_ratio_compares_runs_that_stood_side_by_side(walls: list[float], factor: float) -> None:
    ratio = ratios([wall * factor for wall in walls], walls)
    assert ratio.least == pytest.approx(factor)
    assert ratio.greatest == pytest.approx(factor)


@given(st.lists(st.floats(0, 1e6), min_size=1))
def test_the_median_lies_within_its_spread(values: list[float]) -> None:
    found = spread(values)
    assert found.least <= found.median <= found.greatest


@pytest.mark.parametrize(("theirs", "met"), [(9.9, False), (10.0, True)])
def test_a_goal_for_a_rate_is_met_from_its_bound_upwards(theirs: float, met: bool) -> None:  # noqa: FBT001
    [row] = matching(TABLE, "upload-tiny")
    first, *_ = report.verdicts([row], result(row, **{"openai-python": theirs}))
    assert (first.goal, first.met) == ("at least 10", met)


@pytest.mark.parametrize(("theirs", "met"), [(5.8, False), (5.9, True)])
def test_a_goal_for_a_cost_is_met_up_to_its_bound(theirs: float, met: bool) -> None:  # noqa: FBT001
    [row] = matching(TABLE, "download-tls")
    first, *_ = report.verdicts([row], result(row, **{"openai-python": theirs}))
    assert (first.goal, first.met) == ("at most 0.17", met)


def test_the_row_that_holds_the_loop_longest_stands_for_all() -> None:
    pair = matching(TABLE, "download,list")
    results = Results({}, quick=False)
    for row, held in zip(pair, (0.002, 0.02), strict=True):
        results.rows[row.name] = [Measured(OURS.label, [{"held": held, "memory": 1.0}])]
    verdicts = report.verdicts(pair, results)
    assert [verdict.what for verdict in verdicts] == ["loop held", "memory"]
    assert [verdict.met for verdict in verdicts] == [False, True]
    assert pair[1].title in verdicts[0].row
    assert set(LIMITS) == {"held", "memory"}


def test_what_the_host_took_is_told_where_there_is_one() -> None:
    [row] = matching(TABLE, "download")
    for stolen, told in ((0.0, False), (0.5, True)):
        runs: list[Outcome] = [{"wall": 2.0, "server": 1.0, "stolen": stolen}]
        results = Results({}, quick=False, rows={row.name: [Measured(OURS.label, runs)]})
        footer = report.summary([row], results).replace("\n", " ")
        assert "The server was busy for 50% of a run's time at most." in footer
        assert ("for 25% of a run's time in the median, and for 25% at most" in footer) == told


def test_who_was_not_there_has_no_figures_and_is_held_against_nobody() -> None:
    [row] = matching(TABLE, "download")
    results = result(row)
    results.rows["download"] = [
        entry for entry in results.rows["download"] if entry.label not in {"curl", "obstore"}
    ]
    table = report.summary([row], results)
    assert "curl" not in table
    assert "openai-python" in table


def test_a_contender_that_failed_is_named_with_its_reason() -> None:
    [row] = matching(TABLE, "download")
    results = result(row)
    results.rows["download"][1] = Measured("openai-python", failure="Traceback\nMemoryError: all")
    assert "openai-python failed: MemoryError: all" in report.details([row], results)
    assert "failed" in report.summary([row], results)


def test_the_best_of_the_python_clients_is_marked_and_a_yardstick_never() -> None:
    [row] = matching(TABLE, "download")
    table = report.summary([row], result(row, curl=0.1, obstore=0.2, aiofiles_api=0.3))
    figures, _, _ = table.partition("\n\n")
    assert figures.count("**") == figures.count("**200 ms**") * 2 == 4


def test_results_come_back_from_json_as_they_were(tmp_path: Path) -> None:
    [row] = matching(TABLE, "list")
    results = result(row, aiofiles_api=0.25)
    results.save(tmp_path / "results" / "latest.json")
    assert Results.load(tmp_path / "results" / "latest.json") == results


def test_a_task_comes_back_from_json_as_it_was() -> None:
    task = Task("ours:opened", Job("upload bytes", size=3), server_target(), "from", "to")
    assert Task.loads(task.dumps()) == task


def server_target() -> Target:
    return Target("http://127.0.0.1:1/v1", "authority.pem")


def test_the_table_replaces_what_stands_between_the_markers() -> None:
    text = "before\n<!-- benchmarks -->\nold\n<!-- /benchmarks -->\nafter\n"
    once = report.insert(text, "| new |")
    assert once == "before\n<!-- benchmarks -->\n| new |\n<!-- /benchmarks -->\nafter\n"
    assert report.insert(once, "| new |") == once
    with pytest.raises(ValueError, match="benchmarks"):
        report.insert("no markers", "| new |")


def test_the_readme_has_a_place_for_the_table() -> None:
    readme = Path(__file__).parent.parent / "README.md"
    assert "| new |" in report.insert(readme.read_text(), "| new |")


# --- the content and the server -------------------------------------------------------------------


@pytest.mark.parametrize("size", [0, 1, 4096, content.PERIOD + 1])
def test_a_file_that_was_written_passes_its_own_check(tmp_path: Path, size: int) -> None:
    content.write_file(tmp_path / "file", size)
    content.check_file(tmp_path / "file", size)


def test_a_file_that_is_short_or_wrong_is_found(tmp_path: Path) -> None:
    content.write_file(tmp_path / "file", 10_000)
    with pytest.raises(ValueError, match="10,000 bytes"):
        content.check_file(tmp_path / "file", 10_001)
    (tmp_path / "file").write_bytes(bytes(10_000))
    with pytest.raises(ValueError, match="is wrong"):
        content.check_file(tmp_path / "file", 10_000)


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[server.Server]:
    folder = tmp_path_factory.mktemp("certificates")
    certificate = trustme.CA().issue_cert("127.0.0.1")
    certificate.cert_chain_pems[0].write_to_path(str(folder / "certificate.pem"))
    certificate.private_key_pem.write_to_path(str(folder / "key.pem"))
    with server.running(str(folder / "certificate.pem"), str(folder / "key.pem")) as one:
        yield one


@pytest.mark.anyio
async def test_the_server_does_all_that_the_client_asks(
    running: server.Server, tmp_path: Path
) -> None:
    before = running.stats()
    content.write_file(tmp_path / "source", 5_000_000)
    base_url = running.base_url(files=5_001, delay=0.01)
    async with FilesClient(base_url=base_url, api_key=KEY) as files:
        stored = await files.upload(tmp_path / "source", purpose="batch")
        assert stored.bytes == 5_000_000
        streamed = await files.upload(content.chunks(300_000), purpose="batch")
        assert streamed.bytes == 300_000
        assert (await files.upload(b"", purpose="batch")).bytes == 0
        await files.download(stored, tmp_path / "copy")
        content.check_file(tmp_path / "copy", 5_000_000)
        assert (await files.retrieve(stored.id)).bytes == 5_000_000
        assert (await files.delete(stored)).deleted
        ids = {file.id async for file in files.list(page_size=1_000)}
        assert len(ids) == 5_001
    after = running.stats()
    assert after.uploads - before.uploads == 3
    assert after.uploaded_bytes - before.uploaded_bytes == 5_300_000
    assert after.listed - before.listed == 5_001
    assert after.cpu > before.cpu


def body(*parts: tuple[bytes, bytes]) -> bytes:
    """Render a form."""
    rendered = b"".join(
        b'--b\r\nContent-Disposition: form-data; name="' + name + b'"\r\n\r\n' + value + b"\r\n"
        for name, value in parts
    )
    return rendered + b"--b--\r\n"


@pytest.mark.parametrize("step", [1, 7, 10_000])
@pytest.mark.parametrize("order", [("purpose", "file"), ("file", "purpose")])
def test_the_server_reads_requests_however_they_are_cut(
    running: server.Server, step: int, order: tuple[str, str]
) -> None:
    values = {"purpose": b"batch", "file": bytes(content.piece(0, 100))}
    form = body(*((name.encode(), values[name]) for name in order))
    request = (
        b"POST /v1/files HTTP/1.1\r\nContent-Type: multipart/form-data; boundary=b\r\n"
        b"Content-Length: " + str(len(form)).encode() + b"\r\n\r\n" + form
    )
    # Two requests, one behind the other: where the first ends may lie anywhere in a segment.
    with socket.create_connection(("127.0.0.1", running.plain_port), timeout=10) as sock:
        both = request + request.replace(b"HTTP/1.1\r\n", b"HTTP/1.1\r\nConnection: close\r\n")
        for start in range(0, len(both), step):
            sock.sendall(both[start : start + step])
        replies = b"".join(iter(lambda: sock.recv(65_536), b""))
    assert replies.count(b"HTTP/1.1 200 OK") == 2
    assert replies.count(b'"bytes":100,') == 2


def test_the_server_refuses_what_is_not_the_pattern(running: server.Server) -> None:
    connection = HTTPConnection("127.0.0.1", running.plain_port, timeout=10)
    headers = {"Content-Type": "multipart/form-data; boundary=b"}
    connection.request("POST", "/v1/files", body((b"file", b"something else")), headers)
    assert connection.getresponse().status == 400
    connection.close()


def test_a_job_in_a_process_of_its_own_tells_its_figures(
    running: server.Server, tmp_path: Path
) -> None:
    (tmp_path / "to").mkdir()
    task = Task(
        "plain_aiohttp:opened",
        Job("download", size=100_000, count=3, concurrency=2),
        Target(running.base_url(), trustme_authority(tmp_path)),
        str(tmp_path),
        str(tmp_path / "to"),
    )
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.process"],
        input=task.dumps(),
        capture_output=True,
        text=True,
        check=True,
        cwd=Path(__file__).parent.parent,
    )
    figures = json.loads(done.stdout)
    assert set(figures) == {"wall", "cpu", "memory", "held", "turn", "stolen"}
    assert 0 < figures["turn"] < figures["wall"]
    for number in range(3):
        content.check_file(tmp_path / "to" / str(number), 100_000)


def trustme_authority(folder: Path) -> str:
    trustme.CA().cert_pem.write_to_path(str(folder / "authority.pem"))
    return str(folder / "authority.pem")
