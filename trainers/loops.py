"""Interaction loops. They yield now and then, so that the caller can log, evaluate or stop.

A loop goes on from `steps` steps when its agent, environments and replay memory are restored to that point.
"""

import itertools
import math
from collections.abc import Callable, Iterator
from typing import Protocol

import torch
from torch import Tensor

from trainers.data.replay import ReplayBuffer
from trainers.data.rollout import Rollout, collect
from trainers.envs.seed_envs import SyncSeedEnvs, check_actions
from trainers.envs.workers import SubprocSeedEnvs
from trainers.tensors import FloatArray

# What may help where a policy that learns gives NaN.
DIVERGED = ": its training diverged; a smaller learning rate may help"


class OffPolicyAgent(Protocol):
    """What the off-policy loop asks of an agent."""

    def act(self, obs: FloatArray) -> FloatArray:
        """Exploring actions [S, E, act_dim] for observations [S, E, obs_dim]."""
        ...

    def publish(self) -> None:
        """Hand over the actor of now to acting, where that lags behind."""


class OnPolicyAgent(Protocol):
    """What the on-policy loop asks of an agent."""

    def anneal(self, steps: int) -> None:
        """Set what changes along the training, before the update after its first `steps` steps."""

    def act(self, obs: FloatArray) -> FloatArray:
        """Exploring actions [S, E, act_dim] for observations [S, E, obs_dim]."""
        ...

    def update(self, rollout: Rollout) -> dict[str, Tensor]:
        """Learn from a rollout [S, T, E, ...]; metrics [S] by name."""
        ...


def off_policy_loop(
    agent: OffPolicyAgent,
    update: Callable[[], dict[str, Tensor]],
    envs: SyncSeedEnvs | SubprocSeedEnvs,
    replay: ReplayBuffer,
    warmup: Callable[[], FloatArray],
    *,
    steps: int,
    total_steps: int,
    learning_starts: int,
    updates_per_step: int,
    overlap: bool,
    yield_every: int,
) -> Iterator[tuple[int, dict[str, Tensor]]]:
    """Actions from `warmup` for `learning_starts` steps, then one environment step and its updates in turn.

    With `overlap` environments step while the updates run: those do not see the newest transition yet, and an agent
    that was told to lag behind acts as of one step's updates before. Both lags are fixed, so that a run repeats.

    Args:
        agent: Acts, and publishes what it has learned.
        update: Samples a batch and learns from it; metrics [S] by name.
        envs: E environments for each of S seeds.
        replay: Takes every transition.
        warmup: Gives actions [S, E, act_dim] before learning begins.
        steps: Where the loop goes on from: environment steps of one seed, over its E environments, as all steps here.
        total_steps: Where it ends.
        learning_starts: Steps before learning begins.
        updates_per_step: Updates per environment step.
        overlap: Whether to step while updates run.
        yield_every: About how many steps lie between two yields.

    Yields:
        Steps so far, and the newest metrics of the updates; those are empty before the first one.
    """
    num_envs = envs.shape[1]
    metrics: dict[str, Tensor] = {}

    def learn() -> None:
        for _ in range(num_envs * updates_per_step):
            metrics.update(update())
        agent.publish()

    if steps == 0:
        envs.reset()
    replay.start(envs.obs)
    yielded = steps
    while steps < total_steps:
        action = warmup() if steps < learning_starts else agent.act(envs.obs)
        check_actions(action, steps, DIVERGED)
        envs.step_async(action)
        steps += num_envs
        learning = steps > learning_starts
        if learning and overlap and replay.num_added:
            learn()
        replay.add(action, envs.step_wait())
        if learning and not overlap:
            learn()
        if steps - yielded >= yield_every or steps >= total_steps:
            yielded = steps
            yield steps, metrics


def on_policy_loop(
    agent: OnPolicyAgent,
    envs: SyncSeedEnvs | SubprocSeedEnvs,
    device: torch.device,
    *,
    steps: int,
    total_steps: int,
    rollout_steps: int,
) -> Iterator[tuple[int, dict[str, Tensor]]]:
    """Rollouts of `rollout_steps` steps per seed and updates in turn.

    The last one takes the rest, between half and one and a half of that: a full update on a few steps does harm.
    All environments of a seed take the same number of steps in a rollout. Where that does not come out even, the last
    one takes a few more than `total_steps`, less than one per environment.

    Args:
        agent: Acts and learns.
        envs: E environments for each of S seeds.
        device: Where rollouts are put.
        steps: Where the loop goes on from: environment steps of one seed, over its E environments, as all steps here.
        total_steps: Where it ends.
        rollout_steps: Steps of a rollout.

    Yields:
        Steps so far, and the metrics of the last update, after every update.
    """
    if steps == 0:
        envs.reset()
    num_envs = envs.shape[1]
    while steps < total_steps:
        rest = total_steps - steps
        size = rest if 2 * rest < 3 * rollout_steps else rollout_steps
        steps_per_env = math.ceil(size / num_envs)
        rollout = collect(_checked(agent.act, steps, num_envs), envs, steps_per_env, device)
        agent.anneal(steps)
        metrics = agent.update(rollout)
        steps += steps_per_env * num_envs
        yield steps, metrics


def _checked(act: Callable[[FloatArray], FloatArray], step: int, num_envs: int) -> Callable[[FloatArray], FloatArray]:
    """Actions of `act`, from `step` on. Raises FloatingPointError where one is not finite."""
    calls = itertools.count()
    return lambda obs: check_actions(act(obs), step + next(calls) * num_envs, DIVERGED)
