"""ELU, SiLU, LeakyReLU and GELU in C: the functions, every method, other compilers and what imports bring."""

import ctypes
import platform
import re
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from compression.artifact import INT8_TOLERANCE, load_policy
from compression.lowbit import Bits
from compression.native.generate import TEMPLATES, Weights
from compression.native.loader import load
from compression.onnx_export import onnx_bytes
from compression.ptsq import quantize_static_policy
from compression.runtime import OnnxPolicy
from tests.compression.native.builds import (
    CPU_FLAGS,
    HOSTILE,
    KERNELS,
    METHODS,
    WARNINGS,
    check_hostile,
    compiled,
    exported,
    few_bit_artifact,
    has_tools,
    needs_tools,
    observations,
    random_policy,
    save,
    skip_without,
    small_artifact,
)
from tests.helpers import import_file, spec
from trainers.envs.make import make_env
from trainers.nn.activations import ACTIVATIONS
from trainers.policy import Clamp, Policy
from trainers.tensors import FloatArray

pytestmark = needs_tools("gcc", "make")
OTHERS = ("elu", "silu", "leaky_relu", "gelu")
STATES = 1000
# Where ONNX Runtime's bits are known; elsewhere one ulp may turn a rounding.
SAME_BITS = platform.machine() == "x86_64" and "fma" in CPU_FLAGS


def half_ranges(policy: Policy, actions: FloatArray, expected: FloatArray) -> FloatArray:
    """Largest difference [n] of actions, in half ranges."""
    half_range = (np.array(policy.spec.action_high) - np.array(policy.spec.action_low)) / 2
    largest: FloatArray = np.abs((actions - expected) / half_range).max(1)
    return largest


def run_rows(runner: OnnxPolicy, obs: FloatArray) -> FloatArray:
    """Actions [n, act_dim] of ONNX Runtime, a state at a time."""
    return np.stack([runner(row) for row in obs])


@pytest.fixture(scope="module")
def functions(tmp_path_factory: pytest.TempPathFactory) -> ctypes.CDLL:
    """The activations of the templates, over arrays."""
    folder = tmp_path_factory.mktemp("activations")
    loops = "".join(
        f"void {name}(const float *x, float *y, int n);\n"
        f"void {name}(const float *x, float *y, int n)\n"
        f"{{\n    for (int i = 0; i < n; i++)\n        y[i] = policy_{name}(x[i]);\n}}\n"
        for name in OTHERS
    )
    includes = '#include "kernels.h"\n#include "activations.h"\n'
    (folder / "a.c").write_text(includes + loops)
    command = ["gcc", "-std=c99", *WARNINGS, "-O3", "-march=native", "-ffp-contract=off", f"-I{TEMPLATES}"]
    subprocess.run([*command, "-shared", "-fPIC", "-o", folder / "a.so", folder / "a.c", "-lm"], check=True)
    return ctypes.CDLL(str(folder / "a.so"))


def call(functions: ctypes.CDLL, name: str, x: FloatArray) -> FloatArray:
    y = np.empty_like(x)
    functions[name](ctypes.c_void_p(x.ctypes.data), ctypes.c_void_p(y.ctypes.data), len(x))
    return y


@pytest.mark.parametrize("name", OTHERS)
class TestFunctions:
    def test_they_are_what_torch_computes_in_double(self, name: str, functions: ctypes.CDLL) -> None:
        x = np.concatenate([np.linspace(-200, 200, 100_001), np.linspace(-1, 1, 10_001)]).astype(np.float32)
        expected = ACTIVATIONS[name]()(torch.from_numpy(x).double()).numpy()
        np.testing.assert_allclose(call(functions, name, x), expected, rtol=1e-6, atol=4e-6)

    def test_every_float_gives_a_finite_number(self, name: str, functions: ctypes.CDLL) -> None:
        bits = np.random.default_rng(0).integers(0, 2**32, 200_000, np.uint32)
        x = np.concatenate([bits.view(np.float32), np.array(HOSTILE, np.float32)])
        y = call(functions, name, x)
        assert np.isfinite(y).all()
        assert (y[np.isnan(x)] == 0).all()

    @pytest.mark.skipif(not SAME_BITS, reason="ONNX Runtime has other bits here")
    def test_they_have_the_bits_of_onnx_runtime(self, name: str, functions: ctypes.CDLL) -> None:
        # ONNX Runtime takes libm's exp for what is left over after fours: 64 leaves none.
        runner = OnnxPolicy(onnx_bytes(Policy(spec(64, 64), [ACTIVATIONS[name]()])))
        generator = np.random.default_rng(0)
        sizes = 10.0 ** generator.uniform(-8, 8, (500, 64))
        for x in (sizes * generator.normal(size=(500, 64)), 5 * generator.normal(size=(500, 64))):
            rows = x.astype(np.float32)
            assert (call(functions, name, rows.reshape(-1)) == run_rows(runner, rows).reshape(-1)).all()


