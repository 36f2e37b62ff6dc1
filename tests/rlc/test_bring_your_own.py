"""rlc.compress and rlc.export: policies of Stable-Baselines3 and artifacts, and what is refused in one line."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from stable_baselines3 import PPO, SAC, TD3

from compression.artifact import ArtifactError, check_artifact, load_policy
from compression.pruning import PruningError
from compression.runtime import optimized_operators
from rlc.compress import compress
from rlc.export import export
from trainers.envs.make import make_env
from trainers.errors import UserError

MODELS: dict[str, Any] = {
    "ppo": (PPO, {}, "Hopper-v4"),
    "sac": (SAC, {"policy_kwargs": {"net_arch": [32, 16]}}, "Humanoid-v4"),
    "td3": (TD3, {"policy_kwargs": {"net_arch": [16, 16], "activation_fn": torch.nn.GELU}}, "Hopper-v4"),
    "linear": (SAC, {"policy_kwargs": {"net_arch": {"pi": [], "qf": [8]}}}, "Hopper-v4"),
}


def saved(name: str, folder: Path, **changes: Any) -> tuple[Any, Path, str]:
    """A model of Stable-Baselines3 with fresh weights, its file, and its environment."""
    cls, settings, env_id = MODELS[name]
    model = cls("MlpPolicy", make_env(env_id), device="cpu", seed=0, **(settings | changes))
    with torch.no_grad():
        for parameter in model.policy.parameters():
            parameter.mul_(1.5)
    model.save(folder / f"{name}.zip")
    return model, folder / f"{name}.zip", env_id


@pytest.mark.parametrize(
    ("name", "method"),
    [("sac", "ptsq"), ("sac", "prune_qat"), ("td3", "ptdq"), ("td3", "prune_qat"), ("linear", "ptsq")],
)
def test_a_policy_is_compressed_and_exported(
    name: str, method: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    _, path, env_id = saved(name, tmp_path)
    few = "compress.calibration_steps=100 eval.episodes=1"
    if method == "prune_qat":
        few += " compress.distill.steps=20 compress.distill.states=50"
    compress(f"policy={path.name} +compress={method} env.id={env_id} {few}".split())
    folder = next(tmp_path.glob(f"{name}-{method}*"))
    said = capsys.readouterr().out.splitlines()
    assert said[0] == f"evaluating {name}.zip: 1 episode"
    assert said[-2].startswith(f"{name}.zip: {env_id}, return ")
    assert said[-1].startswith(f"{folder.name}: {method}")
    operators = optimized_operators((folder / "policy.onnx").read_bytes())
    kernel = "DynamicQuantizeMatMul" if method == "ptdq" else "QGemm"
    assert operators.count(kernel) == (1 if name == "linear" else 3)
    export([f"run={folder}", "to=deployed"])
    contract = check_artifact(tmp_path / "deployed")
    assert contract["algorithm"] == "stable-baselines3"
    assert contract["origin"]["compressed from"] == f"{name}.zip"
    assert f"return {contract['origin']['return']}, " in said[-1]
    assert f"compressed from {name}.zip" in (tmp_path / "deployed" / "README.md").read_text()
    with pytest.raises(UserError, match="to=deployed: exists already"):
        export([f"run={folder}", "to=deployed"])


def test_the_same_policy_gives_the_same_bytes_and_artifacts_can_be_compressed_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    saved("ppo", tmp_path)
    few = ["compress.calibration_steps=100", "eval.episodes=1"]
    compress(["policy=ppo.zip", "env=hopper", "statistics=none", "eval.episodes=1", "to=fp32"])
    for target in ("one", "two"):
        compress(["policy=fp32", "+compress=ptdq", f"to={target}", *few])
    assert Path("one/policy.onnx").read_bytes() == Path("two/policy.onnx").read_bytes()
    assert check_artifact(Path("fp32"))["algorithm"] == "stable-baselines3"
    with pytest.raises(UserError, match="policy=one: is quantised already"):
        compress(["policy=one", "+compress=ptsq"])
    with pytest.raises(UserError, match=r"env\.id=Ant-v4: fp32 was made for Hopper-v4"):
        compress(["policy=fp32", "+compress=ptsq", "env=ant"])


REFUSED = {
    "+compress=ptsq": "policy: none given",
    "policy=ppo.zip +compress=ptsq": "env: none given, and ppo.zip does not name its environment; add env=<name>",
    "policy=ppo.zip +compress=ptsq eval.episodes=1": "env: none given",
    "policy=ppo.zip +compress=ptsq env=hopper": "add statistics=<its vecnormalize.pkl>, or statistics=none if",
    "policy=ppo.zip +compress=ptsq env=ant": "maps 11 observations to 3 actions, but Ant-v4 has 27 and 8",
    "policy=ppo.zip policy=ppo.zip": "policy=ppo.zip: policy is given twice",
    "policy=nowhere.zip env=hopper": "policy=nowhere.zip: there is no such file; allowed: .zip",
    "policy=text.zip env=hopper": "policy=text.zip: is no Stable-Baselines3 file",
    "policy=ppo.zip env=hopper activation=mish": "activation=mish: unknown; allowed: relu, tanh, elu",
    "policy=ppo.zip env=hopper activation=relu": "activation=relu: the file says tanh",
    "policy=ppo.zip env=hopper actions=scale": "actions=scale: unknown; allowed: rescale, clip",
    "policy=ppo.zip env=hopper statistics=text.zip": "statistics=text.zip: cannot be read",
    "policy=linear.zip env=hopper +compress=prune_l1": "no hidden layer to prune; allowed for it: ptdq, ptsq",
    "policy=. statistics=none": "statistics=none: . is an artifact, which says it; leave statistics out",
    "policy=ppo.zip env=hopper +compress=qat": "compress=qat: trains a policy from the start",
    "policy=ppo.zip env=hopper +compress=ptsq,ptdq": "one policy is compressed here, and nothing trained",
    "policy=ppo.zip env=hopper +algo=sac": "one policy is compressed here, and nothing trained",
    "policy=ppo.zip env=hopper +compress=prune_l1 compress.finetune=rl": "needs the critics of a run",
    "policy=ppo.zip env=hopper +compress=prune_l1 compress.ratio=1.5": "compress.ratio=1.5: must be less than 1",
    "policy=ppo.zip env=hopper statistics=none +compress=prune_l1 compress.ratio=0.999": "would be left [0, 0]",
    "policy=ppo.zip env=hopper +compress=ptsq compress.foo=1": "compress.foo=1: no such key",
    "policy=ppo.zip env=hopper statistics=none to=.": "to=.: exists already",
    "policy=. env=hopper": "is no artifact",
}


@pytest.mark.parametrize("arguments", REFUSED)
def test_what_cannot_be_done_is_one_line_and_leaves_nothing(
    arguments: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    saved("ppo", tmp_path)
    saved("linear", tmp_path)
    (tmp_path / "text.zip").write_text("no archive")
    before = sorted(tmp_path.iterdir())
    with pytest.raises((UserError, ArtifactError, PruningError)) as caught:
        compress(arguments.split())
    assert REFUSED[arguments] in str(caught.value)
    assert "\n" not in str(caught.value)
    assert sorted(tmp_path.iterdir()) == before


@pytest.mark.parametrize("name", ["policy.onnx", "policy.safetensors", "policy.json"])
def test_a_damaged_artifact_is_refused(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    saved("ppo", tmp_path)
    compress(["policy=ppo.zip", "env=hopper", "statistics=none", "eval.episodes=1", "to=fp32"])
    path = tmp_path / "fp32" / name
    content = path.read_bytes()
    path.write_bytes(content[:-9] + b"123456789")
    with pytest.raises(ArtifactError) as caught:
        export(["run=fp32"])
    assert "\n" not in str(caught.value)
    if name == "policy.json":
        contract = json.loads(content)
        contract["golden"]["actions"][0][0] += 0.1
        path.write_text(json.dumps(contract))
        with pytest.raises(ArtifactError, match=r"differs from its golden actions by 0\.1 half ranges"):
            export(["run=fp32"])
        del contract["environment"]
        path.write_text(json.dumps(contract))
        with pytest.raises(ArtifactError, match=r"policy.json lacks or mistakes 'environment'"):
            export(["run=fp32"])
    path.write_bytes(content)
    assert load_policy(tmp_path / "fp32").spec.env_id == "Hopper-v4"
