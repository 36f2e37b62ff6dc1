"""Inference time of one policy call: one observation in, one action out, the simulator left out."""

import time
from collections.abc import Callable, Collection, Hashable, Mapping
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from onnx import TensorProto, helper

from compression.onnx_export import INPUT, OPSET, OUTPUT
from compression.runtime import onnx_session
from trainers.policy import Policy
from trainers.tensors import FloatArray

Call = Callable[[FloatArray], Any]
Clock = Callable[[], int]
Key = TypeVar("Key", bound=Hashable)

WARMUP_CALLS = 500
BLOCK = 200


@dataclass(frozen=True)
class Latency:
    """Percentiles of the time of a call in microseconds."""

    calls: int
    p50_us: float
    p95_us: float
    p99_us: float


def time_interleaved(
    calls: Mapping[Key, Call],
    observations: FloatArray,
    count: int,
    clock: Clock = time.perf_counter_ns,
    unbatched: Collection[Key] = (),
) -> dict[Key, Latency]:
    """Time every call `count` times on observations [n, obs_dim], taken in turn.

    In one process, in blocks by turns and after a warm-up, so that what else the machine does meets all of them
    alike: ratios between them are to be trusted further than the times. A call gets [1, obs_dim], one that `unbatched`
    names [obs_dim]. Raises ValueError where a block is not full.
    """
    if count % BLOCK:
        raise ValueError(f"{count} calls are no multiple of a block of {BLOCK}")
    vectors = [np.ascontiguousarray(row) for row in observations]
    batches = [row[None] for row in vectors]
    times = {name: np.empty(count, np.int64) for name in calls}
    rows = {name: vectors if name in unbatched else batches for name in calls}
    for name, call in calls.items():
        for k in range(WARMUP_CALLS):
            call(rows[name][k % len(vectors)])
    for first in range(0, count, BLOCK):
        for name, call in calls.items():
            _block(call, rows[name], times[name], first, clock)
    return {name: summary(nanoseconds) for name, nanoseconds in times.items()}


def _block(call: Call, rows: list[FloatArray], times: NDArray[np.int64], first: int, clock: Clock) -> None:
    for k in range(first, first + BLOCK):
        row = rows[k % len(rows)]
        began = clock()
        call(row)
        times[k] = clock() - began


def summary(nanoseconds: NDArray[np.int64]) -> Latency:
    """Percentiles of timed calls."""
    p50, p95, p99 = np.percentile(nanoseconds, [50, 95, 99]) / 1000
    return Latency(len(nanoseconds), float(p50), float(p95), float(p99))


def torch_eager(policy: Policy) -> Call:
    """The policy in PyTorch, numpy in and numpy out."""

    @torch.inference_mode()
    def call(obs: FloatArray) -> FloatArray:
        action: FloatArray = policy(torch.from_numpy(obs)).numpy()
        return action

    return call


def onnx_run(model: bytes) -> Call:
    """ONNX Runtime's `run`, as most programs call it."""
    session = onnx_session(model)
    return lambda obs: session.run(None, {INPUT: obs})[0]


def onnx_io_binding(model: bytes) -> Call:
    """ONNX Runtime with input and output bound once to fixed memory."""
    session = onnx_session(model)
    binding = session.io_binding()
    obs_dim = session.get_inputs()[0].shape[1]
    act_dim = session.get_outputs()[0].shape[1]
    into = np.zeros((1, obs_dim), np.float32)
    out = np.zeros((1, act_dim), np.float32)
    binding.bind_input(INPUT, "cpu", 0, np.float32, into.shape, into.ctypes.data)
    binding.bind_output(OUTPUT, "cpu", 0, np.float32, out.shape, out.ctypes.data)

    def call(obs: FloatArray) -> FloatArray:
        into[:] = obs
        session.run_with_iobinding(binding)
        return out

    return call


def noop_model(obs_dim: int) -> bytes:
    """A model that does nothing: what a call costs before any arithmetic."""
    value = [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["batch", obs_dim]) for name in (INPUT, OUTPUT)]
    graph = helper.make_graph([helper.make_node("Identity", [INPUT], [OUTPUT])], "floor", [value[0]], [value[1]])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=8)
    serialized: bytes = model.SerializeToString()
    return serialized
