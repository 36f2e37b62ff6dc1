"""Trained policies, all kernels, other processors, and a million observations: slow."""

import subprocess
from pathlib import Path

import numpy as np
import pytest

from compression.lowbit import Bits
from compression.runtime import OnnxPolicy
from tests.compression.native.builds import (
    KERNELS,
    compiled,
    exported,
    golden_observations,
    has_tools,
    needs_tools,
    quantized_fixture,
    skip_without,
    small_artifact,
)
from tests.helpers import POLICIES

pytestmark = [pytest.mark.slow, needs_tools("gcc")]
FIXTURES = sorted(path.name for path in POLICIES.iterdir() if path.is_dir())
HERE = Path(__file__).parent
FEW_BITS = [Bits(6), Bits(4), Bits(3), Bits(2), Bits(4, 4, 6), Bits(2, 2, 8)]
AARCH64 = "aarch64-linux-gnu-gcc"
AARCH64_FLAGS = {"neon dotprod": "-march=armv8.2-a+dotprod", "plain": "-march=armv8-a"}
CORTEX_M = ["-mthumb", "-mcpu=cortex-m4", "-mfpu=fpv4-sp-d16", "-mfloat-abi=hard"]
FUZZ = """
#include "policy.c"
#include <stdio.h>
#include <stdlib.h>
/* Observations of any bits, of usual numbers, and of both; exit status 1 where an action leaves its bounds. */
static uint32_t state = 12345u;
static uint32_t draw(void) { state ^= state << 13; state ^= state >> 17; state ^= state << 5; return state; }
int main(void)
{
    static const float low[] = {LOW}, high[] = {HIGH};
    for (long n = 0; n < 1000000; n++) {
        float obs[POLICY_OBS_DIM], action[POLICY_ACT_DIM];
        for (int i = 0; i < POLICY_OBS_DIM; i++) {
            const uint32_t bits = draw();
            obs[i] = (float)(draw() % 2001u) * 0.005f - 5.0f;
            if (n % 3 == 0 || (n % 3 == 1 && draw() % 8u == 0))
                memcpy(&obs[i], &bits, sizeof bits);
        }
        policy_step(obs, action);
        for (int i = 0; i < POLICY_ACT_DIM; i++)
            if (!(action[i] >= low[i] - 1e-6f && action[i] <= high[i] + 1e-6f))
                return printf("%ld\\n", n), 1;
    }
    return 0;
}
"""


