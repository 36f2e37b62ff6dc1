"""What a trainer must know of an environment."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch

from trainers.envs.names import takes_wide_seeds
from trainers.rng import RngStream, env_seed, env_seed32
from trainers.tensors import FloatArray


@dataclass(frozen=True)
class EnvSpec:
    """Shapes and action bounds of an environment with flat float observations and actions."""

    env_id: str
    obs_dim: int
    act_dim: int
    action_low: tuple[float, ...]
    action_high: tuple[float, ...]
    kwargs: Mapping[str, Any] = field(default_factory=dict, hash=False, kw_only=True)
    """What its constructor is given."""
    reseeds: bool = field(default=False, kw_only=True)
    """Whether every episode needs a seed of its own, because the state that it draws from cannot be put back."""

    def reset_seed(self, stream: RngStream, seed: int, index: int = 0) -> int:
        """A seed for `env.reset`, of as many bits as the environment is known to take."""
        pack = env_seed if takes_wide_seeds(self.env_id) else env_seed32
        return pack(stream, seed, index)

    def action_bounds(self) -> tuple[FloatArray, FloatArray]:
        """Smallest and largest action of each dimension in float32 [act_dim], rounded inwards.

        An action between them lies inside the bounds of the environment, whose numbers may be float64.
        """
        low = np.array(self.action_low, np.float64)
        high = np.array(self.action_high, np.float64)
        with np.errstate(over="ignore"):  # bounds beyond the largest float32 come back to it
            inner_low = low.astype(np.float32)
            inner_high = high.astype(np.float32)
            above = np.nextafter(inner_low, np.float32(np.inf))
            below = np.nextafter(inner_high, np.float32(-np.inf))
        return np.where(inner_low < low, above, inner_low), np.where(inner_high > high, below, inner_high)

    def action_center_and_scale(self, device: torch.device) -> tuple[torch.Tensor, torch.Tensor]:
        """Middle and half range of each action dimension, float32 [act_dim]."""
        low, high = (torch.from_numpy(bound).to(device) for bound in self.action_bounds())
        # Halves first: the range of the largest bounds is no float32.
        return high / 2 + low / 2, high / 2 - low / 2
