"""The results in words: Markdown tables for people, rendered from what was measured."""

from __future__ import annotations

import re
import statistics
import textwrap
from collections.abc import Sequence

import attrs

from benchmarks.jobs import Figure
from benchmarks.results import Measured, Results, Spread, ratios, spread
from benchmarks.rows import LIMITS, OURS, Goal, Row

__all__ = ["Verdict", "details", "insert", "summary", "verdicts"]

_MARKERS = re.compile(r"(<!-- benchmarks -->\n).*?(<!-- /benchmarks -->)", re.DOTALL)
_NAMES: dict[Figure, str] = {
    "wall": "wall",
    "cpu": "CPU",
    "memory": "memory",
    "held": "loop held",
    "turn": "CPU in one turn",
    "p50": "p50",
    "p99": "p99",
    "slowest": "slowest",
    "server": "server's CPU",
}


@attrs.frozen
class Verdict:
    """Whether a goal was reached.

    Attributes:
        row: The row's title.
        what: Which figure, against what.
        goal: The bound, in words.
        found: The ratio, or the figure, with its spread.
        met: Whether it was reached, by the median.
    """

    row: str
    what: str
    goal: str
    found: str
    met: bool


def verdicts(rows: Sequence[Row], results: Results) -> list[Verdict]:
    """Hold the results against the goals of their rows, and against the limits of every row."""
    found: list[Verdict] = []
    for row in rows:
        ours = results.entry(row.name, OURS.label)
        if ours is None:
            continue
        for goal in row.goals:
            theirs = results.entry(row.name, goal.against)
            if theirs is not None and len(theirs.runs) == len(ours.runs):
                found.append(_compare(row, goal, ours, theirs))
    return [*found, *_limits(rows, results)]


def _compare(row: Row, goal: Goal, ours: Measured, theirs: Measured) -> Verdict:
    a, b = ours.values(goal.figure), theirs.values(goal.figure)
    if goal.rate:
        ratio = ratios(b, a)
        what, bound = f"per second, {goal.against}", f"at least {goal.bound:g}"
        met = ratio.median >= goal.bound
    else:
        ratio = ratios(a, b)
        what, bound = f"{_NAMES[goal.figure]}, {goal.against}", f"at most {goal.bound:g}"
        met = ratio.median <= goal.bound
    found = f"{ratio.median:.2f} ({ratio.least:.2f}–{ratio.greatest:.2f})"
    return Verdict(row.title, what, bound, found, met)


def _limits(rows: Sequence[Row], results: Results) -> list[Verdict]:
    """Return, for each limit, the row that comes nearest to it or goes farthest beyond."""
    found: list[Verdict] = []
    for figure, limit in LIMITS.items():
        worst: tuple[Spread, Row] | None = None
        for row in rows:
            ours = results.entry(row.name, OURS.label)
            if ours is None or not ours.values(figure):
                continue
            value = spread(ours.values(figure))
            if worst is None or value.median > worst[0].median:
                worst = value, row
        if worst is not None:
            value, row = worst
            found.append(
                Verdict(
                    f"any row (the worst: {row.title})",
                    _NAMES[figure],
                    f"at most {_told(figure, limit)}",
                    _spread(figure, value),
                    value.median <= limit,
                )
            )
    return found


def summary(rows: Sequence[Row], results: Results) -> str:
    """Render both short tables: one figure a row, and the goals."""
    rows = [row for row in rows if row.name in results.rows]
    tables = [_figures(rows, results), _goals(rows, results)] if rows else []
    return "\n".join([line for table in tables for line in [*table, ""]] + [_footer(results)])


def details(rows: Sequence[Row], results: Results) -> str:
    """Render every figure of every contender, row by row."""
    lines: list[str] = []
    for row in rows:
        entries = results.rows.get(row.name)
        if entries is None:
            continue
        figures: list[Figure] = [
            figure for figure in _NAMES if any(entry.values(figure) for entry in entries)
        ]
        lines += [
            f"### {row.title}",
            "",
            "| | " + " | ".join(_NAMES[figure] for figure in figures) + " |",
            "|---|" + "---|" * len(figures),
        ]
        for entry in entries:
            cells = [_cell(entry, figure) for figure in figures]
            lines.append(f"| {entry.label} | " + " | ".join(cells) + " |")
        lines.append("")
        lines += [
            f"{entry.label} failed: {entry.failure.splitlines()[-1]}\n"
            for entry in entries
            if entry.failure
        ]
        if row.notes:
            lines += [f"({row.notes})", ""]
    return "\n".join(lines)


