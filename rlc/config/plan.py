"""From a command line to the checked list of jobs it stands for, before anything is run or written."""

import importlib.util
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from hydra.core.override_parser.types import Override
from hydra.types import RunMode
from omegaconf import OmegaConf

from rlc.config.compose import (
    HYDRA_ERRORS,
    check_groups,
    check_keys,
    compose_config,
    first_value,
    hydra_message,
    is_group,
    is_hydra,
    parse_overrides,
    values_of,
)
from rlc.config.composer import Composer
from rlc.config.compress import BIT_SETTINGS, DERIVED_METHODS
from rlc.config.decide import decide
from rlc.config.hydra_compat import BasicSweeper
from rlc.config.job import Job
from rlc.config.settings import Settings, parse_settings
from rlc.config.space import Search, Value, check_no_interval, dimensions, parse_search
from rlc.config.wandb_variables import check_wandb_variables
from rlc.messages import did_you_mean
from rlc.sources import choices, find_file, is_own, own_directories, reading, searchpath, split_sources
from trainers.errors import UserError

# Settings of methods that the published code had none of.
NOT_OF_THE_PAPER = ("calibration_steps", "calibration", "percentile", "reduce_range", *BIT_SETTINGS)
# Launchers that are not installed with everything else: their extra and their module.
LAUNCHERS = {
    "slurm": ("slurm", "hydra_plugins.hydra_submitit_launcher"),
    "submitit_slurm": ("slurm", "hydra_plugins.hydra_submitit_launcher"),
    "submitit_local": ("slurm", "hydra_plugins.hydra_submitit_launcher"),
    "ray": ("ray", "hydra_plugins.hydra_ray_launcher"),
    "ray_cluster": ("ray", "hydra_plugins.hydra_ray_launcher"),
}
SEARCH = "optuna"
EXTRAS = {"hydra/launcher": LAUNCHERS, "hydra/sweeper": {SEARCH: ("optuna", "optuna")}}
# Settings of Hydra's that are read, by their beginnings; all of a multirun.
HYDRA_USED = ("hydra.launcher", "hydra.mode", "hydra.sweeper.params", "hydra.job.env_set", "hydra.job.env_copy")
# Keys of a preset that consists of others.
OF_GRIDS = ("grids", "follow_ups")
MULTIRUN_FLAGS = ("-m", "--multirun")
COMPLETION_FLAGS = ("-sc", "--shell-completion")


@dataclass(frozen=True)
class Plan:
    """What one command line asks for: checked jobs, and what follows them."""

    jobs: list[Job]
    hydra: list[str]
    """Overrides of Hydra's own settings."""
    multirun: bool
    follow_ups: tuple[str, ...] = ()
    """Commands on the study when all jobs are done."""
    search: Search | None = None
    """What draws further jobs; `jobs` are then those at the corners of its space."""


def make_plan(arguments: Sequence[str]) -> Plan:
    """Compose and check every job. Raises UserError with one line for anything that cannot run."""
    directories, words = split_sources(arguments)
    given = [a for a in words if a not in MULTIRUN_FLAGS]
    for argument in given:
        if argument in COMPLETION_FLAGS:
            raise UserError(f"{argument}: Hydra completes words of `python <file>`, not of `python -m`; see --help")
        if argument.startswith("-"):
            allowed = "-m, --help, --dry-run, --cfg job, --config-dir <directory>, key=value"
            raise UserError(f"{argument}: unknown option; allowed: {allowed}")
    try:
        with reading(directories):
            preset = _preset(given)
            plan = _joined(given, preset) if "grids" in preset else _make_plan(given, len(given) < len(words))
    except HYDRA_ERRORS as error:
        raise hydra_message(error, given) from error
    check_wandb_variables(job.settings.wandb for job in plan.jobs)
    # A launcher may be chosen from the user's own files.
    return replace(plan, hydra=[*plan.hydra, *searchpath(directories)]) if plan.multirun else plan


