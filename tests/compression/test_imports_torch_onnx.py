"""Checkpoints of CleanRL and rsl_rl, and ONNX files: the actions of the network that wrote them, or a refusal."""

import warnings
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper
from stable_baselines3 import PPO, SAC
from torch import Tensor, nn

from compression.onnx_export import onnx_bytes
from tests.compression.test_imports import Evil
from tests.helpers import POLICIES, act_on, import_file, import_refusal, probe_observations
from trainers.envs.make import make_env, spec_of
from trainers.nn.activations import ACTIVATIONS
from trainers.policy import Policy, Standardize, squash_to_bounds

HOPPER, HUMANOID = "Hopper-v4", "Humanoid-v4"
HIGH = {HOPPER: 1.0, HUMANOID: 0.4}
OBS = {HOPPER: 11, HUMANOID: 376}
ACT = {HOPPER: 3, HUMANOID: 17}


def mlp(env_id: str, activation: str = "tanh", outputs: int = 1) -> nn.Sequential:
    torch.manual_seed(0)
    kind = ACTIVATIONS[activation]
    return nn.Sequential(
        nn.Linear(OBS[env_id], 32), kind(), nn.Linear(32, 16), kind(), nn.Linear(16, outputs * ACT[env_id])
    ).requires_grad_(False)


def named(prefix: str, network: nn.Module) -> dict[str, Tensor]:
    return {f"{prefix}.{name}": tensor for name, tensor in network.state_dict().items()}


class TestCleanRL:
    def ppo(self, folder: Path, env_id: str = HOPPER, activation: str = "tanh") -> tuple[nn.Sequential, Path]:
        network = mlp(env_id, activation)
        state = {**named("actor_mean", network), **named("critic", mlp(env_id)), "actor_logstd": torch.zeros(1, 3)}
        torch.save(state, folder / "ppo_continuous_action.cleanrl_model")
        return network, folder / "ppo_continuous_action.cleanrl_model"

    @pytest.mark.parametrize(("said", "activation"), [(None, "tanh"), ("elu", "elu")])
    def test_ppo_acts_with_its_statistics(self, said: str | None, activation: str, tmp_path: Path) -> None:
        network, path = self.ppo(tmp_path, activation=activation)
        assert "normalises observations and does not save the statistics" in import_refusal(path, HOPPER)
        mean, var = np.linspace(-2, 2, 11), np.linspace(0.5, 9, 11)
        np.savez(tmp_path / "s.npz", mean=mean, var=var, epsilon=1e-8, clip_obs=10.0)
        obs = probe_observations(spec_of(HOPPER))
        scaled = np.clip((obs - mean) / np.sqrt(var + 1e-8), -10, 10).astype(np.float32)
        imported = import_file(path, HOPPER, statistics=str(tmp_path / "s.npz"), activation=said)
        expected = network(torch.from_numpy(scaled)).clamp(-1, 1).numpy()
        np.testing.assert_allclose(act_on(imported.policy, obs), expected, atol=1e-5)
        assert [note.partition(": ")[2] for note in imported.notes] == (
            [] if said else ["taken with activation=tanh, as in CleanRL's script; the file does not say it"]
        )

    def test_bounds_that_are_taken_for_granted_are_said(self, tmp_path: Path) -> None:
        _, path = self.ppo(tmp_path)
        *_, note = import_file(path, HOPPER, statistics="none", activation="tanh", actions="rescale").notes
        assert note.endswith("actions=rescale taken as from [-1, 1]; the file does not say its bounds")
        assert import_file(path, HOPPER, statistics="none", activation="tanh", actions="clip").notes == []

    @pytest.mark.parametrize("head", ["fc_mu", "fc_mean"])
    @pytest.mark.parametrize("ending", [".cleanrl_model", ".pt"])
    def test_squashed_actors_act_within_their_bounds(self, head: str, ending: str, tmp_path: Path) -> None:
        network = mlp(HUMANOID, "relu")
        names = {"0": "fc1", "2": "fc2", "4": head}
        actor = {f"{names[name[0]]}{name[1:]}": tensor for name, tensor in network.state_dict().items()}
        actor |= {"action_scale": torch.full((1, 17), 0.4), "action_bias": torch.zeros(1, 17)}
        path = tmp_path / f"model{ending}"
        torch.save((actor, {"fc1.weight": torch.ones(1)}), path)
        obs = probe_observations(spec_of(HUMANOID))
        expected = 0.4 * torch.tanh(network(torch.from_numpy(obs)))
        np.testing.assert_allclose(act_on(import_file(path, HUMANOID).policy, obs), expected, atol=1e-5)
        torch.save(actor | {"action_scale": torch.full((17,), 1.0)}, path)
        assert "its actions lie in [-1, 1], those of Humanoid-v4 in [-0.4, 0.4]" in import_refusal(path, HUMANOID)
        for part, numbers, refused in (
            ("action_scale", torch.zeros(17), "its action_scale has numbers of 0 or less"),
            ("action_scale", torch.full((17,), torch.nan), "action_scale has numbers that are not finite"),
            ("action_bias", torch.zeros(2), "numbers, Humanoid-v4 17 actions"),
        ):
            torch.save(actor | {part: numbers}, path)
            assert refused in import_refusal(path, HUMANOID, actions="rescale")
        torch.save(actor | {"encoder.0.weight": torch.ones(3, 3)}, path)
        assert "has encoder.0.weight, which CleanRL's scripts" in import_refusal(path, HUMANOID)

    def test_other_networks_are_named(self, tmp_path: Path) -> None:
        path = tmp_path / "model.cleanrl_model"
        cases: list[tuple[Any, str]] = [
            ({"network.0.weight": torch.ones(8, 4, 3, 3)}, "found network.0.weight"),
            (torch.ones(3), "found Tensor"),
            ({"actor_mean.0.weight": torch.ones(5, 11), "lstm.weight_ih_l0": torch.ones(3)}, "has lstm.weight_ih_l0"),
            ({"actor_mean.0.weight": torch.ones(5, 11), "actor_mean.1.weight": torch.ones(5)}, "actor_mean.1.weight"),
            ({"actor_mean.0.weight": torch.ones(5, 11), "actor_mean.1.weight": torch.ones(3, 5)}, "at [0, 1]"),
        ]
        for content, expected in cases:
            torch.save(content, path)
            assert expected in import_refusal(path, HOPPER, statistics="none")
        path.write_bytes(b"no tensors")
        assert "does not hold plain tensors alone" in import_refusal(path, HOPPER)
        torch.save({"actor_mean.0.weight": Evil(tmp_path / "ran")}, path)
        assert "does not hold plain tensors alone" in import_refusal(path, HOPPER)
        assert not (tmp_path / "ran").exists()
        torch.jit.save(torch.jit.script(nn.Linear(2, 2)), str(tmp_path / "script.pt"))
        assert "is a TorchScript archive" in import_refusal(tmp_path / "script.pt", HOPPER)


