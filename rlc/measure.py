"""Measure finished runs on a quiet machine: python -m rlc.measure study=default

Return, inference time, memory and energy of every policy, fp32 and compressed by turns on one pinned thread.
"""

import dataclasses
import itertools
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from filelock import FileLock, Timeout
from rich.progress import track

from compression.artifact import CONTRACT_FILE, ONNX_FILE, TENSOR_FILE, load_policy, quantized_layers
from compression.runtime import OnnxPolicy, weight_bytes
from measure import latency
from measure.energy import Meter, NoMeterError, measure_energy, open_meter
from measure.machine import BUSY_PERCENT, load, machine, one_pinned_thread
from measure.memory import measure_memory
from measure.paper import paper_episodes
from measure.returns import Returns, summary
from rlc import table
from rlc.arguments import configured, run_command
from rlc.messages import say
from rlc.plan import CONF
from rlc.record import PROTOCOLS, provenance
from rlc.runs import ARTIFACT, OUTPUTS, RunDirectory, fp32_beside, task_of
from rlc.settings import EvalSettings, MeasureSettings, Settings, parse_measure
from rlc.study import chosen_runs
from rlc.tracking import Tracker
from trainers.data.rollout import visited_observations
from trainers.envs import make as envs
from trainers.errors import UserError
from trainers.tensors import FloatArray

STATES = 512
PAPER_EPISODES = 10


def measure(arguments: list[str]) -> None:
    """Measure the runs that the arguments choose and write measurement.json beside each result.json."""
    settings = parse_measure(configured(arguments, CONF / "measure.yaml"))
    runs = _with_policies(chosen_runs(settings))
    with _alone(), one_pinned_thread() as core:
        state = {"machine": machine() | {"pinned_core": core}, "load": _quiet(), "provenance": provenance()}
        groups = [list(group) for _, group in itertools.groupby(runs, key=task_of)]
        for group in track(groups, "return, time, memory"):
            for run, figures in zip(group, _figures(group, settings), strict=True):
                # Should the stage be stopped before energy, the rest is there, and the energy of before.
                before = (run.measurement() or _no_energy("not measured: the stage was stopped before"))["energy"]
                run.write_measurement(state | figures | {"energy": before})
        _add_energy(groups, settings)
    for run in runs:
        tracker = Tracker(run)
        tracker.summary(_flat(run.measurement() or {}))
        tracker.finish()
    table.show_measurements(runs)


def _with_policies(runs: Sequence[RunDirectory]) -> list[RunDirectory]:
    """The runs that can be measured; says how many cannot. Raises UserError where none can."""
    found = [run for run in runs if not run.record_only()]
    missing = len(runs) - len(found)
    again = "the commands that made them make them again with overwrite=true"
    why = f"{missing} runs came from a pack without their policies: {again}"
    if not found:
        raise UserError(why)
    if missing:
        say(f"left out, and their measurements left as they are: {why}")
    return found


def _figures(group: Sequence[RunDirectory], settings: MeasureSettings) -> list[dict[str, Any]]:
    """Everything but energy of the runs of one task."""
    observations = _observations(group[0])
    times = _times(group, observations, settings.calls)
    evaluation = group[0].settings.eval.model_copy(update={"episodes": settings.episodes})
    returns = [_returns(run.settings, run.artifact, evaluation) for run in group]
    fp32 = returns[0] if group[0].settings.is_fp32 else None
    source = None if fp32 is not None else fp32_beside(group[0].path)
    if source is not None:  # not to be measured, but there
        fp32 = _returns(group[0].settings.with_fp32(), source / ARTIFACT, evaluation)
    limit = envs.time_limit(group[0].settings.env.id)
    found = []
    for run, own in zip(group, returns, strict=True):
        # By the paper's protocol start states are others: nothing to pair.
        paired = fp32 if run.settings.protocol == "ours" else None
        found.append(
            {
                "eval": summary(own, limit, paired),
                "infer": times[run.path],
                "mem": _memory(run, settings.copies),
                "paper": _as_the_paper_measured(run),
            }
        )
    return found


def _memory(run: RunDirectory, copies: int) -> dict[str, Any]:
    model = run.artifact / ONNX_FILE
    sizes = {
        "artifact_bytes": sum((run.artifact / name).stat().st_size for name in (ONNX_FILE, TENSOR_FILE, CONTRACT_FILE)),
        "onnx_file_bytes": model.stat().st_size,
        "weight_bytes": weight_bytes(model.read_bytes()),
    }
    try:
        return sizes | dataclasses.asdict(measure_memory(model, copies))
    except RuntimeError as error:
        missing = dict.fromkeys(("bytes_per_copy", "first_copy_bytes", "peak_process_bytes"))
        return sizes | missing | {"missing_reason": str(error)}


def _observations(run: RunDirectory) -> FloatArray:
    """States that the policy visits."""
    act, env_id = OnnxPolicy(run.artifact / ONNX_FILE), run.settings.env.id
    return visited_observations(act, lambda: envs.make_env(env_id), envs.spec_of(env_id), run.seed, STATES)


