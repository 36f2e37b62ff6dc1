"""The policy of this folder in Python: compiles policy.c and calls it. Needs NumPy and a C compiler, nothing else."""

import atexit
import ctypes
import json
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np

FOLDER = Path(__file__).resolve().parent


class Policy:
    """`act(obs)`: raw observation [obs_dim] -> action [act_dim] in environment units, both float32.

    The array that `act` returns is the policy's own: the next call overwrites it.
    """

    def __init__(self, folder: Path = FOLDER) -> None:
        self.contract = json.loads((folder / "policy.json").read_text())
        environment = self.contract["environment"]
        self.obs = np.zeros(environment["observation"]["shape"], np.float32)
        self.action = np.zeros(environment["action"]["shape"], np.float32)
        self._step = ctypes.CDLL(str(compiled(folder))).policy_step
        self._step.restype = None
        self._obs_pointer = ctypes.c_void_p(self.obs.ctypes.data)
        self._action_pointer = ctypes.c_void_p(self.action.ctypes.data)

    def act(self, obs: np.ndarray) -> np.ndarray:
        self.obs[:] = obs
        self._step(self._obs_pointer, self._action_pointer)
        return self.action


def compiled(folder: Path) -> Path:
    """policy.c as a shared library, in a folder that is removed when the program ends."""
    compiler = os.environ.get("CC") or next((name for name in ("cc", "gcc", "clang") if shutil.which(name)), None)
    if compiler is None:
        raise RuntimeError("no C compiler: install gcc or clang, or name one in the environment variable CC")
    build = Path(tempfile.mkdtemp(prefix="policy-"))
    atexit.register(shutil.rmtree, build, ignore_errors=True)
    library = build / "policy.so"
    command = [*compiler.split(), "-std=c99", "-O3", "-march=native", "-shared", "-fPIC", "-o", str(library)]
    subprocess.run([*command, str(folder / "policy.c"), "-lm"], check=True)
    return library


def largest_difference(policy: Policy) -> float:
    """To the golden actions, in half ranges of the action."""
    action = policy.contract["environment"]["action"]
    half_range = (np.array(action["high"]) - np.array(action["low"])) / 2
    golden = policy.contract["golden"]
    pairs = zip(golden["observations"], golden["actions"], strict=True)
    differences = [np.abs(policy.act(np.array(obs)) - expected) / half_range for obs, expected in pairs]
    return float(np.max(differences))


if __name__ == "__main__":
    policy = Policy()
    difference = largest_difference(policy)
    tolerance = policy.contract["golden"]["tolerance"]
    print(f"largest difference to the golden actions: {difference:.2g} half ranges, tolerance {tolerance}")
    sys.exit(difference > tolerance)
