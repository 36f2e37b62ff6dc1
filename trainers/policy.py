"""The deployable policy: raw observation in, environment action out, everything in between inside."""

from collections.abc import Iterable

import torch
from torch import Tensor, nn

from trainers.envs.spec import EnvSpec


class Standardize(nn.Module):
    """(x - mean) / std in float32, written as a product with 1/std."""

    mean: Tensor
    inverse_std: Tensor

    def __init__(self, mean: Tensor, std: Tensor) -> None:
        super().__init__()
        self.register_buffer("mean", mean.detach().cpu().float().clone())
        self.register_buffer("inverse_std", 1 / std.detach().cpu().float())

    def forward(self, x: Tensor) -> Tensor:
        """[..., n] -> [..., n]."""
        return (x - self.mean) * self.inverse_std


class Clamp(nn.Module):
    """Every entry between `low` and `high`, which are scalars or have one number per column."""

    low: Tensor
    high: Tensor

    def __init__(self, low: Tensor, high: Tensor) -> None:
        super().__init__()
        self.register_buffer("low", low.detach().cpu().clone())
        self.register_buffer("high", high.detach().cpu().clone())

    def forward(self, x: Tensor) -> Tensor:
        """[..., n] -> [..., n]."""
        return torch.clamp(x, self.low, self.high)


class Rescale(nn.Module):
    """The affine map from [-1, 1] to the action bounds."""

    center: Tensor
    scale: Tensor

    def __init__(self, center: Tensor, scale: Tensor) -> None:
        super().__init__()
        self.register_buffer("center", center.detach().cpu().clone())
        self.register_buffer("scale", scale.detach().cpu().clone())

    def forward(self, x: Tensor) -> Tensor:
        """[..., act_dim] -> [..., act_dim]."""
        return x * self.scale + self.center


def clamp_to_bounds(spec: EnvSpec) -> Clamp:
    """The clip of actions in environment units to the bounds of the environment."""
    low, high = (torch.from_numpy(bound) for bound in spec.action_bounds())
    return Clamp(low, high)


def squash_to_bounds(spec: EnvSpec) -> list[nn.Module]:
    """The stages from any number to an action inside the bounds: tanh, the affine map, and a clip of what it rounds."""
    center, scale = spec.action_center_and_scale(torch.device("cpu"))
    return [nn.Tanh(), Rescale(center, scale), clamp_to_bounds(spec)]


class Policy(nn.Sequential):
    """A deterministic policy as a sequence of stages: float32 [B, obs_dim] -> [B, act_dim] in environment units.

    The one thing that is compressed, exported, measured and deployed.
    """

    def __init__(self, spec: EnvSpec, stages: Iterable[nn.Module]) -> None:
        super().__init__(*stages)
        self.spec = spec
        self.requires_grad_(False)


def within_bounds(policy: Policy) -> Policy:
    """The policy with a clip to the bounds at its end, where it has none: policies of earlier versions may lack it."""
    last = policy[-1]
    clamp = clamp_to_bounds(policy.spec)
    if isinstance(last, Clamp) and (last.low >= clamp.low).all() and (last.high <= clamp.high).all():
        return policy
    return Policy(policy.spec, [*policy, clamp])


def split_at_linears(policy: Policy) -> tuple[list[nn.Module], list[nn.Module], list[nn.Module]]:
    """The stages before the first linear layer, from there to the last one, and behind it."""
    stages = list(policy)
    linears = [i for i, stage in enumerate(stages) if isinstance(stage, nn.Linear)]
    first = linears[0]
    behind = linears[-1] + 1
    return stages[:first], stages[first:behind], stages[behind:]


def input_standardized(policy: Policy, mean: Tensor, std: Tensor) -> Policy:
    """The same function with its input standardised first and the inverse folded into the first layer.

    W x + b = (W diag(std)) ((x - mean) / std) + (b + W mean), so a quantiser placed behind the new stage sees
    inputs of one scale.

    Args:
        policy: Begins with a linear layer on raw observations.
        mean: Of the observations, [obs_dim].
        std: Their standard deviation, [obs_dim].

    Raises:
        ValueError: Where the first stage is not linear.
    """
    first, *rest = policy
    if not isinstance(first, nn.Linear):
        raise ValueError(f"the first stage must be a linear layer on raw observations, it is {first}")
    folded = nn.Linear(first.in_features, first.out_features)
    with torch.no_grad():
        weight = first.weight.double()
        folded.weight.copy_(weight * std)
        folded.bias.copy_(first.bias.double() + weight @ mean.double())
    return Policy(policy.spec, [Standardize(mean, std), folded, *rest])
