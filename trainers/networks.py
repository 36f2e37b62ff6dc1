"""Networks with a leading axis of independent rows (seeds, or seeds x twins), on flat storage.

Lockstep training must end in the same bits as training alone. Batched matrix products already do; the scalar
tail of vectorised elementwise kernels does not. So each row's parameters lie in one flat row padded to a
multiple of 64 numbers, and the optimiser and the Polyak step run on that flat tensor.
"""

import copy
import math
from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import Tensor, nn

ROW_PADDING = 64

ACTIVATIONS: dict[str, type[nn.Module]] = {"relu": nn.ReLU, "tanh": nn.Tanh}


class StackedLinear(nn.Module):
    """N independent linear layers: [N, B, in] -> [N, B, out]; weights stored like nn.Linear's, [N, out, in]."""

    def __init__(self, rows: int, in_features: int, out_features: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(rows, out_features, in_features))
        self.bias = nn.Parameter(torch.empty(rows, 1, out_features))

    def forward(self, x: Tensor, update_ranges: bool = False) -> Tensor:
        return stacked_affine(x, self.weight, self.bias)

    def cut(self, row: int, outputs: int | None = None) -> list[nn.Module]:
        """Row `row` as plain layers on the CPU, with its first `outputs` outputs (default all)."""
        return [plain_linear(self.weight[row, :outputs], self.bias[row, 0, :outputs])]


def stacked_affine(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """x W^T + b per row. An output of width 1 goes through a sum: as a matrix product its bits vary with N."""
    if weight.shape[1] == 1:
        return (x * weight).sum(-1, keepdim=True) + bias
    return torch.baddbmm(bias, x, weight.mT)


def plain_linear(weight: Tensor, bias: Tensor) -> nn.Linear:
    """A frozen nn.Linear with copies of the given [out, in] weight and [out] bias."""
    layer = nn.Linear(weight.shape[1], weight.shape[0])
    with torch.no_grad():
        layer.weight.copy_(weight)
        layer.bias.copy_(bias)
    return layer.requires_grad_(False)


class StackedMLP(nn.Module):
    """N independent multilayer perceptrons, [N, B, sizes[0]] -> [N, B, sizes[-1]].

    Row n belongs to the seed behind `generators[n]`, which draws its initial weights (the uniform
    +-1/sqrt(fan_in) of nn.Linear). A generator that stands k times in a row makes k different networks.
    """

    def __init__(self, sizes: Sequence[int], activation: str, generators: Sequence[torch.Generator]) -> None:
        super().__init__()
        rows = len(generators)
        self.layers = nn.ModuleList(StackedLinear(rows, i, o) for i, o in pairwise(sizes))
        self.activation = ACTIVATIONS[activation]()
        self.flat = torch.empty(0)
        for layer in self.layers:
            assert isinstance(layer, StackedLinear)
            bound = 1 / math.sqrt(layer.weight.shape[2])
            for row, generator in enumerate(generators):
                nn.init.uniform_(layer.weight[row], -bound, bound, generator)
                nn.init.uniform_(layer.bias[row], -bound, bound, generator)

    def forward(self, x: Tensor, update_ranges: bool = False) -> Tensor:
        """`update_ranges` lets quantised layers follow the batch; plain layers do not care."""
        last = len(self.layers) - 1
        for i, layer in enumerate(self.layers):
            x = layer(x, update_ranges)
            if i < last:
                x = self.activation(x)
        return x

    def cut(self, row: int, outputs: int) -> list[nn.Module]:
        """Row `row` as a list of plain layers and activations on the CPU, with its first `outputs` outputs."""
        *hidden, last = (layer for layer in self.layers if isinstance(layer, StackedLinear))
        stages: list[nn.Module] = []
        for layer in hidden:
            stages += [*layer.cut(row), type(self.activation)()]
        return [*stages, *last.cut(row, outputs)]

    def flatten(self) -> Tensor:
        """Move all parameters into one [N, P] tensor, P padded to a multiple of 64; they become views of it."""
        parameters = list(self.parameters())
        used = sum(p[0].numel() for p in parameters)
        width = -(-used // ROW_PADDING) * ROW_PADDING
        flat = parameters[0].new_zeros(parameters[0].shape[0], width)
        for parameter, view in zip(parameters, row_views(flat, parameters), strict=True):
            view.copy_(parameter.data)
            parameter.data = view
        self.flat = flat
        return flat


def row_views(flat: Tensor, parameters: Sequence[Tensor]) -> list[Tensor]:
    """Views into flat [N, P] with the shapes of `parameters`, one after another."""
    widths = [p[0].numel() for p in parameters]
    pieces = torch.split(flat[:, : sum(widths)], widths, dim=1)
    return [piece.view(p.shape) for piece, p in zip(pieces, parameters, strict=True)]


class FlatAdam:
    """Adam (arXiv 1412.6980) over the flat storage of a network; flattens it first."""

    def __init__(self, network: StackedMLP, lr: float) -> None:
        self.flat = nn.Parameter(network.flatten())
        self.flat.grad = torch.zeros_like(self.flat)
        self.parameters = list(network.parameters())
        self.gradients = row_views(self.flat.grad, self.parameters)
        self.adam = torch.optim.Adam([self.flat], lr=lr, fused=True)

    def minimize(self, loss: Tensor) -> None:
        """One step on a sum of per-seed losses, for this network's parameters and no others."""
        for view, gradient in zip(self.gradients, torch.autograd.grad(loss, self.parameters), strict=True):
            view.copy_(gradient)
        self.adam.step()


def frozen_copy(network: StackedMLP) -> StackedMLP:
    """A target network: the same weights and buffers on flat storage of its own, without gradients."""
    target = copy.deepcopy(network).requires_grad_(False)
    target.flatten()
    return target


@torch.no_grad()
def polyak(target: StackedMLP, online: StackedMLP, tau: float) -> None:
    """target <- (1 - tau) target + tau online for parameters; buffers (quantisation ranges) are copied."""
    target.flat.lerp_(online.flat, tau)
    for kept, (name, buffer) in zip(target.buffers(), online.named_buffers(), strict=True):
        if kept.shape != buffer.shape:
            raise ValueError(f"buffer {name}: target {tuple(kept.shape)}, online {tuple(buffer.shape)}")
        kept.copy_(buffer)
