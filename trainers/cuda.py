"""CUDA graphs: what the host asks of a GPU each time, recorded once and played again."""

from collections.abc import Callable, Sequence
from typing import TypeVar

import numpy as np
import torch
from torch import Tensor

from trainers.tensors import FloatArray, maybe_pin

Result = TypeVar("Result")


def cuda_graph(function: Callable[[], Result]) -> Callable[[], Result]:
    """`function` as a CUDA graph, which leaves its results in the same tensors each time."""
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        result = function()

    def play() -> Result:
        graph.replay()
        return result

    return play


class Upload:
    """Arrays copied to a device, and what is done with them there.

    The copy goes through pinned memory that is used again and again: to pin memory anew takes longer than to copy it.
    Two buffers take turns, so that the host seldom waits. On a GPU copy and `use` are a CUDA graph.

    Args:
        shape: Shape of the tensor on the device, [..., n].
        device: Where it is.
        use: What is done with it there, the same each time.
    """

    def __init__(self, shape: Sequence[int], device: torch.device, use: Callable[[Tensor], None]) -> None:
        self.use = use
        self.tensor = torch.empty(tuple(shape), device=device)
        self.buffers = [maybe_pin(torch.empty(tuple(shape)), device) for _ in range(2)]
        self.on_gpu = device.type == "cuda"
        self.done = [torch.cuda.Event() for _ in range(2)] if self.on_gpu else []
        self.graphs: list[Callable[[], None]] = []
        self.uploads = 0

    def __call__(self, *arrays: FloatArray) -> None:
        """Copy the arrays [..., n_k], side by side, and use them."""
        turn = self.uploads % 2
        self.uploads += 1
        if not self.on_gpu:
            np.concatenate(arrays, -1, out=self.buffers[turn].numpy())
            self._run(turn)
            return
        self.done[turn].synchronize()
        np.concatenate(arrays, -1, out=self.buffers[turn].numpy())
        # Each buffer's first turn is not recorded: it loads what the graph needs.
        if self.uploads <= 2:
            self._run(turn)
        else:
            if not self.graphs:
                self.graphs = [cuda_graph(lambda: self._run(0)), cuda_graph(lambda: self._run(1))]
            self.graphs[turn]()
        self.done[turn].record()

    def _run(self, turn: int) -> None:
        self.tensor.copy_(self.buffers[turn], non_blocking=True)
        self.use(self.tensor)
