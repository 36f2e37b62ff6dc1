"""Arrays and tensors: between the host and a device, and as parts of a snapshot."""

from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

FloatArray = NDArray[np.float32]


def as_numpy(tensor: Tensor) -> FloatArray:
    """On the CPU; without a copy where it lies there already."""
    array: FloatArray = tensor.detach().cpu().numpy()
    return array


class Snapshot(NamedTuple):
    """What a part of a training goes on from: tensors by name, and plain values that survive JSON."""

    tensors: dict[str, torch.Tensor]
    plain: dict[str, Any]


def strip_prefix(prefix: str, tensors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """The entries whose name begins with the prefix, under the rest of their name."""
    return {name.removeprefix(prefix): tensor for name, tensor in tensors.items() if name.startswith(prefix)}


def maybe_pin(tensor: torch.Tensor, device: torch.device) -> torch.Tensor:
    """The tensor, in pinned memory for a GPU: only copies from and into that pass the host by, whatever their size."""
    return tensor.pin_memory() if device.type == "cuda" else tensor


def copy_to_device_(place: torch.Tensor, values: torch.Tensor) -> None:
    """Copy values of the host into a tensor of a device: a GPU takes them when it gets there, the host goes on."""
    place.copy_(maybe_pin(values, place.device), non_blocking=True)
