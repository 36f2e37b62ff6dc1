"""Structured pruning: whole hidden units go, by the dependency graph of torch-pruning (DepGraph, arXiv 2301.12900)."""

import copy
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn

from trainers.errors import UserError
from trainers.nn.stacked import StackedLinear, StackedMLP

Reduction = Literal["mean", "sum", "max", "prod", "first"]
Normalizer = Literal["mean", "sum", "max", "standarization", "gaussian"]


class PruningError(UserError):
    """A network that cannot be pruned as asked, in one line."""


@dataclass(frozen=True)
class Importance:
    """What a hidden unit is worth: the norm of its row in one layer and of its column in the next, reduced."""

    norm: Literal[1, 2]
    reduction: Reduction
    normalizer: Normalizer | None
    bias: bool


@dataclass(frozen=True)
class Size:
    """Widths of the hidden layers, outputs, parameters, and multiply-accumulates for one observation."""

    widths: tuple[int, ...]
    outputs: int
    parameters: int
    macs: int


def prune(layers: Sequence[nn.Module], ratio: float, importance: Importance) -> list[nn.Module]:
    """Copies of the layers in which every hidden width w became floor(w (1 - ratio)); inputs and outputs stay.

    `layers` are plain linear layers and activations; with ratio 0 they stay as they are. Raises PruningError for a
    ratio outside [0, 1), for one that leaves a layer without units, and where the result has other widths than asked
    for.
    """
    if ratio == 0:
        return [copy.deepcopy(layer) for layer in layers]
    import torch_pruning as tp

    if not 0 < ratio < 1:
        raise PruningError(f"ratio={ratio}: must lie between 0 and 1")
    before = network_size(layers)
    if not before.widths:
        raise PruningError(f"ratio={ratio}: the policy has no hidden layer to prune; allowed for it: ptdq, ptsq")
    expected = tuple(math.floor(width * (1 - ratio) + 1e-9) for width in before.widths)
    if min(expected) == 0:
        raise PruningError(
            f"ratio={ratio}: of the hidden widths {list(before.widths)} would be left {list(expected)}; "
            "choose a smaller one"
        )
    network = _trainable_copy(layers)
    _pruner(tp.pruner.BasePruner, network, importance, pruning_ratio=ratio).step()
    pruned = list(network.requires_grad_(False))
    after = network_size(pruned)
    if after.widths != expected or after.outputs != before.outputs:
        raise PruningError(f"ratio={ratio}: the widths became {list(after.widths)} instead of {list(expected)}")
    return pruned


def sparsify(
    layers: Sequence[nn.Module],
    inputs: Tensor,
    importance: Importance,
    *,
    reg: float,
    steps: int,
    batch_size: int,
    lr: float,
    generator: torch.Generator,
) -> list[nn.Module]:
    """Copies of the layers, trained to compute the same on `inputs` [n, in] with few hidden units.

    The group-sparse regularisation R(g, k) of DepGraph, section 3.4: each unit's weights shrink, the less the unit
    matters the faster. Pruning afterwards costs less.
    """
    import torch_pruning as tp

    network = _trainable_copy(layers)
    teacher = nn.Sequential(*layers)
    pruner = _pruner(tp.pruner.GroupNormPruner, network, importance, reg=reg)
    adam = torch.optim.Adam(network.parameters(), lr=lr)
    for _ in range(steps):
        x = inputs[torch.randint(len(inputs), (batch_size,), generator=generator)]
        with torch.no_grad():
            target = teacher(x)
        adam.zero_grad()
        (network(x) - target).square().mean().backward()
        pruner.regularize(network)
        adam.step()
    return list(network.requires_grad_(False))


def _trainable_copy(layers: Sequence[nn.Module]) -> nn.Sequential:
    """torch-pruning traces by autograd: frozen parameters would be left as they are, without a word."""
    return copy.deepcopy(nn.Sequential(*layers)).requires_grad_(True)


def _pruner(kind: Any, network: nn.Sequential, importance: Importance, **settings: float) -> Any:
    import torch_pruning as tp

    linears = [layer for layer in network if isinstance(layer, nn.Linear)]
    worth = tp.importance.GroupMagnitudeImportance(
        p=importance.norm,
        group_reduction=importance.reduction,
        normalizer=importance.normalizer,
        bias=importance.bias,
    )
    return kind(network, torch.zeros(1, linears[0].in_features), worth, ignored_layers=[linears[-1]], **settings)


def network_size(layers: Sequence[nn.Module]) -> Size:
    """Raises PruningError for anything but linear layers and activations without parameters."""
    linears = [layer for layer in layers if isinstance(layer, nn.Linear)]
    others = [layer for layer in layers if not isinstance(layer, nn.Linear)]
    if not linears or any(list(layer.parameters()) for layer in others):
        kinds = ", ".join(type(layer).__name__ for layer in layers)
        raise PruningError(f"only linear layers and activations can be pruned, not {kinds}; allowed for it: ptdq, ptsq")
    macs = sum(layer.weight.numel() for layer in linears)
    biases = sum(layer.out_features for layer in linears)
    *widths, outputs = (layer.out_features for layer in linears)
    return Size(tuple(widths), outputs, macs + biases, macs)


def replace_layers(network: StackedMLP, layers: Sequence[nn.Module]) -> None:
    """Put plain linear layers of any widths into every row of a stacked network, in place."""
    rows = len(next(network.parameters()))
    linears = [layer for layer in layers if isinstance(layer, nn.Linear)]
    for i, linear in enumerate(linears):
        stacked = StackedLinear(rows, linear.in_features, linear.out_features)
        with torch.no_grad():
            stacked.weight.copy_(linear.weight)
            stacked.bias.copy_(linear.bias)
        network.layers[i] = stacked
