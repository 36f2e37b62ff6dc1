"""Behaviour distillation: a small student learns the actions of a trained policy, also where it strays (DAgger)."""

import numpy as np
import torch
from torch import Tensor, nn

from compression.lowbit import compact, eleven_bits
from compression.pruning import replace_layers
from compression.qat import standard_deviation
from compression.runtime import OnnxPolicy
from trainers.actor_critic import ActorTransform
from trainers.data.rollout import collect_observations
from trainers.envs.seed_envs import EnvFactory
from trainers.nn.activations import activation_name
from trainers.nn.optimizer import FlatAdam
from trainers.nn.stacked import StackedMLP
from trainers.policy import Clamp, Policy, input_standardized, split_at_linears
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


def action_error(action: Tensor, target: Tensor, low: Tensor, high: Tensor) -> Tensor:
    """`action` - `target`, and 0 where the target lies at a bound and the action beyond it: clipped, they are equal."""
    beyond = ((target >= high) & (action > high)) | ((target <= low) & (action < low))
    return torch.where(beyond, 0.0, action - target)


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
    few_bits: bool = False,
) -> Policy:
    """`policy` after `steps` gradient steps towards the teacher's actions, their error measured in half ranges.

    Begins on `states` states that the teacher visits; then `rounds` times the student adds as many of its own, with
    the teacher's actions as labels (DAgger, arXiv 1011.0686). The learning rate falls linearly to 0. `transform`
    may prepare the layers for quantisation. With `few_bits` the statistics and bounds of the policy become compact, and
    an action beyond a bound that the teacher is at is no error. A policy that begins with a linear layer has its input
    standardised first, by the teacher's states, and trains the weights of that: Adam then moves the weights of every
    input by as large a share of the grid that they are rounded to.
    """
    act = OnnxPolicy.from_policy(teacher)
    observations = collect_observations(act, make_env, policy.spec, seed, states)
    if few_bits:
        if isinstance(policy[0], nn.Linear):
            var, mean = torch.var_mean(torch.from_numpy(observations), 0, correction=0)
            # Rounded before they are folded, so that the function stays the same.
            inverse_std = eleven_bits(1 / standard_deviation(var))
            policy = input_standardized(policy, eleven_bits(mean), 1 / inverse_std)
        policy = compact(policy)
    student = Student(policy, transform)
    optimizer = FlatAdam(student.network, lr)
    generator = torch_stream(RngStream.DISTILL, seed)
    _, half_range = policy.spec.action_center_and_scale(torch.device("cpu"))
    low = torch.tensor(policy.spec.action_low)
    high = torch.tensor(policy.spec.action_high)
    done = 0
    for stage in range(rounds + 1):
        if stage > 0:
            act = OnnxPolicy.from_policy(student.policy())
            new = collect_observations(act, make_env, policy.spec, seed, states, stage * EPISODES_PER_ROUND)
            observations = np.concatenate([observations, new])
        x = torch.from_numpy(observations)
        target = teacher(x)
        while done < steps * (stage + 1) // (rounds + 1):
            optimizer.lr.fill_(lr * (1 - done / steps))
            chosen = torch.randint(len(x), (batch_size,), generator=generator)
            action = student.act(x[chosen], update_ranges=True)
            error = action_error(action, target[chosen], low, high) if few_bits else action - target[chosen]
            optimizer.minimize((error / half_range).square().mean())
            done += 1
    return student.policy()
