"""What TRPO and PPO share: a Gaussian actor on normalised observations, a critic of scaled returns, advantages."""

from abc import abstractmethod
from collections.abc import Callable, Iterator, Sequence

import numpy as np
import torch
from torch import Tensor

from trainers.actor_critic import ActorCritic, ActorTransform
from trainers.data.rollout import Rollout, gae
from trainers.envs.spec import EnvSpec
from trainers.nn.actor_fn import ActorFn
from trainers.nn.normalizer import RunningStatistics
from trainers.nn.stacked import GaussianMLP, StackedMLP, orthogonal_
from trainers.policy import Clamp, Policy, Rescale, Standardize, clamp_to_bounds
from trainers.rng import init_streams, stacked_normal
from trainers.settings import OnPolicySettings
from trainers.tensors import ArrayFn, FloatArray, as_numpy

OBSERVATION_LIMIT = 10.0


class GaussianActorCritic(ActorCritic):
    """Networks, statistics and random streams of S seeds; subclasses learn from rollouts.

    The Gaussian is over actions in half ranges of their bounds and not bounded itself: environments get the clip.
    Observation statistics, return scale and quantisation ranges move at the end of an update, so that the policy
    that acted is the old policy of the next update.
    """

    settings: OnPolicySettings
    actor: GaussianMLP

    def __init__(
        self,
        spec: EnvSpec,
        seeds: Sequence[int],
        settings: OnPolicySettings,
        device: torch.device,
        *,
        transform_actor: ActorTransform | None,
    ) -> None:
        super().__init__(spec, seeds, settings, device)
        streams = init_streams(seeds)
        actor_sizes = [spec.obs_dim, *settings.actor_widths, spec.act_dim]
        self.actor = GaussianMLP(actor_sizes, settings.activation, streams, settings.initial_log_std)
        self.critic = StackedMLP([spec.obs_dim, *settings.hidden, 1], settings.activation, streams)
        orthogonal_(self.actor, streams, head_gain=0.01)
        orthogonal_(self.critic, streams, head_gain=1.0)
        if transform_actor is not None:
            transform_actor(self.actor)
        self.observations = RunningStatistics(len(seeds), spec.obs_dim)
        self.returns = RunningStatistics(len(seeds), 1)
        self.networks = {
            "actor": self.actor.to(device),
            "critic": self.critic.to(device),
            "observations": self.observations.to(device),
            "returns": self.returns.to(device),
        }
        self.step: Callable[..., Sequence[Tensor]] = self.minibatch_step
        """`minibatch_step`, or its compiled twin."""

    def use_compiled_step(self, step: Callable[..., Sequence[Tensor]]) -> None:
        """Update with a compiled twin of `minibatch_step` from here on."""
        self.step = step

    @abstractmethod
    def update(self, rollout: Rollout) -> dict[str, Tensor]:
        """Learn from a rollout [S, T, E, ...] of the policy as it is; `METRICS` [S]."""

    def anneal(self, steps: int) -> None:
        """Set what changes along the training at hand, before the update after its first `steps` steps."""

    def minibatch_step(self, *minibatch: Tensor) -> tuple[Tensor, ...]:
        """A step of gradient descent on parts [S, B, ...] of a rollout, for algorithms that can be compiled.

        Raises:
            NotImplementedError: For all others.
        """
        raise NotImplementedError

    def act(self, obs: FloatArray) -> FloatArray:
        """Actions [S, E, act_dim] as drawn; the environment is given their clip to the bounds."""
        mean = self.actor_output(obs)
        std = np.exp(as_numpy(self.actor.log_std))
        noise = stacked_normal(self.explore_streams, *mean.shape[1:]).numpy()
        return self.unscale_action(mean + std * noise)

    def make_actor_fn(self) -> ActorFn:
        """The mean of the Gaussian, for raw observations."""
        return ActorFn(self.actor, self._make_input_fn)

    def _make_input_fn(self) -> ArrayFn:
        """Network input for raw observations, by the statistics of now."""
        center = as_numpy(self.observations.mean.float())
        inverse_std = as_numpy(1 / self.observations.std())

        def normalize(obs: FloatArray) -> FloatArray:
            x: FloatArray = (obs - center) * inverse_std
            return np.minimum(np.maximum(x, -OBSERVATION_LIMIT), OBSERVATION_LIMIT)

        return normalize

    def policy(self, i: int) -> Policy:
        """The mean action, clipped to the bounds, with the observation statistics of now."""
        limit = torch.tensor(OBSERVATION_LIMIT)
        standardize = Standardize(self.observations.mean[i, 0], self.observations.std()[i, 0])
        stages = self.actor.extract(i, outputs=self.spec.act_dim)
        # Scaled before it is clipped: ONNX Runtime takes an int8 layer behind which a clip is scaled back to float.
        outputs = [Rescale(self.action_center, self.action_scale), clamp_to_bounds(self.spec)]
        return Policy(self.spec, [standardize, Clamp(-limit, limit), *stages, *outputs])

    def normalized(self, obs: Tensor) -> Tensor:
        """Network input for raw observations [S, n, obs_dim]."""
        return self.observations.standardize(obs).clamp(-OBSERVATION_LIMIT, OBSERVATION_LIMIT)

    def scale_action(self, action: Tensor) -> Tensor:
        """Actions of a rollout in half ranges, [S, T E, act_dim]."""
        return ((action - self.action_center) / self.action_scale).flatten(1, 2)

    @torch.no_grad()
    def advantages(self, rollout: Rollout) -> tuple[Tensor, Tensor]:
        """Generalised advantage estimates, and returns by them: advantage plus value.

        Args:
            rollout: [S, T, E, ...].

        Returns:
            Advantages and returns [S, T E], in units of reward.
        """
        scale = self.returns.std()

        def value(obs: Tensor) -> Tensor:
            v: Tensor = scale * self.critic(self.normalized(obs.flatten(1, 2)))
            return v.view(obs.shape[:-1])

        values = value(rollout.obs)
        advantage = gae(
            rollout.reward,
            values,
            value(rollout.next_obs),
            rollout.terminated,
            rollout.done,
            self.settings.gamma,
            self.settings.gae_lambda,
        )
        return advantage.flatten(1), (advantage + values).flatten(1)

    def initialize_statistics(self, rollout: Rollout) -> bool:
        """Take statistics from the very first rollout, which was drawn on raw observations, before its update.

        Returns whether it did. An agent that is trained further has statistics already.
        """
        first = not bool(self.observations.count.any())
        if first:
            self.update_statistics(rollout)
        return first

    @torch.no_grad()
    def update_statistics(self, rollout: Rollout) -> None:
        """Move observation statistics, return scale and quantisation ranges on by a rollout.

        Where the return scale moves, the critic's head is divided by the same factor: its values in units of
        reward stay what they were (the scale half of Pop-Art, arXiv 1602.07714).
        """
        _, returns = self.advantages(rollout)
        before = self.returns.std()
        self.returns.update(returns.unsqueeze(-1))
        head = self.critic.linears[-1]
        for parameter in (head.weight, head.bias):
            parameter.mul_(before / self.returns.std())
        self.observations.update(rollout.obs.flatten(1, 2))
        self.actor(self.normalized(rollout.obs.flatten(1, 2)), update_ranges=True)


