"""What a search with Optuna tries: its settings, and the values that a command line gives it to choose from."""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from hydra.core.override_parser.types import ChoiceSweep, IntervalSweep, Override, RangeSweep

from compression.files import sha256
from rlc.config.compose import values_of
from rlc.config.job import Job
from rlc.config.types import Seed, parse_model
from trainers.errors import UserError
from trainers.settings import Count, CountOrZero, Strict

# What is the same for all trials, because their returns are compared; and what changes no return.
NOT_SEARCHED = ("env", "eval", "study", "protocol", "experiment")
NO_EFFECT = ("device", "threads", "compile", "env_workers", "checkpoint_every", "overwrite", "fail_fast", "wandb")
Value = int | float | str


class SamplerSettings(Strict):
    """How settings are drawn; the values stand in conf/hydra/sweeper/optuna.yaml."""

    name: Literal["tpe", "random"]
    seed: Seed
    startup_trials: CountOrZero


class PrunerSettings(Strict):
    """Which trials are stopped early; the values stand in conf/hydra/sweeper/optuna.yaml."""

    name: Literal["median", "none"]
    startup_trials: CountOrZero
    warmup_evaluations: CountOrZero


class SearchSettings(Strict):
    """How a search goes; the values stand in conf/hydra/sweeper/optuna.yaml."""

    n_trials: Count
    n_jobs: Count
    sampler: SamplerSettings
    pruner: PrunerSettings


@dataclass(frozen=True)
class Dimension:
    """One setting that is searched: whole numbers or numbers of an interval, or one of a list."""

    key: str
    """As on the command line, with the plus of a group."""
    values: tuple[str, ...] = ()
    """Of a list; else there are bounds."""
    low: float = 0
    high: float = 0
    """Included."""
    step: float | None = None
    whole: bool = False
    log: bool = False

    @property
    def name(self) -> str:
        return self.key.lstrip("+")

    def corners(self) -> tuple[Value, ...]:
        """The values to check before anything runs: all of a list, else the bounds."""
        return self.values or (self.low, self.high)

    def line(self, value: Value) -> str:
        """The override that gives a trial this value."""
        return f"{self.key}={value}"


@dataclass(frozen=True)
class Search:
    """What one command line searches."""

    settings: SearchSettings
    dimensions: tuple[Dimension, ...]
    fixed: tuple[str, ...]
    """What all trials have in common."""
    make: Callable[[Mapping[str, Value]], list[Job]]
    """The jobs of a trial, one or several seeds each, by the values of the dimensions by name."""

    def first(self) -> list[Job]:
        """The jobs of the trial at the first corner."""
        return self.make({one.name: one.corners()[0] for one in self.dimensions})

    @property
    def algorithms(self) -> str:
        """Names of the algorithms that trials have."""
        tried = next((one.values for one in self.dimensions if one.name == "algo"), ())
        return "-".join(tried) or self.first()[0].settings.algo.name

    @property
    def identity(self) -> str:
        """Hash of what is searched, whatever way: the same command, or one with more trials, goes on."""
        told = [sorted(self.fixed), [vars(one) for one in self.dimensions]]
        return sha256(json.dumps(told, sort_keys=True).encode())


def parse_search(data: Mapping[str, Any]) -> SearchSettings:
    """The settings of Hydra's sweeper, checked. Raises UserError in one line."""
    try:
        return parse_model(SearchSettings, {k: v for k, v in data.items() if k not in ("_target_", "params")})
    except UserError as error:
        raise UserError(f"hydra.sweeper.{error}") from error


def dimensions(overrides: Sequence[Override]) -> tuple[Dimension, ...]:
    """The settings that have several values. Raises UserError for those that cannot be searched."""
    found = []
    for override in overrides:
        key = override.key_or_group
        if not override.is_sweep_override():
            continue
        if key == "seed":
            if isinstance(override.value(), IntervalSweep):
                raise UserError(f"{override.input_line}: seeds are counted; allowed: a list or range(...)")
            continue
        section = key.partition(".")[0]
        if section in NOT_SEARCHED:
            raise UserError(
                f"{override.input_line}: trials are compared by their returns, so {section} is the same for all; "
                f"give it one value"
            )
        if section in NO_EFFECT:
            raise UserError(f"{override.input_line}: changes no return, there is nothing to search; give it one value")
        found.append(_dimension(override))
    if not found:
        raise UserError(
            "hydra/sweeper=optuna: nothing to search; give a setting several values, as in "
            "'algo.actor_lr=tag(log,interval(1e-4,1e-2))' or algo.batch_size=64,128,256"
        )
    return tuple(found)


def check_no_interval(overrides: Sequence[Override]) -> None:
    """Raises UserError for an interval outside of a search."""
    for override in overrides:
        if isinstance(override.value(), IntervalSweep):
            raise UserError(
                f"{override.input_line}: an interval has no list of values; allowed here: 1,2,3 or range(1,4); "
                "hydra/sweeper=optuna searches in it"
            )


def _dimension(override: Override) -> Dimension:
    value = override.value()
    key = str(override.get_key_element())
    line = override.input_line
    tags: set[str] = getattr(value, "tags", set())
    if tags - {"log"}:
        raise UserError(f"{line}: unknown tag; allowed: tag(log, interval(...))")
    if isinstance(value, IntervalSweep):
        low = value.start
        high = value.end
        assert low is not None
        assert high is not None
        if not low < high or ("log" in tags and low <= 0):
            raise UserError(f"{line}: allowed: interval(<low>,<high>) with low < high, both above 0 where tagged log")
        whole = isinstance(low, int) and isinstance(high, int)
        return Dimension(key, low=low, high=high, whole=whole, log="log" in tags)
    if tags:
        raise UserError(f"{line}: log is for an interval; allowed: tag(log, interval(...))")
    if isinstance(value, RangeSweep) and not value.shuffle:
        members = list(value.range())
        if len(members) > 1:
            whole = all(isinstance(member, int) for member in members)
            step = abs(members[1] - members[0])
            return Dimension(key, low=min(members), high=max(members), step=step, whole=whole)
    assert isinstance(value, ChoiceSweep | RangeSweep)
    values = tuple(dict.fromkeys(values_of(override)))
    if not values:
        raise UserError(f"{line}: is empty, there is nothing to try")
    return Dimension(key, values=values)
