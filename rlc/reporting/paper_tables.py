"""Tables 1 to 3 of the paper, ours beside the published numbers."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from rlc.reporting import published
from rlc.reporting.study import Study, Task
from rlc.reporting.tables import DASH, QUANTIZED, Note, ReportTable, at_least, number, with_interval


def table1(study: Study) -> ReportTable:
    """Returns of fp32 and quantised policies."""
    headers = ["algorithm", "environment", "steps", "random", "zero", "best published fp32"]
    for method in QUANTIZED:
        headers += [method, "paper (ratio)"]
    return ReportTable(
        "table1",
        "Table 1: average return by quantisation",
        headers,
        [_row_of_table1(study, task) for task in study.tasks],
        [
            Note("mean over seeds [95 % Student interval] (number of seeds).", QUANTIZED),
            Note(
                "one policy, 10 episodes; in brackets: ours over the paper's, where both are above zero.",
                ("paper (ratio)",),
            ),
            Note("returns of uniform and of zero actions.", ("random", "zero")),
            Note(
                "two numbers where not all policies of a row were trained alike; they are not comparable then.",
                ("steps",),
            ),
            Note("after 1M steps, with the version of the environment; sources: rlc/data.", ("best published fp32",)),
        ],
        keys=2,
        beside=True,
    )


def _row_of_table1(study: Study, task: Task) -> list[str]:
    cells = {method: study.cell(task, method) for method in QUANTIZED}
    reference = next(cell for cell in study.of_task(task))
    best = published.best_fp32(task)
    steps = {cell.settings.total_steps for cell in cells.values() if cell is not None}
    row = [
        task.algo,
        task.env_id,
        " / ".join(f"{count:,}" for count in sorted(steps)) or DASH,
        number(reference.mean("random_return_mean")),
        number(reference.mean("zero_return_mean")),
        DASH if best is None else f"{number(best[0])} ({best[1]})",
    ]
    for method, column in zip(QUANTIZED, published.METHODS, strict=True):
        cell = cells[method]
        theirs = published.quantized(task, column)
        both = cell is not None and theirs is not None and min(cell.returns.value, theirs) > 0
        ratio = f" ({cell.returns.value / theirs:.2f})" if both and cell and theirs else ""
        row += [DASH if cell is None else with_interval(cell.returns, cell.n), number(theirs) + ratio]
    return row


class Choice(NamedTuple):
    """The largest ratio that keeps the return, by the paper's rule. `ratio` is None where none does."""

    ratio: float | None
    pruned: float | None
    monotone: bool
    """Whether every smaller ratio of the sweep keeps it too."""


def largest_passing_ratio(baseline: float, returns: Mapping[float, float]) -> Choice:
    """The largest ratio r > 0 with R(r) >= 0.9 R(0), whatever smaller ratios do."""
    passing = [ratio for ratio, value in returns.items() if ratio > 0 and at_least(value, published.KEEPS * baseline)]
    if not passing:
        return Choice(None, None, True)
    largest = max(passing)
    smaller = [ratio for ratio in returns if 0 < ratio < largest]
    return Choice(largest, returns[largest], all(ratio in passing for ratio in smaller))


def beats_random(baseline: float, floor: float) -> bool:
    """Whether 90 % of a baseline means something: it is above zero and better than random actions."""
    return baseline > 0 and baseline > floor


@dataclass(frozen=True)
class Pruned:
    """What a study says of pruning one task: the baseline, and the choice by norm, None where nothing was run."""

    baseline: float
    floor: float
    choices: dict[int, Choice | None]

    @property
    def better(self) -> tuple[int, Choice] | None:
        """The norm with the larger ratio; of equal ratios the one with the higher return, L1 where that is equal."""
        found = [(norm, choice) for norm, choice in self.choices.items() if choice and choice.ratio is not None]
        return max(found, key=lambda item: (item[1].ratio, item[1].pruned, -item[0]), default=None)


def pruning(study: Study, task: Task) -> Pruned | None:
    """The paper's rule on our data; each ratio on the seeds that have both it and a baseline. None without runs."""
    choices: dict[int, Choice | None] = {}
    baselines = []
    floors = []
    for norm in (1, 2):
        returns = {}
        for ratio, cell in study.pruned(task, norm).items():
            if fp32 := cell.values("fp32_return_mean"):
                # Over the same seeds as the baseline: in shares of it, so that a missing seed shifts nothing.
                returns[ratio] = float(np.mean(cell.values("return_mean")) / np.mean(fp32)) if np.mean(fp32) else 0.0
                baselines.append(float(np.mean(fp32)))
                floors += cell.values("random_return_mean")
        choices[norm] = largest_passing_ratio(1.0, returns) if returns else None
    if not baselines:
        return None
    return Pruned(float(np.mean(baselines)), float(np.mean(floors)), choices)


