"""What `auto` stands for on this machine, decided once for a job, before it runs.

A run is found by what was asked for: `auto` is part of its identity, what it was decided to be stands in its files.
"""

import os
import shutil
import sys
import sysconfig
from pathlib import Path
from typing import Any

from compression.int8 import needs_reduced_range
from rlc.config.compress import CompressSettings
from rlc.config.settings import Settings
from trainers.errors import UserError
from trainers.registry import AGENTS
from trainers.settings import OffPolicySettings

REDUCE_RANGE = "compress.reduce_range"
# With fewer off-policy updates, or on-policy environment steps, the compiler takes longer than it saves.
COMPILE_FROM_UPDATES = 10_000
COMPILE_FROM_STEPS = 65_000
NO_COMPILER = "needs a C++ compiler (g++, or what CXX names) and Python.h"


def decide(settings: Settings) -> tuple[Settings, tuple[str, ...]]:
    """The settings with every `auto` of this machine's replaced, and the keys that were `auto`."""
    changes: dict[str, Any] = {}
    keys: list[str] = []
    if settings.compile == "auto":
        keys.append("compile")
        changes["compile"] = worth_compiling(settings) and has_compiler()
    if getattr(settings.compress, "reduce_range", None) == "auto":
        keys.append(REDUCE_RANGE)
        changes["compress"] = decide_range(settings.compress)
    return settings.model_copy(update=changes), tuple(keys)


def as_asked(settings: Settings, keys: tuple[str, ...]) -> Settings:
    """What `decide` was given."""
    changes: dict[str, Any] = {}
    if "compile" in keys:
        changes["compile"] = "auto"
    if REDUCE_RANGE in keys:
        changes["compress"] = settings.compress.model_copy(update={"reduce_range": "auto"})
    return settings.model_copy(update=changes)


def decide_range(compress: CompressSettings) -> CompressSettings:
    """The settings with 7-bit weights where this CPU's int8 products saturate, if that was left to us."""
    if getattr(compress, "reduce_range", None) != "auto":
        return compress
    return compress.model_copy(update={"reduce_range": needs_reduced_range()})


def worth_compiling(settings: Settings) -> bool:
    """Whether compiled updates would save more time than the compiler takes."""
    algo = settings.algo
    steps = settings.training_steps
    if settings.device != "cpu" or not AGENTS[algo.name].COMPILES:
        return False
    if isinstance(algo, OffPolicySettings):
        return (steps - algo.learning_starts) * algo.updates_per_step >= COMPILE_FROM_UPDATES
    return steps >= COMPILE_FROM_STEPS


def has_compiler() -> bool:
    """Whether TorchInductor finds what it needs."""
    compiler = shutil.which(os.environ.get("CXX", "clang++" if sys.platform == "darwin" else "g++"))
    return compiler is not None and Path(sysconfig.get_path("include"), "Python.h").exists()


def check_compile(settings: Settings) -> None:
    """Raises UserError where `compile=true` was asked for and the algorithm or the machine cannot."""
    if settings.compile is not True:
        return
    if not AGENTS[settings.algo.name].COMPILES:
        raise UserError(f"compile=true: {settings.algo.name} cannot be compiled; allowed with it: false, auto")
    if not has_compiler():
        raise UserError(f"compile=true: {NO_COMPILER}; allowed here: false, auto")
