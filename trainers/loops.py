"""Interaction loops. They yield now and then, so that the caller can log, evaluate or stop."""

from collections.abc import Iterator

import numpy as np
from torch import Tensor

from trainers.actor_critic import ActorCritic
from trainers.replay import Replay
from trainers.rollout import FloatArray, SeedEnvs
from trainers.spec import Spec, Stream, numpy_stream


def off_policy(
    agent: ActorCritic,
    envs: SeedEnvs,
    replay: Replay,
    *,
    total_steps: int,
    learning_starts: int,
    batch_size: int,
    updates_per_step: int,
    yield_every: int,
) -> Iterator[tuple[int, dict[str, Tensor]]]:
    """Uniform actions for `learning_starts` steps, then one environment step and its updates in turn.

    Yields (steps per seed so far, figures of the last update; empty before the first) about every
    `yield_every` steps and at the end. Steps are environment steps of one seed, over its E environments.
    """
    num_envs = envs.shape[1]
    streams = [numpy_stream(Stream.WARMUP, seed) for seed in agent.seeds]
    figures: dict[str, Tensor] = {}
    obs = envs.reset()
    replay.start(obs)
    steps = yielded = 0
    while steps < total_steps:
        action = uniform_actions(agent.spec, streams, num_envs) if steps < learning_starts else agent.act(obs)
        step = envs.step(action)
        replay.add(action, step)
        obs = step.next_obs
        steps += num_envs
        if steps > learning_starts:
            for _ in range(num_envs * updates_per_step):
                figures = agent.update(replay.sample(batch_size))
        if steps - yielded >= yield_every or steps >= total_steps:
            yielded = steps
            yield steps, figures


def uniform_actions(spec: Spec, streams: list[np.random.Generator], num_envs: int) -> FloatArray:
    """Uniform actions over the bounds, [S, E, act_dim], row s from stream s."""
    drawn = [g.uniform(spec.action_low, spec.action_high, (num_envs, spec.act_dim)) for g in streams]
    return np.stack(drawn).astype(np.float32)
