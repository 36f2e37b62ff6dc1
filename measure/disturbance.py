"""Disturbed sensors: noisy, late and lost observations, the same ones for every policy compared.

A disturbance acts between the environment and the policy: rewards and dynamics stay those of the environment, and the
normaliser inside a policy sees what the sensors give.
"""

from collections import deque
from dataclasses import dataclass
from typing import Any

import gymnasium as gym
import numpy as np
from numpy.typing import NDArray

from measure.returns import Act
from trainers.data.rollout import collect_observations
from trainers.envs.make import env_factory
from trainers.envs.seed_envs import Env, EnvFactory
from trainers.envs.spec import EnvSpec
from trainers.rng import RngStream, numpy_stream
from trainers.tensors import FloatArray

# Of the reference policy: what the standard deviation of an observation is taken over.
STATES = 5000


@dataclass(frozen=True)
class Disturbance:
    """What happens to observations on their way to a policy, in this order: noise, loss, delay."""

    noise: float = 0.0
    """Standard deviation of Gaussian noise, as a share of each observation's own."""
    drop: float = 0.0
    """Probability that an observation is lost. The last one that arrived stands in its place."""
    delay: int = 0
    """Steps between an observation and the action on it. Until they have passed, the first observation stands."""

    @property
    def is_none(self) -> bool:
        return not (self.noise or self.drop or self.delay)

    def __str__(self) -> str:
        parts = [f"noise {100 * self.noise:g} %"] if self.noise else []
        parts += [f"delay {self.delay} step{'s' * (self.delay > 1)}"] if self.delay else []
        parts += [f"{100 * self.drop:g} % dropped"] if self.drop else []
        return ", ".join(parts) or "undisturbed"


def observation_std(act: Act, spec: EnvSpec, seed: int) -> FloatArray:
    """Standard deviation of each observation [obs_dim] over states that a policy visits undisturbed."""
    visited = collect_observations(act, env_factory(spec), spec, seed, STATES)
    return np.asarray(visited.std(0), np.float32)


class DisturbedEnv(gym.Wrapper[Any, Any, Any, Any]):
    """An environment behind disturbed sensors.

    Every step draws the same numbers whatever the policy does, from a generator that the seed of `reset` begins:
    policies on the same start states meet the same noise and lose the same observations.
    """

    def __init__(self, env: Env, disturbance: Disturbance, std: FloatArray) -> None:
        """`std`: of each observation, [obs_dim]."""
        super().__init__(env)
        self.disturbance = disturbance
        self._scale = disturbance.noise * np.asarray(std, np.float64)
        self._rng = np.random.default_rng()
        self._under_way: deque[NDArray[Any]] = deque(maxlen=disturbance.delay + 1)

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        """Begin an episode. Its first observation is never lost."""
        obs, info = self.env.reset(seed=seed, options=options)
        if seed is not None:
            self._rng = numpy_stream(RngStream.DISTURB, seed)
        reading, _ = self._read(obs)
        self._under_way.extend([reading] * (self.disturbance.delay + 1))
        return self._under_way[0], info

    def step(self, action: Any) -> tuple[Any, Any, bool, bool, dict[str, Any]]:
        obs, reward, terminated, truncated, info = self.env.step(action)
        reading, is_lost = self._read(obs)
        self._under_way.append(self._under_way[-1] if is_lost else reading)
        return self._under_way[0], reward, terminated, truncated, info

    def _read(self, obs: Any) -> tuple[NDArray[Any], bool]:
        """A noisy copy of an observation, and whether it is lost."""
        reading = np.asarray(obs, np.float64) + self._scale * self._rng.standard_normal(len(self._scale))
        return reading, bool(self._rng.random() < self.disturbance.drop)


def disturbed(make_env: EnvFactory, disturbance: Disturbance, std: FloatArray) -> EnvFactory:
    """What makes an environment behind disturbed sensors; `std` of each observation, [obs_dim]."""
    return lambda: DisturbedEnv(make_env(), disturbance, std)
