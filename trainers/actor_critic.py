"""The four verbs of an agent: act, update, policy, state."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor, nn

from trainers.networks import Acting, FlatAdam, StackedMLP, as_numpy
from trainers.policy import Policy
from trainers.rollout import FloatArray
from trainers.spec import Snapshot, Spec, Stream, numpy_stream, torch_stream, under

ActorTransform = Callable[[StackedMLP], None]


class ActorCritic(ABC):
    """An agent of S independent seeds trained in lockstep."""

    FIGURES: ClassVar[tuple[str, ...]]
    """Names of what `update` returns."""
    actor: StackedMLP
    networks: dict[str, nn.Module]
    """Everything trained or followed, by name: networks, temperatures, statistics. Rows are seeds, or seeds x twins."""
    optimizers: dict[str, FlatAdam]
    """The optimiser of each network that has one, under the network's name."""

    def __init__(self, spec: Spec, seeds: Sequence[int], device: torch.device) -> None:
        self.spec = spec
        self.seeds = list(seeds)
        self.device = device
        self.action_center, self.action_scale = spec.action_center_and_scale(device)
        self._bounds = as_numpy(self.action_center), as_numpy(self.action_scale)
        self._frozen: tuple[int, Acting] | None = None
        self.updates = 0
        self.warmup_streams = [numpy_stream(Stream.WARMUP, seed) for seed in seeds]
        self.explore_streams = [torch_stream(Stream.EXPLORE, seed) for seed in seeds]
        self.update_streams = [torch_stream(Stream.UPDATE, seed) for seed in seeds]

    def multiply_in(self, dtype: torch.dtype) -> None:
        """Train with products of float32 or bfloat16; the weights are float32, and acting is."""
        for network in self.networks.values():
            if isinstance(network, StackedMLP):
                network.dtype = dtype

    @abstractmethod
    def act(self, obs: FloatArray) -> FloatArray:
        """Exploring actions [S, E, act_dim] in environment units for observations [S, E, obs_dim]."""

    def acting(self) -> Acting:
        """The actor as a NumPy function of observations [S, E, obs_dim], made anew after every update."""
        if self._frozen is None or self._frozen[0] != self.updates:
            self._frozen = self.updates, self.frozen_actor()
        return self._frozen[1]

    def frozen_actor(self) -> Acting:
        """The actor with its weights of now as a NumPy function."""
        return self.actor.frozen()

    def in_environment_units(self, unit_action: FloatArray) -> FloatArray:
        """Actions [..., act_dim] in half ranges of the bounds, scaled and moved to the bounds."""
        center, scale = self._bounds
        return unit_action * scale + center

    @abstractmethod
    def policy(self, i: int) -> Policy:
        """The deterministic policy of seed number i, cut out as plain layers on the CPU."""

    def random_actions(self, num_envs: int) -> FloatArray:
        """Uniform actions over the bounds, [S, E, act_dim]."""
        low, high, shape = self.spec.action_low, self.spec.action_high, (num_envs, self.spec.act_dim)
        return np.stack([g.uniform(low, high, shape) for g in self.warmup_streams]).astype(np.float32)

    def state(self, i: int) -> dict[str, Tensor]:
        """Parameters and buffers of seed number i by name, without the seed axis, on the CPU."""
        return {name: tensor.detach().cpu().clone(memory_format=torch.contiguous_format) for name, tensor in self._state_views(i).items()}

    @torch.no_grad()
    def load_state(self, i: int, tensors: dict[str, Tensor]) -> None:
        """Put back what `state` gave. Raises KeyError or RuntimeError for names or shapes of another agent."""
        views = self._state_views(i)
        if views.keys() != tensors.keys():
            raise KeyError(f"tensors of another agent: {sorted(views.keys() ^ tensors.keys())}")
        self._frozen = None
        for name, view in views.items():
            view.copy_(tensors[name])

    def snapshot(self, i: int) -> Snapshot:
        """All of seed number i that training goes on from: its state, optimisers and random streams."""
        tensors = {f"state.{name}": tensor for name, tensor in self.state(i).items()}
        for network, optimizer in self.optimizers.items():
            for name, tensor in optimizer.state(self._rows(network, i)).items():
                tensors[f"optimizer.{network}.{name}"] = tensor
        tensors["stream.explore"] = self.explore_streams[i].get_state()
        tensors["stream.update"] = self.update_streams[i].get_state()
        return Snapshot(tensors, {"updates": self.updates, "warmup": self.warmup_streams[i].bit_generator.state})

    def restore(self, i: int, snapshot: Snapshot) -> None:
        """Put back what `snapshot` gave. All seeds must come from the same number of updates."""
        tensors = snapshot.tensors
        self.load_state(i, under("state.", tensors))
        for network, optimizer in self.optimizers.items():
            optimizer.load_state(self._rows(network, i), under(f"optimizer.{network}.", tensors))
        self.explore_streams[i].set_state(tensors["stream.explore"])
        self.update_streams[i].set_state(tensors["stream.update"])
        self.updates = snapshot.plain["updates"]
        self.warmup_streams[i].bit_generator.state = snapshot.plain["warmup"]

    def _rows(self, network: str, i: int) -> slice:
        copies = len(next(iter(self.networks[network].state_dict().values()))) // len(self.seeds)
        return slice(i * copies, (i + 1) * copies)

    def _state_views(self, i: int) -> dict[str, Tensor]:
        views: dict[str, Tensor] = {}
        for network_name, network in self.networks.items():
            mine = self._rows(network_name, i)
            for name, tensor in network.state_dict().items():
                rows = tensor[mine]
                views[f"{network_name}.{name}"] = rows if len(rows) > 1 else rows[0]
        return views
