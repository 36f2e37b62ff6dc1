"""What a trainer must know of an environment, and the random streams of a seed."""

from collections.abc import Sequence
from dataclasses import dataclass
from enum import IntEnum
from typing import Any, NamedTuple

import numpy as np
import torch


@dataclass(frozen=True)
class Spec:
    """Shapes and action bounds of an environment with flat float observations and actions."""

    env_id: str
    obs_dim: int
    act_dim: int
    action_low: tuple[float, ...]
    action_high: tuple[float, ...]

    def action_center_and_scale(self, device: torch.device) -> tuple[torch.Tensor, torch.Tensor]:
        """Middle and half range of each action dimension, float32 [act_dim]."""
        low = torch.tensor(self.action_low, dtype=torch.float32, device=device)
        high = torch.tensor(self.action_high, dtype=torch.float32, device=device)
        return (high + low) / 2, (high - low) / 2


class Snapshot(NamedTuple):
    """What a part of a training goes on from: tensors by name, and plain values that survive JSON."""

    tensors: dict[str, torch.Tensor]
    plain: dict[str, Any]


def under(prefix: str, tensors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """The entries whose name begins with the prefix, under the rest of their name."""
    return {name.removeprefix(prefix): tensor for name, tensor in tensors.items() if name.startswith(prefix)}


class Stream(IntEnum):
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


def env_seed(stream: Stream, seed: int, index: int = 0) -> int:
    """Seed for `env.reset`. The three parts are packed, so streams are disjoint by construction."""
    return (seed << 32) | (int(stream) << 24) | index


def numpy_stream(stream: Stream, seed: int) -> np.random.Generator:
    return np.random.default_rng(np.random.SeedSequence((seed, int(stream))))


def torch_stream(stream: Stream, seed: int) -> torch.Generator:
    """A CPU generator: its numbers are the same whatever device the networks are on."""
    # torch's CPU generator keeps 32 bits of its seed: hash first, or near seeds would collide.
    hashed = int(np.random.SeedSequence((seed, int(stream))).generate_state(1)[0])
    return torch.Generator().manual_seed(hashed)


def for_device(tensor: torch.Tensor, device: torch.device) -> torch.Tensor:
    """The tensor, in pinned memory for a GPU: only copies from and into that pass the host by, whatever their size."""
    return tensor.pin_memory() if device.type == "cuda" else tensor


def put(place: torch.Tensor, values: torch.Tensor) -> None:
    """Copy values of the host into a tensor of a device: a GPU takes them when it gets there, the host goes on."""
    place.copy_(for_device(values, place.device), non_blocking=True)


def stacked_normal(generators: Sequence[torch.Generator], *shape: int) -> torch.Tensor:
    """Standard normal noise [S, *shape], row s from the generator of seed s."""
    return torch.stack([torch.randn(shape, generator=g) for g in generators])
