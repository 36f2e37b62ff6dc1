"""Environments of users: their names, seeds and generators, and what they must keep to."""

import collections
import functools
import json
from typing import Any

import gymnasium as gym
import numpy as np
import pytest

from measure.returns import evaluate
from tests import own_envs
from tests.helpers import SPEC
from trainers.data.rollout import collect_observations
from trainers.envs.global_rng import global_state, is_unchanged
from trainers.envs.make import env_factory, make_env, spec_of, time_limit
from trainers.envs.names import canonical_id, task_name
from trainers.envs.seed_envs import SyncSeedEnvs
from trainers.envs.workers import SubprocSeedEnvs
from trainers.errors import UserError
from trainers.rng import RngStream, env_seed, env_seed32
from trainers.tensors import FloatArray, Snapshot

MINE = "tests.own_envs:{}-v0"


@pytest.mark.parametrize(
    ("given", "name", "task"),
    [
        ("HalfCheetah-v4", "HalfCheetah-v4", "HalfCheetah"),
        ("HalfCheetah", "HalfCheetah-v5", "HalfCheetah"),
        ("gymnasium.envs.mujoco:HalfCheetah-v4", "HalfCheetah-v4", "HalfCheetah"),
        ("gymnasium:Pendulum", "Pendulum-v1", "Pendulum"),
        ("tests.own_envs:Plain", "tests.own_envs:Plain-v3", "Plain"),
        ("tests.own_envs:Hopper-v4", "Hopper-v4", "Hopper"),
        ("Nobody-v7", "Nobody-v7", "Nobody"),
    ],
)
def test_a_task_has_one_name(given: str, name: str, task: str) -> None:
    assert canonical_id(given) == canonical_id(canonical_id(given)) == name
    assert task_name(name) == task


@pytest.mark.parametrize("given", ["no_such_module:Plain-v0", ":Plain-v0", "tests.own_envs:a:Plain-v0", "..a:b"])
def test_a_module_that_cannot_be_imported_is_named(given: str) -> None:
    with pytest.raises(UserError, match=r"cannot be imported .*; allowed: <module>:<id>"):
        canonical_id(given)


FAULTS = {
    "OldReset": r"reset must return the pair \(observation, info\), it returned ndarray of shape \(4,\)",
    "NoSeed": r"reset\(seed=\d+, options=None\) raised TypeError: .*; it must take both, and any seed below 2\*\*32",
    "NoOptions": r"reset\(seed=\d+, options=None\) raised TypeError: .*'options'; it must take both",
    "Leaves": "step raised SystemExit: no licence; it was given the middle",
    "LeavesAtOnce": "cannot be made: SystemExit: 3; allowed",
    "ClosesBadly": "close raised RuntimeError: closed already; it is called once, when all is done",
    "OldStep": r"step must return \(observation, reward, terminated, truncated, info\), it returned 4 values",
    "RewardArray": r"step must return the reward as one finite number, it returned ndarray of shape \(1,\)",
    "RewardNone": "step must return the reward as one finite number, it returned NoneType None",
    "DoneArray": r"step must return terminated as a bool, it returned ndarray of shape \(1,\)",
    "Row": r"reset must return an observation of shape \(4,\), it returned ndarray of shape \(1, 4\)",
    "Short": r"reset must return an observation of shape \(4,\), it returned ndarray of shape \(1,\)",
    "Words": r"reset must return an observation of shape \(4,\), it returned list \['a', 'b', 'c', 'd'\]",
    "NaNs": "reset must return finite observations, it returned ndarray",
    "Asserts": "step raised AssertionError: the gripper is not calibrated; it was given the middle",
    "Ints": "actions of type int64, rlc trains real ones; declare a Box of float32",
    "Unbounded": "every action needs two finite bounds, low below high, .*; declare such bounds",
    "Huge": "every action needs two finite bounds, low below high, and a range that float32 holds",
    "Point": "every action needs two finite bounds, low below high",
    "Endless": "has no time limit; register it with max_episode_steps, or add env.kwargs.max_episode_steps=<steps>",
}


