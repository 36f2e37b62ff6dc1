"""The trained policies in tests/data/policies: whole, agreeing with their contract, and far better than no skill."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from compression.artifact import load_policy
from compression.files import ONNX_FILE, hashes_match
from compression.ptdq import quantize_dynamic_policy
from compression.ptsq import quantize_static_policy
from compression.runtime import OnnxPolicy
from measure.returns import Act, evaluate, random_policy, zero_policy
from rlc.pipeline.build import build_agent
from rlc.runs.stored import stored_settings
from tests.helpers import POLICIES
from trainers.data.rollout import collect_observations
from trainers.envs.make import make_env, spec_of
from trainers.policy import within_bounds
from trainers.tensors import FloatArray

FOLDERS = sorted(path.parent for path in POLICIES.glob("*/policy.json"))


@pytest.mark.parametrize("folder", FOLDERS, ids=lambda folder: folder.name)
def test_a_policy_gives_its_golden_actions(folder: Path) -> None:
    assert hashes_match(folder)
    golden = json.loads((folder / "policy.json").read_text())["golden"]
    observations, actions = (np.array(golden[key], np.float32) for key in ("observations", "actions"))
    policy = load_policy(folder)
    _, half_range = policy.spec.action_center_and_scale(torch.device("cpu"))
    onnx = np.stack([OnnxPolicy(folder / ONNX_FILE)(obs) for obs in observations])
    for found in (onnx, policy(torch.from_numpy(observations)).numpy()):
        assert (np.abs(found - actions) / half_range.numpy()).max() <= golden["tolerance"]


@pytest.mark.parametrize("folder", FOLDERS, ids=lambda folder: folder.name)
def test_a_policy_is_far_better_than_random_and_zero_actions(folder: Path) -> None:
    env_id = load_policy(folder).spec.env_id
    spec = spec_of(env_id)

    def score(act: Act) -> float:
        return evaluate(act, lambda: make_env(env_id), spec, episodes=3, seed=0).mean

    best = score(OnnxPolicy(folder / ONNX_FILE))
    reference = max(score(random_policy(spec, 0)), score(zero_policy(spec)))
    assert best > 2 * max(reference, 0)
    recorded = json.loads((folder / "result.json").read_text())
    assert best == pytest.approx(np.mean(recorded["episode_returns"][:3]), rel=0.05)


@pytest.mark.parametrize("folder", [f for f in FOLDERS if (f / "agent.safetensors").exists()], ids=lambda f: f.name)
def test_an_agent_gives_its_policy(folder: Path) -> None:
    import safetensors.torch
    import yaml

    config = yaml.safe_load((folder / "config.yaml").read_text())
    settings = stored_settings(config)
    spec = spec_of(settings.env.id)
    agent = build_agent(settings.algo, settings.compress, spec, settings.seed, torch.device("cpu"))
    agent.load_state(0, safetensors.torch.load_file(folder / "agent.safetensors"))
    rebuilt, kept = agent.policy(0).state_dict(), within_bounds(load_policy(folder)).state_dict()
    assert rebuilt.keys() == kept.keys()
    assert all(torch.equal(rebuilt[name], kept[name]) for name in kept)


@pytest.mark.parametrize("folder", FOLDERS, ids=lambda folder: folder.name)
def test_int8_keeps_the_actions(folder: Path) -> None:
    """The RMS error on states of another rollout is about a hundredth of the action range, or less."""
    fp32 = load_policy(folder)
    spec = fp32.spec

    def visited(seed: int, steps: int) -> FloatArray:
        return collect_observations(OnnxPolicy.from_policy(fp32), lambda: make_env(spec.env_id), spec, seed, steps)

    calibration, states = visited(0, 2048), torch.from_numpy(visited(1, 1000))
    action_range = torch.tensor(spec.action_high) - torch.tensor(spec.action_low)
    minmax: dict[str, Any] = {"calibration": "minmax", "percentile": 99.999}
    for int8, _ in (
        quantize_dynamic_policy(fp32, calibration, reduce_range=False),
        quantize_static_policy(fp32, calibration, reduce_range=False, **minmax),
    ):
        error = ((int8(states) - fp32(states)) / action_range).square().mean().sqrt()
        assert error < 0.012


def test_all_of_them_are_small_and_two_have_their_agents() -> None:
    assert sum(path.stat().st_size for path in POLICIES.rglob("*")) < 8e6
    names = {folder.name.split("-")[0] for folder in FOLDERS if (folder / "agent.safetensors").exists()}
    assert names & {"trpo", "ppo"}
    assert names & {"ddpg", "td3", "sac"}
    assert len(FOLDERS) >= 6
