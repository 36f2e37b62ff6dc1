"""Twin Delayed Deep Deterministic policy gradient, https://arxiv.org/abs/1802.09477"""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from trainers.actor_critic import ActorCritic, ActorTransform
from trainers.data.replay import Batch
from trainers.envs.spec import EnvSpec
from trainers.nn.optimizer import FlatAdam
from trainers.nn.stacked import StackedMLP
from trainers.nn.targets import make_target, polyak_update, twin_q_input
from trainers.policy import Policy, squash_to_bounds
from trainers.rng import RngStream, stacked_normal, torch_stream
from trainers.tensors import FloatArray


class TD3(ActorCritic):
    """Networks, optimisers and random streams of S seeds; the settings are explained in conf/algo/td3.yaml."""

    METRICS = ("losses/critic", "losses/actor", "losses/q_mean")
    COMPILES = True
    NOISE_DRAWS = 1

    def __init__(
        self,
        spec: EnvSpec,
        seeds: Sequence[int],
        device: torch.device,
        *,
        hidden: Sequence[int],
        activation: str,
        actor_lr: float,
        critic_lr: float,
        exploration_noise: float,
        target_noise: float,
        target_noise_clip: float,
        policy_delay: int,
        tau: float,
        transform_actor: ActorTransform | None = None,
    ) -> None:
        super().__init__(spec, seeds, device)
        self.exploration_noise = exploration_noise
        self.tau = tau
        self.policy_delay = policy_delay
        self.target_noise = target_noise
        self.target_noise_clip = target_noise_clip
        self.update_period = policy_delay
        init = [torch_stream(RngStream.INIT, seed) for seed in seeds]
        twice = [g for g in init for _ in range(2)]
        self.actor = StackedMLP([spec.obs_dim, *hidden, spec.act_dim], activation, init).to(device)
        self.critics = StackedMLP([spec.obs_dim + spec.act_dim, *hidden, 1], activation, twice).to(device)
        if transform_actor is not None:
            transform_actor(self.actor)
        self.optimizers = {"actor": FlatAdam(self.actor, actor_lr), "critics": FlatAdam(self.critics, critic_lr)}
        self.target_actor = make_target(self.actor)
        self.target_critics = make_target(self.critics)
        self.networks = {
            "actor": self.actor,
            "critics": self.critics,
            "target_actor": self.target_actor,
            "target_critics": self.target_critics,
        }

    def act(self, obs: FloatArray) -> FloatArray:
        unit_action = np.tanh(self.acting()(obs))
        noise = stacked_normal(self.explore_streams, *unit_action.shape[1:]).numpy()
        unit_action = np.clip(unit_action + self.exploration_noise * noise, -1, 1)
        return self.bounded(self.unscale_action(unit_action))

    def update(self, batch: Batch) -> dict[str, Tensor]:
        """Algorithm 1 of the paper, gradient steps: critics; every `policy_delay` times actor and targets."""
        self.updates += 1
        unit_action = (batch.action - self.action_center) / self.action_scale

        # critics
        with torch.no_grad():
            noise = (self.target_noise * self.update_noise(batch.action)).clamp(
                -self.target_noise_clip, self.target_noise_clip
            )
            next_action = (torch.tanh(self.target_actor(batch.next_obs)) + noise).clamp(-1, 1)
            next_q = self._q(self.target_critics, batch.next_obs, next_action).amin(1)
            target = batch.reward + batch.discount * next_q

        q = self._q(self.critics, batch.obs, unit_action)
        critic_loss = 0.5 * (q - target.unsqueeze(1)).square().mean(-1).sum(1)
        self.optimizers["critics"].minimize(critic_loss.sum())
        figures = {"losses/critic": critic_loss.detach(), "losses/q_mean": q.detach().mean((1, 2))}
        if self.updates % self.policy_delay:
            return figures

        # actor
        action = torch.tanh(self.actor(batch.obs, update_ranges=True))
        first_critic = self.critics.with_frozen_params(num_grad_inputs=self.spec.act_dim, rows=slice(None, None, 2))
        actor_loss = -first_critic(torch.cat([batch.obs, action], -1)).mean((1, 2))
        self.optimizers["actor"].minimize(actor_loss.sum())

        # targets
        polyak_update(self.target_critics, self.critics, self.tau)
        polyak_update(self.target_actor, self.actor, self.tau)
        return figures | {"losses/actor": actor_loss.detach()}

    def policy(self, i: int) -> Policy:
        """The actor without noise."""
        stages = self.actor.extract(i, outputs=self.spec.act_dim)
        return Policy(self.spec, [*stages, *squash_to_bounds(self.spec)])

    def _q(self, critics: StackedMLP, obs: Tensor, unit_action: Tensor) -> Tensor:
        """Q values [S, 2, B] of the twins."""
        q: Tensor = critics(twin_q_input(obs, unit_action)).view(-1, 2, obs.shape[1])
        return q
