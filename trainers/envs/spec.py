"""What a trainer must know of an environment."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch

from trainers.envs.names import takes_wide_seeds
from trainers.rng import RngStream, env_seed, env_seed32


@dataclass(frozen=True)
class EnvSpec:
    """Shapes and action bounds of an environment with flat float observations and actions."""

    env_id: str
    obs_dim: int
    act_dim: int
    action_low: tuple[float, ...]
    action_high: tuple[float, ...]
    kwargs: Mapping[str, Any] = field(default_factory=dict, hash=False)
    """What its constructor is given."""
    reseeds: bool = False
    """Whether every episode needs a seed of its own, because the state that it draws from cannot be put back."""

    def reset_seed(self, stream: RngStream, seed: int, index: int = 0) -> int:
        """A seed for `env.reset`, of as many bits as the environment is known to take."""
        pack = env_seed if takes_wide_seeds(self.env_id) else env_seed32
        return pack(stream, seed, index)

    def action_center_and_scale(self, device: torch.device) -> tuple[torch.Tensor, torch.Tensor]:
        """Middle and half range of each action dimension, float32 [act_dim]."""
        low = torch.tensor(self.action_low, dtype=torch.float32, device=device)
        high = torch.tensor(self.action_high, dtype=torch.float32, device=device)
        return (high + low) / 2, (high - low) / 2
