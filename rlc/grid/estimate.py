"""What a grid costs before it starts, from speeds measured on one core (rlc/data/costs.csv)."""

import functools
from collections.abc import Sequence

from rlc.config.compress import PruneSettings
from rlc.config.settings import Settings
from rlc.datafiles import read
from rlc.messages import counted
from rlc.runs.run import Run
from trainers.envs.names import task_name
from trainers.settings import OffPolicySettings

# A run that is made from a trained one, its evaluations for the most part: 1.3 to 7 on four environments.
DERIVED_SECONDS = 4.0
# A step of distillation and what states it asks for: 2.3 (HalfCheetah) to 4.7 (Humanoid) milliseconds with 64 units.
DISTILL_STEP_SECONDS = 0.003
# A finished run: the agent of 256-wide critics, or of 64-wide ones, or an artifact alone, each with its W&B file.
MEGABYTES = {"off": 2.5, "on": 0.35, "derived": 0.15}

KINDS = ("fp32", "qat")


def estimate(runs: Sequence[Run]) -> str:
    """Core-hours and disk of runs that are not finished, and of the fp32 runs that they lack, in one line."""
    all_settings = [run.settings for run in runs]
    planned = {(run.training_identity, run.seed) for run in runs if run.settings.is_fp32}
    for run in runs:
        key = run.training_identity, run.seed
        if not run.settings.trains and key not in planned and run.baseline is None:
            planned.add(key)
            all_settings.append(run.settings.with_fp32())
    known = [cost for settings in all_settings if (cost := seconds(settings)) is not None]
    disk = sum(megabytes(settings) for settings in all_settings) / 1000
    largest = max(memory_gigabytes(settings) for settings in all_settings)
    line = f"about {sum(known) / 3600:.2g} core-hours (speeds of one Zen 4 core) and {disk:.2g} GB of disk"
    if largest > 0.1:
        line += f"; each job with a replay memory keeps up to {largest:.2g} GB of it in checkpoints while it runs"
    missing = len(all_settings) - len(known)
    return line + (f"; not counted: {counted(missing, 'run')} whose speed nobody measured" if missing else "")


def seconds(settings: Settings) -> float | None:
    """Of one core; None where no speed is known."""
    if not settings.training_steps:
        compress = settings.compress
        if isinstance(compress, PruneSettings) and compress.finetune == "distill":
            return DERIVED_SECONDS + DISTILL_STEP_SECONDS * compress.distill.steps
        return DERIVED_SECONDS
    known = speed(settings, "qat" if settings.compress.method in ("qat", "prune_qat") else "fp32")
    return None if known is None else settings.training_steps / known + DERIVED_SECONDS


def speed(settings: Settings, kind: str) -> float | None:
    """Environment steps per second of one seed, fp32 or qat; None where it was not measured."""
    # By the id: where that is given, `env.name` is the default's.
    return _speeds().get((settings.algo.name, task_name(settings.env.id), kind))


def megabytes(settings: Settings) -> float:
    """Of a finished run."""
    if not settings.trains:
        return MEGABYTES["derived"]
    return MEGABYTES["off" if isinstance(settings.algo, OffPolicySettings) else "on"]


def memory_gigabytes(settings: Settings) -> float:
    """Of the replay memory of one seed."""
    algo = settings.algo
    if not settings.trains or not isinstance(algo, OffPolicySettings):
        return 0.0
    spec = settings.env.spec()
    return min(algo.buffer_size, settings.total_steps) * (spec.obs_dim + spec.act_dim + 2) * 4 / 1e9


@functools.cache
def _speeds() -> dict[tuple[str, str, str], float]:
    """By algorithm, environment and kind."""
    speeds = {}
    for row in read("costs.csv"):
        for kind in KINDS:
            speeds[row["algo"], row["env"], kind] = float(row[f"{kind}_steps_per_second"])
    return speeds
