"""Policies of few bits in C: time with a byte for each weight and with packed bits, bytes, instructions.

Run by hand: python -m tests.benchmarks.native_lowbit --out native_lowbit.csv
As native.py, whose way of measuring it takes: all widths of a network are called in turn. Quantised after training;
what the policies return does not matter here.
"""

import tempfile
from pathlib import Path
from typing import Any

from compression.artifact import load_policy, save_artifact
from compression.files import ONNX_FILE
from compression.lowbit import Bits
from compression.native.folder import export_native
from compression.native.generate import Options
from compression.native.toolchain import FAST
from compression.ptsq import quantize_static_policy
from compression.runtime import OnnxPolicy
from tests.benchmarks.native import (
    POLICIES,
    Timer,
    begin,
    c_timer,
    cortex_m_row,
    cpu_name,
    interleaved_medians,
    python_timer,
    states_of,
    write_rows,
)
from tests.compression.native.builds import pruned
from trainers.policy import Policy
from trainers.tensors import FloatArray

WIDTHS = (Bits(8), Bits(6), Bits(4), Bits(3), Bits(2), Bits(4, 4, 8))
NETWORKS = (("sac-halfcheetah", 0.0), ("sac-halfcheetah", 0.5), ("sac-halfcheetah", 0.7), ("trpo-halfcheetah", 0.5))
PLAIN = [*FAST, "-DPOLICY_KERNEL=POLICY_PLAIN"]


def ways_of(artifact: Path, folder: Path, bits: Bits, act_dim: int) -> dict[str, Timer]:
    """The ways to run an artifact on this machine, by name."""
    folder.mkdir()
    export_native(artifact, folder / "auto", Options())
    ways = {
        "onnxruntime run": python_timer(OnnxPolicy(artifact / ONNX_FILE)),
        "c": c_timer([folder / "auto" / "policy.c"], folder, list(FAST), act_dim),
        "c, plain": c_timer([folder / "auto" / "policy.c"], folder, PLAIN, act_dim),
    }
    if bits.weight < 8:
        packed = [*FAST, "-DPOLICY_WEIGHTS=POLICY_WEIGHTS_BITS"]
        ways["c, packed bits"] = c_timer([folder / "auto" / "policy.c"], folder, packed, act_dim)
    return ways


def measure(policy: Policy, obs: FloatArray, home: Path) -> list[dict[str, Any]]:
    """One row for each width."""
    ways: dict[str, Timer] = {}
    rows: list[dict[str, Any]] = []
    for bits in WIDTHS:
        label = f"w{bits.weight}a{bits.activation}"
        quantized, model = quantize_static_policy(
            policy, obs, calibration="minmax", percentile=99.9, reduce_range=False, bits=bits
        )
        artifact = home / f"artifact-{label}"
        save_artifact(artifact, quantized, model, obs, algorithm="benchmark", compression={"method": label})
        timers = ways_of(artifact, home / label, bits, policy.spec.act_dim)
        ways |= {f"{label}: {way}": timer for way, timer in timers.items()}
        rows.append({"bits": label, **cortex_m_row(home / label / "auto", obs)})
    for name, seconds in interleaved_medians(ways, obs).items():
        label, way = name.split(": ")
        row = next(row for row in rows if row["bits"] == label)
        row[f"us, {way}"] = round(1e6 * seconds, 3)
    return rows


def main() -> None:
    """Write one row for each network and width, and print them."""
    out = begin(__doc__)
    rows: list[dict[str, Any]] = []
    for name, ratio in NETWORKS:
        trained = load_policy(POLICIES / name)
        policy = pruned(trained, ratio) if ratio else trained
        with tempfile.TemporaryDirectory() as home:
            for row in measure(policy, states_of(POLICIES / name), Path(home)):
                rows.append({"cpu": cpu_name(), "policy": name, "pruned": ratio, **row})
                print(*(f"{key}={value}" for key, value in rows[-1].items()), flush=True)
    write_rows(out, rows)


if __name__ == "__main__":
    main()
