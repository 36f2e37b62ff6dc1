"""Policies trained with Stable-Baselines3 and sb3-contrib, from their zip files.

What a policy means is in the JSON part of the file: policy class, its settings and the spaces, some of it as pickles,
which are read without making any object. Whatever of it is not understood is refused by its name.
"""

import base64
import io
import json
import zipfile
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor, nn

from compression.imports.inert import read_inert
from compression.imports.layers import (
    AS_ONNX,
    Imported,
    Request,
    chain,
    is_state_dict,
    load_tensors,
    named_layer,
    numbered_layers,
    some,
    span,
    to_actions,
)
from compression.imports.records import InertError, Record, Reference, array_of, describe
from compression.imports.vecnormalize import beside, read_statistics
from trainers.envs.make import env_factory
from trainers.nn.activations import ACTIVATIONS
from trainers.policy import Policy

ALGORITHM = "stable-baselines3"
LARGEST = 2**28


@dataclass(frozen=True)
class Kind:
    """A policy class for flat observations: its default activation, and whether it always ends in a tanh."""

    activation: str
    squashed: bool


KINDS = {
    "stable_baselines3.common.policies.ActorCriticPolicy": Kind("tanh", squashed=False),
    "stable_baselines3.sac.policies.SACPolicy": Kind("relu", squashed=True),
    "stable_baselines3.td3.policies.TD3Policy": Kind("relu", squashed=True),
    "sb3_contrib.tqc.policies.TQCPolicy": Kind("relu", squashed=True),
}
FLATTEN = "stable_baselines3.common.torch_layers.FlattenExtractor"
# Settings of a policy that change nothing in its mean action, or that its tensors show.
HARMLESS = {
    "ortho_init",
    "log_std_init",
    "full_std",
    "use_expln",
    "sde_net_arch",
    "clip_mean",
    "optimizer_class",
    "optimizer_kwargs",
    "n_critics",
    "n_quantiles",
    "share_features_extractor",
    "normalize_images",
}
READ = {
    "activation_fn",
    "net_arch",
    "squash_output",
    "use_sde",
    "features_extractor_class",
    "features_extractor_kwargs",
}
# Parts of a policy that is more than a chain of layers, by what their tensors are called.
FOREIGN_PARTS = {
    "lstm_actor": "allowed: policies without memory",
    "mlp_extractor.shared_net": AS_ONNX,
    "features_extractor": AS_ONNX,
}


def read_sb3(request: Request) -> Imported:
    """The mean action of a model with flat observations. Raises UserError for what it does not read or not fit."""
    data, tensors = _parts(request)
    settings = _settings(request, data)
    kind = _kind(request, data, settings, tensors)
    linears = _layers(request, tensors)
    _check_widths(request, settings, linears)
    activation = _activation(request, settings, kind)
    layers = chain(request, linears, activation)
    _check_observations(request, _space(request, data, "observation_space", request.spec.obs_dim))
    tail = to_actions(
        request,
        squashed=kind.squashed or settings.get("squash_output") is True,
        bounds=_space(request, data, "action_space", request.spec.act_dim),
    )
    notes = _check_statistics(request, data, kind)
    return Imported(Policy(request.spec, [*read_statistics(request), *layers, *tail]), ALGORITHM, notes)


def _parts(request: Request) -> tuple[dict[str, Any], dict[str, Tensor]]:
    try:
        with zipfile.ZipFile(request.path) as archive:
            if any(archive.getinfo(name).file_size > LARGEST for name in ("data", "policy.pth")):
                raise request.refuse(f"has a part of more than {LARGEST} bytes; allowed: networks of a few layers")
            data = json.loads(archive.read("data"))
            content = archive.read("policy.pth")
    except (OSError, KeyError, ValueError, RecursionError, NotImplementedError, zipfile.BadZipFile) as error:
        raise request.refuse(f"is no Stable-Baselines3 file: {error}; allowed: what its save() wrote") from error
    if not isinstance(data, dict):
        raise request.refuse("is no Stable-Baselines3 file: its data is no dictionary; allowed: what its save() wrote")
    tensors = load_tensors(request, io.BytesIO(content))
    if not is_state_dict(tensors):
        raise request.refuse("its policy.pth does not hold plain tensors by name; allowed: what save() wrote")
    return data, tensors


