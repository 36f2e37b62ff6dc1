"""Gaussian policies: densities, divergence, entropy."""

import math

import torch
from torch import Tensor


def log_probability(mean: Tensor, log_std: Tensor, x: Tensor) -> Tensor:
    """log N(x; mean, std) of diagonal Gaussians.

    Args:
        mean: [..., B, n].
        log_std: Logarithm of the standard deviation, [..., 1, n].
        x: [..., B, n].

    Returns:
        Log-probability density [..., B].
    """
    z = (x - mean) * torch.exp(-log_std)
    return -0.5 * z.square().sum(-1) - (log_std + 0.5 * math.log(2 * math.pi)).sum(-1)


def kl_divergence(old_mean: Tensor, old_log_std: Tensor, mean: Tensor, log_std: Tensor) -> Tensor:
    """KL(old || new) of diagonal Gaussians, summed over the last dimension."""
    squares = torch.exp(2 * old_log_std) + (old_mean - mean).square()
    return (log_std - old_log_std + 0.5 * squares * torch.exp(-2 * log_std) - 0.5).sum(-1)


def entropy(log_std: Tensor) -> Tensor:
    """Entropy of a diagonal Gaussian in nats, summed over the last dimension."""
    return (log_std + 0.5 * math.log(2 * math.pi * math.e)).sum(-1)


def squashed_gaussian(mean: Tensor, log_std: Tensor, noise: Tensor, scale: Tensor) -> tuple[Tensor, Tensor]:
    """u = tanh(mean + std noise) in [-1, 1] and log p(scale u), the density of the scaled action.

    Appendix C of arXiv 1812.05905 plus the constant of the affine map:
    log p = log N(x) - sum log(scale (1 - tanh(x)^2)).

    Args:
        mean: Of x, [..., act_dim].
        log_std: Logarithm of its standard deviation, [..., act_dim].
        noise: Standard normal, [..., act_dim].
        scale: Half range of each action, [act_dim].

    Returns:
        u [..., act_dim] and log p [...].
    """
    x = mean + log_std.exp() * noise
    # log(1 - tanh(x)^2) = 2 (log 2 - |x| - log(1 + exp(-2|x|))), exact for any x. Not softplus: its bits depend
    # on how many seeds are batched.
    size = x.abs()
    log_slope = 2 * (math.log(2) - size - torch.log(1 + torch.exp(-2 * size)))
    gaussian = -0.5 * noise.square() - log_std - 0.5 * math.log(2 * math.pi)
    return torch.tanh(x), (gaussian - log_slope - scale.log()).sum(-1)
