"""Return, inference time, memory and energy of finished runs."""

import dataclasses
import itertools
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from rich.progress import track

from compression.artifact import load_policy, quantized_layers
from compression.files import CONTRACT_FILE, ONNX_FILE, TENSOR_FILE
from compression.runtime import OnnxPolicy, weight_bytes
from measure import latency
from measure.energy import Meter, MeterUnavailable, measure_energy, open_meter
from measure.memory import measure_memory
from measure.native import NativeBuild, build_native
from measure.paper import paper_episodes
from measure.returns import Returns, summary
from rlc.config.commands import MeasureSettings
from rlc.config.settings import EvalSettings
from rlc.messages import warn
from rlc.pipeline.evaluation import evaluate_policy
from rlc.pipeline.protocol import protocol_of
from rlc.runs.records import (
    MeasuredEnergy,
    MeasuredEpisodes,
    MeasuredMemory,
    MeasuredReturns,
    MeasuredTimes,
    Measurement,
)
from rlc.runs.stored import StoredRun
from trainers.data.rollout import collect_observations
from trainers.envs.make import time_limit
from trainers.tensors import FloatArray

STATES = 512
PAPER_EPISODES = 10
NO_EAGER = "the torch twin of an int8 policy only emulates it"
# Whose the time of a call is, None for the model that does nothing, and how it is called.
CallKey = tuple[Path | None, str]
# The policy as C, or why there is none.
Native = NativeBuild | str


def measure_group(group: Sequence[StoredRun], settings: MeasureSettings) -> list[Measurement]:
    """Everything but energy of runs that are compared with each other, fp32 first where it is among them."""
    first = group[0]
    natives = {run.path: build_native(run.artifact) for run in group}
    times = _times(group, natives, _observations(first), settings.calls)
    evaluation = first.settings.eval.model_copy(update={"episodes": settings.episodes})
    returns = [_returns(run, evaluation) for run in group]
    fp32 = returns[0] if first.settings.is_fp32 else _baseline_returns(first, evaluation)
    limit = time_limit(first.spec)
    measurements = []
    for run, run_returns in zip(group, returns, strict=True):
        # By the paper's protocol start states are others: nothing to pair.
        paired = fp32 if run.settings.protocol == "ours" else None
        measurement = Measurement(
            eval=MeasuredReturns(**summary(run_returns, limit, paired)),
            infer=times[run.path],
            mem=_memory(run, natives[run.path], settings.num_copies),
            paper=_as_the_paper_measured(run),
        )
        measurements.append(measurement)
    return measurements


def _returns(run: StoredRun, evaluation: EvalSettings) -> Returns:
    return protocol_of(run.settings).evaluate(OnnxPolicy(run.artifact / ONNX_FILE), run, evaluation)


def _baseline_returns(run: StoredRun, evaluation: EvalSettings) -> Returns | None:
    """Returns of a baseline that is not to be measured itself; None where there is none."""
    if run.baseline is None:
        return None
    return evaluate_policy(OnnxPolicy(run.baseline.artifact / ONNX_FILE), run, evaluation)


def _memory(run: StoredRun, native: Native, copies: int) -> MeasuredMemory:
    model = run.artifact / ONNX_FILE
    files = [run.artifact / name for name in (ONNX_FILE, TENSOR_FILE, CONTRACT_FILE)]
    sizes: dict[str, Any] = {
        "artifact_bytes": sum(file.stat().st_size for file in files),
        "onnx_file_bytes": model.stat().st_size,
        "weight_bytes": weight_bytes(model.read_bytes()),
    }
    try:
        memory: dict[str, Any] = dataclasses.asdict(measure_memory(model, copies))
    except RuntimeError as error:
        memory = dict.fromkeys(("bytes_per_copy", "first_copy_bytes", "peak_process_bytes"))
        memory["missing_reason"] = str(error)
    return MeasuredMemory(**sizes, **memory, **_native_memory(native))


def _native_memory(native: Native) -> dict[str, Any]:
    """Bytes of a policy as C, or why they were not counted."""
    counted: dict[str, Any] = dict.fromkeys(("native_code_bytes", "native_constant_bytes", "native_stack_bytes"))
    if not isinstance(native, NativeBuild):
        return counted | {"native_reason": native}
    if native.sizes is not None:
        counted["native_code_bytes"] = native.sizes.code
        counted["native_constant_bytes"] = native.sizes.constants
        counted["native_stack_bytes"] = native.sizes.stack
    return counted | {"native_reason": native.sizes_reason}


