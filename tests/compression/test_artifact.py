"""ONNX files and the artifact contract, with the real ONNX Runtime."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from torch import nn

from compression.artifact import INT8_TOLERANCE, ArtifactError, load_policy, save_artifact
from compression.equalize import equalized
from compression.files import sha256
from compression.int8 import WEIGHT_LEVELS, StaticQuantLinear, needs_reduced_range, static_quant_linear
from compression.onnx_export import onnx_bytes
from compression.ptdq import DynamicQuantLinear, quantize_dynamic_policy
from compression.ptsq import quantize_static_policy
from compression.runtime import OnnxPolicy, optimized_operators, weight_bytes
from tests.helpers import batches, make_on_policy, make_sac, rollouts, spec
from trainers.envs.spec import EnvSpec
from trainers.nn.activations import ACTIVATIONS
from trainers.nn.stacked import make_linear
from trainers.policy import Policy, Rescale, Standardize, input_standardized
from trainers.tensors import FloatArray

OF = spec(17, 6)
SCALE = np.logspace(-2, 2, 17).astype(np.float32)


def observations(n: int = 300) -> FloatArray:
    """Inputs whose dimensions differ by four orders of magnitude."""
    return np.random.default_rng(0).normal(size=(n, 17)).astype(np.float32) * SCALE + 3 * SCALE


def trained(qat: bool, activation: str = "relu") -> Policy:
    agent, draw = make_sac(OF, [0], qat, hidden=[64, 64], activation=activation), batches(OF, [0], 256)
    for _ in range(40):
        batch = draw()
        obs = torch.from_numpy(observations(256)).unsqueeze(0)
        agent.update(batch._replace(obs=obs, next_obs=obs))
    return agent.policy(0)


@pytest.fixture(scope="module", params=ACTIVATIONS)
def fp32(request: pytest.FixtureRequest) -> Policy:
    return trained(False, request.param)


@pytest.fixture(scope="module", params=ACTIVATIONS)
def qat(request: pytest.FixtureRequest) -> Policy:
    return trained(True, request.param)


def initializers(model: bytes) -> list[onnx.TensorProto]:
    return list(onnx.load_from_string(model).graph.initializer)


def test_fp32_file_agrees_with_torch_at_any_batch(fp32: Policy) -> None:
    runner, obs = OnnxPolicy.from_policy(fp32), observations()
    expected = fp32(torch.from_numpy(obs)).numpy()
    np.testing.assert_allclose(runner.batch(obs), expected, atol=4e-6)
    np.testing.assert_allclose(runner(obs[7]), expected[7], atol=4e-6)


def test_qat_file_is_int8_and_runs_on_integer_kernels(qat: Policy) -> None:
    model = onnx_bytes(qat)
    int8 = [t for t in initializers(model) if t.data_type == onnx.TensorProto.INT8 and len(t.dims) == 2]
    assert [tuple(t.dims) for t in int8] == [(17, 64), (64, 64), (64, 6)]
    assert not any(t.data_type == onnx.TensorProto.FLOAT and len(t.dims) == 2 for t in initializers(model))
    operators = optimized_operators(model)
    assert operators.count("QGemm") == 3
    assert not {"Gemm", "FusedGemm", "MatMul", "DequantizeLinear"} & set(operators)
    assert operators[:2] == ["Sub", "Mul"]  # standardisation in float, in front


def test_qat_file_agrees_with_torch(qat: Policy) -> None:
    runner, obs = OnnxPolicy.from_policy(qat), observations()
    expected = qat(torch.from_numpy(obs)).numpy()
    difference = np.abs(np.stack([runner(o) for o in obs]) - expected) / 0.4
    assert difference.mean() < 5e-4
    assert np.quantile(difference.max(1), 0.99) < INT8_TOLERANCE
    assert np.array_equal(runner.batch(obs)[3], runner(obs[3]))


@pytest.mark.parametrize("reduce_range", [False, True])
def test_ptdq_file_is_int8_and_agrees_with_its_torch_twin_at_batch_1(fp32: Policy, reduce_range: bool) -> None:
    obs = observations()
    twin, model = quantize_dynamic_policy(fp32, obs, reduce_range=reduce_range)
    int8 = [t for t in initializers(model) if t.data_type == onnx.TensorProto.INT8 and len(t.dims) == 2]
    assert [tuple(t.dims) for t in int8] == [(17, 64), (64, 64), (64, 6)]
    assert optimized_operators(model).count("DynamicQuantizeMatMul") == 3
    ours = [stage.weight_int8.T.numpy() for stage in twin if isinstance(stage, DynamicQuantLinear)]
    for mine, theirs in zip(ours, int8, strict=True):
        assert np.abs(mine.astype(int) - onnx.numpy_helper.to_array(theirs)).max() <= 1
    runner = OnnxPolicy(model)
    expected = twin(torch.from_numpy(obs)).numpy()
    difference = np.abs(np.stack([runner(o) for o in obs]) - expected) / 0.4
    assert np.quantile(difference.max(1), 0.99) < INT8_TOLERANCE


def test_equalized_policy_is_the_same_function_of_alike_ranges() -> None:
    """Largest x and largest w of a unit meet in the middle; inputs of six orders of magnitude come together."""
    torch.manual_seed(0)
    obs = torch.from_numpy(observations()) * torch.logspace(-3, 3, 17)
    obs[:, 3] = 7.0  # never moves
    layers = [make_linear(torch.randn(o, i), torch.randn(o)) for i, o in ((17, 24), (24, 24), (24, 6))]
    layers[0].bias[5] = -1e9  # never active
    policy = Policy(OF, [layers[0], nn.ReLU(), layers[1], nn.ReLU(), layers[2]])
    alike = equalized(policy, obs.numpy())
    expected = policy(obs)
    torch.testing.assert_close(alike(obs), expected, rtol=0, atol=1e-4 * expected.abs().max().item())
    assert [type(stage) for stage in alike] == [Standardize, nn.Linear, nn.ReLU, nn.Linear, nn.ReLU, nn.Linear]
    *_, last = alike
    assert isinstance(last, nn.Linear)
    largest, weight = nn.Sequential(*list(alike)[:-1])(obs).amax(0), last.weight.abs().amax(0)
    torch.testing.assert_close(largest[largest > 0], weight[largest > 0], rtol=1e-3, atol=1e-5)
    inputs = alike[0](obs)
    assert inputs[:, 3].abs().max() < 1e-3
    assert inputs.abs().amax(0)[torch.arange(17) != 3].log().std() < 0.6 * obs.abs().amax(0).log().std()


def test_ptdq_needs_alike_ranges() -> None:
    """On raw inputs of mixed scale one range for all inputs loses the small ones, which matter here."""
    first, *rest = trained(False)
    assert isinstance(first, nn.Linear)
    policy = Policy(OF, [make_linear(first.weight / torch.from_numpy(SCALE), first.bias), *rest])
    obs = observations()
    expected = policy(torch.from_numpy(obs))

    def error(twin: Policy) -> float:
        return float((twin(torch.from_numpy(obs)) - expected).square().mean().sqrt())

    raw = [DynamicQuantLinear(stage, WEIGHT_LEVELS) if isinstance(stage, nn.Linear) else stage for stage in policy]
    alike, _ = quantize_dynamic_policy(policy, obs, reduce_range=False)
    assert error(alike) < 0.1 * error(Policy(OF, raw))


@pytest.mark.parametrize("calibration", ["minmax", "entropy", "percentile"])
@pytest.mark.parametrize("reduce_range", [False, True])
def test_ptsq_file_is_int8_and_agrees_with_its_torch_twin(fp32: Policy, calibration: str, reduce_range: bool) -> None:
    obs = observations(600)
    settings: dict[str, Any] = {"calibration": calibration, "percentile": 99.99, "reduce_range": reduce_range}
    twin, model = quantize_static_policy(fp32, obs, **settings)
    int8 = [t for t in initializers(model) if t.data_type == onnx.TensorProto.INT8 and len(t.dims) == 2]
    assert [tuple(t.dims) for t in int8] == [(17, 64), (64, 64), (64, 6)]
    largest = max(int(np.abs(onnx.numpy_helper.to_array(t).astype(int)).max()) for t in int8)
    assert largest == (64 if reduce_range else 127)
    operators = optimized_operators(model)
    assert operators[:3] == ["Sub", "Mul", "QuantizeLinear"]
    assert operators[-4:] == ["QGemm", "Tanh", "Mul", "Clip"]
    assert operators.count("QGemm") == 3
    runner = OnnxPolicy(model)
    difference = np.abs(runner.batch(obs) - twin(torch.from_numpy(obs)).numpy()) / 0.4
    assert np.quantile(difference.max(1), 0.99) < INT8_TOLERANCE
    assert np.array_equal(runner.batch(obs)[3], runner(obs[3]))
    error = (twin(torch.from_numpy(obs)) - fp32(torch.from_numpy(obs))).square().mean().sqrt()
    # Of the action range. Scales pass only some activations, so that the others have ranges less alike.
    smooth = any(isinstance(stage, nn.ELU | nn.SiLU | nn.GELU) for stage in fp32)
    assert error < (0.05 if reduce_range or smooth else 0.02) * 0.8
    assert quantize_static_policy(fp32, obs, **settings)[1] == model


def test_ptsq_ranges_are_those_of_the_calibration(fp32: Policy) -> None:
    """Wider observations, wider ranges; a percentile leaves the largest out."""
    scales = {}
    for name, obs, calibration in (
        ("narrow", observations(), "minmax"),
        ("wide", np.concatenate([observations(), 10 * SCALE[None] * np.ones((1, 17), np.float32)]), "minmax"),
        ("cut", np.concatenate([observations(), 10 * SCALE[None] * np.ones((1, 17), np.float32)]), "percentile"),
    ):
        settings: dict[str, Any] = {"calibration": calibration, "percentile": 99.0, "reduce_range": False}
        twin, _ = quantize_static_policy(fp32, obs, **settings)
        scales[name] = next(s for s in twin if isinstance(s, StaticQuantLinear)).input_scale.item()
    assert scales["cut"] < scales["narrow"] < scales["wide"]


def test_standardised_input_is_the_same_function(fp32: Policy) -> None:
    mean, std = torch.from_numpy(3 * SCALE).double(), torch.from_numpy(SCALE).double()
    obs = torch.from_numpy(observations())
    torch.testing.assert_close(input_standardized(fp32, mean, std)(obs), fp32(obs), atol=1e-5, rtol=1e-4)
    with pytest.raises(ValueError, match="first stage must be a linear layer"):
        input_standardized(input_standardized(fp32, mean, std), mean, std)


def save(folder: Path, policy: Policy, model: bytes | None = None) -> dict[str, Any]:
    return save_artifact(
        folder, policy, model or onnx_bytes(policy), observations(), algorithm="sac", compression={"method": "qat"}
    )


def test_artifact_is_complete_and_can_be_built_again(qat: Policy, tmp_path: Path) -> None:
    folder = tmp_path / "artifact"
    contract = save(folder, qat)
    assert sorted(p.name for p in tmp_path.rglob("*")) == [
        "README.md",
        "artifact",
        "policy.json",
        "policy.onnx",
        "policy.safetensors",
    ]
    assert json.loads((folder / "policy.json").read_text()) == contract
    golden = contract["golden"]
    runner = OnnxPolicy(folder / "policy.onnx")
    for obs, action in zip(golden["observations"], golden["actions"], strict=True):
        np.testing.assert_allclose(runner(np.array(obs, np.float32)), action, atol=0.4 * golden["tolerance"])
    obs = torch.from_numpy(observations())
    again = load_policy(folder)
    assert torch.equal(again(obs), qat(obs))
    assert onnx_bytes(again) == (folder / "policy.onnx").read_bytes()
    assert contract["sha256"]["policy.onnx"] == sha256((folder / "policy.onnx").read_bytes())


def test_weight_bytes_count_every_initialiser() -> None:
    policy = Policy(spec(3, 2, 1.0), [nn.Linear(3, 2), nn.Tanh(), Rescale(torch.zeros(2), torch.ones(2))])
    assert weight_bytes(onnx_bytes(policy)) == 4 * (3 * 2 + 2)


def test_a_file_that_disagrees_is_refused_and_nothing_is_written(qat: Policy, tmp_path: Path) -> None:
    other = load_policy_with_changed_weights(qat)
    with pytest.raises(ArtifactError, match="disagrees with the torch policy"):
        save(tmp_path / "artifact", qat, onnx_bytes(other))
    assert list(tmp_path.iterdir()) == []


def load_policy_with_changed_weights(policy: Policy) -> Policy:
    stages = list(policy)
    layer = next(i for i, s in enumerate(stages) if isinstance(s, StaticQuantLinear))
    old = stages[layer]
    assert isinstance(old, StaticQuantLinear)
    weight = old.weight_int8 * old.weight_scale.unsqueeze(1)
    bias = old.bias_int32 * old.weight_scale * old.input_scale
    stages[layer] = static_quant_linear(1.1 * weight, bias, old.input_scale, old.input_zero_point, WEIGHT_LEVELS)
    return Policy(policy.spec, stages)


def test_an_int8_policy_with_a_float_file_is_refused(fp32: Policy, qat: Policy, tmp_path: Path) -> None:
    with pytest.raises(ArtifactError, match="3 layers are int8, but ONNX Runtime would run 0 so"):
        save(tmp_path / "artifact", qat, onnx_bytes(fp32))


def test_damaged_and_foreign_artifacts_are_refused(qat: Policy, tmp_path: Path) -> None:
    folder = tmp_path / "artifact"
    with pytest.raises(ArtifactError, match="is no artifact"):
        load_policy(folder)
    save(folder, qat)
    tensors = folder / "policy.safetensors"
    content = bytearray(tensors.read_bytes())
    content[-1] ^= 1
    tensors.write_bytes(content)
    with pytest.raises(ArtifactError, match="is damaged"):
        load_policy(folder)
    (folder / "policy.json").write_text('{"format": "other"}')
    with pytest.raises(ArtifactError, match="is not of the format"):
        load_policy(folder)


def test_vnni_decides_on_x86_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("platform.machine", lambda: "arm64")
    assert needs_reduced_range() is False
    monkeypatch.setattr("platform.machine", lambda: "x86_64")
    for flags, expected in (("fpu avx2", True), ("fpu avx2 avx512_vnni", False)):
        monkeypatch.setattr(Path, "read_text", lambda self, flags=flags: flags)
        assert needs_reduced_range() is expected


@pytest.mark.parametrize(("low", "high"), [((-0.4, -0.4), (0.4, 0.4)), ((-1.0, 0.0), (3.0, 10.0))])
def test_a_clipped_output_runs_on_integers_in_any_bounds(low: tuple[float, ...], high: tuple[float, ...]) -> None:
    """ONNX Runtime takes a layer in front of a clip that is scaled afterwards back to float."""
    of = EnvSpec("Test-v0", 5, 2, low, high)
    agent = make_on_policy("ppo", of, [0], qat=True, hidden="[16]")
    draw = rollouts(of, [0], 64, 2)
    agent.update(draw(agent))
    policy = agent.policy(0)
    model = onnx_bytes(policy)
    assert optimized_operators(model).count("QGemm") == 2
    obs = 100 * torch.randn(200, 5, generator=torch.Generator().manual_seed(0))
    actions = OnnxPolicy(model).batch(obs.numpy())
    np.testing.assert_allclose(actions, policy(obs).numpy(), atol=1e-2)
    assert (actions >= low).all()
    assert (actions <= high).all()
