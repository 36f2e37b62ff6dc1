"""Quantisation as the code of arXiv 2407.04803 did it: the defaults of its tools, on inputs as they come."""

import functools
import itertools
from pathlib import Path

import torch
from torch import Tensor, nn

from compression.int8 import WEIGHT_LEVELS, ActivationQuantize, activation_qparams
from compression.onnx_export import onnx_bytes
from compression.ptdq import DynamicQuantLinear, run_ort_quantizer
from compression.ptsq import Observations, QuantizedGraph
from compression.qat import QATLinear, fake_quantize
from trainers.nn.stacked import StackedLinear, StackedMLP
from trainers.policy import Policy
from trainers.tensors import FloatArray

# torch's x86 configuration trains with 7-bit activations; what it converts to runs with 8 on the same scale.
TRAINED_ACTIVATION_LEVELS = 127
RANGE_MOMENTUM = 0.01


def quantize_dynamic_as_published(policy: Policy) -> tuple[Policy, bytes]:
    """As `quantize_dynamic_policy`, with one weight scale per layer and nothing standardised."""
    from onnxruntime.quantization import quantize_dynamic

    quantized = functools.partial(DynamicQuantLinear, levels=WEIGHT_LEVELS, per_channel=False)
    stages = [quantized(stage) if isinstance(stage, nn.Linear) else stage for stage in policy]
    return Policy(policy.spec, stages), run_ort_quantizer(onnx_bytes(policy), quantize_dynamic)


def quantize_static_as_published(policy: Policy, observations: FloatArray) -> tuple[Policy, bytes]:
    """As `quantize_static_policy`, with one weight scale per layer and the outputs of all layers quantised."""
    from onnxruntime.quantization import quantize_static

    def quantize(source: Path, target: Path) -> None:
        quantize_static(source, target, Observations(observations), op_types_to_quantize=["Gemm", "Relu"])

    model = run_ort_quantizer(onnx_bytes(policy), quantize)
    graph = QuantizedGraph(model)
    quantized = zip(graph.layers(), graph.outputs(), strict=True)
    stages = [next(quantized) if isinstance(stage, nn.Linear) else (stage,) for stage in policy]
    return Policy(policy.spec, itertools.chain.from_iterable(stages)), model


class QATLinearAsPublished(QATLinear):
    """Fake quantisation as by torch's x86 configuration: 7-bit activations, 8-bit weights, raw inputs."""

    def __init__(self, linear: StackedLinear) -> None:
        super().__init__(linear, WEIGHT_LEVELS, standardize=False, range_momentum=RANGE_MOMENTUM)
        self.activation_levels = TRAINED_ACTIVATION_LEVELS


class QATHeadAsPublished(QATLinearAsPublished):
    """A last layer of `heads` parts side by side, the output of each of which is quantised too."""

    output_lo: Tensor
    output_hi: Tensor

    def __init__(self, linear: StackedLinear, heads: int) -> None:
        super().__init__(linear)
        self.heads = heads
        for name in ("output_lo", "output_hi"):
            self.register_buffer(name, linear.weight.new_zeros(len(linear.weight), 1, heads, 1))

    def forward(self, x: Tensor, update_ranges: bool = False) -> Tensor:
        momentum = (1 / (self.batches + 1)).clamp(min=self.range_momentum).unsqueeze(-1)
        y = super().forward(x, update_ranges)
        parts = y.view(*y.shape[:-1], self.heads, -1)
        if update_ranges:
            self.output_lo.lerp_(parts.detach().amin((1, 3), keepdim=True), momentum)
            self.output_hi.lerp_(parts.detach().amax((1, 3), keepdim=True), momentum)
        grid = activation_qparams(self.output_lo, self.output_hi, self.activation_levels)
        quantized = fake_quantize(parts, *grid, 0, self.activation_levels).flatten(-2)
        return torch.where(self.batches > 0, quantized, y)

    def extract(self, row: int, outputs: int | None = None) -> list[nn.Module]:
        first = self.output_lo[row, 0, 0, 0], self.output_hi[row, 0, 0, 0]
        return [*super().extract(row, outputs), ActivationQuantize(*activation_qparams(*first, self.activation_levels))]


def prepare_qat_as_published(network: StackedMLP, *, heads: int) -> None:
    """As `prepare_qat`, with the settings of torch's x86 configuration; `heads` parts make the last layer."""
    *hidden, last = network.layers
    for i, layer in enumerate(hidden):
        assert isinstance(layer, StackedLinear)
        network.layers[i] = QATLinearAsPublished(layer)
    assert isinstance(last, StackedLinear)
    network.layers[len(hidden)] = QATHeadAsPublished(last, heads)
