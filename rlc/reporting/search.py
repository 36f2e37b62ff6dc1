"""What a search found: a table of its trials, and a picture of the objective."""

import io
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from rich import box
from rich.table import Table

from compression.files import write_atomic
from measure.statistics import Interval, mean_interval
from rlc.config.space import Dimension, Value
from rlc.reporting.page import csv_text
from rlc.reporting.screen import print_table
from rlc.runs.wording import short

TABLE_FILE = "trials.csv"
PICTURE_FILE = "search.png"
# Of panels of settings; a picture of more is too wide.
MOST_PANELS = 6


@dataclass(frozen=True)
class TrialRow:
    """One trial that is over."""

    number: int
    state: str
    """done, pruned (stopped early) or failed."""
    values: Mapping[str, Value]
    """By the names of the settings."""
    returns: tuple[float, ...]
    """Of each seed, of the finished policies."""
    last_evaluation: float | None
    """Mean over the seeds at the last evaluation along the training."""
    stopped_at: int | None
    """Environment step."""
    overrides: Sequence[str]

    @property
    def objective(self) -> Interval | None:
        """Mean over the seeds with Student's interval, infinitely wide for one seed; None where it was not finished."""
        return mean_interval(self.returns) if self.state == "done" else None


def ranked(rows: Sequence[TrialRow]) -> list[TrialRow]:
    """Finished trials from the best on, then the others."""
    return sorted(rows, key=lambda row: (row.state != "done", -np.mean(row.returns) if row.returns else 0, row.number))


def row_line(row: TrialRow) -> str:
    """A trial in one line."""
    return f"trial {row.number}: {' '.join(f'{k}={_short(v)}' for k, v in row.values.items())}: {_outcome(row)}"


def show_search(rows: Sequence[TrialRow], folder: Path) -> None:
    """The table on the screen, and the settings of the best."""
    order = ranked(rows)
    names = list(order[0].values) if order else []
    table = Table("trial", "return, mean over seeds", "95 % interval", *names, box=box.SIMPLE)
    for row in order:
        low_high = _interval_text(row.objective)
        mean = _outcome(row) if row.objective is None else f"{row.objective.value:.1f}"
        table.add_row(str(row.number), mean, low_high, *(_short(value) for value in row.values.values()))
    print_table(table)
    if order and order[0].state == "done":
        print(f"best: {' '.join(order[0].overrides)}")
    print(f"{folder / TABLE_FILE}, {folder / PICTURE_FILE}")


def write_search(folder: Path, rows: Sequence[TrialRow], dimensions: Sequence[Dimension]) -> None:
    """trials.csv and search.png in the folder of the search."""
    names = [one.name for one in dimensions]
    headers = ["trial", "state", "return_mean", "return_low", "return_high", "returns", "last_evaluation"]
    lines = []
    for row in ranked(rows):
        found = row.objective
        figures = ["", "", ""] if found is None else [found.value, found.low, found.high]
        cells = [str(x) if isinstance(x, str) or math.isfinite(x) else "" for x in figures]
        spread = " ".join(str(value) for value in row.returns)
        last = "" if row.last_evaluation is None else str(row.last_evaluation)
        stopped = "" if row.stopped_at is None else str(row.stopped_at)
        settings = [str(row.values[name]) for name in names]
        lines.append([str(row.number), row.state, *cells, spread, last, stopped, *settings])
    write_atomic(folder / TABLE_FILE, csv_text([*headers, "stopped_at_step", *names], lines).encode())
    if any(row.state == "done" for row in rows):
        buffer = io.BytesIO()
        _picture(rows, dimensions).savefig(buffer, format="png", dpi=150)
        write_atomic(folder / PICTURE_FILE, buffer.getvalue())


def _picture(rows: Sequence[TrialRow], dimensions: Sequence[Dimension]) -> Figure:
    """The objective by trial, with the best so far, and by each setting."""
    shown = dimensions[:MOST_PANELS]
    figure = Figure(figsize=(3.6 * (1 + len(shown)), 3.4), layout="constrained")
    panels = figure.subplots(1, 1 + len(shown), sharey=True, squeeze=False)[0]
    done = [row for row in rows if row.state == "done"]
    pruned = [row for row in rows if row.state == "pruned" and row.last_evaluation is not None]
    _points(panels[0], done, pruned, [row.number for row in done], [row.number for row in pruned])
    best = np.maximum.accumulate([np.mean(row.returns) for row in done])
    panels[0].step([row.number for row in done], best, where="post", color="0.5", linewidth=1, label="best so far")
    panels[0].set_xlabel("trial")
    panels[0].set_ylabel("return: mean over seeds, 95 %")
    panels[0].legend(fontsize=7)
    for panel, one in zip(panels[1:], shown, strict=True):
        _points(panel, done, pruned, _places(done, one), _places(pruned, one))
        panel.set_xlabel(one.name)
        if one.values:
            panel.set_xticks(range(len(one.values)), one.values)
            panel.set_xlim(-0.5, len(one.values) - 0.5)
        elif one.log:
            panel.set_xscale("log")
    return figure


def _places(rows: Sequence[TrialRow], one: Dimension) -> list[Value]:
    """Where trials lie on the axis of a setting: at its value, or at the place in its list."""
    values = [row.values[one.name] for row in rows]
    return [one.values.index(str(value)) for value in values] if one.values else values


def _points(
    panel: Axes,
    done: Sequence[TrialRow],
    pruned: Sequence[TrialRow],
    done_at: Sequence[Value],
    pruned_at: Sequence[Value],
) -> None:
    found = [row.objective for row in done]
    half = [0.0 if one is None or not math.isfinite(one.high) else one.high - one.value for one in found]
    means = [float(np.mean(row.returns)) for row in done]
    panel.errorbar(done_at, means, yerr=half, fmt="o", markersize=4, elinewidth=1, label="finished")
    if pruned:
        last = [row.last_evaluation for row in pruned if row.last_evaluation is not None]
        panel.plot(pruned_at, last, "x", color="0.6", label="pruned, last evaluation")


def _outcome(row: TrialRow) -> str:
    if row.objective is not None:
        interval = _interval_text(row.objective)
        return f"return {row.objective.value:.1f} ({interval})"
    if row.state == "pruned":
        return f"pruned at step {row.stopped_at}, return {row.last_evaluation:.1f} there"
    return row.state


def _interval_text(found: Interval | None) -> str:
    if found is None:
        return ""
    return f"{found.low:.1f} to {found.high:.1f}" if math.isfinite(found.high) else "one seed"


def _short(value: Value) -> str:
    return f"{value:.4g}" if isinstance(value, float) else short(value)
