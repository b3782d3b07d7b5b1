"""How the cost grows, as plots: SVG with a transparent ground and colours for light and dark pages.

The text is in the middle between black and white, so that one file serves both of GitHub's modes.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import attrs
import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator

from benchmarks.results import Results, spread
from benchmarks.rows import AIOHTTP, OPENAI, OURS, Row, named

__all__ = ["PLOTS", "Plot", "draw"]

_GREY = "#7d8590"
_COLOURS = {OURS.label: "#1f9d76", OPENAI.label: "#d9783b", AIOHTTP.label: "#6f7fd8"}


@attrs.frozen
class Plot:
    """One image.

    Attributes:
        name: The file's name, without its ending.
        title: What it shows.
        unit: What a cost is counted in.
        scale: How many of these are one CPU second.
        per: How many of what `x` counts one cost is for.
        panels: The series in it, each with its title.
        ticks: How a number on the x axis is said.
    """

    name: str
    title: str
    unit: str
    scale: float
    per: float
    panels: Sequence[tuple[str, str]]
    ticks: Callable[[int], str]


def _counted(number: int) -> str:
    return f"{number:,}"


PLOTS = [
    Plot(
        "growth-files",
        "Cost per 4 KB file, by the number of files",
        "CPU ms a file",
        1_000,
        1,
        [("upload-files", "upload"), ("download-files", "download to disk")],
        _counted,
    ),
    Plot(
        "growth-bytes",
        "Cost per byte, by the length of the file",
        "CPU s a GB",
        1,
        2**30,
        [("upload-bytes", "upload"), ("download-bytes", "download to disk")],
        named,
    ),
    Plot(
        "growth-list",
        "Cost per listed object, by the length of the listing",
        "CPU µs an object",
        1_000_000,
        1,
        [("list", "list")],
        _counted,
    ),
]


def draw(rows: Sequence[Row], results: Results, directory: Path) -> list[Path]:
    """Draw each plot whose series were measured, and return the files."""
    directory.mkdir(parents=True, exist_ok=True)
    drawn: list[Path] = []
    # The same figures give the same file: no date, and no identifiers out of thin air.
    with mpl.rc_context({"svg.hashsalt": "benchmarks", "svg.fonttype": "none"}):
        for plot in PLOTS:
            wanted = {series for series, _ in plot.panels}
            if not any(row.series in wanted and row.name in results.rows for row in rows):
                continue
            path = directory / f"{plot.name}.svg"
            _figure(plot, rows, results).savefig(
                path, format="svg", transparent=True, metadata={"Date": None}
            )
            drawn.append(path)
    return drawn


def _figure(plot: Plot, rows: Sequence[Row], results: Results) -> Figure:
    width = 4.4 * len(plot.panels) if len(plot.panels) > 1 else 5.2
    figure = Figure(figsize=(width, 3.2), layout="constrained")
    figure.suptitle(plot.title, color=_GREY, fontsize=11)
    panels = figure.subplots(1, len(plot.panels), squeeze=False, sharey=True)
    for axes, (series, title) in zip(panels[0], plot.panels, strict=True):
        points = [row for row in rows if row.series == series and row.name in results.rows]
        _panel(axes, plot, points, results)
        if len(plot.panels) > 1:
            axes.set_title(title, color=_GREY, fontsize=10)
    panels[0][0].set_ylabel(plot.unit, color=_GREY)
    handles, labels = panels[0][0].get_legend_handles_labels()
    figure.legend(
        handles,
        labels,
        loc="outside lower center",
        ncols=3,
        frameon=False,
        labelcolor=_GREY,
        fontsize=9,
    )
    return figure


def _panel(axes: Axes, plot: Plot, points: Sequence[Row], results: Results) -> None:
    for label, colour in _COLOURS.items():
        curve = [
            (
                row.x,
                spread(
                    [value * plot.scale * plot.per / row.units for value in entry.values("cpu")]
                ),
            )
            for row in points
            if (entry := results.entry(row.name, label))
        ]
        if curve:
            axes.plot(
                [x for x, _ in curve],
                [cost.median for _, cost in curve],
                color=colour,
                marker="o",
                markersize=4,
                label=label,
            )
            axes.fill_between(
                [x for x, _ in curve],
                [cost.least for _, cost in curve],
                [cost.greatest for _, cost in curve],
                color=colour,
                alpha=0.2,
                linewidth=0,
            )
    axes.set_xscale("log")
    axes.set_yscale("log")
    axes.set_xticks([row.x for row in points], [plot.ticks(row.x) for row in points])
    axes.minorticks_off()
    axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axes.grid(visible=True, color=_GREY, alpha=0.25, linewidth=0.6)
    axes.tick_params(colors=_GREY, labelsize=8)
    for side, spine in axes.spines.items():
        spine.set_color(_GREY)
        spine.set_visible(side in {"left", "bottom"})