def _make_plan(given: list[str], multirun: bool) -> Plan:
    overrides = parse_overrides(given)
    check_groups(overrides)
    searches = any(o.key_or_group == "hydra/sweeper" and o.value() == SEARCH for o in overrides)
    _check_hydra(overrides, (*HYDRA_USED, "hydra.sweeper") if searches else HYDRA_USED)
    _check_installed(overrides)
    base = compose_config(tuple(first_value(o) for o in overrides if is_group(o) or is_hydra(o)))
    multirun = _is_multirun(overrides, base.hydra.mode == RunMode.MULTIRUN, multirun)
    sweep = parse_overrides([f"{k}={v}" for k, v in (base.hydra.sweeper.params or {}).items()]) if multirun else []
    given_keys = {o.key_or_group for o in overrides}
    if "env.id" in given_keys:
        given_keys.add("env")  # env.id=... settles the environment as env=... does
    everything = _preset_last([o for o in sweep if o.key_or_group not in given_keys] + overrides)
    _check_algorithm(everything)
    composer = Composer()
    check_keys(everything, composer.config)
    if not multirun:
        for override in overrides:
            if override.is_sweep_override():
                raise UserError(f"{override.input_line}: several values make several jobs: add -m")
        return Plan([_job(everything, composer)], [], multirun=False)
    own = [str(o.input_line) for o in overrides if is_hydra(o)]
    if searches:
        search = _search(base.hydra.sweeper, [o for o in everything if not is_hydra(o)], composer)
        return Plan(_corners(search), own, multirun=True, search=search)
    check_no_interval(everything)
    tasks = _training_first([o for o in everything if not is_hydra(o)])
    lines = [line for batch in BasicSweeper.split_arguments(tasks, max_batch_size=None) for line in batch]
    if not lines:
        raise UserError(f"{' '.join(given)}: one of the sweeps is empty; give each a value")
    return Plan([_job(parse_overrides(line), composer) for line in lines], own, multirun=True)


def _search(sweeper: Any, overrides: list[Override], composer: Composer) -> Search:
    searched = dimensions(overrides)
    names = {one.name for one in searched}
    fixed = [o for o in overrides if o.key_or_group not in names]
    seeds = [o for o in fixed if o.key_or_group == "seed"]
    lines = [str(o.input_line) for o in fixed if o not in seeds]
    directories = own_directories()

    def make(values: Mapping[str, Value]) -> list[Job]:
        drawn = [one.line(values[one.name]) for one in searched]
        counted = [f"seed={seed}" for o in seeds for seed in values_of(o)] or [""]
        with reading(directories):
            each = [_preset_last(parse_overrides([*lines, *drawn, *([seed] if seed else [])])) for seed in counted]
            return [_job(of_one, composer) for of_one in each]

    settings = parse_search(OmegaConf.to_container(sweeper, resolve=True))  # type: ignore[arg-type]
    return Search(settings, searched, (*lines, *(str(o.input_line) for o in seeds)), make)


def _corners(search: Search) -> list[Job]:
    """Jobs with each bound and each member of a list once: what is wrong with one is said before anything runs."""
    longest = max(len(one.corners()) for one in search.dimensions)
    jobs = []
    for number in range(longest):
        jobs += search.make({one.name: one.corners()[number % len(one.corners())] for one in search.dimensions})
    return list({job.settings.model_dump_json(): job for job in jobs}.values())


def _preset(given: list[str]) -> dict[str, Any]:
    """What the file of the preset says, if one is given that there is."""
    for override in parse_overrides(given):
        path = find_file("experiment", str(override.value())) if override.key_or_group == "experiment" else None
        if path is not None:
            preset = OmegaConf.to_container(OmegaConf.load(path))
            assert isinstance(preset, dict)
            named = {str(key): value for key, value in preset.items()}
            for key in named if "grids" in named else ():
                if key not in OF_GRIDS:
                    raise UserError(f"{path.name}: {key}: no such key{did_you_mean(key, OF_GRIDS)}")
            return named
    return {}


def _joined(given: list[str], preset: dict[str, Any]) -> Plan:
    """The plans of a preset that consists of others; each is narrowed by what is given and fits it."""
    plans = []
    for name in preset["grids"]:
        lines = _fitting(parse_overrides(given), name)
        if lines is not None:
            plans.append(_make_plan(lines, multirun=True))
    if not plans:
        raise UserError(
            f"{' '.join(given)}: none of {', '.join(preset['grids'])} has these compressions; allowed: those of "
            "their files in conf/experiment/"
        )
    # The grids may share jobs.
    jobs = {job.settings.model_dump_json(): job for plan in plans for job in plan.jobs}
    return Plan(list(jobs.values()), plans[0].hydra, multirun=True, follow_ups=tuple(preset.get("follow_ups", ())))


def _fitting(overrides: list[Override], grid: str) -> list[str] | None:
    """Overrides of a preset of grids as one of the grids takes them; None where it has none of the compressions."""
    path = find_file("experiment", grid)
    if path is None:
        raise UserError(f"experiment={grid}: unknown; allowed in grids: {', '.join(choices('experiment'))}")
    sweep = OmegaConf.load(path).hydra.sweeper.params
    lines = []
    for override in overrides:
        key = override.key_or_group
        if key == "experiment":
            lines.append(f"+experiment={grid}")
        elif key == "compress":
            kept = [value for value in values_of(override) if value in str(sweep["+compress"]).split(",")]
            if not kept:
                return None
            lines.append(f"+compress={','.join(kept)}")
        elif not key.startswith("compress.") or key in sweep:
            lines.append(str(override.input_line))
    return lines


