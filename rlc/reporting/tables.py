"""Tables of a study: costs, guidance, and every cell."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from measure.statistics import Interval, mean_interval
from rlc.messages import counted
from rlc.reporting.study import Cell, Study, Task, over_fp32
from rlc.runs.stored import StoredRun
from rlc.runs.wording import without_shared

DASH = "-"
QUANTIZED = ("fp32", "ptdq", "ptsq", "qat")
TOLERANCES = (0.01, 0.05, 0.10)


@dataclass(frozen=True)
class Note:
    """How to read a table: said of columns by their headers, and of cells that hold one of the marks."""

    text: str
    columns: tuple[str, ...] = ()
    marks: tuple[str, ...] = ()

    def calls(self, cell: str) -> bool:
        """Whether a cell is one of the marks, or has a mark that is a sign in its text."""
        signs = [mark for mark in self.marks if len(mark) == 1 and mark != DASH]
        return cell in self.marks or any(sign in cell for sign in signs)


@dataclass(frozen=True)
class ReportTable:
    """A table as it is shown: `name` of its files, rows of text, and notes on how to read it."""

    name: str
    title: str
    headers: list[str]
    rows: list[list[str]]
    notes: list[Note] = field(default_factory=list)
    keys: int = 1
    """How many columns, from the first on, say what a row is of."""
    beside: bool = False
    """Whether the paper's numbers stand in it."""

    def _says_something(self, column: int) -> bool:
        return any(row[column] not in ("", DASH) for row in self.rows)

    def without_empty_columns(self) -> "ReportTable":
        """The same without columns in which nothing stands, and without notes on what is not there."""
        filled = [k for k in range(len(self.headers)) if k < self.keys or self._says_something(k)]
        headers = [self.headers[k] for k in filled]
        rows = []
        for row in self.rows:
            rows.append([row[k] for k in filled])
        notes = []
        for note in self.notes:
            columns = tuple(name for name in note.columns if name in headers)
            called = any(note.calls(cell) for row in rows for cell in row)
            if columns or called or not (note.columns or note.marks):
                notes.append(replace(note, columns=columns))
        return replace(self, headers=headers, rows=rows, notes=notes)


def number(value: float | None) -> str:
    """Four digits, whole numbers from 100 on; a dash for what is missing."""
    if value is None or not math.isfinite(value):
        return DASH
    return f"{value:.0f}" if abs(value) >= 100 else f"{value:.3g}"


def percent(share: float, digits: int = 1) -> str:
    """A share in percent."""
    return f"{100 * share:.{digits}f} %"


def share_in_words(interval: Interval) -> str:
    """A share in percent with its interval; without one where it is infinitely wide."""
    ends = f" [{100 * interval.low:.1f}, {100 * interval.high:.1f}]" if math.isfinite(interval.low) else ""
    return f"{percent(interval.value)}{ends}"


def fewest_to_most(counts: Sequence[int]) -> str:
    """Numbers of seeds in short: 3, or 3 to 10."""
    return " to ".join(str(count) for count in dict.fromkeys((min(counts), max(counts))))


def with_interval(interval: Interval, n: int | None = None) -> str:
    """mean [low, high] (n); without an interval where there is one value only."""
    spread = f" [{number(interval.low)}, {number(interval.high)}]" if math.isfinite(interval.low) else ""
    return f"{number(interval.value)}{spread}" + ("" if n is None else f" ({n})")


def at_least(value: float, threshold: float) -> bool:
    """Whether a value is at least the threshold; equal up to rounding is enough."""
    return value >= threshold - 1e-9 * abs(threshold)


def costs(study: Study) -> ReportTable:
    """Return, size, time, memory and energy of every policy; the shares are of fp32."""
    headers = ["algorithm", "environment", "policy", "seeds", "return", "kept", "weights KB", "file KB", "us/action"]
    headers += ["native us/action", "native KB", "KB/copy", "J/1000", "timed"]
    columns: list[tuple[str, float]] = [
        ("weight_bytes", 1000),
        ("onnx_file_bytes", 1000),
        ("infer.onnx_run_p50_us", 1),
        ("infer.native_p50_us", 1),
        ("mem.native_bytes", 1000),
        ("mem.bytes_per_copy", 1000),
        ("energy.joules_per_1000_actions", 1),
    ]
    rows = []
    for task in study.tasks:
        fp32 = study.cell(task, "fp32")
        for cell in study.of_task(task):
            row = [task.algo, task.env_id, cell.variant, str(cell.n), with_interval(cell.returns), _kept(cell)]
            row += [_share(cell, fp32, name, unit) for name, unit in columns]
            rows.append([*row, str(len(cell.values("infer.onnx_run_p50_us"))) if any(cell.measurements) else DASH])
    notes = [
        Note("mean over seeds [95 % Student interval] of the mean return of a seed's episodes.", ("return",)),
        Note(
            "(R - random) / (R of fp32 - random) with the fp32 policy of the same seed, mean over the seeds whose fp32 "
            "policy beats random actions [95 % Student interval].",
            ("kept",),
        ),
        Note(
            "in brackets: times fp32; times and memory of one session alone.",
            ("weights KB", "file KB", "us/action", "native us/action", "native KB"),
        ),
        Note(
            "bytes of all tensors, packed below eight bits; the ONNX file stores at least a byte for a weight.",
            ("weights KB", "file KB"),
        ),
        Note(
            "median of a call in ONNX Runtime, or of the policy as C, timed from Python in turns with it; one pinned "
            "thread, mean over the seeds that were timed. native KB: its instructions and constants. ptdq has no C.",
            ("us/action", "native us/action", "native KB", "timed"),
        ),
        Note("memory that one more loaded copy takes; in brackets: times fp32.", ("KB/copy",)),
        Note("joules of 1000 actions; in brackets: times fp32.", ("J/1000",)),
        Note("not measured; measurement.json of a run says why.", (), (DASH,)),
    ]
    measured = [one for cell in study.cells.values() for one in cell.measurements if one is not None]
    tries = sum(one.short is not None for one in measured)
    if tries:
        notes.append(
            Note(
                f"{tries} of {counted(len(measured), 'measurement')} were made with fewer episodes or copies than the "
                "defaults have."
            )
        )
    return ReportTable("costs", "Every policy: what it keeps and what it costs", headers, rows, notes, keys=3)


