"""Grids of small axes, and how algorithms and methods look in them."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from rlc.reporting import published

LINES = ("-", "--", ":", "-.", (0, (5, 1, 1, 1, 1, 1)))
MARKERS = "osD^vP*X"
HATCHES = ("", "///", "...", "xxx")
GREYS = ("0.25", "0.85", "0.6", "0.95")
Values = Mapping[tuple[str, str], Mapping[Any, float]]
"""By (algorithm, environment): by method, or by ratio."""
Rows = Sequence[tuple[str, Values]]
"""By label of the axis."""


def ordered(names: Iterable[str], order: Sequence[str]) -> list[str]:
    """Each name once, in the paper's order; others behind, as they come."""

    def place(name: str) -> int:
        matches = [i for i, known in enumerate(order) if name in (known, f"{known}-{published.VERSION}")]
        return matches[0] if matches else len(order)

    return sorted(dict.fromkeys(names), key=place)


def first_word(label: str) -> str:
    """A label without its unit."""
    return label.partition(" (")[0]


def short_name(env: str) -> str:
    """Name of an environment that fits above a narrow panel."""
    name = env.removesuffix(f"-{published.VERSION}")
    return name.replace("Humanoid", "Hum.").replace("HalfCheetah", "HalfCh.")


def axes_grid(rows: int, columns: int, width: float = 2.4, height: float = 1.9) -> tuple[Figure, Any]:
    """A figure and its panels, an array [rows, columns]; `width` and `height` of one panel in inches."""
    figure = Figure(figsize=(width * max(1, columns), height * rows), layout="constrained")
    grid = figure.subplots(rows, max(1, columns), squeeze=False)
    for axes in grid.flat:
        axes.spines[["top", "right"]].set_visible(False)
        axes.tick_params(labelsize=7)
        axes.xaxis.label.set_size(8)
        axes.yaxis.label.set_size(8)
    return figure, grid


def label_grid(figure: Figure, grid: Any, columns: Sequence[str], rows: Sequence[str]) -> None:
    """Write the names of columns and rows, and one legend for all panels."""
    for axes, name in zip(grid[0], columns, strict=False):
        axes.set_title(name, fontsize=9)
    for axes_row, name in zip(grid, rows, strict=True):
        axes_row[0].set_ylabel(name, fontsize=8)
    named: dict[str, Any] = {}
    for axes in grid.flat:
        handles, labels = axes.get_legend_handles_labels()
        named = dict(zip(labels, handles, strict=True)) | named
    if named:
        figure.legend(named.values(), named.keys(), loc="outside lower center", ncols=5, frameon=False, fontsize=7)


def say_if_empty(axes: Axes, values: Values, algo: str) -> None:
    """Write into a panel that nothing was measured of its algorithm."""
    if not any(row for (owner, _), row in values.items() if owner == algo):
        axes.text(0.5, 0.5, "not measured", ha="center", va="center", transform=axes.transAxes, fontsize=7)
