"""The four verbs of an agent: act, update, policy, state."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from trainers.networks import StackedMLP
from trainers.policy import Policy
from trainers.replay import Batch
from trainers.rollout import FloatArray
from trainers.spec import Spec

ActorTransform = Callable[[StackedMLP], None]


class ActorCritic(ABC):
    """An agent of S independent seeds trained in lockstep."""

    networks: dict[str, StackedMLP]
    """Every network by name; its rows are seeds, or seeds x twins."""
    temperatures: dict[str, Tensor]
    """Every other trained number by name, [S, ...]."""

    def __init__(self, spec: Spec, seeds: Sequence[int], device: torch.device) -> None:
        self.spec = spec
        self.seeds = list(seeds)
        self.device = device
        self.action_center, self.action_scale = spec.action_center_and_scale(device)

    @abstractmethod
    def act(self, obs: FloatArray) -> FloatArray:
        """Exploring actions [S, E, act_dim] in environment units for observations [S, E, obs_dim]."""

    @abstractmethod
    def update(self, batch: Batch) -> dict[str, Tensor]:
        """One gradient update of every seed; returns losses and other figures, each [S], still on the device."""

    @abstractmethod
    def policy(self, i: int) -> Policy:
        """The deterministic policy of seed number i, cut out as plain layers on the CPU."""

    def state(self, i: int) -> dict[str, Tensor]:
        """Parameters and buffers of seed number i by name, without the seed axis, on the CPU."""
        return {name: tensor.detach().cpu().clone() for name, tensor in self._state_views(i).items()}

    @torch.no_grad()
    def load_state(self, i: int, tensors: dict[str, Tensor]) -> None:
        """Put back what `state` gave. Raises KeyError or RuntimeError for names or shapes of another agent."""
        views = self._state_views(i)
        if views.keys() != tensors.keys():
            raise KeyError(f"tensors of another agent: {sorted(views.keys() ^ tensors.keys())}")
        for name, view in views.items():
            view.copy_(tensors[name])

    def _state_views(self, i: int) -> dict[str, Tensor]:
        views: dict[str, Tensor] = {}
        for network_name, network in self.networks.items():
            copies = network.flat.shape[0] // len(self.seeds)
            for name, tensor in network.state_dict().items():
                rows = tensor[i * copies : (i + 1) * copies]
                views[f"{network_name}.{name}"] = rows if copies > 1 else rows[0]
        return views | {name: tensor[i] for name, tensor in self.temperatures.items()}