def _value(request: Request, data: dict[str, Any], key: str) -> Any:
    """An entry of the JSON part: as it stands, or what its pickle describes."""
    value = data.get(key)
    if not isinstance(value, dict) or ":serialized:" not in value:
        return value
    try:
        return read_inert(base64.b64decode(value[":serialized:"]))
    except (InertError, ValueError, TypeError) as error:
        raise request.refuse(f"its {key} cannot be read: {error}; {AS_ONNX}") from error


def _settings(request: Request, data: dict[str, Any]) -> dict[str, Any]:
    """What the policy class was given, use_sde included. Raises UserError for what is not understood."""
    settings = _value(request, data, "policy_kwargs") or {}
    if not isinstance(settings, dict):
        raise request.refuse(f"its policy_kwargs are {describe(settings)}; {AS_ONNX}")
    for name in settings:
        if name not in HARMLESS | READ:
            raise request.refuse(f"its policy was made with {name}, which is not understood; {AS_ONNX}")
    extractor = settings.get("features_extractor_class")
    if extractor is not None and describe(extractor) != FLATTEN:
        raise request.refuse(
            f"its features extractor is {describe(extractor)}; allowed: FlattenExtractor, the default; {AS_ONNX}"
        )
    return {**settings, "use_sde": bool(data.get("use_sde") or settings.get("use_sde"))}


def _kind(request: Request, data: dict[str, Any], settings: dict[str, Any], tensors: dict[str, Tensor]) -> Kind:
    for part, remedy in FOREIGN_PARTS.items():
        if found := [name for name in tensors if name.startswith((part, f"actor.{part}", f"pi_{part}"))]:
            raise request.refuse(f"has {part} ({some(found)}); {remedy}")
    name = describe(_value(request, data, "policy_class"))
    if name not in KINDS:
        allowed = ", ".join(key.rpartition(".")[2] for key in KINDS)
        raise request.refuse(f"its policy class is {name}; allowed: MlpPolicy ({allowed}); {AS_ONNX}")
    kind = KINDS[name]
    if kind.squashed and settings["use_sde"]:
        raise request.refuse(f"use_sde: gSDE of SAC and TQC clips the mean behind its last layer; {AS_ONNX}")
    if settings.get("squash_output") not in (None, True, False):
        raise request.refuse(f"its squash_output is {describe(settings['squash_output'])}; allowed: true, false")
    if settings.get("squash_output") and not settings["use_sde"]:
        raise request.refuse("squash_output=true: without use_sde; allowed: models that Stable-Baselines3 loads")
    return kind


def _layers(request: Request, tensors: dict[str, Tensor]) -> list[nn.Linear]:
    """The layers from observation to the mean of the action."""
    if "action_net.weight" in tensors:
        hidden = numbered_layers(request, tensors, "mlp_extractor.policy_net")
        return [*hidden, named_layer(request, tensors, "action_net")]
    if "actor.mu.weight" in tensors:
        hidden = numbered_layers(request, tensors, "actor.latent_pi")
        return [*hidden, named_layer(request, tensors, "actor.mu")]
    if "actor.mu.0.weight" in tensors:
        return numbered_layers(request, tensors, "actor.mu")
    raise request.refuse(f"has no actor of linear layers; found {some(tensors)}; {AS_ONNX}")


def _check_widths(request: Request, settings: dict[str, Any], linears: list[nn.Linear]) -> None:
    """The tensors must be the network that the settings describe."""
    arch = settings.get("net_arch")
    if isinstance(arch, list) and arch and isinstance(arch[-1], dict):
        # The form before version 1.8: shared layers, then the dictionary.
        arch = arch[-1] if len(arch) == 1 else None
    if isinstance(arch, dict):
        arch = arch.get("pi", [])
    found = [layer.out_features for layer in linears[:-1]]
    if isinstance(arch, list) and arch != found:
        raise request.refuse(f"net_arch={arch}: but its hidden layers have {found} units; allowed: a whole file")


