"""A policy as plain arrays, in the form in which C computes it."""

from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from torch import Tensor, nn

from compression.int8 import ActivationQuantize, StaticQuantLinear
from compression.lowbit import LowBitLinear
from compression.ptdq import DynamicQuantLinear
from trainers.errors import UserError
from trainers.nn.activations import ACTIVATIONS, activation_name
from trainers.policy import Clamp, Policy, Rescale, Standardize
from trainers.tensors import FloatArray

FUSED = {"tanh", "silu", "gelu"}
"""Made of fused multiply-adds by ONNX Runtime: exact only where the target has them."""
VARYING = {"elu", "gelu"}
"""Not the same bits from ONNX Runtime on all processors."""
INT32_MAX = 2**31 - 1


@dataclass(frozen=True)
class Grid:
    """The grid of a layer's input: value = scale * (level - zero_point), level from 0 to `levels`."""

    scale: np.float32
    zero_point: int
    levels: int


@dataclass(frozen=True)
class Elementwise:
    """One step on every entry `v` of a vector: a C expression of `v` and `i`, and the tables that it names."""

    expression: str
    tables: dict[str, FloatArray] = field(default_factory=dict)


@dataclass(frozen=True)
class Layer:
    """A linear layer and the activation behind it.

    Float: `weight` [out, in] and `bias` [out] are float32. Quantised: `weight` is int8, `bias` int32 with the zero
    point of the input folded in, and `scale` [out] turns a sum into a value, or, where `fused`, into a level of the
    next layer's grid, counted from its zero point. `weight_bits` are enough for every weight;
    `activation` is a name of `ACTIVATIONS`, or empty.
    """

    weight: NDArray[Any]
    bias: NDArray[Any]
    activation: str
    grid: Grid | None = None
    scale: FloatArray | None = None
    fused: bool = False
    weight_bits: int = 8


@dataclass(frozen=True)
class Network:
    """What happens to an observation before the first layer, the layers, and what makes an action of the last one."""

    front: list[Elementwise]
    layers: list[Layer]
    back: list[Elementwise]

    @property
    def quantized(self) -> bool:
        """Whether its layers are int8."""
        return self.layers[0].grid is not None

    @property
    def weight_bits(self) -> int:
        """Bits that are enough for every integer weight."""
        return max(layer.weight_bits for layer in self.layers)

    @property
    def macs(self) -> int:
        """Multiply-accumulates for one action."""
        return sum(layer.weight.size for layer in self.layers)

    @property
    def activations(self) -> set[str]:
        """Names of the hidden activations."""
        return {layer.activation for layer in self.layers} - {""}

    @property
    def fused(self) -> list[str]:
        """Activations that are exact only with fused multiply-adds; a tanh of the action too."""
        squash = {"tanh"} if any("policy_tanh" in step.expression for step in self.back) else set()
        return sorted(FUSED & (self.activations | squash))

    @property
    def varying(self) -> list[str]:
        """Hidden activations of which ONNX Runtime may give other bits elsewhere."""
        return sorted(VARYING & self.activations)


def read_network(policy: Policy) -> Network:
    """The arrays of a policy. Raises UserError for stages that cannot be written as C."""
    stages = list(policy)
    _check_stages(stages)
    places = [i for i, stage in enumerate(stages) if isinstance(stage, nn.Linear | StaticQuantLinear)]
    if not places:
        raise UserError("target=c: the policy has no linear layer; deploy its policy.onnx")
    front = _elementwise(stages[: places[0]], "observation")
    back = _elementwise(stages[places[-1] + 1 :], "action")
    activations = [_activation(stages[a + 1 : b]) for a, b in pairwise(places)]
    linears = [stages[i] for i in places]
    quantized = [linear for linear in linears if isinstance(linear, StaticQuantLinear)]
    if not quantized:
        layers = [_float_layer(*pair) for pair in zip(linears, [*activations, ""], strict=True)]
    elif len(quantized) == len(linears):
        layers = _int8_layers(quantized, [*activations, ""])
    else:
        raise UserError("target=c: only some of the layers are int8; allowed: all or none")
    return Network(front, layers, back)


def _check_stages(stages: list[nn.Module]) -> None:
    if any(isinstance(stage, DynamicQuantLinear) for stage in stages):
        raise UserError(
            "target=c: ptdq takes its ranges from each observation, which C does not do; "
            "allowed: fp32, ptsq, qat, prune_l1, prune_l2, prune_ptsq, prune_qat"
        )
    if any(isinstance(stage, ActivationQuantize) for stage in stages):
        raise UserError("target=c: policies of protocol=paper are not written as C; allowed: protocol=ours")
    known = (nn.Linear, StaticQuantLinear, *ACTIVATIONS.values(), Standardize, Clamp, Rescale)
    for stage in stages:
        if not isinstance(stage, known):
            raise UserError(f"target=c: no C for a stage {type(stage).__name__}; deploy its policy.onnx")


def _activation(stages: list[nn.Module]) -> str:
    """What stands between two linear layers."""
    if not stages:
        return ""
    name = activation_name(stages[0]) if len(stages) == 1 else None
    if name is None:
        found = ", ".join(repr(stage) for stage in stages)
        allowed = ", ".join(ACTIVATIONS)
        raise UserError(f"target=c: {found} between two layers; allowed: one of {allowed}, as torch has it by default")
    return name


