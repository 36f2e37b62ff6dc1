"""The policy of a run that builds on the finished fp32 run: its policy, pruned and recovered if asked."""

import time
from typing import NamedTuple

import safetensors.torch
import torch
from torch import Tensor, nn

from compression.artifact import load_policy
from compression.pruning import network_size, prune, sparsify
from compression.runtime import OnnxPolicy
from rlc.config.compress import FP32Settings, PruneSettings, QATSettings
from rlc.pipeline import build, paper
from rlc.pipeline.evaluation import evaluate_policy
from rlc.pipeline.prune import distill_policy, importance_of
from rlc.pipeline.tracking import Tracker
from rlc.pipeline.training import MadePolicy, train
from rlc.runs.records import PruningRecord, TrainingRecord
from rlc.runs.run import Run
from rlc.runs.stored import StoredRun
from trainers.actor_critic import ActorCritic
from trainers.data.rollout import collect_observations
from trainers.nn.stacked import StackedMLP
from trainers.policy import Policy, split_at_linears
from trainers.rng import RngStream, torch_stream

CPU = torch.device("cpu")


class Recovery(NamedTuple):
    """A policy after its recovery from pruning, the steps that took and the seconds."""

    policy: Policy
    steps: int
    seconds: float


def compress_run(run: Run, tracker: Tracker) -> MadePolicy:
    """What a run exports that builds on its baseline, before it is quantised.

    Raises RuntimeError where the fp32 training failed, or lacks the critics to be trained further.
    """
    baseline = run.baseline
    if baseline is None:
        raise RuntimeError(f"the fp32 run of seed {run.seed} it builds on did not finish")
    if run.settings.training_steps and baseline.lacks_critics():
        raise RuntimeError(f"{baseline.path} came from a pack without its critics: train it again with overwrite=true")
    run.log(f"derived from {baseline.path}")
    compress = run.settings.compress
    if isinstance(compress, QATSettings):
        return paper.train_further(run, tracker, safetensors.torch.load_file(baseline.agent_file))
    beginning = baseline.finished_result()
    record = TrainingRecord(
        train_seconds=None,
        train_seconds_reason=f"not trained: derived from {baseline.path}",
        first_observations_sha256=beginning.first_observations_sha256,
        initial_weights_sha256=beginning.initial_weights_sha256,
    )
    if not isinstance(compress, PruneSettings):
        return MadePolicy(load_policy(baseline.artifact), record)
    policy, pruning = _prune_and_recover(run, tracker, compress, baseline)
    return MadePolicy(policy, PruningRecord(**record.fields(), **pruning.fields()))


def _prune_and_recover(
    run: Run, tracker: Tracker, compress: PruneSettings, baseline: StoredRun
) -> tuple[Policy, PruningRecord]:
    """The pruned policy after its recovery, with sizes and returns before and after."""
    tensors = safetensors.torch.load_file(baseline.agent_file)
    teacher = build.build_agent(run.settings.algo, FP32Settings(), run.spec, [run.seed], CPU)
    # An agent from a pack has no critics: those of the teacher are not used.
    teacher.load_state(0, teacher.state(0) | tensors)
    layers = actor_layers(teacher)
    if compress.sparsity.steps:
        layers = _sparse_layers(run, compress, teacher.policy(0), layers)
    pruned = prune(layers, compress.ratio, importance_of(compress))
    narrow = _pruned_agent(run, FP32Settings(), pruned, tensors).policy(0)
    before = evaluate_policy(OnnxPolicy.from_policy(narrow), run, run.settings.eval)
    after = before
    recovery = Recovery(narrow, 0, 0.0)
    if compress.finetune == "distill":
        recovery = _distill(run, compress, narrow, teacher.policy(0))
    elif compress.finetune == "rl":
        recovery = _train_further(run, tracker, compress, _pruned_agent(run, compress, pruned, tensors))
    if compress.finetune != "none":
        after = evaluate_policy(OnnxPolicy.from_policy(recovery.policy), run, run.settings.eval)
    size_before = network_size(actor_layers(teacher))
    size_after = network_size(pruned)
    record = PruningRecord(
        widths_before=list(size_before.widths),
        parameters_before=size_before.parameters,
        macs_before=size_before.macs,
        widths_after=list(size_after.widths),
        parameters_after=size_after.parameters,
        macs_after=size_after.macs,
        finetune=compress.finetune,
        finetune_steps=recovery.steps,
        finetune_seconds=recovery.seconds,
        return_before_finetune_mean=before.mean,
        return_before_finetune_std=before.std,
        return_after_finetune_mean=after.mean,
        return_after_finetune_std=after.std,
    )
    return recovery.policy, record


def _distill(run: Run, compress: PruneSettings, student: Policy, teacher: Policy) -> Recovery:
    began = time.monotonic()
    policy = distill_policy(student, teacher, compress, run.seed)
    return Recovery(policy, compress.distill.steps, time.monotonic() - began)


def _train_further(run: Run, tracker: Tracker, compress: PruneSettings, student: ActorCritic) -> Recovery:
    settings = run.settings.model_copy(update={"total_steps": compress.rl_steps})
    saved = run.checkpoints().newest()
    # Off-policy it begins with an empty memory, which the student's own actions fill.
    trained = train([run], [tracker], student, settings, [saved], random_warmup=False)
    return Recovery(student.policy(0), compress.rl_steps, trained.seconds)


def actor_layers(agent: ActorCritic) -> list[nn.Module]:
    """The actor of a one-seed agent with all its heads, as plain layers."""
    actor = agent.networks["actor"]
    assert isinstance(actor, StackedMLP)
    return actor.extract(0)


def _sparse_layers(run: Run, compress: PruneSettings, policy: Policy, layers: list[nn.Module]) -> list[nn.Module]:
    """The layers after a training towards prunable weights, on states that the policy visits."""
    act = OnnxPolicy.from_policy(policy)
    observations = collect_observations(act, run.make_env, policy.spec, run.seed, compress.calibration_steps)
    before, _, _ = split_at_linears(policy)
    inputs = nn.Sequential(*before)(torch.from_numpy(observations))
    generator = torch_stream(RngStream.DISTILL, run.seed)
    settings = compress.sparsity.model_dump()
    return sparsify(layers, inputs, importance_of(compress), generator=generator, **settings)


def _pruned_agent(
    run: Run, compress: FP32Settings | PruneSettings, pruned: list[nn.Module], tensors: dict[str, Tensor]
) -> ActorCritic:
    """An agent of pruned layers with everything else of a finished one: critics, targets, statistics, temperature."""
    agent = build.build_agent(run.settings.algo, compress, run.spec, [run.seed], CPU, pruned)
    others = {name: tensor for name, tensor in tensors.items() if "actor.layers." not in name}
    agent.load_state(0, agent.state(0) | others)
    return agent
