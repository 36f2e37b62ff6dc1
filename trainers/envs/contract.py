"""What an environment promises, seen in one reset and one step of it."""

from collections.abc import Mapping
from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium.spaces import Box

from trainers.envs.seed_envs import Env
from trainers.errors import UserError, shown

# Whatever somebody's environment raises, a word to leave the process among it.
FAULTS = (Exception, SystemExit)
# What `gymnasium.make` puts around an environment.
MADE = (gym.wrappers.TimeLimit, gym.wrappers.OrderEnforcing, gym.wrappers.PassiveEnvChecker)


def check_spaces(env: Env, name: str) -> None:
    """Raises UserError where observations or actions are not what rlc trains with."""
    observations = env.observation_space
    actions = env.action_space
    if not (isinstance(observations, Box) and isinstance(actions, Box)):
        raise UserError(
            f"{name}: observations and actions must be Box spaces, they are {observations}, {actions}; wrap it where "
            "it is registered, for instance in gymnasium.wrappers.FlattenObservation"
        )
    if 0 in (*observations.shape, *actions.shape):
        raise UserError(
            f"{name}: an observation and an action need at least one number, they are {observations}, {actions}; "
            "declare such spaces"
        )
    if not np.issubdtype(actions.dtype, np.floating):
        raise UserError(
            f"{name}: actions of type {actions.dtype}, rlc trains real ones; declare a Box of float32, and round in "
            "the environment"
        )
    with np.errstate(over="ignore"):
        low = actions.low.astype(np.float32)
        high = actions.high.astype(np.float32)
        ranges = high - low
    if not (np.isfinite(low).all() and np.isfinite(high).all() and np.isfinite(ranges).all() and (ranges > 0).all()):
        raise UserError(
            f"{name}: every action needs two finite bounds, low below high, and a range that float32 holds, they are "
            f"{actions}; declare such bounds, and scale to what lies behind them in the environment or in "
            "gymnasium.wrappers.TransformAction where it is registered"
        )


def check_behaviour(env: Env, name: str, seed: int) -> None:
    """One reset and one step. Raises UserError naming what is not as `gymnasium.Env` says."""
    env = _as_registered(env)
    space = env.action_space
    assert isinstance(space, Box)
    try:
        answer: Any = env.reset(seed=seed, options=None)
    except FAULTS as error:
        raise UserError(
            f"{name}: reset(seed={seed}, options=None) raised {told(error)}; it must take both, and any seed below "
            "2**32"
        ) from error
    if not (isinstance(answer, tuple) and len(answer) == 2 and isinstance(answer[1], Mapping)):
        raise UserError(f"{name}: reset must return the pair (observation, info), it returned {shown(answer)}")
    _check_observation(answer[0], env, f"{name}: reset")
    action = (space.low / 2 + space.high / 2).astype(np.float32)
    try:
        answer = env.step(action)
    except FAULTS as error:
        raise UserError(f"{name}: step raised {told(error)}; it was given the middle of its action bounds") from error
    if not (isinstance(answer, tuple) and len(answer) == 5 and isinstance(answer[4], Mapping)):
        raise UserError(
            f"{name}: step must return (observation, reward, terminated, truncated, info), it returned {shown(answer)}"
        )
    observation, reward, terminated, truncated, _ = answer
    _check_observation(observation, env, f"{name}: step")
    number = _array(reward)
    if number is None or number.shape != () or not np.isfinite(number):
        raise UserError(f"{name}: step must return the reward as one finite number, it returned {shown(reward)}")
    for word, flag in (("terminated", terminated), ("truncated", truncated)):
        if np.shape(flag) != () or not isinstance(flag, bool | np.bool_ | int | np.integer | np.ndarray):
            raise UserError(f"{name}: step must return {word} as a bool, it returned {shown(flag)}")


def _as_registered(env: Env) -> Env:
    """The environment without what is put around it here and in `gymnasium.make`, which would fail in its stead."""
    while isinstance(env, gym.Wrapper) and not isinstance(env, gym.wrappers.TimeLimit):
        env = env.env
    while isinstance(env, MADE):
        env = env.env
    return env


def _check_observation(observation: Any, env: Env, said: str) -> None:
    array = _array(observation)
    shape = env.observation_space.shape
    if array is None or array.shape != shape:
        raise UserError(f"{said} must return an observation of shape {shape}, it returned {shown(observation)}")
    if not np.isfinite(array).all():
        raise UserError(f"{said} must return finite observations, it returned {shown(observation)}")


def _array(value: Any) -> Any:
    """The value as real numbers; None where it is none."""
    try:
        array = np.asarray(value)
        with np.errstate(over="ignore"):
            return array.astype(np.float32) if array.dtype.kind in "fiub" else None
    except (TypeError, ValueError, RuntimeError):  # a ragged list, a tensor on another device
        return None


def told(error: BaseException) -> str:
    """An error of somebody's environment."""
    return f"{type(error).__name__}: {error}"