@pytest.mark.parametrize("activation", OTHERS)
@pytest.mark.parametrize("method", METHODS)
def test_every_method_agrees_with_onnx_runtime(method: str, activation: str, tmp_path: Path) -> None:
    artifact = small_artifact(tmp_path / "artifact", method, activation)
    folder = exported(artifact, tmp_path / "c")
    policy = load_policy(artifact)
    obs = observations(policy, STATES)
    actions = compiled(folder, folder / "policy.so", ["-O2", "-march=native"])(obs)
    difference = half_ranges(policy, actions, run_rows(OnnxPolicy(artifact / "policy.onnx"), obs))
    if method in ("fp32", "prune_l2"):
        assert difference.max() <= 1e-4
    elif SAME_BITS:
        assert (difference == 0).all()
    else:
        assert (difference <= INT8_TOLERANCE).mean() >= 0.99


@pytest.mark.parametrize("kernel", KERNELS)
@pytest.mark.parametrize("activation", OTHERS)
def test_every_kernel_gives_the_same_bits(activation: str, kernel: str, tmp_path: Path) -> None:
    flags, features = KERNELS[kernel]
    skip_without(features | {"fma"})
    artifact = small_artifact(tmp_path / "artifact", "ptsq", activation)
    runner = OnnxPolicy(artifact / "policy.onnx")
    obs = observations(load_policy(artifact), STATES)
    expected = run_rows(runner, obs)
    folder = exported(artifact, tmp_path / "c")
    actions = compiled(folder, folder / "policy.so", [*flags, "-ffp-contract=fast"])(obs)
    assert (actions == expected).all()


@pytest.mark.parametrize("weights", ["bytes", "bits"])
@pytest.mark.parametrize("activation", OTHERS)
def test_few_bits_give_the_same_bits(activation: str, weights: Weights, tmp_path: Path) -> None:
    skip_without({"fma"})
    artifact = few_bit_artifact(tmp_path / "artifact", Bits(4, 6, 8), activation)
    folder = exported(artifact, tmp_path / "c", weights=weights)
    obs = observations(load_policy(artifact), STATES)
    actions = compiled(folder, folder / "policy.so", ["-O2", "-march=native"])(obs)
    assert (actions == run_rows(OnnxPolicy(artifact / "policy.onnx"), obs)).all()


@pytest.mark.parametrize("activation", ["silu", "gelu"])
def test_without_fused_multiply_adds_most_actions_are_identical(activation: str, tmp_path: Path) -> None:
    policy = random_policy(activation)
    # Without the tanh of the action, which would differ by itself.
    limits = torch.tensor(policy.spec.action_low), torch.tensor(policy.spec.action_high)
    policy = Policy(policy.spec, [*list(policy)[:-2], Clamp(*limits)])
    obs = observations(policy, STATES)
    settings: dict[str, Any] = {"calibration": "minmax", "percentile": 99.9, "reduce_range": False}
    policy, model = quantize_static_policy(policy, obs, **settings)
    folder = exported(save(tmp_path / "artifact", policy, model, obs, "ptsq"), tmp_path / "c")
    source = (folder / "policy.c").read_text()
    without = re.sub(r"return fmaf\(a, b, c\)|return \(float\)\(\(double\)a.*?\)c\)", "return a * b + c", source)
    assert without != source
    (folder / "policy.c").write_text(without)
    actions = compiled(folder, folder / "policy.so", ["-O2", "-march=native"])(obs)
    difference = half_ranges(policy, actions, run_rows(OnnxPolicy(model), obs))
    assert (difference == 0).mean() >= 0.99
    assert difference.max() <= INT8_TOLERANCE


