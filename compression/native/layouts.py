"""Weights in the order in which the kernels of `templates/` read them."""

from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from trainers.tensors import FloatArray

Number = TypeVar("Number", np.int8, np.float32)
GROUP = 4  # inputs that one integer instruction multiplies
LANES = 16  # outputs in the widest vector
INT8_BLOCK = 128
FLOAT_BLOCK = 64


def padded(length: int, multiple: int) -> int:
    """The next multiple."""
    return -(-length // multiple) * multiple


def zero_padded(weight: NDArray[Number], outputs: int, inputs: int) -> NDArray[Number]:
    """[out, in] with zeros up to multiples of both."""
    more_outputs = padded(len(weight), outputs) - len(weight)
    more_inputs = padded(weight.shape[1], inputs) - weight.shape[1]
    return np.pad(weight, ((0, more_outputs), (0, more_inputs)))


def int8_rows(weight: NDArray[np.int8]) -> NDArray[np.int8]:
    """[out, in] -> flat [out][in], in padded to 4 with zeros."""
    return zero_padded(weight, 1, GROUP).reshape(-1)


def int8_packed(weight: NDArray[np.int8]) -> NDArray[np.int8]:
    """[out, in] -> flat [out / 128][in / 4][128][4], in padded to 4 and out to 16; the last block has what is left."""
    whole = zero_padded(weight, LANES, GROUP)
    outputs, inputs = whole.shape
    blocks = []
    for start in range(0, outputs, INT8_BLOCK):
        block = whole[start : start + INT8_BLOCK]
        grouped = block.reshape(len(block), inputs // GROUP, GROUP)
        blocks.append(grouped.transpose(1, 0, 2).reshape(-1))
    return np.concatenate(blocks)


def float_rows(weight: FloatArray) -> FloatArray:
    """[out, in] -> flat [out][in]."""
    return weight.reshape(-1)


def float_packed(weight: FloatArray) -> FloatArray:
    """[out, in] -> flat [out / 64][in][64], out padded to 16 with zeros; the last block has what is left."""
    whole = zero_padded(weight, LANES, 1)
    blocks = [whole[start : start + FLOAT_BLOCK].T.reshape(-1) for start in range(0, len(whole), FLOAT_BLOCK)]
    return np.concatenate(blocks)
