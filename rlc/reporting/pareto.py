"""The return that policies keep, against their bytes and their time: the picture of the README."""

import re
from dataclasses import dataclass
from functools import partial
from itertools import pairwise

import numpy as np
from matplotlib.axes import Axes
from matplotlib.ticker import FuncFormatter, NullFormatter

from measure.statistics import FloatVector, Interval, mean_of_groups
from rlc.reporting.panels import METHODS, MUTED, Panel, Picture, Tip, keys_of, method_of
from rlc.reporting.published import best_fp32
from rlc.reporting.study import Study, Task, over_fp32, shares_of
from rlc.reporting.tables import fewest_to_most, number, percent, share_in_words

WELL_TRAINED = 0.5
"""Share of the best published fp32 return that a baseline must reach, where one is known."""
# Value of a cell, what it is divided by (of the fp32 cell), the label of the axis, and the unit of its values.
SIDES = (
    ("weight_bytes", "weight_bytes", "bytes of the weights (% of fp32)", "KB"),
    ("infer.native_p50_us", "infer.onnx_run_p50_us", "time as native C (% of fp32 in ONNX Runtime)", "us"),
    ("infer.onnx_run_p50_us", "infer.onnx_run_p50_us", "time in ONNX Runtime (% of fp32 there)", "us"),
)
TICKS = (0.5, 0.7, 1, 1.5, 2, 3, 5, 7, 10, 15, 20, 30, 50, 70, 100, 150, 200, 300, 500)
"""Percent."""


@dataclass(frozen=True)
class Point:
    """A variant over all well-trained tasks: its mean share of fp32's cost, and its mean share of the return.

    `seeds`: how many stand behind the cost of each task.
    """

    variant: str
    cost: float
    kept: Interval
    seeds: list[int]
    tasks: dict[Task, tuple[float, float, float]]
    """By task: the cost itself, its share of fp32's, and the share of the return that is kept."""


def well_trained(study: Study) -> list[Task]:
    """The tasks whose fp32 policies learned: better than random, and half of the best published return if known."""
    tasks = []
    for task in study.tasks:
        fp32 = study.cell(task, "fp32")
        best = best_fp32(task)
        if fp32 is None or not len(fp32.normalized_return):
            continue
        if best is None or fp32.returns.value >= WELL_TRAINED * best[0]:
            tasks.append(task)
    return tasks


def points(study: Study, name: str, reference: str) -> list[Point]:
    """The variants that all well-trained tasks have, and what `name` is over fp32's `reference`.

    The interval of the kept share is over seeds, resampled within each task; tasks count alike.
    """
    tasks = well_trained(study)
    found = []
    for variant in dict.fromkeys(cell.variant for task in tasks for cell in study.of_task(task)):
        cells = {task: cell for task in tasks if (cell := study.cell(task, variant)) and len(cell.normalized_return)}
        ratios = {task: over_fp32(cell, study.cells[task, "fp32"], name, reference) for task, cell in cells.items()}
        known = {task: (cells[task].mean(name) or 0.0, float(np.mean(own))) for task, own in ratios.items() if own}
        if len(known) < len(tasks):  # its mean would be over easier or harder tasks than the others'
            continue
        shares = [cell.normalized_return for cell in cells.values()]
        means = {task: float(np.mean(cell.normalized_return)) for task, cell in cells.items()}
        found.append(
            Point(
                variant,
                float(np.mean([share for _, share in known.values()])),
                mean_of_groups(shares),
                [len(own) for own in ratios.values()],
                {task: (*cost, means[task]) for task, cost in known.items()},
            )
        )
    return found


def by_the_papers_protocol(study: Study, as_published: Study, method: str) -> dict[Task, FloatVector]:
    """What the paper's protocol leaves of our fp32 return, by well-trained task: a share per seed."""
    found = {}
    for task in well_trained(study):
        theirs = as_published.cell(task, method)
        fp32 = study.cell(task, "fp32")
        shares = shares_of(theirs, fp32) if theirs and fp32 else {}
        if shares:
            found[task] = np.array(list(shares.values()), np.float64)
    return found


def front(shown: list[Point]) -> list[Point]:
    """Those that no other point beats in both, from the cheapest on."""
    best: list[Point] = []
    # Of those that cost alike, only the one that keeps most.
    for point in sorted(shown, key=lambda point: (point.cost, -point.kept.value)):
        if not best or point.kept.value > best[-1].kept.value:
            best.append(point)
    return best


def pareto(study: Study) -> Picture:
    """A panel per cost. Large: the mean over tasks with its interval. Small: a task. The line joins the front."""
    panels = []
    variants: set[str] = set()
    for name, reference, label, unit in SIDES:
        shown = points(study, name, reference)
        if len(shown) > 1:
            variants |= {point.variant for point in shown}
            panels.append(_panel(shown, label, unit))
    tasks = well_trained(study)
    names = ", ".join(f"{task.algo.upper()} {task.env}" for task in tasks)
    left_out = [f"{task.algo.upper()} {task.env}" for task in study.tasks if task not in tasks]
    caption = (
        f"Large: the mean over {names}, with the 95 % interval over seeds; small: one of them. The line joins what "
        "nothing beats: up and left is better. Point at a mark for its numbers; a click shows its rows."
    )
    if left_out:
        share = percent(WELL_TRAINED, 0)
        caption += f" Left out, since fp32 has less than {share} of the best published return: {', '.join(left_out)}."
    return Picture("pareto", "Return kept against size and time", caption, panels, 3, keys_of(variants))


