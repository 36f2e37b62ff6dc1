"""Rollouts: steps of all environments under one policy, and advantages from them."""

from collections.abc import Callable
from typing import Any, NamedTuple, Protocol

import numpy as np
import torch
from torch import Tensor

from trainers.envs.seed_envs import EnvFactory, Step, check_actions, checked_observation, checked_step
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

    def step(self, actions: FloatArray) -> Step:
        """Step every environment with its action of [S, E, act_dim]."""
        ...


def collect(act: Callable[[FloatArray], FloatArray], envs: Steppable, steps: int, device: torch.device) -> Rollout:
    """Steps of every environment under one policy.

    Args:
        act: From observations [S, E, obs_dim] to actions [S, E, act_dim], which are stored as they are and clipped to
            the bounds for the environment.
        envs: What is stepped.
        steps: How often: T of the rollout.
        device: Where the rollout is put.
    """
    low, high = envs.spec.action_bounds()
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
            for env, final in step.final_obs.items():
                next_obs[env] = final
                done[env] = True
        rows.append((obs, action, step.reward, next_obs, step.terminated, done))
    columns: list[Tensor] = []
    for column in zip(*rows, strict=True):
        columns.append(torch.from_numpy(np.stack(column, 1)).to(device))
    return Rollout(*columns)


def gae(
    reward: Tensor,
    value: Tensor,
    next_value: Tensor,
    terminated: Tensor,
    done: Tensor,
    gamma: float,
    gae_lambda: float,
) -> Tensor:
    """Generalised advantage estimates (arXiv 1506.02438, equation 16) [S, T, E].

    A time limit ends the sum but not the bootstrap: the value of the true final observation stands for the rest.

    Args:
        reward: [S, T, E].
        value: Of the observations acted on, [S, T, E].
        next_value: Of the true next observations, [S, T, E].
        terminated: Whether the episode ended in a state of its own, [S, T, E].
        done: Whether it ended in any way, [S, T, E].
        gamma: Discount.
        gae_lambda: Weight of later estimates: 0 for the TD error, 1 for the return.
    """
    delta = reward + gamma * next_value * ~terminated - value
    decay = gamma * gae_lambda * ~done
    # In NumPy, on the CPU: a small operation of torch takes several times longer.
    advantage = np.ascontiguousarray(delta.transpose(0, 1).cpu().numpy())
    factor = np.ascontiguousarray(decay.transpose(0, 1).cpu().numpy())
    discounted_cumsum_(advantage.reshape(len(advantage), -1), factor.reshape(len(factor), -1))
    return torch.from_numpy(advantage).transpose(0, 1).contiguous().to(reward.device)


def discounted_cumsum_(x: FloatArray, factor: FloatArray) -> None:
    """x[t] <- x[t] + factor[t] x[t + 1], from the end to the beginning of [T, n], in place."""
    # NumPy's scalars round as its arrays do, and are ten times as fast as arrays of one number.
    is_wide = x.shape[1] > 6
    columns = [(x, factor)] if is_wide else zip(x.T, factor.T, strict=True)
    times = range(len(x) - 2, -1, -1)
    for numbers, factors in columns:
        later = numbers[-1]
        for t, now, by in zip(times, numbers[-2::-1], factors[-2::-1], strict=True):
            later = now + by * later
            numbers[t] = later


def collect_observations(
    act: Callable[[FloatArray], FloatArray],
    make_env: EnvFactory,
    spec: EnvSpec,
    seed: int | None,
    steps: int,
    first_episode: int = 0,
) -> FloatArray:
    """The first observations [steps, obs_dim] that a policy sees.

    Args:
        act: The policy, from an observation [obs_dim] to an action [act_dim].
        make_env: Makes the environment that it acts in.
        spec: That of the environment.
        seed: Whose calibration stream episodes begin on; None for the environment's own stream.
        steps: How many.
        first_episode: Number of the first episode on the calibration stream.

    Raises:
        FloatingPointError: For an observation that is not finite.
    """
    visited = np.empty((steps, spec.obs_dim), np.float32)
    obs: Any = None
    episode = first_episode
    with make_env() as env:
        for t in range(steps):
            if obs is None:
                reset_seed = None if seed is None else spec.reset_seed(RngStream.CALIBRATE, seed, episode)
                obs, _ = env.reset(seed=reset_seed)
                episode += 1
            visited[t] = checked_observation(obs, spec)
            obs, _, terminated, truncated = checked_step(env.step(check_actions(act(visited[t]), t)), spec.env_id)
            if terminated or truncated:
                obs = None
    return visited
