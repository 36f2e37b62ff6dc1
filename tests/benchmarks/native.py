"""Policies in C beside ONNX Runtime and, where it is installed, OpenVINO: time, bytes, instructions.

Run by hand, in the root of the repository: python -m tests.benchmarks.native --out native.csv
One pinned thread; all candidates of a policy are called in turn, so that other load falls on all of them alike, and
the ratios hold better than the microseconds. Policies: SAC HalfCheetah (17-256-256), TRPO HalfCheetah (17-64-64), a
random network for 376 observations; each float, int8, half pruned and int8. Instructions are those that QEMU counts on
a Cortex-M4 and on aarch64, where it and the cross compilers are found.
"""

import argparse
import csv
import ctypes
import importlib.util
import json
import os
import platform
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from compression.artifact import load_policy, save_artifact
from compression.files import ONNX_FILE
from compression.native.folder import export_native
from compression.native.generate import Options
from compression.native.loader import load
from compression.native.toolchain import FAST, compile_c, measure_sizes, require_compiler
from compression.onnx_export import INPUT, OUTPUT, onnx_bytes
from compression.ptsq import quantize_static_policy
from compression.runtime import OnnxPolicy
from tests.compression.native.builds import has_tools, pruned
from tests.compression.native.emulated import (
    AARCH64,
    AARCH64_TOOLS,
    CORTEX_M,
    CORTEX_M_TOOLS,
    aarch64_instructions,
    cortex_m_instructions,
)
from trainers.envs.spec import EnvSpec
from trainers.policy import Policy, Rescale
from trainers.tensors import FloatArray

ROOT = Path(__file__).resolve().parent.parent.parent
POLICIES = ROOT / "tests" / "data" / "policies"
PLAIN = ["-DPOLICY_KERNEL=POLICY_PLAIN"]
STATES = 256
ROUNDS = 40
# Calls of policy_step in a row, each timed: nothing of Python is in them.
C_LOOP = """
#include <time.h>
void policy_step(const float *obs, float *action);
void time_calls(const float *obs, float *action, long n, long width, double *seconds);
void time_calls(const float *obs, float *action, long n, long width, double *seconds)
{
    for (long i = 0; i < n; i++) {
        struct timespec a, b;
        clock_gettime(CLOCK_MONOTONIC, &a);
        policy_step(obs + i * width, action);
        clock_gettime(CLOCK_MONOTONIC, &b);
        seconds[i] = (double)(b.tv_sec - a.tv_sec) + 1e-9 * (double)(b.tv_nsec - a.tv_nsec);
    }
}
"""
Seconds = NDArray[np.float64]
Timer = Callable[[FloatArray], Seconds]


def random_humanoid() -> Policy:
    """A network of SAC's shape for 376 observations, with fresh weights."""
    torch.manual_seed(0)
    layers = [nn.Linear(376, 256), nn.ReLU(), nn.Linear(256, 256), nn.ReLU(), nn.Linear(256, 17), nn.Tanh()]
    spec = EnvSpec("Humanoid-v4", 376, 17, (-0.4,) * 17, (0.4,) * 17)
    return Policy(spec, [*layers, Rescale(torch.zeros(17), torch.full((17,), 0.4))])


def states_of(folder: Path) -> FloatArray:
    """States around those in a contract, which the policy visited."""
    golden = np.array(json.loads((folder / "policy.json").read_text())["golden"]["observations"], np.float32)
    generator = np.random.default_rng(0)
    noise = 0.1 * golden.std(0) * generator.normal(size=(STATES, golden.shape[1]))
    states: FloatArray = (golden[generator.integers(0, len(golden), STATES)] + noise).astype(np.float32)
    return states


def python_timer(act: Callable[[FloatArray], Any]) -> Timer:
    """Seconds of each call from Python."""

    def timed(obs: FloatArray) -> Seconds:
        seconds = np.empty(len(obs))
        for i, row in enumerate(obs):
            start = time.perf_counter_ns()
            act(row)
            seconds[i] = 1e-9 * (time.perf_counter_ns() - start)
        return seconds

    return timed


