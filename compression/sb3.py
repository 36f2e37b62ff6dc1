"""Policies trained with Stable-Baselines3 and sb3-contrib, read from their zip files without unpickling anything."""

import io
import json
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from trainers.envs.spec import EnvSpec
from trainers.errors import UserError
from trainers.nn.activations import ACTIVATIONS
from trainers.nn.stacked import make_linear
from trainers.policy import Clamp, Policy, Rescale, Standardize

# Of the policy classes that come with the libraries, by their module.
DEFAULT_ACTIVATION = {
    "stable_baselines3.common.policies": "tanh",
    "stable_baselines3.sac.policies": "relu",
    "stable_baselines3.td3.policies": "relu",
}
TORCH_NAMES = {"ReLU": "relu", "Tanh": "tanh"}


def read_sb3(path: Path, spec: EnvSpec, *, activation: str | None, statistics: Path | None) -> Policy:
    """The mean action of a PPO, TRPO, SAC, TD3 or DDPG model with flat observations.

    `activation` names that of the hidden layers where the file does not say it; `statistics` is an .npz with the
    `mean`, `var`, `epsilon` and `clip_obs` of the observation normalisation it was trained behind. Raises
    UserError for what cannot be read or does not fit the environment.
    """
    data, tensors = _read(path)
    linears, squashed = _layers(path, data, tensors)
    hidden = ACTIVATIONS[activation or _activation(path, data)]
    stages: list[nn.Module] = [] if statistics is None else _normalizer(statistics, spec)
    for linear in linears[:-1]:
        stages += [linear, hidden()]
    stages.append(linears[-1])
    if (linears[0].in_features, linears[-1].out_features) != (spec.obs_dim, spec.act_dim):
        raise UserError(
            f"policy={path}: maps {linears[0].in_features} observations to {linears[-1].out_features} actions, but "
            f"{spec.env_id} has {spec.obs_dim} and {spec.act_dim}"
        )
    center, scale = spec.action_center_and_scale(torch.device("cpu"))
    bounds = Clamp(torch.tensor(spec.action_low), torch.tensor(spec.action_high))
    return Policy(spec, [*stages, nn.Tanh(), Rescale(center, scale)] if squashed else [*stages, bounds])


def _read(path: Path) -> tuple[dict[str, Any], dict[str, Tensor]]:
    try:
        with zipfile.ZipFile(path) as archive:
            data = json.loads(archive.read("data"))
            content = archive.read("policy.pth")
    except (OSError, KeyError, ValueError, zipfile.BadZipFile) as error:
        raise UserError(f"policy={path}: is no Stable-Baselines3 file: {error}") from error
    try:
        tensors = torch.load(io.BytesIO(content), map_location="cpu", weights_only=True)
    except Exception as error:  # whatever a damaged or hostile file makes the reader raise
        raise UserError(f"policy={path}: its policy.pth does not hold plain tensors") from error
    return data, tensors


def _layers(path: Path, data: dict[str, Any], tensors: dict[str, Tensor]) -> tuple[list[nn.Linear], bool]:
    """The layers from observation to action, and whether a tanh follows."""
    if any("features_extractor" in name for name in tensors):
        raise UserError(f"policy={path}: has a feature extractor of its own; allowed: flat observations")
    if "action_net.weight" in tensors:
        return [*_numbered(tensors, "mlp_extractor.policy_net"), _linear(tensors, "action_net")], False
    if "actor.latent_pi.0.weight" in tensors and not data.get("use_sde"):
        return [*_numbered(tensors, "actor.latent_pi"), _linear(tensors, "actor.mu")], True
    if "actor.mu.0.weight" in tensors and not data.get("use_sde"):
        return _numbered(tensors, "actor.mu"), True
    raise UserError(f"policy={path}: is none of PPO, TRPO, SAC, TD3, DDPG without state-dependent exploration")


def _numbered(tensors: dict[str, Tensor], prefix: str) -> list[nn.Linear]:
    numbers = sorted(
        int(name.split(".")[-2]) for name in tensors if name.startswith(prefix) and name.endswith("weight")
    )
    return [_linear(tensors, f"{prefix}.{number}") for number in numbers]


def _linear(tensors: dict[str, Tensor], name: str) -> nn.Linear:
    return make_linear(tensors[f"{name}.weight"], tensors[f"{name}.bias"])


def _activation(path: Path, data: dict[str, Any]) -> str:
    """From the readable part of the file: what was given, else the default of the policy class."""
    given = str((data.get("policy_kwargs") or {}).get("activation_fn", ""))
    name = TORCH_NAMES.get(given.removesuffix("'>").rpartition(".")[2])
    if not given:
        name = DEFAULT_ACTIVATION.get((data.get("policy_class") or {}).get("__module__", ""))
    if name is None:
        raise UserError(
            f"policy={path}: its hidden activation is {given or 'not in the file'}; add activation=relu or tanh"
        )
    return name


def _normalizer(path: Path, spec: EnvSpec) -> list[nn.Module]:
    try:
        with np.load(path, allow_pickle=False) as file:
            mean, var, epsilon, limit = (torch.from_numpy(np.asarray(file[k], np.float64)) for k in STATISTICS)
    except (OSError, KeyError, ValueError, zipfile.BadZipFile) as error:
        raise UserError(f"statistics={path}: is no .npz with {', '.join(STATISTICS)}: {error}") from error
    if mean.shape != (spec.obs_dim,) or var.shape != (spec.obs_dim,):
        raise UserError(f"statistics={path}: has {mean.numel()} means, but {spec.env_id} {spec.obs_dim} observations")
    limit = limit.float().reshape(())
    return [Standardize(mean, (var + epsilon).sqrt()), Clamp(-limit, limit)]


STATISTICS = ("mean", "var", "epsilon", "clip_obs")