def _kept(cell: Cell) -> str:
    if not len(cell.normalized_return):
        return DASH
    return share_in_words(mean_interval(list(cell.normalized_return)))


def _share(cell: Cell, fp32: Cell | None, name: str, unit: float) -> str:
    value = cell.mean(name)
    if value is None:
        return DASH
    ratios = [] if fp32 is None else over_fp32(cell, fp32, name)
    return number(value / unit) + (f" ({np.mean(ratios):.2f})" if ratios else "")


def by_setting(groups: Sequence[Sequence[StoredRun]]) -> ReportTable:
    """A row for every setting of a hyperparameter sweep, the best return of each task and compression first."""
    headers = ["algorithm", "environment", "policy", "return", "kept", "file KB"]
    rows = []
    for group in groups:
        cells = []
        for label in sorted({run.label for run in group}):
            runs = [run for run in group if run.label == label]
            results = [run.finished_result() for run in runs]
            task = Task(runs[0].settings.algo.name, runs[0].settings.env.id)
            cells.append(Cell(task, runs[0].words, runs, results, [None] * len(runs)))
        words = without_shared([cell.variant for cell in cells])
        named = sorted(zip(cells, words, strict=True), key=lambda pair: -pair[0].returns.value)
        for cell, name in named:
            returns = with_interval(cell.returns, cell.n)
            size = number(float(np.mean(cell.values("onnx_file_bytes"))) / 1000)
            rows.append([cell.task.algo, cell.task.env_id, name, returns, _kept(cell), size])
    notes = [
        Note("mean over seeds [95 % Student interval] (seeds).", ("return",)),
        Note("(R - random) / (R of fp32 - random), with fp32 of the same settings.", ("kept",)),
        Note(
            "The best of many settings looks better than it is: run it again with other seeds. Of these runs the other "
            "tables have those with the default settings alone."
        ),
    ]
    return ReportTable("settings", "By setting", headers, rows, notes, keys=3)


def guidance(study: Study) -> ReportTable:
    """The smallest policy within 1, 5 and 10 % of the return, by algorithm and environment."""
    headers = ["algorithm", "environment", "seeds", *(f"within {percent(tolerance, 0)}" for tolerance in TOLERANCES)]
    rows = []
    for task in study.tasks:
        cells = [cell for cell in study.of_task(task) if len(cell.normalized_return)]
        seeds = sorted({cell.n for cell in cells})
        row = [task.algo, task.env_id, "-".join(str(n) for n in (seeds[:1] + seeds[-1:] if len(seeds) > 1 else seeds))]
        rows.append(row + [_smallest(cells, tolerance) for tolerance in TOLERANCES])
    notes = [
        Note(
            "The policy with the fewest bytes of weights, and its share of fp32's bytes, whose mean return over seeds "
            "keeps that much of fp32, counted from random actions. Chosen on the episodes it is judged by: with few "
            "seeds, evaluate your choice again (rlc.evaluate).",
            tuple(headers[3:]),
        )
    ]
    return ReportTable("guidance", "What to use when", headers, rows, notes, keys=2)


def _smallest(cells: Sequence[Cell], tolerance: float) -> str:
    fp32 = next((cell for cell in cells if cell.variant == "fp32"), None)
    keeping = [cell for cell in cells if at_least(float(np.mean(cell.normalized_return)), 1 - tolerance)]
    size: Callable[[Cell], float] = lambda cell: cell.mean("weight_bytes") or math.inf  # noqa: E731
    if fp32 is None or not keeping:
        return DASH
    smallest = min(keeping, key=size)
    return f"{smallest.variant}, {percent(size(smallest) / size(fp32), 0)}"


def tidy(study: Study) -> list[dict[str, Any]]:
    """Every cell with all its numbers, for further work."""
    rows = []
    for task in study.tasks:
        for cell in study.of_task(task):
            row: dict[str, Any] = {"algo": task.algo, "env_id": task.env_id, "policy": cell.variant, "n": cell.n}
            row |= {"protocol": cell.settings.protocol, "total_steps": cell.settings.total_steps}
            row |= {"return_mean": cell.returns.value, "return_low": cell.returns.low, "return_high": cell.returns.high}
            row |= {"kept_mean": float(np.mean(cell.normalized_return)) if len(cell.normalized_return) else None}
            names = ("fp32_return_mean", "random_return_mean", "zero_return_mean", "onnx_file_bytes", "weight_bytes")
            measured = (
                "infer.onnx_run_p50_us",
                "infer.onnx_io_binding_p50_us",
                "infer.native_p50_us",
                "mem.native_code_bytes",
                "mem.native_constant_bytes",
                "mem.native_stack_bytes",
                "mem.bytes_per_copy",
                "energy.joules_per_1000_actions",
            )
            rows.append(row | {name.rpartition(".")[2]: cell.mean(name) for name in (*names, *measured)})
    return rows