@pytest.mark.parametrize("name", FAULTS)
def test_what_is_wrong_with_an_environment_is_one_line(name: str) -> None:
    with pytest.raises(UserError, match=rf"env\.id=tests\.own_envs:{name}-v0: {FAULTS[name]}") as caught:
        spec_of(MINE.format(name))
    assert "\n" not in str(caught.value)


LATER = {
    "one number": r"returned an observation of shape \(1,\), not \(4,\)",
    "a row": r"returned an observation of shape \(1, 4\), not \(4,\)",
    "no reward": "with a number as the reward, it returned NoneType None",
    "rewards": r"with a number as the reward, it returned ndarray of shape \(2,\)",
    "too large": "returned an observation that is not finite in float32",
}


@pytest.mark.parametrize("fault", LATER)
@pytest.mark.filterwarnings("ignore:overflow:RuntimeWarning")
def test_what_goes_wrong_later_names_the_environment(fault: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Above all one number where there were four, which NumPy would broadcast."""
    monkeypatch.setattr(own_envs.Changes, "FAULT", fault)
    monkeypatch.setattr(own_envs.Changes, "steps", 0)
    spec = spec_of(MINE.format("Changes"))
    own_envs.Changes.steps = 300
    envs = SyncSeedEnvs(env_factory(spec), spec, [0], 2)
    envs.reset()
    kinds = (ValueError, TypeError, FloatingPointError)
    with pytest.raises(kinds, match=f"Changes-v0.* {LATER[fault]}"):
        collections.deque((envs.step(np.zeros((1, 2, 2), np.float32)) for _ in range(50)), 0)
    own_envs.Changes.steps = 300
    with pytest.raises(kinds, match=f"{spec.env_id}.* {LATER[fault]}"):
        evaluate(lambda _: np.zeros(2, np.float32), env_factory(spec), spec, episodes=5, seed=0)


def test_what_the_constructor_takes_reaches_it() -> None:
    env_id = MINE.format("Endless")
    spec = spec_of(env_id, {"max_episode_steps": 7, "friction": 0.5})
    assert time_limit(spec) == 7
    with env_factory(spec)() as env:
        assert env.unwrapped.friction == 0.5  # type: ignore[attr-defined]
    with pytest.raises(
        UserError, match=r'env\.kwargs=\{"fricton": 1\}: cannot be made: .*; allowed: friction, max_epi'
    ):
        spec_of(env_id, {"fricton": 1})


def test_seeds_of_gymnasiums_own_environments_are_those_of_the_study() -> None:
    spec = spec_of("Hopper-v4")
    assert (
        spec.reset_seed(RngStream.TRAIN_ENV, 3, 5) == env_seed(RngStream.TRAIN_ENV, 3, 5) == (3 << 32) + (2 << 24) + 5
    )


def test_seeds_of_all_others_fit_and_are_disjoint() -> None:
    seeds = [env_seed32(stream, seed, index) for stream in RngStream for seed in range(200) for index in range(70)]
    assert len(set(seeds)) == len(seeds)
    assert max(seeds) < 2**31
    assert env_seed32(RngStream.EVALUATE, 0, 9) == env_seed(RngStream.EVALUATE, 0, 9)
    for seed, index in ((2**32 - 1, 0), (5, 100_000), (2**14, 3)):
        assert 2**30 <= env_seed32(RngStream.CALIBRATE, seed, index) < 2**31


def played(spec: Any, seeds: list[int], steps: int, envs: Any = None) -> list[Any]:
    envs = SyncSeedEnvs(env_factory(spec), spec, seeds, 2) if envs is None else envs
    envs.reset()
    generator = np.random.default_rng(0)
    found = [envs.obs]
    for _ in range(steps):
        actions = np.tile(generator.uniform(-1, 1, (1, 2, 2)), (len(seeds), 1, 1))
        found.append(envs.step(actions.astype(np.float32)).next_obs)
    envs.close()
    return found


KINDS = ["Plain", "RandomState", "SignedSeed", "GlobalNumPy", "GlobalPython", "Stacked"]


@pytest.mark.parametrize("name", KINDS)
def test_every_generator_repeats_and_differs_between_seeds(name: str) -> None:
    """Over several episodes, alone, beside another seed, and in a worker."""
    spec = spec_of(MINE.format(name))
    outside = global_state()
    both = played(spec, [1, 2**32 - 1], 50)
    assert is_unchanged(outside)
    alone = played(spec, [2**32 - 1], 50)
    assert all(np.array_equal(one[1:], other) for one, other in zip(both, alone, strict=True))
    starts = np.concatenate([both[k].reshape(4, 4) for k in (0, 20, 40)])
    assert len(np.unique(starts, axis=0)) == 12


def test_workers_draw_what_one_process_draws() -> None:
    spec = spec_of(MINE.format("GlobalNumPy"))
    workers = SubprocSeedEnvs(env_factory(spec), spec, [1, 2], 2, 2)
    for one, other in zip(played(spec, [1, 2], 25), played(spec, [1, 2], 25, workers), strict=True):
        assert np.array_equal(one, other)


@pytest.mark.parametrize("name", KINDS)
@pytest.mark.parametrize("steps", [3, 45])
def test_a_restored_environment_goes_on_to_the_bit(name: str, steps: int) -> None:
    spec = spec_of(MINE.format(name))
    envs, other = (SyncSeedEnvs(env_factory(spec), spec, [7], 1) for _ in range(2))
    envs.reset()
    action = np.full((1, 1, 2), 0.3, np.float32)
    for _ in range(steps):
        envs.step(action)
    snapshot = envs.snapshot(0)
    other.restore(0, Snapshot(snapshot.tensors, json.loads(json.dumps(snapshot.metadata))))
    for _ in range(60):
        assert np.array_equal(envs.step(action).next_obs, other.step(action).next_obs)


@pytest.mark.parametrize("name", KINDS)
def test_an_evaluation_repeats(name: str) -> None:
    spec = spec_of(MINE.format(name))
    action = np.array([0.1, 0.2], np.float32)
    one, other = (evaluate(lambda obs: action, env_factory(spec), spec, episodes=3, seed=5) for _ in range(2))
    assert one == other
    assert len(set(one.returns)) == 3


def test_a_policy_that_gives_nan_is_named_with_the_step() -> None:
    spec = spec_of("Pendulum-v1")
    calls = iter(range(1000))

    def act(obs: FloatArray) -> FloatArray:
        return np.array([np.nan if next(calls) == 12 else 0], np.float32)

    with pytest.raises(FloatingPointError, match="the policy gave NaN actions at step 12"):
        evaluate(act, env_factory(spec), spec, episodes=1, seed=0)
    with pytest.raises(FloatingPointError, match="the policy gave NaN actions at step 0"):
        collect_observations(lambda obs: np.array([np.inf], np.float32), env_factory(spec), spec, 0, 5)


def test_a_plan_looks_at_an_environment_once(monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[Any] = []
    real = gym.make

    def make(*args: Any, **kwargs: Any) -> Any:
        made.append(args)
        return real(*args, **kwargs)

    monkeypatch.setattr(gym, "make", make)
    for _ in range(50):
        spec_of("Hopper-v4", {"reset_noise_scale": 0.123})
    assert len(made) == 1


def test_the_spec_of_a_test_is_hashed_and_sent() -> None:
    assert hash(SPEC) == hash(SPEC)
    assert isinstance(env_factory(SPEC), functools.partial)
    assert make_env("Pendulum-v1").spec is not None
