"""Post-training static quantisation: int8 weights and fixed int8 activation ranges from visited observations."""

import io
from collections.abc import Iterator
from contextlib import redirect_stdout
from typing import Any, Literal

import onnx
import torch
from torch import Tensor, nn

from compression.equalize import equalized
from compression.int8 import ActivationQuantize, StaticQuantLinear
from compression.onnx_export import INPUT, onnx_bytes
from compression.ptdq import run_ort_quantizer
from trainers.policy import Policy
from trainers.tensors import FloatArray

Calibration = Literal["minmax", "entropy", "percentile"]


def quantize_static_policy(
    policy: Policy, observations: FloatArray, *, calibration: Calibration, percentile: float, reduce_range: bool
) -> tuple[Policy, bytes]:
    """The policy with statically quantised linear layers, and its ONNX file from ONNX Runtime's quantiser.

    Its ranges are made alike on `observations` [n, obs_dim] first, which it visited. `calibration` makes the ranges
    from what its layers see on them: smallest and largest, smallest entropy lost, or `percentile` percent of the
    values. The last layer's output stays float. `reduce_range` keeps weights to 7 bits, for CPUs without VNNI.
    """
    policy = equalized(policy, observations)
    model = _quantize_static(onnx_bytes(policy), observations, calibration, percentile, reduce_range)
    quantized = iter(QuantizedGraph(model).layers())
    stages = [next(quantized) if isinstance(stage, nn.Linear) else stage for stage in policy]
    return Policy(policy.spec, stages), model


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
