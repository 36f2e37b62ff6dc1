"""Policies of other trainers act here as they do there, or are refused by the name of what is not understood."""

import base64
import functools
import io
import json
import pickle
import shutil
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch
from sb3_contrib import TQC, TRPO, CrossQ, RecurrentPPO
from stable_baselines3 import A2C, DDPG, PPO, SAC, TD3
from stable_baselines3.common.policies import ActorCriticPolicy
from stable_baselines3.common.torch_layers import FlattenExtractor
from stable_baselines3.common.vec_env import DummyVecEnv, VecNormalize
from torch import nn

from tests.helpers import act_on, import_file, import_refusal, probe_observations
from trainers.envs.make import make_env, spec_of
from trainers.nn.activations import ACTIVATIONS

HOPPER, HUMANOID = "Hopper-v4", "Humanoid-v4"
SMALL = {"net_arch": [32, 16]}


def save(cls: Any, folder: Path, env: Any, policy: str = "MlpPolicy", **settings: Any) -> tuple[Any, Path]:
    model = cls(policy, env, device="cpu", seed=0, **settings)
    with torch.no_grad():
        for parameter in model.policy.parameters():
            parameter.mul_(1.7)
    model.save(folder / "model.zip")
    return model, folder / "model.zip"


def kwargs(**policy: Any) -> dict[str, Any]:
    return {"policy_kwargs": {**SMALL, **policy}}


SDE = {"use_sde": True, **kwargs(use_expln=True, log_std_init=-2)}
SB3: dict[str, tuple[Any, str, dict[str, Any]]] = {
    "ppo": (PPO, HOPPER, kwargs()),
    "ppo of separate networks": (PPO, HUMANOID, kwargs(net_arch={"pi": [32], "vf": [16]})),
    "ppo without hidden layers": (PPO, HOPPER, kwargs(net_arch={"pi": [], "vf": [64]})),
    "ppo with gSDE": (PPO, HUMANOID, SDE),
    "ppo squashed": (PPO, HUMANOID, {"use_sde": True, **kwargs(squash_output=True)}),
    "a2c": (A2C, HUMANOID, kwargs()),
    "trpo": (TRPO, HUMANOID, kwargs(ortho_init=False)),
    "sac": (SAC, HUMANOID, kwargs()),
    "sac without hidden layers": (SAC, HOPPER, kwargs(net_arch={"pi": [], "qf": [64]})),
    "td3": (TD3, HUMANOID, kwargs()),
    "ddpg": (DDPG, HOPPER, kwargs()),
    "tqc": (TQC, HUMANOID, kwargs()),
    **{f"ppo {name}": (PPO, HUMANOID, kwargs(activation_fn=cls)) for name, cls in ACTIVATIONS.items()},
    **{f"td3 {name}": (TD3, HUMANOID, kwargs(activation_fn=cls)) for name, cls in ACTIVATIONS.items()},
}


