"""Policies trained with rsl_rl, from the checkpoints of its runner.

https://github.com/leggedrobotics/rsl_rl: versions 1 to 3 save `model_state_dict` with an `actor` of numbered layers,
versions 4 and 5 `actor_state_dict` with an `mlp`. Observation statistics are inside where they were used. The
activation is in the configuration of the training, not in the file.
"""

import re
from collections.abc import Mapping
from typing import Any, NamedTuple

from torch import Tensor, nn

from compression.imports.layers import (
    AS_ONNX,
    Imported,
    Request,
    chain,
    is_state_dict,
    numbered_layers,
    real_numbers,
    rescale_notes,
    some,
    to_actions,
)
from compression.imports.vecnormalize import read_statistics
from trainers.policy import Policy, Standardize

ALGORITHM = "rsl_rl"
DEFAULT_ACTIVATION = "elu"
# Added to the standard deviation by the normaliser of rsl_rl, which does not save it.
EPSILON = 1e-2


class Layout(NamedTuple):
    """Where a checkpoint has its actor: key, name of the layers and of the normaliser, and what else belongs to it."""

    key: str
    layers: str
    normalizer: str
    others: str


LAYOUTS = (
    Layout(
        "model_state_dict",
        "actor",
        "actor_obs_normalizer",
        r"critic\.\d+\.\w+|critic_obs_normalizer\..+|std|log_std",
    ),
    Layout("actor_state_dict", "mlp", "obs_normalizer", r"distribution\.(std_param|log_std_param)"),
)


def is_rsl_rl(content: Any) -> bool:
    """Whether what torch loaded looks like a checkpoint of rsl_rl."""
    return isinstance(content, dict) and any(key.endswith("_state_dict") for key in content if isinstance(key, str))


def read_rsl_rl(request: Request, content: Any) -> Imported:
    """The mean action of an agent. Raises UserError for what it does not read or what does not fit."""
    layout = next((layout for layout in LAYOUTS if layout.key in content), None)
    if layout is None:
        allowed = " or ".join(layout.key for layout in LAYOUTS)
        raise request.refuse(f"has no actor; found {some([str(key) for key in content])}; allowed: {allowed}")
    tensors = content[layout.key]
    if not is_state_dict(tensors):
        raise request.refuse(f"its {layout.key} does not hold plain tensors by name; allowed: a state_dict")
    known = re.compile(rf"{layout.layers}\..+|{layout.normalizer}\..+|{layout.others}")
    foreign = [name for name in tensors if not known.fullmatch(name)]
    if foreign:
        raise request.refuse(f"has {some(foreign)}; allowed: actors of linear layers without memory; {AS_ONNX}")
    linears = numbered_layers(request, tensors, layout.layers)
    if not linears:
        raise request.refuse(f"its {layout.key} has no {layout.layers}.0.weight; found {some(tensors)}; {AS_ONNX}")
    if linears[-1].out_features == 2 * request.spec.act_dim:
        raise request.refuse(
            f"has 2 numbers for each of {request.spec.act_dim} actions (a deviation that depends on the state, or a "
            f"Beta distribution); {AS_ONNX}"
        )
    activation = request.activation or DEFAULT_ACTIVATION
    notes = []
    if request.activation is None:
        notes.append(
            f"{request.path}: taken with activation={activation}, the default of rsl_rl; the file does not say it"
        )
    inputs = _normalizer(request, content, tensors, layout.normalizer)
    if inputs and request.statistics is not None:
        raise request.refuse(f"statistics={request.statistics}: the file has its own; leave statistics out")
    layers = chain(request, linears, activation)
    tail = to_actions(request, squashed=False, bounds=None)
    notes += rescale_notes(request, None)
    return Imported(Policy(request.spec, [*(inputs or read_statistics(request)), *layers, *tail]), ALGORITHM, notes)


def _normalizer(
    request: Request, content: Mapping[str, Any], tensors: Mapping[str, Tensor], prefix: str
) -> list[nn.Module]:
    """The normaliser of the observations; none where the training had none."""
    # Up to version 2 it is a part of its own.
    own = content.get("obs_norm_state_dict")
    if own is None or own == {}:
        own = {
            name.removeprefix(f"{prefix}."): tensor for name, tensor in tensors.items() if name.startswith(f"{prefix}.")
        }
    if not is_state_dict(own):
        raise request.refuse("its observation normaliser does not hold plain tensors by name; allowed: a state_dict")
    if not own:
        return []
    if not {"_mean", "_std"} <= own.keys():
        raise request.refuse(f"its observation normaliser has {some(own)}; allowed: _mean and _std")
    mean, std = (real_numbers(request, name, own[name]).double().flatten() for name in ("_mean", "_std"))
    if (mean.numel(), std.numel()) != (request.spec.obs_dim,) * 2:
        raise request.refuse(
            f"its normaliser has {mean.numel()} means, {request.spec.env_id} {request.spec.obs_dim} observations; name "
            "the environment it was trained in with env=<name> or env.id=<id>"
        )
    if not (std >= 0).all():
        raise request.refuse("its observation normaliser has deviations below 0; give an earlier checkpoint")
    return [Standardize(mean, std + EPSILON)]
