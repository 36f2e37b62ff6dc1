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


def env_seed(stream: RngStream, seed: int, index: int = 0) -> int:
    """Seed for `env.reset`. The three parts are packed, so streams are disjoint by construction."""
    return (seed << 32) | (int(stream) << 24) | index


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
