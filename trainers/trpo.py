"""Trust Region Policy Optimization, https://arxiv.org/abs/1502.05477 (with GAE, https://arxiv.org/abs/1506.02438)."""

import math
from collections.abc import Callable, Sequence
from typing import Annotated, Literal

import torch
from pydantic import Field
from torch import Tensor

from trainers.actor_critic import ActorTransform
from trainers.data.rollout import Rollout
from trainers.envs.spec import EnvSpec
from trainers.nn.distributions import entropy, kl_divergence, log_probability
from trainers.nn.flat_storage import Stacked
from trainers.nn.optimizer import FlatAdam, row_gradient
from trainers.on_policy import GaussianActorCritic, explained_variance, minibatches, standardized
from trainers.settings import Count, NotNegative, OnPolicySettings, Rate

# A conjugate gradient whose squared residual is below this has arrived.
RESIDUAL_TOLERANCE = 1e-10
# How an actor of few bits is brought to what it shall be: passes over a rollout, and Adam's first learning rate.
FIT_EPOCHS = 10
FIT_LR = 3e-4


class TRPOSettings(OnPolicySettings):
    """Settings of TRPO; the values stand in conf/algo/trpo.yaml."""

    name: Literal["trpo"]
    critic_lr: Rate
    critic_epochs: Count
    max_kl: Rate
    cg_iterations: Count
    cg_damping: NotNegative
    line_search_steps: Count
    line_search_decay: Annotated[float, Field(gt=0, lt=1)]


