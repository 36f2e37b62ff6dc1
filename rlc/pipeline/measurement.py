"""Return, inference time, memory and energy of finished runs."""

import dataclasses
import itertools
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from rich.progress import track

from compression.artifact import CONTRACT_FILE, ONNX_FILE, TENSOR_FILE, load_policy, quantized_layers
from compression.runtime import OnnxPolicy, weight_bytes
from measure import latency
from measure.energy import Meter, MeterUnavailable, measure_energy, open_meter
from measure.memory import measure_memory
from measure.paper import paper_episodes
from measure.returns import Returns, summary
from rlc.config.commands import MeasureSettings
from rlc.config.settings import EvalSettings, Settings
from rlc.messages import warn
from rlc.pipeline.protocol import PROTOCOLS
from rlc.runs.find import find_stored_baseline
from rlc.runs.run import ARTIFACT, StoredRun
from trainers.data.rollout import collect_observations
from trainers.envs.make import env_factory, time_limit
from trainers.tensors import FloatArray

STATES = 512
PAPER_EPISODES = 10


def measure_group(group: Sequence[StoredRun], settings: MeasureSettings) -> list[dict[str, Any]]:
    """Everything but energy of the runs of one task."""
    observations = _observations(group[0])
    times = _times(group, observations, settings.calls)
    evaluation = group[0].settings.eval.model_copy(update={"episodes": settings.episodes})
    returns = [_returns(run.settings, run.artifact, evaluation) for run in group]
    fp32 = returns[0] if group[0].settings.is_fp32 else None
    source = None if fp32 is not None else find_stored_baseline(group[0].path)
    if source is not None:  # not to be measured, but there
        fp32 = _returns(group[0].settings.with_fp32(), source / ARTIFACT, evaluation)
    limit = time_limit(group[0].settings.env.spec())
    found = []
    for run, own in zip(group, returns, strict=True):
        # By the paper's protocol start states are others: nothing to pair.
        paired = fp32 if run.settings.protocol == "ours" else None
        found.append(
            {
                "eval": summary(own, limit, paired),
                "infer": times[run.path],
                "mem": _memory(run, settings.num_copies),
                "paper": _as_the_paper_measured(run),
            }
        )
    return found


def _memory(run: StoredRun, copies: int) -> dict[str, Any]:
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


def _observations(run: StoredRun) -> FloatArray:
    """States that the policy visits."""
    act = OnnxPolicy(run.artifact / ONNX_FILE)
    spec = run.settings.env.spec()
    return collect_observations(act, env_factory(spec), spec, run.seed, STATES)


def _times(group: Sequence[StoredRun], observations: FloatArray, count: int) -> dict[Path, dict[str, Any]]:
    identity = latency.noop_model(observations.shape[1])
    calls: dict[tuple[Path | None, str], latency.Call] = {
        (None, "onnx_run"): latency.onnx_run(identity),
        (None, "onnx_io_binding"): latency.onnx_io_binding(identity),
    }
    for run in group:
        model = (run.artifact / ONNX_FILE).read_bytes()
        policy = load_policy(run.artifact)
        calls[run.path, "onnx_run"] = latency.onnx_run(model)
        calls[run.path, "onnx_io_binding"] = latency.onnx_io_binding(model)
        if not quantized_layers(policy):
            calls[run.path, "torch_eager"] = latency.torch_eager(policy)
    measured = latency.time_interleaved(calls, observations, count)

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


def _as_the_paper_measured(run: StoredRun) -> dict[str, Any]:
    try:
        # The published PPO policies were run behind a normaliser of the evaluation's own.
        normalize = run.settings.protocol == "paper" and run.settings.algo.name == "ppo"
        episodes = paper_episodes(run.artifact / ONNX_FILE, run.settings.env.spec(), PAPER_EPISODES, normalize)
    except RuntimeError as error:
        return {"episode_s": None, "process_rss_bytes": None, "missing_reason": str(error)}
    return dataclasses.asdict(episodes)


def add_energy(groups: Sequence[Sequence[StoredRun]], settings: MeasureSettings) -> None:
    """The last stage: the helpers of a meter would disturb the others."""
    try:
        meter = open_meter()
    except MeterUnavailable as error:
        warn(f"energy is not measured: {error}")
        for run in itertools.chain.from_iterable(groups):
            run.write_measurement((run.measurement() or {}) | no_energy(str(error)))
        return
    for group in track(groups, f"energy ({meter.source})"):
        _energy_of(group, meter, settings)


def _energy_of(group: Sequence[StoredRun], meter: Meter, settings: MeasureSettings) -> None:
    calls = {str(run.path): latency.onnx_run((run.artifact / ONNX_FILE).read_bytes()) for run in group}
    try:
        found = measure_energy(calls, _observations(group[0]), meter, **settings.energy.model_dump())
    except MeterUnavailable as error:
        warn(f"energy is not measured: {error}")
        figures = [no_energy(str(error)) for _ in group]
    else:
        figures = [{"energy": dataclasses.asdict(found[str(run.path)])} for run in group]
    for run, own in zip(group, figures, strict=True):
        measurement = run.measurement() or {}
        per_1000 = own["energy"]["joules_per_1000_actions"]
        steps = float(np.mean((run.result() or {})["episode_lengths"]))
        own["energy"]["joules_per_episode"] = None if per_1000 is None else per_1000 * steps / 1000
        run.write_measurement(measurement | own)


def no_energy(reason: str) -> dict[str, Any]:
    """The energy section of a measurement that could not be made, with the reason."""
    missing = dict.fromkeys(("joules_per_1000_actions", "joules_per_episode", "idle_watts"))
    return {"energy": {"source": None, **missing, "missing_reason": reason}}


def flat_figures(measurement: dict[str, Any]) -> dict[str, float | str]:
    """Names and figures for W&B: infer/..., mem/..., energy/..."""
    return {
        f"{section}/{name}": value
        for section in ("infer", "mem", "energy")
        for name, value in measurement.get(section, {}).items()
        if isinstance(value, int | float | str)
    }
