"""What noisy, late and lost observations do to the policies of a study, fp32 and compressed.

Run by hand: python tests/benchmarks/robustness.py study=paper --out table.csv --picture folder

Plays the fp32 policy of each task and seed and what was made of it, on shared start states with shared noise, and
writes a row for each policy and disturbance; rows that the table has already are not played again. Prints the return in
percent of the undisturbed fp32 policy of the same seed, both counted from random actions, mean over tasks, and the
difference to fp32 behind the same disturbance; intervals are over seeds. Noise is a share of each observation's
standard deviation over states that fp32 visits.
"""

import argparse
import csv
import itertools
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from matplotlib.axes import Axes
from tabulate import tabulate

from compression.files import ONNX_FILE
from compression.runtime import OnnxPolicy
from measure.disturbance import Disturbance, disturbed, observation_std
from measure.machine import machine
from measure.returns import evaluate
from measure.statistics import FloatVector, Interval, mean_of_groups
from rlc.config.commands import Selection
from rlc.reporting.files import write_picture
from rlc.reporting.panels import METHODS, MUTED, Panel, Picture, keys_of, method_of
from rlc.reporting.study import Task, chosen_runs
from rlc.runs.find import comparison_key, open_artifact
from rlc.runs.stored import StoredRun
from trainers.envs.make import env_factory

DISTURBANCES = {
    "undisturbed": Disturbance(),
    "noise 1 %": Disturbance(noise=0.01),
    "noise 3 %": Disturbance(noise=0.03),
    "noise 10 %": Disturbance(noise=0.1),
    "delay 1": Disturbance(delay=1),
    "10 % lost": Disturbance(drop=0.1),
}
COLUMNS = (
    *("algo", "env", "seed", "method", "disturbance", "episodes"),
    *("return_mean", "return_std", "random_return_mean", "cpu"),
)
# The deviation is taken over episodes of this seed, on the calibration stream of no run.
STATES_SEED = 10**6


class Key(NamedTuple):
    """Whose return a row is."""

    algo: str
    env: str
    seed: str
    method: str
    disturbance: str


def key_of(row: Mapping[str, str]) -> Key:
    return Key(*(row[name] for name in Key._fields))


def play(runs: Sequence[StoredRun], episodes: int, known: set[Key]) -> Iterator[dict[str, Any]]:
    """The rows that are not known yet, of the runs that are compared with an fp32 policy."""
    playable = [run for run in runs if run.settings.protocol == "ours" and not run.record_only()]
    for _, group in itertools.groupby(playable, key=comparison_key):
        fp32, *derived = group
        if not fp32.settings.is_fp32 or not derived:
            continue
        missing = {run.path: _missing(run, known) for run in (fp32, *derived)}
        if not any(missing.values()):
            continue
        spec = fp32.spec
        std = observation_std(OnnxPolicy(fp32.artifact / ONNX_FILE), spec, STATES_SEED)
        for run in (fp32, *derived):
            act = OnnxPolicy(open_artifact(run.path).folder / ONNX_FILE)
            for key in missing[run.path]:
                factory = disturbed(env_factory(spec), DISTURBANCES[key.disturbance], std)
                returns = evaluate(act, factory, spec, episodes=episodes, seed=0)
                yield key._asdict() | {
                    "episodes": episodes,
                    "return_mean": round(returns.mean, 4),
                    "return_std": round(returns.std, 4),
                    "random_return_mean": round(fp32.finished_result().random_return_mean, 4),
                    "cpu": machine()["cpu_model"],
                }


def _missing(run: StoredRun, known: set[Key]) -> list[Key]:
    """The rows of a run that are not known yet."""
    settings = run.settings
    keys = [Key(settings.algo.name, settings.env.id, str(run.seed), settings.compress.label, d) for d in DISTURBANCES]
    return [key for key in keys if key not in known]


def shares(rows: Sequence[Mapping[str, str]]) -> dict[tuple[str, str], dict[Task, dict[str, float]]]:
    """By method and disturbance: each task's returns by seed, in shares of the undisturbed fp32 policy's."""
    returns = {key_of(row): (float(row["return_mean"]), float(row["random_return_mean"])) for row in rows}
    found: dict[tuple[str, str], dict[Task, dict[str, float]]] = defaultdict(lambda: defaultdict(dict))
    for key, (value, floor) in returns.items():
        whole = returns[key._replace(method="fp32", disturbance="undisturbed")][0]
        if whole > floor:
            share = (value - floor) / (whole - floor)
            found[key.method, key.disturbance][Task(key.algo, key.env)][key.seed] = share
    return found


