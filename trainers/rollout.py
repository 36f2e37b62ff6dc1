"""Environments of all seeds, stepped together in one process."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import gymnasium as gym
import numpy as np
from numpy.typing import NDArray

from trainers.spec import Spec, Stream, env_seed

FloatArray = NDArray[np.float32]
Env = gym.Env[Any, Any]
EnvFactory = Callable[[], Env]


@dataclass
class Step:
    """One step of S x E environments."""

    next_obs: FloatArray
    """[S, E, obs_dim], what to act on next: after an episode's end already the first of the new one."""
    reward: FloatArray
    """[S, E]"""
    terminated: NDArray[np.bool_]
    """[S, E]"""
    final_obs: dict[tuple[int, int], FloatArray]
    """True last observation of each environment that was truncated, but not terminated, in this step."""


@dataclass(frozen=True)
class Episode:
    episodic_return: float
    length: int


class SeedEnvs:
    """E environments for each of S seeds, reset at an episode's end, each on the random stream of its seed."""

    def __init__(self, make_env: EnvFactory, spec: Spec, seeds: Sequence[int], num_envs: int) -> None:
        self.spec = spec
        self.seeds = seeds
        self.envs = [[make_env() for _ in range(num_envs)] for _ in seeds]
        self.shape = (len(seeds), num_envs)
        self.finished: list[list[Episode]] = [[] for _ in seeds]
        self._returns = np.zeros(self.shape)
        self._lengths = np.zeros(self.shape, dtype=np.int64)

    def reset(self) -> FloatArray:
        """Begin all episodes; [S, E, obs_dim]."""
        obs = np.empty((*self.shape, self.spec.obs_dim), np.float32)
        for s, row in enumerate(self.envs):
            for e, env in enumerate(row):
                first, _ = env.reset(seed=env_seed(Stream.TRAIN_ENV, self.seeds[s], e))
                obs[s, e] = finite(first, self.spec)
        return obs

    def step(self, actions: FloatArray) -> Step:
        """Step every environment with its action of [S, E, act_dim].

        Raises FloatingPointError on an observation or reward that is not finite.
        """
        next_obs = np.empty((*self.shape, self.spec.obs_dim), np.float32)
        reward = np.empty(self.shape, np.float32)
        terminated = np.zeros(self.shape, np.bool_)
        final_obs: dict[tuple[int, int], FloatArray] = {}
        for s, row in enumerate(self.envs):
            for e, env in enumerate(row):
                obs, reward[s, e], terminated[s, e], truncated, _ = env.step(actions[s, e])
                obs = finite(obs, self.spec)
                self._returns[s, e] += reward[s, e]
                self._lengths[s, e] += 1
                if terminated[s, e] or truncated:
                    if not terminated[s, e]:
                        final_obs[s, e] = obs
                    self._finish(s, e)
                    obs = finite(env.reset()[0], self.spec)
                next_obs[s, e] = obs
        if not np.isfinite(reward).all():
            raise FloatingPointError(f"{self.spec.env_id} returned a reward that is not finite: {reward}")
        return Step(next_obs, reward, terminated, final_obs)

    def pop_finished(self, s: int) -> list[Episode]:
        """Episodes of seed number s that ended since the last call."""
        episodes, self.finished[s] = self.finished[s], []
        return episodes

    def close(self) -> None:
        for row in self.envs:
            for env in row:
                env.close()

    def _finish(self, s: int, e: int) -> None:
        self.finished[s].append(Episode(float(self._returns[s, e]), int(self._lengths[s, e])))
        self._returns[s, e] = self._lengths[s, e] = 0


def finite(obs: Any, spec: Spec) -> FloatArray:
    """A copy of the observation in float32. One NaN would poison running statistics for ever: it is refused here."""
    array = np.array(obs, np.float32)
    if not np.isfinite(array).all():
        raise FloatingPointError(f"{spec.env_id} returned an observation that is not finite: {array}")
    return array


def visited_observations(
    act: Callable[[FloatArray], FloatArray], make_env: EnvFactory, spec: Spec, seed: int, steps: int
) -> FloatArray:
    """The first `steps` observations [steps, obs_dim] a policy sees on the calibration stream of `seed`."""
    visited = np.empty((steps, spec.obs_dim), np.float32)
    obs: Any = None
    episodes = 0
    with make_env() as env:
        for t in range(steps):
            if obs is None:
                obs, _ = env.reset(seed=env_seed(Stream.CALIBRATE, seed, episodes))
                episodes += 1
            visited[t] = finite(obs, spec)
            obs, _, terminated, truncated, _ = env.step(act(visited[t]))
            if terminated or truncated:
                obs = None
    return visited
