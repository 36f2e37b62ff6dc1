"""Trained policies, all kernels, other processors, and a million observations: slow."""

import json
import subprocess
from pathlib import Path

import numpy as np
import pytest

from compression.artifact import load_policy
from compression.lowbit import Bits
from compression.runtime import OnnxPolicy
from tests.compression.native.builds import (
    KERNELS,
    compiled,
    exported,
    golden_observations,
    has_tools,
    needs_tools,
    observations,
    quantized_fixture,
    skip_without,
    small_artifact,
)
from tests.compression.native.emulated import (
    AARCH64,
    AARCH64_TOOLS,
    CORTEX_M_TOOLS,
    aarch64_instructions,
    cortex_m_instructions,
    run_on_aarch64,
    run_on_cortex_m,
)
from tests.helpers import POLICIES
from trainers.nn.activations import ACTIVATIONS

pytestmark = [pytest.mark.slow, needs_tools("gcc")]
FIXTURES = sorted(path.name for path in POLICIES.iterdir() if path.is_dir())
FEW_BITS = [Bits(6), Bits(4), Bits(3), Bits(2), Bits(4, 4, 6), Bits(2, 2, 8)]
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


@needs_tools(*AARCH64_TOOLS)
@pytest.mark.parametrize("target", AARCH64)
def test_aarch64_passes_the_self_test(target: str, fixture: tuple[str, Path], tmp_path: Path) -> None:
    for options in ({}, {"skip_zeros": True}):
        folder = exported(fixture[1], tmp_path / f"c{len(options)}", **options)
        flags = ["-O3", AARCH64[target], "-Wall", "-Wextra", "-Wconversion", "-Werror"]
        shown = run_on_aarch64(folder / "policy_test", [folder / "policy_test.c"], flags)
        assert "16 of 16 actions identical" in shown


@needs_tools(*CORTEX_M_TOOLS)
@pytest.mark.parametrize("kernel", ["SMLAD", "PLAIN"])
def test_a_cortex_m4_passes_the_self_test(kernel: str, fixture: tuple[str, Path], tmp_path: Path) -> None:
    for options in ({}, {"skip_zeros": True}):
        folder = exported(fixture[1], tmp_path / f"c{len(options)}", **options)
        flags = ["-Os", f"-DPOLICY_KERNEL=POLICY_{kernel}"]
        shown = run_on_cortex_m(folder / "policy_test.elf", [folder / "policy_test.c"], flags)
        assert "16 of 16 actions identical" in shown


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

    @needs_tools(*CORTEX_M_TOOLS)
    def test_a_cortex_m4_passes_the_self_test(self, bits: Bits, name: str, tmp_path: Path) -> None:
        folder = exported(quantized_fixture(tmp_path / "artifact", name, bits), tmp_path / "c")
        for kernel, size in (("SMLAD", "-O2"), ("SMLAD", "-Os"), ("PLAIN", "-Os")):
            flags = [size, f"-DPOLICY_KERNEL=POLICY_{kernel}"]
            shown = run_on_cortex_m(folder / f"test_{kernel}{size}.elf", [folder / "policy_test.c"], flags)
            assert "packed bits in rows: 16 of 16 actions identical" in shown.replace(" layout", "")


@needs_tools(*AARCH64_TOOLS, *CORTEX_M_TOOLS)
@pytest.mark.parametrize("style", ["relu", "tanh"])
def test_instructions_are_counted_and_fewer_after_compression(style: str, tmp_path: Path) -> None:
    counts = []
    for method in ("fp32", "ptsq", "prune_ptsq"):
        artifact = small_artifact(tmp_path / f"{method}-artifact", method, style)
        folder = exported(artifact, tmp_path / method)
        obs = observations(load_policy(artifact), 16)
        plain = ["-O2", "-DPOLICY_KERNEL=POLICY_PLAIN"]
        cortex_m = cortex_m_instructions(folder, obs, plain)
        counts.append((cortex_m, aarch64_instructions(folder, obs, plain)))
        macs = json.loads((folder / "policy.json").read_text())["native"]["macs"]
        # At least one multiplication each where nothing is done in vectors, which a Cortex-M4 cannot for int8 in C.
        assert macs < cortex_m < 20 * macs + 5000
    fp32, _, pruned = counts
    assert pruned[0] < fp32[0]
    assert pruned[1] < fp32[1]


@needs_tools(*AARCH64_TOOLS, *CORTEX_M_TOOLS)
@pytest.mark.parametrize("activation", ["elu", "silu", "leaky_relu", "gelu"])
def test_other_activations_pass_the_self_test_on_arm(activation: str, tmp_path: Path) -> None:
    folder = exported(small_artifact(tmp_path / "artifact", "ptsq", activation), tmp_path / "c")
    for target in AARCH64.values():
        flags = ["-O3", target, "-Wall", "-Wextra", "-Wconversion", "-Werror"]
        shown = run_on_aarch64(folder / "policy_test", [folder / "policy_test.c"], flags)
        assert "16 of 16 actions identical" in shown
    for kernel in ("SMLAD", "PLAIN"):
        flags = ["-Os", f"-DPOLICY_KERNEL=POLICY_{kernel}"]
        shown = run_on_cortex_m(folder / "policy_test.elf", [folder / "policy_test.c"], flags)
        assert "16 of 16 actions identical" in shown


@pytest.mark.parametrize("compiler", ["gcc", "clang"])
@pytest.mark.parametrize("style", ACTIVATIONS)
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