def over_tasks(by_task: dict[Task, dict[str, float]]) -> Interval:
    """Mean over tasks, and its interval over seeds."""
    return mean_of_groups([np.array(list(by_seed.values())) for by_seed in by_task.values()])


def difference(ours: dict[Task, dict[str, float]], fp32: dict[Task, dict[str, float]]) -> Interval:
    """Mean over tasks of what a policy has more than the fp32 policy of its seed, and its interval over seeds."""
    paired: list[FloatVector] = [
        np.array([share - fp32[task][seed] for seed, share in by_seed.items()]) for task, by_seed in ours.items()
    ]
    return mean_of_groups(paired)


def words(interval: Interval) -> str:
    return f"{100 * interval.value:.1f} [{100 * interval.low:.1f}, {100 * interval.high:.1f}]"


class Figures(NamedTuple):
    """By method and disturbance: the return behind it, the difference to fp32 there, and the number of tasks."""

    kept: dict[tuple[str, str], Interval]
    more: dict[tuple[str, str], Interval]
    tasks: dict[str, int]

    @property
    def methods(self) -> list[str]:
        return list(self.tasks)


def figures(rows: Sequence[Mapping[str, str]]) -> Figures:
    found = shares(rows)
    kept = {pair: over_tasks(by_task) for pair, by_task in found.items()}
    more = {(name, one): difference(found[name, one], found["fp32", one]) for name, one in found if name != "fp32"}
    return Figures(kept, more, {name: len(by_task) for (name, _), by_task in found.items()})


def table(shown: Figures) -> str:
    """Both figures of each method and disturbance."""
    lines = [
        [f"`{name}`", str(count), *(words(shown.kept[name, one]) for one in DISTURBANCES)]
        for name, count in shown.tasks.items()
    ]
    lines += [
        [f"`{name}` - `fp32`", str(shown.tasks[name]), *(words(shown.more[name, one]) for one in DISTURBANCES)]
        for name in shown.methods[1:]
    ]
    text: str = tabulate(lines, ["method", "tasks", *DISTURBANCES], tablefmt="github", disable_numparse=True)
    return text


def picture(shown: Figures) -> Picture:
    """The return behind each disturbance, and the difference to fp32 there."""
    size = (4.6, 2.9)
    others = shown.methods[1:]
    panels = [
        Panel("Return", partial(_draw, shown.methods, shown.kept, "% of fp32 undisturbed"), size),
        Panel("Beside fp32, same sensors", partial(_draw, others, shown.more, "points of percent"), size),
    ]
    return Picture("robustness", "Behind disturbed sensors", "", panels, 2, keys_of(shown.methods))


def _draw(methods: Sequence[str], shown: Mapping[tuple[str, str], Interval], label: str, axes: Axes) -> None:
    for k, name in enumerate(methods):
        style = METHODS[method_of(name)]
        for place, disturbance in enumerate(DISTURBANCES):
            interval = shown[name, disturbance]
            x = place + 0.14 * (k - (len(methods) - 1) / 2)
            axes.plot([x, x], [100 * interval.low, 100 * interval.high], color=style.color, lw=1)
            axes.plot(x, 100 * interval.value, marker=style.marker, color=style.color, ms=5)
    axes.axhline(0, color=MUTED, lw=0.8)
    axes.set_xticks(range(len(DISTURBANCES)), list(DISTURBANCES))
    axes.set_ylabel(label)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("study", help="study=<name>")
    parser.add_argument("--label", default="fp32*,ptsq*,prune_qat-0.70-w4*")
    parser.add_argument("--seed", default="0,1,2")
    parser.add_argument("--episodes", type=int, default=5)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--picture", type=Path, help="folder")
    args = parser.parse_args()
    torch.set_num_threads(1)
    study = args.study.removeprefix("study=")
    chosen = Selection(study=study, env=None, algo=None, label=args.label, seed=args.seed, total_steps=None)
    rows: list[dict[str, str]] = []
    if args.out.exists():
        with args.out.open(newline="") as file:
            rows = list(csv.DictReader(file))
    with args.out.open("a", newline="") as file:
        writer = csv.DictWriter(file, COLUMNS, lineterminator="\n")
        if not rows:
            writer.writeheader()
        for row in play(chosen_runs(chosen), args.episodes, {key_of(row) for row in rows}):
            writer.writerow(row)
            file.flush()
            rows.append({name: str(value) for name, value in row.items()})
    shown = figures(rows)
    print(table(shown))
    if args.picture:
        write_picture(args.picture, picture(shown))


if __name__ == "__main__":
    main()
