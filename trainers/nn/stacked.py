"""Multilayer perceptrons with a leading axis of independent rows (seeds, or seeds x twins)."""

import contextlib
import itertools
import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from trainers.nn.activations import ACTIVATIONS, NUMPY_ACTIVATIONS
from trainers.nn.flat_storage import Stacked
from trainers.tensors import ArrayFn, FloatArray, as_numpy

# Those whose gradient FusedMLP knows from their output.
FUSED_ACTIVATIONS = ("relu", "tanh")


class StackedLinear(nn.Module):
    """N independent linear layers: [N, B, in] -> [N, B, out]; weights stored like nn.Linear's, [N, out, in]."""

    rounds_coarsely = False
    """Whether a small step of the weights may move the outputs by far more than its gradient says."""

    def __init__(self, rows: int, in_features: int, out_features: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(rows, out_features, in_features))
        self.bias = nn.Parameter(torch.empty(rows, 1, out_features))

    def forward(self, x: Tensor, update_ranges: bool = False) -> Tensor:  # noqa: ARG002 (QATLinear has ranges)
        """[N, B, in] -> [N, B, out]."""
        return stacked_affine(x, self.weight, self.bias)

    def hold_rounding(self, hold: bool) -> None:
        """Whether rounding errors of weights stay as they are while weights move; exact ones have none."""

    def numpy_fn(self) -> ArrayFn:
        """The layer with its weights of now as a NumPy function, [N, B, in] -> [N, B, out]."""
        weight = as_numpy(self.weight.mT)
        bias = as_numpy(self.bias)
        return lambda x: x @ weight + bias

    def extract(self, row: int, outputs: int | None = None) -> list[nn.Module]:
        """Row `row` as plain layers on the CPU, with its first `outputs` outputs (default all)."""
        return [make_linear(self.weight[row, :outputs], self.bias[row, 0, :outputs])]


