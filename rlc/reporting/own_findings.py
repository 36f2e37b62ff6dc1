"""Claims of this project: what the paper's protocol costs, what pays in time, how small a policy can be."""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from measure.statistics import FloatVector, Interval, mean_of_groups
from rlc.reporting.findings import (
    FAILS,
    HOLDS,
    LEAST_SEEDS,
    LEAST_TASKS,
    UNKNOWN,
    WAYS,
    Finding,
    decided,
    has_enough_seeds,
    rests_on,
    show,
    size,
)
from rlc.reporting.pareto import Point, points
from rlc.reporting.published import quantized
from rlc.reporting.study import Cell, Study, Task, over_fp32, shares_of
from rlc.reporting.tables import percent

TARGET = 0.97
"""Share of the return that a policy must keep to be one that one would deploy."""
SMALL = 0.05
"""Share of fp32's bytes that counts as small."""
FASTER = 10


def own_findings(study: Study, as_published: Study) -> list[Finding]:
    """Claims of this project; `as_published` are the runs by the paper's protocol."""
    found = [
        _losses(study, as_published),
        *(_pays_in_time(study, way) for way in WAYS),
        _faster_than_onnx(study),
        _how_small(study),
    ]
    return [replace(finding, own=True) for finding in found]


def _losses(study: Study, as_published: Study) -> Finding:
    claim = "Quantised and scored the paper's way, the same trainings lose more than by our protocol"
    rule = (
        "return of ptdq and ptsq by our protocol minus that by the paper's, in shares of our fp32 return, same "
        "trainings, mean over tasks and seeds, whole interval above 0"
    )
    differences = []
    groups = []
    means: dict[str, list[float]] = {"fp32 scored its way": [], "int8 made and scored its way": [], "int8 our way": []}
    for task in study.tasks:
        fp32 = study.cell(task, "fp32")
        fp32_theirs = as_published.cell(task, "fp32")
        for method in ("ptdq", "ptsq"):
            ours = study.cell(task, method)
            theirs = as_published.cell(task, method)
            if fp32 is None or fp32_theirs is None or ours is None or theirs is None:
                continue
            mine, its, plain = (shares_of(cell, fp32) for cell in (ours, theirs, fp32_theirs))
            seeds = mine.keys() & its.keys()
            if len(seeds) < LEAST_SEEDS:
                continue
            differences.append(np.array([mine[seed] - its[seed] for seed in sorted(seeds)]))
            groups.append([ours, theirs])
            means["int8 our way"].append(float(np.mean([mine[seed] for seed in seeds])))
            means["int8 made and scored its way"].append(float(np.mean([its[seed] for seed in seeds])))
            means["fp32 scored its way"].append(float(np.mean([plain[seed] for seed in seeds & plain.keys()])))
    if not differences:
        return Finding(claim, rule, f"no task has {LEAST_SEEDS} seeds quantised by both protocols", UNKNOWN)
    interval = mean_of_groups(differences)
    kept = ", ".join(f"{name} keeps {percent(float(np.mean(values)))}" for name, values in means.items())
    evidence = f"difference {show(interval)}; {kept}; {rests_on(len(groups), [len(one) for one in differences])}"
    if its_own := _kept_in_the_paper(study, [cells[0] for cells in groups]):
        evidence += f"; in the paper its int8 policies keep {percent(float(np.mean(its_own)))} of its fp32 return there"
    return decided(claim, rule, evidence, [interval], 0.0, groups)


def _kept_in_the_paper(study: Study, cells: Sequence[Cell]) -> list[float]:
    """What the paper's policies of these tasks and methods keep of its fp32 policies, where those learned."""
    shares = []
    for cell in cells:
        fp32 = quantized(cell.task, "baseline")
        int8 = quantized(cell.task, cell.variant)
        random = study.cells[cell.task, "fp32"].mean("random_return_mean")
        if fp32 is not None and int8 is not None and random is not None and fp32 > random:
            shares.append((int8 - random) / (fp32 - random))
    return shares