class TestStableBaselines3:
    @pytest.mark.parametrize("name", SB3)
    def test_actions_are_those_of_predict(self, name: str, tmp_path: Path) -> None:
        cls, env_id, settings = SB3[name]
        model, path = save(cls, tmp_path, make_env(env_id), **settings)
        obs = probe_observations(spec_of(env_id))
        imported = import_file(path, env_id, statistics="none")
        np.testing.assert_allclose(act_on(imported.policy, obs), model.predict(obs, deterministic=True)[0], atol=1e-5)
        assert (imported.algorithm, imported.notes) == ("stable-baselines3", [])

    @pytest.mark.parametrize(
        ("cls", "settings"), [(PPO, {}), (PPO, {"use_sde": True, **kwargs(squash_output=True)}), (SAC, kwargs())]
    )
    def test_rescaled_actions_are_the_torque_in_the_environment(
        self, cls: Any, settings: dict[str, Any], tmp_path: Path
    ) -> None:
        wrapped = gym.wrappers.RescaleAction(make_env(HUMANOID), np.float32(-1), np.float32(1))
        model, path = save(cls, tmp_path, wrapped, **settings)
        obs = probe_observations(spec_of(HUMANOID))
        message = import_refusal(path, HUMANOID, statistics="none")
        assert "its actions lie in [-1, 1], those of Humanoid-v4 in [-0.4, 0.4]; add actions=rescale if" in message
        # A clip would not be what the file says.
        message = import_refusal(path, HUMANOID, statistics="none", actions="clip")
        assert "actions=clip: the file says that its actions lie in [-1, 1]; leave actions out" in message
        policy = import_file(path, HUMANOID, statistics="none", actions="rescale").policy
        torque = wrapped.action(model.predict(obs, deterministic=True)[0])
        np.testing.assert_allclose(act_on(policy, obs), torque, atol=1e-5)

    def test_another_environment_is_refused(self, tmp_path: Path) -> None:
        _, path = save(SAC, tmp_path, make_env(HOPPER), **kwargs())
        assert "maps 11 observations to 3 actions, but Humanoid-v4 has 376 and 17" in import_refusal(path, HUMANOID)
        wrapped = gym.wrappers.RescaleObservation(make_env("Pendulum-v1"), np.float32(-1), np.float32(1))
        _, path = save(SAC, tmp_path, wrapped, **kwargs())
        message = import_refusal(path, "Pendulum-v1")
        assert "its observations lie in [-1, 1], those of Pendulum-v1 in [-8, 8], [-1, 1]; name the env" in message

    def test_what_is_not_understood_is_named(self, tmp_path: Path) -> None:
        class Scaled(FlattenExtractor):
            pass

        class Mine(ActorCriticPolicy):
            pass

        cases: list[tuple[Any, dict[str, Any], str]] = [
            (PPO, kwargs(activation_fn=nn.Mish), "its hidden activation is torch.nn.modules.activation.Mish; allowed"),
            (PPO, kwargs(activation_fn=lambda: nn.LeakyReLU(0.2)), "activation is a function of the training script"),
            (PPO, kwargs(activation_fn=functools.partial(nn.ELU, 0.5)), "its hidden activation is functools.partial"),
            (PPO, kwargs(features_extractor_class=Scaled), "its features extractor is Scaled of the training script"),
            (SAC, {"use_sde": True, **kwargs()}, "use_sde: gSDE of SAC"),
            (PPO, {"policy": Mine, **kwargs()}, "its policy class is"),
            (CrossQ, kwargs(), "its policy class is sb3_contrib.crossq.policies.CrossQPolicy"),
            (RecurrentPPO, {"policy": "MlpLstmPolicy"}, "has lstm_actor"),
        ]
        for cls, settings, expected in cases:
            _, path = save(cls, tmp_path, make_env(HOPPER), **settings)
            assert expected in import_refusal(path, HOPPER, statistics="none")

    def test_shared_layers_of_old_versions_are_named(self, tmp_path: Path) -> None:
        _, path = save(PPO, tmp_path, make_env(HOPPER))

        def share(tensors: dict[str, Any]) -> dict[str, Any]:
            return {name.replace("policy_net", "shared_net"): tensor for name, tensor in tensors.items()}

        rewritten(path, tensors=share)
        assert "has mlp_extractor.shared_net" in import_refusal(path, HOPPER, statistics="none")

    def test_the_file_says_its_activation(self, tmp_path: Path) -> None:
        _, path = save(PPO, tmp_path, make_env(HOPPER), **kwargs(activation_fn=nn.ELU))
        assert import_file(path, HOPPER, statistics="none", activation="elu").algorithm
        message = import_refusal(path, HOPPER, statistics="none", activation="relu")
        assert "activation=relu: the file says elu; leave activation out" in message

    def test_weights_that_diverged_are_refused(self, tmp_path: Path) -> None:
        _, path = save(PPO, tmp_path, make_env(HOPPER))
        rewritten(path, tensors=lambda tensors: tensors | {"action_net.weight": torch.full((3, 64), torch.nan)})
        assert "action_net.weight has numbers that are not finite" in import_refusal(path, HOPPER, statistics="none")

    def test_other_settings_than_tensors_are_refused(self, tmp_path: Path) -> None:
        _, path = save(PPO, tmp_path, make_env(HOPPER), **kwargs())
        assert import_file(path, HOPPER, statistics="none").algorithm
        rewritten(path, data=lambda data: data["policy_kwargs"].update({"net_arch": [8, 8]}))
        assert "net_arch=[8, 8]: but its hidden layers have [32, 16] units" in import_refusal(
            path, HOPPER, statistics="none"
        )
        rewritten(path, data=lambda data: data["policy_kwargs"].update({"mean_scale": 3}))
        assert "made with mean_scale" in import_refusal(path, HOPPER, statistics="none")

    def test_nothing_in_the_data_is_unpickled(self, tmp_path: Path) -> None:
        _, path = save(PPO, tmp_path, make_env(HOPPER))
        evil = base64.b64encode(pickle.dumps(Evil(tmp_path / "ran"))).decode()
        for key in ("policy_class", "policy_kwargs", "action_space", "observation_space", "_last_original_obs"):
            changed = shutil.copy(path, tmp_path / f"{key}.zip")
            rewritten(Path(changed), data=functools.partial(dict.update, **{key: {":serialized:": evil}}))
            import_refusal(Path(changed), HOPPER)
        assert not (tmp_path / "ran").exists()


