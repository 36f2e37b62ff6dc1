"""The finished runs of a study as cells: all seeds of one algorithm, environment and compression."""

from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from fnmatch import fnmatch
from functools import cached_property
from typing import NamedTuple

import numpy as np

from measure.statistics import FloatVector, Interval, mean_interval
from rlc.config.commands import Selection
from rlc.config.compress import PruneSettings
from rlc.config.settings import Settings
from rlc.packing.restore import unpack_own
from rlc.runs.files import OUTPUTS
from rlc.runs.find import comparison_key, finished_runs
from rlc.runs.records import Measurement, RunResult, normalized_returns
from rlc.runs.state import check_independent_seeds
from rlc.runs.stored import StoredRun
from trainers.errors import UserError

# Words of the command line that choose among runs, and what they are compared with.
CHOICES: dict[str, Callable[[StoredRun], str]] = {
    "env": lambda run: run.settings.env.id,
    "algo": lambda run: run.settings.algo.name,
    "label": lambda run: run.label,
    "seed": lambda run: str(run.seed),
    "total_steps": lambda run: str(run.settings.total_steps),
}
ALGORITHMS = ("trpo", "ppo", "ddpg", "td3", "sac")
ENVIRONMENTS = ("HalfCheetah", "HumanoidStandup", "Ant", "Humanoid", "Hopper")


class Task(NamedTuple):
    """What policies are compared within."""

    algo: str
    env_id: str

    @property
    def env(self) -> str:
        """Name of the environment without its version."""
        return self.env_id.rpartition("-v")[0] or self.env_id

    @property
    def order(self) -> tuple[int, int, str]:
        """The paper's order, others behind it."""
        return _place(ALGORITHMS, self.algo), _place(ENVIRONMENTS, self.env), f"{self.algo} {self.env_id}"


@dataclass(frozen=True)
class Cell:
    """The runs of one task and variant, one per seed, and what their files say."""

    task: Task
    variant: str
    runs: list[StoredRun]
    results: list[RunResult]
    measurements: list[Measurement | None]

    @property
    def settings(self) -> Settings:
        return self.runs[0].settings

    @property
    def n(self) -> int:
        return len(self.runs)

    @property
    def seeds(self) -> list[int]:
        """Of the runs, in their order."""
        return [run.seed for run in self.runs]

    @property
    def trained_apart(self) -> bool:
        """Whether its policies are trainings of their own beside fp32, not made of the fp32 policies."""
        return self.settings.trains and not self.settings.is_fp32

    def values(self, name: str) -> list[float]:
        """A number of every run, empty where one of them lacks it.

        `section.name` is one of measurement.json: of those runs that were measured, often not all.
        """
        if "." in name:
            return [value for _, value in self.by_seed(name).values()]
        values = [getattr(result, name) for result in self.results]
        return [] if None in values else [float(value) for value in values]

    def by_seed(self, name: str) -> dict[int, tuple[str, float]]:
        """A number of `values` by seed, with the session in which it was measured ("" of result.json)."""
        section, _, field = name.rpartition(".")
        if not section:
            return {seed: ("", float(value)) for seed, value in zip(self.seeds, self.values(name), strict=False)}
        found = {}
        for seed, one in zip(self.seeds, self.measurements, strict=True):
            value = one.value(section, field) if one else None
            if one and value is not None:
                found[seed] = (f"{one.machine} {one.load}", float(value))
        return found

    def mean(self, name: str) -> float | None:
        values = self.values(name)
        return float(np.mean(values)) if values else None

    @cached_property
    def returns(self) -> Interval:
        """Mean over seeds of the mean return over episodes."""
        return mean_interval(self.values("return_mean"))

    @cached_property
    def kept_by_seed(self) -> dict[int, float]:
        """Of each seed that learned, `normalized_returns` of its run."""
        shares = zip(self.seeds, (normalized_returns([result]) for result in self.results), strict=True)
        return {seed: share[0] for seed, share in shares if share}

    @cached_property
    def normalized_return(self) -> FloatVector:
        """`normalized_returns` of the runs; of trainings of their own in shares of the mean fp32 policy.

        Theirs share nothing with the fp32 training of the same seed: shares of single ones, some of which failed, would
        be too high on average.
        """
        if not self.trained_apart:
            return np.array(list(self.kept_by_seed.values()), np.float64)
        compared = [result for result in self.results if result.fp32_return_mean is not None]
        returns = np.array([(one.return_mean, one.random_return_mean, one.fp32_return_mean) for one in compared])
        if not compared or returns[:, 2].mean() <= returns[:, 1].mean():
            return np.array([], np.float64)
        own, random, fp32 = returns.astype(np.float64).T
        return np.asarray((own - random) / (fp32 - random).mean(), np.float64)


def over_fp32(cell: Cell, fp32: Cell, name: str, reference: str | None = None) -> list[float]:
    """A number of each run over fp32's `reference` (the same one) of its seed.

    Of seeds that have both, measured in one session: there the policies took turns, and what else the machine did
    slowed both alike.
    """
    whole = fp32.by_seed(reference or name)
    own = cell.by_seed(name).items()
    return [value / whole[seed][1] for seed, (session, value) in own if seed in whole and whole[seed][0] == session]


def shares_of(cell: Cell, fp32: Cell) -> dict[int, float]:
    """Returns by seed in shares of the fp32 policy's of the same seed, both counted from random actions.

    `cell` may be by another protocol than `fp32`. Of seeds that learned: whose fp32 policy beats random actions.
    """
    whole = {run.seed: result for run, result in zip(fp32.runs, fp32.results, strict=True)}
    shares = {}
    for run, result in zip(cell.runs, cell.results, strict=True):
        if run.seed in whole and whole[run.seed].return_mean > whole[run.seed].random_return_mean:
            floor = whole[run.seed].random_return_mean
            shares[run.seed] = (result.return_mean - floor) / (whole[run.seed].return_mean - floor)
    return shares


