"""Post-training static quantisation: int8 weights and fixed int8 activation ranges from visited observations."""

import io
from collections.abc import Iterator
from contextlib import redirect_stdout
from typing import Any, Literal

import onnx
import torch
from torch import Tensor, nn

from compression.equalize import equalized
from compression.int8 import (
    ACTIVATION_LEVELS,
    ActivationQuantize,
    StaticQuantLinear,
    activation_qparams,
    weight_levels,
    weight_scale,
)
from compression.lowbit import EIGHT, Bits, LowBitLinear, activation_levels, least_squares_scale
from compression.onnx_export import INPUT, onnx_bytes
from compression.ptdq import run_ort_quantizer
from trainers.policy import Policy
from trainers.tensors import FloatArray

Calibration = Literal["minmax", "entropy", "percentile"]


def quantize_static_policy(
    policy: Policy,
    observations: FloatArray,
    *,
    calibration: Calibration,
    percentile: float,
    reduce_range: bool,
    bits: Bits = EIGHT,
) -> tuple[Policy, bytes]:
    """The policy with statically quantised linear layers, and its ONNX file from ONNX Runtime's quantiser.

    Its ranges are made alike on `observations` [n, obs_dim] first, which it visited. `calibration` makes the ranges
    from what its layers see on them: smallest and largest, smallest entropy lost, or `percentile` percent of the
    values. The last layer's output stays float. `reduce_range` keeps weights to 7 bits, for CPUs without VNNI.
    Below eight bits the ranges are the same, and weight scales are those that lose least.
    """
    policy = equalized(policy, observations)
    model = _quantize_static(onnx_bytes(policy), observations, calibration, percentile, reduce_range)
    layers = QuantizedGraph(model).layers()
    if bits.low:
        linears = [stage for stage in policy if isinstance(stage, nn.Linear)]
        layers = [
            _low_bit_layer(linear, layer, bits.weight, bits.into(i), reduce_range)
            for i, (linear, layer) in enumerate(zip(linears, layers, strict=True))
        ]
    quantized = iter(layers)
    stages = [next(quantized) if isinstance(stage, nn.Linear) else stage for stage in policy]
    smaller = Policy(policy.spec, stages)
    return smaller, onnx_bytes(smaller) if bits.low else model


def _low_bit_layer(
    linear: nn.Linear, eight_bit: StaticQuantLinear, weight_bits: int, input_bits: int, reduce_range: bool
) -> StaticQuantLinear:
    """A float layer in few bits, on the input range of its eight-bit version."""
    zero_point = eight_bit.input_zero_point.float()
    low = -zero_point * eight_bit.input_scale
    high = (ACTIVATION_LEVELS - zero_point) * eight_bit.input_scale
    grid = activation_qparams(low, high, activation_levels(input_bits))
    if weight_bits == 8:
        scale = weight_scale(linear.weight, weight_levels(reduce_range))
    else:
        scale = least_squares_scale(linear.weight, weight_bits)
    return LowBitLinear.from_float(linear.weight, linear.bias, scale, *grid, weight_bits, input_bits)


def _quantize_static(
    model: bytes, observations: FloatArray, calibration: Calibration, percentile: float, reduce_range: bool
) -> bytes:
    from onnxruntime.quantization import CalibrationMethod, QuantFormat, QuantType, quantize_static

    methods = {
        "minmax": CalibrationMethod.MinMax,
        "entropy": CalibrationMethod.Entropy,
        "percentile": CalibrationMethod.Percentile,
    }
    options: dict[str, Any] = {"OpTypesToExcludeOutputQuantization": ["Gemm"]}
    if calibration == "percentile":
        options["CalibPercentile"] = percentile
    # The histogram methods print what they do.
    with redirect_stdout(io.StringIO()):
        return run_ort_quantizer(
            model,
            lambda source, target: quantize_static(
                source,
                target,
                Observations(observations),
                quant_format=QuantFormat.QDQ,
                op_types_to_quantize=["Gemm"],
                per_channel=True,
                reduce_range=reduce_range,
                activation_type=QuantType.QUInt8,
                weight_type=QuantType.QInt8,
                calibrate_method=methods[calibration],
                extra_options=options,
            ),
        )


class Observations:
    """Calibration data: all observations at once, as ONNX Runtime's histograms want batches of one size."""

    def __init__(self, observations: FloatArray) -> None:
        self.feeds: Iterator[dict[str, FloatArray]] = iter([{INPUT: observations}])

    def get_next(self) -> dict[str, FloatArray] | None:
        return next(self.feeds, None)


class QuantizedGraph:
    """The numbers in a Q/DQ graph that ONNX Runtime's static quantiser wrote."""

    def __init__(self, model: bytes) -> None:
        graph = onnx.load_from_string(model).graph
        self.values = {t.name: torch.from_numpy(onnx.numpy_helper.to_array(t).copy()) for t in graph.initializer}
        self.producer = {output: node for node in graph.node for output in node.output}
        self.consumer = {name: node for node in graph.node for name in node.input}
        self.gemms = [node for node in graph.node if node.op_type == "Gemm"]

    def layers(self) -> list[StaticQuantLinear]:
        """The quantised linear layers, in order."""
        layers = []
        for gemm in self.gemms:
            quantize, weight, bias = (self.producer[name] for name in gemm.input)
            levels = self.values[weight.input[0]].mT
            scale = self.values[weight.input[1]].expand(len(levels)).clone()
            layers.append(StaticQuantLinear(levels, scale, self.values[bias.input[0]], *self._grid(quantize)))
        return layers

    def outputs(self) -> list[ActivationQuantize]:
        """The quantisers behind the linear layers, in order, where every one has one."""
        return [ActivationQuantize(*self._grid(self.consumer[gemm.output[0]])) for gemm in self.gemms]

    def _grid(self, node: onnx.NodeProto) -> tuple[Tensor, Tensor]:
        """Scale and zero point of the uint8 grid; an int8 grid is the same one, numbered from -128."""
        scale, zero_point = (self.values[name] for name in node.input[1:3])
        return scale, zero_point.int() + 128 if zero_point.dtype == torch.int8 else zero_point
