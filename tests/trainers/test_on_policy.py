"""TRPO, PPO and what they share: the mathematics in closed form, and the seed axis to the bit."""

import math
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from tests.helpers import FEW_BITS, ON_POLICY, SPEC, Count, make_on_policy, rollouts, spec
from trainers.data.rollout import Rollout, collect, gae
from trainers.envs.seed_envs import SyncSeedEnvs
from trainers.loops import on_policy_loop
from trainers.nn.distributions import entropy, kl_divergence, log_probability
from trainers.nn.flat_storage import row_views, storage_layout
from trainers.nn.normalizer import RunningStatistics
from trainers.nn.optimizer import row_gradient
from trainers.nn.stacked import GaussianMLP
from trainers.on_policy import minibatches
from trainers.ppo import PPO, Terms, clipped_surrogate, mean_terms
from trainers.registry import AGENTS
from trainers.trpo import TRPO, conjugate_gradient, fisher_vector_product


def row(*values: float) -> torch.Tensor:
    """[1 seed, T, 1 environment]"""
    return torch.tensor(values, dtype=torch.float64).view(1, -1, 1)


def test_gae_by_hand() -> None:
    """gamma 0.5, lambda 0.5; a step, a termination, a step, a time limit, and the cut at the rollout's end."""
    reward, value, next_value = row(1, 2, 3, 4, 5), row(10, 20, 30, 40, 50), row(20, 99, 40, 60, 80)
    terminated, done = row(0, 1, 0, 0, 0).bool(), row(0, 1, 0, 1, 0).bool()
    # delta: 1+10-10, 2-20 (no bootstrap), 3+20-30, 4+30-40 (bootstrap from the final observation), 5+40-50
    expected = row(1 + 0.25 * -18, -18, -7 + 0.25 * -6, -6, -5)
    torch.testing.assert_close(gae(reward, value, next_value, terminated, done, 0.5, 0.5), expected)


@pytest.mark.parametrize("num_envs", [3, 4])  # summed number by number, and row by row
def test_gae_with_lambda_one_is_the_discounted_return_and_with_zero_the_td_error(num_envs: int) -> None:
    generator = torch.Generator().manual_seed(0)
    reward, value = torch.randn(2, 30, num_envs, generator=generator), torch.randn(2, 31, num_envs, generator=generator)
    never = torch.zeros(2, 30, num_envs, dtype=torch.bool)
    arguments = (reward, value[:, :-1], value[:, 1:], never, never, 0.9)
    discounts = 0.9 ** torch.arange(30).view(1, -1, 1)
    monte_carlo = (discounts * reward).sum(1) + 0.9**30 * value[:, -1] - value[:, 0]
    torch.testing.assert_close(gae(*arguments, 1.0)[:, 0], monte_carlo)
    torch.testing.assert_close(gae(*arguments, 0.0), reward + 0.9 * value[:, 1:] - value[:, :-1])


@pytest.mark.parametrize("rewards", [1.0, 100.0])
def test_an_endless_task_with_a_time_limit_is_worth_its_discounted_sum(rewards: float) -> None:
    """Where every state pays r for ever, V = r / (1 - gamma) leaves no advantage anywhere, limit or not."""

    class Endless(Count):
        def step(self, action: Any) -> Any:
            obs, _, _, truncated, info = super().step(action)
            return obs, rewards, False, truncated or self.step_in_episode == 3, info

    envs = SyncSeedEnvs(Endless, SPEC, [0], 2)
    envs.reset()
    rollout = collect(lambda obs: np.zeros((1, 2, 1), np.float32), envs, 20, torch.device("cpu"))
    value = torch.full_like(rollout.reward, rewards / 0.1)
    assert rollout.done.any()
    assert not rollout.terminated.any()
    advantage = gae(rollout.reward, value, value, rollout.terminated, rollout.done, 0.9, 0.95)
    torch.testing.assert_close(advantage, torch.zeros_like(advantage), atol=1e-3 * rewards, rtol=0)