@pytest.fixture(scope="module", params=FIXTURES)
def fixture(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[str, Path]:
    """Name and artifact of a trained policy after static quantisation."""
    return request.param, quantized_fixture(tmp_path_factory.mktemp("fixture") / "artifact", request.param)


def test_ten_thousand_states_give_the_same_bits(fixture: tuple[str, Path], tmp_path: Path) -> None:
    name, artifact = fixture
    obs = golden_observations(name, 10_000)
    runner = OnnxPolicy(artifact / "policy.onnx")
    expected = np.stack([runner(row) for row in obs])
    for options in ({}, {"skip_zeros": True}):
        folder = exported(artifact, tmp_path / f"c{len(options)}", **options)
        for kernel, (flags, features) in KERNELS.items():
            skip_without(features)
            actions = compiled(folder, folder / f"{kernel}.so", flags)(obs)
            assert (actions == expected).all(), (name, kernel, options)


def test_float_policies_stay_within_tolerance(tmp_path: Path) -> None:
    for name in FIXTURES:
        folder = exported(POLICIES / name, tmp_path / name)
        obs = golden_observations(name, 10_000)
        runner = OnnxPolicy(POLICIES / name / "policy.onnx")
        expected = np.stack([runner(row) for row in obs])
        actions = compiled(folder, folder / "policy.so", ["-O3", "-march=native"])(obs)
        assert np.abs(actions - expected).max() <= 1e-4, name  # their half range is 1


@needs_tools(AARCH64, "qemu-aarch64")
@pytest.mark.parametrize("target", AARCH64_FLAGS)
def test_aarch64_passes_the_self_test(target: str, fixture: tuple[str, Path], tmp_path: Path) -> None:
    for options in ({}, {"skip_zeros": True}):
        folder = exported(fixture[1], tmp_path / f"c{len(options)}", **options)
        flags = ["-std=c99", "-O3", "-static", AARCH64_FLAGS[target], "-Wall", "-Wextra", "-Wconversion", "-Werror"]
        program = folder / "policy_test"
        subprocess.run([AARCH64, *flags, "-o", program, folder / "policy_test.c", "-lm"], check=True)
        shown = subprocess.run(["qemu-aarch64", program], capture_output=True, text=True, check=True).stdout
        assert "16 of 16 actions identical" in shown


@needs_tools("arm-none-eabi-gcc", "qemu-system-arm")
@pytest.mark.parametrize("kernel", ["SMLAD", "PLAIN"])
def test_a_cortex_m4_passes_the_self_test(kernel: str, fixture: tuple[str, Path], tmp_path: Path) -> None:
    for options in ({}, {"skip_zeros": True}):
        folder = exported(fixture[1], tmp_path / f"c{len(options)}", **options)
        assert "16 of 16 actions identical" in on_cortex_m4(folder, kernel, "-Os")


@pytest.mark.parametrize("name", ["sac-halfcheetah", "trpo-halfcheetah"])
@pytest.mark.parametrize("bits", FEW_BITS, ids=str)
class TestPoliciesOfFewBits:
    def test_ten_thousand_states_give_the_same_bits(self, bits: Bits, name: str, tmp_path: Path) -> None:
        artifact = quantized_fixture(tmp_path / "artifact", name, bits)
        obs = golden_observations(name, 10_000)
        runner = OnnxPolicy(artifact / "policy.onnx")
        expected = np.stack([runner(row) for row in obs])
        for weights in ("bytes", "bits"):
            folder = exported(artifact, tmp_path / weights, weights=weights)
            actions = compiled(folder, folder / "policy.so", ["-O3", "-march=native"])(obs)
            assert (actions == expected).all(), weights

    @needs_tools("arm-none-eabi-gcc", "qemu-system-arm")
    def test_a_cortex_m4_passes_the_self_test(self, bits: Bits, name: str, tmp_path: Path) -> None:
        folder = exported(quantized_fixture(tmp_path / "artifact", name, bits), tmp_path / "c")
        for kernel, size in (("SMLAD", "-O2"), ("SMLAD", "-Os"), ("PLAIN", "-Os")):
            shown = on_cortex_m4(folder, kernel, size)
            assert "packed bits in rows: 16 of 16 actions identical" in shown.replace(" layout", "")


def on_cortex_m4(folder: Path, kernel: str, optimize: str) -> str:
    """What the self-test of an exported folder prints on QEMU's Cortex-M4."""
    board: list[str | Path] = [
        HERE / "cortex_m" / "startup.c",
        "-T",
        HERE / "cortex_m" / "mps2.ld",
        "--specs=rdimon.specs",
    ]
    flags = ["-std=c99", optimize, *CORTEX_M, f"-DPOLICY_KERNEL=POLICY_{kernel}"]
    program = folder / f"policy_test_{kernel}{optimize}.elf"
    source = folder / "policy_test.c"
    command: list[str | Path] = ["arm-none-eabi-gcc", *flags, *board, source, "-o", program, "-lm"]
    subprocess.run(command, check=True, capture_output=True)
    machine = ["qemu-system-arm", "-M", "mps2-an386", "-nographic", "-monitor", "none", "-serial", "none"]
    semihosting: list[str | Path] = ["-semihosting-config", "enable=on,target=native", "-kernel", program]
    return subprocess.run([*machine, *semihosting], capture_output=True, text=True, check=True, timeout=60).stdout


@pytest.mark.parametrize("compiler", ["gcc", "clang"])
@pytest.mark.parametrize("style", ["relu", "tanh"])
@pytest.mark.parametrize("method", ["fp32", "ptsq"])
def test_a_million_observations_under_sanitizers(method: str, style: str, compiler: str, tmp_path: Path) -> None:
    if not has_tools(compiler):
        pytest.skip(f"missing: {compiler}")
    folder = exported(small_artifact(tmp_path / "artifact", method, style), tmp_path / "c")
    low = "-0.4f, -1.05f, -1.7f"
    high = "0.6f, 1.45f, 2.3f"
    (folder / "fuzz.c").write_text(FUZZ.replace("LOW", low).replace("HIGH", high))
    flags = ["-std=c99", "-O1", "-march=native", "-fsanitize=address,undefined", "-fno-sanitize-recover=all"]
    program = folder / "fuzz"
    subprocess.run([compiler, *flags, "-o", program, folder / "fuzz.c", "-lm"], check=True)
    subprocess.run([program], check=True, capture_output=True)
