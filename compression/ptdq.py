"""Post-training dynamic quantisation: int8 weights, activations quantised on the fly by ONNX Runtime."""

import tempfile
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor, nn

from compression.equalize import equalized
from compression.int8 import activation_qparams, quantize_centered, weight_levels, weight_scale
from compression.onnx_export import onnx_bytes
from trainers.policy import Policy
from trainers.tensors import FloatArray


class DynamicQuantLinear(nn.Module):
    """A linear layer whose input range is that of the row at hand, [B, in] -> [B, out].

    ONNX Runtime takes one range over the whole batch: the two agree at batch 1, as policies are run.
    """

    weight_int8: Tensor
    weight_scale: Tensor
    bias: Tensor

    def __init__(self, linear: nn.Linear, levels: int, per_channel: bool = True) -> None:
        super().__init__()
        scale = weight_scale(linear.weight, levels)
        if not per_channel:
            scale = scale.amax(0, keepdim=True).expand_as(scale)
        self.register_buffer("weight_int8", torch.round(linear.weight / scale).to(torch.int8))
        self.register_buffer("weight_scale", scale[:, 0].contiguous())
        self.register_buffer("bias", linear.bias.detach().clone())

    def forward(self, x: Tensor) -> Tensor:
        scale, zero_point = activation_qparams(x.amin(-1, keepdim=True), x.amax(-1, keepdim=True))
        accumulated = quantize_centered(x, scale, zero_point) @ self.weight_int8.double().mT
        return (accumulated * scale * self.weight_scale + self.bias).float()


def quantize_dynamic_policy(policy: Policy, observations: FloatArray, *, reduce_range: bool) -> tuple[Policy, bytes]:
    """The policy with dynamically quantised linear layers, and its ONNX file from ONNX Runtime's quantiser.

    Its ranges are made alike on `observations` [n, obs_dim] first, which it visited.
    `reduce_range` keeps weights to 7 bits, for CPUs without VNNI, whose 8-bit products saturate.
    """
    policy = equalized(policy, observations)
    levels = weight_levels(reduce_range)
    stages = [DynamicQuantLinear(s, levels) if isinstance(s, nn.Linear) else s for s in policy]
    return Policy(policy.spec, stages), _quantize_dynamic(onnx_bytes(policy), reduce_range)


def _quantize_dynamic(model: bytes, reduce_range: bool) -> bytes:
    from onnxruntime.quantization import QuantType, quantize_dynamic

    return run_ort_quantizer(
        model,
        lambda source, target: quantize_dynamic(
            source, target, per_channel=True, reduce_range=reduce_range, weight_type=QuantType.QInt8
        ),
    )


def run_ort_quantizer(model: bytes, quantize: Callable[[Path, Path], None]) -> bytes:
    """What one of ONNX Runtime's quantisers, which go from file to file, makes of a model."""
    from onnxruntime.quantization import quant_pre_process

    with tempfile.TemporaryDirectory() as folder:
        source, ready, target = (Path(folder) / f"{name}.onnx" for name in ("fp32", "ready", "int8"))
        source.write_bytes(model)
        quant_pre_process(source, ready, skip_optimization=True, skip_symbolic_shape=True)
        quantize(ready, target)
        return target.read_bytes()
