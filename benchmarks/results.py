"""What was measured: kept as JSON, and compared."""

from __future__ import annotations

import json
import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path

import attrs
import cattrs

from benchmarks.jobs import Figure, Outcome

__all__ = ["Measured", "Results", "Spread", "ratios", "spread"]


@attrs.frozen
class Spread:
    """A median, with the least and the greatest."""

    median: float
    least: float
    greatest: float


def spread(values: Sequence[float]) -> Spread:
    """Return the median of at least one value, with the least and the greatest."""
    return Spread(statistics.median(values), min(values), max(values))


def ratios(ours: Sequence[float], theirs: Sequence[float]) -> Spread:
    """Compare run by run, since runs that stand side by side met the same machine."""
    return spread([a / b for a, b in zip(ours, theirs, strict=True)])


@attrs.define
class Measured:
    """What an entry of a row did.

    Attributes:
        label: Whose entry it is.
        runs: The figures of each run.
        failure: Why there are no more runs, if it failed.
    """

    label: str
    runs: list[Outcome] = attrs.field(factory=list)
    failure: str = ""

    def values(self, figure: Figure) -> list[float]:
        """Return a figure of each run; none where it was not measured."""
        return [run[figure] for run in self.runs if figure in run]


@attrs.define
class Results:
    """All that was measured in one run of the suite.

    Attributes:
        machine: Where and with what it ran.
        quick: Whether everything was tiny, so that the figures say nothing.
        rows: The entries of each row, by the row's name.
        stopped: Why it ended before its time, if it did.
    """

    machine: Mapping[str, str]
    quick: bool
    rows: dict[str, list[Measured]] = attrs.field(factory=dict)
    stopped: str = ""

    def entry(self, row: str, label: str) -> Measured | None:
        """Return an entry that was measured."""
        for measured in self.rows.get(row, []):
            if measured.label == label and measured.runs:
                return measured
        return None

    def save(self, path: Path) -> None:
        """Write it as JSON."""
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(attrs.asdict(self), indent=1) + "\n")

    @classmethod
    def load(cls, path: Path) -> Results:
        """Read what `save()` wrote."""
        return cattrs.structure(json.loads(path.read_text()), cls)
