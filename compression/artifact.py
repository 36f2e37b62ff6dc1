"""The deployable artifact: a folder of policy.onnx, policy.safetensors, policy.json, the contract, and a README."""

import json
import os
import shutil
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import safetensors
import safetensors.torch
import torch
from torch import nn

from compression.explain import README_FILE, interface, readme
from compression.files import AGAIN, CONTRACT_FILE, ONNX_FILE, TENSOR_FILE, hashes_match, sha256, write_atomic
from compression.int8 import ActivationQuantize, StaticQuantLinear
from compression.lowbit import LowBitLinear, low_bit_contract
from compression.onnx_export import onnx_bytes
from compression.ptdq import DynamicQuantLinear
from compression.runtime import OnnxPolicy, optimized_operators
from trainers.envs.spec import EnvSpec
from trainers.errors import UserError
from trainers.nn.activations import ACTIVATIONS
from trainers.nn.stacked import make_linear
from trainers.policy import Clamp, Policy, Rescale, Standardize
from trainers.tensors import FloatArray

FORMAT = "rlc-policy-1"
GOLDEN_PAIRS = 16
# Of the half range of an action. An int8 policy may differ by a rounding that falls the other way.
# The error of float32 sums grows with the outputs before the squash.
FP32_TOLERANCE = 1e-4
INT8_TOLERANCE = 5e-3
# Of the visited states, so many must lie within the tolerance at export.
PARITY_SHARE = 0.99
STAGE_KINDS: dict[str, type[nn.Module]] = {
    "standardize": Standardize,
    "linear": nn.Linear,
    "static_quant_linear": StaticQuantLinear,
    "low_bit_linear": LowBitLinear,
    "dynamic_quant_linear": DynamicQuantLinear,
    "activation_quantize": ActivationQuantize,
    **ACTIVATIONS,
    "clamp": Clamp,
    "rescale": Rescale,
}
INTEGER_KERNELS = {"QGemm", "DynamicQuantizeMatMul", "MatMulIntegerToFloat", "MatMulInteger", "QLinearMatMul"}


class ArtifactError(UserError):
    """An artifact that cannot be made or read, in one line."""


@dataclass(frozen=True)
class Parity:
    """Differences between the torch policy and ONNX Runtime at batch 1, in half ranges of the action."""

    states: int
    mean: float
    p99: float
    max: float


def save_artifact(
    folder: Path,
    policy: Policy,
    model: bytes,
    observations: FloatArray,
    *,
    algorithm: str,
    compression: dict[str, Any],
    int8_tolerance: float = INT8_TOLERANCE,
) -> dict[str, Any]:
    """Check the ONNX file against the torch policy on visited observations [n, obs_dim], then write the folder.

    `int8_tolerance` counts where layers are int8. Returns the contract. Raises ArtifactError where the two disagree or
    a quantised layer does not run in integer arithmetic; nothing is written then.
    """
    quantized = quantized_layers(policy)
    tolerance = int8_tolerance if quantized else FP32_TOLERANCE
    kernels = optimized_operators(model)
    integer = sum(k in INTEGER_KERNELS for k in kernels)
    if integer != quantized:
        raise ArtifactError(f"{quantized} layers are int8, but ONNX Runtime would run {integer} so: {kernels}")
    runner = OnnxPolicy(model)
    parity = check_parity(policy, runner, observations, tolerance)
    golden = observations[np.linspace(0, len(observations) - 1, GOLDEN_PAIRS).astype(int)]
    tensors = safetensors.torch.save(dict(policy.state_dict()))
    kinds = {cls: kind for kind, cls in STAGE_KINDS.items()}
    contract = {
        "format": FORMAT,
        "environment": _environment(policy.spec),
        "interface": interface(policy.spec),
        "algorithm": algorithm,
        "compression": compression,
        "stages": [kinds[type(stage)] for stage in policy],
        "normalizer": _normalizer(policy),
        **low_bit_contract(policy),
        "kernels": kernels,
        "parity": vars(parity),
        "golden": {
            "observations": golden.tolist(),
            "actions": np.stack([runner(obs) for obs in golden]).tolist(),
            "tolerance": tolerance,
            "tolerance_unit": "half range of the action",
        },
        "sha256": {ONNX_FILE: sha256(model), TENSOR_FILE: sha256(tensors)},
        "versions": {name: version(name) for name in ("torch", "onnx", "onnxruntime", "gymnasium", "mujoco")},
    }
    write_files(folder, {ONNX_FILE: model, TENSOR_FILE: tensors, **contract_files(contract)})
    return contract


