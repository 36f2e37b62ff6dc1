"""What a trainer must know of an environment."""

from dataclasses import dataclass

import torch


@dataclass(frozen=True)
class EnvSpec:
    """Shapes and action bounds of an environment with flat float observations and actions."""

    env_id: str
    obs_dim: int
    act_dim: int
    action_low: tuple[float, ...]
    action_high: tuple[float, ...]

    def action_center_and_scale(self, device: torch.device) -> tuple[torch.Tensor, torch.Tensor]:
        """Middle and half range of each action dimension, float32 [act_dim]."""
        low = torch.tensor(self.action_low, dtype=torch.float32, device=device)
        high = torch.tensor(self.action_high, dtype=torch.float32, device=device)
        return (high + low) / 2, (high - low) / 2
