"""Replay against a naive memory that stores every transition whole; episodes that end in both ways."""

from typing import Any

import numpy as np
import pytest
import torch

from tests.helpers import SPEC, Count
from trainers.data.device_replay import DeviceReplayBuffer
from trainers.data.replay import Batch, ReplayBuffer
from trainers.envs.seed_envs import SyncSeedEnvs
from trainers.envs.spec import EnvSpec
from trainers.rng import RngStream, env_seed, numpy_stream


def play(replay: ReplayBuffer, seeds: list[int], num_envs: int, steps: int) -> SyncSeedEnvs:
    envs = SyncSeedEnvs(Count, SPEC, seeds, num_envs)
    envs.reset()
    replay.start(envs.obs)
    streams = [numpy_stream(RngStream.WARMUP, seed) for seed in seeds]
    for _ in range(steps):
        action = np.stack([g.uniform(-1, 1, (num_envs, 1)) for g in streams]).astype(np.float32)
        replay.add(action, envs.step(action))
    return envs


@pytest.mark.parametrize(("steps", "num_envs"), [(4, 1), (30, 1), (100, 1), (33, 3)])
def test_sampled_transitions_are_true(steps: int, num_envs: int) -> None:
    """Whatever is sampled, also after the ring wrapped, is a transition of Count with its true successor."""
    replay = ReplayBuffer(SPEC, [3, 4], num_envs, 20 * num_envs, gamma=0.9, device=torch.device("cpu"))
    play(replay, [3, 4], num_envs, steps)
    check_transitions(replay.sample(2000), steps)


@pytest.mark.parametrize(("steps", "num_envs"), [(4, 1), (30, 1), (100, 1), (33, 3)])
def test_transitions_sampled_on_the_device_are_true(steps: int, num_envs: int) -> None:
    replay = DeviceReplayBuffer(SPEC, [3, 4], num_envs, 20 * num_envs, gamma=0.9, device=torch.device("cpu"))
    play(replay, [3, 4], num_envs, steps)
    drawn = torch.empty((2, 2000), dtype=torch.int64).random_(generator=torch.Generator().manual_seed(0))
    batch = replay.sample_drawn(drawn)
    check_transitions(batch, steps)
    if num_envs == 1:
        assert len(batch.reward[0].unique()) == min(steps, 20)


def check_transitions(batch: Batch, steps: int) -> None:
    """Every one is a transition of Count with its true successor, and from 30 steps on some were truncated."""
    episode, step = batch.obs[..., 0], batch.obs[..., 1]
    even = episode % 2 == 0
    terminated = even & (step == 2)
    torch.testing.assert_close(batch.reward, 10 * episode + step + 1)
    torch.testing.assert_close(batch.discount, torch.where(terminated, 0.0, 0.9))
    alive = ~terminated
    torch.testing.assert_close(batch.next_obs[alive][:, 0], episode[alive])
    torch.testing.assert_close(batch.next_obs[alive][:, 1], step[alive] + 1)
    truncated = ~even & (step == 4)
    if steps >= 30:
        assert truncated.any()
        assert (batch.discount[truncated] == 0.9).all()


def test_samples_uniformly_over_the_newest_transitions() -> None:
    replay = ReplayBuffer(SPEC, [0], 1, 20, gamma=0.9, device=torch.device("cpu"))
    envs = play(replay, [0], 1, 100)
    rewards, counts = replay.sample(20_000).reward.unique(return_counts=True)
    assert len(rewards) == 20
    assert counts.min() > 850
    assert counts.max() < 1150
    env = envs.envs[0][0].env
    assert isinstance(env, Count)
    assert rewards.max() < 10 * env.episode + 6


def test_a_seed_samples_the_same_alone_and_in_a_pack() -> None:
    alone, pack = (ReplayBuffer(SPEC, s, 2, 40, 0.9, torch.device("cpu")) for s in ([5], [1, 5]))
    play(alone, [5], 2, 50)
    play(pack, [1, 5], 2, 50)
    for one, many in zip(alone.sample(16), pack.sample(16), strict=True):
        assert torch.equal(one[0], many[1])


