"""Weights and activations of fewer than eight bits in C: packing, kernels, exactness, what is refused."""

import ctypes
import json
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from compression.artifact import load_policy
from compression.lowbit import Bits
from compression.native.fewbits import GROUPS, few_bit_rows
from compression.native.folder import export_native
from compression.native.generate import Options
from compression.native.layouts import padded
from compression.runtime import OnnxPolicy
from tests.compression.native.builds import (
    FEW_BITS,
    KERNELS,
    WARNINGS,
    compiled,
    dense_library,
    exported,
    few_bit_artifact,
    has_tools,
    needs_tools,
    observations,
    skip_without,
    small_artifact,
)
from trainers.errors import UserError
from trainers.tensors import FloatArray

pytestmark = needs_tools("gcc")
WIDTHS = [(4, 1), (20, 6), (64, 64), (37, 179), (256, 256), (132, 300)]
PACKED = pytest.mark.parametrize("bits", sorted(GROUPS))


def name_of(bits: Bits) -> str:
    return f"w{bits.weight}a{bits.activation}i{bits.input}"


def actions_of(artifact: Path, n: int) -> tuple[FloatArray, FloatArray]:
    """Observations, and what ONNX Runtime answers."""
    obs = observations(load_policy(artifact), n)
    runner = OnnxPolicy(artifact / "policy.onnx")
    return obs, np.stack([runner(row) for row in obs])


class TestPacking:
    @PACKED
    def test_a_word_has_no_gaps_but_the_padding(self, bits: int) -> None:
        assert 32 * GROUPS[bits].words == bits * GROUPS[bits].inputs
        assert len(few_bit_rows(np.zeros((5, 33), np.int8), bits)) == 5 * padded(33, GROUPS[bits].inputs) * bits // 32

    def test_four_bits_lie_in_the_order_of_the_masks(self) -> None:
        word = few_bit_rows(np.arange(-8, 0, dtype=np.int8).reshape(1, 8), 4)
        # Codes 0 to 7; from the low end of each half: inputs 0, 1, 4, 5 and 2, 3, 6, 7.
        assert [f"{value:08x}" for value in word] == ["76325410"]

    def test_three_bits_leave_a_bit_of_each_word_for_the_last_pair(self) -> None:
        weight = np.full((1, 32), -4, np.int8)
        weight[0, 31] = 3  # code 7, the high half of pair 15
        assert few_bit_rows(weight, 3).tolist() == [1 << 31] * 3

    def test_six_bits_split_the_last_two_pairs(self) -> None:
        weight = np.full((1, 16), -32, np.int8)
        weight[0, 12] = 0b110101 - 32  # the low half of pair 6: 0101 in word 0, 11 in word 1
        weight[0, 15] = 0b011001 - 32  # the high half of pair 7: 1001 in word 2, 01 in word 1
        assert few_bit_rows(weight, 6).tolist() == [0b0101 << 12, 0b11 << 12 | 0b01 << 30, 0b1001 << 28]


@PACKED
@pytest.mark.parametrize("flags", [["-O3", "-march=native"], ["-Os"]], ids=["-O3", "-Os"])
def test_sums_are_those_of_a_plain_loop(bits: int, flags: list[str], tmp_path: Path) -> None:
    defines = [f"-DPOLICY_WEIGHT_BITS={bits}", "-DPOLICY_WEIGHTS=POLICY_WEIGHTS_BITS", "-DPOLICY_BIAS=int32_t"]
    defines += ["-DPOLICY_LAYOUT=POLICY_LAYOUT_AUTO", "-DPOLICY_SKIP_ZEROS=0", "-DPOLICY_WIDTH=512"]
    library = dense_library(tmp_path, "dense_bits.h", defines, [*flags, *WARNINGS])
    generator = np.random.default_rng(0)
    for inputs, outputs in WIDTHS:
        x = generator.integers(0, 256, inputs).astype(np.uint8)
        x[:1] = 255
        w = generator.integers(-(1 << (bits - 1)), 1 << (bits - 1), (outputs, inputs)).astype(np.int8)
        bias = generator.integers(-(2**30), 2**30, outputs).astype(np.int32)
        sums = np.zeros(outputs, np.int32)
        x = np.pad(x, (0, padded(inputs, GROUPS[bits].inputs) - inputs))
        packed = few_bit_rows(w, bits)
        arrays = [ctypes.c_void_p(array.ctypes.data) for array in (x, packed, bias, sums)]
        library.dense(*arrays, len(x), outputs)
        assert (sums == bias + w.astype(np.int64) @ x[:inputs].astype(np.int64)).all(), (inputs, outputs)


