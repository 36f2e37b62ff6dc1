"""Twin Delayed Deep Deterministic policy gradient, https://arxiv.org/abs/1802.09477"""

from collections.abc import Sequence
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from trainers.actor_critic import ActorCritic, ActorTransform
from trainers.data.replay import Batch
from trainers.envs.spec import EnvSpec
from trainers.nn.optimizer import FlatAdam
from trainers.nn.stacked import StackedMLP
from trainers.nn.targets import make_target, polyak_update, twin_q_input, twin_streams
from trainers.policy import Policy, squash_to_bounds
from trainers.rng import init_streams, stacked_normal
from trainers.settings import Count, NotNegative, OffPolicySettings
from trainers.tensors import FloatArray


class TD3Settings(OffPolicySettings):
    """Settings of TD3; the values stand in conf/algo/td3.yaml."""

    name: Literal["td3"]
    exploration_noise: NotNegative
    target_noise: NotNegative
    target_noise_clip: NotNegative
    policy_delay: Count


class TD3(ActorCritic):
    """Networks, optimisers and random streams of S seeds; the settings are explained in conf/algo/td3.yaml."""

    SETTINGS = TD3Settings
    METRICS = ("losses/critic", "losses/actor", "losses/q_mean")
    COMPILES = True
    NOISE_DRAWS = 1
    settings: TD3Settings

    def __init__(
        self,
        spec: EnvSpec,
        seeds: Sequence[int],
        settings: TD3Settings,
        device: torch.device,
        *,
        transform_actor: ActorTransform | None = None,
    ) -> None:
        super().__init__(spec, seeds, settings, device)
        self.update_period = settings.policy_delay

        # networks
        streams = init_streams(seeds)
        actor_sizes = [spec.obs_dim, *settings.actor_widths, spec.act_dim]
        critic_sizes = [spec.obs_dim + spec.act_dim, *settings.hidden, 1]
        self.actor = StackedMLP(actor_sizes, settings.activation, streams).to(device)
        self.critics = StackedMLP(critic_sizes, settings.activation, twin_streams(streams)).to(device)
        if transform_actor is not None:
            transform_actor(self.actor)

        # optimisers put the networks on flat storage, which targets copy
        self.optimizers = {
            "actor": FlatAdam(self.actor, settings.actor_lr),
            "critics": FlatAdam(self.critics, settings.critic_lr),
        }
        self.target_actor = make_target(self.actor)
        self.target_critics = make_target(self.critics)
        self.networks = {
            "actor": self.actor,
            "critics": self.critics,
            "target_actor": self.target_actor,
            "target_critics": self.target_critics,
        }

    def act(self, obs: FloatArray) -> FloatArray:
        """Actions [S, E, act_dim] with Gaussian noise, clipped to the bounds, for observations [S, E, obs_dim]."""
        unit_action = np.tanh(self.actor_output(obs))
        noise = stacked_normal(self.explore_streams, *unit_action.shape[1:]).numpy()
        unit_action = np.clip(unit_action + self.settings.exploration_noise * noise, -1, 1)
        return self.bounded(self.unscale_action(unit_action))

    def update(self, batch: Batch) -> dict[str, Tensor]:
        """Gradient steps of the critics; every `policy_delay` times of actor and targets (Algorithm 1 of the paper).

        Args:
            batch: Transitions [S, B, ...].

        Returns:
            `METRICS` [S], as they were before the steps; that of the actor where it took one.
        """
        self.updates += 1
        unit_action = (batch.action - self.action_center) / self.action_scale

        # critics
        with torch.no_grad():
            limit = self.settings.target_noise_clip
            noise = self.settings.target_noise * self.update_noise(batch.action)
            next_action = torch.tanh(self.target_actor(batch.next_obs)) + noise.clamp(-limit, limit)
            next_action = next_action.clamp(-1, 1)
            next_q = self._q(self.target_critics, batch.next_obs, next_action).amin(1)
            target = batch.reward + batch.discount * next_q

        q = self._q(self.critics, batch.obs, unit_action)
        critic_loss = 0.5 * (q - target.unsqueeze(1)).square().mean(-1).sum(1)
        self.optimizers["critics"].minimize(critic_loss.sum())
        metrics = {"losses/critic": critic_loss.detach(), "losses/q_mean": q.detach().mean((1, 2))}
        if self.updates % self.settings.policy_delay:
            return metrics

        # actor
        action = torch.tanh(self.actor(batch.obs, update_ranges=True))
        first_critic = self.critics.with_frozen_params(num_grad_inputs=self.spec.act_dim, rows=slice(None, None, 2))
        actor_loss = -first_critic(torch.cat([batch.obs, action], -1)).mean((1, 2))
        self.optimizers["actor"].minimize(actor_loss.sum())

        # targets
        polyak_update(self.target_critics, self.critics, self.settings.tau)
        polyak_update(self.target_actor, self.actor, self.settings.tau)
        return metrics | {"losses/actor": actor_loss.detach()}

    def policy(self, i: int) -> Policy:
        """The actor without noise."""
        stages = self.actor.extract(i, outputs=self.spec.act_dim)
        return Policy(self.spec, [*stages, *squash_to_bounds(self.spec)])

    def _q(self, critics: StackedMLP, obs: Tensor, unit_action: Tensor) -> Tensor:
        """Q values [S, 2, B] of the twins."""
        q: Tensor = critics(twin_q_input(obs, unit_action)).view(-1, 2, obs.shape[1])
        return q
