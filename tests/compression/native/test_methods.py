"""Every method as C: exported, compiled, self-tested, timed, and compared with ONNX Runtime."""

import json
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from compression.artifact import load_policy
from compression.imports.layers import Request
from compression.imports.read import read_foreign
from compression.native.folder import export_native
from compression.native.generate import Options
from compression.native.loader import load
from compression.onnx_export import onnx_bytes
from compression.runtime import OnnxPolicy
from tests.compression.native.builds import (
    KERNELS,
    METHODS,
    STYLES,
    check_hostile,
    compiled,
    exported,
    has_tools,
    needs_tools,
    observations,
    save,
    skip_without,
    small_artifact,
)
from trainers.envs.make import make_env, spec_of
from trainers.errors import UserError

pytestmark = needs_tools("gcc", "make")
HALF_RANGE = 2.0  # the largest of these policies
QUANTIZED = ("ptsq", "qat", "prune_ptsq", "prune_qat")


@pytest.mark.parametrize("style", STYLES)
@pytest.mark.parametrize("method", METHODS)
def test_every_method_exports_compiles_and_agrees(method: str, style: str, tmp_path: Path) -> None:
    artifact = small_artifact(tmp_path / "artifact", method, style)
    folder = exported(artifact, tmp_path / "c")
    for target in ("test", "bench"):
        command = ["make", "--silent", target, "CFLAGS=-O2 -Werror"]
        shown = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=True).stdout
        assert ("ok" if target == "test" else "p99") in shown
    runner = OnnxPolicy(artifact / "policy.onnx")
    obs = observations(load_policy(artifact), 400)
    expected = np.stack([runner(row) for row in obs])
    actions = compiled(folder, folder / "policy.so", ["-O2", "-march=native"])(obs)
    if method in QUANTIZED:
        assert (actions == expected).all()
    else:
        assert np.abs(actions - expected).max() <= 1e-4


@pytest.mark.parametrize("options", [{"layout": "rows"}, {"layout": "packed"}, {"skip_zeros": True}], ids=str)
def test_every_layout_gives_the_same_bits(options: dict[str, Any], tmp_path: Path) -> None:
    artifact = small_artifact(tmp_path / "artifact", "ptsq", "relu")
    folder = exported(artifact, tmp_path / "c", **options)
    runner = OnnxPolicy(artifact / "policy.onnx")
    obs = observations(load_policy(artifact), 400)
    expected = np.stack([runner(row) for row in obs])
    for flags in (["-O2"], ["-O3", "-march=native"]):
        actions = compiled(folder, tmp_path / f"{flags[0]}.so", flags)(obs)
        assert (actions == expected).all()


def test_a_policy_of_stable_baselines3_is_written_as_c(tmp_path: Path) -> None:
    from stable_baselines3 import PPO

    PPO("MlpPolicy", make_env("Hopper-v4"), device="cpu", seed=0).save(tmp_path / "ppo.zip")
    mean, var = np.linspace(-1, 1, 11), np.linspace(0.5, 2, 11)
    np.savez(tmp_path / "s.npz", mean=mean, var=var, epsilon=1e-8, clip_obs=5.0)
    spec = spec_of("Hopper-v4")
    policy = read_foreign(Request(tmp_path / "ppo.zip", spec, statistics=str(tmp_path / "s.npz"))).policy
    obs = observations(policy, 300)
    artifact = save(tmp_path / "artifact", policy, onnx_bytes(policy), obs, "fp32")
    act = load(exported(artifact, tmp_path / "c")).act
    expected = policy(torch.from_numpy(obs)).numpy()
    np.testing.assert_allclose(np.stack([act(row) for row in obs]), expected, atol=1e-4)


@pytest.mark.parametrize("kernel", KERNELS)
@pytest.mark.parametrize("style", STYLES)
def test_every_kernel_gives_the_same_bits(style: str, kernel: str, tmp_path: Path) -> None:
    flags, features = KERNELS[kernel]
    skip_without(features)
    artifact = small_artifact(tmp_path / "artifact", "ptsq", style)
    folder = exported(artifact, tmp_path / "c")
    runner = OnnxPolicy(artifact / "policy.onnx")
    obs = observations(load_policy(artifact), 1000)
    expected = np.stack([runner(row) for row in obs])
    # The compiler may fuse by itself what must be rounded twice: the source forbids it.
    actions = compiled(folder, tmp_path / "policy.so", [*flags, "-ffp-contract=fast"])(obs)
    assert (actions == expected).all()


