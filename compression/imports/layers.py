"""What all imports share: layers from named tensors, checks of what they hold, and the policy they make."""

import itertools
import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from trainers.envs.spec import EnvSpec
from trainers.errors import UserError, one_line
from trainers.nn.activations import ACTIVATIONS
from trainers.nn.stacked import make_linear
from trainers.policy import Policy, Rescale, clamp_to_bounds
from trainers.tensors import FloatArray

TRAINED_ELSEWHERE = (
    "add actions=rescale if it was trained behind gymnasium's RescaleAction, else name the environment it was trained "
    "in with env.id=<module>:<id>"
)
AS_ONNX = "export its deterministic policy to ONNX, observation to action, and give policy=<file>.onnx"


@dataclass(frozen=True)
class Request:
    """A file, the environment it is for, and what the user says of it."""

    path: Path
    spec: EnvSpec
    activation: str | None = None
    """Of the hidden layers."""
    statistics: str | None = None
    """A file with the observation statistics, "none" for none, or nothing said."""
    actions: str | None = None
    """"rescale" where its actions are meant in the bounds it was trained with, and scaled to the environment's;
    "clip" where they are in the units of the environment."""

    def refuse(self, problem: str) -> UserError:
        """An error about the file, in one line."""
        return UserError(f"policy={self.path}: {problem}")


@dataclass(frozen=True)
class Imported:
    """A policy that was read, its origin, and what was assumed because the file does not say it."""

    policy: Policy
    algorithm: str
    notes: list[str] = field(default_factory=list)


def load_tensors(request: Request, source: Any) -> Any:
    """What torch saved at a path or in a file object. Raises UserError where it is more than tensors and plain values.

    Nothing in it is run.
    """
    try:
        return torch.load(source, map_location="cpu", weights_only=True)
    except Exception as error:  # whatever a damaged or hostile file makes the reader raise
        reason = one_line(str(error)).partition(". ")[0][:120]
        raise request.refuse(
            f"does not hold plain tensors alone ({reason}); allowed: a state_dict saved with torch.save"
        ) from error


def numbered_layers(request: Request, tensors: Mapping[str, Tensor], prefix: str) -> list[nn.Linear]:
    """The linear layers of a sequence, by the numbers in their names, with one activation between each two.

    Raises UserError for other kinds of layers and other distances.
    """
    pattern = re.compile(re.escape(prefix) + r"\.(\d+)\.(.+)")
    matches = [match for name in tensors if (match := pattern.fullmatch(name))]
    for match in matches:
        if match[2] not in ("weight", "bias"):
            raise request.refuse(f"{match[0]} is no part of a linear layer; allowed: linear layers and activations")
    numbers = sorted({int(match[1]) for match in matches})
    layers = [named_layer(request, tensors, f"{prefix}.{number}") for number in numbers]
    if numbers != list(range(0, 2 * len(numbers), 2)):
        raise request.refuse(
            f"{prefix} has linear layers at {numbers}; allowed: one activation between each two, as in 0, 2, 4"
        )
    return layers


def named_layer(request: Request, tensors: Mapping[str, Tensor], name: str) -> nn.Linear:
    """One linear layer by its name. Raises UserError where its tensors are missing or of other shapes."""
    weight = tensors.get(f"{name}.weight")
    if weight is None:
        raise request.refuse(f"has no tensor {name}.weight; found {some(tensors)}; allowed: a whole state_dict")
    if weight.dim() != 2:
        raise request.refuse(f"{name}.weight has shape {list(weight.shape)}; allowed: linear layers and activations")
    bias = tensors.get(f"{name}.bias")
    if bias is None:
        bias = weight.new_zeros(len(weight))
    if bias.shape != weight.shape[:1]:
        raise request.refuse(f"{name}.bias has shape {list(bias.shape)}; allowed: {[len(weight)]}")
    return make_linear(
        real_numbers(request, f"{name}.weight", weight).float(), real_numbers(request, f"{name}.bias", bias).float()
    )


def is_state_dict(content: Any) -> bool:
    """Whether it is a dictionary of tensors by name."""
    return isinstance(content, dict) and all(
        isinstance(name, str) and isinstance(tensor, Tensor) for name, tensor in content.items()
    )


def real_numbers(request: Request, name: str, tensor: Tensor) -> Tensor:
    """The tensor. Raises UserError where it is not dense, in floating point and finite."""
    if tensor.layout != torch.strided or tensor.is_meta or not tensor.is_floating_point():
        raise request.refuse(f"{name} is no dense tensor in floating point; allowed: a state_dict of plain tensors")
    if not torch.isfinite(tensor).all():
        raise request.refuse(
            f"{name} has numbers that are not finite: its training diverged; give a checkpoint from before"
        )
    return tensor


