"""Deep Deterministic Policy Gradient, https://arxiv.org/abs/1509.02971 (Gaussian instead of correlated noise)."""

from collections.abc import Callable, Sequence

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
from trainers.rng import RngStream, stacked_normal, torch_stream
from trainers.tensors import FloatArray


class DDPG(ActorCritic):
    """Networks, optimisers and random streams of S seeds; the settings are explained in conf/algo/ddpg.yaml."""

    METRICS = ("losses/critic", "losses/actor", "losses/q_mean")
    COMPILES = True

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
        tau: float,
        transform_actor: ActorTransform | None = None,
    ) -> None:
        super().__init__(spec, seeds, device)
        self.exploration_noise = exploration_noise
        self.tau = tau
        init = [torch_stream(RngStream.INIT, seed) for seed in seeds]
        self.actor = StackedMLP([spec.obs_dim, *hidden, spec.act_dim], activation, init).to(device)
        self.critic = StackedMLP([spec.obs_dim + spec.act_dim, *hidden, 1], activation, init).to(device)
        if transform_actor is not None:
            transform_actor(self.actor)
        self.optimizers = {"actor": FlatAdam(self.actor, actor_lr), "critic": FlatAdam(self.critic, critic_lr)}
        self.target_actor = make_target(self.actor)
        self.target_critic = make_target(self.critic)
        self.networks = {
            "actor": self.actor,
            "critic": self.critic,
            "target_actor": self.target_actor,
            "target_critic": self.target_critic,
        }

    def act(self, obs: FloatArray) -> FloatArray:
        unit_action = np.tanh(self.acting()(obs))
        noise = stacked_normal(self.explore_streams, *unit_action.shape[1:]).numpy()
        unit_action = np.clip(unit_action + self.exploration_noise * noise, -1, 1)
        return self.bounded(self.unscale_action(unit_action))

    def update(self, batch: Batch) -> dict[str, Tensor]:
        """Algorithm 1 of the paper, gradient steps: critic, actor, targets."""
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
        polyak_update(self.target_critic, self.critic, self.tau)
        polyak_update(self.target_actor, self.actor, self.tau)
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
