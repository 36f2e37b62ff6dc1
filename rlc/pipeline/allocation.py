"""How the memory of a training is allocated."""

import ctypes
import sys

# Parameters of glibc's mallopt.
M_TRIM_THRESHOLD = -1
M_MMAP_THRESHOLD = -3


def tune_malloc() -> None:
    """Let glibc use memory again instead of giving it back: the batches of many seeds would fault it in every time."""
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None) if sys.platform == "linux" else None
    if mallopt is not None:
        mallopt(M_MMAP_THRESHOLD, 32 << 20)  # the largest it takes
        mallopt(M_TRIM_THRESHOLD, 1 << 30)