def _panel(shown: list[Point], label: str, unit: str) -> Panel:
    tips = {}
    what, _, base = label.removesuffix(")").partition(" (% ")
    for point in shown:
        words = f"{said(point.variant)}: keeps {share_in_words(point.kept)}, {what} {percent(point.cost)} {base}; "
        tips[_gid(point)] = Tip(
            f"{words}{len(point.tasks)} tasks, {fewest_to_most(point.seeds)} seeds each", point.variant, large=True
        )
        for task, (cost, share, kept) in point.tasks.items():
            amount = f"{number(cost / 1000)} KB" if unit == "KB" else f"{number(cost)} {unit}"
            text = f"{said(point.variant)}, {task.algo.upper()} {task.env_id}: keeps {percent(kept)}, {amount} "
            tips[_gid(point, task)] = Tip(f"{text}({percent(share)})", f"{task.algo} {task.env_id} {point.variant}")
    labels = {(100 * point.cost, 100 * point.kept.value): said(point.variant) for point in front(shown)}
    taken = [(100 * p.cost, 100 * height) for p in shown for height in _heights(p.kept)]
    taken += [(100 * share, 100 * kept) for p in shown for _, share, kept in p.tasks.values()]
    corners = list(labels)
    for (left, low), (right, high) in pairwise(corners):
        # Along the line, which is straight where the axis is logarithmic.
        steps = zip(np.geomspace(left, right, 12), np.linspace(low, high, 12), strict=True)
        taken += [(float(x), float(y)) for x, y in steps]
    title = what.capitalize().replace("onnx runtime", "ONNX Runtime")
    return Panel(
        title.replace(" as native c", " as native C"),
        partial(_draw, shown=shown, label=label),
        (3.7, 2.9),
        labels,
        taken,
        tips,
    )


def _heights(kept: Interval) -> list[float]:
    """A point's height, and what its interval covers."""
    if not np.isfinite(kept.low):
        return [kept.value]
    return [kept.value, *(float(height) for height in np.linspace(kept.low, kept.high, 9))]


def _draw(axes: Axes, shown: list[Point], label: str) -> None:
    for point in shown:
        style = METHODS[method_of(point.variant)]
        for task, (_, share, kept) in point.tasks.items():
            axes.plot(
                100 * share, 100 * kept, marker=style.marker, color=style.color, ms=3, alpha=0.35, gid=_gid(point, task)
            )
    best = front(shown)
    axes.plot([100 * p.cost for p in best], [100 * p.kept.value for p in best], color=MUTED, lw=0.9, zorder=1)
    for point in shown:
        style = METHODS[method_of(point.variant)]
        x = 100 * point.cost
        y = 100 * point.kept.value
        if np.isfinite(point.kept.low):
            axes.plot([x, x], [100 * point.kept.low, 100 * point.kept.high], color=style.color, lw=1)
        axes.plot(x, y, marker=style.marker, color=style.color, ms=7, gid=_gid(point))
    axes.set_xscale("log")
    axes.xaxis.set_major_formatter(FuncFormatter(lambda x, _: f"{x:g}"))
    axes.xaxis.set_minor_formatter(NullFormatter())
    costs = [100 * share for point in shown for _, share, _ in point.tasks.values()]
    left = min(costs) / 1.5
    right = max(costs) * 1.5
    steps = TICKS if right < 10 * left else TICKS[::2]
    axes.set_xlim(left, right)
    axes.set_xticks([tick for tick in steps if left <= tick <= right], minor=False)
    shares = [100 * kept for point in shown for *_, kept in point.tasks.values()]
    axes.set_ylim(max(-20.0, min(shares) - 6), min(max(shares) + 6, 140.0))
    axes.set_xlabel(label)
    axes.set_ylabel("return kept (% of fp32)")


def _gid(point: Point, task: Task | None = None) -> str:
    of_task = f"-{task.algo}-{task.env_id}" if task else ""
    return re.sub(r"[^\w-]", "_", f"mark-{point.variant}{of_task}")


WORDS = {
    "ptdq": "dynamic int8",
    "ptsq": "static int8",
    "qat": "int8 trained",
    "prune_l1": "L1",
    "prune_l2": "L2",
    "prune_ptdq": "dynamic int8",
    "prune_ptsq": "static int8",
    "prune_qat": "int8",
}


RECOVERED = {"distill": "distilled", "rl": "trained on"}


def said(variant: str) -> str:
    """A variant in words: `prune_qat-0.70-w4` is `4-bit weights, 70 % pruned`."""
    label, _, recovery = variant.partition("+")
    method, *parts = label.split("-")
    words = [WORDS.get(method, method)]
    for part in parts:
        if bits := re.fullmatch(r"w(\d)(?:a(\d))?.*", part):
            words[0] = f"{bits[1]}-bit weights"
        elif re.fullmatch(r"0\.\d+", part):
            words += [f"{100 * float(part):.0f} % pruned"] if float(part) else []
        else:
            words.append(part)
    # The methods that prune and quantise always recover; the word would say nothing.
    told = recovery and method in ("prune_l1", "prune_l2")
    return ", ".join(words + ([f"then {RECOVERED.get(recovery, recovery)}"] if told else []))
