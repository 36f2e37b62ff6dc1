"""What made a result: code, versions, machine."""

import os
import platform
import subprocess
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

PACKAGES = ("torch", "gymnasium", "mujoco", "numpy", "onnx", "onnxruntime", "hydra-core")


def provenance() -> dict[str, Any]:
    """What made a result: code, versions, machine."""
    return {
        "git_commit": _git("rev-parse", "HEAD"),
        "git_dirty": None if (changes := _git("status", "--porcelain")) is None else bool(changes),
        "versions": {"python": platform.python_version()} | {name: version(name) for name in PACKAGES},
        "cpu": platform.processor() or platform.machine(),
        "gpus": [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())],
        "cores": os.cpu_count(),
    }


def _git(*arguments: str) -> str | None:
    """Output of git in the source checkout, None where this file is in none, as in an environment inside another."""
    here = Path(__file__).resolve()
    command = ["git", "-C", str(here.parent), *arguments]
    try:
        subprocess.run([*command[:3], "ls-files", "--error-unmatch", here.name], capture_output=True, check=True)
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return None