class TRPO(GaussianActorCritic):
    """Networks, optimiser and random streams of S seeds; the settings are explained in conf/algo/trpo.yaml.

    Where weights are rounded to few bits, a step of the paper's size moves single weights by a whole level: the noise
    of that leaves the trust region long before the step has gone its way. There the line search looks at the actor with
    the rounding errors it had, which follows the step smoothly, and the actor is then fitted to what was found.
    """

    SETTINGS = TRPOSettings
    METRICS = (
        "losses/actor",
        "losses/critic",
        "losses/entropy",
        "losses/approx_kl",
        "losses/step_size",
        "losses/explained_variance",
        "losses/log_std",
    )
    COMPILES = True
    settings: TRPOSettings

    def __init__(
        self,
        spec: EnvSpec,
        seeds: Sequence[int],
        settings: TRPOSettings,
        device: torch.device,
        *,
        transform_actor: ActorTransform | None = None,
    ) -> None:
        super().__init__(spec, seeds, settings, device, transform_actor=transform_actor)
        # The natural gradient works on flat storage, and differentiates twice.
        self.actor.flatten()
        self.actor.fused = False
        self.optimizers = {"critic": FlatAdam(self.critic, settings.critic_lr)}
        self.fit = FlatAdam(self.actor, FIT_LR) if self.actor.rounds_coarsely() else None

    def update(self, rollout: Rollout) -> dict[str, Tensor]:
        """Natural gradient, step to the edge of the trust region, line search (appendix C of the paper); value fit.

        Args:
            rollout: Of the policy as it is, [S, T, E, ...].

        Returns:
            `METRICS` [S].
        """
        settings = self.settings
        self.updates += 1
        is_first = self.initialize_statistics(rollout)
        obs = self.normalized(rollout.obs.flatten(1, 2))
        action = self.scale_action(rollout.action)
        advantage, returns = self.advantages(rollout)
        explained = explained_variance(advantage, returns)
        advantage = standardized(advantage)
        with torch.no_grad():
            old_mean = self.actor(obs)
            old_log_std = self.actor.log_std.clone()
            old_log_prob = log_probability(old_mean, old_log_std, action)

        def surrogate() -> Tensor:
            log_prob = log_probability(self.actor(obs), self.actor.log_std, action)
            return ((log_prob - old_log_prob).exp() * advantage).mean(-1)

        def kl() -> Tensor:
            return kl_divergence(old_mean, old_log_std, self.actor(obs), self.actor.log_std).mean(-1)

        # actor
        gradient = row_gradient(surrogate().sum(), self.actor)
        product = fisher_vector_product(kl().sum(), self.actor, settings.cg_damping)
        direction = conjugate_gradient(product, gradient, settings.cg_iterations)
        curvature = (direction * product(direction)).sum(1, keepdim=True)
        step = direction * (2 * settings.max_kl / curvature.clamp(min=1e-12)).sqrt()
        del product  # its graph must be gone before parameters change in place
        with self.actor.held_rounding():
            size, improvement, divergence = self._line_search(step, surrogate, kl)
            aim = None if self.fit is None else self.actor(obs).detach()
        if self.fit is not None and aim is not None:
            self._fit(self.fit, obs, aim)
            with torch.no_grad():
                improvement = surrogate() - advantage.mean(-1)
                divergence = kl()

        # critic
        target = returns / self.returns.std().squeeze(-1)
        critic_losses: list[Tensor] = []
        for _ in range(settings.critic_epochs):
            for minibatch in minibatches((obs, target), settings.batch_size, self.update_streams):
                critic_losses += self.step(*minibatch)

        # statistics
        if not is_first:
            self.update_statistics(rollout)
        return {
            "losses/actor": -improvement,
            "losses/critic": torch.stack(critic_losses).mean(0),
            "losses/entropy": entropy(self.actor.log_std.detach()).squeeze(-1),
            "losses/approx_kl": divergence,
            "losses/step_size": size,
            "losses/explained_variance": explained,
            "losses/log_std": self.actor.log_std.detach().mean((1, 2)),
        }

    def minibatch_step(self, *minibatch: Tensor) -> tuple[Tensor, ...]:
        """One step of the critic's optimiser on observations and targets; returns its loss before, [S]."""
        obs, target = minibatch
        loss = 0.5 * (self.critic(obs).squeeze(-1) - target).square().mean(-1)
        self.optimizers["critic"].minimize(loss.sum())
        return (loss.detach(),)

    def _fit(self, optimizer: FlatAdam, obs: Tensor, aim: Tensor) -> None:
        """Bring the actor's means to `aim` [S, n, act_dim] on the observations [S, n, obs_dim] that it is for.

        The loss is the KL from Gaussians with these means; the learning rate falls linearly to 0.
        """
        optimizer.reset()
        precision = torch.exp(-2 * self.actor.log_std.detach())
        batch_size = self.settings.batch_size
        steps = FIT_EPOCHS * math.ceil(obs.shape[1] / batch_size)
        done = 0
        for _ in range(FIT_EPOCHS):
            for x, y in minibatches((obs, aim), batch_size, self.update_streams):
                optimizer.lr.fill_(FIT_LR * (1 - done / steps))
                error = (self.actor(x) - y).square() * precision
                optimizer.minimize(0.5 * error.sum(-1).mean(-1).sum())
                done += 1

    @torch.no_grad()
    def _line_search(
        self, step: Tensor, surrogate: Callable[[], Tensor], kl: Callable[[], Tensor]
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Move each seed by the largest of step * decay^k that improves its surrogate within its trust region.

        A seed without one stays where it was.

        Args:
            step: To the edge of the trust region, in the layout of the actor's flat storage [S, P].
            surrogate: The surrogate [S] of the actor as it is.
            kl: Its mean KL [S] from the old policy.

        Returns:
            The fraction of the step taken, the gain in surrogate and the KL, [S] each.
        """
        flat = self.actor.flat
        start = flat.clone()
        before = surrogate()
        fraction = torch.zeros_like(before)
        gain = torch.zeros_like(before)
        divergence = torch.zeros_like(before)
        for k in range(self.settings.line_search_steps):
            searching = fraction == 0
            trial = self.settings.line_search_decay**k
            flat.copy_(torch.where(searching.unsqueeze(1), start + trial * step, flat))
            trial_gain = surrogate() - before
            trial_kl = kl()
            good = searching & (trial_gain > 0) & (trial_kl <= self.settings.max_kl)
            fraction = torch.where(good, trial, fraction)
            gain = torch.where(good, trial_gain, gain)
            divergence = torch.where(good, trial_kl, divergence)
            if good.eq(searching).all():
                break
        flat.copy_(torch.where((fraction == 0).unsqueeze(1), start, flat))
        return fraction, gain, divergence


def fisher_vector_product(kl: Tensor, actor: Stacked, damping: float) -> Callable[[Tensor], Tensor]:
    """v -> (H + damping I) v per seed, H the Hessian of the mean KL (summed over seeds) at the old policy.

    There it is the Fisher matrix, also with fake quantisation, whose backward pass is differentiable.
    """
    gradient = row_gradient(kl, actor, create_graph=True)

    def product(v: Tensor) -> Tensor:
        return row_gradient((gradient * v).sum(), actor, retain_graph=True) + damping * v

    return product


def conjugate_gradient(product: Callable[[Tensor], Tensor], b: Tensor, iterations: int) -> Tensor:
    """x with product(x) = b for each row of b [S, P]; rows that have arrived stay where they are."""
    x = torch.zeros_like(b)
    residual = b.clone()
    direction = b.clone()
    square = residual.square().sum(1, keepdim=True)
    for _ in range(iterations):
        image = product(direction)
        moving = square > RESIDUAL_TOLERANCE
        length = torch.where(moving, square / (direction * image).sum(1, keepdim=True), 0.0)
        x += length * direction
        residual -= length * image
        new_square = residual.square().sum(1, keepdim=True)
        direction = residual + torch.where(moving, new_square / square, 0.0) * direction
        square = new_square
    return x
