"""The pictures of a study: what its methods keep and cost, the paper's Figures 1 to 3, learning curves, profiles."""

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
from matplotlib.axes import Axes

from measure.statistics import FloatVector, Interval, mean_interval
from rlc.messages import counted
from rlc.reporting.learning import learning
from rlc.reporting.panels import (
    DASHES,
    METHODS,
    MUTED,
    SERIES,
    Panel,
    Picture,
    Style,
    environment_styles,
    keys_of,
    method_of,
    ordered,
    short_name,
    title,
)
from rlc.reporting.pareto import pareto, said, well_trained
from rlc.reporting.study import ALGORITHMS, ENVIRONMENTS, Cell, Study, Task, over_fp32
from rlc.reporting.tables import QUANTIZED

# Of measurement.json, with the unit of the axis and its size.
COSTS = (
    ("infer.onnx_run_p50_us", "time in ONNX Runtime (us)", 1.0),
    ("infer.native_p50_us", "time as native C (us)", 1.0),
    ("energy.joules_per_1000_actions", "energy (J per 1000 actions)", 1.0),
    ("mem.bytes_per_copy", "memory per copy (KB)", 1000.0),
)
RETURN = ("return_mean", "return", 1.0)
Values = Mapping[tuple[str, str], Mapping[Any, Interval]]
"""By (algorithm, environment): by method, or by ratio."""
Rows = Iterable[tuple[str, Values]]
"""By label of the axis."""


def pictures(study: Study, as_published: Study) -> list[Picture]:
    """Every picture that the runs of a study can fill; `as_published` are those by the paper's protocol."""
    drawn = [
        pareto(study),
        kept(study),
        protocols(study, as_published),
        by_method("figure1", "Figure 1: time, energy and memory by quantisation", _by_method(study)),
        *(by_ratio(f"figure{norm + 1}", _pruning_title(norm), _by_ratio(study, norm)) for norm in (1, 2)),
        profiles(study),
        learning(study),
    ]
    return [picture for picture in drawn if picture.panels]


def _pruning_title(norm: int) -> str:
    return f"Figure {norm + 1}: pruning by L{norm}, over the policy that is not pruned"


def kept(study: Study) -> Picture:
    """A panel per task: what each method keeps of the fp32 return."""
    rows: dict[Task, list[tuple[str, Interval]]] = {}
    for task in study.tasks:
        cells = [cell for cell in study.of_task(task) if len(cell.normalized_return) and cell.variant != "fp32"]
        recovered = [cell for cell in cells if not re.fullmatch(r"prune_l[12]-[\d.]+", cell.variant)]
        if recovered:
            rows[task] = [(cell.variant, mean_interval(list(100 * cell.normalized_return))) for cell in recovered]
    every = [interval for own in rows.values() for _, interval in own]
    # Means always inside, intervals of few seeds not always.
    limits = (
        max(min([95.0, *(one.value - 4 for one in every), *_finite(one.low for one in every)]), 40.0),
        min(max([105.0, *(one.value + 4 for one in every), *_finite(one.high for one in every)]), 130.0),
    )
    panels = [
        Panel(title(task), partial(_draw_rows, rows=own, limits=limits), (4.2, 0.95 + 0.19 * len(own)))
        for task, own in rows.items()
    ]
    shown = [name for own in rows.values() for name, _ in own]
    caption = (
        "Mean over seeds with its 95 % interval; 100 % is the fp32 policy of the same seed, 0 % random actions. "
        "Policies that were pruned and did not recover are in Figures 2 and 3."
    )
    low, high = limits
    if any(one.low < low or one.high > high for one in every if np.isfinite(one.low)):
        caption += " Intervals that reach an edge go on beyond it; the table of every policy has their ends."
    return Picture("kept", "What each method keeps", caption, panels, 4, keys_of(shown))


def _finite(values: Iterable[float]) -> list[float]:
    return [value for value in values if np.isfinite(value)]


def _draw_rows(axes: Axes, rows: list[tuple[str, Interval]], limits: tuple[float, float]) -> None:
    for place, (name, interval) in enumerate(reversed(rows)):
        style = METHODS[method_of(name)]
        if np.isfinite(interval.low):
            axes.plot([interval.low, interval.high], [place, place], color=style.color, lw=1.2)
        axes.plot(interval.value, place, marker=style.marker, color=style.color, ms=5)
    axes.axvline(100, color=MUTED, lw=0.8)
    axes.set_yticks(range(len(rows)), [said(name) for name, _ in reversed(rows)])
    axes.set_ylim(-0.7, len(rows) - 0.3)
    axes.set_xlim(*limits)
    axes.set_xlabel("return kept (%)")