def add_origin(folder: Path, origin: dict[str, Any]) -> None:
    """Say in the contract of an artifact, and in its README, where it came from: run, seed, commit, return."""
    contract = json.loads((folder / CONTRACT_FILE).read_text()) | {"origin": origin}
    for name, content in contract_files(contract).items():
        write_atomic(folder / name, content)


def quantized_layers(policy: Policy) -> int:
    """How many of its layers are int8."""
    return sum(isinstance(stage, StaticQuantLinear | DynamicQuantLinear) for stage in policy)


def load_policy(folder: Path) -> Policy:
    """The torch policy of an artifact. Raises ArtifactError for a missing, damaged or foreign folder."""
    try:
        contract = json.loads((folder / CONTRACT_FILE).read_text())
        content = (folder / TENSOR_FILE).read_bytes()
    except (OSError, ValueError) as error:
        raise ArtifactError(f"{folder} is no artifact: {error}; allowed: a folder that rlc wrote") from error
    if not isinstance(contract, dict) or contract.get("format") != FORMAT:
        raise ArtifactError(f"{folder / CONTRACT_FILE} is not of the format {FORMAT}{AGAIN}")
    try:
        if sha256(content) != contract["sha256"][TENSOR_FILE]:
            raise ArtifactError(f"{folder / TENSOR_FILE} is damaged: its hash is not the one in {CONTRACT_FILE}{AGAIN}")
        return read_policy(contract, content)
    except (KeyError, TypeError, IndexError, AttributeError) as error:
        raise ArtifactError(f"{folder / CONTRACT_FILE} lacks or mistakes {error}{AGAIN}") from error


def read_spec(contract: dict[str, Any]) -> EnvSpec:
    """What a contract says of the environment."""
    environment = contract["environment"]
    return EnvSpec(
        environment["id"],
        environment["observation"]["shape"][0],
        environment["action"]["shape"][0],
        tuple(environment["action"]["low"]),
        tuple(environment["action"]["high"]),
        kwargs=environment.get("kwargs", {}),
    )


def read_policy(contract: dict[str, Any], content: bytes) -> Policy:
    """The torch policy of a contract and the content of policy.safetensors, which is not checked."""
    tensors = safetensors.torch.load(content)
    stages = []
    for i, kind in enumerate(contract["stages"]):
        own = {name.split(".", 1)[1]: t for name, t in tensors.items() if name.split(".", 1)[0] == str(i)}
        stages.append(_restore(STAGE_KINDS[kind], own))
    return Policy(read_spec(contract), stages)


def remade_files(policy: Policy, contract: dict[str, Any]) -> dict[str, bytes]:
    """The files of an artifact, by name, from its policy and its contract, where `onnx_bytes` wrote policy.onnx.

    The bytes of policy.onnx may depend on the version of onnx: the contract that is returned has the hash of the new
    ones, which must give the golden actions. The same bytes need not: not all CPUs have exact int8 products.
    Raises ArtifactError where the tensors are not those of the contract or an action is not its golden one.
    """
    if len(policy) == len(contract["stages"]) + 1 and isinstance(policy[-1], Clamp):
        # Of an earlier version, which put no clip behind the scaling.
        policy = Policy(policy.spec, list(policy)[:-1])
    tensors = safetensors.torch.save(dict(policy.state_dict()))
    model = onnx_bytes(policy)
    if sha256(tensors) != contract["sha256"][TENSOR_FILE]:
        raise ArtifactError(f"{TENSOR_FILE} has not the hash in {CONTRACT_FILE}{AGAIN}")
    same = sha256(model) == contract["sha256"][ONNX_FILE]
    _check_golden(Path(), contract, policy, None if same else model)
    contract = contract | {"sha256": {ONNX_FILE: sha256(model), TENSOR_FILE: sha256(tensors)}}
    return {ONNX_FILE: model, TENSOR_FILE: tensors, **contract_files(contract)}


def contract_files(contract: dict[str, Any]) -> dict[str, bytes]:
    """policy.json, and the README of it; contracts of earlier versions have no `interface`, and get none."""
    files = {CONTRACT_FILE: json.dumps(contract, indent=1).encode()}
    if "interface" in contract:
        files[README_FILE] = readme(contract).encode()
    return files