def _times(group: Sequence[RunDirectory], observations: FloatArray, count: int) -> dict[Path, dict[str, Any]]:
    identity = latency.floor(observations.shape[1])
    calls: dict[tuple[Path | None, str], latency.Call] = {
        (None, "onnx_run"): latency.onnx_run(identity),
        (None, "onnx_io_binding"): latency.onnx_io_binding(identity),
    }
    for run in group:
        model, policy = (run.artifact / ONNX_FILE).read_bytes(), load_policy(run.artifact)
        calls[run.path, "onnx_run"] = latency.onnx_run(model)
        calls[run.path, "onnx_io_binding"] = latency.onnx_io_binding(model)
        if not quantized_layers(policy):
            calls[run.path, "torch_eager"] = latency.torch_eager(policy)
    measured = latency.interleaved(calls, observations, count)

    def named(path: Path | None, prefix: str) -> dict[str, Any]:
        return {
            f"{prefix}{way}_{figure}": value
            for (owner, way), times in measured.items()
            if owner == path
            for figure, value in dataclasses.asdict(times).items()
        }

    floor = named(None, "floor_")
    reason = "the torch twin of an int8 policy only emulates it"
    return {
        run.path: named(run.path, "")
        | floor
        | ({} if (run.path, "torch_eager") in calls else {"torch_eager_p50_us": None, "torch_eager_reason": reason})
        for run in group
    }


def _returns(settings: Settings, artifact: Path, evaluation: EvalSettings) -> Returns:
    settings = settings.model_copy(update={"eval": evaluation})
    return PROTOCOLS[settings.protocol].evaluate(OnnxPolicy(artifact / ONNX_FILE), settings)


def _as_the_paper_measured(run: RunDirectory) -> dict[str, Any]:
    try:
        # The published PPO policies were run behind a normaliser of the evaluation's own.
        normalize = run.settings.protocol == "paper" and run.settings.algo.name == "ppo"
        episodes = paper_episodes(run.artifact / ONNX_FILE, run.settings.env.id, PAPER_EPISODES, normalize)
    except RuntimeError as error:
        return {"episode_s": None, "process_rss_bytes": None, "missing_reason": str(error)}
    return dataclasses.asdict(episodes)


def _add_energy(groups: Sequence[Sequence[RunDirectory]], settings: MeasureSettings) -> None:
    """The last stage: the helpers of a meter would disturb the others."""
    try:
        meter = open_meter()
    except NoMeterError as error:
        say(f"energy is not measured: {error}")
        for run in itertools.chain.from_iterable(groups):
            run.write_measurement((run.measurement() or {}) | _no_energy(str(error)))
        return
    for group in track(groups, f"energy ({meter.source})"):
        _energy_of(group, meter, settings)


def _energy_of(group: Sequence[RunDirectory], meter: Meter, settings: MeasureSettings) -> None:
    calls = {str(run.path): latency.onnx_run((run.artifact / ONNX_FILE).read_bytes()) for run in group}
    try:
        found = measure_energy(calls, _observations(group[0]), meter, **settings.energy.model_dump())
    except NoMeterError as error:
        say(f"energy is not measured: {error}")
        figures = [_no_energy(str(error)) for _ in group]
    else:
        figures = [{"energy": dataclasses.asdict(found[str(run.path)])} for run in group]
    for run, own in zip(group, figures, strict=True):
        measurement = run.measurement() or {}
        per_1000 = own["energy"]["joules_per_1000_actions"]
        steps = float(np.mean((run.result() or {})["episode_lengths"]))
        own["energy"]["joules_per_episode"] = None if per_1000 is None else per_1000 * steps / 1000
        run.write_measurement(measurement | own)


def _no_energy(reason: str) -> dict[str, Any]:
    missing = dict.fromkeys(("joules_per_1000_actions", "joules_per_episode", "idle_watts"))
    return {"energy": {"source": None, **missing, "missing_reason": reason}}


def _flat(measurement: dict[str, Any]) -> dict[str, float | str]:
    """Names and figures for W&B: infer/..., mem/..., energy/..."""
    return {
        f"{section}/{name}": value
        for section in ("infer", "mem", "energy")
        for name, value in measurement.get(section, {}).items()
        if isinstance(value, int | float | str)
    }


def _quiet() -> dict[str, float]:
    busy = load()
    if busy["busy_percent"] > BUSY_PERCENT:
        say(f"the machine is busy ({busy['busy_percent']:.0f} % of its cores): trust ratios, not times")
    return busy


@contextmanager
def _alone() -> Iterator[None]:
    """Raises UserError where another measurement runs here."""
    lock = FileLock(OUTPUTS / ".measure.lock")
    try:
        lock.acquire(timeout=0)
    except Timeout:
        raise UserError("another rlc.measure is running in this directory: wait for it") from None
    try:
        yield
    finally:
        lock.release()


if __name__ == "__main__":
    run_command(measure)
