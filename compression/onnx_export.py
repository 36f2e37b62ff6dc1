"""Policy -> ONNX, stage by stage, written directly: no exporter, no side files, dynamic batch.

Quantised layers are written as QuantizeLinear / DequantizeLinear around a Gemm. ONNX Runtime fuses that to
integer kernels; graphs of integer operators run on slower ones.
"""

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper
from torch import Tensor, nn

from compression.int8 import ACTIVATION_LEVELS, ActivationQuantize, StaticQuantLinear
from compression.lowbit import LowBitLinear, low_bit_layers, tensor_bytes
from trainers.policy import Clamp, Policy, Rescale, Standardize

OPSET = 17
IR_VERSION = 8
# Key of a file's metadata: bytes of the tensors of the policy where its weights are packed.
PACKED_BYTES = "packed_bytes"
INPUT = "observation"
OUTPUT = "action"


class GraphWriter:
    """Nodes and initialisers of a graph under construction; `head` names the newest value."""

    def __init__(self) -> None:
        self.nodes: list[onnx.NodeProto] = []
        self.initializers: list[onnx.TensorProto] = []
        self.head = INPUT

    def constant(self, name: str, value: Tensor | NDArray[np.generic]) -> str:
        array = value.numpy() if isinstance(value, Tensor) else value
        unique = f"{name}_{len(self.initializers)}"
        self.initializers.append(numpy_helper.from_array(np.array(array, order="C"), unique))
        return unique

    def node(self, op: str, *inputs: str, **attributes: Any) -> str:
        output = f"{op}_{len(self.nodes)}"
        self.nodes.append(helper.make_node(op, list(inputs), [output], name=output, **attributes))
        return output

    def extend(self, op: str, *more_inputs: str, **attributes: Any) -> None:
        self.head = self.node(op, self.head, *more_inputs, **attributes)


def write_standardize(graph: GraphWriter, stage: Standardize) -> None:
    """Add a standardisation to the graph: two nodes."""
    graph.extend("Sub", graph.constant("mean", stage.mean.float()))
    graph.extend("Mul", graph.constant("inverse_std", stage.inverse_std.float()))


def write_linear(graph: GraphWriter, stage: nn.Linear) -> None:
    """Add a linear layer to the graph: one Gemm."""
    # Stored [in, out]: ONNX Runtime's dynamic quantiser would ignore per-channel scales on a transposed Gemm.
    weight = graph.constant("weight", stage.weight.detach().T)
    graph.extend("Gemm", weight, graph.constant("bias", stage.bias.detach()))


def write_grid(graph: GraphWriter, scale: Tensor, zero_point: Tensor, levels: int = ACTIVATION_LEVELS) -> None:
    """Round the newest value to an integer grid: a pair of QuantizeLinear and DequantizeLinear.

    Fewer levels than those of eight bits are cut off between the two.
    """
    grid = [graph.constant("scale", scale), graph.constant("zero_point", zero_point)]
    graph.extend("QuantizeLinear", *grid)
    if levels < ACTIVATION_LEVELS:
        ends = [np.array(end, np.uint8) for end in (0, levels)]
        graph.extend("Clip", *(graph.constant("level", end) for end in ends))
    graph.extend("DequantizeLinear", *grid)


def write_static_quant_linear(graph: GraphWriter, stage: StaticQuantLinear) -> None:
    """Add a linear layer on the int8 grid to the graph, in the form that ONNX Runtime fuses."""
    write_grid(graph, stage.input_scale, stage.input_zero_point, stage.input_levels)
    scales = stage.weight_scale.float()
    zeros = np.zeros(len(scales))
    weight = graph.node(
        "DequantizeLinear",
        graph.constant("weight", stage.weight_int8.T),
        graph.constant("weight_scale", scales),
        graph.constant("weight_zero_point", zeros.astype(np.int8)),
        axis=1,
    )
    bias = graph.node(
        "DequantizeLinear",
        graph.constant("bias", stage.bias_int32),
        graph.constant("bias_scale", stage.input_scale * scales),
        graph.constant("bias_zero_point", zeros.astype(np.int32)),
        axis=0,
    )
    graph.extend("Gemm", weight, bias)


