"""SAC: the mathematics in closed form, an independent implementation, and the seed axis to the bit."""

import math

import numpy as np
import pytest
import torch
from scipy import integrate
from torch import nn

from tests.helpers import SAC_SETTINGS, batches, make_sac, spec
from trainers.data.replay import Batch
from trainers.nn.distributions import squashed_gaussian
from trainers.rng import RngStream, torch_stream
from trainers.sac import LOG_STD_MAX, LOG_STD_MIN, SAC


@pytest.mark.parametrize("scale", [0.4, 1.0, 2.0])
@pytest.mark.parametrize(("mean", "std"), [(0.3, 0.5), (-1.0, 0.2), (0.0, 1.5)])
def test_log_probability_is_a_density_over_the_scaled_action(scale: float, mean: float, std: float) -> None:
    """exp(log p) integrates to one over [-scale, scale], and its mean is that of sampled actions."""

    def density(action: float) -> float:
        x = math.atanh(action / scale)
        noise = torch.tensor([(x - mean) / std], dtype=torch.float64)
        m, s = torch.tensor([mean], dtype=torch.float64), torch.tensor([math.log(std)], dtype=torch.float64)
        unit, log_prob = squashed_gaussian(m, s, noise, torch.tensor([scale], dtype=torch.float64))
        assert unit.item() * scale == pytest.approx(action, abs=1e-9)
        return math.exp(log_prob.item())

    edge = scale * (1 - 1e-9)
    total, _ = integrate.quad(density, -edge, edge, limit=400, points=[scale * math.tanh(mean)])
    assert total == pytest.approx(1.0, abs=1e-3)
    first, _ = integrate.quad(lambda a: a * density(a), -edge, edge, limit=400, points=[scale * math.tanh(mean)])
    noise = torch.from_numpy(np.random.default_rng(0).standard_normal(400_000))
    assert first == pytest.approx(scale * torch.tanh(mean + std * noise).mean().item(), abs=3e-3 * scale)


def test_log_probability_stays_finite_far_out() -> None:
    mean = torch.tensor([50.0, -50.0], requires_grad=True)
    unit, log_prob = squashed_gaussian(mean, torch.zeros(2), torch.zeros(2), torch.ones(2))
    log_prob.backward()
    # log p = -log sqrt(2 pi) - 2 (log 2 - 50) per dimension; d log p / d mean = 2 sign(mean).
    assert log_prob.item() == pytest.approx(2 * (-0.5 * math.log(2 * math.pi) - 2 * (math.log(2) - 50)))
    assert mean.grad is not None
    assert mean.grad.tolist() == [2.0, -2.0]
    assert unit.tolist() == [1.0, -1.0]


