"""Actions lie inside the bounds of the environment, in float32 and whatever the policy says."""

import numpy as np
import pytest
import torch

from compression.onnx_export import onnx_bytes
from compression.ptdq import quantize_dynamic_policy
from compression.ptsq import quantize_static_policy
from compression.runtime import OnnxPolicy
from measure.returns import random_policy, zero_policy
from tests.helpers import ALGORITHMS, make_agent, rollouts
from trainers.data.rollout import collect
from trainers.envs.seed_envs import Step
from trainers.envs.spec import EnvSpec
from trainers.policy import Clamp, Policy, clamp_to_bounds, squash_to_bounds, within_bounds
from trainers.tensors import FloatArray

LOW = (-0.1, 0.1, 1e-3, -7.3)
HIGH = (0.3, 0.7, 0.1, -1.1)
BOUNDS = {
    "float64": (LOW, HIGH),
    "float32": tuple(tuple(np.array(side, np.float32).astype(float).tolist()) for side in (LOW, HIGH)),
    "largest": ((-float(np.finfo(np.float32).max),) * 4, (float(np.finfo(np.float32).max),) * 4),
    "beyond": ((-1e300,) * 4, (1e300,) * 4),
}


def bounded_spec(kind: str) -> EnvSpec:
    return EnvSpec("Test-v0", 5, 4, *BOUNDS[kind])


def assert_inside(actions: FloatArray, of: EnvSpec) -> None:
    assert actions.dtype == np.float32
    assert (actions.astype(np.float64) >= np.array(of.action_low)).all()
    assert (actions.astype(np.float64) <= np.array(of.action_high)).all()


def saturated(policy: Policy) -> Policy:
    """The policy with outputs far beyond every bound, on both sides."""
    *_, last = [stage for stage in policy if isinstance(stage, torch.nn.Linear)]
    with torch.no_grad():
        last.weight.mul_(1e4)
    return policy


class TestBounds:
    @pytest.mark.parametrize("kind", BOUNDS)
    def test_float32_bounds_are_rounded_inwards(self, kind: str) -> None:
        of = bounded_spec(kind)
        low, high = of.action_bounds()
        assert_inside(np.stack([low, high]), of)
        with np.errstate(over="ignore"):
            outside = np.nextafter(low, np.float32(-np.inf)), np.nextafter(high, np.float32(np.inf))
        assert (outside[0].astype(float) < np.array(of.action_low)).all()
        assert (outside[1].astype(float) > np.array(of.action_high)).all()
        center, scale = of.action_center_and_scale(torch.device("cpu"))
        assert torch.isfinite(center).all()
        assert torch.isfinite(scale).all()

    def test_exact_bounds_stay_as_they_are(self) -> None:
        of = bounded_spec("float32")
        low, high = of.action_bounds()
        assert (low.tolist(), high.tolist()) == (list(of.action_low), list(of.action_high))
        center, scale = of.action_center_and_scale(torch.device("cpu"))
        assert torch.equal(center, torch.from_numpy((high + low) / 2))
        assert torch.equal(scale, torch.from_numpy((high - low) / 2))

    @pytest.mark.parametrize("kind", ["float64", "float32"])
    def test_random_and_zero_actions_lie_inside(self, kind: str) -> None:
        of = bounded_spec(kind)
        act = random_policy(of, 0)
        assert_inside(np.stack([act(np.zeros(5, np.float32)) for _ in range(200)]), of)
        assert_inside(zero_policy(of)(np.zeros(5, np.float32)), of)


class TestPolicies:
    @pytest.mark.parametrize("kind", ["float64", "float32"])
    @pytest.mark.parametrize("algo", ALGORITHMS)
    def test_saturated_policies_stay_inside_in_every_form(self, algo: str, kind: str) -> None:
        of = bounded_spec(kind)
        agent = make_agent(algo, of, [0], hidden="[16,16]")
        if algo in ("ppo", "trpo"):
            agent.initialize_statistics(rollouts(of, [0], 64, 2)(agent))  # type: ignore[attr-defined]
        policy = saturated(agent.policy(0))
        obs = 30 * np.random.default_rng(0).normal(size=(400, 5)).astype(np.float32)
        ranges = {"calibration": "minmax", "percentile": 99.999, "reduce_range": False}
        forms = [(policy, onnx_bytes(policy)), quantize_dynamic_policy(policy, obs, reduce_range=False)]
        forms.append(quantize_static_policy(policy, obs, **ranges))  # type: ignore[arg-type]
        for twin, model in forms:
            runner = OnnxPolicy(model)
            assert_inside(twin(torch.from_numpy(obs)).numpy(), of)
            actions = np.stack([runner(row) for row in obs])
            assert_inside(actions, of)
            assert_inside(runner.batch(obs), of)
            low, high = of.action_bounds()
            # It is saturated indeed: every bound is reached, within a rounding.
            np.testing.assert_allclose(actions.min(0), low, rtol=1e-5)
            np.testing.assert_allclose(actions.max(0), high, rtol=1e-5)

    @pytest.mark.parametrize("kind", ["float64", "float32"])
    @pytest.mark.parametrize("algo", ["sac", "td3", "ddpg"])
    def test_exploring_and_random_actions_lie_inside(self, algo: str, kind: str) -> None:
        of = bounded_spec(kind)
        agent = make_agent(algo, of, [0], hidden="[16,16]")
        with torch.no_grad():
            for parameter in agent.actor.parameters():
                parameter.mul_(30)
        obs = 30 * np.random.default_rng(0).normal(size=(1, 400, 5)).astype(np.float32)
        assert_inside(agent.act(obs), of)
        assert_inside(agent.random_actions(400), of)

    def test_on_policy_environments_get_actions_inside(self) -> None:
        of = bounded_spec("float64")
        given: list[FloatArray] = []

        class Envs:
            spec = of
            obs = np.zeros((1, 1, 5), np.float32)

            def step(self, actions: FloatArray) -> Step:
                given.append(actions)
                return Step(self.obs, np.zeros((1, 1), np.float32), np.zeros((1, 1), np.bool_), {})

        act = random_policy(EnvSpec("Wide-v0", 5, 4, (-9.0,) * 4, (9.0,) * 4), 0)
        collect(lambda obs: act(obs)[None, None], Envs(), 50, torch.device("cpu"))
        assert_inside(np.stack(given), of)

    def test_policies_of_earlier_versions_get_the_clip(self) -> None:
        of = bounded_spec("float64")
        tanh, rescale, clamp = squash_to_bounds(of)
        old = within_bounds(Policy(of, [tanh, rescale]))
        assert [type(stage) for stage in old] == [type(tanh), type(rescale), Clamp]
        wider = Clamp(torch.tensor(of.action_low), torch.tensor(of.action_high))
        assert len(within_bounds(Policy(of, [rescale, wider]))) == 3
        assert len(within_bounds(Policy(of, [rescale, clamp]))) == 2
        assert len(within_bounds(Policy(of, [rescale, clamp_to_bounds(of)]))) == 2