def some(names: Collection[str]) -> str:
    """The first few of many names."""
    if not names:
        return "nothing"
    shown = sorted(names)[:5]
    return ", ".join(shown if len(names) == len(shown) else [*shown, "..."])


def chain(request: Request, linears: Sequence[nn.Linear], activation: str) -> list[nn.Module]:
    """Linear layers with activations between them.

    Raises UserError where their widths do not fit each other or the environment.
    """
    spec = request.spec
    for before, behind in itertools.pairwise(linears):
        if before.out_features != behind.in_features:
            raise request.refuse(
                f"a layer of {before.out_features} outputs stands before one of {behind.in_features} inputs; {AS_ONNX}"
            )
    sizes = (linears[0].in_features, linears[-1].out_features)
    if sizes != (spec.obs_dim, spec.act_dim):
        raise request.refuse(
            f"maps {sizes[0]} observations to {sizes[1]} actions, but {spec.env_id} has {spec.obs_dim} and "
            f"{spec.act_dim}; name the environment it was trained in with env=<name> or env.id=<id>"
        )
    stages: list[nn.Module] = []
    for linear in linears[:-1]:
        stages += [linear, ACTIVATIONS[activation]()]
    return [*stages, linears[-1]]


def to_actions(
    request: Request,
    *,
    squashed: bool,
    bounds: tuple[FloatArray, FloatArray] | None,
    remedy: str = TRAINED_ELSEWHERE,
) -> list[nn.Module]:
    """The stages from the last layer's outputs to actions in the environment's units and bounds.

    `squashed`: a tanh follows, whose values span `bounds`. `bounds` [act_dim] are those it was trained with; None
    for outputs in units of the environment. Raises UserError where they are not those of the environment and the
    user does not say what is meant; `remedy` is the way out.
    """
    spec = request.spec
    center, scale = spec.action_center_and_scale(torch.device("cpu"))
    if request.actions == "clip" and bounds is not None:
        raise request.refuse(
            f"actions=clip: the file says that its actions lie in {span(*bounds)}; leave actions out, or add "
            "actions=rescale if it was trained behind gymnasium's RescaleAction"
        )
    if request.actions == "rescale" and bounds is None:
        bounds = -np.ones(spec.act_dim, np.float32), np.ones(spec.act_dim, np.float32)
    if bounds is not None and not _same(bounds, spec) and request.actions != "rescale":
        raise request.refuse(
            f"its actions lie in {span(*bounds)}, those of {spec.env_id} in {span(spec.action_low, spec.action_high)}; "
            f"{remedy}"
        )
    if bounds is not None and not all(np.isfinite(bound).all() for bound in bounds):
        raise request.refuse(f"its actions lie in {span(*bounds)}; allowed: finite bounds")
    stages: list[nn.Module] = [nn.Tanh()] if squashed else []
    if squashed:
        stages.append(Rescale(center, scale))
    elif bounds is not None and not _same(bounds, spec):
        low, high = (torch.from_numpy(np.asarray(bound, np.float64)) for bound in bounds)
        factor = scale.double() * 2 / (high - low)
        # Scaled before it is clipped: ONNX Runtime takes an int8 layer behind which a clip is scaled back to float.
        stages.append(Rescale((center - factor * (low + high) / 2).float(), factor.float()))
    return [*stages, clamp_to_bounds(spec)]


def rescale_notes(request: Request, bounds: object) -> list[str]:
    """What actions=rescale takes for granted where nothing in the file bounds its actions."""
    if request.actions != "rescale" or bounds is not None:
        return []
    return [f"{request.path}: actions=rescale taken as from [-1, 1]; the file does not say its bounds"]


def span(low: Any, high: Any) -> str:
    """The bounds of all columns as text, in one interval where they are the same."""
    pairs = sorted({(round(float(a), 6), round(float(b), 6)) for a, b in zip(low, high, strict=True)})
    text = ", ".join(f"[{a:g}, {b:g}]" for a, b in pairs[:3])
    return text + (", ..." if len(pairs) > 3 else "")


def _same(bounds: tuple[FloatArray, FloatArray], spec: EnvSpec) -> bool:
    both = zip(bounds, (spec.action_low, spec.action_high), strict=True)
    return all(len(given) == len(own) and np.allclose(given, own, rtol=1e-6, atol=1e-9) for given, own in both)