def _float_layer(linear: Any, activation: str) -> Layer:
    return Layer(_array(linear.weight), _array(linear.bias), activation)


def _int8_layers(linears: list[StaticQuantLinear], activations: list[str]) -> list[Layer]:
    grids = [
        Grid(np.float32(linear.input_scale.item()), int(linear.input_zero_point), linear.input_levels)
        for linear in linears
    ]
    layers = []
    for linear, activation, grid, following in zip(linears, activations, grids, [*grids[1:], None], strict=True):
        # float32 products in ONNX Runtime's order: another order gives other bits.
        scale = grid.scale * linear.weight_scale.numpy().astype(np.float32)
        fused = following is not None and _becomes_clamp(activation, following)
        if fused and following is not None:
            scale = scale / following.scale
        weight = linear.weight_int8.numpy()
        weight_bits = linear.weight_bits if isinstance(linear, LowBitLinear) else 8
        layers.append(Layer(weight, _folded_bias(linear, grid), activation, grid, scale, fused, weight_bits))
    return layers


def _becomes_clamp(activation: str, following: Grid) -> bool:
    """Whether the clamp to the next grid does what the activation does; ONNX Runtime then removes the activation."""
    return not activation or (activation == "relu" and following.zero_point == 0)


def _folded_bias(linear: StaticQuantLinear, grid: Grid) -> NDArray[np.int32]:
    """bias - zero_point * sum of weights. Raises UserError where sums may leave 32 bits."""
    weight = linear.weight_int8.numpy().astype(np.int64)
    bias = linear.bias_int32.numpy().astype(np.int64) - grid.zero_point * weight.sum(1)
    # 128 more: signed kernels count levels from there.
    largest = np.abs(bias) + (255 + 128) * np.abs(weight).sum(1)
    if largest.max() > INT32_MAX:
        raise UserError(
            f"target=c: sums of a layer with {weight.shape[1]} inputs may not fit 32 bits; deploy its policy.onnx"
        )
    folded: NDArray[np.int32] = bias.astype(np.int32)
    return folded


def _elementwise(stages: list[nn.Module], name: Literal["observation", "action"]) -> list[Elementwise]:
    """Steps on the entries of the observation or the action, in ONNX Runtime's order of operations.

    A NaN in an observation passes through as it does there: it is the quantiser that makes a level of it.
    """
    steps = []
    for number, stage in enumerate(stages):
        prefix = name if len(stages) == 1 else f"{name}_{number}"
        steps.append(_step(stage, prefix, keeps_nan=name == "observation"))
    return [step for step in steps if step.expression != "v"]


def _step(stage: nn.Module, prefix: str, keeps_nan: bool) -> Elementwise:
    if isinstance(stage, nn.ReLU):
        return Elementwise("policy_relu(v)")
    if isinstance(stage, nn.Tanh):
        return Elementwise("policy_tanh(v)")
    if isinstance(stage, Standardize):
        mean = f"{prefix}_mean"
        inverse_std = f"{prefix}_inverse_std"
        tables = {mean: _array(stage.mean), inverse_std: _array(stage.inverse_std)}
        return Elementwise(f"(v - {mean}[i]) * {inverse_std}[i]", tables)
    if isinstance(stage, Clamp):
        low, low_tables = _operand(f"{prefix}_low", _array(stage.low))
        high, high_tables = _operand(f"{prefix}_high", _array(stage.high))
        clamp = "policy_clip" if keeps_nan else "policy_clamp"
        return Elementwise(f"{clamp}(v, {low}, {high})", low_tables | high_tables)
    if isinstance(stage, Rescale):
        return _rescale(stage, prefix)
    raise UserError(f"target=c: a stage {type(stage).__name__} stands outside the layers; deploy its policy.onnx")


def _rescale(stage: Rescale, prefix: str) -> Elementwise:
    """Without the parts that change nothing, as in the ONNX file."""
    expression = "v"
    tables: dict[str, FloatArray] = {}
    if (stage.scale != 1).any():
        scale, scale_tables = _operand(f"{prefix}_scale", _array(stage.scale))
        expression += f" * {scale}"
        tables |= scale_tables
    if (stage.center != 0).any():
        center, center_tables = _operand(f"{prefix}_center", _array(stage.center))
        expression += f" + {center}"
        tables |= center_tables
    return Elementwise(expression, tables)


def _operand(name: str, values: FloatArray) -> tuple[str, dict[str, FloatArray]]:
    """A literal where all entries are the same number, else a table."""
    values = values.reshape(-1)
    if (values == values[0]).all():
        return float_literal(values[0]), {}
    return f"{name}[i]", {name: values}


def float_literal(value: np.float32) -> str:
    """A float32 in C; nine digits give back the same bits."""
    text = f"{value:.9g}"
    return f"{text}f" if "." in text or "e" in text else f"{text}.0f"


def _array(tensor: Tensor) -> FloatArray:
    array: FloatArray = tensor.detach().cpu().numpy().astype(np.float32)
    return array