def c_timer(sources: list[Path], folder: Path, flags: list[str], act_dim: int) -> Timer:
    """Seconds of each call from C."""
    (folder / "loop.c").write_text("#define _POSIX_C_SOURCE 199309L\n" + C_LOOP)
    library = folder / f"loop-{len(list(folder.iterdir()))}.so"
    compile_c(require_compiler(), [*flags, "-shared", "-fPIC", "-o", library, folder / "loop.c", *sources, "-lm"])
    time_calls = ctypes.CDLL(str(library)).time_calls
    action = np.zeros(act_dim, np.float32)

    def timed(obs: FloatArray) -> Seconds:
        seconds = np.empty(len(obs))
        buffers = [ctypes.c_void_p(array.ctypes.data) for array in (obs, action, seconds)]
        time_calls(*buffers[:2], ctypes.c_long(len(obs)), ctypes.c_long(obs.shape[1]), buffers[2])
        return seconds

    return timed


def binding(model: Path) -> Callable[[FloatArray], Any]:
    """ONNX Runtime with arrays bound beforehand."""
    session = OnnxPolicy(model).session
    shapes = {INPUT: session.get_inputs()[0].shape[1], OUTPUT: session.get_outputs()[0].shape[1]}
    obs, action = (np.zeros((1, shapes[name]), np.float32) for name in (INPUT, OUTPUT))
    bound = session.io_binding()
    bound.bind_input(INPUT, "cpu", 0, np.float32, obs.shape, obs.ctypes.data)
    bound.bind_output(OUTPUT, "cpu", 0, np.float32, action.shape, action.ctypes.data)

    def act(row: FloatArray) -> FloatArray:
        obs[0] = row
        session.run_with_iobinding(bound)
        return action

    return act


def openvino(model: Path) -> Callable[[FloatArray], Any]:
    """OpenVINO on one thread, batch 1, arrays bound beforehand."""
    import openvino as ov

    core = ov.Core()
    network = core.read_model(model)
    obs = np.zeros((1, network.input(0).partial_shape[1].get_length()), np.float32)
    network.reshape(obs.shape)
    compiled = core.compile_model(network, "CPU", {"INFERENCE_NUM_THREADS": 1, "NUM_STREAMS": 1})
    request = compiled.create_infer_request()
    request.set_input_tensor(ov.Tensor(obs, shared_memory=True))
    action = request.get_output_tensor(0).data

    def act(row: FloatArray) -> FloatArray:
        obs[0] = row
        # The method of the class below: the one above copies inputs and outputs, and took three times as long.
        super(type(request), request).infer({}, share_outputs=True, decode_strings=False)
        return action  # type: ignore[no-any-return]

    return act


def candidates(artifact: Path, folder: Path, act_dim: int) -> dict[str, Timer]:
    """All ways to run an artifact, by name."""
    for name, options in {"auto": Options(), "skip": Options(skip_zeros=True)}.items():
        export_native(artifact, folder / name, options)
    source = [folder / "auto" / "policy.c"]
    model = artifact / ONNX_FILE
    ways = {
        "onnxruntime run": python_timer(OnnxPolicy(model)),
        "onnxruntime binding": python_timer(binding(model)),
        "native, python": python_timer(load(folder / "auto").act),
        "native, ctypes": python_timer(load(folder / "auto", binding="ctypes").act),
        "native, c": c_timer(source, folder, list(FAST), act_dim),
        "native, c, plain": c_timer(source, folder, [*FAST, *PLAIN], act_dim),
        "native, c, zeros skipped": c_timer([folder / "skip" / "policy.c"], folder, list(FAST), act_dim),
    }
    if importlib.util.find_spec("openvino"):
        ways["openvino"] = python_timer(openvino(model))
    return ways


def interleaved_medians(ways: dict[str, Timer], obs: FloatArray) -> dict[str, float]:
    """Median seconds of a call, over rounds in which every way has its turn."""
    seconds: dict[str, list[Seconds]] = {name: [] for name in ways}
    for _ in range(ROUNDS):
        for name, timed in ways.items():
            seconds[name].append(timed(obs))
    return {name: float(np.median(np.concatenate(parts[1:]))) for name, parts in seconds.items()}


