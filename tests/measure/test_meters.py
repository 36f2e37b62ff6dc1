"""Inference time with a clock that counts, memory in real processes."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from compression.onnx_export import onnx_bytes
from measure import latency
from measure.memory import measure_memory
from tests.helpers import spec
from trainers.nn.stacked import make_linear
from trainers.policy import Policy


class Ticks:
    """A clock that only the calls it times move forward."""

    def __init__(self) -> None:
        self.now = 0
        self.seen: list[str] = []

    def __call__(self) -> int:
        return self.now

    def taking(self, name: str, durations: Iterator[int], shape: tuple[int, ...] = (1, 3)) -> Any:
        def call(obs: np.ndarray) -> None:
            assert obs.shape == shape
            self.seen.append(name)
            self.now += next(durations)

        return call


def test_percentiles_are_those_of_the_calls_after_the_warm_up() -> None:
    clock = Ticks()
    warm = [10**9] * latency.WARMUP_CALLS
    calls = {
        "ramp": clock.taking("ramp", iter(warm + [1000 * k for k in range(1, 401)])),
        "flat": clock.taking("flat", iter(warm + [7000] * 400)),
    }
    found = latency.time_interleaved(calls, np.zeros((5, 3), np.float32), 400, clock)
    assert found["flat"] == latency.Latency(400, 7.0, 7.0, 7.0)
    assert found["ramp"].calls == 400
    assert (found["ramp"].p50_us, found["ramp"].p95_us) == pytest.approx((200.5, 380.05))
    assert found["ramp"].p99_us == pytest.approx(396.01)


def test_calls_take_turns_in_blocks() -> None:
    clock = Ticks()
    shapes = {"a": (1, 3), "b": (3,)}
    forever = {name: clock.taking(name, iter(lambda: 1, 0), shape) for name, shape in shapes.items()}
    latency.time_interleaved(forever, np.zeros((5, 3), np.float32), 2 * latency.BLOCK, clock, unbatched=["b"])
    timed = clock.seen[2 * latency.WARMUP_CALLS :]
    turns = [timed[k] for k in range(0, len(timed), latency.BLOCK)]
    assert turns == ["a", "b", "a", "b"]
    assert all(len(set(timed[k : k + latency.BLOCK])) == 1 for k in range(0, len(timed), latency.BLOCK))
    with pytest.raises(ValueError, match="300 calls are no multiple of a block of 200"):
        latency.time_interleaved(forever, np.zeros((5, 3), np.float32), 300, clock)


def policy(width: int) -> Policy:
    generator = torch.Generator().manual_seed(0)

    def layer(i: int, o: int) -> nn.Linear:
        return make_linear(torch.randn(o, i, generator=generator) / 8, torch.zeros(o))

    return Policy(spec(3, 2), [layer(3, width), nn.ReLU(), layer(width, width), nn.ReLU(), layer(width, 2)])


def test_every_way_of_calling_gives_the_same_action() -> None:
    small = policy(16)
    model = onnx_bytes(small)
    obs = np.random.default_rng(0).normal(size=(1, 3)).astype(np.float32)
    expected = small(torch.from_numpy(obs)).numpy()
    for call in (latency.torch_eager(small), latency.onnx_run(model), latency.onnx_io_binding(model)):
        np.testing.assert_allclose(call(obs), expected, rtol=1e-5)
    assert np.array_equal(latency.onnx_run(latency.noop_model(3))(obs), obs)


def test_memory_of_one_more_copy_follows_the_size_of_the_model(tmp_path: Path) -> None:
    found = {}
    for width in (64, 512):
        path = tmp_path / f"{width}.onnx"
        path.write_bytes(onnx_bytes(policy(width)))
        found[width] = measure_memory(path, copies=12)
    weights = {width: 4 * (3 * width + width * width + 2 * width) for width in found}
    added = found[512].bytes_per_copy - found[64].bytes_per_copy
    assert weights[512] - weights[64] <= added < 4 * (weights[512] - weights[64])
    assert 200e6 > found[512].peak_process_bytes > found[512].first_copy_bytes > found[512].bytes_per_copy


def test_a_model_that_cannot_be_loaded_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "broken.onnx").write_bytes(b"no model")
    with pytest.raises(RuntimeError, match=r"broken\.onnx cannot be loaded in a process of its own"):
        measure_memory(tmp_path / "broken.onnx", copies=1)
