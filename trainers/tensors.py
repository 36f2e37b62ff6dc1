"""Arrays and tensors: between the host and a device, and as parts of a snapshot."""

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

FloatArray = NDArray[np.float32]
ArrayFn = Callable[[FloatArray], FloatArray]


def as_numpy(tensor: Tensor) -> FloatArray:
    """On the CPU; without a copy where it lies there already."""
    array: FloatArray = tensor.detach().cpu().numpy()
    return array


class Snapshot(NamedTuple):
    """What a part of a training goes on from."""

    tensors: dict[str, Tensor]
    """By name."""
    metadata: dict[str, Any]
    """Plain values that survive JSON."""


def strip_prefix(prefix: str, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """The entries whose name begins with the prefix, under the rest of their name."""
    return {name.removeprefix(prefix): tensor for name, tensor in tensors.items() if name.startswith(prefix)}


def maybe_pin(tensor: Tensor, device: torch.device) -> Tensor:
    """The tensor, in pinned memory for a GPU: only copies from and into that pass the host by, whatever their size."""
    return tensor.pin_memory() if device.type == "cuda" else tensor


def copy_to_device_(target: Tensor, values: Tensor) -> None:
    """Copy values of the host into a tensor of a device: a GPU takes them when it gets there, the host goes on."""
    target.copy_(maybe_pin(values, target.device), non_blocking=True)
