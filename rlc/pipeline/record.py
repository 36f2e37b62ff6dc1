"""Turn a trained or derived policy into a finished run: artifact, evaluation, result.json."""

from typing import Any

import torch

from compression.artifact import ONNX_FILE, load_policy
from compression.onnx_export import onnx_bytes
from compression.runtime import OnnxPolicy, weight_bytes
from measure.returns import random_policy, zero_policy
from rlc.pipeline import build
from rlc.pipeline.derive import derive
from rlc.pipeline.protocol import PROTOCOLS
from rlc.pipeline.tracking import Tracker
from rlc.pipeline.training import fingerprint
from rlc.runs.find import find_baseline, load_run
from rlc.runs.identity import identity
from rlc.runs.provenance import provenance
from rlc.runs.run import ARTIFACT, FINAL_WEIGHTS, Run
from trainers.policy import Policy

REFERENCES = [(name, part) for name in ("random", "zero") for part in ("mean", "std")]


def record(run: Run, tracker: Tracker) -> None:
    """Compress, export, check and evaluate what was trained, and write result.json.

    Raises ArtifactError where the exported file does not agree with the policy.
    """
    settings = run.settings
    protocol = PROTOCOLS[settings.protocol]
    algorithm = settings.algo.name
    policy, training = _trained(run) if settings.trains else derive(run, tracker)
    deployed = protocol.deployed(policy, algorithm)
    contract, model = protocol.export(run.artifact, deployed, settings.compress, algorithm=algorithm, seed=run.seed)
    returns = protocol.evaluate(OnnxPolicy(run.artifact / ONNX_FILE), settings)
    result = {
        "env_id": settings.env.id,
        "algo": algorithm,
        "protocol": settings.protocol,
        "compress": settings.compress.method,
        "label": run.label,
        "seed": run.seed,
        "identity": run.identity,
        "training_identity": run.training_identity,
        "total_steps": settings.total_steps,
        "return_mean": returns.mean,
        "return_std": returns.std,
        "episode_returns": returns.returns,
        "episode_lengths": returns.lengths,
        **_fp32_returns(run),
        **_reference_returns(run),
        "onnx_file_bytes": len(model),
        "weight_bytes": weight_bytes(model),
        "parity": contract["parity"],
        FINAL_WEIGHTS: fingerprint(dict(policy.state_dict())),
        **training,
        "device": settings.device,
        "provenance": provenance(),
    }
    tracker.log({"global_step": settings.total_steps, "eval/final_return_mean": returns.mean})
    if settings.is_fp32:
        result |= _as_fp32(result)
    tracker.summary({k: v for k, v in result.items() if isinstance(v, int | float | str)})
    tracker.artifact()
    run.log(f"finished: return {returns.mean:.2f} +- {returns.std:.2f}, {len(model)} bytes")
    run.finish(result)


def backfill_baseline(run: Run) -> None:
    """Add the fp32 return to the result of a run that finished before the fp32 training beside it."""
    result = run.result() or {}
    if result["fp32_return_mean"] is None:
        late = _fp32_returns(run)
        if late["fp32_return_mean"] is not None:
            run.write_result(result | late)


def _reference_returns(run: Run) -> dict[str, float]:
    """Returns of uniform random actions and of the zero action on the start states of the settings."""
    settings = run.settings
    spec = settings.env.spec()
    figures: dict[str, float] = {}
    if known := _fp32_scores(run):
        return {f"{name}_return_{part}": known[f"{name}_return_{part}"] for name, part in REFERENCES}
    for name, act in (("random", random_policy(spec, settings.eval.seed)), ("zero", zero_policy(spec))):
        returns = PROTOCOLS[settings.protocol].evaluate(act, settings)
        figures |= {f"{name}_return_mean": returns.mean, f"{name}_return_std": returns.std}
    return figures


def _trained(run: Run) -> tuple[Policy, dict[str, Any]]:
    """The policy of the saved agent, and the figures of its training."""
    tensors, figures = run.load_agent()
    settings = run.settings
    spec = settings.env.spec()
    agent = build.build_agent(settings.algo, settings.compress, spec, [run.seed], torch.device("cpu"))
    agent.load_state(0, tensors)
    return agent.policy(0), figures


def _fp32_returns(run: Run) -> dict[str, Any]:
    """Return of the fp32 policy of the same seed and training settings, by the same protocol."""
    if known := _fp32_scores(run):
        return _as_fp32(known)
    source = find_baseline(run.job, run.seed)
    if source is None:
        reason = f"no fp32 run of seed {run.seed} with these training settings was finished before"
        return {"fp32_return_mean": None, "fp32_return_std": None, "fp32_missing_reason": reason}
    protocol = PROTOCOLS[run.settings.protocol]
    fp32 = protocol.deployed(load_policy(source / ARTIFACT), run.settings.algo.name)
    returns = protocol.evaluate(OnnxPolicy(onnx_bytes(fp32)), run.settings)
    return _as_fp32({"return_mean": returns.mean, "return_std": returns.std})


def _fp32_scores(run: Run) -> dict[str, Any] | None:
    """The result of the fp32 run beside a run, where it was scored by the same protocol on the same start states."""
    source = None if run.settings.is_fp32 else find_baseline(run.job, run.seed)
    if source is None or run.settings.protocol != "ours":
        return None
    result = load_run(source).result() or {}
    return result if result["identity"] == identity(run.settings.with_fp32()) else None


def _as_fp32(result: dict[str, Any]) -> dict[str, Any]:
    figures = {f"fp32_return_{part}": result[f"return_{part}"] for part in ("mean", "std")}
    return {**figures, "fp32_missing_reason": None}