def write_files(folder: Path, files: dict[str, bytes]) -> None:
    """Write a whole folder, or none; one that is there is replaced."""
    temporary = folder.with_name(f".{folder.name}.{os.getpid()}.tmp")
    shutil.rmtree(temporary, ignore_errors=True)
    try:
        temporary.mkdir(parents=True)
        for name, content in files.items():
            write_atomic(temporary / name, content)
        shutil.rmtree(folder, ignore_errors=True)
        temporary.replace(folder)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def check_artifact(folder: Path) -> dict[str, Any]:
    """The contract of an artifact whose files are whole and whose policies give its golden actions.

    Raises ArtifactError for a missing, damaged or foreign folder.
    """
    policy = load_policy(folder)
    contract: dict[str, Any] = json.loads((folder / CONTRACT_FILE).read_text())
    if not hashes_match(folder):
        raise ArtifactError(f"{folder / ONNX_FILE} is damaged: its hash is not the one in {CONTRACT_FILE}{AGAIN}")
    try:
        _check_golden(folder, contract, policy, folder / ONNX_FILE)
        contract["algorithm"], contract["compression"]["method"]
    except (KeyError, TypeError, ValueError, IndexError, RuntimeError) as error:
        raise ArtifactError(f"{folder / CONTRACT_FILE} lacks or mistakes {error}{AGAIN}") from error
    return contract


def _check_golden(folder: Path, contract: dict[str, Any], policy: Policy, model: bytes | Path | None) -> None:
    """Raises ArtifactError where an action of the policy, or of the ONNX file if one is given, is not golden."""
    golden = contract["golden"]
    observations, actions = (np.array(golden[name], np.float32) for name in ("observations", "actions"))
    if observations.shape != (len(actions), policy.spec.obs_dim):
        raise ValueError(f"golden observations of shape {observations.shape}")
    _, half_range = policy.spec.action_center_and_scale(torch.device("cpu"))
    given = {TENSOR_FILE: policy(torch.from_numpy(observations)).numpy()}
    if model is not None:
        runner = OnnxPolicy(model)
        given[ONNX_FILE] = np.stack([runner(obs) for obs in observations])
    for name, found in given.items():
        difference = float((np.abs(found - actions) / half_range.numpy()).max())
        if difference > golden["tolerance"]:
            raise ArtifactError(f"{folder / name} differs from its golden actions by {difference:.2g} half ranges")


def check_parity(policy: Policy, runner: OnnxPolicy, observations: FloatArray, tolerance: float) -> Parity:
    """Compare the torch policy with ONNX Runtime, one observation at a time.

    Raises ArtifactError where more than 1 % of the states differ by more than the tolerance.
    """
    _, half_range = policy.spec.action_center_and_scale(torch.device("cpu"))
    with torch.no_grad():
        expected = policy(torch.from_numpy(observations)).numpy()
    actual = np.stack([runner(obs) for obs in observations])
    difference = (np.abs(actual - expected) / half_range.numpy()).max(1)
    p99 = float(np.quantile(difference, PARITY_SHARE))
    parity = Parity(len(observations), float(difference.mean()), p99, float(difference.max()))
    if not p99 <= tolerance:
        raise ArtifactError(f"the ONNX file disagrees with the torch policy: {parity}, tolerance {tolerance}")
    return parity


def _restore(kind: type[nn.Module], tensors: dict[str, torch.Tensor]) -> nn.Module:
    if not tensors:
        return kind()
    if kind is nn.Linear:
        return make_linear(tensors["weight"], tensors["bias"])
    if kind is LowBitLinear:
        return LowBitLinear.from_state(tensors)
    stage = kind.__new__(kind)
    nn.Module.__init__(stage)
    for name, tensor in tensors.items():
        stage.register_buffer(name, tensor)
    return stage


def _environment(spec: EnvSpec) -> dict[str, Any]:
    return {
        "id": spec.env_id,
        **({"kwargs": dict(spec.kwargs)} if spec.kwargs else {}),
        "observation": {"shape": [spec.obs_dim], "dtype": "float32"},
        "action": {
            "shape": [spec.act_dim],
            "dtype": "float32",
            "low": list(spec.action_low),
            "high": list(spec.action_high),
        },
    }


def _normalizer(policy: Policy) -> dict[str, list[float]] | None:
    for stage in policy:
        if isinstance(stage, Standardize):
            return {"mean": stage.mean.tolist(), "inverse_std": stage.inverse_std.tolist()}
    return None
