"""This client beside its peers, and beside the least that the machine allows.

python -m benchmarks                         # every row of the table
python -m benchmarks --growth                # how the cost grows, for the plots
python -m benchmarks --growth --alone        # the same, without the peers' quarter of an hour
python -m benchmarks --only 'download*,list' # some rows, by name
python -m benchmarks --quick                 # everything tiny, to see that it runs
python -m benchmarks --list                  # the names of the rows
python -m benchmarks --from FILE --readme    # render again what was measured
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from pathlib import Path

import attrs
from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

from benchmarks import plots, report, runner
from benchmarks.results import Results
from benchmarks.rows import FULL, QUICK, growth, matching, rows

_ROOT = Path(__file__).parent.parent
_RESULTS = _ROOT / "benchmarks" / "results"


def arguments() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("--quick", action="store_true", help="everything tiny, one run, no warm-up: for CI")
    add("--only", metavar="NAME[,NAME]", help="only these rows; * and ? stand for any letters")
    add("--growth", action="store_true", help="the rows of the plots instead of the table's")
    add("--alone", action="store_true", help="with --growth: this client, without its peers")
    add("--runs", type=int, default=5, help="runs of each contender after the warm-up (5)")
    add("--uvloop", action="store_true", help="let the contenders run on uvloop")
    add("--dir", type=Path, default=Path(tempfile.gettempdir()), help="for temporary files")
    add("--json", type=Path, metavar="FILE", help="keep the figures here")
    add("--from", type=Path, metavar="FILE", dest="source", help="figures that were kept")
    add("--readme", action="store_true", help="put the table into the README")
    add("--plots", type=Path, metavar="DIR", help="put the plots of --growth here, as SVG")
    add("--list", action="store_true", help="show the names of the rows, and what they are")
    return parser.parse_args()


def measure(plan: runner.Plan, *, quick: bool) -> Results:
    """Run, with a progress bar on standard error; stopped in between, return what there is."""
    loop = "uvloop" if plan.uvloop else "asyncio"
    results = Results({**runner.machine(), "loop": loop}, quick=quick)
    with Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
        console=Console(stderr=True),
    ) as progress:
        bar = progress.add_task("", total=plan.steps())

        def on_step(what: str) -> None:
            progress.update(bar, description=what, advance=1)

        try:
            runner.run(plan, results, on_step)
        except (KeyboardInterrupt, runner.NoSpaceError) as stop:
            # What was measured up to here is worth telling.
            results.stopped = repr(stop)
    return results


def measured(asked: argparse.Namespace) -> Results:
    """Measure what was asked for, or read what was kept."""
    if asked.source:
        return Results.load(asked.source)
    sizes = QUICK if asked.quick else FULL
    if asked.alone:
        sizes = attrs.evolve(sizes, growing_peers=False)
    if asked.growth:
        table = growth(sizes)
    elif asked.quick or asked.only:
        table = [*rows(sizes), *growth(sizes)]
    else:
        table = rows(sizes)
    plan = runner.Plan(
        matching(table, asked.only),
        runs=1 if asked.quick else asked.runs,
        warm_up=not asked.quick,
        directory=asked.dir,
        uvloop=asked.uvloop,
    )
    return measure(plan, quick=asked.quick)


def images() -> str:
    """Return Markdown for the plots that lie beside the results."""
    drawn = [plot for plot in plots.PLOTS if (_RESULTS / f"{plot.name}.svg").exists()]
    folder = _RESULTS.relative_to(_ROOT).as_posix()
    return "".join(f"\n![{plot.title}]({folder}/{plot.name}.svg)\n" for plot in drawn)


def main() -> int:
    """Do what was asked for; return the exit status."""
    asked = arguments()
    if asked.list:
        for row in [*rows(FULL), *growth(FULL)]:
            print(f"{row.name:32} {row.title}")
        return 0
    results = measured(asked)
    if asked.json:
        results.save(asked.json)
    sizes = QUICK if results.quick else FULL
    table, plotted = rows(sizes), growth(sizes)
    print(report.details([*table, *plotted], results))
    summary = report.summary(table, results)
    print(summary)
    if asked.plots:
        for path in plots.draw(plotted, results, asked.plots):
            print(path)
    if asked.readme:
        readme = _ROOT / "README.md"
        readme.write_text(report.insert(readme.read_text(), f"{summary}\n{images()}"))
    failures = [m for entries in results.rows.values() for m in entries if m.failure]
    for failed in failures:
        print(f"{failed.label}: {failed.failure}", file=sys.stderr)
    return 1 if failures or results.stopped else 0


if __name__ == "__main__":
    sys.exit(main())
