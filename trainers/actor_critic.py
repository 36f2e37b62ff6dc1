"""The four verbs of an agent: act, update, policy, state."""

import copy
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from typing import ClassVar, Self

import numpy as np
import torch
from torch import Tensor, nn

from trainers.envs.spec import EnvSpec
from trainers.nn.optimizer import FlatAdam
from trainers.nn.stacked import Acting, Stacked, StackedMLP
from trainers.policy import Policy
from trainers.rng import RngStream, numpy_stream, stacked_normal, torch_stream
from trainers.tensors import FloatArray, Snapshot, as_numpy, copy_to_device_, maybe_pin, strip_prefix

ActorTransform = Callable[[StackedMLP], None]


class NoiseBuffer:
    """The noise of one update, in tensors."""

    def __init__(self, tensors: Sequence[Tensor]) -> None:
        self.tensors = list(tensors)
        self.at = 0

    def next(self) -> Tensor:
        """The next noise of the update."""
        self.at += 1
        return self.tensors[self.at - 1]

    def resample(self, streams: Sequence[torch.Generator]) -> None:
        """Draw anew into the same tensors, in the order of `next`."""
        for tensor in self.tensors:
            copy_to_device_(tensor, stacked_normal(streams, *tensor.shape[1:]))


class DelayedActor:
    """Copies of an actor on the CPU; acting uses the last but one, so that nothing waits for an update just begun."""

    def __init__(self, actor: StackedMLP) -> None:
        self.copies = [copy.deepcopy(actor).cpu().requires_grad_(False) for _ in range(2)]
        self.published = 0
        device = actor.flat.device
        self.events = [torch.cuda.Event() for _ in range(2)] if device.type == "cuda" else None  # type: ignore[no-untyped-call]
        self.pairs: list[list[tuple[Tensor, Tensor]]] = []
        for one in self.copies:
            tensors = [*one.parameters(), *one.buffers()]
            for tensor in tensors:
                # Copies from a GPU only pass the host by into memory that is pinned and contiguous.
                tensor.data = maybe_pin(tensor.data.contiguous(), device)
            self.pairs.append(list(zip(tensors, [*actor.parameters(), *actor.buffers()], strict=True)))

    @torch.no_grad()
    def publish(self) -> None:
        """Copy the actor of now, without waiting for it."""
        for kept, now in self.pairs[self._acting]:
            kept.copy_(now, non_blocking=True)
        if self.events is not None:
            self.events[self._acting].record()
        self.published += 1

    def frozen(self) -> Acting:
        """The actor of the last `publish` but one as a NumPy function."""
        if self.events is not None:
            self.events[self._acting].synchronize()
        return self.copies[self._acting].frozen()

    def state(self, i: int) -> dict[str, Tensor]:
        """The parameters and buffers of seed number i that acting uses."""
        return {name: tensor[i].clone() for name, tensor in self.copies[self._acting].state_dict().items()}

    @torch.no_grad()
    def load_state(self, i: int, state: dict[str, Tensor]) -> None:
        """Put back what `state` gave, when the actor has its own state back."""
        self.published = 0
        for kept, now in self.pairs[1]:
            kept.copy_(now)
        for name, tensor in self.copies[0].state_dict().items():
            tensor[i] = state[name]

    @property
    def _acting(self) -> int:
        return self.published % 2


