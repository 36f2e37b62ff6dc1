"""From a command line to the checked list of jobs it stands for, before anything is run or written."""

import functools
import importlib.util
import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from hydra import compose, initialize_config_dir
from hydra._internal.core_plugins.basic_sweeper import BasicSweeper
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from hydra.errors import HydraException
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from rlc.decide import as_asked, decide
from rlc.messages import closest
from rlc.settings import DERIVED_METHODS, Settings, parse_settings
from trainers.errors import UserError

CONF = Path(__file__).resolve().parent.parent / "conf"
# `env` has a default and is replaced; the others start empty and are added with a plus.
ADDED_GROUPS = ("algo", "compress", "experiment")
GROUPS = ("env", *ADDED_GROUPS)
# Settings of methods that the published code had none of.
NOT_OF_THE_PAPER = ("calibration_steps", "calibration", "percentile", "reduce_range")
# Launchers that are not installed with everything else: their extra and their module.
LAUNCHERS = {
    "slurm": ("slurm", "hydra_plugins.hydra_submitit_launcher"),
    "submitit_slurm": ("slurm", "hydra_plugins.hydra_submitit_launcher"),
    "submitit_local": ("slurm", "hydra_plugins.hydra_submitit_launcher"),
    "ray": ("ray", "hydra_plugins.hydra_ray_launcher"),
    "ray_cluster": ("ray", "hydra_plugins.hydra_ray_launcher"),
}
MULTIRUN_FLAGS = ("-m", "--multirun")


@dataclass(frozen=True)
class Job:
    """The settings of one job, and the defaults of the same algorithm, environment and compression."""

    settings: Settings
    """As the job runs: decided where `auto` was asked for."""
    defaults: Settings
    """As they stand in conf/."""
    overrides: tuple[str, ...] = ()
    """What was asked for on the command line, of this job or of one that builds on it."""
    auto: tuple[str, ...] = ()
    """Keys of settings that were decided."""

    @property
    def asked(self) -> Settings:
        """The settings before anything was decided: what a run is found by."""
        return as_asked(self.settings, self.auto)

    def with_fp32(self) -> "Job":
        """The job that trains what this one compresses or is compared with."""
        return replace(self, settings=self.settings.with_fp32(), defaults=self.defaults.with_fp32())

    def with_seeds(self, seeds: list[int]) -> "Job":
        return replace(self, settings=self.settings.model_copy(update={"seed": seeds}))

    def to_json(self) -> str:
        """The job as a worker or a child process receives it: resolved and checked, nothing is left to compose."""
        parts = {
            "settings": self.settings.model_dump(),
            "defaults": self.defaults.model_dump(),
            "overrides": self.overrides,
            "auto": self.auto,
        }
        return json.dumps(parts)

    @classmethod
    def from_json(cls, text: str) -> "Job":
        """What `to_json` gave."""
        parts = json.loads(text)
        settings, defaults = parse_settings(parts["settings"]), parse_settings(parts["defaults"])
        return cls(settings, defaults, tuple(parts["overrides"]), tuple(parts["auto"]))


@dataclass(frozen=True)
class Plan:
    jobs: list[Job]
    hydra: list[str]
    """Overrides of Hydra's own settings."""
    multirun: bool
    then: tuple[str, ...] = ()
    """Commands on the study when all jobs are done."""


def make_plan(arguments: Sequence[str]) -> Plan:
    """Compose and check every job. Raises UserError with one line for anything that cannot run."""
    given = [a for a in arguments if a not in MULTIRUN_FLAGS]
    for argument in given:
        if argument.startswith("-"):
            raise UserError(f"{argument}: unknown option; allowed: -m, --help, --cfg job, key=value")
    try:
        preset = _preset(given)
        if "grids" in preset:
            return _joined(given, preset)
        return _make_plan(given, multirun=len(given) < len(arguments))
    except (HydraException, OmegaConfBaseException) as error:
        raise UserError(str(error)) from error


def compose_groups(arguments: Sequence[str]) -> dict[str, Any]:
    """The composed configuration of arguments that name no algorithm. Raises UserError in one line."""
    try:
        overrides = _parse(arguments)
        _check_groups(overrides)
        for override in overrides:
            if override.is_sweep_override() or override.key_or_group in ("algo", "experiment"):
                raise UserError(f"{override.input_line}: one policy is compressed here, and nothing trained")
        _check_keys(overrides)
        return _composed(tuple(arguments), without=("algo",))
    except (HydraException, OmegaConfBaseException) as error:
        raise UserError(str(error)) from error


