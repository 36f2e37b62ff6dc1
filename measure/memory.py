"""Memory of a deployed policy, each figure in fresh processes that hold nothing else."""

import json
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

COPIES = 60
# numpy and onnxruntime, and nothing else of this project or of torch.
PROBE = """
import json, pathlib, resource, sys
import numpy, onnxruntime, psutil
path, copies = sys.argv[1], int(sys.argv[2])
options = onnxruntime.SessionOptions()
options.intra_op_num_threads = options.inter_op_num_threads = 1
process, sessions = psutil.Process(), []
held = [process.memory_full_info().uss]
for _ in range(copies):
    session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    width = session.get_inputs()[0].shape[1]
    session.run(None, {"observation": numpy.zeros((1, width), "float32")})
    sessions.append(session)
    held.append(process.memory_full_info().uss)
status = pathlib.Path("/proc/self/status")
if status.exists():
    # Not ru_maxrss: on Linux that of a child begins with its parent's.
    (line,) = (line for line in status.read_text().splitlines() if line.startswith("VmHWM"))
    peak = 1024 * int(line.split()[1])
else:
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
print(json.dumps({"uss": held, "peak": peak, "rss": process.memory_info().rss}))
"""


@dataclass(frozen=True)
class Memory:
    """Bytes."""

    bytes_per_copy: float
    """Unique set size that one more loaded and used copy adds: the slope over many."""
    first_copy_bytes: int
    """Unique set size that the first adds, with the kernels of the runtime it is first to need."""
    peak_process_bytes: int
    """Largest resident size of a process that only loads and runs one copy, interpreter and runtime included."""


def measure_memory(model: Path, copies: int = COPIES) -> Memory:
    """Memory of an ONNX policy. Raises RuntimeError where the process that loads it fails."""
    many = _probe(model, copies)
    one = _probe(model, 1)
    uss = np.array(many["uss"], np.float64)
    slope = float(np.polyfit(np.arange(1, len(uss)), uss[1:], 1)[0])
    return Memory(slope, one["uss"][1] - one["uss"][0], one["peak"])


def stderr_tail(done: "subprocess.CompletedProcess[str]") -> str:
    """Why a process failed: the last line of its errors, or its exit code where a signal left it no time."""
    return (done.stderr.splitlines() or [f"exit code {done.returncode}"])[-1]


def _probe(model: Path, copies: int) -> dict[str, Any]:
    command = [sys.executable, "-c", PROBE, str(model), str(copies)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"{model} cannot be loaded in a process of its own: {stderr_tail(done)}")
    result: dict[str, Any] = json.loads(done.stdout)
    return result
