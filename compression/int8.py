"""Layers in integer arithmetic, as QAT and static quantisation deploy them."""

import platform
from pathlib import Path

import torch
from torch import Tensor, nn

ACTIVATION_LEVELS = 255
WEIGHT_LEVELS = 127
# 7-bit weights (ONNX Runtime's reduced range), for CPUs whose 8-bit products saturate.
REDUCED_WEIGHT_LEVELS = 64
SMALLEST_SCALE = 1e-8


def activation_qparams(low: Tensor, high: Tensor, levels: int = ACTIVATION_LEVELS) -> tuple[Tensor, Tensor]:
    """Scale and zero point of the grid 0 to `levels` over [min(low, 0), max(high, 0)], any shape."""
    low = low.clamp(max=0)
    high = high.clamp(min=0)
    scale = ((high - low) / levels).clamp(min=SMALLEST_SCALE)
    return scale, torch.round(-low / scale)


def quantize_centered(x: Tensor, scale: Tensor, zero_point: Tensor, levels: int = ACTIVATION_LEVELS) -> Tensor:
    """The levels of x, 0 to `levels`, minus the zero point, float64: what an integer kernel multiplies."""
    level = torch.round(x / scale) + zero_point
    return level.clamp(0, levels).double() - zero_point


def weight_levels(reduce_range: bool) -> int:
    """Largest magnitude of an integer weight."""
    return REDUCED_WEIGHT_LEVELS if reduce_range else WEIGHT_LEVELS


def weight_scale(weight: Tensor, levels: int) -> Tensor:
    """Scale of each output channel, [..., out, in] -> [..., out, 1], so that the largest weight is +-levels."""
    return (weight.detach().abs().amax(-1, keepdim=True) / levels).clamp(min=SMALLEST_SCALE)


class StaticQuantLinear(nn.Module):
    """A linear layer on the int8 grid with a fixed input range, [B, in] -> [B, out].

    Computes in float64, so that its rounding agrees with exact integer arithmetic but for ties.
    """

    weight_int8: Tensor
    weight_scale: Tensor
    bias_int32: Tensor
    input_scale: Tensor
    input_zero_point: Tensor
    input_levels = ACTIVATION_LEVELS

    def __init__(
        self,
        weight_int8: Tensor,
        weight_scale: Tensor,
        bias_int32: Tensor,
        input_scale: Tensor,
        input_zero_point: Tensor,
    ) -> None:
        super().__init__()
        self.register_buffer("weight_int8", weight_int8.to(torch.int8).cpu().contiguous())
        self.register_buffer("weight_scale", weight_scale.cpu())
        self.register_buffer("bias_int32", bias_int32.to(torch.int32).cpu())
        self.register_buffer("input_scale", input_scale.cpu().reshape(()))
        self.register_buffer("input_zero_point", input_zero_point.to(torch.uint8).cpu().reshape(()))

    def forward(self, x: Tensor) -> Tensor:
        levels = quantize_centered(x, self.input_scale, self.input_zero_point, self.input_levels)
        accumulated = levels @ self.weight_int8.double().mT + self.bias_int32
        return (accumulated * (self.input_scale.double() * self.weight_scale.float())).float()


class ActivationQuantize(nn.Module):
    """Rounds a layer's output to a uint8 grid, [B, n] -> [B, n]."""

    scale: Tensor
    zero_point: Tensor

    def __init__(self, scale: Tensor, zero_point: Tensor) -> None:
        super().__init__()
        # Copies: the next layer may have the same numbers, and safetensors refuses tensors that share memory.
        self.register_buffer("scale", scale.cpu().reshape(()).clone())
        self.register_buffer("zero_point", zero_point.cpu().reshape(()).to(torch.uint8, copy=True))

    def forward(self, x: Tensor) -> Tensor:
        return quantize_centered(x, self.scale, self.zero_point).float() * self.scale


def static_quant_linear(
    weight: Tensor, bias: Tensor, input_scale: Tensor, input_zero_point: Tensor, levels: int
) -> StaticQuantLinear:
    """A float layer [out, in] on the int8 grid whose largest weight is +-levels."""
    # A channel of tiny weights gets a coarser grid where its bias would not fit 32 bits.
    scale = torch.maximum(weight_scale(weight, levels), bias.abs().unsqueeze(1) / (input_scale * 2**30))
    bias_int32 = torch.round(bias / (input_scale * scale[:, 0]))
    return StaticQuantLinear(torch.round(weight / scale), scale[:, 0], bias_int32, input_scale, input_zero_point)


def needs_reduced_range() -> bool:
    """Whether 8-bit products may saturate here: x86 without VNNI, or x86 whose flags cannot be read."""
    if platform.machine() not in ("x86_64", "AMD64"):
        return False
    try:
        flags = Path("/proc/cpuinfo").read_text().split()
    except OSError:
        return True
    return not {"avx512_vnni", "avx_vnni"} & set(flags)