def default_settings() -> dict[str, Any]:
    """What conf/train.yaml says, without an algorithm."""
    return _composed((), without=("algo",))


def choices(group: str) -> list[str]:
    return sorted(path.stem for path in (CONF / group).glob("*.yaml"))


def _make_plan(given: list[str], multirun: bool) -> Plan:
    overrides = _parse(given)
    _check_groups(overrides)
    _check_launcher(overrides)
    base = _compose(tuple(_first_value(o) for o in overrides if _is_group(o) or _is_hydra(o)))
    if base.hydra.job.chdir:
        raise UserError("hydra.job.chdir=true: runs lie in outputs/ of the current directory; allowed: false")
    multirun = multirun or base.hydra.mode == RunMode.MULTIRUN
    sweep = _parse([f"{k}={v}" for k, v in base.hydra.sweeper.params.items()]) if multirun else []
    given_keys = {o.key_or_group for o in overrides}
    if "env.id" in given_keys:
        given_keys.add("env")  # env.id=... settles the environment as env=... does
    everything = _preset_last([o for o in sweep if o.key_or_group not in given_keys] + overrides)
    _check_algorithm(everything)
    _check_keys(everything)
    if not multirun:
        for override in overrides:
            if override.is_sweep_override():
                raise UserError(f"{override.input_line}: several values make several jobs: add -m")
        return Plan([_job(everything)], [], multirun=False)
    tasks = _training_first([o for o in everything if not _is_hydra(o)])
    lines = [line for batch in BasicSweeper.split_arguments(tasks, max_batch_size=None) for line in batch]
    if not lines:
        raise UserError(f"{' '.join(given)}: one of the sweeps is empty, there is nothing to do")
    own = [str(o.input_line) for o in overrides if _is_hydra(o)]
    return Plan([_job(_parse(line)) for line in lines], own, multirun=True)


def _preset(given: list[str]) -> dict[str, Any]:
    """What the file of the preset says, if one is given that conf/ has."""
    for override in _parse(given):
        path = CONF / "experiment" / f"{override.value()}.yaml"
        if override.key_or_group == "experiment" and path.is_file():
            preset = OmegaConf.to_container(OmegaConf.load(path))
            assert isinstance(preset, dict)
            return {str(key): value for key, value in preset.items()}
    return {}


def _joined(given: list[str], preset: dict[str, Any]) -> Plan:
    """The plans of a preset that consists of others; each is narrowed by what is given and fits it."""
    plans = []
    for name in preset["grids"]:
        lines = _fitting(_parse(given), name)
        if lines is not None:
            plans.append(_make_plan(lines, multirun=True))
    if not plans:
        raise UserError(f"{' '.join(given)}: none of {', '.join(preset['grids'])} has these compressions")
    # The grids may share jobs.
    jobs = {job.settings.model_dump_json(): job for plan in plans for job in plan.jobs}
    return Plan(list(jobs.values()), plans[0].hydra, multirun=True, then=tuple(preset.get("then", ())))


def _fitting(overrides: list[Override], grid: str) -> list[str] | None:
    """Overrides of a preset of grids as one of the grids takes them; None where it has none of the compressions."""
    sweep = OmegaConf.load(CONF / "experiment" / f"{grid}.yaml").hydra.sweeper.params
    lines = []
    for override in overrides:
        key = override.key_or_group
        if key == "experiment":
            lines.append(f"+experiment={grid}")
        elif key == "compress":
            kept = [value for value in _values(override) if value in str(sweep["+compress"]).split(",")]
            if not kept:
                return None
            lines.append(f"+compress={','.join(kept)}")
        elif not key.startswith("compress.") or key in sweep:
            lines.append(str(override.input_line))
    return lines


def _job(overrides: list[Override]) -> Job:
    """Compose one job. Jobs that differ only in their seeds share the composition."""
    data = _composed(tuple(str(o.input_line) for o in overrides if o.key_or_group != "seed"))
    for override in overrides:
        if override.key_or_group == "seed":
            data = data | {"seed": override.value()}
    chosen = [o for o in overrides if _is_group(o) or o.key_or_group.startswith("env.")]
    plain = tuple(str(o.input_line) for o in chosen if o.key_or_group != "experiment")
    asked, defaults = parse_settings(data), parse_settings(_composed(plain))
    if asked.protocol == "paper":
        for key in NOT_OF_THE_PAPER:
            value = getattr(asked.compress, key, None)
            if value != getattr(defaults.compress, key, None):
                raise UserError(f"compress.{key}={value}: protocol=paper has its own; leave it out")
    settings, auto = decide(asked)
    return Job(settings, defaults, tuple(str(o.input_line) for o in overrides), auto)


