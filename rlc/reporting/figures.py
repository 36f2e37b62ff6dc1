"""The paper's Figures 1 to 3 from a study, as published beside them, and the pictures that the paper lacks.

Readable in grey: series differ in hatching, line style or marker, not in colour alone.
"""

import csv
from collections.abc import Callable, Iterable, Iterator
from itertools import cycle
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure

from measure.statistics import mean_interval
from rlc.datafiles import read
from rlc.reporting import published
from rlc.reporting.axes import (
    GREYS,
    HATCHES,
    LINES,
    MARKERS,
    Rows,
    Values,
    axes_grid,
    first_word,
    label_grid,
    ordered,
    say_if_empty,
    short_name,
)
from rlc.reporting.study import ALGORITHMS, ENVIRONMENTS, Cell, Study
from rlc.reporting.tables import QUANTIZED

# Of measurement.json, with the unit of the axis and its size.
COSTS = (
    ("infer.onnx_run_p50_us", "time, ONNX Runtime (us)", 1.0),
    ("infer.native_p50_us", "time, native C (us)", 1.0),
    ("energy.joules_per_1000_actions", "energy (J per 1000 actions)", 1.0),
    ("mem.bytes_per_copy", "memory per copy (KB)", 1000.0),
)
# The same in the paper's files: of episodes with the simulator in them, and of the whole process.
PUBLISHED_COSTS = (
    ("time_s_mean", "time per episode (s)", 1.0),
    ("energy_j", "energy of a run (J)", 1.0),
    ("ram_mb_mean", "memory of the process (MB)", 1.0),
)
RETURN = ("return_mean", "return", 1.0)
METHODS = {
    "fp32": "o",
    "ptdq": "s",
    "ptsq": "D",
    "qat": "^",
    "prune_l1": "v",
    "prune_l2": "P",
    "prune_ptdq": "<",
    "prune_ptsq": ">",
    "prune_qat": "*",
}


def figures(study: Study) -> Iterator[tuple[str, str, Figure]]:
    """File name, caption and picture of every figure that the runs of a study can fill."""
    yield from _filled("figure1", "Figure 1: time, energy and memory by quantisation", bars, _figure1(study))
    for number, norm in ((2, 1), (3, 2)):
        title = f"Figure {number}: pruning by L{norm}, everything over the baseline"
        yield from _filled(f"figure{number}", title, curves, _figures2_3(study, norm))
    yield "learning", "Returns while training, mean over seeds with 95 % intervals", learning_curves(study)
    yield "pareto", "Return kept against size and time: up and left is better", pareto(study)
    yield "profiles", "Share of runs that keep at least so much of the fp32 return", profiles(study)


def _figure1(study: Study) -> tuple[Rows, Rows]:
    ours = [(label, _by_method(study, name, unit)) for name, label, unit in COSTS]
    return ours, [(label, _published_by_method(study, name)) for name, label, _ in PUBLISHED_COSTS]


def _figures2_3(study: Study, norm: int) -> tuple[Rows, Rows]:
    ours = [(first_word(label), _by_ratio(study, norm, name)) for name, label, _ in (RETURN, *COSTS)]
    theirs = [
        (first_word(label), _published_by_ratio(study, norm, name)) for name, label, _ in (RETURN, *PUBLISHED_COSTS)
    ]
    return ours, theirs


def _filled(
    name: str, title: str, draw: Callable[[Rows], Figure], sides: tuple[Rows, Rows]
) -> Iterator[tuple[str, str, Figure]]:
    """Our picture and the paper's, each where there is something to draw."""
    for rows, suffix, words in zip(
        sides, ("", "_published"), ("ours", "as the paper has it (with the simulator in times and energy)"), strict=True
    ):
        if any(row for _, values in rows for row in values.values()):
            yield f"{name}{suffix}", f"{title}, {words}", draw(rows)


def bars(rows: Rows) -> Figure:
    """A column per algorithm, a row per cost, a group of bars per environment, a bar per method."""
    algorithms = ordered((algo for _, values in rows for algo, _ in values), ALGORITHMS)
    figure, grid = axes_grid(len(rows), len(algorithms))
    for axes_row, (_, values) in zip(grid, rows, strict=True):
        for axes, algo in zip(axes_row, algorithms, strict=True):
            envs = ordered((env for owner, env in values if owner == algo), ENVIRONMENTS)
            for k, method in enumerate(QUANTIZED):
                heights = [values[algo, env].get(method, np.nan) for env in envs]
                place = np.arange(len(envs)) + (k - 1.5) * 0.2
                axes.bar(place, heights, 0.2, label=method, hatch=HATCHES[k], color=GREYS[k], edgecolor="black", lw=0.5)
            axes.set_xticks(range(len(envs)), [short_name(env) for env in envs], rotation=30, ha="right")
            say_if_empty(axes, values, algo)
    label_grid(figure, grid, algorithms, [label for label, _ in rows])
    return figure


