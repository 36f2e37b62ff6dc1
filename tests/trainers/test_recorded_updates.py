"""What is recorded on a GPU, on the CPU: there a recording is the function itself."""

from collections.abc import Callable, Sequence

import numpy as np
import pytest
import torch

from tests.helpers import SPEC, Count, make_agent
from trainers.acceleration.cuda_graphs import BLOCK, CudaGraphUpdate, UpdateDraws
from trainers.actor_critic import ActorCritic, NoiseBuffer
from trainers.cuda import Upload
from trainers.data.device_replay import DeviceReplayBuffer
from trainers.envs.seed_envs import SyncSeedEnvs

CPU = torch.device("cpu")
OFF_POLICY = ("ddpg", "td3", "sac")
BATCH_SIZE = 32
Metrics = dict[str, torch.Tensor]


def filled_replay(seeds: Sequence[int], steps: int = 60) -> tuple[DeviceReplayBuffer, SyncSeedEnvs]:
    """A replay buffer with transitions of Count."""
    replay = DeviceReplayBuffer(SPEC, seeds, 1, 40, 0.9, CPU)
    envs = SyncSeedEnvs(Count, SPEC, seeds, 1)
    envs.reset()
    replay.start(envs.obs)
    add_steps(replay, envs, steps)
    return replay, envs


def add_steps(replay: DeviceReplayBuffer, envs: SyncSeedEnvs, steps: int) -> None:
    """Add transitions, the same ones each time."""
    generator = np.random.default_rng(7)
    for _ in range(steps):
        action = generator.uniform(-1, 1, (1, 1)).astype(np.float32)
        action = np.broadcast_to(action, (len(replay.storage), 1, 1))
        replay.add(action, envs.step(action))


def plain_update(agent: ActorCritic, replay: DeviceReplayBuffer) -> Callable[[], Metrics]:
    """The same numbers, without a recording."""
    draws = UpdateDraws(agent.seeds, BATCH_SIZE, agent.NOISE_DRAWS, agent.spec.act_dim, CPU)

    def update() -> Metrics:
        draws.advance()
        places, noise = draws.read()
        agent.noise_buffer = NoiseBuffer(noise)
        metrics: Metrics = agent.update(replay.sample_drawn(places))  # type: ignore[attr-defined]
        return metrics

    return update


@pytest.mark.parametrize("algo", OFF_POLICY)
@pytest.mark.parametrize("qat", [False, True])
def test_a_recorded_update_is_the_update(algo: str, qat: bool) -> None:
    """To the bit, also while the replay buffer grows."""
    seeds = [0, 4]
    plain, recorded = (make_agent(algo, SPEC, seeds, qat, hidden="[16]") for _ in range(2))
    replay, envs = filled_replay(seeds, steps=3)
    update, play = (
        plain_update(plain, replay),
        CudaGraphUpdate(recorded, replay, BATCH_SIZE, record=lambda function: function),
    )
    for _ in range(BLOCK + 5):
        expected, metrics = update(), play()
        assert plain.updates == recorded.updates
        assert all(torch.equal(expected[name], metrics[name]) for name in expected)
        add_steps(replay, envs, 2)
    for i in range(2):
        first, second = plain.state(i), recorded.state(i)
        assert all(torch.equal(first[name], second[name]) for name in first)


def test_a_seed_draws_the_same_alone_and_in_a_pack() -> None:
    alone, pack = (UpdateDraws(seeds, 8, 2, 3, CPU) for seeds in ([5], [1, 5]))
    for _ in range(BLOCK + 3):
        alone.advance()
        pack.advance()
        (places, noise), (pack_places, pack_noise) = alone.read(), pack.read()
        assert torch.equal(places[0], pack_places[1])
        assert all(torch.equal(one[0], other[1]) for one, other in zip(noise, pack_noise, strict=True))
    assert not torch.equal(pack_places[0], pack_places[1])


@pytest.mark.parametrize("updates", [0, 1, BLOCK - 1, BLOCK, 2 * BLOCK + 3])
def test_restored_draws_go_on_to_the_bit(updates: int) -> None:
    seeds = [5, 1]
    old, new = (UpdateDraws(seeds, 8, 1, 3, CPU) for _ in range(2))
    for _ in range(updates):
        old.advance()
        old.read()
    for i in range(len(seeds)):
        new.restore(i, old.snapshot(i))
    for _ in range(BLOCK + 1):
        old.advance()
        new.advance()
        (places, noise), (new_places, new_noise) = old.read(), new.read()
        assert torch.equal(places, new_places)
        assert torch.equal(noise[0], new_noise[0])


def test_uploaded_arrays_lie_side_by_side() -> None:
    uploaded: list[list[list[float]]] = []
    upload = Upload((2, 3), CPU, lambda tensor: uploaded.append(tensor.tolist()))
    for k in range(3):
        upload(np.full((2, 1), k, np.float32), np.full((2, 2), -k, np.float32))
    assert uploaded == [[[k, -k, -k]] * 2 for k in range(3)]
