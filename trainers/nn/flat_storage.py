"""Parameters of independent rows (seeds, or seeds x twins) on one flat tensor.

Lockstep training must end in the same bits as training alone. Batched matrix products do so from 4 rows on, for
widths that are multiples of 8; the scalar tail of vectorised elementwise kernels does not. So each row's parameters
lie in one flat row padded to a multiple of 64 numbers, and the optimiser and the Polyak step run on that.
"""

import copy
from collections.abc import Sequence
from typing import Self

import torch
from torch import Tensor, nn

ROW_PADDING = 64


class Stacked(nn.Module):
    """N independent sets of parameters [N, ...] on one flat tensor, once `flatten` was called."""

    def __init__(self) -> None:
        super().__init__()
        self.flat = torch.empty(0)
        self.has_gradient = False
        """Whether `grad` of the parameters holds part of a gradient already; else it holds zeros."""

    def flatten(self) -> Tensor:
        """Move all parameters into one [N, P] tensor, P padded to a multiple of 64; they become views of it."""
        parameters = list(self.parameters())
        used = sum(p[0].numel() for p in parameters)
        width = -(-used // ROW_PADDING) * ROW_PADDING
        flat = parameters[0].new_zeros(parameters[0].shape[0], width)
        for parameter, view in zip(parameters, row_views(flat, parameters), strict=True):
            parameter.data = view.copy_(parameter.data)
        self.flat = flat
        return flat

    def rows_view(self, rows: slice) -> Self:
        """Some rows as a network to trace, on the same storage."""
        view = copy.deepcopy(self)
        view.flat = as_own_storage(self.flat[rows])
        parameters = list(view.parameters())
        for parameter in parameters:
            parameter.data = parameter.data[rows]
        for parameter, data in zip(parameters, row_views(view.flat, parameters), strict=True):
            parameter.data = data
        for view_buffer, buffer in zip(view.buffers(), self.buffers(), strict=True):
            view_buffer.data = as_own_storage(buffer[rows])
        return view


def as_own_storage(tensor: Tensor) -> Tensor:
    """The same memory, of contiguous numbers on the CPU, as a storage that begins with it."""
    return torch.from_numpy(tensor.detach().numpy())


class StackedScalar(Stacked):
    """One trained number for each of N rows."""

    def __init__(self, rows: int, value: float) -> None:
        super().__init__()
        self.value = nn.Parameter(torch.full((rows, 1), value))


def row_views(flat: Tensor, parameters: Sequence[Tensor]) -> list[Tensor]:
    """Views into flat [N, P] with the shapes of `parameters`, one after another."""
    views: list[Tensor] = []
    begin = 0
    for parameter in parameters:
        width = parameter[0].numel()
        view = flat[:, begin : begin + width].view(storage_layout(parameter).shape)
        views.append(view.mT if _is_tall(parameter) else view)
        begin += width
    return views


def storage_layout(parameter: Tensor) -> Tensor:
    """A parameter [N, ...] as it lies in flat storage: a matrix along its longer side, for faster products."""
    return parameter.mT if _is_tall(parameter) else parameter


def _is_tall(parameter: Tensor) -> bool:
    return parameter.dim() == 3 and parameter.shape[1] > parameter.shape[2]
