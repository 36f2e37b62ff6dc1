"""Structured pruning: exact widths, the right units, clear errors; recovery by distillation and by more training."""

import functools
import json
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from compression.distill import action_error, distill
from compression.int8 import StaticQuantLinear
from compression.pruning import Importance, PruningError, network_size, prune, replace_layers, sparsify
from compression.qat import prepare_qat
from compression.runtime import OnnxPolicy
from rlc.config.compress import PruneSettings
from rlc.config.plan import make_plan
from rlc.pipeline.compress import actor_layers
from rlc.pipeline.job import run_job
from rlc.runs.run import Run
from tests.helpers import ALGORITHMS, make_agent, spec
from trainers.data.rollout import collect_observations
from trainers.envs.make import make_env, spec_of
from trainers.policy import Policy, Standardize

L1, L2 = (Importance(norm, "mean", "mean", False) for norm in (1, 2))


def mlp(*sizes: int, seed: int = 0) -> list[nn.Module]:
    torch.manual_seed(seed)
    layers: list[nn.Module] = []
    for i, o in pairwise(sizes):
        layers += [nn.Linear(i, o).requires_grad_(False), nn.Tanh()]
    return layers[:-1]


@pytest.mark.parametrize("importance", [L1, L2])
def test_widths_are_exact_at_every_ratio_of_the_paper(importance: Importance) -> None:
    layers = mlp(17, 256, 64, 12)
    expected = [243, 230, 217, 204, 192, 179, 166, 153, 140, 128, 115, 102, 89, 76]
    for k, width in enumerate(expected, 1):
        pruned = prune(layers, 0.05 * k, importance)
        size = network_size(pruned)
        assert size.widths == (width, int(64 * (20 - k)) // 20)
        first = pruned[0]
        assert isinstance(first, nn.Linear)
        assert (first.in_features, size.outputs) == (17, 12)
        assert size.macs == 17 * width + width * size.widths[1] + size.widths[1] * 12
        assert size.parameters == size.macs + width + size.widths[1] + 12
    assert network_size(layers).widths == (256, 64)
    assert not any(p.requires_grad for p in layers[0].parameters())


@pytest.mark.parametrize(("norm", "importance"), [(1, L1), (2, L2)])
def test_the_units_of_the_smallest_norm_go_and_nothing_else_changes(norm: int, importance: Importance) -> None:
    first, activation, last = mlp(5, 20, 3)
    assert isinstance(first, nn.Linear)
    assert isinstance(last, nn.Linear)
    worth = first.weight.abs().pow(norm).sum(1) + last.weight.abs().pow(norm).sum(0)
    kept = worth.argsort(descending=True)[:14].sort().values
    narrow_first, _, narrow_last = prune([first, activation, last], 0.3, importance)
    assert isinstance(narrow_first, nn.Linear)
    assert isinstance(narrow_last, nn.Linear)
    assert torch.equal(narrow_first.weight, first.weight[kept])
    assert torch.equal(narrow_first.bias, first.bias[kept])
    assert torch.equal(narrow_last.weight, last.weight[:, kept])
    assert torch.equal(narrow_last.bias, last.bias)


@pytest.mark.parametrize("ratio", [1.0, -0.1, 1.5])
def test_ratios_outside_are_refused(ratio: float) -> None:
    with pytest.raises(PruningError, match=f"ratio={ratio}: must lie between 0 and 1"):
        prune(mlp(4, 8, 2), ratio, L2)


def test_ratio_0_leaves_all_units() -> None:
    layers = mlp(4, 8, 2)
    kept = nn.Sequential(*prune(layers, 0, L2))
    x = torch.randn(5, 4)
    assert torch.equal(kept(x), nn.Sequential(*layers)(x))


def test_a_layer_without_units_and_networks_that_cannot_be_pruned_are_refused() -> None:
    with pytest.raises(PruningError, match=r"of the hidden widths \[8\] would be left \[0\]"):
        prune(mlp(4, 8, 2), 0.9, L2)
    with pytest.raises(PruningError, match="the policy has no hidden layer to prune; allowed for it: ptdq, ptsq"):
        prune(mlp(4, 2), 0.5, L2)
    with pytest.raises(PruningError, match="only linear layers and activations can be pruned, not Linear, LayerNorm"):
        prune([nn.Linear(4, 8), nn.LayerNorm(8), nn.Linear(8, 2)], 0.5, L2)


@pytest.mark.slow
def test_group_sparse_training_makes_pruning_cheaper() -> None:
    layers, generator = mlp(6, 64, 3), torch.Generator().manual_seed(0)
    x = torch.randn(2000, 6, generator=generator)
    how: dict[str, Any] = {"steps": 1500, "batch_size": 128, "lr": 3e-3, "generator": generator}
    sparse = sparsify(layers, x, L2, reg=1e-3, **how)

    def error(of: list[nn.Module]) -> float:
        return float((nn.Sequential(*of)(x) - nn.Sequential(*layers)(x)).square().mean())

    assert error(prune(sparse, 0.4, L2)) < 0.3 * error(prune(layers, 0.4, L2))


@pytest.mark.parametrize("algo", ALGORITHMS)
def test_a_pruned_actor_goes_back_into_its_agent(algo: str) -> None:
    """All heads stay, and so does the log standard deviation; QAT takes the narrow layers as it takes wide ones."""
    agent = make_agent(algo, spec(5, 3), [0], hidden="[16,16]")
    layers = actor_layers(agent)
    assert network_size(layers).outputs == (6 if algo == "sac" else 3)
    pruned = prune(layers, 0.25, L2)
    replace_layers(agent.actor, pruned)
    x = torch.randn(1, 7, 5)
    torch.testing.assert_close(agent.actor(x)[0], nn.Sequential(*pruned)(x[0]))


@pytest.mark.parametrize("algo", ["sac", "ppo"])
@pytest.mark.parametrize("qat", [False, True])
def test_distillation_brings_another_policy_to_the_actions_of_the_teacher(algo: str, qat: bool) -> None:
    of = spec_of("Hopper-v4")
    agent = make_agent(algo, of, [0], hidden="[32,32]")
    with torch.no_grad():
        agent.actor.flat *= 2
    teacher, student = agent.policy(0), make_agent(algo, of, [1], hidden="[16,16]").policy(0)
    seen = collect_observations(OnnxPolicy.from_policy(teacher), lambda: make_env("Hopper-v4"), of, 5, 500)
    obs = torch.from_numpy(seen)

    def error(policy: Policy) -> float:
        return float((policy(obs) - teacher(obs)).square().mean().sqrt())

    transform = functools.partial(prepare_qat, standardize_input=algo == "sac", reduce_range=False) if qat else None
    how: dict[str, Any] = {"rounds": 1, "states": 500, "steps": 600, "batch_size": 64, "lr": 3e-3}
    taught = distill(student, teacher, lambda: make_env("Hopper-v4"), seed=0, transform=transform, **how)
    assert error(taught) < 0.3 * error(student)
    assert sum(isinstance(stage, StaticQuantLinear) for stage in taught) == (3 if qat else 0)


def test_a_student_of_standardised_inputs_is_the_same_function_with_weights_of_one_scale() -> None:
    of = spec_of("Hopper-v4")
    policy = make_agent("sac", of, [0], hidden="[32,32]").policy(0)
    how: dict[str, Any] = {"rounds": 0, "states": 300, "steps": 1, "batch_size": 8, "lr": 1e-12, "transform": None}
    same = distill(policy, policy, lambda: make_env("Hopper-v4"), seed=0, few_bits=True, **how)
    states = collect_observations(OnnxPolicy.from_policy(policy), lambda: make_env("Hopper-v4"), of, 0, 300)
    obs = torch.from_numpy(states)
    torch.testing.assert_close(same(obs), policy(obs))
    first, (standardize, folded) = policy[0], list(same)[:2]
    assert isinstance(standardize, Standardize)
    torch.testing.assert_close(standardize(obs).std(0, correction=0), torch.ones(11), rtol=1e-3, atol=0)
    assert standardize.mean.dtype == torch.float16
    assert isinstance(first, nn.Linear)
    assert isinstance(folded, nn.Linear)
    torch.testing.assert_close(folded.weight, first.weight / standardize.inverse_std.float())


def test_actions_beyond_the_bound_that_the_teacher_is_at_are_no_error() -> None:
    action = torch.tensor([3.0, 1.5, -2.0, 3.0, 0.5, -2.0], requires_grad=True)
    target = torch.tensor([1.0, 2.0, -1.0, -1.0, 2.0, 0.0])
    error = action_error(action, target, torch.tensor(-1.0), torch.tensor(2.0))
    assert error.tolist() == [2.0, -0.5, 0.0, 4.0, -1.5, -2.0]
    at_bound = action_error(action, torch.full((6,), 2.0), torch.tensor(-1.0), torch.tensor(2.0))
    assert at_bound.tolist() == [0.0, -0.5, -4.0, 0.0, -1.5, -4.0]
    error.sum().backward()
    assert action.grad is not None
    assert action.grad.tolist() == [1.0, 1.0, 0.0, 1.0, 1.0, 1.0]


SMALL = "env=hopper algo.hidden=[16,16] eval.episodes=2 eval.evaluations=1 wandb.mode=disabled seed=1"
QUICK = {
    "sac": "total_steps=400 algo.learning_starts=200 algo.batch_size=16",
    "ppo": "total_steps=400 algo.rollout_steps=200",
    "td3": "total_steps=400 algo.learning_starts=200 algo.batch_size=16",
}
FEW = "compress.ratio=0.5 compress.calibration_steps=100"
DISTILL = "compress.finetune=distill compress.distill.steps=30 compress.distill.states=60"
RL = "compress.finetune=rl compress.rl_steps=400"


@pytest.mark.parametrize(
    ("algo", "how"),
    [
        ("sac", "+compress=prune_l1"),
        ("td3", f"+compress=prune_l2 {RL}"),
        ("sac", f"+compress=prune_qat {DISTILL} compress.sparsity.steps=5"),
        ("ppo", f"+compress=prune_ptsq {DISTILL}"),
        pytest.param("ppo", f"+compress=prune_qat {RL}", marks=pytest.mark.slow),
        pytest.param("td3", f"+compress=prune_ptdq {DISTILL}", marks=pytest.mark.slow),
    ],
)
def test_pruned_runs_end_to_end(algo: str, how: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (job,) = make_plan(f"+algo={algo} {SMALL} {QUICK[algo]} {how} {FEW}".split()).jobs
    run_job(job)
    run = Run(job, 1)
    result = run.finished_result()
    assert (result.widths_before, result.widths_after) == ([16, 16], [8, 8])
    assert result.parameters_before is not None
    assert result.parameters_after is not None
    assert result.parameters_after < result.parameters_before
    compress = job.settings.compress
    assert isinstance(compress, PruneSettings)
    assert result.finetune == compress.finetune
    assert result.finetune_seconds is not None
    assert (result.finetune_seconds > 0) == (result.finetune != "none")
    assert result.return_before_finetune_mean is not None
    assert result.return_before_finetune_mean > 0
    contract = json.loads((run.artifact / "policy.json").read_text())
    kind = {"qat": "static_quant_linear", "ptsq": "static_quant_linear", "ptdq": "dynamic_quant_linear"}
    assert contract["stages"].count(kind.get(compress.quantization, "linear")) == 3
    assert result.fp32_return_mean is not None


def test_labels_of_pruned_runs_carry_the_ratio() -> None:
    def label(arguments: str) -> str:
        (job,) = make_plan(f"+algo=sac {arguments}".split()).jobs
        return Run(job, 0).label

    assert label("+compress=prune_l1") == "prune_l1-0.30"
    assert label("+compress=prune_l2 compress.ratio=0.05") == "prune_l2-0.05"
    assert label("+compress=prune_ptsq compress.ratio=0.125") == "prune_ptsq-0.125"
    assert label("+compress=prune_l1 compress.finetune=distill").startswith("prune_l1-0.30~")
    assert label("+compress=prune_l1 compress.finetune=distill") != label("+compress=prune_l1 compress.finetune=rl")
