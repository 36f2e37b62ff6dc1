"""Environments that draw from the global generators of NumPy and Python, made to repeat themselves."""

import random
from typing import Any

import gymnasium as gym
import numpy as np

State = tuple[Any, Any]


def global_state() -> State:
    """The state of both global generators."""
    return np.random.get_state(), random.getstate()


def set_global_state(state: State) -> None:
    """Put back what `global_state` gave."""
    np.random.set_state(state[0])
    random.setstate(state[1])


def seed_globally(seed: int) -> None:
    """Seed both global generators."""
    np.random.seed(seed % 2**32)
    random.seed(seed)


def is_unchanged(state: State) -> bool:
    """Whether nothing was drawn from the global generators since `state`."""
    now = global_state()
    same = all(np.array_equal(one, other) for one, other in zip(now[0], state[0], strict=True))
    return same and now[1] == state[1]


class OwnGlobalGenerators(gym.Wrapper[Any, Any, Any, Any]):
    """An environment for which the global generators are its own: seeded with it, and disturbed by nobody else."""

    def __init__(self, env: gym.Env[Any, Any]) -> None:
        super().__init__(env)
        self._own = global_state()

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> Any:
        """As the environment's, on its own generators, which `seed` seeds."""
        outside = global_state()
        set_global_state(self._own)
        if seed is not None:
            seed_globally(seed)
        try:
            return self.env.reset(seed=seed, options=options)
        finally:
            self._own = global_state()
            set_global_state(outside)

    def step(self, action: Any) -> Any:
        """As the environment's, on its own generators."""
        outside = global_state()
        set_global_state(self._own)
        try:
            return self.env.step(action)
        finally:
            self._own = global_state()
            set_global_state(outside)
