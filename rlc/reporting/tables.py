"""Tables of a study: costs, guidance, and every cell."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from measure.statistics import Interval
from rlc.messages import counted
from rlc.reporting.study import Cell, Study, Task
from rlc.runs.stored import StoredRun
from rlc.runs.wording import without_shared

DASH = "-"
QUANTIZED = ("fp32", "ptdq", "ptsq", "qat")
TOLERANCES = (0.01, 0.05, 0.10)


@dataclass(frozen=True)
class ReportTable:
    """A table as it is shown: `name` of its files, rows of text, and notes on how to read it."""

    name: str
    title: str
    headers: list[str]
    rows: list[list[str]]
    notes: list[str] = field(default_factory=list)


def number(value: float | None) -> str:
    """Four digits, whole numbers from 100 on; a dash for what is missing."""
    if value is None or not math.isfinite(value):
        return DASH
    return f"{value:.0f}" if abs(value) >= 100 else f"{value:.3g}"


def with_interval(interval: Interval, n: int) -> str:
    """mean [low, high] (n); without an interval where there is one value only."""
    spread = f" [{number(interval.low)}, {number(interval.high)}]" if math.isfinite(interval.low) else ""
    return f"{number(interval.value)}{spread} ({n})"


def at_least(value: float, threshold: float) -> bool:
    """Whether a value is at least the threshold; equal up to rounding is enough."""
    return value >= threshold - 1e-9 * abs(threshold)


def costs(study: Study) -> ReportTable:
    """Size, time, memory and energy of every policy; the shares are of fp32."""
    headers = ["algorithm", "environment", "policy", "seeds", "kept", "file KB", "us/action", "KB/copy", "J/1000"]
    headers += ["native us/action", "native KB"]
    columns: list[tuple[str, float]] = [
        ("onnx_file_bytes", 1000),
        ("infer.onnx_run_p50_us", 1),
        ("mem.bytes_per_copy", 1000),
        ("energy.joules_per_1000_actions", 1),
        ("infer.native_p50_us", 1),
        ("mem.native_bytes", 1000),
    ]
    rows = []
    for task in study.tasks:
        fp32 = study.cell(task, "fp32")
        for cell in study.of_task(task):
            share = f"{100 * float(np.mean(cell.normalized_return)):.1f} %" if len(cell.normalized_return) else DASH
            row = [task.algo, task.env_id, cell.variant, str(cell.n), share]
            rows.append(row + [_share(cell, fp32, name, unit) for name, unit in columns])
    notes = [
        "kept: (R - random) / (R of fp32 - random), mean over seeds; in brackets: times fp32. us/action: median of a "
        "call in ONNX Runtime, one pinned thread; KB/copy: memory that one more loaded copy takes; J/1000: joules of "
        "1000 actions; native: the policy as C, timed from Python in turns with ONNX Runtime, with the bytes of its "
        "instructions and constants. A dash was not measured: measurement.json says why (ptdq has no C)."
    ]
    measured = [one for cell in study.cells.values() for one in cell.measurements if one is not None]
    tries = sum(one.short is not None for one in measured)
    if tries:
        notes.append(f"{counted(tries, 'measurement')} of {len(measured)} measured less than the defaults do: tries.")
    return ReportTable("costs", "What compression saves, and what it costs", headers, rows, notes)


def _share(cell: Cell, fp32: Cell | None, name: str, unit: float) -> str:
    value = cell.mean(name)
    reference = None if fp32 is None else fp32.mean(name)
    if value is None:
        return DASH
    return number(value / unit) + (f" ({value / reference:.2f})" if reference else "")


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
            share = f"{100 * float(np.mean(cell.normalized_return)):.1f} %" if len(cell.normalized_return) else DASH
            returns = with_interval(cell.returns, cell.n)
            size = number(float(np.mean(cell.values("onnx_file_bytes"))) / 1000)
            rows.append([cell.task.algo, cell.task.env_id, name, returns, share, size])
    notes = [
        "return: mean over seeds with its 95 % interval (seeds). kept: (R - random) / (R of fp32 - random), with fp32 "
        "of the same settings. The best of many settings looks better than it is: run it again with other seeds. Of "
        "these runs the other tables have those with the default settings alone."
    ]
    return ReportTable("settings", "By setting", headers, rows, notes)


def guidance(study: Study) -> ReportTable:
    """The smallest policy within 1, 5 and 10 % of the return, by algorithm and environment."""
    headers = ["algorithm", "environment", "seeds", *(f"within {tolerance:.0%}" for tolerance in TOLERANCES)]
    rows = []
    for task in study.tasks:
        cells = [cell for cell in study.of_task(task) if len(cell.normalized_return)]
        seeds = sorted({cell.n for cell in cells})
        row = [task.algo, task.env_id, "-".join(str(n) for n in (seeds[:1] + seeds[-1:] if len(seeds) > 1 else seeds))]
        rows.append(row + [_smallest(cells, tolerance) for tolerance in TOLERANCES])
    notes = [
        "The policy with the smallest file whose mean return over seeds keeps that much of fp32, counted from random "
        "actions. Chosen on the episodes it is judged by: with few seeds, evaluate your choice again (rlc.evaluate)."
    ]
    return ReportTable("guidance", "What to use when", headers, rows, notes)


def _smallest(cells: Sequence[Cell], tolerance: float) -> str:
    fp32 = next((cell for cell in cells if cell.variant == "fp32"), None)
    keeping = [cell for cell in cells if at_least(float(np.mean(cell.normalized_return)), 1 - tolerance)]
    size: Callable[[Cell], float] = lambda cell: cell.mean("onnx_file_bytes") or math.inf  # noqa: E731
    if fp32 is None or not keeping:
        return DASH
    smallest = min(keeping, key=size)
    return f"{smallest.variant} ({size(smallest) / size(fp32):.0%} of the size)"


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