def protocols(study: Study, as_published: Study) -> Picture:
    """A panel per task: the same trainings, compressed and scored by our protocol and by the paper's."""
    panels = []
    for task in study.tasks:
        ours = {method: study.cell(task, method) for method in QUANTIZED}
        theirs = {method: as_published.cell(task, method) for method in QUANTIZED}
        shown = [method for method in QUANTIZED if theirs[method] is not None]
        if shown:
            panels.append(
                Panel(
                    title(task),
                    partial(_draw_protocols, cells=[(name, ours[name], theirs[name]) for name in shown]),
                    (3.4, 2.3),
                )
            )
    caption = (
        "Returns of the same trained policies, mean over seeds with 95 % intervals. Both are runs of this study. The "
        "paper's protocol has one weight scale for each layer and reads raw observations; PPO meets a new normaliser, "
        "SAC's actions are not squashed, and episodes do not begin in the same states (docs/protocol.md)."
    )
    keys = {"our protocol": Style(SERIES[0], "o"), "the paper's protocol": Style(SERIES[1], "D")}
    return Picture("protocols", "The same trainings by two protocols", caption, panels, 4, keys)


def _draw_protocols(axes: Axes, cells: list[tuple[str, Cell | None, Cell | None]]) -> None:
    for k, (_, ours, theirs) in enumerate(cells):
        for cell, color, marker, shift in ((ours, SERIES[0], "o", -0.12), (theirs, SERIES[1], "D", 0.12)):
            if cell is not None:
                _error_bar(axes, k + shift, cell.returns, Style(color, marker))
    axes.set_xticks(range(len(cells)), [name for name, _, _ in cells])
    axes.set_xlim(-0.5, len(cells) - 0.5)
    axes.set_ylim(bottom=min(0.0, axes.get_ylim()[0]))
    axes.set_ylabel("return")


def _error_bar(axes: Axes, x: float, interval: Interval, style: Style) -> None:
    if np.isfinite(interval.low):
        axes.plot([x, x], [interval.low, interval.high], color=style.color, lw=1.2)
    # Whole on the edge too: the paper has times of 0.00 s.
    axes.plot(x, interval.value, marker=style.marker, color=style.color, ms=5, clip_on=False)


def by_method(name: str, heading: str, rows: Rows, data: Any = "ours", caption: str = "") -> Picture:
    """A panel per cost and algorithm: a group per environment, a point per method."""
    panels = []
    shown: list[str] = []
    missing: list[str] = []
    for label, values in rows:
        if not any(values.values()):
            missing.append(label.partition(" (")[0])
        for algo in ordered((algo for algo, _ in values), ALGORITHMS):
            found = {env: values[algo, env] for env in _envs(values, algo) if values[algo, env]}
            if found:
                shown += [method for row in found.values() for method in row]
                panels.append(Panel(algo.upper(), partial(_draw_groups, found=found, label=label)))
    columns = max(1, len({panel.title for panel in panels}))
    if not caption:
        caption = "Mean over seeds with its 95 % interval."
        caption += f" Not measured: {', '.join(missing)}." if missing else ""
    return Picture(name, heading, caption, panels, columns, keys_of(shown), data)


def _draw_groups(axes: Axes, found: Mapping[str, Mapping[str, Interval]], label: str) -> None:
    for k, row in enumerate(found.values()):
        for j, (method, interval) in enumerate(row.items()):
            _error_bar(axes, k + 0.16 * (j - (len(row) - 1) / 2), interval, METHODS[method])
    names = [short_name(env).replace("Standup", "\nStandup") for env in found]
    axes.set_xticks(range(len(found)), names)
    axes.set_xlim(-0.6, len(found) - 0.4)
    tops = [one.value if not np.isfinite(one.high) else one.high for row in found.values() for one in row.values()]
    axes.set_ylim(0, 1.1 * max(tops))
    axes.set_ylabel(label)


def by_ratio(name: str, heading: str, rows: Rows, data: Any = "ours", caption: str = "") -> Picture:
    """A panel per measured value and algorithm: a line per environment, over the ratio."""
    rows = list(rows)
    styles = environment_styles(ordered((env for _, values in rows for _, env in values), ENVIRONMENTS))
    panels = []
    for label, values in rows:
        for algo in ordered((algo for algo, _ in values), ALGORITHMS):
            found = {env: values[algo, env] for env in _envs(values, algo) if values[algo, env]}
            if found:
                draw = partial(_draw_curves, found=found, styles=styles, label=label)
                panels.append(Panel(algo.upper(), draw))
    columns = max(1, len({panel.title for panel in panels}))
    keys = {short_name(env): style for env, style in styles.items()}
    return Picture(name, heading, caption or "Mean over seeds; no recovery.", panels, columns, keys, data)


