"""Layers of fewer than eight bits: what may have how many, how weights are packed, and the layer that is deployed."""

import copy
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
import torch
from torch import Tensor, nn

from compression.int8 import SMALLEST_SCALE, StaticQuantLinear
from trainers.policy import Clamp, Policy, Rescale, Standardize

# Ends of the grid that `least_squares_scale` tries, as fractions of the largest weight.
GRIDS_TRIED = 200
WIDTHS = (8, 6, 4, 3, 2)
PACKING = (
    "weight_packed [out, bytes]: a row for each output, of two's complement codes of weight_bits bits, input 0 in the "
    "lowest bits of byte 0, the last byte filled up with zeros; layout: inputs, weight_bits, input_bits"
)


@dataclass(frozen=True)
class Bits:
    """Bits of the weights, of the activations of hidden layers, and of the input of the first layer."""

    weight: int = 8
    activation: int = 8
    input: int = 8

    @property
    def low(self) -> bool:
        """Whether any of them are fewer than eight."""
        return min(self.weight, self.activation, self.input) < 8

    def into(self, layer: int) -> int:
        """Bits of what linear layer number `layer` reads."""
        return self.input if layer == 0 else self.activation


EIGHT = Bits()


def largest_level(bits: int) -> int:
    """The largest magnitude of a symmetric weight: 127, 31, 7, 3, and 1 for ternary weights."""
    return (1 << (bits - 1)) - 1


def activation_levels(bits: int) -> int:
    """The largest level of an activation grid that begins at 0."""
    return (1 << bits) - 1


def pack(levels: Tensor, bits: int) -> Tensor:
    """Integer weights [out, in] of `bits` bits as uint8 [out, ceil(in bits / 8)], in the order of `PACKING`."""
    codes = levels.cpu().numpy().astype(np.int8).view(np.uint8)
    each = np.right_shift(codes[:, :, None], np.arange(bits, dtype=np.uint8)) & 1
    return torch.from_numpy(np.packbits(each.reshape(len(codes), -1), axis=1, bitorder="little"))


def unpack(packed: Tensor, bits: int, inputs: int) -> Tensor:
    """What was packed: int8 [out, inputs]."""
    each = np.unpackbits(packed.cpu().numpy(), axis=1, count=inputs * bits, bitorder="little")
    codes = each.reshape(len(each), inputs, bits).astype(np.int16) @ (1 << np.arange(bits, dtype=np.int16))
    negative = codes >= 1 << (bits - 1)
    return torch.from_numpy((codes - (negative << bits)).astype(np.int8))


class LowBitLinear(StaticQuantLinear):
    """A linear layer of few bits with fixed grids, [B, in] -> [B, out]; its state has the weights packed.

    Biases are stored as int16 where they all fit, as int32 elsewhere; scales of weights as float16 where they all are
    such numbers, as float32 elsewhere.
    """

    weight_packed: Tensor
    bias_stored: Tensor
    layout: Tensor

    def __init__(
        self,
        weight_levels: Tensor,
        weight_scale: Tensor,
        bias_int32: Tensor,
        input_scale: Tensor,
        input_zero_point: Tensor,
        *,
        weight_bits: int,
        input_bits: int,
    ) -> None:
        super().__init__(weight_levels, stored_halves(weight_scale), bias_int32, input_scale, input_zero_point)
        self.weight_bits = weight_bits
        self.input_bits = input_bits
        self.input_levels = activation_levels(input_bits)
        # Worked out from what is stored.
        self.register_buffer("weight_int8", self.weight_int8, persistent=False)
        self.register_buffer("bias_int32", self.bias_int32, persistent=False)
        fits = bool((self.bias_int32.abs() < 2**15).all())
        self.register_buffer("weight_packed", pack(self.weight_int8, weight_bits))
        self.register_buffer("bias_stored", self.bias_int32.to(torch.int16) if fits else self.bias_int32.clone())
        layout = [self.weight_int8.shape[1], weight_bits, input_bits]
        self.register_buffer("layout", torch.tensor(layout, dtype=torch.int16))

    @classmethod
    def from_state(cls, state: dict[str, Tensor]) -> Self:
        """The layer of a state dict. Raises KeyError where it lacks a tensor."""
        inputs, weight_bits, input_bits = state["layout"].tolist()
        layer = cls(
            unpack(state["weight_packed"], weight_bits, inputs),
            state["weight_scale"],
            state["bias_stored"],
            state["input_scale"],
            state["input_zero_point"],
            weight_bits=weight_bits,
            input_bits=input_bits,
        )
        # Earlier versions stored both of them wider: what is read is what would be written.
        layer.weight_scale = state["weight_scale"]
        layer.layout = state["layout"]
        return layer

    @classmethod
    def from_float(
        cls,
        weight: Tensor,
        bias: Tensor,
        scale: Tensor,
        input_scale: Tensor,
        input_zero_point: Tensor,
        weight_bits: int,
        input_bits: int,
    ) -> Self:
        """A float layer [out, in] on its grids; `scale` [out, 1] is that of the weights of each output."""
        # A channel of tiny weights gets a coarser grid where its bias would not fit 32 bits.
        scale = torch.maximum(scale, bias.abs().unsqueeze(1) / (input_scale * 2**30))
        if weight_bits < 8:
            scale = eleven_bits(scale)
        largest = largest_level(weight_bits)
        levels = torch.round(weight / scale).clamp(-largest, largest)
        bias_int32 = torch.round(bias / (input_scale * scale[:, 0]))
        return cls(
            levels,
            scale[:, 0],
            bias_int32,
            input_scale,
            input_zero_point,
            weight_bits=weight_bits,
            input_bits=input_bits,
        )


