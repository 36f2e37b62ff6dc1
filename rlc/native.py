"""Policies that `rlc.export target=c` wrote, for programs in Python: load(folder).act(obs)."""

from compression.native.loader import NativePolicy, load

__all__ = ["NativePolicy", "load"]