def insert(text: str, table: str) -> str:
    """Put a table between the markers of a text.

    Raises:
        ValueError: It has no markers.
    """
    replaced, times = _MARKERS.subn(lambda found: f"{found[1]}{table}\n{found[2]}", text)
    if not times:
        raise ValueError("there is no <!-- benchmarks --> … <!-- /benchmarks -->")
    return replaced


def _figures(rows: Sequence[Row], results: Results) -> list[str]:
    labels: list[str] = []
    for row in rows:
        labels += [entry.label for entry in results.rows[row.name] if entry.label not in labels]
    # What stands in few rows has its say in the goals; here it would be an empty column.
    labels = [label for label in labels if _count(label, rows, results) > 1 or len(rows) < 4]
    lines = ["| | " + " | ".join(labels) + " |", "|---|" + "---|" * len(labels)]
    for row in rows:
        entries = {entry.label: entry for entry in results.rows[row.name]}
        for figure in row.figures:
            best = _best(row, figure, results)
            cells = [
                _short(entries[label], figure, best=label == best) if label in entries else "–"
                for label in labels
            ]
            lines.append(f"| {row.title}: {_NAMES[figure]} | " + " | ".join(cells) + " |")
    return lines


def _best(row: Row, figure: Figure, results: Results) -> str | None:
    """Return the label of the Python client that needs least, if there are several."""
    medians = {
        measured.label: spread(measured.values(figure)).median
        for entry in row.entries
        if not entry.contender.yardstick and not entry.name
        if (measured := results.entry(row.name, entry.label)) and measured.values(figure)
    }
    return min(medians, key=lambda label: medians[label]) if len(medians) > 1 else None


def _count(label: str, rows: Sequence[Row], results: Results) -> int:
    return sum(any(e.label == label for e in results.rows[row.name]) for row in rows)


def _goals(rows: Sequence[Row], results: Results) -> list[str]:
    lines = [
        "| aiofiles_api against … | what | goal | found | |",
        "|---|---|---|---|---|",
    ]
    lines += [
        f"| {v.row} | {v.what} | {v.goal} | {v.found} | {'met' if v.met else '**not met**'} |"
        for v in verdicts(rows, results)
    ]
    return lines


def _footer(results: Results) -> str:
    """Say what the figures are, where they are from, and what else was going on."""
    machine = ", ".join(f"{name} {value}" for name, value in results.machine.items())
    about = (
        "Medians (least–greatest) of runs that took turns, each in a process of its own; the best "
        "Python client of a row is set in bold; MB is 2^20 bytes. The server was busy for "
        f"{max(_shares(results, 'server'), default=0.0):.0%} of a run's time at most. "
    )
    stolen = _shares(results, "stolen")
    if any(stolen):
        about += (
            f"The host of this virtual machine kept its processors waiting for "
            f"{statistics.median(stolen):.0%} of a run's time in the median, and for "
            f"{max(stolen):.0%} at most. "
        )
    about += f"{machine}."
    if results.quick:
        about = f"These figures say nothing: everything was tiny. {about}"
    if results.stopped:
        about = f"Stopped before the end: {results.stopped}. {about}"
    return textwrap.fill(about, 100)


def _shares(results: Results, figure: Figure) -> list[float]:
    """Return what part of its time each run had for something that counts in seconds."""
    return [
        seconds / wall
        for entries in results.rows.values()
        for entry in entries
        for seconds, wall in zip(entry.values(figure), entry.values("wall"), strict=False)
    ]


def _short(entry: Measured, figure: Figure, *, best: bool) -> str:
    values = entry.values(figure)
    if not values:
        return "failed" if entry.failure else "–"
    told = _told(figure, spread(values).median)
    return f"**{told}**" if best else told


def _cell(entry: Measured, figure: Figure) -> str:
    values = entry.values(figure)
    return _spread(figure, spread(values)) if values else "–"


def _spread(figure: Figure, value: Spread) -> str:
    if value.least == value.greatest:
        return _told(figure, value.median)
    least, greatest = _told(figure, value.least), _told(figure, value.greatest)
    return f"{_told(figure, value.median)} ({least}–{greatest})"


def _told(figure: Figure, value: float) -> str:
    if figure == "memory":
        return f"{value / 2**20:.1f} MB" if value < 100 * 2**20 else f"{value / 2**20:,.0f} MB"
    if value < 1:
        return f"{value * 1000:.3g} ms"
    return f"{value:.2f} s"
