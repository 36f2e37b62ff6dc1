"""Activations of hidden layers, in torch and for acting in NumPy."""

from collections.abc import Callable

import numpy as np
import torch
from torch import nn

from trainers.tensors import FloatArray, as_numpy

ACTIVATIONS: dict[str, type[nn.Module]] = {
    "relu": nn.ReLU,
    "tanh": nn.Tanh,
    "elu": nn.ELU,
    "silu": nn.SiLU,
    "leaky_relu": nn.LeakyReLU,
    "gelu": nn.GELU,
}
"""Each with the settings torch gives it: slope 0.01 for LeakyReLU, alpha 1 for ELU, the exact GELU."""
LEAKY_SLOPE = 0.01


def _silu(x: FloatArray) -> FloatArray:
    # The logistic function by tanh: exp would overflow.
    half: FloatArray = x * np.float32(0.5)
    result: FloatArray = half * (1 + np.tanh(half))
    return result


def _elu(x: FloatArray) -> FloatArray:
    return np.where(x > 0, x, np.expm1(np.minimum(x, 0)))


def _gelu(x: FloatArray) -> FloatArray:
    # NumPy has no error function.
    return as_numpy(nn.functional.gelu(torch.from_numpy(x)))


NUMPY_ACTIVATIONS: dict[str, Callable[[FloatArray], FloatArray]] = {
    "relu": lambda x: np.maximum(x, 0),
    "tanh": np.tanh,
    "elu": _elu,
    "silu": _silu,
    "leaky_relu": lambda x: np.maximum(x, LEAKY_SLOPE * x),
    "gelu": _gelu,
}


def activation_name(module: nn.Module) -> str | None:
    """The name of an activation with the settings of `ACTIVATIONS`; None for anything else."""
    for name, kind in ACTIVATIONS.items():
        if type(module) is kind and repr(module) == repr(kind()):
            return name
    return None