@pytest.mark.parametrize(
    ("total", "sizes"),
    [(40, [10, 10, 10, 10]), (44, [10, 10, 10, 14]), (46, [10, 10, 10, 10, 6]), (4, [4]), (43, [10, 10, 10, 14])],
)
def test_the_last_rollout_takes_the_rest(total: int, sizes: list[int]) -> None:
    seen: list[int] = []

    class Watcher:
        def anneal(self, steps: int) -> None:
            assert steps == sum(seen)

        def act(self, obs: np.ndarray) -> np.ndarray:
            return np.zeros((1, 2, 1), np.float32)

        def update(self, rollout: Rollout) -> dict[str, torch.Tensor]:
            seen.append(rollout.reward.numel())
            return {}

    envs = SyncSeedEnvs(Count, SPEC, [0], 2)
    steps = [
        s for s, _ in on_policy_loop(Watcher(), envs, torch.device("cpu"), steps=0, total_steps=total, rollout_steps=10)
    ]
    assert seen == sizes
    assert steps == np.cumsum(sizes).tolist()


def test_a_rollout_holds_true_next_observations_and_clips_for_the_environment_only() -> None:
    seen = []

    class Recording(Count):
        def step(self, action: Any) -> Any:
            seen.append(float(action[0]))
            return super().step(action)

    envs = SyncSeedEnvs(Recording, SPEC, [3], 1)
    envs.reset()
    rollout = collect(lambda obs: np.full((1, 1, 1), 2.5, np.float32), envs, 40, torch.device("cpu"))
    assert set(seen) == {1.0}
    assert (rollout.action == 2.5).all()
    episode, step = rollout.obs[0, :, 0, 0], rollout.obs[0, :, 0, 1]
    alive = ~rollout.terminated[0, :, 0]
    assert torch.equal(rollout.next_obs[0, alive, 0, 0], episode[alive])
    assert torch.equal(rollout.next_obs[0, alive, 0, 1], step[alive] + 1)
    assert torch.equal(rollout.done[0, :, 0], torch.where(episode % 2 == 0, step == 2, step == 4))
    assert torch.equal(
        rollout.obs[0, 1:, 0][~rollout.done[0, :-1, 0]], rollout.next_obs[0, :-1, 0][~rollout.done[0, :-1, 0]]
    )


def test_running_statistics_are_those_of_the_whole_stream() -> None:
    generator = np.random.default_rng(0)
    stream = generator.normal([1e4, 0, -3], [1e-2, 5, 1e3], (2, 1000, 3))
    statistics = RunningStatistics(2, 3)
    for part in np.split(stream, [1, 8, 500, 503], axis=1):
        statistics.update(torch.from_numpy(part))
    np.testing.assert_allclose(statistics.mean[:, 0], stream.mean(1), rtol=1e-12)
    np.testing.assert_allclose(statistics.var[:, 0], stream.var(1), rtol=1e-9)
    assert (statistics.count == 1000).all()


def test_gaussian_formulas_agree_with_torch() -> None:
    generator = torch.Generator().manual_seed(0)
    mean, old_mean, x = (torch.randn(2, 7, 3, generator=generator) for _ in range(3))
    log_std, old_log_std = (torch.randn(2, 1, 3, generator=generator) for _ in range(2))
    new = torch.distributions.Normal(mean, log_std.exp())
    old = torch.distributions.Normal(old_mean, old_log_std.exp())
    torch.testing.assert_close(log_probability(mean, log_std, x), new.log_prob(x).sum(-1))
    divergence = torch.distributions.kl_divergence(old, new).sum(-1)
    torch.testing.assert_close(kl_divergence(old_mean, old_log_std, mean, log_std), divergence)
    torch.testing.assert_close(entropy(log_std).expand(2, 7), new.entropy().sum(-1))