def eleven_bits(x: Tensor) -> Tensor:
    """Numbers rounded to the eleven significant bits that a float16 has, whatever its range."""
    # Half of the last place that stays is added to a float32, and the 13 places below it are cut off.
    return ((x.float().contiguous().view(torch.int32) + 0x1000) & ~0x1FFF).view(torch.float32).to(x.dtype)


def stored_halves(x: Tensor) -> Tensor:
    """The same numbers as float16 where they all have one, else as they are."""
    half = x.to(torch.float16)
    return half if torch.equal(half.float(), x) else x


def compact(policy: Policy) -> Policy:
    """The policy with statistics of eleven bits, and with one number for bounds that all entries share."""
    stages = copy.deepcopy(list(policy))
    for stage in stages:
        if isinstance(stage, Standardize):
            stage.mean = stored_halves(eleven_bits(stage.mean))
            stage.inverse_std = stored_halves(eleven_bits(stage.inverse_std))
        elif isinstance(stage, Clamp):
            stage.low = _shared(stage.low)
            stage.high = _shared(stage.high)
        elif isinstance(stage, Rescale):
            stage.center = _shared(stage.center)
            stage.scale = _shared(stage.scale)
    return Policy(policy.spec, stages)


def _shared(x: Tensor) -> Tensor:
    first = x.reshape(-1)[0]
    return first.clone() if bool((x == first).all()) else x


def low_bit_layers(policy: nn.Sequential) -> list[LowBitLinear]:
    """The layers of few bits of a policy, in order."""
    return [stage for stage in policy if isinstance(stage, LowBitLinear)]


def low_bit_contract(policy: nn.Sequential) -> dict[str, Any]:
    """What the contract of an artifact says of a policy with layers of few bits; nothing of others."""
    layers = low_bit_layers(policy)
    if not layers:
        return {}
    return {
        "low_bit": {
            "weight_bits": [layer.weight_bits for layer in layers],
            "input_bits": [layer.input_bits for layer in layers],
            "packing": PACKING,
            "weight_bytes": tensor_bytes(policy),
            "onnx_weights": "int8",
        }
    }


def tensor_bytes(policy: nn.Module) -> int:
    """Bytes of all tensors that are stored of a policy, few-bit weights packed."""
    return sum(tensor.nbytes for tensor in policy.state_dict().values())


def least_squares_scale(weight: Tensor, bits: int) -> Tensor:
    """Scale of each output channel, [out, in] -> [out, 1], by which rounding loses least in squares.

    Grids that end at a fraction of the largest weight are tried, each with the scale that fits its levels best:
    sum(w level) / sum(level^2).
    """
    largest = largest_level(bits)
    end = weight.abs().amax(-1, keepdim=True).clamp(min=SMALLEST_SCALE)
    best = end / largest
    least = torch.full_like(end, torch.inf)
    for fraction in torch.linspace(1, 1 / GRIDS_TRIED, GRIDS_TRIED).tolist():
        levels = torch.round(weight / (fraction * end / largest)).clamp(-largest, largest)
        fitted = (weight * levels).sum(-1, keepdim=True) / levels.square().sum(-1, keepdim=True).clamp(min=1)
        loss = (weight - levels * fitted).square().sum(-1, keepdim=True)
        better = (loss < least) & (fitted > 0)
        best = torch.where(better, fitted, best)
        least = torch.where(better, loss, least)
    return best