class Evil:
    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> Any:
        return (Path.touch, (self.path,))


def rewritten(
    path: Path, data: Callable[[Any], Any] | None = None, tensors: Callable[[Any], Any] | None = None
) -> None:
    """Change the JSON part or the tensors of a file of Stable-Baselines3."""
    with zipfile.ZipFile(path) as archive:
        parts = {name: archive.read(name) for name in archive.namelist()}
    if data is not None:
        content = json.loads(parts["data"])
        data(content)
        parts["data"] = json.dumps(content).encode()
    if tensors is not None:
        buffer = io.BytesIO()
        torch.save(tensors(torch.load(io.BytesIO(parts["policy.pth"]), weights_only=True)), buffer)
        parts["policy.pth"] = buffer.getvalue()
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in parts.items():
            archive.writestr(name, content)


class TestVecNormalize:
    @pytest.fixture
    def trained(self, tmp_path: Path) -> tuple[Any, VecNormalize, Path]:
        envs = VecNormalize(DummyVecEnv([lambda: make_env(HOPPER)]), clip_obs=3.0)
        model = PPO("MlpPolicy", envs, n_steps=64, batch_size=64, device="cpu", seed=0)
        model.learn(128)
        model.save(tmp_path / "model.zip")
        return model, envs, tmp_path / "model.zip"

    def test_the_pickle_gives_the_actions_of_the_training(self, trained: tuple[Any, VecNormalize, Path]) -> None:
        model, envs, path = trained
        envs.save(str(path.with_name("stats.pkl")))
        obs = probe_observations(spec_of(HOPPER), 5.0)
        expected, _ = model.predict(envs.normalize_obs(obs), deterministic=True)
        policy = import_file(path, HOPPER, statistics=str(path.with_name("stats.pkl"))).policy
        np.testing.assert_allclose(act_on(policy, obs), expected, atol=1e-4)

    def test_every_protocol_is_read(self, trained: tuple[Any, VecNormalize, Path]) -> None:
        _, envs, path = trained
        policies = []
        for protocol in range(pickle.HIGHEST_PROTOCOL + 1):
            path.with_name("stats.pkl").write_bytes(pickle.dumps(envs, protocol))
            policies.append(import_file(path, HOPPER, statistics=str(path.with_name("stats.pkl"))).policy)
        obs = probe_observations(spec_of(HOPPER))
        assert all(np.array_equal(act_on(policy, obs), act_on(policies[0], obs)) for policy in policies)

    @pytest.mark.parametrize("raw", [False, np.bool_(False), 0])
    def test_statistics_that_were_not_used_are_not_used(
        self, raw: Any, trained: tuple[Any, VecNormalize, Path]
    ) -> None:
        _, envs, path = trained
        envs.norm_obs = raw
        envs.save(str(path.with_name("stats.pkl")))
        assert len(import_file(path, HOPPER, statistics=str(path.with_name("stats.pkl"))).policy) == 6

    def test_a_file_beside_the_model_is_named(self, trained: tuple[Any, VecNormalize, Path], tmp_path: Path) -> None:
        _, envs, path = trained
        assert "was trained behind VecNormalize; add statistics=<its vecnormalize.pkl>" in import_refusal(path, HOPPER)
        (tmp_path / HOPPER).mkdir()
        for place in (f"{HOPPER}/vecnormalize.pkl", "vecnormalize.pkl"):
            envs.save(str(tmp_path / place))
            assert f"was trained behind VecNormalize; add statistics={tmp_path / place}" in import_refusal(path, HOPPER)
        (tmp_path / "other").mkdir()
        _, raw = save(SAC, tmp_path / "other", make_env(HOPPER), **kwargs())
        assert import_file(raw, HOPPER).notes == []
        envs.save(str(tmp_path / "other" / "vecnormalize.pkl"))
        assert "vecnormalize.pkl lies beside it; add statistics=" in import_refusal(raw, HOPPER)
        (note,) = import_file(path, HOPPER, statistics="none").notes
        assert "was trained behind VecNormalize; taken without its statistics" in note

    def test_off_policy_models_behind_it_are_recognised(self, tmp_path: Path) -> None:
        for norm_obs in (True, False):
            envs = VecNormalize(DummyVecEnv([lambda: make_env(HOPPER)]), norm_obs=norm_obs)
            model = SAC("MlpPolicy", envs, learning_starts=1000, device="cpu", policy_kwargs=SMALL)
            model.learn(20)
            model.save(tmp_path / "model.zip")
            if norm_obs:
                assert "was trained behind VecNormalize" in import_refusal(tmp_path / "model.zip", HOPPER)
            else:
                assert len(import_file(tmp_path / "model.zip", HOPPER).policy) == 8
                envs.save(str(tmp_path / "stats.pkl"))
                stated = import_file(tmp_path / "model.zip", HOPPER, statistics=str(tmp_path / "stats.pkl"))
                assert len(stated.policy) == 8

    def test_rollout_models_need_a_word_about_statistics(self, tmp_path: Path) -> None:
        _, path = save(A2C, tmp_path, make_env(HOPPER))
        assert "or statistics=none if it was trained on raw observations" in import_refusal(path, HOPPER)

    def test_hostile_and_foreign_statistics_are_refused(self, tmp_path: Path) -> None:
        _, path = save(PPO, tmp_path, make_env(HOPPER))
        other = VecNormalize(DummyVecEnv([lambda: make_env(HUMANOID)]))
        other.save(str(tmp_path / "other.pkl"))
        contents = {
            "evil.pkl": pickle.dumps(Evil(tmp_path / "ran")),
            "hidden.pkl": pickle.dumps({"obs_rms": Evil(tmp_path / "ran")}),
            "text.pkl": b"no pickle",
            "escapes.pkl": b"cx\x1b[2J\nVecNormalize\n.",
            "empty.pkl": b"",
        }
        for name, content in contents.items():
            (tmp_path / name).write_bytes(content)
        for name in (*contents, "missing.pkl"):
            message = import_refusal(path, HOPPER, statistics=str(tmp_path / name))
            assert f"statistics={tmp_path / name}: cannot be read" in message
            assert message.endswith("mean, var, epsilon, clip_obs, none")
            assert message.isprintable()
        assert "has 376 means and 376 variances" in import_refusal(path, HOPPER, statistics=str(tmp_path / "other.pkl"))
        assert not (tmp_path / "ran").exists()

    def test_numbers_that_are_no_statistics_are_refused(self, tmp_path: Path) -> None:
        _, path = save(PPO, tmp_path, make_env(HOPPER))
        np.savez(tmp_path / "s.npz", mean=np.full(11, np.nan), var=np.ones(11), epsilon=1e-8, clip_obs=10.0)
        assert "no usable numbers" in import_refusal(path, HOPPER, statistics=str(tmp_path / "s.npz"))