def test_clipped_surrogate_by_hand() -> None:
    ratio, advantage = torch.tensor([0.5, 0.5, 1.1, 1.5, 1.5]), torch.tensor([1.0, -1.0, 2.0, 1.0, -1.0])
    expected = torch.tensor([0.5, -0.8, 2.2, 1.2, -1.5])
    torch.testing.assert_close(clipped_surrogate(ratio, advantage, 0.2), expected)


def test_minibatches_are_a_pass_over_everything_in_an_order_of_the_seed() -> None:
    def parts(seeds: list[int]) -> torch.Tensor:
        x = torch.arange(10).expand(len(seeds), 10)
        streams = [torch.Generator().manual_seed(seed) for seed in seeds]
        batches = [part for (part,) in minibatches((x,), 4, streams)]
        assert [part.shape[1] for part in batches] == [4, 4, 2]
        return torch.cat(batches, 1)

    pack = parts([1, 5])
    assert torch.equal(pack.sort(1).values, torch.arange(10).expand(2, 10))
    assert torch.equal(pack[1], parts([5])[0])
    assert not torch.equal(pack[0], pack[1])


def test_conjugate_gradient_solves_each_seed() -> None:
    generator = torch.Generator().manual_seed(0)
    root = torch.randn(3, 8, 8, generator=generator, dtype=torch.float64)
    matrix = root @ root.mT + 0.1 * torch.eye(8, dtype=torch.float64)
    b = torch.randn(3, 8, generator=generator, dtype=torch.float64)
    b[1] = 0  # has arrived before it begins
    x = conjugate_gradient(lambda v: (matrix @ v.unsqueeze(-1)).squeeze(-1), b, 20)
    torch.testing.assert_close(x, torch.linalg.solve(matrix, b))
    assert (x[1] == 0).all()


class KL:
    """Mean KL of a small actor from where it is, as a function of its flat parameters."""

    def __init__(self, qat: bool | str) -> None:
        agent = make_on_policy("trpo", spec(4, 2), [0, 1], qat, hidden="[6]")
        assert isinstance(agent, TRPO)
        self.actor: GaussianMLP = agent.actor
        self.obs = torch.randn(2, 40, 4, generator=torch.Generator().manual_seed(0))
        with torch.no_grad():
            self.actor.flat += 0.3 * torch.randn(self.actor.flat.shape, generator=torch.Generator().manual_seed(1))
            self.actor.flat[:, sum(p[0].numel() for p in self.actor.parameters()) :] = 0
            self.actor(self.obs, update_ranges=True)
            self.old = self.actor(self.obs), self.actor.log_std.clone()

    def __call__(self) -> torch.Tensor:
        return kl_divergence(*self.old, self.actor(self.obs), self.actor.log_std).mean(-1)


def random_direction(like: torch.Tensor) -> torch.Tensor:
    return torch.randn(like.shape, generator=torch.Generator().manual_seed(2), dtype=like.dtype)


