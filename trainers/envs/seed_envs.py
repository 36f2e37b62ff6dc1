"""Environments of all seeds, stepped together in one process."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import gymnasium as gym
import numpy as np
import torch
from numpy.typing import NDArray

from trainers.envs.spec import EnvSpec
from trainers.errors import shown
from trainers.rng import RngStream, later_seed
from trainers.tensors import FloatArray, Snapshot

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
    """An episode that ended."""

    episodic_return: float
    length: int


class SyncSeedEnvs:
    """E environments for each of S seeds, reset at an episode's end, each on the random stream of its seed."""

    def __init__(self, make_env: EnvFactory, spec: EnvSpec, seeds: Sequence[int], num_envs: int) -> None:
        self.spec = spec
        self.seeds = seeds
        self.envs: list[list[ReplayableEnv]] = []
        for _ in seeds:
            self.envs.append([ReplayableEnv(make_env(), spec.reseeds) for _ in range(num_envs)])
        self.shape = (len(seeds), num_envs)
        self.obs = np.zeros((*self.shape, spec.obs_dim), np.float32)
        """[S, E, obs_dim], what to act on next."""
        self.finished: list[list[Episode]] = [[] for _ in seeds]
        self._returns = np.zeros(self.shape)
        self._begun = np.zeros((*self.shape, spec.act_dim), np.float32)

    def reset(self) -> None:
        """Begin all episodes."""
        for s, row in enumerate(self.envs):
            for e, env in enumerate(row):
                seed = self.spec.reset_seed(RngStream.TRAIN_ENV, self.seeds[s], e)
                self.obs[s, e] = checked_observation(env.seed(seed), self.spec)

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
                obs, reward[s, e], terminated[s, e], truncated = env.step(actions[s, e])
                obs = checked_observation(obs, self.spec)
                self._returns[s, e] += reward[s, e]
                if terminated[s, e] or truncated:
                    if not terminated[s, e]:
                        final_obs[s, e] = obs
                    self.finished[s].append(Episode(float(self._returns[s, e]), len(env.actions)))
                    self._returns[s, e] = 0
                    obs = checked_observation(env.reset(), self.spec)
                next_obs[s, e] = obs
        if not np.isfinite(reward).all():
            raise FloatingPointError(f"{self.spec.env_id} returned a reward that is not finite: {reward}")
        self.obs = next_obs
        return Step(next_obs, reward, terminated, final_obs)

    def step_async(self, actions: FloatArray) -> None:
        """Have every environment take its action of [S, E, act_dim]; here they step in `step_wait`."""
        self._begun = actions

    def step_wait(self) -> Step:
        """What came of the actions of `step_async`."""
        return self.step(self._begun)

    def pop_episodes(self, s: int) -> list[Episode]:
        """Episodes of seed number s that ended since the last call."""
        episodes = self.finished[s]
        self.finished[s] = []
        return episodes

    def close(self) -> None:
        """Close every environment."""
        for row in self.envs:
            for env in row:
                env.close()

    def snapshot(self, i: int) -> Snapshot:
        """All of the environments of seed number i that stepping goes on from."""
        tensors = {"obs": torch.from_numpy(self.obs[i].copy())}
        for e, env in enumerate(self.envs[i]):
            tensors[f"actions.{e}"] = torch.from_numpy(np.array(env.actions, np.float32))
        metadata = {
            "starts": [env.start for env in self.envs[i]],
            "returns": self._returns[i].tolist(),
            "finished": [[episode.episodic_return, episode.length] for episode in self.finished[i]],
        }
        return Snapshot(tensors, metadata)

    def restore(self, i: int, snapshot: Snapshot) -> None:
        """Put back what `snapshot` gave. Raises RuntimeError for an environment that does not repeat itself."""
        for e, (env, start) in enumerate(zip(self.envs[i], snapshot.metadata["starts"], strict=True)):
            self.obs[i, e] = env.replay(start, snapshot.tensors[f"actions.{e}"].numpy())
        if not np.array_equal(self.obs[i], snapshot.tensors["obs"].numpy()):
            raise RuntimeError(
                f"{self.spec.env_id} does not repeat itself, it cannot be restored: begin anew with overwrite=true"
            )
        self._returns[i] = snapshot.metadata["returns"]
        self.finished[i] = [Episode(*episode) for episode in snapshot.metadata["finished"]]