@pytest.mark.parametrize("activation", OTHERS)
@pytest.mark.parametrize("method", ["fp32", "ptsq"])
def test_hostile_observations_give_bounded_actions(method: str, activation: str, tmp_path: Path) -> None:
    artifact = small_artifact(tmp_path / "artifact", method, activation)
    act = load(exported(artifact, tmp_path / "c")).act
    check_hostile(artifact, act, same_bits=method == "ptsq" and SAME_BITS)


@pytest.mark.slow
@pytest.mark.parametrize("compiler", ["gcc", "clang"])
@pytest.mark.parametrize("method", ["fp32", "ptsq"])
def test_sanitizers_and_warnings_find_nothing(method: str, compiler: str, tmp_path: Path) -> None:
    if not has_tools(compiler):
        pytest.skip(f"missing: {compiler}")
    for activation in OTHERS:
        folder = exported(
            small_artifact(tmp_path / f"{activation}-artifact", method, activation), tmp_path / activation
        )
        checked = ["-O1", "-g", "-fsanitize=address,undefined", "-fno-sanitize-recover=all", "-march=native"]
        for flags in (["-O3", "-march=native"], checked):
            program = str(tmp_path / "test")
            command = [compiler, "-std=c99", *WARNINGS, *flags, "-o", program, str(folder / "policy_test.c"), "-lm"]
            subprocess.run(command, check=True)
            subprocess.run([program], check=True, capture_output=True)


@pytest.mark.parametrize(
    ("activation", "demand"),
    [
        ("elu", "tolerance 0.005"),
        ("gelu", "tolerance 0.005"),
        ("silu", "must be identical"),
        ("leaky_relu", "must be identical"),
    ],
)
def test_the_folder_says_what_it_holds_to(activation: str, demand: str, tmp_path: Path) -> None:
    folder = exported(small_artifact(tmp_path / "artifact", "ptsq", activation), tmp_path / "c")
    command = ["make", "--silent", "test", "CFLAGS=-O2 -march=native -Werror"]
    shown = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=True).stdout
    if SAME_BITS:
        assert "16 of 16 actions identical" in shown
        assert f"({demand})" in shown
    varies = activation in ("elu", "gelu")
    readme = (folder / "README.md").read_text()
    assert (f"- {activation} is computed in float between the integer layers" in readme) == varies
    assert ("bits on x86-64 with FMA" in (folder / "policy.h").read_text()) == varies


class TestImportedPolicies:
    """What other projects trained with ELU and GELU, as float and as integer C."""

    def exports(self, path: Path, folder: Path, **said: str) -> None:
        """The C code of a file acts as the policy does."""
        policy = import_file(path, "Hopper-v4", **said).policy
        obs = observations(policy, STATES)
        settings: dict[str, Any] = {"calibration": "minmax", "percentile": 99.9, "reduce_range": False}
        artifacts = {
            "fp32": (policy, onnx_bytes(policy), 1e-4),
            "ptsq": (*quantize_static_policy(policy, obs, **settings), 0.0 if SAME_BITS else INT8_TOLERANCE),
        }
        for method, (twin, model, tolerance) in artifacts.items():
            artifact = save(folder / method, twin, model, obs, method)
            act = load(exported(artifact, folder / f"{method}-c")).act
            actions = np.stack([act(row) for row in obs])
            assert np.quantile(half_ranges(twin, actions, run_rows(OnnxPolicy(model), obs)), 0.99) <= tolerance

    def test_rsl_rl_with_elu(self, tmp_path: Path) -> None:
        torch.manual_seed(0)
        network = nn.Sequential(nn.Linear(11, 32), nn.ELU(), nn.Linear(32, 18), nn.ELU(), nn.Linear(18, 3))
        actor = {f"actor.{name}": tensor for name, tensor in network.state_dict().items()}
        torch.save({"model_state_dict": {"std": torch.ones(3), **actor}, "iter": 7}, tmp_path / "model.pt")
        self.exports(tmp_path / "model.pt", tmp_path, statistics="none")

    @pytest.mark.parametrize("activation", ["elu", "gelu"])
    def test_stable_baselines3(self, activation: str, tmp_path: Path) -> None:
        from stable_baselines3 import PPO, SAC

        cls: Any = PPO if activation == "elu" else SAC
        settings = {"net_arch": [32, 18], "activation_fn": ACTIVATIONS[activation]}
        model = cls("MlpPolicy", make_env("Hopper-v4"), device="cpu", seed=0, policy_kwargs=settings)
        model.save(tmp_path / "model.zip")
        self.exports(tmp_path / "model.zip", tmp_path, statistics="none")