class TestAPolicyOfFewBits:
    @pytest.mark.parametrize("bits", FEW_BITS, ids=name_of)
    def test_bytes_and_packed_bits_give_the_bits_of_onnx_runtime(self, bits: Bits, tmp_path: Path) -> None:
        style = "tanh" if bits.activation == bits.input else "relu"
        artifact = few_bit_artifact(tmp_path / "artifact", bits, style)
        obs, expected = actions_of(artifact, 1000)
        folder = exported(artifact, tmp_path / "c")
        packed = [] if bits.weight == 8 else [["-Os", "-mfma", "-DPOLICY_WEIGHTS=POLICY_WEIGHTS_BITS"]]
        for number, flags in enumerate([["-O3", "-march=native"], *packed]):
            assert (compiled(folder, tmp_path / f"{number}.so", flags)(obs) == expected).all()
        with torch.no_grad():
            twin = load_policy(artifact)(torch.from_numpy(obs)).numpy()
        # The torch twin's tanh has other last bits: behind the last layer in one style, between layers in the other.
        assert (np.abs(twin - expected).max(1) <= 5e-7).mean() >= 0.99

    @pytest.mark.parametrize("kernel", KERNELS)
    def test_every_kernel_gives_the_same_bits(self, kernel: str, tmp_path: Path) -> None:
        flags, features = KERNELS[kernel]
        skip_without(features)
        artifact = few_bit_artifact(tmp_path / "artifact", Bits(4, 4, 8), "relu")
        obs, expected = actions_of(artifact, 1000)
        folder = exported(artifact, tmp_path / "c")
        assert (compiled(folder, tmp_path / "policy.so", flags)(obs) == expected).all()

    @pytest.mark.parametrize("weights", ["auto", "bytes", "bits"])
    def test_each_option_passes_its_self_test_and_says_what_it_took(self, weights: Any, tmp_path: Path) -> None:
        artifact = few_bit_artifact(tmp_path / "artifact", Bits(3, 8, 8), "relu")
        outcome = export_native(artifact, tmp_path / "c", Options(weights=weights))
        assert "16 of 16 actions identical" in outcome.test
        assert ("packed bits in rows" in outcome.test) == (weights == "bits")
        assert json.loads((tmp_path / "c/policy.json").read_text())["native"]["weights"] == weights
        assert "3-bit weights" in (tmp_path / "c/README.md").read_text()
        assert ("POLICY_WEIGHT_BITS 3" in (tmp_path / "c/policy.c").read_text()) == (weights != "bytes")

    def test_zeros_may_be_skipped_with_a_byte_for_each_weight(self, tmp_path: Path) -> None:
        artifact = few_bit_artifact(tmp_path / "artifact", Bits(4, 4, 8), "relu")
        obs, expected = actions_of(artifact, 1000)
        folder = exported(artifact, tmp_path / "c", skip_zeros=True)
        assert (compiled(folder, tmp_path / "policy.so", ["-O2"])(obs) == expected).all()

    @PACKED
    @pytest.mark.slow
    @pytest.mark.parametrize("compiler", ["gcc", "clang"])
    def test_sanitizers_and_warnings_find_nothing(self, compiler: str, bits: int, tmp_path: Path) -> None:
        if not has_tools(compiler):
            pytest.skip(f"missing: {compiler}")
        artifact = few_bit_artifact(tmp_path / "artifact", Bits(bits, bits, 8), "relu")
        folder = exported(artifact, tmp_path / "c", weights="bits")
        checked = ["-O1", "-g", "-fsanitize=address,undefined", "-fno-sanitize-recover=all", "-march=native"]
        for flags in (["-O3", "-march=native"], ["-Os"], checked):
            command = [compiler, "-std=c99", *WARNINGS, *flags, "-o", str(tmp_path / "test")]
            subprocess.run([*command, str(folder / "policy_test.c"), "-lm"], check=True)
            subprocess.run([str(tmp_path / "test")], check=True, capture_output=True)


@pytest.mark.parametrize(
    ("options", "line"),
    [
        (Options(weights="bits", skip_zeros=True), "packed bits skip no zeros; allowed: skip_zeros=false"),
        (Options(weights="bits", layout="packed"), "packed bits lie in rows; allowed: layout=auto, layout=rows"),
        (Options(weights="bits"), "no weights of fewer than eight bits; allowed: auto, bytes"),
    ],
    ids=["skip_zeros", "layout", "eight bits"],
)
def test_what_does_not_fit_is_one_line(options: Options, line: str, tmp_path: Path) -> None:
    artifact = small_artifact(tmp_path / "artifact", "ptsq", "relu")
    with pytest.raises(UserError, match=line):
        export_native(artifact, tmp_path / "c", options)
    assert not (tmp_path / "c").exists()