class ReplayableEnv:
    """An environment that remembers how its episode began and what was done in it.

    Playing that again restores it to the bit, whatever hidden state its simulator has; a state that is read out
    and put back is easily incomplete (MuJoCo's Ant and Humanoid pay for positions from before the step).
    """

    def __init__(self, env: Env, reseeds: bool = False) -> None:
        """`reseeds`: every episode gets a seed of its own, for environments whose generator nobody can put back."""
        self.env = env
        self.reseeds = reseeds
        self.start: dict[str, Any] = {}
        """Of the episode: the seed of its stream, with its number where it is reseeded, or the generator's state."""
        self.actions: list[FloatArray] = []

    def seed(self, seed: int, episode: int = 0) -> Any:
        """Begin an episode on a new random stream; its first observation."""
        self.start = {"seed": seed, "episode": episode} if self.reseeds else {"seed": seed}
        self.actions = []
        return self.env.reset(seed=later_seed(seed, episode) if episode else seed)[0]

    def reset(self) -> Any:
        """Begin the next episode on the same random stream; its first observation."""
        if self.reseeds:
            return self.seed(self.start["seed"], self.start["episode"] + 1)
        self.start = {"generator": self.env.unwrapped.np_random.bit_generator.state}
        self.actions = []
        return self.env.reset()[0]

    def step(self, action: FloatArray) -> tuple[Any, float, bool, bool]:
        """Take an action [act_dim]; observation, reward, whether it terminated, whether it was truncated."""
        self.actions.append(action)
        return checked_step(self.env.step(action), str(self.env.spec and self.env.spec.id))

    def replay(self, start: dict[str, Any], actions: FloatArray) -> Any:
        """Begin an episode as `start` says and take actions [n, act_dim] in it; the last observation."""
        if "seed" in start:
            obs = self.seed(start["seed"], start.get("episode", 0))
        else:
            self.env.reset(seed=0)
            self.env.unwrapped.np_random.bit_generator.state = start["generator"]
            obs = self.reset()
        for action in actions:
            obs = self.step(action)[0]
        return obs

    def close(self) -> None:
        """Close the environment."""
        self.env.close()


def repeats_itself(make_env: EnvFactory, spec: EnvSpec, snapshot: Snapshot) -> bool:
    """Whether another instance of the environment gets to where the first one of a seed is, by `snapshot` of it."""
    with_past = ReplayableEnv(make_env(), spec.reseeds)
    try:
        obs = with_past.replay(snapshot.metadata["starts"][0], snapshot.tensors["actions.0"].numpy())
    finally:
        with_past.close()
    return np.array_equal(np.asarray(obs, np.float32), snapshot.tensors["obs"][0].numpy())


def check_actions(actions: FloatArray, step: int, remedy: str = "") -> FloatArray:
    """The actions as they are. Raises FloatingPointError for one that is not finite: that is the policy's fault."""
    if not np.isfinite(actions).all():
        raise FloatingPointError(f"the policy gave NaN actions at step {step}{remedy}")
    return actions


def checked_observation(obs: Any, spec: EnvSpec) -> FloatArray:
    """A copy of the observation in float32.

    Raises:
        ValueError: For another shape, which might be broadcast without a word.
        FloatingPointError: For one that is not finite: one NaN would poison running statistics for ever.
    """
    array = np.array(obs, np.float32)
    if array.shape != (spec.obs_dim,):
        raise ValueError(f"{spec.env_id} returned an observation of shape {array.shape}, not {(spec.obs_dim,)}")
    if not np.isfinite(array).all():
        raise FloatingPointError(f"{spec.env_id} returned an observation that is not finite in float32: {array}")
    return array


def checked_step(answer: Any, name: str) -> tuple[Any, float, bool, bool]:
    """Observation, reward, whether it terminated, whether it was truncated, of what `step` returned.

    Raises TypeError for anything else, with the name of the environment.
    """
    try:
        obs, reward, terminated, truncated, _ = answer
        return obs, float(reward), bool(terminated), bool(truncated)
    except (TypeError, ValueError) as error:
        what = shown(reward) if isinstance(answer, tuple) and len(answer) == 5 else shown(answer)
        raise TypeError(
            f"{name}: step must return (observation, reward, terminated, truncated, info) with a number as the reward, "
            f"it returned {what}"
        ) from error