class Study:
    """The cells of the runs of one protocol."""

    def __init__(self, runs: Iterable[StoredRun]) -> None:
        """Raises UserError for runs that must not be pooled: repeated seeds, mixed settings, mixed versions."""
        self.runs = list(runs)
        check_independent_seeds(self.runs)
        grouped: dict[tuple[Task, str], list[StoredRun]] = defaultdict(list)
        for run in self.runs:
            grouped[Task(run.settings.algo.name, run.settings.env.id), variant(run.settings)].append(run)
        self.cells: dict[tuple[Task, str], Cell] = {}
        for (task, name), group in grouped.items():
            labels = sorted({run.label for run in group})
            if len(labels) > 1:
                kinds = ", ".join(labels)
                raise UserError(
                    f"{task.algo} {task.env_id} {name}: runs of different settings are not pooled: {kinds}; "
                    "choose with label=... or total_steps=..."
                )
            if len({deployed_bits(run.settings) for run in group}) > 1:
                raise UserError(
                    f"{task.algo} {task.env_id} {name}: weights of 7 bits (for CPUs without VNNI) and of 8 are not "
                    "pooled; choose with seed=..., or make them alike with compress.reduce_range=true"
                )
            results = [run.finished_result() for run in group]
            measurements = [run.measurement() for run in group]
            self.cells[task, name] = Cell(task, name, group, results, measurements)
        self.tasks = sorted({task for task, _ in self.cells}, key=lambda task: task.order)
        versions: dict[str, set[str]] = defaultdict(set)
        for task in self.tasks:
            versions[task.env].add(task.env_id)
        for ids in versions.values():
            if len(ids) > 1:
                raise UserError(f"{', '.join(sorted(ids))}: versions do not mix in a table: choose with env=...")

    def cell(self, task: Task, name: str) -> Cell | None:
        return self.cells.get((task, name))

    def of_task(self, task: Task) -> list[Cell]:
        """All cells of a task, fp32 first."""
        cells = [cell for (owner, _), cell in self.cells.items() if owner == task]
        return sorted(cells, key=lambda cell: (cell.variant != "fp32", cell.variant))

    def pruned(self, task: Task, norm: int) -> dict[float, Cell]:
        """Cells of pruning as the paper has it, by L1 or L2, without recovery, by ratio."""
        cells = {}
        for cell in self.of_task(task):
            compress = cell.settings.compress
            if not isinstance(compress, PruneSettings) or compress.method != f"prune_l{norm}":
                continue
            if compress.finetune == "none" and not compress.sparsity.steps:
                cells[compress.ratio] = cell
        return dict(sorted(cells.items()))


def deployed_bits(settings: Settings) -> int:
    """Bits of an int8 layer's weights that are used: 7 for CPUs without VNNI; 8 also where nothing is quantised."""
    quantized = not isinstance(settings.compress, PruneSettings) or settings.compress.quantization != "none"
    eight = getattr(settings.compress, "weight_bits", 8) == 8
    return 7 if quantized and eight and getattr(settings.compress, "reduce_range", False) else 8


def _place(names: Sequence[str], name: str) -> int:
    return names.index(name) if name in names else len(names)


def variant(settings: Settings) -> str:
    """Name of a compression with its ratio and its recovery."""
    compress = settings.compress
    if isinstance(compress, PruneSettings) and compress.finetune != "none":
        return f"{compress.label}+{compress.finetune}"
    return compress.label


def swept(runs: Iterable[StoredRun]) -> list[list[StoredRun]]:
    """The runs, by variant, of the tasks of which several settings were tried; without variants of defaults alone."""
    tasks: dict[tuple[str, str, str], dict[str, list[StoredRun]]] = defaultdict(lambda: defaultdict(list))
    for run in runs:
        settings = run.settings
        tasks[settings.env.id, settings.algo.name, settings.protocol][variant(settings)].append(run)
    groups: list[list[StoredRun]] = []
    for variants in tasks.values():
        labels = {(name, run.label) for name, group in variants.items() for run in group}
        if len(labels) > len(variants):
            groups += [group for group in variants.values() if not all(map(with_default_settings, group))]
    return groups


def with_default_settings(run: StoredRun) -> bool:
    """Whether nothing but the compression is changed: the label has no hash."""
    return "~" not in run.label


def chosen_runs(selection: Selection) -> list[StoredRun]:
    """The finished runs that the settings choose, those of one task side by side, fp32 first.

    Raises UserError where there are none.
    """
    unpack_own(selection.study)
    stored = finished_runs(selection.study)
    if not stored:
        raise UserError(
            f"study={selection.study}: there is no finished run in {OUTPUTS / selection.study}; "
            "rlc.status tells how far it is"
        )
    runs: Sequence[StoredRun] = stored
    for key, name_of in CHOICES.items():
        patterns = getattr(selection, key)
        if patterns is None:
            continue
        chosen = []
        for pattern in (part.strip() for part in str(patterns).split(",")):
            matching = [run for run in runs if fnmatch(name_of(run), pattern)]
            if not matching:
                names = ", ".join(sorted({name_of(run) for run in runs}))
                raise UserError(f"{key}={patterns}: no finished run is called {pattern}; there are: {names}")
            chosen += matching
        kept = {run.path for run in chosen}
        runs = [run for run in runs if run.path in kept]
    return sorted(runs, key=lambda run: (comparison_key(run), not run.settings.is_fp32, run.label))
