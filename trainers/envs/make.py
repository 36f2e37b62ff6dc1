"""Gymnasium environments with flat float observations and bounded, flat float actions."""

import functools
import logging
import os
import warnings
from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium.spaces import Box

from trainers.envs.seed_envs import Env
from trainers.envs.spec import EnvSpec
from trainers.errors import UserError

# MuJoCo loads the renderer that MUJOCO_GL names at once, and fails without it: who trains needs none.
_renderer = os.environ.pop("MUJOCO_GL", None)
import mujoco  # noqa: E402

if _renderer is not None:
    os.environ["MUJOCO_GL"] = _renderer


def _log_mujoco_warning(message: str) -> None:
    # The models inside gymnasium use attributes that this MuJoCo deprecates: no news to a user of rlc.
    if "deprecated" not in message:
        logging.getLogger("mujoco").warning(message)


# Without a handler MuJoCo writes MUJOCO_LOG.TXT into the working directory.
mujoco.set_mju_user_warning(_log_mujoco_warning)


def make_env(env_id: str, render_mode: str | None = None) -> Env:
    """An environment with its time limit and without gymnasium's checker, which costs time at every step."""
    with warnings.catch_warnings():
        # gymnasium calls the v4 environments of the paper out of date.
        warnings.simplefilter("ignore", DeprecationWarning)
        # Not every environment knows the word.
        rendering: dict[str, Any] = {} if render_mode is None else {"render_mode": render_mode}
        env: Env = gym.make(env_id, disable_env_checker=True, **rendering)
    if isinstance(env.observation_space, Box) and len(env.observation_space.shape) != 1:
        env = gym.wrappers.FlattenObservation(env)
    shape = env.action_space.shape
    if isinstance(env.action_space, Box) and shape is not None and len(shape) != 1:
        low = env.action_space.low.ravel()
        high = env.action_space.high.ravel()
        dtype: Any = env.action_space.dtype
        env = gym.wrappers.TransformAction(env, lambda a: a.reshape(shape), Box(low, high, dtype=dtype))
    return env


def time_limit(env_id: str) -> int:
    """Steps after which an episode is truncated."""
    env = make_env(env_id)
    env.close()
    assert env.spec is not None
    assert env.spec.max_episode_steps is not None  # `spec_of` asks for one
    return env.spec.max_episode_steps


@functools.cache
def spec_of(env_id: str) -> EnvSpec:
    """Shapes and bounds of an environment. Raises UserError where rlc cannot train in it."""
    try:
        env = make_env(env_id)
    except Exception as error:  # whatever the constructor of somebody's environment raises
        raise UserError(f"env.id={env_id}: cannot be made: {error}") from error
    observations = env.observation_space
    actions = env.action_space
    env.close()
    if env.spec is None or env.spec.max_episode_steps is None:
        raise UserError(f"env.id={env_id}: has no time limit; register it with max_episode_steps")
    if not (isinstance(observations, Box) and isinstance(actions, Box)):
        raise UserError(
            f"env.id={env_id}: observations and actions must be Box spaces, they are {observations}, {actions}"
        )
    if not (np.isfinite(actions.low).all() and np.isfinite(actions.high).all() and (actions.low < actions.high).all()):
        raise UserError(f"env.id={env_id}: every action needs two finite bounds, they are {actions}")
    return EnvSpec(
        env_id,
        observations.shape[0],
        actions.shape[0],
        tuple(float(x) for x in actions.low),
        tuple(float(x) for x in actions.high),
    )
