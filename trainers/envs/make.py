"""Gymnasium environments with flat float observations and bounded, flat float actions."""

import copy
import dataclasses
import functools
import inspect
import json
import logging
import os
import warnings
from collections.abc import Mapping
from contextlib import suppress
from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium.spaces import Box

from trainers.envs.contract import FAULTS, check_behaviour, check_spaces, told
from trainers.envs.global_rng import (
    OwnGlobalGenerators,
    global_state,
    is_unchanged,
    seed_globally,
    set_global_state,
)
from trainers.envs.names import takes_wide_seeds
from trainers.envs.seed_envs import Env, EnvFactory, ReplayableEnv
from trainers.envs.spec import EnvSpec
from trainers.errors import UserError
from trainers.rng import RngStream

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


def make_env(env_id: str, kwargs: Mapping[str, Any] | None = None, render_mode: str | None = None) -> Env:
    """An environment with its time limit and without gymnasium's checker, which costs time at every step.

    `kwargs` go to its constructor. Where it draws from the global generators of NumPy or Python, those are its own.
    """
    if not _draws_globally(env_id, _key(kwargs)):
        return _make(env_id, kwargs, render_mode)
    outside = global_state()
    try:
        seed_globally(0)  # what it draws while it is made is the same in all of them
        return OwnGlobalGenerators(_make(env_id, kwargs, render_mode))
    finally:
        set_global_state(outside)


def env_factory(spec: EnvSpec) -> EnvFactory:
    """What makes the environment of a spec; it can be sent to other processes."""
    return functools.partial(make_env, spec.env_id, spec.kwargs)


def time_limit(spec: EnvSpec) -> int:
    """Steps after which an episode is truncated."""
    env = env_factory(spec)()
    env.close()
    assert env.spec is not None
    assert env.spec.max_episode_steps is not None  # `spec_of` asks for one
    return env.spec.max_episode_steps


def spec_of(env_id: str, kwargs: Mapping[str, Any] | None = None) -> EnvSpec:
    """Shapes and bounds of an environment. Raises UserError where rlc cannot train in it.

    Makes it, and takes a step in it, once per process.
    """
    return _spec_of(env_id, _key(kwargs))


@functools.cache
def _spec_of(env_id: str, key: str) -> EnvSpec:
    kwargs = json.loads(key)
    name = f"env.id={env_id}" + (f" with env.kwargs={key}" if kwargs else "")
    try:
        env = make_env(env_id, kwargs)
    except FAULTS as error:
        if kwargs and isinstance(error, TypeError):
            allowed = ", ".join(_constructor_arguments(env_id))
        else:
            allowed = "what gymnasium.make takes, as <id> or <module>:<id>"
        raise UserError(f"{name}: cannot be made: {told(error)}; allowed: {allowed}") from error
    try:
        if env.spec is None or env.spec.max_episode_steps is None:
            raise UserError(
                f"{name}: has no time limit; register it with max_episode_steps, or add "
                "env.kwargs.max_episode_steps=<steps>"
            )
        check_spaces(env, name)
        check_behaviour(env, name, seed=2**31 - 1)
    except UserError:
        with suppress(*FAULTS):
            env.close()
        raise
    try:
        env.close()
    except FAULTS as error:
        raise UserError(f"{name}: close raised {told(error)}; it is called once, when all is done") from error
    return _specified(env, env_id, kwargs)


def _specified(env: Env, env_id: str, kwargs: dict[str, Any]) -> EnvSpec:
    observations = env.observation_space
    actions = env.action_space
    assert isinstance(observations, Box)
    assert isinstance(actions, Box)
    spec = EnvSpec(
        env_id,
        observations.shape[0],
        actions.shape[0],
        tuple(float(x) for x in actions.low),
        tuple(float(x) for x in actions.high),
        kwargs=kwargs,
    )
    if takes_wide_seeds(env_id):
        return spec
    return dataclasses.replace(spec, reseeds=_needs_seeds(spec))


def _needs_seeds(spec: EnvSpec) -> bool:
    """Whether a second episode cannot be played again from the state of `np_random` at its beginning."""
    action = np.array([spec.action_low, spec.action_high]).mean(0).astype(np.float32)
    first, second = (ReplayableEnv(env_factory(spec)()) for _ in range(2))
    try:
        first.seed(spec.reset_seed(RngStream.TRAIN_ENV, 1))
        first.step(action)
        first.reset()
        seen = first.step(action)[0]
        return not np.array_equal(np.asarray(second.replay(first.start, np.array([action]))), np.asarray(seen))
    except FAULTS:  # where it is not seeded
        return True
    finally:
        first.close()
        second.close()


def _constructor_arguments(env_id: str) -> list[str]:
    """Names that `env.kwargs` may have."""
    entry = gym.spec(env_id.rpartition(":")[2]).entry_point
    creator = gym.envs.registration.load_env_creator(entry) if isinstance(entry, str) else entry
    named = [] if creator is None else [*inspect.signature(creator).parameters]
    return sorted({"max_episode_steps", *named} - {"args", "kwargs", "render_mode"})


def _key(kwargs: Mapping[str, Any] | None) -> str:
    return json.dumps(dict(kwargs or {}), sort_keys=True)


@functools.cache
def _draws_globally(env_id: str, key: str) -> bool:
    """Whether an environment draws from the global generators, by a reset and a step of it."""
    if takes_wide_seeds(env_id):
        return False
    outside = global_state()
    try:
        env = _make(env_id, json.loads(key), None)
        env.reset(seed=0)
        env.step(np.asarray(env.action_space.sample()))
        env.reset()
        env.close()
    except FAULTS:  # `spec_of` says what is wrong with it
        return False
    finally:
        unchanged = is_unchanged(outside)
        set_global_state(outside)
    return not unchanged


def _make(env_id: str, kwargs: Mapping[str, Any] | None, render_mode: str | None) -> Env:
    with warnings.catch_warnings():
        # gymnasium calls the v4 environments of the paper out of date.
        warnings.simplefilter("ignore", DeprecationWarning)
        # Not every environment knows the word.
        rendering: dict[str, Any] = {} if render_mode is None else {"render_mode": render_mode}
        given = copy.deepcopy(dict(kwargs or {}))
        env: Env = gym.make(env_id, disable_env_checker=True, **given, **rendering)
    if isinstance(env.observation_space, Box) and len(env.observation_space.shape) != 1:
        env = gym.wrappers.FlattenObservation(env)
    shape = env.action_space.shape
    if isinstance(env.action_space, Box) and shape is not None and len(shape) != 1:
        low = env.action_space.low.ravel()
        high = env.action_space.high.ravel()
        dtype: Any = env.action_space.dtype
        env = gym.wrappers.TransformAction(env, lambda a: a.reshape(shape), Box(low, high, dtype=dtype))
    return env
