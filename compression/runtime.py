"""Policies in ONNX Runtime, and what it makes of their files."""

import tempfile
from pathlib import Path
from typing import Any

import onnx

from compression.onnx_export import INPUT, PACKED_BYTES, onnx_bytes
from trainers.policy import Policy
from trainers.tensors import FloatArray


class OnnxPolicy:
    """A policy in ONNX Runtime on one thread: observation [obs_dim] -> action [act_dim], at batch 1."""

    def __init__(self, model: bytes | Path) -> None:
        self.session = onnx_session(model)

    @classmethod
    def from_policy(cls, policy: Policy) -> "OnnxPolicy":
        """A torch policy as it would be deployed."""
        return cls(onnx_bytes(policy))

    def __call__(self, obs: FloatArray) -> FloatArray:
        action: FloatArray = self.batch(obs[None])[0]
        return action

    def batch(self, obs: FloatArray) -> FloatArray:
        """[B, obs_dim] -> [B, act_dim]. A dynamically quantised policy takes one range over the batch."""
        actions: FloatArray = self.session.run(None, {INPUT: obs})[0]
        return actions


def optimized_operators(model: bytes) -> list[str]:
    """Operators that ONNX Runtime really executes, after its graph optimisations."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "optimized.onnx"
        onnx_session(model, optimized_path=path)
        return [node.op_type for node in onnx.load(path).graph.node]


def weight_bytes(model: bytes) -> int:
    """Bytes of all initialisers of an ONNX file; below eight bits of the packed tensors, whose size the file states."""
    loaded = onnx.load_from_string(model)
    for prop in loaded.metadata_props:
        if prop.key == PACKED_BYTES:
            return int(prop.value)
    return sum(onnx.numpy_helper.to_array(t).nbytes for t in loaded.graph.initializer)


def onnx_session(model: bytes | Path, optimized_path: Path | None = None) -> Any:
    """ONNX Runtime on one thread; writes the graph it really runs to `optimized_path`."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    # Errors alone: its warnings are of files that others wrote, and of an optimised graph that suits this machine only.
    options.log_severity_level = 3
    if optimized_path is not None:
        options.optimized_model_filepath = str(optimized_path)
    source = model if isinstance(model, bytes) else str(model)
    return onnxruntime.InferenceSession(source, options, providers=["CPUExecutionProvider"])