@pytest.mark.parametrize("style", STYLES)
@pytest.mark.parametrize("method", ["fp32", "ptsq"])
def test_hostile_observations_give_bounded_actions(method: str, style: str, tmp_path: Path) -> None:
    artifact = small_artifact(tmp_path / "artifact", method, style)
    check_hostile(artifact, load(exported(artifact, tmp_path / "c")).act, same_bits=method == "ptsq")


def test_a_missing_number_counts_as_the_mean_in_float(tmp_path: Path) -> None:
    artifact = small_artifact(tmp_path / "artifact", "fp32", "tanh")
    act = load(exported(artifact, tmp_path / "c")).act
    mean = np.array(json.loads((artifact / "policy.json").read_text())["normalizer"]["mean"], np.float32)
    obs = observations(load_policy(artifact), 1)[0]
    missing = obs.copy()
    missing[1] = np.nan
    obs[1] = mean[1]
    assert (act(missing) == act(obs)).all()


@pytest.mark.parametrize("compiler", ["gcc", pytest.param("clang", marks=pytest.mark.slow)])
@pytest.mark.parametrize("method", ["fp32", "ptsq"])
def test_sanitizers_and_warnings_find_nothing(method: str, compiler: str, tmp_path: Path) -> None:
    if not has_tools(compiler):
        pytest.skip(f"missing: {compiler}")
    for style in STYLES:
        folder = exported(small_artifact(tmp_path / f"{style}-artifact", method, style), tmp_path / style)
        strict = ["-std=c99", "-Wall", "-Wextra", "-Wconversion", "-pedantic", "-Werror"]
        checked = ["-O1", "-g", "-fsanitize=address,undefined", "-fno-sanitize-recover=all", "-march=native"]
        for flags in (["-O3", "-march=native"], ["-Os"], checked):
            program = tmp_path / "test"
            sources = [str(folder / "policy_test.c"), "-lm"]
            subprocess.run([compiler, *strict, *flags, "-o", str(program), *sources], check=True)
            subprocess.run([str(program)], check=True, capture_output=True)
            sources = [str(folder / "policy_bench.c"), str(folder / "policy.c"), "-lm"]
            subprocess.run([compiler, *strict, *flags, "-o", str(program), *sources], check=True)


def test_fast_math_is_refused_by_the_compiler(tmp_path: Path) -> None:
    folder = exported(small_artifact(tmp_path / "artifact", "fp32", "relu"), tmp_path / "c")
    command = ["gcc", "-ffast-math", "-c", "-o", str(tmp_path / "p.o"), str(folder / "policy.c")]
    outcome = subprocess.run(command, capture_output=True, text=True, check=False)
    assert outcome.returncode
    assert "-ffast-math" in outcome.stderr


def test_the_header_can_be_included_from_cpp(tmp_path: Path) -> None:
    folder = exported(small_artifact(tmp_path / "artifact", "ptsq", "relu"), tmp_path / "c")
    program = (
        '#include "policy.h"\nint main() { float o[POLICY_OBS_DIM] = {}, a[POLICY_ACT_DIM]; policy_step(o, a); }\n'
    )
    (folder / "main.cpp").write_text(program)
    subprocess.run(["gcc", "-c", "policy.c", "-o", "policy.o"], cwd=folder, check=True)
    subprocess.run(["g++", "-Wall", "-pedantic", "main.cpp", "policy.o", "-lm", "-o", "main"], cwd=folder, check=True)
    subprocess.run([str(folder / "main")], check=True)


def test_dynamic_quantisation_is_refused_in_one_line(tmp_path: Path) -> None:
    artifact = small_artifact(tmp_path / "artifact", "ptdq", "relu")
    with pytest.raises(UserError, match=r"ptdq takes its ranges from each observation.*allowed: fp32, ptsq, qat"):
        export_native(artifact, tmp_path / "c", Options())
    assert not (tmp_path / "c").exists()
