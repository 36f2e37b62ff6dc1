"""What a measurement was taken on, and how quiet it was."""

import os
import platform
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psutil
import torch

# That matter for int8 and float32 products.
INSTRUCTION_SETS = ("avx2", "fma", "avx512f", "avx512_vnni", "avx_vnni", "amx_int8", "asimd", "asimddp", "i8mm")
GOVERNOR = Path("/sys/devices/system/cpu/cpu0/cpufreq/scaling_governor")
BUSY_PERCENT = 10.0


def machine() -> dict[str, Any]:
    """Processor, memory, frequency governor and threads; null where the system does not say."""
    fields = _cpuinfo()
    flags = (fields.get("flags") or fields.get("Features") or "").split()
    try:
        governor = GOVERNOR.read_text().strip()
    except OSError:
        governor = None
    return {
        "cpu_model": fields.get("model name") or platform.processor() or None,
        "instruction_sets": [name for name in INSTRUCTION_SETS if name in flags],
        "cores": os.cpu_count(),
        "memory_bytes": psutil.virtual_memory().total,
        "frequency_governor": governor,
        "operating_system": platform.platform(),
        "threads": torch.get_num_threads(),
    }


def load(seconds: float = 1.0) -> dict[str, float]:
    """How busy the processor is with other work: percent of all cores over some seconds, and the load average."""
    return {"busy_percent": psutil.cpu_percent(seconds), "load_average_1min": os.getloadavg()[0]}


@contextmanager
def one_pinned_thread() -> Iterator[int | None]:
    """Hold this process to one torch thread on one core; yields the core, None where it cannot be chosen."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    allowed = os.sched_getaffinity(0) if hasattr(os, "sched_setaffinity") else set()
    core = max(allowed, default=None)
    try:
        if core is not None:
            os.sched_setaffinity(0, {core})
        yield core
    finally:
        if core is not None:
            os.sched_setaffinity(0, allowed)
        torch.set_num_threads(threads)


def _cpuinfo() -> dict[str, str]:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return {}
    pairs = (line.partition(":") for line in lines)
    return {key.strip(): value.strip() for key, _, value in pairs}
