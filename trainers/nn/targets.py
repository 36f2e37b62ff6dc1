"""Twin critics and target networks."""

import copy
from collections.abc import Sequence

import torch
from torch import Tensor

from trainers.nn.stacked import StackedMLP


def twin_streams(streams: Sequence[torch.Generator]) -> list[torch.Generator]:
    """Generators of the initial weights of two critics per seed, from those of the seeds: each twice in a row."""
    twins: list[torch.Generator] = []
    for stream in streams:
        twins += [stream, stream]
    return twins


def twin_q_input(obs: Tensor, action: Tensor) -> Tensor:
    """Inputs [2 S, B, ...] of the two critics of each seed, from [S, B, obs_dim] and [S, B, act_dim]."""
    return torch.cat([obs, action], -1).unsqueeze(1).expand(-1, 2, -1, -1).flatten(0, 1)


def make_target(network: StackedMLP) -> StackedMLP:
    """A target network: the same weights and buffers on flat storage of its own, without gradients."""
    target = copy.deepcopy(network).requires_grad_(False)
    target.flatten()
    return target


@torch.no_grad()
def polyak_update(target: StackedMLP, online: StackedMLP, tau: float) -> None:
    """target <- (1 - tau) target + tau online for parameters; buffers (quantisation ranges) are copied.

    Raises:
        ValueError: For buffers of different shapes.
    """
    target.flat.lerp_(online.flat, tau)
    for target_buffer, (name, buffer) in zip(target.buffers(), online.named_buffers(), strict=True):
        if target_buffer.shape != buffer.shape:
            raise ValueError(f"buffer {name}: target {tuple(target_buffer.shape)}, online {tuple(buffer.shape)}")
        target_buffer.copy_(buffer)
