"""Each kernel against a plain loop, for widths that fill vectors and that do not."""

import ctypes
from pathlib import Path

import numpy as np
import pytest

from compression.native import layouts
from tests.compression.native.builds import KERNELS, dense_library, needs_tools, skip_without

WIDTHS = [(4, 1), (20, 6), (64, 64), (36, 179), (256, 256), (132, 300)]
LAYOUTS = ("POLICY_LAYOUT_ROWS", "POLICY_LAYOUT_PACKED")

pytestmark = needs_tools("gcc")


def defines(layout: str, skip: bool) -> list[str]:
    return [f"-DPOLICY_LAYOUT={layout}", f"-DPOLICY_SKIP_ZEROS={int(skip)}", "-DPOLICY_WIDTH=512"]


def call(library: ctypes.CDLL, x: np.ndarray, w: np.ndarray, bias: np.ndarray, outputs: int) -> np.ndarray:
    """Sums [out]; the buffer behind them is as long as packed kernels write."""
    padded = layouts.padded(outputs, layouts.LANES)
    sums = np.zeros(padded, bias.dtype)
    bias = np.pad(bias, (0, padded - outputs))
    arrays = [ctypes.c_void_p(array.ctypes.data) for array in (x, w, bias, sums)]
    library.dense(*arrays, len(x), outputs)
    return sums[:outputs]


@pytest.mark.parametrize("skip", [False, True], ids=["all", "nonzero"])
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("kernel", KERNELS)
class TestAgainstAPlainLoop:
    def test_integer_sums_are_exact(self, kernel: str, layout: str, skip: bool, tmp_path: Path) -> None:
        flags, features = KERNELS[kernel]
        skip_without(features)
        library = dense_library(tmp_path, "dense_int8.h", defines(layout, skip), flags)
        generator = np.random.default_rng(0)
        for inputs, outputs in WIDTHS:
            x = generator.integers(0, 256, inputs).astype(np.uint8)
            x[generator.random(inputs) < 0.7] = 0
            x[:1] = 255  # with -128 the pair that saturates in 16 bits
            w = generator.integers(-128, 128, (outputs, inputs)).astype(np.int8)
            bias = generator.integers(-(2**30), 2**30, outputs).astype(np.int32)
            expected = bias + w.astype(np.int64) @ x.astype(np.int64)
            packed = layouts.int8_packed(w) if library.is_packed() else layouts.int8_rows(w)
            assert (call(library, x, packed, bias, outputs) == expected).all(), (inputs, outputs)

    def test_float_sums_are_close(self, kernel: str, layout: str, skip: bool, tmp_path: Path) -> None:
        flags, features = KERNELS[kernel]
        skip_without(features)
        library = dense_library(tmp_path, "dense_float.h", defines(layout, skip), flags)
        generator = np.random.default_rng(0)
        for inputs, outputs in [*WIDTHS, (17, 33), (3, 16)]:
            x = generator.normal(size=inputs).astype(np.float32)
            x[generator.random(inputs) < 0.7] = 0
            w = generator.normal(size=(outputs, inputs)).astype(np.float32)
            bias = generator.normal(size=outputs).astype(np.float32)
            packed = layouts.float_packed(w) if library.is_packed() else layouts.float_rows(w)
            sums = call(library, x, packed, bias, outputs)
            np.testing.assert_allclose(sums, bias + w.astype(float) @ x, rtol=1e-4, atol=1e-4)


class TestLayouts:
    def test_packed_integers_lie_by_block_group_output(self) -> None:
        w = np.arange(200 * 10, dtype=np.int64).reshape(200, 10).astype(np.int8)
        packed = layouts.int8_packed(w)
        assert packed.shape == (208 * 12,)
        first = packed[: 128 * 12].reshape(3, 128, 4)
        last = packed[128 * 12 :].reshape(3, 80, 4)
        for output, number in ((0, 0), (127, 9), (128, 5), (199, 8)):
            block, row = (first, output) if output < 128 else (last, output - 128)
            assert block[number // 4, row, number % 4] == w[output, number]
        assert not last[:, 72:].any()

    def test_packed_floats_lie_by_block_input(self) -> None:
        w = np.arange(70 * 3, dtype=np.float32).reshape(70, 3)
        packed = layouts.float_packed(w)
        assert (w[:64] == packed[: 64 * 3].reshape(3, 64).T).all()
        assert (w[64:] == packed[64 * 3 :].reshape(3, 16)[:, :6].T).all()

    def test_rows_are_padded_to_groups(self) -> None:
        w = np.ones((3, 5), np.int8)
        assert layouts.int8_rows(w).reshape(3, 8).sum(1).tolist() == [5, 5, 5]
