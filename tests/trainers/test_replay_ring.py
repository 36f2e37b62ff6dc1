"""Properties of the replay ring: random sequences of what can happen to it, against a list of all transitions."""

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pytest
import torch

from trainers.data.replay import ReplayBuffer
from trainers.envs.seed_envs import Step
from trainers.envs.spec import EnvSpec
from trainers.tensors import FloatArray

SPEC = EnvSpec("Test-v0", 3, 2, (-1.0, -1.0), (1.0, 1.0))
CPU = torch.device("cpu")
GAMMA = 0.9


@dataclass
class NaiveReplay:
    """Every transition ever added, whole, in a list for each seed and environment."""

    num_seeds: int
    num_envs: int
    obs: FloatArray
    rows: list[list[tuple[Any, ...]]] = field(default_factory=list)

    def add(self, action: FloatArray, step: Step) -> None:
        row: list[tuple[Any, ...]] = []
        for s in range(self.num_seeds):
            for e in range(self.num_envs):
                next_obs = step.final_obs.get((s, e), step.next_obs[s, e])
                discount = np.float32(0.0 if step.terminated[s, e] else GAMMA)
                row.append((self.obs[s, e], action[s, e], step.reward[s, e], discount, next_obs))
        self.rows.append(row)
        self.obs = step.next_obs

    def newest(self, s: int, rows: int) -> dict[float, tuple[Any, ...]]:
        """The transitions of seed number s in the last rows, by their observation's first number, which is unique."""
        transitions: dict[float, tuple[Any, ...]] = {}
        for row in self.rows[-rows:]:
            for transition in row[s * self.num_envs : (s + 1) * self.num_envs]:
                transitions[float(transition[0][0])] = transition
        return transitions


class World:
    """Random steps whose observations have a number of their own; episodes end in both ways."""

    def __init__(self, generator: np.random.Generator, num_seeds: int, num_envs: int) -> None:
        self.generator = generator
        self.shape = (num_seeds, num_envs)
        self.count = 0

    def observations(self) -> FloatArray:
        obs = self.generator.normal(size=(*self.shape, SPEC.obs_dim)).astype(np.float32)
        size = self.shape[0] * self.shape[1]
        obs[..., 0] = np.arange(self.count, self.count + size).reshape(self.shape)
        self.count += size
        return obs

    def step(self) -> tuple[FloatArray, Step]:
        action = self.generator.uniform(-1, 1, (*self.shape, SPEC.act_dim)).astype(np.float32)
        reward = self.generator.normal(size=self.shape).astype(np.float32)
        terminated = self.generator.random(self.shape) < 0.1
        truncated = (self.generator.random(self.shape) < 0.2) & ~terminated
        final = self.observations()
        final_obs = {(s, e): final[s, e] for s, e in np.argwhere(truncated).tolist()}
        return action, Step(self.observations(), reward, terminated, final_obs)


def check_sample(replay: ReplayBuffer, naive: NaiveReplay, batch_size: int) -> list[set[float]]:
    """Compare a batch with the list; the first number of the observations that were drawn, for each seed."""
    batch = replay.sample(batch_size)
    drawn: list[set[float]] = []
    for s in range(naive.num_seeds):
        transitions = naive.newest(s, replay.capacity)
        numbers = batch.obs[s, :, 0].tolist()
        for i, number in enumerate(numbers):
            obs, action, reward, discount, next_obs = transitions[number]
            assert np.array_equal(batch.obs[s, i], obs)
            assert np.array_equal(batch.action[s, i], action)
            assert batch.reward[s, i].item() == reward
            assert batch.discount[s, i].item() == discount
            if discount:
                assert np.array_equal(batch.next_obs[s, i], next_obs)
        drawn.append(set(numbers))
    return drawn


def moved_to_another(replay: ReplayBuffer, seeds: list[int], obs: FloatArray) -> ReplayBuffer:
    """A new buffer with all that the old one holds, as a checkpoint moves it."""
    other = ReplayBuffer(SPEC, seeds, obs.shape[1], replay.capacity * obs.shape[1], GAMMA, CPU)
    for i in range(len(seeds)):
        other.restore(i, replay.snapshot(i))
        first = max(0, replay.num_added - replay.capacity)
        other.put_rows(i, first, replay.rows(i, first, replay.num_added))
    other.start(obs)
    return other


@pytest.mark.parametrize("sample", range(20))
def test_random_sequences_hold_the_newest_transitions(sample: int) -> None:
    """Adds past the end of the ring several times, with samples and moves to another buffer between them."""
    generator = np.random.default_rng((2, sample))
    num_seeds, num_envs, rows = (int(n) for n in generator.integers((1, 1, 2), (4, 4, 12)))
    seeds = list(range(num_seeds))
    world = World(generator, num_seeds, num_envs)
    replay = ReplayBuffer(SPEC, seeds, num_envs, rows * num_envs, GAMMA, CPU)
    naive = NaiveReplay(num_seeds, num_envs, world.observations())
    replay.start(naive.obs)
    while replay.num_added < 4 * rows:
        for _ in range(generator.integers(1, 5)):
            action, step = world.step()
            replay.add(action, step)
            naive.add(action, step)
        check_sample(replay, naive, batch_size=8)
        if generator.random() < 0.3:
            replay = moved_to_another(replay, seeds, naive.obs)

    everything = check_sample(replay, naive, batch_size=100 * rows * num_envs)
    for s, numbers in enumerate(everything):
        assert numbers == naive.newest(s, rows).keys()
    assert len(replay.final.used) <= num_seeds * num_envs * (rows + 1)