def explained_variance(advantage: Tensor, returns: Tensor) -> Tensor:
    """Share [S] of the variance of returns [S, n] that the critic's values, returns - advantage, explain."""
    return 1 - advantage.var(1) / returns.var(1)


def standardized(x: Tensor) -> Tensor:
    """Rows [S, n] to mean 0 and standard deviation 1."""
    std, mean = torch.std_mean(x, 1, correction=0, keepdim=True)
    return (x - mean) / (std + 1e-8)


def minibatches(
    tensors: Sequence[Tensor], batch_size: int, streams: Sequence[torch.Generator]
) -> Iterator[tuple[Tensor, ...]]:
    """One pass over data in parts, each seed in an order of its own stream.

    Args:
        tensors: The data, [S, n, ...] each.
        batch_size: Of a part; the last one takes what is left.
        streams: One per seed.

    Returns:
        The parts [S, batch_size, ...] of all tensors, one minibatch after another.
    """
    n = tensors[0].shape[1]
    orders: list[Tensor] = []
    for s, stream in enumerate(streams):
        orders.append(torch.randperm(n, generator=stream) + s * n)
    order = torch.cat(orders).to(tensors[0].device)

    parts: list[Sequence[Tensor]] = []
    for tensor in tensors:
        shuffled = tensor.flatten(0, 1).index_select(0, order).view_as(tensor)
        parts.append(torch.split(shuffled, batch_size, 1))
    return zip(*parts, strict=True)
