"""The random streams of a seed."""

from collections.abc import Sequence
from enum import IntEnum

import numpy as np
import torch


class RngStream(IntEnum):
    """What a random stream is used for; two purposes of one seed never share numbers."""

    INIT = 1
    TRAIN_ENV = 2
    WARMUP = 3
    EXPLORE = 4
    UPDATE = 5
    REPLAY = 6
    EVALUATE = 7
    CALIBRATE = 8
    RANDOM_POLICY = 9
    DISTILL = 10
    DISTURB = 11


def env_seed(stream: RngStream, seed: int, index: int = 0) -> int:
    """Seed for `env.reset`. The three parts are packed, so streams are disjoint by construction."""
    return (seed << 32) | (int(stream) << 24) | index


def env_seed32(stream: RngStream, seed: int, index: int = 0) -> int:
    """As `env_seed`, below 2**31, for environments that take no more (`RandomState`, simulators in C).

    The same where `env_seed` fits, which are the seeds 0. Other parts are packed into 30 bits, mixed one to one, so
    that streams stay disjoint, and lie above those of the seeds 0. Parts too large to be packed are hashed.
    """
    packed = env_seed(stream, seed, index)
    if packed < 2**30:
        return packed
    if seed < 2**14 and stream < 2**4 and index < 2**12:
        return 2**30 | _mix30((seed << 16) | (int(stream) << 12) | index)
    return 2**30 | int(np.random.SeedSequence((seed, int(stream), index)).generate_state(1)[0]) >> 2


def later_seed(seed: int, episode: int) -> int:
    """Seed below 2**31 for a later episode of an environment that began with `seed`."""
    return 2**30 | int(np.random.SeedSequence((seed, episode)).generate_state(1)[0]) >> 2


def _mix30(number: int) -> int:
    """A permutation of the numbers below 2**30: shifts and odd factors can be undone."""
    for factor in (0x2C1B3C6D, 0x297A2D39):
        number ^= number >> 15
        number = number * factor % 2**30
    return number ^ number >> 15


def numpy_stream(stream: RngStream, seed: int) -> np.random.Generator:
    """NumPy generator of one purpose of one seed."""
    return np.random.default_rng(np.random.SeedSequence((seed, int(stream))))


CPU = torch.device("cpu")


def torch_stream(stream: RngStream, seed: int, device: torch.device = CPU) -> torch.Generator:
    """A generator; one of the CPU draws the same numbers whatever device the networks are on."""
    # torch's CPU generator keeps 32 bits of its seed: hash first, or near seeds would collide.
    hashed = int(np.random.SeedSequence((seed, int(stream))).generate_state(1)[0])
    return torch.Generator(device).manual_seed(hashed)


def init_streams(seeds: Sequence[int]) -> list[torch.Generator]:
    """The generator of each seed that its initial weights are drawn from, one network after another."""
    return [torch_stream(RngStream.INIT, seed) for seed in seeds]


def stacked_normal(generators: Sequence[torch.Generator], *shape: int) -> torch.Tensor:
    """Standard normal noise [S, *shape], row s from the generator of seed s."""
    return torch.stack([torch.randn(shape, generator=g) for g in generators])
