"""The four verbs of an agent: act, update, policy, state."""

import copy
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from typing import ClassVar, Self

import numpy as np
import torch
from torch import Tensor, nn

from trainers.envs.spec import EnvSpec
from trainers.nn.actor_fn import ActorFn, CudaDelayedActor, DelayedActor
from trainers.nn.flat_storage import Stacked
from trainers.nn.optimizer import FlatAdam
from trainers.nn.stacked import StackedMLP
from trainers.policy import Policy
from trainers.rng import RngStream, numpy_stream, stacked_normal, torch_stream
from trainers.settings import AlgoSettings
from trainers.tensors import FloatArray, Snapshot, as_numpy, strip_prefix

ActorTransform = Callable[[StackedMLP], None]


class NoiseBuffer:
    """The noise of one update, in tensors."""

    def __init__(self, tensors: Sequence[Tensor]) -> None:
        self.tensors = list(tensors)
        self.pos = 0

    def next(self) -> Tensor:
        """The next noise of the update."""
        noise = self.tensors[self.pos]
        self.pos += 1
        return noise


class ActorCritic(ABC):
    """An agent of S independent seeds trained in lockstep.

    Args:
        spec: Shapes and action bounds of the environment.
        seeds: One number per seed, from which all its random streams follow.
        settings: Those of the algorithm, checked.
        device: Where networks and batches are.
    """

    SETTINGS: ClassVar[type[AlgoSettings]]
    """The class that checks the settings of the algorithm; their defaults and meanings stand in conf/algo/."""
    METRICS: ClassVar[tuple[str, ...]]
    """Names of what `update` returns."""
    COMPILES: ClassVar[bool] = False
    """Whether what an update does depends on `update_period` alone and on no value of a tensor: then it may be compiled
    (off-policy `update`, on-policy `minibatch_step`)."""
    NOISE_DRAWS: ClassVar[int] = 0
    """How many times an update draws normal noise of the shape of its actions."""
    settings: AlgoSettings
    actor: StackedMLP
    networks: dict[str, nn.Module]
    """Everything trained or followed, by name: networks, temperatures, statistics. Rows are seeds, or seeds x twins."""
    optimizers: dict[str, FlatAdam]
    """The optimiser of each network that has one, under the network's name."""

    def __init__(self, spec: EnvSpec, seeds: Sequence[int], settings: AlgoSettings, device: torch.device) -> None:
        self.spec = spec
        self.seeds = list(seeds)
        self.settings = settings
        self.device = device
        self.action_center, self.action_scale = spec.action_center_and_scale(device)
        self._action_center = as_numpy(self.action_center)
        self._action_scale = as_numpy(self.action_scale)
        self._bounds = spec.action_bounds()
        self._actor_fn: ActorFn | None = None
        self.updates = 0
        self.update_period = 1
        """Update number n does what update number n + update_period does."""
        self.noise_buffer: NoiseBuffer | None = None
        self.delayed_actor: DelayedActor | None = None
        self.warmup_streams = [numpy_stream(RngStream.WARMUP, seed) for seed in seeds]
        self.explore_streams = [torch_stream(RngStream.EXPLORE, seed) for seed in seeds]
        self.update_streams = [torch_stream(RngStream.UPDATE, seed) for seed in seeds]

    @abstractmethod
    def act(self, obs: FloatArray) -> FloatArray:
        """Exploring actions [S, E, act_dim] in environment units for observations [S, E, obs_dim]."""

    @abstractmethod
    def policy(self, i: int) -> Policy:
        """The deterministic policy of seed number i, cut out as plain layers on the CPU."""

    def actor_output(self, obs: FloatArray) -> FloatArray:
        """Outputs [S, E, n] of the actor that acts, for observations [S, E, obs_dim]."""
        if self.delayed_actor is not None:
            return self.delayed_actor(obs)
        if self._actor_fn is None:
            self._actor_fn = self.make_actor_fn()
        return self._actor_fn(obs, self.updates)

    def make_actor_fn(self) -> ActorFn:
        """The actor as a NumPy function of observations as the environments give them."""
        return ActorFn(self.actor)

    def enable_policy_lag(self) -> None:
        """From now on act with the actor of the last `publish` but one."""
        delayed_actor = CudaDelayedActor if self.device.type == "cuda" else DelayedActor
        self.delayed_actor = delayed_actor(self.actor)

    def publish(self) -> None:
        """Hand over the actor of now to acting, where that lags behind."""
        if self.delayed_actor is not None:
            self.delayed_actor.publish()

    def update_noise(self, action: Tensor) -> Tensor:
        """Normal noise of the shape of a batch of actions [S, B, act_dim], `NOISE_DRAWS` times per update.

        Updates draw from nothing else: a recorded one would play any other numbers again.
        """
        if self.noise_buffer is not None:
            return self.noise_buffer.next()
        return stacked_normal(self.update_streams, *action.shape[1:]).to(self.device)

    def unscale_action(self, unit_action: FloatArray) -> FloatArray:
        """Actions [..., act_dim] in half ranges of the bounds, scaled and moved to the bounds."""
        return unit_action * self._action_scale + self._action_center

    def bounded(self, action: FloatArray) -> FloatArray:
        """Actions [..., act_dim] in environment units, clipped to the bounds: scaling rounds, perhaps outwards."""
        low, high = self._bounds
        return np.minimum(np.maximum(action, low), high)

    def random_actions(self, num_envs: int) -> FloatArray:
        """Uniform actions over the bounds, [S, num_envs, act_dim]."""
        low = self.spec.action_low
        high = self.spec.action_high
        shape = (num_envs, self.spec.act_dim)
        actions = np.stack([g.uniform(low, high, shape) for g in self.warmup_streams])
        return self.bounded(actions.astype(np.float32))

    def set_matmul_dtype(self, dtype: torch.dtype) -> None:
        """Train with products of float32 or bfloat16; the weights are float32, and acting is."""
        for network in self.networks.values():
            if isinstance(network, StackedMLP):
                network.dtype = dtype

    def seed_view(self, i: int) -> Self:
        """The networks and optimisers of seed number i as an agent to trace updates of, on the same storage."""
        view = copy.copy(self)
        view.networks = {}
        view.optimizers = {}
        for name, network in self.networks.items():
            if not isinstance(network, Stacked):
                continue
            rows = self._rows(name, i)
            network_view = network.rows_view(rows)
            view.networks[name] = network_view
            setattr(view, name, network_view)
            if name in self.optimizers:
                view.optimizers[name] = self.optimizers[name].rows_view(network_view, rows)
        return view

    def state(self, i: int) -> dict[str, Tensor]:
        """Parameters and buffers of seed number i by name, without the seed axis, on the CPU."""
        state: dict[str, Tensor] = {}
        for name, tensor in self._state_views(i).items():
            state[name] = tensor.detach().cpu().clone(memory_format=torch.contiguous_format)
        return state

    @torch.no_grad()
    def load_state(self, i: int, tensors: dict[str, Tensor]) -> None:
        """Put back what `state` gave.

        Raises:
            KeyError: For names of another agent.
            RuntimeError: For shapes of another agent.
        """
        views = self._state_views(i)
        if views.keys() != tensors.keys():
            raise KeyError(f"tensors of another agent: {sorted(views.keys() ^ tensors.keys())}")
        for name, view in views.items():
            view.copy_(tensors[name])
        self._actor_fn = None

    def snapshot(self, i: int) -> Snapshot:
        """All of seed number i that training goes on from: its state, optimisers and random streams."""
        tensors = {f"state.{name}": tensor for name, tensor in self.state(i).items()}
        for network, optimizer in self.optimizers.items():
            for name, tensor in optimizer.state(self._rows(network, i)).items():
                tensors[f"optimizer.{network}.{name}"] = tensor
        tensors["stream.explore"] = self.explore_streams[i].get_state()
        tensors["stream.update"] = self.update_streams[i].get_state()
        if self.delayed_actor is not None:
            for name, tensor in self.delayed_actor.state(i).items():
                tensors[f"lagging.{name}"] = tensor
        return Snapshot(tensors, {"updates": self.updates, "warmup": self.warmup_streams[i].bit_generator.state})

    def restore(self, i: int, snapshot: Snapshot) -> None:
        """Put back what `snapshot` gave. All seeds must come from the same number of updates."""
        tensors = snapshot.tensors
        self.load_state(i, strip_prefix("state.", tensors))
        for network, optimizer in self.optimizers.items():
            optimizer.load_state(self._rows(network, i), strip_prefix(f"optimizer.{network}.", tensors))
        self.explore_streams[i].set_state(tensors["stream.explore"])
        self.update_streams[i].set_state(tensors["stream.update"])
        self.warmup_streams[i].bit_generator.state = snapshot.metadata["warmup"]
        self.updates = snapshot.metadata["updates"]
        if self.delayed_actor is not None:
            self.delayed_actor.load_state(i, strip_prefix("lagging.", tensors))

    def _rows(self, network: str, i: int) -> slice:
        """The rows of seed number i in the tensors of a network: one, or one per twin."""
        first_tensor = next(iter(self.networks[network].state_dict().values()))
        copies = len(first_tensor) // len(self.seeds)
        return slice(i * copies, (i + 1) * copies)

    def _state_views(self, i: int) -> dict[str, Tensor]:
        """Views of all that `state` copies; without the axis of rows where seed number i has one."""
        views: dict[str, Tensor] = {}
        for network_name, network in self.networks.items():
            seed_rows = self._rows(network_name, i)
            for name, tensor in network.state_dict().items():
                rows = tensor[seed_rows]
                views[f"{network_name}.{name}"] = rows if len(rows) > 1 else rows[0]
        return views
