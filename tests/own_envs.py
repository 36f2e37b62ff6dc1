"""Environments as users write them, each with one habit: `env.id=tests.own_envs:<name>-v0`."""

import os
import random
from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium.spaces import Box


class Base(gym.Env[Any, Any]):
    """Four numbers that fall towards zero, two of them pushed by the action."""

    action_space: Any = Box(-1, 1, (2,), np.float32)
    observation_space: Any = Box(-np.inf, np.inf, (4,), np.float32)

    def __init__(self, render_mode: str | None = None, friction: float = 0.1) -> None:
        self.friction = friction

    def obs(self) -> Any:
        return self.x.astype(np.float32)

    def draw(self) -> Any:
        return self.np_random.normal(size=4)

    def reset(self, *, seed: int | None = None, options: Any = None) -> Any:
        super().reset(seed=seed)
        self.x = self.draw()
        return self.obs(), {}

    def step(self, action: Any) -> Any:
        self.x = (1 - self.friction) * self.x
        self.x[:2] += 0.1 * np.asarray(action, np.float64).ravel()
        return self.obs(), -float((self.x**2).sum()), False, False, {}


class RandomState(Base):
    """As dm_control: takes 32 bits, and goes on drawing where nobody seeds it."""

    def reset(self, *, seed: int | None = None, options: Any = None) -> Any:
        if seed is not None:
            self.rng = np.random.RandomState(seed)
        return super().reset(seed=None)

    def draw(self) -> Any:
        return self.rng.normal(size=4)


class SignedSeed(Base):
    """As a simulator in C: the seed is an int of 32 bits."""

    def reset(self, *, seed: int | None = None, options: Any = None) -> Any:
        return super().reset(seed=None if seed is None else int(np.array(seed).astype(np.int32, casting="same_value")))


class GlobalNumPy(Base):
    def draw(self) -> Any:
        return np.random.normal(size=4)


class GlobalPython(Base):
    def draw(self) -> Any:
        return np.array([random.gauss(0, 1) for _ in range(4)])


class Moody(Base):
    """Never twice the same."""

    def draw(self) -> Any:
        return np.frombuffer(os.urandom(16), np.uint32) / 2**32


class OldReset(Base):
    def reset(self, *, seed: int | None = None, options: Any = None) -> Any:
        return super().reset(seed=seed)[0]


class NoSeed(Base):
    def reset(self) -> Any:  # type: ignore[override]
        return super().reset()


class NoOptions(Base):
    def reset(self, *, seed: int | None = None) -> Any:  # type: ignore[override]
        return super().reset(seed=seed)


class Leaves(Base):
    def step(self, action: Any) -> Any:
        raise SystemExit("no licence")


class LeavesAtOnce(Base):
    def __init__(self) -> None:
        raise SystemExit(3)


class ClosesBadly(Base):
    def close(self) -> None:
        raise RuntimeError("closed already")


class Changes(Base):
    """After a while another answer of `step` than before: `FAULT` chooses which."""

    FAULT = ""
    steps = 0

    def step(self, action: Any) -> Any:
        obs, reward, *rest = super().step(action)
        Changes.steps += 1
        if Changes.steps < 350:
            return obs, reward, *rest
        answers = {
            "one number": (obs[:1], reward, *rest),
            "a row": (obs[None], reward, *rest),
            "no reward": (obs, None, *rest),
            "rewards": (obs, np.array([reward, reward]), *rest),
            "too large": (obs.astype(np.float64) * 1e39, reward, *rest),
        }
        return answers[self.FAULT]


class OldStep(Base):
    def step(self, action: Any) -> Any:
        obs, reward, terminated, _, info = super().step(action)
        return obs, reward, terminated, info


class RewardArray(Base):
    def step(self, action: Any) -> Any:
        obs, reward, *rest = super().step(action)
        return obs, np.array([reward]), *rest


class RewardNone(Base):
    def step(self, action: Any) -> Any:
        obs, _, *rest = super().step(action)
        return obs, None, *rest


class DoneArray(Base):
    def step(self, action: Any) -> Any:
        obs, reward, _, *rest = super().step(action)
        return obs, reward, np.array([False]), *rest


class Row(Base):
    def obs(self) -> Any:
        return super().obs()[None]


class Short(Base):
    def obs(self) -> Any:
        return super().obs()[:1]


class Words(Base):
    def obs(self) -> Any:
        return ["a", "b", "c", "d"]


class NaNs(Base):
    def obs(self) -> Any:
        return super().obs() * np.nan


class Asserts(Base):
    def step(self, action: Any) -> Any:
        raise AssertionError("the gripper\nis not calibrated")


class Ints(Base):
    action_space = Box(0, 10, (2,), np.int64)


class Unbounded(Base):
    action_space = Box(-np.inf, 1, (2,), np.float32)


class Huge(Base):
    action_space = Box(-3.4e38, 3.4e38, (2,), np.float32)


class Point(Base):
    action_space = Box(1.0, np.float64(1.0) + 1e-12, (2,), np.float64)


class Stacked(Base):
    observation_space = Box(-np.inf, np.inf, (2, 2, 1), np.float32)
    action_space = Box(-1, 1, (2, 1), np.float32)

    def obs(self) -> Any:
        return super().obs().reshape(2, 2, 1)


for kind in Base.__subclasses__():
    gym.register(f"{kind.__name__}-v0", entry_point=f"{__name__}:{kind.__name__}", max_episode_steps=20)
gym.register("Plain-v0", entry_point=f"{__name__}:Base", max_episode_steps=20)
gym.register("Plain-v3", entry_point=f"{__name__}:Base", max_episode_steps=20)
gym.register("Endless-v0", entry_point=f"{__name__}:Base")