def write_clamp(graph: GraphWriter, stage: Clamp) -> None:
    """Add a clamp to the graph: one Clip where all columns have the same bounds."""
    low = stage.low.reshape(-1)
    high = stage.high.reshape(-1)
    if (low == low[0]).all() and (high == high[0]).all():
        graph.extend("Clip", graph.constant("low", low[0]), graph.constant("high", high[0]))
    else:
        graph.extend("Max", graph.constant("low", low))
        graph.extend("Min", graph.constant("high", high))


def write_rescale(graph: GraphWriter, stage: Rescale) -> None:
    """Add the affine map to the action bounds to the graph, without the parts that change nothing."""
    if (stage.scale != 1).any():
        graph.extend("Mul", graph.constant("action_scale", stage.scale))
    if (stage.center != 0).any():
        graph.extend("Add", graph.constant("action_center", stage.center))


def write_silu(graph: GraphWriter, _stage: nn.SiLU) -> None:
    """Add x sigmoid(x) to the graph: two nodes."""
    x = graph.head
    graph.extend("Sigmoid")
    graph.extend("Mul", x)


def write_gelu(graph: GraphWriter, _stage: nn.GELU) -> None:
    """Add x (1 + erf(x / sqrt 2)) / 2 to the graph, in the form that ONNX Runtime fuses."""
    x = graph.head
    graph.extend("Div", graph.constant("sqrt_2", np.array(math.sqrt(2), np.float32)))
    graph.extend("Erf")
    graph.extend("Add", graph.constant("one", np.array(1, np.float32)))
    graph.extend("Mul", x)
    graph.extend("Mul", graph.constant("half", np.array(0.5, np.float32)))


WRITERS: dict[type[nn.Module], Callable[..., None]] = {
    Standardize: write_standardize,
    nn.Linear: write_linear,
    StaticQuantLinear: write_static_quant_linear,
    # In int8 storage: ONNX Runtime's integer kernels take nothing smaller.
    LowBitLinear: write_static_quant_linear,
    ActivationQuantize: lambda graph, stage: write_grid(graph, stage.scale, stage.zero_point),
    nn.ReLU: lambda graph, _stage: graph.extend("Relu"),
    nn.Tanh: lambda graph, _stage: graph.extend("Tanh"),
    nn.ELU: lambda graph, stage: graph.extend("Elu", alpha=float(stage.alpha)),
    nn.LeakyReLU: lambda graph, stage: graph.extend("LeakyRelu", alpha=float(stage.negative_slope)),
    nn.SiLU: write_silu,
    nn.GELU: write_gelu,
    Clamp: write_clamp,
    Rescale: write_rescale,
}


def onnx_bytes(policy: Policy) -> bytes:
    """The policy as one ONNX file: float32 `observation` [batch, obs_dim] -> `action` [batch, act_dim].

    Raises KeyError for a kind of stage that has no writer.
    """
    graph = GraphWriter()
    for stage in policy:
        WRITERS[type(stage)](graph, stage)
    graph.nodes[-1].output[0] = OUTPUT
    spec = policy.spec

    def value(name: str, width: int) -> onnx.ValueInfoProto:
        return helper.make_tensor_value_info(name, TensorProto.FLOAT, ["batch", width])

    model = helper.make_model(
        helper.make_graph(
            graph.nodes,
            "policy",
            [value(INPUT, spec.obs_dim)],
            [value(OUTPUT, spec.act_dim)],
            graph.initializers,
        ),
        opset_imports=[helper.make_opsetid("", OPSET)],
        ir_version=IR_VERSION,
        producer_name="rlc",
    )
    helper.set_model_props(model, _low_bit_properties(policy))
    onnx.checker.check_model(model, full_check=True)
    serialized: bytes = model.SerializeToString(deterministic=True)
    return serialized


def _low_bit_properties(policy: Policy) -> dict[str, str]:
    """What the file says of layers of few bits: their bits, and that a weight takes a byte here."""
    layers = low_bit_layers(policy)
    if not layers:
        return {}
    return {
        "weight_bits": ",".join(str(layer.weight_bits) for layer in layers),
        "input_bits": ",".join(str(layer.input_bits) for layer in layers),
        "weight_storage": "int8",
        PACKED_BYTES: str(tensor_bytes(policy)),
    }
