"""Proximal Policy Optimization, https://arxiv.org/abs/1707.06347 (clipped surrogate)."""

from collections.abc import Sequence
from typing import Literal, NamedTuple

import torch
from torch import Tensor

from trainers.actor_critic import ActorTransform
from trainers.data.rollout import Rollout
from trainers.envs.spec import EnvSpec
from trainers.nn.distributions import entropy, log_probability
from trainers.nn.optimizer import FlatAdam, clip_row_norms, differentiate
from trainers.on_policy import GaussianActorCritic, explained_variance, minibatches, standardized
from trainers.settings import Count, NotNegative, OnPolicySettings, Rate


class PPOSettings(OnPolicySettings):
    """Settings of PPO; the values stand in conf/algo/ppo.yaml."""

    name: Literal["ppo"]
    lr: Rate
    lr_decay_steps: Count | None
    epochs: Count
    clip: Rate
    entropy_coef: NotNegative
    value_coef: NotNegative
    max_grad_norm: Rate
    recompute_advantages: bool
    target_kl: Rate | None


class PPO(GaussianActorCritic):
    """Networks, optimisers and random streams of S seeds; the settings are explained in conf/algo/ppo.yaml."""

    METRICS = (
        "losses/actor",
        "losses/critic",
        "losses/entropy",
        "losses/approx_kl",
        "losses/clip_fraction",
        "losses/kl_stopped",
        "losses/explained_variance",
        "losses/log_std",
    )
    COMPILES = True

    SETTINGS = PPOSettings
    settings: PPOSettings

    def __init__(
        self,
        spec: EnvSpec,
        seeds: Sequence[int],
        settings: PPOSettings,
        device: torch.device,
        *,
        transform_actor: ActorTransform | None = None,
    ) -> None:
        super().__init__(spec, seeds, settings, device, transform_actor=transform_actor)
        self.optimizers = {"actor": FlatAdam(self.actor, settings.lr), "critic": FlatAdam(self.critic, settings.lr)}

    def anneal(self, steps: int) -> None:
        """Learning rate after `steps` steps of the training at hand: linearly to 0 over `lr_decay_steps`."""
        if self.settings.lr_decay_steps is not None:
            for optimizer in self.optimizers.values():
                optimizer.lr.fill_(self.settings.lr * (1 - steps / self.settings.lr_decay_steps))

    def update(self, rollout: Rollout) -> dict[str, Tensor]:
        """Algorithm 1 of the paper, the optimisation of one rollout."""
        self.updates += 1
        followed = self.initialize_statistics(rollout)
        obs = self.normalized(rollout.obs.flatten(1, 2))
        action = self.scale_action(rollout.action)
        with torch.no_grad():
            old_log_prob = log_probability(self.actor(obs), self.actor.log_std, action)
        active = torch.ones(len(self.seeds), dtype=torch.bool, device=self.device)
        steps: list[Terms] = []
        learning: list[Tensor] = []

        # actor and critic
        for epoch in range(self.settings.epochs):
            if epoch == 0 or self.settings.recompute_advantages:
                advantage, returns = self.advantages(rollout)
                target = returns / self.returns.std().squeeze(-1)
            if epoch == 0:
                explained = explained_variance(advantage, returns)
            data = (obs, action, old_log_prob, advantage, target)
            for minibatch in minibatches(data, self.settings.batch_size, self.update_streams):
                if self.settings.target_kl is not None and not active.any():
                    break
                learning.append(active)
                *terms, active = self.step(*minibatch, active)
                steps.append(Terms(*terms))

        # statistics
        if not followed:
            self.update_statistics(rollout)
        return mean_terms(steps, learning) | {
            "losses/kl_stopped": (~active).float(),
            "losses/explained_variance": explained,
            "losses/log_std": self.actor.log_std.detach().mean((1, 2)),
        }

    def minibatch_step(self, *minibatch: Tensor) -> tuple[Tensor, ...]:
        """One step of both optimisers on a minibatch [S, B, ...] for the seeds that are active [S].

        Returns the terms of the loss as they were before, without gradients, and which seeds are active still.
        """
        *data, active = minibatch
        terms = self._losses(*data)
        if self.settings.target_kl is not None:
            active = active & (terms.approx_kl <= 1.5 * self.settings.target_kl)
        losses = self.settings.value_coef * terms.critic - terms.surrogate - self.settings.entropy_coef * terms.entropy
        differentiate(losses.sum(), self.optimizers.values())
        clip_row_norms([o.gradient for o in self.optimizers.values()], self.settings.max_grad_norm)
        for optimizer in self.optimizers.values():
            optimizer.step(active if self.settings.target_kl is not None else None)
        return *(term.detach() for term in terms), active

    def _losses(self, obs: Tensor, action: Tensor, old_log_prob: Tensor, advantage: Tensor, target: Tensor) -> "Terms":
        """The terms of the loss on a minibatch [S, B, ...]."""
        log_ratio = log_probability(self.actor(obs), self.actor.log_std, action) - old_log_prob
        ratio = log_ratio.exp()
        return Terms(
            surrogate=clipped_surrogate(ratio, standardized(advantage), self.settings.clip).mean(-1),
            entropy=entropy(self.actor.log_std).squeeze(-1),
            critic=0.5 * (self.critic(obs).squeeze(-1) - target).square().mean(-1),
            approx_kl=approximate_kl(log_ratio.detach()),
            clip_fraction=((ratio.detach() - 1).abs() > self.settings.clip).float().mean(-1),
        )


class Terms(NamedTuple):
    """Terms of the loss of each seed (equations 7 and 9) and how far its policy has moved, [S] each."""

    surrogate: Tensor
    entropy: Tensor
    critic: Tensor
    approx_kl: Tensor
    clip_fraction: Tensor


def mean_terms(steps: Sequence[Terms], learning: Sequence[Tensor]) -> dict[str, Tensor]:
    """Means [S] over the minibatches of an update before which each seed was active: `learning`, [S] for each."""
    columns = Terms(*(torch.stack(column) for column in zip(*steps, strict=True)))
    counted = torch.stack(list(learning)).float()
    weight = counted / counted.sum(0)
    return {
        "losses/actor": -(weight * columns.surrogate).sum(0),
        "losses/critic": (weight * columns.critic).sum(0),
        "losses/entropy": (weight * columns.entropy).sum(0),
        "losses/approx_kl": (weight * columns.approx_kl).sum(0),
        "losses/clip_fraction": (weight * columns.clip_fraction).sum(0),
    }


def approximate_kl(log_ratio: Tensor) -> Tensor:
    """KL(old || new) of each seed, [S], from samples [S, B].

    The low-variance estimator of http://joschu.net/blog/kl-approx.html
    """
    return (log_ratio.exp() - 1 - log_ratio).mean(-1)


def clipped_surrogate(ratio: Tensor, advantage: Tensor, clip: float) -> Tensor:
    """Equation 7 of the paper, elementwise."""
    return torch.minimum(ratio * advantage, ratio.clamp(1 - clip, 1 + clip) * advantage)
