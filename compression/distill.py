"""Behaviour distillation: a small student learns the actions of a trained policy, also where it strays (DAgger)."""

import numpy as np
import torch

from compression.artifact import OnnxPolicy
from compression.onnx_graph import onnx_bytes
from trainers.actor_critic import ActorCritic
from trainers.networks import FlatAdam, StackedMLP
from trainers.policy import Policy
from trainers.rollout import EnvFactory, FloatArray, visited_observations
from trainers.spec import Stream, torch_stream

# Episodes of one round lie apart from those of the next.
EPISODES_PER_ROUND = 100_000


def distill(
    student: ActorCritic,
    teacher: Policy,
    make_env: EnvFactory,
    *,
    rounds: int,
    states: int,
    steps: int,
    batch_size: int,
    lr: float,
) -> None:
    """Train the actor of a one-seed agent, in place, towards the teacher's actions.

    Begins on `states` states that the teacher visits; then `rounds` times the student adds as many of its own, with
    the teacher's actions as labels (DAgger, arXiv 1011.0686). `steps` updates in all, the rate falling linearly to 0.
    The error is measured in half ranges of the action.
    """
    actor, (seed,) = student.networks["actor"], student.seeds
    assert isinstance(actor, StackedMLP)
    optimizer, generator = FlatAdam(actor, lr), torch_stream(Stream.DISTILL, seed)
    center, scale = teacher.spec.action_center_and_scale(torch.device("cpu"))
    observations = np.empty((0, teacher.spec.obs_dim), np.float32)
    done = 0
    for stage in range(rounds + 1):
        guide = teacher if stage == 0 else student.policy(0)
        first = stage * EPISODES_PER_ROUND
        act = OnnxPolicy(onnx_bytes(guide))
        new: FloatArray = visited_observations(act, make_env, teacher.spec, seed, states, first)
        observations = np.concatenate([observations, new])
        x = torch.from_numpy(observations)
        target = (teacher(x) - center) / scale
        for _ in range(steps * (stage + 1) // (rounds + 1) - done):
            optimizer.set_lr(lr * (1 - done / steps))
            chosen = torch.randint(len(x), (batch_size,), generator=generator)
            error = student.greedy(x[chosen].unsqueeze(0), update_ranges=True) - target[chosen].unsqueeze(0)
            optimizer.minimize(error.square().mean())
            done += 1