def _observations(run: StoredRun) -> FloatArray:
    """States [STATES, obs_dim] that the policy visits."""
    act = OnnxPolicy(run.artifact / ONNX_FILE)
    return collect_observations(act, run.make_env, run.spec, run.seed, STATES)


def _times(
    group: Sequence[StoredRun], natives: Mapping[Path, Native], observations: FloatArray, count: int
) -> dict[Path, MeasuredTimes]:
    """Times of `count` calls of every policy, by the run's path."""
    noop = latency.noop_model(observations.shape[1])
    calls: dict[CallKey, latency.Call] = {
        (None, "onnx_run"): latency.onnx_run(noop),
        (None, "onnx_io_binding"): latency.onnx_io_binding(noop),
    }
    for run in group:
        model = (run.artifact / ONNX_FILE).read_bytes()
        policy = load_policy(run.artifact)
        calls[run.path, "onnx_run"] = latency.onnx_run(model)
        calls[run.path, "onnx_io_binding"] = latency.onnx_io_binding(model)
        if not quantized_layers(policy):
            calls[run.path, "torch_eager"] = latency.torch_eager(policy)
        native = natives[run.path]
        if isinstance(native, NativeBuild):
            calls[run.path, "native"] = native.act
    fields: dict[Path | None, dict[str, Any]] = {path: {} for path, _ in calls}
    unbatched = [key for key in calls if key[1] == "native"]
    timed = latency.time_interleaved(calls, observations, count, unbatched=unbatched)
    for (path, way), times in timed.items():
        prefix = "floor_" if path is None else ""
        for name, value in dataclasses.asdict(times).items():
            fields[path][f"{prefix}{way}_{name}"] = value
    measured = {}
    for run in group:
        eager: dict[str, Any] = {}
        if (run.path, "torch_eager") not in calls:
            eager = {"torch_eager_p50_us": None, "torch_eager_reason": NO_EAGER}
        native = natives[run.path]
        built: dict[str, Any] = {"native_p50_us": None, "native_reason": native}
        if isinstance(native, NativeBuild):
            built = {"native_binding": native.binding, "native_reason": None}
        measured[run.path] = MeasuredTimes(**fields[run.path], **fields[None], **eager, **built)
    return measured


def _as_the_paper_measured(run: StoredRun) -> MeasuredEpisodes:
    try:
        # The published PPO policies were run behind a normaliser of the evaluation's own.
        normalize = run.settings.protocol == "paper" and run.settings.algo.name == "ppo"
        episodes = paper_episodes(run.artifact / ONNX_FILE, run.spec, PAPER_EPISODES, normalize)
    except RuntimeError as error:
        return MeasuredEpisodes(episode_s=None, process_rss_bytes=None, missing_reason=str(error))
    return MeasuredEpisodes(**dataclasses.asdict(episodes))


def add_energy(groups: Sequence[Sequence[StoredRun]], settings: MeasureSettings) -> None:
    """The last stage: the helpers of a meter would disturb the others."""
    try:
        meter = open_meter()
    except MeterUnavailable as error:
        warn(f"energy is not measured: {error}")
        for run in itertools.chain.from_iterable(groups):
            _write_energy(run, no_energy(str(error)))
        return
    for group in track(groups, f"energy ({meter.source})"):
        _measure_energy(group, meter, settings)


def _measure_energy(group: Sequence[StoredRun], meter: Meter, settings: MeasureSettings) -> None:
    calls = {str(run.path): latency.onnx_run((run.artifact / ONNX_FILE).read_bytes()) for run in group}
    try:
        energies = measure_energy(calls, _observations(group[0]), meter, **settings.energy.model_dump())
    except MeterUnavailable as error:
        warn(f"energy is not measured: {error}")
        for run in group:
            _write_energy(run, no_energy(str(error)))
        return
    for run in group:
        energy = energies[str(run.path)]
        steps = float(np.mean(run.finished_result().episode_lengths))
        per_episode = energy.joules_per_1000_actions * steps / 1000
        _write_energy(run, MeasuredEnergy(**dataclasses.asdict(energy), joules_per_episode=per_episode))


def _write_energy(run: StoredRun, energy: MeasuredEnergy) -> None:
    measurement = run.measurement() or Measurement()
    run.write_measurement(measurement.model_copy(update={"energy": energy}))


def no_energy(reason: str) -> MeasuredEnergy:
    """The energy section of a measurement that could not be made, with the reason."""
    return MeasuredEnergy(
        source=None, joules_per_1000_actions=None, joules_per_episode=None, idle_watts=None, missing_reason=reason
    )