def test_fisher_vector_product_is_the_hessian_of_the_kl() -> None:
    """Against central differences of the gradient, in float64; fp32 networks."""
    kl = KL(qat=False)
    kl.actor.double()
    kl.actor.dtype = torch.float64
    kl.actor.flatten()
    kl.obs = kl.obs.double()
    kl.old = kl.actor(kl.obs).detach(), kl.actor.log_std.detach().clone()
    v = random_direction(kl.actor.flat)
    product = fisher_vector_product(kl().sum(), kl.actor, 0.1)(v)
    start, gradients = kl.actor.flat.clone(), []
    for sign in (1, -1):
        with torch.no_grad():
            kl.actor.flat.copy_(start + sign * 1e-5 * v)
        gradients.append(row_gradient(kl().sum(), kl.actor))
    width = sum(p[0].numel() for p in kl.actor.parameters())
    expected = (gradients[0] - gradients[1]) / 2e-5 + 0.1 * v
    torch.testing.assert_close(product[:, :width], expected[:, :width], rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("qat", [False, True, FEW_BITS])
def test_fisher_vector_product_is_the_generalised_gauss_newton_product(qat: bool | str) -> None:
    """J^T M J v, J the Jacobian of (mean, log std) by the straight-through estimator, M the KL's own Hessian."""
    kl = KL(qat)
    actor = kl.actor
    parameters, width = list(actor.parameters()), sum(p[0].numel() for p in actor.parameters())
    v = random_direction(actor.flat)
    product = fisher_vector_product(kl().sum(), actor, 0.0)(v)[:, :width]
    for seed in range(2):
        outputs = torch.cat([actor(kl.obs)[seed].flatten(), actor.log_std[seed].flatten()])
        jacobian = torch.stack(
            [
                torch.cat(
                    [
                        storage_layout(g)[seed].flatten()
                        for g in torch.autograd.grad(o, parameters, retain_graph=True, materialize_grads=True)
                    ]
                )
                for o in outputs
            ]
        )
        precision = torch.exp(-2 * actor.log_std[seed, 0].detach())
        # KL per state: sum (mean - old)^2 / (2 std^2) + 2 (d log std)^2 / 2 to second order; the mean over 40 states.
        metric = torch.cat([(precision / 40).repeat(40), torch.full((2,), 2.0)])
        expected = jacobian.mT @ (metric * (jacobian @ v[seed, :width]))
        torch.testing.assert_close(product[seed], expected, rtol=1e-3, atol=1e-4)


def test_seeds_do_not_mix_in_the_product() -> None:
    kl = KL(qat=True)
    v = random_direction(kl.actor.flat)
    v[1] = 0
    product = fisher_vector_product(kl().sum(), kl.actor, 0.1)(v)
    assert (product[1] == 0).all()
    assert product[0].abs().max() > 0


class WatchedTRPO(TRPO):
    """Remembers how far the policy had moved when all was learned, before ranges and statistics move."""

    def update_statistics(self, rollout: Rollout) -> None:
        if self.updates > 1:
            for name, buffer in self.actor.named_buffers():
                assert torch.equal(buffer, self.ranges[name]), name
            self.moved = self.distance(rollout)
        super().update_statistics(rollout)

    def act_again(self, rollout: Rollout) -> None:
        """Take the policy of now as the old one."""
        self.ranges = {name: b.clone() for name, b in self.actor.named_buffers()}
        self.old = self.actor(self.normalized(rollout.obs.flatten(1, 2))).detach(), self.actor.log_std.detach().clone()

    @torch.no_grad()
    def distance(self, rollout: Rollout) -> torch.Tensor:
        obs = self.normalized(rollout.obs.flatten(1, 2))
        return kl_divergence(*self.old, self.actor(obs), self.actor.log_std).mean(-1)


@pytest.mark.parametrize("qat", [False, True, FEW_BITS])
def test_trpo_stays_within_its_trust_region_and_improves(qat: bool | str, monkeypatch: pytest.MonkeyPatch) -> None:
    of, seeds = spec(4, 2), [0, 1]
    monkeypatch.setitem(AGENTS, "trpo", WatchedTRPO)
    agent = make_on_policy("trpo", of, seeds, qat, hidden="[16]", critic_epochs=1)
    assert isinstance(agent, WatchedTRPO)
    draw = rollouts(of, seeds, 128, 4)
    agent.update(draw(agent))
    moved = []
    for _ in range(5):
        rollout = draw(agent)
        agent.act_again(rollout)
        figures = agent.update(rollout)
        assert (figures["losses/actor"] < 0).all()
        assert (figures["losses/step_size"] > 0).all()
        torch.testing.assert_close(agent.moved, figures["losses/approx_kl"], rtol=1e-3, atol=1e-6)
        assert (agent.moved > 0.003).all()
        moved.append(agent.moved)
    # An actor of few bits comes near what the line search found, but single updates go further.
    assert torch.stack(moved).mean() < 0.015
    assert (torch.stack(moved) <= (0.05 if qat == FEW_BITS else 0.01)).all()


def test_an_actor_of_few_bits_is_fitted_to_a_step_that_rounding_loses() -> None:
    """A natural step within the trust region of 0.01: rounding alone throws the actor out of it."""
    agent = make_on_policy("trpo", spec(17, 6), [0, 1], "compress.weight_bits=3")
    assert isinstance(agent, TRPO)
    assert agent.fit is not None
    actor = agent.actor
    obs = torch.randn(2, 1024, 17, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        actor.linears[-1].weight.mul_(30)  # as large as of a trained policy
        actor(obs, update_ranges=True)
        mean, log_std = actor(obs), actor.log_std.clone()

    def kl(old: torch.Tensor) -> torch.Tensor:
        return kl_divergence(old, log_std, actor(obs), actor.log_std).mean(-1)

    product = fisher_vector_product(kl(mean).sum(), actor, 0.1)
    objective = (actor(obs) * obs[..., :6]).mean() + 0 * actor.log_std.mean()
    step = conjugate_gradient(product, row_gradient(objective, actor), 10)
    size = (0.02 / (step * product(step)).sum(1, keepdim=True)).sqrt()
    del product
    with torch.no_grad(), actor.held_rounding():
        actor.flat += size * step
        aim, aimed = actor(obs), kl(mean)
        log_std = actor.log_std.clone()
    missed = kl(aim)
    assert ((aimed > 0.005) & (aimed < 0.01)).all()
    assert (missed > 0.01).all()
    agent._fit(agent.fit, obs, aim)
    assert (kl(aim) < missed / 2).all()
    assert torch.equal(actor.log_std, log_std)


def test_trpo_with_few_bits_goes_on_bit_for_bit_from_a_snapshot() -> None:
    of, seeds = spec(8, 8), [0, 1]
    agent, again = (make_on_policy("trpo", of, seeds, FEW_BITS, hidden="[16]", critic_epochs=1) for _ in range(2))
    draw = rollouts(of, seeds, 128, 4)
    agent.update(draw(agent))
    for i in range(len(seeds)):
        again.restore(i, agent.snapshot(i))
    rollout = draw(agent)
    for _ in range(2):
        agent.update(rollout)
        again.update(rollout)
    for i in range(len(seeds)):
        for one, other in zip(agent.state(i).values(), again.state(i).values(), strict=True):
            assert torch.equal(one, other)


def test_a_line_search_without_success_leaves_the_policy() -> None:
    agent = make_on_policy("trpo", spec(4, 2), [0, 1], hidden="[8]")
    assert isinstance(agent, TRPO)
    before = agent.actor.flat.clone()
    good = torch.tensor([True, False])

    def surrogate() -> torch.Tensor:
        moved = (agent.actor.flat - before).abs().amax(1) > 0
        return torch.where(moved, torch.where(good, 1.0, -1.0), 0.0)

    def kl() -> torch.Tensor:  # small enough from the third try on
        return (agent.actor.flat - before).abs().amax(1) / 0.64 * 0.01

    fraction, gain, divergence = agent._line_search(torch.ones_like(before), surrogate, kl)
    torch.testing.assert_close(fraction, torch.tensor([0.64, 0.0]))
    torch.testing.assert_close(gain, torch.tensor([1.0, 0.0]))
    torch.testing.assert_close(agent.actor.flat[0] - before[0], torch.full_like(before[0], 0.64))
    assert torch.equal(agent.actor.flat[1], before[1])
    torch.testing.assert_close(divergence, torch.tensor([0.01, 0.0]))


def plain_network(agent: Any, name: str) -> nn.Sequential:
    state = {k.removeprefix(f"{name}."): v for k, v in agent.state(0).items() if k.startswith(f"{name}.layers")}
    layers: list[nn.Module] = []
    for i in range(3):
        weight = state[f"layers.{i}.weight"]
        linear = nn.Linear(weight.shape[1], weight.shape[0])
        linear.weight.data, linear.bias.data = weight.clone(), state[f"layers.{i}.bias"][0].clone()
        layers += [linear, nn.Tanh()]
    return nn.Sequential(*layers[:-1])


def test_ppo_equals_a_plain_implementation() -> None:
    """One rollout, two epochs, with torch modules, one optimiser and torch's own clipping."""
    of = spec(4, 2)
    agent = make_on_policy(
        "ppo", of, [3], hidden="[8,8]", epochs=2, batch_size=32, entropy_coef=0.01, lr_decay_steps="null"
    )
    assert isinstance(agent, PPO)
    draw = rollouts(of, [3], 32, 4)
    agent.update(draw(agent))
    actor, critic = plain_network(agent, "actor"), plain_network(agent, "critic")
    log_std = nn.Parameter(agent.state(0)["actor.log_std"][0].clone())
    parameters = [*actor.parameters(), log_std, *critic.parameters()]
    adam = torch.optim.Adam(parameters, 3e-4)
    for name, group in (("actor", [log_std, *actor.parameters()]), ("critic", list(critic.parameters()))):
        kept, stacked = agent.optimizers[name].state(slice(0, 1)), agent.optimizers[name].parameters
        first, second = (row_views(kept[k], stacked) for k in ("exp_avg", "exp_avg_sq"))
        for p, m, v in zip(group, first, second, strict=True):
            moments = {"exp_avg": m[0].view_as(p).clone(), "exp_avg_sq": v[0].view_as(p).clone()}
            adam.state[p] = {"step": kept["step"][0].clone(), **moments}
    mean, std, scale = agent.observations.mean[0, 0], agent.observations.var[0, 0].sqrt(), agent.returns.std().item()
    rollout = draw(agent)
    order = torch.Generator()
    order.set_state(agent.update_streams[0].get_state())

    def prepare(obs: torch.Tensor) -> torch.Tensor:
        return ((obs[0] - mean) / std).clamp(-10, 10).float()

    obs = prepare(rollout.obs).flatten(0, 1)
    action = rollout.action[0].flatten(0, 1) / 0.4
    with torch.no_grad():
        old = torch.distributions.Normal(actor(obs), log_std.exp()).log_prob(action).sum(-1)
    for _ in range(2):
        with torch.no_grad():
            value, next_value = (critic(prepare(o)).squeeze(-1) * scale for o in (rollout.obs, rollout.next_obs))
        advantage, running = torch.zeros_like(value), torch.zeros(4)
        for t in reversed(range(32)):
            alive, going_on = 1 - rollout.terminated[0, t].float(), 1 - rollout.done[0, t].float()
            delta = rollout.reward[0, t] + 0.99 * alive * next_value[t] - value[t]
            running = delta + 0.99 * 0.95 * going_on * running
            advantage[t] = running
        target = ((advantage + value) / scale).flatten()
        for index in torch.randperm(128, generator=order).split(32):
            adv = advantage.flatten()[index]
            adv = (adv - adv.mean()) / (adv.std(correction=0) + 1e-8)
            dist = torch.distributions.Normal(actor(obs[index]), log_std.exp())
            ratio = (dist.log_prob(action[index]).sum(-1) - old[index]).exp()
            policy_loss = -torch.min(ratio * adv, ratio.clamp(0.8, 1.2) * adv).mean()
            value_loss = 0.5 * (critic(obs[index]).squeeze(-1) - target[index]).pow(2).mean()
            loss = policy_loss + 0.5 * value_loss - 0.01 * dist.entropy().sum(-1).mean()
            adam.zero_grad()
            loss.backward()
            nn.utils.clip_grad_norm_(parameters, 0.5)
            adam.step()
    agent.update(rollout)
    state = agent.state(0)
    torch.testing.assert_close(state["actor.log_std"][0], log_std.data, rtol=1e-4, atol=1e-5)
    for i in range(3):
        torch.testing.assert_close(state[f"actor.layers.{i}.weight"], actor[2 * i].weight.data, rtol=1e-3, atol=1e-5)
    torch.testing.assert_close(state["critic.layers.1.weight"], critic[2].weight.data, rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("algo", ON_POLICY)
def test_the_scale_of_returns_moves_without_moving_the_values(algo: str) -> None:
    of = spec(4, 2)
    agent = make_on_policy(algo, of, [0, 1], hidden="[8]")
    draw = rollouts(of, [0, 1], 64, 2)
    agent.update(draw(agent))
    obs = torch.randn(2, 9, 4)

    def values() -> torch.Tensor:
        value: torch.Tensor = agent.returns.std() * agent.critic(obs)
        return value

    before, scale = values(), agent.returns.std().clone()
    rollout = draw(agent)
    agent.update_statistics(rollout._replace(reward=100 * rollout.reward))
    assert (agent.returns.std() > 2 * scale).all()
    torch.testing.assert_close(values(), before)


def test_a_seed_that_has_moved_too_far_stops_and_the_other_goes_on() -> None:
    of, seeds = spec(4, 2), [0, 1]
    free, stopping = (make_on_policy("ppo", of, seeds, hidden="[8]", lr=3e-2, target_kl=kl) for kl in ("null", 1e-3))
    for agent in (free, stopping):
        draw = rollouts(of, seeds, 64, 4)
        figures = agent.update(draw(agent))
    moved = [
        kl_divergence(torch.zeros(1), torch.tensor([-0.5]), torch.zeros(1), a.actor.log_std).sum()
        for a in (free, stopping)
    ]
    assert moved[1] < moved[0]
    assert (figures["losses/approx_kl"] < 0.5).all()
    assert (figures["losses/kl_stopped"] == 1).all()


def test_a_stopped_seed_changes_no_more_and_the_other_learns_as_if_alone() -> None:
    """Of the two only one moves too far; random streams go on as if nobody had stopped."""
    of, seeds = spec(4, 2), [0, 1]
    pack = make_on_policy("ppo", of, seeds, hidden="[8]", target_kl=1e-3)
    alone = make_on_policy("ppo", of, [1], hidden="[8]", target_kl=1e-3)
    for optimizer in pack.optimizers.values():
        assert optimizer.steps.eq(0).all()
    rollout = rollouts(of, seeds, 64, 4)(pack)
    quiet = rollout._replace(reward=rollout.reward * torch.tensor([1.0, 0.0]).view(2, 1, 1))
    pack.update(quiet)
    alone.update(Rollout(*(x[1:] for x in quiet)))
    for name, tensor in alone.state(0).items():
        assert torch.equal(tensor, pack.state(1)[name]), name
    assert torch.equal(alone.update_streams[0].get_state(), pack.update_streams[1].get_state())


def test_the_learning_rate_of_ppo_falls_linearly() -> None:
    of = spec(4, 2)
    agent = make_on_policy("ppo", of, [0], hidden="[8]", lr=1e-3, lr_decay_steps=2_000_000)
    rates = []
    for steps in (0, 500_000, 1_000_000, 1_500_000):
        agent.anneal(steps)
        rates.append(agent.optimizers["actor"].lr.item())
    assert rates == pytest.approx([1e-3, 0.75e-3, 0.5e-3, 0.25e-3])


def test_the_learning_rate_of_ppo_counts_the_steps_of_the_training_at_hand() -> None:
    """Not those that the agent saw in a training before."""
    agent = make_on_policy("ppo", SPEC, [0], hidden="[8]", lr=1e-3, lr_decay_steps=1_000_000)
    agent.observations.count.fill_(10**6)
    envs = SyncSeedEnvs(Count, SPEC, [0], 2)
    for _ in on_policy_loop(agent, envs, torch.device("cpu"), steps=0, total_steps=40, rollout_steps=20):
        pass
    assert agent.optimizers["critic"].lr.item() == pytest.approx(1e-3 * (1 - 20 / 1_000_000))


@pytest.mark.parametrize("algo", ON_POLICY)
def test_an_agent_that_is_trained_further_keeps_its_statistics_for_its_first_update(
    algo: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    of = spec(4, 2)
    trained = make_on_policy(algo, of, [0], hidden="[8]")
    draw = rollouts(of, [0], 64, 2)
    trained.update(draw(trained))
    further = make_on_policy(algo, of, [0], hidden="[8]")
    further.load_state(0, trained.state(0))
    calls: list[str] = []

    def record(name: str) -> None:
        method = getattr(further, name)

        def recorded(rollout: Rollout) -> Any:
            calls.append(name)
            return method(rollout)

        monkeypatch.setattr(further, name, recorded)

    record("advantages")
    record("update_statistics")
    further.update(draw(further))
    assert calls.index("update_statistics") > calls.index("advantages")
    assert calls.count("update_statistics") == 1


def test_what_ppo_logs_is_the_mean_over_the_minibatches_a_seed_learned_from() -> None:
    def terms(value: float) -> Terms:
        return Terms(*(torch.tensor([value, 10 * value]) for _ in Terms._fields))

    learning = [torch.tensor([True, True]), torch.tensor([True, False])]
    means = mean_terms([terms(1.0), terms(2.0)], learning)
    assert torch.equal(means["losses/critic"], torch.tensor([1.5, 10.0]))
    assert torch.equal(means["losses/actor"], torch.tensor([-1.5, -10.0]))


@pytest.mark.parametrize("algo", ON_POLICY)
def test_the_explained_variance_is_that_of_the_values_of_the_rollout(algo: str) -> None:
    of = spec(4, 2)
    agent = make_on_policy(algo, of, [0, 1], hidden="[8]")
    draw = rollouts(of, [0, 1], 64, 2)
    agent.update(draw(agent))
    rollout = draw(agent)
    with torch.no_grad():
        value = agent.returns.std().squeeze(1) * agent.critic(agent.normalized(rollout.obs.flatten(1, 2))).squeeze(-1)
    _, returns = agent.advantages(rollout)
    expected = 1 - ((returns - value).var(1) / returns.var(1))
    figures = agent.update(rollout)
    torch.testing.assert_close(figures["losses/explained_variance"], expected, rtol=1e-4, atol=1e-4)
    assert figures["losses/log_std"].shape == (2,)


@pytest.mark.parametrize("algo", ON_POLICY)
@pytest.mark.parametrize("qat", [False, True, FEW_BITS])
def test_the_policy_that_acts_is_the_policy_that_is_cut_out(algo: str, qat: bool | str) -> None:
    """But for the noise; observation statistics, limits and action scale are all inside."""
    of, seeds = spec(4, 2), [2, 3]
    agent = make_on_policy(algo, of, seeds, qat, hidden="[16]")
    draw = rollouts(of, seeds, 64, 2)
    agent.update(draw(agent))
    agent.actor.log_std.data.fill_(-math.inf)
    obs = torch.randn(2, 50, 4) * 20
    acted = torch.from_numpy(agent.act(obs.numpy())).clamp(-0.4, 0.4)
    for i in range(2):
        torch.testing.assert_close(agent.policy(i)(obs[i]), acted[i], rtol=1e-4, atol=2e-3 if qat else 1e-5)


@pytest.mark.parametrize("algo", ON_POLICY)
@pytest.mark.parametrize(
    ("obs_dim", "act_dim", "qat"), [(17, 6, False), (17, 6, True), (11, 3, False), (3, 1, True), (17, 6, FEW_BITS)]
)
def test_a_seed_alone_and_in_lockstep_agree_to_the_bit(algo: str, obs_dim: int, act_dim: int, qat: bool | str) -> None:
    of = spec(obs_dim, act_dim)

    def train(seeds: list[int]) -> dict[str, torch.Tensor]:
        agent = (
            make_on_policy(algo, of, seeds, qat, target_kl=0.01)
            if algo == "ppo"
            else make_on_policy(algo, of, seeds, qat)
        )
        draw = rollouts(of, seeds, 65, 5)
        for _ in range(4):
            agent.update(draw(agent))
        return agent.state(seeds.index(1))

    alone, pack = train([1]), train([5, 1, 7])
    for name, tensor in alone.items():
        assert torch.equal(tensor, pack[name]), name
