"""`algo.actor_hidden`: a small actor beside wide critics, in every algorithm and in everything built on a training."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch

from rlc.config.plan import make_plan
from rlc.pipeline.job import run_job
from rlc.runs.run import Run
from tests.helpers import (
    ALGORITHMS,
    FEW_BITS,
    ON_POLICY,
    assert_a_stop_changes_nothing,
    batches,
    job,
    make_agent,
    rollouts,
    spec,
)
from trainers.acceleration.compiled import CompiledStep, CompiledUpdate
from trainers.actor_critic import ActorCritic
from trainers.nn.stacked import StackedMLP

OF = spec()
SMALL_ACTOR = {"hidden": "[24,16]", "actor_hidden": "[8]"}


def make_small(algo: str, seeds: Sequence[int], qat: bool | str = False) -> Any:
    return make_agent(algo, OF, seeds, qat, **SMALL_ACTOR)


def widths(network: Any) -> list[int]:
    """Of the hidden layers."""
    assert isinstance(network, StackedMLP)
    return [layer.weight.shape[1] for layer in network.linears[:-1]]


def source(algo: str, seeds: Sequence[int]) -> Callable[[ActorCritic], Any]:
    """What an agent's update learns from."""
    if algo in ON_POLICY:
        return rollouts(OF, seeds, 40, 2)
    draw = batches(OF, seeds, 32)
    return lambda agent: draw()


@pytest.mark.parametrize("algo", ALGORITHMS)
def test_only_the_actor_is_small(algo: str) -> None:
    agent = make_agent(algo, OF, [0, 1], **SMALL_ACTOR)
    found = {name: widths(network) for name, network in agent.networks.items() if isinstance(network, StackedMLP)}
    assert "actor" in found
    assert any(name.startswith("critic") for name in found)
    for name, sizes in found.items():
        assert sizes == ([8] if "actor" in name else [24, 16]), name
    assert [stage.out_features for stage in agent.policy(1) if isinstance(stage, torch.nn.Linear)] == [8, OF.act_dim]


@pytest.mark.parametrize("algo", ALGORITHMS)
def test_the_default_is_as_wide_as_the_critics_to_the_bit(algo: str) -> None:
    plain, null, same = (
        make_agent(algo, OF, [3], hidden="[24,16]", **more)
        for more in ({}, {"actor_hidden": "null"}, {"actor_hidden": "[24,16]"})
    )
    assert widths(plain.actor) == [24, 16]
    for name, tensor in plain.state(0).items():
        assert torch.equal(tensor, null.state(0)[name])
        assert torch.equal(tensor, same.state(0)[name])


@pytest.mark.parametrize("qat", [False, True, FEW_BITS], ids=["fp32", "qat", "few bits"])
@pytest.mark.parametrize("algo", ALGORITHMS)
def test_a_seed_learns_in_a_pack_what_it_learns_alone(algo: str, qat: bool | str) -> None:
    pack, alone = (make_small(algo, seeds, qat) for seeds in ([0, 4], [4]))
    draw, single = source(algo, [0, 4]), source(algo, [4])
    before = alone.state(0)
    for _ in range(3):
        pack.update(draw(pack))
        alone.update(single(alone))
    for name, tensor in alone.state(0).items():
        assert torch.equal(tensor, pack.state(1)[name]), name
    assert any(not torch.equal(before[name], tensor) for name, tensor in alone.state(0).items() if "actor." in name)


@pytest.mark.slow
def test_a_compiled_update_of_a_small_actor_is_the_update() -> None:
    eager, pack, alone = (make_small("sac", seeds) for seeds in ([0, 4], [0, 4], [4]))
    sources = [source("sac", seeds) for seeds in ([0, 4], [0, 4], [4])]
    updates = [eager.update, CompiledUpdate(pack), CompiledUpdate(alone)]
    for _ in range(3):
        for agent, update, draw in zip((eager, pack, alone), updates, sources, strict=True):
            update(draw(agent))
    _assert_same(eager, pack, alone)


@pytest.mark.slow
def test_compiled_minibatches_of_a_small_actor_are_the_minibatches() -> None:
    eager, pack, alone = (make_small("ppo", seeds) for seeds in ([0, 4], [0, 4], [4]))
    for agent in (pack, alone):
        agent.step = CompiledStep(agent, type(agent).minibatch_step)
    for agent, seeds in ((eager, [0, 4]), (pack, [0, 4]), (alone, [4])):
        agent.update(source("ppo", seeds)(agent))
    _assert_same(eager, pack, alone)


def _assert_same(eager: ActorCritic, pack: ActorCritic, alone: ActorCritic) -> None:
    """The compiled seed to the bit in a pack and alone, and the eager one but for rounding."""
    for name, tensor in alone.state(0).items():
        assert torch.equal(tensor, pack.state(1)[name]), name
        torch.testing.assert_close(tensor, eager.state(1)[name], rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("algo", ["td3", pytest.param("trpo", marks=pytest.mark.slow)])
def test_a_stopped_training_of_a_small_actor_ends_as_one_never_stopped(
    algo: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    small = "+compress=qat algo.actor_hidden=[8,5]"
    whole, parts = job(algo, f"study=whole {small}"), job(algo, f"study=parts {small}")
    assert_a_stop_changes_nothing(whole, parts, monkeypatch)


FEW = "env=hopper seed=1 total_steps=400 eval.episodes=2 eval.evaluations=1 wandb.mode=disabled"
QUICK = {
    "sac": "algo.learning_starts=200 algo.batch_size=16",
    "ppo": "algo.rollout_steps=200",
}
DISTILL = "compress.finetune=distill compress.distill.steps=30 compress.distill.states=60"
RL = "compress.finetune=rl compress.rl_steps=400"


@pytest.mark.parametrize(
    ("algo", "how", "left"),
    [
        ("sac", f"+compress=prune_qat compress.ratio=0.5 {DISTILL}", [6, 4]),
        ("ppo", f"+compress=prune_l2 compress.ratio=0.5 compress.calibration_steps=100 {RL}", [6, 4]),
        ("sac", "+compress=ptsq compress.calibration_steps=100", None),
    ],
)
def test_a_small_actor_is_compressed_further(
    algo: str, how: str, left: list[int] | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    line = f"+algo={algo} {FEW} {QUICK[algo]} algo.hidden=[24,16] algo.actor_hidden=[12,8] {how}"
    (one,) = make_plan(line.split()).jobs
    run_job(one)
    run = Run(one, 1)
    result = run.finished_result()
    assert run.baseline is not None
    assert result.fp32_return_mean == run.baseline.finished_result().return_mean
    if left is not None:
        assert (result.widths_before, result.widths_after) == ([12, 8], left)
    tensors = safetensors.torch.load_file(run.baseline.agent_file)
    critic = next(name for name in sorted(tensors) if name.startswith("critic") and name.endswith("0.weight"))
    assert tensors[critic].shape[-2] == 24
