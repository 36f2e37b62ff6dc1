"""rlc.compress and rlc.export: policies of Stable-Baselines3 and artifacts, and what is refused in one line."""

import io
import json
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from sb3_contrib import TRPO
from stable_baselines3 import DDPG, PPO, SAC, TD3

from compression.artifact import ArtifactError, check_artifact, load_policy
from compression.pruning import PruningError
from compression.runtime import optimized_operators
from compression.sb3 import read_sb3
from rlc.compress import compress
from rlc.export import export
from trainers.envs.make import make_env, spec_of
from trainers.errors import UserError

RELU = {"activation_fn": torch.nn.ReLU, "net_arch": {"pi": [32], "vf": [16]}}
MODELS: dict[str, Any] = {
    "ppo": (PPO, {}, "Hopper-v4"),
    "trpo": (TRPO, {"policy_kwargs": RELU}, "Humanoid-v4"),
    "sac": (SAC, {"policy_kwargs": {"net_arch": [32, 16]}}, "Humanoid-v4"),
    "td3": (TD3, {"policy_kwargs": {"net_arch": [16, 16], "activation_fn": torch.nn.Tanh}}, "Hopper-v4"),
    "ddpg": (DDPG, {"policy_kwargs": {"net_arch": [16]}}, "Humanoid-v4"),
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


@pytest.mark.parametrize("name", MODELS)
def test_a_policy_read_from_a_file_acts_as_it_did_there(name: str, tmp_path: Path) -> None:
    model, path, env_id = saved(name, tmp_path)
    spec = spec_of(env_id)
    obs = 3 * np.random.default_rng(0).normal(size=(200, spec.obs_dim)).astype(np.float32)
    expected, _ = model.predict(obs, deterministic=True)
    policy = read_sb3(path, spec, activation=None, statistics=None)
    np.testing.assert_allclose(policy(torch.from_numpy(obs)).numpy(), expected, atol=1e-5)


def test_observation_statistics_stand_in_front(tmp_path: Path) -> None:
    from stable_baselines3.common.vec_env import DummyVecEnv, VecNormalize

    model, path, env_id = saved("ppo", tmp_path)
    normalizer = VecNormalize(DummyVecEnv([lambda: make_env(env_id)]), clip_obs=2.0)
    generator = np.random.default_rng(0)
    statistics = normalizer.obs_rms
    assert not isinstance(statistics, dict)
    statistics.update(generator.normal(5, 3, (1000, 11)))
    stats = {"mean": statistics.mean, "var": statistics.var}
    np.savez(tmp_path / "s.npz", **stats, epsilon=normalizer.epsilon, clip_obs=normalizer.clip_obs)
    obs = generator.normal(5, 9, (200, 11))
    expected, _ = model.predict(normalizer.normalize_obs(obs), deterministic=True)
    policy = read_sb3(path, spec_of(env_id), activation=None, statistics=tmp_path / "s.npz")
    np.testing.assert_allclose(policy(torch.from_numpy(obs).float()).numpy(), expected, atol=1e-4)


@pytest.mark.parametrize("method", ["ptsq", "prune_qat"])
def test_a_policy_is_compressed_and_exported(
    method: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    saved("sac", tmp_path)
    few = "compress.calibration_steps=100 eval.episodes=1"
    if method == "prune_qat":
        few += " compress.distill.steps=20 compress.distill.states=50"
    compress(f"policy=sac.zip +compress={method} env=humanoid {few}".split())
    folder = next(tmp_path.glob(f"sac-{method}*"))
    said = capsys.readouterr().out.splitlines()
    assert said[0].startswith("sac.zip: Humanoid-v4, return ")
    assert said[1].startswith(f"{folder.name}: {method}")
    assert optimized_operators((folder / "policy.onnx").read_bytes()).count("QGemm") == 3
    export([f"run={folder}", "to=deployed"])
    assert check_artifact(tmp_path / "deployed")["algorithm"] == "stable-baselines3"
    with pytest.raises(UserError, match="to=deployed: exists already"):
        export([f"run={folder}", "to=deployed"])


def test_the_same_policy_gives_the_same_bytes_and_artifacts_can_be_compressed_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    saved("ppo", tmp_path)
    few = ["compress.calibration_steps=100", "eval.episodes=1"]
    compress(["policy=ppo.zip", "env=hopper", "eval.episodes=1", "to=fp32"])
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
    "policy=ppo.zip +compress=ptsq env=ant": "maps 11 observations to 3 actions, but Ant-v4 has 27 and 8",
    "policy=ppo.zip policy=ppo.zip": "policy=ppo.zip: policy is given twice",
    "policy=nowhere.zip env=hopper": "policy=nowhere.zip: is no Stable-Baselines3 file",
    "policy=text.zip env=hopper": "policy=text.zip: is no Stable-Baselines3 file",
    "policy=ppo.zip env=hopper activation=gelu": "activation=gelu: unknown; allowed: relu, tanh",
    "policy=ppo.zip env=hopper statistics=text.zip": "statistics=text.zip: is no .npz with mean, var",
    "policy=ppo.zip env=hopper +compress=qat": "compress=qat: trains a policy from the start",
    "policy=ppo.zip env=hopper +compress=ptsq,ptdq": "one policy is compressed here, and nothing trained",
    "policy=ppo.zip env=hopper +algo=sac": "one policy is compressed here, and nothing trained",
    "policy=ppo.zip env=hopper +compress=prune_l1 compress.finetune=rl": "needs the critics of a run",
    "policy=ppo.zip env=hopper +compress=prune_l1 compress.ratio=1.5": "compress.ratio=1.5: must be less than 1",
    "policy=ppo.zip env=hopper +compress=prune_l1 compress.ratio=0.999": "would be left [0, 0]",
    "policy=ppo.zip env=hopper +compress=ptsq compress.foo=1": "compress.foo=1: no such key",
    "policy=ppo.zip env=hopper to=.": "to=.: exists already",
    "policy=. env=hopper": "is no artifact",
}


@pytest.mark.parametrize("arguments", REFUSED)
def test_what_cannot_be_done_is_one_line_and_leaves_nothing(
    arguments: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    saved("ppo", tmp_path)
    (tmp_path / "text.zip").write_text("no archive")
    before = sorted(tmp_path.iterdir())
    with pytest.raises((UserError, ArtifactError, PruningError)) as caught:
        compress(arguments.split())
    assert REFUSED[arguments] in str(caught.value)
    assert "\n" not in str(caught.value)
    assert sorted(tmp_path.iterdir()) == before


def rewritten(path: Path, change: Any) -> Path:
    """The file with its JSON part changed."""
    with zipfile.ZipFile(path) as archive:
        parts = {name: archive.read(name) for name in archive.namelist()}
    data = json.loads(parts["data"])
    change(data)
    parts["data"] = json.dumps(data).encode()
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in parts.items():
            archive.writestr(name, content)
    return path


def test_an_activation_that_the_file_does_not_say_must_be_given(tmp_path: Path) -> None:
    model, path, env_id = saved("ppo", tmp_path)
    rewritten(path, lambda data: data["policy_class"].update({"__module__": "mine"}))
    spec, obs = spec_of(env_id), np.ones((3, 11), np.float32)
    with pytest.raises(UserError, match="its hidden activation is not in the file; add activation=relu or tanh"):
        read_sb3(path, spec, activation=None, statistics=None)
    policy = read_sb3(path, spec, activation="tanh", statistics=None)
    np.testing.assert_allclose(policy(torch.from_numpy(obs)), model.predict(obs, deterministic=True)[0], atol=1e-5)


def test_nothing_in_a_file_is_unpickled(tmp_path: Path) -> None:
    class Evil:
        def __reduce__(self) -> Any:
            return (Path.touch, (tmp_path / "pwned",))

    _, path, env_id = saved("ppo", tmp_path)
    buffer = io.BytesIO()
    torch.save({"action_net.weight": Evil()}, buffer)
    with zipfile.ZipFile(path) as archive:
        data = archive.read("data")
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("data", data)
        archive.writestr("policy.pth", buffer.getvalue())
    with pytest.raises(UserError, match=r"its policy\.pth does not hold plain tensors"):
        read_sb3(path, spec_of(env_id), activation=None, statistics=None)
    assert not (tmp_path / "pwned").exists()


@pytest.mark.parametrize("name", ["policy.onnx", "policy.safetensors", "policy.json"])
def test_a_damaged_artifact_is_refused(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    saved("ppo", tmp_path)
    compress(["policy=ppo.zip", "env=hopper", "eval.episodes=1", "to=fp32"])
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
