"""Proximal Policy Optimization, https://arxiv.org/abs/1707.06347 (clipped surrogate)."""

from collections.abc import Sequence

import torch
from torch import Tensor

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
        active = torch.ones(len(self.seeds), dtype=torch.bool, device=self.device)
        figures: dict[str, Tensor] = {}

        for epoch in range(self.epochs):
            if epoch == 0 or self.recompute_advantages:
                advantage, returns = self.advantages(rollout)
                target = returns / self.returns.std().squeeze(-1)
            data = (obs, action, old_log_prob, advantage, target)
            for minibatch in minibatches(data, self.batch_size, self.update_streams):
                losses, figures = self._losses(*minibatch)
                if self.target_kl is not None:
                    active &= figures["losses/approx_kl"] <= 1.5 * self.target_kl
                differentiate(losses.sum(), self.optimizers.values())
                clip_row_norms([o.gradient for o in self.optimizers.values()], self.max_grad_norm)
                for optimizer in self.optimizers.values():
                    optimizer.step(active if self.target_kl is not None else None)

        if self.updates > 1:
            self.follow(rollout)
        return figures

    def _losses(
        self, obs: Tensor, action: Tensor, old_log_prob: Tensor, advantage: Tensor, target: Tensor
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Losses of actor and critic together, [S], on a minibatch [S, B, ...] (eq. 7 and 9), and figures to log."""
        log_ratio = log_probability(self.actor(obs), self.actor.log_std, action) - old_log_prob
        ratio = log_ratio.exp()
        surrogate = clipped_surrogate(ratio, standardized(advantage), self.clip).mean(-1)
        bonus = entropy(self.actor.log_std).squeeze(-1)
        critic_loss = 0.5 * (self.critic(obs).squeeze(-1) - target).square().mean(-1)
        losses = -surrogate - self.entropy_coef * bonus + self.value_coef * critic_loss
        with torch.no_grad():
            figures = {
                "losses/actor": -surrogate.detach(),
                "losses/critic": critic_loss.detach(),
                "losses/entropy": bonus.detach(),
                # The low-variance estimator of http://joschu.net/blog/kl-approx.html
                "losses/approx_kl": (ratio - 1 - log_ratio).mean(-1),
                "losses/clip_fraction": ((ratio - 1).abs() > self.clip).float().mean(-1),
            }
        return losses, figures

    def _decay_lr(self, steps_before: int) -> None:
        """Linearly to 0 over `lr_decay_steps`."""
        if self.lr_decay_steps is not None:
            for optimizer in self.optimizers.values():
                optimizer.lr = self.lr * max(0.0, 1 - steps_before / self.lr_decay_steps)


def clipped_surrogate(ratio: Tensor, advantage: Tensor, clip: float) -> Tensor:
    """Equation 7 of the paper, elementwise."""
    return torch.minimum(ratio * advantage, ratio.clamp(1 - clip, 1 + clip) * advantage)