def _job(overrides: list[Override], composer: Composer) -> Job:
    """Compose one job. Jobs that differ only in their seeds share the composition."""
    data = composer.settings(tuple(str(o.input_line) for o in overrides if o.key_or_group != "seed"))
    for override in overrides:
        if override.key_or_group == "seed":
            data = data | {"seed": override.value()}
    chosen = [o for o in overrides if is_group(o) or o.key_or_group.startswith("env.")]
    asked = parse_settings(data)
    plain = tuple(_of_conf(o, asked) for o in chosen if o.key_or_group != "experiment")
    defaults = parse_settings(composer.settings(plain))
    if asked.protocol == "paper":
        for key in NOT_OF_THE_PAPER:
            value = getattr(asked.compress, key, None)
            if value != getattr(defaults.compress, key, None):
                raise UserError(f"compress.{key}={value}: protocol=paper has its own; leave it out")
    settings, auto = decide(asked)
    return Job(settings, defaults, tuple(str(o.input_line) for o in overrides), auto)


def _of_conf(override: Override, asked: Settings) -> str:
    """A choice, of the user's own files that of conf/ which it changes: what a run's label tells apart."""
    group = override.key_or_group
    if not (is_group(override) and is_own(group, str(override.value()))):
        return str(override.input_line)
    names = {"algo": f"+algo={asked.algo.name}", "compress": f"+compress={asked.compress.method}"}
    return names.get(group, f"env.id={asked.env.id}")


def _check_hydra(overrides: list[Override], used: tuple[str, ...]) -> None:
    """Raises UserError for settings of Hydra's that nothing here reads."""
    for override in overrides:
        key = override.key_or_group.replace("/", ".")
        kept = key == "hydra.job.chdir" and override.value() is False
        if is_hydra(override) and not kept and not key.startswith(used):
            raise UserError(
                f"{override.input_line}: has no effect here: runs lie in outputs/<study>/ of the current directory; "
                f"choose study=<name> or another directory; allowed of Hydra's: {', '.join(used)}"
            )


def _is_multirun(overrides: list[Override], by_setting: bool, by_flag: bool) -> bool:
    """Whether to expand sweeps. Raises UserError for settings of Hydra's that say otherwise, or have no effect."""
    multirun = by_setting or by_flag
    for override in overrides:
        line = override.input_line
        if override.key_or_group == "hydra.mode":
            if by_flag and not by_setting:
                raise UserError(f"{line}: -m says otherwise; leave one out")
        elif is_hydra(override) and override.key_or_group != "hydra.job.chdir" and not multirun:
            raise UserError(f"{line}: has no effect on one job, which runs in this process; add -m")
    return multirun


def _check_installed(overrides: list[Override]) -> None:
    for override in overrides:
        extra, module = EXTRAS.get(override.key_or_group, {}).get(str(override.value()), (None, ""))
        if extra and importlib.util.find_spec(module) is None:
            raise UserError(f"{override.input_line}: not installed; pip install --editable '.[{extra}]'")


def _check_algorithm(overrides: list[Override]) -> None:
    if not any(o.key_or_group == "algo" for o in overrides):
        raise UserError(f"algo: none given; add +algo=<name> with one of: {', '.join(choices('algo'))}")


def _preset_last(overrides: list[Override]) -> list[Override]:
    """A preset changes settings of the groups, so it is composed after them wherever it stands."""
    return sorted(overrides, key=lambda o: o.key_or_group == "experiment")


def _training_first(overrides: list[Override]) -> list[Override]:
    """Compressions vary slowest: fp32, what trains otherwise, and last what derives from fp32 runs.

    Where something derives, its fp32 runs become jobs of their own, so that all other runs are compared with
    them; unless settings are given that fp32 lacks, or fp32 runs would be overwritten that nobody named.
    """
    for override in overrides:
        if override.key_or_group == "compress" and override.is_sweep_override():
            values = values_of(override)
            alone = not any(o.key_or_group.startswith(("compress.", "overwrite")) for o in overrides)
            if alone and "fp32" not in values and set(values) & set(DERIVED_METHODS):
                values.append("fp32")
            values.sort(key=lambda value: (value in DERIVED_METHODS, value != "fp32"))
            rest = [o for o in overrides if o is not override]
            return parse_overrides([f"+compress={','.join(values)}"]) + rest
    return overrides