class ActorCritic(ABC):
    """An agent of S independent seeds trained in lockstep."""

    METRICS: ClassVar[tuple[str, ...]]
    """Names of what `update` returns."""
    COMPILES: ClassVar[bool] = False
    """Whether what an update does depends on `update_period` alone and on no value of a tensor: then it may be compiled
    (off-policy `update`, on-policy `minibatch_step`)."""
    NOISE_DRAWS: ClassVar[int] = 0
    """How many times an update draws normal noise of the shape of its actions."""
    actor: StackedMLP
    networks: dict[str, nn.Module]
    """Everything trained or followed, by name: networks, temperatures, statistics. Rows are seeds, or seeds x twins."""
    optimizers: dict[str, FlatAdam]
    """The optimiser of each network that has one, under the network's name."""

    def __init__(self, spec: EnvSpec, seeds: Sequence[int], device: torch.device) -> None:
        self.spec = spec
        self.seeds = list(seeds)
        self.device = device
        self.action_center, self.action_scale = spec.action_center_and_scale(device)
        self._center_and_scale = as_numpy(self.action_center), as_numpy(self.action_scale)
        self._bounds = spec.action_bounds()
        self._frozen: tuple[int, Acting] | None = None
        self.updates = 0
        self.update_period = 1
        """Update number n does what update number n + update_kinds does."""
        self.noise_buffer: NoiseBuffer | None = None
        self.delayed_actor: DelayedActor | None = None
        self.warmup_streams = [numpy_stream(RngStream.WARMUP, seed) for seed in seeds]
        self.explore_streams = [torch_stream(RngStream.EXPLORE, seed) for seed in seeds]
        self.update_streams = [torch_stream(RngStream.UPDATE, seed) for seed in seeds]

    def set_matmul_dtype(self, dtype: torch.dtype) -> None:
        """Train with products of float32 or bfloat16; the weights are float32, and acting is."""
        for network in self.networks.values():
            if isinstance(network, StackedMLP):
                network.dtype = dtype

    def seed_view(self, i: int) -> Self:
        """The networks and optimisers of seed number i as an agent to trace updates of, on the same storage."""
        alone = copy.copy(self)
        alone.networks = {}
        alone.optimizers = {}
        for name, network in self.networks.items():
            if not isinstance(network, Stacked):
                continue
            part = network.rows_view(self._rows(name, i))
            alone.networks[name] = part
            setattr(alone, name, part)
            if name in self.optimizers:
                alone.optimizers[name] = self.optimizers[name].rows_view(part, self._rows(name, i))
        return alone

    @abstractmethod
    def act(self, obs: FloatArray) -> FloatArray:
        """Exploring actions [S, E, act_dim] in environment units for observations [S, E, obs_dim]."""

    def acting(self) -> Acting:
        """The actor of now as a NumPy function of observations [S, E, obs_dim]."""
        if self.delayed_actor is not None:
            return self.delayed_actor.frozen()
        version = self.acting_version()
        if self._frozen is None or self._frozen[0] != version:
            self._frozen = version, self.frozen_actor()
        return self._frozen[1]

    def acting_version(self) -> int:
        """Changes where `frozen_actor` must be called anew."""
        return 0 if self.actor.frozen_follows() else self.updates

    def enable_policy_lag(self) -> None:
        """From now on act with the actor of the last `publish` but one."""
        self.delayed_actor = DelayedActor(self.actor)

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

    def frozen_actor(self) -> Acting:
        """The actor with its weights of now as a NumPy function."""
        return self.actor.frozen()

    def unscale_action(self, unit_action: FloatArray) -> FloatArray:
        """Actions [..., act_dim] in half ranges of the bounds, scaled and moved to the bounds."""
        center, scale = self._center_and_scale
        return unit_action * scale + center

    def bounded(self, action: FloatArray) -> FloatArray:
        """Actions [..., act_dim] in environment units, clipped to the bounds: scaling rounds, perhaps outwards."""
        low, high = self._bounds
        return np.minimum(np.maximum(action, low), high)

    @abstractmethod
    def policy(self, i: int) -> Policy:
        """The deterministic policy of seed number i, cut out as plain layers on the CPU."""

    def random_actions(self, num_envs: int) -> FloatArray:
        """Uniform actions over the bounds, [S, E, act_dim]."""
        low = self.spec.action_low
        high = self.spec.action_high
        shape = (num_envs, self.spec.act_dim)
        actions = np.stack([g.uniform(low, high, shape) for g in self.warmup_streams])
        return self.bounded(actions.astype(np.float32))

    def state(self, i: int) -> dict[str, Tensor]:
        """Parameters and buffers of seed number i by name, without the seed axis, on the CPU."""
        return {
            name: tensor.detach().cpu().clone(memory_format=torch.contiguous_format)
            for name, tensor in self._state_views(i).items()
        }

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
        if self.delayed_actor is not None:
            tensors |= {f"lagging.{name}": tensor for name, tensor in self.delayed_actor.state(i).items()}
        return Snapshot(tensors, {"updates": self.updates, "warmup": self.warmup_streams[i].bit_generator.state})

    def restore(self, i: int, snapshot: Snapshot) -> None:
        """Put back what `snapshot` gave. All seeds must come from the same number of updates."""
        tensors = snapshot.tensors
        self.load_state(i, strip_prefix("state.", tensors))
        for network, optimizer in self.optimizers.items():
            optimizer.load_state(self._rows(network, i), strip_prefix(f"optimizer.{network}.", tensors))
        self.explore_streams[i].set_state(tensors["stream.explore"])
        self.update_streams[i].set_state(tensors["stream.update"])
        self.updates = snapshot.plain["updates"]
        if self.delayed_actor is not None:
            self.delayed_actor.load_state(i, strip_prefix("lagging.", tensors))
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
