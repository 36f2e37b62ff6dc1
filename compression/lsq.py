"""Quantisation-aware training below eight bits, with step sizes that are learned (LSQ, arXiv 1902.08153).

With the largest absolute weight at the end of the grid, as at eight bits, few of its levels are used. Here the step s
of a grid is exp(k p) times where it begins, and p, which begins at 0, is trained like a weight:

- weights: s = exp(k p) 2 mean|w| / sqrt(largest level), of each output channel: the paper's start (section 2.1). That
  the mean follows the weights keeps the grid right while standardisation moves.
- activations: s = exp(k p) times the step that reaches the running range's end, so that nothing is clipped at first.
  Behind a ReLU the grid begins at 0, elsewhere it is symmetric. Grids of eight bits keep their running range.

The paper trains s itself and divides its gradient by sqrt(n * largest level), so that a step changes s by as large a
share as a weight. Adam does not see the size of gradients: here k does it, about one over a typical weight. Besides, s
stays positive, and the gradient is a true derivative, which the natural gradient of TRPO needs.
"""

import math
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from compression.int8 import SMALLEST_SCALE, weight_levels, weight_scale
from compression.lowbit import Bits, LowBitLinear, activation_levels, eleven_bits, largest_level
from compression.qat import QATLinear, StraightThroughRound
from trainers.nn.stacked import StackedLinear, StackedMLP

# Activations whose values are never negative.
UNSIGNED = ("relu",)
# k above.
STEP_SPEED = 10.0


