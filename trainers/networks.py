"""Networks with a leading axis of independent rows (seeds, or seeds x twins), on flat storage.

Lockstep training must end in the same bits as training alone. Batched matrix products do so from 4 rows on, for
widths that are multiples of 8; the scalar tail of vectorised elementwise kernels does not. So each row's parameters
lie in one flat row padded to a multiple of 64 numbers, and the optimiser and the Polyak step run on that.
"""

import copy
import math
from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import Tensor, nn

ROW_PADDING = 64
PRODUCT_ROWS = 8
ADAM_STATE = ("step", "exp_avg", "exp_avg_sq")

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


class Stacked(nn.Module):
    """N independent sets of parameters [N, ...] on one flat tensor, once `flatten` was called."""

    def __init__(self) -> None:
        super().__init__()
        self.flat = torch.empty(0)

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


class StackedScalar(Stacked):
    """One trained number for each of N rows."""

    def __init__(self, rows: int, value: float) -> None:
        super().__init__()
        self.value = nn.Parameter(torch.full((rows, 1), value))


class StackedMLP(Stacked):
    """N independent multilayer perceptrons, [N, B, sizes[0]] -> [N, B, sizes[-1]].

    Row n belongs to the seed behind `generators[n]`, which draws its initial weights (the uniform
    +-1/sqrt(fan_in) of nn.Linear). A generator that stands k times in a row makes k different networks.
    """

    def __init__(self, sizes: Sequence[int], activation: str, generators: Sequence[torch.Generator]) -> None:
        super().__init__()
        rows = len(generators)
        self.layers = nn.ModuleList(StackedLinear(rows, i, o) for i, o in pairwise(sizes))
        self.activation = ACTIVATIONS[activation]()
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

    def cut(self, row: int, outputs: int | None = None) -> list[nn.Module]:
        """Row `row` as plain layers and activations on the CPU, with its first `outputs` outputs (default all)."""
        *hidden, last = (layer for layer in self.layers if isinstance(layer, StackedLinear))
        stages: list[nn.Module] = []
        for layer in hidden:
            stages += [*layer.cut(row), type(self.activation)()]
        return [*stages, *last.cut(row, outputs)]


class GaussianMLP(StackedMLP):
    """An MLP for the mean of a Gaussian, and a log standard deviation [N, 1, out] that no input changes."""

    def __init__(
        self, sizes: Sequence[int], activation: str, generators: Sequence[torch.Generator], log_std: float
    ) -> None:
        super().__init__(sizes, activation, generators)
        self.log_std = nn.Parameter(torch.full((len(generators), 1, sizes[-1]), log_std))


@torch.no_grad()
def orthogonal_(network: StackedMLP, generators: Sequence[torch.Generator], head_gain: float) -> None:
    """Orthogonal weights of gain sqrt(2), `head_gain` for the last layer, and zero biases, in place."""
    *hidden, head = (layer for layer in network.layers if isinstance(layer, StackedLinear))
    for layer in (*hidden, head):
        gain = head_gain if layer is head else math.sqrt(2)
        for weight, generator in zip(layer.weight, generators, strict=True):
            nn.init.orthogonal_(weight, gain, generator)
        layer.bias.zero_()


def few_rows(network: StackedMLP, x: Tensor) -> Tensor:
    """The network on [N, B, in] with small B, padded to a multiple of 8: below 4 rows products vary with N."""
    rows = x.shape[1]
    y: Tensor = network(nn.functional.pad(x, (0, 0, 0, -rows % PRODUCT_ROWS)))
    return y[:, :rows]


def row_views(flat: Tensor, parameters: Sequence[Tensor]) -> list[Tensor]:
    """Views into flat [N, P] with the shapes of `parameters`, one after another."""
    widths = [p[0].numel() for p in parameters]
    pieces = torch.split(flat[:, : sum(widths)], widths, dim=1)
    return [piece.view(p.shape) for piece, p in zip(pieces, parameters, strict=True)]


def row_gradient(loss: Tensor, network: Stacked, create_graph: bool = False, retain_graph: bool = False) -> Tensor:
    """Gradient of a sum of per-seed losses in the layout of the network's flat storage, [N, P]."""
    parameters = list(network.parameters())
    gradients = torch.autograd.grad(
        loss, parameters, retain_graph=retain_graph or create_graph, create_graph=create_graph
    )
    row = torch.cat([gradient.flatten(1) for gradient in gradients], 1)
    return nn.functional.pad(row, (0, network.flat.shape[1] - row.shape[1]))


class FlatAdam:
    """Adam (arXiv 1412.6980) over the flat storage of a network, each row with a step count of its own."""

    def __init__(self, network: Stacked, lr: float) -> None:
        self.gradient = torch.zeros_like(network.flatten())
        self.parameters = list(network.parameters())
        self.rows = [nn.Parameter(row) for row in network.flat]
        self._views = row_views(self.gradient, self.parameters)
        self.adam = torch.optim.Adam(self.rows, lr=lr, fused=True)

    def minimize(self, loss: Tensor) -> None:
        """One step on a sum of per-seed losses, for this network's parameters and no others."""
        self.differentiate(loss)
        self.step()

    def differentiate(self, loss: Tensor) -> None:
        """Put the gradient of a sum of per-seed losses into `gradient` [N, P]; 0 for what the loss does not use."""
        gradients = torch.autograd.grad(loss, self.parameters, materialize_grads=True)
        for view, gradient in zip(self._views, gradients, strict=True):
            view.copy_(gradient)

    def step(self, active: Tensor | None = None) -> None:
        """One step down `gradient`; rows that are not active [N] stay as they are, moments included."""
        moving = [True] * len(self.rows) if active is None else active.tolist()
        for row, gradient, moves in zip(self.rows, self.gradient, moving, strict=True):
            row.grad = gradient if moves else None
        self.adam.step()

    def set_lr(self, lr: float) -> None:
        self.adam.param_groups[0]["lr"] = lr

    def state(self, rows: slice) -> dict[str, Tensor]:
        """Moments and step counts of some rows, on the CPU."""
        states = [self.adam.state[row] or self._fresh(row) for row in self.rows[rows]]
        return {name: torch.stack([state[name].cpu() for state in states]) for name in ADAM_STATE}

    def load_state(self, rows: slice, state: dict[str, Tensor]) -> None:
        """Put back what `state` gave."""
        for i, row in enumerate(self.rows[rows]):
            fresh = self._fresh(row)
            self.adam.state[row] = {name: fresh[name].copy_(state[name][i]) for name in ADAM_STATE}

    def _fresh(self, row: Tensor) -> dict[str, Tensor]:
        return {"step": row.new_zeros(()), "exp_avg": torch.zeros_like(row), "exp_avg_sq": torch.zeros_like(row)}


def clip_row_norms(gradients: Sequence[Tensor], limit: float) -> Tensor:
    """Scale gradients [N, P_k] in place so that each row, over all of them, has at most the norm `limit`.

    Returns the norms before, [N].
    """
    norm = torch.stack([g.square().sum(1) for g in gradients]).sum(0).sqrt()
    for gradient in gradients:
        gradient.mul_((limit / (norm + 1e-6)).clamp(max=1).unsqueeze(1))
    return norm


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
