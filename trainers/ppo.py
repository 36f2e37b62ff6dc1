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

    SETTINGS = PPOSettings
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
        decay_steps = self.settings.lr_decay_steps
        if decay_steps is None:
            return
        for optimizer in self.optimizers.values():
            optimizer.lr.fill_(self.settings.lr * (1 - steps / decay_steps))

    def update(self, rollout: Rollout) -> dict[str, Tensor]:
        """Epochs of minibatch steps on one rollout (Algorithm 1 of the paper).

        Args:
            rollout: Of the policy as it is, [S, T, E, ...].

        Returns:
            `METRICS` [S]: means over the minibatches that a seed learned from.
        """
        settings = self.settings
        self.updates += 1
        is_first = self.initialize_statistics(rollout)
        obs = self.normalized(rollout.obs.flatten(1, 2))
        action = self.scale_action(rollout.action)
        with torch.no_grad():
            old_log_prob = log_probability(self.actor(obs), self.actor.log_std, action)
        active = torch.ones(len(self.seeds), dtype=torch.bool, device=self.device)
        steps: list[Terms] = []
        learning: list[Tensor] = []

        # actor and critic
        for epoch in range(settings.epochs):
            if epoch == 0 or settings.recompute_advantages:
                advantage, returns = self.advantages(rollout)
                target = returns / self.returns.std().squeeze(-1)
            if epoch == 0:
                explained = explained_variance(advantage, returns)
            data = (obs, action, old_log_prob, advantage, target)
            for minibatch in minibatches(data, settings.batch_size, self.update_streams):
                if settings.target_kl is not None and not active.any():
                    break
                learning.append(active)
                *terms, active = self.step(*minibatch, active)
                steps.append(Terms(*terms))

        # statistics
        if not is_first:
            self.update_statistics(rollout)
        return mean_terms(steps, learning) | {
            "losses/kl_stopped": (~active).float(),
            "losses/explained_variance": explained,
            "losses/log_std": self.actor.log_std.detach().mean((1, 2)),
        }

    def minibatch_step(self, *minibatch: Tensor) -> tuple[Tensor, ...]:
        """One step of both optimisers, for the seeds that are active.

        Args:
            minibatch: Observations, actions, old log-probabilities, advantages and targets [S, B, ...]; then which
                seeds are active, [S].

        Returns:
            The terms of the loss [S] as they were before, without gradients; then which seeds are active still.
        """
        settings = self.settings
        *data, active = minibatch
        terms = self._losses(*data)
        if settings.target_kl is not None:
            active = active & (terms.approx_kl <= 1.5 * settings.target_kl)

        # gradients of actor and critic, clipped together
        losses = settings.value_coef * terms.critic - terms.surrogate - settings.entropy_coef * terms.entropy
        differentiate(losses.sum(), self.optimizers.values())
        gradients = [optimizer.gradient for optimizer in self.optimizers.values()]
        clip_row_norms(gradients, settings.max_grad_norm)

        # steps
        for optimizer in self.optimizers.values():
            optimizer.step(active if settings.target_kl is not None else None)
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
    """Means over the minibatches of an update that each seed learned from.

    Args:
        steps: The terms of each minibatch, [S] each.
        learning: Whether each seed was active before each minibatch, [S] each.

    Returns:
        Means [S] by the names of `PPO.METRICS`.
    """
    columns = Terms(*map(torch.stack, zip(*steps, strict=True)))
    is_counted = torch.stack(list(learning)).float()
    weight = is_counted / is_counted.sum(0)
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