def test_slots_of_overwritten_final_observations_are_used_again() -> None:
    replay = ReplayBuffer(SPEC, [0], 1, 20, gamma=0.9, device=torch.device("cpu"))
    play(replay, [0], 1, 2000)
    assert len(replay.final.table) <= 4


def test_observations_are_stored_once() -> None:
    replay = ReplayBuffer(SPEC, [0], 1, 1000, 0.9, torch.device("cpu"))
    assert replay.storage.shape == (1, 1001, 1, 2 + 1 + 2)
    assert replay.storage.dtype == torch.float32


def test_a_million_humanoid_transitions_take_less_than_two_gigabytes() -> None:
    humanoid = EnvSpec("Humanoid-v4", 376, 17, (-0.4,) * 17, (0.4,) * 17)
    replay = ReplayBuffer(humanoid, [0], 1, 1_000_000, 0.99, torch.device("meta"))
    held = (replay.storage, replay.final.slot_of, replay.final.table)
    assert sum(tensor.nbytes for tensor in held) < 1.7e9


def test_learned_rewards_are_scaled() -> None:
    plain, scaled = (ReplayBuffer(SPEC, [0], 1, 40, 0.9, torch.device("cpu"), scale) for scale in (1.0, 0.01))
    for replay in (plain, scaled):
        play(replay, [0], 1, 30)
    torch.testing.assert_close(scaled.sample(100).reward, 0.01 * plain.sample(100).reward)


@pytest.mark.parametrize("steps", [7, 33, 100])
def test_rows_and_snapshot_restore_a_memory(steps: int) -> None:
    """Also after the ring wrapped: the same samples, and the same after more steps."""
    old, new = (ReplayBuffer(SPEC, [4, 6], 2, 40, 0.9, torch.device("cpu")) for _ in range(2))
    envs = play(old, [4, 6], 2, steps)
    for i in range(2):
        new.restore(i, old.snapshot(i))
        first = max(0, old.num_added - old.capacity)
        new.put_rows(i, first, old.rows(i, first, old.num_added))
    new.start(envs.obs)
    for _ in range(15):
        for one, other in zip(old.sample(64), new.sample(64), strict=True):
            assert torch.equal(one, other)
        step = envs.step(np.zeros((2, 2, 1), np.float32))
        for replay in (old, new):
            replay.add(np.zeros((2, 2, 1), np.float32), step)


def test_episodes_are_counted_and_popped() -> None:
    replay = ReplayBuffer(SPEC, [0], 1, 20, 0.9, torch.device("cpu"))
    envs = play(replay, [0], 1, 8)
    assert [(e.episodic_return, e.length) for e in envs.pop_episodes(0)] == [
        (10 * k * n + n * (n + 1) / 2, n) for k, n in first_episodes()
    ]
    assert envs.pop_episodes(0) == []


def first_episodes() -> list[tuple[int, int]]:
    first = env_seed(RngStream.TRAIN_ENV, 0) % 7 + 1
    return [(k, 3 if k % 2 == 0 else 5) for k in (first, first + 1)]


def test_an_observation_that_is_not_finite_is_refused() -> None:
    class Broken(Count):
        def _obs(self) -> Any:
            return np.array([np.nan, 0.0])

    with pytest.raises(FloatingPointError, match="Count-v0 returned an observation that is not finite"):
        SyncSeedEnvs(Broken, SPEC, [0], 1).reset()


def test_random_streams_are_disjoint() -> None:
    seeds = {env_seed(stream, seed, k) for stream in RngStream for seed in range(50) for k in range(50)}
    assert len(seeds) == len(RngStream) * 2500


def test_an_environment_that_reuses_its_buffer_does_no_harm() -> None:
    class Reusing(Count):
        buffer = np.zeros(2, np.float32)

        def _obs(self) -> Any:
            self.buffer[:] = self.episode, self.step_in_episode
            return self.buffer

    envs = SyncSeedEnvs(Reusing, SPEC, [0], 1)
    envs.reset()
    final = [step.final_obs for step in (envs.step(np.zeros((1, 1, 1), np.float32)) for _ in range(10))]
    (truncated,) = [obs[0, 0] for obs in final if obs]
    assert truncated[1] == 5