ODD_TENSORS: list[tuple[Any, str]] = [
    (lambda t: t.to_sparse(), "is no dense tensor in floating point"),
    (lambda t: t.to("meta"), "is no dense tensor in floating point"),
    (lambda t: t.to(torch.complex64), "is no dense tensor in floating point"),
    (lambda t: t.long(), "is no dense tensor in floating point"),
    (lambda t: t / 0, "has numbers that are not finite: its training diverged; give a checkpoint from before"),
]


class TestRslRl:
    """The layouts of versions 2.3, 3.1 and 5.5."""

    def checkpoint(self, network: nn.Module, version: int, normalized: bool) -> dict[str, Any]:
        rest = {"optimizer_state_dict": {"state": {}, "param_groups": [{"lr": 1e-3}]}, "iter": 7, "infos": None}
        statistics = {
            "_mean": torch.linspace(-2, 2, 11)[None],
            "_var": torch.linspace(0.2, 3, 11).square()[None],
            "_std": torch.linspace(0.2, 3, 11)[None],
            "count": torch.tensor(9),
        }
        if version == 2:
            tensors = {"std": torch.ones(3), **named("actor", network), **named("critic", mlp(HOPPER))}
            extra = {"obs_norm_state_dict": statistics} if normalized else {}
            return {"model_state_dict": tensors, **rest, **extra}
        key, layers, normalizer, std = {
            3: ("model_state_dict", "actor", "actor_obs_normalizer", "log_std"),
            5: ("actor_state_dict", "mlp", "obs_normalizer", "distribution.std_param"),
        }[version]
        tensors = {std: torch.ones(3), **named(layers, network)}
        if normalized:
            tensors |= {f"{normalizer}.{name}": tensor for name, tensor in statistics.items()}
        return {key: tensors, **rest}

    @pytest.mark.parametrize("version", [2, 3, 5])
    @pytest.mark.parametrize("normalized", [False, True])
    @pytest.mark.parametrize("activation", [None, "silu"])
    def test_actions_are_those_of_the_mean(
        self, version: int, normalized: bool, activation: str | None, tmp_path: Path
    ) -> None:
        network = mlp(HOPPER, activation or "elu")
        torch.save(self.checkpoint(network, version, normalized), tmp_path / "model_7.pt")
        obs = probe_observations(spec_of(HOPPER))
        x = torch.from_numpy(obs)
        if normalized:
            x = (x - torch.linspace(-2, 2, 11)) / (torch.linspace(0.2, 3, 11) + 1e-2)
        imported = import_file(tmp_path / "model_7.pt", HOPPER, activation=activation)
        np.testing.assert_allclose(act_on(imported.policy, obs), network(x).clamp(-1, 1), atol=1e-5)
        assert imported.algorithm == "rsl_rl"
        assert len(imported.notes) == (activation is None)
        if normalized:
            message = import_refusal(tmp_path / "model_7.pt", HOPPER, statistics="none")
            assert "statistics=none: the file has its own" in message

    def test_what_is_not_understood_is_named(self, tmp_path: Path) -> None:
        path = tmp_path / "model.pt"
        whole = self.checkpoint(mlp(HOPPER), 3, normalized=False)
        recurrent = whole["model_state_dict"] | {"memory_a.rnn.weight_ih_l0": torch.ones(3)}
        cases: list[tuple[Any, str]] = [
            ({"model_state_dict": recurrent}, "has memory_a.rnn.weight_ih_l0"),
            ({"student_state_dict": {}, "teacher_state_dict": {}}, "has no actor; found student_state_dict"),
            ({"model_state_dict": named("actor", mlp(HOPPER, outputs=2))}, "has 2 numbers for each of 3 actions"),
            ({"model_state_dict": named("actor", mlp(HUMANOID))}, "maps 376 observations to 17 actions"),
            ({"model_state_dict": {"std": torch.ones(3)}}, "has no actor.0.weight"),
            ({"model_state_dict": {1: torch.ones(3)}}, "does not hold plain tensors by name"),
            (whole | {"obs_norm_state_dict": torch.ones(2)}, "normaliser does not hold plain tensors by name"),
            (whole | {"obs_norm_state_dict": {"_mean": torch.zeros(1, 5), "_std": torch.ones(1, 5)}}, "has 5 means"),
            (whole | {"obs_norm_state_dict": {"_mean": torch.zeros(11), "_std": -torch.ones(11)}}, "below 0"),
        ]
        cases += [
            ({"model_state_dict": {name: change(t) for name, t in named("actor", mlp(HOPPER)).items()}}, expected)
            for change, expected in ODD_TENSORS
        ]
        for content, expected in cases:
            torch.save(content, path)
            assert expected in import_refusal(path, HOPPER)