def _draw_curves(
    axes: Axes, found: Mapping[str, Mapping[float, Interval]], styles: Mapping[str, Style], label: str
) -> None:
    for env, row in found.items():
        ratios, heights = zip(*((100 * ratio, 100 * one.value) for ratio, one in sorted(row.items())), strict=True)
        axes.plot(ratios, heights, **styles[env].of_lines, ms=3.5, lw=1.2)
    axes.axhline(100, color=MUTED, lw=0.8)
    axes.set_xlabel("units pruned (%)")
    axes.set_ylabel(f"{label.partition(' (')[0]} (%)")


def profiles(study: Study) -> Picture:
    """Performance profiles (arXiv 2108.13264): over all runs and tasks of a method."""
    tasks = well_trained(study)
    names = list(dict.fromkeys(cell.variant for task in tasks for cell in study.of_task(task)))
    shares: dict[str, FloatVector] = {}
    styles: dict[str, Style] = {}
    for name in names:
        cells = [cell for task in tasks if (cell := study.cell(task, name)) and len(cell.normalized_return)]
        # Of some tasks alone it would be over easier or harder ones than the others.
        if len(cells) == len(tasks) and re.fullmatch(r"ptdq|ptsq|qat.*|prune_q.*|prune_p.*|.*-0\.[135]0.*", name):
            shares[said(name)] = np.concatenate([cell.normalized_return for cell in cells])
            # The method's colour and marker, as in the other pictures, and a line for each of its variants.
            style = METHODS[method_of(name)]
            alike = sum(style.color == other.color for other in styles.values())
            styles[said(name)] = replace(style, dashes=DASHES[alike % len(DASHES)])
    caption = (
        "Of the tasks of the first picture and their seeds together: the share of runs that keep at least so much of "
        "the fp32 return."
    )
    panels = (
        [Panel(counted(len(tasks), "task"), partial(_draw_profiles, shares=shares, styles=styles), (5.0, 3.0))]
        if shares
        else []
    )
    return Picture("profiles", "How often a method keeps how much", caption, panels, 1, styles)


def _draw_profiles(axes: Axes, shares: Mapping[str, FloatVector], styles: Mapping[str, Style]) -> None:
    levels = np.linspace(0, 1.2, 121)
    for k, (name, own) in enumerate(shares.items()):
        heights = [100 * float(np.mean(own >= level)) for level in levels]
        axes.plot(100 * levels, heights, **styles[name].of_lines, ms=4, lw=1.2, markevery=(2 * k, 20))
    axes.set_xlabel("return kept (% of fp32, counted from random actions)")
    axes.set_ylabel("runs (%)")


def _envs(values: Values, algo: str) -> list[str]:
    return ordered((env for owner, env in values if owner == algo), ENVIRONMENTS)


def _by_method(study: Study) -> Iterator[tuple[str, Values]]:
    for name, label, unit in COSTS:
        found = {}
        for task in study.tasks:
            cells = {method: study.cell(task, method) for method in QUANTIZED}
            found[task.algo, task.env_id] = {
                method: _over(cell, name, unit) for method, cell in cells.items() if cell and cell.values(name)
            }
        yield label, found


def _by_ratio(study: Study, norm: int) -> Iterator[tuple[str, Values]]:
    for name, label, _ in (RETURN, *COSTS):
        found = {}
        for task in study.tasks:
            fp32 = study.cell(task, "fp32")
            if fp32 is None:
                continue
            shares = {ratio: _over_fp32(cell, fp32, name) for ratio, cell in study.pruned(task, norm).items()}
            known = {ratio: mean_interval(values) for ratio, values in shares.items() if values}
            if known:
                found[task.algo, task.env_id] = {0.0: Interval(1.0, 1.0, 1.0)} | known
        yield label, found


def _over_fp32(cell: Cell, fp32: Cell, name: str) -> list[float]:
    """Returns of a pruned cell over the mean return of fp32 with its seeds; costs seed by seed."""
    if name != "return_mean":
        return over_fp32(cell, fp32, name)
    whole = cell.mean("fp32_return_mean") or fp32.mean("return_mean")
    return [value / whole for value in cell.values(name)] if whole else []


def _over(cell: Cell, name: str, unit: float) -> Interval:
    found = mean_interval(cell.values(name))
    return Interval(found.value / unit, found.low / unit, found.high / unit)
