"""Learning curves of a study."""

from collections.abc import Mapping
from functools import partial

import numpy as np
from matplotlib.axes import Axes

from measure.statistics import Interval, mean_interval
from rlc.reporting.panels import DASHES, INK, SERIES, Panel, Picture, Style, title
from rlc.reporting.study import Cell, Study
from rlc.runs.stored import METRICS_FILE, evaluations, read_metrics

STYLES = {"fp32": Style(INK, "", DASHES[0]), "qat": Style(SERIES[1], "", DASHES[1])}


def learning(study: Study) -> Picture:
    """A panel per task: evaluations along the trainings of fp32 and QAT."""
    panels = []
    for task in study.tasks:
        curves = {method: _evaluations(cell) for method in STYLES if (cell := study.cell(task, method))}
        drawn = {method: curve for method, curve in curves.items() if curve}
        if drawn:
            panels.append(Panel(title(task), partial(_draw_learning, curves=drawn)))
    trained = {variant for _, variant in study.cells}
    keys = {method: style for method, style in STYLES.items() if method in trained}
    caption = "Evaluations along the trainings, mean over seeds with 95 % intervals."
    return Picture("learning", "Returns while training", caption, panels, 4, keys)


def _draw_learning(axes: Axes, curves: Mapping[str, Mapping[int, Interval]]) -> None:
    for method, curve in curves.items():
        style = STYLES[method]
        steps = [step / 1e6 for step in curve]
        axes.plot(steps, [one.value for one in curve.values()], **style.of_lines, lw=1.4)
        low = [one.low for one in curve.values()]
        high = [one.high for one in curve.values()]
        if np.isfinite(low).all():
            axes.fill_between(steps, low, high, color=style.color, alpha=0.15, lw=0)
    axes.set_xlabel("steps (millions)")
    axes.set_ylabel("return")


def _evaluations(cell: Cell) -> dict[int, Interval]:
    """Means and intervals by step, where all seeds were evaluated."""
    by_step: dict[int, list[float]] = {}
    for run in cell.runs:
        for step, score in evaluations(read_metrics(run.path / METRICS_FILE)):
            by_step.setdefault(step, []).append(score)
    return {step: mean_interval(values) for step, values in sorted(by_step.items()) if len(values) == cell.n}