def curves(rows: Rows) -> Figure:
    """A column per algorithm, a row per figure, a line per environment, over the ratio."""
    algorithms = ordered((algo for _, values in rows for algo, _ in values), ALGORITHMS)
    everywhere = ordered((env for _, values in rows for _, env in values), ENVIRONMENTS)
    styles = dict(zip(everywhere, zip(cycle(LINES), cycle(MARKERS), strict=False), strict=False))
    figure, grid = axes_grid(len(rows), len(algorithms))
    for axes_row, (_, values) in zip(grid, rows, strict=True):
        for axes, algo in zip(axes_row, algorithms, strict=True):
            for env in ordered((env for owner, env in values if owner == algo), ENVIRONMENTS):
                ratios, heights = zip(*sorted(values[algo, env].items()), strict=True)
                (line, marker) = styles[env]
                color = f"C{everywhere.index(env)}"
                axes.plot(ratios, heights, ls=line, marker=marker, color=color, ms=3, lw=1, label=short_name(env))
            axes.axhline(1, color="0.7", lw=0.5)
            axes.set_xlabel("share of units pruned")
            say_if_empty(axes, values, algo)
    label_grid(figure, grid, algorithms, [f"{label}\nover baseline" for label, _ in rows])
    return figure


def learning_curves(study: Study) -> Figure:
    """A panel per task: evaluations along the trainings of fp32 and QAT."""
    tasks = [task for task in study.tasks if any(study.cell(task, method) for method in ("fp32", "qat"))]
    columns = min(4, max(1, len(tasks)))
    figure, grid = axes_grid(-(-max(1, len(tasks)) // columns), columns)
    for axes, task in zip(grid.flat, tasks, strict=False):
        for method, line in (("fp32", "-"), ("qat", "--")):
            cell = study.cell(task, method)
            for steps, means, lows, highs in _evaluations(cell) if cell else ():
                (drawn,) = axes.plot(steps, means, linestyle=line, label=f"{method} ({cell.n if cell else 0})")
                axes.fill_between(steps, lows, highs, color=drawn.get_color(), alpha=0.15, lw=0)
        axes.set_title(f"{task.algo} {task.env_id}", fontsize=8)
        axes.set(xlabel="steps (thousands)", ylabel="return")
        if axes.get_legend_handles_labels()[0]:
            axes.legend(frameon=False, fontsize=7)
    for axes in grid.flat[len(tasks) :]:
        axes.set_axis_off()
    return figure


def pareto(study: Study) -> Figure:
    """Small: a variant on a task. Large: the mean of one that all tasks have. The line joins what nothing beats."""
    sides = (
        ("onnx_file_bytes", "file size over fp32"),
        ("infer.onnx_run_p50_us", "time per action over fp32, ONNX Runtime"),
        ("infer.native_p50_us", "time per action over fp32, native C"),
    )
    figure, grid = axes_grid(1, len(sides), width=5.8, height=4)
    for axes, (name, label) in zip(grid.flat, sides, strict=True):
        points = _kept_against(study, name)
        colors = dict(zip(METHODS, (f"C{k}" for k in range(len(METHODS))), strict=True))
        seen = set()
        means = {}
        whole = max((len(own) for own in points.values()), default=0)
        for variant, own in points.items():
            method = variant.partition("-")[0].partition("+")[0]
            x, y = np.array(own).T
            style = {"marker": METHODS[method], "color": colors[method], "linestyle": ""}
            axes.plot(x, 100 * y, ms=3, alpha=0.35, **style)
            if len(own) < whole:  # its mean would be over easier or harder tasks than the others'
                continue
            means[variant] = (float(x.mean()), float(100 * y.mean()))
            named = {} if method in seen else {"label": method}
            seen.add(method)
            axes.plot(*means[variant], ms=8, mec="black", mew=0.6, **style, **named)
        front = [v for v, (x, y) in means.items() if not any(a <= x and b > y for a, b in means.values())]
        line = sorted(means[variant] for variant in front)
        axes.plot(*zip(*line, strict=True), color="0.4", lw=1, zorder=0) if line else None
        for variant in front:
            axes.annotate(variant, means[variant], fontsize=6, xytext=(4, 4), textcoords="offset points")
        axes.set(xlabel=label, ylabel="return kept (% of fp32, from random)", ylim=(-20, 125))
        if seen:
            axes.legend(frameon=False, fontsize=7, loc="center left", bbox_to_anchor=(1, 0.5))
        else:
            axes.text(0.5, 0.5, "not measured", ha="center", transform=axes.transAxes)
    return figure


def profiles(study: Study) -> Figure:
    """Performance profiles (arXiv 2108.13264): over all runs and tasks of a method."""
    figure, grid = axes_grid(1, 1, width=6.5, height=3.4)
    axes = grid.flat[0]
    levels = np.linspace(0, 1.2, 121)
    names = list(dict.fromkeys(cell.variant for task in study.tasks for cell in study.of_task(task)))
    shown = [name for name in names if name in QUANTIZED[1:] or name.endswith(("-0.10", "-0.30", "-0.50"))]
    for name, line in zip(shown, cycle(LINES), strict=False):
        own = [
            cell.normalized_return
            for task in study.tasks
            if (cell := study.cell(task, name)) and len(cell.normalized_return)
        ]
        if own:
            kept = np.concatenate(own)
            axes.plot(100 * levels, [100 * np.mean(kept >= level) for level in levels], linestyle=line, label=name)
    axes.set(xlabel="return kept (% of fp32, from random)", ylabel="runs (%)")
    if axes.get_legend_handles_labels()[0]:
        axes.legend(frameon=False, fontsize=7, loc="center left", bbox_to_anchor=(1, 0.5))
    return figure


def _by_method(study: Study, name: str, unit: float) -> Values:
    found = {}
    for task in study.tasks:
        cells = {method: study.cell(task, method) for method in QUANTIZED}
        means = {method: cell.mean(name) for method, cell in cells.items() if cell}
        found[task.algo, task.env_id] = {method: mean / unit for method, mean in means.items() if mean is not None}
    return found


def _published_by_method(study: Study, name: str) -> Values:
    methods = dict(zip(published.METHODS, QUANTIZED, strict=True))
    found: dict[tuple[str, str], dict[str, float]] = {}
    for row in read("paper/figure1_quantization.csv"):
        if any((task.algo, task.env) == (row["algo"], row["env"]) for task in study.tasks) and row[name]:
            found.setdefault((row["algo"], row["env"]), {})[methods[row["method"]]] = float(row[name])
    return found


def _by_ratio(study: Study, norm: int, name: str) -> Values:
    found = {}
    for task in study.tasks:
        baseline = study.cell(task, "fp32")
        cells = study.pruned(task, norm)
        reference = baseline.mean(name) if baseline else None
        if not cells or not reference:
            continue
        means = {ratio: cell.mean(name) for ratio, cell in cells.items()}
        found[task.algo, task.env_id] = {0.0: 1.0} | {
            r: mean / reference for r, mean in means.items() if mean is not None
        }
    return found


def _published_by_ratio(study: Study, norm: int, name: str) -> Values:
    found: dict[tuple[str, str], dict[float, float]] = {}
    for task in study.tasks:
        for row in read("paper/figures2_3_pruning.csv") if published.pruning_returns(task, norm) else ():
            if (row["algo"], row["env"], row["norm"]) == (task.algo, task.env, f"l{norm}") and row[name]:
                found.setdefault((task.algo, task.env), {})[float(row["ratio"])] = float(row[name])
    relative: dict[tuple[str, str], dict[float, float]] = {}
    for key, values in found.items():
        if values.get(0.0):
            relative[key] = {ratio: value / values[0.0] for ratio, value in values.items()}
    return relative


def _evaluations(cell: Cell) -> Iterable[tuple[list[float], list[float], list[float], list[float]]]:
    """Thousands of steps, means, and ends of the intervals over seeds, where the seeds were evaluated."""
    by_step: dict[int, list[float]] = {}
    for run in cell.runs:
        path: Path = run.path / "metrics.csv"
        for row in csv.DictReader(path.read_text().splitlines()) if path.exists() else ():
            if row["eval/return_mean"]:
                by_step.setdefault(int(row["global_step"]), []).append(float(row["eval/return_mean"]))
    whole = {step: mean_interval(values) for step, values in sorted(by_step.items()) if len(values) == cell.n}
    if whole:
        ends: Callable[[float, float], float] = lambda end, mean: end if np.isfinite(end) else mean  # noqa: E731
        means = [one.value for one in whole.values()]
        lows = [ends(one.low, one.value) for one in whole.values()]
        highs = [ends(one.high, one.value) for one in whole.values()]
        yield [step / 1000 for step in whole], means, lows, highs


def _kept_against(study: Study, name: str) -> dict[str, list[tuple[float, float]]]:
    """(share of fp32's cost, share of the return kept) of each task, by variant."""
    points: dict[str, list[tuple[float, float]]] = {}
    for task in study.tasks:
        fp32 = study.cell(task, "fp32")
        reference = fp32.mean(name) if fp32 else None
        for cell in study.of_task(task):
            value = cell.mean(name)
            if reference and value is not None and len(cell.normalized_return):
                points.setdefault(cell.variant, []).append((value / reference, float(np.mean(cell.normalized_return))))
    return points
