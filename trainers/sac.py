"""Soft Actor-Critic, https://arxiv.org/abs/1812.05905 (twin critics, squashed Gaussian, fixed or learned alpha)."""

import math
from collections.abc import Callable, Sequence
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from trainers.actor_critic import ActorCritic, ActorTransform
from trainers.data.replay import Batch
from trainers.envs.spec import EnvSpec
from trainers.nn.distributions import squashed_gaussian
from trainers.nn.flat_storage import StackedScalar
from trainers.nn.optimizer import FlatAdam
from trainers.nn.stacked import StackedMLP
from trainers.nn.targets import make_target, polyak_update, twin_q_input, twin_streams
from trainers.policy import Policy, squash_to_bounds
from trainers.rng import init_streams, stacked_normal
from trainers.settings import OffPolicySettings, Rate
from trainers.tensors import FloatArray

LOG_STD_MIN = -20.0
LOG_STD_MAX = 2.0


class SACSettings(OffPolicySettings):
    """Settings of SAC; the values stand in conf/algo/sac.yaml."""

    name: Literal["sac"]
    alpha: Rate | Literal["auto"]
    initial_alpha: Rate
    alpha_lr: Rate


class SAC(ActorCritic):
    """Networks, optimisers and random streams of S seeds; the settings are explained in conf/algo/sac.yaml."""

    SETTINGS = SACSettings
    METRICS = ("losses/critic", "losses/actor", "losses/alpha", "losses/entropy", "losses/q_mean")
    COMPILES = True
    NOISE_DRAWS = 2
    settings: SACSettings

    def __init__(
        self,
        spec: EnvSpec,
        seeds: Sequence[int],
        settings: SACSettings,
        device: torch.device,
        *,
        transform_actor: ActorTransform | None = None,
    ) -> None:
        super().__init__(spec, seeds, settings, device)

        # networks
        streams = init_streams(seeds)
        actor_sizes = [spec.obs_dim, *settings.actor_widths, 2 * spec.act_dim]
        critic_sizes = [spec.obs_dim + spec.act_dim, *settings.hidden, 1]
        self.actor = StackedMLP(actor_sizes, settings.activation, streams).to(device)
        self.critics = StackedMLP(critic_sizes, settings.activation, twin_streams(streams)).to(device)
        if transform_actor is not None:
            transform_actor(self.actor)
        alpha = settings.initial_alpha if settings.alpha == "auto" else settings.alpha
        self.log_alpha = StackedScalar(len(seeds), math.log(alpha)).to(device)

        # optimisers put the networks on flat storage, which targets copy
        self.optimizers = {
            "actor": FlatAdam(self.actor, settings.actor_lr),
            "critics": FlatAdam(self.critics, settings.critic_lr),
        }
        if settings.alpha == "auto":
            self.optimizers["log_alpha"] = FlatAdam(self.log_alpha, settings.alpha_lr)
        else:
            self.log_alpha.flatten()
        self.target_critics = make_target(self.critics)
        self.networks = {
            "actor": self.actor,
            "critics": self.critics,
            "target_critics": self.target_critics,
            "log_alpha": self.log_alpha,
        }

        # Entropy is that of actions in half ranges, as behind the published returns. In environment units one alpha
        # would mean another trade-off in each: on Humanoid (+-0.4) a bonus lower by 0.2 * 15.6 = 3 at every step.
        self.entropy_unit = torch.ones_like(self.action_scale)
        self.target_entropy = -float(spec.act_dim)

    def act(self, obs: FloatArray) -> FloatArray:
        """Actions [S, E, act_dim] drawn from the squashed Gaussian, for observations [S, E, obs_dim]."""
        mean, log_std = np.split(self.actor_output(obs), 2, axis=-1)
        std = np.exp(np.clip(log_std, LOG_STD_MIN, LOG_STD_MAX))
        noise = stacked_normal(self.explore_streams, *mean.shape[1:]).numpy()
        return self.bounded(self.unscale_action(np.tanh(mean + std * noise)))

    def update(self, batch: Batch) -> dict[str, Tensor]:
        """Gradient steps of critics, actor and temperature (Algorithm 1 of the paper), and of the targets.

        Args:
            batch: Transitions [S, B, ...].

        Returns:
            `METRICS` [S], as they were before the steps.
        """
        self.updates += 1
        alpha = self.log_alpha.value.detach().exp()
        unit_action = (batch.action - self.action_center) / self.action_scale

        # critics
        with torch.no_grad():
            next_out = self.actor(batch.next_obs)
            next_action, next_log_prob = self._sample(next_out, self.update_noise(batch.action))
            next_q = self._q(self.target_critics, batch.next_obs, next_action).amin(1)
            target = batch.reward + batch.discount * (next_q - alpha * next_log_prob)

        q = self._q(self.critics, batch.obs, unit_action)
        critic_loss = 0.5 * (q - target.unsqueeze(1)).square().mean(-1).sum(1)
        self.optimizers["critics"].minimize(critic_loss.sum())

        # actor
        out = self.actor(batch.obs, update_ranges=True)
        action, log_prob = self._sample(out, self.update_noise(batch.action))
        critics = self.critics.with_frozen_params(num_grad_inputs=self.spec.act_dim)
        q_pi = self._q(critics, batch.obs, action).min(1).values
        actor_loss = (alpha * log_prob - q_pi).mean(-1)
        self.optimizers["actor"].minimize(actor_loss.sum())

        # temperature
        entropy = -log_prob.detach().mean(-1)
        if "log_alpha" in self.optimizers:
            # The derivative of J(alpha) = alpha (entropy - target entropy) by log alpha is J itself.
            alpha_loss = alpha * (entropy - self.target_entropy).unsqueeze(1)
            self.optimizers["log_alpha"].step_down([alpha_loss])

        # targets
        polyak_update(self.target_critics, self.critics, self.settings.tau)
        return {
            "losses/critic": critic_loss.detach(),
            "losses/actor": actor_loss.detach(),
            "losses/alpha": alpha.squeeze(1),
            "losses/entropy": entropy,
            "losses/q_mean": q.detach().mean((1, 2)),
        }

    def policy(self, i: int) -> Policy:
        """The mean action: the first half of the actor's outputs, squashed."""
        stages = self.actor.extract(i, outputs=self.spec.act_dim)
        return Policy(self.spec, [*stages, *squash_to_bounds(self.spec)])

    def _sample(self, out: Tensor, noise: Tensor) -> tuple[Tensor, Tensor]:
        """A reparameterised action in [-1, 1] and its log-probability density."""
        mean, log_std = out.chunk(2, dim=-1)
        return squashed_gaussian(mean, log_std.clamp(LOG_STD_MIN, LOG_STD_MAX), noise, self.entropy_unit)

    def _q(self, critics: Callable[[Tensor], Tensor], obs: Tensor, unit_action: Tensor) -> Tensor:
        """Q values [S, 2, B] of the twins."""
        return critics(twin_q_input(obs, unit_action)).view(-1, 2, obs.shape[1])
