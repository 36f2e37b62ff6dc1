"""Quantisation-aware training: int8 fake quantisation of stacked linear layers (arXiv 1712.05877, section 3).

Activations are uint8 with a zero point, per tensor and per row (seed); weights are int8, symmetric, per
output channel. Gradients pass by the straight-through estimator. The running ranges move only in forward
passes that say so (`update_ranges=True`: the actor's update batches).
"""

from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from compression.int8 import (
    ACTIVATION_LEVELS,
    StaticQuantLinear,
    activation_qparams,
    static_quant_linear,
    weight_levels,
    weight_scale,
)
from trainers.nn.stacked import StackedLinear, StackedMLP, stacked_affine
from trainers.policy import Standardize
from trainers.tensors import ArrayFn, FloatArray, as_numpy


class StraightThroughQuantize(torch.autograd.Function):
    """Round to the integer grid [low, high] and back; the gradient passes where nothing was clipped.

    Its backward is differentiable, which Fisher-vector products need.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, scale: Tensor, zero_point: Tensor, low: int, high: int) -> Tensor:
        level = torch.round(x / scale) + zero_point
        ctx.save_for_backward((level >= low) & (level <= high))
        return (level.clamp(low, high) - zero_point) * scale

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None, None, None, None]:
        (inside,) = ctx.saved_tensors
        return torch.where(inside, grads[0], 0.0), None, None, None, None


class StraightThroughRound(torch.autograd.Function):
    """Round to multiples of the scale, where nothing can be clipped; the gradient passes."""

    @staticmethod
    def forward(_ctx: Any, x: Tensor, scale: Tensor) -> Tensor:
        return torch.round(x / scale) * scale

    @staticmethod
    def backward(_ctx: Any, *grads: Tensor) -> tuple[Tensor, None]:
        return grads[0], None


def fake_quantize(x: Tensor, scale: Tensor, zero_point: Tensor, low: int, high: int) -> Tensor:
    """x on the grid scale * (level - zero_point), level in [low, high]; broadcasts scale and zero point."""
    quantized: Tensor = StraightThroughQuantize.apply(x, scale, zero_point, low, high)  # type: ignore[no-untyped-call]
    return quantized


def fake_quantize_weight(weight: Tensor, levels: int) -> Tensor:
    """Weights [..., out, in] on their int8 grid, whose ends are the largest of each output channel."""
    rounded: Tensor = StraightThroughRound.apply(weight, weight_scale(weight, levels))  # type: ignore[no-untyped-call]
    return rounded


def standard_deviation(variance: Tensor) -> Tensor:
    """Its root, and 1 where an input never moved."""
    return torch.where(variance > 0, variance, 1.0).sqrt()


class QATLinear(StackedLinear):
    """A stacked linear layer that computes as its int8 version will.

    With `standardize`, float standardisation stands in front of the quantiser and its inverse is folded into
    the weights before they are quantised: the fp32 function is unchanged by it (DESIGN: float in).
    Until the first update batch there are no ranges and inputs pass unquantised.
    """

    batches: Tensor
    running_lo: Tensor
    running_hi: Tensor
    running_mean: Tensor
    running_var: Tensor

    def __init__(self, linear: StackedLinear, levels: int, standardize: bool, range_momentum: float) -> None:
        nn.Module.__init__(self)
        self.weight = linear.weight
        self.bias = linear.bias
        self.levels = levels
        self.standardize = standardize
        self.range_momentum = range_momentum
        self.activation_levels = ACTIVATION_LEVELS
        rows, _, in_features = linear.weight.shape
        for name in ("batches", "running_lo", "running_hi"):
            self.register_buffer(name, linear.weight.new_zeros(rows, 1, 1))
        if standardize:
            self.register_buffer("running_mean", linear.weight.new_zeros(rows, 1, in_features))
            self.register_buffer("running_var", linear.weight.new_ones(rows, 1, in_features))

    def forward(self, x: Tensor, update_ranges: bool = False) -> Tensor:
        """[N, B, in] -> [N, B, out]."""
        # A plain average over the first batches, exponential from then on.
        momentum = (1 / (self.batches + 1)).clamp(min=self.range_momentum)
        if self.standardize:
            if update_ranges:
                self._follow_moments(x.detach(), momentum)
            x = (x - self.running_mean) * (1 / standard_deviation(self.running_var))
        weight, bias = self._folded()
        if update_ranges:
            self._follow_range(x.detach(), momentum)
        quantized = self.quantized_input(x)
        if not update_ranges:
            quantized = torch.where(self.batches > 0, quantized, x)
        return stacked_affine(quantized, self.quantized_weight(weight), self.quantized_bias(bias, weight))

    def input_grid(self) -> tuple[Tensor, Tensor]:
        """Scale and zero point of what the layer reads, [N, 1, 1]."""
        return activation_qparams(self.running_lo, self.running_hi, self.activation_levels)

    def quantized_input(self, x: Tensor) -> Tensor:
        """x [N, B, in] on its grid."""
        return fake_quantize(x, *self.input_grid(), 0, self.activation_levels)

    def quantized_weight(self, weight: Tensor) -> Tensor:
        """Folded weights [N, out, in] on their grids."""
        return fake_quantize_weight(weight, self.levels)

    def quantized_bias(self, bias: Tensor, weight: Tensor) -> Tensor:  # noqa: ARG002 (of fewer bits)
        """Folded biases [N, 1, out] of folded weights: at eight bits so fine a grid that it does not show."""
        return bias

    @torch.no_grad()
    def numpy_fn(self) -> ArrayFn:
        """As StackedLinear's; the weights are quantised once."""
        folded, folded_bias = self._folded()
        weight = as_numpy(self.quantized_weight(folded).mT)
        bias = as_numpy(self.quantized_bias(folded_bias, folded))
        scale, zero_point = (as_numpy(x) for x in self.input_grid())
        seen = as_numpy(self.batches > 0)
        levels = np.float32(self.activation_levels)
        if self.standardize:
            mean = as_numpy(self.running_mean)
            inverse_std = as_numpy(1 / standard_deviation(self.running_var))

        def act(x: FloatArray) -> FloatArray:
            if self.standardize:
                x = (x - mean) * inverse_std
            level = np.rint(x / scale) + zero_point
            quantized = (np.minimum(np.maximum(level, 0), levels) - zero_point) * scale
            return np.where(seen, quantized, x) @ weight + bias

        return act

    def _folded(self) -> tuple[Tensor, Tensor]:
        """Weight and bias with the inverse of the standardisation in them."""
        if not self.standardize:
            return self.weight, self.bias
        bias = self.bias + (self.weight * self.running_mean).sum(-1).unsqueeze(1)
        return self.weight * standard_deviation(self.running_var), bias

    def _follow_moments(self, x: Tensor, momentum: Tensor) -> None:
        var, mean = torch.var_mean(x, 1, correction=0, keepdim=True)
        self.running_mean.lerp_(mean, momentum)
        self.running_var.lerp_(var, momentum)

    def _follow_range(self, x: Tensor, momentum: Tensor) -> None:
        self.running_lo.lerp_(x.amin((1, 2), keepdim=True), momentum)
        self.running_hi.lerp_(x.amax((1, 2), keepdim=True), momentum)
        self.batches.add_(1)

    def extract(self, row: int, outputs: int | None = None) -> list[nn.Module]:
        """Row `row` as plain layers with frozen ranges. Raises ValueError where no batch has set them."""
        if not self.batches[row] > 0:
            raise ValueError("the quantised layer has no ranges yet: its actor was never updated")
        weight, bias = (tensor[row].detach() for tensor in self._folded())
        stages: list[nn.Module] = []
        if self.standardize:
            stages.append(Standardize(self.running_mean[row, 0], standard_deviation(self.running_var[row, 0])))
        return [*stages, self.deployed(row, weight[:outputs], bias[0, :outputs])]

    def deployed(self, row: int, weight: Tensor, bias: Tensor) -> StaticQuantLinear:
        """Folded weight [out, in] and bias [out] of row `row` as the layer that is deployed."""
        scale, zero_point = (grid[row, 0, 0].detach() for grid in self.input_grid())
        return static_quant_linear(weight, bias, scale, zero_point, self.levels)


def prepare_qat(
    network: StackedMLP, *, standardize_input: bool, reduce_range: bool, range_momentum: float = 0.01
) -> None:
    """Swap every linear layer for its quantised twin, in place.

    Call it before optimisers and target networks exist: they hold on to parameters and copy buffers.
    """
    for i, layer in enumerate(network.layers):
        assert isinstance(layer, StackedLinear)
        standardize = standardize_input and i == 0
        network.layers[i] = QATLinear(layer, weight_levels(reduce_range), standardize, range_momentum)
