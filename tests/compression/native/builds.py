"""Small policies of every method, and C that is compiled and called for a test."""

import ctypes
import json
import shutil
import subprocess
from collections.abc import Callable, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from compression.artifact import load_policy, save_artifact
from compression.lowbit import EIGHT, Bits
from compression.native.folder import export_native
from compression.native.generate import TEMPLATES, Options
from compression.native.toolchain import find_compiler
from compression.onnx_export import onnx_bytes
from compression.pruning import Importance, prune
from compression.ptdq import quantize_dynamic_policy
from compression.ptsq import quantize_static_policy
from compression.runtime import OnnxPolicy
from tests.helpers import POLICIES, batches, make_off_policy, make_on_policy, rollouts, spec
from trainers.nn.activations import ACTIVATIONS
from trainers.policy import Clamp, Policy, Rescale, Standardize, split_at_linears
from trainers.tensors import FloatArray

needs_compiler = pytest.mark.skipif(find_compiler() is None, reason="no C compiler")
WARNINGS = ("-Wall", "-Wextra", "-Wconversion", "-pedantic", "-Werror")
CPU_FLAGS = set(Path("/proc/cpuinfo").read_text().split()) if Path("/proc/cpuinfo").exists() else set()
# Flags of the compiler for each kernel, and what the CPU must have.
KERNELS = {
    "plain": (["-O2", "-DPOLICY_KERNEL=POLICY_PLAIN"], set()),
    "plain, every feature": (["-O3", "-march=native", "-DPOLICY_KERNEL=POLICY_PLAIN"], set()),
    "avx2": (["-O3", "-mavx2", "-mfma"], {"avx2", "fma"}),
    "vnni": (["-O3", "-mavx512f", "-mavx512bw", "-mavx512vnni", "-mfma"], {"avx512_vnni", "avx512bw"}),
}
MAGNITUDE = Importance(norm=2, reduction="mean", normalizer="mean", bias=False)
# Of weights, hidden activations, input: each width of weights, each of activations.
FEW_BITS = [
    Bits(6, 8, 8),
    Bits(4, 8, 8),
    Bits(3, 8, 8),
    Bits(2, 8, 8),
    Bits(8, 4, 6),
    Bits(6, 6, 4),
    Bits(4, 4, 8),
    Bits(3, 3, 3),
    Bits(2, 2, 2),
]
HOSTILE = np.array([np.nan, np.inf, -np.inf, 3e38, -3e38, 1e-45], np.float32)
METHODS = ("fp32", "ptsq", "qat", "prune_l2", "prune_ptsq", "prune_qat")
STYLES = ("relu", "tanh")
NORMALIZED = ("tanh", "elu", "leaky_relu")
"""Activations whose policies here have what on-policy algorithms put around the layers."""


def skip_without(features: set[str]) -> None:
    """Skip a test where the CPU lacks something."""
    if not features <= CPU_FLAGS:
        pytest.skip(f"this CPU lacks {', '.join(sorted(features - CPU_FLAGS))}")


def random_policy(style: str, widths: Sequence[int] = (19, 37), obs_dim: int = 5, act_dim: int = 3) -> Policy:
    """A policy of an activation as SAC or TRPO (normaliser, clamps) leaves it, of odd widths and random weights."""
    torch.manual_seed(0)
    sizes = [obs_dim, *widths, act_dim]
    stages: list[nn.Module] = []
    for inputs, outputs in pairwise(sizes):
        stages += [nn.Linear(inputs, outputs), ACTIVATIONS[style]()]
    center, scale = torch.linspace(0.1, 0.3, act_dim), torch.linspace(0.5, 2, act_dim)
    low, high = center - scale, center + scale
    environment = spec(obs_dim, act_dim)
    environment = type(environment)("Test-v0", obs_dim, act_dim, tuple(low.tolist()), tuple(high.tolist()))
    if style not in NORMALIZED:
        return Policy(environment, [*stages[:-1], nn.Tanh(), Rescale(center, scale)])
    limit = torch.tensor(10.0)
    front = [Standardize(torch.linspace(-1, 1, obs_dim), torch.linspace(0.5, 2, obs_dim)), Clamp(-limit, limit)]
    return Policy(environment, [*front, *stages[:-1], Rescale(center, scale), Clamp(low, high)])


def observations(policy: Policy, n: int = 300) -> FloatArray:
    """Random observations [n, obs_dim] of mixed size."""
    return (3 * np.random.default_rng(1).normal(size=(n, policy.spec.obs_dim)) + 1).astype(np.float32)


def pruned(policy: Policy, ratio: float = 0.5) -> Policy:
    """A share of the hidden units gone."""
    front, layers, back = split_at_linears(policy)
    return Policy(policy.spec, [*front, *prune(layers, ratio, MAGNITUDE), *back])


def check_hostile(artifact: Path, act: Callable[[FloatArray], FloatArray], *, same_bits: bool) -> None:
    """Whatever stands in an observation, actions are bounded, and those of ONNX Runtime where they must be."""
    policy = load_policy(artifact)
    low, high = np.array(policy.spec.action_low), np.array(policy.spec.action_high)
    runner = OnnxPolicy(artifact / "policy.onnx")
    for row in observations(policy, 20):
        for value in HOSTILE:
            for place in (0, 2, slice(None)):
                obs = row.copy()
                obs[place] = value
                action = act(obs)
                assert ((action >= low - 1e-6) & (action <= high + 1e-6)).all()
                if same_bits:
                    assert (action == runner(obs)).all()


