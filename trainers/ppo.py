"""Proximal Policy Optimization, https://arxiv.org/abs/1707.06347 (clipped surrogate)."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from trainers.actor_critic import ActorTransform
from trainers.gaussian import GaussianActorCritic, entropy, log_probability, minibatches, standardized
from trainers.networks import FlatAdam, clip_row_norms, differentiate
from trainers.rollout import Rollout
from trainers.spec import Spec


class PPO(GaussianActorCritic):
    """Networks, optimisers and random streams of S seeds; the settings are explained in conf/algo/ppo.yaml."""

    FIGURES = ("losses/actor", "losses/critic", "losses/entropy", "losses/approx_kl", "losses/clip_fraction")

    def __init__(
        self,
        spec: Spec,
        seeds: Sequence[int],
        device: torch.device,
        *,
        hidden: Sequence[int],
        activation: str,
        initial_log_std: float,
        gamma: float,
        gae_lambda: float,
        lr: float,
        lr_decay_steps: int | None,
        epochs: int,
        batch_size: int,
        clip: float,
        entropy_coef: float,
        value_coef: float,
        max_grad_norm: float,
        recompute_advantages: bool,
        target_kl: float | None,
        transform_actor: ActorTransform | None = None,
    ) -> None:
        super().__init__(
            spec,
            seeds,
            device,
            hidden=hidden,
            activation=activation,
            initial_log_std=initial_log_std,
            gamma=gamma,
            gae_lambda=gae_lambda,
            transform_actor=transform_actor,
        )
        self.lr, self.lr_decay_steps = lr, lr_decay_steps
        self.epochs, self.batch_size, self.clip = epochs, batch_size, clip
        self.entropy_coef, self.value_coef, self.max_grad_norm = entropy_coef, value_coef, max_grad_norm
        self.recompute_advantages, self.target_kl = recompute_advantages, target_kl
        self.optimizers = {"actor": FlatAdam(self.actor, lr), "critic": FlatAdam(self.critic, lr)}
        self.active = torch.ones(len(seeds), dtype=torch.bool, device=device)
        """Which seeds still learn from this rollout."""

    def update(self, rollout: Rollout) -> dict[str, Tensor]:
        """Algorithm 1 of the paper, the optimisation of one rollout."""
        self.updates += 1
        self._decay_lr(steps_before=int(self.observations.count[0]))
        if self.updates == 1:
            # There are no statistics yet: the first rollout, drawn on raw observations, gives its own.
            self.follow(rollout)
        obs, action = self.normalized(rollout.obs.flatten(1, 2)), self.unit(rollout.action)
        with torch.no_grad():
            old_log_prob = log_probability(self.actor(obs), self.actor.log_std, action)
        self.active.fill_(True)

        for epoch in range(self.epochs):
            if epoch == 0 or self.recompute_advantages:
                advantage, returns = self.advantages(rollout)
                target = returns / self.returns.std().squeeze(-1)
            data = (obs, action, old_log_prob, advantage, target)
            for minibatch in minibatches(data, self.batch_size, self.update_streams):
                terms = Terms(*self.step(*minibatch))

        if self.updates > 1:
            self.follow(rollout)
        return {
            "losses/actor": -terms.surrogate,
            "losses/critic": terms.critic,
            "losses/entropy": terms.entropy,
            "losses/approx_kl": approximate_kl(terms.log_ratio),
            "losses/clip_fraction": ((terms.log_ratio.exp() - 1).abs() > self.clip).float().mean(-1),
        }

    def on_minibatch(self, *minibatch: Tensor) -> "Terms":
        """One step of both optimisers on a minibatch; returns its terms as they were before, without gradients."""
        terms = self._losses(*minibatch)
        if self.target_kl is not None:
            self.active &= approximate_kl(terms.log_ratio) <= 1.5 * self.target_kl
        losses = self.value_coef * terms.critic - terms.surrogate - self.entropy_coef * terms.entropy
        differentiate(losses.sum(), self.optimizers.values())
        clip_row_norms([o.gradient for o in self.optimizers.values()], self.max_grad_norm)
        for optimizer in self.optimizers.values():
            optimizer.step(self.active if self.target_kl is not None else None)
        return Terms(*(term.detach() for term in terms))

    def _losses(self, obs: Tensor, action: Tensor, old_log_prob: Tensor, advantage: Tensor, target: Tensor) -> "Terms":
        """The terms of the loss on a minibatch [S, B, ...]."""
        log_ratio = log_probability(self.actor(obs), self.actor.log_std, action) - old_log_prob
        return Terms(
            surrogate=clipped_surrogate(log_ratio.exp(), standardized(advantage), self.clip).mean(-1),
            entropy=entropy(self.actor.log_std).squeeze(-1),
            critic=0.5 * (self.critic(obs).squeeze(-1) - target).square().mean(-1),
            log_ratio=log_ratio,
        )

    def _decay_lr(self, steps_before: int) -> None:
        """Linearly to 0 over `lr_decay_steps`."""
        if self.lr_decay_steps is not None:
            for optimizer in self.optimizers.values():
                optimizer.lr.fill_(self.lr * max(0.0, 1 - steps_before / self.lr_decay_steps))


class Terms(NamedTuple):
    """Of the loss of each seed, [S] (equations 7 and 9), and log(new / old probability) of the actions, [S, B]."""

    surrogate: Tensor
    entropy: Tensor
    critic: Tensor
    log_ratio: Tensor


@torch.no_grad()
def approximate_kl(log_ratio: Tensor) -> Tensor:
    """KL(old || new) of each seed, [S], from samples [S, B]: the low-variance estimator of
    http://joschu.net/blog/kl-approx.html"""
    return (log_ratio.exp() - 1 - log_ratio).mean(-1)


class ClippedSurrogate(torch.autograd.Function):
    """`clipped_surrogate` in one node."""

    @staticmethod
    def forward(ctx: Any, ratio: Tensor, advantage: Tensor, clip: float) -> Tensor:
        plain, clipped = ratio * advantage, ratio.clamp(1 - clip, 1 + clip) * advantage
        ctx.save_for_backward(plain <= clipped, advantage)
        return torch.minimum(plain, clipped)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        follows, advantage = ctx.saved_tensors
        return torch.where(follows, gradient * advantage, 0.0), None, None


def clipped_surrogate(ratio: Tensor, advantage: Tensor, clip: float) -> Tensor:
    """Equation 7 of the paper, elementwise."""
    surrogate: Tensor = ClippedSurrogate.apply(ratio, advantage, clip)  # type: ignore[no-untyped-call]
    return surrogate
