"""Post-training static quantisation: int8 weights and fixed int8 activation ranges from visited observations."""

from collections.abc import Iterator
from typing import Any, Literal

import onnx
import torch
from torch import nn

from compression.onnx_graph import INPUT, onnx_bytes
from compression.ptdq import standardized_input, with_quantizer
from compression.qat import StaticQuantLinear
from trainers.policy import Policy
from trainers.rollout import FloatArray

Calibration = Literal["minmax", "entropy", "percentile"]


def quantize_static_policy(
    policy: Policy, observations: FloatArray, *, calibration: Calibration, percentile: float, reduce_range: bool
) -> tuple[Policy, bytes]:
    """The policy with statically quantised linear layers, and its ONNX file from ONNX Runtime's quantiser.

    A policy that reads raw observations is standardised with the statistics of `observations` [n, obs_dim] first,
    which it visited. `calibration` makes the ranges from what its layers see
    on them: smallest and largest, smallest entropy lost, or `percentile` percent of the values. The last layer's
    output stays float. `reduce_range` keeps weights to 7 bits, for CPUs without VNNI.
    """
    policy = standardized_input(policy, observations)
    model = _quantize_static(onnx_bytes(policy), observations, calibration, percentile, reduce_range)
    quantized = iter(_static_layers(model))
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
    return with_quantizer(
        model,
        lambda source, target: quantize_static(
            source,
            target,
            _Reader(observations),
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


class _Reader:
    """All observations at once: ONNX Runtime's histograms want batches of one size."""

    def __init__(self, observations: FloatArray) -> None:
        self.feeds: Iterator[dict[str, FloatArray]] = iter([{INPUT: observations}])

    def get_next(self) -> dict[str, FloatArray] | None:
        return next(self.feeds, None)


def _static_layers(model: bytes) -> list[StaticQuantLinear]:
    """The quantised linear layers of a Q/DQ graph, in order, with the numbers it holds."""
    graph = onnx.load_from_string(model).graph
    values = {t.name: torch.from_numpy(onnx.numpy_helper.to_array(t).copy()) for t in graph.initializer}
    producer = {output: node for node in graph.node for output in node.output}
    layers = []
    for gemm in (node for node in graph.node if node.op_type == "Gemm"):
        quantize, weight, bias = (producer[name] for name in gemm.input)
        numbers = (weight.input[0], weight.input[1], bias.input[0], quantize.input[1], quantize.input[2])
        levels, *others = (values[name] for name in numbers)
        layers.append(StaticQuantLinear(levels.mT, *others))
    return layers
