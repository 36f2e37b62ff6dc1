"""Arrays and tensors: between the host and a device, and as parts of a snapshot."""

from collections.abc import Callable, Sequence
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


class Upload:
    """Copies of arrays to a device, through pinned memory that is used again and again.

    Pinning memory anew for each copy takes longer than the copy. Two buffers take turns, so that the host seldom waits.

    Args:
        shape: Shape of the tensor on the device, [..., n].
        device: Where it is.
    """

    def __init__(self, shape: Sequence[int], device: torch.device) -> None:
        self.tensor = torch.empty(tuple(shape), device=device)
        self.buffers = [maybe_pin(torch.empty(tuple(shape)), device) for _ in range(2)]
        self.copied = [torch.cuda.Event() for _ in range(2)] if device.type == "cuda" else None  # type: ignore[no-untyped-call]
        self.uploads = 0

    def __call__(self, *arrays: FloatArray) -> Tensor:
        """The arrays [..., n_k] side by side on the device, in the same tensor each time."""
        turn = self.uploads % 2
        if self.copied is not None:
            self.copied[turn].synchronize()
        np.concatenate(arrays, -1, out=self.buffers[turn].numpy())
        self.tensor.copy_(self.buffers[turn], non_blocking=True)
        if self.copied is not None:
            self.copied[turn].record()
        self.uploads += 1
        return self.tensor
