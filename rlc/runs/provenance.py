"""What made a result: code, versions, machine."""

import os
import platform
import subprocess
from importlib.metadata import version
from pathlib import Path

import torch

from measure.machine import machine
from rlc.runs.records import Provenance

PACKAGES = ("torch", "gymnasium", "mujoco", "numpy", "onnx", "onnxruntime", "hydra-core")


def provenance() -> Provenance:
    """What makes the results of this process."""
    changes = _git("status", "--porcelain")
    return Provenance(
        git_commit=_git("rev-parse", "HEAD"),
        git_dirty=None if changes is None else bool(changes),
        versions={"python": platform.python_version()} | {name: version(name) for name in PACKAGES},
        cpu=machine()["cpu_model"] or platform.machine(),
        gpus=[torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())],
        cores=os.cpu_count(),
    )


def _git(*arguments: str) -> str | None:
    """Output of git in the source checkout, None where this file is in none, as in an environment inside another."""
    here = Path(__file__).resolve()
    command = ["git", "-C", str(here.parent), *arguments]
    try:
        subprocess.run([*command[:3], "ls-files", "--error-unmatch", here.name], capture_output=True, check=True)
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return None