class LearnedStepQuantize(torch.autograd.Function):
    """Round x [N, B, n] to multiples `low` to `high` of a step [N, B or 1, 1].

    The gradient of x passes where nothing was clipped. That of the step is (paper, equation 3) the clipped level, or
    inside the grid level - x / step, by which the step stretches the rounding error. Both are differentiable again by
    the gradient that they are given.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, step: Tensor, low: int, high: int) -> Tensor:
        exact = x / step
        level = torch.round(exact).clamp(low, high)
        inside = (exact >= low) & (exact <= high)
        ctx.save_for_backward(inside, torch.where(inside, level - exact, level))
        ctx.per_row = step.shape[1] > 1
        return level * step

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, Tensor, None, None]:
        inside, slope = ctx.saved_tensors
        # One axis after the other: the bits of a sum over two may depend on the number of seeds.
        of_step = (grads[0] * slope).sum(-1, keepdim=True)
        if not ctx.per_row:
            of_step = of_step.sum(1, keepdim=True)
        return torch.where(inside, grads[0], 0.0), of_step, None, None


def learned_quantize(x: Tensor, step: Tensor, low: int, high: int) -> Tensor:
    """x [N, B, n] on the grid step * level, level in [low, high], through which the step [N, B or 1, 1] learns."""
    quantized: Tensor = LearnedStepQuantize.apply(x, step, low, high)  # type: ignore[no-untyped-call]
    return quantized


class HeldRounding(NamedTuple):
    """How weights [N, out, in] were rounded: which were not clipped, to what level, by what share of a step.

    And by how much biases [N, 1, out] were, and where the steps of the weights [N, out, 1] began.
    """

    inside: Tensor
    level: Tensor
    error: Tensor
    bias_error: Tensor
    first_step: Tensor


class LowBitQATLinear(QATLinear):
    """A stacked linear layer that computes as its version of few bits will.

    `input_bits` are those of what it reads; `signed` says whether that may be negative.
    """

    def __init__(
        self,
        linear: StackedLinear,
        weight_bits: int,
        input_bits: int,
        *,
        signed: bool,
        reduce_range: bool,
        standardize: bool,
        range_momentum: float,
    ) -> None:
        largest = weight_levels(reduce_range) if weight_bits == 8 else largest_level(weight_bits)
        super().__init__(linear, largest, standardize, range_momentum)
        self.weight_bits = weight_bits
        self.input_bits = input_bits
        self.rounds_coarsely = weight_bits < 8
        self._held: HeldRounding | None = None
        self.activation_levels = activation_levels(input_bits)
        self.zero_point = 2 ** (input_bits - 1) if signed else 0
        rows, outputs, _ = linear.weight.shape
        if weight_bits < 8:
            self.log_weight_step = nn.Parameter(linear.weight.new_zeros(rows, outputs, 1))
        if input_bits < 8:
            self.log_input_step = nn.Parameter(linear.weight.new_zeros(rows, 1, 1))

    @torch.no_grad()
    def hold_rounding(self, hold: bool) -> None:
        """With rounding held, outputs are the smooth function of weights and steps whose gradient learning follows."""
        self._held = None
        if hold and self.rounds_coarsely:
            weight, bias = self._folded()
            step = self.weight_step(weight)
            exact = weight / step
            level = torch.round(exact).clamp(-self.levels, self.levels)
            inside = exact.abs() <= self.levels
            bias_error = self.quantized_bias(bias, weight) - bias
            first_step = step / (STEP_SPEED * self.log_weight_step).exp()
            self._held = HeldRounding(inside, level, level - exact, bias_error, first_step)

    def quantized_weight(self, weight: Tensor) -> Tensor:
        if self.weight_bits == 8:
            return super().quantized_weight(weight)
        if self._held is not None:
            step = self.weight_step(weight)
            return torch.where(self._held.inside, weight + self._held.error * step, self._held.level * step)
        return learned_quantize(weight, self.weight_step(weight), -self.levels, self.levels)

    def weight_step(self, weight: Tensor) -> Tensor:
        """Step of each output channel of folded weights [N, out, in], [N, out, 1]."""
        if self.weight_bits == 8:
            return weight_scale(weight, self.levels)
        start = self._first_step(weight) if self._held is None else self._held.first_step
        step = (STEP_SPEED * self.log_weight_step).exp() * start
        if self._held is not None:
            return step
        # As it will be stored, and the gradient as if it had begun so.
        stored = eleven_bits(step.detach())
        return stored + (step - step.detach()) * (stored / step.detach())

    def _first_step(self, weight: Tensor) -> Tensor:
        first = 2 / math.sqrt(self.levels) * weight.detach().abs().mean(-1, keepdim=True)
        return first.clamp(min=SMALLEST_SCALE)

    def quantized_bias(self, bias: Tensor, weight: Tensor) -> Tensor:
        """Biases as multiples of the step of the sum they are added to, which is coarse at few bits."""
        if self._held is not None:
            return bias + self._held.bias_error
        input_step, _ = self.input_grid()
        step = input_step * self.weight_step(weight).mT
        rounded: Tensor = StraightThroughRound.apply(bias, step.detach())  # type: ignore[no-untyped-call]
        return rounded

    def quantized_input(self, x: Tensor) -> Tensor:
        if self.input_bits == 8:
            return super().quantized_input(x)
        step, _ = self.input_grid()
        return learned_quantize(x, step, -self.zero_point, self.activation_levels - self.zero_point)

    def input_grid(self) -> tuple[Tensor, Tensor]:
        if self.input_bits == 8:
            return super().input_grid()
        end = torch.maximum(self.running_hi, -self.running_lo)
        step = (end / (self.activation_levels - self.zero_point)).clamp(min=SMALLEST_SCALE)
        step = (STEP_SPEED * self.log_input_step).exp() * step
        return step, torch.full_like(step, self.zero_point)

    def deployed(self, row: int, weight: Tensor, bias: Tensor) -> LowBitLinear:
        scale, zero_point = (grid[row, 0, 0].detach() for grid in self.input_grid())
        folded, _ = self._folded()
        step = self.weight_step(folded)[row, : len(weight)].detach()
        return LowBitLinear.from_float(weight, bias, step, scale, zero_point, self.weight_bits, self.input_bits)


def prepare_low_bit_qat(
    network: StackedMLP, *, bits: Bits, standardize_input: bool, reduce_range: bool, range_momentum: float = 0.01
) -> None:
    """As `prepare_qat`, for fewer than eight bits; `reduce_range` counts where weights have eight."""
    for i, layer in enumerate(network.layers):
        assert isinstance(layer, StackedLinear)
        network.layers[i] = LowBitQATLinear(
            layer,
            bits.weight,
            bits.into(i),
            signed=i == 0 or network.activation_name not in UNSIGNED,
            reduce_range=reduce_range,
            standardize=standardize_input and i == 0,
            range_momentum=range_momentum,
        )
