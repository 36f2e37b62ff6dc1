"""Deep Deterministic Policy Gradient, https://arxiv.org/abs/1509.02971 (Gaussian instead of correlated noise)."""

from collections.abc import Callable, Sequence
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from trainers.actor_critic import ActorCritic, ActorTransform
from trainers.data.replay import Batch
from trainers.envs.spec import EnvSpec
from trainers.nn.optimizer import FlatAdam
from trainers.nn.stacked import StackedMLP
from trainers.nn.targets import make_target, polyak_update
from trainers.policy import Policy, squash_to_bounds
from trainers.rng import init_streams, stacked_normal
from trainers.settings import NotNegative, OffPolicySettings
from trainers.tensors import FloatArray


class DDPGSettings(OffPolicySettings):
    """Settings of DDPG; the values stand in conf/algo/ddpg.yaml."""

    name: Literal["ddpg"]
    exploration_noise: NotNegative


class DDPG(ActorCritic):
    """Networks, optimisers and random streams of S seeds; the settings are explained in conf/algo/ddpg.yaml."""

    SETTINGS = DDPGSettings
    METRICS = ("losses/critic", "losses/actor", "losses/q_mean")
    COMPILES = True
    settings: DDPGSettings

    def __init__(
        self,
        spec: EnvSpec,
        seeds: Sequence[int],
        settings: DDPGSettings,
        device: torch.device,
        *,
        transform_actor: ActorTransform | None = None,
    ) -> None:
        super().__init__(spec, seeds, settings, device)

        # networks
        streams = init_streams(seeds)
        actor_sizes = [spec.obs_dim, *settings.actor_widths, spec.act_dim]
        critic_sizes = [spec.obs_dim + spec.act_dim, *settings.hidden, 1]
        self.actor = StackedMLP(actor_sizes, settings.activation, streams).to(device)
        self.critic = StackedMLP(critic_sizes, settings.activation, streams).to(device)
        if transform_actor is not None:
            transform_actor(self.actor)

        # optimisers put the networks on flat storage, which targets copy
        self.optimizers = {
            "actor": FlatAdam(self.actor, settings.actor_lr),
            "critic": FlatAdam(self.critic, settings.critic_lr),
        }
        self.target_actor = make_target(self.actor)
        self.target_critic = make_target(self.critic)
        self.networks = {
            "actor": self.actor,
            "critic": self.critic,
            "target_actor": self.target_actor,
            "target_critic": self.target_critic,
        }

    def act(self, obs: FloatArray) -> FloatArray:
        """Actions [S, E, act_dim] with Gaussian noise, clipped to the bounds, for observations [S, E, obs_dim]."""
        unit_action = np.tanh(self.actor_output(obs))
        noise = stacked_normal(self.explore_streams, *unit_action.shape[1:]).numpy()
        unit_action = np.clip(unit_action + self.settings.exploration_noise * noise, -1, 1)
        return self.bounded(self.unscale_action(unit_action))

    def update(self, batch: Batch) -> dict[str, Tensor]:
        """Gradient steps of critic and actor (Algorithm 1 of the paper), and of the targets.

        Args:
            batch: Transitions [S, B, ...].

        Returns:
            `METRICS` [S], as they were before the steps.
        """
        self.updates += 1
        unit_action = (batch.action - self.action_center) / self.action_scale

        # critic
        with torch.no_grad():
            next_action = torch.tanh(self.target_actor(batch.next_obs))
            next_q = self._q(self.target_critic, batch.next_obs, next_action)
            target = batch.reward + batch.discount * next_q

        q = self._q(self.critic, batch.obs, unit_action)
        critic_loss = 0.5 * (q - target).square().mean(-1)
        self.optimizers["critic"].minimize(critic_loss.sum())

        # actor
        action = torch.tanh(self.actor(batch.obs, update_ranges=True))
        critic = self.critic.with_frozen_params(num_grad_inputs=self.spec.act_dim)
        actor_loss = -self._q(critic, batch.obs, action).mean(-1)
        self.optimizers["actor"].minimize(actor_loss.sum())

        # targets
        polyak_update(self.target_critic, self.critic, self.settings.tau)
        polyak_update(self.target_actor, self.actor, self.settings.tau)
        return {
            "losses/critic": critic_loss.detach(),
            "losses/actor": actor_loss.detach(),
            "losses/q_mean": q.detach().mean(1),
        }

    def policy(self, i: int) -> Policy:
        """The actor without noise."""
        stages = self.actor.extract(i, outputs=self.spec.act_dim)
        return Policy(self.spec, [*stages, *squash_to_bounds(self.spec)])

    def _q(self, critic: Callable[[Tensor], Tensor], obs: Tensor, unit_action: Tensor) -> Tensor:
        """Q values [S, B]."""
        return critic(torch.cat([obs, unit_action], -1)).squeeze(-1)