class ReferenceSAC:
    """One seed, written plainly with torch modules and optimisers: the algorithm box and nothing else."""

    def __init__(self, ours: SAC, seed: int) -> None:
        state, dim = ours.state(0), ours.spec.act_dim
        self.actor = mlp(ours.spec.obs_dim, 2 * dim, {k[6:]: v for k, v in state.items() if k[:6] == "actor."})
        critics = {k[8:]: v for k, v in state.items() if k.startswith("critics.")}
        targets = {k[15:]: v for k, v in state.items() if k.startswith("target_critics.")}
        width = ours.spec.obs_dim + dim
        self.critics = [mlp(width, 1, {k: v[t] for k, v in critics.items()}) for t in (0, 1)]
        self.targets = [mlp(width, 1, {k: v[t] for k, v in targets.items()}) for t in (0, 1)]
        self.actor_adam = torch.optim.Adam(self.actor.parameters(), 1e-3)
        self.critic_adam = torch.optim.Adam([p for c in self.critics for p in c.parameters()], 1e-3)
        self.log_alpha = torch.zeros(1, requires_grad=True)
        self.alpha_adam = torch.optim.Adam([self.log_alpha], 3e-4)
        self.noise = torch_stream(RngStream.UPDATE, seed)
        self.scale = torch.tensor(ours.spec.action_high)

    def sample(self, obs: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        mean, log_std = self.actor(obs).chunk(2, -1)
        base = torch.distributions.Normal(mean, log_std.clamp(LOG_STD_MIN, LOG_STD_MAX).exp())
        x = mean + base.stddev * torch.randn(mean.shape, generator=self.noise)
        log_prob = base.log_prob(x) - torch.log(1 - torch.tanh(x) ** 2 + 1e-12)
        return torch.tanh(x), log_prob.sum(-1)

    def update(self, batch: Batch) -> None:
        obs, action, reward, discount, next_obs = (x[0] for x in batch)
        alpha = self.log_alpha.exp().detach()
        with torch.no_grad():
            a2, logp2 = self.sample(next_obs)
            q2 = torch.min(*(t(torch.cat([next_obs, a2], -1))[:, 0] for t in self.targets))
            y = reward + discount * (q2 - alpha * logp2)
        inputs = torch.cat([obs, action / self.scale], -1)
        self.critic_adam.zero_grad()
        sum(0.5 * (c(inputs)[:, 0] - y).pow(2).mean() for c in self.critics).backward()
        self.critic_adam.step()
        a, logp = self.sample(obs)
        q = torch.min(*(c(torch.cat([obs, a], -1))[:, 0] for c in self.critics))
        self.actor_adam.zero_grad()
        (alpha * logp - q).mean().backward()
        self.actor_adam.step()
        self.alpha_adam.zero_grad()
        (-self.log_alpha.exp() * (logp.detach() - len(self.scale)).mean()).backward()
        self.alpha_adam.step()
        for target, critic in zip(self.targets, self.critics, strict=True):
            for kept, new in zip(target.parameters(), critic.parameters(), strict=True):
                kept.data = 0.995 * kept.data + 0.005 * new.data


def mlp(inputs: int, outputs: int, state: dict[str, torch.Tensor]) -> nn.Sequential:
    layers = [nn.Linear(inputs, 32), nn.ReLU(), nn.Linear(32, 32), nn.ReLU(), nn.Linear(32, outputs)]
    for i, layer in enumerate(layers[::2]):
        layer.weight.data = state[f"layers.{i}.weight"].clone()
        layer.bias.data = state[f"layers.{i}.bias"][0].clone()
    return nn.Sequential(*layers)


def test_the_squashed_gaussians_own_gradient_is_right() -> None:
    """Against finite differences in float64, of the action and of the log-probability."""
    mean, log_std, noise = torch.randn(3, 5, 2, dtype=torch.float64)
    of = (mean.requires_grad_(), log_std.requires_grad_(), noise, torch.tensor([0.4, 2.0], dtype=torch.float64))
    assert torch.autograd.gradcheck(squashed_gaussian, of)


def test_update_equals_a_plain_implementation() -> None:
    of = spec()
    ours = make_sac(of, [4], alpha="auto")
    reference = ReferenceSAC(ours, 4)
    draw = batches(of, [4], 64)
    for _ in range(30):
        batch = draw()
        ours.update(batch)
        reference.update(batch)
    state = ours.state(0)
    for i in range(3):
        theirs = reference.actor[2 * i].weight.data
        torch.testing.assert_close(state[f"actor.layers.{i}.weight"], theirs, rtol=1e-4, atol=1e-5)
        for t in (0, 1):
            critic, target = reference.critics[t][2 * i].weight.data, reference.targets[t][2 * i].weight.data
            torch.testing.assert_close(state[f"critics.layers.{i}.weight"][t], critic, rtol=1e-4, atol=1e-5)
            kept = state[f"target_critics.layers.{i}.weight"][t]
            torch.testing.assert_close(kept, target, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(state["log_alpha.value"], reference.log_alpha.data, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize(
    ("obs_dim", "act_dim", "batch_size", "qat", "alpha"),
    [(17, 6, 256, False, 0.2), (17, 6, 256, True, 0.2), (11, 3, 100, True, "auto"), (3, 1, 33, False, "auto")],
)
def test_a_seed_alone_and_in_lockstep_agree_to_the_bit(
    obs_dim: int, act_dim: int, batch_size: int, qat: bool, alpha: float | str
) -> None:
    of = spec(obs_dim, act_dim)

    def train(seeds: list[int]) -> tuple[dict[str, torch.Tensor], np.ndarray]:
        agent = make_sac(of, seeds, qat, alpha=alpha, hidden=[256, 256])
        draw = batches(of, seeds, batch_size)
        for _ in range(100):
            agent.update(draw())
            actions = agent.act(draw().obs[:, :1].numpy())
        return agent.state(seeds.index(1)), actions[seeds.index(1)]

    (alone, alone_action), (pack, pack_action) = train([1]), train([5, 1, 7])
    for name, tensor in alone.items():
        assert torch.equal(tensor, pack[name]), name
    assert np.array_equal(alone_action, pack_action)


def test_same_seed_same_weights_other_seed_other_weights() -> None:
    of = spec()

    def weights(seed: int) -> torch.Tensor:
        agent, draw = make_sac(of, [seed]), batches(of, [seed], 32)
        for _ in range(5):
            agent.update(draw())
        return agent.state(0)["actor.layers.1.weight"]

    assert torch.equal(weights(3), weights(3))
    assert not torch.equal(weights(3), weights(4))


def test_temperature_rises_when_entropy_is_too_low_and_is_fixed_otherwise() -> None:
    of = spec()
    learned, fixed = make_sac(of, [0], alpha="auto"), make_sac(of, [0], alpha=0.2)
    learned.target_entropy = 100.0
    for agent in (learned, fixed):
        draw = batches(of, [0], 32)
        for _ in range(3):
            agent.update(draw())
    # Adam's first steps have the size of its learning rate.
    assert learned.log_alpha.value.item() == pytest.approx(3 * SAC_SETTINGS["alpha_lr"], rel=0.01)
    assert fixed.log_alpha.value.exp().item() == pytest.approx(0.2)


def test_entropy_does_not_depend_on_the_units_of_the_action() -> None:
    """With the same noise the learning is the same, whether actions are measured in +-1 or in +-0.4."""

    def train(bound: float) -> torch.Tensor:
        agent, draw = make_sac(spec(bound=bound), [0]), batches(spec(bound=bound), [0], 32)
        for _ in range(5):
            agent.update(draw())
        return agent.state(0)["actor.layers.1.weight"]

    torch.testing.assert_close(train(1.0), train(0.4))


def test_actions_stay_in_bounds_and_the_policy_is_the_mean_action() -> None:
    of = spec(bound=0.4)
    agent = make_sac(of, [0, 1])
    obs = np.random.default_rng(0).normal(size=(2, 50, 5)).astype(np.float32) * 10
    actions = agent.act(obs)
    assert actions.shape == (2, 50, 3)
    assert np.abs(actions).max() <= 0.4
    out = agent.actor(torch.from_numpy(obs))[1, :, :3]
    torch.testing.assert_close(agent.policy(1)(torch.from_numpy(obs[1])), 0.4 * torch.tanh(out))


def test_asymmetric_bounds() -> None:
    of = spec()
    of = type(of)("Test-v0", 5, 2, (-1.0, 0.0), (3.0, 10.0))
    agent = make_sac(of, [0])
    actions = agent.act(np.random.default_rng(0).normal(size=(1, 500, 5)).astype(np.float32) * 10)[0]
    assert (actions >= [-1, 0]).all()
    assert (actions <= [3, 10]).all()
    assert (actions.max(0) > [2, 8]).all()
