"""DDPG and TD3: noise in the units of the action, targets in closed form, delayed updates, the seed axis."""

from typing import Any

import numpy as np
import pytest
import torch

from compression.qat import QATLinear
from tests.helpers import FEW_BITS, batches, make_off_policy, spec
from trainers.data.replay import Batch
from trainers.ddpg import DDPG
from trainers.envs.spec import EnvSpec
from trainers.nn.stacked import StackedMLP
from trainers.td3 import TD3

DETERMINISTIC = ("ddpg", "td3")


def run(network: StackedMLP, row: int, x: torch.Tensor) -> torch.Tensor:
    """One row of a stacked network, written out: x [B, in]."""
    layers = network.linears
    for layer in layers[:-1]:
        x = torch.relu(x @ layer.weight[row].T + layer.bias[row, 0])
    return x @ layers[-1].weight[row].T + layers[-1].bias[row, 0]


@pytest.mark.parametrize("algo", DETERMINISTIC)
def test_exploration_noise_is_measured_in_half_ranges_and_stays_in_bounds(algo: str) -> None:
    of = EnvSpec("Test-v0", 5, 2, (-0.4, 0.0), (0.4, 10.0))
    agent = make_off_policy(algo, of, [0], hidden="[8]", exploration_noise=0.1)
    obs = np.zeros((1, 20_000, 5), np.float32)
    actions = agent.act(obs)[0]
    greedy = agent.policy(0)(torch.zeros(1, 5))[0].numpy()
    np.testing.assert_allclose(actions.std(0), [0.04, 0.5], rtol=0.03)
    np.testing.assert_allclose(actions.mean(0), greedy, atol=0.03)
    loud = make_off_policy(algo, of, [0], hidden="[8]", exploration_noise=10.0).act(obs)[0]
    np.testing.assert_allclose([loud.min(0), loud.max(0)], [[-0.4, 0.0], [0.4, 10.0]], atol=1e-6)


@pytest.mark.parametrize("algo", DETERMINISTIC)
def test_critics_regress_on_the_target_of_the_paper(algo: str) -> None:
    """The critic loss, with the noise drawn from where the stream of the seed stands and everything written out."""
    of = spec(bound=0.4)
    changes: dict[str, Any] = {"target_noise": 2.0, "target_noise_clip": 0.5} if algo == "td3" else {}
    agent = make_off_policy(algo, of, [6], hidden="[8]", **changes)
    assert isinstance(agent, DDPG | TD3)
    draw = batches(of, [6], 64)
    for _ in range(4):  # so that targets and networks are no longer the same
        agent.update(draw())
    stream = torch.Generator()
    stream.set_state(agent.update_streams[0].get_state())
    batch = draw()
    obs, action, reward, discount, next_obs = (x[0] for x in batch)
    unit_action = torch.tanh(run(agent.target_actor, 0, next_obs))
    critic = agent.networks["critics" if algo == "td3" else "critic"]
    target_critic = agent.networks["target_critics" if algo == "td3" else "target_critic"]
    assert isinstance(critic, StackedMLP)
    assert isinstance(target_critic, StackedMLP)
    if algo == "td3":
        noise = 2 * torch.randn(unit_action.shape, generator=stream)
        unit_action = (unit_action + noise.clamp(-0.5, 0.5)).clamp(-1, 1)
        assert (noise.abs() > 0.5).any()
    twins = range(2 if algo == "td3" else 1)
    inputs = torch.cat([next_obs, unit_action], 1)
    next_q = torch.stack([run(target_critic, k, inputs)[:, 0] for k in twins]).amin(0)
    target = reward + discount * next_q
    inputs = torch.cat([obs, action / 0.4], 1)
    expected = sum(0.5 * (run(critic, k, inputs)[:, 0] - target).pow(2).mean() for k in twins)
    torch.testing.assert_close(agent.update(batch)["losses/critic"][0], expected)


def test_td3_moves_actor_and_targets_at_every_second_update_only() -> None:
    of = spec()
    agent, draw = make_off_policy("td3", of, [0], hidden="[8]"), batches(of, [0], 16)
    assert isinstance(agent, TD3)
    parts = {"actor": agent.actor, "target_actor": agent.target_actor, "target_critics": agent.target_critics}
    for update in range(1, 7):
        before = {name: network.flat.clone() for name, network in parts.items()}
        critics = agent.critics.flat.clone()
        figures = agent.update(draw())
        assert not torch.equal(critics, agent.critics.flat)
        moved = {name: not torch.equal(before[name], network.flat) for name, network in parts.items()}
        assert set(moved.values()) == {update % 2 == 0}
        assert ("losses/actor" in figures) == (update % 2 == 0)


@pytest.mark.parametrize("algo", DETERMINISTIC)
def test_the_actor_climbs_the_critic(algo: str) -> None:
    """A critic that is the first action itself, never updated: the actor must learn to push it to its bound."""
    of = spec(bound=0.4)
    agent, draw = make_off_policy(algo, of, [0], hidden="[16]", critic_lr=1e-30, actor_lr=1e-2), batches(of, [0], 64)
    critic = agent.networks["critics" if algo == "td3" else "critic"]
    assert isinstance(critic, StackedMLP)
    with torch.no_grad():
        for layer in critic.linears:
            layer.weight.zero_()
            layer.bias.zero_()
        critic.linears[0].weight[:, 0, of.obs_dim] = 1  # relu(a + 1) as the value
        critic.linears[0].bias[:, 0, 0] = 1
        critic.linears[1].weight[:, 0, 0] = 1
    for _ in range(400):
        agent.update(draw())
    assert (agent.policy(0)(draw().obs[0])[:, 0] > 0.38).all()


@pytest.mark.parametrize("algo", DETERMINISTIC)
@pytest.mark.parametrize(("obs_dim", "act_dim", "qat"), [(17, 6, False), (11, 3, True), (11, 3, FEW_BITS)])
def test_a_seed_alone_and_in_lockstep_agree_to_the_bit(algo: str, obs_dim: int, act_dim: int, qat: bool | str) -> None:
    of = spec(obs_dim, act_dim)

    def train(seeds: list[int]) -> tuple[dict[str, torch.Tensor], np.ndarray]:
        agent = make_off_policy(algo, of, seeds, qat)
        draw = batches(of, seeds, 256)
        for _ in range(60):
            batch: Batch = draw()
            agent.update(batch)
            actions = agent.act(batch.obs[:, :1].numpy())
        return agent.state(seeds.index(1)), actions[seeds.index(1)]

    (alone, alone_action), (pack, pack_action) = train([1]), train([5, 1, 7])
    for name, tensor in alone.items():
        assert torch.equal(tensor, pack[name]), name
    assert np.array_equal(alone_action, pack_action)


@pytest.mark.parametrize("algo", DETERMINISTIC)
def test_quantisation_ranges_follow_the_actors_update_batches_only(algo: str) -> None:
    of = spec()
    agent, draw = make_off_policy(algo, of, [0], qat=True, hidden="[8]"), batches(of, [0], 16)
    for _ in range(4):
        agent.update(draw())
    first = agent.actor.layers[0]
    assert isinstance(first, QATLinear)
    assert first.batches.item() == (2 if algo == "td3" else 4)
    before = first.running_hi.clone()
    agent.act(np.full((1, 1, 5), 100, np.float32))
    assert torch.equal(before, first.running_hi)
    assert isinstance(agent, DDPG | TD3)
    followed = agent.target_actor.layers[0]
    assert isinstance(followed, QATLinear)
    assert torch.equal(followed.running_hi, before)