def write_onnx(path: Path, nodes: list[Any], constants: dict[str, Any], env_id: str = HOPPER, opset: int = 17) -> Path:
    """A graph from obs to action."""
    tensors = [numpy_helper.from_array(np.asarray(value, np.float32), name) for name, value in constants.items()]
    values = [("obs", OBS[env_id]), ("action", ACT[env_id])]
    ends = [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["b", size]) for name, size in values]
    graph = helper.make_graph(nodes, "g", ends[:1], ends[1:], tensors)
    opsets = [helper.make_opsetid("", opset)]
    onnx.save(helper.make_model(graph, opset_imports=opsets, ir_version=8), path)
    return path


def layers_of(network: nn.Sequential) -> dict[str, Any]:
    return {name.replace(".", "_"): tensor.numpy() for name, tensor in network.state_dict().items()}


class TestOnnx:
    @pytest.mark.parametrize("activation", ACTIVATIONS)
    def test_our_own_files_come_back(self, activation: str, tmp_path: Path) -> None:
        spec = spec_of(HUMANOID)
        before = [Standardize(torch.linspace(-1, 1, 376), torch.linspace(1, 4, 376))]
        policy = Policy(spec, [*before, *mlp(HUMANOID, activation), *squash_to_bounds(spec)])
        (tmp_path / "p.onnx").write_bytes(onnx_bytes(policy))
        obs = probe_observations(spec)
        imported = import_file(tmp_path / "p.onnx", HUMANOID)
        np.testing.assert_allclose(act_on(imported.policy, obs), act_on(policy, obs), atol=1e-5)
        assert imported.algorithm == "onnx"

    @pytest.mark.parametrize("folder", ["ppo-hopper", "sac-hopper"])
    def test_trained_policies_come_back(self, folder: str) -> None:
        path = POLICIES / folder / "policy.onnx"
        from compression.artifact import load_policy

        obs = probe_observations(spec_of(HOPPER))
        expected = act_on(load_policy(path.parent), obs)
        np.testing.assert_allclose(act_on(import_file(path, HOPPER).policy, obs), expected, atol=1e-4)

    def test_matrix_products_and_a_clipped_mean_are_read(self, tmp_path: Path) -> None:
        """SAC with gSDE: a clip, then tanh; biases as nodes of their own; an untyped constant scale."""
        network = mlp(HUMANOID, "relu")
        c = {name: value.T if value.ndim == 2 else value for name, value in layers_of(network).items()}
        c |= {"two": 2.0, "minus": -2.0, "scale": np.full(17, 0.4)}
        nodes = [
            helper.make_node("MatMul", ["obs", "0_weight"], ["a"]),
            helper.make_node("Add", ["0_bias", "a"], ["b"]),
            helper.make_node("Relu", ["b"], ["c"]),
            helper.make_node("MatMul", ["c", "2_weight"], ["d"]),
            helper.make_node("Add", ["d", "2_bias"], ["e"]),
            helper.make_node("Relu", ["e"], ["f"]),
            helper.make_node("MatMul", ["f", "4_weight"], ["g"]),
            helper.make_node("Add", ["g", "4_bias"], ["h"]),
            helper.make_node("Clip", ["h", "minus", "two"], ["i"]),
            helper.make_node("Tanh", ["i"], ["j"]),
            helper.make_node("Mul", ["j", "scale"], ["action"]),
        ]
        path = write_onnx(tmp_path / "p.onnx", nodes, c, HUMANOID)
        obs = probe_observations(spec_of(HUMANOID))
        expected = 0.4 * torch.tanh(network(torch.from_numpy(obs)).clamp(-2, 2))
        for how in (None, "clip", "rescale"):
            found = act_on(import_file(path, HUMANOID, actions=how).policy, obs)
            np.testing.assert_allclose(found, expected, atol=1e-5)

    def chain(self, path: Path, behind: list[tuple[str, list[str]]], more: dict[str, Any], **attributes: Any) -> Path:
        """Two layers with nodes between and behind them."""
        names = [f"v{i}" for i in range(len(behind))] + ["action"]
        network = mlp(HUMANOID, "relu")
        nodes = [helper.make_node("Gemm", ["obs", "0_weight", "0_bias"], ["x"], transB=1)]
        nodes += [helper.make_node("Relu", ["x"], ["y"]), helper.make_node("Gemm", ["y", "w", "v"], [names[0]])]
        for i, (kind, inputs) in enumerate(behind):
            nodes.append(helper.make_node(kind, [names[i], *inputs], [names[i + 1]], name=f"n{i}", **attributes))
        first = {k: v for k, v in layers_of(network).items() if k.startswith("0")}
        second = {"w": np.ones((32, 17)), "v": np.zeros(17)}
        return write_onnx(path, nodes, {**first, **second, **more}, HUMANOID)

    @pytest.mark.parametrize("behind", [["Clip", "Tanh"], ["Tanh", "Clip"]])
    def test_a_clip_around_a_tanh_is_no_bound_that_is_scaled(self, behind: list[str], tmp_path: Path) -> None:
        """gSDE's clip of the mean, and one that keeps actions from the ends: -1 and 1 stand for the bounds."""
        at = 2.0 if behind[0] == "Clip" else 0.999
        steps: list[tuple[str, list[str]]] = [(kind, ["low", "high"] if kind == "Clip" else []) for kind in behind]
        path = self.chain(tmp_path / "p.onnx", steps, {"low": -at, "high": at})
        assert "add actions=rescale if these stand for the bounds of the environment" in import_refusal(path, HUMANOID)
        obs = 0.03 * probe_observations(spec_of(HUMANOID))
        hidden = torch.relu(mlp(HUMANOID, "relu")[0](torch.from_numpy(obs))).sum(1, keepdim=True)
        limit = hidden.clamp(-at, at).tanh() if behind[0] == "Clip" else hidden.tanh().clamp(-at, at)
        imported = import_file(path, HUMANOID, actions="rescale")
        np.testing.assert_allclose(act_on(imported.policy, obs), 0.4 * limit.expand(-1, 17), atol=1e-5)
        assert imported.notes == []

    @pytest.mark.parametrize(("cls", "more"), [(PPO, {}), (SAC, {}), (SAC, {"use_sde": True})])
    def test_the_export_that_stable_baselines3_documents_is_read(self, cls: Any, more: Any, tmp_path: Path) -> None:
        """Its distributions broadcast their mean by computed shapes; equal biases are written once."""
        model = cls("MlpPolicy", make_env(HUMANOID), device="cpu", seed=0, policy_kwargs={"net_arch": [16, 8]}, **more)

        class Deterministic(nn.Module):
            def __init__(self) -> None:
                super().__init__()
                self.policy = model.policy if cls is PPO else model.policy.actor

            def forward(self, observation: Tensor) -> Any:
                return self.policy(observation, deterministic=True)

        path = tmp_path / "model.onnx"
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # torch is on its way to another exporter, which does not take these
            torch.onnx.export(
                Deterministic(),
                (torch.zeros(1, 376),),
                path,
                dynamo=False,
                input_names=["observation"],
                output_names=["action"],
            )
        obs = probe_observations(spec_of(HUMANOID))
        policy = import_file(path, HUMANOID, actions=None if cls is PPO else "rescale").policy
        np.testing.assert_allclose(act_on(policy, obs), model.predict(obs, deterministic=True)[0], atol=1e-5)

    def test_squashed_actions_need_a_word_about_their_units(self, tmp_path: Path) -> None:
        path = self.chain(tmp_path / "p.onnx", [("Tanh", [])], {})
        message = import_refusal(path, HUMANOID)
        assert "its actions lie in [-1, 1], those of Humanoid-v4 in [-0.4, 0.4]; add actions=rescale if" in message
        # A SAC of Stable-Baselines3 is such a file without any wrapper.
        assert "SAC, TD3 and DDPG of Stable-Baselines3; actions=clip if they are in the units" in message
        obs = 0.03 * probe_observations(spec_of(HUMANOID))
        scaled, clipped = (import_file(path, HUMANOID, actions=how).policy for how in ("rescale", "clip"))
        unit = act_on(scaled, obs) / np.float32(0.4)
        np.testing.assert_allclose(act_on(clipped, obs), np.clip(unit, -0.4, 0.4), atol=1e-5)
        assert np.abs(unit).max() > 0.5

    @pytest.mark.parametrize(
        ("behind", "more", "attributes", "expected"),
        [
            ([("Softmax", [])], {}, {}, "node Softmax 'n0' is not understood"),
            ([("LeakyRelu", [])], {}, {"alpha": 0.2}, "nodes LeakyRelu are none of the activations"),
            ([("Sigmoid", [])], {}, {}, "nodes Sigmoid are none of the activations"),
            ([("Elu", [])], {}, {}, "it has a elu behind its last layer"),
            ([("Mul", ["y"])], {}, {}, "nodes that use one value twice are none of the activations"),
        ],
    )
    def test_foreign_nodes_are_named(
        self, behind: Any, more: Any, attributes: Any, expected: str, tmp_path: Path
    ) -> None:
        message = import_refusal(self.chain(tmp_path / "p.onnx", behind, more, **attributes), HUMANOID)
        assert expected in message

    def test_damaged_files_and_other_ends_are_refused(self, tmp_path: Path) -> None:
        path = tmp_path / "p.onnx"
        for content in (b"", b"no graph", b"\x08\x08" * 50):
            path.write_bytes(content)
            assert import_refusal(path, HOPPER).startswith(f"policy={path}: ")
        (tmp_path / "p.pkl").write_bytes(b"")
        assert "ends in .pkl; allowed: .zip (Stable-Baselines3)" in import_refusal(tmp_path / "p.pkl", HOPPER)
        assert "there is no such file; allowed: .zip" in import_refusal(tmp_path / "none.pt", HOPPER)
        whole = self.chain(path, [("Tanh", [])], {})
        assert "maps 376 observations to 17 actions" in import_refusal(whole, HOPPER, actions="clip")
        assert "an ONNX file says its own" in import_refusal(whole, HUMANOID, activation="relu")