def _pays_in_time(study: Study, way: str) -> Finding:
    claim = f"Compression pays in time, {way}"
    rule = (
        f"of the policies that keep {percent(TARGET, 0)} on the average task, the fastest {way}: its time over fp32's "
        "there, mean over tasks, whole interval below 1"
    )
    name = WAYS[way]
    fitting = [point for point in _counted(study, name, name) if point.kept.value >= TARGET and point.variant != "fp32"]
    if not fitting:
        return Finding(
            claim, rule, f"no policy that keeps {percent(TARGET, 0)} was timed on {LEAST_TASKS} tasks", UNKNOWN
        )
    best = min(fitting, key=lambda point: point.cost)
    cells = _cells(study, best)
    interval = _ratio(study, best, name, name)
    evidence = (
        f"{best.variant}: ratio {show(interval)}; keeps {show(best.kept)}; {size([[cell] for cell in cells], name)}"
    )
    below = Interval(-interval.value, -interval.high, -interval.low)
    return decided(claim, rule, evidence, [below], -1.0, [[cell] for cell in cells])


def _faster_than_onnx(study: Study) -> Finding:
    claim = f"As native C an int8 policy acts {FASTER} times faster than fp32 in ONNX Runtime"
    rule = f"time of fp32 in ONNX Runtime over that of ptsq as native C, mean over tasks, whole interval above {FASTER}"
    onnx = WAYS["in ONNX Runtime"]
    native = WAYS["as native C"]
    found = [point for point in _counted(study, native, onnx) if point.variant == "ptsq"]
    if not found:
        return Finding(claim, rule, f"ptsq was not timed as native C on {LEAST_TASKS} tasks", UNKNOWN)
    interval = _ratio(study, found[0], native, onnx)
    times = Interval(1 / interval.value, 1 / interval.high, 1 / interval.low)
    cells = _cells(study, found[0])
    evidence = f"{show(times)} times faster; {size([[cell] for cell in cells], native)}"
    return decided(claim, rule, evidence, [times], FASTER, [[cell] for cell in cells])


def _how_small(study: Study) -> Finding:
    claim = f"A policy of {percent(SMALL, 0)} of the bytes keeps {percent(TARGET, 0)} of the return"
    rule = (
        f"some method takes at most {percent(SMALL, 0)} of fp32's bytes of weights, mean over tasks, and keeps more "
        f"than {percent(TARGET, 0)}, whole interval above; does not hold: such methods were tried, and all lie below"
    )
    shown = sorted(_counted(study, "weight_bytes", "weight_bytes"), key=lambda point: point.cost)
    small = [point for point in shown if point.cost <= SMALL]
    keeping = next((point for point in shown if point.kept.low > TARGET), None)
    evidence = [f"{point.variant} has {percent(point.cost)} and keeps {show(point.kept)}" for point in small[:2]]
    if keeping is not None and keeping.variant != "fp32":
        evidence.append(f"smallest wholly above {percent(TARGET, 0)}: {keeping.variant} with {percent(keeping.cost)}")
    if not small:
        return Finding(claim, rule, ". ".join(["no method that small was tried on enough tasks", *evidence]), UNKNOWN)
    evidence.append(size([[cell] for point in small for cell in _cells(study, point)]))
    found = UNKNOWN
    if any(point.kept.low > TARGET for point in small):
        found = HOLDS
    elif all(point.kept.high < TARGET for point in small):
        found = FAILS
    return Finding(claim, rule, "; ".join(evidence), found)


def _counted(study: Study, name: str, reference: str) -> list[Point]:
    """The points that rest on enough tasks and seeds."""
    found = points(study, name, reference)
    enough = [point for point in found if len(point.tasks) >= LEAST_TASKS]
    return [point for point in enough if all(map(has_enough_seeds, _cells(study, point)))]


def _cells(study: Study, point: Point) -> list[Cell]:
    return [cell for task in point.tasks if (cell := study.cell(task, point.variant))]


def _ratio(study: Study, point: Point, name: str, reference: str) -> Interval:
    """A cost over fp32's, resampled over the seeds that were measured."""
    return mean_of_groups([_ratios(study, task, point.variant, name, reference) for task in point.tasks])


def _ratios(study: Study, task: Task, variant: str, name: str, reference: str) -> FloatVector:
    return np.array(over_fp32(study.cells[task, variant], study.cells[task, "fp32"], name, reference), np.float64)