def measure(name: str, policy: Policy, model: bytes, obs: FloatArray) -> list[dict[str, Any]]:
    """One row per way to run a policy."""
    with tempfile.TemporaryDirectory() as home:
        artifact, folder = Path(home) / "artifact", Path(home) / "c"
        folder.mkdir()
        save_artifact(artifact, policy, model, obs, algorithm="benchmark", compression={"method": name})
        medians = interleaved_medians(candidates(artifact, folder, policy.spec.act_dim), obs)
        reference = medians["onnxruntime run"]
        rows: list[dict[str, Any]] = []
        for way, seconds in medians.items():
            rows.append({"policy": name, "way": way, "us": round(1e6 * seconds, 3), "ratio": reference / seconds})
        for options in ("auto", "skip"):
            rows.append({"policy": name, "way": f"cortex-m4, {options}", **cortex_m_row(folder / options, obs)})
            rows.append({"policy": name, "way": f"aarch64, {options}", **aarch64_row(folder / options, obs)})
    return rows


def cortex_m_row(folder: Path, obs: FloatArray) -> dict[str, Any]:
    """Bytes at -Os and instructions at -O2 on a Cortex-M4."""
    if not has_tools(*CORTEX_M_TOOLS):
        return {}
    sizes = measure_sizes(folder, ["arm-none-eabi-gcc"], ["-std=c99", "-Os", *CORTEX_M])
    row: dict[str, Any] = {} if sizes is None else dict(vars(sizes))
    row["instructions"] = cortex_m_instructions(folder, obs, ["-O2"])
    row["instructions_plain"] = cortex_m_instructions(folder, obs, ["-O2", *PLAIN])
    return row


def aarch64_row(folder: Path, obs: FloatArray) -> dict[str, Any]:
    """Instructions at -O3 on aarch64 with dot products and, in plain C, without."""
    if not has_tools(*AARCH64_TOOLS):
        return {}
    return {
        "instructions": aarch64_instructions(folder, obs, ["-O3", AARCH64["neon dotprod"]]),
        "instructions_plain": aarch64_instructions(folder, obs, ["-O3", AARCH64["plain"], *PLAIN]),
    }


def policies() -> dict[str, tuple[Policy, FloatArray]]:
    """Policies by name, with states."""
    humanoid = random_humanoid()
    noise = np.random.default_rng(0).normal(size=(STATES, 376)).astype(np.float32)
    found = {"376-256-256 relu": (humanoid, noise)}
    for folder, name in (("sac-halfcheetah", "17-256-256 relu"), ("trpo-halfcheetah", "17-64-64 tanh")):
        found[name] = (load_policy(POLICIES / folder), states_of(POLICIES / folder))
    return found


def main() -> None:
    """Write one row per policy and way, and print them."""
    out = begin(__doc__)
    rows: list[dict[str, Any]] = []
    for name, (policy, obs) in policies().items():
        variants: dict[str, tuple[Policy, bytes]] = {"fp32": (policy, onnx_bytes(policy))}
        for label, source in (("int8", policy), ("50 % pruned int8", pruned(policy))):
            variants[label] = quantize_static_policy(
                source, obs, calibration="minmax", percentile=99.9, reduce_range=False
            )
        for label, (compressed, model) in variants.items():
            new = measure(f"{name} {label}", compressed, model, obs)
            rows += new
            for row in new:
                print(*(f"{key}={value:.3g}" if isinstance(value, float) else value for key, value in row.items()))
    write_rows(out, [{"cpu": cpu_name(), **row} for row in rows])


def begin(description: str | None) -> Path:
    """One pinned thread, and the machine said; returns where --out says that rows go."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--out", type=Path, required=True)
    out: Path = parser.parse_args().out
    os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
    torch.set_num_threads(1)
    print(cpu_name(), platform.platform(), flush=True)
    return out


def write_rows(path: Path, rows: Sequence[dict[str, Any]]) -> None:
    """Rows as CSV, with the columns of all of them."""
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, list(dict.fromkeys(key for row in rows for key in row)), restval="")
        writer.writeheader()
        writer.writerows(rows)


def cpu_name() -> str:
    """The processor's model name."""
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    return next((line.partition(": ")[2] for line in lines if line.startswith("model name")), platform.machine())


if __name__ == "__main__":
    main()
