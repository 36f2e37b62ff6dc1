"""Behaviour distillation: a small student learns the actions of a trained policy, also where it strays (DAgger)."""

import numpy as np
import torch
from torch import Tensor, nn

from compression.pruning import replace_layers
from compression.runtime import OnnxPolicy
from trainers.actor_critic import ActorTransform
from trainers.data.rollout import collect_observations
from trainers.envs.seed_envs import EnvFactory
from trainers.nn.activations import activation_name
from trainers.nn.optimizer import FlatAdam
from trainers.nn.stacked import StackedMLP
from trainers.policy import Clamp, Policy, split_at_linears
from trainers.rng import RngStream, torch_stream

# Episodes of one round lie apart from those of the next.
EPISODES_PER_ROUND = 100_000


class Student:
    """A policy whose linear layers learn; what stands before and behind them stays."""

    def __init__(self, policy: Policy, transform: ActorTransform | None) -> None:
        self.spec = policy.spec
        self.before, core, self.after = split_at_linears(policy)
        layers = [stage for stage in core if isinstance(stage, nn.Linear)]
        sizes = [layers[0].in_features, *(layer.out_features for layer in layers)]
        activation = activation_name(core[1])
        assert activation is not None
        self.network = StackedMLP(sizes, activation, [torch.Generator()])
        replace_layers(self.network, core)
        if transform is not None:
            transform(self.network)

    def act(self, obs: Tensor, update_ranges: bool) -> Tensor:
        """Actions [B, act_dim] in environment units, not clipped to the bounds."""
        for stage in self.before:
            obs = stage(obs)
        x: Tensor = self.network(obs.unsqueeze(0), update_ranges)[0]
        for stage in self.after:
            x = x if isinstance(stage, Clamp) else stage(x)
        return x

    def policy(self) -> Policy:
        return Policy(self.spec, [*self.before, *self.network.extract(0), *self.after])


def distill(
    policy: Policy,
    teacher: Policy,
    make_env: EnvFactory,
    *,
    seed: int,
    transform: ActorTransform | None,
    rounds: int,
    states: int,
    steps: int,
    batch_size: int,
    lr: float,
) -> Policy:
    """`policy` after `steps` gradient steps towards the teacher's actions, their error measured in half ranges.

    Begins on `states` states that the teacher visits; then `rounds` times the student adds as many of its own, with
    the teacher's actions as labels (DAgger, arXiv 1011.0686). The learning rate falls linearly to 0. `transform`
    may prepare the layers for quantisation.
    """
    student = Student(policy, transform)
    optimizer = FlatAdam(student.network, lr)
    generator = torch_stream(RngStream.DISTILL, seed)
    _, half_range = policy.spec.action_center_and_scale(torch.device("cpu"))
    observations = np.empty((0, policy.spec.obs_dim), np.float32)
    done = 0
    for stage in range(rounds + 1):
        act = OnnxPolicy.from_policy(teacher if stage == 0 else student.policy())
        new = collect_observations(act, make_env, policy.spec, seed, states, stage * EPISODES_PER_ROUND)
        observations = np.concatenate([observations, new])
        x = torch.from_numpy(observations)
        target = teacher(x)
        while done < steps * (stage + 1) // (rounds + 1):
            optimizer.lr.fill_(lr * (1 - done / steps))
            chosen = torch.randint(len(x), (batch_size,), generator=generator)
            error = (student.act(x[chosen], update_ranges=True) - target[chosen]) / half_range
            optimizer.minimize(error.square().mean())
            done += 1
    return student.policy()