def _activation(request: Request, settings: dict[str, Any], kind: Kind) -> str:
    """The hidden activation, which the file always says: what was given, else the default of the policy class."""
    given = settings.get("activation_fn")
    name: str | None = kind.activation
    if given is not None:
        classes = {f"torch.nn.modules.activation.{cls.__name__}": name for name, cls in ACTIVATIONS.items()}
        name = classes.get(given.name) if isinstance(given, Reference) else None
    if name is None:
        shown = describe(given)
        raise request.refuse(f"its hidden activation is {shown}; allowed: {', '.join(ACTIVATIONS)}; {AS_ONNX}")
    if request.activation not in (None, name):
        raise request.refuse(f"activation={request.activation}: the file says {name}; leave activation out")
    return name


def _space(request: Request, data: dict[str, Any], key: str, size: int) -> tuple[NDArray[Any], NDArray[Any]]:
    """Lower and upper bounds of a space of so many numbers, flat."""
    space = _value(request, data, key)
    if not isinstance(space, Record) or not space.name.endswith(".Box"):
        raise request.refuse(f"its {key} is {describe(space)}; allowed: Box")
    try:
        low, high = (array_of(space.attribute(name)) for name in ("low", "high"))
    except (InertError, KeyError) as error:
        raise request.refuse(f"its {key} cannot be read: {error}; {AS_ONNX}") from error
    if key == "observation_space" and low.ndim == 3 and low.dtype == np.uint8:
        raise request.refuse(f"its observations are images of shape {list(low.shape)}; allowed: flat observations")
    if low.size != size or high.size != size:
        raise request.refuse(f"its {key} has {low.size} numbers, but its layers are for {size}; allowed: a whole file")
    return low.ravel(), high.ravel()


def _check_observations(request: Request, bounds: tuple[NDArray[Any], NDArray[Any]]) -> None:
    """Bounds of observations that differ are those of another environment, or of a wrapper that changes them."""
    env_id = request.spec.env_id
    with env_factory(request.spec)() as env:
        space: Any = env.observation_space
    own = (space.low.ravel(), space.high.ravel())
    same = [a.shape == b.shape and np.allclose(a, b, rtol=1e-5) for a, b in zip(bounds, own, strict=True)]
    if not all(same):
        raise request.refuse(
            f"its observations lie in {span(*bounds)}, those of {env_id} in {span(*own)}; name the environment it was "
            "trained in, wrappers of observations included, with env.id=<module>:<id>"
        )


def _check_statistics(request: Request, data: dict[str, Any], kind: Kind) -> list[str]:
    """Refuse a model without statistics where it may need them; a note where the user's word is against the file."""
    normalized = _was_normalized(request, data, kind)
    if request.statistics == "none" and normalized:
        return [f"statistics=none: {request.path} was trained behind VecNormalize; taken without its statistics"]
    if request.statistics is not None:
        return []
    near = beside(request)
    add = f"add statistics={near or '<its vecnormalize.pkl>'}"
    if normalized:
        raise request.refuse(f"was trained behind VecNormalize; {add}")
    if near is not None:
        raise request.refuse(f"{near} lies beside it; {add}, or statistics=none if it was trained without VecNormalize")
    if not kind.squashed:
        raise request.refuse(
            f"models of PPO, A2C and TRPO are mostly trained behind VecNormalize, and the file does not hold its "
            f"statistics; {add}, or statistics=none if it was trained on raw observations"
        )
    return []


def _was_normalized(request: Request, data: dict[str, Any], kind: Kind) -> bool:
    """Whether the last training saw observations behind VecNormalize, by the last ones that the file keeps."""
    raw = _value(request, data, "_last_original_obs")
    if raw is None or not kind.squashed:
        # Algorithms of rollouts keep raw observations behind VecNormalize alone.
        return raw is not None
    try:
        seen = array_of(_value(request, data, "_last_obs"))
        original = array_of(raw)
    except InertError:
        return False
    return seen.shape != original.shape or not np.allclose(seen, original, equal_nan=True)
