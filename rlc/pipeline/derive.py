"""The policy of a run that does not train from the start: the finished fp32 policy, pruned and recovered if asked."""

import time
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from torch import Tensor, nn

from compression.artifact import load_policy
from compression.distill import distill
from compression.onnx_export import onnx_bytes
from compression.pruning import Importance, Size, network_size, prune, sparsify
from compression.runtime import OnnxPolicy
from rlc.config.compress import FP32Settings, PruneSettings, QATSettings
from rlc.pipeline import build, paper
from rlc.pipeline.evaluation import evaluate_policy
from rlc.pipeline.tracking import Tracker
from rlc.pipeline.training import fit
from rlc.runs.find import find_baseline, load_run, without_critics
from rlc.runs.run import AGENT_FILE, ARTIFACT, FIRST_OBSERVATIONS, INITIAL_WEIGHTS, Run
from trainers.actor_critic import ActorCritic
from trainers.data.rollout import collect_observations
from trainers.envs.make import env_factory
from trainers.nn.stacked import StackedMLP
from trainers.policy import Policy, split_at_linears
from trainers.rng import RngStream, torch_stream

CPU = torch.device("cpu")


def derive(run: Run, tracker: Tracker) -> tuple[Policy, dict[str, Any]]:
    """The policy, and what result.json says of its making.

    Raises RuntimeError where the fp32 training failed, or lacks the critics to be trained further.
    """
    source = find_baseline(run.job, run.seed)
    if source is None:
        raise RuntimeError(f"the fp32 run of seed {run.seed} it builds on did not finish")
    if run.settings.training_steps and without_critics(source):
        raise RuntimeError(f"{source} came from a pack without its critics: train it again with overwrite=true")
    run.log(f"derived from {source}")
    compress = run.settings.compress
    beginning = load_run(source).result() or {}
    figures = {
        "train_seconds": None,
        "train_seconds_reason": f"not trained: derived from {source}",
        **{key: beginning.get(key) for key in (FIRST_OBSERVATIONS, INITIAL_WEIGHTS)},
    }
    if isinstance(compress, QATSettings):
        return paper.train_further(run, tracker, safetensors.torch.load_file(source / AGENT_FILE))
    if not isinstance(compress, PruneSettings):
        return load_policy(source / ARTIFACT), figures
    policy, pruning = _prune_and_recover(run, tracker, compress, source)
    return policy, figures | pruning


def _prune_and_recover(
    run: Run, tracker: Tracker, compress: PruneSettings, source: Path
) -> tuple[Policy, dict[str, Any]]:
    settings = run.settings
    spec = run.settings.env.spec()
    tensors = safetensors.torch.load_file(source / AGENT_FILE)
    teacher = build.build_agent(settings.algo, FP32Settings(), spec, [run.seed], CPU)
    # An agent from a pack has no critics: those of the teacher are not used.
    teacher.load_state(0, teacher.state(0) | tensors)
    layers = actor_layers(teacher)
    importance = Importance(compress.norm, compress.reduction, compress.normalizer, compress.bias)
    if compress.sparsity.steps:
        layers = _sparse(run, compress, teacher, layers, importance)
    pruned = prune(layers, compress.ratio, importance)
    narrow = _with_pruned_actor(run, FP32Settings(), pruned, tensors).policy(0)
    before = evaluate_policy(OnnxPolicy(onnx_bytes(narrow)), settings)
    policy = narrow
    steps = 0
    seconds = 0.0
    if compress.finetune == "distill":
        steps = compress.distill.steps
        began = time.monotonic()
        policy = _distilled(run, compress, narrow, teacher.policy(0))
        seconds = time.monotonic() - began
    elif compress.finetune == "rl":
        steps = compress.rl_steps
        student = _with_pruned_actor(run, compress, pruned, tensors)
        further = settings.model_copy(update={"total_steps": steps})
        saved = run.checkpoints().newest()
        # Off-policy it begins with an empty memory, which the student's own actions fill.
        seconds = fit([run], [tracker], student, further, [saved], random_warmup=False).seconds
        policy = student.policy(0)
    after = before if policy is narrow else evaluate_policy(OnnxPolicy(onnx_bytes(policy)), settings)
    return policy, {
        **_size("before", network_size(actor_layers(teacher))),
        **_size("after", network_size(pruned)),
        "finetune": compress.finetune,
        "finetune_steps": steps,
        "finetune_seconds": seconds,
        "return_before_finetune_mean": before.mean,
        "return_before_finetune_std": before.std,
        "return_after_finetune_mean": after.mean,
        "return_after_finetune_std": after.std,
    }


def actor_layers(agent: ActorCritic) -> list[nn.Module]:
    """The actor of a one-seed agent with all its heads, as plain layers."""
    actor = agent.networks["actor"]
    assert isinstance(actor, StackedMLP)
    return actor.extract(0)


def _sparse(
    run: Run, compress: PruneSettings, teacher: ActorCritic, layers: list[nn.Module], importance: Importance
) -> list[nn.Module]:
    policy = teacher.policy(0)
    act = OnnxPolicy(onnx_bytes(policy))
    seen = collect_observations(act, env_factory(policy.spec), policy.spec, run.seed, compress.calibration_steps)
    before, _, _ = split_at_linears(policy)
    inputs = nn.Sequential(*before)(torch.from_numpy(seen))
    how = compress.sparsity.model_dump()
    return sparsify(layers, inputs, importance, generator=torch_stream(RngStream.DISTILL, run.seed), **how)


def _with_pruned_actor(
    run: Run, compress: FP32Settings | PruneSettings, pruned: list[nn.Module], tensors: dict[str, Tensor]
) -> ActorCritic:
    """An agent of pruned layers with everything else of a finished one: critics, targets, statistics, temperature."""
    agent = build.build_agent(run.settings.algo, compress, run.settings.env.spec(), [run.seed], CPU, pruned)
    kept = {name: tensor for name, tensor in tensors.items() if "actor.layers." not in name}
    agent.load_state(0, agent.state(0) | kept)
    return agent


def _distilled(run: Run, compress: PruneSettings, policy: Policy, teacher: Policy) -> Policy:
    transform = build.actor_transform(run.settings.algo, compress)
    how = compress.distill.model_dump()
    return distill(policy, teacher, env_factory(policy.spec), seed=run.seed, transform=transform, **how)


def _size(when: str, size: Size) -> dict[str, Any]:
    return {
        f"widths_{when}": list(size.widths),
        f"parameters_{when}": size.parameters,
        f"macs_{when}": size.macs,
    }