def table2(study: Study) -> ReportTable:
    """Largest ratio of L1 and L2 that keeps 90 % of the baseline."""
    headers = ["algorithm", "environment", "baseline", "L1", "kept", "paper L1", "L2", "kept", "paper L2"]
    rows = []
    for task in study.tasks:
        found = pruning(study, task)
        row = [task.algo, task.env_id, DASH if found is None else number(found.baseline)]
        for norm in (1, 2):
            row += [*_choice(found, norm), _listed(task, norm)]
        rows.append(row)
    return ReportTable(
        "table2",
        "Table 2: largest ratio of pruning that keeps 90 % of the baseline's return",
        headers,
        rows,
        [
            Note(
                "The paper's rule: the largest ratio r with R(r) >= 0.9 R(0), means over seeds; kept: R(r) / R(0). A "
                "return of just 0.9 passes. Policies are not trained on after pruning. It is the largest of 14 noisy "
                "numbers that passes: with other seeds it may lie several steps away.",
                ("L1", "L2", "kept"),
            ),
            Note("~: a smaller ratio of the sweep fails.", (), ("~",)),
            Note("none: no ratio passes.", (), ("none",)),
            Note(
                "no skill: the baseline is not above zero, or no better than random actions, and 90 % of it means "
                "nothing.",
                (),
                ("no skill",),
            ),
            Note(
                "*: the ratio as the paper lists it is not what this rule gives on the paper's own data (in brackets).",
                (),
                ("*",),
            ),
        ],
        keys=2,
        beside=True,
    )


def _choice(found: Pruned | None, norm: int) -> list[str]:
    choice = None if found is None else found.choices[norm]
    if found is None or choice is None:
        return [DASH, DASH]
    if not beats_random(found.baseline, found.floor):
        return ["no skill", DASH]
    if choice.ratio is None:
        return ["none", DASH]
    return [f"{choice.ratio:.0%}{'' if choice.monotone else '~'}", f"{100 * (choice.pruned or 0):.0f} %"]


def own_choice(task: Task, norm: int) -> str | None:
    """What the rule gives on the paper's own data; None where its files do not have them."""
    returns = published.pruning_returns(task, norm)
    if not returns:
        return None
    if returns[0] <= 0:
        return "no skill"
    choice = largest_passing_ratio(returns[0], returns)
    return "none" if choice.ratio is None else f"{choice.ratio:.0%}"


def _listed(task: Task, norm: int) -> str:
    ratio = published.listed_ratio(task, norm)
    own = own_choice(task, norm)
    if ratio is None:
        return DASH
    return f"{ratio:.0%}" + (f"* ({own})" if own not in (None, f"{ratio:.0%}") else "")


def table3(study: Study) -> ReportTable:
    """The better of L1 and L2 by environment and algorithm."""
    algorithms = list(dict.fromkeys(task.algo for task in study.tasks))
    env_ids = list(dict.fromkeys(task.env_id for task in sorted(study.tasks, key=lambda task: task.order[1:])))
    headers = ["environment", *(word for algo in algorithms for word in (algo, "paper"))]
    rows = []
    for env_id in env_ids:
        row = [env_id]
        for algo in algorithms:
            task = Task(algo, env_id)
            row += [_better(study, task), published.listed_choice(task) or DASH]
        rows.append(row)
    notes = [
        Note(
            "By Table 2: the norm with the larger ratio; of equal ratios the one with the higher return.",
            tuple(algorithms),
        ),
        Note("The rule behind the paper's Table 3 is not published; its cells stand as printed.", ("paper",)),
    ]
    title = "Table 3: pruning by environment and algorithm"
    return ReportTable("table3", title, headers, rows, notes, beside=True)


def _better(study: Study, task: Task) -> str:
    found = pruning(study, task)
    if found is None:
        return DASH
    if not beats_random(found.baseline, found.floor):
        return "no skill"
    return "none" if found.better is None else f"L{found.better[0]} {found.better[1].ratio:.0%}"
