"""Disturbed sensors: what each disturbance does to observations, and that all policies meet the same one."""

from typing import Any

import gymnasium as gym
import numpy as np
import pytest
from gymnasium.spaces import Box

from measure.disturbance import Disturbance, DisturbedEnv, disturbed, observation_std
from measure.returns import evaluate, zero_policy
from trainers.envs.make import env_factory, spec_of
from trainers.tensors import FloatArray

STD = np.array([2.0, 0.0], np.float32)
SPEC = spec_of("Pendulum-v1")


class Counting(gym.Env[Any, Any]):
    """Observes the number of steps, twice."""

    observation_space = Box(-np.inf, np.inf, (2,))
    action_space = Box(-1, 1, (1,))

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[Any, dict[str, Any]]:
        super().reset(seed=seed)
        self.t = 0
        return np.zeros(2), {}

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        self.t += 1
        return np.full(2, float(self.t)), 1.0, False, False, {}


def observed(disturbance: Disturbance, steps: int, seed: int = 3) -> FloatArray:
    """What a policy sees [steps + 1, 2] of the environment that counts."""
    env = DisturbedEnv(Counting(), disturbance, STD)
    seen = [env.reset(seed=seed)[0]]
    seen += [env.step(np.zeros(1))[0] for _ in range(steps)]
    return np.array(seen, np.float32)


class TestDisturbedEnv:
    def test_without_a_disturbance_nothing_changes(self) -> None:
        assert Disturbance().is_none
        np.testing.assert_array_equal(observed(Disturbance(), 4)[:, 0], range(5))

    def test_noise_is_a_share_of_each_deviation(self) -> None:
        steps = 20_000
        noise = observed(Disturbance(noise=0.1), steps) - np.arange(steps + 1, dtype=np.float32)[:, None]
        assert noise[:, 0].std() == pytest.approx(0.2, rel=0.03)
        assert noise[:, 0].mean() == pytest.approx(0.0, abs=0.01)
        assert not noise[:, 1].any()

    def test_delay_holds_the_first_observation_and_then_lags(self) -> None:
        assert observed(Disturbance(delay=2), 5)[:, 0].tolist() == [0, 0, 0, 1, 2, 3]

    def test_a_lost_observation_is_the_last_that_arrived(self) -> None:
        steps = 10_000
        seen = observed(Disturbance(drop=0.3), steps)[:, 0]
        is_fresh = seen == np.arange(steps + 1)
        assert is_fresh[0]
        assert 1 - is_fresh.mean() == pytest.approx(0.3, abs=0.02)
        last = np.maximum.accumulate(np.where(is_fresh, seen, 0))
        np.testing.assert_array_equal(seen, last)

    def test_a_late_observation_may_be_a_lost_one(self) -> None:
        lost = observed(Disturbance(drop=0.3), 50)[:, 0]
        np.testing.assert_array_equal(observed(Disturbance(drop=0.3, delay=1), 50)[1:, 0], lost[:-1])

    def test_the_seed_of_the_reset_decides_noise_and_loss(self) -> None:
        disturbance = Disturbance(noise=0.1, drop=0.2, delay=1)
        first = observed(disturbance, 50)
        np.testing.assert_array_equal(first, observed(disturbance, 50))
        assert (first != observed(disturbance, 50, seed=4)).any()

    def test_an_episode_begins_without_what_was_under_way(self) -> None:
        env = DisturbedEnv(Counting(), Disturbance(delay=1), STD)
        env.reset(seed=0)
        for _ in range(3):
            env.step(np.zeros(1))
        assert env.reset(seed=1)[0].tolist() == [0.0, 0.0]


def test_returns_of_a_policy_that_sees_nothing_stay() -> None:
    std = observation_std(zero_policy(SPEC), SPEC, seed=0)
    assert std.shape == (SPEC.obs_dim,)
    assert (std > 0).all()
    factory = env_factory(SPEC)
    behind = disturbed(factory, Disturbance(noise=0.1, delay=1), std)
    plain = evaluate(zero_policy(SPEC), factory, SPEC, episodes=2, seed=0)
    assert evaluate(zero_policy(SPEC), behind, SPEC, episodes=2, seed=0) == plain


def test_a_disturbance_says_what_it_is() -> None:
    assert str(Disturbance()) == "undisturbed"
    assert str(Disturbance(noise=0.03, drop=0.1, delay=2)) == "noise 3 %, delay 2 steps, 10 % dropped"
