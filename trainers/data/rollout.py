"""Rollouts: steps of all environments under one policy, and advantages from them."""

from collections.abc import Callable
from typing import Any, NamedTuple, Protocol

import numpy as np
import torch
from torch import Tensor

from trainers.envs.seed_envs import EnvFactory, Step, check_actions, check_finite
from trainers.envs.spec import EnvSpec
from trainers.rng import RngStream
from trainers.tensors import FloatArray


class Rollout(NamedTuple):
    """T steps of every environment under one policy, [S, T, E, ...]."""

    obs: Tensor
    action: Tensor
    """As drawn, in environment units: the environment was given its clip to the bounds."""
    reward: Tensor
    next_obs: Tensor
    """The true next observation: the final one where an episode was truncated, unused where it terminated."""
    terminated: Tensor
    done: Tensor
    """Whether the episode ended here, in either way."""


class Steppable(Protocol):
    """Environments in lockstep: actions [S, E, act_dim] make a step of all of them."""

    spec: EnvSpec
    obs: FloatArray

    def step(self, actions: FloatArray) -> Step: ...


def collect(act: Callable[[FloatArray], FloatArray], envs: Steppable, steps: int, device: torch.device) -> Rollout:
    """`steps` steps of every environment with actions [S, E, act_dim] from `act`."""
    low, high = (np.array(bound, np.float32) for bound in (envs.spec.action_low, envs.spec.action_high))
    rows: list[tuple[Any, ...]] = []
    for _ in range(steps):
        obs = envs.obs
        action = act(obs)
        step = envs.step(np.minimum(np.maximum(action, low), high))
        next_obs = step.next_obs
        done = step.terminated
        if step.final_obs:
            next_obs = next_obs.copy()
            done = done.copy()
            for place, final in step.final_obs.items():
                next_obs[place] = final
                done[place] = True
        rows.append((obs, action, step.reward, next_obs, step.terminated, done))
    return Rollout(*(torch.from_numpy(np.stack(column, 1)).to(device) for column in zip(*rows, strict=True)))


def gae(
    reward: Tensor,
    value: Tensor,
    next_value: Tensor,
    terminated: Tensor,
    done: Tensor,
    gamma: float,
    gae_lambda: float,
) -> Tensor:
    """Generalised advantage estimates (arXiv 1506.02438, eq. 16) [S, T, E] of arguments of that shape.

    A time limit ends the sum but not the bootstrap: the value of the true final observation stands for the rest.
    """
    delta = reward + gamma * next_value * ~terminated - value
    decay = gamma * gae_lambda * ~done
    # In NumPy, on the CPU: a small operation of torch takes several times longer.
    advantage, factor = (np.ascontiguousarray(x.transpose(0, 1).cpu().numpy()) for x in (delta, decay))
    discounted_cumsum_(advantage.reshape(len(advantage), -1), factor.reshape(len(factor), -1))
    return torch.from_numpy(advantage).transpose(0, 1).contiguous().to(reward.device)


def discounted_cumsum_(x: FloatArray, factor: FloatArray) -> None:
    """x[t] <- x[t] + factor[t] x[t + 1], from the end to the beginning of [T, n], in place."""
    # NumPy's scalars round as its arrays do, and are ten times as fast as arrays of one number.
    wide = x.shape[1] > 6
    for numbers, factors in [(x, factor)] if wide else zip(x.T, factor.T, strict=True):
        later = numbers[-1]
        for t, now, by in zip(reversed(range(len(x) - 1)), numbers[-2::-1], factors[-2::-1], strict=True):
            numbers[t] = later = now + by * later


def collect_observations(
    act: Callable[[FloatArray], FloatArray],
    make_env: EnvFactory,
    spec: EnvSpec,
    seed: int | None,
    steps: int,
    first_episode: int = 0,
) -> FloatArray:
    """The first `steps` observations [steps, obs_dim] a policy sees on the calibration stream of `seed`.

    With None episodes follow the environment's own stream.
    """
    visited = np.empty((steps, spec.obs_dim), np.float32)
    obs: Any = None
    episode = first_episode
    with make_env() as env:
        for t in range(steps):
            if obs is None:
                obs, _ = env.reset(seed=None if seed is None else spec.reset_seed(RngStream.CALIBRATE, seed, episode))
                episode += 1
            visited[t] = check_finite(obs, spec)
            obs, _, terminated, truncated, _ = env.step(check_actions(act(visited[t]), t))
            if terminated or truncated:
                obs = None
    return visited
