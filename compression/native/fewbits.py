"""Weights of fewer than eight bits in the order in which `templates/dense_bits.h` unpacks them."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from compression.native.layouts import zero_padded

HALF_WORD = 16


@dataclass(frozen=True)
class Group:
    """Neighbouring inputs of a row whose codes fill some 32-bit words."""

    inputs: int
    words: int


GROUPS = {2: Group(16, 1), 3: Group(32, 3), 4: Group(8, 1), 6: Group(16, 3)}


def few_bit_rows(weight: NDArray[np.int8], bits: int) -> NDArray[np.uint32]:
    """[out, in] -> flat [out][words], in padded to a group's inputs with weights of 0.

    A word has a low and a high half, each with 16 // bits fields, which hold the codes of a pair of inputs. What is
    left over of the halves holds the last pairs of a group, in parts.
    """
    group = GROUPS[bits]
    whole = zero_padded(weight, 1, group.inputs).astype(np.int64) + (1 << (bits - 1))
    pairs = _pairs(whole.reshape(len(whole), -1, group.inputs))
    fields = HALF_WORD // bits
    halves = np.zeros((*pairs.shape[:2], group.words, 2), np.int64)
    for pair in range(group.words * fields):
        halves[:, :, pair // fields] |= pairs[:, :, pair] << bits * (pair % fields)
    if bits == 3:
        for word in range(3):
            halves[:, :, word] |= (pairs[:, :, 15] >> word & 1) << 15
    elif bits == 6:
        halves[:, :, 0] |= (pairs[:, :, 6] & 15) << 12
        halves[:, :, 2] |= (pairs[:, :, 7] & 15) << 12
        halves[:, :, 1] |= (pairs[:, :, 6] >> 4) << 12 | (pairs[:, :, 7] >> 4) << 14
    words: NDArray[np.uint32] = (halves[..., 0] | halves[..., 1] << HALF_WORD).astype(np.uint32)
    return words.reshape(-1)


def _pairs(groups: NDArray[np.int64]) -> NDArray[np.int64]:
    """[out, groups, inputs] -> [out, groups, pairs, 2]: inputs 0 and 2, 1 and 3, 4 and 6, 5 and 7, and so on."""
    outputs, count, inputs = groups.shape
    fours = groups.reshape(outputs, count, inputs // 4, 2, 2)
    return fours.swapaxes(-1, -2).reshape(outputs, count, inputs // 2, 2)
