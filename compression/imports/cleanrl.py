"""Policies trained with CleanRL's single-file scripts, from what they save: state_dicts of their networks.

https://github.com/vwxyzjn/cleanrl: ppo_continuous_action.py saves the agent, ddpg_ and td3_continuous_action.py a tuple
of the actor and its critics. The activation is in the script, not in the file, and so are the statistics of the
observations, which the PPO script normalises.
"""

import re
from collections.abc import Mapping
from typing import Any

import numpy as np
from torch import Tensor

from compression.imports.layers import (
    AS_ONNX,
    Imported,
    Request,
    chain,
    is_state_dict,
    named_layer,
    numbered_layers,
    real_numbers,
    rescale_notes,
    some,
    to_actions,
)
from compression.imports.vecnormalize import read_statistics
from trainers.policy import Policy

ALGORITHM = "cleanrl"
PPO_PARTS = re.compile(r"(actor_mean|critic)\.\d+\.(weight|bias)|actor_logstd")
ACTOR_PARTS = re.compile(r"fc(\d+|_mu|_mean|_logstd)\.(weight|bias)|action_(scale|bias)")


def is_cleanrl(content: Any) -> bool:
    """Whether what torch loaded looks like a file of CleanRL."""
    actor = _actor(content)
    return "actor_mean.0.weight" in actor or {"fc_mu.weight", "fc_mean.weight"} & actor.keys() != set()


def read_cleanrl(request: Request, content: Any) -> Imported:
    """The mean action of an agent. Raises UserError for what it does not read or what does not fit."""
    actor = _actor(content)
    on_policy = "actor_mean.0.weight" in actor
    for name in actor:
        if not (PPO_PARTS if on_policy else ACTOR_PARTS).fullmatch(name):
            raise request.refuse(f"has {name}, which CleanRL's scripts for continuous actions do not have; {AS_ONNX}")
    activation = request.activation or ("tanh" if on_policy else "relu")
    notes = []
    if request.activation is None:
        notes.append(
            f"{request.path}: taken with activation={activation}, as in CleanRL's script; the file does not say it"
        )
    if on_policy:
        if request.statistics is None:
            raise request.refuse(
                "CleanRL's PPO normalises observations and does not save the statistics; add statistics=<.npz with "
                "mean, var, epsilon, clip_obs>, or statistics=none if it was trained on raw observations"
            )
        linears = numbered_layers(request, actor, "actor_mean")
        bounds = None
    else:
        head = "fc_mu" if "fc_mu.weight" in actor else "fc_mean"
        numbers = sorted(int(match[1]) for name in actor if (match := re.fullmatch(r"fc(\d+)\.weight", name)))
        names = [f"fc{number}" for number in numbers]
        linears = [named_layer(request, actor, name) for name in [*names, head]]
        bounds = _bounds(request, actor)
    layers = chain(request, linears, activation)
    tail = to_actions(request, squashed=not on_policy, bounds=bounds)
    notes += rescale_notes(request, bounds)
    return Imported(Policy(request.spec, [*read_statistics(request), *layers, *tail]), ALGORITHM, notes)


def _actor(content: Any) -> Mapping[str, Tensor]:
    """The tensors of the actor, which is the first of a tuple of networks."""
    first = content[0] if isinstance(content, tuple | list) and content else content
    return first if is_state_dict(first) else {}


def _bounds(request: Request, actor: Mapping[str, Tensor]) -> tuple[Any, Any]:
    if not {"action_scale", "action_bias"} <= actor.keys():
        raise request.refuse(f"has no action_scale and action_bias; found {some(actor)}; allowed: CleanRL's actors")
    scale, center = (
        real_numbers(request, name, actor[name]).double().numpy().ravel() for name in ("action_scale", "action_bias")
    )
    if not {scale.size, center.size} <= {1, request.spec.act_dim}:
        raise request.refuse(
            f"its action_scale has {scale.size} numbers, {request.spec.env_id} {request.spec.act_dim} actions; "
            "name the environment it was trained in with env=<name> or env.id=<id>"
        )
    if not (scale > 0).all():
        raise request.refuse("its action_scale has numbers of 0 or less; allowed: half ranges of actions")
    low, high = (np.resize(bound, request.spec.act_dim) for bound in (center - scale, center + scale))
    return low, high