def stacked_affine(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """x W^T + b per row. An output of width 1 goes through a sum: as a matrix product its bits vary with N."""
    if weight.shape[1] == 1:
        return (x * weight).sum(-1, keepdim=True) + bias
    return torch.baddbmm(bias, x, weight.mT)


def make_linear(weight: Tensor, bias: Tensor) -> nn.Linear:
    """An nn.Linear without gradients, with copies of the given [out, in] weight and [out] bias."""
    layer = nn.Linear(weight.shape[1], weight.shape[0])
    with torch.no_grad():
        layer.weight.copy_(weight)
        layer.bias.copy_(bias)
    return layer.requires_grad_(False)


class FusedMLP(torch.autograd.Function):
    """All layers of a StackedMLP in one node, with a third of the calls that autograd makes of them.

    Arguments: x [N, B, in], the network, how many of the last inputs get a gradient (the others get zeros), then weight
    and bias of each layer, or some rows of them. Gradients of parameters go to their `grad`, which must be there; none
    are returned for them.

    With bfloat16 products all is rounded but the outputs, which stay float32: a Q value of 400 would be rounded to a
    multiple of 2. Gradients are summed in float32.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, network: "StackedMLP", num_grad_inputs: int, *parameters: Tensor) -> Tensor:
        """Outputs [N, B, out]."""
        weights = [weight.to(network.dtype) for weight in parameters[::2]]
        inputs = []
        x = x.to(network.dtype)
        for weight, bias in zip(weights[:-1], parameters[1:-2:2], strict=True):
            inputs.append(x)
            x = stacked_affine(x, weight, bias.to(network.dtype))
            x = x.relu_() if network.activation_name == "relu" else x.tanh_()
        inputs.append(x)
        ctx.network = network
        ctx.num_grad_inputs = num_grad_inputs
        ctx.parameters = parameters
        ctx.save_for_backward(*inputs, *weights)
        return stacked_affine(x.float(), *parameters[-2:])

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        """The gradient of x [N, B, in], for that of the outputs [N, B, out]; those of parameters go to their `grad`."""
        layers = len(ctx.parameters) // 2
        inputs = ctx.saved_tensors[:layers]
        weights = ctx.saved_tensors[layers:]
        gradient = gradient.to(ctx.network.dtype)
        for i in reversed(range(layers)):
            x = inputs[i]
            weight = weights[i]
            if ctx.needs_input_grad[3 + 2 * i]:
                _add_products(ctx.parameters[2 * i].grad, gradient, x, ctx.network.has_gradient)
                ctx.parameters[2 * i + 1].grad += gradient.sum(1, keepdim=True)
            if i > 0:
                gradient = gradient * weight if weight.shape[1] == 1 else torch.bmm(gradient, weight)
            if i > 0 and ctx.network.activation_name == "relu":
                torch.ops.aten.threshold_backward.grad_input(gradient, x, 0, grad_input=gradient)
            elif i > 0:
                torch.ops.aten.tanh_backward.grad_input(gradient, x, grad_input=gradient)
        ctx.network.has_gradient |= ctx.needs_input_grad[3]
        x_gradient = None
        if ctx.needs_input_grad[0]:
            x_gradient = torch.bmm(gradient, weights[0][..., -ctx.num_grad_inputs :]).float()
            x_gradient = nn.functional.pad(x_gradient, (weights[0].shape[2] - ctx.num_grad_inputs, 0))
        return x_gradient, None, None, *[None] * 2 * layers


def _add_products(total: Tensor, gradient: Tensor, x: Tensor, has_gradient: bool) -> None:
    """Add the gradient of weights [N, out, in], for that of outputs [N, B, out] and inputs [N, B, in], to `total`."""
    if gradient.shape[2] == 1:
        total += (gradient * x).sum(1, keepdim=True)
    elif gradient.dtype == total.dtype:
        total.baddbmm_(gradient.mT, x, beta=int(has_gradient))
    elif has_gradient:
        total += torch.bmm(gradient.mT, x)
    else:
        total.copy_(torch.bmm(gradient.mT, x))


class StackedMLP(Stacked):
    """N independent multilayer perceptrons, [N, B, sizes[0]] -> [N, B, sizes[-1]].

    Row n belongs to the seed behind `generators[n]`, which draws its initial weights (the uniform
    +-1/sqrt(fan_in) of nn.Linear). A generator that stands k times in a row makes k different networks.
    """

    def __init__(self, sizes: Sequence[int], activation: str, generators: Sequence[torch.Generator]) -> None:
        super().__init__()
        rows = len(generators)
        self.layers = nn.ModuleList(StackedLinear(rows, i, o) for i, o in itertools.pairwise(sizes))
        self.activation = ACTIVATIONS[activation]()
        self.activation_name = activation
        self.fused = activation in FUSED_ACTIVATIONS
        """Off where a gradient is differentiated again, and for activations that autograd differentiates."""
        self.dtype = torch.float32
        """Of the products of plain layers: float32 or bfloat16."""
        for layer in self.linears:
            bound = 1 / math.sqrt(layer.weight.shape[2])
            for row, generator in enumerate(generators):
                nn.init.uniform_(layer.weight[row], -bound, bound, generator)
                nn.init.uniform_(layer.bias[row], -bound, bound, generator)

    def forward(self, x: Tensor, update_ranges: bool = False) -> Tensor:
        """`update_ranges` lets quantised layers follow the batch; plain layers do not care."""
        if self.is_plain():
            return self._through_layers(x, x.shape[2], self._layer_parameters())
        last = len(self.layers) - 1
        for i, layer in enumerate(self.layers):
            x = layer(x, update_ranges)
            if i < last:
                x = self.activation(x)
        return x

    def with_frozen_params(self, num_grad_inputs: int, rows: slice = slice(None)) -> Callable[[Tensor], Tensor]:
        """Some rows as a function through which gradients pass to the last `num_grad_inputs` inputs and nothing else.

        Plain layers only.
        """
        assert self.is_plain()
        parameters = [p.detach()[rows] for p in self._layer_parameters()]
        return lambda x: self._through_layers(x, num_grad_inputs, parameters)

    def _through_layers(self, x: Tensor, num_grad_inputs: int, parameters: Sequence[Tensor]) -> Tensor:
        """Plain layers with the weights and biases of `parameters`, fused where that is possible."""
        if self.fused:
            y: Tensor = FusedMLP.apply(x, self, num_grad_inputs, *parameters)  # type: ignore[no-untyped-call]
            return y
        x = x.to(self.dtype)
        for weight, bias in zip(parameters[:-2:2], parameters[1:-2:2], strict=True):
            x = self.activation(stacked_affine(x, weight.to(self.dtype), bias.to(self.dtype)))
        return stacked_affine(x.to(parameters[-1].dtype), *parameters[-2:])

    @property
    def linears(self) -> list[StackedLinear]:
        """The linear layers, from the first one to the last."""
        return cast(list[StackedLinear], list(self.layers))

    @contextlib.contextmanager
    def held_rounding(self) -> Iterator[None]:
        """While it lasts, weights keep the rounding errors they have: the outputs follow small steps smoothly."""
        for layer in self.linears:
            layer.hold_rounding(True)
        try:
            yield
        finally:
            for layer in self.linears:
                layer.hold_rounding(False)

    def rounds_coarsely(self) -> bool:
        """Whether any layer does."""
        return any(layer.rounds_coarsely for layer in self.linears)

    def is_plain(self) -> bool:
        """Whether all layers are as they were made: none was swapped for a quantised one."""
        return all(type(layer) is StackedLinear for layer in self.layers)

    def _layer_parameters(self) -> list[Tensor]:
        # Not `parameters()`: its walk over the modules takes longer than a small layer.
        parameters: list[Tensor] = []
        for layer in self.linears:
            parameters += (layer.weight, layer.bias)
        return parameters

    def numpy_fn(self) -> ArrayFn:
        """The network with its weights of now as a NumPy function, [N, B, in] -> [N, B, out]."""
        *hidden, last = [layer.numpy_fn() for layer in self.linears]
        activation = NUMPY_ACTIVATIONS[self.activation_name]

        def act(x: FloatArray) -> FloatArray:
            for layer in hidden:
                x = activation(layer(x))
            return last(x)

        return act

    def extract(self, row: int, outputs: int | None = None) -> list[nn.Module]:
        """Row `row` as plain layers and activations on the CPU, with its first `outputs` outputs (default all)."""
        *hidden, last = self.linears
        stages: list[nn.Module] = []
        for layer in hidden:
            stages += [*layer.extract(row), type(self.activation)()]
        return [*stages, *last.extract(row, outputs)]


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
    linears = network.linears
    for layer in linears:
        gain = head_gain if layer is linears[-1] else math.sqrt(2)
        for weight, generator in zip(layer.weight, generators, strict=True):
            nn.init.orthogonal_(weight, gain, generator)
        layer.bias.zero_()
