"""Actors as NumPy functions, for acting: a small call takes a tenth of the time that torch's takes."""

import copy
from collections.abc import Callable

import torch
from torch import Tensor

from trainers.nn.stacked import StackedMLP
from trainers.tensors import ArrayFn, FloatArray, maybe_pin


class ActorFn:
    """An actor as a NumPy function of observations [S, E, obs_dim].

    Plain layers on a CPU share their memory with it, so that it follows the network by itself. All else is copied:
    weights on a GPU, quantised weights, what lies in front of the network.

    Args:
        network: The actor.
        make_input_fn: Makes what lies in front of the network, with the values of now; None where nothing does.
    """

    def __init__(self, network: StackedMLP, make_input_fn: Callable[[], ArrayFn] | None = None) -> None:
        self.network = network
        self.make_input_fn = make_input_fn
        self._fn: ArrayFn | None = None
        self._version = 0

    def __call__(self, obs: FloatArray, version: int = 0) -> FloatArray:
        """Outputs [S, E, n] of the network.

        Args:
            obs: Observations [S, E, obs_dim], as the environments give them.
            version: Where it is another than in the last call, the network has changed since.
        """
        if self._fn is None or (version != self._version and not self._shares_memory()):
            self._fn = self._make()
            self._version = version
        return self._fn(obs)

    def invalidate(self) -> None:
        """The network has changed, whatever the version."""
        self._fn = None

    def _shares_memory(self) -> bool:
        on_cpu = self.network.flat.device.type == "cpu"
        return on_cpu and self.network.is_plain() and self.make_input_fn is None

    def _make(self) -> ArrayFn:
        network_fn = self.network.numpy_fn()
        if self.make_input_fn is None:
            return network_fn
        input_fn = self.make_input_fn()
        return lambda obs: network_fn(input_fn(obs))


class DelayedActor:
    """Copies of an actor on the CPU; acting uses the last but one, so that nothing waits for an update just begun."""

    def __init__(self, actor: StackedMLP) -> None:
        self.copies = [copy.deepcopy(actor).cpu().requires_grad_(False) for _ in range(2)]
        self.published = 0
        device = actor.flat.device
        self.events = [torch.cuda.Event() for _ in range(2)] if device.type == "cuda" else None
        self.pairs: list[list[tuple[Tensor, Tensor]]] = []
        """For each copy: its parameters and buffers, each beside the one that it is copied from."""
        sources = [*actor.parameters(), *actor.buffers()]
        for actor_copy in self.copies:
            tensors = [*actor_copy.parameters(), *actor_copy.buffers()]
            for tensor in tensors:
                # Copies from a GPU only pass the host by into memory that is pinned and contiguous.
                tensor.data = maybe_pin(tensor.data.contiguous(), device)
            self.pairs.append(list(zip(tensors, sources, strict=True)))
        self._actor_fns = [ActorFn(actor_copy) for actor_copy in self.copies]

    def __call__(self, obs: FloatArray) -> FloatArray:
        """Outputs [S, E, n] of the actor of the last `publish` but one, for observations [S, E, obs_dim]."""
        if self.events is not None:
            self.events[self._acting].synchronize()
        return self._actor_fns[self._acting](obs, self.published)

    @torch.no_grad()
    def publish(self) -> None:
        """Copy the actor of now, without waiting for it."""
        for target, source in self.pairs[self._acting]:
            target.copy_(source, non_blocking=True)
        if self.events is not None:
            self.events[self._acting].record()
        self.published += 1

    def state(self, i: int) -> dict[str, Tensor]:
        """The parameters and buffers of seed number i that acting uses."""
        return {name: tensor[i].clone() for name, tensor in self.copies[self._acting].state_dict().items()}

    @torch.no_grad()
    def load_state(self, i: int, state: dict[str, Tensor]) -> None:
        """Put back what `state` gave, when the actor has its own state back."""
        self.published = 0
        for target, source in self.pairs[1]:
            target.copy_(source)
        for name, tensor in self.copies[0].state_dict().items():
            tensor[i] = state[name]
        for actor_fn in self._actor_fns:
            actor_fn.invalidate()

    @property
    def _acting(self) -> int:
        """The copy that acting uses; the next `publish` writes into it."""
        return self.published % 2