def _by_env(default: Any, by_name: dict[str, Any], *, _root_: DictConfig) -> Any:
    """`${by_env:3.0e-4,{HalfCheetah:1.0e-3}}` in conf/algo/: a default, and values for environments of any version."""
    name, _, _ = str(_root_.env.id).rpartition("-")
    return by_name.get(name, default)


OmegaConf.register_new_resolver("by_env", _by_env, replace=True)
OmegaConf.register_new_resolver("max", max, replace=True)


@functools.cache
def _composed(overrides: tuple[str, ...], without: tuple[str, ...] = ()) -> dict[str, Any]:
    config = _compose(overrides)
    ours = OmegaConf.masked_copy(config, [str(key) for key in config if key not in ("hydra", *without)])
    data = OmegaConf.to_container(ours, resolve=True, throw_on_missing=True)
    assert isinstance(data, dict)
    return {str(key): value for key, value in data.items()}


@functools.cache
def _compose(overrides: tuple[str, ...]) -> DictConfig:
    with initialize_config_dir(str(CONF), version_base="1.3"):
        return compose("train", list(overrides), return_hydra_config=True)


def _parse(lines: Sequence[str]) -> list[Override]:
    return OverridesParser.create().parse_overrides(list(lines))


def _is_group(override: Override) -> bool:
    return override.key_or_group in GROUPS


def _is_hydra(override: Override) -> bool:
    return override.key_or_group.replace("/", ".").split(".")[0] == "hydra"


def _values(override: Override) -> list[str]:
    if override.is_sweep_override():
        return [str(value) for value in override.sweep_string_iterator()]
    return [str(override.value())]


def _first_value(override: Override) -> str:
    return f"{override.get_key_element()}={_values(override)[0]}"


def _check_groups(overrides: list[Override]) -> None:
    """One choice per group, with a plus where there is no default, and only what conf/ offers."""
    for group in GROUPS:
        mine = [o for o in overrides if o.key_or_group == group]
        plus = "+" if group in ADDED_GROUPS else ""
        if len(mine) > 1:
            lines = " ".join(str(o.input_line) for o in mine)
            raise UserError(f"{lines}: {group} is given {len(mine)} times; give it once")
        for override in mine:
            offered = choices(group)
            for value in _values(override):
                if value not in offered:
                    raise UserError(f"{group}={value}: unknown{closest(value, offered)}")
            if override.get_key_element() != f"{plus}{group}":
                raise UserError(f"{override.input_line}: write {plus}{group}={_values(override)[0]}")


def _check_launcher(overrides: list[Override]) -> None:
    for override in overrides:
        extra, module = LAUNCHERS.get(str(override.value()), (None, ""))
        if override.key_or_group == "hydra/launcher" and extra and importlib.util.find_spec(module) is None:
            raise UserError(f"{override.input_line}: not installed; pip install --editable '.[{extra}]'")


def _check_algorithm(overrides: list[Override]) -> None:
    if not any(o.key_or_group == "algo" for o in overrides):
        raise UserError(f"algo: none given; add +algo=<name> with one of: {', '.join(choices('algo'))}")


def _check_keys(overrides: list[Override]) -> None:
    """Every key on the command line must exist for every choice of algorithm and compression in it."""
    groups = [o for o in overrides if _is_group(o)]
    tasks = BasicSweeper.split_arguments(groups, max_batch_size=None)[0]
    for task in tasks:
        config = _compose(tuple(task))
        for override in overrides:
            key = override.key_or_group
            if _is_group(override) or _is_hydra(override) or override.is_delete():
                continue
            parent, _, leaf = key.rpartition(".")
            node = OmegaConf.select(config, parent) if parent else config
            if not isinstance(node, DictConfig) or leaf not in node:
                siblings = [str(k) for k in node if k != "hydra"] if isinstance(node, DictConfig) else []
                within = f" for {' '.join(task)}" if "." in key else ""
                raise UserError(f"{override.input_line}: no such key{within}{closest(leaf, siblings)}")


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
            values = _values(override)
            alone = not any(o.key_or_group.startswith(("compress.", "overwrite")) for o in overrides)
            if alone and "fp32" not in values and set(values) & set(DERIVED_METHODS):
                values.append("fp32")
            values.sort(key=lambda value: (value in DERIVED_METHODS, value != "fp32"))
            rest = [o for o in overrides if o is not override]
            return _parse([f"+compress={','.join(values)}"]) + rest
    return overrides