def trained_with_qat(style: str) -> Policy:
    """The policy of a small agent after a few updates with fake quantisation."""
    environment = spec(5, 3)
    if style not in NORMALIZED:
        off_policy = make_off_policy("sac", environment, [0], qat=True, hidden="[24,20]", activation=style)
        draw = batches(environment, [0], 32)
        for _ in range(5):
            off_policy.update(draw())
        return off_policy.policy(0)
    on_policy = make_on_policy("trpo", environment, [0], qat=True, activation=style)
    on_policy.update(rollouts(environment, [0], 64, 2)(on_policy))
    return on_policy.policy(0)


def compressed(method: str, style: str) -> tuple[Policy, bytes]:
    """A small policy of a method, and its ONNX file."""
    policy = trained_with_qat(style) if method == "qat" else random_policy(style)
    if method.startswith("prune"):
        policy = pruned(policy)
    if method.endswith(("ptsq", "prune_qat")):
        return quantize_static_policy(
            policy, observations(policy), calibration="minmax", percentile=99.9, reduce_range=False
        )
    if method == "ptdq":
        return quantize_dynamic_policy(policy, observations(policy), reduce_range=False)
    return policy, onnx_bytes(policy)


def few_bit_artifact(folder: Path, bits: Bits, style: str) -> Path:
    """The artifact of a small policy after static quantisation to few bits."""
    policy = random_policy(style)
    obs = observations(policy)
    smaller, model = quantize_static_policy(
        policy, obs, calibration="minmax", percentile=99.9, reduce_range=False, bits=bits
    )
    return save(folder, smaller, model, obs, "ptsq")


def save(folder: Path, policy: Policy, model: bytes, obs: FloatArray, method: str) -> Path:
    """The artifact of a policy."""
    save_artifact(folder, policy, model, obs, algorithm="test", compression={"method": method})
    return folder


def small_artifact(folder: Path, method: str, style: str) -> Path:
    """The artifact of a small policy of a method."""
    policy, model = compressed(method, style)
    return save(folder, policy, model, observations(policy), method)


def golden_observations(name: str, n: int, seed: int = 0) -> FloatArray:
    """States [n, obs_dim] around those in the contract of a trained policy, which it visited."""
    contract = json.loads((POLICIES / name / "policy.json").read_text())
    golden = np.array(contract["golden"]["observations"], np.float32)
    generator = np.random.default_rng(seed)
    noise = generator.normal(size=(n, golden.shape[1])) * golden.std(0) * generator.choice([0.05, 0.3, 1], (n, 1))
    states: FloatArray = (golden[generator.integers(0, len(golden), n)] + noise).astype(np.float32)
    return states


def quantized_fixture(folder: Path, name: str, bits: Bits = EIGHT) -> Path:
    """The artifact of a trained policy after static quantisation."""
    obs = golden_observations(name, 1000, seed=1)
    policy, model = quantize_static_policy(
        load_policy(POLICIES / name), obs, calibration="minmax", percentile=99.9, reduce_range=False, bits=bits
    )
    return save(folder, policy, model, obs, "ptsq")


def exported(artifact: Path, folder: Path, **options: Any) -> Path:
    """The artifact as C."""
    export_native(artifact, folder, Options(**options))
    return folder


def compiled(folder: Path, target: Path, flags: Sequence[str], compiler: str = "gcc") -> Callable[[FloatArray], Any]:
    """policy_step of an exported folder: observations [n, obs_dim] -> actions [n, act_dim]."""
    command = [compiler, "-std=c99", *WARNINGS, *flags, "-shared", "-fPIC", "-o", str(target)]
    subprocess.run([*command, str(folder / "policy.c"), "-lm"], check=True)
    step = ctypes.CDLL(str(target)).policy_step
    step.restype = None
    act_dim = int((folder / "policy.h").read_text().split("POLICY_ACT_DIM ")[1].split()[0])

    def act(obs: FloatArray) -> FloatArray:
        obs = np.ascontiguousarray(obs, np.float32)
        actions = np.empty((len(obs), act_dim), np.float32)
        for given, action in zip(obs, actions, strict=True):
            step(ctypes.c_void_p(given.ctypes.data), ctypes.c_void_p(action.ctypes.data))
        return actions

    return act


def dense_library(folder: Path, header: str, defines: Sequence[str], flags: Sequence[str]) -> ctypes.CDLL:
    """policy_dense of the templates, callable with any widths."""
    x, w, sums = {
        "dense_int8.h": ("uint8_t", "int8_t", "int32_t"),
        "dense_bits.h": ("uint8_t", "uint32_t", "int32_t"),
        "dense_float.h": ("float", "float", "float"),
    }[header]
    includes = ["kernels.h", *(["dense_int8.h"] if header == "dense_bits.h" else []), header]
    (folder / "dense.c").write_text(
        "".join(f'#include "{name}"\n' for name in includes)
        + f"void dense(const {x} *x, const {w} *w, const {sums} *bias, {sums} *sums, int in, int out);\n"
        f"void dense(const {x} *x, const {w} *w, const {sums} *bias, {sums} *sums, int in, int out)\n"
        "{\n    policy_dense(x, w, bias, sums, in, out, POLICY_SKIP_ZEROS);\n}\n"
        "int is_packed(void);\nint is_packed(void) { return POLICY_PACKED; }\n"
    )
    command = ["gcc", "-std=c99", *flags, *defines, f"-I{TEMPLATES}", "-shared", "-fPIC"]
    subprocess.run([*command, "-o", str(folder / "dense.so"), str(folder / "dense.c"), "-lm"], check=True)
    return ctypes.CDLL(str(folder / "dense.so"))


def has_tools(*names: str) -> bool:
    """Whether programs are there."""
    return all(shutil.which(name) for name in names)


def needs_tools(*names: str) -> pytest.MarkDecorator:
    """Skip a test where a program is missing."""
    missing = [name for name in names if shutil.which(name) is None]
    return pytest.mark.skipif(bool(missing), reason=f"missing: {', '.join(missing)}")
